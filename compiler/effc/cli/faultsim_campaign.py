"""`effc faultsim SOURCE`: run a campaign, judge it, and write its reports."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effc.cli.console import common_options, emit_json, note, progress_bars
from effc.cli.options import DATA_RULE, check_import_option, limit_option, shape_option

if TYPE_CHECKING:
    from effc.data import Preprocess
    from effc.faultsim.campaign import Shard
    from effc.faultsim.spec import CampaignSpec
    from effc.faultsim.subject import ProgramSubject, Subject

__all__ = ["command", "load_subject", "stored_preprocess"]

_KINDS = ("rates", "faults", "exhaustive", "faults_csv", "precision")  # each says which faults: one of them per campaign
_EPILOG = """\b
Which faults, one of these: --rate, --faults, --margin, --exhaustive, --faults-csv, --precision.

\b
Examples:
  effc faultsim model.onnx --eval test.npz -o out --rate 1e-6 --draws 200 --require "accuracy@1e-6 >= 0.85"
  effc faultsim model.onnx --eval test.npz -o out --stratify bit --precision 0.1 --images-per-fault 1 --jobs 2
  effc faultsim model.onnx --eval test.npz -o out --accelerator systolic-32x32 --data calib.npz --effect stuck-at-1

\b
Also:
  effc faultsim merge SHARD... -o DIR    put the shards of a campaign together, and judge it
  effc faultsim compare DIR1 DIR2        the difference between two campaigns of the same faults
  effc faultsim worst SOURCE ...         search the bit flips that hurt most

Exit codes: 1 a requirement failed, 7 one could not be decided with so few injections.
"""


@click.command("faultsim", epilog=_EPILOG)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The campaign's folder. The same command goes on there."
)
@click.option("--eval", "eval_", type=click.Path(path_type=Path), help=f"What faults are judged on: {DATA_RULE}")
@click.option(
    "--executor",
    type=click.Choice(["program", "artifact"]),
    default="program",
    show_default=True,
    help="What runs the faults of an artifact: its program in torch, or its compiled code.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="KIND",
    help="weight, bias, norm, bound, threshold, other; parameters (all of these); activation, input.  [default: parameters]",
)
@click.option("--layers", multiple=True, metavar="PATTERN", help="Only sites whose layer or name fits, such as 'layer1.*'.")
@click.option("--ops", multiple=True, metavar="OP", help="Only sites of these operators, such as conv2d.")
@click.option("--bits", metavar="POSITIONS", help="Only these bits: 30, 23-30 or 0-7,31. Bit 0 is the least significant one.")
@click.option("--view", metavar="FORMAT", help="Number format of floats: stored, f16, bf16, int8, int16, q15.16.  [default: stored]")
@click.option(
    "--effect", type=click.Choice(["flip", "stuck-at-0", "stuck-at-1", "burst", "random"]), help="What a fault does.  [default: flip]"
)
@click.option("--burst", type=int, help="Adjacent bits of a burst.  [default: 2]")
@click.option(
    "--duration", type=click.Choice(["permanent", "transient"]), help="Whether a fault stays, or hits one inference.  [default: permanent]"
)
@click.option("--rate", "rates", type=float, multiple=True, help="A bit error rate; each is a group of --draws injections.")
@click.option("--draws", type=int, help="Injections at each rate.  [default: 100]")
@click.option("--faults", type=int, help="That many single faults.")
@click.option(
    "--margin", type=float, help="As many single faults as a half-width of this needs at most (Leveugle's formula).  [default: 0.05]"
)
@click.option("--exhaustive", is_flag=True, default=None, help="Every bit once.")
@click.option("--faults-csv", type=click.Path(path_type=Path), help="Replay a list: Injection,Layer,TensorIndex,Bit.")
@click.option(
    "--accelerator",
    metavar="NAME|FILE",
    help="Run SOURCE in int8 on this array of multipliers, and put faults into it: --where pe (pe-product, pe-sum), accumulator, sram "
    "(sram-weight, sram-activation).",
)
@click.option("--data", type=click.Path(path_type=Path), help="Samples that a float network is quantised on for --accelerator.")
@click.option(
    "--stratify", type=click.Choice(["bit", "layer"]), multiple=True, help="Draw single faults stratum by stratum; give it twice for both."
)
@click.option("--precision", type=float, help="Go on until the critical share is known to this relative half-width: 0.1.")
@click.option(
    "--most-faults", type=int, help="A campaign of more injections is refused; one with a precision ends there.  [default: 1000000]"
)
@click.option("--images", type=int, help="Use the first so many samples.  [default: all]")
@click.option("--images-per-fault", type=int, help="Try each fault on so many of them, drawn for it.  [default: all]")
@click.option("--tolerance", type=float, help="What is critical where outputs are no classes: a relative difference.")
@click.option("--batch", type=int, help="Samples of one pass.  [default: as many as --memory allows, at most 256]")
@click.option("--memory", type=int, metavar="BYTES", help="For the fault-free values that each worker keeps.  [default: 1 GiB]")
@click.option("--threads", type=int, help="Of each worker.  [default: 1]")
@click.option("--jobs", type=int, help="Worker processes.  [default: 1]")
@click.option("--shard", metavar="I/N", help="Only part I of N, for `effc faultsim merge`.")
@click.option("--seed", type=int, help="Root of all randomness.  [default: 0]")
@click.option("--level", type=float, help="Confidence of the intervals.  [default: 0.95]")
@click.option("--require", multiple=True, metavar="BUDGET", help="'accuracy@1e-6 >= 0.85', 'sdc1 <= 0.02'; judged by the interval.")
@click.option("--preprocess", help="How a folder of images becomes inputs.")
@click.option("--config", type=click.Path(path_type=Path), help="A campaign.toml with these options; a flag beats the file.")
@shape_option
@limit_option
@check_import_option
@common_options
def command(
    source: Path,
    output: Path,
    executor: str,
    shard: str | None,
    config: Path | None,
    input_shapes: tuple[str, ...],
    limits: tuple[str, ...],
    check_import: bool | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Put bit flips into SOURCE (.onnx, .pt2 or an artifact), and measure what they do to its predictions."""
    from effc.cli.faultsim_accelerator import on_accelerator
    from effc.cli.faultsim_results import show
    from effc.cli.pairs import parse_limits, parse_shapes
    from effc.data import DATA_BYTES, Preprocess, load_dataset
    from effc.errors import ConfigError
    from effc.faultsim.campaign import run_campaign
    from effc.faultsim.gates import check_requirements, parse_requirements
    from effc.faultsim.replay import Replay

    spec = _spec(flags, config)
    if spec.eval is None:
        raise ConfigError("faults are judged on data: give --eval test.npz")
    part = None if shard is None else _shard(shard)
    if part is not None and spec.require:
        raise ConfigError("a shard is a part of a campaign, and no requirement is judged by it: give --require to effc faultsim merge")
    requirements = parse_requirements(spec.require)
    bounds = parse_limits(limits)
    subject = _subject(source, executor, parse_shapes(input_shapes), bounds, check_import is not False)
    limit = bounds.get("data_bytes", DATA_BYTES)
    preprocess = Preprocess.parse(spec.preprocess) if spec.preprocess else stored_preprocess(source)
    data = load_dataset(spec.eval, subject.inputs, preprocess=preprocess, max_bytes=limit)
    if spec.accelerator is not None or spec.data is not None:
        subject = on_accelerator(subject, spec, preprocess, limit)
    check_requirements(requirements, spec.rates, data.labels is not None and spec.tolerance is None, spec.tolerance is None)
    replay = None if spec.faults_csv is None else Replay.read(spec.faults_csv)
    start = time.monotonic()
    with progress_bars() as progress:
        campaign = run_campaign(subject, data, spec, output, replay=replay, shard=part, progress=progress)
    seconds = time.monotonic() - start
    if part is not None:
        done = sum(map(len, campaign.results))
        if as_json:
            emit_json({"shard": shard, "done": done, "planned": campaign.planned, "folder": str(output)})
        else:
            note(f"shard {shard}: {done:,} of {campaign.planned:,} injections are in {output}; put all together with: effc faultsim merge")
        return 0
    return show(campaign, requirements, output, seconds=seconds, as_json=as_json)


