"""Packages that add targets, laid out as pip leaves them, for tests that put them on this Python's path."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["TOY", "Install", "packages_on_the_path"]

TOY = Path(__file__).resolve().parents[2] / "example_target"  # the example's folder is importable as it lies there
_NUMBERS = itertools.count()

Install = Callable[..., str]  # (name, source, entry) -> the module's name


@contextmanager
def packages_on_the_path(folder: Path) -> Iterator[Install]:
    """Gives a function that installs a package of one module; what was imported from the folder is forgotten at the end."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    sys.path.insert(0, str(TOY))

    def install(name: str, source: str = "", *, value: str = "", package: str = "", version: str = "1.0") -> str:
        """Declare the entry point `name`; its module holds `source`, unless `value` says where the object is."""
        module = f"extension_of_a_test_{next(_NUMBERS)}"
        if source:
            (folder / f"{module}.py").write_text(source)
        info = folder / f"{(package or name).replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package or name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[effc.targets]\n{name} = {value or f'{module}:EXTENSION'}\n")
        importlib.invalidate_caches()
        return module

    try:
        yield install
    finally:
        sys.path.remove(str(folder))
        sys.path.remove(str(TOY))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith((str(folder), str(TOY))):
                del sys.modules[name]
