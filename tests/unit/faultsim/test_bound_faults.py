"""Faults in the bounds of a protection: each of them is a site, a single number too, in a program and in compiled code alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effc.compiler import compile_model
from effc.data import Dataset
from effc.faultsim.artifact_engine import ArtifactEngine
from effc.faultsim.artifact_subject import ArtifactSubject
from effc.faultsim.engine import ProgramEngine
from effc.faultsim.faults import Injection
from effc.faultsim.images import BatchGroups
from effc.faultsim.population import whole
from effc.faultsim.sites import find_sites
from effc.faultsim.spec import CampaignSpec
from effc.faultsim.workers import torch_threads
from effc.frontends import load_program
from effc.ir.ops.bound import BOUND
from effc.runtime import Session

BATCH, BIT_30, SIGN = 6, 30, 31
SHAPES = {"layer": (), "channel": (8, 1, 1), "neuron": (8, 6, 6), "both_lower": (), "both_upper": ()}


class Bounded(nn.Module):
    """Convolutions with a bound a layer, a channel and a neuron, and one with a lower bound, too."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(size, 8, 1) for size in (3, 8, 8)])
        self.hidden, self.head = nn.Linear(8 * 3 * 3, 12), nn.Linear(12, 5)
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.full(shape, -0.3 if name == "both_lower" else 0.9)))

    def forward(self, x: Tensor) -> Tensor:
        for conv, upper in zip(self.convs, (self.layer, self.channel, self.neuron), strict=True):
            x = BOUND.overload(F.relu(conv(x)), None, upper, "zero")
        x = F.gelu(self.hidden(F.max_pool2d(x, 2).flatten(1)))
        result: Tensor = self.head(BOUND.overload(x, self.both_lower, self.both_upper, "clamp"))
        return result


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ArtifactSubject:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("bounds") / "artifact"
    compile_model(Bounded().eval(), out, batch=BATCH, example_inputs=[torch.randn(2, 3, 6, 6)])
    return ArtifactSubject(out, "bounded")


def test_every_bound_is_a_site_of_the_program() -> None:
    program = load_program(Bounded().eval(), example_inputs=(torch.randn(2, 3, 6, 6),))
    found = {site.name: (site.kind, site.op, site.shape) for site in find_sites(program, where=("bound",))}
    assert found == {name: ("bound", "bound", shape) for name, shape in SHAPES.items()}


def test_every_bound_is_a_site_of_the_compiled_code(compiled: ArtifactSubject) -> None:
    found = {site.name: (site.kind, site.shape) for site in compiled.sites(CampaignSpec(where=("bound",)))}
    assert found == {name: ("bound", shape) for name, shape in SHAPES.items()}


def test_a_fault_in_a_bound_does_in_compiled_code_what_it_does_in_the_program(compiled: ArtifactSubject) -> None:
    held = [one for one in compiled.held if one.site.kind == "bound"]
    name = compiled.program.interface.inputs[0].name
    images = np.random.default_rng(0).standard_normal((BATCH, 3, 6, 6)).astype(np.float32)
    data = Dataset({name: images}, np.zeros(BATCH, np.int64))
    session = Session(compiled.artifact, threads=1)
    here = ArtifactEngine(session, held, compiled.images(data, CampaignSpec(images=BATCH), BATCH))
    there = ProgramEngine(
        compiled.program, [one.sources[0] for one in held], BatchGroups(data, [name], images=BATCH, per_fault=None, batch=BATCH, seed=0)
    )
    generator = np.random.default_rng(1)
    injections = []
    for site, one in enumerate(held):
        for bit in (BIT_30, SIGN):
            for element in {0, int(generator.integers(one.site.elements))}:
                place = np.array([site]), np.array([element]), np.array([bit])
                injections.append(Injection(0, len(injections), 1, *place))
    with torch_threads(1):
        expected = there.run(injections)
    found = here.run(injections)
    assert [(record.before, record.after, record.flips) for record in found] == [(one.before, one.after, one.flips) for one in expected]
    assert [record.masked for record in found] == [record.masked for record in expected]
    hit = {held[int(injection.sites[0])].site.name for injection, record in zip(injections, found, strict=True) if record.masked < BATCH}
    assert {"layer", "channel", "both_upper"} <= hit  # a sign that flips is felt: 0.9 becomes -0.9


def test_a_bias_is_hit_in_each_of_its_elements_and_nowhere_else() -> None:
    """A toolbox takes a bias's indices from its weight's shape: some elements are never hit, others are none."""
    program = load_program(nn.Sequential(nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, 5)).eval(), example_inputs=(torch.randn(2, 7),))
    sites = find_sites(program, where=("bias",))
    everything = whole(sites)
    found, elements, bits = everything.locate(np.arange(everything.size))
    for index, (name, size) in enumerate((("0.bias", 3), ("2.bias", 5))):
        here = found == index
        assert sites[index].name == name
        assert sorted(set(zip(elements[here].tolist(), bits[here].tolist(), strict=True))) == [
            (e, b) for e in range(size) for b in range(32)
        ]
    images = BatchGroups(
        Dataset({"input": np.ones((2, 7), np.float32)}, np.zeros(2, np.int64)), ["input"], images=None, per_fault=None, batch=2, seed=0
    )
    engine = ProgramEngine(program, sites, images)
    before = {name: value.clone() for name, value in engine.program.trainable().source_state().items()}
    (record,) = engine.run([Injection(0, 0, 1, np.array([1]), np.array([4]), np.array([31]))])
    assert record.flips == 1 and (record.before ^ record.after) & 0xFFFFFFFF == 1 << 31
    assert all(torch.equal(value, before[name]) for name, value in engine.program.trainable().source_state().items())
