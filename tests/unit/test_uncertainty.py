import math
import zlib

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_cases import random_case

from gatebook.measures import uncertainty


def draws_of(values: np.ndarray) -> xr.DataArray:
    return xr.DataArray(values, dims=("draw", "layer")[: np.ndim(values)])


def document_sums(values: np.ndarray, document_id: list[str] | None = None) -> xr.Dataset:
    names = document_id or [f"{number:04d}" for number in range(len(values))]
    return xr.Dataset({"total": ("document", values)}, coords={"document_id": ("document", names)})


# ---------------------------------------------------------------- resampling


def test_the_first_draw_is_the_sample_and_the_others_have_as_many_documents():
    weights = uncertainty.resampling_weights(documents=7, resamples=50, seed=3, name="poems")
    assert weights.shape == (51, 7)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 7).all()
    assert len(np.unique(weights[1:], axis=0)) == 50


def test_every_document_is_drawn_once_on_average():
    # The counts are multinomial: mean 1, variance 1 - 1/n.
    weights = uncertainty.resampling_weights(documents=10, resamples=20_000, seed=1, name="poems")[1:]
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.03)
    np.testing.assert_allclose(weights.var(axis=0), 0.9, atol=0.04)


def test_resampling_depends_on_the_seed_and_the_name_alone():
    def weights(*arguments):
        return uncertainty.resampling_weights(9, 20, *arguments)

    np.testing.assert_array_equal(weights(1, "poems"), weights(1, "poems"))
    assert (weights(1, "poems") != weights(2, "poems")).any()
    assert (weights(1, "poems") != weights(1, "code")).any()


def test_one_document_is_always_the_same_sample():
    assert (uncertainty.resampling_weights(1, 20, 0, "poems") == 1).all()


def test_the_draws_are_those_of_one_multinomial_sample():
    rng = np.random.default_rng([3, zlib.crc32(b"poems")])
    expected = rng.multinomial(7, np.full(7, 1 / 7), size=50)
    np.testing.assert_array_equal(uncertainty.resampling_weights(7, 50, 3, "poems")[1:], expected)


# ---------------------------------------------------------------- sums over documents


def dataset_draws(tallies: dict[str, xr.Dataset], names: list[str], resamples: int, seed: int) -> xr.Dataset:
    return uncertainty.dataset_draws(tallies, names, uncertainty.resample(tallies, resamples, seed))


@pytest.fixture(scope="module")
def study() -> dict[str, xr.Dataset]:
    rng = np.random.default_rng(0)
    return {name: random_case(rng, [5, 3, 8, 2], layers=(0, 2)).tally() for name in ("poems", "code")}


def test_every_draw_is_the_sum_over_its_documents(study):
    draws = dataset_draws(study, ["tokens", "selected_count"], resamples=6, seed=4)
    assert draws["selected_count"].dims == ("dataset", "draw", "layer", "expert")
    assert draws["layer"].values.tolist() == [0, 2]
    for name, tally in study.items():
        weights = uncertainty.resampling_weights(4, 6, 4, name)
        for draw in range(7):
            found = draws.sel(dataset=name).isel(draw=draw)
            count = sum(weights[draw, d] * tally["selected_count"].values[d] for d in range(4))
            np.testing.assert_array_equal(found["selected_count"], count)
            assert found["tokens"] == sum(weights[draw, d] * tally["tokens"].values[d] for d in range(4))


def test_pooled_comes_first_and_is_the_sum_of_the_datasets(study):
    draws = dataset_draws(study, ["tokens", "selected_count"], resamples=6, seed=4)
    assert draws["dataset"].values.tolist() == ["pooled", "poems", "code"]
    datasets = draws.sel(dataset=["poems", "code"]).sum("dataset")
    xr.testing.assert_equal(draws.sel(dataset="pooled", drop=True), datasets)


def test_another_dataset_changes_no_draw_of_the_others(study):
    alone = dataset_draws({"code": study["code"]}, ["selected_count"], resamples=6, seed=4)
    both = dataset_draws(study, ["selected_count"], resamples=6, seed=4)
    xr.testing.assert_identical(alone.sel(dataset="code"), both.sel(dataset="code"))


