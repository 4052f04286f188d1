"""Share explained: by hand, from all pairs of tokens, of planted truths, and its intervals by simulation."""

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from gatebook.inputs import clusters
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import uncertainty
from gatebook.measures.explained import Explained, partners, share_explained, shared_experts, variance_explained


def explained(code, group, selected, experts, dataset=None, among=None) -> Explained:
    dataset = np.zeros(len(code), int) if dataset is None else dataset
    return share_explained(partners(code, group, dataset, dataset.max() + 1, among), selected, experts)


def ratio(part, whole):
    return part / whole if whole > 1e-12 else np.nan


def by_pairs(code, group, dataset, selected, experts, kept, datasets):
    """Shares, those of experts, and coverage, from all pairs of the tokens that are kept."""
    k, alike = selected.shape[1], (group[:, None] != group) & (code[:, None] == code)
    ever, alike = alike.any(axis=1), alike & kept & kept[:, None]
    y = np.zeros((len(code), experts))
    np.put_along_axis(y, selected.astype(int), 1, axis=1)
    # What a partner counts is settled with all tokens.
    heavy = np.array([1 / max((ever & (dataset == one)).sum(), 1) for one in dataset])
    has = alike.any(axis=1)
    coverage = [has[kept & (dataset == one)].mean() for one in range(datasets) if (kept & (dataset == one)).any()]
    apart = (group[:, None] != group) & has
    same, any_two, mean = np.full((3, datasets, experts), np.nan)
    for one in range(datasets):
        mine = np.flatnonzero(has & (dataset == one))
        for t in mine:
            parts = [y[t] * np.average(y[each[t]], axis=0, weights=heavy[each[t]]) for each in (alike, apart)]
            for total, part in zip((same, any_two, mean), (*parts, y[t]), strict=True):
                total[one] = np.nan_to_num(total[one]) + part / len(mine)
    if not has.any():
        return [np.nan] * (1 + datasets), [np.nan] * experts, np.mean(coverage)
    whole = [np.nanmean(each, axis=0) for each in (same, any_two, mean)]
    share = [
        ratio((one - other).sum(), k - other.sum()) for one, other in [whole[:2], *zip(same, any_two, strict=True)]
    ]
    return share, [ratio(one - other, of - other) for one, other, of in zip(*whole, strict=True)], np.mean(coverage)


token = st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 1), st.permutations(range(4)))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(token, min_size=2, max_size=30), st.integers(1, 3))
def test_it_is_the_mean_over_pairs_of_tokens_also_without_each_group(made, rank):
    code, group, dataset, selected = (np.array([each[part] for each in made]) for part in range(4))
    selected = selected[:, :rank].astype(np.uint8)
    found = share_explained(partners(code, group, dataset, 2), selected, 4)
    for draw in range(1 + GROUPS):
        kept = group != draw - 1
        if not kept.any():
            continue
        share, of_experts, coverage = by_pairs(code, group, dataset, selected, 4, kept, 2)
        np.testing.assert_allclose(found.share[draw], share, atol=1e-9)
        np.testing.assert_allclose(found.of_experts[draw], of_experts, atol=1e-9)
        np.testing.assert_allclose(found.coverage[draw, 0], coverage, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(token, st.permutations(range(4))), min_size=2, max_size=30), st.integers(1, 3))
def test_what_tokens_share_with_others_is_the_mean_over_pairs(made, rank):
    code, group, dataset, selected = (np.array([each[part] for each, _ in made]) for part in range(4))
    selected, others = selected[:, :rank].astype(np.uint8), np.array([each for _, each in made], np.uint8)[:, :rank]
    found = shared_experts(partners(code, group, dataset, 2), selected, others, 4)
    y, z = (np.eye(4)[each.astype(int)].sum(axis=1) for each in (selected, others))
    alike = (group[:, None] != group) & (code[:, None] == code)
    heavy = np.array([1 / max((alike.any(axis=1) & (dataset == one)).sum(), 1) for one in dataset])
    for draw in range(1 + GROUPS):
        kept = group != draw - 1
        pairs = heavy * (alike & kept & kept[:, None])
        has = pairs.any(axis=1)
        value = np.full(len(code), np.nan)
        value[has] = ((y @ z.T) * pairs).sum(axis=1)[has] / pairs.sum(axis=1)[has] / rank
        wanted = [value[has & (dataset == one)].mean() if (has & (dataset == one)).any() else np.nan for one in (0, 1)]
        np.testing.assert_allclose(found[draw, 1:], wanted, atol=1e-9)
        if has.any():
            np.testing.assert_allclose(found[draw, 0], np.nanmean(wanted), atol=1e-9)
    same = share_explained(partners(code, group, dataset, 2), selected, 4)
    assert np.isfinite(found[:, 0]).tolist() == (same.coverage[:, 0] > 0).tolist()


