"""One exhaustive campaign for all tests that compare with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from effc.faultsim.campaign import Campaign
from tests.unit.faultsim.networks import STEM, run


@pytest.fixture(scope="session")
def exhaustive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Campaign]:
    """Every exponent and sign bit of the stem: 1,296 faults in 21 chunks."""
    folder = tmp_path_factory.mktemp("exhaustive") / "campaign"
    return folder, run(folder, {**STEM, "exhaustive": True})
