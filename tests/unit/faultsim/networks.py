"""Small networks for the fault simulator's tests, a plain loop to compare its engine with, and campaigns on the digits network."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from effc.data import Dataset
from effc.faultsim.campaign import Campaign, run_campaign
from effc.faultsim.engine import ProgramEngine
from effc.faultsim.faults import Injection
from effc.faultsim.images import BatchGroups
from effc.faultsim.records import Record
from effc.faultsim.replay import Replay
from effc.faultsim.sites import Site, find_sites
from effc.faultsim.spec import spec_of
from effc.faultsim.subject import ProgramSubject
from effc.frontends import load_program
from effc.ir import Program

EXAMPLES = Path(__file__).parents[3] / "examples"
DIGITS, TEST = EXAMPLES / "digits.onnx", EXAMPLES / "digits_test.npz"
CLASSES = 5


class Residual(nn.Module):
    """Convolutions, batch norms and a residual; one convolution is used twice, and one ReLU masks nearly everything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.dead = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(16, CLASSES)
        self.norm.running_mean, self.norm.running_var = torch.randn(4), torch.rand(4) + 0.1
        nn.init.constant_(self.dead.bias, -9.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.twice(x))
        x = F.relu(self.twice(y) + x) + F.relu(self.dead(y))
        return self.head(F.max_pool2d(x, 2).flatten(1))


