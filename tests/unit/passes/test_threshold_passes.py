"""TEAL and WINA: what their thresholds keep, how they share a budget, and what a search under max-drop may do."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import Tensor, nn

from effc.data import Dataset
from effc.errors import ConfigError, DataError
from effc.evaluate import evaluate
from effc.ir import Program
from effc.ir.ops.sparsify import SPARSIFY
from effc.passes import Context, parse_passes
from effc.passes.allocation import greedy
from effc.passes.level_search import MOST, grid
from effc.passes.linear_sites import block_of, linear_sites
from effc.passes.thresholds import calibrate
from tests.unit.passes.sparse_networks import (
    Attention,
    GatedMlp,
    Language,
    context_for,
    data_for,
    plain_mlp,
    program_of,
    rewritten,
    value_of,
)

SEED = 0


@pytest.fixture(scope="module")
def language() -> Program:
    torch.manual_seed(SEED)
    return program_of(Language(), 5, 16)


def sparsified(program: Program) -> dict[str, list[str]]:
    """The user's names of the linear layers behind each sparsify node."""
    names = {site.name: site.source for site in linear_sites(program)}
    return {node.name: [names[user.name] for user in node.users] for node in program.nodes if node.target == SPARSIFY.overload}


def by_source(program: Program, name: str) -> Tensor:
    placeholder = next(key for key, source in program.tensor_names.items() if source == name)
    return program.tensors[placeholder].detach()


def outputs(program: Program, data: Dataset) -> Tensor:
    return next(iter(program.run({name: torch.from_numpy(array) for name, array in data.inputs.items()}).values()))


# ---- sites -------------------------------------------------------------------------------------------------------------------


def test_every_form_of_a_linear_layer_is_a_site() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4, 4))
            self.bias, self.last = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = x @ self.a  # (inputs, outputs)
            y = torch.addmm(self.bias, y, self.b.t())
            y = torch.mm(y, self.b.permute(1, 0).transpose(0, 1))
            return self.last(torch.matmul(y @ y.t(), y))  # two products of activations

    program = program_of(Net(), 6)
    sites = linear_sites(program)
    a, b = by_source(program, "a"), by_source(program, "b")
    assert [site.position for site in sites] == [0, 1, 0, 0]
    for site, weight in zip(sites, (a.T, b, b.T, by_source(program, "last.weight")), strict=True):
        assert torch.equal(site.weight, weight)


def test_blocks_are_named_by_the_first_number() -> None:
    names = ("model.layers.3.mlp.up", "/blocks.0/attn/q/MatMul", "node_linear_3", "2", "h2.fc")
    assert [block_of(name) for name in names] == ["model.layers.3", "/blocks.0", "", "2", ""]


def test_the_head_is_left_alone_and_a_cached_key_is_no_head(language: Program) -> None:
    result, context = rewritten("teal{allocation=uniform}", language)
    assert "head" not in {name for names in sparsified(result).values() for name in names}
    (head,) = (decision for decision in context.decisions if decision.site == "head")
    assert not head.done and "head" in head.why

    class Cached(Attention):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), self.k(x)

    result, _ = rewritten("teal{allocation=uniform}", program_of(Cached(), 5, 16))
    assert sorted(name for names in sparsified(result).values() for name in names) == ["k", "q", "v"]


def test_layers_are_chosen_by_name(language: Program) -> None:
    result, context = rewritten(r"teal{allocation=uniform,layers=mlp\.(gate|up)$}", language)
    assert sorted(name for names in sparsified(result).values() for name in names) == [
        f"blocks.{block}.mlp.{layer}" for block in (0, 1) for layer in ("gate", "up")
    ]
    assert sum("left out by layers" in decision.why for decision in context.decisions) == 10
    with pytest.raises(ConfigError, match=r"layers=nothing: matches none; there are: blocks\.0\.attention\.q"):
        rewritten("teal{layers=nothing}", language)
    with pytest.raises(ConfigError, match="no regular expression"):
        parse_passes("teal{layers=(}")
    with pytest.raises(ConfigError, match="between 0 and"):
        parse_passes("wina{sparsity=1}")


# ---- thresholds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teal", "wina"])
def test_the_density_on_the_fit_data_is_the_wanted_one(name: str) -> None:
    torch.manual_seed(SEED)
    program = program_of(nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 8)), 16)
    for wanted in (0.25, 0.5, 0.8):
        result, context = rewritten(f"{name}{{sparsity={wanted},allocation=uniform}}", program)
        ((node, _),) = sparsified(result).items()
        assert context.fit is not None
        measured = float((value_of(result, node, context.fit) != 0).float().mean())
        assert measured == pytest.approx(1 - wanted, abs=0.003)
        assert result.facts.values[node].density == pytest.approx(measured, abs=1e-7)
        (told,) = (decision.why for decision in context.decisions if decision.done)
        assert f"density {measured:.1%} on 256 samples" in told and f"{(1 - measured) * 4.096:,.1f} of 4.1 kB" in told


