"""What effc can compile for: the table of targets, one module per family."""

from effc.targets.base import Target

__all__ = ["Target"]
