"""Sites: what each stored tensor is, which values have bits, how sites are named, chosen, numbered, and written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.errors import ConfigError
from effc.faultsim.formats import stored_view
from effc.faultsim.sites import Site, find_sites, operator_name
from effc.faultsim.subject import ProgramSubject
from effc.frontends import load_program
from effc.passes import Context, Pipeline, Ranger
from tests.unit.faultsim.networks import all_sites, digits, digits_data, program


def test_stored_tensors_by_what_reads_them() -> None:
    found = {site.name: (site.layer, site.kind, site.op) for site in find_sites(program("residual"))}
    assert found == {
        "stem.weight": ("stem", "weight", "conv2d"),
        **{f"norm.{name}": ("norm", "norm", "batch_norm") for name in ("weight", "bias", "running_mean", "running_var")},
        **{f"{layer}.{kind}": (layer, kind, "conv2d") for layer in ("twice", "dead") for kind in ("weight", "bias")},
        **{f"head.{kind}": ("head", kind, "linear") for kind in ("weight", "bias")},
    }
    views = {site.name: (site.kind, site.op) for site in find_sites(program("views"))}
    assert views["linear"] == ("weight", "matmul")  # through t()
    assert views["kernel"] == ("weight", "conv2d")  # through permute()


def test_the_digits_network_in_numbers() -> None:
    sites = find_sites(digits().program)
    assert sum(site.elements for site in sites if site.kind == "weight") == 16 * 9 + 32 * 16 * 9 + 32 * 32 * 9 + 128 * 10
    assert [site.layer for site in sites if site.kind == "weight"] == ["stem", "conv1", "conv2", "classifier"]
    assert sum(site.elements for site in sites if site.kind == "norm") == 4 * (16 + 32 + 32)


class Parts(nn.Module):
    """Values with and without numbers of their own for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2, 16, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.table.chunk(2)  # (1, 16, 6): a leading 1 that is no batch
        left, right = x.flatten(1).chunk(2, dim=1)  # (N, 16): views of x
        rows = torch.relu(x.reshape(-1, 16)) @ first[0]  # (2 N, 6): two rows a sample
        best, _ = torch.topk(left * 2, 4)
        return rows.reshape(-1, 12) + 1, (right @ second[0]) * best.sum(1, keepdim=True)


def test_values_have_bits_for_each_sample() -> None:
    """Neither views, nor values that no sample has or that a sample has twice."""
    parts = load_program(Parts(), example_inputs=(torch.randn(3, 2, 4, 4),))
    assert parts.interface.batch.symbolic
    found = [(site.op, site.shape) for site in find_sites(parts, where=("activation",))]
    assert found == [("mul", (16,)), ("getitem", (4,)), ("add", (12,)), ("matmul", (6,)), ("sum", (1,)), ("mul", (6,))]
    assert [(site.name, site.shape) for site in find_sites(parts, where=("input",))] == [("x", (2, 4, 4))]


