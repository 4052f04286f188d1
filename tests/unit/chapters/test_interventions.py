"""Interventions: what is asked for, matched controls, divergence by brute force, generation, the page."""

import json
from functools import partial

import families
import numpy as np
import page_cases
import pytest
import torch
import yaml
from routing_cases import case, logits_for, records

from gatebook.chapters.interventions import CONTROL, EXPERT, MATCHED, asked, page, trial
from gatebook.chapters.interventions import measure as interventions
from gatebook.chapters.interventions.asked import Asked
from gatebook.chapters.interventions.measure import Of, matched
from gatebook.inputs import catalogues
from gatebook.lists import ROOT, known_chapters
from gatebook.problem import Problem
from gatebook.routing.patching import NO_EXPERT, Change, CleanRun, changed, weighted
from gatebook.run import configuration

seen = partial(page_cases.seen, "interventions")

SETTINGS = {"factors": [0, 1, 2], "deltas": [0, 4], "documents": 4, "length": 10, "caliper": 0.5, "seed": 1}
STATISTICS = {"resamples": 50, "seed": 1, "confidence": 0.95, "fewest_clusters": 2}
LAYER = 1


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More of them take longer for models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    made = families.causal_model("olmoe")
    with torch.no_grad():
        made.lm_head.weight *= 30  # or else all next tokens are nearly as likely
    return made


class Words:
    """A tokenizer whose tokens are numbers."""

    def __call__(self, text: str, verbose: bool = True) -> dict:
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def convert_ids_to_tokens(self, number: int) -> str:
        return str(number)


PROMPT = "5 9 14 33 21 8 60 7"


def tried(model, prompt: str = PROMPT, tokens=None, **entry):
    one = asked.checked({"name": "x", "layer": LAYER} | ({"prompt": prompt} if prompt else {}) | entry, "asked")
    return one, *trial.tried(model, Words(), one, tokens, settings=SETTINGS, tokens_per_batch=64, place="asked")


# ---------------------------------------------------------------- what is asked for


def test_defaults_of_what_is_asked_for():
    assert asked.checked({"name": "a", "layer": 1, "prompt": "b"}, "here") == Asked("a", 1, None, "b")
    boosted = asked.checked({"name": "a", "layer": 1, "expert": 3, "dataset": "b", "delta": 4}, "here")
    assert (boosted.stage, boosted.dose, boosted.at, boosted.where) == ("logit", 4.0, "all", "b")
    words = [asked.checked({"name": "a", "layer": 1, "prompt": "b", "at": at}, "").where for at in (4, "last", "all")]
    assert words == ["token 4", "the last token", "all tokens"]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({}, "it needs a prompt or a dataset"),
        ({"prompt": "a", "dataset": "b"}, "and not both"),
        ({"prompt": "a", "stage": "weight", "delta": 1}, "delta does not go with the stage weight"),
        ({"prompt": "a", "stage": "score", "factor": 2}, "factor does not go with the stage score"),
        ({"prompt": "a", "stage": "logit"}, "the stage logit needs a delta"),
        ({"prompt": "a", "delta": float("nan")}, "write a finite number"),
        ({"dataset": "a", "at": 3}, "a dataset is changed at all its tokens"),
        ({"prompt": "a", "at": "generated"}, "needs generate"),
    ],
)
def test_keys_that_do_not_go_together_are_refused_in_a_sentence(entry, sentence):
    with pytest.raises(Problem, match=sentence) as raised:
        asked.checked({"name": "a", "layer": 1} | entry, "here")
    assert str(raised.value).startswith("here: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({"name": "a"}, ": the key 'layer' is missing: add it."),
        ({"name": "a", "layer": "x"}, ".layer: 'x' is not allowed: write the number of a layer, from 0."),
        ({"name": "a", "layer": 1, "expret": 3}, ": the key 'expret' is unknown: did you mean 'expert'?"),
        ({"name": "a", "layer": 1, "stage": "x"}, ".stage: 'x' is not known: use one of weight, score, logit."),
        (
            {"name": "a", "layer": 1, "at": "first"},
            ".at: 'first' is not allowed: write the place of a token, from 0, or",
        ),
    ],
)
def test_the_schema_names_the_entry_and_the_key(item, sentence):
    config, schema = (
        yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8"))
        for name in ("config.yaml", "schemas/config.schema.yaml")
    )
    schema = catalogues.with_sources(configuration.with_chapters(schema, known_chapters(ROOT)))
    with pytest.raises(Problem) as raised:
        configuration.check(config | {"interventions": {"asked": [item]}}, schema)
    assert f"config: interventions.asked.0{sentence}" in str(raised.value)


