"""What effc can compile for: the table of targets, one module per family."""

from __future__ import annotations

import difflib

from effc.errors import ConfigError
from effc.targets import cpu, microcontrollers
from effc.targets.base import C99, Target

__all__ = ["C99", "Target", "all_targets", "find_target"]


def all_targets() -> tuple[Target, ...]:
    """Every target that `--target` accepts, this machine first."""
    return (cpu.this_machine(), *cpu.named(), *microcontrollers.named())


def find_target(name: str) -> Target:
    """The target with this name. Raises ConfigError, naming the nearest one."""
    table = {target.name: target for target in all_targets()}
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ConfigError(f"there is no target {name!r}{hint}; targets: {', '.join(table)}")
