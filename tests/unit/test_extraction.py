"""What extraction keeps is what the routers returned, whatever the family, the dtype and the batching."""

import threading

import numpy as np
import pytest
import torch
import xarray as xr
from families import FAMILIES, FIRST_DENSE, KINDS, SHARED, causal_model, decided, watched
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from gatebook.files import atomic, checksums, netcdf
from gatebook.problem import Problem
from gatebook.routing import bins, extraction, models, records
from gatebook.routing.families import routing_rule
from gatebook.routing.following import complete
from gatebook.routing.records import TOTALS, contents_of, float32
from gatebook.routing.routers import find_blocks, find_routers, selection_biases
from gatebook.routing.rule import SCALARS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def olmoe():
    return causal_model("olmoe")


def documents(lengths, seed: int = 0):
    """Random token ids of windows of the given lengths, and where the windows start."""
    ids = np.random.default_rng(seed).integers(0, SHARED["vocab_size"], sum(lengths)).astype(np.int32)
    return ids, np.append(0, np.cumsum(lengths)[:-1])


def run(model, layers=None, lengths=(5, 9, 3, 9, 1, 12), tokens_per_batch=24, contents="exact", completed=True):
    """All records by layer, in the order of the tokens, with what follows from them."""
    base = model.base_model
    token_id, starts = documents(lengths)
    routers, rule = find_routers(base), routing_rule(model.config)
    layers = layers or sorted(routers)
    biases = selection_biases(base, layers)
    made = extraction.extract(base, layers, token_id, starts, tokens_per_batch=tokens_per_batch, contents=contents)
    found = [batch.records() for batch in made]
    tokens, windows = (np.concatenate([getattr(each, name) for each in found]) for name in ("tokens", "windows"))
    assert sorted(tokens) == list(range(len(token_id))) and sorted(windows) == list(range(len(lengths)))
    joined = {}
    for index, layer in enumerate(layers):
        record = {
            name: np.concatenate([each.per_token[name][index] for each in found])[np.argsort(tokens)]
            for name in found[0].per_token
        }
        record = {name: values if name == "selected_expert" else float32(values) for name, values in record.items()}
        bias = biases[layer]
        joined[layer] = complete(record, rule, None if bias is None else bias.float().numpy()) if completed else record
        for name in found[0].totals:
            totals = [each.totals[name][index] for each in found]
            joined[layer][name] = (
                np.concatenate(totals)[np.argsort(windows)] if name == "probability_sum" else sum(totals)
            )
    return joined


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_records_are_bit_for_bit_what_the_router_modules_returned(family, dtype):
    model = causal_model(family, dtype)
    token_id, _ = documents([40])
    seen = decided(model, torch.from_numpy(token_id).long())
    full, compact = (run(model, lengths=(40,), contents=contents) for contents in ("exact", "compact"))
    assert list(full) == list(compact) == sorted(seen) == ([1, 2] if family in FIRST_DENSE else [0, 1, 2])
    for layer, (_, (logits, weights, selected)) in seen.items():
        np.testing.assert_array_equal(full[layer]["router_logits"], logits.float().numpy())
        order = weights.sort(dim=-1, descending=True, stable=True).indices
        for record in (full[layer], compact[layer]):
            np.testing.assert_array_equal(record["selected_expert"], selected.gather(-1, order).numpy())
            assert record["selected_expert"].dtype == np.uint8
        expected = weights.gather(-1, order).float().numpy()
        assert (np.diff(expected, axis=1) <= 0).all()
        np.testing.assert_array_equal(compact[layer]["routing_weight"], expected)
        coarse = 2e-2 if family in ("lfm2_moe", "dbrx") else 5e-3  # their routers compute in bfloat16 throughout
        rtol = 1e-6 if dtype is torch.float32 else coarse
        np.testing.assert_allclose(full[layer]["routing_weight"], expected, rtol=rtol)


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe", "mixtral", "gpt_oss"])
def test_records_agree_with_what_transformers_itself_reports(family):
    """Where the last norm or an auxiliary loss asks for them, transformers returns the same router logits."""
    model = causal_model(family)
    token_id, _ = documents([40])
    _, output = watched({}, model, torch.from_numpy(token_id).long(), output_router_logits=True)
    for layer, record in run(model, lengths=(40,)).items():
        np.testing.assert_array_equal(record["router_logits"], output.router_logits[layer].numpy())


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("family", ["olmoe", "qwen2_moe", "qwen3_moe"])
def test_weights_sum_to_one_exactly_when_the_config_renormalises(family, normalised):
    records = run(causal_model(family, norm_topk_prob=normalised))
    total = records[2]["routing_weight"].sum(axis=1)
    if normalised:
        np.testing.assert_allclose(total, 1, atol=1e-6)
    else:
        np.testing.assert_allclose(total, records[2]["top_k_mass"], atol=1e-6)
        assert total.max() < 0.999


