"""`effc faultsim compare`: two campaigns on the same faults, draw by draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effc.cli.console import common_options, emit_json, note, table

if TYPE_CHECKING:
    from effc.faultsim.comparing import Comparison, Method, PairedDifference, PairedInterval

__all__ = ["command"]

_FAILED, _INCONCLUSIVE = 1, 7
_SHOWN = 6  # names in a sentence


@click.command("compare")
@click.argument("first", type=click.Path(path_type=Path), metavar="DIR1")
@click.argument("second", type=click.Path(path_type=Path), metavar="DIR2")
@click.option("--level", type=click.FloatRange(0.5, 1, min_open=True, max_open=True), default=0.95, show_default=True, help="Confidence.")
@click.option(
    "--require-no-worse",
    type=click.FloatRange(0, 100),
    metavar="POINTS",
    help="Fail unless DIR2 is worse by so many points of accuracy at most, at every rate; judged by the one-sided limits.",
)
@click.option(
    "--by",
    type=click.Choice(["gaffke", "student"]),
    default="gaffke",
    show_default=True,
    help="Whose limits are judged: Gaffke's need no assumption (and 300 draws for a point), Student's t takes the mean as normal.",
)
@common_options
def command(first: Path, second: Path, level: float, require_no_worse: float | None, by: Method, as_json: bool) -> int:
    """How much more accurate the network of DIR2 is than that of DIR1 under the same faults.

    Both are folders of finished `effc faultsim --rate` campaigns of the same rates, draws, seed, view and data: those of a network
    and of its protected version, say. Exit code 1 where DIR2 is surely worse than --require-no-worse allows, 7 where that is undecided.
    """
    from effc.faultsim.campaign import read_campaign
    from effc.faultsim.comparing import compare

    found = compare(read_campaign(first), read_campaign(second), level)
    outcomes = {}
    if require_no_worse is not None:
        outcomes = {one.rate: one.no_worse(require_no_worse / 100, by) for one in found.rates}
    if as_json:
        required = {"points": require_no_worse, "by": by, "outcomes": [{"rate": rate, "outcome": one} for rate, one in outcomes.items()]}
        emit_json({**found.as_json(), "require_no_worse": required if outcomes else None})
    else:
        _show(found, outcomes, by, require_no_worse)
    return _FAILED if "FAIL" in outcomes.values() else _INCONCLUSIVE if "INCONCLUSIVE" in outcomes.values() else 0


def _show(found: Comparison, outcomes: Mapping[float, str], by: Method, points: float | None) -> None:
    note(f"first: {found.first}, fault-free accuracy {found.golden[0]:.2%}")
    note(f"second: {found.second}, fault-free accuracy {found.golden[1]:.2%}")
    note(f"{found.common} tensors with the same faults{_only('first', found.first_only)}{_only('second', found.second_only)}")
    share = f"{found.level:.0%}"
    columns = (
        "BER",
        "draws",
        "first",
        "second",
        "points",
        f"{share} (Student)",
        "at least",
        f"{share} (Gaffke)",
        "at least",
        "better",
        "worse",
    )
    table(columns, [_row(one) for one in found.rates], numbers=columns)
    note(f'"points" is second minus first; "at least" is the one-sided {share} limit; "better" and "worse" count draws')
    for one in found.rates:
        if one.rate in outcomes:
            interval: PairedInterval = getattr(one, by)
            ends = (
                f"one-sided {share} limits {_points(interval.lower_limit)} and {_points(interval.upper_limit)} points ({interval.method})"
            )
            outcome = outcomes[one.rate]
            needed = ""
            if outcome == "INCONCLUSIVE" and points and by == "gaffke":
                needed = f". This bound needs {math.ceil(300 / points):,} draws or more for so few points, or take --by student"
            note(f"{outcome}: no worse than {points:g} points at {one.rate:g}: {ends}{needed}", bad=outcome != "PASS")


def _row(one: PairedDifference) -> tuple[object, ...]:
    intervals = [
        cell for each in (one.student, one.gaffke) for cell in (f"{_points(each.low)} to {_points(each.high)}", _points(each.lower_limit))
    ]
    return (f"{one.rate:g}", one.draws, f"{one.first:.2%}", f"{one.second:.2%}", _points(one.difference), *intervals, one.better, one.worse)


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _only(which: str, names: tuple[str, ...]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > _SHOWN else ""
    return f"; {len(names)} only in the {which}: {', '.join(names[:_SHOWN])}{more}"
