import itertools
import math
import tracemalloc
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from families import KINDS, causal_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from routing_cases import Case, case, even_case, random_case, records, selection_case

from gatebook.files import netcdf
from gatebook.inputs.clusters import GROUPS
from gatebook.routing import extraction
from gatebook.routing import records as records_on_disk
from gatebook.routing.families import routing_rule
from gatebook.routing.following import complete
from gatebook.routing.records import BITS
from gatebook.routing.rule import routing_rule_of
from gatebook.study import counting, tallies


def softmax(logits: list[float]) -> list[float]:
    parts = [math.exp(logit) for logit in logits]
    return [part / sum(parts) for part in parts]


def bin_of(value: float, low: float, high: float, bins: int = 64) -> int:
    return min(max(math.floor((value - low) / (high - low) * bins), 0), bins - 1)


def expected_scalars(layer_records: xr.Dataset, token: int, top_k: int) -> dict[str, float]:
    """The scalars of one token from its logits alone."""
    logits = [float(z) for z in layer_records["router_logits"].values[token]]
    p = softmax(logits)
    z, best = sorted(logits, reverse=True), sorted(p, reverse=True)
    q = [value / sum(best[:top_k]) for value in best[:top_k]]
    entropy = -sum(value * math.log(value) for value in p)
    return {
        "entropy": entropy,
        "effective_experts": math.exp(entropy),
        "top_k_entropy": -sum(value * math.log(value) for value in q),
        "top_1_probability": best[0],
        "top_k_mass": sum(best[:top_k]),
        "top_1_share": q[0],
        "logit_margin": z[0] - z[1],
        "boundary_margin": z[top_k - 1] - z[top_k] if top_k < len(z) else math.nan,
        "log_sum_exp": math.log(sum(math.exp(value) for value in logits)),
    }


small_cases = st.builds(
    lambda seed, lengths, experts, top_k, layers: random_case(
        np.random.default_rng(seed), lengths, experts, min(top_k, experts), tuple(range(3, 3 + layers))
    ),
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    experts=st.integers(2, 6),
    top_k=st.integers(1, 6),
    layers=st.integers(1, 2),
)
facts = settings(max_examples=25)


@facts
@given(small_cases)
def test_counts_and_sums_equal_a_loop_over_tokens(made: Case):
    tally, owner = made.tally(), made.owner
    experts, top_k = tally.sizes["expert"], tally.sizes["rank"]
    assert tally["tokens"].values.tolist() == made.lengths.tolist()
    assert tally["layer"].values.tolist() == list(made.layers)
    for layer, layer_records in made.layers.items():
        found = tally.sel(layer=layer)
        selected, first, rank_count = Counter(), Counter(), Counter()
        probability, weight, rank_weight, z_loss = Counter(), Counter(), Counter(), Counter()
        for token, document in enumerate(owner):
            logits = [float(z) for z in layer_records["router_logits"].values[token]]
            p = softmax(logits)
            for expert in range(experts):
                probability[document, expert] += p[expert]
            for rank, expert in enumerate(sorted(range(experts), key=lambda e: -logits[e])[:top_k]):
                selected[document, expert] += 1
                first[document, expert] += rank == 0
                rank_count[expert, rank] += 1
                weight[document, expert] += p[expert]
                rank_weight[document, rank] += p[expert]
            z_loss[document] += math.log(sum(math.exp(z) for z in logits)) ** 2
        for document in range(len(made.lengths)):
            here = found.isel(document=document)
            assert here["z_loss_sum"].item() == pytest.approx(z_loss[document], rel=1e-5, abs=1e-6)
            for expert in range(experts):
                assert here["selected_count"].values[expert] == selected[document, expert]
                assert here["first_count"].values[expert] == first[document, expert]
                assert here["probability_sum"].values[expert] == pytest.approx(probability[document, expert], rel=1e-5)
                assert here["weight_sum"].values[expert] == pytest.approx(weight[document, expert], rel=1e-5)
            for rank in range(top_k):
                assert here["rank_weight_sum"].values[rank] == pytest.approx(rank_weight[document, rank], rel=1e-5)
        assert {index: n for index, n in np.ndenumerate(found["rank_count"].values) if n} == dict(rank_count)