def test_by_hand():
    # Two groups of two tokens: those of the value 0 select expert 0, and those of the value 1 select 1 and 0.
    code, group, selected = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), np.array([[0], [1], [0], [0]], np.uint8)
    found = explained(code, group, selected, 2)
    # Partners share 1, 0, 1, 0 experts: 1 / 2. Of four pairs in different groups two share one: 1 / 2 as well.
    assert found.share[0].tolist() == [0, 0]
    # Expert 0: partners both select it half the time, pairs 2 / 4, and 3 / 4 of all tokens. Expert 1: never, 0, 1 / 4.
    assert found.of_experts[0].tolist() == [0, 0]
    assert found.coverage[0].tolist() == [1, 1]
    selected[3] = 1
    # Now partners always share theirs, 1, any two 1 / 2: all is explained, of both experts too.
    found = explained(code, group, selected, 2)
    assert found.share[0].tolist() == [1, 1] and found.of_experts[0].tolist() == [1, 1]
    # Without a group nobody has a partner, and of the others nothing changes.
    assert np.isnan(found.share[1:3]).all() and found.coverage[1:3].tolist() == [[0, 0], [0, 0]]
    assert (found.share[3:] == 1).all()


def test_the_partners_are_the_tokens_whose_value_another_group_has():
    code, group, dataset = np.array([5, 7, 5, 7, 9, 5]), np.array([1, 1, 0, 1, 2, 1]), np.array([0, 0, 1, 0, 1, 1])
    found = partners(code, group, dataset, 2)
    assert found.place.tolist() == [2, 0, 5] and found.starts.tolist() == [0, 3]
    assert found.group.tolist() == [0, 1, 1] and found.dataset.tolist() == [1, 0, 1]
    assert found.tokens[:4].tolist() == [[3, 3], [3, 2], [0, 2], [3, 2]]
    assert found.coverage.tolist() == [1 / 3, 2 / 3]
    among = np.array([True, True, False, True, True, True])
    assert partners(code, group, dataset, 2, among).place.tolist() == []


def planted(rng, tokens, share, k=2, experts=8):
    """Tokens of 50 values of which each token has, with the probability `share`, the set of its value."""
    code = rng.integers(0, 50, tokens)
    sets = np.argsort(rng.random((50, experts)), axis=1)[:, :k]
    own = np.argsort(rng.random((tokens, experts)), axis=1)[:, :k]
    return code, np.where(rng.random((tokens, 1)) < share, sets[code], own).astype(np.uint8), sets


def truth(weight, means, k):
    """R^2 of a class whose values have these weights and mean selections (value, expert)."""
    mean = weight @ means
    return (weight @ (means**2).sum(axis=1) - mean @ mean) / (k - mean @ mean)


def one_hot(sets, experts):
    of_sets = np.zeros((len(sets), experts))
    np.put_along_axis(of_sets, sets, 1, axis=1)
    return of_sets


def test_a_class_that_explains_nothing_has_the_share_0_although_its_values_are_rare():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(20):
        code = rng.integers(0, 3000, 6000)
        selected = np.argsort(rng.random((6000, 16)), axis=1)[:, :4].astype(np.uint8)
        found.append(explained(code, rng.integers(0, GROUPS, 6000), selected, 16).share[0, 0])
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(20) + 1e-4


@pytest.mark.parametrize("share", [0, 0.3, 0.7, 1])
def test_a_planted_mixture_has_the_share_of_pairs_that_both_follow_the_class(share):
    rng = np.random.default_rng(2)
    code, selected, sets = planted(rng, 40_000, share)
    found = explained(code, rng.integers(0, GROUPS, len(code)), selected, 8)
    # y is its value's set with the probability `share`, else any: mu_c = share y_c + (1 - share) / 4
    means = share * one_hot(sets, 8) + (1 - share) / 4
    weight = np.bincount(code) / len(code)
    assert found.share[0, 0] == pytest.approx(truth(weight, means, 2), abs=0.01)
    mean = weight @ means
    of_experts = (weight @ means**2 - mean**2) / (mean - mean**2)
    np.testing.assert_allclose(found.of_experts[0], of_experts, atol=0.02)
    assert found.coverage[0, 0] == 1


