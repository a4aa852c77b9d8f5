"""Tests have a cache of their own: what was measured on the machine of a developer changes nothing here.

Hypothesis draws the same examples in every run: a change fails for what it changed. `pytest --hypothesis-profile=search` draws new ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("search", settings.get_profile("default"), derandomize=False)
settings.register_profile("same", settings.get_profile("default"), derandomize=True)
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before
