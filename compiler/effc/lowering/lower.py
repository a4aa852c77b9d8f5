"""Program -> code: fixed batch, core ATen, stored weights, relax, fused TIR, schedules, plan, object file, shared library."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from effc.errors import ConfigError, InternalError, Problem, UnsupportedModelError
from effc.ir import Program
from effc.ir.ops.truncate import TRUNCATE
from effc.lowering.addresses import addresses
from effc.lowering.backends import Backend, backend_of
from effc.lowering.c99.printer import Printed
from effc.lowering.chip import tvm_target
from effc.lowering.densities import with_densities
from effc.lowering.drafts import Draft, NotPlannableError
from effc.lowering.emit import Kernel
from effc.lowering.extensions import hooks_of
from effc.lowering.fix_batch import fix_batch
from effc.lowering.implementing import implemented
from effc.lowering.kernels import Implementation, Options
from effc.lowering.kernels.tiles import Tile
from effc.lowering.offloading import Offloaded, offloaded, told, with_externals
from effc.lowering.optimise import optimise
from effc.lowering.parameters import ParameterSource
from effc.lowering.planning import draft
from effc.lowering.refusing import refusal
from effc.lowering.streaming.drafting import streaming_draft
from effc.lowering.streaming.keeping import NoListsError, with_kept
from effc.lowering.streaming.stripping import Stripped, stripped
from effc.lowering.to_relax import to_relax
from effc.lowering.translating import in_core, in_relax
from effc.lowering.virtual_machine import FUNCTION, virtual_machine_code
from effc.runtime.plan import Plan
from effc.targets import Target

__all__ = ["Lowered", "lower", "untranslatable"]

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Lowered:
    """A program as machine code.

    Attributes:
        plan: None where the program runs on TVM's virtual machine.
        vm: for the virtual machine: `{"function": name, "parameters": [stored names in argument order]}`; else None.
        code: a shared library for the target.
        objects: the same code as unlinked object files; none for the virtual machine.
        parameters: stored tensors by name, as the kernels read them.
        sources: where each stored tensor came from.
        batch: samples of one call.
        cpu: LLVM's name of the processor that the code is for.
        notes: what a user should know, one sentence each.
        remarks: what a user may want to know of this run; another run that makes the same code may say something else.
        tiles: measured tiles, given or found, of the layers that this program has.
        functions: for a target that gets C99: the kernels as C functions, those that the plan calls; then `code` and `objects` are empty.
        source: for a GPU: the CUDA C that `code`, a cubin, was compiled from.
    """

    plan: Plan | None
    vm: Mapping[str, Any] | None
    code: bytes
    objects: tuple[bytes, ...]
    parameters: Mapping[str, np.ndarray[Any, Any]]
    sources: Mapping[str, ParameterSource]
    batch: int
    cpu: str
    notes: tuple[str, ...] = field(default=())
    remarks: tuple[str, ...] = field(default=())
    tiles: Mapping[str, Tile] = field(default_factory=dict)
    functions: tuple[Printed, ...] = field(default=())
    source: str = ""


def lower(
    program: Program,
    target: Target,
    *,
    batch: int = 1,
    options: Options | None = None,
    tune_seconds: float = 0.0,
    progress: Progress | None = None,
) -> Lowered:
    """Compile a program for a processor.

    Args:
        program: any verified program.
        target: what to compile for; code for another machine needs a cross linker.
        batch: samples of one call, for a program with a symbolic batch.
        options: what is chosen among kernels; measured tiles among them.
        tune_seconds: how long to measure tiles for layers that `options` has none for; the target must be this machine.
        progress: shows the stages.

    Raises:
        UnsupportedModelError: TVM cannot express parts of the program; all of them are listed.
        MissingDependencyError: no linker for the target.
    """
    if program.interface.resident and batch != 1:
        raise ConfigError(f"batch {batch}: a streaming program takes one frame at a time")
    concrete, options = fix_batch(program, batch), options or Options()
    job = _Job(concrete, target, batch if program.interface.batch.symbolic else 1, options, tune_seconds, progress or _silent)
    if not any(node.target is TRUNCATE.overload for node in program.nodes):  # recurrent layers keep states, but no pixels
        return _lowered(job, None)
    bare, why = stripped(concrete), "its states are not those of the pass delta"
    if bare is not None and not backend_of(target).lists:
        bare, why = None, f"target {target.name} has no kernels over lists of what moved"
    if bare is not None:
        try:
            return _lowered(job, bare)
        except (NoListsError, NotPlannableError) as error:
            why = str(error)
    dense = _lowered(job, None)
    note = f"computes every frame whole, and then keeps what did not move: {why}"
    return replace(dense, notes=(*dense.notes, note))


@dataclass(frozen=True)
class _Job:
    program: Program
    target: Target
    batch: int
    options: Options
    tune_seconds: float
    progress: Progress


def _lowered(job: _Job, bare: Stripped | None) -> Lowered:
    """The code of a program; of a streaming program over lists of what moved where `bare` is given. Raises NoListsError."""
    concrete, target, options, tune_seconds = job.program, job.target, job.options, job.tune_seconds
    chip, backend, hooks = tvm_target(target), backend_of(target), hooks_of(target)
    with job.progress("lowering", 5) as advance:
        dense = concrete if bare is None else bare.program
        core, sources = in_core(with_densities(dense))
        advance(1)
        relax_module, given = in_relax(core, sources)
        stored = _stored_names(core, relax_module.parameters)
        tensors = {stored[name]: array for name, (array, _) in given.items()}
        origin = {stored[name]: source for name, (_, source) in given.items()}
        advance(1)
        size = job.batch
        cpu = str(chip.attrs.get("mcpu", target.cpu))
        try:
            interface = dense.interface
            if bare is not None:
                relax_module, interface, bare = with_kept(relax_module, bare)
            with _tvm_failures("the program"):
                taken = offloaded(relax_module, hooks, target) if bare is None else Offloaded(relax_module)
                fused = optimise(taken.module, chip, taken.parts)
            drafted = with_externals(draft(fused, interface, stored, relax_module.inputs), taken)
        except NotPlannableError as error:
            if bare is not None:
                raise
            if backend.needs_plan(target):
                raise refusal(error, target, tensors, origin) from error
            code = virtual_machine_code(relax_module, target, chip)
            vm = {"function": FUNCTION, "parameters": list(tensors)}
            note = f"runs on TVM's virtual machine, not from a plan: {error}"
            if tune_seconds or options.tiles or options.winograd in ("f2", "f4"):
                note += "; tuning and Winograd change nothing there"
            return Lowered(None, vm, code, (), tensors, origin, size, cpu, (note, *told(hooks, target, None)))
        advance(1)
        tensors |= drafted.constants
        origin |= {name: ParameterSource("", "transformed") for name in drafted.constants}
        remarks = []
        with _tvm_failures("the program"):
            if bare is not None:
                drafted = streaming_draft(drafted, bare, target)
            if tune_seconds:
                tiles, remark = _tuned(drafted, target, chip, options, tune_seconds, tensors)
                options = replace(options, tiles=tiles)
                remarks.append(remark)
            drafted = backend.drafted(drafted)
            implementations = implemented(drafted, target, options, tensors, origin)
        compiled = _kernels(drafted, implementations, backend)
        advance(1)
        made = backend.finish(compiled, addresses(drafted, compiled, implementations, target), drafted, chip, target)
        advance(1)
    used = [buffer.name for buffer in made.plan.in_room("parameter")]
    layers = {one.layer for one in implementations.values()} - {""}
    if set(options.tiles) - layers:
        own = f"{len(layers & set(options.tiles))} of its {len(options.tiles)} tiles belong to layers of this program"
        remarks.append(f"tuning: {own}; a tile is for one layer at one batch size")
    return Lowered(
        plan=made.plan,
        vm=None,
        code=made.code,
        objects=made.objects,
        parameters={name: tensors[name] for name in used},
        sources={name: origin[name] for name in used},
        batch=size,
        cpu=cpu,
        notes=told(hooks, target, drafted, streaming=bare is not None),
        remarks=tuple(remarks),
        tiles={key: options.tiles[key] for key in sorted(layers & set(options.tiles))},
        functions=made.functions,
        source=made.source,
    )


def untranslatable(program: Program) -> tuple[Problem, ...]:
    """Every node that `lower` would refuse, found without making code. Raises UnsupportedModelError where no node is the reason."""
    try:
        to_relax(in_core(fix_batch(program, 1))[0])
    except UnsupportedModelError as error:
        if not error.problems:
            raise
        return error.problems
    return ()


@contextmanager
def _tvm_failures(what: str) -> Iterator[None]:
    """What was not refused by node (`to_relax`) should compile: a failure of TVM there is effc's."""
    import tvm

    try:
        yield
    except tvm.error.InternalError as error:
        why = str(error).strip().splitlines()[-1].removeprefix("tvm.error.InternalError: ")
        raise InternalError(f"{what} cannot be compiled; please report it with the model. TVM says: {why}") from error