def test_the_order_of_documents_changes_no_draw():
    values = np.array([0.1, 10.3, 100.7, 1000.9])
    order = [2, 0, 3, 1]
    ordered = document_sums(values, ["a", "b", "c", "d"])
    for shuffled in (ordered.isel(document=order), ordered.isel(document=order[::-1])):
        xr.testing.assert_identical(
            dataset_draws({"poems": shuffled}, ["total"], 20, 1),
            dataset_draws({"poems": ordered}, ["total"], 20, 1),
        )


def test_sums_of_many_documents_are_those_of_few():
    documents = 2 * uncertainty.DOCUMENTS_PER_PRODUCT + 300
    values = np.random.default_rng(9).integers(0, 9, (documents, 2, 3)).astype(np.int32)
    order = np.random.default_rng(9).permutation(documents)
    weights = uncertainty.resampling_weights(documents, 4, 1, "poems")
    found = uncertainty.Resampling(weights, order).sums(values)
    expected = np.einsum("wd,dab->wab", weights.astype(np.int64), values[order].astype(np.int64))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


def test_datasets_with_different_layers_are_refused(study):
    with pytest.raises(ValueError, match="layer"):
        dataset_draws({"poems": study["poems"], "code": study["code"].isel(layer=[0])}, ["z_loss_sum"], 2, 0)


# ---------------------------------------------------------------- intervals


def test_an_interval_by_hand():
    # Resamples 0, 1, ..., 10 around the estimate 4: bias 1; 10 % and 90 % quantiles 1 and 9, moved by 2.
    found = uncertainty.interval(draws_of(np.append(4.0, np.arange(11.0))), confidence=0.8)
    assert found["interval"].values.tolist() == ["estimate", "low", "high"]
    np.testing.assert_allclose(found, [4, -1, 7])


def test_a_squared_interval_by_hand():
    # Squares 0, 1, ..., 10 around 4: moved by 2 as above, cut at 0, and rooted.
    draws = draws_of(np.sqrt(np.append(4.0, np.arange(11.0))))
    np.testing.assert_allclose(uncertainty.interval(draws, confidence=0.8, squared=True), [2, 0, np.sqrt(7)])


def test_bounds_cut_the_interval_but_not_the_estimate():
    draws = draws_of(np.append(4.0, np.arange(11.0)))
    np.testing.assert_allclose(uncertainty.interval(draws, 0.8, bounds=(0, 5)), [4, 0, 5])


def test_each_position_has_its_own_interval_wherever_the_draws_are():
    rng = np.random.default_rng(5)
    draws = xr.DataArray(
        rng.standard_normal((3, 101, 2)), dims=("layer", "draw", "expert"), coords={"layer": [1, 4, 6]}
    )
    found = uncertainty.interval(draws, 0.9)
    assert found.dims == ("layer", "expert", "interval")
    assert found["layer"].values.tolist() == [1, 4, 6]
    xr.testing.assert_allclose(found[2, 1], uncertainty.interval(draws[2, :, 1], 0.9), rtol=1e-12)


def test_an_unknown_value_has_an_unknown_interval():
    assert uncertainty.interval(draws_of(np.full((5, 2), np.nan))).isnull().all()


def test_the_seed_changes_intervals_and_not_estimates(study):
    def found(seed):
        draws = dataset_draws(study, ["tokens", "z_loss_sum"], 50, seed)
        return uncertainty.interval(draws["z_loss_sum"] / draws["tokens"])

    first, second = found(1), found(2)
    xr.testing.assert_identical(first.sel(interval="estimate"), second.sel(interval="estimate"))
    assert (first.sel(interval=["low", "high"]) != second.sel(interval=["low", "high"])).all()


