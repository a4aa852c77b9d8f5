"""Accuracy at rates in memory: the very numbers of a campaign, draw by draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from effc.data import Dataset
from effc.errors import ConfigError, DataError
from effc.faultsim import rate_accuracy, run_campaign, spec_of
from tests.unit.faultsim.networks import digits, digits_data, program, samples


@pytest.mark.parametrize(("view", "where"), [("stored", ("parameters",)), ("q15.16", ("weight", "activation"))])
def test_it_is_the_campaigns_accuracy_draw_by_draw(tmp_path: Path, view: str, where: tuple[str, ...]) -> None:
    rates, data = (3e-4, 1e-5), digits_data(24)
    spec = spec_of({"rates": rates, "draws": 7, "seed": 5, "batch": 16, "view": view, "where": where})
    campaign = run_campaign(digits(), data, spec, tmp_path)
    expected = {
        group.rate: [record.correct / record.inferences for record in records]
        for group, records in zip(campaign.design.groups, campaign.results, strict=True)
    }
    done: list[int] = []
    found = rate_accuracy(digits().program, data, rates, 7, where=where, view=view, seed=5, batch=16, advance=done.append)
    assert found.tolist() == [expected[rate] for rate in rates]
    assert len({*found.ravel()}) > 3  # not all alike
    assert sum(done) == 14
    assert np.array_equal(rate_accuracy(digits().program, data, rates[1:], 3, where=where, view=view, seed=5, batch=16), found[1:, :3])


def test_rate_zero_is_the_clean_accuracy_and_labels_are_needed() -> None:
    data, network = samples(8), program("residual")
    scores = network.call(torch.from_numpy(data.inputs["x"]))[0]
    assert data.labels is not None
    clean = float((scores.argmax(1).numpy() == data.labels).mean())
    assert rate_accuracy(network, data, (0.0,), 3).tolist() == [[clean] * 3]
    with pytest.raises(DataError, match="no labels"):
        rate_accuracy(network, Dataset(data.inputs, None), (1e-3,), 2)
    with pytest.raises(ConfigError, match="campaign is not understood"):
        rate_accuracy(network, data, (1.5,), 2)