def test_scalars_equal_their_definitions_in_float64(olmoe):
    for record in run(olmoe).values():
        z = record["router_logits"].astype(np.float64)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        ordered, largest = np.sort(z)[:, ::-1], np.sort(p)[:, ::-1]
        expected = {
            "entropy": -(p * np.log(p)).sum(axis=1),
            "log_sum_exp": np.log(np.exp(z).sum(axis=1)),
            "top_1_probability": largest[:, 0],
            "top_k_mass": largest[:, :3].sum(axis=1),
            "logit_margin": ordered[:, 0] - ordered[:, 1],
            "boundary_margin": ordered[:, 2] - ordered[:, 3],
        }
        assert sorted(expected) == sorted(SCALARS)
        for name, values in expected.items():
            np.testing.assert_allclose(record[name], values, atol=1e-5, err_msg=name)
            assert record[name].dtype == np.float32


def test_some_layers_are_the_same_bytes_as_in_a_run_of_all(olmoe):
    whole, part = run(olmoe), run(olmoe, layers=[0, 1])
    assert list(part) == [0, 1]
    for layer, record in part.items():
        for name, values in record.items():
            assert values.tobytes() == whole[layer][name].tobytes()


def test_batched_windows_equal_one_window_at_a_time(olmoe):
    lengths = (5, 9, 3, 9, 1, 12, 7, 2)
    batched, single = run(olmoe, lengths=lengths, tokens_per_batch=27), run(olmoe, lengths=lengths, tokens_per_batch=1)
    for layer, record in batched.items():
        np.testing.assert_array_equal(record["selected_expert"], single[layer]["selected_expert"])
        np.testing.assert_allclose(record["router_logits"], single[layer]["router_logits"], atol=2e-5)


