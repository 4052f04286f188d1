"""How alike experts are: outputs, weights, router rows, and their relation to what experts do."""

import itertools
import json
import subprocess
import sys
import tempfile
from functools import partial

import numpy as np
import page_cases
import pytest
import scipy.linalg
import scipy.stats
import torch
import xarray as xr
from families import causal_model
from hypothesis import given, settings
from hypothesis import strategies as st

from gatebook.chapters.base.page import Seen
from gatebook.chapters.similarity import CHAPTER, geometry, matching, page
from gatebook.chapters.similarity import measure as similarity
from gatebook.chapters.similarity.measure import MEASURES, OUTPUTS, PAIRS
from gatebook.files import netcdf
from gatebook.inputs.clusters import GROUPS, groups
from gatebook.lists import ROOT
from gatebook.measures import uncertainty
from gatebook.routing import models
from gatebook.routing.models import ExpertMatrices
from gatebook.routing.routers import find_blocks

seen = partial(page_cases.seen, "similarity")

EXPERTS, HIDDEN, TOKENS = 8, 16, 120


def tensor(values) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def apart(values: np.ndarray) -> np.ndarray:
    """The pairs of different experts of a matrix, one after another."""
    return values[..., ~np.eye(values.shape[-1], dtype=bool)]


def similar(outputs, chosen=None, group=None):
    """`output_similarity`; by default every token selects all experts and is in group 0."""
    outputs = tensor(outputs)
    experts, tokens, _ = outputs.shape
    chosen = np.ones((tokens, experts), bool) if chosen is None else chosen
    group = np.zeros(tokens, int) if group is None else group
    return geometry.output_similarity(outputs, chosen, group)


# ---------------------------------------------------------------- outputs


def test_cosines_by_hand():
    outputs = [[[1, 0], [0, 2], [3, 0]], [[2, 0], [1, 1], [-1, 0]]]
    found, permuted = similar(outputs)
    assert found["output_cosine"][0, 0, 1] == pytest.approx((1 + 0.5**0.5 - 1) / 3)
    np.testing.assert_allclose(np.diag(found["output_cosine"][0]), 1)
    # Less their means (4/3, 2/3) and (2/3, 1/3):
    one, other = np.array(outputs[0]) - [4 / 3, 2 / 3], np.array(outputs[1]) - [2 / 3, 1 / 3]
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert found["mean_removed_cosine"][0, 0, 1] == pytest.approx(cosines.mean(), abs=1e-6)
    # cos of token s of one and t of the other, s != t: 0.7, -1; 0, 0; 1, 0.7
    assert permuted["output_cosine"][0, 1] == pytest.approx((0.5**0.5 - 1 + 1 + 0.5**0.5) / 6, abs=1e-6)


def kernels(outputs, kept):
    outputs = outputs[:, kept].astype(np.float64)
    return np.einsum("eti,esi->ets", outputs, outputs)


def brute_cka(one, other, biased):
    """CKA of two Gram matrices (token, token), from the definitions."""
    n = len(one)

    def hsic(k, m):
        if biased:
            centre = np.eye(n) - 1 / n
            return np.trace(k @ centre @ m @ centre)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        u = np.ones(n)
        return np.trace(k @ m) + (u @ k @ u) * (u @ m @ u) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (u @ k @ m @ u)

    return hsic(one, other) / np.sqrt(hsic(one, one) * hsic(other, other))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(9, 40), groups=st.integers(1, 4))
def test_outputs_equal_the_definitions_with_all_tokens_and_without_each_group(seed, tokens, groups):
    rng = np.random.default_rng(seed)
    outputs = (rng.standard_normal((3, tokens, 4)) + 2 * rng.standard_normal((3, 1, 4))).astype(np.float32)
    chosen, group = rng.random((tokens, 3)) < 0.8, rng.integers(0, groups, tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "TOKENS_PER_BLOCK", 5)
        patch.setattr(geometry, "FEWEST_SHARED", 4)
        found, permuted = similar(outputs, chosen, group)
    unit = outputs / np.linalg.norm(outputs, axis=2, keepdims=True)
    removed = outputs - outputs.mean(axis=1, keepdims=True)
    removed /= np.linalg.norm(removed, axis=2, keepdims=True)
    for draw in range(1 + GROUPS):
        kept = group != draw - 1
        for i, j in itertools.combinations(range(3), 2):
            both, n = kept & chosen[:, i] & chosen[:, j], kept.sum()
            expected = {
                "output_cosine": (unit[i] * unit[j]).sum(1)[kept].sum() / n if n else np.nan,
                "mean_removed_cosine": (removed[i] * removed[j]).sum(1)[kept].sum() / n if n else np.nan,
                "co_routed_cosine": (unit[i] * unit[j]).sum(1)[both].sum() / both.sum() if both.sum() else np.nan,
            }
            if (chosen[:, i] & chosen[:, j]).sum() < 4:
                expected["co_routed_cosine"] = np.nan
            for name, biased in (("cka", False), ("biased_cka", True)) if n >= 6 else ():
                gram = kernels(outputs, kept)
                expected[name] = brute_cka(gram[i], gram[j], biased)
            for name, value in expected.items():
                assert found[name][draw, i, j] == pytest.approx(value, abs=1e-4, nan_ok=True), (name, draw)
                assert found[name][draw, j, i] == pytest.approx(found[name][draw, i, j], nan_ok=True)
    i, j = 0, 1
    different = ~np.eye(tokens, dtype=bool)
    assert permuted["output_cosine"][i, j] == pytest.approx((unit[i] @ unit[j].T)[different].mean(), abs=1e-5)
    both = chosen[:, i] & chosen[:, j]
    if both.sum() >= 4:
        cosine = unit[i][both] @ unit[j][both].T
        expected = cosine[~np.eye(both.sum(), dtype=bool)].mean()
        assert permuted["co_routed_cosine"][i, j] == pytest.approx(expected, abs=1e-5)