def test_what_is_asked_of_others_is_left_out():
    entries = [
        {"name": "a", "layer": 0, "prompt": "b"},
        {"name": "c", "layer": 0, "prompt": "b", "model": "other"},
        {"name": "d", "layer": 0, "dataset": "later"},
        {"name": "e", "layer": 0, "dataset": "web"},
    ]
    known = {"models": ["demo", "more"], "datasets": ["web"], "catalogue": ["web", "later"]}
    assert [one.name for one in asked.of_model(entries, "demo", **known)] == ["a", "e"]
    assert asked.of_model(entries, "more", **known) == []
    with pytest.raises(Problem, match=r"asked\.0\.dataset: 'nothing' is not in the study: use one of web"):
        asked.of_model([{"name": "a", "layer": 0, "dataset": "nothing"}], "demo", **known)
    with pytest.raises(Problem, match="'a' occurs twice"):
        asked.of_model(entries[:1] * 2, "demo", **known)


def test_what_the_model_has_not_is_refused_in_a_sentence(model):
    unused = set(range(8)) - set(CleanRun(model, torch.tensor([[5, 9, 14]])).selected[LAYER][0, -1].tolist())
    for entry, sentence in (
        ({"layer": 9}, "asked: layer 9 has no experts: use one of 0, 1, 2"),
        ({"expert": 8}, "asked: there is no expert 8: use one from 0 to 7"),
        ({"at": 3}, "asked: there is no token 3: the prompt has tokens 0 to 2"),
        ({"generate": 100}, "asked: the prompt has 3 tokens with 100 to be generated, and the model reads"),
        ({"expert": min(unused)}, f"no token that is asked for selects expert {min(unused)} in layer 1"),
    ):
        with pytest.raises(Problem, match=sentence):
            tried(model, "5 9 14", **entry)
    with pytest.raises(Problem, match="the prompt has no token"):
        tried(model, " ")


# ---------------------------------------------------------------- controls


def test_controls_by_hand():
    selected = np.array([[0, 1], [0, 2], [3, 1], [2, 3]])
    weight = np.array([[0.5, 0.3], [0.2, 0.1], [0.48, 0.22], [0.21, 0.05]])
    found = matched(selected, weight, 0, np.ones(4, bool), 0.1)
    assert found.own.tolist() == found.matched.tolist() == [0, 1]
    assert (found.place.tolist(), found.control.tolist()) == ([2, 3], [3, 2])
    assert found.weight.tolist() == [0.5, 0.2] and found.other_weight.tolist() == [0.48, 0.21]
    narrow = matched(selected, weight, 0, np.ones(4, bool), 0.045)
    assert narrow.own.tolist() == [0, 1] and narrow.matched.tolist() == [0]
    only = matched(selected, weight, 0, np.arange(4) == 0, np.inf)  # within the token alone
    assert (only.own.tolist(), only.place.tolist(), only.control.tolist()) == ([0], [0], [1])
    assert matched(selected[:, :1], weight[:, :1], 0, np.arange(4) == 0, np.inf).matched.tolist() == []


