"""Changes to experts: what each stage does by hand, that nothing changes nothing, and runs that begin in the middle."""

import math

import pytest
import torch
import transformers
from families import FAMILIES, FIRST_DENSE, causal_model, config_of, seeing_model, watched

from gatebook.problem import Problem
from gatebook.routing import patching
from gatebook.routing.families import routing_rule
from gatebook.routing.patching import NO_EXPERT, Change, CleanRun, changed, decide, restricted, weighted
from gatebook.routing.routers import find_blocks, layers_of
from gatebook.routing.rule import RoutingRule

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 3.0, 1.0, 2.0]])
PLAIN = RoutingRule("made up", 4, 2, normalised=False)
NORMALISED = RoutingRule("made up", 4, 2, normalised=True)
SELECTED = torch.tensor([[1, 0], [1, 3]])  # the first in another order than the scores
P = LOGITS.softmax(dim=-1)
EVERY = [
    *(Change("weight", mass=mass) for mass in ("none", "keep", "one")),
    Change("weight", factor=2.0),
    Change("score"),
    Change("swap", other=3),
    Change("mean", output=torch.linspace(-1, 1, 16)),
    Change("logit"),
    Change("logit", delta=1.0),
]
SLOW = [
    family if family in ("olmoe", "deepseek_v3") else pytest.param(family, marks=pytest.mark.slow)
    for family in FAMILIES
]