def test_permuted_tokens_are_the_mean_over_all_permutations():
    outputs = np.random.default_rng(3).standard_normal((2, 6, 3)) + 1
    _, permuted = similar(outputs)
    gram = kernels(outputs, np.ones(6, bool))
    for name, biased in (("cka", False), ("biased_cka", True)):
        values = [
            brute_cka(gram[0], gram[1][np.ix_(order, order)], biased)
            for order in map(list, itertools.permutations(range(6)))
        ]
        assert permuted[name][0, 1] == pytest.approx(np.mean(values), abs=1e-6)


def test_rotated_scaled_and_shifted_outputs_have_cka_one_and_opposite_ones_cosine_minus_one():
    rng = np.random.default_rng(0)
    one = rng.standard_normal((50, 6))
    rotation, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    found, _ = similar(np.stack([one, 3 * one @ rotation + 5, -one]))
    for name in ("cka", "biased_cka"):
        np.testing.assert_allclose(found[name][0], 1, atol=1e-5)
    assert found["output_cosine"][0, 0, 2] == pytest.approx(-1, abs=1e-6)
    assert abs(found["mean_removed_cosine"][0, 0, 1]) < 0.5


@pytest.mark.slow
def test_debiased_cka_of_unrelated_outputs_is_zero_and_the_biased_one_is_not():
    rng = np.random.default_rng(1)
    found = [similar(rng.standard_normal((2, 12, 8)))[0] for _ in range(300)]
    debiased, biased = (np.array([one[name][0, 0, 1] for one in found]) for name in ("cka", "biased_cka"))
    assert abs(debiased.mean()) < 4 * debiased.std() / 300**0.5
    assert biased.mean() > 0.3


def test_a_constant_output_has_no_cka():
    found, _ = similar(np.stack([np.ones((20, 3)), np.random.default_rng(0).standard_normal((20, 3))]))
    assert np.isnan(found["cka"][0, 0, 1]) and np.isnan(found["biased_cka"][0, 0, 1])


# ---------------------------------------------------------------- weights


def drawn(rng, experts=3, neurons=4, hidden=6) -> ExpertMatrices:
    shapes = ((experts, neurons, hidden), (experts, neurons, hidden), (experts, hidden, neurons))
    return ExpertMatrices(*(tensor(rng.standard_normal(shape)) for shape in shapes))


def all_pairs(experts):
    return np.stack(np.triu_indices(experts, 1), axis=1)


def weights(matrices: ExpertMatrices, pairs: np.ndarray) -> dict[str, np.ndarray]:
    return geometry.weight_similarity(matrices, pairs, geometry.matched_sums(matrices, pairs, matching.pool(1)))


def spaces(down, directions: int) -> dict[str, np.ndarray]:
    squares, bases = geometry.leading(tensor(down), directions)
    return geometry.spectra(squares) | geometry.overlaps(bases)


def test_experts_without_gates_are_compared_by_the_matrices_that_they_have():
    """The second expert is the first with its neurons in another order, the third another one."""
    generator = torch.Generator().manual_seed(4)
    up, down = torch.randn(3, 5, 8, generator=generator), torch.randn(3, 8, 5, generator=generator)
    order = torch.tensor([2, 0, 4, 1, 3])
    up[1], down[1] = up[0, order], down[0][:, order]
    matrices = ExpertMatrices(up[:, :0], up, down)
    found = weights(matrices, np.array([[0, 1], [0, 2]]))
    flat = torch.cat([up, down.mT], dim=1).flatten(start_dim=1).double()
    flat = flat / flat.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(found["weight_cosine"], flat @ flat.T, atol=1e-6)
    assert found["matched_weight_cosine"][0, 1] == pytest.approx(1, abs=1e-6)
    assert found["matched_weight_cosine"][0, 2] < 0.9
    assert found["weight_gram"][0, 1] == pytest.approx(1, abs=1e-6)
    rows = torch.eye(8)[:3].numpy()
    expected = up[:, :, :3].norm(dim=1) / (up.flatten(start_dim=1).norm(dim=1)[:, None] / np.sqrt(8))
    np.testing.assert_allclose(geometry.alignment(matrices, rows), expected, rtol=1e-5)


@pytest.mark.parametrize("elements", [1, 40, 1 << 24])
def test_weights_equal_their_definitions(monkeypatch, elements):
    monkeypatch.setattr(geometry, "ELEMENTS_PER_BLOCK", elements)
    matrices = drawn(np.random.default_rng(2))
    found = weights(matrices, all_pairs(3))
    gate, up, down = (matrix.numpy().astype(np.float64) for matrix in matrices)
    for i, j in itertools.combinations(range(3), 2):
        neurons = [np.hstack([gate[e], up[e], down[e].T]) for e in (i, j)]
        size = np.linalg.norm(neurons[0]) * np.linalg.norm(neurons[1])
        assert found["weight_cosine"][i, j] == pytest.approx((neurons[0] * neurons[1]).sum() / size, abs=1e-5)
        best = max((neurons[0] * neurons[1][list(order)]).sum() for order in itertools.permutations(range(4)))
        assert found["matched_weight_cosine"][i, j] == pytest.approx(best / size, abs=1e-5)
        grams = [w.T @ w for w in (np.vstack([gate[e], up[e], down[e].T]) for e in (i, j))]
        expected = (grams[0] * grams[1]).sum() / np.linalg.norm(grams[0]) / np.linalg.norm(grams[1])
        assert found["weight_gram"][i, j] == found["weight_gram"][j, i] == pytest.approx(expected, abs=1e-5)


def test_copies_in_another_order_of_neurons_are_found():
    rng = np.random.default_rng(3)
    one, order = drawn(rng, experts=1, neurons=7), torch.from_numpy(rng.permutation(7))
    copied = (one.gate[:, order], one.up[:, order], one.down[..., order])
    both = ExpertMatrices(*(torch.cat(pair) for pair in zip(one, copied, strict=True)))
    found = weights(both, all_pairs(2))
    assert found["matched_weight_cosine"][0, 1] == pytest.approx(1, abs=1e-6)
    assert found["weight_gram"][0, 1] == pytest.approx(1, abs=1e-6)
    assert found["weight_cosine"][0, 1] < 0.9
    few = weights(both, all_pairs(2)[:0])
    assert np.isnan(few["matched_weight_cosine"][0, 1]) and few["matched_weight_cosine"][0, 0] == 1


