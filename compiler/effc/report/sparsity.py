"""What a report says of zeros: how magnitudes are spread, what quality they cost, what is predicted of kernels that skip them.

Every number is finite, so that `report.json` is JSON: what is not is None.
"""

from __future__ import annotations

from dataclasses import dataclass

from effc.errors import counted

__all__ = ["Magnitudes", "Prediction", "QualityCurve", "QualityPoint", "Spread"]

_UNITS = {
    "top1": "share of samples",
    "agreement": "share of samples",
    "kl": "nats",
    "max-error": "of the largest magnitude",
}


@dataclass(frozen=True)
class Spread:
    """The magnitudes of one value on calibration data.

    Attributes:
        density: share of elements that are not exactly zero.
        upper: where the last bin ends, in the value's own unit.
        shares: of equal bins from 0 to `upper`: the share of all elements in it. Zeros, and what is over `upper`, are in none.
    """

    density: float
    upper: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Magnitudes:
    """One value, and what stands behind it where that makes more of it zero.

    Attributes:
        name: the user's name.
        group: the block of layers that it belongs to; empty for none.
        before: the value; None where it was not observed.
        after: what a threshold or a top-k has left of it; None without one, and where that was not observed.
        threshold: the lowest and the highest threshold, of those that are finite; None where there is none.
    """

    name: str
    group: str
    before: Spread | None
    after: Spread | None = None
    threshold: tuple[float, float] | None = None

    @property
    def density(self) -> float:
        """Of what its readers get."""
        last = self.after or self.before
        return 1.0 if last is None else last.density

    @property
    def short(self) -> str:
        """The name within its group."""
        rest = self.name.removeprefix(self.group).lstrip("./") if self.group else ""
        return rest or self.name

    @property
    def words(self) -> str:
        """The drawing in words."""
        if self.before is not None and self.after is not None:
            said = f"density {self.before.density:.1%} → {self.after.density:.1%}"
        else:
            said = f"density {self.density:.1%}"
        if self.threshold is None:
            return said
        low, high = self.threshold
        return f"{said}, threshold {low:.4g}" if low == high else f"{said}, thresholds {low:.4g} to {high:.4g}"


@dataclass(frozen=True)
class QualityPoint:
    """One program that a search has tried.

    Attributes:
        level: the share of zeros that was asked for. density: the share of non-zeros that was measured.
        value: the metric there; None where it is NaN or infinite.
        uniform: whether every layer (or block) was asked for the same. kept: whether it is the program that was handed on.
    """

    level: float
    density: float
    value: float | None
    uniform: bool
    kept: bool = False

    @property
    def zeros(self) -> float:
        return 1.0 - self.density


@dataclass(frozen=True)
class QualityCurve:
    """Quality against sparsity, as one pass has measured it.

    Attributes:
        name: the pass with its options.
        metric: its name. before: its value before the pass; None where it is NaN or infinite.
        larger_is_better: whether the metric falls or rises where a program is worse.
        max_drop: the largest loss that was accepted; None for any.
        samples: how many samples each point was measured on.
        points: by rising level.
    """

    name: str
    metric: str
    before: float | None
    larger_is_better: bool
    max_drop: float | None
    samples: int
    points: tuple[QualityPoint, ...]

    @property
    def budget(self) -> float | None:
        """The worst value of the metric that was accepted; None for any."""
        if self.before is None or self.max_drop is None:
            return None
        return self.before - self.max_drop if self.larger_is_better else self.before + self.max_drop

    @property
    def label(self) -> str:
        """The metric with its unit."""
        unit = _UNITS.get(self.metric)
        return f"{self.metric} ({unit})" if unit else self.metric

    @property
    def loss_name(self) -> str:
        return "drop" if self.larger_is_better else "rise"

    def text(self, value: float | None) -> str:
        """A value of the metric for people."""
        if value is None:
            return "not finite"
        return f"{value:.4f}" if self.larger_is_better else f"{value:.4g}"

    def loss(self, point: QualityPoint) -> str:
        """How much worse a point is, for people; negative where it is better."""
        if point.value is None or self.before is None:
            return "–"
        lost = self.before - point.value if self.larger_is_better else point.value - self.before
        return self.text(lost if self.text(abs(lost)) != self.text(0.0) else 0.0)

    @property
    def summary(self) -> str:
        """What the search has found, in a sentence."""
        allowed = "any loss" if self.max_drop is None else f"a {self.loss_name} of {self.max_drop:g}"
        on = f"{self.metric} on {counted(self.samples, 'sample')} of --data that were held back, {allowed} accepted"
        kept = next((point for point in self.points if point.kept), None)
        if kept is None:
            return f"{on}."
        return f"{on}: kept {kept.zeros:.1%} zeros with {self.text(kept.value)}, from {self.text(self.before)}."


@dataclass(frozen=True)
class Prediction:
    """What the cost model says of a product's two kernels.

    Attributes:
        density: share of inputs that are not zero (`masked`: of what the result is multiplied by), as observed on data.
        read: share of the weights that a skipping kernel reads: those that any of the inputs of a call needs.
        weights: their bytes.
        skipping, dense: nanoseconds.
        skips: whether the compiled kernel skips.
    """

    density: float
    read: float
    weights: int
    skipping: float
    dense: float
    skips: bool

    @property
    def chosen(self) -> float:
        """Nanoseconds of the compiled kernel."""
        return self.skipping if self.skips else self.dense

    @property
    def other(self) -> str:
        """The kernel that was not taken, for people."""
        return f"dense {self.dense / 1000:,.1f}" if self.skips else f"skipping {self.skipping / 1000:,.1f}"
