"""Clusters dealt out to datasets at random: what stays, that all ways are equally likely, and what is made of them."""

import itertools
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from gatebook.measures import permutation, uncertainty


def tally(cluster: str, values: list, **attrs) -> xr.Dataset:
    """Documents with a cluster (a letter) and counts (expert) each; `tokens` are twice the sum of the counts."""
    count = np.array(values).reshape(len(cluster), -1)
    return xr.Dataset(
        {
            "count": (("document", "layer", "expert"), count[:, None]),
            "tokens": ("document", 2 * count.sum(axis=1)),
        },
        coords={
            "document_id": ("document", [f"{number}" for number in range(len(cluster))]),
            "cluster": ("document", list(cluster)),
            "layer": [4],
        },
        attrs=attrs,
    )


def random_study(seed: int) -> dict[str, xr.Dataset]:
    """Three datasets, of 3, 4 and 2 clusters of one to three documents."""
    rng = np.random.default_rng(seed)
    found = {"poems": "abcab", "code": "abcddd", "tables": "aba"}
    return {name: tally(cluster, rng.integers(1, 9, (len(cluster), 3))) for name, cluster in found.items()}


def paired(first: str, second: str) -> dict[str, xr.Dataset]:
    """Two datasets made from the same files, and a third one of three clusters."""
    files = {"dataset_sha256": "0" * 64}
    ones = {"first": tally(first, [1] * len(first), **files), "second": tally(second, [1] * len(second), **files)}
    return ones | {"other": tally("xyz", [1] * 3)}


def test_the_first_draw_is_the_study():
    study = random_study(1)
    dealing = permutation.deal(study, 5, seed=3)
    draws = permutation.dealt_draws(study, ["count", "tokens"], dealing)
    expected = uncertainty.dataset_draws(study, ["count", "tokens"], uncertainty.resample(study, 0, 1))
    xr.testing.assert_equal(draws.isel(draw=[0]).transpose(*expected["count"].dims), expected)


