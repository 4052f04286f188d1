"""What extraction keeps is what the routers returned, whatever the family, the dtype and the batching."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from moeatlas import extraction, models, storage
from moeatlas.job import Problem
from moeatlas.records import SCALARS, RecordWriter

SHARED = {
    "vocab_size": 97,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPARSE = {"moe_intermediate_size": 8, "num_experts": 8}
FAMILIES = {
    "olmoe": ("Olmoe", {"num_experts": 8}),
    "flex_olmo": ("FlexOlmo", {"num_experts": 8}),
    "mixtral": ("Mixtral", {"num_local_experts": 8}),
    "qwen2_moe": ("Qwen2Moe", SPARSE | {"shared_expert_intermediate_size": 8, "mlp_only_layers": [0]}),
    "qwen3_moe": ("Qwen3Moe", SPARSE | {"norm_topk_prob": True, "head_dim": 8}),
}
CPU = torch.device("cpu")


def causal_model(family: str, dtype=torch.float32, **changes):
    """A random model of a family with its language-model head, made to be compared with."""
    name, own = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**SHARED | own | changes)
    config._experts_implementation = "eager"
    torch.manual_seed(7)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().to(dtype)
    for parameter in model.parameters():  # trained biases are not zero, nor norms one
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def olmoe():
    return causal_model("olmoe")


def documents(lengths, seed: int = 0):
    """Random token ids of windows of the given lengths, and where the windows start."""
    ids = np.random.default_rng(seed).integers(0, SHARED["vocab_size"], sum(lengths)).astype(np.int32)
    return ids, np.append(0, np.cumsum(lengths)[:-1])


def run(model, layers=None, lengths=(5, 9, 3, 9, 1, 12), tokens_per_batch=24, **changes):
    """All records by layer, joined over the spans that `extract` yields, which must follow one another."""
    base = getattr(model, "model", model)
    routers, rule = models.find_routers(base), models.routing_rule(model.config)
    token_id, starts = documents(lengths)
    spans = {}
    found = extraction.extract(
        base, routers, rule, layers or sorted(routers), token_id, starts, tokens_per_batch=tokens_per_batch
    )
    for layer, first, records in found:
        assert first == sum(len(each.router_logits) for each in spans.get(layer, []))
        spans.setdefault(layer, []).append(records)
    return {
        layer: {
            name: np.concatenate([getattr(each, name) for each in parts])
            for name in ("router_logits", "selected_expert", "routing_weight")
        }
        | {name: np.concatenate([each.scalars[name] for each in parts]) for name in SCALARS}
        for layer, parts in spans.items()
    }


def watched(model, token_id):
    """What the routers return for one window, seen by hooks of this test: tuples by layer."""
    seen = {}
    handles = [
        router.register_forward_hook(lambda module, inputs, output, layer=layer: seen.update({layer: output}))
        for layer, router in models.find_routers(model.model).items()
    ]
    with torch.inference_mode():
        output = model(torch.from_numpy(token_id[None].astype(np.int64)), output_router_logits=True, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen, output.router_logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_records_are_bit_for_bit_what_the_router_modules_returned(family, dtype):
    model = causal_model(family, dtype)
    token_id, _ = documents([40])
    seen, reported = watched(model, token_id)
    records = run(model, lengths=(40,))
    assert list(records) == sorted(seen) == ([1, 2] if family == "qwen2_moe" else [0, 1, 2])
    for index, layer in enumerate(records):
        logits, weights, selected = seen[layer]
        np.testing.assert_array_equal(records[layer]["router_logits"], logits.float().numpy())
        np.testing.assert_array_equal(records[layer]["selected_expert"], selected.numpy())
        np.testing.assert_array_equal(records[layer]["routing_weight"], weights.float().numpy())
        probability = torch.softmax(reported[index].float(), dim=-1)
        implied_weights, implied = probability.topk(3, dim=-1)
        if family in ("mixtral", "qwen3_moe"):
            implied_weights = implied_weights / implied_weights.sum(dim=-1, keepdim=True)
        implied_weights = implied_weights.to(weights.dtype).float()
        np.testing.assert_array_equal(records[layer]["selected_expert"], implied.numpy())
        np.testing.assert_array_equal(records[layer]["routing_weight"], implied_weights.numpy())
        assert records[layer]["selected_expert"].dtype == np.uint8


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
    model, routers = olmoe.model, models.find_routers(olmoe.model)
    once, _ = documents([8])
    twice = np.concatenate([once, once])
    found = extraction.extract(
        model, routers, models.routing_rule(olmoe.config), [2], twice, np.array([0, 8]), tokens_per_batch=100
    )
    ((_, _, records),) = found
    np.testing.assert_array_equal(records.router_logits[:8], records.router_logits[8:])


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
    loaded = models.load(model_folder, dtype="auto", device=CPU, attention="sdpa", experts="auto")
    assert not hasattr(loaded, "lm_head")


def test_hooks_are_gone_after_a_run_and_after_an_error(olmoe):
    routers = models.find_routers(olmoe.model)
    run(olmoe)
    with pytest.raises(ValueError, match="stop"), extraction.RouterCapture(routers, [0]):
        raise ValueError("stop")
    assert not any(router._forward_hooks for router in routers.values())


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


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array), st.integers(1, 200))
def test_pools_are_consecutive_and_within_the_budget(lengths, budget):
    found = list(extraction.pools(lengths, budget))
    assert [index for pool in found for index in range(pool.start, pool.stop)] == list(range(len(lengths)))
    for pool in found:
        assert pool.stop - pool.start == 1 or lengths[pool].sum() <= budget


@settings(max_examples=15)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 30))
def test_records_come_in_the_order_of_the_tokens(lengths, budget):
    model = one_token_model()
    token_id, starts = documents(lengths)
    rule = models.routing_rule(model.config)
    found = extraction.extract(model, models.find_routers(model), rule, [0], token_id, starts, tokens_per_batch=budget)
    spans = [(first, records.router_logits) for _, first, records in found]
    assert [first for first, _ in spans] == np.cumsum([0] + [len(logits) for _, logits in spans])[:-1].tolist()
    logits = np.concatenate([logits for _, logits in spans])
    expected = model.expected[token_id]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


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
        return (logits, weights * 2, selected) if change == "weights" else (logits, weights, selected.flip(-1))

    model.model.layers[2].mlp.gate.register_forward_hook(changed)
    with pytest.raises(Problem, match="layer 2: the router did not follow the rule"):
        run(model)


def test_a_model_that_does_not_call_its_routers_is_refused(olmoe):
    stray = {0: torch.nn.Linear(2, 2)}
    with pytest.raises(Problem, match="OlmoeModel did not call its routers"):
        list(
            extraction.extract(
                olmoe.model,
                stray,
                models.routing_rule(olmoe.config),
                [0],
                *documents([3]),
                tokens_per_batch=8,
            )
        )


@pytest.mark.parametrize("rounded", [False, True])
def test_two_runs_write_identical_bytes(olmoe, tmp_path, rounded):
    token_id, starts = documents((5, 9, 3, 9, 1, 12))
    rule, routers = models.routing_rule(olmoe.config), models.find_routers(olmoe.model)
    for name in ("one", "two"):
        with (
            storage.atomic_directory(tmp_path / name) as folder,
            RecordWriter(folder, [0, 2], tokens=39, experts=8, top_k=3, rounded=rounded, attrs={}) as writer,
        ):
            for item in extraction.extract(olmoe.model, routers, rule, [0, 2], token_id, starts, tokens_per_batch=16):
                writer.write(*item)
    for layer in (0, 2):
        assert storage.sha256(tmp_path / "one" / f"layer_{layer}.nc") == storage.sha256(
            tmp_path / "two" / f"layer_{layer}.nc"
        )
    assert storage.sha256(tmp_path / "one" / "layer_0.nc") != storage.sha256(tmp_path / "one" / "layer_2.nc")


@pytest.mark.parametrize(
    ("window", "largest", "words"),
    [(65, 5, r"models\.tiny\.window: 65 .* context of 64"), (64, 320, r"token id 320 .* vocabulary of 320")],
)
def test_tokens_that_do_not_fit_the_model_are_refused(window, largest, words):
    description = {"context": 64, "vocabulary": 320}
    with pytest.raises(Problem, match=words):
        extraction.check_tokens("tiny", description, window, np.array([0, largest]))
    extraction.check_tokens("tiny", description, 64, np.array([0, 319]))
