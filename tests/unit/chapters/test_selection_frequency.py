import math
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_cases import Case, case, even_case, random_case, records, saved, selection_case

from gatebook.chapters.selection_frequency import measure as selection_frequency
from gatebook.chapters.selection_frequency.measure import document_batches, dropped_share
from gatebook.measures import uncertainty
from gatebook.study import tallies
from gatebook.study.tallies import open_tallies

MEASURES = list(selection_frequency.MEASURES)
LOADS = ("coefficient_of_variation", "gini", "normalised_slot_entropy", "slot_entropy", "max_violation", "dead_experts")
SHARES = ("slot_share", "first_share", "weight_share", "selection_frequency")


def measure(
    study: dict[str, Case | xr.Dataset], resamples: int = 0, seed: int = 1, factors=(1.0, 2.0), batch_tokens: int = 10
) -> xr.Dataset:
    """Without resamples estimates are the statistics of the sample, not corrected for noise."""
    made = {name: one.tally() if isinstance(one, Case) else one for name, one in study.items()}
    return selection_frequency.measure(
        made,
        resamples=resamples,
        seed=seed,
        confidence=0.95,
        capacity_factors=list(factors),
        batch_tokens=batch_tokens,
    ).metrics


def loads(*count: float) -> dict[str, float]:
    found = selection_frequency.load_measures(xr.DataArray(np.array(count), dims="expert"))
    return {name: value.item() for name, value in found.items()}


# ---------------------------------------------------------------- measures of a load


@pytest.mark.parametrize("experts", [2, 8, 64])
def test_even_loads(experts):
    assert loads(*[5] * experts) == pytest.approx(
        {
            "coefficient_of_variation": 0,
            "gini": 0,
            "normalised_slot_entropy": 1,
            "slot_entropy": math.log2(experts),
            "max_violation": 0,
            "dead_experts": 0,
        }
    )


@pytest.mark.parametrize("experts", [2, 8, 64])
def test_one_expert_takes_all(experts):
    assert loads(*[0] * (experts - 1), 12) == pytest.approx(
        {
            "coefficient_of_variation": math.sqrt(experts - 1),
            "gini": 1 - 1 / experts,
            "normalised_slot_entropy": 0,
            "slot_entropy": 0,
            "max_violation": experts - 1,
            "dead_experts": experts - 1,
        }
    )


def test_loads_by_hand():
    # Mean 2; deviations -2, -1, 0, 3; shares 0, 1/8, 2/8, 5/8; absolute differences 1 + 2 + 5 + 1 + 4 + 3 = 16.
    assert loads(5, 0, 2, 1) == pytest.approx(
        {
            "coefficient_of_variation": math.sqrt(14 / 4) / 2,
            "gini": 2 * 16 / 16 / (2 * 2),
            "slot_entropy": 3 / 8 + 2 / 4 - 5 / 8 * math.log2(5 / 8),
            "normalised_slot_entropy": (3 / 8 + 2 / 4 - 5 / 8 * math.log2(5 / 8)) / 2,
            "max_violation": 1.5,
            "dead_experts": 1,
        }
    )


def expected_loads(count: list[int]) -> dict[str, float]:
    experts, total = len(count), sum(count)
    mean = total / experts
    entropy = -sum(c / total * math.log2(c / total) for c in count if c)
    return {
        "coefficient_of_variation": math.sqrt(sum((c - mean) ** 2 for c in count) / experts) / mean,
        "gini": sum(abs(a - b) for a in count for b in count) / experts**2 / (2 * mean),
        "normalised_slot_entropy": entropy / math.log2(experts),
        "slot_entropy": entropy,
        "max_violation": max(count) / mean - 1,
        "dead_experts": count.count(0),
    }


counts = st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any)


@settings(max_examples=40)
@given(counts, st.randoms())
def test_load_measures_equal_their_definitions_whatever_the_names_and_the_size(count, random):
    expected = expected_loads(count)
    assert loads(*count) == pytest.approx(expected, abs=1e-9)
    shuffled = random.sample(count, len(count))
    assert loads(*shuffled) == pytest.approx(expected, abs=1e-9)
    assert loads(*(7 * c for c in count)) == pytest.approx(expected, abs=1e-9)


