import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_cases import Case, case, completed, even_case, random_case, records, saved, selection_case

from gatebook.chapters.base.contract import Measure
from gatebook.chapters.router_decisiveness import measure as router_decisiveness
from gatebook.measures import uncertainty
from gatebook.study import tallies
from gatebook.study.tallies import open_tallies

MEASURES = list(router_decisiveness.MEASURES)


def measure(study: dict[str, Case | xr.Dataset], resamples: int = 0, seed: int = 1) -> xr.Dataset:
    """Without resamples estimates are the statistics of the sample, not corrected for noise."""
    made = {name: one.tally() if isinstance(one, Case) else one for name, one in study.items()}
    return router_decisiveness.measure(made, resamples=resamples, seed=seed, confidence=0.95).metrics


def estimates(metrics: xr.Dataset, dataset: str = "pooled", layer: int = 0) -> dict[str, float]:
    found = metrics[MEASURES].sel(dataset=dataset, layer=layer, interval="estimate")
    return {name: found[name].item() for name in MEASURES}


def from_tokens(layers: list[xr.Dataset]) -> dict[str, float]:
    """The measures over all tokens of the same layer's records in some datasets, token by token."""
    totals, tokens, mean = dict.fromkeys(MEASURES, 0.0), 0, None
    for layer in layers:
        top_k = layer.sizes["rank"]
        for logits in layer["router_logits"].values.tolist():
            parts = [math.exp(z) for z in logits]
            p = [part / sum(parts) for part in parts]
            best, z = sorted(p, reverse=True), sorted(logits, reverse=True)
            mass = sum(best[:top_k])
            entropy = -sum(value * math.log(value) for value in p)
            totals["entropy"] += entropy
            totals["normalised_entropy"] += entropy / math.log(len(p))
            totals["effective_experts"] += math.exp(entropy)
            totals["top_k_entropy"] -= sum(value / mass * math.log(value / mass) for value in best[:top_k])
            totals["top_1_probability"] += best[0]
            totals["top_k_mass"] += mass
            totals["top_1_share"] += best[0] / mass
            totals["logit_margin"] += z[0] - z[1]
            totals["boundary_margin"] += z[top_k - 1] - z[top_k] if top_k < len(z) else math.nan
            totals["tied_share"] += top_k < len(z) and z[top_k - 1] == z[top_k]
            mean = p if mean is None else [a + b for a, b in zip(mean, p, strict=True)]
            tokens += 1
    found = {name: total / tokens for name, total in totals.items()}
    found["entropy_of_mean"] = -sum(value / tokens * math.log(value / tokens) for value in mean)
    return found | {"information": found["entropy_of_mean"] - found["entropy"]}


@pytest.mark.slow
@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=3),
    experts=st.integers(2, 6),
    top_k=st.integers(1, 6),
)
def test_measures_equal_a_loop_over_tokens(seed, lengths, experts, top_k):
    rng = np.random.default_rng(seed)
    study = {f"set {i}": random_case(rng, n, experts, min(top_k, experts), (1, 3)) for i, n in enumerate(lengths)}
    metrics = measure(study)
    for layer in (1, 3):
        for name, made in study.items():
            expected = from_tokens([made.layers[layer]])
            assert estimates(metrics, name, layer) == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)
        expected = from_tokens([made.layers[layer] for made in study.values()])
        assert estimates(metrics, "pooled", layer) == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)


