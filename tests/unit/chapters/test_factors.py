"""Factors: the fit against that of scikit-learn, planted parts that are found, a Gaussian without, experts."""

from functools import partial
from itertools import permutations

import families
import numpy as np
import pytest
import torch
import xarray as xr
from routing_cases import case, logits_for, records
from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode
from vocabulary_cases import written

from gatebook.chapters.base.page import Seen
from gatebook.chapters.factors import CHAPTER, TOKEN, page, states
from gatebook.chapters.factors import measure as factors
from gatebook.chapters.factors.learning import activations, components, gaussian, learn, matched
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import token_sample
from gatebook.routing.routers import find_blocks, watch
from gatebook.study import routed

PARTS, HIDDEN = 8, 20
SETTINGS = {"number": 2 * PARTS, "sparsity": 0.1, "passes": 20, "seeds": [0, 1], "again": 0.9, "examples": 3, "seed": 2}


def planted(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that are sums of few of `PARTS` directions, with their activations and the directions."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((PARTS, HIDDEN))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = rng.exponential(1, (rows, PARTS)) * (rng.random((rows, PARTS)) < 0.2)
    return codes @ directions + 0.02 * rng.standard_normal((rows, HIDDEN)), codes, directions


def prepared(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=0)
    return rows / np.linalg.norm(rows, axis=1).mean()


# ---------------------------------------------------------------- the fit


def objective(rows: np.ndarray, directions: np.ndarray, sparsity: float) -> float:
    codes = sparse_encode(rows, directions, algorithm="lasso_cd", alpha=sparsity, positive=True)
    return 0.5 * ((rows - codes @ directions) ** 2).sum(axis=1).mean() + sparsity * codes.sum(axis=1).mean()


def test_activations_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    rows, directions = rng.standard_normal((40, 6)), rng.standard_normal((9, 6))
    wanted = sparse_encode(rows, directions, algorithm="lasso_cd", alpha=0.3, positive=True, max_iter=10_000)
    found = activations(rows, directions, 0.3)
    np.testing.assert_allclose(found, wanted, atol=0.02)
    slope = (rows - found @ directions) @ directions.T - 0.3
    assert (abs(slope[found > 0]) < 2e-3).all() and (slope[found == 0] < 2e-3).all()
    assert (found >= 0).all() and 0.1 < (found > 0).mean() < 0.9
    np.testing.assert_allclose(activations(rows, directions, 0.3, found), found, atol=0.01)


def test_the_fit_is_as_good_as_that_of_scikit_learn_from_the_same_start():
    rows, number = prepared(planted(300, 0)[0]), 2 * PARTS
    start = rows[np.random.default_rng(0).choice(len(rows), number, replace=False)]
    options = {"alpha": 0.1, "fit_algorithm": "cd", "transform_algorithm": "lasso_cd", "positive_code": True}
    options |= {"dict_init": start, "random_state": 0, "max_no_improvement": None, "tol": 0}
    theirs = MiniBatchDictionaryLearning(number, max_iter=8, **options).fit(rows).components_
    mine = learn(rows, number, sparsity=0.1, passes=8, seed=0)
    assert objective(rows, mine, 0.1) == pytest.approx(objective(rows, theirs, 0.1), rel=0.08)
    assert objective(rows, mine, 0.1) < 0.8 * objective(rows, start, 0.1)
    assert (np.linalg.norm(mine, axis=1) <= 1 + 1e-9).all()
    assert np.array_equal(mine, learn(rows, number, sparsity=0.1, passes=8, seed=0))
    assert len(learn(rows[:5], number, sparsity=0.1, passes=1, seed=0)) == 5


def test_planted_directions_are_found_by_every_seed_and_those_of_a_gaussian_are_not():
    rows, _, directions = planted(1500, 1)
    rows = prepared(rows)
    options = {"number": 2 * PARTS, "sparsity": 0.2, "passes": 10}
    fits = [learn(rows, **options, seed=seed) for seed in (0, 1)]
    assert (matched(*fits) > 0.9).mean() >= 0.5
    assert all((matched(directions, fit) > 0.9).mean() >= 0.75 for fit in fits)
    random = gaussian(rows, len(rows), np.random.default_rng(0))
    np.testing.assert_allclose(random.T @ random / len(rows), rows.T @ rows / len(rows), atol=0.02)
    fits = [learn(random, **options, seed=seed) for seed in (0, 1)]
    assert (matched(*fits) > 0.9).mean() <= 0.25


def test_partners_have_the_largest_sum_of_cosines_and_each_is_one_factors():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 4, 3))
    cosine = (one / np.linalg.norm(one, axis=1, keepdims=True)) @ (other / np.linalg.norm(other, axis=1)[:, None]).T
    best = max(permutations(range(4)), key=lambda order: sum(cosine[row, column] for row, column in enumerate(order)))
    assert matched(one, other).tolist() == pytest.approx([cosine[row, column] for row, column in enumerate(best)])
    assert sorted(matched(one, other[:2]).tolist())[:2] == [-1, -1]  # without a partner
    axes = components(rng.standard_normal((50, 5)) * [9, 1, 1, 1, 1], 2)
    assert abs(axes[0, 0]) > 0.95 and axes @ axes.T == pytest.approx(np.eye(2))


