"""Retention: rankings and the unigram model by hand, few experts of a model, planted and even routing, the page."""

from functools import partial

import families
import numpy as np
import page_cases
import pytest
import torch
import xarray as xr
from routing_cases import Case, case, logits_for, records

from gatebook.chapters.expert_retention import EFFECT, EVERY, FREQUENCY, OTHER, RANDOM, RANKINGS, WEIGHT, page
from gatebook.chapters.expert_retention import measure as retention
from gatebook.chapters.expert_retention.losses import losses
from gatebook.chapters.expert_retention.measure import Texts, calibrates
from gatebook.routing.patching import CleanRun, restricted
from gatebook.routing.routers import find_routers

seen = partial(page_cases.seen, "expert_retention")

NUMBERS, EXPERTS, RANDOM_SETS = [2, 4], 8, 3
OPTIONS = {"numbers": NUMBERS, "experts": EXPERTS, "enough": 0.9, "resamples": 200, "seed": 1, "confidence": 0.95}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More of them take longer for models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- what is tried


def test_the_unigram_model_by_hand():
    loss = retention.unigram_loss(np.array([3, 3, 1, 3]), 5)
    assert loss[[3, 1, 0]] == pytest.approx(-np.log([3.4 / 6, 1.4 / 6, 0.4 / 6]))
    assert np.exp(-loss).sum() == pytest.approx(1)
    assert retention.unigram_loss(np.zeros(0, int), 4) == pytest.approx(np.log([4, 4, 4, 4]))


def tokens_of(lengths: list[int], clusters: list[str] | None = None, window: int = 10**9) -> xr.Dataset:
    """A token file in which document d has the ids 10 d, 10 d + 1, ..."""
    ids = np.concatenate([10 * index + np.arange(size) % 10 for index, size in enumerate(lengths)])
    routed = records(logits_for(np.stack([ids % EXPERTS, (ids + 1) % EXPERTS], axis=1), EXPERTS), 2)
    made = case({0: routed}, lengths, ids, clusters)
    return Case(made.layers, made.lengths, ids, made.documents, window).tokens.assign_attrs(dataset="a")