def test_two_tokens_by_hand():
    # p = (1, 2, 4, 1) / 8 and (6, 1, 1, 2) / 10.
    metrics = measure({"poems": case({0: records(np.log([[1, 2, 4, 1], [6, 1, 1, 2]]), 2)}, [1, 1])})
    second = -(0.6 * math.log(0.6) + 0.2 * math.log(0.1) + 0.2 * math.log(0.2))
    entropy = (1.75 * math.log(2) + second) / 2
    of_mean = -sum(p * math.log(p) for p in (0.3625, 0.175, 0.3, 0.1625))
    assert estimates(metrics) == pytest.approx(
        {
            "normalised_entropy": entropy / math.log(4),
            "entropy": entropy,
            "effective_experts": (2**1.75 + math.exp(second)) / 2,
            "top_k_entropy": (math.log(3) - 2 / 3 * math.log(2) + 2 * math.log(2) - 0.75 * math.log(3)) / 2,
            "top_1_probability": 0.55,
            "top_k_mass": 0.775,
            "top_1_share": (2 / 3 + 0.75) / 2,
            "logit_margin": (math.log(2) + math.log(3)) / 2,
            "boundary_margin": math.log(2),
            "tied_share": 0,
            "entropy_of_mean": of_mean,
            "information": of_mean - entropy,
        },
        rel=1e-5,
    )
    np.testing.assert_allclose(metrics["rank_weight"].sel(dataset="pooled", interval="estimate"), [[0.55, 0.225]])


@pytest.mark.parametrize(("experts", "top_k"), [(64, 8), (6, 1), (5, 4)])
def test_uniform_routing_has_the_stated_values_and_no_uncertainty(experts, top_k):
    metrics = measure({"poems": even_case(experts, top_k, [7, 5, 9])}, resamples=20)
    expected = {
        "normalised_entropy": 1,
        "entropy": math.log(experts),
        "effective_experts": experts,
        "top_k_entropy": math.log(top_k),
        "top_1_probability": 1 / experts,
        "top_k_mass": top_k / experts,
        "top_1_share": 1 / top_k,
        "logit_margin": 0,
        "boundary_margin": 0,
        "tied_share": 1,
        "entropy_of_mean": math.log(experts),
        "information": 0,
    }
    assert router_decisiveness.uniform_values(experts, top_k) == pytest.approx(expected)
    assert dict(zip(MEASURES, metrics["uniform_value"].values, strict=True)) == pytest.approx(expected)
    for name in MEASURES:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, atol=1e-5)


def test_ties_are_those_at_the_boundary():
    # Two of four are selected: of the five tokens the second and the third tie between rank 1 and rank 2.
    logits = [[4, 3, 2, 1], [4, 2, 2, 1], [2, 2, 2, 2], [3, 3, 2, 1], [4, 3, 1, 1]]
    metrics = measure({"poems": case({0: records(np.array(logits, dtype=float), 2)}, [2, 3])})
    assert estimates(metrics)["tied_share"] == pytest.approx(2 / 5)


def test_one_expert_that_takes_all_is_certain_and_says_nothing_about_the_token():
    logits = np.tile([0.0, 80.0, 0.0, 0.0], (6, 1))
    found = estimates(measure({"poems": case({0: records(logits, 1)}, [2, 4])}))
    assert found == pytest.approx(
        dict.fromkeys(MEASURES, 0.0)
        | {"effective_experts": 1, "top_1_probability": 1, "top_k_mass": 1, "top_1_share": 1}
        | {"logit_margin": 80, "boundary_margin": 80},
        abs=1e-5,
    )


def test_certain_experts_in_turn_say_all_there_is_to_say():
    logits = np.tile(80 * np.eye(4), (3, 1))
    found = estimates(measure({"poems": case({0: records(logits, 1)}, [4, 8])}))
    assert found["information"] == pytest.approx(math.log(4), abs=1e-5)
    assert found["entropy"] == pytest.approx(0, abs=1e-5)


