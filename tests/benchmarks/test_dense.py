"""The dense benchmark: its arithmetic, its networks, the file that peers get, and peers that cannot take part."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import dense_contest, dense_cpu, dense_layers, dense_networks, fma_peak, harness, results_page
from benchmarks.dense_child import answer, in_child, peak_bytes
from benchmarks.dense_figures import (
    Setting,
    blocks_for,
    default_settings,
    geometric_mean,
    layer_share,
    parse_settings,
    share_of_peak,
    weighted_share,
    within,
)
from benchmarks.harness import Claim, Options, Outcome
from benchmarks.minilm import minilm
from effc.errors import DataError, InternalError
from effc.runtime.bench import Contender, compare_engines, contender_arguments


def test_the_mean_of_ratios() -> None:
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([3.0]) == pytest.approx(3.0)
    for none in ([], [1.0, math.nan], [1.0, 0.0]):
        assert math.isnan(geometric_mean(none))


def test_settings() -> None:
    assert parse_settings("1x1, 2x8,1x1") == (Setting(1, 1), Setting(2, 8))
    assert default_settings(2) == (Setting(1, 1), Setting(2, 1), Setting(2, 8))
    assert default_settings(1) == (Setting(1, 1), Setting(1, 8))
    assert str(Setting(1, 1)) == "1 thread, batch 1"
    for wrong in ("", "2", "0x1", "2x-1", "axb"):
        with pytest.raises(DataError, match="THREADSxBATCH"):
            parse_settings(wrong)


def test_slow_networks_get_fewer_blocks() -> None:
    assert blocks_for(0.001, quick=False).count == 10
    assert blocks_for(0.15, quick=False).count == 7
    assert blocks_for(5.0, quick=False).count == 4
    assert blocks_for(5.0, quick=True).count <= blocks_for(5.0, quick=False).count


def test_shares_of_the_peak_are_taken_round_by_round() -> None:
    """A clock that halves in the second round halves both, and the best burst of a round is its peak."""
    calls, bursts = [[100, 100, 400], [200, 200, 200], [100, 110, 90]], [[50, 90], [100, 180], [70, 50]]
    assert share_of_peak(1000.0, calls, 1000.0, bursts) == pytest.approx(0.5)


def test_a_layer_is_what_one_more_costs() -> None:
    assert within(130.0, 530.0, 5) == pytest.approx(100.0)
    assert layer_share(900.0, [[130], [260]], [[530], [1060]], 5, 1000.0, [[100], [200]]) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="no measurement"):
        within(100.0, 100.0, 5)


def test_a_layer_is_held_against_the_clock_of_its_round() -> None:
    """The clock is down by a tenth in every second round; the rested peak is that of the first."""
    channels, size, _ = dense_layers.STAGES["stage1"]
    work, slow = 2 * (channels * size) ** 2 * 9, [1.0, 1.1] * 10 + [1.0]
    told = {"one": [1.5e6 * by for by in slow], "several": [5.5e6 * by for by in slow], "burst": [1e5 * by for by in slow]}
    row = dense_layers.row("stage1", told | {"rested": 1e5, "operations": work / 8})
    assert row["layer us"] == pytest.approx(1000)
    assert row["GFLOP/s"] == pytest.approx(work / 1e6)
    assert row["share"] == row["share of it"] == pytest.approx(1e5 * 8 / 1e6)
    assert row["share of the call"] == pytest.approx(1e5 * 8 / 1.5e6)


def test_layers_weigh_by_their_time() -> None:
    counts, ideal = {"a": 4, "b": 1}, {"a": 10.0, "b": 30.0}
    assert weighted_share(counts, ideal, {"a": 10.0, "b": 60.0}) == pytest.approx(70 / 100)
    assert weighted_share(counts, ideal, ideal) == pytest.approx(1.0)
    assert math.isnan(weighted_share({}, {}, {}))
    assert sum(count for _, _, count in dense_layers.STAGES.values()) == 13


def test_the_peak_is_counted_and_reached(tmp_path: Path) -> None:
    options = contender_arguments([], threads=1)
    comparison = compare_engines(
        [fma_peak.contender(fma_peak.build(tmp_path), options)], blocks=1, block_seconds=0.01, warm_up_seconds=0.01
    )
    (timing,) = comparison.timings
    assert fma_peak.operations(timing) % (2 * 14 * 4) == 0
    assert fma_peak.operations(timing) / timing.percentile5 > 1  # operations a nanosecond: more than a scalar loop could
    assert [len(block) for block in comparison.durations[0]] == [timing.calls]


def worker(tmp_path: Path, name: str, body: str) -> Contender:
    script = tmp_path / f"{name}.py"
    script.write_text(
        "import sys\nfrom effc.errors import InputRejectedError\nfrom effc.runtime.bench_worker import Engine, arguments, serve\n"
        f"options = arguments('x', 'model').parse_args()\ndef start():\n    {body}\nsys.exit(serve(options, start))\n"
    )
    return Contender(name, (sys.executable, str(script), "-", *contender_arguments([], threads=1)))


def test_a_peer_that_cannot_take_part_is_left_out_and_says_why(tmp_path: Path) -> None:
    good = worker(tmp_path, "good", "return Engine('good', {}, lambda inputs: None)")
    refuses = worker(tmp_path, "refuses", "raise InputRejectedError('no such operator')")
    dies = worker(tmp_path, "dies", "raise RuntimeError('bang')")
    comparison, lost = dense_contest._surviving([good, refuses, dies], ["refuses", "dies"], 0.0, quick=True)
    assert [timing.label for timing in comparison.timings] == ["good"]
    assert "no such operator" in lost["refuses"]
    assert "bang" in lost["dies"]
    with pytest.raises(InternalError, match="bang"):
        dense_contest._surviving([good, dies], [], 0.0, quick=True)


def test_peers_get_a_file_of_fixed_sizes_whose_constants_are_no_inputs(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [1, 2]), value("w", TensorProto.FLOAT, [2, 3])]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 3], np.arange(6, dtype=np.float32))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", inputs, [value("y", TensorProto.FLOAT, [1, 3])], [weight])
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    dense_networks.write_onnx(source, target, (), 4, [], [])
    import onnxruntime

    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [("x", [4, 2])]
    (y,) = session.run(None, {"x": np.ones((4, 2), np.float32)})
    assert y.tolist() == [[3, 5, 7]] * 4


def test_batch_norms_get_the_statistics_of_their_own_activations() -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return dense_networks._with_statistics(nn.Sequential(nn.Conv2d(3, 4, 7, 4), nn.BatchNorm2d(4)).eval())

    first, second = network(), network()
    assert all(torch.equal(left, right) for left, right in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert not first.training
    assert first[1].weight.min() >= 0.5
    normal = (first(torch.randn(4, 3, 224, 224)) - first[1].bias[:, None, None]) / first[1].weight[:, None, None]
    assert float(normal.detach().std()) == pytest.approx(1.0, abs=0.05)


def test_the_encoder_tells_tokens_and_places_apart() -> None:
    encoder, tokens = minilm(), torch.tensor([[5, 7, 5, 9]])
    with torch.inference_mode():
        states = encoder(tokens)
        again = minilm()(tokens)
    assert states.shape == (1, 4, 384)
    assert torch.equal(states, again)
    assert not torch.allclose(states[0, 0], states[0, 2], atol=1e-2)  # the same token at another place


def test_work_in_a_child_answers_or_says_how_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("bang")

    assert answer(broken) == 1
    assert capsys.readouterr().out.strip() == '{"failed": "RuntimeError: bang"}'
    assert "no_such_module" in in_child("benchmarks.no_such_module", [])["failed"]
    assert peak_bytes() > 10_000_000


def test_names_are_checked() -> None:
    for more in ({"models": "resnet19"}, {"engines": "tflite"}, {"settings": "many"}, {"settings": "1000x1"}):
        with pytest.raises(DataError):
            dense_cpu.measure(Options(more=more))


def test_what_is_missing_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFFC_DATA", str(tmp_path))
    outcome = dense_cpu.measure(Options(quick=True, more={"models": "resnet8", "engines": "onnxruntime"}))
    assert outcome.rows == [{"model": "resnet8", "skipped": "$EFFC_DATA/onnx/mlperf_tiny_resnet8_cifar10.onnx is missing"}]
    assert outcome.claims == []


def test_the_summary_has_a_row_for_each_network_and_the_mean_last() -> None:
    run = dense_cpu._run_of(Options(threads=2, more={"engines": "onnxruntime"}))
    run.ratios = {Setting(1, 1): {"onnxruntime": {"a": 0.5, "b": 2.0}}, Setting(2, 1): {"onnxruntime": {"a": 0.8}}}
    dense_cpu._conclude(run)
    summary = [row for row in run.outcome.rows if row["table"] == dense_cpu.SUMMARY]
    assert [row["model"] for row in summary] == ["a", "b", "geometric mean"]
    assert summary[0] == {
        "table": dense_cpu.SUMMARY,
        "model": "a",
        "onnxruntime, 1 thread, batch 1": 0.5,
        "onnxruntime, 2 threads, batch 1": 0.8,
    }
    assert [(claim.value, claim.holds) for claim in run.outcome.claims] == [
        (pytest.approx(1.0), True),
        (0.5, False),
        (pytest.approx(0.8), False),
        (0.8, False),
    ]


def test_tables_have_titles_and_the_readme_shows_one_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    def benchmark(options: Options) -> Outcome:
        assert options.more == {"only": "a"}
        rows = [{"table": "Short", "model": "a"}, {"table": "Short", "model": "b", "error": 0.5}, {"table": "Long", "n": 1}]
        outcome = Outcome(rows, [Claim("c", 1, 1, "at least")])
        outcome.skip("d", "why")
        return outcome

    assert harness.main(benchmark, ["--only", "a"], add_arguments=lambda parser: parser.add_argument("--only")) == 0
    text = capsys.readouterr().out
    assert "**Short**\n\n| model | error |" in text
    assert "**Long**\n\n| n |" in text
    section = results_page.section("Title", benchmark(Options(more={"only": "a"})).as_json({}), ["Short"])
    assert "Short:\n\n| model | error |\n| --- | --- |\n| a |  |\n| b | 0.5 |" in section
    assert "| d | why |" in section
    assert "Long" not in section