def test_what_tokens_of_one_group_share_does_not_count():
    """A set drawn for every group explains nothing of a class that is spread over all groups."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(40):
        group = np.repeat(np.arange(GROUPS), 200)
        sets = np.argsort(rng.random((GROUPS, 8)), axis=1)[:, :2]
        code = rng.integers(0, 200, len(group))
        found.append(explained(code, group, sets[group].astype(np.uint8), 8).share[0, 0])
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(40)


def test_a_class_with_one_value_explains_nothing_of_any_dataset_exactly():
    rng = np.random.default_rng(10)
    dataset = np.repeat([0, 1, 2], [300, 100, 50])
    selected = ((dataset[:, None] + np.argsort(rng.random((450, 4)), axis=1)[:, :2]) % 6).astype(np.uint8)
    found = explained(np.zeros(450, int), rng.integers(0, GROUPS, 450), selected, 6, dataset)
    np.testing.assert_allclose(found.share, 0, atol=1e-12)
    np.testing.assert_allclose(found.of_experts, 0, atol=1e-12)


def test_datasets_have_equal_weights():
    rng = np.random.default_rng(6)
    code, selected, sets = planted(rng, 40_000, 0.8)
    # The second dataset has a tenth of the tokens, and they ignore their value.
    dataset = (rng.random(len(code)) < 0.1).astype(int)
    free = np.argsort(rng.random((len(code), 8)), axis=1)[:, :2]
    selected = np.where(dataset[:, None] == 1, free, selected).astype(np.uint8)
    group = rng.integers(0, GROUPS, len(code))
    found = explained(code, group, selected, 8, dataset)
    assert found.share[0, 2] == pytest.approx(0, abs=0.03) and found.share[0, 1] > 0.3
    means = 0.5 * (0.8 * one_hot(sets, 8) + 0.2 / 4) + 0.5 / 4
    assert found.share[0, 0] == pytest.approx(truth(np.full(50, 1 / 50), means, 2), abs=0.01)


def test_the_order_of_tokens_and_the_names_of_values_groups_and_experts_do_not_matter():
    rng = np.random.default_rng(7)
    code, selected, _ = planted(rng, 900, 0.6)
    dataset, group = rng.integers(0, 2, 900), rng.integers(0, GROUPS, 900)
    found = explained(code, group, selected, 8, dataset)
    order, names, groups, experts = (rng.permutation(number) for number in (900, 50, GROUPS, 8))
    other = explained(names[code][order] + 3, groups[group][order], experts[selected][order], 8, dataset[order])
    at = np.append(0, 1 + groups)
    np.testing.assert_allclose(other.share[at], found.share, atol=1e-12)
    np.testing.assert_allclose(other.of_experts[at][:, experts], found.of_experts, atol=1e-12)
    np.testing.assert_allclose(other.coverage[at], found.coverage, atol=1e-12)


def test_a_finer_class_that_is_drawn_at_random_adds_nothing():
    rng, added = np.random.default_rng(8), []
    for _ in range(20):
        code, selected, _ = planted(rng, 4000, 0.6)
        group, finer = rng.integers(0, GROUPS, 4000), code * 20 + rng.integers(0, 20, 4000)
        none = np.zeros(4000, int)
        common = np.zeros(4000, bool)
        common[partners(finer, group, none, 1).place] = True
        shares = [explained(each, group, selected, 8, None, common).share[0, 0] for each in (code, finer)]
        added.append(np.diff(shares).item())
    assert abs(np.mean(added)) < 3 * np.std(added) / np.sqrt(20)


def sources(rng, share, context, own, number=40):
    """Tokens of two datasets from sources of unequal length that have token ids and a set of experts of their own.

    A token has the set of its id with the probability `share`, that of its id and a second class with `context`, that
    of its source with `own`, else any two of 8 experts. Returns codes (id, both), group, dataset, selected; the true
    shares of both.
    """
    ids, seconds, k, experts = 12, 3, 2, 8
    prior = 1 / np.arange(1, ids + 1)
    prior /= prior.sum()
    sets, pair_sets = (np.argsort(np.random.default_rng(9).random((n, experts)), axis=1)[:, :k] for n in (ids, 36))
    codes, groups, datasets, chosen = [], [], [], []
    for dataset in range(2):
        lengths = np.ceil(rng.lognormal(4, 0.8, number)).astype(int)
        source = np.repeat(np.arange(number), lengths)
        of_source = rng.dirichlet(20 * prior, number).cumsum(axis=1)
        code = (rng.random(len(source))[:, None] > of_source[source]).sum(axis=1).clip(max=ids - 1)
        second = rng.integers(0, seconds, len(source))
        source_sets = np.argsort(rng.random((number, experts)), axis=1)[:, :k]
        free = np.argsort(rng.random((len(source), experts)), axis=1)[:, :k]
        kind = (rng.random(len(source))[:, None] > np.cumsum([share, context, own])).sum(axis=1)
        options = np.stack([sets[code], pair_sets[code * seconds + second], source_sets[source], free])
        codes.append(np.stack([code, code * seconds + second]))
        groups.append(clusters.groups(np.arange(number))[source])
        datasets.append(np.full(len(source), dataset))
        chosen.append(options[kind, np.arange(len(source))])
    even = (1 - share - context) * k / experts
    fine = share * np.repeat(one_hot(sets, experts), seconds, axis=0) + context * one_hot(pair_sets, experts) + even
    coarse = fine.reshape(ids, seconds, experts).mean(axis=1)
    true = truth(prior, coarse, k), truth(np.repeat(prior / seconds, seconds), fine, k)
    parts = np.concatenate(codes, axis=1), np.concatenate(groups), np.concatenate(datasets)
    return *parts, np.concatenate(chosen).astype(np.uint8), true


def intervals(rng, share=0.4, context=0.2, own=0.25):
    """The shares of both classes and their difference, (value, low, high) and truth each, of one simulated study."""
    codes, group, dataset, selected, true = sources(rng, share, context, own)
    draws = [explained(code, group, selected, 8, dataset).share[:, 0] for code in codes]
    for draw, wanted in zip([*draws, draws[1] - draws[0]], [*true, true[1] - true[0]], strict=True):
        yield uncertainty.jackknife(xr.DataArray(draw, dims="draw")).values, wanted


@pytest.mark.slow
def test_the_jackknife_over_groups_covers_shares_and_their_difference_where_tokens_come_in_sources():
    """80 sources of unequal length, in which tokens are alike: 93 to 96 % of the intervals hold the truth."""
    rng = np.random.default_rng(4)
    inside = [[low <= wanted <= high for (_, low, high), wanted in intervals(rng)] for _ in range(100)]
    assert (np.mean(inside, axis=0) >= 0.88).all()


@pytest.mark.slow
def test_a_class_that_adds_nothing_is_found_to_add_something_one_time_in_twenty():
    rng, found = np.random.default_rng(5), []
    for _ in range(100):
        *_, ((_, low, high), _) = intervals(rng, context=0)
        found.append(not low <= 0 <= high)
    assert np.mean(found) <= 0.12


def test_no_partner_at_all():
    found = explained(np.arange(6), np.arange(6) % 3, np.zeros((6, 1), np.uint8), 4)
    assert np.isnan(found.share).all() and (found.coverage == 0).all()
    one = explained(np.zeros(6, int), np.arange(6) % 3, np.zeros((6, 1), np.uint8), 4)
    assert np.isnan(one.share).all() and (one.coverage[0] == 1).all()
    assert all(low <= high for low, high in pairwise(partners(np.zeros(6), np.zeros(6), np.zeros(6), 1).starts))


def test_numbers_are_explained_from_all_pairs():
    rng = np.random.default_rng(0)
    code, group, values = rng.integers(0, 8, 40), rng.integers(0, 4, 40), rng.random((40, 2))
    values[:, 1] = code == 3
    found = variance_explained(code, group, values)
    for left_out in (-1, 0, 2, 9):
        kept = group != left_out
        apart = (group[:, None] != group) & kept & kept[:, None]
        alike = apart & (code[:, None] == code)
        has = alike.any(axis=1)
        for column, y in enumerate(values.T):
            same = np.mean([y[t] * y[alike[t]].mean() for t in np.flatnonzero(has)])
            any_two = np.mean([y[t] * y[apart[t] & has].mean() for t in np.flatnonzero(has)])
            wanted = (same - any_two) / ((y[has] ** 2).mean() - any_two)
            assert found[left_out + 1, column] == pytest.approx(wanted)
    assert found[0, 1] == pytest.approx(1)
    assert np.isnan(variance_explained(np.arange(4), np.arange(4), values[:4])).all()


def test_intervals_of_explained_numbers_cover_what_is_planted():
    """Half of the variance is that of 30 values; clusters have an effect of their own, which is no explanation."""
    rng, inside, found = np.random.default_rng(1), [], []
    for _ in range(100):
        group, code = np.repeat(np.arange(GROUPS), 30), rng.integers(0, 30, 30 * GROUPS)
        of_group = 0.5 * rng.standard_normal(GROUPS)[group]
        y = np.tile([-1.0, 1.0], 15)[code] + of_group + np.sqrt(0.75) * rng.standard_normal(len(code))
        draws = xr.DataArray(variance_explained(code, group, y[:, None])[:, 0], dims="draw")
        estimate, low, high = uncertainty.jackknife(draws).values
        inside.append(low <= 0.5 <= high)
        found.append(estimate)
    assert np.mean(inside) >= 0.9 and np.mean(found) == pytest.approx(0.5, abs=0.01)
