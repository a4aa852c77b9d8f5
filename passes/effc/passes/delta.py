"""Delta: turn a per-frame network into a streaming one, which computes only the pixels whose window changed.

    before: frame -> conv -> relu -> conv -> softmax
    after:  clock' = stream_clock(frame, frame_state, clock);  kept = truncate(frame, frame_state, clock')
            kept -> conv -> relu -> truncate(., state, clock') -> conv -> truncate(., state', clock') -> softmax
            frame_state' = kept, and likewise for each truncate

On video most of a frame is the frame before. The pass puts an `effc::truncate` behind the frame and behind every layer (`delta_sites`): a
pixel that moved by no more than a threshold (root mean square over its channels) keeps its old values, and what reads it does not change
there. The graph stays an ordinary dense one; compiled code computes the pixels that may have changed, and a frame whole where it is the
first one, where `refresh` asks for it, and where more than `scene_cut` of its pixels moved.

Modes:
- `exact`: all thresholds 0. Outputs are, bit for bit, those of the same compiled code computing every frame whole. Code that was compiled
  without the pass may use Winograd's algorithm where this cannot, and differs then by its rounding. Needs no data.
- `truncate`: DeltaCNN's rule. A threshold is a share of the largest magnitude of its tensor on the calibration clip: one share for all
  sites (`threshold`), or one for each, searched for under a bound on the output error (`max_error`; see `delta_search`) or a loss of the
  metric (`max_drop`: the searched levels times a common factor). At every pixel of every frame a kept tensor is within its threshold of
  what it was fed; the error of the outputs is measured, not promised.
- `quantised`: step * round(x / step) in front of truncates with a threshold of 0, as the Delta Activation Layer does. The result is that
  of the same code computing every frame whole, bit for bit. A layer that rounds already (trained with `effc.nn`'s delta activation) keeps
  its own steps; the others get them from the clip, 2 * level * largest magnitude, a channel or a layer (`per`), so that a level is the
  largest error of a value here, too. The frame is compared as it is: a camera has rounded it.

With data and a target, layers that are predicted not to gain stay dense (`effc.cost.streaming`; `dense=never` keeps all). A truncate
behind a dense layer lets what follows be sparse.

Does not fire, with a word in the log: behind reshapes, softmax over boxes, linear layers and global pools, which are computed densely;
operators that cannot be computed by pixels; a program that streams already. Recurrent layers are rewritten by `delta_recurrent`. Refused:
other networks without a single float32 image, and outputs without an axis of frames.

`--data` is a clip: `x` (T, ...) in frame order. The bound on the error holds on all of it. The metric is judged on its last fifth, which
the search does not look at then.

Facts: `change_rate` of a truncate is the share of its pixels that moved, that of a layer's result the share that had to be computed.

Papers: M. Parger et al., "DeltaCNN", CVPR 2022, arXiv 2203.03996, section 3. A. Yousefzadeh, M. Sifalakis, "Training for temporal sparsity
in deep neural networks, application in video processing" (Delta Activation Layer), arXiv 2107.07305, equation 2.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from effc.cost.streaming import STANDARD, StreamRates, choose, stream_rates
from effc.errors import DataError, EffcWarning, counted
from effc.ir import Program, ValueFacts
from effc.passes.base import Context, Pass
from effc.passes.delta_budget import within_drop
from effc.passes.delta_calibration import Calibration
from effc.passes.delta_insert import streaming_program
from effc.passes.delta_keeping import Rule
from effc.passes.delta_measured import Measured
from effc.passes.delta_movements import sliced
from effc.passes.delta_search import Levels, Search
from effc.passes.delta_sites import Network, find_network
from effc.passes.delta_work import predicted_times, works_of
from effc.passes.eliminate_dead import EliminateDead
from effc.passes.fold_batch_norm import FoldBatchNorm
from effc.passes.fold_constants import FoldConstants
from effc.passes.recurrent_fit import RecurrentRule, is_recurrent, stream_recurrent
from effc.passes.recurrent_sites import recurrent_sites

__all__ = ["Delta"]

_NOMINAL, _FEW = 0.05, 16  # bound on the error under which the levels are searched that `max_drop` scales; frames


@dataclass(frozen=True)
class Delta(Pass):
    """Compute only the pixels of a frame whose window changed.

    Attributes:
        mode: `exact`, `truncate` or `quantised`; the last two need one of the next three options and `--data`.
        threshold: one level for all sites, relative to the largest magnitude of each on the clip.
        max_error: searches a level for each site. Bound on the largest difference to the dense outputs over the frames after the first,
            relative to the largest magnitude of each output.
        max_drop: likewise, and scales the levels so that the metric falls by no more on the last fifth of the clip.
        margin: share of `max_error` that is left for frames that the clip does not show, in [0, 1): on the clip the rest is the bound.
        per: in mode `quantised`, one step a `channel` or a `layer`.
        refresh: frames after which one is computed whole; 0 for never.
        scene_cut: share of the frame's pixels, in [0, 1], above which it is computed whole when more moved.
        dense: `auto` leaves layers dense that are predicted not to gain, where a target and data are known; `never` none that can be
        sparse.
    """

    mode: Literal["exact", "truncate", "quantised"] = "exact"
    threshold: float | None = None
    max_error: float | None = None
    max_drop: float | None = None
    margin: float = 0.1
    per: Literal["channel", "layer"] = "channel"
    refresh: int = 0
    scene_cut: float = 0.6
    dense: Literal["auto", "never"] = "auto"

    name: ClassVar[str] = "delta"
    exact: ClassVar[bool] = False  # but in one mode
    after: ClassVar[tuple[type[Pass], ...]] = (EliminateDead, FoldConstants, FoldBatchNorm)

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.threshold, self.max_error, self.max_drop)]
        if self.mode == "exact" and any(given):
            raise ValueError("mode=exact takes no threshold, max-error or max-drop: give mode=truncate")
        if self.mode == "truncate" and sum(given) != 1:
            raise ValueError("mode=truncate takes one of threshold, max-error and max-drop")
        if sum(given) > 1:
            raise ValueError("give one of threshold, max-error and max-drop")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError("threshold must be between 0 and 1: it is relative to the largest magnitude")
        if self.max_error is not None and not self.max_error > 0:
            raise ValueError("max-error must be over 0; mode=exact has none")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise ValueError("max-drop must not be negative")
        if not 0 <= self.margin < 1:
            raise ValueError("margin must be at least 0 and below 1")
        if self.refresh < 0:
            raise ValueError("refresh must be a number of frames, or 0 for never")
        if not 0 <= self.scene_cut <= 1:
            raise ValueError("scene-cut must be between 0 and 1: a share of the pixels")

    @property
    def _level_given(self) -> bool:
        return self.threshold is not None or self.max_error is not None or self.max_drop is not None

    def requires(self, program: Program, context: Context) -> None:
        if self._level_given and context.fit is None:
            raise DataError(f"pass delta{{mode={self.mode}}} needs a calibration clip: give --data clip.npz with x (T, ...) in frame order")

    def run(self, program: Program, context: Context) -> Program:
        if program.interface.resident:
            context.log(self, program.provenance.source, False, "streams already")
            return program
        if is_recurrent(program):
            return self._recurrent(program, program, context)
        per_frame = sliced(program)
        network = find_network(per_frame)
        for node, why in network.left:
            context.log(self, node, False, why)
        if not any(layer.sparse for layer in network.layers):
            context.log(self, network.frame.label, False, "no layer of more than one pixel reads it")
            return program
        own_steps = [layer for layer in network.layers if layer.rounds]
        if self.mode == "quantised" and not self._level_given and not own_steps:
            raise DataError(
                "pass delta{mode=quantised}: no layer of this network rounds; give threshold, max-error or max-drop, and --data"
            )
        calibration = None
        if context.fit is not None:
            calibration = Calibration(per_frame, network, context.fit, self.mode == "quantised", self.per, self.scene_cut, self.refresh)
        result = self._stream(per_frame, network, calibration, context)
        return self._recurrent(result if result.interface.resident else program, program, context)

    def _stream(self, program: Program, network: Network, calibration: Calibration | None, context: Context) -> Program:
        works = works_of(network)
        kept = {work.name: True for work in works}
        levels: Levels = {}
        measured: Measured | None = None
        if calibration is not None:
            levels = self._levels(program, calibration, kept, context)
            measured = calibration.model.measure(calibration.rules(levels, kept))
            if self.dense == "auto" and context.target is not None:
                chosen = choose(works, calibration.shares(measured), _rates(context))
                if chosen != kept:
                    kept = chosen
                    levels = self._levels(program, calibration, kept, context, levels)
                    measured = calibration.model.measure(calibration.rules(levels, kept))
                if not measured.sparse:  # every frame was computed whole: nothing is left to gain
                    kept = dict.fromkeys(kept, False)
        rules = calibration.rules(levels, kept) if calibration is not None else {name: Rule() for name in (network.frame.node.name, *kept)}
        if not any(kept.values()):
            return self._nothing(program, network, calibration, measured, context)
        result, names = streaming_program(program, network, kept, rules, self.scene_cut, self.refresh)
        self._explain(network, calibration, rules, kept, measured, context)
        if calibration is None or measured is None:
            return result
        return result.with_facts(result.facts.with_values(_facts(calibration, measured, names)))

    def _recurrent(self, program: Program, reference: Program, context: Context) -> Program:
        """Recurrent layers on differences; `reference` is the program as it came."""
        sites = recurrent_sites(program)
        if self.mode != "truncate" or self.max_drop is not None:
            why = "stays dense: sums of differences are not bit for bit the layer's; mode=truncate with threshold or max-error rewrites it"
            for site in sites:
                context.log(self, site.node, False, why)
            return program
        if not sites:
            return program
        bound = None if self.max_error is None else self.max_error * (1 - self.margin)
        return stream_recurrent(
            self, program, reference, context, RecurrentRule(self.threshold, bound, self.refresh, self.dense == "never")
        )

    # ---- levels ----------------------------------------------------------------------------------------------------------------

    def _levels(
        self, program: Program, calibration: Calibration, kept: Mapping[str, bool], context: Context, before: Levels | None = None
    ) -> Levels:
        """Levels by the names of sites; `before` are those that were found with more layers kept."""
        names = calibration.tunable(kept)
        if not self._level_given:
            return {}
        if self.threshold is not None:
            return dict.fromkeys(names, self.threshold)
        if calibration.model.count < _FEW:
            warnings.warn(
                f"delta: levels are searched on a clip of {counted(calibration.model.count, 'frame')}, "
                "too short to show what a video does; give more to --data",
                EffcWarning,
                stacklevel=2,
            )
        bound, end = self.max_error, calibration.model.count
        if bound is None:
            bound, end = _NOMINAL, calibration.held_back.start
        with context.progress("delta: searching", Search.steps(len(names))) as advance:
            search = Search(
                calibration.part(end),
                calibration.window(kept, end),
                lambda levels: calibration.rules(levels, kept),
                calibration.works,
                kept,
                _rates(context),
                bound * (1 - self.margin),
                advance,
                chooses=self.dense == "auto" and context.target is not None,
            )
            if before is None:
                found = search.run(names).levels
            else:
                found = search.again({name: before[name] for name in names}).levels
        if self.max_error is not None:
            return found
        return within_drop(self, program, calibration, found, kept, self.max_drop or 0.0, context)

    # ---- words -----------------------------------------------------------------------------------------------------------------

    def _nothing(
        self, program: Program, network: Network, calibration: Calibration | None, measured: Measured | None, context: Context
    ) -> Program:
        predicted = self._predicted(network, calibration, measured, context)
        why = "stays dense: no layer of this network is predicted to gain on this clip"
        for layer in network.layers:
            context.log(self, layer.node, False, "; ".join(filter(None, (why, predicted.get(layer.node.name)))))
        warnings.warn(
            "delta: no layer is predicted to gain on this clip, so nothing streams; delta{dense=never} insists", EffcWarning, stacklevel=2
        )
        return program

    @staticmethod
    def _predicted(network: Network, calibration: Calibration | None, measured: Measured | None, context: Context) -> dict[str, str]:
        if calibration is None or measured is None:
            return {}
        return predicted_times(network, calibration.shares(measured), _rates(context))

    def _explain(
        self,
        network: Network,
        calibration: Calibration | None,
        rules: Mapping[str, Rule],
        kept: Mapping[str, bool],
        measured: Measured | None,
        context: Context,
    ) -> None:
        frame = network.frame
        moved = "" if measured is None else f"; {measured.moved[frame.node.name]:.1%} of its pixels moved a frame"
        refresh = f", whole every {counted(self.refresh, 'frame')}" if self.refresh else ""
        context.log(
            self, frame.label, True, f"{rules[frame.node.name].described}, whole when over {self.scene_cut:.0%} moved{refresh}{moved}"
        )
        if calibration is not None and measured is not None:
            computed = f"{calibration.computed(measured, kept):.1%} of the layers' multiply-accumulates computed a frame"
            seen = f"largest error of an output {measured.error:.3g} on {counted(calibration.model.count, 'frame')}"
            of = "" if context.target is None else f" with vectors of {context.target.lanes} float32 numbers"
            context.log(self, calibration.source, True, f"{computed}; {seen}; times are predicted for two cores{of}")
        predicted = self._predicted(network, calibration, measured, context)
        for layer in network.layers:
            name = layer.node.name
            sparse = layer.sparse and all(kept.get(one.name, True) for one in layer.reads)
            times = predicted.get(name, "")
            if not kept[name]:
                context.log(self, layer.node, False, f"stays dense; {times}" if layer.sparse else f"stays dense: {layer.why_dense}")
            elif sparse:
                context.log(self, layer.node, True, "; ".join(filter(None, (rules[name].described, times))))
            else:
                why = layer.why_dense or "something that it reads is dense"
                context.log(self, layer.node, True, f"{rules[name].described}, behind a dense layer: {why}")


def _rates(context: Context) -> StreamRates:
    return STANDARD if context.target is None else stream_rates(context.target.lanes)


def _facts(calibration: Calibration, measured: Measured, names: Mapping[str, str]) -> dict[str, ValueFacts]:
    """Of each kept site: what had to be computed at its layer, and what moved at its truncate."""
    found: dict[str, ValueFacts] = {}
    for name, kept in names.items():
        seen = calibration.model.seen[name].facts(calibration.model.count)
        if name in measured.active:
            found[name] = replace(seen, change_rate=measured.active[name])
        found[kept] = replace(seen, change_rate=measured.moved[name])
    return found
