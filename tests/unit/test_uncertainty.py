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


def document_sums(values: np.ndarray, cluster: list[str] | None = None, **attrs) -> xr.Dataset:
    names = [f"{number:04d}" for number in range(len(values))]
    coords = {"document_id": ("document", names), "cluster": ("document", names if cluster is None else cluster)}
    sums = {"total": ("document", np.asarray(values)), "tokens": ("document", np.ones(len(values), int))}
    return xr.Dataset(sums, coords, attrs)


# ---------------------------------------------------------------- resampling


def test_the_first_draw_is_the_sample_and_the_others_have_fewer_clusters():
    tokens = np.array([9, 4, 5, 8, 3, 7, 6])
    weights = uncertainty.resampling_weights(tokens, resamples=50, seed=3, name="poems")
    assert weights.shape == (51, 7)
    assert (weights[0] == 1).all()
    assert (weights[1:].sum(axis=1) == uncertainty.drawn(tokens)).all()
    assert len(np.unique(weights[1:], axis=0)) > 40


@pytest.mark.parametrize(("clusters", "number"), [(1, 1), (2, 1), (3, 1), (8, 5), (30, 27), (300, 297)])
def test_of_equal_clusters_so_many_are_drawn(clusters, number):
    assert uncertainty.drawn(np.full(clusters, 7)) == number


@given(st.lists(st.integers(1, 100), min_size=3, max_size=30))
def test_the_number_drawn_follows_from_the_variance_that_resamples_see(tokens):
    # The distance of each ratio from that of all clusters is a sum of the ratios, which have the variance 1.
    count, share = len(tokens), np.array(tokens) / sum(tokens)
    of_distance = ((np.eye(count) - share) ** 2).sum(axis=1)
    seen = (share**2 * of_distance).sum() / (share**2).sum()
    wider = scipy.stats.t.ppf(0.975, count - 1) / scipy.stats.norm.ppf(0.975)
    assert abs(uncertainty.drawn(np.array(tokens)) - max(count * seen / wider**2, 1)) <= 0.5 + 1e-9


def test_every_cluster_is_drawn_equally_often():
    # The counts are multinomial: of m draws with probability 1/n each; the mean is m / n.
    tokens = np.arange(1, 11)
    weights = uncertainty.resampling_weights(tokens, resamples=20_000, seed=1, name="poems")[1:]
    mean = uncertainty.drawn(tokens) / 10
    np.testing.assert_allclose(weights.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(weights.var(axis=0), 0.9 * mean, atol=0.04)


def test_the_percentiles_of_a_mean_are_those_of_student():
    values = scipy.stats.norm.ppf((np.arange(20) + 0.5) / 20)  # as normal as 20 values can be
    weights = uncertainty.resampling_weights(np.ones(20), resamples=40_000, seed=1, name="poems")
    found = uncertainty.interval(draws_of(weights @ values / weights.sum(axis=1)))
    half = scipy.stats.t.ppf(0.975, 19) * values.std(ddof=1) / np.sqrt(20)
    np.testing.assert_allclose(found, [0, -half, half], atol=0.03 * half)


def test_resampling_depends_on_the_seed_and_the_name_alone():
    def weights(*arguments):
        return uncertainty.resampling_weights(np.arange(1, 10), 20, *arguments)

    np.testing.assert_array_equal(weights(1, "poems"), weights(1, "poems"))
    assert (weights(1, "poems") != weights(2, "poems")).any()
    assert (weights(1, "poems") != weights(1, "code")).any()


def test_one_cluster_is_always_the_same_sample():
    assert (uncertainty.resampling_weights(np.array([5]), 20, 0, "poems") == 1).all()


def test_the_draws_are_those_of_one_multinomial_sample():
    rng = np.random.default_rng([3, zlib.crc32(b"poems")])
    expected = rng.multinomial(27, np.full(30, 1 / 30), size=50)
    np.testing.assert_array_equal(uncertainty.resampling_weights(np.ones(30), 50, 3, "poems")[1:], expected)


def weights_of_documents(drawn: uncertainty.Resampling) -> np.ndarray:
    """How often each document occurs in each draw: (draw, document)."""
    return drawn.weights[:, drawn.cluster]


def test_documents_of_one_cluster_are_drawn_together():
    tally = document_sums(np.arange(6), ["b", "a", "b", "c", "a", "b"])
    drawn = uncertainty.resample({"poems": tally}, 30, 1)["poems"]
    weights = weights_of_documents(drawn)
    for one, other in ((0, 2), (0, 5), (1, 4)):
        np.testing.assert_array_equal(weights[:, one], weights[:, other])
    of_clusters = weights[1:, [1, 0, 3]]
    assert np.unique(of_clusters, axis=0).tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]  # one of three


