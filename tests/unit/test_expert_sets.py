from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from gatebook.inputs.clusters import GROUPS
from gatebook.measures import expert_sets
from gatebook.measures.expert_sets import MODES, SIZES, Sets


def sets_of(row: list[int], mode: str, size: int) -> list[tuple[int, ...]]:
    """The sets of a token, by definition."""
    if mode == "subset":
        return [tuple(sorted(chosen)) for chosen in combinations(row, size)]
    return [tuple(row[:size] if mode == "ordered" else sorted(row[:size]))]


@given(st.integers(0, 10**6), st.sampled_from(MODES), st.sampled_from(SIZES))
def test_counts_members_and_weights_equal_brute_force(seed, mode, size):
    rng = np.random.default_rng(seed)
    tokens, experts, top_k = 30, 6, 4
    selected = np.argsort(rng.random((tokens, experts)), axis=1)[:, :top_k].astype(np.uint8)
    weight, column = rng.random((tokens, top_k)).astype(np.float32), rng.integers(0, 3, tokens)
    expected = Counter(
        (found, column[token]) for token in range(tokens) for found in sets_of(selected[token].tolist(), mode, size)
    )
    sets = Sets(selected, weight, experts, mode, size)
    totals = sets.totals()
    codes = np.flatnonzero(totals)
    written = [tuple(one) for one in sets.written(codes).tolist()]
    assert dict(zip(written, totals[codes].tolist(), strict=True)) == Counter(found for found, _ in expected.elements())
    counts = sets.counts(codes, column, 3)
    assert {(one, place): counts[row, place] for row, one in enumerate(written) for place in range(3)} == {
        (one, place): expected[one, place] for one in written for place in range(3)
    }
    some = codes[::2][::-1]
    np.testing.assert_array_equal(sets.counts(some, column, 3), counts[::2][::-1])
    for one, (member, heavy) in zip(sets.written(some).tolist(), sets.members(some), strict=True):
        having = [token for token in range(tokens) if tuple(one) in sets_of(selected[token].tolist(), mode, size)]
        assert member.tolist() == having
        chosen = np.isin(selected[having], one)
        np.testing.assert_allclose(heavy, (weight[having] * chosen).sum(axis=1), rtol=1e-6)


def test_a_set_that_no_token_has_has_no_members():
    sets = Sets(np.array([[0, 1]]), np.array([[0.5, 0.25]]), 4, "subset", 2)
    (member, weight), (none, _) = sets.members(np.array([1, 2]))  # {0, 1} and {0, 2}
    assert member.tolist() == [0] and weight.tolist() == [0.75] and none.tolist() == []


def test_the_most_frequent_sets():
    assert expert_sets.most_frequent(np.array([0, 3, 1, 3, 0, 2]), 3).tolist() == [1, 3, 5]
    assert expert_sets.most_frequent(np.array([0, 3, 1]), 5).tolist() == [1, 2]


def test_scores_by_hand():
    tokens = np.array([[100, 100, 0], [50, 150, 200]])
    counts = np.array([[[20, 10, 0], [5, 5, 10]]])
    (score, low, high, p) = expert_sets.scores(counts, tokens, 0.5)[:, 0]
    rate = np.array([30 / 200, 20 / 400])
    assert score == pytest.approx(rate / rate.sum())
    # residuals c - r T: 5 and -5 of two groups; 2.5, -2.5 and 0 of three
    variance = np.array([2 / 1 * 50 / 200**2, 3 / 2 * 12.5 / 400**2])
    freedom = variance.sum() ** 2 / (variance[0] ** 2 / 1 + variance[1] ** 2 / 2)
    t = (rate[0] - rate[1]) / np.sqrt(variance.sum())
    # two groups cannot give less than 1 / 4, three not less than 1 / 8
    p_values = np.array([scipy.stats.t.sf(t, freedom), scipy.stats.t.sf(-t, freedom)])
    assert p == pytest.approx(np.maximum(p_values, [1 / 4, 1 / 8])) and p_values[0] < 1 / 4
    quantile = scipy.stats.t.ppf(0.75, freedom)
    for end in (low[1], high[1]):
        distance = (1 - end) * rate[1] - end * rate[0]
        assert abs(distance) == pytest.approx(quantile * np.sqrt((1 - end) ** 2 * variance[1] + end**2 * variance[0]))
    assert low[0] == pytest.approx(1 - high[1]) and high[0] == pytest.approx(1 - low[1])


def test_a_set_as_frequent_in_all_groups_still_has_the_variance_of_one_token():
    tokens, counts = np.array([[10, 10], [1, 39]]), np.array([[[2, 2], [1, 1]]])
    counts[0, 1] = [0, 2]
    (_, _, _, p) = expert_sets.scores(counts, tokens, 0.5)[:, 0]
    # residuals: 0 of two groups, taken as 1; 0.05 and 0.05, so less than one token, too; a group of one token counts
    variance = np.array([1 / 20**2, 1 / 40**2])
    freedom = variance.sum() ** 2 / (variance**2 / 1).sum()
    t = (4 / 20 - 2 / 40) / np.sqrt(variance.sum())
    assert p == pytest.approx([1 / 4, scipy.stats.t.sf(-t, freedom)])


