"""Small seeded networks that the sparsity passes are made for, their data, and how to run them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from effc.data import Dataset
from effc.frontends import load_program
from effc.ir import Program
from effc.passes import Context, Pipeline, parse_passes

__all__ = ["Attention", "GatedMlp", "Language", "cnn", "context_for", "data_for", "plain_mlp", "program_of", "rewritten", "value_of"]

F = nn.functional


class GatedMlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)); the columns of its weights differ widely in size, as those of trained networks do."""

    def __init__(self, width: int = 16, hidden: int = 40) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        with torch.no_grad():
            for layer in (self.gate, self.up, self.down):
                layer.weight.mul_(torch.rand(layer.in_features) * 3 + 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    """One head over all positions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1)
        return self.o(weights @ v)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(width), GatedMlp(width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


class Language(nn.Module):
    """Two transformer blocks and a head: (N, T, width) -> (N, T, classes)."""

    def __init__(self, width: int = 16, classes: int = 6) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Block(width), _Block(width)])
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def plain_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 5))


def cnn() -> nn.Module:
    """Two convolutions, a linear layer, a head, each but the last with a ReLU."""
    first, second = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 8, 3)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 16), nn.ReLU(), nn.Linear(16, 4))


def program_of(net: nn.Module, *shape: int) -> Program:
    """The program of a network with a symbolic batch; `shape` is that of a sample."""
    return load_program(net.eval(), example_inputs=(torch.randn(2, *shape),))


def data_for(program: Program, samples: int, seed: int) -> Dataset:
    (value,) = program.interface.inputs
    generator = np.random.default_rng(seed)
    return Dataset({value.name: generator.standard_normal(value.at_batch(samples)).astype(np.float32)})


def context_for(program: Program, samples: int = 256) -> Context:
    return Context(fit=data_for(program, samples, 1), selection=data_for(program, samples // 2, 2))


def rewritten(spec: str, program: Program, context: Context | None = None) -> tuple[Program, Context]:
    context = context or context_for(program)
    return Pipeline(parse_passes(spec))(program, context), context


def value_of(program: Program, name: str, data: Dataset) -> Tensor:
    """The value of a node on all of the data."""
    from effc.passes.profiling import Watch

    kept: list[Tensor] = []

    class Keep:
        def see(self, value: Tensor) -> None:
            kept.append(value.clone())

    watch = Watch(program, {name: (Keep(),)})
    for batch in data.batches():
        watch.run_batch(batch)
    return torch.cat(kept)
