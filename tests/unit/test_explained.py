import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from gatebook.inputs.clusters import GROUPS
from gatebook.measures import uncertainty
from gatebook.measures.explained import share_explained


def by_pairs(code, group, selected):
    """The share explained, from all pairs of tokens."""
    k = selected.shape[1]
    common = np.array([[len(set(one) & set(other)) for other in selected] for one in selected])
    apart = group[:, None] != group
    alike = apart & (code[:, None] == code)
    has_partner = alike.any(axis=1)
    if not has_partner.any():
        return np.nan, 0
    same = np.mean([common[token, alike[token]].mean() for token in np.flatnonzero(has_partner)])
    pairs = apart & has_partner[:, None] & has_partner
    any_two = common[pairs].mean()
    share = (same - any_two) / (k - any_two) if any_two < k - 1e-12 else np.nan
    return share, has_partner.mean()


tokens = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.permutations(range(4))), min_size=2, max_size=40)


@settings(max_examples=60)
@given(tokens, st.integers(1, 3))
def test_it_is_the_mean_over_pairs_of_tokens_also_without_each_group(made, rank):
    code, group, selected = (np.array([each[part] for each in made]) for part in range(3))
    selected = selected[:, :rank]
    found = share_explained(code, group, selected.astype(np.uint8), 4)
    for draw in range(1 + GROUPS):
        kept = group != draw - 1
        share, coverage = by_pairs(code[kept], group[kept], selected[kept]) if kept.any() else (np.nan, np.nan)
        np.testing.assert_allclose([found.share[draw], found.coverage[draw]], [share, coverage], atol=1e-12)


def planted(rng, tokens, share, k=2, experts=8):
    """Tokens of 50 values of which each token has, with the probability `share`, the set of its value."""
    code = rng.integers(0, 50, tokens)
    sets = np.argsort(rng.random((50, experts)), axis=1)[:, :k]
    own = np.argsort(rng.random((tokens, experts)), axis=1)[:, :k]
    return code, np.where(rng.random((tokens, 1)) < share, sets[code], own).astype(np.uint8), sets


def test_a_class_that_explains_nothing_has_the_share_0_although_its_values_are_rare():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(20):
        code = rng.integers(0, 3000, 6000)
        selected = np.argsort(rng.random((6000, 16)), axis=1)[:, :4].astype(np.uint8)
        found.append(share_explained(code, rng.integers(0, GROUPS, 6000), selected, 16).share[0])
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(20) + 1e-4


@pytest.mark.parametrize("share", [0, 0.3, 0.7, 1])
def test_a_planted_mixture_has_the_share_of_pairs_that_both_follow_the_class(share):
    rng = np.random.default_rng(2)
    code, selected, sets = planted(rng, 40_000, share)
    found = share_explained(code, rng.integers(0, GROUPS, len(code)), selected, 8)
    # y is its value's set with the probability `share`, else any: mu_c = share y_c + (1 - share) / 4
    of_sets = np.zeros((50, 8))
    np.put_along_axis(of_sets, sets, 1, axis=1)
    means = share * of_sets + (1 - share) / 4
    weight = np.bincount(code) / len(code)
    mean = weight @ means
    wanted = (weight @ (means**2).sum(axis=1) - mean @ mean) / (2 - mean @ mean)
    assert found.share[0] == pytest.approx(wanted, abs=0.01)
    assert found.coverage[0] == 1


def test_what_tokens_of_one_group_share_does_not_count():
    """A set drawn for every group explains nothing of a class that is spread over all groups."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(40):
        group = np.repeat(np.arange(GROUPS), 200)
        sets = np.argsort(rng.random((GROUPS, 8)), axis=1)[:, :2]
        code = rng.integers(0, 200, len(group))
        found.append(share_explained(code, group, sets[group].astype(np.uint8), 8).share[0])
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(40)


def test_the_jackknife_over_groups_covers_the_planted_share_and_is_a_little_too_wide():
    rng, covered = np.random.default_rng(4), []
    for _ in range(100):
        code, selected, sets = planted(rng, 3000, 0.5)
        of_sets = np.zeros((50, 8))
        np.put_along_axis(of_sets, sets, 1, axis=1)
        means = 0.5 * of_sets + 0.5 / 4
        mean = means.mean(axis=0)
        wanted = ((means**2).sum(axis=1).mean() - mean @ mean) / (2 - mean @ mean)
        draws = share_explained(code, rng.integers(0, GROUPS, len(code)), selected, 8).share
        found = uncertainty.jackknife(xr.DataArray(draws, dims="draw"))
        covered.append(found.sel(interval="low") <= wanted <= found.sel(interval="high"))
    assert np.mean(covered) >= 0.95
