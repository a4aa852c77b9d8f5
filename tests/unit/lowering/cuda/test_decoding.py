"""A whole decode step of a small language model on a device: every product skips, and its logits and caches are torch's."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import torch

from benchmarks.llama import Sizes, Step, random_weights, start
from effc.frontends.loading import load_program
from effc.ir import ValueFacts
from effc.lowering import lower
from effc.lowering.cuda.emulation import EmulatedDriver
from effc.runtime.cuda.executor import CudaExecutor
from tests.unit.lowering.cuda.on_host import ALWAYS, TARGET, needs_host


@needs_host
def test_a_decode_step_gives_what_torch_gives() -> None:
    weights = random_weights(Sizes(width=32, hidden=72, layers=1, heads=2, key_heads=1, vocabulary=50, positions=4))
    step = Step(weights).eval()
    program = load_program(step, example_inputs=start(weights.sizes), states=step.states)
    program = program.with_facts(program.facts.with_values({node.name: ValueFacts(-1.0, 1.0, 0.3, 1) for node in program.nodes}))
    with mock.patch("effc.lowering.cuda.backend.compile_cubin", lambda source, architecture: source.encode()):
        lowered = lower(program, replace(TARGET, rates=ALWAYS))
    assert lowered.plan is not None
    families = [one.family for one in lowered.plan.steps]
    assert families.count("skipping") == 8  # queries, keys, values, what joins them, gate, up, down, head
    outputs = program.interface.outputs
    names = [value.name for value in program.interface.inputs], [value.name for value in outputs]
    executor = CudaExecutor(lowered.plan, *names, lowered.parameters, b"", EmulatedDriver(lowered.code.decode()))
    _, _, *caches = [np.ascontiguousarray(x.numpy()) for x in start(weights.sizes)]
    for position in range(3):
        inputs = [np.array([[7 + position]]), np.array([position]), *caches]
        got = [np.empty(value.at_batch(1), value.dtype) for value in outputs]
        executor.call(inputs, got)
        with torch.no_grad():
            wanted = program.exported.module()(*map(torch.from_numpy, inputs))
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-5 * float(other.abs().max().clamp_min(1.0)))
        caches = got[1:]
