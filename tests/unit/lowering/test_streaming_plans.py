"""Plans of streaming programs: thresholds, the clock, layouts of the frame, what cannot run over lists, other processors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effc.compiler import compile_model
from effc.ir import Edit, Program
from effc.ir.arrays import to_torch
from effc.ir.ops.stream_clock import STREAM_CLOCK
from effc.lowering import lower, run_lowered
from effc.lowering.kernels.moved import Moved
from effc.lowering.kernels.pixel_list import Reach, fits
from effc.lowering.streaming.keeping import NoListsError
from effc.targets import find_target
from tests.unit.compiler.test_cross_targets import OTHERS, needs_tools
from tests.unit.ir import streaming_net
from tests.unit.lowering.streams import Array, Compiled, per_frame, special, streaming, wrong


class Eighths(nn.Module):
    """Sums that are exact in float32, in whatever order: all decisions of its truncations are the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 9, 3, 1, 1), nn.Conv2d(9, 18, 3, 2, 1)
        self.depthwise = nn.Conv2d(18, 18, 3, 1, 1, groups=18)
        quarters(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.first(x))
        y = torch.relu(self.second(F.max_pool2d(x, 2)))
        return torch.relu(self.depthwise(y)) + y, x


class Movement(nn.Module):
    """What is kept behind a movement: the elements of another tensor that is kept, as other pixels."""

    def __init__(self, movement: Callable[[Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.first, self.second, self.movement = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(channels, 5, 3, 1, 1), movement
        quarters(self)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.movement(torch.relu(self.first(x)))))


def quarters(net: nn.Module) -> None:
    """Weights that are multiples of 1/4."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator) / 4


def drifting(frames: int) -> Array:
    """Multiples of 1/4: a patch moves, another place drifts slowly, and sometimes there is a cut, or a NaN for two frames."""
    generator = np.random.default_rng(0)
    made = [np.round(4 * generator.standard_normal((3, 20, 34), np.float32)) / 4]
    for t in range(1, frames):
        frame = made[-1].copy()
        frame[:, 3:9, t : t + 7] += np.round(4 * generator.standard_normal((3, 6, 7), np.float32))[:, :, : 34 - t] / 4
        frame[t % 3, 12:18, 4:20] += 0.25
        if t == 9:
            frame = -frame
        made.append(frame)
    result = np.stack(made)
    result[5:7, 1, 15, 30] = np.nan
    result[8, 0, 0, 0] = np.inf
    return result


def states_of(program: Program, frames: Array) -> list[dict[str, Array]]:
    """All outputs and new states after each frame, by the program's own operators."""
    values = {value.name: value for value in program.interface.inputs}
    pairs = {state.input: state.output for state in program.interface.states}
    states = {name: torch.zeros(values[name].at_batch(1), dtype=getattr(torch, values[name].dtype)) for name in pairs}
    found = []
    for frame in frames:
        results = program.run({program.interface.frame_inputs[0].name: torch.from_numpy(frame[None]), **states})
        states = {name: results[output] for name, output in pairs.items()}
        found.append({**{name: result.numpy() for name, result in results.items()}, **{name: one.numpy() for name, one in states.items()}})
    return found


def test_thresholds_and_clocks_are_the_programs_in_every_bit() -> None:
    clip = drifting(24)
    program = streaming(Eighths(), clip[:5], "mode=truncate,threshold=0.1,refresh=6,scene-cut=0.3")
    code = Compiled(program, winograd="off")  # Winograd's sums are no eighths
    assert set(code.listed.values()) == {"listed conv", "listed pool", "listed depthwise"}
    expected, clocks, held = states_of(program, clip), [], 0
    for t, found in enumerate(code.clip(clip)):
        clocks.append(found.clock)
        assert found.clock == int(expected[t][code.plan.clock][0])
        for name, kept in found.kept.items():
            np.testing.assert_array_equal(np.moveaxis(kept, -1, 1), expected[t][name], f"{name} in frame {t}")
        for name, output in found.outputs.items():
            np.testing.assert_array_equal(output, expected[t][name], f"{name} in frame {t}")
        held += int((expected[t]["stream.x"] != clip[t]).sum())
    assert clocks == [1, 2, 3, 4, 5, 6, 1, 2, 3, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1, 2, 3]
    assert held > 100  # thresholds did something


def test_a_movement_of_what_is_kept_is_kept_as_its_own_pixels() -> None:
    clip = drifting(12)[:, :, 10:18, 12:20]
    program = streaming(Movement(lambda x: x.reshape(-1, 8, 4, 8), 8), clip[:5], "mode=truncate,threshold=0.15,scene-cut=1")
    expected = states_of(program, clip)
    for t, found in enumerate(Compiled(program, winograd="off").clip(clip)):
        for name, output in found.outputs.items():
            np.testing.assert_array_equal(output, expected[t][name], f"{name} in frame {t}")
    program = streaming(Movement(lambda x: x.transpose(2, 3), 4), clip[:5], "mode=truncate,threshold=0.15,scene-cut=1")
    with pytest.raises(NoListsError, match=r"stream\.transpose was joined"):  # two transpositions became one, which reads no truncation
        Compiled(program)


class Small(nn.Module):
    def __init__(self, channels: int, permuted: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.permuted = permuted
        self.first, self.second, self.third = nn.Conv2d(channels, 7, 3, 1, 1), nn.Conv2d(7, 1, 3, 1, 1), nn.Conv2d(1, 5, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.permuted:
            x = x.permute(0, 3, 1, 2)
        return torch.relu(self.third(torch.relu(self.second(torch.relu(self.first(x))))))


@pytest.mark.parametrize(
    "shape", [(1, 9, 17), pytest.param((4, 80, 130), marks=pytest.mark.slow), pytest.param((3, 1, 66), marks=pytest.mark.slow)]
)
def test_frames_of_other_shapes(shape: tuple[int, int, int]) -> None:
    program = streaming(Small(shape[0]), special(shape))
    code = Compiled(program, winograd="off")  # it spreads what a NaN becomes
    assert len(code.listed) >= 2
    assert not wrong(code, program, special(shape))


def test_frames_with_channels_last() -> None:
    clip = np.ascontiguousarray(special((5, 9, 17)).transpose(0, 2, 3, 1))
    program = streaming(Small(5, permuted=True), clip)
    code = Compiled(program)
    assert len(code.listed) >= 2
    assert not wrong(code, program, clip)


class Denoiser(nn.Module):
    """Reads the frame as it came, in front of the convolutions and behind them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.second(torch.relu(self.first((x - 0.3) / 1.7)))


def test_a_frame_that_is_read_as_it_came() -> None:
    program = streaming(Denoiser(), special((3, 21, 37)))
    code = Compiled(program, winograd="off")  # Winograd spreads what an infinity becomes
    assert "stream.first" in code.listed
    assert not wrong(code, program, special((3, 21, 37)))


class Beyond(nn.Module):
    """Windows of one row, and single pixels, that lie wholly behind the last one of what they read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 17, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.first(x))
        return F.max_pool2d(F.pad(x, (0, 3, 0, 9)), 2, 1), self.second(F.pad(x, (0, 5, 0, 40)))


def test_windows_behind_the_last_row() -> None:
    program = streaming(Beyond(), special((3, 40, 65)))
    code = Compiled(program)
    assert code.listed["stream.second"] == "listed conv"
    assert code.listed["stream.max_pool2d"] == "listed pool"
    assert not wrong(code, program, special((3, 40, 65)))


def test_windows_that_stick_out_further_than_a_mask_are_not_listed() -> None:
    moved = Moved(None, None, 40, 65)
    assert fits(40, 65 + 64, [Reach(moved)])
    assert not fits(40, 65 + 65, [Reach(moved)])
    assert fits(40, 65, [Reach(moved, (3, 3), before=(99, 16))])
    assert not fits(40, 65, [Reach(moved, (3, 3), before=(0, 17))])
    assert not fits(40, 22, [Reach(moved, strides=(1, 3))])
    assert not fits(1 << 15, 65, [Reach(moved)])


class Viewed(nn.Module):
    """One channel, whose rows are cut in another way: the same memory, with other pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv2d(3, 1, 3, 1, 1), nn.Conv2d(1, 16, 3, 1, 1), nn.Conv2d(16, 9, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)).reshape(-1, 1, 30, 8)
        return torch.relu(self.third(torch.relu(self.second(x))))


def test_a_view_of_what_is_kept_has_other_pixels() -> None:
    program = streaming_net.streaming(per_frame(Viewed(), 3, 8, 30), scene_cut=0.6)
    code = Compiled(program, winograd="off")
    assert list(code.listed) == ["relu.0", "relu.2"]  # not the one that reads the view
    assert not wrong(code, program, special((3, 8, 30)))


def test_states_of_another_form_are_kept_behind_frames_that_are_computed_whole() -> None:
    edit = Edit(streaming_net.streaming(streaming_net.per_frame(symbolic=False), threshold=0.3, scene_cut=0.2, refresh=4))
    (clock,) = [node for node in edit.nodes if node.target is STREAM_CLOCK.overload]
    clock.update_arg(3, 0.1)  # the clock counts pixels that are not propagated
    program, clip = edit.done(), streaming_net.clip(6).numpy()
    lowered = lower(program, find_target("cpu"))
    assert [note for note in lowered.notes if "computes every frame whole" in note]
    assert lowered.plan is not None
    assert lowered.plan.state_bytes == 0
    states = {value.name: np.zeros(value.at_batch(1), value.dtype) for value in program.interface.inputs[1:]}
    for frame in clip:
        given = {"x": frame[None], **states}
        results = run_lowered(lowered, program, given)
        expected = program.run({name: to_torch(array) for name, array in given.items()})
        for name, result in results.items():
            np.testing.assert_allclose(result, expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
        states = {state.input: results[state.output] for state in program.interface.states}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_in_other_vectors(name: str, tmp_path: Path) -> None:
    needs_tools(name)
    clip = special((4, 23, 37))[:9]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = compile_model(
            Small(4),
            tmp_path / "out",
            passes="delta{mode=exact,dense=never}",
            target=name,
            example_inputs=(torch.zeros(1, 4, 23, 37),),
            data=clip,
        )
    assert result.emulated is not None
    assert "PASS" in result.emulated.text
    assert result.manifest.plan is not None
    assert {step.family for step in result.manifest.plan.steps} >= {"frame", "listed conv"}


class Cube(nn.Module):
    """As many channels as rows and columns: from sizes alone nobody tells which axis is which."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        y = y + torch.relu(torch.roll(y, (1, 2), (2, 3)))
        return self.last(y.reshape(-1, 4, 4, 16, 16).transpose(1, 2).reshape(-1, 16, 16, 16))


def test_as_many_channels_as_rows_and_columns() -> None:
    clip = special((3, 16, 16))
    program = streaming(Cube(), clip)
    assert not wrong(Compiled(program, winograd="off"), program, clip)
