"""How reports write numbers and names. Names come from models: nothing in them is trusted, and what cannot be seen is replaced."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

from effc.faultsim.statistics.estimate import Estimate

__all__ = ["bare", "flattened", "hover", "interval", "number", "percent", "visible", "with_interval"]


def visible(content: str) -> str:
    """Control characters, line ends, text-direction marks and lone surrogates replaced; one line, and valid in UTF-8 and in XML."""
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in content)


def hover(content: str) -> str:
    """What an SVG element says under the pointer."""
    return f"<title>{html.escape(visible(content))}</title>"


def percent(share: float | None) -> str:
    """`1.276 %`; a dash for what was not measured."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.4g} %"


def interval(estimate: Estimate | None) -> str:
    """`1.117 to 1.435 %`."""
    if estimate is None or not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "no interval"
    return f"{_digits(100 * estimate.low)} to {_digits(100 * estimate.high)} %"


def with_interval(estimate: Estimate | None) -> str:
    """`1.276 % (1.117 to 1.435 %)`; a dash for what was not measured."""
    return "–" if estimate is None else f"{percent(estimate.value)} ({interval(estimate)})"


def bare(estimate: Estimate | None) -> str:
    """The value alone, in percent; a dash where nothing was measured."""
    return "–" if estimate is None else percent(estimate.value)


def number(value: float) -> str:
    """A value of a tensor: six digits; `inf`, `-inf`, `nan` as they are."""
    return f"{value:.6g}"


def flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (`outer.inner`, text), sorted by key on each level: a campaign's identity as a table. Lists are one value."""
    rows = []
    for name in sorted(values):
        value = values[name]
        if isinstance(value, Mapping) and value:
            rows += flattened(value, f"{prefix}{name}.")
        else:
            rows.append((visible(f"{prefix}{name}"), visible(_plain(value))))
    return rows


def _digits(value: float) -> str:
    """Four digits; two of what is near zero."""
    return f"{value:.4g}" if abs(value) >= 0.01 else f"{value:.2g}"


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value) or "–"
    return str(value)