def test_two_windows_of_the_same_tokens_route_alike_and_each_starts_anew(olmoe):
    once, _ = documents([8])
    twice = np.concatenate([once, once])
    (batch,) = extraction.extract(olmoe.model, [2], twice, np.array([0, 8]), tokens_per_batch=100)
    np.testing.assert_array_equal(*np.split(batch.records().per_token["router_logits"][0], 2))


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3", "gpt_oss"])
def test_scalars_of_every_kind_of_rule_equal_their_definitions_in_float64(family):
    """From the recorded logits and selection alone: p, its entropy and mass, and how close the choice was."""
    model = causal_model(family)
    rule, biases = routing_rule(model.config), selection_biases(model.base_model, [1, 2])
    for layer, record in run(model).items():
        z = record["router_logits"].astype(np.float64)
        scores = 1 / (1 + np.exp(-z)) if family == "deepseek_v3" else np.exp(z)
        p = scores / scores.sum(axis=1, keepdims=True)
        selected = record["selected_expert"].astype(int)
        np.testing.assert_allclose(record["entropy"], -(p * np.log(p)).sum(axis=1), atol=1e-5)
        np.testing.assert_allclose(record["top_k_mass"], np.take_along_axis(p, selected, 1).sum(axis=1), atol=1e-5)
        preference = z
        if family == "deepseek_v3":
            preference = scores + biases[layer].numpy()
            grouped = np.sort(preference.reshape(len(z), 4, 2), axis=2).sum(axis=2)
            kept = np.argsort(-grouped, axis=1)[:, :2]
            inside = (np.arange(8) // 2 == kept[:, :, None]).any(axis=1)
            preference = np.where(inside, preference, -np.inf)
        chosen = np.take_along_axis(preference, selected, 1).min(axis=1)
        np.put_along_axis(preference, selected, -np.inf, 1)
        np.testing.assert_allclose(record["boundary_margin"], chosen - preference.max(axis=1), atol=1e-5)
    assert rule.may_skip_the_largest == (family == "deepseek_v3")


@pytest.mark.parametrize("family", KINDS)
def test_compact_records_are_the_full_ones_with_sums_in_the_place_of_the_logits(family):
    model = causal_model(family)
    rule, lengths = routing_rule(model.config), np.array((5, 9, 3, 9, 1, 12))
    full, compact, stored = run(model), run(model, contents="compact"), run(model, contents="compact", completed=False)
    starts = np.cumsum(lengths) - lengths
    for layer, record in compact.items():
        whole, logits = full[layer], full[layer]["router_logits"]
        assert set(stored[layer]) - set(TOTALS) == set(contents_of(rule, "compact"))
        for name in ("selected_expert", "routing_weight", *SCALARS):
            np.testing.assert_allclose(record[name], whole[name], rtol=1e-5, atol=1e-5)
        p = rule.probability(torch.from_numpy(logits)).double().numpy()
        np.testing.assert_allclose(record["probability_sum"], np.add.reduceat(p, starts, axis=0), atol=1e-5)
        edges = [-np.inf, *bins.LOGIT_EDGES[1:-1], np.inf]
        counts = np.stack([np.histogram(logits[:, expert], edges)[0] for expert in range(8)])
        np.testing.assert_array_equal(record["expert_logit_histogram"], counts)
        edges = [-np.inf, *bins.PROBABILITY_EDGES[1:-1], np.inf]
        counts = np.stack([np.histogram(np.log10(p[:, expert]), edges)[0] for expert in range(8)])
        assert np.abs(record["expert_probability_histogram"] - counts).sum() <= 2  # float32 at a bin's edge
    assert ("top_1_probability" in stored[layer]) == (rule.may_skip_the_largest or rule.normalised)


def test_the_model_stops_after_the_last_wanted_router_and_has_no_head(olmoe, model_folder):
    calls = dict.fromkeys(range(3), 0)
    handles = [
        block.self_attn.register_forward_hook(lambda *_, layer=layer: calls.update({layer: calls[layer] + 1}))
        for layer, block in enumerate(olmoe.model.layers)
    ]
    experts = []
    handles.append(olmoe.model.layers[1].mlp.experts.register_forward_hook(lambda *_: experts.append(1)))
    run(olmoe, layers=[1], lengths=(4, 4), tokens_per_batch=4)
    for handle in handles:
        handle.remove()
    assert calls == {0: 2, 1: 2, 2: 0}
    assert not experts
    loaded = models.load(model_folder, dtype="auto", device=CPU, attention="auto", experts="auto")
    assert not hasattr(loaded, "lm_head")


def test_hooks_are_gone_after_a_run_and_after_an_error(olmoe):
    run(olmoe)
    capture = extraction.RouterCapture(find_blocks(olmoe.model), [0], watched={"x": ("block_output", [0])})
    with pytest.raises(ValueError, match="stop"), capture:
        raise ValueError("stop")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in olmoe.modules())


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array),
    st.integers(1, 100),
)
def test_batches_hold_every_window_once_longest_first_within_the_budget(lengths, budget):
    found = list(extraction.batches(lengths, budget))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[np.concatenate(found)]) <= 0).all()
    for batch in found:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget


@settings(max_examples=15)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 30))
def test_records_come_in_the_order_of_the_tokens(lengths, budget):
    model = one_token_model()
    token_id, starts = documents(lengths)
    found = extraction.extract(model, [0], token_id, starts, tokens_per_batch=budget)
    for made in (batch.records() for batch in found):
        assert (np.diff(made.tokens) > 0).all()
        np.testing.assert_allclose(made.per_token["router_logits"][0], model.expected[token_id[made.tokens]], atol=1e-5)


def one_token_model():
    """An OLMoE whose first router sees nothing but the token itself, as its attention writes zeros."""
    model = causal_model("olmoe", num_hidden_layers=1).model
    model.layers[0].self_attn.o_proj.weight.data.zero_()
    with torch.inference_mode():
        block = model.layers[0]
        model.expected = block.mlp.gate(block.post_attention_layernorm(model.embed_tokens.weight))[0].numpy()
    return model


def test_more_than_256_experts_need_uint16_and_all_experts_have_no_boundary():
    many = run(causal_model("olmoe", num_experts=300), lengths=(50, 30))[2]["selected_expert"]
    assert many.dtype == np.uint16
    assert many.max() > 255
    every = run(causal_model("olmoe", num_experts=3))[0]
    assert np.isnan(every["boundary_margin"]).all()
    np.testing.assert_allclose(every["top_k_mass"], 1, atol=1e-6)


