"""Whether a program fits a microcontroller: its RAM and flash beside what there is of them."""

from __future__ import annotations

from collections.abc import Sequence

from effc.compiler.settings import Settings
from effc.errors import ConfigError, GateFailed, InconclusiveError, Problem
from effc.report import EstimateLayer, EstimateReport, span_text
from effc.targets import C99, Target

__all__ = ["over_budget", "refuse_budget"]

Span = tuple[int, int]  # least and most bytes
_SHOWN = 3  # steps that a message names


def refuse_budget(settings: Settings, target: Target) -> None:
    """Raises ConfigError for a budget of a target whose memory is not counted."""
    if target.family != C99 and (settings.max_ram is not None or settings.max_flash is not None):
        raise ConfigError(f"max-ram and max-flash are for targets that get C99 sources; {target.name} is none of them")


def over_budget(settings: Settings, found: EstimateReport) -> GateFailed | InconclusiveError | None:
    """What an estimate says against `max_ram` and `max_flash`: by how much a budget is missed, and what takes it.

    Returns:
        None where it keeps them. GateFailed where even the least is over one; InconclusiveError where only the most is: the sizes of code
        and stack decide then, and those are ranges.
    """
    kinds = (
        ("RAM", found.ram_bytes, settings.max_ram, _ram(found)),
        ("flash", found.flash_bytes, settings.max_flash, _flash(found)),
    )
    over, perhaps = [], []
    causes: list[Problem] = []
    for name, (least, most), budget, parts in kinds:
        if budget is None or most <= budget:
            continue
        if least > budget:
            over.append(f"{name} is over its budget of {budget:,} bytes by {span_text((least - budget, most - budget))}")
        else:
            perhaps.append(
                f"{name} may be over its budget of {budget:,} bytes by up to {most - budget:,}: it is {span_text((least, most))}"
            )
        causes += [Problem(name, f"{what}, {span_text(size)} bytes", why) for what, size, why in sorted(parts, key=_most_first) if size[1]]
    if over:
        return GateFailed("; ".join([*over, *perhaps]), causes)
    if perhaps:
        hint = "code and stack are ranges until a compiler has built the sources; a budget over the upper ends passes"
        return InconclusiveError(f"{'; '.join(perhaps)}; {hint}", causes)
    return None


def _ram(found: EstimateReport) -> list[tuple[str, Span, str]]:
    layers = found.layers
    peak = f"most of it in step {found.peak_step}, {layers[found.peak_step].name}" if layers else "no step uses it"
    return [
        ("arena", _exactly(found.arena_bytes), peak),
        ("states", _exactly(found.state_bytes), "kept from call to call"),
        ("inputs", _exactly(found.input_bytes), "the caller's"),
        ("outputs", _exactly(found.output_bytes), "the caller's"),
        ("stack", found.stack_bytes, "without interrupts"),
    ]


def _flash(found: EstimateReport) -> list[tuple[str, Span, str]]:
    return [
        ("weights", _exactly(found.weight_bytes), f"most of them {_largest(found.layers)}"),
        ("code", found.code_bytes, "kernels, calls and constants"),
        ("the compiler's arithmetic", found.library_bytes, "in software"),
    ]


def _largest(layers: Sequence[EstimateLayer]) -> str:
    by_weights = sorted((layer for layer in layers if layer.weight_bytes), key=lambda layer: -layer.weight_bytes)
    return ", ".join(f"{layer.weight_bytes:,} in {layer.name.split(', ')[0]}" for layer in by_weights[:_SHOWN]) or "in no step"


def _exactly(count: int) -> Span:
    return count, count


def _most_first(part: tuple[str, Span, str]) -> int:
    return -part[1][1]
