"""What a token reads of a network's weights, and the networks that read as little by chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from effc.ir import Program
from effc.passes.linear_sites import is_rotation, leads_to_layers, linear_sites
from effc.passes.mlp_patterns import mlps
from effc.passes.profiling import Seen, Watch

__all__ = ["RandomMasks", "Read", "read_by_a_token"]


@dataclass(frozen=True)
class Read:
    """What a token reads of a program's weights, as shares of the dense program's bytes.

    Attributes:
        layers: of the linear layers but the head; rotations that a pass has added are among what is read.
        whole: of everything: with the head, the norms, the thresholds and a row of the embedding, which are read in full.
    """

    layers: float
    whole: float


def read_by_a_token(program: Program, dense: Program, densities: Mapping[str, float]) -> Read:
    """What a token reads of a rewritten program's weights.

    Args:
        program: the rewritten one.
        dense: what it was made from; its bytes are the whole.
        densities: of the values of `program`, by name.
    """
    activations: dict[str, float] = {}  # of the layers beside a gate: the density of what their results are multiplied with
    for part in mlps(program):
        if part.product is not None and part.up is not None:
            gate = part.product.args[part.at]
            assert isinstance(gate, fx.Node)
            activations[part.up.name] = densities.get(gate.name, 1.0)
    inner = leads_to_layers(program)
    read = 0.0
    for site in linear_sites(program):
        if site.name in inner:
            share = 1.0 if is_rotation(site) else densities[site.input.name] * activations.get(site.name, 1.0)
            read += share * site.bytes
    layers, rest = _layer_bytes(dense), _rest_bytes(program)
    return Read(read / layers, (read + rest) / (layers + _rest_bytes(dense)))


def _layer_bytes(program: Program) -> float:
    inner = leads_to_layers(program)
    return float(sum(site.bytes for site in linear_sites(program) if site.name in inner))


def _rest_bytes(program: Program) -> float:
    """Of what a token reads in full: the head, tensors that are no matrix, a row of every other matrix (the embedding)."""
    inner, stored = leads_to_layers(program), {site.stored: site for site in linear_sites(program)}
    total = 0.0
    for name, tensor in program.tensors.items():
        site = stored.get(program.tensor_names[name])
        if site is not None:
            total += 0 if site.name in inner else site.bytes
        else:
            total += tensor.nbytes / (len(tensor) if tensor.ndim > 1 else 1)
    return total


class RandomMasks(Watch):
    """Runs a program and drops inputs of its linear layers, but the head's, by chance.

    Args:
        program: what to run.
        density: the share that is kept, in [0, 1].
        seed: of the masks.

    Attributes:
        sites: the layers, by name: the names of their inputs.
        kept: the share that was kept so far, over all layers by their bytes.
    """

    def __init__(self, program: Program, density: float, seed: int) -> None:
        super().__init__(program, {})
        inner = leads_to_layers(program)
        found = [site for site in linear_sites(program) if site.name in inner]
        self.sites = {site.name: site.input.name for site in found}
        self._at, self._bytes = {site.name: site.position for site in found}, {site.name: site.bytes for site in found}
        self._density, self._generator = density, torch.Generator().manual_seed(seed)
        self._seen = {site.name: Seen() for site in found}

    @property
    def kept(self) -> float:
        return sum(self._bytes[name] * one.density for name, one in self._seen.items()) / sum(self._bytes.values())

    def run_node(self, n: fx.Node) -> Any:
        at = self._at.get(n.name)
        if at is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        mask = (torch.rand(args[at].shape, generator=self._generator) < self._density).to(args[at].dtype)
        self._seen[n.name].see(mask)
        return self.call_function(n.target, (*args[:at], args[at] * mask, *args[at + 1 :]), kwargs)