def test_the_interval_of_a_mean_is_the_percentile_interval_of_scipy():
    values = np.random.default_rng(6).gamma(2.0, size=80)
    draws = dataset_draws({"poems": document_sums(values)}, ["total"], resamples=20_000, seed=1)
    ours = uncertainty.interval(draws["total"].sel(dataset="poems") / len(values))
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    error = values.std() / np.sqrt(len(values))
    assert ours.sel(interval="estimate").item() == pytest.approx(values.mean(), rel=1e-12)
    # A 2.5 % quantile of 20,000 draws has a standard error of 1.9 % of the standard error.
    assert ours.sel(interval="low").item() == pytest.approx(theirs.low, abs=0.1 * error)
    assert ours.sel(interval="high").item() == pytest.approx(theirs.high, abs=0.1 * error)


def test_the_interval_of_a_ratio_of_sums_is_the_percentile_interval_of_scipy():
    rng = np.random.default_rng(7)
    tokens = rng.integers(20, 200, 80).astype(float)
    total = tokens * rng.normal(3, 1, 80)
    data = document_sums(total).assign(tokens=("document", tokens))
    draws = dataset_draws({"poems": data}, ["total", "tokens"], resamples=20_000, seed=1)
    ours = uncertainty.interval((draws["total"] / draws["tokens"]).sel(dataset="poems"))
    theirs = scipy.stats.bootstrap(
        (total, tokens),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    )
    low, high = ours.sel(interval=["low", "high"]).values
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * theirs.standard_error)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * theirs.standard_error)


def test_the_interval_of_a_difference_by_hand():
    # Resamples 0, ..., 10 around 4 (bias 1), minus 3 in every draw: quantiles 1 and 9, moved by 2.
    first = xr.DataArray(np.full(12, 3.0), dims="draw")
    second = xr.DataArray(np.append(4.0, np.arange(11.0)), dims="draw")
    np.testing.assert_allclose(uncertainty.difference_interval(first, second, 0.8), [1, -4, 4])
    # On squares: quantiles of 0, ..., 10 moved by 2, cut at 0 and rooted.
    squared = uncertainty.difference_interval(first, np.sqrt(second), 0.8, squared=True)
    np.testing.assert_allclose(squared, [2 - 3, 0 - 3, np.sqrt(7) - 3])


# ---------------------------------------------------------------- coverage, where the truth is known