@pytest.mark.slow
@facts
@given(small_cases)
def test_of_records_without_logits_the_tally_has_what_follows_from_them(made: Case):
    tally = made.tally()
    weights = {layer: _with_weights(full) for layer, full in made.layers.items()}
    ids = {layer: full.drop_vars("routing_weight") for layer, full in weights.items()}
    in_no_order = {
        layer: full.map(lambda array: array.copy(data=np.sort(array, axis=-1))) for layer, full in ids.items()
    }
    for contents, layers in (("weights", weights), ("order", ids), ("ids", in_no_order)):
        layers = {layer: each.assign_attrs(contents=contents) for layer, each in layers.items()}
        found = replace(made, layers=layers).tally()
        assert set(found.data_vars) == set(tallies.KNOWN[contents])
        for name in found.data_vars:
            np.testing.assert_array_equal(found[name], tally[name], err_msg=name)
    halves = [found, found]
    np.testing.assert_array_equal(tallies.combine(halves)["pair_count"], 2 * found["pair_count"])


def _with_weights(full: xr.Dataset) -> xr.Dataset:
    """Records of the selected experts and their weights alone."""
    block = {name: full[name].values for name in ("router_logits", "selected_expert")}
    weight = complete(block, routing_rule_of(full.attrs))["routing_weight"]
    return full[["selected_expert"]].assign(routing_weight=(("token", "rank"), weight))


@facts
@given(small_cases)
def test_scalars_and_their_histograms_equal_a_loop_over_tokens(made: Case):
    tally, owner = made.tally(), made.owner
    for layer, layer_records in made.layers.items():
        total, known, histogram = Counter(), Counter(), Counter()
        for token, document in enumerate(owner):
            for name, value in expected_scalars(layer_records, token, tally.sizes["rank"]).items():
                if not math.isnan(value):
                    edges = tally["scalar_edge"].sel(scalar=name).values
                    total[document, name] += value
                    known[document, name] += 1
                    # k = 1 or k = E put values exactly on the last edge; rounding may leave them just below it.
                    histogram[document, name, bin_of(round(value, 6), edges[0], edges[-1])] += 1
        for document in range(len(made.lengths)):
            for name in tallies.SCALARS:
                here = tally.sel(layer=layer, scalar=name).isel(document=document)
                assert here["scalar_count"].item() == known[document, name]
                assert here["scalar_sum"].item() == pytest.approx(total[document, name], rel=1e-4, abs=1e-5)
                bins = here["scalar_histogram"].values
                assert {(document, name, b): n for b, n in enumerate(bins) if n} == {
                    key: n for key, n in histogram.items() if key[:2] == (document, name)
                }


@facts
@given(small_cases)
def test_histograms_of_experts_and_ranks_equal_a_loop_over_tokens(made: Case):
    tally = made.tally()
    top_k = tally.sizes["rank"]
    for layer, layer_records in made.layers.items():
        logit, log_probability, rank_probability, rank_share = Counter(), Counter(), Counter(), Counter()
        for z in layer_records["router_logits"].values.astype(float):
            p = softmax(list(z))
            best = sorted(p, reverse=True)[:top_k]
            for expert in range(len(p)):
                logit[expert, bin_of(z[expert], -32, 32, 512)] += 1
                log_probability[expert, bin_of(math.log10(p[expert]), -8, 0)] += 1
            for rank in range(top_k):
                rank_probability[rank, bin_of(best[rank], 0, 1)] += 1
                rank_share[rank, bin_of(round(best[rank] / sum(best), 6), 0, 1)] += 1
        for name, expected in {
            "expert_logit_histogram": logit,
            "expert_probability_histogram": log_probability,
            "rank_probability_histogram": rank_probability,
            "rank_share_histogram": rank_share,
        }.items():
            values = tally[name].sel(layer=layer).values
            assert {index: n for index, n in np.ndenumerate(values) if n} == dict(expected), name


