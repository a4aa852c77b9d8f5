"""The pass `delta`: what the streaming program computes, and what it says."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from effc.errors import ConfigError, DataError, EffcWarning
from effc.ir import Clip, Program, run_clip
from effc.ir.ops.stream_clock import STREAM_CLOCK
from effc.ir.ops.truncate import TRUNCATE
from effc.passes import Context, Pipeline, format_pass, parse_passes
from effc.passes import delta_clip as delta_clip_module
from effc.passes.delta import Delta
from effc.passes.delta_clip import ClipModel
from effc.passes.delta_insert import streaming_program
from effc.passes.delta_keeping import Rule
from effc.passes.delta_sites import find_network
from effc.passes.delta_windows import active_pixels
from effc.targets import find_target
from tests.unit.passes.delta_networks import SIZE, Mobile, Residual, clip, dataset, program_of

_aten = torch.ops.aten


def network(kind: type[nn.Module], seed: int = 0) -> Program:
    torch.manual_seed(seed)
    return program_of(kind(), torch.randn(2, 3, SIZE, SIZE))


def stream(program: Program, options: str = "", frames: Tensor | None = None, target: bool = False) -> tuple[Program, Context]:
    context = Context(fit=None if frames is None else dataset(frames, program), target=find_target("cpu") if target else None)
    return Pipeline(parse_passes(f"delta{{{options}}}"))(program, context), context


def outputs(program: Program, frames: Tensor) -> Tensor:
    """Of a streaming program on the clip."""
    return next(iter(run_clip(program, {program.interface.frame_inputs[0].name: frames}).values()))


def per_frame(program: Program, frames: Tensor) -> Tensor:
    """Of a per-frame program, or of a streaming one that forgets what it has seen after each frame: every frame is whole."""
    return torch.cat([outputs(program, frame) for frame in frames.split(1)])


def truncates(program: Program) -> list[fx.Node]:
    return [node for node in program.nodes if node.target == TRUNCATE.overload]


class Values(fx.Interpreter):
    """Keeps all values of the last call."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.exported.graph_module)
        self.values: dict[str, Tensor] = {}
        self.clip = Clip(program, lambda *inputs: self.run(*(program.tensors[name] for name in program.tensor_names), *inputs))

    @property
    def clock(self) -> int:
        """After the last frame; 0 before the first."""
        name = next(node.name for node in self.clip.program.nodes if node.target == STREAM_CLOCK.overload)
        return int(self.values[name])

    def run_node(self, n: fx.Node) -> Any:
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


# ---- exact -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Residual, Mobile])
def test_exact_streams_give_the_bits_of_the_per_frame_program(kind: type[nn.Module]) -> None:
    program, frames = network(kind), clip()
    result, context = stream(program)
    assert torch.equal(outputs(result, frames), per_frame(program, frames))
    assert len(truncates(result)) == len(find_network(program).layers) + 1
    assert all(node.args[3] == 0 for node in truncates(result))
    assert [state.resident for state in result.interface.states] == [True] * (len(truncates(result)) + 1)
    assert result.interface.states[0].input == "stream.clock"
    assert [value.name for value in result.interface.frame_outputs] == [value.name for value in program.interface.outputs]
    labels = {layer.label for layer in find_network(program).layers}
    assert {state.input.removeprefix("stream.") for state in result.interface.states[2:]} == labels
    assert all(decision.done for decision in context.decisions if "stays dense" not in decision.why)
    again, context = stream(result)
    assert [node.target for node in again.nodes] == [node.target for node in result.nodes]
    assert context.decisions[0].why == "streams already"


