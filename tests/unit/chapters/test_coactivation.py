import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_cases import Case, case, even_case, logits_for, random_case, records, saved, selection_case

from gatebook.chapters.base import page as base
from gatebook.chapters.base.page import Seen
from gatebook.chapters.coactivation import CHAPTER, page
from gatebook.chapters.coactivation import measure as coactivation
from gatebook.chapters.coactivation.measure import MATRICES, MEASURES, lift_tests, null_pairs
from gatebook.inputs.clusters import GROUPS
from gatebook.measures.summary import Jackknife, differences
from gatebook.report import render
from gatebook.study import tallies
from gatebook.study.tallies import open_tallies

THRESHOLDS = CHAPTER.thresholds().model_dump()


def measure(study: dict[str, Case | xr.Dataset], confidence: float = 0.95) -> xr.Dataset:
    made = {name: one.tally() if isinstance(one, Case) else one for name, one in study.items()}
    return coactivation.measure(made, confidence=confidence).metrics


def sets(experts: int, top_k: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(experts), top_k))


def set_probabilities(odds: np.ndarray, top_k: int) -> np.ndarray:
    """Probability of every set of k experts when it is proportional to the product of their odds."""
    weight = np.array([math.prod(odds[list(one)]) for one in sets(len(odds), top_k)])
    return weight / weight.sum()


def joint(probability: np.ndarray, experts: int, top_k: int) -> np.ndarray:
    """Probability that two experts are in the set, on the diagonal that one is: (expert, other)."""
    member = np.array([[expert in one for expert in range(experts)] for one in sets(experts, top_k)], dtype=float)
    return member.T @ (probability[:, None] * member)


# ---------------------------------------------------------------- the null