def test_more_than_256_experts_and_one_selected_by_hand():
    # Expert 299 has as much probability as the 299 others together: p = 1/2, and 1/598 each.
    logits = np.zeros((3, 300))
    logits[:, 299] = math.log(299)
    found = estimates(measure({"poems": case({0: records(logits, 1)}, [1, 2])}))
    entropy = (math.log(2) + math.log(598)) / 2
    expected = {
        "normalised_entropy": entropy / math.log(300),
        "entropy": entropy,
        "effective_experts": math.sqrt(2 * 598),
        "top_k_entropy": 0,
        "top_1_probability": 1 / 2,
        "top_k_mass": 1 / 2,
        "top_1_share": 1,
        "logit_margin": math.log(299),
        "boundary_margin": math.log(299),
        "tied_share": 0,
        "entropy_of_mean": entropy,
        "information": 0,
    }
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_all_experts_selected_by_hand():
    # p = (1, 2, 1) / 4 in the only layer: all weight is selected, and no expert is left out.
    metrics = measure({"poems": case({7: records(np.log([[1, 2, 1]]), 3)}, [1])})
    found = estimates(metrics, layer=7)
    assert math.isnan(found.pop("boundary_margin"))
    entropy = 1.5 * math.log(2)
    expected = {
        "normalised_entropy": entropy / math.log(3),
        "entropy": entropy,
        "effective_experts": 2**1.5,
        "top_k_entropy": entropy,
        "top_1_probability": 1 / 2,
        "top_k_mass": 1,
        "top_1_share": 1 / 2,
        "logit_margin": math.log(2),
        "tied_share": 0,
        "entropy_of_mean": entropy,
        "information": 0,
    }
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for name in expected:
        xr.testing.assert_equal(
            metrics[f"mean_over_layers_{name}"].drop_vars("layer", errors="ignore"),
            metrics[name].isel(layer=0, drop=True),
        )


def test_a_sigmoid_router_by_hand():
    # Scores 1/2, 3/4, 1/4 and 3/4, 1/2, 1/4, each divided by 3/2.
    logits = [[0, math.log(3), -math.log(3)], [math.log(3), 0, -math.log(3)]]
    metrics = measure({"poems": case({0: records(logits, 2, scores="sigmoid")}, [1, 1])})
    found = estimates(metrics)
    entropy = math.log(2) / 2 + math.log(3) / 3 + math.log(6) / 6
    of_mean = -5 / 6 * math.log(5 / 12) - math.log(1 / 6) / 6
    assert found["entropy"] == pytest.approx(entropy, rel=1e-6)
    assert found["entropy_of_mean"] == pytest.approx(of_mean, rel=1e-6)
    assert found["top_k_mass"] == pytest.approx(5 / 6, rel=1e-6)
    assert metrics.attrs["probability"] == "normalised sigmoid scores"


def test_equal_logits_have_the_same_values_for_sigmoid_routers():
    even = even_case(6, 2, [7, 5])
    sigmoid = {0: records(np.zeros((12, 6)), 2, even.layers[0]["selected_expert"].values.astype(int), scores="sigmoid")}
    metrics, expected = measure({"poems": case(sigmoid, [7, 5])}), measure({"poems": even})
    for name in MEASURES:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-6, atol=1e-6)
    assert (metrics.attrs["probability"], expected.attrs["probability"]) == ("normalised sigmoid scores", "softmax")


def test_margins_that_do_not_exist_are_missing_and_not_zero():
    metrics = measure({"poems": random_case(np.random.default_rng(0), [4, 5], experts=4, top_k=4)}, resamples=3)
    assert metrics["boundary_margin"].isnull().all()
    assert metrics["mean_over_layers_boundary_margin"].isnull().all()
    assert metrics["scalar_quantile"].sel(scalar="boundary_margin").isnull().all()
    np.testing.assert_allclose(metrics["top_k_mass"].sel(interval="estimate"), 1, rtol=1e-6)
    assert metrics["logit_margin"].notnull().all()


def test_a_single_selected_expert_has_all_of_the_selected_weight():
    metrics = measure({"poems": random_case(np.random.default_rng(0), [4, 5], experts=4, top_k=1)}, resamples=3)
    np.testing.assert_allclose(metrics["top_k_entropy"], 0, atol=1e-6)
    np.testing.assert_allclose(metrics["top_1_share"], 1, rtol=1e-6)
    xr.testing.assert_allclose(metrics["top_k_mass"], metrics["top_1_probability"], rtol=1e-6)