@facts
@given(small_cases)
def test_pairs_and_repetitions_equal_a_loop_over_tokens(made: Case):
    tally = made.tally()
    assert tally["neighbours"].values.tolist() == [length - 1 for length in made.lengths]
    groups = tally["document_group"].values
    for layer, layer_records in made.layers.items():
        pair, adjacent, first, shared = Counter(), Counter(), Counter(), Counter()
        chosen, before = layer_records["selected_expert"].values.tolist(), None
        for token, document in enumerate(made.owner):
            for one in chosen[token]:
                for other in chosen[token]:
                    pair[groups[document], one, other] += 1
            for one, other in itertools.pairwise(chosen[token]):
                adjacent[one, other] += 1
                adjacent[other, one] += 1
            if before == document:
                first[document] += chosen[token][0] == chosen[token - 1][0]
                shared[document] += bool(set(chosen[token]) & set(chosen[token - 1]))
            before = document
        found = tally.sel(layer=layer)
        for name, expected in {"pair_count": pair, "adjacent_count": adjacent}.items():
            assert {index: n for index, n in np.ndenumerate(found[name].values) if n} == dict(expected), name
        for name, expected in {"repeated_first": first, "repeated_any": shared}.items():
            assert found[name].values.tolist() == [expected[document] for document in range(len(made.lengths))], name


def test_repetition_stops_at_the_end_of_a_window():
    tally = replace(selection_case([[0], [0], [0], [0]], experts=2), window=2).tally()
    assert tally["neighbours"].item() == 2
    assert tally["repeated_first"].item() == tally["repeated_any"].item() == 2


def test_documents_keep_their_cluster_row_and_group():
    made = random_case(np.random.default_rng(0), [3, 2, 4, 2], cluster=list("abac"))
    tally = made.take(np.array([3, 0, 2])).tally()
    for name, expected in {
        "document_id": ["doc-3", "doc-0", "doc-2"],
        "cluster": ["c", "a", "a"],
        "row": [3, 0, 2],
        "document_group": [2, 0, 0],  # the largest cluster is the first, then they go by their first documents
    }.items():
        assert tally[name].dims == ("document",) and tally[name].values.tolist() == expected
    assert tally["pair_count"].sizes["group"] == GROUPS


@pytest.mark.slow
@facts
@given(small_cases)
def test_sums_agree_with_one_another(made: Case):
    tally = made.tally()
    tokens, top_k = tally["tokens"], tally.sizes["rank"]
    xr.testing.assert_equal(
        tally["selected_count"].sum("expert").astype(int),
        (top_k * tokens).broadcast_like(tally["selected_count"].sum("expert")),
    )
    assert (tally["first_count"].sum("expert") == tokens).all()
    np.testing.assert_allclose(
        tally["probability_sum"].sum("expert"), tokens.values[:, None] + 0 * tally["layer"].values, rtol=1e-6
    )
    assert (tally["rank_count"].sum("rank") == tally["selected_count"].sum("document")).all()
    assert (tally["rank_count"].sum("expert") == tokens.sum()).all()
    assert (tally["rank_count"].sel(rank=0) == tally["first_count"].sum("document")).all()
    assert (tally["scalar_histogram"].sum("bin") == tally["scalar_count"]).all()
    np.testing.assert_allclose(tally["weight_sum"].sum("expert"), tally["rank_weight_sum"].sum("rank"), rtol=1e-12)
    np.testing.assert_allclose(
        tally["scalar_sum"].sel(scalar="top_k_mass"), tally["weight_sum"].sum("expert"), rtol=1e-5
    )
    for name in tallies.PER_DATASET:
        if name.endswith("histogram"):
            assert (tally[name].sum(tally[name].dims[-1]) == tokens.sum()).all()
    diagonal = np.einsum("glee->le", tally["pair_count"].values)
    np.testing.assert_array_equal(diagonal, tally["selected_count"].sum("document"))
    assert tally["pair_count"].sum() == top_k**2 * tokens.sum() * tally.sizes["layer"]
    assert tally["adjacent_count"].sum() == 2 * (top_k - 1) * tokens.sum() * tally.sizes["layer"]


@facts
@given(small_cases, st.integers(1, 12))
def test_the_size_of_blocks_changes_no_bit(made: Case, tokens_per_block: int):
    xr.testing.assert_identical(made.tally(tokens_per_block), made.tally())