@pytest.fixture(autouse=True)
def one_thread():
    """More of them take longer for models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decided(change: Change, expert: list[int], rule: RoutingRule = PLAIN, bias=None, logits=LOGITS, selected=SELECTED):
    weights = rule.weights(logits, selected)
    return decide(change, torch.tensor(expert), rule, bias, logits, weights, selected)


def ids_of(windows: int = 4, positions: int = 12) -> torch.Tensor:
    return torch.randint(3, 90, (windows, positions), generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- what a change does


def test_weight_by_hand():
    weights = PLAIN.weights(LOGITS, SELECTED)
    for mass, wanted in (
        ("none", [P[0, 1], 0]),
        ("keep", [P[0, 0] + P[0, 1], 0]),
        ("one", [1, 0]),
    ):
        after, selected = decided(Change("weight", mass=mass), [0, 0])
        assert selected.equal(SELECTED) and after[1].equal(weights[1])  # the second token does not select it
        torch.testing.assert_close(after[0], torch.tensor(wanted, dtype=torch.float32))
    doubled = decided(Change("weight", factor=2.0), [0, 3])[0]
    torch.testing.assert_close(doubled, torch.stack([P[0, [1, 0]], P[1, [1, 3]]]) * torch.tensor([[1, 2], [1, 2]]))
    kept = decided(Change("weight", factor=2.0, mass="keep"), [0, 3])[0]
    torch.testing.assert_close(kept.sum(dim=-1), weights.sum(dim=-1))
    torch.testing.assert_close(kept[:, 1], doubled[:, 1])


def test_the_next_expert_enters_with_its_own_score():
    after, selected = decided(Change("score"), [0, 2])
    assert selected.tolist() == [[1, 2], [1, 3]]
    torch.testing.assert_close(after, torch.stack([P[0, [1, 2]], P[1, [1, 3]]]))
    after, selected = decided(Change("score"), [0, 2], NORMALISED)
    torch.testing.assert_close(after[0], P[0, [1, 2]] / (P[0, 1] + P[0, 2]))
    assert after[1].equal(NORMALISED.weights(LOGITS, SELECTED)[1])


def test_the_next_expert_is_that_of_score_and_bias_within_the_groups_that_are_kept():
    bias = torch.tensor([0.0, 0.0, 0.0, 5.0])
    rule = RoutingRule("made up", 4, 2, normalised=False, scores="sigmoid", bias=True)
    after, selected = decided(Change("score"), [0, NO_EXPERT], rule, bias)
    assert selected.tolist() == [[1, 3], [1, 3]]
    torch.testing.assert_close(after[0], LOGITS[0, [1, 3]].sigmoid())  # by bias selected, without it weighted
    logits = torch.tensor([[3.0, 2.9, 0.1, 2.0, 1.0, 2.8]])  # the groups 0 1 2 and 3 4 5, of which one is kept
    rule = RoutingRule("made up", 6, 2, normalised=False, groups=2, kept_groups=1)
    selected = rule.select(logits)
    assert decided(Change("score"), [0], rule, logits=logits, selected=selected)[1].tolist() == [[2, 1]]


def test_a_logit_is_not_local_and_the_other_stages_are():
    weights = PLAIN.weights(LOGITS, SELECTED)
    after, selected = decided(Change("logit"), [0, 0])
    assert selected.tolist() == [[1, 2], [1, 3]]
    torch.testing.assert_close(after[1], weights[1] / (1 - P[1, 0]))
    assert not Change("logit").is_local
    for change in EVERY:
        if change.is_local:
            after, selected = decided(change, [2, 0])
            assert after.equal(weights) and selected.equal(SELECTED)
    boosted = decided(Change("logit", delta=4.0), [2, NO_EXPERT])
    assert boosted[1].tolist() == [[2, 0], [1, 3]] and boosted[0][1].equal(weights[1])


def test_a_swap_keeps_the_weight():
    after, selected = decided(Change("swap", other=3), [0, 2])
    assert selected.tolist() == [[1, 3], [1, 3]] and after.equal(PLAIN.weights(LOGITS, SELECTED))


def test_the_selection_is_the_modules_own_where_scores_are_equal():
    logits, selected = torch.zeros(1, 4), torch.tensor([[3, 1]])  # which topk would not give
    for change in (Change("score"), Change("weight"), Change("swap", other=2)):
        _, after = decided(change, [3], logits=logits, selected=selected)
        assert after[0, 1] == 1 and decided(change, [0], logits=logits, selected=selected)[1].equal(selected)


def test_where_all_experts_are_selected_none_is_left_to_enter():
    with pytest.raises(Problem, match="use the stage weight"):
        decided(Change("score"), [0, 0], RoutingRule("made up", 4, 4, normalised=False))
    grouped = RoutingRule("made up", 4, 2, normalised=False, groups=2, kept_groups=1)
    with pytest.raises(Problem, match="use the stage weight"):
        decided(Change("score"), [0, 0], grouped)


def test_a_dense_layer_cut_into_experts():
    """Experts that are all selected with weight 1 are a dense layer, and without one it lacks that one's neurons."""
    model = causal_model("olmoe", num_experts=4, num_experts_per_tok=4)
    block = find_blocks(model.base_model)[1]
    torch.nn.init.zeros_(block.gate.weight)
    block.experts.down_proj.data *= 4  # all weights are 1 / 4
    states = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(1))

    def dense(experts: list[int]) -> torch.Tensor:
        gate, up = block.experts.gate_up_proj[experts].chunk(2, dim=1)
        gate, up = (rows.flatten(0, 1) for rows in (gate, up))
        down = block.experts.down_proj[experts].movedim(0, 1).flatten(1) / 4
        return (torch.nn.functional.silu(states @ gate.T) * (states @ up.T)) @ down.T

    with torch.inference_mode():
        torch.testing.assert_close(block(states)[0].view_as(states), dense([0, 1, 2, 3]), rtol=1e-4, atol=1e-5)
        with changed(model, 1, Change("weight"), 2):
            torch.testing.assert_close(block(states)[0].view_as(states), dense([0, 1, 3]), rtol=1e-4, atol=1e-5)
        with changed(model, 1, Change("swap", other=0), 2):
            torch.testing.assert_close(block(states)[0].view_as(states), dense([0, 1, 0, 3]), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_mean_stands_for_the_output_with_the_weight_as_it_was():
    model, ids = causal_model("olmoe"), ids_of(1)
    block = find_blocks(model.base_model)[1]
    clean = CleanRun(model, ids)
    (states, output), selected = watched({1: block}, model, ids[0])[0][1], clean.selected[1][0]
    hit = (selected == 5).any(dim=-1)
    assert 0 < hit.sum() < 12
    alone = block.experts(states[0], torch.full((12, 1), 5), torch.ones(12, 1))
    mean = clean.mean_output(1, 5)
    torch.testing.assert_close(mean, alone[hit].mean(dim=0))
    weight = torch.where(selected == 5, routing_rule(model.config).weights(block.gate(states[0])[0], selected), 0).sum(
        -1
    )
    with changed(model, 1, Change("mean", output=mean), 5):
        after = watched({1: block}, model, ids[0])[0][1][1]
    torch.testing.assert_close(after[0] - output[0], weight[:, None] * (mean - alone), rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", SLOW)
def test_what_changes_nothing_changes_no_bit(family, dtype):
    """A hook that multiplies by one, the rule applied again, and a run from any layer on give the same losses."""
    model, ids = causal_model(family, dtype), ids_of()
    clean, windows = CleanRun(model, ids), torch.arange(4)
    blocks = find_blocks(model.base_model)
    assert (min(blocks) > 0) == (family in FIRST_DENSE)
    for layer in range(len(layers_of(model.base_model))):
        assert clean.loss_after(layer, None, windows, windows).equal(clean.loss)
    for layer in blocks:
        for change in (Change("weight", factor=1.0), Change("logit", delta=0.0)):
            assert clean.loss_after(layer, change, windows, torch.arange(4)).equal(clean.loss)
        assert clean.loss_after(layer, Change(), windows, torch.full((4,), NO_EXPERT)).equal(clean.loss)
        everything = weighted(model, layer, torch.ones(clean.selected[layer].shape))
        assert clean.loss_within(layer, windows, everything).equal(clean.loss)
    experts = routing_rule(model.config).experts
    for stage in ("score", "logit"):
        whole = restricted(model, {layer: torch.ones(experts, dtype=torch.bool) for layer in blocks}, stage)
        assert clean.loss_within(0, windows, whole).equal(clean.loss)
    last = max(blocks)
    clean.inputs[last] = 1.5 * clean.inputs[last]
    assert not clean.loss_after(last, None, windows, windows).equal(clean.loss)  # so it is what is run from


@pytest.mark.parametrize("family", SLOW)
def test_runs_from_the_changed_layer_on_are_whole_runs_with_hooks(family):
    model, ids = causal_model(family), ids_of()
    clean = CleanRun(model, ids)
    for layer in find_blocks(model.base_model):
        for change in EVERY:
            found = clean.effects(layer, change, [0, 5])
            for index, expert in enumerate((0, 5)):
                with torch.inference_mode(), changed(model, layer, change, expert):
                    whole = clean._loss(ids, clean.known) - clean.loss
                assert (found[index] - whole).sum(dim=-1).abs().max() < 1e-4
        selects = (clean.selected[layer][:, :-1] == 5).flatten(1).any(dim=1)  # the last token predicts nothing
        effect = clean.effects(layer, Change(), [5])[0]
        assert (effect.abs().sum(dim=-1) > 0).equal(selects)


def test_nothing_changes_before_the_first_token_that_selects_the_expert():
    model, ids = causal_model("olmoe"), ids_of(6)
    clean = CleanRun(model, ids)
    for change in EVERY:
        effect = clean.effects(2, change, list(range(8)))
        for expert in range(8):
            selects = (clean.selected[2] == expert).any(dim=-1)[:, :-1]
            if change.is_local:  # and in the last layer only there
                assert (effect[expert][~selects].abs() < 2e-6).all()
            assert not selects.any() or change.stage == "swap" or effect[expert][selects].abs().max() > 1e-4


def test_what_pads_a_window_changes_nothing():
    model, ids = causal_model("olmoe"), ids_of(3)
    lengths = torch.tensor([12, 7, 2])
    clean, experts = CleanRun(model, ids, lengths), list(range(8))
    assert clean.known.sum(dim=1).tolist() == [11, 6, 1] and (clean.loss[~clean.known] == 0).all()
    gradients, others = clean.gradients(), {layer: clean.effects(layer, Change(), experts) for layer in range(3)}
    for row, length in enumerate(lengths.tolist()):
        alone = CleanRun(model, ids[row : row + 1, :length])
        torch.testing.assert_close(clean.loss[row, : length - 1], alone.loss[0], rtol=1e-4, atol=1e-5)
        for layer in range(3):
            found = others[layer][:, row]
            assert (found[:, length - 1 :] == 0).all()
            own = alone.effects(layer, Change(), experts)[:, 0]
            torch.testing.assert_close(found[:, : length - 1], own, rtol=1e-3, atol=1e-5)
            for each, wanted in (
                (clean.direct_logits(layer), alone.direct_logits(layer)),
                (gradients[layer][:, :-1] * clean.known[..., None], alone.gradients()[layer][:, :-1]),
            ):
                torch.testing.assert_close(each[row, : length - 1], wanted[0], rtol=1e-2, atol=1e-4)


@torch.inference_mode()
def test_direct_logits_are_those_of_the_last_state_without_a_contribution():
    model, ids = causal_model("olmoe"), ids_of(2)
    clean, last = CleanRun(model, ids), len(layers_of(model.base_model))
    for layer in (0, 2):
        for rank in range(3):
            ends = [clean.inputs[last] - part for part in (0, clean.contributions(layer)[:, :, rank])]
            logits = [model.lm_head(model.base_model.norm(end))[:, :-1] for end in ends]
            own = [each.gather(-1, ids[:, 1:, None])[..., 0] - each.mean(dim=-1) for each in logits]
            torch.testing.assert_close(clean.direct_logits(layer)[..., rank], own[0] - own[1], rtol=1e-3, atol=1e-4)


def test_gradients_are_slopes():
    """Of a factor of one slot's weight, a little larger and a little smaller."""
    model = causal_model("olmoe", torch.float64)
    clean, ends = CleanRun(model, ids_of(1)), []
    found = clean.gradients()[0]
    for step in (0.02, -0.02):
        factor = torch.ones_like(clean.weights[0])
        factor[0, 5, 1] += step
        ends.append(clean.loss_within(0, torch.tensor([0]), weighted(model, 0, factor)).sum())
    torch.testing.assert_close(found[0, 5, 1].float(), (ends[1] - ends[0]) / 0.04, rtol=1e-2, atol=1e-4)


def test_contributions_add_up_to_the_block():
    model, ids = causal_model("olmoe"), ids_of(2)
    clean = CleanRun(model, ids)
    for layer, block in find_blocks(model.base_model).items():
        _, output = watched({layer: block}, model, ids[0])[0][layer]
        torch.testing.assert_close(clean.contributions(layer)[0].sum(dim=1), output[0], rtol=1e-3, atol=1e-5)


def test_an_expert_that_no_token_selects_has_no_effect():
    model, ids = causal_model("olmoe"), ids_of(2)
    find_blocks(model.base_model)[1].gate.weight.data[4:] = 0  # of logits that are 0, four of others are larger
    clean = CleanRun(model, ids[:, :3])
    never = [expert for expert in range(8) if not (clean.selected[1] == expert).any()]
    assert never and (clean.effects(1, Change(), never) == 0).all()
    assert (clean.mean_output(1, never[0]) == 0).all()


@torch.inference_mode()
def test_tokens_may_be_chosen_one_by_one():
    model, ids = causal_model("olmoe"), ids_of(2)
    clean = CleanRun(model, ids)
    expert = torch.full((2, 12), NO_EXPERT)
    expert[1, 7] = clean.selected[2][1, 7, 0]
    with changed(model, 2, Change("weight"), expert):
        effect = clean._loss(ids, clean.known) - clean.loss
    assert effect[1, 7].abs() > 1e-4
    effect[1, 7] = 0
    assert effect.abs().max() < 2e-6


def test_slots_without_weight_are_a_removed_expert():
    model, ids = causal_model("olmoe"), ids_of()
    clean, windows = CleanRun(model, ids), torch.arange(4)
    removed = clean.loss_after(1, Change("weight"), windows, torch.full((4,), 5))
    assert not removed.equal(clean.loss)
    slots = weighted(model, 1, (clean.selected[1] != 5).float())
    torch.testing.assert_close(clean.loss_within(1, windows, slots), removed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", SLOW)
@torch.inference_mode()
def test_tokens_select_among_the_experts_that_are_kept(family):
    model, ids = causal_model(family), ids_of()
    blocks, rule = find_blocks(model.base_model), routing_rule(model.config)
    clean, layer, seen = CleanRun(model, ids), max(blocks), {}
    removed = int(clean.selected[layer].flatten()[0])
    kept = torch.arange(rule.experts) != removed
    for stage in ("score", "logit"):
        with restricted(model, {layer: kept}, stage):
            watching = blocks[layer].experts.register_forward_pre_hook(lambda module, given: seen.update(given=given))
            loss = clean._loss(ids, clean.known)
            watching.remove()
        _, selected, weights = seen["given"]
        assert kept[selected].all() and (selected.sort(dim=-1).values.diff(dim=-1) > 0).all() and (weights > 0).any()
        if stage == "score" or not rule.bias:  # a bias may select an expert whose score is 0
            alone = clean.loss_after(layer, Change(stage), torch.arange(4), torch.full((4,), removed))
            torch.testing.assert_close(loss, alone, rtol=0, atol=1e-5)


def test_fewer_experts_than_a_token_selects_are_refused():
    model = causal_model("olmoe")
    few = {1: torch.arange(8) < 1}
    with pytest.raises(Problem, match="1 experts are kept in layer 1"), restricted(model, few):
        pass


def test_a_model_is_as_before_after_an_error():
    model, ids = causal_model("olmoe"), ids_of(2)
    clean = CleanRun(model, ids)
    with pytest.raises(RuntimeError, match="stop"), changed(model, 1, Change(), 0), clean._resumed(2, clean.inputs[2]):
        raise RuntimeError("stop")
    assert CleanRun(model, ids).loss.equal(clean.loss)
    own = layers_of(model.base_model)[0].forward
    layers_of(model.base_model)[0].forward = own  # as of a model that is spread over several devices
    assert clean.effects(1, Change(), [0]).equal(CleanRun(model, ids).effects(1, Change(), [0]))
    assert vars(layers_of(model.base_model)[0]).pop("forward") is own
    assert not any("forward" in vars(layer) or layer._forward_hooks for layer in layers_of(model.base_model))


def test_another_implementation_of_experts_changes_as_much():
    model, ids = causal_model("olmoe"), ids_of(2)
    one = CleanRun(model, ids).effects(1, Change(), [0, 1, 2])
    model.set_experts_implementation("grouped_mm")
    torch.testing.assert_close(CleanRun(model, ids).effects(1, Change(), [0, 1, 2]), one, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- what is refused


def test_models_without_a_head_are_refused():
    config = seeing_model("qwen3_vl_moe").config.get_text_config()
    assert "no language-model head" in patching.refusal(config)
    model = transformers.AutoModel.from_config(config)
    with pytest.raises(Problem, match="is not supported: transformers has no language-model head"):
        CleanRun(model, ids_of())
    assert all(patching.refusal(config_of(family)) is None for family in FAMILIES)


def test_blocks_that_hand_their_experts_something_else_are_refused():
    model = causal_model("olmoe")
    block = find_blocks(model.base_model)[1]
    whole = block.experts.forward
    block.experts.register_forward_pre_hook(lambda module, given: (given[0], (given[1], given[2])), prepend=True)
    block.experts.forward = lambda states, decision: whole(states, *decision)
    with pytest.raises(Problem, match="block of layer 1 does not hand its experts"):
        CleanRun(model, ids_of())
    assert math.isinf(Change().delta)