def test_bounds_of_the_measures():
    metrics = measure({"poems": random_case(np.random.default_rng(1), [40, 50], experts=8, top_k=3)})
    found = metrics.sel(interval="estimate")
    assert (found["effective_experts"] >= np.exp(found["entropy"])).all()  # exp is convex
    assert (found["entropy_of_mean"] >= found["entropy"]).all()
    assert (found["entropy_of_mean"] <= math.log(8)).all()
    assert (found["top_k_entropy"] <= math.log(3)).all()
    assert (found["top_1_probability"] <= found["top_k_mass"]).all()


# ---------------------------------------------------------------- uncertainty


@pytest.fixture(scope="module")
def study() -> dict[str, Case]:
    rng = np.random.default_rng(2)
    return {"poems": random_case(rng, [5, 9, 3, 8]), "code": random_case(rng, [4, 12, 6])}


@pytest.mark.slow
def test_intervals_are_those_of_repeated_documents(study):
    poems, resamples = study["poems"], 8
    metrics = measure({"poems": poems}, resamples)
    drawn = []
    for weights in uncertainty.resampling_weights(poems.lengths, resamples, 1, "poems").astype(int):
        again = measure({"poems": poems.take(np.repeat(np.arange(4), weights))})
        drawn.append(again.sel(dataset="poems", interval="estimate", drop=True))
    draws = xr.concat(drawn, dim="draw")
    for name in (*MEASURES, *(f"mean_over_layers_{name}" for name in MEASURES), "rank_weight", "scalar_quantile"):
        known = router_decisiveness.MEASURES.get(name.removeprefix("mean_over_layers_"), Measure("", "", "", ""))
        expected = uncertainty.interval(draws[name], 0.95, known.bounds, known.bias)
        xr.testing.assert_allclose(metrics[name].sel(dataset="poems", drop=True), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_pooled_is_one_dataset_of_all_tokens(study):
    poems, code = study.values()
    lengths = [*poems.lengths, *code.lengths]
    layers = {layer: xr.concat([poems.layers[layer], code.layers[layer]], dim="token") for layer in poems.layers}
    together = measure({"all": case(layers, lengths)}).sel(dataset="all", interval="estimate", drop=True)
    pooled = measure(study).sel(dataset="pooled", interval="estimate", drop=True)
    for name in (*MEASURES, "scalar_density", "scalar_quantile", "rank_weight", "tokens", "documents"):
        xr.testing.assert_allclose(pooled[name], together[name], rtol=1e-9, atol=1e-12)
    assert pooled["tokens"] == sum(lengths) and pooled["documents"] == 7


def test_means_over_layers_and_their_names(study):
    metrics = measure(study)
    for name in MEASURES:
        averaged = metrics[f"mean_over_layers_{name}"]
        xr.testing.assert_allclose(
            averaged.sel(interval="estimate"), metrics[name].sel(interval="estimate").mean("layer"), rtol=1e-12
        )
        assert averaged.attrs["units"] == metrics[name].attrs["units"] != ""


@pytest.mark.slow
def test_renaming_experts_changes_no_measure(study):
    new_number = np.array([3, 7, 0, 2, 6, 1, 5, 4])
    metrics = measure(study)
    renamed = measure({name: made.permute_experts(new_number) for name, made in study.items()})
    for name in (*MEASURES, "rank_weight", "scalar_quantile", "rank_share_quantile"):
        xr.testing.assert_allclose(renamed[name], metrics[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        renamed["expert_logit_quantile"].isel(expert=new_number), metrics["expert_logit_quantile"], rtol=1e-12
    )


@pytest.mark.slow
def test_the_order_and_the_parts_of_the_documents_change_nothing(study):
    metrics = measure(study, resamples=10)
    shuffled = {name: made.take(np.arange(len(made.lengths))[::-1]) for name, made in study.items()}
    xr.testing.assert_identical(measure(shuffled, resamples=10), metrics)
    halves = {
        name: tallies.combine([made.take([0]).tally(), made.take(np.arange(1, len(made.lengths))).tally()])
        for name, made in study.items()
    }
    xr.testing.assert_identical(measure(halves, resamples=10), metrics)


@pytest.mark.slow
def test_another_dataset_and_another_seed(study):
    metrics, alone = measure(study, resamples=10), measure({"code": study["code"]}, resamples=10)
    reseeded = measure(study, resamples=10, seed=2)
    for name in (*MEASURES, "scalar_quantile", "rank_weight"):
        xr.testing.assert_identical(alone[name].sel(dataset="code"), metrics[name].sel(dataset="code"))
    for name in ("entropy", "scalar_quantile", "rank_weight"):  # are not corrected for noise
        xr.testing.assert_identical(reseeded[name].sel(interval="estimate"), metrics[name].sel(interval="estimate"))
    assert (
        (reseeded["entropy"] != metrics["entropy"]).sel(dataset="pooled", interval=["low", "high"]).any("layer").all()
    )


def test_a_single_document_has_no_uncertainty():
    metrics = measure({"poems": selection_case([[0], [1], [1]], experts=3)}, resamples=10)
    for name in MEASURES:
        values = metrics[name].transpose("interval", ...).values
        np.testing.assert_allclose(values, np.broadcast_to(values[0], values.shape), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- distributions


def test_distributions_agree_with_the_records_within_a_bin():
    made = random_case(np.random.default_rng(3), [300, 200], experts=6, top_k=2, layers=(0,))
    metrics, layer = measure({"poems": made}), completed(made.layers[0])
    q = layer["routing_weight"] / layer["routing_weight"].sum("rank")
    p = np.exp(layer["router_logits"]) / np.exp(layer["router_logits"]).sum("expert")

    def quantiles(values):
        return np.quantile(values, [0.1, 0.5, 0.9], axis=0, method="inverted_cdf").T

    found = metrics.isel(layer=0)
    assert found["quantile"].values.tolist() == [0.1, 0.5, 0.9]
    for name in ("entropy", "top_k_mass", "logit_margin", "boundary_margin", "log_sum_exp"):
        edges = metrics["scalar_edge"].sel(scalar=name).values
        estimate = found["scalar_quantile"].sel(dataset="poems", scalar=name, interval="estimate")
        np.testing.assert_allclose(estimate, quantiles(layer[name].values), atol=edges[1] - edges[0])
        density, _ = np.histogram(np.clip(layer[name].values, edges[0], edges[-1]), bins=edges)
        np.testing.assert_allclose(found["scalar_density"].sel(dataset="poems", scalar=name), density / 500, atol=2e-3)
    assert abs(found["expert_logit_quantile"] - quantiles(layer["router_logits"].values)).max() <= 1
    assert abs(np.log10(found["expert_probability_quantile"]) - np.log10(quantiles(p.values))).max() <= 1 / 8
    chosen = np.take_along_axis(p.values, layer["selected_expert"].values.astype(int), axis=1)
    assert abs(found["rank_probability_quantile"] - quantiles(chosen)).max() <= 1 / 64
    assert abs(found["rank_share_quantile"] - quantiles(q.values)).max() <= 1 / 64


def test_densities_sum_to_one(study):
    np.testing.assert_allclose(measure(study)["scalar_density"].sum("bin"), 1, rtol=1e-12)


# ---------------------------------------------------------------- files


@pytest.mark.slow
def test_tallies_in_files_give_the_same_measures_and_are_read_layer_by_layer(study, tmp_path):
    paths = saved(study, tmp_path)
    with open_tallies(paths) as opened:
        found = measure(opened, resamples=10)
    xr.testing.assert_identical(found, measure(study, resamples=10))


@pytest.mark.long
def test_memory_does_not_grow_with_layers(tmp_path):
    made = random_case(np.random.default_rng(4), [3] * 40, experts=64, top_k=2, layers=(0,))
    peaks = []
    for layers in (1, 6):
        study = {"poems": replace(made, layers=dict.fromkeys(range(layers), made.layers[0]))}
        paths = saved(study, tmp_path)
        with open_tallies(paths) as opened:
            tracemalloc.start()
            measure(opened, resamples=400)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