class Views(nn.Module):
    """Every weight is used through something that may share its memory, some of it unsaid by the operators' schemas."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.randn(6, 32))
        self.kernel = nn.Parameter(torch.randn(3, 3, 2, 4) / 4)
        self.table = nn.Parameter(torch.randn(2, 16, 6) / 4)
        self.square = nn.Parameter(torch.randn(6, 6))
        self.shift = nn.Parameter(torch.randn(1))
        self.last = nn.Parameter(torch.randn(CLASSES, 6))
        self.register_buffer("bounds", torch.tensor([0.2, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.bounds.unbind(0)
        x = F.conv2d(x, self.kernel.permute(3, 2, 0, 1), padding=1)
        x = torch.minimum(torch.maximum(x, low), high)  # many elements are at a bound: faults are masked
        x = F.max_pool2d(x, 2).flatten(1)  # (N, 16)
        joined = torch.cat([x, x * 2], 1) @ self.linear.t()
        first, second = self.table.chunk(2)
        joined = joined + F.relu(x @ first.reshape(16, 6)) - x @ second.squeeze(0).contiguous()
        joined = joined @ torch.einsum("ij->ji", self.square) + self.shift.expand(6)
        return F.linear(joined, self.last.type_as(joined).to(torch.float32))


class Constants(nn.Module):
    """Some values are made of stored tensors alone, faults of which a clamp or a sign can hide."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 32))
        self.gate = nn.Parameter(torch.randn(8) * 3)
        self.head = nn.Linear(8, CLASSES)
        self.register_buffer("scale", torch.linspace(0.1, 0.8, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate = self.gate.clamp(0, 1) * torch.tensor([1.0, 2.0]).repeat(4)
        x = F.linear(x.flatten(1), self.weight * self.scale[:, None])
        hidden = x * gate
        return self.head(hidden), hidden.abs().mean(1, keepdim=True)


NETWORKS: Mapping[str, type[nn.Module]] = {"residual": Residual, "views": Views, "constants": Constants}


@functools.cache
def program(name: str) -> Program:
    """One of NETWORKS; inputs are (N, 2, 4, 4)."""
    torch.manual_seed(3)
    return load_program(NETWORKS[name]().eval(), example_inputs=(torch.randn(3, 2, 4, 4),))


def samples(count: int = 6, seed: int = 0) -> Dataset:
    """Inputs and labels for NETWORKS."""
    generator = np.random.default_rng(seed)
    return Dataset({"x": generator.normal(size=(count, 2, 4, 4)).astype(np.float32)}, generator.integers(0, CLASSES, count))


@functools.cache
def digits() -> ProgramSubject:
    """The bundled network."""
    return ProgramSubject(load_program(DIGITS, check_import=False), DIGITS.name)


def digits_data(count: int = 32) -> Dataset:
    """The first of its test images."""
    stored = np.load(TEST)
    return Dataset({"image": stored["x"][:count]}, stored["y"][:count])


def injection(sites: Sequence[int], elements: Sequence[int], bits: Sequence[int], **more: Any) -> Injection:
    """An experiment by hand: places in any order."""
    places = np.array(sorted(set(zip(sites, elements, bits, strict=True))), np.int64).reshape(-1, 3)
    return Injection(0, 0, len(places), *places.T, **more)


def engine_of(
    program: Program, sites: Sequence[Site], data: Dataset, *, batch: int = 4, per_fault: int | None = None, **more: Any
) -> ProgramEngine:
    """An engine on all samples, or on groups of some."""
    names = [value.name for value in program.interface.inputs]
    images = BatchGroups(data, names, images=None, per_fault=per_fault, batch=batch, seed=0)
    return ProgramEngine(program, sites, images, **more)


def all_sites(program: Program) -> list[Site]:
    """Stored tensors, values and inputs."""
    return find_sites(program, where=("parameters", "activation", "input"))


def laid_out(inputs: Sequence[Tensor]) -> list[Tensor]:
    """As the engine gives them to a program. On some processors torch adds a convolution's products in another order for each layout."""
    return [one.contiguous(memory_format=torch.channels_last) if one.dim() == 4 else one for one in inputs]


class PlainLoop(fx.Interpreter):
    """Flip bits of float32 in place, run every operator, flip them back: what the engine must equal bit for bit."""

    def __init__(self, program: Program, sites: Sequence[Site]) -> None:
        super().__init__(program.exported.graph_module)
        self._program, self._sites = program, sites
        self._flips: dict[str, list[tuple[int, int]]] = {}

    def outputs(self, experiment: Injection, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The faulty results of one batch."""
        self._flips = {}
        for site, element, bit in zip(experiment.sites, experiment.elements, experiment.bits, strict=True):
            self._flips.setdefault(self._sites[site].key, []).append((int(element), int(bit)))
        stored = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in self._program.tensors.items()}
        for name, tensor in stored.items():
            _flip(tensor, self._flips.get(name, ()))
        with torch.inference_mode():
            results = self.run(*(stored[name] for name in self._program.tensor_names), *laid_out(inputs))
        return tuple(results)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        flips = self._flips.get(n.name, ()) if n.name not in self._program.tensors else ()
        if not flips:
            return value
        value = value.clone()
        for sample in value:  # a permanent fault: the same element of every sample
            _flip(sample, flips)
        return value


def _flip(tensor: Tensor, flips: Sequence[tuple[int, int]]) -> None:
    words = tensor.view(torch.int32)
    for element, bit in flips:
        index = np.unravel_index(element, tuple(tensor.shape))
        words[index] ^= (1 << bit) if bit < 31 else -(2**31)


# ---- campaigns -----------------------------------------------------------------------------------------------------------------


IMAGES = 16
STEM = {"where": ["weight"], "layers": ["stem"], "bits": "23-31"}  # 144 weights of 9 bits


def run(folder: Path, values: dict[str, Any], data: Dataset | None = None, *, replay: Path | None = None, **more: Any) -> Campaign:
    """A campaign on the digits network, with a list to replay or without."""
    if replay is not None:
        values, more = {**values, "faults_csv": replay}, {**more, "replay": Replay.read(replay)}
    return run_campaign(digits(), data or digits_data(IMAGES), spec_of(values), folder, **more)


def files(folder: Path) -> dict[str, bytes]:
    """Content by name of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def flat(campaign: Campaign) -> list[Record]:
    """Records of all groups."""
    return [record for records in campaign.results for record in records]
