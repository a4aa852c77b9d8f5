"""What a pruner decides: exact counts, exact choices, nothing that is masked comes back, and channels go whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effc.errors import ConfigError, UsageError
from effc.nn.channel_group import ChannelGroup, Slice
from effc.nn.channel_pruning import alive_channels, channel_scores, without_lowest_channels
from effc.nn.pruning import (
    all_alive,
    best_of_rows,
    for_sparsity,
    gradient,
    kept,
    magnitude,
    moved_least,
    remaining,
    without_lowest,
)
from effc.nn.pruning_plan import PruningPlan
from effc.nn.pruning_round import prune


def made(**rows: list[object]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) for name, values in rows.items()}


def test_scores() -> None:
    weights = made(a=[-2.0, 0.5], b=[[3.0]])
    assert magnitude(weights)["a"].tolist() == [2.0, 0.5]
    scores = gradient(weights, made(a=[0.25, -8.0], b=[[-1.0]]))
    assert {name: score.tolist() for name, score in scores.items()} == {"a": [0.5, 4.0], "b": [[3.0]]}


def test_the_lowest_scores_go_and_ties_go_in_order() -> None:
    scores = made(a=[1.0, 3.0, 1.0], b=[[2.0, 1.0]])
    masks = without_lowest(scores, all_alive(scores), 2)
    assert masks["a"].tolist() == [False, True, False]
    assert masks["b"].tolist() == [[True, True]]
    again = without_lowest(scores, masks, 1)
    assert again["b"].tolist() == [[True, False]]


def test_layer_scope_takes_of_each_layer_by_largest_remainders() -> None:
    scores = {"a": torch.arange(7.0), "b": torch.arange(100.0, 103.0), "c": torch.arange(2.0)}
    masks = without_lowest(scores, all_alive(scores), 5, "layer")  # 5 * (7, 3, 2) / 12 = 2.92, 1.25, 0.83
    assert [remaining(masks, [name]) for name in scores] == [4, 2, 1]
    assert masks["a"].tolist() == [False] * 3 + [True] * 4


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    share=st.floats(0, 1),
    scope=st.sampled_from(["global", "layer"]),
    seed=st.integers(0, 99),
)
def test_counts_are_exact_and_masked_weights_are_never_counted(sizes: list[int], share: float, scope: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {str(index): torch.randint(0, 4, (size,), generator=generator).float() for index, size in enumerate(sizes)}
    masks = {name: torch.rand(score.shape, generator=generator) < 0.6 for name, score in scores.items()}
    before = remaining(masks)
    after = kept(scores, masks, share, scope)  # type: ignore[arg-type]
    assert remaining(after) == before - round(share * before)
    assert not any(bool((after[name] & ~masks[name]).any()) for name in masks)
    if scope == "global":
        gone = torch.cat([scores[name][masks[name] & ~after[name]] for name in scores])
        left = torch.cat([scores[name][after[name]] for name in scores])
        assert not len(gone) or not len(left) or float(gone.max()) <= float(left.min())


def test_ap_takes_negative_alive_weights_that_moved_least() -> None:
    starts = made(w=[1.0, -1.0, -1.0, -1.0, 0.5, -2.0])
    weights = made(w=[1.0, -1.5, -1.1, -1.0, -0.5, -9.0])
    masks = {"w": torch.tensor([True, True, True, False, True, True])}
    assert moved_least(weights, starts, masks, 2)["w"].tolist() == [True, False, False, False, True, True]
    everything = moved_least(weights, starts, masks, 10)["w"]  # only four are negative and alive: the count that is left tells so
    assert everything.tolist() == [True, False, False, False, False, False]


def test_ap_counts_inside_of_the_budget_and_owes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(1000, generator=generator)}
    starts = {"w": weights["w"] + torch.randn(1000, generator=generator)}
    alive = all_alive(weights)
    done = prune(weights, magnitude(weights), alive, 200, by_ap=20, starts=starts)
    assert (done.removed, done.by_ap, remaining(done.masks)) == (200, 20, 800)
    base = without_lowest(magnitude(weights), alive, 180)
    extra = base["w"] & ~done.masks["w"]
    assert int(extra.sum()) == 20
    assert bool((weights["w"][extra] < 0).all())
    moved = (weights["w"] - starts["w"]).abs()
    assert float(moved[extra].max()) < float(moved[done.masks["w"] & (weights["w"] < 0)].min())
    positive = {"w": weights["w"].abs()}
    done = prune(positive, magnitude(positive), alive, 200, by_ap=20, starts=starts)
    assert (done.removed, done.by_ap) == (200, 0)
    assert done.masks["w"].equal(without_lowest(magnitude(positive), alive, 200)["w"])


def test_outputs_keep_a_weight_in_each_row() -> None:
    weights = {"body": torch.full((2, 4), 5.0), "head": torch.tensor([[0.1, 0.3], [0.2, 0.2], [-0.01, 0.0]])}
    masks = all_alive(weights)
    stay = best_of_rows(magnitude(weights), masks, {"head": 0})
    assert stay["head"].tolist() == [[False, True], [True, False], [True, False]]
    done = prune(weights, magnitude(weights), masks, 5, by_ap=1, starts=weights, outputs={"head": 0})
    assert done.masks["head"].equal(stay["head"])
    assert (done.removed, done.by_ap) == (5, 0)
    assert best_of_rows({"w": torch.ones(2, 3)}, {"w": torch.ones(2, 3, dtype=torch.bool)}, {"w": 1})["w"].sum(0).tolist() == [1, 1, 1]
    layered = prune(weights, magnitude(weights), masks, 9, scope="layer", outputs={"head": 0})  # the head owes 4 and can give 3
    assert [remaining(layered.masks, [name]) for name in weights] == [2, 3]


def test_too_much_and_nan_are_refused() -> None:
    scores = made(a=[1.0, float("nan")])
    with pytest.raises(UsageError, match="a: score: is NaN"):
        without_lowest(scores, all_alive(scores), 1)
    fine = without_lowest(scores, {"a": torch.tensor([True, False])}, 1)  # a masked one may be anything
    assert remaining(fine) == 0
    with pytest.raises(UsageError, match="3 weights shall go, but only 2 of 2 may"):
        without_lowest(made(a=[1.0, 2.0]), all_alive(scores), 3)
    with pytest.raises(ConfigError, match="share"):
        kept(scores, all_alive(scores), 1.5)


@pytest.mark.parametrize(("sparsity", "share", "cycles"), [(0.8, 0.2, 8), (0.0, 0.2, 0), (0.2, 0.2, 1), (0.99, 0.2, 21), (0.36, 0.2, 2)])
def test_cycles_meet_a_sparsity_exactly(sparsity: float, share: float, cycles: int) -> None:
    shares = for_sparsity(sparsity, share)
    assert len(shares) == cycles
    assert all(one == share for one in shares[:-1])
    assert all(0 < one <= share for one in shares)
    for total in (7, 1000, 271_117):
        alive = total
        plan = PruningPlan.of(shares, 0.0, None) if shares else None
        for cycle in range(cycles):
            assert plan is not None
            alive -= plan.budget(cycle, total, alive)[0]
        assert alive == round(total * (1 - sparsity))


def test_the_plan_of_the_paper_is_18_plus_2() -> None:
    plan = PruningPlan.of(0.2, 0.02, 2)
    assert plan.budget(0, 10_000, 10_000) == (2000, 200)
    assert plan.budget(1, 10_000, 8000) == (1600, 160)
    assert plan.budget(1, 10_000, 7900) == (1500, 158)  # whole channels took more before
    for wrong in ((0.2, 0.3, 2), (1.0, 0.0, 1), ((0.2, 0.1), 0.0, 3), (0.2, 0.0, None)):
        with pytest.raises(ConfigError, match="pruning"):
            PruningPlan.of(*wrong)


# ---- channels --------------------------------------------------------------------------------------------------------------------------

GROUPS = (
    ChannelGroup("conv", 3, (Slice("conv.w", 0), Slice("conv.b", 0)), (Slice("fc.w", 1, repeat=2),)),
    ChannelGroup("fc", 2, (Slice("fc.w", 0),), (Slice("head.w", 1),)),
)


def channels() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    weights = {
        "conv.w": torch.tensor([3.0, -1.0, 2.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2).clone(),
        "fc.w": torch.tensor([[1.0] * 6, [-7.0] * 6]),
        "head.w": torch.ones(4, 2),
    }
    return weights, all_alive({**weights, "conv.b": torch.ones(3)})


def test_a_channel_s_score_is_relative_to_its_group() -> None:
    weights, masks = channels()
    scores = channel_scores(magnitude(weights), masks, GROUPS)
    norm = (14.0 / 3) ** 0.5
    torch.testing.assert_close(scores["conv"], torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64) / norm)
    torch.testing.assert_close(scores["fc"], torch.tensor([1.0, 7.0], dtype=torch.float64) / 5)


def test_channels_go_whole_with_what_reads_them() -> None:
    weights, masks = channels()
    one = without_lowest_channels(magnitude(weights), masks, GROUPS, 1)  # fc 0: a row of fc.w and a column of head.w
    assert remaining(one, weights) == remaining(masks, weights) - 6 - 4
    assert one["conv.b"].tolist() == [True] * 3
    both = without_lowest_channels(magnitude(weights), masks, GROUPS, 11)  # and conv 1, of which fc.w has two weights left
    assert remaining(both, weights) == remaining(one, weights) - 4 - 2
    assert both["conv.b"].tolist() == [True, False, True]
    assert both["fc.w"].tolist() == [[False] * 6, [True, True, False, False, True, True]]
    assert both["head.w"].tolist() == [[False, True]] * 4
    assert alive_channels(both, GROUPS)["conv"].tolist() == [True, False, True]
    assert all(bool(mask.all()) for mask in masks.values())  # what was given is as it was


def test_the_last_channel_of_a_group_stays() -> None:
    weights, masks = channels()
    most = remaining(masks, weights) - (4 + 2 + 4)  # conv 0, two weights of fc 1, one column of head
    last = without_lowest_channels(magnitude(weights), masks, GROUPS, most)
    assert {name: int(alive.sum()) for name, alive in alive_channels(last, GROUPS).items()} == {"conv": 1, "fc": 1}
    with pytest.raises(UsageError, match="with one channel left in each of 2 groups only"):
        without_lowest_channels(magnitude(weights), masks, GROUPS, most + 1)


def test_layer_scope_takes_the_same_share_of_each_group() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(10, 4, generator=generator), "b": 100 + torch.randn(20, 4, generator=generator)}
    groups = [ChannelGroup(name, len(weight), (Slice(name, 0),), ()) for name, weight in weights.items()]
    masks = without_lowest_channels(magnitude(weights), all_alive(weights), groups, 24, "layer")
    assert {name: int(alive.sum()) for name, alive in alive_channels(masks, groups).items()} == {"a": 8, "b": 16}
