"""Steps of streaming programs: which inputs are states, and everything that does not fit at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effc.errors import ConfigError
from effc.frontends import load_program
from effc.ir import Program, State, check
from effc.ir.storage import load_program_bytes, save_program


class Recall(nn.Module):
    """Keeps what it saw, each at its position, and gives the sum of all; counts its calls."""

    def forward(self, x: Tensor, position: Tensor, kept: Tensor, calls: Tensor) -> dict[str, Tensor]:
        here = torch.arange(kept.shape[1])[None] == position[:, None]
        kept_next = torch.where(here[:, :, None], x[:, None], kept)
        return {"total": kept_next.sum(1), "kept_next": kept_next, "calls_next": calls + 1}


STATES = {"kept": "kept_next", "calls": "calls_next"}
EXAMPLES = (torch.randn(1, 3), torch.tensor([2]), torch.zeros(1, 4, 3), torch.zeros(1, 1, dtype=torch.int64))


def run(program: Program, frames: list[Tensor]) -> list[Tensor]:
    """The first output of each frame, states fed back."""
    states = [torch.zeros(value.at_batch(len(frames[0])), dtype=getattr(torch, value.dtype)) for value in program.interface.inputs[2:]]
    seen = []
    for position, frame in enumerate(frames):
        first, *states = program.call(frame, torch.full((len(frame),), position), *states)
        seen.append(first)
    return [*seen, *states]


def test_a_step_of_a_module_streams_at_any_batch() -> None:
    program = load_program(Recall(), example_inputs=EXAMPLES, states=STATES)
    assert program.interface.batch.symbolic, program.interface.batch.reason
    assert program.interface.states == (State("kept", "kept_next"), State("calls", "calls_next"))
    assert [str(value) for value in program.interface.inputs] == [
        "x: float32[batch, 3]",
        "position: int64[batch]",
        "kept: float32[batch, 4, 3]",
        "calls: int64[batch, 1]",
    ]
    assert check(program) == []
    frames = [torch.randn(2, 3) for _ in range(3)]
    *totals, kept, calls = run(program, frames)
    assert all(torch.allclose(total, torch.stack(frames[: i + 1]).sum(0), atol=1e-6) for i, total in enumerate(totals))
    assert torch.equal(kept[:, :3], torch.stack(frames, 1)) and calls.tolist() == [[3], [3]]


def test_states_survive_saving_and_exported_programs_take_them_too(tmp_path: Path) -> None:
    program = load_program(Recall(), example_inputs=EXAMPLES, states=STATES)
    again = load_program_bytes(save_program(program))
    assert again.interface == program.interface
    exported = torch.export.export(Recall(), EXAMPLES, strict=False)
    torch.export.save(exported, tmp_path / "step.pt2")
    for source in (exported, tmp_path / "step.pt2"):
        assert load_program(source, states=STATES).interface.states == program.interface.states
    (tmp_path / "own.pt2").write_bytes(save_program(program))
    assert load_program(tmp_path / "own.pt2").interface == program.interface
    assert load_program(tmp_path / "own.pt2", states=STATES).interface == program.interface
    with pytest.raises(ConfigError, match="already"):
        load_program(tmp_path / "own.pt2", states={"kept": "kept_next"})
    without = load_program(Recall(), example_inputs=EXAMPLES)
    assert without.interface.states == () and without.provenance.sha256 != program.provenance.sha256


def test_a_position_that_all_samples_share_fixes_the_batch_and_says_why() -> None:
    class Shared(nn.Module):
        def forward(self, x: Tensor, position: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
            kept = kept.index_copy(1, position, x[:, None])
            return kept.sum(1), kept

    program = load_program(Shared(), example_inputs=EXAMPLES[:3], states={"kept": "output_1"})
    assert not program.interface.batch.symbolic and program.interface.batch.reason
    assert str(program.interface.inputs[1]) == "position: int64[1]"
    frames = [torch.randn(1, 3) for _ in range(4)]
    assert torch.allclose(run(program, frames)[3], torch.stack(frames).sum(0), atol=1e-6)


def test_all_problems_are_said_at_once() -> None:
    wrong: dict[str, str] = {"kept": "calls_next", "calls": "calls_next", "nothing": "total", "position": "nowhere"}
    with pytest.raises(ConfigError) as caught:
        load_program(Recall(), example_inputs=EXAMPLES, states=wrong)
    said = {(problem.where, problem.what, problem.why) for problem in caught.value.problems}
    assert said == {
        ("state 'kept'", "kept: float32[batch, 4, 3]", "its new value is calls_next: int64[batch, 1]"),
        ("state 'calls'", "its new value 'calls_next'", "is that of 'kept' already"),
        ("state 'nothing'", "the name", "is no input"),
        ("state 'position'", "its new value 'nowhere'", "is no output"),
        ("output 'kept_next'", "no state", "comes after the state 'total'"),
    }


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ((2, 0, 1, 3), "input 'x': no state: comes after the state 'kept'.*\n.*input 'position'"),
        ((0, 1, 2, 3), "output 'total': no state: comes after the state 'kept_next'"),
    ],
)
def test_states_are_last_on_both_sides(order: tuple[int, ...], message: str) -> None:
    class Turned(nn.Module):
        def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
            results = Recall()(*inputs)
            return {name: results[name] for name in ("kept_next", "total", "calls_next")}

    class First(nn.Module):
        def forward(self, kept: Tensor, x: Tensor, position: Tensor, calls: Tensor) -> Any:
            return Recall()(x, position, kept, calls)

    module, states = (First(), STATES) if order[0] else (Turned(), {"inputs_2": "kept_next", "inputs_3": "calls_next"})
    with pytest.raises(ConfigError, match=message):
        load_program(module, example_inputs=[EXAMPLES[i] for i in order], states=states)
