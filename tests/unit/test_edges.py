"""Models taken apart into nodes: parts that add up, attribution by hand, and paths against a model run with hooks."""

import numpy as np
import pytest
import torch
from families import causal_model
from torch import nn

from gatebook.problem import Problem
from gatebook.routing.edges import Asked, Parts, Run, _of_node
from gatebook.routing.node_list import ATTENTION, EMBEDDING, EXPERT, OUTPUT, REST

SOME = ("olmoe", "qwen2_moe", "deepseek_v3")
"""Without and with shared experts, with a dense layer, with groups and a bias."""


@pytest.fixture(autouse=True)
def one_thread():
    """Sums of several threads may differ from run to run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def prompts(rows: int = 3, positions: int = 6) -> tuple[torch.Tensor, torch.Tensor, Asked]:
    """Two versions of prompts that differ in a token, and what is asked of them."""
    ids = torch.randint(3, 90, (rows, positions), generator=torch.Generator().manual_seed(2))
    other = ids.clone()
    other[:, 1] = (ids[:, 1] + 7) % 90
    last = torch.tensor([positions - 1, positions - 2, positions - 1][:rows])
    return ids, other, Asked(last, torch.tensor([1, 2, 3][:rows]), torch.tensor([5, 6, 7][:rows]))


def traced(family: str) -> tuple[Parts, Run, Run, Asked]:
    """A model taken apart, with its runs on both versions of the prompts."""
    ids, other, asked = prompts()
    parts = Parts(causal_model(family))
    return parts, parts.run(ids), parts.run(other), asked


def test_a_node_has_a_name_and_a_place():
    nodes = Parts(causal_model("qwen2_moe")).nodes  # layer 0 is dense
    assert [nodes.name(number) for number in (0, 1, 2, 3, 4)] == [
        "embedding",
        "attention 0",
        "attention 1",
        "rest 1",
        "L1E0",
    ]
    assert nodes.name(nodes.number(OUTPUT, 3)) == "output" and nodes.name(nodes.number(EXPERT, 2, 7)) == "L2E7"
    first, expert, after = (nodes.place[nodes.number(*at)] for at in ((ATTENTION, 1), (EXPERT, 1, 3), (ATTENTION, 2)))
    assert nodes.place[0] < first < expert == nodes.place[nodes.number(REST, 1)] < after < nodes.place[-1]


@pytest.mark.parametrize("family", SOME)
def test_parts_that_nothing_changes_are_the_model_bit_for_bit(family):
    parts, run, _, asked = traced(family)
    with torch.no_grad():
        logits = parts.model(input_ids=run.token_ids, use_cache=False).logits.float()
        rows = torch.arange(len(logits))
        wanted = logits[rows, asked.last, asked.right] - logits[rows, asked.last, asked.wrong]
        for layer in parts.blocks:
            assert torch.equal(parts.after(layer, run.middles[layer]), run.inputs[layer + 1])
            keep = torch.ones(len(rows), parts.experts, dtype=torch.bool)
            kept = parts.kept(layer, run.middles[layer], keep, torch.zeros_like(run.middles[layer]))
            assert torch.equal(kept, run.inputs[layer + 1])
            whole = run.middles[layer] + run.contributions[layer].sum(dim=2) + run.rests.get(layer, 0)
            torch.testing.assert_close(whole, run.inputs[layer + 1])
        assert torch.equal(parts.difference(run.inputs[len(parts.layers)], asked), wanted)
        assert torch.equal(parts.resumed(1, run.inputs[1], asked), wanted)


@pytest.mark.parametrize("family", SOME)
def test_a_path_without_a_difference_changes_no_bit(family):
    parts, run, _, asked = traced(family)
    nodes = parts.nodes
    edges = [(0, number) for number in range(1, len(nodes.kind), 3)]
    found = parts.patch_paths(run, parts.senders(run, run), asked, edges, len(run.token_ids))
    wanted = parts.difference(run.inputs[len(parts.layers)], asked)
    assert torch.equal(found, wanted[:, None].expand_as(found))


@pytest.mark.parametrize("family", SOME)
def test_gradients_at_receivers_add_up_to_that_of_the_model(family):
    parts, run, _, asked = traced(family)
    leaf = run.inputs[0].clone().requires_grad_()
    states = leaf
    for layer in range(len(parts.layers)):
        states = parts.through(layer, states)
    (wanted,) = torch.autograd.grad(parts.difference(states, asked).sum(), leaf)
    stream, receivers = parts.gradients(run, asked)
    torch.testing.assert_close(stream[-1], wanted)
    total = sum(each.values.sum(dim=2) for each in receivers)  # the embedding is read by all of them
    torch.testing.assert_close(total, wanted)


def test_scores_are_differences_times_gradients_by_hand():
    parts, base, other, asked = traced("olmoe")
    nodes, layer = parts.nodes, 0
    stream, receivers = parts.gradients(base, asked)
    senders = parts.senders(base, other)
    scores, edges = parts.node_scores(stream, senders), parts.edge_scores(senders, receivers)
    expert = int(base.selected[layer][0, 1, 0])
    wanted = 0.0
    for run, sign in ((other, 1), (base, -1)):
        for position in range(base.token_ids.shape[1]):
            for rank in range(3):
                if run.selected[layer][0, position, rank] == expert:
                    wanted += sign * float(run.contributions[layer][0, position, rank] @ stream[1][0, position])
    sender = nodes.number(EXPERT, layer, expert)
    assert scores[0, sender].item() == pytest.approx(wanted, rel=1e-4)
    # What goes through all receivers together is what the sender does.
    torch.testing.assert_close(edges.sum(dim=2)[:, :-1], scores[:, :-1], rtol=1e-3, atol=1e-6)
    assert (edges[:, nodes.place[:, None] >= nodes.place[None]] == 0).all()


def test_the_effect_of_an_edge_is_that_of_a_model_with_hooks():
    """From an expert of layer 0 to one of layer 1, to the attention of layer 1, and to the output."""
    parts, base, other, asked = traced("olmoe")
    nodes, model = parts.nodes, parts.model
    sender = int(base.selected[0][0, 1, 0])
    receiver = int(base.selected[1][0, -1, 0])
    senders = parts.senders(base, other)
    given = _of_node(senders, nodes.number(EXPERT, 0, sender))
    assert given.abs().sum() > 0
    edges = [
        (nodes.number(EXPERT, 0, sender), nodes.number(*at))
        for at in ((EXPERT, 1, receiver), (ATTENTION, 1), (OUTPUT, 3))
    ]
    found = parts.patch_paths(base, senders, asked, edges, 100)
    layer = model.model.layers[1]

    def said() -> torch.Tensor:
        logits = model(input_ids=base.token_ids, use_cache=False).logits
        rows = torch.arange(len(logits))
        return logits[rows, asked.last, asked.right] - logits[rows, asked.last, asked.wrong]

    def contribution(middle: torch.Tensor) -> torch.Tensor:
        """Of the receiver, by the formulas of OLMoE."""
        states = layer.post_attention_layernorm(middle)
        probability = torch.softmax(nn.functional.linear(states, layer.mlp.gate.weight).float(), dim=-1)
        chosen = (probability.topk(3, dim=-1).indices == receiver).any(dim=-1)
        gate, up = nn.functional.linear(states, layer.mlp.experts.gate_up_proj[receiver]).chunk(2, dim=-1)
        output = nn.functional.linear(nn.functional.silu(gate) * up, layer.mlp.experts.down_proj[receiver])
        return output * torch.where(chosen, probability[..., receiver], 0)[..., None]

    with torch.no_grad():
        more = contribution(base.middles[1] + given) - contribution(base.middles[1])
        assert more.abs().max() > 1e-4
        hooks = {
            0: layer.mlp.register_forward_hook,
            1: layer.input_layernorm.register_forward_pre_hook,
            2: model.model.norm.register_forward_pre_hook,
        }
        changes = {
            0: lambda module, states, output: output + more,
            1: lambda module, states: (states[0] + given,),
            2: lambda module, states: (states[0] + given,),
        }
        for place, hook in hooks.items():
            handle = hook(changes[place])
            torch.testing.assert_close(found[:, place], said(), rtol=1e-4, atol=1e-5)
            handle.remove()
        assert not torch.allclose(found[:, 0], said(), atol=1e-5)


def test_small_differences_have_the_effect_that_attribution_says():
    parts, base, other, asked = traced("qwen2_moe")
    nodes = parts.nodes
    senders = [one._replace(values=one.values * 1e-3) for one in parts.senders(base, other)]
    _, receivers = parts.gradients(base, asked)
    scores = parts.edge_scores(senders, receivers).sum(dim=0).numpy()
    slots = base.selected[1][:, :, 0].flatten().tolist()
    edges = [(0, nodes.number(ATTENTION, 0)), (0, nodes.number(ATTENTION, 2)), (1, nodes.number(REST, 1))]
    edges += [(0, nodes.number(EXPERT, 1, slots[0])), (1, nodes.number(OUTPUT, 3))]
    before = parts.difference(base.inputs[3], asked).detach()
    found = (parts.patch_paths(base, senders, asked, edges, 100) - before[:, None]).sum(dim=0).numpy()
    np.testing.assert_allclose(found, [scores[edge] for edge in edges], rtol=0.05, atol=2e-6)


@pytest.mark.parametrize(
    ("family", "reason"), [("flex_olmo", "no norm stands before"), ("afmoe", "do more with what their experts return")]
)
def test_models_that_do_not_come_apart_are_refused(family, reason):
    parts = Parts(causal_model(family))
    assert parts.handed_on(prompts()[0]).shape == (3, 6, 16)  # what they say is known
    with pytest.raises(Problem, match=reason):
        parts.run(prompts()[0])


def test_the_embedding_is_a_node_without_a_number_of_an_expert():
    nodes = Parts(causal_model("olmoe")).nodes
    assert nodes.kind[0] == EMBEDDING and nodes.expert[0] == -1 and nodes.layer[0] == -1