def _spec(flags: dict[str, Any], config: Path | None) -> CampaignSpec:
    from effc.faultsim.spec import load_spec, spec_of

    flags["eval"] = flags.pop("eval_")
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    filed = load_spec(config) if config else {}
    if any(name in given for name in _KINDS):  # a flag beats the file, also where the two would be different kinds of campaigns
        filed = {name: value for name, value in filed.items() if name not in _KINDS}
    if "require" in given and isinstance(filed.get("require"), list):  # but no flag takes a budget away
        given["require"] = (*filed["require"], *given["require"])
    return spec_of({**filed, **given})


def stored_preprocess(source: Path) -> Preprocess | None:
    """What an artifact keeps of how images become its inputs."""
    if not source.is_dir():
        return None
    from effc.data import Preprocess
    from effc.runtime import open_artifact

    stored = open_artifact(source).manifest.data["preprocess"]
    return Preprocess.from_json(stored) if stored else None


def _shard(text: str) -> Shard:
    from effc.errors import ConfigError, Problem
    from effc.faultsim.campaign import Shard

    number, slash, of = text.partition("/")
    if (
        not slash
        or not (number.isascii() and number.isdigit() and of.isascii() and of.isdigit())
        or not 1 <= int(number) <= int(of) <= 100_000
    ):
        raise ConfigError("a shard cannot be read", [Problem("--shard", repr(text), "is no part", "write 3/16: the third of sixteen")])
    return Shard(int(number), int(of))


def _subject(source: Path, executor: str, shapes: dict[str, tuple[int, ...]], bounds: dict[str, int], check: bool) -> Subject:
    from effc.errors import ConfigError

    if executor == "artifact":
        from effc.faultsim.artifact_subject import ArtifactSubject
        from effc.runtime import open_artifact

        if not source.is_dir():
            raise ConfigError(f"--executor artifact runs compiled code, and {source} is no artifact: compile it first")
        return ArtifactSubject(source, str(open_artifact(source).manifest.data["source"].get("name")))
    return load_subject(source, shapes, bounds, check)


def load_subject(source: Path, shapes: dict[str, tuple[int, ...]], bounds: dict[str, int], check: bool) -> ProgramSubject:
    """The program of a model file, or the final program of an artifact."""
    from effc.faultsim.subject import ProgramSubject
    from effc.frontends import Limits, load_program

    if source.is_dir():
        from effc.ir.storage import load_program_bytes
        from effc.runtime import open_artifact

        artifact = open_artifact(source)
        program = load_program_bytes(artifact.read("program.pt2"), name=str(source / "program.pt2"))
        return ProgramSubject(program, str(artifact.manifest.data["source"].get("name")))
    program = load_program(source, input_shapes=shapes or None, limits=Limits(**bounds), check_import=check)
    # a report's readers look for the file in their repository; a folder of this machine alone would mean nothing to them
    inside = not source.is_absolute() and ".." not in source.parts
    return ProgramSubject(program, source.as_posix() if inside else source.name)