def test_a_token_is_the_control_of_one_and_the_sum_of_differences_is_least():
    rng = np.random.default_rng(0)
    selected = np.array([rng.permutation(6)[:3] for _ in range(30)])
    weight = rng.random((30, 3))
    found = matched(selected, weight, 2, np.ones(30, bool), np.inf)
    assert len(set(found.place)) == len(found.place) == (selected == 2).any(axis=1).sum()
    assert (found.control != 2).all()
    assert all(expert in selected[place] for place, expert in zip(found.place, found.control, strict=True))
    apart = np.abs(found.other_weight / found.weight - 1).sum()
    for one, other in rng.integers(0, len(found.own), (20, 2)):  # no exchange is better
        order = np.arange(len(found.own))
        order[[one, other]] = order[[other, one]]
        assert np.abs(found.other_weight[order] / found.weight - 1).sum() >= apart - 1e-12


# ---------------------------------------------------------------- what a change does


@torch.inference_mode()
def divergence(model, ids: list[int], expert: int, place: int, factor: float) -> np.ndarray:
    """Of every token (position,) float64, by whole runs with the weights of slots multiplied."""
    tokens = torch.tensor([ids])
    clean = CleanRun(model, tokens)
    slot = torch.ones(clean.selected[LAYER].shape)
    slot[0, place] = torch.where(clean.selected[LAYER][0, place] == expert, factor, 1.0)
    before = model(input_ids=tokens).logits[0].double().log_softmax(dim=-1)
    with weighted(model, LAYER, slot):
        after = model(input_ids=tokens).logits[0].double().log_softmax(dim=-1)
    return (before.exp() * (before - after)).sum(dim=-1).numpy()


def test_divergence_is_that_of_whole_runs_and_nothing_changes_without_a_change(model):
    ids = [int(word) for word in PROMPT.split()]
    _, made, of, told = tried(model, at=2)
    assert made.doses == [0, 1, 2] and of.dataset == "" and len(of.cluster) == 0
    chosen = CleanRun(model, torch.tensor([ids])).selected[LAYER][0, 2].tolist()
    (control,) = made.controls
    assert made.expert in chosen and control in set(chosen) - {made.expert} and told["tokens"] == PROMPT.split()
    for who, expert in ((EXPERT, made.expert), (MATCHED, made.expert), (CONTROL, control)):
        sums = made.sums[who]
        assert sums["tokens"].tolist() == [1] and sums["tokens_after"].tolist() == [5]
        for index, factor in enumerate(made.doses):
            wanted = divergence(model, ids, expert, 2, factor)
            assert wanted[:2] == pytest.approx(0, abs=1e-9)
            assert sums["kl"][0, index] == pytest.approx(wanted[2], rel=1e-3, abs=1e-6)
            assert sums["kl_after"][0, index] == pytest.approx(wanted[3:].sum(), rel=1e-3, abs=1e-6)
        assert sums["kl"][0, 1] == sums["kl_after"][0, 1] == sums["added_loss"][0, 1] == 0  # factor 1: no bit
        assert sums["kl"][0, 0] > 0
    middle, last = made.predicted
    assert (middle.place, last.place) == (2, 7) and not np.array_equal(middle.before, middle.after)
    assert middle.before.sum() == pytest.approx(1, abs=1e-5)


def test_every_stage_acts_where_the_expert_is_selected_and_nowhere_else(model):
    ids = torch.tensor([[int(word) for word in PROMPT.split()]])
    chosen = CleanRun(model, ids).selected[LAYER][0]
    expert = int(chosen[3, 0])
    for entry in ({"stage": "score"}, {"delta": 4}, {"factor": 2}):
        one, made, *_ = tried(model, expert=expert, at="all", **entry)
        where = (chosen == expert).any(dim=-1)
        assert made.sums[EXPERT]["tokens"].tolist() == [int(where.sum())]
        numbers = torch.where(where, expert, NO_EXPERT)[None]
        with torch.inference_mode(), changed(model, LAYER, trial.change_of(one, one.dose), numbers):
            after = model(input_ids=ids).logits[0, -1].softmax(dim=-1).numpy()
        assert made.predicted[-1].after == pytest.approx(after, rel=1e-3, abs=1e-6)