# ---------------------------------------------------------------- measures of a study


def from_tokens(layers: list[xr.Dataset]) -> dict:
    """Shares and measures over all tokens of the same layer's records in some datasets, token by token."""
    experts = layers[0].sizes["expert"]
    count, first, weight, probability, ranks, tokens, z_loss = *(Counter() for _ in range(5)), 0, 0.0
    for layer in layers:
        for logits in layer["router_logits"].values.tolist():
            parts = [math.exp(z) for z in logits]
            p = [part / sum(parts) for part in parts]
            for rank, expert in enumerate(sorted(range(experts), key=lambda e: -p[e])[: layer.sizes["rank"]]):
                count[expert] += 1
                first[expert] += rank == 0
                weight[expert] += p[expert]
                ranks[expert, rank] += 1
            for expert in range(experts):
                probability[expert] += p[expert]
            z_loss += math.log(sum(parts)) ** 2
            tokens += 1
    every = range(experts)
    found = expected_loads([count[e] for e in every])
    found["load_balancing_loss"] = experts * sum(count[e] / tokens * probability[e] / tokens for e in every)
    found["z_loss"] = z_loss / tokens
    found["slot_share"] = [count[e] / sum(count.values()) for e in every]
    found["first_share"] = [first[e] / tokens for e in every]
    found["weight_share"] = [weight[e] / sum(weight.values()) for e in every]
    found["selection_frequency"] = [count[e] / tokens for e in every]
    found["rank_share"] = [
        [ranks[e, r] / count[e] if count[e] else math.nan for r in range(layers[0].sizes["rank"])] for e in every
    ]
    return found


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
    groups = {name: [made] for name, made in study.items()} | {"pooled": list(study.values())}
    for layer in (1, 3):
        for name, group in groups.items():
            expected = from_tokens([made.layers[layer] for made in group])
            found = metrics.sel(dataset=name, layer=layer, interval="estimate")
            for measured in (*MEASURES, *SHARES):
                np.testing.assert_allclose(found[measured], expected[measured], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(metrics["rank_share"].sel(layer=layer), expected["rank_share"], rtol=1e-12)


def test_uniform_routing_by_turns_is_perfectly_even():
    metrics = measure({"poems": even_case(experts=6, top_k=2, lengths=[3, 6, 3])}).isel(layer=0)
    found = metrics.sel(dataset="pooled", interval="estimate")
    expected = dict.fromkeys(MEASURES, 0.0) | {
        "normalised_slot_entropy": 1,
        "slot_entropy": math.log2(6),
        "load_balancing_loss": 2,
        "z_loss": math.log(6) ** 2,
    }
    assert {name: found[name].item() for name in MEASURES} == pytest.approx(expected, rel=1e-6, abs=1e-9)
    for name, value in (("slot_share", 1 / 6), ("first_share", 1 / 6), ("selection_frequency", 2 / 6)):
        np.testing.assert_allclose(found[name], value)
    np.testing.assert_allclose(found["dropped_share"], 0)


def test_equal_logits_have_the_load_balancing_loss_k_whatever_the_loads():
    one_sided = even_case(experts=6, top_k=2, lengths=[1, 1]).take([0, 0, 0])
    metrics = measure({"poems": one_sided}, resamples=10)
    np.testing.assert_allclose(metrics["load_balancing_loss"], 2, rtol=1e-6)
    assert (metrics["dead_experts"].sel(interval="estimate") == 4).all()


def test_one_expert_that_takes_all_tokens():
    metrics = measure({"poems": selection_case([[2]] * 8, experts=4, lengths=[3, 5])}, resamples=10).isel(layer=0)
    found = metrics.sel(dataset="pooled", interval="estimate")
    assert found["slot_share"].values.tolist() == [0, 0, 1, 0]
    assert found["max_violation"] == 3 and found["dead_experts"] == 3
    # Capacity ceil(1 * 8 / 4) = 2 of 8, and ceil(2 * 8 / 4) = 4 of 8.
    assert found["dropped_share"].values.tolist() == [0.75, 0.5]
    assert metrics["rank_share"].values[2].tolist() == [1]
    assert metrics["rank_share"].isel(expert=[0, 1, 3]).isnull().all()


def test_all_experts_selected_is_even_by_necessity():
    metrics = measure({"poems": random_case(np.random.default_rng(0), [4, 5], experts=4, top_k=4)}, resamples=10)
    np.testing.assert_allclose(metrics["selection_frequency"], 1)
    np.testing.assert_allclose(metrics["coefficient_of_variation"], 0, atol=1e-12)
    np.testing.assert_allclose(metrics["null_coefficient_of_variation"], 0, atol=1e-12)
    np.testing.assert_allclose(metrics["dropped_share"], 0)


def test_expert_numbers_above_255():
    found = measure({"poems": selection_case([[299], [256], [299]], experts=300)}).isel(layer=0)
    share = found["slot_share"].sel(dataset="poems", interval="estimate")
    assert share.values[[256, 299, 43, 0]].tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert found["dead_experts"].sel(dataset="poems", interval="estimate") == 298


@pytest.fixture(scope="module")
def study() -> dict[str, Case]:
    rng = np.random.default_rng(2)
    return {
        "poems": random_case(rng, [5, 9, 3, 8, 7], top_k=3),
        "code": random_case(rng, [4, 12, 6, 11], top_k=3),
    }


def test_shares_sum_to_one_and_frequencies_to_k(study):
    metrics = measure(study).sel(interval="estimate")
    for name in ("slot_share", "first_share", "weight_share"):
        np.testing.assert_allclose(metrics[name].sum("expert"), 1, rtol=1e-12)
    np.testing.assert_allclose(metrics["selection_frequency"].sum("expert"), 3, rtol=1e-12)
    np.testing.assert_allclose(metrics["rank_share"].sum("rank"), 1, rtol=1e-12)


@pytest.mark.slow
def test_intervals_are_those_of_repeated_documents(study):
    poems, resamples = study["poems"], 8
    metrics = measure({"poems": poems}, resamples)
    drawn = []
    for weights in uncertainty.resampling_weights(poems.lengths, resamples, 1, "poems").astype(int):
        again = measure({"poems": poems.take(np.repeat(np.arange(5), weights))})
        drawn.append(again.sel(dataset="poems", interval="estimate", drop=True))
    draws = xr.concat(drawn, dim="draw")
    for name in MEASURES:
        known = selection_frequency.MEASURES[name]
        for each in (name, f"mean_over_layers_{name}"):
            expected = uncertainty.interval(draws[each], 0.95, known.bounds, known.bias)
            xr.testing.assert_allclose(metrics[each].sel(dataset="poems", drop=True), expected, rtol=1e-9, atol=1e-9)
    for name in SHARES:
        expected = uncertainty.interval(draws[name], bounds=(0, 1))
        xr.testing.assert_allclose(metrics[name].sel(dataset="poems", drop=True), expected, rtol=1e-9, atol=1e-9)


def test_pooled_is_one_dataset_of_all_tokens(study):
    poems, code = study.values()
    lengths = [*poems.lengths, *code.lengths]
    layers = {layer: xr.concat([poems.layers[layer], code.layers[layer]], dim="token") for layer in poems.layers}
    together = measure({"all": case(layers, lengths)}).sel(dataset="all", interval="estimate", drop=True)
    pooled = measure(study).sel(dataset="pooled", interval="estimate", drop=True)
    uniform = [f"null_{name}" for name in LOADS]
    for name in (*MEASURES, *SHARES, *uniform, "rank_share", "tokens", "documents"):
        xr.testing.assert_allclose(pooled[name], together[name], rtol=1e-9, atol=1e-12)


def test_means_over_layers(study):
    metrics = measure(study).sel(interval="estimate")
    for name in (*MEASURES, "dropped_share"):
        averaged = metrics[f"mean_over_layers_{name}"]
        xr.testing.assert_allclose(averaged, metrics[name].mean("layer"), rtol=1e-12)
        assert averaged.attrs["units"] == metrics[name].attrs["units"] != ""


def test_renaming_experts_moves_the_shares_and_leaves_the_measures(study):
    new_number = np.array([3, 7, 0, 2, 6, 1, 5, 4])
    metrics = measure(study, resamples=10)
    renamed = measure({name: made.permute_experts(new_number) for name, made in study.items()}, resamples=10)
    for name in (*MEASURES, "dropped_share"):
        xr.testing.assert_allclose(renamed[name], metrics[name], rtol=1e-6, atol=1e-9)
    for name in (*SHARES, "rank_share"):
        np.testing.assert_allclose(renamed[name].isel(expert=new_number), metrics[name], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_the_order_and_the_parts_of_the_documents_change_nothing(study):
    def without_batches(metrics):
        return metrics.drop_vars(["dropped_share", "mean_over_layers_dropped_share"])

    metrics = measure(study, resamples=10)
    shuffled = {name: made.take(np.arange(len(made.lengths))[::-1]) for name, made in study.items()}
    # Batches are made of consecutive documents, so their drops alone depend on the order.
    xr.testing.assert_identical(without_batches(measure(shuffled, resamples=10)), without_batches(metrics))
    halves = {
        name: tallies.combine([made.take([0, 1]).tally(), made.take(np.arange(2, len(made.lengths))).tally()])
        for name, made in study.items()
    }
    xr.testing.assert_identical(measure(halves, resamples=10), metrics)


def test_another_dataset_and_another_seed(study):
    metrics, alone = measure(study, resamples=10), measure({"code": study["code"]}, resamples=10)
    reseeded = measure(study, resamples=10, seed=2)
    for name in (*MEASURES, *SHARES, "dropped_share"):
        xr.testing.assert_identical(alone[name].sel(dataset="code"), metrics[name].sel(dataset="code"))
    for name in ("z_loss", *SHARES, "dropped_share"):  # are not corrected for noise
        xr.testing.assert_identical(reseeded[name].sel(interval="estimate"), metrics[name].sel(interval="estimate"))
    assert (reseeded["z_loss"] != metrics["z_loss"]).sel(dataset="pooled", interval=["low", "high"]).any("layer").all()


def test_the_value_that_chance_gives_depends_on_the_number_of_tokens():
    study = {"few": even_case(8, 2, [400]), "many": even_case(8, 2, [40_000])}
    metrics = measure(study, resamples=2, batch_tokens=1000)
    for name, tokens in (("few", 400), ("many", 40_000), ("pooled", 40_400)):
        found, low, high = metrics["null_coefficient_of_variation"].sel(dataset=name).values
        # The root of E[CV^2] = (1 - f) / (T f), times the mean of chi over its root mean square, 7 degrees of freedom.
        chi = math.sqrt(2 / 7) * math.gamma(4) / math.gamma(3.5)
        assert found == pytest.approx(chi * math.sqrt(0.75 / (tokens * 0.25)), rel=0.05)
        quantiles = np.sqrt(scipy.stats.chi2.ppf([0.025, 0.975], 7) / 7 * 0.75 / (tokens * 0.25))
        assert [low, high] == pytest.approx(quantiles, rel=0.15)
        assert (metrics["null_dead_experts"].sel(dataset=name) == 0).all()
        np.testing.assert_allclose(metrics["null_slot_entropy"].sel(dataset=name), 3, atol=0.03)


def test_tallies_in_files_give_the_same_measures_and_are_read_layer_by_layer(study, tmp_path):
    paths = saved(study, tmp_path)
    with open_tallies(paths) as opened:
        found = measure(opened, resamples=10)
    xr.testing.assert_identical(found, measure(study, resamples=10))


@pytest.mark.slow
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


def test_sigmoid_routers_are_labelled():
    logits = np.log([[1, 3, 1 / 3]])
    metrics = measure({"poems": case({0: records(logits, 1, scores="sigmoid")}, [1])})
    # Scores 1/2, 3/4, 1/4, divided by 3/2: E f P = 3 * 1 * 1/2.
    assert metrics["load_balancing_loss"].sel(interval="estimate", dataset="poems").item() == pytest.approx(1.5)
    assert metrics.attrs["probability"] == "normalised sigmoid scores"


# ---------------------------------------------------------------- capacity


def test_dropped_shares_by_hand():
    # 8 tokens, k = 1, E = 4: capacities 2, 3, 4 and 8 for loads 5, 2, 1, 0.
    found = dropped_share(np.array([[5, 2, 1, 0]]), np.array([8]), 1, [1.0, 1.5, 2.0, 4.0])
    np.testing.assert_allclose(found, [[3 / 8, 2 / 8, 1 / 8, 0]])


def test_capacity_is_rounded_up_and_counts_selections():
    # 3 tokens, k = 2, E = 4: ceil(1.5) = 2 and ceil(1.25 * 1.5) = 2 for loads 3, 2, 1, 0.
    np.testing.assert_allclose(dropped_share(np.array([[3, 2, 1, 0]]), np.array([3]), 2, [1.0, 1.25]), [[1 / 6, 1 / 6]])


def test_batches_and_layers_are_separate():
    count = np.array([[[4, 0], [2, 2]], [[1, 1], [0, 2]]])  # (batch, layer, expert)
    found = dropped_share(count, np.array([4, 2]), 1, [1.0])
    np.testing.assert_allclose(found[..., 0], [[0.5, 0], [0, 0.5]])


@given(counts)
def test_drops_fall_with_the_factor_and_end_at_e(count):
    factors = [0.5, 1.0, 1.7, 3.0, float(len(count))]
    found = dropped_share(np.array([count]), np.array([sum(count)]), 1, factors)[0]
    assert (np.diff(found) <= 0).all()
    assert found[-1] == 0 and (found >= 0).all() and (found < 1).all()


@pytest.mark.slow
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 100))
def test_batches_hold_all_documents_in_order(lengths, batch_tokens):
    batch = document_batches(np.array(lengths), batch_tokens)
    assert batch[0] == 0 and set(np.diff(batch)) <= {0, 1}
    held = np.bincount(batch, weights=lengths)
    assert held.sum() == sum(lengths)
    if batch[-1] > 0:
        assert (held >= batch_tokens).all()
    for number in range(batch[-1]):  # no batch but the last one could do without its last document
        assert held[number] - np.array(lengths)[batch == number][-1] < batch_tokens


