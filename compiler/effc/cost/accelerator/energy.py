"""Energy of a layer: what was counted, times what each costs in the accelerator's description.

    products   macs * mac
    memory     bytes read * sram-read + bytes written * sram-write
    outside    bytes to and from DRAM * dram
    lists      entries * event + inputs or results that are compared * compare
    idle       time * idle power

Picojoules. The smallest of them tend to be the products: that is why the bytes are counted.
"""

from __future__ import annotations

from effc.cost.accelerator.description import Accelerator
from effc.cost.accelerator.memory import Traffic
from effc.report.accelerator import EnergyParts

__all__ = ["energy"]


def energy(accelerator: Accelerator, *, macs: float, traffic: Traffic, entries: float, compared: float, cycles: float) -> EnergyParts:
    """Of one layer in one mode."""
    each = accelerator.energy
    return EnergyParts(
        products=macs * each.mac,
        memory=traffic.sram_read * each.sram_read + traffic.sram_written * each.sram_write,
        outside=traffic.dram * each.dram,
        lists=entries * each.event + compared * each.compare,
        idle=cycles / accelerator.clock_hz * each.idle_milliwatts * 1e9,  # a milliwatt is 1e9 pJ a second
    )
