"""Intervals cover what they should, and p-values are small no more often than they should, in simulated studies.

Their clustering is that of real text: a dataset has 30 sources, of which the largest gives several times as many
documents as the smallest; documents of one source route alike (intra-class correlation of loads about 0.8), and the
sources of a domain differ as much as domains do. What is true is known: sources are drawn around the loads of their
domain.
"""

from functools import cache

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from gatebook.chapters.domain_specialization import measure as domain_specialization
from gatebook.chapters.selection_frequency import measure as selection_frequency
from gatebook.chapters.token_overlap.measure import weighted_jaccard
from gatebook.inputs.clusters import GROUPS, groups
from gatebook.measures import expert_sets, permutation, uncertainty

pytestmark = pytest.mark.slow

DOMAINS, CLUSTERS, EXPERTS, TOP_K = 6, 30, 16, 4
SELECTED = ("document", "layer", "expert")
BIASES = {
    name: declared.bias
    for each in (selection_frequency, domain_specialization)
    for name, declared in each.MEASURES.items()
}


def documents_of_clusters(rng: np.random.Generator, clusters: int = CLUSTERS) -> np.ndarray:
    """The cluster of each document of a dataset: few sources have many documents."""
    return np.repeat(np.arange(clusters), 1 + rng.geometric(0.35, clusters))


def tally(rng: np.random.Generator, loads: np.ndarray, name: str, evenness: float = 20) -> xr.Dataset:
    """The tally of a dataset whose sources have loads around those given, and whose documents have loads around these.

    `entropy` has the mean 2, and varies between sources more than between documents.
    """
    cluster = documents_of_clusters(rng)
    of_clusters = rng.dirichlet(evenness * loads + 1e-3, CLUSTERS)
    shares = np.array([rng.dirichlet(100 * of_clusters[one] + 1e-3) for one in cluster])
    tokens = rng.integers(40, 200, len(cluster))
    count = np.array([rng.multinomial(TOP_K * size, share) for size, share in zip(tokens, shares, strict=True)])
    entropy = tokens * (2 + rng.normal(0, 0.3, CLUSTERS)[cluster] + rng.normal(0, 0.1, len(cluster)))
    names = [f"{name} {number}" for number in range(len(cluster))]
    return xr.Dataset(
        {
            "tokens": ("document", tokens),
            "selected_count": (SELECTED, count[:, None]),
            "entropy_sum": ("document", entropy),
        },
        coords={
            "document_id": ("document", names),
            "cluster": ("document", [f"{one}" for one in cluster]),
            "layer": [0],
            "expert": np.arange(EXPERTS),
        },
        attrs={"dataset": name, "dataset_sha256": name},
    )


def measures(sums: xr.Dataset) -> dict[str, xr.DataArray]:
    """What the bootstrap is used for, in every draw: a mean, a ratio, spreads, maxima, information."""
    count, tokens = sums["selected_count"], sums["tokens"]
    domains = domain_specialization.domain_measures(sums, tokens)
    return selection_frequency.load_measures(count) | {
        "mean": sums["entropy_sum"] / tokens,
        "selection frequency": (count / tokens).isel(expert=0),
        "information": domains["information"],
        "divergence": domains["divergence"],
        "largest_specialization": domains["largest_specialization"],
    }


@cache
def coverage(evenness: float = 20, studies: int = 150) -> dict[str, tuple[float, float]]:
    """How often the intervals of pooled measures cover their true values, and the bias of the estimates in errors."""
    rng, names = np.random.default_rng(1), ["tokens", "selected_count", "entropy_sum"]
    loads = rng.dirichlet(np.full(EXPERTS, 3), DOMAINS)
    exact = {"tokens": np.ones(DOMAINS), "entropy_sum": np.full(DOMAINS, 2.0)}
    true_sums = xr.Dataset({name: ("dataset", np.append(values.sum(), values)) for name, values in exact.items()})
    true_sums = true_sums.assign_coords(dataset=[uncertainty.POOLED, *map(str, range(DOMAINS))])
    true_sums["selected_count"] = (("dataset", "expert"), TOP_K * np.vstack([loads.sum(axis=0), loads]))
    truth = {name: float(value[0]) for name, value in measures(true_sums).items()}
    found = {name: [] for name in truth}
    for study in range(studies):
        tallies = {
            f"domain {number}": tally(rng, one, f"{study} {number}", evenness) for number, one in enumerate(loads)
        }
        draws = uncertainty.dataset_draws(tallies, names, uncertainty.resample(tallies, 200, study))
        for name, values in measures(draws).items():
            pooled = values.isel(dataset=0, layer=0, missing_dims="ignore").squeeze()
            interval = uncertainty.interval(pooled, bias=BIASES.get(name, "")).values
            found[name].append([interval[1] <= truth[name] <= interval[2], interval[0] - truth[name]])
    out = {}
    for name, rows in found.items():
        covered, distance = np.array(rows, float).T
        out[name] = covered.mean(), distance.mean() / max(distance.std(), 1e-12)
    return out


@pytest.mark.parametrize(
    "name",
    ["mean", "selection frequency", "coefficient_of_variation", "gini", "normalised_slot_entropy", "information"],
)
def test_intervals_cover_the_true_value_in_95_of_100_studies(name):
    covered, bias = coverage()[name]
    assert 0.905 <= covered <= 0.99  # 95 %, and two standard errors of 150 studies
    assert abs(bias) < 0.5


