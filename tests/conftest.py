"""Tests have a cache of their own: what was measured on the machine of a developer changes nothing here.

Hypothesis draws the same examples in every run: a change fails for what it changed. `pytest --hypothesis-profile=search` draws new ones.

As many workers run as there are processors: threads that spin while they wait would take the time of another worker's.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("search", settings.get_profile("default"), derandomize=False)
settings.register_profile("same", settings.get_profile("default"), derandomize=True)
settings.load_profile("same")

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded, which is after this


def pytest_collection_finish() -> None:
    """What all imports made stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    home = Path(before) if before else Path.home() / ".cache"
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(home / "zig"))  # its C libraries, which take it a minute to build
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before