class Random(nn.Module):
    """A network that is drawn: each layer reads the last value, and some also an earlier one of the same size."""

    def __init__(self, drawn: list[tuple[str, int, int, int]]) -> None:
        super().__init__()
        self.drawn, self.layers, channels = drawn, nn.ModuleList(), 3
        for kind, kernel, stride, dilation in drawn:
            pad = dilation * (kernel - 1) // 2
            if kind == "conv":
                self.layers.append(nn.Conv2d(channels, 5, kernel, stride, pad, dilation))
                channels = 5
            elif kind == "depthwise":
                self.layers.append(nn.Conv2d(channels, channels, kernel, stride, pad, dilation, groups=channels))
            elif kind == "max":
                self.layers.append(nn.MaxPool2d(kernel, stride, min(pad, kernel // 2), dilation, ceil_mode=True))
            elif kind == "average":
                self.layers.append(nn.AvgPool2d(kernel, stride, min(pad, kernel // 2), ceil_mode=True))
            elif kind == "concat":
                self.layers.append(nn.Conv2d(channels, 2, 1))
                channels += 2
            elif kind == "add":
                self.layers.append(nn.Conv2d(channels, channels, 3, padding=1))
            else:
                self.layers.append(nn.Upsample(scale_factor=2.0, mode=kind))

    def forward(self, x: Tensor) -> Tensor:
        for (kind, *_), layer in zip(self.drawn, self.layers, strict=True):
            y = layer(x)
            x = torch.relu(y + x) if kind == "add" else torch.cat([y, x], 1) if kind == "concat" else torch.nn.functional.silu(y)
        return x


KINDS = st.sampled_from(["conv", "depthwise", "max", "average", "concat", "add", "nearest", "bilinear"])
NETWORKS = st.lists(st.tuples(KINDS, st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=5)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=NETWORKS, seed=st.integers(0, 2**16))
def test_what_no_window_touched_does_not_change(drawn: list[tuple[str, int, int, int]], seed: int) -> None:
    """What kernels rely on: outside of the pixels that are said to be active, a layer's result is that of the frame before."""
    torch.manual_seed(seed)
    program = program_of(nn.Sequential(nn.Conv2d(3, 3, 1), Random(drawn)), torch.randn(2, 3, SIZE, SIZE))
    frames = clip(4, seed=seed)
    result, _ = stream(program)
    assert torch.equal(outputs(result, frames), per_frame(program, frames))
    watched, seen = Values(program), []
    for frame in frames.split(1):
        watched.clip.run({program.interface.inputs[0].name: frame})
        seen.append(dict(watched.values))
    found = find_network(program)
    for before, now in itertools.pairwise(seen):
        moved: dict[fx.Node, Tensor | None] = {}
        for node in (found.frame.node, *(layer.node for layer in found.layers)):
            moved[node] = ((now[node.name] - before[node.name]).abs() > 1e-5 * now[node.name].abs().max()).any(1, keepdim=True)
        assert not bool(moved[found.frame.node].all())
        for layer in found.layers:
            assert layer.sparse
            active = active_pixels(layer, moved, {})
            assert active is not None and not bool((moved[layer.node] & ~active).any())


# ---- truncate ----------------------------------------------------------------------------------------------------------------


def test_every_kept_tensor_stays_within_its_threshold_of_what_it_was_fed() -> None:
    program, frames = network(Residual), clip(12, noise=0.02)
    result, _ = stream(program, "mode=truncate,threshold=0.05", frames)
    watched = Values(result)
    held: dict[str, Tensor] = {}
    skipped = 0
    for frame in frames.split(1):
        watched.clip.run({result.interface.frame_inputs[0].name: frame})
        for node in truncates(result):
            fed, kept = watched.values[node.args[0].name], watched.values[node.name]
            assert bool(((fed - kept).square().mean(1).sqrt() <= node.args[3] * (1 + 1e-6)).all())
            if node.name in held:
                stayed, fresh = (kept == held[node.name]).all(1), (kept == fed).all(1)
                assert bool((stayed | fresh).all())  # a pixel keeps all its channels, or takes all of them
                skipped += int((stayed & ~fresh).sum())
            held[node.name] = kept
    assert skipped > 100


@pytest.mark.parametrize("kind", [Residual, Mobile])
@pytest.mark.parametrize("options", ["scene_cut=1.0", "refresh=3", "scene_cut=0.02"])
def test_the_search_sees_what_the_program_computes(kind: type[nn.Module], options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, frames = network(kind), clip(10, noise=0.01)
    found = find_network(program)
    given = {name: float(value) for name, value in (options.split("="),)}
    model = ClipModel(program, found, frames, given.get("scene_cut", 1.0), int(given.get("refresh", 0)))
    rules = {node.name: Rule(0.03) for node in (found.frame.node, *(layer.node for layer in found.layers))}
    measured = model.measure(rules)
    monkeypatch.setattr(delta_clip_module, "_BYTES", 1)  # in chunks of two frames
    parts = ClipModel(program, found, frames, given.get("scene_cut", 1.0), int(given.get("refresh", 0)))
    assert parts.chunk == 2
    in_parts = parts.measure(rules)
    assert (in_parts.whole, in_parts.sparse) == (measured.whole, measured.sparse)
    assert in_parts.active == pytest.approx(measured.active) and in_parts.moved == pytest.approx(measured.moved)
    kept = {layer.node.name: True for layer in found.layers}
    result, names = streaming_program(program, found, kept, rules, model.scene_cut, model.refresh)
    watched, clocks, moved = Values(result), [], []
    for frame in frames.split(1):
        before = dict(watched.values)
        watched.clip.run({result.interface.frame_inputs[0].name: frame})
        clocks.append(watched.clock)
        if clocks[-1] > 1:
            name = names[found.layers[0].node.name]
            moved.append(float((watched.values[name] != before[name]).any(1).float().mean()))
    assert sum(clock == 1 for clock in clocks) == measured.whole + 1
    assert measured.sparse == len(moved)
    if moved:
        assert measured.moved[found.layers[0].node.name] == pytest.approx(sum(moved) / len(moved), abs=2e-3)
    dense = per_frame(program, frames)
    error = (outputs(result, frames) - dense).abs().max() / dense.abs().max()
    assert measured.error == pytest.approx(float(error), rel=1e-3, abs=1e-6)
    assert in_parts.error == pytest.approx(measured.error, rel=1e-3)


def test_a_run_goes_on_from_a_copy_as_if_it_had_begun_with_the_other_rules() -> None:
    program, frames = network(Residual), clip(8, noise=0.02)
    found = find_network(program)
    model = ClipModel(program, found, frames, 1.0, 0)
    names = [found.frame.node.name, *(layer.node.name for layer in found.layers)]
    run = model.start(dict.fromkeys(names, Rule(0.02)))
    for name in names[1:]:
        run.until(name)
        other = run.copy()
        other.rules = {**dict.fromkeys(names, Rule(0.02)), name: Rule(0.2)}
        other.finish()
        expected = model.measure(other.rules)
        assert other.measured.error == expected.error and other.measured.active == expected.active


@pytest.mark.filterwarnings("ignore::effc.errors.EffcWarning")
def test_searched_levels_hold_the_bound_and_beat_one_level_for_all() -> None:
    program, frames = network(Residual), clip(15, noise=0.02)
    dense = per_frame(program, frames)
    result, context = stream(program, "mode=truncate,max-error=0.05", frames)
    assert float((outputs(result, frames) - dense).abs().max() / dense.abs().max()) <= 0.05
    shares = [
        result.facts.values[node.name].change_rate
        for node in find_network(program).layers and result.nodes
        if node.name in result.facts.values
    ]
    assert all(share is not None and 0 <= share <= 1 for share in shares)
    thresholds = [node.args[3] for node in truncates(result)]
    assert thresholds[-1] == 0 and all(threshold > 0 for threshold in thresholds[:-1])  # nothing by pixels reads the last one
    summary = next(decision.why for decision in context.decisions if decision.site == "net")
    computed = float(summary.split("%")[0])
    for level in (0.005, 0.01, 0.02):
        uniform, other = stream(program, f"mode=truncate,threshold={level}", frames)
        if float((outputs(uniform, frames) - dense).abs().max() / dense.abs().max()) <= 0.05:
            assert computed <= float(next(decision.why for decision in other.decisions if decision.site == "net").split("%")[0])


@pytest.mark.filterwarnings("ignore::effc.errors.EffcWarning")
def test_a_search_gets_past_noise_that_makes_every_frame_whole() -> None:
    """At the first levels over 60 % of the pixels move: every frame is whole, nothing is wrong, and no single step changes that."""
    torch.manual_seed(0)
    sizes = ((3, 16, 3, 2), (16, 16, 5, 1), (16, 32, 5, 1), (32, 32, 5, 2), (32, 32, 7, 1))
    layers = [one for a, b, k, s in sizes for one in (nn.Conv2d(a, b, k, s, padding=k // 2), nn.ReLU())]
    program = program_of(nn.Sequential(*layers, nn.Conv2d(32, 4, 1)), torch.randn(2, 3, 96, 96))
    frames = clip(12, size=96, noise=0.3)
    result, context = stream(program, "mode=truncate,max-error=0.1,dense=never", frames)
    dense = per_frame(program, frames)
    assert float((outputs(result, frames) - dense).abs().max() / dense.abs().max()) <= 0.1
    assert float(next(one.why for one in context.decisions if "multiply-accumulates" in one.why).split("%")[0]) < 25


@pytest.mark.filterwarnings("ignore::effc.errors.EffcWarning")
def test_a_search_for_layers_that_all_stay_sparse_weighs_them_all() -> None:
    program, frames = network(Mobile), clip(20, noise=0.02)
    _, context = stream(program, "mode=truncate,max-error=0.05,dense=never", frames)
    assert float(next(one.why for one in context.decisions if "multiply-accumulates" in one.why).split("%")[0]) < 20  # of small layers


@pytest.mark.filterwarnings("ignore::effc.errors.EffcWarning")
def test_a_budget_of_the_metric_is_kept_on_the_frames_that_were_held_back() -> None:
    program, frames = network(Residual), clip(15, noise=0.02)
    result, context = stream(program, "mode=truncate,max-drop=0", frames)
    held = frames[12:]
    assert torch.equal(outputs(result, held).argmax(1), per_frame(program, held).argmax(1))
    (curve,) = context.curves
    assert (curve.metric, curve.samples, curve.max_drop) == ("agreement", 3, 0)
    assert sum(point.kept for point in curve.points) == 1
    assert any(node.args[3] > 0 for node in truncates(result))


# ---- quantised ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["channel", "layer"])
def test_quantised_streams_give_the_bits_of_the_quantised_per_frame_program(per: str) -> None:
    program, frames = network(Residual), clip(8, noise=0.02)
    result, context = stream(program, f"mode=quantised,threshold=0.02,per={per}", frames)
    streamed = outputs(result, frames)
    assert torch.equal(streamed, per_frame(result, frames))
    assert not torch.equal(streamed, per_frame(program, frames))
    assert all(node.args[3] == 0 for node in truncates(result))
    steps = [value for name, value in result.tensors.items() if result.tensor_names[name].endswith("delta_step")]
    assert len(steps) == len(truncates(result)) - 2  # the frame is compared as it is, and so are the outputs
    assert truncates(result)[0].args[0].op == "placeholder"
    assert all((value.numel() > 1) == (per == "channel") for value in steps)
    assert any("rounded to steps of" in decision.why for decision in context.decisions)


def test_steps_that_were_trained_are_kept() -> None:
    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.step = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Parameter(torch.full((4, 1, 1), 0.125))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.round(torch.relu(self.a(x)) / self.step) * self.step)

    program, frames = network(Trained), clip(5)
    result, _ = stream(program, "mode=quantised")
    assert [node.target for node in result.nodes].count(_aten.round.default) == 1
    assert torch.equal(outputs(result, frames), per_frame(program, frames))
    with pytest.raises(DataError, match="no layer of this network rounds"):
        stream(network(Residual), "mode=quantised")


# ---- the clock, dense layers, words ------------------------------------------------------------------------------------------


def test_frames_are_computed_whole_at_the_start_at_a_cut_and_at_a_refresh() -> None:
    program = network(Residual)
    frames = torch.cat([clip(5), clip(4, seed=1)])
    for options, expected in (
        ("", [1, 2, 3, 4, 5, 1, 2, 3, 4]),
        ("refresh=2", [1, 2, 1, 2, 1, 1, 2, 1, 2]),
        ("scene-cut=1", [*range(1, 10)]),
    ):
        watched, clocks = Values(stream(program, options)[0]), []
        for frame in frames.split(1):
            watched.clip.run({program.interface.inputs[0].name: frame})
            clocks.append(watched.clock)
        assert clocks == expected


def test_layers_that_do_not_pay_stay_dense_and_every_layer_is_explained() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large, self.small = nn.Conv2d(3, 32, 7, padding=3), nn.Conv2d(32, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.small(torch.relu(self.large(x)))

    torch.manual_seed(0)
    program = program_of(Uneven(), torch.randn(2, 3, 64, 64))
    frames = clip(4, size=64)
    result, context = stream(program, "", frames, target=True)
    assert [node.args[0].name for node in truncates(result)][1:] == ["relu"]
    assert torch.equal(outputs(result, frames), per_frame(program, frames))
    by_site = {decision.site: decision for decision in context.decisions}
    assert by_site["small"].why.startswith("stays dense; ") and not by_site["small"].done
    assert "exact; " in next(one.why for one in context.decisions if one.op == "aten.relu")
    # The square and where it was are 3x4 pixels; windows of 7x7 touch 3 more on each side, as far as there are any: none over the edge.
    assert result.facts.values["relu"].change_rate == pytest.approx((8 * 7 + 8 * 8 + 8 * 9) / 3 / 64**2)
    assert len(truncates(stream(program, "dense=never", frames, target=True)[0])) == 3
    with pytest.warns(EffcWarning, match="nothing streams"):
        unchanged, context = stream(network(Residual), "", clip(4), target=True)
    assert not truncates(unchanged) and not unchanged.interface.states and not any(decision.done for decision in context.decisions)


def test_a_program_whose_batch_is_one_streams_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.relu(self.conv(x)).reshape(1, -1)
            return torch.softmax(y, 1), y.sum(1)

    torch.manual_seed(0)
    program = program_of(Net(), torch.randn(1, 3, SIZE, SIZE), symbolic=False)
    frames = clip(6, noise=0.02)
    result, _ = stream(program, "mode=truncate,threshold=0.01", frames)
    dense = torch.cat(
        [program.run({program.interface.inputs[0].name: frame})[program.interface.outputs[0].name] for frame in frames.split(1)]
    )
    assert 0 < float((outputs(result, frames) - dense).abs().max() / dense.abs().max()) < 0.05


@pytest.mark.parametrize("symbolic", [True, False])
def test_operators_that_give_lists_are_computed_on_a_clip(symbolic: bool) -> None:
    class Lists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(9, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            left, right = torch.split(torch.relu(self.a(x)), [3, 5], 1)
            top, bottom = self.b(right).chunk(2, 2)
            best, _ = torch.topk(left, 2, 1)
            return self.c(torch.cat([left, torch.cat([bottom, top], 2), best], 1))

    torch.manual_seed(0)
    program = program_of(Lists(), torch.randn(2 if symbolic else 1, 3, SIZE, SIZE), symbolic=symbolic)
    frames = clip(8, noise=0.02)
    dense = per_frame(program, frames)
    found = find_network(program)
    names = [found.frame.node.name, *found.by_name]
    rules = dict.fromkeys(names, Rule(0.05))
    listed, _ = streaming_program(program, found, dict.fromkeys(names, True), rules, 1.0, 0)
    error = (outputs(listed, frames) - dense).abs().max() / dense.abs().max()
    assert ClipModel(program, found, frames, 1.0, 0).measure(rules).error == pytest.approx(float(error), rel=1e-3)
    result, _ = stream(program, "mode=truncate,threshold=0.01", frames)  # slices stand for splits: a list has no state
    assert [node.args[0].name for node in truncates(result)] == ["x", "relu", "conv2d_1", "getitem_4", "cat", "cat_1", "conv2d_2"]
    assert not any("split" in str(node.target) or "chunk" in str(node.target) for node in result.nodes)
    assert 0 < float((outputs(result, frames) - dense).abs().max() / dense.abs().max()) < 0.1


def test_the_nhwc_frame_is_kept_behind_its_permutation() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.permute(0, 3, 1, 2))

    torch.manual_seed(0)
    program = program_of(Net(), torch.randn(2, SIZE, SIZE, 3))
    frames = clip(5).permute(0, 2, 3, 1).contiguous()
    result, _ = stream(program, "mode=truncate,threshold=0", frames)
    assert [value.shape[1:] for value in result.interface.inputs][2] == (3, SIZE, SIZE)
    assert torch.equal(outputs(result, frames), per_frame(program, frames))


def test_options_are_checked_and_parse_back() -> None:
    for options in ("mode=truncate,threshold=0.01", "mode=quantised,max-error=0.02,per=layer,refresh=100,scene-cut=0.3", "dense=never"):
        (pass_,) = parse_passes(f"delta{{{options}}}")
        assert parse_passes(format_pass(pass_)) == (pass_,)
    wrong = ["mode=truncate", "threshold=0.1", "mode=truncate,threshold=2", "mode=truncate,max-error=0", "mode=truncate,max-drop=-1"]
    wrong += ["margin=1", "refresh=-1", "scene-cut=2", "mode=quantised,threshold=0.1,max-drop=0.1"]
    with pytest.raises(ConfigError) as caught:
        parse_passes(",".join(f"delta{{{one}}}" for one in wrong))
    assert len(caught.value.problems) == len(wrong)
    program = network(Residual)
    with pytest.raises(DataError, match="needs a calibration clip"):
        stream(program, "mode=truncate,threshold=0.01")
    with pytest.raises(DataError, match="at least two frames"):
        stream(program, "mode=truncate,threshold=0.01", clip(1))
    assert Delta().name == "delta"