@pytest.mark.parametrize("name", ["max_violation", "largest_specialization", "divergence"])
def test_intervals_of_a_maximum_cover_a_little_less(name):
    """Which expert is the largest differs between samples, so no correction fits; known, and said in the report."""
    covered, bias = coverage()[name]
    assert 0.86 <= covered <= 0.99
    assert abs(bias) < 0.6


def test_documents_as_units_would_cover_far_less():
    rng, covered = np.random.default_rng(2), []
    for study in range(100):
        made = tally(rng, np.full(EXPERTS, 1 / EXPERTS), "poems")
        made["cluster"] = made["document_id"]
        resampling = uncertainty.resample({"poems": made}, 200, study)
        draws = uncertainty.dataset_draws({"poems": made}, ["tokens", "entropy_sum"], resampling)
        values = (draws["entropy_sum"] / draws["tokens"]).isel(dataset=0)
        _, low, high = uncertainty.interval(values).values
        covered.append(low <= 2 <= high)
    assert np.mean(covered) < 0.85


def grouped(rng: np.random.Generator, table: np.ndarray, means: np.ndarray, size: int = 60) -> tuple[np.ndarray, ...]:
    """Tokens (group,), counts (group, expert, type) and sums of two vectors (group, 2, hidden) of a study."""
    found = np.zeros(GROUPS), np.zeros((GROUPS, *table.shape)), np.zeros((GROUPS, *means.shape))
    for _ in range(DOMAINS):
        cluster = documents_of_clusters(rng)
        for number, group in dict(zip(cluster, groups(cluster.astype(str)), strict=True)).items():
            tokens = size * (cluster == number).sum()
            share = rng.gamma(500 * table)
            parts = (
                tokens,
                rng.multinomial(tokens, share.ravel() / share.sum()).reshape(table.shape),
                tokens * (means + rng.normal(0, 0.4, means.shape)),
            )
            for whole, part in zip(found, parts, strict=True):
                whole[group] += part
    return found


def test_jackknife_intervals_cover_the_mean_of_their_estimate():
    """Of a ratio, of the root of a lift, of Jaccard at so many tokens, and of a cosine."""

    def statistics(tokens, count, sums):
        shares = count.sum(axis=1) / tokens
        first, second = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        rows = count.sum(axis=1)
        lift = count[0, 0] * tokens / (rows[0] * count.sum(axis=0)[0])
        return np.array([shares[0], np.sqrt(lift), weighted_jaccard(count).mean(), first @ second])

    rng = np.random.default_rng(3)
    table, means = rng.dirichlet(np.full(120, 0.5)).reshape(4, 30), rng.normal(0.5, 0.5, (2, 10))
    found = []
    for _ in range(150):
        parts = grouped(rng, table, means)
        whole = [part.sum(axis=0) for part in parts]
        without = [[all_of - part[group] for all_of, part in zip(whole, parts, strict=True)] for group in range(GROUPS)]
        draws = np.array([statistics(*one) for one in (whole, *without)])
        found.append(uncertainty.jackknife(xr.DataArray(draws, dims=("draw", "statistic"))).values)
    estimate, low, high = np.moveaxis(np.array(found), 2, 0)
    covered = ((low <= estimate.mean(axis=0)) & (estimate.mean(axis=0) <= high)).mean(axis=0)
    assert ((covered >= 0.9) & (covered <= 0.995)).all(), covered


def dealt(rng: np.random.Generator, evenness: list[float]) -> xr.DataArray:
    """p-values (dataset, expert) of a study in which all domains have the same loads, but not the same scatter."""
    loads = np.full(EXPERTS, 1 / EXPERTS)
    tallies = {f"domain {number}": tally(rng, loads, f"{number}", each) for number, each in enumerate(evenness)}
    dealing = permutation.deal(tallies, 199, int(rng.integers(1 << 30)))
    count, tokens = (dealing.of_items(tallies, name) for name in ("selected_count", "tokens"))
    return permutation.p_value(np.abs(permutation.studentised(count, tokens, dealing)).isel(layer=0))


def test_p_values_of_single_experts_are_uniform_under_the_null():
    rng = np.random.default_rng(4)
    found = np.concatenate([dealt(rng, [20] * 4).values[:, :4].ravel() for _ in range(60)])
    assert scipy.stats.kstest(found - rng.random(len(found)) / 200, "uniform").pvalue > 0.001
    assert (found <= 0.05).mean() == pytest.approx(0.05, abs=0.02)


def test_a_domain_whose_sources_differ_more_is_not_found_more_often():
    rng = np.random.default_rng(5)
    found = np.mean([(dealt(rng, [10, 40, 40, 40]) <= 0.05).mean("expert").values for _ in range(60)], axis=0)
    assert (found >= 0.02).all() and (found <= 0.085).all(), found


def test_sets_are_specific_no_more_often_than_they_should_be_when_whole_clusters_are_dealt_out():
    rng, any_found, small = np.random.default_rng(6), [], []
    for _ in range(60):
        counts, tokens = np.zeros((EXPERTS, 4, GROUPS)), np.zeros((4, GROUPS))
        for number in range(4):
            made = tally(rng, np.full(EXPERTS, 1 / EXPERTS), "poems")
            for one, group in enumerate(groups(made["cluster"].values)):
                counts[:, number, group] += made["selected_count"].values[one, 0]
                tokens[number, group] += made["tokens"].values[one]
        p = expert_sets.scores(counts, tokens, 0.95)[3]
        small.append((p <= 0.05).mean())
        any_found.append((expert_sets.adjusted(p) <= 0.05).any())
    assert np.mean(small) == pytest.approx(0.05, abs=0.02)
    assert np.mean(any_found) <= 0.12  # 5 %, and two standard errors