def test_datasets_of_the_same_files_share_the_draws_of_the_clusters_that_both_have():
    files = {"dataset_sha256": "0" * 64}
    one = document_sums(np.arange(5), list("abcab"), dataset="poems", **files)
    other = document_sums(np.arange(4), list("cdea"), dataset="poems.question_only", **files)
    drawn = uncertainty.resample({"second": other, "first": one}, 30, 1)
    first, second = (weights_of_documents(drawn[name]) for name in ("first", "second"))
    np.testing.assert_array_equal(first[:, 0], second[:, 3])
    np.testing.assert_array_equal(first[:, 2], second[:, 0])
    # Together they have five clusters, a to e.
    number = uncertainty.drawn(np.array([3, 2, 2, 1, 1]))
    assert (first[1:, :3].sum(axis=1) + second[1:, 1:3].sum(axis=1) == number).all()
    assert (first[1:, 0] != first[1:, 1]).any()
    apart = uncertainty.resample({"second": other.assign_attrs(dataset_sha256="1" * 64), "first": one}, 30, 1)
    assert (weights_of_documents(apart["first"])[:, 0] != weights_of_documents(apart["second"])[:, 3]).any()


def test_a_pair_has_the_draws_of_its_first_dataset_in_the_alphabet():
    names = ["poems", "poems.question_only"]
    pair = {name: document_sums(np.arange(5), dataset=name, dataset_sha256="0" * 64) for name in names}
    alone = uncertainty.resample({"poems": pair["poems"]}, 20, 1)["poems"].weights
    for order in (names, names[::-1]):
        drawn = uncertainty.resample({name: pair[name] for name in order}, 20, 1)
        assert list(drawn) == order
        for name in names:
            np.testing.assert_array_equal(drawn[name].weights, alone)


def test_sample_sizes_count_shared_clusters_once():
    files = {"dataset_sha256": "0" * 64}
    study = {
        "poems": document_sums(np.arange(5), list("abcab"), **files),
        "poems.question_only": document_sums(np.arange(4), list("cdea"), **files),
        "code": document_sums(np.arange(3), list("aab")),
    }
    found = uncertainty.sample_sizes(study)
    assert found["documents"].values.tolist() == [12, 5, 4, 3]
    assert found["clusters"].values.tolist() == [7, 3, 4, 2]  # a to e, and two of code


def test_of_published_counts_no_sizes_are_known():
    counts = document_sums([7]).drop_vars(["document_id", "cluster"])
    study = {name: counts.assign_attrs(design_effect=effect) for name, effect in (("poems", 2.0), ("code", 3.0))}
    found = uncertainty.sample_sizes(study)
    assert found["documents"].values.tolist() == found["clusters"].values.tolist() == [0, 0, 0]
    assert found["design_effect"].item() == 3


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
        weights = uncertainty.resampling_weights(tally["tokens"].values, 6, 4, name)  # every document is a cluster
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


@given(order=st.permutations(range(6)), exact=st.booleans())
def test_the_order_of_documents_changes_no_draw(order, exact):
    values = np.array([1, 10, 100, 1000, 10_000, 100_000]) * (1 if exact else 0.1)
    ordered = document_sums(values, list("abcacb"))
    expected, found = (
        dataset_draws({"poems": each}, ["total"], 20, 1)["total"] for each in (ordered, ordered.isel(document=order))
    )
    # Sums inside a cluster are in another order: integers are exact, other numbers may be rounded otherwise.
    np.testing.assert_allclose(found, expected, rtol=0 if exact else 1e-12)


