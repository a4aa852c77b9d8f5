"""The gate at the end: the metric of the source and of the result on held-out data, which nothing else has seen."""

from __future__ import annotations

from effc.compiler.golden import runner
from effc.compiler.settings import Settings
from effc.data import Dataset
from effc.errors import GateFailed
from effc.evaluate import compare, evaluate
from effc.ir import Program
from effc.passes.base import Progress
from effc.report import Quality

__all__ = ["judge"]


def judge(original: Program, final: Program, held_out: Dataset | None, settings: Settings, progress: Progress) -> Quality | None:
    """Compare the two on held-out data; None without any.

    Raises:
        GateFailed: the result is worse than the source by more than `max_drop`.
    """
    if held_out is None:
        return None
    metric = settings.metric or ("top1" if held_out.labels is not None else "agreement")
    with progress(f"evaluating {metric}", 2) as advance:
        source = runner(original)
        before = evaluate(source, held_out, metric, reference=source)
        advance(1)
        after = evaluate(runner(final), held_out, metric, reference=source)
        advance(1)
    difference = compare(before, after)
    quality = Quality(metric, len(held_out), before.value, after.value, difference.drop, difference.low, difference.high, settings.max_drop)
    if settings.max_drop is not None and not quality.drop <= settings.max_drop:
        raise GateFailed(
            f"{metric} on {quality.samples} held-out samples fell from {quality.before:.4f} to {quality.after:.4f}: a drop of "
            f"{quality.drop:.4f} (95 % interval {quality.low:.4f} to {quality.high:.4f}), over --max-drop {settings.max_drop:g}; "
            "nothing was written"
        )
    return quality
