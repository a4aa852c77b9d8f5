"""What effc can compile for: the table of targets, one module per family; and those that other packages add (`extensions`)."""

from __future__ import annotations

import difflib
import warnings

from effc.errors import ConfigError, EffcWarning, MissingDependencyError, Problem
from effc.targets import cpu, cuda, dsp, microcontrollers
from effc.targets.base import C99, CUDA, Origin, Package, Target
from effc.targets.extensions import GROUP, Extension, Found, installed

__all__ = [
    "C99",
    "CUDA",
    "Extension",
    "Found",
    "Origin",
    "Package",
    "Target",
    "all_targets",
    "extensions_found",
    "find_target",
    "known_target",
]


def all_targets() -> tuple[Target, ...]:
    """Every target of effc's own, this machine first."""
    return (cpu.this_machine(), *cpu.named(), *dsp.named(), *cuda.named(), *microcontrollers.named())


def extensions_found() -> tuple[Found, ...]:
    """What other packages add, with what is wrong with it; loads those packages."""
    return installed(all_targets())


def known_target(name: str) -> Target | None:
    """The target with this name, of effc's own or another package's; None where neither has it.

    Packages that add targets are loaded only where it is none of effc's own.

    Raises:
        MissingDependencyError: the package that adds it is broken.
    """
    own = next((target for target in all_targets() if target.name == name), None)
    if own is not None:
        return own
    found = extensions_found()
    for one in found:
        if one.fault and name in one.claims:
            raise MissingDependencyError(f"target {name} of package {one.package} cannot be used: {one.fault}: mend or update it")
    return next((target for one in found for target in one.targets if target.name == name), None)


def find_target(name: str, package: str = "") -> Target:
    """`known_target`, which must be there.

    Args:
        name: as after `--target`.
        package: name and version of the package that a configuration says the target came from; empty for effc's own.

    Raises:
        ConfigError: there is none; the message names the nearest one, or the package that is not installed.
        MissingDependencyError: the package that adds it is broken.
    """
    target = known_target(name)
    if target is not None:
        origin = target.origin
        if package and origin is not None and package != str(origin.package):
            text = f"target {name}: the configuration was made with {package}, installed is {origin.package}"
            warnings.warn(text, EffcWarning, stacklevel=2)
        return target
    if package:
        install = package.replace(" ", "==", 1)
        raise ConfigError(
            f"there is no target {name!r} here: it came from the package {package}, which is not installed; pip install {install}"
        )
    found = extensions_found()
    table = [target.name for target in (*all_targets(), *(target for one in found for target in one.targets))]
    family = f"{name.partition(':')[0]}:"  # the nearest GPU by spelling is another chip: all are named
    near = [one for one in table if one.startswith(family)] or difflib.get_close_matches(name, table, 1)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    broken = [Problem(str(one.package), one.name, one.fault, "if the target is its, mend or update it") for one in found if one.fault]
    more = f"; other packages add more (entry points {GROUP})" + ("" if near else f": if {name} is of one, install that")
    raise ConfigError(f"there is no target {name!r}{hint}; targets: {', '.join(table)}{more}", broken)