def test_batches_by_hand():
    assert document_batches(np.array([4, 4, 4, 9, 1, 1]), 8).tolist() == [0, 0, 1, 1, 1, 1]
    assert document_batches(np.array([3]), 8).tolist() == [0]


def test_the_interval_of_dropped_shares_leaves_out_groups_of_documents():
    made = random_case(np.random.default_rng(3), [3, 2, 4, 3, 2, 4, 3], layers=(2,), cluster=list("abacdea"))
    tally, factors = made.tally(), [1.0, 1.5]

    def dropped(kept: np.ndarray) -> np.ndarray:
        part = tally.isel(document=kept)
        batch = document_batches(part["tokens"].values, 6)
        count = np.array([part["selected_count"].values[batch == number, 0].sum(axis=0) for number in set(batch)])
        tokens = np.bincount(batch, part["tokens"])
        return tokens @ dropped_share(count, tokens, 2, factors) / tokens.sum()

    groups = tally["document_group"].values
    assert len(np.unique(groups)) == 5  # as many as there are clusters
    draws = [dropped(groups >= 0), *(dropped(groups != group) for group in np.unique(groups))]
    expected = uncertainty.jackknife(xr.DataArray(np.array(draws), dims=("draw", "factor")), 0.95, (0, 1))
    found = measure({"poems": made}, factors=factors, batch_tokens=6)
    np.testing.assert_allclose(found["dropped_share"].sel(dataset="poems", layer=2), expected, rtol=1e-9)
    assert (expected.sel(interval="low") < expected.sel(interval="high")).all()


def test_dropped_share_of_a_study_weighs_batches_by_tokens():
    first = selection_case([[0], [0], [0], [0], [0], [1]], experts=2, lengths=[2, 2, 2])
    second = selection_case([[1], [1]], experts=2)
    metrics = measure({"a": first, "b": second}, factors=[1.0], batch_tokens=2)
    found = metrics["dropped_share"].sel(interval="estimate").isel(layer=0, capacity_factor=0)
    # Batches of 2 tokens, k = 1, E = 2, so capacity 1: in a 1, 1 and 0 selections are dropped, in b 1.
    assert found.sel(dataset=["a", "b", "pooled"]).values.tolist() == pytest.approx([2 / 6, 1 / 2, 3 / 8])
