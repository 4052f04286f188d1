"""Activation patching: shares and agreement by hand, a planted circuit from the model to the page, and the gate."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from task_cases import RIGHT, WRITERS, WRONG, A, B, planted, planted_pairs

from gatebook.chapters.activation_patching import BASE, EXCHANGED, GROUPS, INTEGRATED, OTHER_RUN, Thresholds, page, run
from gatebook.chapters.activation_patching.measure import (
    gate,
    halves,
    measure,
    overlap,
    passes,
    pearson,
    spearman,
)
from gatebook.chapters.base.page import Seen
from gatebook.inputs.tasks.base import Pair
from gatebook.measures.recovered import resampled
from gatebook.study.pairs import of_list

OPTIONS = {"permutations": 20, "halves_seed": 1, "resamples": 100, "seed": 1, "confidence": 0.95, "fewest_clusters": 4}
STUDY = {"steps": 2, "scrambles": 2, "top": 2, "random_sets": 3, "seed": 1}
PAIRS = planted_pairs()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More of them take longer for models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return planted()


@pytest.fixture(scope="module")
def outcome(model):
    return run.study(model, PAIRS, halves(PAIRS, 1), tokens_per_batch=1000, **STUDY)


def seen_of(clean, outcomes, pairs=PAIRS) -> Seen:
    measured = measure({"mine": pairs}, {"mine": clean}, outcomes, [0, 1], 8, **OPTIONS)
    about = {"titles": '{"mine": "made up"}', "top": 2, "steps": 2, "random_sets": 3, "scrambles": 2}
    return Seen(measured.metrics.assign_attrs(about), thresholds=Thresholds().model_dump())


@pytest.fixture(scope="module")
def seen(outcome) -> Seen:
    return seen_of(outcome.clean, {"mine": outcome})


def value(seen: Seen, name: str, **where) -> np.ndarray:
    return seen.metrics[name].sel(task="mine", interval="estimate", **where).values


# ---------------------------------------------------------------- a planted circuit


def test_the_two_experts_that_carry_the_answer_are_found(seen):
    wanted = np.zeros((2, 2, 8))
    wanted[:, 0, list(WRITERS)] = 0.5  # one writes the right answer, the other the wrong one
    np.testing.assert_allclose(value(seen, "expert_recovered"), wanted, atol=1e-5)
    np.testing.assert_allclose(value(seen, "chosen_recovered"), 1, atol=1e-5)
    assert seen.metrics["chosen"].sel(task="mine").values.tolist() == ["0.1, 0.2"] * 2
    assert (value(seen, "random_recovered") < 0.7).all()
    np.testing.assert_allclose(value(seen, "attention_recovered"), 0, atol=1e-6)


def test_routing_carries_it_and_inputs_do_not(seen):
    found = dict(zip(EXCHANGED, value(seen, "exchanged_recovered", where="all layers").T, strict=True))
    np.testing.assert_allclose(found["routing"], 1, atol=1e-3)
    np.testing.assert_allclose(found["experts alone"], 1, atol=1e-3)
    np.testing.assert_allclose(found["weights alone"], 0, atol=1e-3)
    np.testing.assert_allclose(found["inputs"], 0, atol=1e-3)  # they hold what all tokens have
    np.testing.assert_allclose(found["routing and inputs"], 1, atol=1e-3)
    assert value(seen, "routing_share") == pytest.approx(1, abs=1e-3)
    left = seen.metrics["gap_left"].sel(task="mine", interval="estimate", where="all layers")
    assert left.sel(change="another prompt").item() == pytest.approx(1, abs=1e-3)
    assert left.sel(change="random experts").item() < 0.5
    assert left.sel(change="routing").item() == pytest.approx(-1, abs=1e-3)


def test_the_last_token_holds_it_and_selects_other_experts(seen):
    found = seen.metrics["position_recovered"].sel(task="mine", interval="estimate")
    np.testing.assert_allclose(found.sel(group=GROUPS[-1]), 1, atol=1e-6)
    np.testing.assert_allclose(found.sel(group=list(GROUPS[:-1])), 0, atol=1e-6)
    assert value(seen, "sets_differ").tolist() == [1, 0]  # A or B is the only token that differs, and the last one


def test_where_experts_carry_nothing_none_is_found():
    model = planted(carried=False)
    found = run.study(model, PAIRS, halves(PAIRS, 1), tokens_per_batch=1000, **STUDY)
    shown = seen_of(found.clean, {"mine": found})
    np.testing.assert_allclose(value(shown, "expert_recovered"), 0, atol=1e-6)
    np.testing.assert_allclose(value(shown, "chosen_recovered"), 0, atol=1e-6)
    np.testing.assert_allclose(value(shown, "routing_share"), 0, atol=1e-6)
    named = {finding.question: finding for finding in page.findings(shown)}
    assert named["Do few experts carry the task mine?"].verdict == "no"
    routing = named["Does routing carry the task mine, or do the experts' inputs?"]
    assert routing.verdict == "unclear" and "not informative" in routing.answer


def test_the_page_says_so(seen):
    found = {finding.question: finding for finding in page.findings(seen)}
    assert [finding.verdict for finding in found.values()][:3] == ["yes", "yes", "yes"]
    assert "so the test can tell" in found["Does routing carry the task mine, or do the experts' inputs?"].answer
    names = [figure.name for figure in page.figures(seen)]
    assert names == ["answers", "positions_mine", "experts_mine", "exchanged_mine", "attribution_mine"]


@pytest.mark.slow
def test_parts_of_the_pairs_give_the_same(model, outcome):
    few = run.study(model, PAIRS, halves(PAIRS, 1), tokens_per_batch=20, **STUDY)
    for name in ("clean", "positions", "experts", "attention", "chosen", "differ"):
        np.testing.assert_allclose(getattr(few, name), getattr(outcome, name), rtol=1e-4, atol=1e-5, err_msg=name)
    for name in EXCHANGED:
        np.testing.assert_allclose(few.exchanged[name], outcome.exchanged[name], rtol=1e-4, atol=1e-5)
    assert few.chosen_experts == outcome.chosen_experts
    np.testing.assert_allclose(run.answers(model, PAIRS, 20), outcome.clean, rtol=1e-4, atol=1e-5)


def test_attribution_has_what_it_is_of(outcome):
    assert set(outcome.attribution) == {BASE, OTHER_RUN, INTEGRATED}
    own, other = (outcome.attribution[name] for name in (BASE, OTHER_RUN))
    true = outcome.experts - outcome.clean
    for expert in WRITERS:
        assert (np.sign(own[0, expert]) == np.sign(true[0, expert])).all()
    assert not own[1].any() and not outcome.attention_attribution[BASE].any()
    np.testing.assert_allclose(other, -np.roll(own, len(PAIRS), axis=-1), rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- the gate


def test_a_task_that_is_not_done_is_told_and_no_more():
    clean = np.concatenate([np.tile([1.0, -1.0], 6), np.tile([-1.0, 1.0], 6)])
    shown = seen_of(clean, {})
    assert not shown.metrics["passed"].item()
    (finding,) = page.findings(shown)
    assert finding.verdict == "unclear" and "nothing more is measured" in finding.answer
    assert finding.estimate == 0.5 and [figure.name for figure in page.figures(shown)] == ["answers"]
    assert np.isnan(shown.metrics["expert_recovered"]).all()
    worse = seen_of(-np.concatenate([np.ones(12), -np.ones(12)]), {})
    assert page.findings(worse)[0].verdict == "no"


def test_both_answers_must_be_above_chance_and_sources_enough():
    right = np.concatenate([np.ones(12), np.tile([-1.0, 1.0], 6)])
    for clean, sources, wanted in (
        (np.concatenate([np.ones(12), -np.ones(12)]), 6, True),
        (np.concatenate([np.ones(12), -np.ones(12)]), 3, False),
        (right, 6, False),
    ):
        draws = gate(clean, resampled(PAIRS.source, 100, 1, "mine"))
        assert passes(draws, 0.95, sources, 4) == wanted


def test_halves_share_no_source():
    half = halves(PAIRS, 1)
    assert set(half) == {0, 1} and (half[::2] == half[1::2]).all()  # two pairs of each source


# ---------------------------------------------------------------- parts


def test_groups_of_positions_by_hand():
    pairs = of_list(
        [
            Pair([9, A, 7, 8], [9, B, 7, 8], RIGHT, WRONG, "a"),
            Pair([A, 7, B, 8, 9], [B, 7, A, 8, 9], RIGHT, WRONG, "b"),
            Pair([7, A], [7, B], RIGHT, WRONG, "c"),
        ]
    )
    changed, between, last = run.position_groups(pairs)
    for group in (changed, between, last):
        assert (group[:3] == group[3:]).all()
    assert [np.flatnonzero(row).tolist() for row in changed[:3]] == [[1], [0, 2], []]
    assert [np.flatnonzero(row).tolist() for row in between[:3]] == [[2], [1, 3], []]
    assert [np.flatnonzero(row).tolist() for row in last[:3]] == [[3], [4], [1]]


def test_another_prompt_is_lined_up_at_the_end():
    made = of_list([Pair([A] * n, [B] * n, RIGHT, WRONG, str(n)) for n in (3, 5, 4)])
    window, position = run.aligned(made)
    assert window.tolist() == [2, 0, 1, 5, 3, 4]
    assert position[:3].tolist() == [[1, 2, 3, -1, -1], [-1, -1, 0, 1, 2], [1, 2, 3, 4, -1]]


def test_ranks_that_mean_the_same():
    selected, weights = torch.tensor([[[4, 2, 7]]]), torch.tensor([[[0.1, 0.5, 0.3]]])
    ids, ordered = run.by_weight(selected, weights)
    assert ids.tolist() == [[[2, 7, 4]]] and ordered.tolist() == [[[0.5, 0.30000001192092896, 0.10000000149011612]]]


def test_agreement_by_hand():
    one, two = np.array([[1.0, 2, 3, 0]]), np.array([[2.0, 4, 60, 0]])
    assert pearson(one, 3 * one + 1)[0] == pytest.approx(1) and pearson(one, -one)[0] == pytest.approx(-1)
    assert spearman(one, two)[0] == pytest.approx(1) and np.isnan(pearson(one, 0 * one)[0])
    with_zeros = np.concatenate([one, -one], axis=1) * np.repeat([1, 0], 4)
    assert spearman(with_zeros, with_zeros[:, ::-1])[0] != spearman(one, two)[0]
    assert overlap(np.arange(20.0)[None], -np.arange(20.0)[None])[0] == 1
    assert overlap(np.arange(20.0)[None], np.arange(20.0)[::-1][None])[0] == 0


def test_shuffled_experts_are_the_null(seen):
    null = seen.metrics["null_agreement"].sel(task="mine", gradient=BASE)
    true = seen.metrics["agreement"].sel(task="mine", gradient=BASE, interval="estimate")
    assert (null.sel(interval="estimate") < 0.3).all() and (true > 0.6).all()


def test_both_tasks_of_a_study_stand_beside_each_other(outcome):
    wrong = np.concatenate([np.tile([1.0, -1.0], 6), np.tile([-1.0, 1.0], 6)])
    tasks, clean = {"done": PAIRS, "not": PAIRS}, {"done": outcome.clean, "not": wrong}
    made = measure(tasks, clean, {"done": outcome}, [0, 1], 8, **OPTIONS)
    metrics = made.metrics
    assert metrics["task"].values.tolist() == ["done", "not"] and metrics["passed"].values.tolist() == [True, False]
    assert np.isfinite(metrics["routing_share"].sel(task="done")).all()
    assert np.isnan(metrics["routing_share"].sel(task="not")).all()
    assert set(made.draws) == {"right", "flips", "clean_difference", "corrupt_difference", "gap"}
    xr.testing.assert_equal(metrics["layer"], xr.DataArray([0, 1], dims="layer", coords={"layer": [0, 1]}))


def test_few_sources_have_no_intervals(outcome):
    few = measure({"mine": PAIRS}, {"mine": outcome.clean}, {}, [0, 1], 8, **OPTIONS | {"fewest_clusters": 7}).metrics
    assert np.isnan(few["right"].sel(interval=["low", "high"])).all() and not few["passed"].item()
    assert few["right"].sel(interval="estimate").item() == 1
    swapped = measure({"mine": replace(PAIRS)}, {"mine": outcome.clean}, {}, [0, 1], 8, **OPTIONS).metrics
    assert swapped["passed"].item()