def test_no_sparsity_is_the_identity(language: Program) -> None:
    data = data_for(language, 8, 3)
    for spec in ("teal{sparsity=0}", "wina{sparsity=0}", "teal{sparsity=0,allocation=uniform}"):
        result, context = rewritten(spec, language)
        assert [node.target for node in result.nodes] == [node.target for node in language.nodes]
        assert torch.equal(outputs(result, data), outputs(language, data))
        assert not any(decision.done for decision in context.decisions)
    # And where the node is there, a threshold of 0 changes no bit.
    result, _ = rewritten("teal", language)
    zero = {name: torch.zeros_like(by_source(result, name)) for name in result.tensor_names.values() if name.endswith("_threshold")}
    assert zero and torch.equal(outputs(result.with_parameters(zero), data), outputs(language, data))


def test_layers_share_a_node_where_input_and_threshold_are_the_same(language: Program) -> None:
    uniform = sorted(map(sorted, sparsified(rewritten("teal{allocation=uniform}", language)[0]).values()))
    first = [[f"blocks.0.attention.{layer}" for layer in "kqv"], ["blocks.0.attention.o"], ["blocks.0.mlp.down"]]
    assert uniform[:4] == sorted([*first, ["blocks.0.mlp.gate", "blocks.0.mlp.up"]])
    assert len(sparsified(rewritten("wina{allocation=uniform}", language)[0])) == 14  # one each
    result, _ = rewritten("teal", language)
    greedy = sparsified(result)
    thresholds = {name: float(value) for users, value in _thresholds(result, greedy).items() for name in users}
    assert len(thresholds) == 14 and 6 < len(greedy) < 14
    for users in greedy.values():  # of one block's q, k and v, those of one threshold
        assert len({(name.rsplit(".", 1)[0], thresholds[name]) for name in users}) == 1


def _thresholds(program: Program, nodes: dict[str, list[str]]) -> dict[tuple[str, ...], Tensor]:
    by_name = {node.name: node for node in program.nodes}
    return {tuple(users): program.tensors[by_name[name].args[1].name].detach() for name, users in nodes.items()}  # type: ignore[union-attr]


def test_winas_mask_is_that_of_the_weighted_magnitudes() -> None:
    torch.manual_seed(SEED)
    net = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 8))
    with torch.no_grad():
        net[0].weight[:, 3] = 0.0
    program = program_of(net, 16)
    result, context = rewritten("wina{sparsity=0.6}", program)
    ((node, _),) = sparsified(result).items()
    assert context.fit is not None
    x = torch.from_numpy(next(iter(context.fit.inputs.values())))
    score = x.abs() * net[0].weight.detach().norm(dim=0)
    thresholds = by_source(result, "0.wina_threshold")
    assert thresholds.shape == (16,) and thresholds[3] == torch.inf
    limit = float(thresholds[0] * net[0].weight.detach()[:, 0].norm())
    exact = float(score.flatten().quantile(0.6))
    assert limit == pytest.approx(exact, rel=0.01)
    assert torch.equal(value_of(result, node, context.fit) != 0, score > limit)
    assert any("(1 input never needed)" in decision.why for decision in context.decisions)
    torch.testing.assert_close(
        value_of(result, "linear", context.fit), (x * (score > limit)) @ net[0].weight.detach().T + net[0].bias.detach()
    )


def test_inputs_that_are_sparse_by_nature_take_no_threshold() -> None:
    torch.manual_seed(SEED)
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 8), nn.Linear(8, 2))
    result, context = rewritten("teal{sparsity=0.3,allocation=uniform}", program_of(net, 12))
    assert ["2"] not in sparsified(result).values() and ["0"] in sparsified(result).values()
    (told,) = (decision for decision in context.decisions if decision.site == "2")
    assert not told.done and re.search(r"a threshold for 30\.0% would be 0; [45]\d\.\d% of its input are zeros by themselves", told.why)
    relu = next(node.name for node in result.nodes if "relu" in node.name)
    assert result.facts.values[relu].density == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("spec", ["teal", "wina", "teal{allocation=uniform}"])
