"""Training inside a pass: what it minimises, that it is repeatable, and that it goes on where it was interrupted."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from effc.data import Dataset
from effc.errors import DataError
from effc.frontends import load_program
from effc.ir import Program
from effc.passes import Context, Ranger
from effc.passes.objective import Objective, _Form
from effc.passes.training import MONITOR, Course, _Batches, judge_for, train

_lightning = __import__("effc.ir.torch_compat", fromlist=["import_lightning"]).import_lightning()


@pytest.fixture(scope="module")
def network() -> Program:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    return load_program(layers.eval(), example_inputs=[torch.zeros(2, 6)])


def _data(network: Program, count: int = 70, labels: bool = True) -> Dataset:
    generator = np.random.default_rng(0)
    (key,) = (value.name for value in network.interface.inputs)
    x = generator.normal(size=(count, 6)).astype(np.float32)
    return Dataset({key: x}, generator.integers(0, 3, count) if labels else None)


def _train(network: Program, epochs: int = 3, checkpoints: Path | None = None, stop_at: int | None = None, seed: int = 0) -> list[Any]:
    class Stop(_lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == stop_at:
                raise KeyboardInterrupt

    fit, selection = _data(network).split(0.8, 0)
    context = Context(fit, selection, seed=seed, checkpoints=checkpoints)
    module = network.trainable("train").train()
    course = Course(epochs, lambda student: torch.optim.SGD(student.parameters(), 0.1, momentum=0.9), batch=16)
    train(Ranger(), network, module, context, course, judge_for(network, context), callbacks=[Stop()])
    assert not module.training
    return list(module.source_state().values())


def test_an_interrupted_training_goes_on_to_the_same_bits(network: Program, tmp_path: Path) -> None:
    whole, handler = _train(network), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on after the last whole epoch"):
        _train(network, checkpoints=tmp_path, stop_at=2)
    assert signal.getsignal(signal.SIGINT) is handler  # Lightning leaves it ignored
    assert [file.name for folder in tmp_path.iterdir() for file in folder.iterdir()] == ["last.ckpt"]
    resumed = _train(network, checkpoints=tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))
    assert not all(torch.equal(one, old) for one, old in zip(whole, network.tensors.values(), strict=True))


def test_a_checkpoint_of_another_training_is_not_taken_up(network: Program, tmp_path: Path) -> None:
    first = _train(network, checkpoints=tmp_path)
    other = _train(network, checkpoints=tmp_path, seed=1)
    assert len(list(tmp_path.iterdir())) == 2
    assert not torch.equal(first[0], other[0])
    again = _train(network, seed=1)
    assert all(torch.equal(one, two) for one, two in zip(other, again, strict=True))


def test_the_global_generator_is_left_as_it_was(network: Program) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    _train(network, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_training_that_diverges_is_no_error_of_the_data(network: Program) -> None:
    fit, selection = _data(network).split(0.8, 0)
    context = Context(fit, selection)
    module = network.trainable("frozen").train()
    course = Course(3, lambda student: torch.optim.SGD(student.parameters(), 1e30), batch=16)
    with pytest.raises(DataError, match=r"diverged in epoch \d.*lower the learning-rate"):
        train(Ranger(), network, module, context, course, judge_for(network, context))


def test_batches_are_drawn_without_replacement_and_differ_by_epoch() -> None:
    batches = _Batches(10, 4, None, 0)
    first = [row for batch in batches for row in batch]
    assert len(first) == len(set(first)) == 8  # the last two fill no batch
    batches.set_epoch(1)
    assert [row for batch in batches for row in batch] != first
    assert [len(batch) for batch in _Batches(10, 64, None, 0)] == [10]
    assert len(_Batches(100, 16, 40, 0)) == 2


def test_the_loss_is_cross_entropy_and_distillation(network: Program) -> None:
    data = _data(network)
    module = network.trainable("frozen")
    objective = Objective(network, data, "top1", cross_entropy=0.5, distil=2.0)
    rows = torch.tensor([3, 1, 8])
    assert data.labels is not None
    logits = network.call(torch.from_numpy(next(iter(data.inputs.values()))))[0].detach()[rows]
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()  # the student is the teacher
    expected = 0.5 * nn.functional.cross_entropy(logits, torch.from_numpy(data.labels)[rows]) + 2.0 * entropy
    torch.testing.assert_close(objective.loss(module, rows), expected)


def test_without_labels_the_loss_is_distillation_and_without_that_nothing(network: Program) -> None:
    data = _data(network, labels=False)
    logits = network.call(torch.from_numpy(next(iter(data.inputs.values()))))[0].detach()[:4]
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    found = Objective(network, data, "agreement", cross_entropy=1.0, distil=1.0).loss(network.trainable(), torch.arange(4))
    torch.testing.assert_close(found, entropy)
    with pytest.raises(DataError, match="nothing to train by"):
        Objective(network, data, "agreement", cross_entropy=1.0, distil=0.0)


def test_probabilities_are_not_softmaxed_again() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 3), nn.Softmax(1))
    program = load_program(layers.eval(), example_inputs=[torch.zeros(2, 6)])
    data = _data(program)
    assert data.labels is not None
    rows = torch.arange(5)
    p = program.call(torch.from_numpy(next(iter(data.inputs.values()))))[0].detach()[rows]
    expected = -(p * p.log()).sum(1).mean() - p[rows, torch.from_numpy(data.labels)[rows]].log().mean()
    torch.testing.assert_close(Objective(program, data, "top1", 1.0, 1.0).loss(program.trainable(), rows), expected)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_probabilities_of_any_precision(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 30), nn.Softmax(1)).to(kind)
    teacher = layers(torch.randn(50, 6, dtype=kind)).detach()
    form = _Form.of(teacher, scores=True)
    assert form.scores and form.probabilities
    assert not _Form.of(teacher.log(), scores=True).probabilities
    assert not _Form.of(teacher[:, :1], scores=True).scores


def test_wrong_labels_are_refused_before_training(network: Program) -> None:
    data = _data(network)
    assert data.labels is not None
    with pytest.raises(DataError, match="labels 0 to 9"):
        Objective(network, Dataset(data.inputs, np.append(data.labels[1:], 9)), "top1", 1.0, 1.0)
    with pytest.raises(DataError, match="shape"):
        Objective(network, Dataset(data.inputs, np.zeros((len(data), 2), np.int64)), "top1", 1.0, 1.0)


def test_the_metric_is_logged_for_callbacks(network: Program) -> None:
    seen = []

    class Look(_lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(float(trainer.callback_metrics[MONITOR]))

    fit, selection = _data(network).split(0.8, 0)
    context = Context(fit, selection)
    judge, module = judge_for(network, context), network.trainable("train").train()
    course = Course(2, lambda student: torch.optim.SGD(student.parameters(), 0.1), batch=16)
    train(Ranger(), network, module, context, course, judge, callbacks=[Look()])
    assert len(seen) == 2
    assert seen[-1] == pytest.approx(judge.value(module))
