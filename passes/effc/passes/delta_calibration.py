"""A network on its calibration clip: what levels are relative to, what a level means at each site, and the frames to search on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from effc.data import Dataset
from effc.errors import DataError
from effc.ir import Program
from effc.ir.arrays import to_torch
from effc.passes.delta_clip import ClipModel
from effc.passes.delta_keeping import Rule
from effc.passes.delta_measured import Measured
from effc.passes.delta_sites import Network
from effc.passes.delta_work import works_of

__all__ = ["Calibration"]

_MACS = 8 * 10**9  # multiply-accumulates of one dense run over the frames that a search looks at
_WINDOW, _SHORTEST = 64, 20  # frames that it looks at
_SEARCHED = 0.8  # share of the clip, from its beginning, in which they lie where the rest is for judging
_TYPICAL = 0.005  # level that shows which frames are hard
_FAINTEST = 1 / 16  # magnitude of a channel, relative to that of its layer, from which its own counts
_DIGITS = 4


class Calibration:
    """See the module docstring.

    Attributes:
        network: its frame and layers.
        model: it on the whole clip.
        works: what its layers cost.
        scene_cut, refresh: of the clock.
        source: what messages call the program.
    """

    def __init__(
        self,
        program: Program,
        network: Network,
        data: Dataset,
        quantised: bool,
        per: Literal["channel", "layer"],
        scene_cut: float,
        refresh: int,
    ) -> None:
        """Run the dense network on the clip.

        Args:
            program, network: what is calibrated.
            data: frames in order.
            quantised: whether a level is half a step of a rounding; else it is a threshold.
            per: one step for each channel, or one for the layer.
            scene_cut, refresh: of the clock.

        Raises:
            DataError: the clip has fewer than two frames, or an output on it is NaN or infinite.
        """
        self._program, self._quantised, self._per = program, quantised, per
        self.network, self.scene_cut, self.refresh = network, scene_cut, refresh
        self._frames = to_torch(data.inputs[network.frame.input])
        if len(self._frames) < 2:
            raise DataError("pass delta needs a clip of at least two frames: x (T, ...) in frame order")
        self.works, self.source = works_of(network), program.provenance.source
        self.model = ClipModel(program, network, self._frames, scene_cut, refresh)

    @property
    def held_back(self) -> slice:
        """The frames at the end on which a metric is judged: no search looks at them then."""
        return slice(min(self.model.count - 1, max(1, round(self.model.count * _SEARCHED))), self.model.count)

    def tunable(self, kept: Mapping[str, bool]) -> list[str]:
        """The sites at which a level saves something, in order: a layer by pixels reads them, and they do not round already."""
        read = {one.name for layer in self.network.layers if layer.sparse and kept[layer.node.name] for one in layer.reads}
        rounds = {layer.node.name for layer in self.network.layers if self._quantised and layer.rounds}
        names = [self.network.frame.node.name, *(layer.node.name for layer in self.network.layers if kept[layer.node.name])]
        return [name for name in names if name in read and name not in rounds]

    def rules(self, levels: Mapping[str, float], kept: Mapping[str, bool]) -> dict[str, Rule]:
        """What happens at the frame and at the layers that are kept; nothing is truncated where there is no level."""
        names = [self.network.frame.node.name, *(name for name, one in kept.items() if one)]
        return {name: self._rule(name, levels.get(name, 0.0)) for name in names}

    def _rule(self, name: str, level: float) -> Rule:
        magnitudes = self.model.largest[name]
        largest = float(magnitudes.max())
        if level == 0 or largest == 0 or (self._quantised and name == self.network.frame.node.name):
            return Rule()  # a frame comes from a camera that has rounded it
        if not self._quantised:
            return Rule(_short(level * largest))
        # A channel that is next to 0 on the whole clip would get a step for its noise.
        own = magnitudes.clamp(min=largest * _FAINTEST) if self._per == "channel" else magnitudes.new_full((1,), largest)
        steps = own * (2 * level)
        return Rule(0.0, torch.tensor([_short(float(step)) for step in steps]).reshape(-1, 1, 1))

    def computed(self, measured: Measured, kept: Mapping[str, bool]) -> float:
        """The share of all multiply-accumulates of the layers that is computed in a frame that is not whole."""
        shares = self.shares(measured)
        total = sum(work.macs for work in self.works)
        return sum(work.macs * (shares[work.name] if kept[work.name] else 1.0) for work in self.works) / total if total else 1.0

    def shares(self, measured: Measured) -> Mapping[str, float]:
        """The shares of pixels that must be computed; everything where each frame of the clip was computed whole."""
        return measured.active if measured.sparse else dict.fromkeys(measured.active, 1.0)

    def part(self, end: int) -> ClipModel:
        """The network on the frames in front of `end`."""
        if end == self.model.count:
            return self.model
        return ClipModel(self._program, self.network, self._frames[:end], self.scene_cut, self.refresh, scales=self.model.scales)

    def window(self, kept: Mapping[str, bool], end: int) -> ClipModel:
        """The network on the frames to search on: the part of the clip with the largest typical errors.

        Args:
            kept: which layers have a truncate.
            end: the frame behind the last one to look at.
        """
        macs = max(1, sum(work.macs for work in self.works))
        length = min(end, self.model.chunk, _WINDOW, max(_SHORTEST, _MACS // macs))
        if length == self.model.count:
            return self.model
        first = 0
        if length < end:
            powers = self.model.measure(self.rules(dict.fromkeys(self.tunable(kept), _TYPICAL), kept)).powers[:end].sum(1)
            first = int(np.convolve(powers, np.ones(length), "valid").argmax())
        frames = self._frames[first : first + length]
        return ClipModel(self._program, self.network, frames, self.scene_cut, self.refresh, scales=self.model.scales)


def _short(value: float) -> float:
    """A number of few digits, so that a graph's text can be read."""
    return float(f"{value:.{_DIGITS}g}")
