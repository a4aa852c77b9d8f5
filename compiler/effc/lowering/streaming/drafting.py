"""The calls of a streaming program: those of a frame of which only what moved is computed, and those of a frame that is computed whole.

The dense draft is the second list; what is kept from frame to frame stands in states, where its kernels write it. For the first list every
call that writes a state is replaced: by a kernel over the list of positions whose window holds a moved pixel, where such a kernel exists
(`listed_conv`, `listed_depthwise`); else it computes everything, and what moved of that is propagated (`compared`). Calls that write no
state are the same in both lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from effc.lowering.drafts import Call, Draft, Slot
from effc.lowering.kernels.frame import FrameBuffers
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.listed_results import Results
from effc.lowering.kernels.moved import Moved, mask_width, moved_buffers
from effc.lowering.kernels.tiles import lanes_of
from effc.lowering.streaming.families import list_kernels
from effc.lowering.streaming.keeping import NoListsError
from effc.lowering.streaming.stages import Pair, Stage, is_movement, is_transposition, listed_stage, pixel_steps
from effc.lowering.streaming.stripping import Kept, Stripped
from effc.runtime.plan import Room
from effc.targets import Target

__all__ = ["streaming_draft"]


def streaming_draft(dense: Draft, stripped: Stripped, target: Target) -> Draft:
    """The calls of both kinds of frame. Raises NoListsError where a tensor is kept in a layout that its other readers do not read.

    Args:
        dense: of `stripped.program`, with its kept outputs in channels-last layout.
        stripped: what is kept.
        target: the processor.
    """
    return _Drafting(dense, stripped, target).run()


class _Drafting:
    def __init__(self, dense: Draft, stripped: Stripped, target: Target) -> None:
        self.frame, self.target, self.lanes = stripped.frame, target, lanes_of(target, "float32")
        self.kernels = list_kernels(target)
        self.kept: Mapping[str, Kept] = {one.state: one for one in stripped.kept}
        self.dense, self.result = dense, Draft(functions=dict(dense.functions), constants=dense.constants)
        self.slots = {name: replace(slot, room="state") if name in self.kept else slot for name, slot in dense.slots.items()}
        self.sources: dict[str, tuple[tuple[str, Pair], ...]] = {}  # states whose moved pixels are those of a buffer, and their steps
        self.moved: dict[str, Moved] = {}
        reads = [name for call in dense.calls for name in call.reads if dense.slots[name].room == "arena"]
        self.readers = Counter(reads)
        self.exact = all(one.threshold == 0 for one in (*stripped.kept, stripped.frame.kept))

    def run(self) -> Draft:
        self._refuse_detours()
        whole = self._frame_kept(self.dense.calls)
        first = [self._frame_call()]
        fresh: list[Call] = []
        for call in whole:
            moving, same = self._calls(call)
            first += moving
            fresh.append(same)
        fresh = [self._apart(call) for call in fresh]
        self.result.calls = [*first, *fresh]
        self.result.fresh, self.result.clock = len(first), self.frame.clock
        used = {name for call in self.result.calls for name in (*call.reads, *call.writes)}
        self.result.slots = {name: slot for name, slot in self.slots.items() if name in used or slot.room in ("input", "output")}
        return self.result

    def _refuse_detours(self) -> None:
        """A transposition may have been joined with the next: then nothing reads what is propagated, but what that was made from."""
        read = {name for call in self.dense.calls for name in call.reads}
        for name, one in self.kept.items():
            if one.threshold and one.read and name not in read:
                raise NoListsError(f"what reads {name} was joined with it")

    # ---- the frame -----------------------------------------------------------------------------------------------------------

    def _frame_kept(self, calls: Sequence[Call]) -> list[Call]:
        """The calls without those that transpose the frame: what they write is its state. Others read it as it came, also from a state."""
        state, name = self.frame.kept.state, self.frame.input
        _, channels, height, width = self.frame.kept.shape
        renamed: dict[str, str] = {}
        left = []
        for call in calls:
            transposed = call.reads == (name,) and not self._reads_as_kept() and is_transposition(self.dense.functions[call.function])
            if transposed and self.slots[call.writes[0]].room == "arena":
                renamed[call.writes[0]] = state
            else:
                left.append(call)
        for old in renamed:
            del self.slots[old]
        renamed[name] = state if self._reads_as_kept() else f"{state}.planes"
        self._state(state, (1, height, width, channels), "float32")
        self.sources[state] = self.sources[renamed[name]] = ((state, (1, 1)),)
        self._moved(state, height, width)
        return [replace(call, reads=tuple(renamed.get(one, one) for one in call.reads)) for call in left]

    def _reads_as_kept(self) -> bool:
        """Whether kernels read the frame in the layout of its state: nothing transposes it."""
        return self.frame.channels_last or self.frame.kept.shape[1] == 1

    def _frame_call(self) -> Call:
        from tvm import tirx

        kept, state = self.frame.kept, self.frame.kept.state
        _, channels, height, width = kept.shape
        shape, last = (1, height, width, channels), self._reads_as_kept()
        planes = None if last else tirx.decl_buffer(kept.shape, "float32", name="planes")
        counters = self.kernels.frame_counters(height, width)
        active = self._active(state, counters)
        buffers = FrameBuffers(
            frame=tirx.decl_buffer(shape if last else kept.shape, "float32", name="frame"),
            planes=planes,
            state=tirx.decl_buffer(shape, "float32", name="state"),
            moved=self.moved[state],
            clock=tirx.decl_buffer((1,), "int32", name="clock"),
            active=tirx.decl_buffer((counters,), "int32", name="active"),
            threshold=kept.threshold,
            most_moved=self.frame.most_moved,
            refresh=self.frame.refresh,
        )
        writes = [] if last else [self._state(f"{state}.planes", kept.shape, "float32")]
        writes += [state, *self._masks(state), self._state(self.frame.clock, (1,), "int32"), active]
        function = self.kernels.frame(buffers, self.lanes)
        self._ready("frame", function, Implementation(function, "frame", note=f"threshold {kept.threshold:.3g}"))
        return Call("frame", (self.frame.input,), tuple(writes), (), active=active, positions=height * width)

    # ---- the others ----------------------------------------------------------------------------------------------------------

    def _calls(self, call: Call) -> tuple[list[Call], Call]:
        """What stands for a call in a frame of which only what moved is computed, and in one that is computed whole."""
        (written,) = call.writes if len(call.writes) == 1 else ("",)
        if written not in self.kept:
            self._follow(call)
            return [call], call
        kept = self.kept[written]
        _, channels, height, width = kept.shape
        if any(self.readers[name] > 1 for name in call.reads) and is_movement(self.dense.functions[call.function]):
            if kept.threshold == 0:  # then it is that tensor
                return [call], call
            raise NoListsError(f"{written} is another layout of a tensor that its readers read as it is")
        moved = self._moved(written, height, width)
        self.sources[written] = ((written, (1, 1)),)
        shape = self.slots[written].shape
        last = kept.channels_last  # else the network computes it in planes
        results = Results(self._buffer("state", shape), moved, channels, kept.threshold)
        stage = self._stage(call, results) if last else None
        if stage is not None:
            symbol = self._ready(
                f"listed{len(self.result.ready)}_{call.function}", self.dense.functions[call.function], stage.implementation
            )
            masks = [name for state in stage.states for name in self._masks(state)]
            active = self._active(written, self._counters(results))
            reads, writes = (*call.reads, *masks), (written, *self._masks(written), active)
            listed = Call(symbol, reads, writes, call.parts, active=active, positions=height * width)
            return [listed], self._whole(call, stage)
        new = f"{written}.new"
        self.slots[new] = Slot(new, "arena", shape, "float32")
        function = (self.kernels.compared if last else self.kernels.compared_planes)(results, self.lanes)
        note = f"threshold {kept.threshold:.3g}"
        symbol = self._ready(f"compared_{len(self.result.ready)}", function, Implementation(function, "compared", note=note))
        whole = replace(call, writes=(new,))
        return [whole, Call(symbol, (new,), (written, *self._masks(written)), ())], call

    def _whole(self, call: Call, stage: Stage) -> Call:
        """The call of a frame that is computed whole; in mode `exact` its sums are those of the kernel over a list."""
        if not self.exact or stage.whole is None:
            return replace(call, direct=self.exact)
        symbol = f"positions{len(self.result.ready)}_{call.function}"
        return replace(call, function=self._ready(symbol, self.dense.functions[call.function], stage.whole))

    def _counters(self, results: Results) -> int:
        return self.kernels.counters(results.moved.height, results.moved.width, results.channels, self.target)

    def _stage(self, call: Call, results: Results) -> Stage | None:
        shapes = [self.slots[name].shape for name in call.reads]
        stored = tuple(self.slots[name].room == "parameter" for name in call.reads)
        moved = [tuple((state, self.moved[state], step) for state, step in self._sources(call, index)) for index in range(len(call.reads))]
        active = self._buffer("active", (self._counters(results),), "int32")
        return listed_stage(self.dense.functions[call.function], shapes, stored, moved, results, active, self.target)

    def _follow(self, call: Call) -> None:
        """What is computed from kept tensors pixel by pixel moves where they do."""
        (written,) = call.writes if len(call.writes) == 1 else ("",)
        if not written or len(self.slots[written].shape) != 4:
            return
        steps = pixel_steps(self.dense.functions[call.function])
        if steps is None:
            return
        found: list[tuple[str, Pair]] = []
        for index, name in enumerate(call.reads):
            if self.slots[name].room == "parameter":
                continue
            sources = self._sources(call, index)
            if index not in steps or not sources:
                return
            found += [(state, (step[0] * steps[index][0], step[1] * steps[index][1])) for state, step in sources]
        if found and len(set(found)) <= _MOST_SOURCES:
            self.sources[written] = tuple(dict.fromkeys(found))

    def _sources(self, call: Call, index: int) -> tuple[tuple[str, Pair], ...]:
        """The states whose moved pixels are those of an operand: none where the call reads a view of the buffer, with other pixels."""
        name = call.reads[index]
        sources = self.sources.get(name, ())
        written, read = self.slots[name].shape, tuple(int(size) for size in self.dense.functions[call.function].params[index].shape)
        sizes = [(self.moved[state].height, self.moved[state].width) for state, step in sources[:1] if step == (1, 1)]
        one_channel = any({written, read} <= {(1, *size, 1), (1, 1, *size)} for size in sizes)  # both layouts are one
        return sources if written == read or one_channel else ()

    def _apart(self, call: Call) -> Call:
        """A call of the second list writes other scratch than its twin of the first: the two lists never run together."""
        names = {name: f"{name}.whole" for name in (*call.reads, *call.writes) if self.slots[name].room == "arena"}
        for name, other in names.items():
            self.slots.setdefault(other, replace(self.slots[name], name=other))
        return replace(
            call,
            reads=tuple(names.get(name, name) for name in call.reads),
            writes=tuple(names.get(name, name) for name in call.writes),
        )

    # ---- buffers -------------------------------------------------------------------------------------------------------------

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: str = "float32") -> object:
        from tvm import tirx

        return tirx.decl_buffer(shape, dtype, name=name)

    def _state(self, name: str, shape: tuple[int, ...], dtype: str) -> str:
        return self._slot(name, "state", shape, dtype)

    def _active(self, state: str, counters: int) -> str:
        return self._state(f"{state}.active", (counters,), "int32")

    def _moved(self, state: str, height: int, width: int) -> Moved:
        narrow = self.kernels.narrow
        self._slot(f"{state}.mask", "arena", (height, mask_width(width, narrow)), "uint8")
        self._slot(f"{state}.rows", "arena", (height,), "int32")
        self.moved[state] = moved_buffers(f"moved{len(self.moved)}", height, width, narrow)
        return self.moved[state]

    def _masks(self, state: str) -> tuple[str, str]:
        return f"{state}.mask", f"{state}.rows"

    def _slot(self, name: str, room: Room, shape: tuple[int, ...], dtype: str) -> str:
        self.slots[name] = Slot(name, room, shape, dtype)
        return name

    def _ready(self, symbol: str, function: object, implementation: Implementation) -> str:
        self.result.functions[symbol] = function
        self.result.ready[symbol] = implementation
        return symbol


_MOST_SOURCES = 8
