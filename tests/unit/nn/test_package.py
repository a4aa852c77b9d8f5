"""`effc.nn` starts light and offers what it lists."""

from __future__ import annotations

import subprocess
import sys

import effc.nn


def test_importing_the_package_imports_neither_torch_nor_lightning() -> None:
    script = "import sys, effc.nn; assert not {'torch', 'pytorch_lightning'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_listed_name_is_there() -> None:
    for name in effc.nn.__all__:
        assert getattr(effc.nn, name).__doc__
