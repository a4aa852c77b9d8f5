"""A small convolutional network and its streaming form, for tests: what the pass `delta` makes of it, by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effc.ir import Batch, Edit, Program, Provenance

__all__ = ["SIZE", "Net", "clip", "per_frame", "streaming"]

SIZE = 12  # of a frame: 3 channels, SIZE x SIZE


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


def per_frame(*, symbolic: bool = True) -> Program:
    torch.manual_seed(3)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if symbolic else None
    exported = torch.export.export(Net().eval(), (torch.randn(2 if symbolic else 1, 3, SIZE, SIZE),), dynamic_shapes=shapes)
    batch = Batch(symbolic, "" if symbolic else "fixed for a test")
    return Program.from_exported(exported, Provenance("Net", "torch", "0" * 64), batch=batch, input_names=["x"], output_names=["scores"])


def streaming(
    program: Program, threshold: float = 0.0, scene_cut: float = 0.5, refresh: int = 0, *, last: float | None = None, resident: bool = True
) -> Program:
    """The program with its frame and the result of every relu truncated.

    `last` is the threshold of the last relu, where it has its own; without `resident` the states are the user's.
    """
    edit, ops = Edit(program), torch.ops.effc
    frame, first = edit.node(program.input_nodes["x"].name), edit.nodes[0]
    relus = [node for node in edit.nodes if node.target == torch.ops.aten.relu.default]
    clock = edit.add_state("stream.clock", frame.meta["val"].flatten(1)[:, 0].to(torch.int32), resident=resident)
    before = edit.add_state("x.before", frame, resident=resident)
    ticked = edit.call(ops.stream_clock.default, (frame, before, clock, threshold, scene_cut, refresh), like=first, before=first)
    kept = edit.call(ops.truncate.default, (frame, before, ticked, threshold), like=ticked)
    edit.replace(frame, kept, but_not={ticked, kept})
    edit.write_state("stream.clock", ticked)
    edit.write_state("x.before", kept)
    for index, relu in enumerate(relus):
        state = edit.add_state(f"relu.{index}", relu, resident=resident)
        own = threshold if last is None or relu is not relus[-1] else last
        kept = edit.call(ops.truncate.default, (relu, state, ticked, own), like=relu)
        edit.replace(relu, kept, but_not={kept})
        edit.write_state(f"relu.{index}", kept)
    return edit.done()


def clip(frames: int = 6, *, seed: int = 0) -> Tensor:
    """Frames of noise of which a patch of 4 x 4 pixels changes from one to the next."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn((3, SIZE, SIZE), generator=generator)]
    for t in range(1, frames):
        frame = made[-1].clone()
        frame[:, t % 8 : t % 8 + 4, 2:6] = torch.randn((3, 4, 4), generator=generator)
        made.append(frame)
    return torch.stack(made)