class Shows(nn.Module):
    """One ReLU, one doubling and one conversion, and much that gives the same memory back."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)  # (N, 2, 4, 4)
        x = nn.functional.dropout(x, 0.5, training=False).to(torch.float32).type_as(x).contiguous()
        x = torch.unflatten(x.swapaxes(2, 3).movedim(1, 3).narrow(1, 0, 2), 1, (1, 2)).squeeze(1)  # (N, 2, 4, 2)
        first, second = x.unbind(1)
        left, right = torch.split(first, 2, dim=1)
        return (left.diagonal(0, 1, 2) * 2).to(torch.float64), right, second  # type: ignore[return-value]


def test_what_only_shows_another_value_is_no_site() -> None:
    """Its bits would be counted twice."""
    shows = load_program(Shows(), example_inputs=(torch.randn(3, 2, 4, 4),))
    assert {"dropout", "type_as", "swapaxes", "unbind", "split", "diagonal"} <= {operator_name(node) for node in shows.nodes}
    found = [(site.op, site.shape, site.view.name) for site in find_sites(shows, where=("activation",))]
    assert found == [("relu", (2, 4, 4), "f32"), ("mul", (2,), "f32"), ("to", (2,), "f64")]


class Tied(nn.Module):
    """An embedding that is also the head, one matrix for three projections, and a table of which rows are weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 6), nn.Linear(6, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.places = nn.Parameter(torch.randn(9, 6))
        self.inner = nn.Parameter(torch.randn(18, 6))
        self.shifts = nn.Parameter(torch.randn(18))
        self.pair = nn.Parameter(torch.randn(2, 6, 6))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.places[: tokens.shape[1]]
        weights, shifts = self.inner.chunk(3), torch.split(self.shifts, 6)
        q, k, v = (nn.functional.linear(x, weights[one], shifts[one]) for one in range(3))
        first, second = self.pair.unbind()
        x = torch.softmax(q @ k.transpose(1, 2), -1) @ v @ first + x @ second.narrow(0, 0, 6)
        return self.head(x)  # type: ignore[no-any-return]


def test_a_weight_that_is_tied_or_cut_is_a_weight() -> None:
    tied = load_program(Tied(), example_inputs=(torch.randint(0, 7, (3, 4)),))
    found = {site.name: (site.kind, site.op) for site in find_sites(tied)}
    table = found.pop("embedding.weight", None) or found.pop("head.weight")
    assert table == ("weight", "linear")
    assert found == {"inner": ("weight", "linear"), "shifts": ("bias", "linear"), "pair": ("weight", "matmul"), "places": ("other", "add")}


@pytest.mark.parametrize("name", ["residual", "views", "constants"])
def test_names_mean_one_site(name: str) -> None:
    """`twice` makes two values and has a weight: a list of faults must be able to say which it means."""
    sites = all_sites(program(name))
    assert len({site.name for site in sites}) == len(sites)
    weights = {site.layer for site in sites if site.is_stored}
    assert not weights & {site.name for site in sites if not site.is_stored}
    if name == "residual":
        assert [site.name for site in sites if site.layer == "twice" and site.kind == "activation"] == ["twice:conv2d_1", "twice:conv2d_2"]
        assert "add" in {site.name for site in sites}


def test_names_do_not_depend_on_what_is_chosen() -> None:
    every = {site.key: site for site in all_sites(program("residual"))}
    assert all(site == every[site.key] for site in find_sites(program("residual"), where=("activation",), layers=("twice",)))


def test_bounds_of_a_protection_are_sites() -> None:
    """What a protection adds can be hit as well, scalars too: else it looks better than it is."""
    protected = Pipeline([Ranger()])(digits().program, Context(fit=digits_data(64)))
    nodes = [node for node in protected.nodes if operator_name(node) == "bound"]
    assert nodes
    assert [(site.op, site.shape) for site in find_sites(protected, where=("bound",))] == [("bound", ())] * 2 * len(nodes)
    assert {"bound"} < {site.kind for site in find_sites(protected)}


def test_choosing() -> None:
    def names(**chosen: tuple[str, ...]) -> list[str]:
        return [site.name for site in find_sites(program("residual"), **chosen)]  # type: ignore[arg-type]

    assert names(where=("weight",), layers=("t*", "head")) == ["twice.weight", "head.weight"]
    assert names(where=("weight", "bias"), ops=("linear",)) == ["head.weight", "head.bias"]
    assert names(layers=("*.running_var",)) == ["norm.running_var"]
    assert names(where=("input",)) == ["x"]
    assert names(where=("activation",), ops=("max_pool2d",)) == ["max_pool2d"]


def test_everything_that_fits_nothing_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        find_sites(program("residual"), where=("weight", "weights"), layers=("layer9.*", "head"), ops=("gemm",))
    assert [(problem.where, problem.what) for problem in refused.value.problems] == [
        ("where", "'weights'"),
        ("layers", "'layer9.*'"),
        ("ops", "'gemm'"),
    ]
    assert refused.value.problems[1].hint == "layers: dead, head, stem, twice"
    for chosen, word in (
        ({"where": ("bound",)}, "no such site"),
        ({"where": ("weight",), "layers": ("stem",), "ops": ("linear",)}, "together"),
        ({"view": "int99"}, "int99"),
    ):
        with pytest.raises(ConfigError) as refused:
            find_sites(program("residual"), **chosen)  # type: ignore[arg-type]
        assert word in str(refused.value)


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_elements_and_indices(shape: list[int], choice: st.DataObject) -> None:
    site = Site("a", "a", "a", "weight", "conv2d", tuple(shape), stored_view(torch.float32))
    numbers = torch.arange(site.elements).reshape(shape)
    element = choice.draw(st.integers(0, site.elements - 1))
    index = site.index(element)
    assert numbers[index].item() == element == site.element(index) == site.element((element,))
    for wrong in ((*index, 0, 0), (site.elements,), tuple(extent for extent in shape) if len(shape) > 1 else (site.elements + 1,)):
        with pytest.raises(ValueError, match=r"a has (shape|\d+ elements)"):
            site.element(wrong)


@pytest.mark.parametrize("view", ["stored", "int8", "q3.12", "bf16", "f16", "int5"])
def test_sites_survive_being_written_down(view: str) -> None:
    sites = find_sites(program("residual"), where=("parameters", "activation", "input"), view=view)
    assert [Site.from_json(json.loads(json.dumps(site.as_json()))) for site in sites] == sites
    if view == "int8":
        weight = program("residual").tensors["p_head_weight"].detach()
        scale = next(site.view for site in sites if site.name == "head.weight").scale  # type: ignore[attr-defined]
        assert scale == (weight.abs().max().double() / 127).float().item()


def test_a_subject_is_what_its_file_says(tmp_path: Path) -> None:
    digits().save(tmp_path)
    again = ProgramSubject.load(tmp_path, digits().name)
    assert again.identity() == digits().identity()
    assert all_sites(again.program) == all_sites(digits().program)
