"""The benchmark of decoding on a GPU without one: what it says, and how it reckons."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu_decode
from benchmarks.harness import Options, Outcome


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_claimed() -> None:
    outcome = gpu_decode.measure(Options(quick=True))
    assert outcome.claims == []
    assert "unproven" in outcome.rows[0]["skipped"]


def test_the_faster_of_torchs_is_the_peer() -> None:
    outcome = Outcome()
    times = {"effc, dense": [4.0, 4.0, 4.0], "effc, 80% zeros": [1.0, 2.0, 3.0], "torch": [9.0, 9.0, 9.0], "torch.compile": [6.0, 6.0, 3.0]}
    gpu_decode._report(outcome, times)
    assert {row["peer"] for row in outcome.rows} == {"torch.compile"}
    ((name, value, bar),) = [(claim.name, claim.value, claim.bar) for claim in outcome.claims]
    assert (name, value, bar) == ("80% zeros: torch's time / effc's", 3.0, 1.8)