@pytest.mark.parametrize("changes", [{"num_experts_per_tok": 1}, {"num_experts_per_tok": 8}, {"num_hidden_layers": 1}])
def test_one_expert_all_experts_and_one_layer_work(changes):
    records = run(causal_model("olmoe", **changes))
    top_k = changes.get("num_experts_per_tok", 3)
    assert list(records) == list(range(changes.get("num_hidden_layers", 3)))
    for record in records.values():
        assert record["selected_expert"].shape == (39, top_k)
        assert np.isnan(record["boundary_margin"]).all() == (top_k == 8)


def test_nan_in_the_weights_names_the_layer_and_the_remedy():
    model = causal_model("olmoe")
    model.model.layers[1].mlp.gate.weight.data[0, 0] = float("nan")
    with pytest.raises(Problem, match=r"layer 1: the router logits hold NaN or infinity: .*`dtype: float32`"):
        run(model)


@pytest.mark.parametrize("change", ["weights", "experts"])
def test_a_router_that_does_not_follow_the_rule_is_refused(change):
    model = causal_model("olmoe")

    def changed(module, inputs, output):
        logits, weights, selected = output
        return (logits, weights * 2, selected) if change == "weights" else (logits, weights, (selected + 1) % 8)

    model.model.layers[2].mlp.gate.register_forward_hook(changed)
    with pytest.raises(
        Problem, match=f"layer 2: the router did not follow .* on the first batch, {change} of token 0: .*: report"
    ):
        run(model)


def test_a_model_that_does_not_call_its_routers_is_refused(olmoe, monkeypatch):
    another = causal_model("olmoe", num_hidden_layers=1).model
    monkeypatch.setattr(extraction, "find_blocks", lambda model: find_blocks(another))
    with pytest.raises(Problem, match="OlmoeModel did not call its routers"):
        list(extraction.extract(olmoe.model, [0], *documents([3]), tokens_per_batch=8))


@pytest.mark.parametrize("contents", ["exact", "rounded", "compact"])
@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3"])
def test_two_runs_write_identical_bytes_with_one_thread_or_more(family, contents, tmp_path):
    model = causal_model(family).model
    token_id, starts = documents((5, 9, 3, 9, 1, 12))
    done = []
    for name, threads in (("one", 1), ("two", 3)):
        with atomic.atomic_directory(tmp_path / name) as folder:
            extraction.write_records(
                folder, model, [1, 2], token_id, starts,
                tokens_per_batch=16, records=contents, threads=threads, attrs={"model": "x"}, advance=done.append,
            )  # fmt: skip
    assert sum(done) == 2 * 39
    files = [checksums.sha256(tmp_path / name / f"layer_{layer}.nc") for layer in (1, 2) for name in ("one", "two")]
    assert files[0] == files[1] != files[2] == files[3]
    written = netcdf.load(tmp_path / "one" / "layer_1.nc")
    assert (written.attrs["model"], written.attrs["contents"]) == ("x", contents)
    assert ("selection_bias" in written) == (family == "deepseek_v3")
    expected = run(model, layers=[1, 2], contents=contents, tokens_per_batch=16, completed=False)[1]
    assert sorted(written.data_vars) == sorted(
        [*expected, *(["selection_bias"] if "selection_bias" in written else [])]
    )
    for name, values in expected.items():
        whole = contents == "exact" or name == "selected_expert" or name in TOTALS
        bits = {"rounded": 11, "compact": 8}.get(contents)
        np.testing.assert_allclose(written[name], values, rtol=0 if whole else 2.0**-bits)


@pytest.mark.parametrize("family", KINDS)
def test_predictions_and_router_inputs_of_a_sample_are_those_of_one_document_at_a_time(family, tmp_path):
    model = causal_model(family)
    lengths = (5, 9, 3, 9, 1, 12)
    token_id, starts = documents(lengths)
    sampled = extraction.sample_tokens(39, 11, seed=2, name="x")
    routers = find_routers(model.base_model)
    layers = sorted(routers)[-2:]
    extraction.write_records(tmp_path, model, layers, token_id, starts, tokens_per_batch=16, sampled=sampled)
    predicted, states = (netcdf.load(tmp_path / f"{name}.nc") for name in ("predictions", "states"))
    found, received = [], {layer: [] for layer in layers}
    for window in np.split(token_id, starts[1:]):
        seen, output = watched(routers, model, torch.from_numpy(window).long())
        found.append(output.logits[0].argmax(dim=-1).numpy())
        for layer in layers:
            received[layer].append(seen[layer][0].reshape(-1, 16).numpy())
    np.testing.assert_array_equal(predicted["predicted_token"], np.concatenate(found))
    np.testing.assert_array_equal(states["sampled_token"], sampled)
    assert states["layer"].values.tolist() == layers
    for layer in layers:
        expected = np.concatenate(received[layer])[sampled]
        np.testing.assert_allclose(states["state"].sel(layer=layer), expected, atol=1e-4)