def test_sums_of_matched_neurons_come_in_order_and_are_the_largest():
    matrices = np.random.default_rng(5).standard_normal((7, 4, 4))
    orders = list(itertools.permutations(range(4)))
    expected = [max(matrix[range(4), order].sum() for order in orders) for matrix in matrices]
    np.testing.assert_allclose(list(matching.largest_sums(iter(matrices), matching.pool(1))), expected)


@pytest.mark.slow
def test_processes_give_the_same_sums_and_leave_no_files(tmp_path, monkeypatch):
    matrices = np.random.default_rng(6).standard_normal((9, 20, 20)).astype(np.float32)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with matching.pool(2) as pool:
        sums = matching.largest_sums(iter(matrices), pool)
        assert list(tmp_path.iterdir())  # begun
        assert list(sums) == list(matching.largest_sums(matrices, matching.pool(1)))
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_processes_that_match_neurons_import_nothing_heavy():
    code = "import sys, gatebook.chapters.similarity.matching; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"torch", "transformers", "xarray", "pandas", "matplotlib"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("neurons", [2, 3, 9])
def test_output_spaces_by_hand(neurons):
    # The first writes to axes 0 and 1, the second to axes 1 and 2, the third to axis 2 and half way from 0 to 1.
    down = np.zeros((3, 4, neurons))
    down[0, 0, 0], down[0, 1, 1] = 3, 4
    down[1, 1, 0], down[1, 2, 1] = 5, 5
    down[2, 2, 0], down[2, [0, 1], 1] = 2, 2**0.5
    found = spaces(down, 2)
    share = np.array([9, 16]) / 25
    np.testing.assert_allclose(found["effective_rank"], [np.exp(-(share * np.log(share)).sum()), 2, 2], rtol=1e-5)
    np.testing.assert_allclose(found["participation_ratio"], [1 / (share**2).sum(), 2, 2], rtol=1e-5)
    np.testing.assert_allclose(found["subspace_overlap"], [[1, 0.5, 0.5], [0.5, 1, 0.75], [0.5, 0.75, 1]], atol=1e-5)
    # Angles 0 and 90, 0 and 90 (the diagonal lies in the first space), 0 and 45 degrees.
    np.testing.assert_allclose(found["principal_angle"], [0, 75], atol=0.1)


def test_random_output_spaces_overlap_by_their_share_of_the_directions():
    down = torch.from_numpy(np.random.default_rng(0).standard_normal((30, 20, 12)))
    overlap = apart(spaces(down, 4)["subspace_overlap"])
    assert overlap.mean() == pytest.approx(4 / 20, abs=0.01)


@pytest.mark.parametrize("columns", [3, 9])
def test_leading_directions_are_the_singular_vectors_in_order(columns):
    matrices = np.random.default_rng(4).standard_normal((2, 5, columns))
    squares, bases = geometry.leading(tensor(matrices), 2)
    for matrix, values, basis in zip(matrices, squares, bases.numpy(), strict=True):
        vectors, expected, _ = np.linalg.svd(matrix)
        np.testing.assert_allclose(np.sort(values)[::-1], expected**2, rtol=1e-5)
        np.testing.assert_allclose(np.abs((vectors[:, :2] * basis).sum(axis=0)), 1, atol=1e-5)
    assert geometry.leading(tensor(matrices), 9)[1].shape == (2, 5, min(5, columns))


def test_spaces_of_experts_in_that_of_a_router_by_hand():
    # The rows span axes 0 and 1 of 4. Experts: these axes in another basis; axes 2 and 3; axis 0, and 1 half way to 2.
    rows = np.array([[1.0, 1, 0, 0], [0, 2, 0, 0]])
    half = 0.5**0.5
    bases = np.zeros((3, 4, 2))
    bases[0, :2] = [[half, half], [half, -half]]
    bases[1, 2:] = np.eye(2)
    bases[2, :, 0], bases[2, :, 1] = [1, 0, 0, 0], [0, half, half, 0]
    share, angle = geometry.router_overlap(tensor(bases), rows)
    np.testing.assert_allclose(share, [1, 0, 0.75], atol=1e-6)
    np.testing.assert_allclose(angle, [[0, 0], [90, 90], [0, 45]], atol=0.1)
    share, angle = geometry.router_overlap(tensor(bases), None)
    assert np.isnan(share).all() and np.isnan(angle).all() and angle.shape == (3, 2)


@pytest.mark.parametrize(("routers", "directions"), [(5, 5), (5, 3), (12, 9)])
def test_spaces_of_experts_in_that_of_a_router_equal_their_definition(routers, directions):
    rng = np.random.default_rng(routers)
    rows, bases = rng.standard_normal((routers, 9)), np.linalg.qr(rng.standard_normal((4, 9, directions)))[0]
    share, angle = geometry.router_overlap(tensor(bases), rows)
    projector = np.linalg.pinv(rows) @ rows
    for one in range(4):
        assert share[one] == pytest.approx(np.trace(projector @ bases[one] @ bases[one].T) / directions, abs=1e-6)
        expected = np.rad2deg(scipy.linalg.subspace_angles(rows.T, bases[one]))[::-1][:directions]
        np.testing.assert_allclose(angle[one], expected, atol=0.1)


