"""Steering: nothing added changes no bit, edits by hand, and continuations that are those of whole runs."""

import families
import pytest
import torch
from families import causal_model

from gatebook.routing import steering
from gatebook.routing.families import routing_rule
from gatebook.routing.patching import Change, CleanRun, changed
from gatebook.routing.routers import find_blocks, layers_of, selection_bias
from gatebook.routing.steering import KINDS, adding, edited, generate, putting, steered

SLOW = [
    family if family in ("olmoe", "deepseek_v3") else pytest.param(family, marks=pytest.mark.slow)
    for family in [*families.KINDS, "minimax"]
]
WIDTH = {"residual": 16, "input": 16, "logits": 8}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More of them take longer for models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return causal_model("olmoe")


def ids_of(rows: int = 3, positions: int = 7) -> torch.Tensor:
    return torch.randint(3, 90, (rows, positions), generator=torch.Generator().manual_seed(0))


def vector_of(kind: str, *shape: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(*shape, WIDTH[kind], generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def logits_of(model, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", SLOW)
def test_nothing_added_changes_no_bit(family, dtype):
    model, ids = causal_model(family, dtype), ids_of()
    clean = logits_of(model, ids)
    for layer in find_blocks(model.base_model):
        for kind in KINDS:
            for nothing in (torch.zeros(WIDTH[kind]), torch.zeros(3, WIDTH[kind])):
                with steered(model, kind, {layer: nothing}):
                    assert logits_of(model, ids).equal(clean)
            with steered(model, kind, {layer: vector_of(kind, 3)}, torch.zeros(3, 7, dtype=torch.bool)):
                assert logits_of(model, ids).equal(clean)
            with steered(model, kind, {layer: vector_of(kind, 3, size=5)}):
                assert not logits_of(model, ids).equal(clean)
    assert logits_of(model, ids).equal(clean)  # no hook is left


def test_edits_by_hand():
    values = torch.arange(12.0).view(2, 3, 2)
    at = torch.tensor([[True, False, False], [False, True, True]])
    one = adding(torch.tensor([10.0, 20.0]), at)(values)
    assert one.tolist() == [[[10, 21], [2, 3], [4, 5]], [[6, 7], [18, 29], [20, 31]]]
    rows = adding(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))(values)
    assert rows.tolist() == [[[1, 2], [3, 4], [5, 6]], [[8, 9], [10, 11], [12, 13]]]
    put = putting(torch.tensor([-1.0, -2.0]), at)(values)
    assert put.tolist() == [[[-1, -2], [2, 3], [4, 5]], [[6, 7], [-1, -2], [-1, -2]]]


def test_what_is_added_to_the_residual_stream_is_what_the_head_reads(model):
    ids, last = ids_of(), len(layers_of(model.base_model)) - 1
    vector, at = vector_of("residual", 3), torch.arange(7).expand(3, -1) == 4
    states = steering.values(model, ids, ["residual"], [last])["residual", last]
    with steered(model, "residual", {last: vector}, at):
        after = logits_of(model, ids)
    clean = logits_of(model, ids)
    assert after[~at].equal(clean[~at])
    with torch.inference_mode():
        wanted = model.lm_head(model.model.norm(states[:, 4] + vector))
    torch.testing.assert_close(after[:, 4], wanted)


@torch.inference_mode()
def test_what_is_added_to_a_router_input_its_router_and_experts_receive(model):
    ids, vector = ids_of(), vector_of("input")
    block, found = find_blocks(model.base_model)[1], []
    states = steering.values(model, ids, ["input"], [1])["input", 1]
    with steered(model, "input", {1: vector}):
        handle = block.register_forward_hook(lambda module, given, output: found.append(output))
        logits_of(model, ids)
        handle.remove()
    output = found[0][0] if isinstance(found[0], tuple) else found[0]
    wanted = block(states + vector)
    assert output.equal(wanted[0] if isinstance(wanted, tuple) else wanted)


@pytest.mark.parametrize("family", SLOW)
def test_after_an_edit_of_logits_the_rule_selects_and_weighs_again(family):
    model, ids = causal_model(family), ids_of()
    layer = max(find_blocks(model.base_model))
    block, rule, seen = find_blocks(model.base_model)[layer], routing_rule(model.config), []
    logits = steering.values(model, ids, ["logits"], [layer])["logits", layer]
    assert logits.shape == (3, 7, 8)
    clean, vector = CleanRun(model, ids), vector_of("logits", 3, size=3)
    at = torch.arange(7).expand(3, -1) >= 2
    with steered(model, "logits", {layer: vector}, at):
        handle = block.experts.register_forward_pre_hook(lambda module, given: seen.append(given[1:]))
        logits_of(model, ids)
        handle.remove()
    selected, weights = (each.view(3, 7, -1) for each in seen[0])
    assert selected[:, :2].equal(clean.selected[layer][:, :2]) and weights[:, :2].equal(clean.weights[layer][:, :2])
    after = (logits + vector[:, None] * at[..., None]).view(21, 8)
    chosen = rule.select(after, selection_bias(block))
    assert selected[:, 2:].equal(chosen.view(3, 7, -1)[:, 2:])
    assert weights[:, 2:].equal(rule.weights(after, chosen).to(weights.dtype).view(3, 7, -1)[:, 2:])
    assert not selected[:, 2:].equal(clean.selected[layer][:, 2:])


def test_a_number_added_to_one_logit_is_the_change_of_the_stage_logit(model):
    ids, vector = ids_of(), torch.zeros(8)
    vector[5] = 4
    with torch.inference_mode(), changed(model, 1, Change("logit", delta=4.0), 5):
        wanted = logits_of(model, ids)
    with steered(model, "logits", {1: vector}):
        assert logits_of(model, ids).equal(wanted)


def test_values_of_another_text_put_in_at_the_last_layer_are_its_predictions(model):
    ids, last = ids_of(2), len(layers_of(model.base_model)) - 1
    clean, at = logits_of(model, ids), torch.tensor([[False] * 6 + [True]])
    held = steering.values(model, ids[1:], ["residual"], [last])["residual", last][0, 3]
    with edited(model, last, "residual", putting(held, at)):
        after = logits_of(model, ids[:1])
    torch.testing.assert_close(after[0, 6], clean[1, 3])
    torch.testing.assert_close(after[0, :6], clean[0, :6])


def test_means_are_over_all_tokens_of_texts_of_different_lengths(model):
    texts = [ids_of(2, 7), ids_of(1, 4)]
    found = steering.means(model, texts, KINDS, [0, 1], first=2)
    for key in ((kind, layer) for kind in KINDS for layer in (0, 1)):
        every = [steering.values(model, text, [key[0]], [key[1]])[key][:, 2:].double().flatten(0, 1) for text in texts]
        assert found[key].shape == (WIDTH[key[0]],)
        torch.testing.assert_close(found[key], torch.cat(every).mean(dim=0))


def likeliest(model, prompt: torch.Tensor, tokens: int, kind: str = "residual", layer: int = 1, vector=None, on=None):
    """The likeliest continuation of one prompt by whole runs, with a vector at tokens that `on` (token,) says."""
    ids = prompt[None]
    for _ in range(tokens):
        at = torch.zeros(1, ids.shape[1], dtype=torch.bool) if vector is None else on(ids.shape[1])[None]
        with steered(model, kind, {layer: torch.zeros(WIDTH[kind]) if vector is None else vector}, at):
            ids = torch.cat([ids, logits_of(model, ids)[:, -1].argmax(dim=-1)[:, None]], dim=1)
    return ids[0, len(prompt) :]


@pytest.mark.parametrize("family", SLOW)
def test_continuations_from_a_cache_are_those_of_whole_runs(family):
    attends = {"layers_block_type": ["attention", "moe", "moe"]} if family == "nemotron_h" else {}  # or no cache
    model, ids = causal_model(family, **attends), ids_of()
    continued = torch.tensor([2, 0, 0, 1])
    found = generate(model, ids, continued, 4)
    assert found.equal(torch.stack([likeliest(model, ids[row], 4) for row in continued.tolist()]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_for_written_tokens_does_not_act_on_the_prompt(model, kind):
    ids, rows = ids_of(), torch.tensor([0, 1, 2])
    size = {"residual": 6.0, "input": 6.0, "logits": 30.0}[kind]
    vectors = vector_of(kind, 3, size=size)
    plain = generate(model, ids, rows, 6)
    found = generate(model, ids, rows, 6, on_written=steered(model, kind, {1: vectors}))
    on_prompts = generate(model, ids, rows, 6, on_prompts=steered(model, kind, {1: vectors}))
    written = [likeliest(model, ids[row], 6, kind, 1, vectors[row], lambda n: torch.arange(n) >= 7) for row in range(3)]
    prompts = [likeliest(model, ids[row], 6, kind, 1, vectors[row], lambda n: torch.arange(n) < 7) for row in range(3)]
    assert found.equal(torch.stack(written)) and on_prompts.equal(torch.stack(prompts))
    assert found[:, 0].equal(plain[:, 0])  # the prompt alone predicts it
    assert not found.equal(plain) and not on_prompts.equal(plain)


def test_rows_have_vectors_of_their_own(model):
    ids, vectors = ids_of(), vector_of("residual", 3, size=6)
    together = generate(model, ids, torch.arange(3), 5, on_written=steered(model, "residual", {1: vectors}))
    for row in range(3):
        alone = steered(model, "residual", {1: vectors[row]})
        assert generate(model, ids, torch.tensor([row]), 5, on_written=alone)[0].equal(together[row])


def test_tokens_are_drawn_where_their_summed_probability_reaches_the_number():
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log().repeat(6, 1)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 1.0])
    assert steering._drawn(logits, uniform).tolist() == [0, 0, 1, 1, 2, 2]


def test_the_same_numbers_draw_the_same_tokens(model):
    ids, rows = ids_of(), torch.tensor([0, 0, 1])
    uniform = torch.rand(3, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    uniform[1] = uniform[0]
    found = generate(model, ids, rows, 6, uniform=uniform)
    assert found[0].equal(found[1]) and found.equal(generate(model, ids, rows, 6, uniform=uniform))
    assert not found.equal(generate(model, ids, rows, 6, uniform=uniform.flip(1)))