def test_texts_of_a_dataset_have_intervals_and_controls_within_the_caliper(model):
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 90, 12 * 9)
    routed = records(logits_for(np.stack([ids % 8, (ids + 1) % 8], axis=1), 8), 2)
    tokens = case({0: routed}, [12] * 9, ids).tokens.assign_attrs(dataset="a")
    one, made, of, _ = tried(model, "", lambda name: tokens, dataset="a")
    assert len(of.cluster) == 4 and of.dataset == "a" and made.predicted == [] and made.written == []
    assert (made.sums[MATCHED]["tokens"] <= made.sums[EXPERT]["tokens"]).all()
    assert (made.sums[MATCHED]["tokens"] == made.sums[CONTROL]["tokens"]).all()
    assert made.weight[CONTROL] == pytest.approx(made.weight[MATCHED], rel=SETTINGS["caliper"])
    metrics = interventions.measure([(one, made, of)], **STATISTICS).sel(intervention="x")
    at = {"dose": 0, "interval": "estimate"}
    sums = made.sums[EXPERT]
    assert metrics["kl"].sel(who=EXPERT, **at).item() == pytest.approx(sums["kl"][:, 0].sum() / sums["tokens"].sum())
    own, control = (metrics["kl"].sel(who=who, **at).item() for who in (MATCHED, CONTROL))
    assert metrics["excess_kl"].sel(at).item() == pytest.approx(own - control)
    assert metrics["kl"].notnull().all() and (metrics["kl"].sel(dose=1) == 0).all()
    few = interventions.measure([(one, made, of)], **STATISTICS | {"fewest_clusters": 8})
    assert few["kl"].sel(interval="low").isnull().all() and few["kl"].sel(interval="estimate").notnull().all()
    options = {"settings": SETTINGS | {"length": 50}, "tokens_per_batch": 64, "place": "x"}
    with pytest.raises(Problem, match="no document of a has"):
        trial.tried(model, Words(), one, lambda name: tokens, **options)


def test_a_change_carries_on_through_attention_and_never_back(model):
    _, made, *_ = tried(model, at=7)  # the last token
    assert made.sums[EXPERT]["tokens_after"].tolist() == [0] and made.sums[EXPERT]["kl"][0, 0] > 0
    assert [each.place for each in made.predicted] == [7]


# ---------------------------------------------------------------- what is written


@torch.inference_mode()
def test_what_is_written_is_the_likeliest_token_each_time(model):
    ids = np.array([5, 9, 14, 33])
    written = trial.generate(model, ids, 4)
    for number, token in enumerate(written):
        text = torch.tensor([[*ids, *written[:number]]])
        assert int(model(input_ids=text).logits[0, -1].argmax()) == token
    nothing = np.full(4, NO_EXPERT)
    assert trial.generate(model, ids, 4, LAYER, Change("weight"), nothing) == written
    same = trial.generate(model, ids, 4, LAYER, Change("weight", factor=1.0), nothing, (2, 2))
    assert same == written


@torch.inference_mode()
def test_written_tokens_are_changed_and_the_prompt_is_not(model):
    """Step by step: the expert is changed in those written tokens that select it, never in the prompt."""
    ids, change = [5, 9, 14, 33], Change("weight", factor=40.0)
    expert = int(
        CleanRun(model, torch.tensor([[*ids, *trial.generate(model, np.array(ids), 1)]])).selected[LAYER][0, -1, 0]
    )
    for wanted in (expert, NO_EXPERT):
        found = trial.generate(model, np.array(ids), 5, LAYER, change, np.full(4, NO_EXPERT), (expert, wanted))
        numbers, text = [NO_EXPERT] * 4, list(ids)
        for token in found:
            with changed(model, LAYER, change, torch.tensor([numbers])):
                assert int(model(input_ids=torch.tensor([text])).logits[0, -1].argmax()) == token
            text.append(token)
            with changed(model, LAYER, change, torch.tensor([[*numbers, NO_EXPERT]])):
                run = CleanRun(model, torch.tensor([text]))
            chosen, weight = run.selected[LAYER][0, -1], run.weights[LAYER][0, -1]
            numbers.append(NO_EXPERT)
            if expert in chosen.tolist():
                apart = (weight - weight[chosen == expert]).abs().tolist()
                others = sorted(zip(apart, chosen.tolist(), strict=True))[1:]
                numbers[-1] = expert if wanted == expert else others[0][1]
        assert numbers[4] == wanted if wanted == expert else numbers[4] != NO_EXPERT


def test_continuations_stand_side_by_side(model):
    one, made, _, told = tried(model, at="generated", generate=3, factor=3.0)
    assert len(told["written"]) == 3 and all(len(text.split()) == 3 for text in told["written"])
    assert made.sums[EXPERT]["tokens"].tolist() <= [3] and 3.0 in made.doses and one.dose == 3
    _, _, _, told = tried(model, at=1, generate=3)
    assert told["written"][0] == " ".join(
        map(str, trial.generate(model, np.array([int(w) for w in PROMPT.split()]), 3))
    )


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def metrics(model):
    found = [tried(model, at=2, generate=2), tried(model, at="all", delta=4.0)]
    found[1] = (Asked("y", LAYER, None, PROMPT, stage="logit", dose=4.0, at="all"), *found[1][1:])
    of = [part[:3] for part in found]
    made = interventions.measure(of, **STATISTICS)
    return made.assign_attrs(told=json.dumps([part[3] for part in found]))


def test_the_page_shows_doses_sizes_and_next_tokens(metrics):
    doses, sizes, *tokens = page.figures(seen(metrics))
    assert len(tokens) == 2 and len(doses.drawing.axes) == 2
    assert set(doses.data["dose"]) == {0, 1, 2, 4} and "n = 1 token (x)" in doses.caption
    assert "the weight times 0" in sizes.caption and "of the control" in sizes.caption
    assert "What the model writes, before: " in tokens[0].caption and "What the model writes" not in tokens[1].caption
    assert len(tokens[0].data) == 2 * interventions.MOST_TOKENS
    assert page.findings(seen(metrics)) == []  # one text answers nothing


def test_what_a_dataset_shows_beyond_its_control_is_a_finding():
    sums = {"tokens": np.full(12, 5), "tokens_after": np.full(12, 5), "tokens_loss": np.full(12, 4)}
    size = {EXPERT: 9, MATCHED: 5, CONTROL: 1}
    noise = 1 + 0.1 * np.random.default_rng(0).random((12, 1))
    names = ("kl", "kl_after", "added_loss")
    of_all = {who: sums | dict.fromkeys(names, factor * noise) for who, factor in size.items()}
    weight = {EXPERT: 0.4, MATCHED: 0.3, CONTROL: 0.1}
    made = interventions.Trial(3, [0.0], of_all, weight, {4: 60}, [], [])
    one, of = Asked("z", 2, 3, dataset="web", at="all"), Of(np.arange(12).astype(str).astype(object), "web")
    found = interventions.measure([(one, made, of)], **STATISTICS)
    told = interventions.described(one, made, {}) | {"tokens": [], "written": []}
    (finding,) = page.findings(seen(found.assign_attrs(told=json.dumps([told]))))
    assert finding.verdict == "yes" and finding.estimate == pytest.approx(0.8 * noise.mean()) and finding.n == 12
    assert "layer 2 expert 3, the weight times 0, change predictions in web" in finding.question
    assert "a part of the difference may be that of the weights" in page.control_of(found, "z")