# ---------------------------------------------------------------- experts


def halves(tokens: int, seed: int = 0) -> factors.Sample:
    rng = np.random.default_rng(seed)
    dataset, group = rng.integers(0, 3, tokens), rng.integers(0, GROUPS, tokens)
    classes = {TOKEN: rng.integers(0, 9, tokens), "dataset": dataset, "token type": rng.integers(0, 3, tokens)}
    return factors.Sample(np.arange(tokens), dataset, group, rng.random(tokens) < 0.5, classes)


def test_the_correlation_with_an_expert_and_what_of_it_datasets_bring_about():
    rng, known = np.random.default_rng(1), halves(600)
    codes = rng.random((600, 2)) + np.stack([known.dataset, known.dataset == 1], axis=1)
    selected = rng.random((600, 4)) < 0.2 + 0.3 * (known.dataset == 1)[:, None] * [0, 0, 1, 0]
    selected[:, 3] |= codes[:, 0] > 2.5
    found = factors._experts(codes, selected, known)
    assert found.expert.tolist() == [3, 2]
    test = ~known.fitted
    for left_out in (-1, 0, 7):
        kept = test & (known.group != left_out)
        for factor, expert in enumerate(found.expert):
            wanted = np.corrcoef(codes[kept, factor], selected[kept, expert])[0, 1]
            assert found.own[left_out + 1, factor] == pytest.approx(wanted)
    order, shuffled = np.arange(600), []
    for _ in range(400):
        for one in range(3):
            mine = np.flatnonzero(test & (known.dataset == one))
            order[mine] = rng.permutation(mine)
        shuffled.append([np.corrcoef(codes[test, f], selected[order[test], e])[0, 1] for f, e in enumerate((3, 2))])
    assert found.within[0] == pytest.approx(np.mean(shuffled, axis=0), abs=0.01)
    assert found.own[0, 0] > found.within[0, 0] + 0.1 and abs(found.own[0, 1] - found.within[0, 1]) < 0.15


# ---------------------------------------------------------------- the states


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> xr.Dataset:
    rng, made = np.random.default_rng(0), {}
    for name in ("poems", "code"):
        lengths = rng.integers(20, 40, 16).tolist()
        ids = rng.integers(3, 90, sum(lengths))
        made[name] = case({0: records(logits_for(np.stack([ids % 8, (ids + 1) % 8], axis=1), 8), 2)}, lengths, ids)
    return routed.read_tokens(written(made, tmp_path_factory.mktemp("study"))["tokens"])