@pytest.mark.slow
def test_random_spaces_lie_in_that_of_a_router_by_its_share_of_the_directions_and_intervals_cover_that():
    rng, shares, covered = np.random.default_rng(0), [], 0
    for _ in range(500):
        bases = np.linalg.qr(rng.standard_normal((16, 20, 4)))[0]
        share, _ = geometry.router_overlap(tensor(bases), rng.standard_normal((4, 20)))
        draws = xr.DataArray(similarity.means_without_each(share), dims="draw")
        _, low, high = uncertainty.jackknife(draws, 0.95).values
        covered += low < 4 / 20 < high
        shares.append(share.mean())
    assert np.mean(shares) == pytest.approx(4 / 20, abs=0.002)
    assert 0.92 < covered / 500 < 0.98


def test_alignment_by_hand_and_on_average():
    gate, up = [[[2.0, 0, 0]], [[0, 1, 0]]], [[[0, 0, 0.0]], [[0, 1, 0]]]
    matrices = ExpertMatrices(tensor(gate), tensor(up), tensor(np.zeros((2, 3, 1))))
    found = geometry.alignment(matrices, np.array([[5.0, 0, 0], [3, 4, 0]]))
    np.testing.assert_allclose(found, 3**0.5 * np.array([[1, 0.6], [0, 0.8]]), atol=1e-6)
    rng = np.random.default_rng(1)
    squares = geometry.alignment(drawn(rng, hidden=10), rng.standard_normal((4000, 10))) ** 2
    np.testing.assert_allclose(squares.mean(axis=1), 1, atol=0.05)


# ---------------------------------------------------------------- means, relations and intervals


def test_means_over_pairs_and_without_each_expert_by_hand():
    values = np.array([[9.0, 1, 2], [1, 9, np.nan], [2, np.nan, 9]])
    assert similarity.mean_over_pairs(values) == 1.5
    np.testing.assert_array_equal(similarity.pair_means_without_each(values), [1.5, np.nan, 2, 1])
    np.testing.assert_array_equal(similarity.means_without_each(np.array([1.0, 2, 6])), [3, 4, 3.5, 1.5])


def test_aligned_share_by_hand():
    alignment = np.array([[3.0, 1, 2], [5, 4, 4], [1, 1, 0]])
    np.testing.assert_allclose(similarity.aligned_share(alignment), [1, 0.25, 0])


def test_router_spaces_of_layers():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, 8))
    mixed = rng.standard_normal((3, 3)) @ rows
    basis, _ = np.linalg.qr(np.vstack([rows, rng.standard_normal((3, 8))]).T)
    found = similarity.layer_overlaps(np.array([rows, mixed, basis.T[3:]]))
    assert found.shape == (4, 3, 3) and np.isnan(found[:, [0, 1, 2], [0, 1, 2]]).all()
    np.testing.assert_allclose(found[0, [0, 1], [1, 0]], 8 / 3)  # the same space
    np.testing.assert_allclose(found[0, 2, :2], 0, atol=1e-12)  # orthogonal spaces
    left = similarity.layer_overlaps(np.delete(np.array([rows, mixed, basis.T[3:]]), 1, axis=1))
    np.testing.assert_allclose(found[2], left[0], atol=1e-12)
    random = similarity.layer_overlaps(rng.standard_normal((40, 3, 8)))[0]
    assert np.nanmean(random) == pytest.approx(1, abs=0.03)


def symmetric(rng, experts=8):
    values = rng.standard_normal((experts, experts))
    return values + values.T


def test_correlations_over_pairs_and_without_each_expert():
    rng = np.random.default_rng(0)
    one = symmetric(rng)
    other = np.exp(one) + 2 * symmetric(rng)
    other[3] = other[:, 3] = other[1, 2] = other[2, 1] = np.nan
    np.fill_diagonal(other, np.nan)
    found = similarity.correlation_draws(one, other)
    for draw, left_out in enumerate([None, *range(8)]):
        pairs = [(i, j) for i, j in itertools.combinations(range(8), 2) if left_out not in (i, j)]
        pairs = np.array([pair for pair in pairs if np.isfinite(other[pair])]).T
        expected = scipy.stats.spearmanr(one[tuple(pairs)], other[tuple(pairs)]).statistic
        assert found[draw] == pytest.approx(expected)
    assert np.isnan(similarity.pair_correlation(one, np.ones((8, 8))))
    assert np.isnan(similarity.pair_correlation(one[:2, :2], other[:2, :2]))


def test_permutations_of_three_experts_are_those_of_their_pairs():
    one = np.array([[0, 1.0, 2], [1, 0, 3], [2, 3, 0]])
    found = similarity.permuted_correlations(one, one, 300, np.random.default_rng(0))
    np.testing.assert_allclose(sorted(set(found.round(9))), [-1, -0.5, 0.5, 1])


@pytest.mark.parametrize("unknown", [[], [(1, 2), (2, 1)]])
def test_permutations_equal_the_correlations_of_permuted_matrices(unknown):
    one, other = symmetric(np.random.default_rng(1)), symmetric(np.random.default_rng(2)).round()
    for pair in unknown:
        other[pair] = np.nan
    found = similarity.permuted_correlations(one, other, 20, np.random.default_rng(3))
    rng, pairs = np.random.default_rng(3), np.triu_indices(8, 1)
    for value in found:
        order = rng.permutation(8)
        permuted = other[order][:, order][pairs]
        known = np.isfinite(permuted)
        expected = scipy.stats.spearmanr(one[pairs][known], permuted[known]).statistic
        assert value == pytest.approx(expected)
    assert np.isnan(similarity.permuted_correlations(one, np.ones((8, 8)), 5, rng)).all()


def test_p_values_by_hand():
    permuted = np.array([[0.1, 0.1], [-0.5, 0.5], [0.3, np.nan]])
    np.testing.assert_allclose(similarity.p_value(np.array([0.4, np.nan]), permuted), [0.5, np.nan])


def test_p_values_of_unrelated_matrices_are_uniform():
    values = []
    for seed in range(250):
        rng = np.random.default_rng(seed)
        load = rng.standard_normal(7)  # experts of which all pairs are high or low: pairs are not independent
        one, other = symmetric(rng, 7) + load + load[:, None], symmetric(rng, 7)
        permuted = similarity.permuted_correlations(one, other, 99, rng)
        values.append(similarity.p_value(similarity.pair_correlation(one, other), permuted).item())
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.01