@pytest.mark.parametrize(("experts", "top_k"), [(4, 2), (64, 8), (5, 5), (7, 1), (2, 1)])
def test_the_null_of_even_loads_is_sampling_without_replacement(experts, top_k):
    found = null_pairs(np.full(experts, top_k / experts), top_k)
    off = ~np.eye(experts, dtype=bool)
    np.testing.assert_allclose(found[off], top_k * (top_k - 1) / (experts * (experts - 1)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.diag(found), top_k / experts)


def test_the_null_by_hand():
    """Odds 1, 1, 2 and k = 2: the sets {0, 1}, {0, 2}, {1, 2} have weights 1, 2, 2 of 5."""
    found = null_pairs(np.array([3 / 5, 3 / 5, 4 / 5]), 2)
    np.testing.assert_allclose(found, [[0.6, 0.2, 0.4], [0.2, 0.6, 0.4], [0.4, 0.4, 0.8]], atol=1e-8)


@settings(max_examples=60)
@given(st.integers(2, 8), st.data())
def test_the_null_is_the_distribution_of_largest_entropy_with_the_loads(experts, data):
    top_k = data.draw(st.integers(1, experts))
    odds = np.exp(data.draw(st.lists(st.floats(-6, 6), min_size=experts, max_size=experts)))
    expected = joint(set_probabilities(odds, top_k), experts, top_k)
    np.testing.assert_allclose(null_pairs(np.diag(expected), top_k), expected, atol=1e-7)


def test_rows_of_the_null_sum_to_k_minus_1_times_the_load():
    share = np.random.default_rng(0).dirichlet(np.ones(32), 5) * 4
    share = np.minimum(share, 0.95) + (4 - np.minimum(share, 0.95).sum(axis=1, keepdims=True)) / 32
    found = null_pairs(share, 4)
    np.testing.assert_allclose(found.sum(axis=-1), 4 * share, atol=1e-7)
    for one, alone in zip(found, share, strict=True):
        np.testing.assert_allclose(one, null_pairs(alone, 4), atol=1e-8)


def test_experts_that_all_or_no_tokens_select():
    found = null_pairs(np.array([1, 0, 0.5, 0.3, 0.2, 1]), 3)
    assert found[0].tolist() == pytest.approx([1, 0, 0.5, 0.3, 0.2, 1])
    assert found[1].tolist() == [0] * 6
    assert found[2, 3] == pytest.approx(0, abs=1e-9)


def test_shares_that_do_not_fit_k_are_refused():
    with pytest.raises(ValueError, match="sum 2"):
        null_pairs(np.array([0.5, 0.5, 0.5]), 2)


def test_routing_by_loads_alone_has_lift_1():
    """Simulated: independence of the experts would claim a lift of 0.67 here."""
    rng = np.random.default_rng(1)
    probability = set_probabilities(np.array([1, 1, 2, 4, 1, 3]), 2)
    selected = rng.permuted(np.array(sets(6, 2))[rng.choice(15, 40_000, p=probability)], axis=1)
    metrics = measure({"poems": selection_case(selected, 6, [400] * 100)})
    off = ~np.eye(6, dtype=bool)
    lift = metrics["lift"].values[0][off]
    np.testing.assert_allclose(lift, 1, atol=0.12)
    assert lift.mean() == pytest.approx(1, abs=0.01)
    found = metrics.sel(dataset="pooled")
    assert found["mean_over_layers_share_above"].sel(interval="estimate") == 0
    mean = found["mean_absolute_log2_lift"].sel(interval="estimate").item()
    assert mean == pytest.approx(found["noise"].item(), rel=0.6)


# ---------------------------------------------------------------- counts, by hand and by brute force


def test_coactivation_by_hand():
    # Experts 0 and 1 meet in 3 tokens, 0 and 2 in 1; k = 2, T = 4, loads 4, 3, 1, 0.
    made = selection_case([[0, 1], [1, 0], [0, 1], [2, 0]], experts=4, lengths=[2, 2])
    metrics = measure({"poems": made}).isel(layer=0)
    nan = np.nan
    expected = [[nan, 3 / 4, 1 / 4, 0], [1, nan, 0, 0], [1, 0, nan, 0], [nan, nan, nan, nan]]
    np.testing.assert_allclose(metrics["coactivation"], expected)
    np.testing.assert_allclose(metrics["adjacent_rank"], expected)  # with k = 2 all pairs are at neighbouring ranks
    # Expert 0 is in every set, so its pairs say nothing beyond the loads; nothing else can meet.
    np.testing.assert_allclose(metrics["lift"].values[0], [nan, 1, 1, nan])
    assert np.isnan(metrics["lift"].values[1, 2])
    assert metrics["tested_pairs"].values.tolist() == [0, 0]
    assert np.isnan(metrics["mean_absolute_log2_lift"]).all()


def test_only_neighbouring_ranks_count_in_adjacent_rank():
    metrics = measure({"poems": selection_case([[0, 1, 2], [2, 1, 0], [0, 2, 1]], experts=3)}).isel(layer=0)
    np.testing.assert_allclose(metrics["coactivation"].values[0], [np.nan, 1, 1])
    np.testing.assert_allclose(metrics["adjacent_rank"].values[0], [np.nan, 2 / 3, 1 / 3])
    assert np.nansum(metrics["adjacent_rank"].values, axis=1).max() <= 2


def study_of(seed: int, top_k: int = 3, skew: float = 0.3) -> dict[str, Case]:
    """Two datasets of two layers; in each, documents of two kinds prefer some sets among 6 experts."""
    rng = np.random.default_rng(seed)
    mixture = [rng.dirichlet(np.full(math.comb(6, top_k), skew), 2) for _ in range(2)]
    study = {}
    for name in ("poems", "code"):
        kind, lengths = rng.integers(0, 2, 25), rng.integers(20, 60, 25).tolist()
        made = {}
        for layer in (0, 1):
            drawn = [
                rng.choice(len(mixture[layer][0]), n, p=mixture[layer][k]) for n, k in zip(lengths, kind, strict=True)
            ]
            selected = rng.permuted(np.array(sets(6, top_k))[np.concatenate(drawn)], axis=1)
            made[layer] = records(logits_for(selected, 6), top_k)
        study[name] = case(made, lengths)
    return study


@pytest.fixture(scope="module")
def study() -> dict[str, Case]:
    return study_of(2)


@pytest.fixture(scope="module")
def metrics(study) -> xr.Dataset:
    return measure(study)


def counted(study: dict[str, Case], layer: int) -> tuple[np.ndarray, int]:
    count, tokens = np.zeros((6, 6)), 0
    for made in study.values():
        for row in made.layers[layer]["selected_expert"].values.tolist():
            tokens += 1
            for i, j in itertools.product(row, row):
                count[i, j] += 1
    return count, tokens


def fitted(count: np.ndarray, tokens: int) -> np.ndarray:
    """Expected pairs by brute force: the odds of all sets, moved until the loads fit."""
    share, odds = np.diag(count) / tokens, np.ones(len(count))
    for _ in range(3000):
        odds *= share / np.diag(joint(set_probabilities(odds, 3), 6, 3))
    return tokens * joint(set_probabilities(odds, 3), 6, 3)


def test_matrices_equal_their_definitions(study, metrics):
    off = ~np.eye(6, dtype=bool)
    for layer in (0, 1):
        count, tokens = counted(study, layer)
        load, found = np.diag(count), metrics.sel(layer=layer)
        lift = count / fitted(count, tokens)
        np.testing.assert_allclose(found["coactivation"].values[off], (count / load[:, None])[off])
        np.testing.assert_allclose(found["lift"].values[off], lift[off], rtol=1e-5)
        npmi = np.log(lift) / -np.log(count / tokens)
        np.testing.assert_allclose(found["normalised_pmi"].values[off], npmi[off], atol=1e-5)
        for i, j in itertools.combinations(range(6), 2):
            one_hot = np.concatenate(
                [
                    (made.layers[layer]["selected_expert"].values[..., None] == [i, j]).any(axis=1)
                    for made in study.values()
                ]
            )
            assert found["phi"].values[i, j] == pytest.approx(np.corrcoef(one_hot.T)[0, 1])
        np.testing.assert_allclose(np.nansum(found["coactivation"], axis=1), 2)
        np.testing.assert_allclose(found["coactivation"].values[off].mean(), 2 / 5, atol=0.02)


@pytest.mark.slow
def test_summaries_equal_their_definitions(study, metrics):
    upper = np.triu_indices(6, 1)
    for layer in (0, 1):
        overall, within = {}, 0
        for names in (["poems"], ["code"], ["poems", "code"]):
            count, tokens = counted({name: study[name] for name in names}, layer)
            expected = fitted(count, tokens)
            within = within + expected if len(names) == 1 else within
            name = names[0] if len(names) == 1 else "pooled"
            overall[name] = np.log2((count + 0.5) / (expected + 0.5))[upper]
            estimate = metrics["mean_absolute_log2_lift"].sel(dataset=name, layer=layer, interval="estimate")
            assert estimate.item() == pytest.approx(np.abs(overall[name]).mean(), rel=1e-5)
            assert metrics["tested_pairs"].sel(dataset=name, layer=layer) == 15
        rest = (np.log2((count + 0.5) / (within + 0.5))[upper] ** 2).sum() / (overall["pooled"] ** 2).sum()
        remaining = metrics["remaining_within_datasets"].sel(layer=layer, interval="estimate")
        assert remaining.sel(dataset=["pooled", "poems", "code"]).values.tolist() == pytest.approx(
            [rest, 1, 1], rel=1e-5
        )
        significant = metrics["adjusted_p"].sel(layer=layer).values[upper] <= 0.05
        found = metrics[["significant_lift", "significant_noise"]].sel(dataset="pooled", layer=layer)
        assert found["significant_lift"].sel(interval="estimate").item() == pytest.approx(
            np.abs(overall["pooled"])[significant].mean(), rel=1e-5
        )
        assert found["significant_noise"] < found["significant_lift"].sel(interval="low")
    for name in ("mean_absolute_log2_lift", "share_above", "share_below"):
        estimates = metrics[[name, f"mean_over_layers_{name}"]].sel(interval="estimate")
        xr.testing.assert_allclose(estimates[f"mean_over_layers_{name}"], estimates[name].mean("layer"))


def test_uniform_routing_by_turns():
    metrics = measure({"poems": even_case(experts=6, top_k=3, lengths=[60, 120, 60])}).isel(layer=0)
    np.testing.assert_allclose(metrics["coactivation"].sum("other"), 2)
    # Of experts i, i + 1, i + 2: neighbours meet in 2 of 6 tokens, next neighbours in 1; expected are 6 / 30.
    np.testing.assert_allclose(metrics["lift"].values[0], [np.nan, 5 / 3, 5 / 6, 0, 5 / 6, 5 / 3], rtol=1e-6)


def test_significance_is_benjamini_hochberg_over_layers_and_pairs(metrics, study):
    whole = {name: made.tally() for name, made in study.items()}
    groups, p = np.unique(np.concatenate([tally["document_group"] for tally in whole.values()])), []
    upper = np.triu_indices(6, 1)
    for layer in (0, 1):
        count = sum(tally["pair_count"].sel(layer=layer).values for tally in whole.values())
        draws = np.stack([count.sum(axis=0), *(count.sum(axis=0) - count[groups])])
        root = np.sqrt(draws / coactivation.expected_pairs(draws, 3))[:, *upper]
        left = root[1:]
        error = np.sqrt((len(groups) - 1) / len(groups) * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
        from_t = 2 * scipy.stats.t.sf(np.abs(root[0] - 1) / error, len(groups) - 1)
        p.append(np.maximum(from_t, 0.5 ** (len(groups) - 1)))
        found = metrics.sel(layer=layer)
        half = scipy.stats.t.ppf(0.975, len(groups) - 1) * error
        np.testing.assert_allclose(found["lift_high"].values[upper], (root[0] + half) ** 2, rtol=1e-6)
        np.testing.assert_allclose(found["lift_low"].values[upper], np.maximum(root[0] - half, 0) ** 2, rtol=1e-6)
    adjusted = scipy.stats.false_discovery_control(np.array(p), axis=None).reshape(2, 15)
    np.testing.assert_allclose(metrics["adjusted_p"].values[:, *upper], adjusted, rtol=1e-4)
    lift = metrics["lift"].values[:, *upper]
    pooled = metrics.sel(dataset="pooled", interval="estimate")
    assert ((adjusted <= 0.05) & (lift > 1)).any() and ((adjusted <= 0.05) & (lift < 1)).any()
    np.testing.assert_allclose(pooled["share_above"], ((adjusted <= 0.05) & (lift > 1)).mean(axis=1))
    np.testing.assert_allclose(pooled["share_below"], ((adjusted <= 0.05) & (lift < 1)).mean(axis=1))


def test_tests_without_a_group_rest_on_the_other_groups():
    """Without group g, p is that of the other groups' pseudo-values around the lift without g."""
    rng = np.random.default_rng(3)
    part = rng.integers(5, 30, (8, 4)).astype(float)
    observed = np.stack([part.sum(axis=0), *(part.sum(axis=0) - part)])
    expected = np.linspace(0.8, 1.3, 9)[:, None] * observed.mean()
    root, _, p = lift_tests(observed, expected)
    pseudo = 8 * root[0] - 7 * root[1:]
    np.testing.assert_allclose(p[0], scipy.stats.t.sf(np.abs(root[0] - 1) / scipy.stats.sem(pseudo), 7) * 2)
    for group in range(8):
        error = scipy.stats.sem(np.delete(pseudo, group, axis=0))
        np.testing.assert_allclose(p[1 + group], scipy.stats.t.sf(np.abs(root[1 + group] - 1) / error, 6) * 2)


def test_pairs_that_never_meet_have_the_error_of_a_poisson_count():
    observed, expected = np.zeros((6, 1)), np.array([[25.0], *[[20.0]] * 5])
    _, error, p = lift_tests(observed, expected)
    assert error[0].tolist() == [0.1] and p[0, 0] == 1 / 16  # the least that five groups can give
    assert 2 * scipy.stats.t.sf(10, 4) < 1 / 16


# ---------------------------------------------------------------- intervals and p-values on simulated data


def test_p_values_are_uniform_when_loads_explain_all():
    rng, p = np.random.default_rng(4), []
    probability = set_probabilities(np.array([1, 1, 2, 3, 1, 2]), 2)
    possible = np.array(sets(6, 2))
    member = np.array([[expert in one for expert in range(6)] for one in possible], dtype=float)
    for _ in range(250):
        count = rng.multinomial(rng.integers(150, 250, 20), probability)
        part = np.einsum("gs,se,so->geo", count, member, member)
        draws = np.stack([part.sum(axis=0), *(part.sum(axis=0) - part)])
        _, _, found = lift_tests(draws, coactivation.expected_pairs(draws, 2))
        p += [found[0, 0, 1], found[0, 2, 3]]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08


@pytest.mark.long
def test_intervals_cover_the_true_lift_of_clustered_text():
    rng, covered, mean_covered = np.random.default_rng(5), [], []
    mixture = [rng.dirichlet(np.full(10, 2.0)) for _ in range(2)]
    truth = joint(np.mean(mixture, axis=0), 5, 2)
    lift = truth / null_pairs(np.diag(truth), 2)
    upper = np.triu_indices(5, 1)
    mean = np.abs(np.log2(lift[upper])).mean()
    for _ in range(160):
        metrics = measure({"poems": sparse_tally(rng, mixture)}).isel(layer=0)
        low, high = (metrics[name].values[upper] for name in ("lift_low", "lift_high"))
        covered.append((low <= lift[upper]) & (lift[upper] <= high))
        _, low, high = metrics["mean_absolute_log2_lift"].sel(dataset="poems").values
        mean_covered.append(low <= mean <= high)
    assert 0.93 <= np.mean(covered) <= 0.97
    assert 0.91 <= np.mean(mean_covered) <= 0.99


def sparse_tally(rng: np.random.Generator, mixture: list[np.ndarray]) -> xr.Dataset:
    """The tally of 300 documents of two kinds with about 60 tokens each, without going through records."""
    documents, member = 300, np.array([[expert in one for expert in range(5)] for one in sets(5, 2)], dtype=np.int64)
    kind, tokens = rng.integers(0, 2, documents), rng.integers(30, 90, documents)
    count = rng.multinomial(tokens, np.array(mixture)[kind])
    group = rng.integers(0, GROUPS, documents)
    by_group = np.zeros((GROUPS, count.shape[1]), dtype=np.int64)
    np.add.at(by_group, group, count)
    pairs = np.einsum("gs,se,so->geo", by_group, member, member)
    return xr.Dataset(
        {
            "tokens": ("document", tokens),
            "pair_count": (("group", "layer", "expert", "other"), pairs[:, None]),
            "adjacent_count": (("layer", "expert", "other"), pairs.sum(axis=0)[None]),
        },
        coords={
            "layer": [0],
            "document_group": ("document", group),
            "document_id": ("document", np.arange(documents).astype(str)),
            "cluster": ("document", np.arange(documents).astype(str)),
            "rank": [0, 1],
        },
    )


# ---------------------------------------------------------------- invariances


@pytest.mark.slow
def test_renaming_experts_renames_rows_and_columns(study, metrics):
    new_number = np.array([3, 5, 0, 2, 1, 4])
    renamed = measure({name: made.permute_experts(new_number) for name, made in study.items()})
    for name in MEASURES:
        xr.testing.assert_allclose(renamed[name], metrics[name], rtol=1e-6, atol=1e-7)
    for name in MATRICES:
        moved = renamed[name].values[:, new_number][:, :, new_number]
        np.testing.assert_allclose(moved, metrics[name], rtol=1e-5, atol=1e-7)


def test_the_order_and_the_parts_of_the_documents_change_nothing(study, metrics):
    shuffled = {name: made.take(np.arange(len(made.lengths))[::-1]) for name, made in study.items()}
    xr.testing.assert_identical(measure(shuffled), metrics)
    halves = {
        name: tallies.combine([made.take([0, 1, 2]).tally(), made.take(np.arange(3, len(made.lengths))).tally()])
        for name, made in study.items()
    }
    xr.testing.assert_identical(measure(halves), metrics)


def test_splitting_documents_leaves_counts_unchanged(study, metrics):
    def split(made):
        lengths = np.column_stack([made.lengths // 2, made.lengths - made.lengths // 2]).ravel()
        return case(made.layers, lengths.tolist(), made.token_id)

    found = measure({name: split(made) for name, made in study.items()})
    for name in ("coactivation", "lift", "normalised_pmi", "phi", "adjacent_rank"):
        xr.testing.assert_allclose(found[name], metrics[name], rtol=1e-9)


def test_a_dataset_alone_has_the_same_values(study, metrics):
    alone = measure({"code": study["code"]})
    for name in MEASURES:
        xr.testing.assert_allclose(alone[name].sel(dataset="code"), metrics[name].sel(dataset="code"))
        np.testing.assert_allclose(alone[name].sel(dataset="pooled"), alone[name].sel(dataset="code"))


def test_tallies_in_files_give_the_same_measures(study, metrics, tmp_path):
    with open_tallies(saved(study, tmp_path)) as opened:
        xr.testing.assert_identical(coactivation.measure(opened, confidence=0.95).metrics, metrics)


# ---------------------------------------------------------------- the page


def drawn(metrics: xr.Dataset, untrained: xr.Dataset | None, tmp_path) -> tuple[list[str], list[dict]]:
    made = Seen(metrics, untrained, THRESHOLDS)
    figures = page.figures(made)
    base.write(tmp_path, page, made, "a source")
    words = json.loads((tmp_path / "chapter.json").read_text())
    assert {finding["figure"] for finding in words["findings"]} <= {figure["name"] for figure in words["figures"]}
    assert {finding["verdict"] for finding in words["findings"]} <= set(render.VERDICTS)
    for figure in figures:
        assert (tmp_path / f"{figure.name}.csv").read_text().count("\n") == 1 + len(figure.data)
        assert "nan" not in figure.alt + figure.caption
    return [figure.name for figure in figures], words["findings"]


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_the_page_of_a_study(metrics, tmp_path):
    names, findings = drawn(metrics, measure(study_of(7, skew=20)), tmp_path)
    assert names == ["lift_by_layer", "lift_distribution", "lift_matrices", "strongest_pairs", "published_variant"]
    assert len(findings) == 4


@pytest.mark.slow
def test_the_lift_of_every_pair_can_be_explored_with_its_interval_and_q(study, metrics):
    found = page.explored(Seen(metrics, None, THRESHOLDS))
    lift, *published = found.matrices
    assert [one.name for one in published] == ["coactivation", "adjacent_rank"]
    for part, name in (("low", "lift_low"), ("high", "lift_high"), ("q", "adjusted_p")):
        assert lift.beside[part].equals(metrics[name].transpose("layer", "expert", "other"))
    assert lift.level == pytest.approx(0.05) and lift.symmetric
    experts, top_k = metrics.sizes["expert"], metrics.attrs["top_k"]
    assert published[0].nulls == {"uniform": (top_k - 1) / (experts - 1)}
    assert {one.explores.partition(", ")[0] for one in page.figures(Seen(metrics, None, THRESHOLDS))} == {
        "",
        "lift",
        "coactivation",
    }
    counts = sum(one.tally()["selected_count"].sum("document") for one in study.values())
    tokens = int(metrics["tokens"].sel(dataset="pooled"))
    np.testing.assert_allclose(found.load.transpose(*counts.dims), counts / tokens)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_pairs_that_never_meet_are_in_the_figures(tmp_path):
    """By turns, experts i and i + 3 of 6 never meet: 3 of 15 pairs of lift 0, in the lowest bin."""
    even = measure({"poems": even_case(experts=6, top_k=3, lengths=[60, 120, 60, 66])})
    names, _ = drawn(even, None, tmp_path)
    assert "lift_distribution" in names
    data = pd.read_csv(tmp_path / "lift_distribution.csv")
    assert data["pairs"].iloc[0] == 3 and data["pairs"].sum() == 15


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("top_k", "answer"), [(1, "There are no pairs"), (6, "Every token selects all experts")])
def test_one_expert_and_all_experts(top_k, answer, tmp_path):
    metrics = measure(study_of(3, top_k=top_k))
    _, (finding,) = drawn(metrics, metrics, tmp_path)
    assert finding["verdict"] == "no" and finding["answer"].startswith(answer)
    off = ~np.eye(6, dtype=bool)
    if top_k == 1:
        assert np.nanmax(metrics["coactivation"].values[:, off]) == 0
        assert np.isnan(metrics["lift"]).all()
    else:
        np.testing.assert_allclose(metrics["lift"].values[:, off], 1)
        np.testing.assert_allclose(metrics["adjusted_p"].values[:, off], 1)
        np.testing.assert_allclose(metrics["mean_absolute_log2_lift"], 0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_too_few_tokens_for_any_test(tmp_path):
    small = measure({"poems": random_case(np.random.default_rng(1), [4, 3], experts=8, top_k=2)})
    _, (finding,) = drawn(small, None, tmp_path)
    assert finding["verdict"] == "unclear" and finding["answer"].startswith("Too few tokens")


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_one_document_has_estimates_and_no_intervals(tmp_path):
    one = measure({"poems": random_case(np.random.default_rng(1), [300], experts=5, top_k=2)})
    pooled = one["mean_absolute_log2_lift"].sel(dataset="pooled")
    assert np.isfinite(pooled.sel(interval="estimate")).all() and np.isnan(pooled.sel(interval=["low", "high"])).all()
    _, findings = drawn(one, None, tmp_path)
    assert findings[0]["verdict"] == "unclear"


def test_the_strongest_pairs_are_listed_in_order(metrics):
    listed = coactivation.strongest(metrics, 4)
    assert (np.diff(listed["lift"]) <= 0).all()
    assert (listed["adjusted_p"] <= 0.05).all() and (listed["expert"] < listed["other"]).all()
    lift = metrics["lift"].where(metrics["adjusted_p"] <= 0.05)
    assert listed["lift"].iloc[0] == lift.max() and listed["lift"].iloc[-1] == lift.min()
    for row in listed.itertuples():
        found = metrics.sel(layer=row.layer, expert=row.expert, other=row.other)
        assert (row.lift, row.low, row.high) == tuple(found[name].item() for name in ("lift", "lift_low", "lift_high"))
        assert row.coactivation_back == metrics["coactivation"].sel(layer=row.layer, expert=row.other, other=row.expert)


def test_the_interval_of_the_strongest_pair_is_wider_than_its_own(metrics):
    value, low, high = page._strongest(metrics)
    lift = metrics["lift"].where(metrics["adjusted_p"].notnull())
    place = {name: index[0] for name, index in zip(lift.dims, np.where(lift == lift.max()), strict=True)}
    own = metrics.isel(place)
    assert value == lift.max()
    assert low < own["lift_low"] < value < own["lift_high"] < high
    assert page._strongest_pair(metrics) == tuple(int(own[name]) for name in ("layer", "expert", "other"))


@pytest.mark.parametrize("met", [True, False])
def test_in_brief_pairs_are_told_only_if_they_differ_from_noise_with_one_that_does_for_all_tests_at_once(metrics, met):
    changed = metrics.copy(deep=True)
    changed["mean_over_layers_mean_absolute_log2_lift"].loc[{"dataset": "pooled"}] = [1.0, 0.9, 1.1] if met else 0.1
    changed["mean_over_layers_noise"].loc[{"dataset": "pooled"}] = 0.1
    found = page.brief(Seen(changed, None, THRESHOLDS))
    if not met:
        assert found.text == "Nothing shows that experts work in pairs beyond what their loads explain."
        assert (found.example, found.layer, found.experts) == ("", None, ())
        return
    assert (
        "strongly: a pair typically meets 2.00 times as often as loads explain, or that much less often." in found.text
    )
    layer, *pair = page._strongest_pair(changed)
    assert found.example.startswith(f"Experts {pair[0]} and {pair[1]} of layer {layer} meet ")
    assert (found.layer, found.experts) == (layer, tuple(pair))
    changed["lift_high"][...] = 1e6  # so wide an interval holds 1
    assert page.brief(Seen(changed, None, THRESHOLDS)).example == ""


@pytest.mark.parametrize(
    ("interval", "verdict"), [((0.5, 0.4, 0.6), "yes"), ((0.5, 0.01, 0.6), "unclear"), ((0.02, 0.01, 0.03), "no")]
)
def test_the_verdict_on_lift_follows_its_interval(metrics, interval, verdict):
    changed = metrics.copy(deep=True)
    changed["mean_over_layers_mean_absolute_log2_lift"].loc[{"dataset": "pooled"}] = list(interval)
    changed["mean_over_layers_noise"].loc[{"dataset": "pooled"}] = 0.1
    assert page.findings(Seen(changed, None, THRESHOLDS))[0].verdict == verdict


@pytest.mark.parametrize(
    ("interval", "verdict", "effect"),
    [
        ((0.5, 0.3, 0.7), "yes", "small to large"),
        ((0.1, -0.1, 0.3), "unclear", "negligible to small"),
        ((-0.5, -0.55, -0.45), "no", "small"),
    ],
)
def test_training_is_judged_by_the_paired_difference(metrics, interval, verdict, effect):
    draws = coactivation.measure({name: made.tally() for name, made in study_of(1).items()}, confidence=0.95).draws
    difference = differences(draws, draws, MEASURES, Jackknife(0.95))
    difference["mean_over_layers_mean_absolute_log2_lift"].loc[{"dataset": "pooled"}] = list(interval)
    found = page.findings(Seen(metrics, metrics, THRESHOLDS, difference))[-1]
    assert (found.verdict, found.effect) == (verdict, effect)
    assert (found.estimate, found.low, found.high) == interval
    assert verdict == "unclear" or "one training run" in found.answer


def test_of_pairs_that_loads_explain_none_is_significant_and_the_lift_is_negligible():
    rng = np.random.default_rng(0)
    flat = [np.full(10, 0.1), np.full(10, 0.1)]
    null = page.findings(Seen(measure({"poems": sparse_tally(rng, flat)}), None, THRESHOLDS))
    assert [finding.verdict for finding in null[:2]] in (["unclear", "no"], ["no", "no"])
    assert null[0].effect == "negligible"
    one = np.array([0.3, *[0.7 / 9] * 9])
    found = page.findings(Seen(measure({"poems": sparse_tally(rng, [one, one])}), None, THRESHOLDS))
    assert (found[1].verdict, found[0].verdict) == ("yes", "yes")
