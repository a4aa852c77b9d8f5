"""The sparsity benchmarks: what they count, on cases that are known; that they skip without data; and the page that they fill."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from benchmarks import documents, lm_sparsity, relu_sparsity, sparsity_page
from benchmarks.harness import Options
from benchmarks.llama import Sizes, random_weights
from benchmarks.lm_sparsity import Study
from benchmarks.stories import Whole
from benchmarks.weights_read import RandomMasks, read_by_a_token
from benchmarks.zeros import RUN, Convolution, Zeros, convolutions
from effc.data import Dataset
from effc.frontends import load_program

SIZES = Sizes(width=16, hidden=24, layers=2, heads=4, key_heads=2, vocabulary=11, positions=8)


def node() -> fx.Node:
    return fx.Graph().placeholder("x")


@given(
    size=st.integers(3, 19),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    seed=st.integers(0, 99),
)
def test_what_could_be_left_out_is_what_a_loop_over_all_multiply_adds_finds(
    size: int, kernel: int, stride: int, pads: tuple[int, int, int, int], seed: int
) -> None:
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed)).clamp_min(0.8)
    x = torch.where(x == 0.8, 0.0, x)
    x[0, 1] = 0
    zeros = Zeros(Convolution(node(), node(), (kernel, kernel), (stride, stride), pads))
    for half in (x[:1], x[1:]):
        zeros.see(half)
    left, _, top, _ = pads
    rows, columns = ((size + pads[2] + pads[3] - kernel) // stride + 1, (size + pads[0] + pads[1] - kernel) // stride + 1)
    work = skipped_values = skipped_runs = skipped_channels = 0
    for image, channel, row, start, dy, dx in np.ndindex(2, 3, rows, math.ceil(columns / RUN), kernel, kernel):
        run = []
        for column in range(start * RUN, min(columns, (start + 1) * RUN)):
            y, z = row * stride + dy - top, column * stride + dx - left
            if 0 <= y < size and 0 <= z < size:
                run.append(float(x[image, channel, y, z]))
        work += len(run)
        skipped_values += run.count(0.0)
        skipped_runs += len(run) if not any(run) else 0
        skipped_channels += len(run) if not x[image, channel].any() else 0
    found = [zeros.share(what) * work for what in ("values", "runs", "channels")]
    assert found == pytest.approx([skipped_values, skipped_runs, skipped_channels])
    assert zeros.share("elements") == pytest.approx(float((x != 0).float().mean()))
    assert zeros.share("zero channels") == pytest.approx(float((x == 0).all(3).all(2).float().mean()))
    assert zeros.share("empty pixels") == pytest.approx(float((x == 0).all(1).float().mean()))


class TwoConvolutions(nn.Module):
    """The second one reads an activation behind a padding of its own; the first one an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, (3, 1), stride=2, padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.pad(self.first(x).relu(), (0, 1, 2, 0)))
        return y


def test_convolutions_are_found_behind_padding() -> None:
    program = load_program(TwoConvolutions().eval(), example_inputs=(torch.randn(1, 3, 8, 8),))
    (found,) = convolutions(program)
    assert (found.label, found.value.name) == ("second", "relu")
    assert (found.kernel, found.stride, found.pads) == ((3, 1), (2, 2), (0, 1, 3, 1))
    seen = Zeros(found)
    seen.see(torch.ones(1, 4, 8, 8))
    assert [seen.share(what) for what in ("elements", "values", "runs", "channels")] == [1, 0, 0, 0]


def test_skipping_is_held_against_the_faster_dense_kernel() -> None:
    assert relu_sparsity.best_times(10.0, 16.0, {"runs": 0.25, "values": 0.5}) == {"least us, runs": 10.0, "least us, values": 8.0}