def test_texts_are_the_beginnings_of_documents_of_clusters_that_rank_nothing():
    tokens = tokens_of([5, 3, 7, 4, 9, 6])
    found = retention.texts_of(tokens, 60, documents=9, length=4, seed=0)
    wanted = [index for index in range(6) if not calibrates(tokens["group"].values[index]) and index != 1]
    assert [row[0] // 10 for row in found.ids.tolist()] == wanted and found.ids.shape == (len(wanted), 4)
    assert (np.diff(found.ids) == 1).all() and found.tokens.tolist() == [3] * len(wanted)
    others = np.repeat(calibrates(tokens["group"].values), tokens["document_tokens"].values)
    loss = retention.unigram_loss(tokens["token_id"].values[others], 60)
    assert found.unigram == pytest.approx(loss[found.ids[:, 1:]].sum(axis=1))


def test_every_cluster_counts_before_one_counts_twice_and_a_text_ends_with_its_window():
    clusters = ["a", "a", "a", "b", "c", "d"]
    tokens = tokens_of([5] * 6, clusters, window=3).assign_attrs(window=3)
    odd = {clusters[index] for index in range(6) if not calibrates(tokens["group"].values[index])}
    for seed in range(5):
        found = retention.texts_of(tokens, 60, documents=len(odd), length=4, seed=seed)
        assert set(found.cluster) == odd and found.ids.shape == (len(odd), 3)
    assert len(retention.texts_of(tokens.assign_attrs(window=9), 60, documents=9, length=4, seed=0).ids) == 0


def test_datasets_are_evenly_spaced():
    assert retention.spaced(list("abcdefg"), 3) == ["a", "d", "g"]
    assert retention.spaced(list("ab"), 5) == ["a", "b"] and retention.spaced(list("ab"), 1) == ["a"]
    assert retention.spaced([], 4) == []


def test_numbers_are_at_least_those_that_a_token_selects_and_fewer_than_all():
    assert retention.numbers_kept([0.125, 0.1875, 0.25, 0.5, 0.75], 32, 4) == [4, 6, 8, 16, 24]
    assert retention.numbers_kept([0.1, 0.3, 0.5, 0.99], 8, 2) == [2, 3, 4]
    assert retention.numbers_kept([0.5], 8, 8) == []


# ---------------------------------------------------------------- rankings


def test_the_ranking_by_effect_is_that_of_calibration_documents_alone():
    tallies = {"a": tally_of([[5, 9, 1, 5]], [2]), "b": tally_of([[0, 1, 8, 11]], [4])}
    change = np.array([[0.1, 0.4, 0.2, 0.3], [0.0, 0.0, 0.3, 0.0], [9.0, 0.0, 0.0, 0.0]])[:, None]
    about = {"dataset": ("document", ["a"] * 3), "group": ("document", [0, 2, 3])}
    scan = xr.Dataset({"loss_change": (("document", "layer", "expert"), change)} | about)
    found = retention.rankings(tallies, ["a", "b"], scan, random=2, seed=0)
    place = RANKINGS.index(EFFECT)
    assert found["a"][place, 0].tolist() == [2, 1, 3, 0]
    assert (found["b"][place] == -1).all()  # nothing was removed there
    assert {one["ranking"] for one in retention.sets({"b": found["b"]}, [], [0], xr.Dataset())} <= {FREQUENCY, WEIGHT}


def tally_of(selected: list[list[int]], groups: list[int], weights: list[list[float]] | None = None) -> xr.Dataset:
    """One layer and four experts: how often each document selects each of them."""
    count = np.array(selected)[:, None]
    weight = count if weights is None else np.array(weights)[:, None]
    names = ("document", "layer", "expert")
    made = {"selected_count": (names, count), "weight_sum": (names, weight), "tokens": ("document", [10] * len(count))}
    return xr.Dataset(made, coords={"document_group": ("document", groups), "layer": [0]})


def test_rankings_by_hand():
    first = tally_of([[5, 9, 1, 5], [0, 0, 50, 0]], [2, 3], [[3, 1, 2, 0], [0, 0, 9, 0]])
    second = tally_of([[0, 1, 8, 11]], [4])
    found = retention.rankings({"a": first, "b": second}, ["a", "b"], random=3, seed=0)
    wanted = {FREQUENCY: [1, 0, 3, 2], WEIGHT: [0, 2, 1, 3], EVERY: [3, 1, 2, 0], OTHER: [3, 2, 1, 0]}
    wanted[EFFECT] = [-1] * 4
    for place, ranking in enumerate(RANKINGS[:-1]):
        assert found["a"][place, 0].tolist() == wanted[ranking], ranking
    assert found["b"][RANKINGS.index(OTHER), 0].tolist() == wanted[FREQUENCY]
    random = found["a"][len(RANKINGS) - 1 :]
    assert random.shape == (3, 1, 4) and (np.sort(random, axis=-1) == np.arange(4)).all()
    assert np.array_equal(random, found["b"][len(RANKINGS) - 1 :])
    more = first.assign(selected_count=first["selected_count"] * xr.DataArray([1, 7], dims="document"))
    again = retention.rankings({"a": more, "b": second}, ["a", "b"], random=3, seed=0)
    assert all(np.array_equal(found[name], again[name]) for name in found)  # evaluation documents rank nothing


def test_what_is_kept_comes_first():
    order = np.array([[3, 1, 0, 2], [0, 1, 2, 3]])
    assert retention.kept(order, 2).tolist() == [[False, True, False, True], [True, True, False, False]]


# ---------------------------------------------------------------- running a model


@pytest.fixture(scope="module")
def model():
    return families.causal_model("olmoe")


def layers_of(model) -> list[int]:
    return sorted(find_routers(model.base_model))


def test_all_experts_lose_nothing_and_few_lose_what_the_model_loses_with_them(model):
    ids = np.random.default_rng(0).integers(3, 90, (5, 9))
    order = np.stack([np.random.default_rng(layer).permutation(EXPERTS) for layer in layers_of(model)])
    done = []
    options = {"layers": layers_of(model), "orders": [order], "numbers": [3, EXPERTS], "advance": done.append}
    for stage in ("score", "logit"):
        clean, lost = losses(model, ids, 18, stage=stage, **options)
        assert (lost[:, 0, 1] == clean).all() and (lost[:, 0, 0] != clean).all()
        run = CleanRun(model, torch.from_numpy(ids))
        among = dict(zip(layers_of(model), torch.from_numpy(retention.kept(order, 3)), strict=True))
        with torch.inference_mode(), restricted(model, among, stage):
            few = CleanRun(model, torch.from_numpy(ids)).loss.sum(dim=1).numpy()
        assert clean == pytest.approx(run.loss.sum(dim=1).numpy(), rel=1e-5)
        assert lost[:, 0, 0] == pytest.approx(few, rel=1e-5)
    assert sum(done) == 2 * 2 * ids.size


def test_a_dataset_that_needs_few_experts_keeps_all_of_its_gain_with_them(model):
    """One token again and again: those that it selects are enough, and random ones are not."""
    layers, number = layers_of(model), 4
    few = np.full((4, 6), 7)
    selected = CleanRun(model, torch.from_numpy(few)).selected
    count = np.stack([np.bincount(selected[layer].flatten(), minlength=EXPERTS) for layer in layers])
    assert ((count > 0).sum(axis=1) <= number).all()
    own = np.argsort(-count, axis=1, kind="stable")
    options = {"layers": layers, "orders": [own, own[:, ::-1]], "numbers": [number]}
    clean, lost = losses(model, few, 100, **options)
    assert (lost[:, 0, 0] == clean).all() and (lost[:, 1, 0] != clean).all()


# ---------------------------------------------------------------- measures


def texts(rng: np.random.Generator, size: int = 12, name: str = "a", clusters: int | None = None) -> Texts:
    cluster = np.array([f"{name}{number % (clusters or size)}" for number in range(size)], dtype=object)
    document = np.array([str(number) for number in range(size)])
    return Texts(np.zeros((size, 11), int), document, cluster, 50 + rng.normal(0, 1, size), {"dataset": name})


def measured(lost_of: dict[str, np.ndarray], **options) -> xr.Dataset:
    """lost_of: by dataset what each order loses with each number, (order, number) nats per text, with noise."""
    rng = np.random.default_rng(0)
    of = {name: texts(rng, name=name) for name in lost_of}
    clean = {name: 20 + rng.normal(0, 1, 12) for name in of}
    lost = {
        name: clean[name][:, None, None] + values + rng.normal(0, 0.1, (12, 1, 1)) for name, values in lost_of.items()
    }
    return retention.measure(of, clean, lost, **OPTIONS | options).metrics


def orders_of(own: tuple, other: tuple, random: tuple = ((9, 6), (12, 6), (15, 6))) -> np.ndarray:
    return np.array([own, own, own, other, other, *random], float)


@pytest.fixture(scope="module")
def found() -> xr.Dataset:
    """The own experts of `a` are enough, those of `b` are like others."""
    return measured({"a": orders_of((3, 0), (12, 6)), "b": orders_of((12, 6), (12, 6))})


def value(metrics: xr.Dataset, name: str, **where) -> float:
    return metrics[name].sel(interval="estimate", **where).item()


def test_measures_by_hand():
    of, clean = {"a": texts(np.random.default_rng(0), 2)}, {"a": np.array([20.0, 30.0])}
    of["a"] = of["a"]._replace(unigram=np.array([60.0, 50.0]))  # a gain of 60 in 20 tokens
    values = np.broadcast_to(orders_of((3, 0), (12, 6))[None], (2, 8, 2))
    found = retention.measure(of, clean, {"a": clean["a"][:, None, None] + values}, **OPTIONS).metrics
    for dataset in ("a", "pooled"):
        assert value(found, "gain", dataset=dataset) == pytest.approx(3)
        at = {"dataset": dataset, "keep": 2}
        assert value(found, "retained", ranking=FREQUENCY, **at) == pytest.approx(1 - 6 / 60)
        assert value(found, "retained", ranking=RANDOM, **at) == pytest.approx(1 - 24 / 60)
        assert value(found, "added_loss", ranking=OTHER, **at) == pytest.approx(1.2)
        assert value(found, "advantage", ranking=OTHER, **at) == pytest.approx(18 / 60)
        assert value(found, "null_retained", **at) == pytest.approx(1 - 24 / 60)
        assert found["null_retained"].sel(interval="high", **at).item() == pytest.approx(1 - 2 * 9.15 / 60)
        assert value(found, "smallest_keep", dataset=dataset, ranking=FREQUENCY) == 2
        assert value(found, "smallest_keep", dataset=dataset, ranking=RANDOM) == 8
    assert (found["retained"].sel(keep=EXPERTS) == 1).all() and (found["added_loss"].sel(keep=EXPERTS) == 0).all()
    assert found["tokens"].values.tolist() == [20, 20] and found["clusters"].values.tolist() == [2, 2]


def test_pooled_is_the_mean_over_datasets(found):
    for name in ("retained", "advantage", "smallest_keep", "gain"):
        estimates = found[name].sel(interval="estimate")
        xr.testing.assert_allclose(estimates.sel(dataset="pooled", drop=True), estimates[..., 1:].mean("dataset"))


def test_the_smallest_number_is_where_the_ends_of_the_retained_gain_pass():
    rng = np.random.default_rng(1)
    of, clean = {"a": texts(rng, 20)}, {"a": np.full(20, 20.0)}
    values = np.broadcast_to(orders_of((5, 2.9), (5, 2.9), ((5, 2.9),) * 3)[None], (20, 8, 2))
    lost = {"a": clean["a"][:, None, None] + values + rng.normal(0, 2, (20, 1, 1))}
    found = retention.measure(of, clean, lost, **OPTIONS).metrics.sel(dataset="a", ranking=FREQUENCY)
    for end, other in (("low", "high"), ("high", "low"), ("estimate", "estimate")):
        passes = found["keep"].values[found["retained"].sel(interval=other) >= 0.9]
        assert found["smallest_keep"].sel(interval=end).item() == passes[0]
    falls = xr.DataArray([[0.96], [0.9], [1.0]], {"keep": [2, 4, 8]}, ("keep", "draw"))
    assert retention._smallest(falls, 0.95).item() == 8  # one that passes by luck is not enough


def test_without_datasets_nothing_is_known_and_the_page_says_so():
    metrics = retention.measure({}, {}, {}, **OPTIONS).metrics
    assert metrics["dataset"].values.tolist() == ["pooled"] and metrics["clusters"].values.tolist() == [0]
    assert all(np.isnan(metrics[name]).all() for name in ("retained", "smallest_keep", "gain", "null_retained"))
    shown = seen(attributed(metrics))
    assert page.findings(shown) == [] and page.brief(shown) is None
    for figure in page.figures(shown):
        assert "nan" not in figure.caption + figure.alt and figure.drawing.axes


def test_datasets_without_a_sure_gain_are_told_apart():
    rng = np.random.default_rng(0)
    of = {name: texts(rng, name=name) for name in ("much", "little", "none")}
    clean = {"much": of["much"].unigram - 20, "little": of["little"].unigram - 6, "none": of["none"].unigram + 1}
    clean["little"] = clean["little"] + rng.normal(0, 5, 12)
    gain = retention.gains(of, clean, resamples=200, seed=1)
    assert gain.isel(draw=0).sel(dataset="much").item() == pytest.approx(2)
    assert retention.learned(gain, 0.5, 0.95) == ["much"]
    assert retention.learned(retention.gains({}, {}, resamples=9, seed=1), 0.5, 0.95) == []


@pytest.mark.long
def test_a_ranking_that_says_nothing_is_rarely_above_the_band_of_random_sets():
    """Experts that are used evenly: their sets differ by luck alone."""
    rng, above, trials = np.random.default_rng(2), 0, 100
    for _ in range(trials):
        of, clean = {"a": texts(rng)}, {"a": np.full(12, 20.0)}
        of_set = rng.normal(10, 2, (len(RANKINGS) - 1 + 20, 1))
        lost = {"a": clean["a"][:, None, None] + of_set + rng.normal(0, 1, (12, 1, 1))}
        found = retention.measure(of, clean, lost, **OPTIONS | {"numbers": [2], "resamples": 2}).metrics
        at = {"dataset": "a", "keep": 2}
        high = found["null_retained"].sel(interval="high", **at).item()
        above += value(found, "retained", ranking=FREQUENCY, **at) > high
    assert above / trials < 0.13  # 2.5 % of many sets, and about 1 / 15 of 20


@pytest.mark.long
def test_intervals_hold_the_truth_of_clusters_that_differ():
    rng, inside = np.random.default_rng(3), []
    for _ in range(100):
        of = {"a": texts(rng, 24, clusters=16)}
        cluster = np.unique(of["a"].cluster, return_inverse=True)[1]
        own, gain = rng.normal(3, 2, 16)[cluster], rng.normal(30, 4, 16)[cluster]
        clean = {"a": of["a"].unigram - gain}
        values = np.stack([own, own + 1, own + 2, own + 5, own + 6, own + 4, own + 6], axis=1)[..., None]
        lost = {"a": clean["a"][:, None, None] + values}
        found = retention.measure(of, clean, lost, **OPTIONS | {"numbers": [2], "resamples": 300}).metrics
        low, high = found["retained"].sel(dataset="a", keep=2, ranking=FREQUENCY).values[1:]
        inside.append(low <= 0.9 <= high)
    assert np.mean(inside) >= 0.9


# ---------------------------------------------------------------- what is exported, and the page


def attributed(metrics: xr.Dataset) -> xr.Dataset:
    return metrics.assign_attrs(stage="score", least_gain=0.5, not_tried="none")


def test_sets_say_what_they_retain(found):
    order = np.stack([np.stack([np.roll(np.arange(EXPERTS)[::-1], shift)] * 2) for shift in range(5)])
    made = retention.sets({"a": order}, [2], [1, 3], found)
    assert [(one["ranking"], one["keep"]) for one in made] == [(each, 2) for each in (FREQUENCY, WEIGHT, EFFECT)]
    assert made[0]["experts"] == {"1": [6, 7], "3": [6, 7]} and made[1]["experts"] == {"1": [0, 7], "3": [0, 7]}
    assert made[0]["retained"] == found["retained"].sel(dataset="a", ranking=FREQUENCY, keep=2).values.tolist()


def test_the_answers_to_planted_retention(found):
    names = ("few", "random", "own", "weight", "effect")
    both = dict(zip(names, page.findings(seen(attributed(found))), strict=True))
    own = measured({"a": orders_of((3, 0), (12, 6)), "b": orders_of((2, 0), (12, 6))})
    planted = dict(zip(names, page.findings(seen(attributed(own))), strict=True))
    assert [planted[name].verdict for name in names] == ["yes", "yes", "yes", "unclear", "unclear"]
    assert planted["few"].estimate == 2 and planted["few"].null_value == 8
    assert both["few"].verdict != "yes" and planted["weight"].effect == "negligible"
    even = measured({"a": orders_of((12, 6), (12, 6)), "b": orders_of((12, 6), (12, 6))})
    of_even = dict(zip(names, page.findings(seen(attributed(even))), strict=True))
    assert [of_even[name].verdict for name in names] == ["no", "unclear", "unclear", "unclear", "unclear"]
    assert page.brief(seen(attributed(even))).text.startswith("Nothing shows")
    assert "With 2" in page.brief(seen(attributed(own))).text
    uneven = measured({"a": orders_of((3, 0), (12, 6)), "b": orders_of((5, 2), (12, 6))})
    assert "a (2)" in page.brief(seen(attributed(uneven), few=0.9)).example


@pytest.mark.slow
def test_without_effects_of_removal_nothing_is_said_of_them():
    of = orders_of((3, 0), (12, 6))
    of[RANKINGS.index(EFFECT)] = np.nan
    metrics = attributed(measured({"a": of, "b": of}))
    assert len(page.findings(seen(metrics))) == 4
    for figure in page.figures(seen(metrics)):
        assert "effect" not in figure.caption and "available" not in figure.caption


def test_figures_show_all_datasets_and_rankings(found):
    curves, smallest, advantage = page.figures(seen(attributed(found)))
    assert len(curves.drawing.axes) == 3 and set(curves.data["ranking"].dropna()) >= set(RANKINGS)
    assert "n = 240 predicted tokens" in curves.caption and "Without a gain of 0.5" in smallest.caption
    assert "own 2 experts" in advantage.title
