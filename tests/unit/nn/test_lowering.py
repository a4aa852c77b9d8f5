"""The trainable modules in compiled code and in onnxruntime: what was trained is what runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from effc.data import Dataset
from effc.frontends import load_program
from effc.lowering import lower, run_lowered
from effc.lowering.onnx import export_onnx
from effc.nn import FATReLU, SparkAttention, SparkFFN, StatisticalTopK, TopK
from effc.passes import Context, Pipeline, parse_passes
from effc.targets import find_target
from effc.targets.rates import Level, Rates

ALWAYS = Rates(Level(1e-9, 1e9, 0.0), Level(1e-9, 1e9, 0.0), 0.0)


def modules() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    return {
        "top-k": (TopK(5), (3, 20)),
        "statistical top-k": (StatisticalTopK(0.2), (90,)),
        "fatrelu": (FATReLU(0.3), (4, 5, 5)),
        "spark ffn": (SparkFFN(24, 96, 12, 0.1), (24,)),
        "spark attention": (SparkAttention(32, 4, 8, 4, 0.4, causal=True), (9, 32)),
    }


@pytest.mark.parametrize("name", list(modules()))
def test_compiled_code_and_onnxruntime_compute_what_the_module_does(name: str) -> None:
    module, shape = modules()[name]
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))
    program = load_program(module.eval(), example_inputs=(x,))
    (value,) = program.interface.inputs
    data = Dataset({value.name: np.random.default_rng(0).standard_normal((16, *shape), np.float32)})
    program = Pipeline(parse_passes("profile"))(program, Context(fit=data))
    wanted = module(x).detach().numpy()
    atol = 3e-6 * float(np.abs(wanted).max())
    lowered = lower(program, replace(find_target("cpu"), rates=ALWAYS))
    (got,) = run_lowered(lowered, program, {value.name: x.numpy()}).values()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)
    session = onnxruntime.InferenceSession(export_onnx(program))
    np.testing.assert_allclose(session.run(None, {value.name: x.numpy()})[0], wanted, rtol=0, atol=atol)
    if name == "spark ffn":  # the predictor's mask says what the rest computes, and the list of what is left what the last layer reads
        assert lowered.plan is not None
        assert [step.family for step in lowered.plan.steps if step.macs] == ["skipping", "masked", "skipping"]