def test_sums_of_many_clusters_are_those_of_few():
    clusters = 2 * uncertainty.CLUSTERS_PER_PRODUCT + 300
    rng = np.random.default_rng(9)
    values = rng.integers(0, 9, (3 * clusters, 2, 3)).astype(np.int32)
    cluster = rng.permutation(np.tile(np.arange(clusters), 3))
    weights = uncertainty.resampling_weights(np.ones(clusters), 4, 1, "poems")
    found = uncertainty.Resampling(weights, cluster).sums(values)
    expected = np.einsum("wd,dab->wab", weights[:, cluster].astype(np.int64), values.astype(np.int64))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


def test_datasets_with_different_layers_are_refused(study):
    with pytest.raises(ValueError, match="layer"):
        dataset_draws({"poems": study["poems"], "code": study["code"].isel(layer=[0])}, ["z_loss_sum"], 2, 0)


# ---------------------------------------------------------------- intervals


ELEVEN = np.append(4.0, np.arange(11.0))
"""Resamples 0, 1, ..., 10 around the statistic 4: their mean is 5, their 10 % and 90 % quantiles are 1 and 9."""


@pytest.mark.parametrize(
    ("bias", "draws", "expected"),
    [
        ("", ELEVEN, [4, 1, 9]),
        ("level", ELEVEN, [4 - 1, 1 - 2, 9 - 2]),
        ("square", np.sqrt(ELEVEN), [np.sqrt(4 - 1), 0, np.sqrt(9 - 2)]),  # 1 - 2 is less than no spread
    ],
)
def test_an_interval_by_hand(bias, draws, expected):
    found = uncertainty.interval(draws_of(draws), confidence=0.8, bias=bias)
    assert found["interval"].values.tolist() == ["estimate", "low", "high"]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_bounds_cut_the_estimate_and_its_interval():
    np.testing.assert_allclose(uncertainty.interval(draws_of(ELEVEN), 0.8, (0, 3.5), "level"), [3, 0, 3.5])
    low = draws_of(np.append(1.0, np.arange(11.0)))  # 1 - (5 - 1) is below 0
    np.testing.assert_allclose(uncertainty.interval(low, 0.8, (0, 5), "level"), [0, 0, 1])


@pytest.mark.parametrize("bias", ["", "level", "square"])
def test_without_resamples_there_is_only_the_estimate(bias):
    np.testing.assert_array_equal(uncertainty.interval(draws_of([4.0]), bias=bias), [4, np.nan, np.nan])


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
    # Of 4 clusters few are drawn, so the outermost draws may be the same.
    first, second = (found.sel(dataset="pooled", interval=["low", "high"]) for found in (first, second))
    assert (first != second).any("interval").all()


def test_the_interval_of_a_mean_is_the_percentile_interval_of_scipy():
    values = np.random.default_rng(6).gamma(2.0, size=80)
    draws = dataset_draws({"poems": document_sums(values)}, ["total", "tokens"], resamples=20_000, seed=1)
    ours = uncertainty.interval((draws["total"] / draws["tokens"]).sel(dataset="poems"))
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


@pytest.mark.parametrize(
    ("bias", "draws", "expected"),
    [
        ("", ELEVEN, [4, 1, 9]),
        ("level", ELEVEN, [3, -1, 7]),
        ("square", np.sqrt(ELEVEN), [np.sqrt(3), 0, np.sqrt(7)]),
    ],
)
def test_the_interval_of_a_difference_by_hand(bias, draws, expected):
    # The first run has 3 in every draw, so its bias is 0.
    first = xr.DataArray(np.full(12, 3.0), dims="draw")
    found = uncertainty.difference_interval(first, xr.DataArray(draws, dims="draw"), 0.8, bias=bias)
    np.testing.assert_allclose(found, np.array(expected) - 3, rtol=1e-12, atol=1e-12)


def test_datasets_of_few_clusters_keep_their_estimates_and_lose_their_limits():
    values = np.arange(6.0).reshape(2, 3)
    metrics = xr.Dataset(
        {
            "share": (("dataset", "interval"), values, {"units": "1"}),
            "mean": ("interval", values[1]),
            "tokens": ("dataset", [7, 8]),
        },
        coords={"dataset": ["pooled", "poems"], "interval": ["estimate", "low", "high"]},
        attrs={"seed": 1},
    )

    def without(*clusters):
        return uncertainty.without_few(metrics, 5, xr.DataArray(list(clusters), dims="dataset"))

    xr.testing.assert_identical(without(9, 5), metrics)
    some = without(9, 4)
    np.testing.assert_array_equal(some["share"], [[0, 1, 2], [3, np.nan, np.nan]])
    np.testing.assert_array_equal(some["mean"], [3, 4, 5])
    assert some["share"].attrs == {"units": "1"} and some.attrs == {"seed": 1}
    np.testing.assert_array_equal(some["tokens"], [7, 8])
    none = without(4, 1)
    np.testing.assert_array_equal(none["share"], [[0, np.nan, np.nan], [3, np.nan, np.nan]])
    np.testing.assert_array_equal(none["mean"], [3, np.nan, np.nan])
    xr.testing.assert_identical(without(0, 0), metrics)  # of published counts it is not known how many there are


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
    return uncertainty.resampling_weights(tokens, 300, seed, "poems") @ counts, share