@pytest.mark.slow
def test_the_size_of_blocks_changes_no_bit_of_long_documents():
    made = random_case(np.random.default_rng(0), [901, 17, 2000, 3, 4096, 250], experts=64, top_k=8, layers=(0,))
    xr.testing.assert_identical(made.tally(1), made.tally(10**9))


@pytest.mark.slow
@facts
@given(small_cases, st.data())
def test_parts_combine_into_the_tally_of_the_whole(made: Case, data):
    documents = np.arange(len(made.lengths))
    if len(documents) == 1:
        made, documents = made.take([0, 0]), np.arange(2)
    cut = data.draw(st.integers(1, len(documents) - 1))
    parts = [made.take(documents[:cut]).tally(), made.take(documents[cut:]).tally()]
    xr.testing.assert_identical(tallies.combine(parts), made.tally())


def test_combining_keeps_types_and_can_be_repeated():
    made = random_case(np.random.default_rng(1), [4, 3, 5])
    whole = made.tally().assign_attrs(dataset="poems")
    parts = [made.take([index]).tally().assign_attrs(dataset="poems") for index in range(3)]
    combined = tallies.combine([tallies.combine(parts[:2]), parts[2]])
    xr.testing.assert_identical(combined, whole)
    assert {name: array.dtype for name, array in combined.variables.items()} == {
        name: array.dtype for name, array in whole.variables.items()
    }
    assert {name: array.dims for name, array in combined.data_vars.items()} == {
        name: array.dims for name, array in whole.data_vars.items()
    }


def test_an_order_of_documents_gives_the_tally_in_that_order():
    made = random_case(np.random.default_rng(2), [4, 1, 7, 2])
    order = np.array([2, 0, 3, 1])
    moved, tally = made.take(order).tally(), made.tally()
    xr.testing.assert_identical(
        moved[list(tallies.PER_DOCUMENT)], tally[list(tallies.PER_DOCUMENT)].isel(document=order)
    )
    rest = [name for name in tally.data_vars if name not in tallies.PER_DOCUMENT]
    xr.testing.assert_identical(moved[rest], tally[rest])


def test_expert_numbers_are_only_names():
    made = random_case(np.random.default_rng(3), [40, 30], experts=6, top_k=3)
    new_number = np.array([4, 2, 0, 5, 1, 3])
    renamed, tally = made.permute_experts(new_number).tally(), made.tally()
    for name in ("selected_count", "first_count", "rank_count", "expert_logit_histogram"):
        np.testing.assert_array_equal(renamed[name].isel(expert=new_number), tally[name])
    for name in ("scalar_count", "rank_share_histogram"):
        np.testing.assert_array_equal(renamed[name], tally[name])
    for name in ("rank_weight_sum", "z_loss_sum", "scalar_sum"):
        np.testing.assert_allclose(renamed[name], tally[name], rtol=1e-6)


