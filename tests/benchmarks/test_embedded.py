"""What the benchmark of C sources judges by: stack, names, memory of a plan, integers between a network's ends, counts under QEMU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import embedded, embedded_networks
from benchmarks.embedded_build import MACHINES, Files, ToolError, built, longest_path, outside, self_test
from benchmarks.embedded_networks import parameter_bytes, with_integer_ends
from benchmarks.embedded_probe import probe
from benchmarks.harness import Options
from effc.compiler import compile_model
from effc.compiler.golden import run_program
from effc.frontends import load_program
from effc.runtime.plan import Buffer, Plan, Step
from effc.runtime.verify import compare


def test_the_longest_path_is_the_entry_the_largest_kernel_and_the_largest_helper() -> None:
    usage = "m.c:9:1:effc_min_f32\t8\tstatic\nm.c:10:1:conv.constprop.0\t120\tstatic\nm.c:30:1:pool\t40\tstatic\n"
    usage += "m.c:50:1:effc_net_run\t24\tstatic\nm.c:60:1:effc_net_check_weights\t300\tstatic\n"
    assert longest_path(usage, "effc_net") == 24 + 120 + 8
    with pytest.raises(ToolError, match="effc_other_run"):
        longest_path(usage, "effc_other")
    with pytest.raises(ToolError, match="dynamic"):
        longest_path("m.c:9:1:conv\t8\tdynamic\n", "effc_net")


def test_names_from_outside() -> None:
    assert outside(("memcpy", "__aeabi_dadd", "expf", "malloc", "memset")) == ["expf", "malloc"]


def test_nothing_shared_counts_what_is_alive_together() -> None:
    def buffer(name: str, size: int, first: int, last: int) -> Buffer:
        return Buffer(name, "arena", (size,), "uint8", 0, size, first, last)

    buffers = (buffer("a", 100, 0, 1), buffer("b", 60, 1, 2), buffer("c", 70, 2, 3), buffer("step2.temporary0", 999, 2, 2))
    steps = tuple(Step(f"k{i}", "conv", (), (), (), (), 0, 0) for i in range(4))
    assert embedded.nothing_shared(Plan("entry", buffers, steps, 0, 0)) == 160


def quantised(path: Path) -> None:
    """Quantise, dequantise, relu, quantise, dequantise."""
    from onnx import TensorProto, helper, numpy_helper, save

    scale = [numpy_helper.from_array(np.float32(0.5), "s"), numpy_helper.from_array(np.int8(3), "z")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], scale)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_between_its_ends_a_quantised_network_takes_and_gives_integers(tmp_path: Path) -> None:
    quantised(tmp_path / "float.onnx")
    assert parameter_bytes(tmp_path / "float.onnx") == 5
    with_integer_ends(tmp_path / "float.onnx", tmp_path / "ends.onnx")
    program = load_program(tmp_path / "ends.onnx")
    given = np.array([[-128, 2, 3, 127]], np.int8)
    (result,) = run_program(program, {program.interface.inputs[0].name: given}).values()
    assert result.dtype == np.int8
    assert result.tolist() == [[3, 3, 3, 127]]


def test_integers_inside_a_quantised_network_can_be_outputs_too(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, load, save

    quantised(tmp_path / "float.onnx")
    model = load(tmp_path / "float.onnx")
    more = [helper.make_node("QuantizeLinear", ["y", "s", "z"], ["last"]), helper.make_node("DequantizeLinear", ["last", "s", "z"], ["z2"])]
    model.graph.node.extend(more)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("z2", TensorProto.FLOAT, [1, 4]))
    save(model, tmp_path / "longer.onnx")
    with_integer_ends(tmp_path / "longer.onnx", tmp_path / "inside.onnx", inside=True)
    graph = load(tmp_path / "inside.onnx").graph
    assert ([value.name for value in graph.input], [value.name for value in graph.output]) == (["q"], ["p", "last"])


def test_what_is_missing_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFFC_DATA", str(tmp_path))
    monkeypatch.setattr(embedded, "NETWORKS", [one for one in embedded_networks.NETWORKS if one.name == "keywords int8"])
    outcome = embedded.measure(Options(quick=True))
    assert {"model": "keywords int8", "skipped": "$EFFC_DATA/onnx/mlperf_tiny_kws_int8qdq.onnx is missing"} in outcome.rows
    assert outcome.claims == []


def test_a_board_gives_outputs_and_counts(tmp_path: Path) -> None:
    machine = MACHINES["cortex-m4"]
    if machine.missing():
        pytest.skip(machine.missing())
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 3)).eval()
    result = compile_model(network, tmp_path / "out", example_inputs=(torch.randn(1, 2, 6, 6),), target="cortex-m4")
    files, manifest = Files.of(tmp_path / "out"), result.manifest
    generator = np.random.default_rng(0)
    samples = [{spec.name: generator.standard_normal(spec.shape, np.float32) for spec in manifest.inputs} for _ in range(2)]
    seen = probe(files, machine, manifest.inputs, manifest.outputs, samples, tmp_path / "probe", watch=True)
    for got, sample in zip(seen.outputs, samples, strict=True):
        assert compare(got, run_program(result.program, sample)).worst < 2e-6
    assert manifest.plan is not None
    assert [name for name, _ in seen.kernels] == [step.kernel for step in manifest.plan.steps]
    counted = sum(count for _, count in seen.kernels)
    assert sum(step.macs for step in manifest.plan.steps) < counted < seen.instructions < 2 * counted
    sizes = built(files, machine, tmp_path / "build")
    assert files.arena == manifest.plan.arena_bytes
    assert 4 * (5 * 2 * 9 + 5 + 20 * 3 + 3) <= sizes.weights < 800
    assert seen.stack > 0 and sizes.stack > 0 and sizes.writable == 0
    assert self_test(files, machine, tmp_path / "self-test") == 0