@pytest.mark.slow
def test_intervals_over_experts_cover_the_truth():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1500):
        own = rng.standard_normal(24)
        values = 0.3 + own + own[:, None] + symmetric(rng, 24)
        draws = xr.DataArray(similarity.pair_means_without_each(values), dims="draw")
        _, low, high = uncertainty.jackknife(draws, 0.95).values
        covered += low < 0.3 < high
    assert 0.93 < covered / 1500 < 0.97


@pytest.mark.long
def test_intervals_of_outputs_over_documents_cover_the_truth():
    """Tokens of one document share the angle between two outputs, whose cosine is 0.2 on average."""
    rng, covered = np.random.default_rng(0), 0
    group = np.repeat(np.arange(60) % GROUPS, 2)
    for _ in range(500):
        cosine = np.repeat(rng.uniform(-0.6, 1, 60), 2)
        turned = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)
        outputs = np.stack([np.tile([1.0, 0], (120, 1)), turned * rng.uniform(0.5, 2, (120, 1))])
        draws = similar(outputs, group=group)[0]["output_cosine"]
        _, low, high = uncertainty.jackknife(xr.DataArray(similarity.mean_over_pairs(draws), dims="draw")).values
        covered += low < 0.2 < high
    assert 0.93 < covered / 500 < 0.97


# ---------------------------------------------------------------- a layer and a study


def block_of(seed: int = 0):
    model = causal_model("olmoe")
    block = find_blocks(model.model)[0]
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
    return block


def routed(seed: int = 0):
    """Router inputs (token, hidden), selected experts (token, rank) and groups (token,) of sampled tokens."""
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((TOKENS, HIDDEN)).astype(np.float32)
    selected = np.array([rng.permutation(EXPERTS)[:3] for _ in range(TOKENS)])
    return states, selected, np.arange(TOKENS) // 4 % GROUPS


def layer_of(block, states, selected, group, gain=None, following=None, matched_pairs=100) -> xr.Dataset:
    settings = {"matched_pairs": matched_pairs, "seed": [1, 0], "workers": matching.pool(1)}
    return geometry.measure_layer(block, states, selected, group, gain, following, **settings)


def compared(block, seed=0, gain=None, matched_pairs=100) -> xr.Dataset:
    return layer_of(block, *routed(seed), gain, matched_pairs=matched_pairs)


def made_sample() -> xr.Dataset:
    document = np.arange(TOKENS) // 4
    arrays = {
        "document": document,
        "cluster": document // 2,
        "dataset": np.where(document % 2, "code", "poems").astype(object),
    }
    return xr.Dataset({name: ("sample", values) for name, values in arrays.items()})


def pair_values(seed: int, layers=(0, 2)) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    values = np.stack([symmetric(rng) for _ in layers])
    values[:, range(EXPERTS), range(EXPERTS)] = np.nan
    return xr.DataArray(values, dims=("layer", "expert", "other"), coords={"layer": list(layers)})


def measured(layers: list[xr.Dataset], lift=None, overlap=None) -> xr.Dataset:
    numbers = [2 * index for index in range(len(layers))]
    return similarity.measure(
        made_sample(),
        (layer.assign_coords(layer=number) for layer, number in zip(layers, numbers, strict=True)),
        lift=pair_values(1, numbers) if lift is None else lift,
        overlap=pair_values(2, numbers) if overlap is None else overlap,
        permutations=100,
        seed=1,
        confidence=0.95,
    ).metrics


@pytest.fixture(scope="module")
def metrics() -> xr.Dataset:
    gain = np.random.default_rng(5).random(HIDDEN).astype(np.float32) + 0.5
    following = models.router_rows(block_of(1)) * gain
    return measured([layer_of(block_of(0), *routed(), gain, following), compared(block_of(1), gain=gain)])


def test_a_layer_holds_what_its_parts_give():
    block, gain = block_of(), np.linspace(1, 2, HIDDEN, dtype=np.float32)
    states, selected, group = routed()
    matrices = ExpertMatrices(*(matrix.clone() for matrix in models.expert_matrices(block)))
    outputs = torch.stack(
        [
            models.expert_outputs(block, torch.from_numpy(states), torch.full((TOKENS, 1), e))[:, 0]
            for e in range(EXPERTS)
        ]
    ).detach()
    chosen = (selected[:, :, None] == np.arange(EXPERTS)).any(axis=1)
    expected, permuted = geometry.output_similarity(outputs, chosen, group)
    expected |= weights(matrices, all_pairs(EXPERTS))
    expected |= spaces(matrices.down, 1)
    found = compared(block, gain=gain)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
    for name, values in permuted.items():
        np.testing.assert_allclose(found[f"permuted_{name}"], values, atol=1e-5, err_msg=name)
    rows = models.router_rows(block)
    np.testing.assert_array_equal(found["alignment"], geometry.alignment(matrices, rows))
    np.testing.assert_allclose(found["router_cosine"], np.corrcoef(np.hstack([rows, -rows])), atol=1e-6)
    np.testing.assert_array_equal(found["router_direction"], rows * gain)
    assert found["co_routed_tokens"].values.sum() == 9 * TOKENS
    # The block now holds random experts of the same scale.
    random = models.expert_matrices(block)
    assert not torch.equal(random.gate, matrices.gate)
    again = weights(random, all_pairs(EXPERTS))["weight_gram"]
    assert found["random_weight_gram"].values[0] == pytest.approx(apart(again).mean())


def test_experts_that_are_random_are_as_alike_as_random_experts(metrics):
    for name in ("cka", "matched_weight_cosine", "weight_gram", "effective_rank", "participation_ratio"):
        value = metrics[f"mean_over_layers_{name}"].sel(dataset="pooled")
        random = metrics["mean_over_layers_random_value"].sel(measure=name)
        assert value.sel(interval="low") < random.sel(interval="high"), name
        assert value.sel(interval="high") > random.sel(interval="low"), name


