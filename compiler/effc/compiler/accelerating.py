"""What a network needs on an accelerator that a file describes: its products, the zeros and changes of their inputs on data, the model.

Nothing is compiled: a program is read and rewritten by passes as `effc compile` does it, looked at on data (`accelerator_counts`), and
modelled (`effc.cost.accelerator.model`). Where passes ran, so is the program that they were given: what they buy is the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effc.compiler.accelerator_counts import Counted, count_program, present_products
from effc.compiler.inputs import check_files, read_inputs
from effc.compiler.preparing import read_model
from effc.compiler.settings import Settings
from effc.cost.accelerator import Accelerator
from effc.cost.accelerator.memory import residence, state_bytes
from effc.cost.accelerator.model import Counts, model_layers
from effc.cost.accelerator.product import Product
from effc.data import DATA_BYTES, Dataset, Preprocess, load_dataset
from effc.errors import ConfigError, counted
from effc.ir import Program
from effc.ir.storage import load_program_bytes
from effc.passes import Context, Pipeline, parse_passes
from effc.passes.base import Progress, silent
from effc.report.accelerator import AcceleratorReport
from effc.runtime import open_artifact
from effc.runtime.manifest import MANIFEST

__all__ = ["model_accelerator", "model_program", "report_on"]

_RUN = "already ran before the artifact was written: model its source to change them"


def model_accelerator(
    settings: Settings, source: Any, accelerator: Accelerator, *, samples: int | None = None, progress: Progress | None = None
) -> AcceleratorReport:
    """Load, rewrite with the passes, look at data, and model.

    Args:
        settings: of them passes, data, init, checkpoints, metric, preprocess, input_shapes, states, seed, limits and check_import count.
        source: as for `compile_model`; or the folder of an artifact, whose program is taken then.
        accelerator: what to run on.
        samples: how many of the data, from the first one, are looked at; all where None.
        progress: shows long work.

    Raises:
        UnsupportedModelError: there are products that the model has no form for, or none at all. Else what `compile_model` raises while it
            reads and rewrites.
    """
    progress = progress or silent
    check_files(settings)
    passes, original = parse_passes(settings.passes), None
    if isinstance(source, str | Path) and (Path(source) / MANIFEST).is_file():
        program = _of_artifact(settings, Path(source))
        data = _data_of_artifact(settings, Path(source), program)
    else:
        pipeline, program = Pipeline(passes), read_model(settings, source, progress)
        original = program if passes else None
        given = read_inputs(settings, program, passes)
        # no target: what pays on a processor is not what pays here, so passes leave nothing out for it
        context = Context(given.fit, given.selection, None, settings.seed, progress, metric=settings.metric, initial=given.initial)
        context.checkpoints = settings.checkpoints
        program, data = pipeline(program, context), given.data
    if data is not None and samples is not None:
        data = data.take(samples)
    found = model_program(program, accelerator, data, progress=progress)
    return found if original is None else replace(found, before=model_program(original, accelerator, data, progress=progress))


def model_program(
    program: Program, accelerator: Accelerator, data: Dataset | None = None, *, progress: Progress = silent
) -> AcceleratorReport:
    """Model a program; without data every input counts as an event.

    Raises:
        UnsupportedModelError: there are products that the model has no form for, or none at all.
    """
    return report_on(program, accelerator, None if data is None else count_program(program, accelerator, data, progress=progress))


def report_on(program: Program, accelerator: Accelerator, found: Counted | None) -> AcceleratorReport:
    """The model of what was counted. Raises UnsupportedModelError as `model_program`."""
    products = present_products(program)
    return AcceleratorReport(
        title=Path(program.provenance.source).name,
        accelerator=accelerator.as_json(),
        multipliers=accelerator.multipliers,
        passes=program.provenance.passes,
        samples=0 if found is None else found.samples,
        layers=tuple(model_layers(products, accelerator, [Counts({}, {})] * len(products) if found is None else found.layers)),
        notes=tuple(_notes(program, products, accelerator, 0 if found is None else found.samples)),
    )


def _of_artifact(settings: Settings, path: Path) -> Program:
    """The program in an artifact. Raises ConfigError where settings would change it."""
    changed = [name for name in ("passes", "init", "input_shapes", "states") if getattr(settings, name)]
    if changed:
        flags = ", ".join(name.replace("_", "-") for name in changed)
        raise ConfigError(f"{path} is an artifact: {flags} cannot be given, its passes {_RUN}")
    return load_program_bytes(open_artifact(path).read("program.pt2"), name="program.pt2")


def _data_of_artifact(settings: Settings, path: Path, program: Program) -> Dataset | None:
    """The data, folders of images prepared as when the artifact was made unless the settings say otherwise."""
    if settings.data is None:
        return None
    stored = open_artifact(path).manifest.data["preprocess"]
    steps = Preprocess.parse(settings.preprocess) if settings.preprocess else Preprocess.from_json(stored) if stored else None
    limit = settings.limits.get("data_bytes", DATA_BYTES)
    return load_dataset(settings.data, program.interface.frame_inputs, preprocess=steps, max_bytes=limit)


def _notes(program: Program, products: Sequence[Product], accelerator: Accelerator, samples: int) -> list[str]:
    notes = []
    if not samples:
        notes.append("Without --data nothing is known of zeros and changes: every input counts as one that is neither (density 1).")
    elif samples == 1:
        notes.append("One sample has none before it: every input counts as changed.")
    else:
        notes.append(f"Zeros on {counted(samples, 'sample')}, changes from each to the next; numbers are means of a call.")
    size = accelerator.bytes
    bytes_of = f"{counted(size.activation, 'byte')} an input, {size.weight} a weight and {size.accumulator} a sum"
    notes.append(f"Operands have {bytes_of}, whatever the program stores; zeros and changes are those of the program's own values.")
    unknown = [product.name for product in products if product.input is None]
    if unknown and samples:
        notes.append(f"Inputs that the program does not hold count as events: the probabilities of {', '.join(unknown)}.")
    if not accelerator.is_event_driven:
        gated = accelerator.width("zeros") is not None
        saved = (
            "products with zero are gated, which saves energy and no time. Unchanged inputs cost what others cost."
            if gated
            else "it skips nothing. Zeros and unchanged inputs cost what others cost."
        )
        notes.append(f"{accelerator.name} moves operands in lockstep: {saved}")
        notes.append("Its MACs are those with padding among them, as it multiplies that, too; the least MACs are those without.")
        return notes
    stays = residence(products, accelerator)
    states = state_bytes(products, accelerator)
    where = (
        "stay on the chip"
        if stays.states
        else f"do not fit into {accelerator.sram.outputs:,}: those that are reached come from DRAM and go back"
    )
    notes.append(f"delta: the states of a stream, {states:,} bytes, {where}.")
    if program.interface.resident:
        notes.append("The program streams: what moved less than a threshold counts as unchanged.")
    return notes
