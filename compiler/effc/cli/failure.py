"""From whatever a command raises to one message (or one JSON document) and the documented exit code; what effc warns of, as one line."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from effc.cli.text import printable
from effc.errors import EffcError, EffcWarning, ForeignCodeError, InternalError, VerificationError

__all__ = ["ISSUES", "leave"]

ISSUES = "the project's issue tracker"
_INTERNAL = 70
_INTERRUPTED = 130


def leave(invoke: Callable[[list[str]], object], args: Sequence[str] | None) -> NoReturn:
    """Invoke the commands and exit the process. `--json` and `--debug` are looked up in the raw arguments, as parsing itself may fail."""
    arguments, stdout = list(sys.argv[1:] if args is None else args), sys.stdout
    try:
        code = _code(invoke, arguments, "--json" in arguments, "--debug" in arguments)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        # Where nobody reads stdout any more, click puts another one in its place and exits with 1, which is a failed gate's code.
        if isinstance(error, SystemExit) and sys.stdout is stdout:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes stdout once more at exit
        code = _INTERRUPTED
    sys.exit(code)


def _code(invoke: Callable[[list[str]], object], arguments: list[str], as_json: bool, debug: bool) -> int:
    """The exit code of what was invoked; failures are reported. Raises BrokenPipeError where nobody reads stdout any more."""
    try:
        with _warnings(debug):
            result = invoke(arguments)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except EffcError as error:
        code = _report(error, type(error).__name__, error.exit_code, as_json, debug)
    except click.Abort as error:  # click's name for Ctrl-C, which is its cause
        code = _report(error.__cause__ or KeyboardInterrupt(), "Interrupted", _INTERRUPTED, as_json, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = error.exit_code
    except click.ClickException as error:
        code = _report(error, "UsageError", 2, as_json, debug)
    except KeyboardInterrupt as error:
        code = _report(error, "Interrupted", _INTERRUPTED, as_json, debug)
    except BrokenPipeError:
        raise
    except MemoryError as error:
        code = _report(error, "MemoryError", _INTERNAL, as_json, debug)
    except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, it is a bug of effc and is reported as one
        code = _report(error, type(error).__name__, _INTERNAL, as_json, debug)
    return code


@contextmanager
def _warnings(debug: bool) -> Iterator[None]:
    """Shows what effc warns of as a line on stderr. Packages underneath warn about themselves: a user of effc can do nothing about that."""
    with warnings.catch_warnings():
        if not sys.warnoptions and not debug:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", EffcWarning)
        show = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if issubclass(category, EffcWarning):
                click.echo(f"warning: {printable(str(message))}", err=True)
            else:
                show(message, category, *place, **options)

        warnings.showwarning = shown
        yield


def _report(error: BaseException, kind: str, code: int, as_json: bool, debug: bool) -> int:
    if debug and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error, file=sys.stderr)
    message, problems = _words(error, code), list(error.problems) if isinstance(error, EffcError) else []
    if as_json:
        entry = {"type": kind, "exit_code": code, "message": message, "problems": [problem.as_json() for problem in problems]}
        click.echo(json.dumps({"error": entry}, indent=2, ensure_ascii=False))
        return code
    lines = [f"error: {printable(message)}", *(f"  - {printable(str(problem))}" for problem in problems)]
    advice = _advice(error, code, debug)
    click.echo("\n".join(lines + advice), err=True)
    return code


def _words(error: BaseException, code: int) -> str:
    if isinstance(error, KeyboardInterrupt | EOFError):
        return f"interrupted; {error}" if str(error) else "interrupted"
    if isinstance(error, EffcError):
        return error.message
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"internal error: {type(error).__name__}: {error}"


def _advice(error: BaseException, code: int, debug: bool) -> list[str]:
    lines = []
    if isinstance(error, click.UsageError) and error.ctx is not None:
        lines.append(f"try: {error.ctx.command_path} --help")
    if code == _INTERNAL or (isinstance(error, (InternalError, VerificationError)) and not isinstance(error, ForeignCodeError)):
        again = "" if debug else "run it again with --debug and "
        lines.append(f"This is a bug of effc. Please {again}send its output, the command and, where you may, the model to {ISSUES}.")
    return lines