def spanning(rng, rows: np.ndarray, number: int) -> torch.Tensor:
    """Random vectors (number, hidden) in the space of rows (row, hidden)."""
    return torch.from_numpy(rng.standard_normal((number, len(rows))) @ rows)


def test_planted_spaces_are_found_in_the_router_that_reads_them():
    block, rng = block_of(), np.random.default_rng(6)
    gain, rows = rng.random(HIDDEN) + 0.5, models.router_rows(block)
    following = rng.standard_normal((EXPERTS, HIDDEN)).astype(np.float32)
    neurons = models.expert_matrices(block).gate.shape[1]
    assert neurons >= EXPERTS
    names, chance = ("read_overlap", "write_overlap", "next_overlap"), EXPERTS / HIDDEN
    for planted, known in enumerate((rows, rows * gain, following)):
        block = block_of()
        gate, up, down = models.expert_matrices(block)
        with torch.no_grad():
            for expert in range(EXPERTS):
                if planted == 0:
                    gate[expert], up[expert] = spanning(rng, known, neurons), spanning(rng, known, neurons)
                else:
                    down[expert] = spanning(rng, known, neurons).T
        found = layer_of(block, *routed(), gain, following)
        for index, name in enumerate(names):
            assert found[name].dims == (("reader",) if index == 0 else ("expert",))
            if index == planted:
                np.testing.assert_allclose(found[name], 1, atol=1e-5)
                np.testing.assert_allclose(found[f"angle_{name}"], 0, atol=0.1)
            elif {index, planted} != {1, 2}:
                assert abs(found[name].mean() - chance) < 0.15, (planted, name)
            assert found[f"random_{name}"][0] == pytest.approx(chance, abs=0.1)
    last = layer_of(block_of(), *routed(), gain)
    assert np.isnan(last["next_overlap"]).all() and np.isnan(last["random_next_overlap"]).all()
    assert np.isfinite(last["write_overlap"]).all()


def test_few_matched_pairs_are_drawn_at_random():
    found = compared(block_of(), matched_pairs=5)["matched_weight_cosine"].values
    assert np.isfinite(apart(found)).sum() == 10
    whole = compared(block_of())["matched_weight_cosine"].values
    known = np.isfinite(found)
    np.testing.assert_array_equal(found[known], whole[known])


