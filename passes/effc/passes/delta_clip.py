"""A network on a clip, truncated as asked: what is computed in each layer, and how far the outputs are from the dense ones.

What is kept at a site depends on earlier frames of that site alone. So many frames go through the network together, layer by layer, and
only the comparison with what was kept goes from frame to frame. The result is that of `effc::truncate` and `effc::stream_clock`, to the
rounding of sums. A run can be stopped in front of a site and go on several times from there, with another rule each (`Run.copy`): a search
that changes one site computes only what is behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from effc.errors import DataError
from effc.ir import Program
from effc.passes.delta_keeping import Rule, keep, keep_frame
from effc.passes.delta_measured import Measured, Part
from effc.passes.delta_sites import Network
from effc.passes.delta_windows import active_pixels
from effc.passes.profiling import Seen

__all__ = ["ClipModel", "Rules", "Run"]

Rules = Mapping[str, Rule]

_BYTES = 2 * 2**30  # of the frames that go through the network together
_COPIES = 4  # of the largest value that are in memory at once
_TINY = float(np.finfo(np.float32).tiny)


class _Frames(list[Any]):
    """What was computed frame by frame, one value a frame. A plain list is the result of one operator, such as a split."""


class ClipModel:
    """A program on a clip.

    Attributes:
        network: its frame and layers.
        count: frames of the clip.
        chunk: how many of them go through together.
        largest: the largest magnitudes of the channels of each site in the dense run, by its name: (C,).
        seen: extremes and density of each site, likewise.
        scales: the largest magnitude of each output.
    """

    def __init__(
        self,
        program: Program,
        network: Network,
        frames: Tensor,
        scene_cut: float,
        refresh: int,
        scales: Sequence[float] = (),
    ) -> None:
        """Run the dense program.

        Args:
            program: per frame; its batch is symbolic, or one.
            network: what `find_network` says of it.
            frames: the clip as the program's input takes it: (T, ...).
            scene_cut, refresh: of `effc::stream_clock`.
            scales: what errors are relative to, for each output; from this clip where absent.

        Raises:
            DataError: an output is NaN or infinite.
        """
        self.network, self.frames, self.count = network, frames, len(frames)
        self.scene_cut, self.refresh = scene_cut, refresh
        self.layers = network.by_name
        self.batched = program.interface.batch.symbolic
        self.input = program.input_nodes[network.frame.input]
        self.constants = _constants(program, self.input)
        self.images = {node for layer in network.layers for node in layer.nodes if self._takes_images(node)}
        self.nodes = [node for node in program.nodes if node not in self.constants]
        given = list(program.graph.output_node().args[0])  # type: ignore[arg-type]
        self.results = [one for one in given if isinstance(one, fx.Node) and one not in self.constants]
        self.last_use = {one: place for place, node in enumerate(self.nodes) for one in node.all_input_nodes}
        for one in self.results:
            self.last_use.pop(one, None)
        sizes = [int(node.meta["val"][0].numel()) for node in (network.frame.node, *(layer.node for layer in network.layers))]
        self.chunk = max(2, min(self.count, _BYTES // (4 * _COPIES * max(sizes))))
        self.largest: dict[str, Tensor] = {}
        self.seen: dict[str, Seen] = {}
        self.dense: list[list[Tensor]] = []
        for run in self._runs(None):
            run.finish()
            self.dense.append(run.outputs())
        if not all(bool(torch.isfinite(one).all()) for part in self.dense for one in part):
            raise DataError("an output is NaN or infinite on the calibration clip: no threshold can be judged there")
        self.scales = list(scales) or [
            max(_TINY, *(float(part[index].abs().max()) for part in self.dense)) for index in range(len(self.results))
        ]

    def _takes_images(self, node: fx.Node) -> bool:
        """Whether many frames go through a node together: all that it reads is (N, C, H, W), or the same for all frames."""
        values = [one.meta["val"] for one in node.all_input_nodes if one not in self.constants]
        return all(isinstance(value, Tensor) and value.ndim == 4 for value in values)

    def start(self, rules: Rules) -> Run:
        """A run of the first `chunk` frames, with nothing computed yet."""
        return Run(self, 0, rules, None)

    def measure(self, rules: Rules) -> Measured:
        """A run of the whole clip. `rules`: by the names of sites; a site without one is not truncated. The frame has one always."""
        runs = []
        for run in self._runs(rules):
            run.finish()
            run.drop()
            runs.append(run)
        return Part.together([run.seen for run in runs])

    def _runs(self, rules: Rules | None) -> Iterator[Run]:
        before = None
        for start in range(0, self.count, self.chunk):
            before = Run(self, start, rules, before)
            yield before


class Run:
    """Some frames on their way through the network."""

    def __init__(self, model: ClipModel, start: int, rules: Rules | None, before: Run | None) -> None:
        """Begin with the frames from `start` on.

        Args:
            model: the network and the clip.
            start: the first frame.
            rules: by the names of sites; None computes everything densely and notes the largest magnitudes.
            before: the run of the frames in front of these; None at a reset.
        """
        self.model, self.start, self.rules, self.place = model, start, rules, 0
        self.number = min(model.chunk, model.count - start)
        self.kept: dict[str, Tensor] = {}  # of each site in the last frame, by pixels
        self._before = {} if before is None else before.kept
        self.clock: int = 0 if before is None else before.clock
        self.seen = Part(self.number, len(model.results))
        self._masks: dict[fx.Node, Tensor | None] = {}
        self._values: dict[fx.Node, Any] = {model.input: model.frames[start : start + self.number]}
        if model.network.frame.node is model.input:
            self._keep(model.input)

    def copy(self) -> Run:
        """A run that goes on from here on its own."""
        other = Run.__new__(Run)
        other.__dict__ |= {name: dict(value) if isinstance(value, dict) else value for name, value in self.__dict__.items()}
        other.seen = self.seen.copy()
        return other

    def until(self, name: str) -> None:
        """Compute what stands in front of a site's end."""
        while self.place < len(self.model.nodes) and self.model.nodes[self.place].name != name:
            self._step()

    def finish(self) -> None:
        """Compute the rest, and compare the outputs with the dense ones."""
        with torch.no_grad():
            while self.place < len(self.model.nodes):
                self._step()
            if self.rules is not None:
                expected = self.model.dense[self.start // self.model.chunk]
                for index, (got, want) in enumerate(zip(self.outputs(), expected, strict=True)):
                    self.seen.compare(index, got, want, self.model.scales[index])

    def outputs(self) -> list[Tensor]:
        """The outputs that depend on the frame."""
        return [_joined(self._values[node]) for node in self.model.results]

    def drop(self) -> None:
        """Forget all values but those that the next frames are compared with."""
        self._values, self._masks = {}, {}

    @property
    def measured(self) -> Measured:
        """What was seen in these frames."""
        return Part.together([self.seen])

    # ---- one node --------------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        model, node = self.model, self.model.nodes[self.place]
        with torch.no_grad():
            self._values[node] = self._computed(node)
            if node.name in model.layers or node is model.network.frame.node:
                self._keep(node)
        for one in (*node.all_input_nodes, node):
            if model.last_use.get(one, -1 if one not in model.results else len(model.nodes)) <= self.place:
                self._values.pop(one, None)
        self.place += 1

    def _computed(self, node: fx.Node) -> Any:
        def value(one: fx.Node, frame: int | None = None) -> Any:
            if one in self.model.constants:
                return self.model.constants[one]
            held = self._values[one]
            if frame is None:
                return _joined(held)
            if isinstance(held, _Frames):
                return held[frame]
            return tree_map(lambda part: part[frame : frame + 1] if isinstance(part, Tensor) else part, held)

        if self.model.batched or node in self.model.images or node is self.model.network.frame.node:
            return _call(node, *fx.map_arg((node.args, node.kwargs), value))
        return _Frames(_call(node, *fx.map_arg((node.args, node.kwargs), partial(value, frame=t))) for t in range(self.number))

    def _keep(self, node: fx.Node) -> None:
        model = self.model
        image = _joined(self._values[node]).contiguous(memory_format=torch.channels_last)
        if self.rules is None:
            magnitude = image.abs().amax((0, 2, 3))
            model.largest[node.name] = torch.maximum(magnitude, model.largest.get(node.name, magnitude))
            model.seen.setdefault(node.name, Seen()).see(image)
            self._values[node] = image
            return
        before = self._before.get(node.name)
        if node is model.network.frame.node:
            rule = self.rules.get(node.name, Rule())
            kept, moved, self.seen.whole, self.clock = keep_frame(image, rule, before, self.clock, model.scene_cut, model.refresh)
        else:
            active = active_pixels(model.layers[node.name], self._masks, model.constants)
            self.seen.active[node.name] = self.seen.share(active)
            if node.name not in self.rules:
                self._values[node], self._masks[node] = image, None
                return
            kept, moved = keep(image, self.rules[node.name], before, active, self.seen.whole)
        self.kept[node.name] = kept[-1:].clone()
        self.seen.moved[node.name] = self.seen.share(moved)
        self._values[node], self._masks[node] = kept, moved


def _call(node: fx.Node, args: Any, kwargs: Any) -> Any:
    schema = getattr(node.target, "_schema", None)
    if schema is not None and schema.is_mutable:  # another run may go on from the value that it would change
        args = tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, args)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _joined(value: Any) -> Any:
    """What was computed frame by frame, as if it had been computed at once: tensors, or lists and tuples of them."""
    return tree_map(_together, *value) if isinstance(value, _Frames) else value


def _together(*parts: Any) -> Any:
    if not isinstance(parts[0], Tensor):
        return parts[0]
    return torch.cat(parts) if parts[0].ndim else torch.stack(parts)


def _constants(program: Program, given: fx.Node) -> dict[fx.Node, Any]:
    """The values of all nodes that are the same for all frames."""
    found: dict[fx.Node, Any] = {node: program.tensors[node.name] for node in program.graph.nodes if node.name in program.tensors}
    dependent = {given}
    with torch.no_grad():
        for node in program.nodes:
            if any(one in dependent for one in node.all_input_nodes):
                dependent.add(node)
            else:
                found[node] = _call(node, *fx.map_arg((node.args, node.kwargs), found.__getitem__))
    return found