def test_a_second_run_changes_nothing(spec: str, language: Program) -> None:
    once, _ = rewritten(spec, language)
    twice, context = rewritten(spec, once)
    assert [node.target for node in twice.nodes] == [node.target for node in once.nodes]
    assert sum("has a threshold already" in decision.why for decision in context.decisions) == 14


# ---- allocation --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teal", "wina"])
def test_greedy_spends_its_budget_and_errs_less_than_uniform(name: str) -> None:
    torch.manual_seed(SEED)
    net = nn.Sequential(GatedMlp(16, 40), nn.Linear(16, 4)).eval()
    program = program_of(net, 16)
    context = context_for(program, 128)  # 64 samples to choose by: what the error is measured on
    assert context.selection is not None
    x = torch.from_numpy(next(iter(context.selection.inputs.values())))
    dense = net[0](x).detach()
    errors = {}
    for allocation in ("greedy", "uniform"):
        result, told = rewritten(f"{name}{{sparsity=0.5,allocation={allocation}}}", program, dataclasses.replace(context, decisions=[]))
        levels = {one.site: float(re.search(r"for (\S+)% zeros", one.why)[1]) / 100 for one in told.decisions if one.done}  # type: ignore[index]
        sizes = {f"0.{layer}": net[0].get_submodule(layer).weight.numel() for layer in ("gate", "up", "down")}
        assert levels.keys() == sizes.keys()
        spent = sum(levels[layer] * size for layer, size in sizes.items()) / sum(sizes.values())
        assert spent == pytest.approx(0.5, abs=0.0006)  # the log's digits
        thresholds = {layer: by_source(result, f"0.{layer}.{name}_threshold") for layer in ("gate", "down")}
        thresholds["up"] = _of_layer(result, "0.up")
        kept = {key: (lambda v, t=t: v * (v.abs() > t)) for key, t in thresholds.items()}
        mlp = net[0]
        hidden = nn.functional.silu(mlp.gate(kept["gate"](x))) * mlp.up(kept["up"](x))
        y = mlp.down(kept["down"](hidden)).detach()
        errors[allocation] = float((y - dense).square().sum() / dense.square().sum())
        if allocation == "greedy":
            said = re.search(r"error of 0 (\S+), (\S+) uniformly", told.decisions[-1].why)
            assert said is not None
    assert errors["greedy"] < errors["uniform"]
    assert [float(said[1]), float(said[2])] == pytest.approx([errors["greedy"], errors["uniform"]], rel=0.01)


