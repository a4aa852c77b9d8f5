"""Code that streams against itself with a reset before every frame: where nothing is truncated, both must be the same, bit for bit.

A streaming program all of whose thresholds are 0 (the pass `delta` in its modes `exact` and `quantised`) computes every frame by itself:
the past only says what need not be computed again. So a frame in the middle of a clip must have the bits of the same frame after a reset,
which the code computes whole. A kernel that misses a pixel at a border, or computes too few rows, shows here; golden frames alone may never
touch that place. The clip is the golden one, and after it the first frame with seeded changes, one more with each frame: nothing, a corner,
the other corner, the last row, the last column, a patch, everything, and a pixel in the middle.

Programs with other thresholds, and those that add up differences from frame to frame (recurrent layers in `delta`), are not their frame's
function alone: nothing is compared there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from effc.ir import Program
from effc.ir.ops.stream_clock import STREAM_CLOCK
from effc.ir.ops.truncate import TRUNCATE
from effc.runtime import Session, Verification
from effc.runtime.tensors import Array
from effc.runtime.verify import Difference, compare

__all__ = ["check_resets", "every_frame_by_itself"]

Region = tuple[slice, ...]


def check_resets(session: Session, program: Program, golden: Mapping[str, Array]) -> Verification | None:
    """Run a clip as a stream, and again with a reset before every frame.

    Args:
        session: the artifact.
        program: what it was made from.
        golden: frames in order, by input name.

    Returns:
        The differences of all outputs, held against 0; the first index is the frame. None where frames need not be the same.
    """
    if not (session.manifest.streams and every_frame_by_itself(program)):
        return None
    in_frames = {spec.name for spec in session.inputs if spec.batched}
    clip = {name: _changed(array) if name in in_frames else array for name, array in golden.items()}
    count = min((len(clip[name]) for name in in_frames), default=1)
    streamed, alone = session.new_sequence(resident_only=True), session.new_sequence(resident_only=True)
    got: dict[str, list[Array]] = {}
    wanted: dict[str, list[Array]] = {}
    for index in range(count):
        frame = {name: array[index : index + 1] if name in in_frames else array for name, array in clip.items()}
        alone.reset()
        for results, frames in ((streamed.run(frame), got), (alone.run(frame), wanted)):
            for name, array in results.items():
                frames.setdefault(name, []).append(array)
    outputs = {name: np.stack(arrays) for name, arrays in got.items()}
    reference = {name: np.stack(arrays) for name, arrays in wanted.items()}
    found = compare(outputs, reference, 0.0)
    return Verification(tuple(_bits(one, outputs[one.name], reference[one.name]) for one in found.differences), 0.0)


def every_frame_by_itself(program: Program) -> bool:
    """Whether what a program with resident states computes depends on the frame alone, by its form.

    So it is where all that reads those states are truncations with a threshold of 0, which are the identity, and clocks, and all that reads
    the clocks are truncations with a threshold of 0.
    """
    inputs = program.input_nodes
    past = [inputs[state.input] for state in program.interface.resident]
    past += [node for node in program.nodes if node.target is STREAM_CLOCK.overload]
    readers = {user for node in past for user in node.users if user.op != "output"}
    return bool(past) and all(
        user.target is STREAM_CLOCK.overload or (user.target is TRUNCATE.overload and user.args[3] == 0) for user in readers
    )


def _changed(golden: Array) -> Array:
    """The golden frames of one input, and those with changes."""
    first = golden[0, ...]  # an array, also where a frame is one number
    values, places = np.unique(first, return_inverse=True)
    places = places.reshape(first.shape)
    generator = np.random.default_rng(0)
    frames = [first]
    for region in _regions(first):
        frame = frames[-1].copy()
        if len(values) > 1:  # other values of the same frame: they are valid for the network, whatever they mean
            others = places[region] + generator.integers(1, len(values), frame[region].shape)
            frame[region] = values[others % len(values)]
        elif frame.dtype.kind == "f":
            frame[region] += 1
        frames.append(frame)
    return np.concatenate([golden, np.stack(frames)])


def _regions(frame: Array) -> Iterator[Region]:
    """Where each frame differs from the one before; in (C, *spatial), with all channels. What has no space changes as a whole."""
    space = frame.shape[1:]
    rest = tuple(slice(None) for _ in space[1:])
    middle = [size // 2 for size in space]
    if space:
        yield (slice(0), *(slice(None) for _ in space))  # nothing
        yield (slice(None), *(slice(0, 1) for _ in space))
        yield (slice(None), *(slice(-1, None) for _ in space))
        yield (slice(None), slice(-1, None), *rest)
        yield (slice(None), *rest, slice(-1, None))
        yield (slice(None), *(slice(at // 2, at // 2 + max(1, size // 4)) for at, size in zip(middle, space, strict=True)))
    yield tuple(slice(None) for _ in frame.shape)
    if space:
        yield (slice(None), *(slice(at, at + 1) for at in middle))


def _bits(found: Difference, output: Array, reference: Array) -> Difference:
    """The difference, also where it is a zero's sign alone."""
    if found.relative > 0 or output.dtype.kind != "f":
        return found
    signs = np.signbit(output) != np.signbit(reference)
    signs &= ~np.isnan(reference)
    if not signs.any():
        return found
    return Difference(found.name, float("inf"), tuple(int(i) for i in np.argwhere(signs)[0]), "a zero has another sign", found.dtype)
