"""Streaming programs of family c99: what is computed only where something moved has the bits of whole frames, in little memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.lowering.c_on_host import Stream, lowered, needs_compiler
from tests.unit.lowering.streams import per_frame, same, special, streaming
from tests.unit.lowering.test_streaming_plans import Eighths, Movement, drifting, states_of

pytestmark = needs_compiler


class Kinds(nn.Module):
    """Every kernel that computes where something moved: convolutions of all kinds, pools, sums of two images, an enlarged one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 9, (3, 5), 1, (1, 2)), nn.Conv2d(9, 12, 3, 2, 1)
        self.depthwise, self.groups = nn.Conv2d(12, 12, 3, 1, 2, dilation=2, groups=12), nn.Conv2d(12, 12, 3, 1, 1, groups=3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.first(x))
        y = torch.relu(self.second(F.avg_pool2d(x, 3, 1, 1)))
        y = torch.tanh(self.depthwise(y) + self.groups(y)) * torch.sigmoid(y)
        y = F.interpolate(F.max_pool2d(y, 2), scale_factor=2)
        return self.head(y.mean((2, 3))), y


def test_what_moved_has_the_bits_of_whole_frames() -> None:
    torch.manual_seed(0)
    clip = special((3, 16, 12))
    program = streaming(Kinds(), clip)
    code = lowered(program)
    assert code.plan is not None
    families = {step.family for step in code.plan.steps if step.active}
    assert {"frame", "listed conv", "listed depthwise", "listed pool", "listed map"} == families
    moving, whole = Stream(code), Stream(code)
    fewer = 0
    for t, frame in enumerate(clip):
        whole.states[code.plan.clock][...] = 0
        got, expected = moving.frame({"x": frame[None]}), whole.frame({"x": frame[None]})
        for name, value in expected.items():
            assert same(got[name], value), f"{name} in frame {t}"
        for state in program.interface.states:
            if state.input != code.plan.clock:
                assert same(moving.states[state.input], whole.states[state.input]), f"{state.input} in frame {t}"
        fewer += int(moving.states[code.plan.clock][0] > 1)
    assert fewer > len(clip) / 2


@pytest.mark.parametrize("compared", [False, True])
def test_thresholds_and_clocks_are_the_programs_in_every_bit(compared: bool) -> None:
    """Sums are exact there, in whatever order; a reshaped image is computed whole and compared."""
    clip = drifting(12)
    clip, net = (clip[:, :, 10:18, 12:20], Movement(lambda x: x.reshape(-1, 8, 4, 8), 8)) if compared else (clip, Eighths())
    program = streaming(net, clip[:5], "mode=truncate,threshold=0.1,refresh=6,scene-cut=0.3")
    expected = states_of(program, clip)
    code = lowered(program)
    assert code.plan is not None
    assert ("compared" in [step.family for step in code.plan.steps]) is compared
    stream = Stream(code)
    for t, frame in enumerate(clip):
        for name, output in stream.frame({"x": frame[None]}).items():
            np.testing.assert_array_equal(output, expected[t][name], f"{name} in frame {t}")
        assert stream.states[stream.plan.clock] == expected[t][stream.plan.clock]


def test_a_stream_takes_the_arena_of_its_network_and_no_second_set_of_weights() -> None:
    torch.manual_seed(0)
    clip = special((3, 16, 12))
    dense, code = lowered(per_frame(Kinds(), 3, 16, 12)), lowered(streaming(Kinds(), clip))
    assert dense.plan is not None and code.plan is not None
    assert code.plan.fresh
    assert code.plan.arena_bytes <= dense.plan.arena_bytes
    assert code.plan.parameter_bytes <= dense.plan.parameter_bytes
