"""What a command shows: its result on stdout (tables, or one JSON document), its progress on stderr and only on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import click

from effc.cli.text import printable

__all__ = ["Progress", "common_options", "emit_json", "heading", "is_debugging", "note", "progress_bars", "table"]

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
_NO_LIMITS: Mapping[str, int] = MappingProxyType({})
_DEBUG = "effc.debug"
_WIDTH = 160  # columns of a table that goes into a file or a pipe


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json` and `--debug`, which every command has."""
    debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.", expose_value=False, callback=_remember)
    command = debug(command)
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, errors too.")(command)


def _remember(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[_DEBUG] = value


def is_debugging() -> bool:
    """Whether the running command was given --debug."""
    return bool(click.get_current_context().meta.get(_DEBUG, False))


def emit_json(document: Any) -> None:
    """The command's result as JSON. NaN and infinities, which JSON lacks, must not be in it."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def heading(text: str) -> None:
    """A line above a table."""
    _console().print(_text(text, "bold"))


def note(text: str, *, bad: bool = False) -> None:
    """A line of the result."""
    _console().print(_text(text, "red" if bad else ""), soft_wrap=True)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = (), widest: Mapping[str, int] = _NO_LIMITS
) -> None:
    """A table; `numbers` names the columns that line up on the right, `widest` has the letters that fit into a line of others."""
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(
            column,
            justify="right" if column in numbers else "left",
            overflow="fold",
            no_wrap=column in numbers,
            max_width=widest.get(column),
        )
    for row in rows:
        grid.add_row(*(_text(str(cell)) for cell in row))
    _console().print(grid)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on stderr while work is done; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        # a descriptor of its own: the bars go on while stderr itself is filtered (`native_warnings`)
        stream = stack.enter_context(os.fdopen(os.dup(2), "w")) if sys.stderr.isatty() else sys.stderr
        bars = stack.enter_context(Bars(*columns, console=Console(file=stream), transient=True, disable=not stream.isatty()))

        @contextmanager
        def one(label: str, total: int) -> Iterator[Callable[..., None]]:
            task = bars.add_task(printable(label), total=total)

            def advance(count: int, note: str = "") -> None:
                bars.update(task, advance=count, description=printable(f"{label}: {note}" if note else label))

            try:
                yield advance
            finally:
                bars.remove_task(task)

        yield one


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH, highlight=False, markup=False, emoji=False)


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(printable(text), style)
