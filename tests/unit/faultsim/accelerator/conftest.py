"""Small operators gain nothing from a second thread, and wait for it where the machine is busy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from effc.faultsim.workers import torch_threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield
