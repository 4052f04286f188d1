"""Nodes: nothing changed changes nothing, patches by hand, and a circuit that was planted."""

import pytest
import torch
from families import KINDS, causal_model
from task_cases import WRITERS, planted, planted_pairs
from test_patching import one_thread  # noqa: F401

from gatebook.routing.nodes import PairRun, attention_of, attention_replaced, experts_replaced, handed
from gatebook.routing.routers import find_blocks, layers_of

LENGTHS, RIGHT, WRONG = torch.tensor([9, 7]), torch.tensor([5, 6]), torch.tensor([7, 8])
WITHOUT_ATTENTION = {"nemotron_h"}
"""Families whose tiny model has none."""


def run_of(model) -> PairRun:
    ids = torch.randint(3, 90, (2, 2, 9), generator=torch.Generator().manual_seed(2))
    ids[1, :, 5:] = ids[0, :, 5:]
    return PairRun(model, ids, LENGTHS, RIGHT, WRONG)


def moved(run: PairRun, layer: int, expert: int) -> torch.Tensor:
    """The partner's contribution of an expert minus the own one, by a sum over ranks: (window, position, hidden)."""
    added = torch.where(run.selected[layer][..., None] == expert, run.contributions(layer), 0).sum(dim=2)
    return added[run.partner] - added


def whole_run(run: PairRun, module, delta: torch.Tensor) -> torch.Tensor:
    """The difference of windows of a whole run in which a module returns `delta` more, without the engine."""

    def hook(module, given, output):
        return (output[0] + delta, *output[1:]) if isinstance(output, tuple) else output + delta.view(output.shape)

    handle = module.register_forward_hook(hook)
    logits = run.model(input_ids=run.token_ids, use_cache=False).logits[torch.arange(run.windows), run.ends]
    handle.remove()
    right, wrong = (each.repeat(2)[:, None] for each in (RIGHT, WRONG))
    return (logits.gather(1, right) - logits.gather(1, wrong))[:, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "family", [each if each == "olmoe" else pytest.param(each, marks=pytest.mark.slow) for each in KINDS]
)
@torch.inference_mode()
def test_what_changes_nothing_changes_no_bit(family, dtype):
    model = causal_model(family, dtype)
    run = run_of(model)
    clean, nothing = run.differences(), torch.zeros(run.windows, 9, model.config.hidden_size, dtype=dtype)
    none = torch.zeros(run.windows, 1, run.experts, dtype=torch.bool)
    assert bool(run.attention) == (family not in WITHOUT_ATTENTION)
    for layer in range(len(layers_of(model.base_model))):
        assert run.differences(layer).equal(clean)
        assert run.of_positions(layer, torch.zeros(run.windows, 9, dtype=torch.bool)).equal(clean)
    for layer in run.layers:
        assert run.differences(layer, change=experts_replaced(model, layer, none, nothing)).equal(clean)
        own = {"states": run.states(layer), "selected": run.selected[layer], "weights": run.weights[layer]}
        assert run.differences(layer, change=handed(model, layer, **own)).equal(clean)
        assert run.differences(layer, change=handed(model, layer)).equal(clean)
    for layer, states in run.attention.items():
        every = torch.ones(run.windows, 1, dtype=torch.bool)
        assert run.differences(layer, change=attention_replaced(model, layer, every, states)).equal(clean)
        assert not run.of_attention(layer).equal(clean)


@torch.inference_mode()
def test_patches_of_a_model_of_two_layers_are_whole_runs_with_the_change_added():
    model = causal_model("olmoe", num_hidden_layers=2)
    run = run_of(model)
    blocks, attention = find_blocks(model.base_model), attention_of(model.base_model)
    for layer in (0, 1):
        found = run.of_experts(layer)
        for expert in range(8):
            wanted = whole_run(run, blocks[layer].experts, moved(run, layer, expert))
            torch.testing.assert_close(found[:, expert], wanted, rtol=1e-4, atol=1e-5)
        delta = run.attention[layer][run.partner] - run.attention[layer]
        torch.testing.assert_close(
            run.of_attention(layer), whole_run(run, attention[layer], delta), rtol=1e-4, atol=1e-5
        )
        known = moved(run, layer, 3)
        taken = torch.arange(8)[None, None].expand(run.windows, 1, 8) == 3
        own = run.contributed(layer, torch.arange(run.windows), taken)
        torch.testing.assert_close(run.contributed(layer, run.partner, taken) - own, known)
    place = torch.zeros(run.windows, 9, dtype=torch.bool)
    place[:, 4] = True
    states = run.inputs[1]
    delta = torch.where(place[..., None], states[run.partner] - states, 0)
    found = run.of_positions(0, place)
    torch.testing.assert_close(found, whole_run(run, layers_of(model.base_model)[0], delta), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_other_prompt_as_a_whole_gives_its_answer():
    run = run_of(causal_model("olmoe"))
    clean = run.differences()
    assert run.of_positions(0, run.inside).equal(clean[run.partner])
    assert not clean[run.partner].equal(clean)


@torch.inference_mode()
def test_what_experts_are_handed_by_hand():
    model = causal_model("olmoe", num_hidden_layers=2)
    run = run_of(model)
    block, last = find_blocks(model.base_model)[1], 1
    own, partner = block.experts, run.partner
    flat = [each.flatten(0, 1) for each in (run.states(last), run.selected[last], run.weights[last])]
    other = [each[partner].flatten(0, 1) for each in (run.states(last), run.selected[last], run.weights[last])]
    for given in (
        {"selected": run.selected[last][partner], "weights": run.weights[last][partner]},
        {"states": run.states(last)[partner]},
    ):
        parts = [other[n] if name in given else flat[n] for n, name in enumerate(("states", "selected", "weights"))]
        delta = (own(*parts) - own(*flat)).view(run.states(last).shape)
        found = run.differences(last, change=handed(model, last, **given))
        torch.testing.assert_close(found, whole_run(run, block.experts, delta), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_small_changes():
    model = causal_model("olmoe", torch.float64)
    run = run_of(model)
    gradients = run.gradients()
    generator = torch.Generator().manual_seed(3)
    for kind, modules in (
        (gradients.experts, {n: b.experts for n, b in find_blocks(model.base_model).items()}),
        (gradients.attention, attention_of(model.base_model)),
    ):
        for layer, gradient in kind.items():
            delta = (
                1e-3 * torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype) * run.inside[..., None]
            )
            with torch.no_grad():
                change = whole_run(run, modules[layer], delta) - whole_run(run, modules[layer], 0 * delta)
            torch.testing.assert_close((gradient * delta).sum(dim=(1, 2)), change, rtol=3e-2, atol=1e-5)


def test_attribution_is_the_gradient_times_the_change_of_value():
    run = run_of(causal_model("olmoe", num_hidden_layers=2))
    gradients = run.gradients()
    experts, attention = run.attributed(gradients)
    for layer in run.layers:
        inside = run.inside[..., None]
        for expert in (0, 5):
            wanted = (moved(run, layer, expert) * gradients.experts[layer] * inside).sum(dim=(1, 2))
            torch.testing.assert_close(experts[layer][:, expert], wanted, rtol=1e-4, atol=1e-6)
        delta = run.attention[layer][run.partner] - run.attention[layer]
        torch.testing.assert_close(
            attention[layer], (delta * gradients.attention[layer] * inside).sum(dim=(1, 2)), rtol=1e-4, atol=1e-6
        )


def test_at_the_other_embedding_the_gradient_is_that_of_the_other_prompt():
    run = run_of(causal_model("olmoe"))
    there, other = run.gradients(1.0), run.gradients()
    for layer in run.layers:
        torch.testing.assert_close(there.experts[layer], other.experts[layer][run.partner], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("carried", [True, False])
def test_a_planted_circuit_is_found_and_none_where_there_is_none(carried):
    pairs = planted_pairs()
    given = (torch.from_numpy(each.copy()) for each in (pairs.ids, pairs.lengths, pairs.right, pairs.wrong))
    run = PairRun(planted(carried), *given)
    clean = run.differences()
    assert (clean[:12] > 1).all() and torch.allclose(clean[12:], -clean[:12])
    share = (run.of_experts(0) - clean[:, None]) / (clean[run.partner] - clean)[:, None]
    wanted = torch.zeros(8)
    wanted[list(WRITERS)] = 0.5 if carried else 0
    torch.testing.assert_close(share, wanted.expand(24, 8), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(run.of_experts(1), clean[:, None].expand(24, 8))
    torch.testing.assert_close(run.of_attention(0), clean)
    assert run.selects(0)[:, list(WRITERS)].sum().item() == 24