@pytest.mark.parametrize("family", KINDS)
def test_router_inputs_with_the_highest_weights_are_those_of_one_document_at_a_time(family, tmp_path):
    model = causal_model(family)
    token_id, starts = documents((5, 9, 3, 9, 1, 12))
    routers = find_routers(model.base_model)
    layers = sorted(routers)[-2:]
    for size in (16, 64):
        (tmp_path / f"{size}").mkdir()
        settings = {"tokens_per_batch": size, "per_expert": 4, "first_token": 100}
        extraction.write_records(tmp_path / f"{size}", model, layers, token_id, starts, **settings)
    found, other = (netcdf.load(tmp_path / f"{size}" / "highest.nc") for size in (16, 64))
    np.testing.assert_array_equal(found["token"], other["token"])
    received = {layer: [] for layer in layers}
    for window in np.split(token_id, starts[1:]):
        seen, _ = watched(routers, model, torch.from_numpy(window).long())
        for layer in layers:
            received[layer].append(seen[layer][0].reshape(-1, 16).numpy())
    for layer in layers:
        with netcdf.open_lazily(tmp_path / "16" / f"layer_{layer}.nc") as record:
            selected = record["selected_expert"].values
        here, states = found.sel(layer=layer), np.concatenate(received[layer])
        for expert in range(here.sizes["expert"]):
            token = here["token"].values[expert]
            known = token[token >= 0] - 100
            users = np.flatnonzero((selected == expert).any(axis=1))
            assert len(known) == min(4, len(users)) and set(known) <= set(users)
            assert (np.diff(here["weight"].values[expert, : len(known)]) <= 0).all()
            np.testing.assert_allclose(
                here["state"].values[expert, : len(known)], states[known], rtol=1 / 128, atol=1e-4
            )
            assert np.isnan(here["state"].values[expert, len(known) :]).all()


class Waits(TorchFunctionMode):
    """Notes what makes the host wait for the device, but for what the model itself does."""

    WORDS = ("item", "__bool__", "tolist", "cpu", "numpy", "nonzero", "equal", "unique")

    def __init__(self):
        super().__init__()
        self.seen, self.inside = [], False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if not self.inside and getattr(function, "__name__", "") in self.WORDS:
            self.seen.append(function.__name__)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("contents", ["exact", "compact"])
def test_copies_to_the_host_do_not_grow_with_layers_and_nothing_waits_for_the_device(contents, monkeypatch):
    model, waits, copies = causal_model("olmoe"), Waits(), []
    run_model, to_host = extraction.RouterCapture.run, extraction.to_host

    def watched_run(*given):
        waits.inside = True
        try:
            return run_model(*given)
        finally:
            waits.inside = False

    monkeypatch.setattr(extraction.RouterCapture, "run", watched_run)
    monkeypatch.setattr(extraction, "to_host", lambda tensor: copies.append(tensor.shape) or to_host(tensor))
    monkeypatch.setattr(extraction.Arrival, "arrays", None)  # what waits is in another thread
    found = {}
    for layers in ([0], [0, 1, 2]):
        extras = extraction.Extras.of(model, len(layers), 24, np.arange(0, 24, 3))
        extras.highest = extraction.Highest(2, routing_rule(model.config).experts)
        given = (model.model, layers, *documents((4, 4, 4, 4, 4, 4)))
        batches = extraction.extract(*given, tokens_per_batch=8, contents=contents, extras=extras)
        next(batches)  # the rule is checked here
        copies.clear()
        with waits:
            assert len(list(batches)) == 2
        found[len(layers)] = len(copies)
    assert found[1] == found[3] == 2 * (3 + {"exact": 3, "compact": 9}[contents])
    assert waits.seen == []
    with waits:
        bool(torch.ones(1) > 0)
    assert waits.seen