def test_two_tokens_by_hand():
    # p = (1, 2, 4, 1) / 8 and (6, 1, 1, 2) / 10.
    logits = np.log([[1, 2, 4, 1], [6, 1, 1, 2]])
    tally = case({5: records(logits, 2)}, [1, 1], token_id=[7, 9]).tally().sel(layer=5)
    assert tally["selected_count"].values.tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    assert tally["first_count"].values.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    np.testing.assert_allclose(tally["probability_sum"], [[0.125, 0.25, 0.5, 0.125], [0.6, 0.1, 0.1, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(tally["weight_sum"], [[0, 0.25, 0.5, 0], [0.6, 0, 0, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(tally["rank_weight_sum"], [[0.5, 0.25], [0.6, 0.2]], rtol=1e-6)
    first = dict(zip(tally["scalar"].values, tally["scalar_sum"].values[0], strict=True))
    assert first == pytest.approx(
        {
            "entropy": 1.75 * math.log(2),
            "effective_experts": 2**1.75,
            "top_k_entropy": math.log(3) - 2 / 3 * math.log(2),
            "top_1_probability": 0.5,
            "top_k_mass": 0.75,
            "top_1_share": 2 / 3,
            "logit_margin": math.log(2),
            "boundary_margin": math.log(2),
            "log_sum_exp": math.log(8),
        },
        rel=1e-6,
    )
    np.testing.assert_allclose(tally["z_loss_sum"], [math.log(8) ** 2, math.log(10) ** 2], rtol=1e-6)


@pytest.mark.parametrize(("experts", "top_k"), [(64, 8), (6, 3), (5, 1), (2, 1)])
def test_uniform_routing(experts: int, top_k: int):
    tally = even_case(experts, top_k, [experts, 2 * experts]).tally().isel(layer=0)
    mean = (tally["scalar_sum"] / tally["scalar_count"]).isel(document=1)
    assert dict(zip(mean["scalar"].values, mean.values, strict=True)) == pytest.approx(
        {
            "entropy": math.log(experts),
            "effective_experts": experts,
            "top_k_entropy": math.log(top_k),
            "top_1_probability": 1 / experts,
            "top_k_mass": top_k / experts,
            "top_1_share": 1 / top_k,
            "logit_margin": 0,
            "boundary_margin": 0,
            "log_sum_exp": math.log(experts),
        },
        rel=1e-5,
        abs=1e-6,
    )
    assert (tally["selected_count"].isel(document=0) == top_k).all()


def test_boundary_margin_is_missing_when_every_expert_is_selected():
    tally = random_case(np.random.default_rng(4), [5, 3], experts=4, top_k=4).tally()
    boundary = tally.sel(scalar="boundary_margin")
    assert (boundary["scalar_count"] == 0).all()
    assert (boundary["scalar_sum"] == 0).all()
    assert (boundary["scalar_histogram"] == 0).all()
    assert (tally["scalar_count"].sel(scalar="logit_margin") == tally["tokens"]).all()


def test_values_beyond_the_histogram_are_in_the_outer_bins():
    tally = case({0: records(np.array([[100.0, -100.0, 0.0]]), 1)}, [1]).tally().isel(layer=0)
    filled = tally["expert_logit_histogram"].values.argmax(axis=1)
    assert filled.tolist() == [511, 0, 256]
    assert tally["expert_probability_histogram"].values.argmax(axis=1).tolist() == [63, 0, 0]
    assert tally["scalar_histogram"].sel(scalar="logit_margin").values[0].argmax() == 63
    assert tally["scalar_sum"].sel(scalar="logit_margin").item() == 100


def test_one_expert_takes_all_and_the_others_are_dead():
    tally = selection_case([[2]] * 6, experts=4, lengths=[2, 4]).tally().isel(layer=0)
    assert tally["selected_count"].values.tolist() == [[0, 0, 2, 0], [0, 0, 4, 0]]
    assert tally["rank_count"].values.tolist() == [[0], [0], [6], [0]]


@pytest.mark.slow
def test_expert_numbers_above_255_do_not_overflow():
    selected = np.array([[299, 256], [255, 299], [0, 257]])
    made = selection_case(selected, experts=300, token_id=[131_000, 131_000, 150_000])
    assert made.layers[0]["selected_expert"].dtype == np.uint16
    tally = made.tally().isel(layer=0)
    count = tally["selected_count"].values[0]
    assert {int(expert): int(count[expert]) for expert in np.flatnonzero(count)} == {
        0: 1, 255: 1, 256: 1, 257: 1, 299: 2
    }  # fmt: skip


def test_a_tally_survives_its_file(tmp_path):
    tally = random_case(np.random.default_rng(5), [4, 3], layers=(1, 4)).tally().assign_attrs(dataset="poems")
    netcdf.save(tally, tmp_path / "tally.nc")
    xr.testing.assert_equal(netcdf.load(tmp_path / "tally.nc"), tally)


def test_a_tally_written_layer_by_layer_is_the_tally_of_all_layers(tmp_path):
    made = random_case(np.random.default_rng(5), [4, 3, 900], layers=(1, 4, 6), vocabulary=700)
    netcdf.save_parts(made.tally_layers(), tmp_path / "tally.nc", along="layer")
    read = netcdf.load(tmp_path / "tally.nc")
    xr.testing.assert_identical(read.drop_attrs(deep=False), made.tally().drop_attrs(deep=False))
    assert tallies.routing_rule(read.attrs)["top_k"] == 2


def test_a_layer_is_read_without_the_others(tmp_path):
    made = random_case(np.random.default_rng(5), [4, 3], layers=(1, 4))
    netcdf.save_parts(made.tally_layers(), tmp_path / "tally.nc", along="layer")
    tally = made.tally()
    with netcdf.open_lazily(tmp_path / "tally.nc") as read:
        found = list(tallies.by_layer({"poems": read}, ["selected_count", "rank_count"]))
        assert read["selected_count"].encoding["chunksizes"] == (2, 1, 8)
    assert [list(layer["poems"]["layer"].values) for layer in found] == [[1], [4]]
    for index, layer in enumerate(found):
        expected = tally[["selected_count", "rank_count"]].isel(layer=[index])
        xr.testing.assert_equal(layer["poems"], expected)


def test_tallies_with_different_layers_are_refused():
    one, two = (random_case(np.random.default_rng(5), [4, 3], layers=layers).tally() for layers in ((0,), (0, 1)))
    for pair in ({"a": one, "b": two}, {"a": two, "b": one}):
        with pytest.raises(ValueError, match="different layers"):
            next(tallies.by_layer(pair, ["selected_count"]))


def test_records_read_from_a_file_give_the_same_tally(tmp_path):
    made = random_case(np.random.default_rng(6), [4, 3], layers=(0,))
    made.layers[0].assign_attrs(layer=0).to_netcdf(tmp_path / "layer_0.nc")
    with netcdf.open_lazily(tmp_path / "layer_0.nc") as records:
        tally = counting.tally_layer(records, made.tokens, tokens_per_block=4)
    xr.testing.assert_identical(tally, made.tally())


@pytest.mark.parametrize("contents", ["exact", "rounded", "compact"])
@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3"])
def test_a_tally_taken_while_records_are_written_has_the_bytes_of_one_from_the_files(
    family, contents, tmp_path, monkeypatch
):
    monkeypatch.setattr(records_on_disk, "TOKENS_PER_CHUNK", 16)  # which cuts windows
    model, rng = causal_model(family).base_model, np.random.default_rng(8)
    whole = replace(case({}, np.array([9, 30, 4, 21, 1, 12]), rng.integers(0, 97, 77)), window=12)
    for number, made in enumerate((whole, whole.take(np.arange(2, 5)))):  # all documents, and a shard of them
        (folder := tmp_path / str(number)).mkdir()
        starts = np.flatnonzero(made.tokens["position"].values == 0)
        attrs = {"routing_rule": routing_rule(model.config).as_json(), "dataset": "poems"}
        extraction.write_records(
            folder, model, [1, 2], made.token_id, starts, tokens_per_batch=24, records=contents, threads=3,
            attrs=attrs, tally=lambda *given, tokens=made.tokens: counting.Tally(tokens, *given),
        )  # fmt: skip
        with ExitStack() as files:
            paths = records_on_disk.layer_files(folder).values()
            opened = [files.enter_context(netcdf.open_lazily(path)) for path in paths]
            parts = (counting.tally_layer(layer, made.tokens, 16) for layer in opened)
            netcdf.save_parts(parts, tmp_path / "tally.nc", along="layer")
        assert (folder / "tally.nc").read_bytes() == (tmp_path / "tally.nc").read_bytes()
        assert netcdf.load(folder / "tally.nc")["tokens"].sum() == made.lengths.sum()


def test_a_tally_of_too_few_tokens_is_refused():
    made = random_case(np.random.default_rng(6), [4, 3], layers=(0,))
    tally = counting.Tally(made.tokens, routing_rule_of(made.layers[0].attrs))
    tally.add({name: array.values[:5] for name, array in made.layers[0].items()})
    with pytest.raises(RuntimeError, match="5 tokens were tallied instead of 7"):
        tally.result({"layer": 0})


@given(hnp.arrays(np.float32, 50, elements=st.floats(0, 1, width=32)), st.integers(-64, -1))
def test_the_bin_of_a_probability_is_that_of_its_logarithm_even_at_an_edge(values, edge):
    near = np.float32(10.0 ** (edge / 8))
    values = np.concatenate([values, [np.float32(0), near, np.nextafter(near, 0), np.nextafter(near, 1)]]).astype("f4")
    expected = np.clip(np.floor(8 * np.log10(np.maximum(values, np.float32(1e-30)))) + 64, 0, 63)
    count = np.zeros((len(values), 64), dtype=np.int64)
    counting._add_probabilities(count, values[None].view(np.int32), counting.BIN_OF_CELL, counting.NEXT_BIN)
    np.testing.assert_array_equal(count.argmax(axis=1), expected)


# ---------------------------------------------------------------- windows, memory, kinds of routers and records


@pytest.mark.slow
@facts
@given(small_cases, st.integers(1, 4), st.integers(1, 12))
def test_windows_change_nothing_but_the_order_of_sums(made: Case, window: int, tokens_per_block: int):
    cut = replace(made, window=window)
    xr.testing.assert_identical(cut.tally(tokens_per_block), cut.tally())
    neighbours = ["neighbours", "repeated_first", "repeated_any"]  # those of one window
    xr.testing.assert_allclose(cut.tally().drop_vars(neighbours), made.tally().drop_vars(neighbours), rtol=1e-12)


def peak_bytes(made: Case, path: Path) -> int:
    """The most memory that numpy held while the tally of a case was made and written."""
    tracemalloc.start()
    netcdf.save_parts(made.tally_layers(), path, along="layer")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_memory_does_not_grow_with_layers_or_tokens(tmp_path):
    rng = np.random.default_rng(7)
    small = random_case(rng, [500] * 20, experts=32, top_k=4, layers=(0,))
    tokens = np.tile(np.arange(10_000), 10)
    layer = small.layers[0].isel(token=tokens)
    large = case(dict.fromkeys(range(6), layer), [5000] * 20, small.token_id[tokens])
    peak_bytes(small, tmp_path / "first.nc")  # which compiles
    reference = peak_bytes(small, tmp_path / "small.nc")
    one = peak_bytes(replace(large, window=500, layers={0: layer}), tmp_path / "one.nc")
    six = peak_bytes(replace(large, window=500), tmp_path / "six.nc")
    assert layer["router_logits"].nbytes > 3 * reference
    assert one < reference + 3e6  # the token file: ids, positions
    assert six < 1.1 * one


def test_a_sigmoid_router_by_hand():
    # Scores 1/2, 3/4, 1/4 and 3/4, 1/2, 1/4, each divided by 3/2.
    logits = [[0, math.log(3), -math.log(3)], [math.log(3), 0, -math.log(3)]]
    tally = case({2: records(logits, 2, scores="sigmoid")}, [1, 1]).tally().sel(layer=2)
    np.testing.assert_allclose(tally["probability_sum"], [[1 / 3, 1 / 2, 1 / 6], [1 / 2, 1 / 3, 1 / 6]], rtol=1e-6)
    first = dict(zip(tally["scalar"].values, tally["scalar_sum"].values[0], strict=True))
    assert first["top_1_probability"] == pytest.approx(1 / 2, rel=1e-6)
    assert first["top_k_mass"] == pytest.approx(5 / 6, rel=1e-6)
    assert first["top_1_share"] == pytest.approx(3 / 5, rel=1e-6)
    assert first["entropy"] == pytest.approx(math.log(2) / 2 + math.log(3) / 3 + math.log(6) / 6, rel=1e-6)
    assert tallies.probability_name(tally.attrs) == "normalised sigmoid scores"


@pytest.mark.slow
@facts
@given(small_cases, st.sampled_from(["softmax", "sigmoid"]), st.integers(2, 9))
def test_compact_records_give_the_same_tally(made: Case, scores: str, window: int):
    layers = {
        n: records(layer["router_logits"], layer.sizes["rank"], scores=scores) for n, layer in made.layers.items()
    }
    full = replace(made, layers=layers, window=window)
    assert_same_up_to_rounding(full.compact().tally(tokens_per_block=5), full.tally())


def assert_same_up_to_rounding(compact: xr.Dataset, full: xr.Dataset) -> None:
    """Equal counts and sums; a value that lies on an edge may be in the next bin."""
    for name, array in full.variables.items():
        if name.endswith("histogram"):
            assert abs(compact[name].cumsum(array.dims[-1]) - full[name].cumsum(array.dims[-1])).max() <= 1, name
            xr.testing.assert_equal(compact[name].sum(array.dims[-1]), full[name].sum(array.dims[-1]))
        elif array.dtype.kind == "f":
            np.testing.assert_allclose(compact[name].values, array.values, rtol=2e-6, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(compact[name].values, array.values, name)


def biased_case() -> Case:
    """Two tokens of a router whose bias keeps expert 0, and for the second token the most probable one, out."""
    logits = np.log([[8, 4, 2, 2], [2, 8, 4, 2]])
    bias = np.array([-1, 0, 0.01, 0])
    return case({0: records(logits, 2, np.array([[1, 2], [1, 2]]), bias=bias)}, [1, 1])


def test_the_largest_probability_may_be_that_of_an_expert_that_is_not_selected():
    made = biased_case()
    for tally in (made.tally(), made.compact().tally()):
        scalars = tally["scalar_sum"].isel(layer=0)
        np.testing.assert_allclose(scalars.sel(scalar="top_1_probability"), [0.5, 0.5], rtol=1e-6)
        np.testing.assert_allclose(scalars.sel(scalar="top_k_mass"), [0.375, 0.75], rtol=1e-6)
        np.testing.assert_allclose(scalars.sel(scalar="top_1_share"), [2 / 3, 2 / 3], rtol=1e-6)
        # p plus bias is (-0.5, 0.25, 0.135, 0.125) and (-0.875, 0.5, 0.26, 0.125).
        np.testing.assert_allclose(scalars.sel(scalar="boundary_margin"), [0.01, 0.135], rtol=1e-5)


@pytest.mark.parametrize("family", KINDS)
def test_compact_records_of_every_family_give_the_tally_of_exact_ones(family, tmp_path):
    model, rng = causal_model(family).base_model, np.random.default_rng(8)
    lengths = np.array([9, 30, 4, 21])
    made = replace(case({}, lengths, rng.integers(0, 97, 64)), window=16)
    starts = np.flatnonzero(made.tokens["position"].values == 0)
    tally = {}
    for contents in ("exact", "compact"):
        (folder := tmp_path / contents).mkdir()
        rule = {"routing_rule": routing_rule(model.config).as_json()}
        options = {"tokens_per_batch": 32, "records": contents, "attrs": rule}
        extraction.write_records(folder, model, [2], made.token_id, starts, **options)
        with netcdf.open_lazily(folder / "layer_2.nc") as layer:
            tally[contents] = counting.tally_layer(layer, made.tokens)
    exact, found = tally["exact"], tally["compact"]
    for name in ("selected_count", "first_count", "rank_count", "pair_count", "expert_logit_histogram"):
        np.testing.assert_array_equal(found[name], exact[name])
    np.testing.assert_allclose(found["probability_sum"], exact["probability_sum"], rtol=1e-5)
    # Floats per token keep 7 bits after the leading one: a relative error up to 2^-8.
    rounding = 2.0 ** -(BITS["compact"] + 1)
    for name in ("weight_sum", "rank_weight_sum"):
        np.testing.assert_allclose(found[name], exact[name], rtol=1.01 * rounding)
    error = abs(found["scalar_sum"] - exact["scalar_sum"]).isel(layer=0)
    size = abs(exact["scalar_sum"]).isel(layer=0)
    for name in tallies.SCALARS:
        allowed = rounding * size.sel(scalar=name)
        if name == "effective_experts":  # exp(H): the relative error is the error of H, which is at most ln 8
            allowed = 1.1 * allowed * math.log(8)
        elif name == "top_1_share":  # a quotient
            allowed = 2.1 * allowed
        elif name == "logit_margin":  # the logarithm of a quotient
            allowed = allowed + 2.1 * rounding * lengths
        elif name == "top_k_entropy":  # q is a quotient, and |d(q ln q)| = q |1 + ln q| |dq / q|
            allowed = 2.1 * (allowed + rounding * lengths)
        assert (error.sel(scalar=name) <= 1.01 * allowed + 1e-6 * lengths).all(), name
