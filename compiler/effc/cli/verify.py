"""`effc verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effc.cli.console import common_options, emit_json, note, progress_bars, table
from effc.cli.options import check_import_option, limit_option, shape_option

if TYPE_CHECKING:
    from effc.compiler.verification import Finding, Verdict

__all__ = ["command"]

_DIFFERS = 5


@click.command("verify")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--source", type=click.Path(path_type=Path), help="The model that was compiled; names the first pass that changed outputs.")
@click.option("--data", type=click.Path(path_type=Path), help="Compare on these samples, too: .npz, .npy or a folder of images.")
@click.option("--threads", type=click.IntRange(min=1), help="Worker threads; the processors of this process without it.")
@shape_option
@limit_option
@check_import_option
@common_options
def command(
    artifact: Path,
    source: Path | None,
    data: Path | None,
    threads: int | None,
    input_shapes: tuple[str, ...],
    limits: tuple[str, ...],
    check_import: bool | None,
    as_json: bool,
) -> int:
    """Compare ARTIFACT with its own final program, and with its source; exit code 5 when they differ and no lossy pass explains it."""
    from effc.cli.pairs import parse_limits, parse_shapes
    from effc.compiler.verification import verify_artifact
    from effc.frontends import Limits

    with progress_bars() as progress, progress("verifying", 1):
        verdict = verify_artifact(
            artifact,
            source=source,
            data=data,
            input_shapes=parse_shapes(input_shapes) or None,
            limits=Limits(**parse_limits(limits)),
            threads=threads,
            check_import=check_import is not False,
        )
    if as_json:
        emit_json(verdict.as_json())
    else:
        rows = [_row(finding) for finding in verdict.findings]
        numbers = ("samples", "worst", "accepted", "same top-1")
        table(("", "comparison", *numbers), rows, numbers=numbers)
        note("worst: largest difference relative to the output's largest magnitude, or in the unit that the comparison names")
        for text in verdict.notes:
            note(text)
        for finding in verdict.findings:
            for entry in finding.verification.differences:
                if not entry.within(finding.verification.tolerance):
                    place = "" if entry.index is None else f" at {list(entry.index)}"
                    note(f"{finding.what}: output {entry.name} differs by {entry.relative:.3g}{place} {entry.reason}".rstrip())
        if verdict.diverging:
            note(f"outputs first leave the source's at: {verdict.diverging}", bad=not verdict.passed)
        if verdict.lossy:
            note(f"passes that may change outputs: {', '.join(verdict.lossy)}")
        note(_verified(verdict) if verdict.passed else f"NOT verified: {_advice(verdict, artifact)}", bad=not verdict.passed)
    return 0 if verdict.passed else _DIFFERS


def _verified(verdict: Verdict) -> str:
    return f"verified: {verdict.extent}" if verdict.extent else "verified"


def _advice(verdict: Verdict, artifact: Path) -> str:
    if not verdict.own_source:
        return "the source is not the file that the artifact was compiled from"
    from effc.compiler.blaming import foreign_steps
    from effc.runtime import open_artifact

    manifest = open_artifact(artifact).manifest
    extension = manifest.data["target"].get("extension") or {"name": "", "package": "", "version": ""}
    foreign = foreign_steps(manifest.plan, extension["name"])
    if not foreign:
        return "please report this"
    package, steps = f"{extension['package']} {extension['version']}", ", ".join(map(str, foreign))
    return f"code of {package} computes the steps {steps}; compile with --target cpu: where that verifies, tell its maker, else report this"


def _word(finding: Finding) -> str:
    if finding.verification.passed:
        return "ok"
    return "DIFFERS" if finding.must_hold else "lossy"


def _row(finding: Finding) -> tuple[Any, ...]:
    held = finding.verification
    return (_word(finding), finding.what, finding.samples, f"{held.worst:.1e}", f"{held.tolerance:g}", _percent(finding.top1))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