def test_the_device_counts_as_the_host_does():
    key = torch.randint(0, 50, (1000,), dtype=torch.int32)
    away = torch.zeros(60, dtype=torch.int64).index_add_(0, key, torch.ones_like(key, dtype=torch.int64))
    assert torch.equal(extraction.occurrences(key, 60), away)


def test_the_model_goes_on_while_a_batch_is_on_its_way_and_chunks_are_packed_while_it_computes(
    olmoe, tmp_path, monkeypatch
):
    """A slow device and a slow disk: each waits for the other to be seen at work on another batch."""
    begun, packed, order = threading.Event(), threading.Event(), []
    run_model, arrays, pack = extraction.RouterCapture.run, extraction.Arrival.arrays, records.packed

    def slow_model(*given):
        order.append("model")
        if len(order) > 1:
            begun.set()
        if order.count("model") == 6:
            assert packed.wait(60), "nothing was packed before the last batch"
        return run_model(*given)

    def slow_arrival(self):
        assert begun.wait(60), "the second batch did not begin before the first had arrived"
        return arrays(self)

    def slow_disk(*given):
        packed.set()
        return pack(*given)

    monkeypatch.setattr(extraction.RouterCapture, "run", slow_model)
    monkeypatch.setattr(extraction.Arrival, "arrays", slow_arrival)
    monkeypatch.setattr(records, "packed", slow_disk)
    monkeypatch.setattr(records, "TOKENS_PER_CHUNK", 8)
    extraction.write_records(tmp_path, olmoe.model, [0, 2], *documents([8] * 6), tokens_per_batch=8)
    assert order == ["model"] * 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_float_of_a_model_arrives_as_the_same_number(dtype):
    values = torch.tensor([0.1, -3.0, 2.0**-14, 0.0, 65504.0]).to(dtype)
    arrived = extraction.Arrival({"x": values}).arrays()["x"]
    np.testing.assert_array_equal(float32(arrived), values.float().numpy())