def _silent(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)


def _stored_names(program: Program, placeholders: Sequence[str]) -> dict[str, str]:
    """The user's name of each stored tensor by placeholder; another one where an input or output of the plan is called so."""
    reserved = {value.name for value in (*program.interface.inputs, *program.interface.outputs)}
    own = {placeholder: program.tensor_names.get(placeholder, placeholder) for placeholder in placeholders}
    taken = reserved | set(own.values())
    names: dict[str, str] = {}
    for placeholder, name in own.items():
        if name in reserved:
            name = next(free for number in itertools.count() if (free := f"{name}.stored{number or ''}") not in taken)
            taken.add(name)
        names[placeholder] = name
    return names


def _tuned(
    drafted: Draft, target: Target, chip: Any, options: Options, seconds: float, tensors: Mapping[str, np.ndarray[Any, Any]]
) -> tuple[dict[str, Tile], str]:
    """The measured tiles of a draft's layers, those that were given first, and a sentence about the measuring."""
    from effc.lowering.tuning import Layer, tune
    from effc.runtime.threads import available_threads

    layers: dict[tuple[str, tuple[bool, ...]], Layer] = {}
    for call in drafted.calls:
        key, function = (call.function, drafted.stored_reads(call)), drafted.functions[call.function]
        macs = sum(part.macs for part in call.parts)
        if key in layers:
            layers[key] = replace(layers[key], macs=layers[key].macs + macs)
        else:
            shapes = [tuple(int(size) for size in buffer.shape) for buffer in function.params]
            values = {i: tensors[name].reshape(shapes[i]) for i, name in enumerate(call.reads) if key[1][i]}
            layers[key] = Layer(function, key[1], values, macs)
    return tune(layers.values(), target, chip, options, seconds, available_threads())


def _kernels(drafted: Draft, implementations: Mapping[str, Implementation], backend: Backend) -> dict[str, Kernel]:
    """The kernels as the code generator takes them, by symbol."""
    import tvm

    functions = {symbol: implementation.function for symbol, implementation in implementations.items()}
    try:
        return backend.lowered(functions)
    except tvm.error.InternalError:
        for call in drafted.calls:  # which one? say it by the user's names
            sources = ", ".join(dict.fromkeys(part.origin.source for part in call.parts if part.origin.source))
            with _tvm_failures(f"the kernel of {sources or call.function}"):
                backend.lowered({call.function: functions[call.function]})
        raise