def test_every_dataset_keeps_its_number_of_clusters_and_every_cluster_its_documents():
    dealing = permutation.deal(random_study(1), 50, seed=3)
    assert dealing.names == ["poems", "code", "tables"]
    assert dealing.item.tolist() == [0, 1, 2, 0, 1, 3, 4, 5, 6, 6, 6, 7, 8, 7]
    assert dealing.dealt[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    for draw in dealing.dealt:
        assert np.bincount(draw).tolist() == [3, 4, 2]
    assert len(np.unique(dealing.dealt, axis=0)) > 45


def test_dealt_draws_are_sums_over_the_documents_of_the_items():
    study = random_study(2)
    dealing = permutation.deal(study, 8, seed=1)
    draws = permutation.dealt_draws(study, ["count", "tokens"], dealing)
    assert draws["count"].dims == ("dataset", "draw", "layer", "expert")
    assert draws["dataset"].values.tolist() == ["pooled", *study] and draws["layer"].values.tolist() == [4]
    for name in ("count", "tokens"):
        documents = np.concatenate([each[name].values for each in study.values()])
        for draw, index in itertools.product(range(9), range(3)):
            held = [
                values
                for values, item in zip(documents, dealing.item, strict=True)
                if dealing.dealt[draw, item] == index
            ]
            np.testing.assert_array_equal(draws[name][1 + index, draw], sum(held))
        np.testing.assert_array_equal(draws[name][0], np.broadcast_to(documents.sum(axis=0), draws[name][0].shape))


def test_the_order_of_documents_changes_nothing():
    study = random_study(2)
    shuffled = {name: each.isel(document=slice(None, None, -1)) for name, each in study.items()}
    one, other = (
        permutation.dealt_draws(each, ["count"], permutation.deal(each, 20, seed=1)) for each in (study, shuffled)
    )
    xr.testing.assert_identical(one, other)


def test_the_seed_says_how_clusters_are_dealt_out():
    study = random_study(1)
    one, same, other = (permutation.deal(study, 20, seed).dealt for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("sizes", [(1, 2), (2, 2), (1, 1, 2)])
def test_every_way_to_deal_out_is_equally_likely(sizes):
    study = {f"set {size} {number}": tally("abcd"[:size], [1] * size) for number, size in enumerate(sizes)}
    dealt = permutation.deal(study, 6000, seed=1).dealt[1:]
    found = Counter(map(tuple, dealt.tolist()))
    ways = set(itertools.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist()))
    assert set(found) == ways
    assert scipy.stats.chisquare(list(found.values())).pvalue > 0.001


def test_what_paired_datasets_have_of_a_cluster_goes_together():
    study = paired("aabc", "bcd")
    dealing = permutation.deal(study, 200, seed=1)
    # Items: a, b, c of the first, b, c, d of the second, x, y, z of the third.
    assert dealing.item.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert dealing.dealt[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for one, other in ((1, 3), (2, 4)):
        np.testing.assert_array_equal(dealing.dealt[1:, one], dealing.dealt[1:, other])
    # A pair may lie across two datasets' places: then both get or lack one item.
    numbers = np.array([np.bincount(draw, minlength=3) for draw in dealing.dealt])
    assert (numbers.sum(axis=1) == 9).all() and (abs(numbers - 3) <= 1).all()


def test_paired_items_lie_where_the_first_of_their_cluster_is_dealt_to():
    dealing, rng = permutation.deal(paired("aabc", "bcd"), 20, seed=1), np.random.default_rng(1)
    cluster = [0, 1, 2, 1, 2, 3, 4, 5, 6]  # of the items
    for draw in dealing.dealt[1:]:
        rank, place = rng.permutation(7), {}
        for item, dataset in zip(sorted(range(9), key=lambda one: rank[cluster[one]]), dealing.dealt[0], strict=True):
            place.setdefault(cluster[item], dataset)
        assert draw.tolist() == [place[one] for one in cluster]


def test_studentised_distances_equal_the_definition():
    study = random_study(3) | {"letters": tally("abcc", np.arange(12))}
    dealing = permutation.deal(study, 6, seed=1)
    count, tokens = dealing.of_items(study, "count"), dealing.of_items(study, "tokens")
    found = permutation.studentised(count, tokens, dealing)
    assert found.dims == ("dataset", "draw", "layer", "expert") and found["dataset"].values.tolist() == list(study)
    for draw, expert in itertools.product(range(7), range(3)):
        share, square = [], []
        for index in range(4):
            held = np.flatnonzero(dealing.dealt[draw] == index)
            c, t = count.values[held, 0, expert], tokens.values[held]
            share.append(c.sum() / t.sum())
            residual = ((c - share[-1] * t) ** 2).sum()
            square.append(len(held) / (len(held) - 1) * residual / t.sum() ** 2)
        for index in range(4):
            others = [other for other in range(4) if other != index]
            distance = share[index] - np.mean([share[other] for other in others])
            error = np.sqrt(square[index] + sum(square[other] for other in others) / 9)
            assert found.values[index, draw, 0, expert] == pytest.approx(distance / error, rel=1e-9)


def test_studentised_distances_of_what_never_varies_are_zero():
    study = {name: tally("abc", np.full((3, 2), 4)) for name in ("poems", "code")}
    dealing = permutation.deal(study, 6, seed=1)
    found = permutation.studentised(dealing.of_items(study, "count"), dealing.of_items(study, "tokens"), dealing)
    assert (found == 0).all()


def test_p_values_by_hand():
    draws = xr.DataArray([[2, np.nan], [1, 1], [2, 1], [3, 1], [2 - 1e-15, 1]], dims=("draw", "expert"))
    # Of four permutations three reach 2; the study itself is counted too.
    np.testing.assert_array_equal(permutation.p_value(draws), [4 / 5, np.nan])
    assert permutation.p_value(xr.DataArray([5, 1, 2, 3], dims="draw")).item() == 1 / 4
