"""Profile: observe what later decisions need, and change nothing.

    before: linear(x, W, b)
    after:  linear(x, W, b)        with the extremes, density and magnitudes of x among the program's facts

What is observed on the fit data: the input of every linear layer and of every convolution, and the result of every activation. The
density of a layer's input tells the cost model whether a kernel that skips zeros pays there; the report draws the magnitudes. It is
not there for integer values, which it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, fx

from effc.errors import DataError, counted
from effc.ir import Program
from effc.passes.activations import ACTIVATIONS, composed_activations
from effc.passes.base import Context, Pass
from effc.passes.linear_sites import linear_sites
from effc.passes.profiling import profile

__all__ = ["Profile"]


@dataclass(frozen=True)
class Profile(Pass):
    """Observe the inputs of layers and the results of activations on data; outputs stay the same bits."""

    name: ClassVar[str] = "profile"
    exact: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Program:
        if context.fit is None:
            raise DataError("pass profile needs calibration data: give --data calib.npz")
        wanted = dict(_wanted(program))
        real = [node for node in wanted if _is_real(node)]
        facts = profile(program, real, context.fit, context.progress, "profile: observing", histograms=True)
        for node, what in wanted.items():
            fact = facts.get(node.name)
            if fact is None:
                context.log(self, node, False, f"{what}: holds integers, which are not observed")
            else:
                spread = f"[{fact.minimum:.4g}, {fact.maximum:.4g}], density {fact.density:.1%}"
                context.log(self, node, True, f"{what}: {spread} on {counted(fact.samples, 'sample')}")
        return program.with_facts(program.facts.with_values(facts))


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _wanted(program: Program) -> Iterator[tuple[fx.Node, str]]:
    """Nodes to observe, in execution order, each with what it is."""
    inputs = {site.input.name for site in linear_sites(program)}
    for node in program.nodes:
        first = node.args[0] if node.args else None
        if str(node.target).startswith(("aten.conv", "effc.conv")) and isinstance(first, fx.Node):
            inputs.add(first.name)
    composed = composed_activations(program)
    for node in program.graph.nodes:
        active = node.target in ACTIVATIONS or node.name in composed
        if active or node.name in inputs:
            yield node, " and ".join([*(["activation"] if active else []), *(["input of a layer"] if node.name in inputs else [])])