def heard(model, text: torch.Tensor) -> dict[int, tuple]:
    """What the routers of layers 0 and 2 receive for a text, (token, hidden), and what they decide."""
    seen, blocks, hooks = {}, find_blocks(model), []

    def keep(layer: int, states: torch.Tensor, decision: tuple) -> None:
        seen[layer] = states.reshape(-1, states.shape[-1]), decision

    for layer in (0, 2):
        hooks += watch(blocks[layer], partial(keep, layer))
    model(input_ids=text, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


@torch.inference_mode()
def test_states_are_what_the_routers_receive_in_the_whole_document(study):
    model = families.causal_model("olmoe").base_model
    place = token_sample.of_windows(study, 30, 4, seed=1)
    found = states.read(model, [0, 2], study, place, tokens_per_batch=64)
    assert found["token"].values.tolist() == place.tolist() and found.attrs["experts"] == 8
    ids, start = study["token_id"].sel(kind="input").values, study["start"].values
    document = np.searchsorted(start, place, side="right") - 1
    for number in np.unique(document)[:3]:
        text = torch.from_numpy(ids[start[number] : np.append(start, len(ids))[number + 1]].astype(np.int64))[None]
        seen, mine = heard(model, text), np.flatnonzero(document == number)
        at = place[mine] - start[number]
        for layer in (0, 2):
            one = found.sel(layer=layer).isel(sample=mine)
            np.testing.assert_allclose(one["state"], seen[layer][0][at].numpy(), atol=1e-5)
            wanted = np.sort(seen[layer][1][2].reshape(-1, found.sizes["rank"])[at].numpy(), axis=1)
            assert np.sort(one["selected_expert"].values, axis=1).tolist() == wanted.tolist()


# ---------------------------------------------------------------- all measures, and the page


def measured(study: xr.Dataset, gauss: bool = False) -> xr.Dataset:
    """Measures of planted states: part 0 is that of token ids below 15, and expert 5 is that of part 1."""
    place = np.arange(study.sizes["token"])
    ids = study["token_id"].sel(kind="input").values
    sampled = factors.sample(study, place, ids % 3, seed=0)
    made, codes, directions = planted(len(place), 4)
    made += ((1.5 * (ids < 15)) - codes[:, 0])[:, None] * directions[0]
    selected = np.random.default_rng(5).random((len(place), 8)) < 0.1
    selected[:, 5] = codes[:, 1] > 0
    if gauss:
        made = gaussian(prepared(made), len(place), np.random.default_rng(0))
    layers = [factors.Layer(2, made.astype(np.float32), selected), factors.Layer(5, made[::-1].copy(), selected)]
    return factors.measure(study, sampled, layers, SETTINGS, confidence=0.95).metrics


@pytest.fixture(scope="module")
def metrics(study) -> xr.Dataset:
    made = measured(study)
    return factors.with_texts(made, lambda at: {name: [f"{name}{one}" for one in at] for name in TEXTS})


TEXTS = ("before", "text", "after")


def test_parts_are_found_explained_and_have_their_expert(metrics, study):
    here = metrics.sel(layer=2)
    assert here["found_factors"] >= 0.3 and here["null_found_factors"] <= 0.15
    assert here["found_elsewhere"] >= 0.5
    low = here["found_variance"].sel(interval="low")
    assert 0.6 < low < here["variance"].sel(interval="high") <= 1 and low > here["null_found_variance"] + 0.3
    rows = factors.factor_table(metrics)
    rows = rows[rows["layer"] == 2]
    assert rows[TOKEN].max() > 0.9 and (rows[TOKEN] < 0.2).sum() == len(rows) - 1
    own = rows.loc[rows["correlation"].idxmax()]
    assert own["expert"] == 5 and own["correlation"] > 0.45 and own["q_value"] < 0.05
    assert (rows["q_value"] < 0.05).sum() <= 2 and abs(own["within_datasets"]) < 0.1
    ids = study["token_id"].sel(kind="input").values
    token = int(rows[TOKEN].values.argmax())
    assert (ids[here["factor_example"].sel(factor=token)] < 15).all()
    assert rows["examples"].str.startswith("before").all()
    assert metrics["clusters"].values.tolist() == [16, 8, 8]


def test_a_gaussian_has_no_parts_and_the_page_says_so(study):
    made = measured(study, gauss=True)
    assert (made["found_factors"] <= 0.25).all() and (made["found_variance"].sel(interval="estimate") < 0.3).all()
    nothing = made.assign(factor_expert=made["factor_expert"] * 0 - 1)
    for name in ("explained", "expert_correlation", "found_elsewhere"):
        for each in (each for each in (name, f"mean_over_layers_{name}") if each in nothing):
            nothing[each] = nothing[each] * np.nan
    nothing = factors.with_texts(nothing, lambda at: {name: [""] * len(at) for name in TEXTS})
    seen = Seen(nothing, thresholds=CHAPTER.thresholds().model_dump())
    assert [one.figure for one in page.findings(seen)] == ["found_by_layer"]
    figures = page.figures(seen)
    assert all("nan" not in f"{one.alt}{one.caption}" and len(one.data) for one in figures)


def test_both_halves_hold_clusters_of_every_dataset_and_share_none(study):
    sampled = factors.sample(study, np.arange(study.sizes["token"]), np.zeros(study.sizes["token"], int), seed=0)
    cluster = study["cluster"].values[token_sample.documents_of(study)]
    assert set(cluster[sampled.fitted]).isdisjoint(cluster[~sampled.fitted])
    for one in (0, 1):
        mine = sampled.dataset == one
        assert len(set(cluster[mine & sampled.fitted])) == len(set(cluster[mine & ~sampled.fitted])) == 8