def test_every_level_spends_its_bytes_exactly_and_none_errs_more_than_uniform() -> None:
    """Also where a small layer that hardly matters is full at once."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large, self.small, self.last = nn.Linear(16, 32), nn.Linear(16, 4), nn.Linear(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.large(x) + 1e-3 * self.small(x).repeat(1, 8))

    torch.manual_seed(SEED)
    program = program_of(nn.Sequential(Sum(), nn.Linear(16, 4)), 16)
    context = context_for(program, 128)
    assert context.fit is not None and context.selection is not None
    fitted = calibrate(program, linear_sites(program)[:3], {}, context.fit, context.progress, "")
    assert [one.site.source for one in fitted] == ["0.large", "0.small", "0.last"]
    levels = grid(0.05)
    (path,) = greedy(program, fitted, levels, 0.05, context.selection, context.progress, "").values()
    total = sum(one.site.bytes for one in fitted)
    for level, found in zip(levels, path, strict=True):
        spent = sum(found.levels[one.site.name] * one.site.bytes for one in fitted) / total
        assert spent == pytest.approx(level, abs=1e-9)
        assert max(found.levels.values()) <= MOST + 1e-9
        assert found.error <= found.uniform_error
    assert path[-1].levels == pytest.approx(dict.fromkeys(path[-1].levels, MOST))
    assert path[1].levels[fitted[1].site.name] == pytest.approx(MOST)  # 0.95 of 1/17 of the bytes: more than a step gives


def _of_layer(program: Program, source: str) -> Tensor:
    nodes = sparsified(program)
    return next(value.detach() for users, value in _thresholds(program, nodes).items() if source in users)


def test_a_fixed_batch_is_kept_while_blocks_are_executed() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts, self.head = nn.ModuleList([GatedMlp()]), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.parts[0](x).reshape(2, 16))

    torch.manual_seed(SEED)
    program = program_of(Fixed(), 16)
    assert not program.interface.batch.symbolic
    context = context_for(program, 2)
    generator = torch.Generator().manual_seed(0)
    context.fit, context.selection = (Dataset({"x": torch.randn(size, 16, generator=generator).numpy()}, unit=2) for size in (64, 150))
    _, context = rewritten("teal", program, context)
    said = re.search(r"error of parts\.0 (\S+), (\S+) uniformly", context.decisions[-1].why)
    assert said is not None and 0 < float(said[1]) < float(said[2]) < 1


def test_a_plain_network_has_a_budget_for_each_layer() -> None:
    torch.manual_seed(SEED)
    result, _ = rewritten("teal{sparsity=0.3}", program_of(plain_mlp(), 12))
    assert list(sparsified(result).values()) == [["0"]]  # the ReLU in front of layer 2 gives more zeros than that
    again, _ = rewritten("teal{sparsity=0.7}", program_of(plain_mlp(), 12))
    assert list(sparsified(again).values()) == [["0"], ["2"]]


# ---- search ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["teal{max_drop=0.05,allocation=uniform}", pytest.param("teal{max_drop=0.05}", marks=pytest.mark.slow), "wina{max_drop=0.05}"]
)
def test_max_drop_holds_on_the_selection_data_and_the_curve_says_so(spec: str, language: Program) -> None:
    result, context = rewritten(spec, language, context_for(language, 96))
    assert context.selection is not None
    score = evaluate(
        lambda given: {"y": outputs(result, Dataset(given)).numpy()},
        context.selection,
        "agreement",
        reference=lambda given: {"y": outputs(language, Dataset(given)).numpy()},
    )
    assert 0.95 - 1e-9 <= score.value < 1
    (curve,) = context.curves
    assert (curve.pass_name, curve.metric, curve.before, curve.samples) == (spec[:4], "agreement", 1.0, 48)
    assert curve.points[0].density == 1.0 and curve.points[0].value == 1.0 and curve.points[0].level == 0
    assert [point.level for point in curve.points] == sorted(point.level for point in curve.points)
    (kept,) = (point for point in curve.points if point.kept)
    assert kept.value == pytest.approx(score.value)
    total = {site.source: site.bytes for site in linear_sites(result)}
    names = {name: node for node, names in sparsified(result).items() for name in names}
    density = sum(total[name] * float((value_of(result, names[name], context.selection) != 0).float().mean()) for name in names)
    dense = sum(size for name, size in total.items() if name not in names and name != "head")
    assert kept.density == pytest.approx((density + dense) / sum(size for name, size in total.items() if name != "head"))
    best = max((point for point in curve.points if point.uniform and point.value >= 0.95), key=lambda point: point.level)
    assert kept.level >= best.level


def test_a_search_needs_data_to_choose_by_and_nothing_else_does() -> None:
    program = program_of(plain_mlp(), 12)
    fit = data_for(program, 32, 0)
    for spec, needs in {"teal": True, "teal{allocation=uniform}": False, "topk": False, "topk{max_drop=0.1}": True}.items():
        (made,) = parse_passes(spec)
        assert made.needs_selection is needs
        if needs:
            with pytest.raises(DataError, match="needs data to choose by"):
                made(program, Context(fit=fit))
        else:
            made(program, Context(fit=fit))
    with pytest.raises(DataError, match="needs calibration data"):
        rewritten("teal", program, Context(selection=fit))
    # A context has no place for the data of --eval: passes cannot read them.
    assert {field.name for field in dataclasses.fields(Context) if "Dataset" in str(field.type)} == {"fit", "selection"}


def test_where_no_loss_is_allowed_and_every_step_loses_nothing_is_done() -> None:
    torch.manual_seed(SEED)
    program = program_of(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 200, bias=False)), 4)
    result, context = rewritten("teal{max_drop=0,allocation=uniform,step=0.4}", program)
    assert sparsified(result) == {}
    assert [decision.why.split(";")[0] for decision in context.decisions if decision.site == "0"] == ["no threshold holds the metric"]
    (curve,) = context.curves
    assert [point.kept for point in curve.points].count(True) == 1 and curve.points[0].kept


def test_labels_choose_the_metric(language: Program) -> None:
    context = context_for(language, 64)
    assert context.selection is not None
    labels = torch.randint(0, 6, (len(context.selection), 5), generator=torch.Generator().manual_seed(0)).numpy()
    context.selection = dataclasses.replace(context.selection, labels=labels)
    _, context = rewritten("teal{max_drop=0.02,allocation=uniform,layers=blocks.0.mlp}", language, context)
    assert context.curves[0].metric == "perplexity"
    assert all(point.value <= context.curves[0].before + 0.02 for point in context.curves[0].points if point.kept)
    context.metric = "kl"
    _, context = rewritten("teal{max_drop=0.02,allocation=uniform,layers=blocks.0.mlp}", language, context)
    assert context.curves[1].metric == "kl" and abs(context.curves[1].before) < 1e-9