def test_means_and_matrices_of_a_study(metrics):
    layers = [compared(block_of(seed), gain=metrics.attrs.get("gain")) for seed in (0, 1)]
    estimate = {name: metrics[name].sel(dataset="pooled", interval="estimate").values for name in MEASURES}
    for name in OUTPUTS:
        expected = [np.nanmean(apart(layer[name].values[0])) for layer in layers]
        np.testing.assert_allclose(estimate[name], expected, rtol=1e-6)
        np.testing.assert_allclose(metrics[f"pair_{name}"].values[0], layers[0][name].values[0], rtol=1e-5)
    for name in set(PAIRS) - {"gained_router_cosine"}:
        np.testing.assert_allclose(estimate[name], [apart(layer[name].values).mean() for layer in layers], rtol=1e-6)
    assert not np.allclose(estimate["router_cosine"], estimate["gained_router_cosine"])
    for name in MEASURES:
        mean, low, high = metrics[f"mean_over_layers_{name}"].sel(dataset="pooled").values
        assert mean == pytest.approx(np.nanmean(estimate[name])) and low < mean < high
    np.testing.assert_allclose(np.diag(metrics["layer_overlap"]), np.nan)
    assert metrics["layer_overlap"].values[0, 1] == pytest.approx(estimate["router_space_overlap"][0])
    assert metrics["tokens"].values.tolist() == [TOKENS] and metrics["documents"].values.tolist() == [TOKENS // 4]
    assert metrics.attrs["pooled_datasets"] == 2


def test_renaming_experts_renames_pairs_and_leaves_the_means():
    block, renamed = block_of(), block_of()
    old = np.random.default_rng(4).permutation(EXPERTS)
    with torch.no_grad():
        for one, other in zip(block.parameters(), renamed.parameters(), strict=True):
            other.copy_(one[old])
    states, selected, group = routed()
    new_number = np.argsort(old)
    first = layer_of(block, states, selected, group)
    second = layer_of(renamed, states, new_number[selected], group)
    for name in (*OUTPUTS, *PAIRS, "co_routed_tokens"):
        moved = first[name].values[..., old, :][..., old]
        np.testing.assert_allclose(second[name].values, moved, atol=2e-5, err_msg=name)
    values = {"lift": pair_values(1, [0]), "overlap": pair_values(2, [0])}
    one = measured([first], **values)
    two = measured([second], **{name: array[:, old][:, :, old] for name, array in values.items()})
    for name in MEASURES:
        np.testing.assert_allclose(two[name], one[name], atol=1e-4, err_msg=name)


def test_the_order_of_tokens_changes_nothing():
    states, selected, group = routed()
    order = np.random.default_rng(0).permutation(TOKENS)
    one = layer_of(block_of(), states, selected, group, matched_pairs=10)
    two = layer_of(block_of(), states[order], selected[order], group[order], matched_pairs=10)
    for name in OUTPUTS:
        np.testing.assert_allclose(two[name], one[name], atol=1e-5)
        np.testing.assert_allclose(two[f"permuted_{name}"], one[f"permuted_{name}"], atol=1e-5)


@pytest.mark.slow
def test_one_expert_per_token_and_one_layer_leave_nothing_to_say_about_pairs_and_layers():
    states, selected, group = routed()
    found = layer_of(block_of(), states, selected[:, :1], group, matched_pairs=1)
    metrics = measured([found], lift=pair_values(1, [0]) * np.nan)
    for name in ("co_routed_cosine", "lift_correlation", "p_lift_correlation", "router_space_overlap"):
        assert np.isnan(metrics[name].values).all(), name
    figures = {figure.name: figure for figure in page.figures(Seen(metrics))}
    assert len(figures) == 9
    known = {"read_overlap", "write_overlap"}
    means = {f"mean_over_layers_{name}" for name in known}
    for name, column, values in (("spaces_by_layer", "measure", known | means), ("space_angles", "space", known)):
        assert set(figures[name].data[column]) == values
        assert "nan" not in figures[name].alt + figures[name].caption
    assert len(page.findings(seen(metrics))) == 3


# ---------------------------------------------------------------- page and files


def moved(metrics, name, amount):
    changed = metrics.copy()
    for variable in (name, f"mean_over_layers_{name}"):
        changed[variable] = metrics[variable] + amount
    return changed


@pytest.mark.slow
def test_every_matrix_of_the_metrics_can_be_explored(metrics):
    load = xr.DataArray(np.ones((2, EXPERTS)), {"layer": metrics["layer"]}, ("layer", "expert"))
    found = page.explored(Seen(metrics.assign(selected_share=load)))
    shown = {one.name for one in found.matrices}
    stored = {name for name in metrics if metrics[name].dims[1:] in (("expert", "other"), ("expert", "router"))}
    assert {f"pair_{name}" for name in shown} | {"alignment", "co_routed_tokens"} >= stored
    assert shown >= {"alignment", "router_space_overlap"} and found.load.equals(load)
    assert {one.explores for one in page.figures(Seen(metrics))} - {""} <= shown
    cka = next(one for one in found.matrices if one.name == "cka")
    assert cka.symmetric and not cka.across
    np.testing.assert_array_equal(
        cka.nulls["random experts"], metrics["random_value"].sel(measure="cka", interval="estimate")
    )
    assert (cka.nulls["permuted tokens"] == metrics["permuted_value"].sel(measure="cka")).all()
    between = next(one for one in found.matrices if one.name == "router_space_overlap")
    assert between.across and between.nulls == {"random spaces": 1.0}


@pytest.mark.slow
def test_figures_say_their_numbers(metrics):
    untrained = moved(metrics, "cka", -0.1)
    figures = {figure.name: figure for figure in page.figures(Seen(metrics, untrained))}
    assert list(figures) == [
        "outputs_by_layer", "output_matrices", "cka_matrices", "weights_by_layer", "router_by_layer", "router_matrices",
        "spaces_by_layer", "space_angles", "relations_by_layer",
    ]  # fmt: skip
    value = metrics["mean_over_layers_matched_weight_cosine"].values[0, 0]
    assert f"{value:.3f}"[:5] in figures["weights_by_layer"].alt
    assert "for 28 pairs" in figures["weights_by_layer"].caption
    assert "120 sampled tokens of 30 documents of 15 clusters in 2 datasets" in figures["outputs_by_layer"].caption
    pairs = figures["output_matrices"].data
    assert len(pairs) == 2 * 28 and (pairs["expert"] < pairs["other"]).all()
    row = pairs.iloc[30]
    at = {"layer": row["layer"], "expert": int(row["expert"]), "other": int(row["other"])}
    matrix = metrics["pair_mean_removed_cosine"].sel(layer=at["layer"]).values
    assert row["mean_removed_cosine"] == pytest.approx(matrix[at["expert"], at["other"]])
    for figure, names in (("cka_matrices", ["cka", "biased_cka"]), ("router_matrices", ["router_cosine"])):
        rows = figures[figure].data
        assert len(rows) == 2 * 28
        for name in names:
            found = metrics[f"pair_{name}"].values[:, *np.triu_indices(EXPERTS, 1)]
            np.testing.assert_array_equal(rows[name], found.ravel())
    outputs = figures["outputs_by_layer"].data.set_index(["measure", "layer"])
    assert outputs.loc[("cka", 2), "random_experts"] == metrics["random_value"].sel(measure="cka", layer=2)[0]
    share = metrics["mean_over_layers_next_overlap"].values[0, 0]
    assert f"{share:.3f}"[:5] in figures["spaces_by_layer"].alt
    assert (figures["spaces_by_layer"].data["expected"] == 0.5).all()
    angles = figures["space_angles"].data.set_index(["space", "angle"])
    assert len(angles) == 3 * EXPERTS
    assert angles.loc[("write_overlap", 2), "low"] == metrics["router_angle"].sel(space="write_overlap")[1, 1]
    relations = figures["relations_by_layer"].data.set_index(["measure", "layer"])
    assert relations.loc[("lift_correlation", 2), "p"] == metrics["p_lift_correlation"].sel(layer=2)


@pytest.mark.parametrize(
    ("index", "name"), list(enumerate(["mean_removed_cosine", "cka", "matched_weight_cosine", "next_overlap"]))
)
def test_verdicts_follow_the_interval_and_the_null(metrics, index, name):
    for amount, verdict, word in ((1.0, "yes", "more than"), (-1.0, "no", "less than")):
        finding = page.findings(seen(moved(metrics, name, amount), metrics))[index]
        assert finding.verdict == verdict and word in finding.answer
        assert finding.reference_value == metrics[f"mean_over_layers_{name}"].values[0, 0]
        assert finding.null_value is not None and finding.low < finding.estimate < finding.high
    centred = metrics[f"mean_over_layers_{name}"].values[0, 0]
    null = page.findings(seen(metrics))[index].null_value
    assert page.findings(seen(moved(metrics, name, null - centred), None))[index].verdict == "unclear"


def test_in_brief_experts_react_alike_or_nothing_shows_that_they_do(metrics):
    changed = moved(metrics, "mean_removed_cosine", 1.0).copy(deep=True)
    layer = int(changed["layer"][1])
    changed["pair_mean_removed_cosine"].loc[{"layer": layer, "expert": 2, "other": 5}] = 0.987
    found = page.brief(seen(changed, metrics))
    assert found.text.startswith("Experts of a layer react strongly alike") and "before training)" in found.text
    assert found.example == f"Of all 56 pairs experts 2 and 5 of layer {layer} are most alike: 0.99."
    assert (found.layer, found.experts) == (layer, (2, 5))
    found = page.brief(seen(moved(metrics, "mean_removed_cosine", -1.0)))
    assert found.text == "Nothing shows that experts of a layer react alike to the same token." and not found.experts


def test_a_null_that_is_not_known_exactly_counts_with_its_interval(metrics):
    wide = metrics.copy(deep=True)
    random = wide["mean_over_layers_random_value"]
    random.loc[{"measure": "cka", "interval": "high"}] = 2.0
    assert page.findings(seen(moved(wide, "cka", 0.5), None))[1].verdict == "unclear"
    assert page.findings(seen(moved(metrics, "cka", 0.5), None))[1].verdict == "yes"


PAIR = ("metrics", "draws")
FILES = {"metrics": "similarity.nc", "draws": "draws.nc", "table": "similarity.csv"}


def write_study(folder) -> dict:
    """Random sampled router inputs of two datasets in the layers 1 and 3 of the tiny model: the script's inputs."""
    rng, paths = np.random.default_rng(0), {"records": [], "tokens": []}
    for name in ("poems", "code"):
        records, tokens = folder / name, folder / f"{name}.nc"
        document = np.arange(90) // 6
        identity = {"model": "tiny", "model_id": "tiny", "checkpoint": "local", "weights_sha256": "0" * 64}
        identity |= {"dataset": name, "dataset_sha256": f"files of {name}", "tokens_sha256": name}
        state = (("layer", "sample", "hidden"), rng.standard_normal((2, 45, HIDDEN)).astype(np.float32))
        sampled = ("sample", np.arange(0, 90, 2))
        states = xr.Dataset({"state": state, "sampled_token": sampled}, coords={"layer": [1, 3]}, attrs=identity)
        netcdf.save(states, records / "states.nc")
        for layer in (1, 3):
            selected = np.array([rng.permutation(EXPERTS)[:3] for _ in range(90)]).astype(np.uint8)
            netcdf.save(xr.Dataset({"selected_expert": (("token", "rank"), selected)}), records / f"layer_{layer}.nc")
        names = np.array([f"{name} {index}" for index in range(15)], dtype=object)
        ids = {"document_id": ("document", names), "cluster": ("document", names), "group": ("document", groups(names))}
        known = {"token_id": np.zeros(90, np.int32), "document_index": document.astype(np.int32)}
        netcdf.save(xr.Dataset({key: ("token", values) for key, values in known.items()}, ids, identity), tokens)
        paths["records"].append(str(records))
        paths["tokens"].append(str(tokens))
    for name, variable in (("coactivation", "lift"), ("token_overlap", "weighted_jaccard")):
        known = pair_values(3, [1, 3]).to_dataset(name=variable)
        if name == "coactivation":
            known["selected_share"] = known["lift"].mean("other")
        netcdf.save(known, folder / f"{name}.nc")
        paths[name] = str(folder / f"{name}.nc")
    return paths


@pytest.mark.long
def test_the_scripts_give_the_same_bytes_with_one_and_three_workers(run_script, model_folder, tmp_path):
    inputs = write_study(tmp_path) | {"folder": str(model_folder)}
    for name, untrained in (("one", []), ("two", []), ("both", [tmp_path / "one" / FILES[part] for part in PAIR])):
        (tmp_path / name).mkdir()
        run_script(
            "measure_similarity",
            tmp_path / name,
            input=inputs | {"untrained": untrained},
            output={part: tmp_path / name / file for part, file in FILES.items()},
            params={
                "code": "0" * 16,
                "model": {"dtype": "auto", "device": "cpu", "experts": "auto"},
                "threads": 1,  # of torch
                "settings": {"matched_pairs": 20, "permutations": 100},
                "statistics": {"seed": 1, "confidence": 0.95},
                "fewest_clusters": 2,
            },
            threads=3 if name == "two" else 1,
        )
    for name in FILES.values():
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    metrics = netcdf.load(tmp_path / "one" / "similarity.nc")
    assert metrics["layer"].values.tolist() == [1, 3] and metrics["documents"].values.tolist() == [30]
    block = models.load_block(model_folder, 3, dtype="auto", device=torch.device("cpu"))
    expected = weights(models.expert_matrices(block), all_pairs(EXPERTS))["weight_gram"]
    np.testing.assert_allclose(metrics["pair_weight_gram"].sel(layer=3), expected, rtol=1e-5)
    gained = geometry.cosines(models.router_rows(block) * models.block_gain(model_folder, 3))
    np.testing.assert_allclose(metrics["pair_gained_router_cosine"].sel(layer=3), gained, atol=1e-6)
    following = models.load_block(model_folder, 2, dtype="auto", device=torch.device("cpu"))
    directions = models.router_rows(following) * models.block_gain(model_folder, 2)
    block = models.load_block(model_folder, 1, dtype="auto", device=torch.device("cpu"))
    _, written = geometry.leading(models.expert_matrices(block).down, EXPERTS)
    share, _ = geometry.router_overlap(written, directions)
    found = metrics["next_overlap"].sel(dataset="pooled", interval="estimate")
    np.testing.assert_allclose(found, [share.mean(), np.nan], rtol=1e-5)
    assert metrics.attrs["router_share"] == EXPERTS / HIDDEN
    run_script(
        "plot_chapter",
        tmp_path,
        input={"metrics": tmp_path / "both" / "similarity.nc"},
        output={"figures": tmp_path / "figures"},
        params={"code": "0" * 16, "thresholds": CHAPTER.thresholds().model_dump()},
        wildcards={"chapter": "similarity"},
    )
    words = json.loads((tmp_path / "figures" / "chapter.json").read_text(encoding="utf-8"))
    assert len(words["figures"]) == 9 and len(words["findings"]) == 5
    files = [path.suffix for path in (tmp_path / "figures").iterdir() if path.is_file()]
    assert {*files} == {".svg", ".pdf", ".csv", ".json"}
