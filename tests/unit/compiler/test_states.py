"""A step of a module from compile to stream: the states stay inside and are what the module would have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effc.compiler import compile_model
from effc.runtime import Stream, load


class Attention(nn.Module):
    """One attention over a cache of four positions, each sample at its own."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        places = torch.arange(4)
        here = places.view(1, 1, -1, 1) == position.view(-1, 1, 1, 1)
        visible = places.view(1, 1, 1, -1) <= position.view(-1, 1, 1, 1)
        query = x.unflatten(1, (2, 1, 4))
        keys = torch.where(here, self.key(x).unflatten(1, (2, 1, 4)), keys)
        values = torch.where(here, self.value(x).unflatten(1, (2, 1, 4)), values)
        mixed = F.scaled_dot_product_attention(query, keys, values, visible)
        return {"mixed": mixed.flatten(1), "keys_next": keys, "values_next": values}


STATES = {"keys": "keys_next", "values": "values_next"}


def examples(batch: int = 1) -> tuple[Tensor, ...]:
    return torch.randn(batch, 8), torch.full((batch,), 3), torch.zeros(batch, 2, 4, 4), torch.zeros(batch, 2, 4, 4)


def test_a_compiled_step_streams_like_the_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Attention().eval()
    result = compile_model(module, tmp_path / "one", example_inputs=examples(), states=STATES)
    assert [(state.input, state.output) for state in result.program.interface.states] == list(STATES.items())
    compile_model(module, tmp_path / "two", example_inputs=examples(), states=STATES, batch=2)
    for folder, batch in (("one", 1), ("two", 2)):
        session = load(tmp_path / folder)
        assert {state.input: state.output for state in session.manifest.states} == STATES
        stream = Stream(session)
        _, _, keys, values = examples(batch)
        for place in range(4):
            x, position = torch.randn(batch, 8), torch.tensor([place, (place + 1) % 4][:batch])
            with torch.no_grad():
                expected, keys, values = module(x, position, keys, values).values()
            got = stream.run({"x": x.numpy(), "position": position.numpy()})
            assert list(got) == ["mixed"]
            np.testing.assert_allclose(got["mixed"], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stream.states()["keys"], keys, rtol=1e-5, atol=1e-6)