class Gated(nn.Module):
    """One gated network and a head, with a norm's scale between."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((4, 8), (4, 8), (8, 4)))
        self.scale, self.head = nn.Parameter(torch.ones(4)), nn.Linear(4, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.down(self.gate(x).relu() * self.up(x)) * self.scale)
        return y


def test_bytes_that_a_token_reads() -> None:
    program = load_program(Gated().eval(), example_inputs=(torch.randn(2, 4),))
    densities = {one.name: 1.0 for one in program.graph.nodes}
    assert read_by_a_token(program, program, densities).layers == 1.0
    (relu,) = (one.name for one in program.nodes if "relu" in one.name)
    (product,) = (one.name for one in program.nodes if one.target is torch.ops.aten.mul.Tensor and "linear_1" in str(one.args))
    some = read_by_a_token(program, program, densities | {"x": 0.5, relu: 0.25, product: 0.25})
    layers = 0.5 * 32 + 0.5 * 0.25 * 32 + 0.25 * 32  # gate; up: a quarter of its rows; down
    assert some.layers == layers / 96
    assert some.whole == (layers + 24 + 4) / (96 + 24 + 4)  # the head and the scale


def test_random_masks_keep_their_share_and_nothing_else_changes() -> None:
    program = load_program(Whole(random_weights(SIZES)).eval(), example_inputs=(torch.zeros(1, 8, dtype=torch.int64),))
    texts = torch.randint(0, SIZES.vocabulary, (6, 8), generator=torch.Generator().manual_seed(0))
    (expected,) = program.run({"tokens": texts}).values()
    batch = Dataset({"tokens": texts.numpy()})
    assert torch.equal(next(iter(RandomMasks(program, 1.0, 0).run_batch(batch).values())), expected)
    half = RandomMasks(program, 0.5, 0)
    (changed,) = half.run_batch(batch).values()
    assert 0.45 < half.kept < 0.55
    assert not torch.allclose(changed, expected)
    nothing = RandomMasks(program, 0.0, 0)
    (alone,) = nothing.run_batch(batch).values()
    weights = random_weights(SIZES)
    embedded = weights.embedding[texts]
    normed = embedded * torch.rsqrt(embedded.square().mean(-1, keepdim=True) + 1e-5) * weights.norm
    assert nothing.kept == 0.0
    assert torch.allclose(alone, F.linear(normed, weights.head), atol=1e-5)  # the head is not masked


def test_a_study_measures_on_texts_that_no_pass_has_seen() -> None:
    ids = np.random.default_rng(0).integers(0, SIZES.vocabulary, (24, 9))
    study = Study.of(Whole(random_weights(SIZES)).eval(), ids[:16], ids[16:])
    assert study.dense.kl.value == 0.0
    assert study.held_out.labels is not None and np.array_equal(study.held_out.labels, ids[16:, 1:])
    half = study.apply("teal{sparsity=0.5,allocation=uniform}")
    assert half.read.layers == pytest.approx(0.5, abs=0.06)
    assert half.read.layers < half.read.whole < 1
    networks = study.apply("topk{sparsity=0.5}")
    gated = 3 * 16 * 24 / (3 * 16 * 24 + 2 * 16 * 16 + 2 * 8 * 16)  # the networks' share of a block's bytes
    assert networks.read.layers == pytest.approx(1 - gated / 3, abs=1e-6)  # half of up's rows and of down's columns
    assert half.kl.value > 0 and networks.kl.value > 0


@pytest.mark.parametrize("benchmark", [lm_sparsity, relu_sparsity])
def test_without_data_they_say_what_is_missing(benchmark: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFFC_DATA", str(tmp_path))
    outcome = benchmark.measure(Options())  # type: ignore[attr-defined]
    assert outcome.claims == []
    assert outcome.rows and all(row["skipped"].startswith("$EFFC_DATA/") for row in outcome.rows)


def test_the_page_changes_between_its_marks_only() -> None:
    page = sparsity_page.PAGE.read_text()
    for name in sparsity_page.BENCHMARKS:
        changed = documents.replaced(page, name, "new")
        assert f"<!-- {name}:begin -->\nnew\n<!-- {name}:end -->" in changed
        assert documents.replaced(changed, name, "other") == documents.replaced(page, name, "other")
        for broken in ("", page * 2):
            with pytest.raises(ValueError, match=f"{name}:begin"):
                documents.replaced(broken, name, "new")
    with pytest.raises(ValueError, match="quick"):
        sparsity_page.text("lm_sparsity", {"machine": {"quick": True}, "rows": [], "claims": []})