def variation(loads: np.ndarray) -> np.ndarray:
    return loads.std(axis=-1) / loads.mean(axis=-1)


def covered(limits: np.ndarray, truth: float) -> bool:
    return limits[0] - 1e-9 <= truth <= limits[1] + 1e-9


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread", "documents", "percentile_at_most"), [(0.6, 100, 0.88), (0.3, 60, 0.3), (0, 60, 0.0)]
)
def test_intervals_of_a_spread_cover_the_truth_and_percentile_intervals_do_not(spread, documents, percentile_at_most):
    # Noise inflates the spread of the sample over that of the truth, and that of a resample over that of the sample.
    hits, percentile = [], []
    for seed in range(200):
        loads, share = simulated_loads(seed, spread, documents)
        draws = variation(loads)
        found = uncertainty.interval(draws_of(draws), bounds=(0, np.inf), bias="square")
        hits.append(covered(found.values[1:], variation(share)))
        percentile.append(covered(np.quantile(draws[1:], [0.025, 0.975]), variation(share)))
    assert np.mean(hits) >= 0.88
    assert np.mean(percentile) <= percentile_at_most
    if spread >= 0.3:
        assert np.mean(hits) <= 0.995


@pytest.mark.slow
def test_near_even_loads_only_the_squared_interval_covers_the_truth():
    hits = {"square": [], "level": []}
    for seed in range(200):
        loads, share = simulated_loads(seed, spread=0.1, documents=60)
        for bias in hits:
            found = uncertainty.interval(draws_of(variation(loads)), bounds=(0, np.inf), bias=bias)
            hits[bias].append(covered(found.values[1:], variation(share)))
    assert np.mean(hits["square"]) >= 0.88
    assert np.mean(hits["level"]) < 0.8


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
    assert loads.min() == 0


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


def test_two_groups_are_the_fewest():
    """Means 1 and 4 without the one and the other: sum of squares 4.5, so the error is sqrt(1 / 2 * 4.5) = 1.5."""
    half = 12.706205 * 1.5
    np.testing.assert_allclose(
        uncertainty.jackknife(draws_of_means(np.array([4.0, 1.0]), np.arange(2), 2)), [2.5, 2.5 - half, 2.5 + half]
    )


def test_a_value_that_no_group_changes_is_certain():
    assert uncertainty.jackknife(xr.DataArray([2.0, 2, 2], dims="draw")).values.tolist() == [2, 2, 2]


def test_an_unknown_value_does_not_make_an_empty_group_count():
    draws = draws_of_means(np.array([1.0, 2.0, 6.0]), np.arange(3), 20)
    both = xr.concat([draws, draws * np.nan], "layer")
    known, unknown = uncertainty.jackknife(both).transpose("layer", "interval").values
    np.testing.assert_array_equal(known, uncertainty.jackknife(draws))
    assert np.isnan(unknown).all()


@pytest.mark.long
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
    np.testing.assert_allclose(uncertainty.miller_madow(np.array([1, 1])), math.log(2) + 1 / 4)
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


def test_chance_is_the_mean_of_permutations_and_the_limits_between_which_they_lie():
    values = xr.DataArray([[1.0, 2, 3, 4, 10], [0, 0, 0, 0, np.nan]], {"layer": [0, 1]}, ("layer", "permutation"))
    found = uncertainty.chance(values, 0.5, "permutation")
    assert found.sel(layer=0).values.tolist() == [4, 2, 4] and found.sel(layer=1).isnull().all()
    assert found["interval"].values.tolist() == ["estimate", "low", "high"]
