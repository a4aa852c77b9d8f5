"""Measured rates: the fit, the file, and who reads it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from effc.errors import ConfigError, EffcWarning
from effc.lowering import measuring
from effc.lowering.chip import processor
from effc.lowering.measuring import fitted, remember, with_rates
from effc.runtime.threads import available_threads
from effc.targets import find_target
from effc.targets.rates import STANDARD, Level, Rates, dump_rates, load_rates

CPU = find_target("cpu")
RATES = Rates(Level(25.0, 27.5, 40.0), Level(100.0, 120.0, 2.0), 0.75, 3)


def test_the_fit_finds_the_factors_and_none_is_negative() -> None:
    terms = [(depth, read, read * 4 * columns) for depth, columns in ((100, 64), (800, 16)) for read in (0, depth // 2, depth)]
    times = [1.5 * inputs + 40.0 * rows + 0.04 * size for inputs, rows, size in terms]
    assert fitted(terms, times) == pytest.approx((1.5, 40.0, 0.04))
    assert min(fitted(terms, [1.5 * inputs + 0.04 * size - 0.001 * rows for inputs, rows, size in terms])) >= 0.0


def test_a_file_gives_back_what_was_written_and_only_for_its_processor(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text(dump_rates(RATES, processor(CPU)))
    assert with_rates(CPU, path).rates == RATES
    with pytest.raises(ConfigError, match="another processor"):
        load_rates(path, "another")
    for broken in (
        "",
        "[]",
        "{}",
        path.read_text().replace("27.5", '"fast"'),
        path.read_text().replace("27.5", "0"),
        path.read_text().replace("25.0", "-1"),
    ):
        path.write_text(broken)
        with pytest.raises(ConfigError, match="is no file of measured rates"):
            load_rates(path, processor(CPU))
    with pytest.raises(ConfigError, match="No such file"):
        load_rates(tmp_path / "missing", processor(CPU))


def test_what_was_measured_is_used_on_this_machine_with_as_many_threads_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert with_rates(CPU, None).rates is STANDARD
    own = replace(RATES, threads=available_threads())
    path = remember(own, CPU)
    assert json.loads(path.read_text())["processor"] == processor(CPU)
    assert with_rates(CPU, None).rates == own
    assert with_rates(find_target("x86-64-v3"), None).rates is STANDARD
    remember(replace(RATES, threads=own.threads + 1), CPU)
    assert with_rates(CPU, None).rates == own
    path.write_text("broken")
    assert with_rates(CPU, None).rates is STANDARD


def test_measuring_runs_both_kernels_and_gives_plausible_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """With tiny products: what is shown is that everything runs and fits, not how fast this machine is."""
    for name, value in {"_MEMORY": ((64, 512), (96, 64)), "_CACHE": ((16, 128), (32, 64)), "_COPIES": 1 << 18, "_RUNS": 6}.items():
        monkeypatch.setattr(measuring, name, value)
    done: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EffcWarning)  # times of microseconds scatter
        rates = measuring.measure(CPU, 1, done.append)
    assert done == [1] * 4
    assert rates.threads == 1
    for level in (rates.memory, rates.cache):
        assert 0 < level.skipping <= level.dense
        assert level.start >= 0


def test_a_scatter_of_times_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_MEMORY": ((8, 16),), "_CACHE": ((8, 16),), "_COPIES": 0, "_RUNS": 5, "_SCATTER": -1.0}.items():
        monkeypatch.setattr(measuring, name, value)
    with pytest.warns(EffcWarning, match="measure again when the machine is idle"):
        measuring.measure(CPU, 1)