def test_a_pool_holds_no_more_logits_than_it_may(olmoe, monkeypatch):
    given = (olmoe.model, [0, 1], *documents([4] * 12))
    ends = {}
    for largest in (1 << 30, 2 * 8 * 4 * 16):  # that of 16 tokens
        monkeypatch.setattr(extraction, "BYTES_PER_POOL", largest)
        ends[largest] = [batch.complete for batch in extraction.extract(*given, tokens_per_batch=8)]
    assert list(ends.values()) == [[False] * 5 + [True], [False, True] * 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3", "gpt_oss"])
def test_hidden_states_are_those_that_hooks_see(family, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "BYTES_PER_CHUNK_OF_STATES", 4 * 16 * 4)  # of 4 samples
    model = causal_model(family, dtype).model
    token_id, starts = documents((5, 9, 3, 9, 1, 12))
    sampled = extraction.sample_tokens(39, 11, seed=2, name="x")
    for kept in (sampled, np.arange(39)):
        folder = tmp_path / str(len(kept))
        folder.mkdir()
        states = records.States(["router_input", "block_output"], [1, 2], kept)
        extraction.write_records(
            folder, model, [1, 2], token_id, starts, tokens_per_batch=1, states=states, first_token=100, threads=2
        )
        modules = {"router_input": models.find_routers(model), "block_output": models.find_blocks(model)}
        for layer in (1, 2):
            found = netcdf.load(folder / "states" / f"layer_{layer}.nc")
            np.testing.assert_array_equal(found["sampled_token"], kept + 100)
            for index, (name, watch) in enumerate(modules.items()):
                expected = []
                for window in np.split(token_id, starts[1:]):
                    seen, _ = watched({layer: watch[layer]}, model, torch.from_numpy(window).long())
                    state = seen[layer][index]
                    expected.append((state[0] if isinstance(state, tuple) else state).reshape(-1, 16).float().numpy())
                expected = np.concatenate(expected)[kept]
                assert found[name].dtype == np.float32 and not (found[name].values.view(np.uint32) & 0xFFFF).any()
                np.testing.assert_array_equal(found[name], records.rounded(expected, 7))
        stored = sum(path.stat().st_size for path in (folder / "states").iterdir())
        assert stored < states.largest_bytes(16) + 40_000


def test_the_model_runs_on_to_the_end_of_the_last_wanted_block_and_no_further(olmoe, tmp_path):
    norms, states = [], records.States(["block_output"], [1], np.arange(9))
    handle = olmoe.model.layers[2].input_layernorm.register_forward_hook(lambda *_: norms.append(1))
    extraction.write_records(tmp_path, olmoe.model, [0, 1], *documents((5, 4)), tokens_per_batch=8, states=states)
    handle.remove()
    assert not norms
    assert not netcdf.load(tmp_path / "states" / "layer_1.nc")["block_output"].isnull().any()


def test_states_of_a_layer_without_records_are_refused():
    tokens = xr.Dataset({"token_id": ("token", np.arange(9))}, attrs={"dataset": "x"})
    wanted = {"what": ["router_input"], "tokens": "all", "layers": [3]}
    with pytest.raises(Problem, match=r"extraction\.states\.layers: layer 3 has no records: choose from \[0, 1\]"):
        extraction.wanted_states(wanted, [0, 1], tokens, 9, 0)
    assert extraction.wanted_states(None, [0, 1], tokens, 9, 0) is None
    found = extraction.wanted_states(wanted | {"layers": "all", "tokens": 4}, [0, 1], tokens, 9, 0)
    np.testing.assert_array_equal(found.tokens, extraction.sample_tokens(9, 4, 0, "x"))
    assert (found.layers, found.largest_bytes(16)) == ([0, 1], 2 * 1 * 2 * 4 * 16)


def test_without_head_and_sample_there_are_records_only(olmoe, tmp_path):
    extraction.write_records(tmp_path, olmoe.model, [1], *documents((5, 9)), tokens_per_batch=16)
    assert [path.name for path in tmp_path.iterdir()] == ["layer_1.nc"]


def test_sampled_tokens_are_distinct_in_order_and_depend_on_seed_and_name():
    one = extraction.sample_tokens(100, 30, seed=1, name="x")
    assert len(one) == 30
    assert (np.diff(one) > 0).all() and one[0] >= 0 and one[-1] < 100
    np.testing.assert_array_equal(one, extraction.sample_tokens(100, 30, seed=1, name="x"))
    assert not np.array_equal(one, extraction.sample_tokens(100, 30, seed=2, name="x"))
    assert not np.array_equal(one, extraction.sample_tokens(100, 30, seed=1, name="y"))
    np.testing.assert_array_equal(extraction.sample_tokens(5, 30, seed=1, name="x"), np.arange(5))


class Small:
    """A stand-in for a GPU's memory that holds batches of at most a number of tokens."""

    def __init__(self, holds: int):
        self.holds, self.tried = holds, []

    def __call__(self, tokens: int) -> None:
        self.tried.append(tokens)
        if tokens > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore about it")


def test_a_batch_that_does_not_fit_is_halved_once_and_then_refused():
    for holds, tried in ((100, [64]), (40, [64, 32])):
        run_ = Small(holds)
        extraction.with_less_memory(64, run_)
        assert run_.tried == tried
    run_ = Small(20)
    with pytest.raises(
        Problem, match=r"^32 tokens per batch do not fit .*\(CUDA out of memory\.\): lower extraction\."
    ):
        extraction.with_less_memory(64, run_)
    assert run_.tried == [64, 32]


def test_the_budget_grows_with_free_memory_and_shrinks_with_the_model():
    config = causal_model("olmoe").config
    sizes = [extraction.tokens_that_fit(config, free, 64) for free in (0, 10**6, 10**7, 10**12)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 256
    assert sizes[-1] == 16_384
    assert all(size & (size - 1) == 0 for size in sizes)
    config.hidden_size *= 64
    assert extraction.tokens_that_fit(config, 10**7, 64) < sizes[2]
    eager = causal_model("gpt_oss").config
    assert extraction.tokens_that_fit(eager, 10**7, 64) > extraction.tokens_that_fit(eager, 10**7, 4096)


@pytest.mark.parametrize(
    ("window", "largest", "words"),
    [(65, 5, r"models\.tiny\.window: 65 .* context of 64"), (64, 320, r"token id 320 .* vocabulary of 320")],
)
def test_tokens_that_do_not_fit_the_model_are_refused(window, largest, words):
    description = {"context": 64, "vocabulary": 320}
    with pytest.raises(Problem, match=words):
        extraction.check_tokens("tiny", description, window, np.array([0, largest]))
    extraction.check_tokens("tiny", description, 64, np.array([0, 319]))
