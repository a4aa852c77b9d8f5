"""Which of the kernel tests are slow: they compile hundreds of small networks.

`make test` tries every kernel on this machine's own vectors. The same tests for the narrower ones (AVX2), and the longest of the random and
exhaustive ones, run in `make test-all`. Besides: packages with targets of their own, for the tests of what they add.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.targets.extension_packages import Install, packages_on_the_path

_NARROW = "x86-64-v3"
_BOTH_WIDTHS = tuple(
    f"test_{one}" for one in ("winograd", "products", "attention_kernels", "pool_kernels", "depthwise_kernels", "integer_kernels")
)
_LONGEST = (
    "test_winograd.py::test_random_convolutions",
    "test_winograd.py::test_convolutions_of_every_shape[f4-cpu]",  # test_however_tiles_are_cut has its forms, one shape at a time
    "test_products.py::test_random_convolutions",
    "test_operator_meanings.py::test_nan_and_infinity_go_where_torch_lets_them_go[reduced]",
    "test_integer_kernels.py::test_sums_are_exact[words]",
    "test_integer_kernels.py::test_sums_are_exact[as it is]",
    "test_integer_kernels.py::test_sums_are_exact[words, 256 bits]",
    "test_integer_kernels.py::test_sums_are_exact[bytes, 256 bits]",
    "test_integer_kernels.py::test_sums_are_exact[plain, one lane]",
)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        narrow = _NARROW in item.name and item.path.stem in _BOTH_WIDTHS
        if narrow or item.nodeid.endswith(_LONGEST):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Declares packages that are found while the test runs."""
    folder = tmp_path / "site"
    folder.mkdir()
    with packages_on_the_path(folder) as function:
        yield function


@pytest.fixture
def toy(install: Install) -> str:
    """The example package's target."""
    install("toy-npu", value="effc_toy_npu:EXTENSION", package="effc-toy-npu", version="0.1")
    return "toy-npu"
