"""Routing rules: read from the config, and bit for bit what the router modules of every family do."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import (
    EXAMPLES,
    FAMILIES,
    FIRST_DENSE,
    REFUSED,
    SEEING,
    WHY,
    causal_model,
    config_of,
    decided,
    with_tables,
)
from hypothesis import given
from hypothesis import strategies as st
from transformers import DeepseekV2Config, DeepseekV3Config, MixtralConfig, OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig

from gatebook.lists import ROOT
from gatebook.problem import Problem
from gatebook.routing.families import gives_logits_alone, routing_rule
from gatebook.routing.following import complete
from gatebook.routing.routers import check_sum, find_blocks, find_routers, selection_bias, sum_difference
from gatebook.routing.rule import RoutingRule, check_rule, logarithm, routing_rule_of

TOKENS = torch.arange(40) * 7 % 97


def applied(rule, logits, bias=None):
    """Weights and selected experts."""
    selected = rule.select(logits, bias)
    return rule.weights(logits, selected), selected


def test_rule_of_olmoe_on_hand_computed_logits():
    rule = routing_rule(OlmoeConfig(num_experts=4, num_experts_per_tok=2, norm_topk_prob=False))
    weights, selected = applied(rule, torch.tensor([[0.0, 3.0, 1.0, 2.0]]).log1p())
    assert selected.tolist() == [[1, 3]]
    torch.testing.assert_close(weights, torch.tensor([[0.4, 0.3]]))


def test_rule_of_mixtral_renormalises_in_float32():
    rule = routing_rule(MixtralConfig(num_local_experts=4, num_experts_per_tok=2))
    weights, selected = applied(rule, torch.tensor([[0.0, 3.0, 1.0, 1.0]]).log1p().bfloat16())
    assert selected.tolist()[0][0] == 1
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([[2 / 3, 1 / 3]]), atol=1e-2, rtol=0)


def test_rule_of_gpt_oss_is_a_softmax_over_the_selected_logits():
    rule = RoutingRule("gpt_oss", 3, 2, normalised=True, weighting="softmax of the selected logits")
    weights, selected = applied(rule, torch.tensor([[0.0, math.log(3), math.log(2)]]))
    assert selected.tolist() == [[1, 2]]
    torch.testing.assert_close(weights, torch.tensor([[0.6, 0.4]]))


def logit(probability: float) -> float:
    """The z with sigmoid(z) = probability."""
    return math.log(probability / (1 - probability))


def test_rule_of_deepseek_v3_on_hand_computed_scores():
    """Groups {0, 1}, {2, 3}, {4, 5}; one is kept. Without bias it is the second (0.6 + 0.5), with bias the third."""
    rule = RoutingRule(
        "deepseek_v3", 6, 2, normalised=True, scores="sigmoid", bias=True, groups=3, kept_groups=1,
        group_score="two best", scale=2.5,
    )  # fmt: skip
    logits = torch.tensor([[logit(score) for score in (0.9, 0.1, 0.6, 0.5, 0.3, 0.2)]])
    none, lifted = torch.zeros(6), torch.tensor([0, 0, 0, 0, 0.5, 0.5])
    for bias, experts, shares in ((none, [2, 3], [6 / 11, 5 / 11]), (lifted, [4, 5], [0.6, 0.4])):
        weights, selected = applied(rule, logits, bias)
        order = selected[0].argsort()
        assert selected[0][order].tolist() == experts
        torch.testing.assert_close(weights[0][order], 2.5 * torch.tensor(shares))  # the bias is not in the weights
        preference = rule.preference(logits, bias)[0]
        assert preference.isfinite().nonzero().ravel().tolist() == experts
    torch.testing.assert_close(rule.probability(logits), torch.tensor([[0.9, 0.1, 0.6, 0.5, 0.3, 0.2]]) / 2.6)
    assert rule.may_skip_the_largest


IN_THE_WEIGHTS = {
    "weights are p": ({}, {"logit_margin", "top_k_mass", "top_1_probability"}),
    "divided by their sum": ({"normalised": True}, {"logit_margin"}),
    "one weight": ({"top_k": 1}, {"top_k_mass"}),
    "one weight, which is 1": ({"top_k": 1, "normalised": True}, set()),
    "a bias may leave out the largest": ({"bias": True}, {"top_k_mass"}),
    "so may groups": ({"groups": 2}, {"top_k_mass"}),
    "a bias and one weight": ({"bias": True, "top_k": 1, "normalised": True}, set()),
    "scores that are no p": ({"scores": "sigmoid"}, set()),
}


@pytest.mark.parametrize("case", IN_THE_WEIGHTS)
def test_what_follows_from_the_weights_alone(case):
    settings, scalars = IN_THE_WEIGHTS[case]
    assert RoutingRule(**{"family": "x", "experts": 6, "top_k": 2, "normalised": False} | settings).in_the_weights == (
        scalars
    )


def test_scalars_are_completed_from_the_weights_by_hand():
    """p = (1/2, 1/3, 1/6), of which two are selected, times 2."""
    record = {"selected_expert": np.array([[0, 1]], np.uint8), "routing_weight": np.array([[1, 2 / 3]], np.float32)}
    whole = complete(record, RoutingRule("x", 3, 2, normalised=False, scale=2.0))
    assert whole["top_k_mass"].item() == pytest.approx(5 / 6)
    assert whole["top_1_probability"].item() == pytest.approx(1 / 2)
    assert whole["logit_margin"].item() == pytest.approx(math.log(3 / 2))
    alone = {"selected_expert": record["selected_expert"][:, :1], "routing_weight": record["routing_weight"][:, :1]}
    assert complete(alone, RoutingRule("x", 3, 1, normalised=False, scale=2.0)).keys() == alone.keys() | {"top_k_mass"}


@pytest.mark.parametrize("config", [OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig])
@pytest.mark.parametrize("normalised", [False, True])
def test_experts_top_k_and_renormalisation_are_those_of_the_config(config, normalised):
    rule = routing_rule(config(num_experts=12, num_experts_per_tok=5, norm_topk_prob=normalised))
    assert (rule.experts, rule.top_k, rule.normalised) == (12, 5, normalised)
    assert not rule.may_skip_the_largest


def test_so_is_the_rest():
    sizes = {"num_experts_per_tok": 6, "n_routed_experts": 160, "n_shared_experts": 2, "routed_scaling_factor": 16.0}
    sizes["num_hidden_layers"] = 2
    greedy = routing_rule(DeepseekV2Config(**sizes))
    assert (greedy.experts, greedy.top_k, greedy.groups, greedy.scale) == (160, 6, 1, 16.0)
    assert (greedy.shared_experts, greedy.normalised) == (2, False)
    limited = routing_rule(DeepseekV2Config(**sizes, topk_method="group_limited_greedy", n_group=8, topk_group=3))
    assert (limited.groups, limited.kept_groups, limited.group_score) == (8, 3, "best")
    sigmoid = routing_rule(DeepseekV3Config(num_hidden_layers=4))
    assert (sigmoid.scores, sigmoid.bias, sigmoid.groups, sigmoid.kept_groups) == ("sigmoid", True, 8, 4)
    assert (sigmoid.experts, sigmoid.top_k, sigmoid.scale, sigmoid.group_score) == (256, 8, 2.5, "two best")
    assert routing_rule(Qwen2MoeConfig(num_hidden_layers=2)).shared_experts == 1
    written = json.loads(sigmoid.as_json(dense_layers=[0, 1, 2]))
    assert written["dense_layers"] == [0, 1, 2]
    assert written["family"] == "deepseek_v3"


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_whose_rule_is_not_known_is_refused_in_one_sentence(family):
    with pytest.raises(Problem, match=rf"model_type '{family}' .* is not supported: .*{REFUSED[family][2]}") as raised:
        routing_rule(config_of(family))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("what", ["experts", "weights"])
def test_a_router_that_departs_by_a_hair_from_every_rule_is_refused(what, monkeypatch):
    """The null: weights of a supported family one part in a million larger, or its last expert another one."""
    from transformers.models.olmoe.modeling_olmoe import OlmoeTopKRouter

    forward, config = OlmoeTopKRouter.forward, config_of("olmoe", num_experts_per_tok=2)
    assert routing_rule(config).experts == 8

    def changed(self, states):
        logits, weights, selected = forward(self, states)
        if what == "weights":
            return logits, weights * (1 + 1e-6), selected
        return logits, weights, torch.stack([selected[:, 0], (selected[:, 1] + 1) % 8], dim=1)

    monkeypatch.setattr(OlmoeTopKRouter, "forward", changed)
    config.eos_token_id = 5  # another model, whose rule is not known yet
    with pytest.raises(Problem, match=f"no rule that is known: {what} of token 0: .* expected, .* returned"):
        routing_rule(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["dbrx", "qwen2_moe", "deepseek_v3", "lfm2_moe", "nemotron_h"])
def test_the_weighted_sum_of_experts_is_the_block_for_the_right_rule_only(family, dtype):
    """Real experts, shared ones too; each wrong rule changes the sum by more than rounding."""
    model = causal_model(family, dtype)
    block, rule = find_blocks(model.base_model)[2], routing_rule(model.config)
    states = torch.randn(60, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert sum_difference(rule, block, states) is None
    other_scores = "sigmoid" if rule.scores == "softmax" else "softmax"
    wrong = [{"normalised": not rule.normalised}, {"scores": other_scores}, {"top_k": 2}, {"scale": 1.1}]
    for change in wrong + ([{"bias": False}] if rule.bias else []):
        said = sum_difference(replace(rule, **change), block, states)
        assert re.fullmatch(r"the block's output for token \d+ differs by .* of its size from .*", said), change


@pytest.mark.parametrize(("norm", "normalised"), [(1.0, True), (None, False)])
def test_a_router_that_gives_logits_alone_is_proved_by_what_its_block_returns(norm, normalised):
    sizes = {"moe_num_experts": 8, "moe_top_k": 6, "ffn_hidden_size": 8, "moe_normalize_expert_weights": norm}
    config = config_of("dbrx", ffn_config=sizes)
    rule = routing_rule(config)
    assert (rule.experts, rule.top_k, rule.scores, rule.normalised) == (8, 6, "softmax", normalised)
    assert gives_logits_alone(config) and not gives_logits_alone(config_of("olmoe"))


def test_a_block_whose_experts_do_not_add_up_to_its_output_is_refused(monkeypatch):
    """The null: weights divided by another norm; an output a thousandth larger; experts that are called otherwise."""
    from transformers.models.dbrx.modeling_dbrx import DbrxFFN

    sizes = {"moe_num_experts": 8, "moe_top_k": 3, "ffn_hidden_size": 8}
    refused = "no rule that is known: the block's output for token .* of its experts' outputs, and rounding allows"
    with pytest.raises(Problem, match=refused):
        routing_rule(config_of("dbrx", ffn_config=sizes | {"moe_normalize_expert_weights": 2.0}))
    forward, rule = DbrxFFN.forward, routing_rule(config_of("dbrx"))
    block = find_blocks(causal_model("dbrx").base_model)[1]
    check_sum(rule, 1, block)
    monkeypatch.setattr(DbrxFFN, "forward", lambda self, states: forward(self, states) * 1.001)
    with pytest.raises(Problem, match=refused):
        routing_rule(config_of("dbrx", eos_token_id=5))  # another model, whose rule is not known yet
    with pytest.raises(Problem, match=r"^layer 1: the block did not follow .* cannot be trusted: report this model"):
        check_sum(rule, 1, block)
    monkeypatch.setattr(DbrxFFN, "forward", lambda self, states: self.experts(self.router(states)))
    with pytest.raises(Problem, match="its router cannot be tried alone"):
        routing_rule(config_of("dbrx", eos_token_id=6))


def test_a_single_bit_or_expert_that_differs_is_seen():
    rule = RoutingRule("x", 6, 2, normalised=True)
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    weights, selected = applied(rule, logits)
    assert rule.difference(logits, weights, selected) is None
    assert rule.difference(logits, weights.flip(1), selected.flip(1)) is None  # whatever the order
    assert rule.difference(logits, weights.bfloat16(), selected) is None  # whatever the dtype of the weights
    weights[3, 1] = torch.nextafter(weights[3, 1], torch.tensor(1.0))
    assert rule.difference(logits, weights, selected).startswith("weights of token 3: ")
    selected[2, 1] = next(expert for expert in range(6) if expert not in selected[2])
    assert rule.difference(logits, weights, selected).startswith("experts of token 2: ")
    with pytest.raises(
        Problem, match=r"^layer 7: the router did not follow .*, experts of token 2: .*cannot be trusted"
    ):
        check_rule(rule, 7, logits, weights, selected, None)


def test_a_rule_in_the_precision_of_the_logits_and_one_in_float32_differ_in_bfloat16_only():
    rule = RoutingRule("x", 6, 2, normalised=True, scores="sigmoid")
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    coarse = replace(rule, precision="logits")
    assert coarse.difference(logits, *applied(rule, logits)) is None
    assert coarse.difference(logits.bfloat16(), *applied(rule, logits.bfloat16())) is not None
    assert applied(coarse, logits.bfloat16())[0].dtype == torch.bfloat16


def test_the_kinds_of_rule_that_are_found():
    found = {family: routing_rule(config_of(family)) for family in ("lfm2_moe", "granitemoe", "minimax_m2", "jamba")}
    lfm2 = found["lfm2_moe"]
    assert (lfm2.scores, lfm2.bias, lfm2.epsilon, lfm2.precision) == ("sigmoid", True, 1e-6, "logits")
    assert found["granitemoe"].weighting == "softmax of the selected logits"
    assert (found["minimax_m2"].scores, found["minimax_m2"].bias) == ("sigmoid", True)
    assert (found["jamba"].scores, found["jamba"].normalised) == ("softmax", False)
    assert routing_rule(config_of("hunyuan_v1_moe")).shared_experts == 1
    afmoe = routing_rule(config_of("afmoe"))
    assert (afmoe.scale, afmoe.shared_experts, afmoe.bias) == (1.5, 1, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_rule_reproduces_the_modules_bit_for_bit(family, dtype):
    model = causal_model(family, dtype)
    routers, blocks, rule = find_routers(model.base_model), find_blocks(model.base_model), routing_rule(model.config)
    assert sorted(routers) == ([1, 2] if family in FIRST_DENSE else [0, 1, 2])
    for layer, (_, (logits, weights, selected)) in decided(model, TOKENS).items():
        bias = selection_bias(blocks[layer])
        assert (bias is not None) == rule.bias
        assert rule.difference(logits, weights, selected, bias) is None
        if rule.precision == "float32":
            preferred = rule.preference(logits, bias)
            assert torch.equal(preferred.gather(-1, selected).amin(dim=-1), preferred.topk(3).values[:, -1])
        torch.testing.assert_close(rule.probability(logits).sum(dim=-1), torch.ones(40))


def test_the_readme_says_what_is_tested():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(REFUSED) == set(WHY) and set(EXAMPLES) == set(FAMILIES) | set(SEEING)
    assert with_tables(text) == text, "write it: make lists"


@given(st.integers(1, 6), st.integers(1, 4), st.randoms())
def test_kept_groups_equal_brute_force(groups, size, random):
    """Every combination of groups: those kept have the largest sum of their two best experts."""
    size, kept = size + 1, random.randint(1, groups)
    rule = RoutingRule(
        "x", groups * size, 1, True, scores="sigmoid", bias=True, groups=groups, kept_groups=kept,
        group_score="two best",
    )  # fmt: skip
    values = [random.uniform(-4, 4) for _ in range(groups * size)]
    preference = rule.preference(torch.tensor([values]), torch.zeros(groups * size))[0]
    scores = [1 / (1 + math.exp(-value)) for value in values]
    best = [sum(sorted(scores[group * size : (group + 1) * size])[-2:]) for group in range(groups)]
    found = {expert // size for expert in preference.isfinite().nonzero().ravel().tolist()}
    assert len(found) == (kept if groups > 1 else 1)
    assert min(best[group] for group in found) >= sorted(best)[-kept] - 1e-6


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("biased", "groups"), [(False, 1), (True, 1), (True, 3), (False, 3)])
def test_scalars_of_arrays_are_those_of_tensors(scores, biased, groups):
    rng = np.random.default_rng(0)
    options = {"scores": scores, "bias": biased, "groups": groups, "kept_groups": min(groups, 2)}
    rule = RoutingRule("made up", 9, 4, normalised=True, **options)
    logits = rng.normal(0, 3, (300, 9)).astype(np.float32)
    logits[0] = 1  # all alike
    bias = rng.normal(0, 0.2, 9).astype(np.float32) if biased else None
    tensors = torch.from_numpy(logits), None if bias is None else torch.from_numpy(bias)
    selected = rule.select(*tensors)
    record = {"router_logits": logits, "selected_expert": selected.numpy().astype(np.uint8)}
    found = complete(record, rule, bias)
    for name, values in rule.scalars(tensors[0], selected, tensors[1]).items():
        exact = name not in ("entropy", "log_sum_exp", "top_k_mass")
        np.testing.assert_allclose(found[name], values.numpy(), rtol=0 if exact else 1e-6, atol=0 if exact else 1e-6)
        assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found["routing_weight"], rule.weights(tensors[0], selected).numpy())


def test_of_two_groups_only_the_better_one_is_selected_from():
    rule = RoutingRule("x", 4, 1, True, groups=2, kept_groups=1, group_score="two best")
    logits = torch.tensor([[3.0, -9.0, 2.9, 2.8], [3.0, -9.0, 2.9, -8.0]])
    assert rule.select(logits).tolist() == [[2], [0]]
    assert replace(rule, groups=1).select(logits).tolist() == [[0], [0]]


@pytest.mark.parametrize("weighting", ["scores", "softmax of the selected logits"])
def test_a_constant_factor_multiplies_the_weights(weighting):
    logits, selected = torch.tensor([[1.0, 2.0, -1.0]]), torch.tensor([[1, 0]])
    one = RoutingRule("x", 3, 2, True, weighting=weighting).weights(logits, selected)
    four = RoutingRule("x", 3, 2, True, weighting=weighting, scale=4.0).weights(logits, selected)
    torch.testing.assert_close(one.sum(dim=-1), torch.ones(1))
    torch.testing.assert_close(four, 4 * one)


def test_a_probability_that_underflows_adds_nothing_to_the_entropy():
    assert logarithm(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([-149 * math.log(2), 0])
    rule = RoutingRule(family="olmoe", experts=3, top_k=1, normalised=False)
    logits = torch.tensor([[200.0, 0.0, 0.0]])
    assert rule.probability(logits).tolist() == [[1, 0, 0]]
    assert rule.scalars(logits, torch.tensor([[0]]))["entropy"].tolist() == [0]


@pytest.mark.parametrize("more", [{}, {"layers": 3}])
def test_the_rule_is_read_back_from_what_records_say(more):
    rule = RoutingRule(family="deepseek_v3", experts=8, top_k=2, normalised=True, scores="sigmoid", groups=4, scale=2.5)
    assert routing_rule_of({"routing_rule": rule.as_json(**more)}) == rule