def test_a_set_of_one_group_is_specific_to_nothing():
    tokens = np.full((2, GROUPS), 1000)
    counts = np.zeros((2, 2, GROUPS), int)
    counts[0, 0, 3] = 900  # all in one group of clusters
    counts[1, 0] = 45  # as many, in all groups
    score, low, high, p = expert_sets.scores(counts, tokens, 0.95)
    assert score[:, 0].tolist() == [1, 1]
    assert p[0, 0] > 0.1 and (low[0, 0], high[0, 0]) == (0, 1)
    assert p[1, 0] == 0.5**GROUPS and low[1, 0] > 0.95 and high[1, 0] == 1


def test_what_cannot_be_tested_is_nan():
    counts, tokens = np.full((3, 1, GROUPS), 5), np.full((1, GROUPS), 50)
    score, *rest = expert_sets.scores(counts, tokens, 0.95)
    assert (score == 1).all() and np.isnan(rest).all()
    tokens = np.array([[50, 50, 50], [0, 150, 0]])
    counts = np.array([[[5, 4, 6], [0, 9, 0]]])
    score, *rest = expert_sets.scores(counts, tokens, 0.95)
    assert np.isfinite(score).all() and np.isnan(rest).all()
    assert np.isnan(expert_sets.adjusted(np.array(rest)[-1])).all()
    assert expert_sets.scores(np.zeros((0, 2, 3), int), tokens, 0.95).shape == (4, 0, 2)


def simulated(rng, rates, documents, evenness):
    """Counts (set, dataset, group) and tokens (dataset, group): documents differ in length and in their own rates."""
    datasets = rates.shape[1]
    lengths, group = rng.integers(50, 400, (datasets, documents)), rng.integers(0, GROUPS, (datasets, documents))
    tokens, counts = np.zeros((datasets, GROUPS), int), np.zeros((*rates.shape, GROUPS), int)
    for dataset, document in np.ndindex(lengths.shape):
        rate = np.minimum(rng.gamma(evenness, rates[:, dataset] / evenness), 1)
        place = dataset, group[dataset, document]
        tokens[place] += lengths[dataset, document]
        counts[:, *place] += rng.binomial(lengths[dataset, document], rate)
    return counts, tokens


@pytest.mark.slow
@pytest.mark.parametrize("datasets, documents, evenness", [(4, 60, 2), (3, 15, 0.5)])
def test_false_discoveries_are_rare_although_documents_differ(datasets, documents, evenness):
    rng = np.random.default_rng(1)
    small, any_found, shares, covered, power = [], [], [], [], []
    for _ in range(30):
        rates = 0.02 * rng.lognormal(0, 0.5, (300, 1)) * np.ones(datasets)
        *_, p = expert_sets.scores(*simulated(rng, rates, documents, evenness), 0.95)
        small.append((p < 0.05).mean())
        any_found.append((expert_sets.adjusted(p) <= 0.05).any(axis=0))
        rates[:60, 0] *= 4
        _, low, high, p = expert_sets.scores(*simulated(rng, rates, documents, evenness), 0.95)
        found = expert_sets.adjusted(p)[:, 0] <= 0.05
        shares.append(found[60:].sum() / max(found.sum(), 1))
        power.append(found[:60].mean())
        true = rates / rates.sum(axis=1, keepdims=True)
        covered.append(((low <= true) & (true <= high)).mean())
    assert np.mean(small) < 0.05
    assert np.mean(any_found) < 0.06 and np.mean(shares) < 0.05
    if evenness == 2:
        assert np.mean(covered) == pytest.approx(0.95, abs=0.02) and np.mean(power) > 0.9


def test_the_specific_sets_of_each_dataset():
    p = np.array([[0.001, 0.9], [0.002, 0.9], [0.9, 0.9], [0.01, 0.9]])
    score = np.array([[0.6, 0.4], [0.8, 0.2], [0.9, 0.1], [0.7, 0.3]])
    counts = np.array([[60, 40], [80, 20], [90, 10], [70, 30]])
    written = [[0], [1, 5], [2], [3]]
    table, numbers = expert_sets.specific(
        written,
        counts,
        np.array([score, score - 0.1, score + 0.1, p]),
        expert_sets.adjusted(p),
        ["poems", "code"],
        rate=0.05,
        most=2,
    )
    assert numbers == [3, 0]
    assert table["experts"].tolist() == ["1 5", "3"] and table["dataset"].tolist() == ["poems"] * 2
    assert table["tokens"].tolist() == [100, 100] and table["dataset_tokens"].tolist() == [80, 70]
    assert table["q"].tolist() == pytest.approx([2 * 0.004, 8 / 3 * 0.01])
    assert table["low"].tolist() == pytest.approx([0.7, 0.6])
