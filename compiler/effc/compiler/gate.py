"""The gate at the end: the metric of the source and of the result on held-out data, which nothing else has seen.

With a bound (`--max-drop`) there are three verdicts. Missed: the measured drop is over the bound. Passed: the whole 95 % interval of the
drop is at or under it. Inconclusive: the measured drop is within the bound, but so few samples cannot tell it from one that is not.
Where no pass may change outputs there is nothing to estimate: each was compared with what it replaced, and the measured drop alone decides.
"""

from __future__ import annotations

import math
import warnings

from effc.compiler.golden import runner
from effc.compiler.settings import Settings
from effc.data import Dataset
from effc.errors import EffcWarning, GateFailed, InconclusiveError, counted
from effc.evaluate import Score, compare, evaluate, own_metric, samples_needed
from effc.ir import Program
from effc.passes.base import Progress
from effc.report import Quality

__all__ = ["judge"]

_ROUNDING = 1e-12  # 5 of 500 samples are a drop of 0.01 and not 0.010000000000000009


def judge(
    original: Program, final: Program, held_out: Dataset | None, settings: Settings, progress: Progress, *, lossy: bool
) -> Quality | None:
    """Compare the two on held-out data; None without any.

    Args:
        original, final: the source and the result.
        held_out: what to judge by.
        settings: the metric and `max_drop`.
        progress: shows the two evaluations.
        lossy: whether a pass that may change outputs ran.

    Raises:
        GateFailed: the result is worse than the source by more than `max_drop`.
        InconclusiveError: it is not, but the interval of its drop reaches over `max_drop`.
    """
    if held_out is None:
        return None
    own = "top1" if held_out.labels is not None else own_metric(original.interface.outputs[0].shape, None)
    metric = settings.metric or own
    with progress(f"evaluating {metric}", 2) as advance:
        # Each evaluation with runners of its own: one of a streaming program goes on where it ended, and a clip is run once.
        before = evaluate(runner(original), held_out, metric, reference=runner(original))
        advance(1)
        after = evaluate(runner(final), held_out, metric, reference=runner(original))
        advance(1)
    found = compare(before, after)
    low, high = (found.low, found.high) if math.isfinite(found.high) else (None, None)
    drop, allowed = found.drop, settings.max_drop
    quality = Quality(metric, len(held_out), before.value, after.value, drop, low, high, allowed, found.changed, before.larger_is_better)
    if metric == "top1" and before.value == 0:
        warnings.warn(
            f"top1 of the source is 0 on {counted(len(held_out), 'sample')}: labels, their order or the preprocessing do not fit the model",
            EffcWarning,
            stacklevel=2,
        )
    if allowed is not None:
        _hold(quality, allowed, before, after, lossy)
    return quality


def _hold(quality: Quality, allowed: float, before: Score, after: Score, lossy: bool) -> None:
    verb = "fell" if quality.larger_is_better else "rose"
    samples = counted(quality.samples, "held-out sample")
    if not quality.drop <= allowed + _ROUNDING:
        raise GateFailed(
            f"{quality.metric} on {samples} {verb} from {quality.text(quality.before)} to {quality.text(quality.after)}, by "
            f"{quality.text(quality.drop)} (95 % interval: {quality.interval}; {quality.movement}), over --max-drop {allowed:g}; "
            "nothing was written"
        )
    if lossy and (quality.high is None or quality.high > allowed + _ROUNDING):
        needed = samples_needed(before, after, allowed)
        if needed is not None:
            more = f"About {_rounded(needed)} samples that behave like these would decide: give more to --eval"
        elif quality.high is None:
            more = "An interval takes two samples or more: give more to --eval"
        else:
            more = "No number of samples decides against a bound that is the measured value itself"
        raise InconclusiveError(
            f"{samples} cannot tell whether {quality.metric} {verb} by more than --max-drop {allowed:g}: measured "
            f"{quality.text(quality.drop)}, 95 % interval: {quality.interval}; {quality.movement}. {more}. Or raise --max-drop, or "
            "leave it out, which reports and does not judge; nothing was written"
        )


def _rounded(count: int) -> str:
    """Two digits, rounded up."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return f"{math.ceil(count / unit) * unit:,}"
