"""Attention heads: scores by hand, heads set by hand that are found, and what they do for a task."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import page_cases
import pytest
import torch
import transformers
import xarray as xr
from families import causal_model

from gatebook.chapters.attention_heads import SCORES, doing, measure, page, repeated
from gatebook.chapters.attention_heads.direct import Direct
from gatebook.chapters.attention_heads.doing import Done
from gatebook.inputs.tasks.base import Pair
from gatebook.problem import Problem
from gatebook.routing import heads
from gatebook.study import pairs

WORDS, LENGTH = 32, 8
HIDDEN, WIDTH = 128, 128
OF_MODEL = {"resamples": 200, "seed": 1, "confidence": 0.95}
OPTIONS = OF_MODEL | {"fewest_clusters": 2}
seen = partial(page_cases.seen, "attention_heads")


@pytest.fixture(autouse=True)
def one_thread():
    """More of them take longer for models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- a model set by hand


def silent() -> transformers.PreTrainedModel:
    """Two layers of two heads that look everywhere alike and write nothing, as do the experts; the head reads words.

    The state has four parts: a constant, the word, what layer 0 writes, and what layer 1 writes, which the head reads.
    """
    config = transformers.MixtralConfig(
        vocab_size=WORDS, hidden_size=HIDDEN, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=WIDTH, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, sliding_window=None,
    )  # fmt: skip
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.experts.down_proj.zero_()
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(layer.self_attn, name).weight.zero_()
        eye = torch.eye(WORDS)
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.zero_(), head.zero_()
        embedding[:, 0], embedding[:, 1 : 1 + WORDS], head[:, 65 : 65 + WORDS] = 1, eye, eye
    return model


def by_hand() -> transformers.PreTrainedModel:
    """A model that does induction: head 0 of layer 0 looks at the token before, and writes which word it is; head 0 of
    layer 1 looks where that is the present word, and writes the word that is there.

    Positions turn pairs of coordinates (i, i + 64) by 10^(-6 i / 64) per token: the first of them tell places one
    apart, of the last ones a text is all in one place.
    """
    model = silent()
    first, second = (layer.self_attn for layer in model.model.layers)
    eye, fast = torch.eye(WORDS), torch.arange(16)
    angle = 1e6 ** (-fast / 64)
    with torch.no_grad():
        first.k_proj.weight[fast, 0] = 1
        first.q_proj.weight[fast, 0], first.q_proj.weight[fast + 64, 0] = 4 * angle.cos(), -4 * angle.sin()
        second.q_proj.weight[32:64, 1 : 1 + WORDS] = 4 * eye
        second.k_proj.weight[32:64, 33 : 33 + WORDS] = 4 * eye
        for attention, place in ((first, 33), (second, 65)):
            attention.v_proj.weight[:WORDS, 1 : 1 + WORDS] = eye
            attention.o_proj.weight[place : place + WORDS, :WORDS] = eye
    return model


def shuffled(model) -> transformers.PreTrainedModel:
    """The same model with the numbers of its queries and keys in another order."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in model.model.layers:
            for weight in (layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight):
                weight.copy_(weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view(weight.shape))
    return model


def sequences(**options) -> repeated.Sequences:
    return repeated.sequences(np.arange(1, WORDS), [], **{"count": 12, "length": LENGTH, "seed": 5} | options)


def studied(model) -> xr.Dataset:
    found = repeated.study(model, heads.find_attentions(model), sequences(), 200)
    attrs = {"heads_unknown": "", "not_done": "{}", "direct_unknown": ""}
    return measure.measure(found, {}, **OPTIONS).metrics.assign_attrs(attrs)


def induction_pairs(count: int = 8, seed: int = 0) -> pairs.Pairs:
    """Words, of which the first five come again; in the corrupt prompt another one was the sixth."""
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        *first, other = rng.choice(np.arange(1, WORDS), 8, replace=False).tolist()
        changed = [*first[:5], other, *first[6:]]
        labels = {"first": 4, "second": 5}
        made.append(Pair(first + first[:5], changed + first[:5], first[5], other, str(number), labels))
    return pairs.of_list(made)


def test_an_induction_head_set_by_hand_is_found_and_its_shuffled_copy_is_not():
    metrics = studied(by_hand())
    shown = seen(metrics)
    assert {score: page.named(shown, score) for score in SCORES} == {
        "previous_token": [(0, 0)],
        "duplicate_token": [],
        "induction": [(1, 0)],
    }
    value = metrics["head_score"].sel(interval="estimate")
    assert (
        value.sel(score="previous_token", layer=0, head=0) > 0.9 and value.sel(score="induction", layer=1, head=0) > 0.9
    )
    gain = metrics["induction_gain"].sel(dataset="pooled")
    assert gain.sel(interval="low") > 1 and abs(metrics["repetition_gain"].sel(interval="estimate").item()) < 1
    found = {finding.question: finding.verdict for finding in page.findings(shown)}
    assert list(found.values()) == ["yes", "yes", "no", "yes"]
    other = seen(studied(shuffled(by_hand())))
    assert all(page.named(other, score) == [] for score in SCORES)
    assert [finding.verdict for finding in page.findings(other)][1:] == ["no"] * 3
    assert page.findings(other)[0].verdict == "no"
    assert page.brief(shown).text.startswith(
        "The model continues random tokens that are repeated, by head 0 of layer 1"
    )
    assert "does not" in page.brief(other).text


def test_heads_that_carry_a_task_set_by_hand_are_found():
    model, of_task = by_hand(), induction_pairs()
    attentions = heads.find_attentions(model)
    assert doing.gate(model, "again", of_task, 40, **OF_MODEL) == ""
    done = doing.study(model, attentions, of_task, 40)
    metrics = measure.measure(
        repeated.study(model, attentions, sequences(), 200), {"again": done}, **OPTIONS
    ).metrics.sel(task="again", interval="estimate")
    wanted = np.array([[0.0, 0], [1, 0]])
    np.testing.assert_allclose(metrics["recovered"].sel(direction="denoising"), wanted, atol=0.02)
    np.testing.assert_allclose(metrics["recovered"].sel(direction="noising"), wanted, atol=0.02)
    np.testing.assert_allclose(metrics["strongest_recovered"], 1, atol=0.02)
    np.testing.assert_allclose(metrics["direct_effect_beyond"] / metrics["gap"], wanted, atol=0.02)
    assert metrics["role_attention"].sel(role="second", layer=1, head=0) > 0.9
    assert np.isnan(metrics["inhibition"]).all()
    assert (done.patched[0][:, :, 1] == done.corrupt[:, None]).all()  # a head that writes nothing: every bit


def test_a_model_that_does_not_do_a_task_is_told_so_with_its_shares():
    said = doing.gate(silent(), "again", induction_pairs(), 40, **OF_MODEL)
    assert said.startswith("right in 0.50 [0.50, 0.50] of the clean prompts, the other answer in 0.50 [")
    half = induction_pairs(16)
    half = replace(half, ids=np.concatenate([half.ids[:, :8], half.ids[::-1, 8:]], axis=1))
    assert "right in 0.50 [" in doing.gate(by_hand(), "again", half, 40, **OF_MODEL)


# ---------------------------------------------------------------- scores and sequences


def test_scores_of_patterns_by_hand():
    length, start = 3, 1
    size = start + 2 * length
    pattern = torch.zeros(1, 4, size, size)
    places = torch.arange(size)
    pattern[0, 0, places, (places - 1).clamp(min=0)] = 1  # the token before
    pattern[0, 1, places, (places - length).clamp(min=0)] = 1  # the same token
    pattern[0, 2, places, (places - length + 1).clamp(min=0)] = 1  # the one after it
    pattern[0, 3] = torch.tril(torch.ones(size, size)) / (places[:, None] + 1)  # all alike
    scores = repeated.head_scores(pattern, start, length)[0]
    even = [np.mean([1 / (query + 1) for query in queries]) for queries in (range(2, 7), range(4, 7), range(4, 7))]
    np.testing.assert_allclose(scores[:, 3], even, rtol=1e-6)
    np.testing.assert_allclose(scores[:, :3], np.eye(3), atol=1e-7)
    np.testing.assert_allclose(repeated.spread_evenly(pattern, 2)[0], [even[0]] * 4, rtol=1e-6)


def test_halves_are_the_same_in_another_order_or_of_other_tokens():
    drawn = repeated.sequences(np.arange(10, 50), [3], count=40, length=5, seed=2)
    assert drawn.start == 1
    for repeats, order, new in zip(*(drawn.ids[name].tolist() for name in repeated.ARRANGEMENTS), strict=True):
        first = repeats[1:6]
        assert len(set(first)) == 5 and repeats == [3, *first, *first] and min(first) >= 10
        assert order[:6] == new[:6] == repeats[:6]
        assert sorted(order[6:]) == sorted(first) and order[6] != first[0]
        follows = set(pairwise(first))
        assert not follows & set(pairwise(order[6:]))
        assert len(set(new[6:])) == 5 and not set(new[6:]) & set(first)
    again = repeated.sequences(np.arange(10, 50), [3], count=40, length=5, seed=2)
    assert all((again.ids[name] == drawn.ids[name]).all() for name in drawn.ids)
    with pytest.raises(
        Problem, match=r"^config: attention_heads\.length: the tokenizer has 9 ordinary tokens.*lower it\.$"
    ):
        repeated.sequences(np.arange(9), [], count=1, length=5, seed=2)


def test_the_size_of_batches_changes_nothing_but_rounding():
    model = causal_model("olmoe")
    attentions, drawn = heads.find_attentions(model), sequences(count=6)
    one, other = (repeated.study(model, attentions, drawn, tokens) for tokens in (17, 10_000))
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_allclose(one.null, other.null, atol=1e-5)
    ids = torch.from_numpy(drawn.ids["shuffled"][2:3])
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0].log_softmax(dim=-1)
    by_hand = -np.mean([logits[place, ids[0, place + 1]].item() for place in range(LENGTH, 2 * LENGTH - 1)])
    assert one.losses["shuffled"][2] == pytest.approx(by_hand, abs=1e-4)


def test_a_model_without_heads_still_shows_its_losses():
    found = repeated.study(causal_model("nemotron_h"), {}, sequences(count=6), 200)
    metrics = measure.measure(found, {}, **OPTIONS).metrics
    shown = seen(metrics.assign_attrs(heads_unknown="none known.", not_done="{}", direct_unknown=""))
    assert [figure.name for figure in page.figures(shown)] == ["losses"]
    assert "Heads are not measured: none known." in page.figures(shown)[0].caption
    assert [finding.measure for finding in page.findings(shown)] == ["induction_gain"]


# ---------------------------------------------------------------- statistics


def test_the_strongest_head_is_chosen_in_the_other_half():
    beyond = np.zeros((4, 1, 2, 2))
    beyond[0, 0, 1, 0] = beyond[2, 0, 1, 0] = 5  # even sequences: head 2, counted through layers
    beyond[1, 0, 0, 1] = beyond[3, 0, 0, 1] = 1  # odd ones: head 1
    beyond[:, 0, 0, 0] = np.nan  # no head
    assert measure.strongest(beyond)[:, 0].tolist() == [1, 2, 1, 2]


@pytest.mark.slow
def test_without_any_score_the_strongest_is_not_above_chance_and_few_heads_are_significant():
    rng = np.random.default_rng(0)
    covered, largest, significant = 0, 0.0, 0
    draws = 20
    for seed in range(draws):
        noise = rng.normal(0, 0.05, (24, len(SCORES), 3, 4))
        scores = 0.3 + noise
        losses = {name: rng.normal(5, 0.3, 24) for name in ("first", *repeated.ARRANGEMENTS)}
        found = repeated.Found(losses, scores, np.full(scores.shape, 0.3), [0, 1, 2])
        metrics = measure.measure(found, {}, **OPTIONS | {"seed": seed}).metrics
        low, high = (metrics["strongest_beyond"].sel(dataset="pooled", interval=end).values for end in ("low", "high"))
        covered += ((low <= 0) & (high >= 0)).sum()
        largest += metrics["head_score_beyond"].sel(interval="estimate").values.max() / draws
        significant += (metrics["q_value"].values <= 0.05).any()
    assert covered >= 0.88 * draws * len(SCORES)
    assert largest > 0.015  # the largest of many is, by luck
    assert significant <= 4


def test_shares_of_a_task_are_ratios_of_sums():
    shape, count = (1, 1), 4
    clean, corrupt = np.array([4.0, 2, 6, 4]), np.array([-4.0, 0, -2, -2])
    patched = np.stack([corrupt + np.array([4, 0, 2, 3]), clean - np.array([8, 2, 8, 2])])[..., None, None]
    direct = np.array([1.0, 2, 3, 4])[:, None, None]
    attention = np.array([[0.5, 0.2, 0.1], [0.4, 0.1, 0.3], [0.9, 0, 0], [0.2, 0.4, 0]])[..., None, None]
    unknown = np.full((count, *shape), np.nan)
    inhibition = unknown.copy()
    inhibition[:2, 0, 0] = 0.3, 0.1
    source = np.array(["a", "b", "c", "d"], dtype=object)
    done = Done(clean, corrupt, patched, direct, direct - 1, attention, inhibition, source, ["IO", "S1", "S2"], "")
    found = repeated.Found(
        {name: np.ones(4) for name in ("first", *repeated.ARRANGEMENTS)}, *np.ones((2, 4, 3, 1, 1)), [0]
    )
    metrics = measure.measure(found, {"ioi": done}, **OPTIONS).metrics.sel(
        task="ioi", layer=0, head=0, interval="estimate"
    )
    np.testing.assert_allclose(metrics["recovered"], [9 / 24, 20 / 24])
    assert metrics["direct_effect"] == 2.5 and metrics["direct_effect_beyond"] == 1 and metrics["gap"] == 6
    np.testing.assert_allclose(metrics["role_attention"], [0.5, 0.175, 0.1])
    assert metrics["mover_attention"].item() == pytest.approx(np.mean([0.3, 0.1, 0.9, -0.2]))
    assert metrics["inhibition"].item() == pytest.approx(0.2)
    few = measure.measure(found, {"ioi": done}, **OPTIONS | {"fewest_clusters": 5}).metrics
    assert (
        np.isnan(few["recovered"].sel(interval=["low", "high"])).all()
        and np.isfinite(few["recovered"].sel(interval="estimate")).all()
    )


# ---------------------------------------------------------------- what heads do


def named_pairs(seed: int = 1, count: int = 6) -> pairs.Pairs:
    """Random prompts with roles, of two lengths; the corrupt one differs at S2."""
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        ids = rng.choice(np.arange(3, 90), 9 + number % 2, replace=False).tolist()
        ids[6] = ids[3]
        corrupt = [*ids[:6], ids[1], *ids[7:]]
        made.append(Pair(ids, corrupt, ids[1], ids[3], str(number), {"IO": 1, "S1": 3, "S1+1": 4, "S2": 6}))
    return pairs.of_list(made)


def prompts_of(model, of_task=None):
    found = heads.find_attentions(model)
    return doing.Prompts(model, found, named_pairs() if of_task is None else of_task)


@torch.inference_mode()
def test_a_head_from_the_same_prompt_leaves_every_bit():
    model = causal_model("olmoe")
    one = named_pairs()
    alike = replace(one, ids=np.stack([one.ids[0], one.ids[0]]))
    with heads.plainly(model):
        prompts = prompts_of(model, alike)
        for layer, head in ((0, 1), (2, 0)):
            assert prompts.patched(0, layer, head).equal(prompts.differences[0])
            assert (prompts.turned([(2, 1)], layer, head) == 0).all()
        apart = prompts_of(model)
        assert not apart.patched(0, 0, 1).equal(apart.differences[0])


@torch.inference_mode()
def test_padding_changes_no_answer():
    model = causal_model("olmoe")
    one = named_pairs()
    prompts = prompts_of(model)
    for number in range(len(one)):
        ids = torch.from_numpy(one.ids[0, number, : one.lengths[number]])[None]
        logits = model(input_ids=ids).logits[0, -1]
        wanted = logits[one.right[number]] - logits[one.wrong[number]]
        torch.testing.assert_close(prompts.differences[0][number], wanted, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_inhibition_is_what_reaches_the_queries_by_no_other_head():
    model = causal_model("olmoe")
    with heads.plainly(model):
        prompts = prompts_of(model)
        rows, last = prompts.rows, prompts.last
        movers = [(1, 0)]
        turned = prompts.turned(movers, 0, 1)
        where = torch.zeros(*prompts.ids.shape[1:], 2, dtype=torch.bool)
        where[rows, last, 1] = True
        other = heads.replaced(prompts.attentions, prompts.seen[1].outputs, {0: where})
        with heads.watching(prompts.attentions) as after, other:  # no head lies between layers 0 and 1
            model(input_ids=prompts.ids[0])
        patterns = [seen.patterns[1][rows, 0, last] for seen in (prompts.seen[0], after)]
        by_hand = [pattern[:, 1] - pattern[:, 3] for pattern in patterns]
        torch.testing.assert_close(turned, by_hand[0] - by_hand[1])
        assert turned.abs().max() > 1e-4
        assert (prompts.turned(movers, 1, 1) == 0).all() and (prompts.turned(movers, 2, 0) == 0).all()


@torch.inference_mode()
def test_direct_effects_of_all_heads_are_what_the_last_norm_and_the_head_make_of_them():
    model = causal_model("olmoe")
    prompts = prompts_of(model)
    ends = {layer: outputs[prompts.rows, prompts.last] for layer, outputs in prompts.seen[0].outputs.items()}
    direct = Direct(model, prompts.attentions)
    assert direct.unknown == "" and direct.shares == {0: 1.0, 1: 1.0, 2: 1.0}
    found = direct.logits(ends, prompts.states[0], prompts.right, prompts.wrong)
    norm, last = model.model.norm, prompts.states[0]
    scale = torch.rsqrt(last.square().mean(dim=-1) + norm.variance_epsilon)
    for layer, one in prompts.attentions.items():
        for head in range(2):
            alone = torch.zeros_like(ends[layer])
            alone[:, head] = ends[layer][:, head]
            logits = model.lm_head(one.projection(alone.flatten(-2)) * scale[:, None] * norm.weight)
            wanted = logits[prompts.rows, prompts.right] - logits[prompts.rows, prompts.wrong]
            torch.testing.assert_close(found[:, layer, head], wanted, rtol=1e-3, atol=1e-4)


def test_shares_that_are_written_differ_by_family():
    for family, share in (("granitemoe", 0.5), ("mixtral", 1.0)):
        model = causal_model(family, **({"residual_multiplier": 0.5} if family == "granitemoe" else {}))
        direct = Direct(model, heads.find_attentions(model))
        assert direct.shares == pytest.approx({0: share, 1: share, 2: share})
    model = causal_model("afmoe")
    assert Direct(model, heads.find_attentions(model)).unknown.startswith(
        "what the attention of layer 0 returns passes"
    )


def test_movers_look_at_the_right_name_and_write_it():
    roles = ["IO", "S1", "S2"]
    written, attention = np.zeros((2, 2, 2)), np.zeros((2, 3, 2, 2))
    written[:, 1, 1], attention[:, 0, 1, 1] = 2, 0.8  # a mover
    written[:, 0, 1], attention[:, 0, 0, 1] = 5, 0.5  # writes more, but looks at S1, too
    attention[:, 1, 0, 1] = 0.6
    written[:, 0, 0], attention[:, 0, 0, 0] = -3, 0.9  # writes against it
    assert doing.moving(written, attention, roles) == [(1, 1)]
    assert doing.moving(-written, attention, roles)[0] == (0, 0)
    assert doing.moving(np.zeros_like(written), attention, roles) == []


def made_task(direct: np.ndarray, io: np.ndarray, s2: np.ndarray, inhibition: np.ndarray, seed: int = 0) -> xr.Dataset:
    """The metrics of a task with names, of 16 sources, with a little noise; arrays (layer, head)."""
    rng, count = np.random.default_rng(seed), 16

    def noisy(values: np.ndarray, size: float = 0.01) -> np.ndarray:
        return values + rng.normal(0, size, (count, *values.shape))

    attention = np.stack([noisy(io), noisy(0 * io + 0.05), noisy(s2), noisy(0 * io)], axis=1)
    source = np.array([str(number) for number in range(count)], dtype=object)
    patched = np.stack([noisy(0 * direct) - 5, noisy(0 * direct) + 5])
    roles = ["IO", "S1", "S2", "changed"]
    clean, corrupt = np.full(count, 5.0), np.full(count, -5.0)
    done = Done(
        clean, corrupt, patched, noisy(direct), noisy(0 * direct), attention, noisy(inhibition), source, roles, ""
    )
    losses = {name: rng.normal(5, 0.3, 12) for name in ("first", *repeated.ARRANGEMENTS)}
    found = repeated.Found(losses, *rng.random((2, 12, 3, *direct.shape)), list(range(len(direct))))
    attrs = {"heads_unknown": "", "not_done": "{}", "direct_unknown": ""}
    return measure.measure(found, {"ioi": done}, **OPTIONS).metrics.assign_attrs(attrs)


def test_heads_have_parts_by_where_they_look_and_what_they_do():
    direct = np.array([[0.0, 0, 3], [4, -2, 0.1]])
    io = np.array([[0.0, 0.1, 0.1], [0.6, 0.5, 0.7]])
    s2 = np.array([[0.7, 0.6, 0], [0, 0, 0]])
    inhibition = np.array([[0.4, 0.0, 0.5], [0, 0, 0]])
    shown = seen(made_task(direct, io, s2, inhibition))
    assert page.parts_of(shown, "ioi") == {
        "name mover": [(1, 0)],  # (0, 2) writes and does not look; (1, 2) looks and writes too little
        "negative name mover": [(1, 1)],
        "S-inhibition": [(0, 0)],  # (0, 1) looks and does nothing; (0, 2) does, and does not look
    }
    finding = page.findings(shown)[-1]
    assert finding.verdict == "yes" and "name mover: head 0 of layer 1" in finding.answer
    assert finding.estimate == pytest.approx(4, abs=0.05)
    nothing = seen(made_task(0 * direct, io, s2, 0 * inhibition))
    assert set(map(tuple, page.parts_of(nothing, "ioi").values())) == {()}
    assert page.findings(nothing)[-1].verdict == "no"


def test_a_task_that_is_not_done_is_said():
    metrics = studied(silent()).assign_attrs(not_done='{"ioi": "right in 0.40 [0.20, 0.60]"}')
    (first, *_), shown = page.findings(seen(metrics)), page.figures(seen(metrics))
    assert "The model does not do ioi: right in 0.40 [0.20, 0.60]." in first.answer
    assert [figure.name for figure in shown] == ["losses", "scores"]