def simulated_loads(seed: int, spread: float, documents: int, experts: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the loads (draw, expert) of a simulated dataset, and its true shares.

    The true shares are log-normal with the given spread; each document has its own shares around them (Dirichlet), so
    its tokens depend on each other.
    """
    share = np.exp(spread * np.random.default_rng(7).standard_normal(experts))
    share /= share.sum()
    rng = np.random.default_rng(seed)
    tokens = rng.integers(10, 60, documents)
    counts = np.array([rng.multinomial(n, rng.dirichlet(8 * share)) for n in tokens])
    return uncertainty.resampling_weights(documents, 300, seed, "poems") @ counts, share


def variation(loads: np.ndarray) -> np.ndarray:
    return loads.std(axis=-1) / loads.mean(axis=-1)


def covered(limits: np.ndarray, truth: float) -> bool:
    return limits[0] - 1e-9 <= truth <= limits[1] + 1e-9


def test_intervals_of_a_mean_cover_the_truth_of_dependent_tokens():
    hits, naive = [], []
    for seed in range(200):
        loads, share = simulated_loads(seed, spread=0.3, documents=100)
        frequency = loads[:, 0] / loads.sum(axis=1)
        hits.append(covered(uncertainty.interval(draws_of(frequency)).values[1:], share[0]))
        error = 1.96 * np.sqrt(frequency[0] * (1 - frequency[0]) / loads[0].sum())
        naive.append(covered(frequency[0] + np.array([-error, error]), share[0]))
    assert 0.88 <= np.mean(hits) <= 0.99
    # As if tokens were independent: far too narrow.
    assert np.mean(naive) < 0.75


@pytest.mark.parametrize(
    ("spread", "documents", "percentile_at_most"), [(0.6, 100, 0.88), (0.3, 60, 0.3), (0, 60, 0.0)]
)
def test_intervals_of_a_spread_cover_the_truth_and_percentile_intervals_do_not(spread, documents, percentile_at_most):
    # Noise inflates the spread of the sample over that of the truth, and that of a resample over that of the sample.
    hits, percentile = [], []
    for seed in range(200):
        loads, share = simulated_loads(seed, spread, documents)
        draws = variation(loads)
        found = uncertainty.interval(draws_of(draws), bounds=(0, np.inf), squared=True)
        hits.append(covered(found.values[1:], variation(share)))
        percentile.append(covered(np.quantile(draws[1:], [0.025, 0.975]), variation(share)))
    assert np.mean(hits) >= 0.88
    assert np.mean(percentile) <= percentile_at_most
    if spread >= 0.3:
        assert np.mean(hits) <= 0.995


def test_near_even_loads_only_the_squared_interval_covers_the_truth():
    hits = {True: [], False: []}
    for seed in range(200):
        loads, share = simulated_loads(seed, spread=0.1, documents=60)
        for squared in hits:
            found = uncertainty.interval(draws_of(variation(loads)), bounds=(0, np.inf), squared=squared)
            hits[squared].append(covered(found.values[1:], variation(share)))
    assert np.mean(hits[True]) >= 0.88
    assert np.mean(hits[False]) < 0.8


# ---------------------------------------------------------------- quantiles of histograms


def test_quantiles_by_hand():
    # 4 values in [0, 1), 4 in [1, 2), 2 in [4, 8]: a tenth of all values is one value.
    found = uncertainty.histogram_quantiles(
        np.array([4, 4, 0, 2]), np.array([0, 1, 2, 4, 8]), (0.1, 0.4, 0.5, 0.8, 0.9)
    )
    np.testing.assert_allclose(found, [0.25, 1, 1.25, 2, 6])


def test_quantiles_of_many_histograms_with_edges_of_their_own():
    counts = np.array([[[1, 1], [0, 2]], [[2, 0], [0, 0]]])
    edges = np.array([[0, 1, 2], [10, 20, 30]])
    found = uncertainty.histogram_quantiles(counts, edges, (0.5, 1.0))
    np.testing.assert_allclose(found, [[[1, 2], [25, 30]], [[0.5, 1], [np.nan, np.nan]]])


@settings(max_examples=200)
@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    quantile=st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.77, 0.9, 1.0]),
    bins=st.integers(1, 40),
)
def test_quantiles_agree_with_numpy_within_a_bin(values, quantile, bins):
    counts, edges = np.histogram(values, bins=bins, range=(0, 1))
    (found,) = uncertainty.histogram_quantiles(counts, edges, (quantile,))
    assert abs(found - np.quantile(values, quantile, method="inverted_cdf")) <= 1 / bins + 1e-9


# ---------------------------------------------------------------- uniform routing


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (8, 1), (6, 5)])
def test_uniform_loads_have_the_moments_of_sampling_without_replacement(experts, top_k):
    tokens, draws, share = 300, 2000, top_k / experts
    rng = np.random.default_rng(8)
    chosen = rng.random((draws, tokens, experts)).argpartition(top_k - 1, axis=-1)[..., :top_k]
    exact = np.apply_along_axis(np.bincount, 1, chosen.reshape(draws, -1), minlength=experts)
    drawn = uncertainty.uniform_loads(tokens, experts, top_k, draws=20_000, seed=1)
    np.testing.assert_allclose(drawn.sum(axis=1), top_k * tokens)
    assert (exact.sum(axis=1) == top_k * tokens).all()
    np.testing.assert_allclose(drawn.mean(axis=0), tokens * share, rtol=0.01)
    variance = tokens * share * (1 - share)
    covariance = np.full((experts, experts), -variance / (experts - 1))
    np.fill_diagonal(covariance, variance)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.05 * variance)
    np.testing.assert_allclose(np.cov(exact.T), covariance, atol=0.12 * variance)
    for measure in (variation, lambda loads: loads.max(axis=-1) / loads.mean(axis=-1) - 1):
        assert measure(drawn).mean() == pytest.approx(measure(exact).mean(), rel=0.04)


def test_the_squared_variation_of_uniform_loads():
    loads = uncertainty.uniform_loads(tokens=10_000, experts=64, top_k=8, draws=5000, seed=1)
    assert (variation(loads) ** 2).mean() == pytest.approx((1 - 0.125) / (10_000 * 0.125), rel=0.01)


def test_uniform_loads_are_fixed_when_every_expert_is_selected():
    assert (uncertainty.uniform_loads(tokens=50, experts=4, top_k=4, draws=10, seed=1) == 50).all()


def test_uniform_loads_are_never_negative():
    loads = uncertainty.uniform_loads(tokens=3, experts=64, top_k=1, draws=100, seed=1)
    assert (loads >= 0).all()


# ---------------------------------------------------------------- jackknife and entropy


def draws_of_means(values: np.ndarray, group: np.ndarray, groups: int = 20) -> xr.DataArray:
    """The jackknife's draws of the mean of `values` (unit,), each in a group."""
    sums = xr.Dataset(
        {
            "sum": ("group", np.bincount(group, values, groups)),
            "count": ("group", np.bincount(group, minlength=groups)),
        }
    )
    parts = uncertainty.without_each(sums)
    return parts["sum"] / parts["count"]


def test_the_jackknife_of_a_mean_by_hand():
    """Three groups of one: the standard error is that of the mean, sqrt(s^2 / n) = sqrt(7 / 3)."""
    found = uncertainty.jackknife(draws_of_means(np.array([1.0, 2.0, 6.0]), np.arange(3), 3))
    assert found["interval"].values.tolist() == ["estimate", "low", "high"]
    half = 4.302653 * math.sqrt(7 / 3)
    np.testing.assert_allclose(found, [3, 3 - half, 3 + half], rtol=1e-6)
    np.testing.assert_allclose(
        uncertainty.jackknife(draws_of_means(np.array([1.0, 2.0, 6.0]), np.arange(3), 3), bounds=(0, 5)), [3, 0, 5]
    )


def test_empty_groups_do_not_count():
    values, group = np.array([1.0, 2.0, 6.0]), np.arange(3)
    few, many = (uncertainty.jackknife(draws_of_means(values, group, groups)) for groups in (3, 20))
    np.testing.assert_allclose(few, many)


@pytest.mark.slow
def test_the_jackknife_covers_the_mean_of_documents():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        values, group = rng.exponential(size=300), rng.integers(0, 20, 300)
        _, low, high = uncertainty.jackknife(draws_of_means(values, group)).values
        covered += low <= 1 <= high
    assert 0.93 <= covered / 2000 <= 0.97


def test_without_each_is_the_total_less_one_part():
    parts = xr.DataArray([[1, 2], [3, 4], [5, 6]], dims=("group", "x"))
    np.testing.assert_array_equal(uncertainty.without_each(parts), [[9, 12], [8, 10], [6, 8], [4, 6]])


def test_miller_madow_by_hand():
    np.testing.assert_allclose(uncertainty.miller_madow(np.array([2, 2, 0])), math.log(2) + 1 / 8)
    assert np.isnan(uncertainty.miller_madow(np.zeros(3)))


def test_miller_madow_is_closer_to_the_truth_than_the_plug_in_entropy():
    rng = np.random.default_rng(3)
    counts = rng.multinomial(200, np.full(32, 1 / 32), size=500)
    corrected = uncertainty.miller_madow(counts).mean()
    share = counts / 200
    plug_in = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1).mean()
    assert abs(corrected - math.log(32)) < 0.01 < abs(plug_in - math.log(32))


def test_a_group_that_changes_nothing_counts_among_complete_draws():
    """Draws 1, 1, 1, 4 of G = 4 groups: sum of squares 27 / 4, so the error is sqrt(3 / 4 * 27 / 4) = 2.25."""
    draws = xr.DataArray([1.0, 1, 1, 1, 4], dims="draw")
    half = 3.182446 * 2.25
    np.testing.assert_allclose(uncertainty.jackknife(draws, complete=True), [1, 1 - half, 1 + half], rtol=1e-6)
    assert np.isnan(uncertainty.jackknife(draws)[1:]).all()
