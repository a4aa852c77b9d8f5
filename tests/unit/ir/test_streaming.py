"""Clips: frames in order from zeroed states, in one go, in parts, and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from effc.errors import DataError
from effc.ir import Batch, Clip, Edit, Program, Provenance, Value, run_clip, verify
from effc.ir.storage import load_program_bytes, save_program
from tests.unit.ir.streaming_net import SIZE, clip, per_frame, streaming


def test_a_clip_is_what_calling_by_hand_gives() -> None:
    program, x = streaming(per_frame(), threshold=0.3), clip()
    verify(program)
    states = {value.name: torch.zeros(value.at_batch(1), dtype=getattr(torch, value.dtype)) for value in program.interface.inputs[1:]}
    by_hand, clocks = [], []
    for t in range(len(x)):
        found = program.run({"x": x[t : t + 1], **states})
        states = {name: found[f"{name}_next"] for name in states}
        by_hand.append(found["scores"])
        clocks.append(int(found["stream.clock_next"]))
    assert clocks == [1, 2, 3, 4, 5, 6]
    assert torch.equal(run_clip(program, {"x": x})["scores"], torch.cat(by_hand))
    assert set(run_clip(program, {"x": x})) == {"scores"}
    in_parts = Clip(program)
    parts = [in_parts.run({"x": part})["scores"] for part in x.split((1, 3, 2))]
    assert torch.equal(torch.cat(parts), torch.cat(by_hand))
    in_parts.reset()
    assert torch.equal(in_parts.run({"x": x[2:]})["scores"], run_clip(program, {"x": x[2:]})["scores"])


def test_a_threshold_of_zero_changes_nothing_and_a_larger_one_does() -> None:
    program, x = per_frame(), clip()
    frame_by_frame = torch.cat([run_clip(program, {"x": one[None]})["scores"] for one in x])
    assert torch.equal(run_clip(streaming(program), {"x": x})["scores"], frame_by_frame)
    truncated = run_clip(streaming(program, threshold=0.3), {"x": x})["scores"]
    assert torch.equal(truncated[0], frame_by_frame[0])
    assert not torch.equal(truncated[1:], frame_by_frame[1:])


def test_a_program_of_one_sample_a_call_runs_clips_too_and_others_have_none() -> None:
    program = streaming(per_frame(symbolic=False))
    x = clip()
    assert run_clip(program, {"x": x})["scores"].shape == (len(x), 4)
    assert torch.equal(run_clip(program, {"x": x})["scores"], run_clip(streaming(per_frame()), {"x": x})["scores"])


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"x": clip()[:, :, :5]}, "shape"),
        ({"x": clip().double()}, "dtype"),
        ({"x": clip(), "stream.clock": torch.zeros(1)}, "no such input"),
        ({"x": clip()[:0]}, "at least 1"),
        ({}, "is missing"),
    ],
)
def test_what_does_not_fit_is_said(wrong: dict[str, torch.Tensor], text: str) -> None:
    with pytest.raises(DataError) as error:
        run_clip(streaming(per_frame()), wrong)
    assert text in str(error.value)
    assert "relu.0" not in str(error.value)  # states are nobody's business


def test_resident_states_survive_a_file() -> None:
    program = streaming(per_frame(), threshold=0.3)
    again = load_program_bytes(save_program(program))
    assert again.interface == program.interface
    assert [state.resident for state in again.interface.states] == [True] * 4
    assert [value.name for value in again.interface.frame_inputs] == ["x"]
    assert [value.name for value in again.interface.frame_outputs] == ["scores"]
    x = clip()
    assert torch.equal(run_clip(again, {"x": x})["scores"], run_clip(program, {"x": x})["scores"])


def test_a_program_of_several_samples_a_call_has_no_clip() -> None:
    program = streaming(per_frame(symbolic=False))
    inputs = tuple(Value(one.name, (4, *one.shape[1:]), one.dtype) for one in program.interface.inputs)
    interface = replace(program.interface, inputs=inputs)
    with pytest.raises(DataError, match="fix the batch at 1"):
        Clip(replace(program, interface=interface))


def test_an_output_without_frames_must_not_change() -> None:
    class Sizes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x.sum((0, 1, 2, 3))

    exported = torch.export.export(Sizes(), (torch.zeros(1, 3, SIZE, SIZE),))
    program = Program.from_exported(exported, Provenance("Sizes", "torch", "0" * 64), batch=Batch(False, "a test"), input_names=["x"])
    edit = Edit(program)
    state = edit.add_state("before", edit.node("x"), resident=True)
    total = edit.call(torch.ops.aten.add.Tensor, (state, edit.node("x")), like=edit.nodes[0], before=edit.nodes[0])
    edit.write_state("before", total)
    still = clip(1).expand(3, -1, -1, -1)
    assert run_clip(edit.done(), {"x": still})["output_1"].shape == ()
    with pytest.raises(DataError, match="output_1"):
        run_clip(edit.done(), {"x": clip(3)})
