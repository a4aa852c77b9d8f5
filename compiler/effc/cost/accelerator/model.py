"""The model: each layer of a network on an accelerator, dense, skipping zeros, and skipping what did not change.

    cycles = max(computing, listing, waiting for DRAM), one layer after the other

`dense` takes all inputs. `zeros` leaves out those that are zero, `delta` those that are what they were in the frame before, as far as the
accelerator can: where it cannot, these modes cost what dense costs. (An event-driven array whose events are several channels takes them
together when it is dense, too.) Computing is counted by `systolic` or `event_driven`, waiting by
`memory`. Listing is the inputs of the network, and the results of layers, that are tested or compared, at the accelerator's rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effc.cost.accelerator.description import Accelerator
from effc.cost.accelerator.energy import energy
from effc.cost.accelerator.event_driven import Events, everything
from effc.cost.accelerator.memory import Residence, Traffic, event_traffic, residence, slices, stationary_traffic
from effc.cost.accelerator.product import Product
from effc.cost.accelerator.systolic import systolic
from effc.report.accelerator import AcceleratorLayer, ModeCost

__all__ = ["Counts", "model_layers"]


@dataclass(frozen=True)
class Counts:
    """What was counted on data for one layer, by mode (`zeros`, `delta`).

    Attributes:
        events: at the accelerator's granularity. single: of single inputs.
    """

    events: Mapping[str, Events]
    single: Mapping[str, Events]


def model_layers(products: Sequence[Product], accelerator: Accelerator, counts: Sequence[Counts]) -> list[AcceleratorLayer]:
    """The layers of a network, in order.

    Args:
        products: of the network.
        accelerator: what they run on.
        counts: one for each product; a mode that it does not have counts all inputs.
    """
    stays = residence(products, accelerator)
    return [_layer(product, accelerator, one, stays) for product, one in zip(products, counts, strict=True)]


def _layer(product: Product, accelerator: Accelerator, counts: Counts, stays: Residence) -> AcceleratorLayer:
    single = everything(product, accelerator)
    costs, balance, ideal = {}, {}, {"dense": single.macs}
    widest = max(accelerator.width("zeros") or 1, accelerator.width("changes") or 1)
    whole = single if widest == 1 else everything(product, accelerator, widest)
    for mode in ("dense", "zeros", "delta"):
        ideal[mode] = counts.single.get(mode, single).macs
        if not accelerator.is_event_driven:
            gated = mode == "zeros" and accelerator.width("zeros") is not None
            costs[mode] = _stationary(product, accelerator, stays, ideal[mode] if gated else float(product.macs))
            continue
        width = {"dense": None, "zeros": accelerator.width("zeros"), "delta": accelerator.width("changes")}[mode]
        if width is None:
            events, listed = whole, False
        else:
            events, listed = counts.events.get(mode) or everything(product, accelerator, width), True
        delta = listed and mode == "delta"
        costs[mode] = _event_driven(product, accelerator, stays, events, listed=listed, delta=delta, width=width or 1)
        balance[mode] = events.total / (events.cycles * accelerator.rows) if events.cycles else 1.0
    seen = {mode: one.share for mode, one in counts.single.items()}
    return AcceleratorLayer(
        name=product.name,
        op=product.op,
        groups=product.groups,
        rows=product.rows,
        depth=product.depth,
        columns=product.columns,
        macs=product.macs,
        nonzero=seen.get("zeros"),
        changed=seen.get("delta"),
        ideal=ideal,
        costs=costs,
        balance=balance,
    )


def _stationary(product: Product, accelerator: Accelerator, stays: Residence, multiplied: float) -> ModeCost:
    array = systolic(product, accelerator)
    traffic = stationary_traffic(product, array, accelerator, stays)
    return _cost(accelerator, traffic, computing=float(array.cycles), macs=float(product.macs), multiplied=multiplied)


def _event_driven(
    product: Product, accelerator: Accelerator, stays: Residence, events: Events, *, listed: bool, delta: bool, width: int
) -> ModeCost:
    traffic = event_traffic(product, events, accelerator, stays, listed=listed, delta=delta, width=width)
    made = events.touched if delta else product.results
    frame = product.inputs * slices(product, accelerator, stays, delta=delta) if product.first else 0
    compared = made + frame if listed else 0.0
    return _cost(
        accelerator,
        traffic,
        computing=events.cycles,
        macs=events.macs,
        multiplied=events.macs,
        entries=events.entries if listed else 0.0,
        compared=compared,
    )


def _cost(
    accelerator: Accelerator,
    traffic: Traffic,
    *,
    computing: float,
    macs: float,
    multiplied: float,
    entries: float = 0.0,
    compared: float = 0.0,
) -> ModeCost:
    listing = compared / accelerator.skipping.scan
    waiting = traffic.dram / accelerator.dram.bytes_per_second * accelerator.clock_hz
    cycles = max(computing, listing, waiting)
    return ModeCost(
        cycles=cycles,
        computing=computing,
        listing=listing,
        waiting=waiting,
        macs=macs,
        utilisation=macs / (cycles * accelerator.multipliers) if cycles else 0.0,
        sram_bytes=traffic.sram_read + traffic.sram_written,
        dram_bytes=traffic.dram,
        energy=energy(accelerator, macs=multiplied, traffic=traffic, entries=entries, compared=compared, cycles=cycles),
    )
