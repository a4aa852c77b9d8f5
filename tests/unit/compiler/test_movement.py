"""A lossy pass is measured on samples that its own data cannot have settled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from effc.compiler import compile_model


def test_bounds_move_held_out_outputs_and_not_those_they_come_from(tmp_path: Path) -> None:
    calibration, held_out = np.linspace(-1, 1, 60, dtype=np.float32).reshape(20, 3), np.full((90, 3), 4, np.float32)
    np.savez(tmp_path / "calib.npz", x=calibration)
    np.savez(tmp_path / "test.npz", x=held_out)
    chosen = {"passes": "eliminate-dead,ranger", "data": tmp_path / "calib.npz", "example_inputs": (torch.zeros(2, 3),)}
    blind = compile_model(nn.ReLU(), tmp_path / "blind", **chosen).report.passes
    assert [(entry.difference, entry.measured_on) for entry in blind] == [(0, "8 samples of --data")] * 2
    exact, lossy = compile_model(nn.ReLU(), tmp_path / "seen", eval=tmp_path / "test.npz", **chosen).report.passes
    assert (exact.difference, exact.measured_on) == (0, "8 samples of --data")
    assert (lossy.difference, lossy.measured_on) == (0.75, "64 samples of --eval")
    assert b"outputs moved by 7.5e-01 on 64 samples of --eval" in (tmp_path / "seen" / "report.html").read_bytes()


def test_without_data_the_samples_are_random(tmp_path: Path) -> None:
    [entry] = compile_model(nn.ReLU(), tmp_path / "out", passes="eliminate-dead", example_inputs=(torch.zeros(2, 3),)).report.passes
    assert entry.measured_on == "8 random samples"
