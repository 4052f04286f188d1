"""The chapter steering: its texts, a planted direction, intervals and p values, the page, and one's own prompt."""

import json
from functools import partial

import families
import numpy as np
import page_cases
import pytest
import torch
import xarray as xr
from routing_cases import case, logits_for, records

from gatebook.chapters.steering import Chosen, asked, measure, one_prompt, page, plan, trial
from gatebook.chapters.steering.measure import Steered
from gatebook.chapters.steering.one_prompt import Asked
from gatebook.chapters.steering.plan import Prompts, Side
from gatebook.chapters.steering.trial import Outcome
from gatebook.measures.uncertainty import POOLED, interval, resampling_weights
from gatebook.problem import Problem
from gatebook.report import steer
from gatebook.routing.steering import KINDS

seen = partial(page_cases.seen, "steering")
STATISTICS = {"resamples": 200, "seed": 1, "confidence": 0.95, "fewest_clusters": 2}
SETTINGS = Chosen().model_dump() | {"random": 8, "priced": 2, "prompt": 3, "tokens": 8, "doses": [1, 3]}
SETTINGS |= {"compared_dose": 1}
FIRST, SECOND = np.arange(3, 45), np.arange(45, 90)
"""Token ids of two made-up datasets."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More of them take longer for models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Words:
    """A tokenizer whose tokens are numbers."""

    def __call__(self, text: str, verbose: bool = True) -> dict:
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))

    def convert_ids_to_tokens(self, number: int) -> str:
        return str(number)


def tokens_of(name: str, lengths: list[int], among: np.ndarray = FIRST) -> xr.Dataset:
    """A token file with documents of some lengths, each a cluster."""
    rng = np.random.default_rng(len(name))
    ids = rng.choice(among, sum(lengths))
    made = case({0: records(logits_for(np.stack([ids % 4, (ids + 1) % 4], axis=1), 4), 2)}, lengths, ids).tokens
    return made.assign_attrs(dataset=name, dataset_sha256=name)


# ---------------------------------------------------------------- texts


def test_no_token_is_used_twice_and_halves_share_no_cluster():
    tokens = tokens_of("a", [9, 12, 8, 20, 15, 11])
    tokens["token_id"] = "token", np.arange(tokens.sizes["token"])  # each token has a name
    found = plan.side(tokens, 100, documents=2, length=6, seed=1)
    assert found.made.shape == found.held_out.shape == (2, 6) and len(set(found.cluster)) == 2
    used = np.concatenate([found.made.ravel(), found.held_out.ravel()])
    words = np.flatnonzero(found.words)
    assert len(set(used)) == 24 and not set(used) & set(words) and found.words.max() == 1
    owner = np.repeat(np.arange(6), [9, 12, 8, 20, 15, 11])
    made, held_out, free = ({*owner[ids].tolist()} for ids in (found.made.ravel(), found.held_out.ravel(), words))
    assert made.isdisjoint(held_out | free) and held_out <= free
    for text, own in zip(found.held_out, found.own, strict=True):  # the rest of its own document
        rest = np.flatnonzero(owner == owner[text[0]])[6:]
        assert np.flatnonzero(own).tolist() == rest.tolist()
    with pytest.raises(Problem, match="a has too few documents of 50 tokens for a vector"):
        plan.side(tokens, 100, documents=2, length=50, seed=1)


def test_log_likelihood_ratios_by_hand():
    found = plan.log_ratio(np.array([3, 1, 0, 0]), np.array([0, 4, 4, 0]))  # scaled to 4 tokens: 0, 2, 2, 0
    np.testing.assert_allclose(found, np.log([4, 2 / 3, 1 / 3, 1]))
    one = Side("a", np.zeros((1, 2)), np.array([[0, 1]]), np.array(["x"]), np.array([2, 2, 0]), np.array([[1, 1, 0]]))
    other = Side("b", np.zeros((1, 2)), np.array([[2, 2]]), np.array(["y"]), np.array([0, 1, 3]), np.array([[0, 1, 1]]))
    mine, theirs = plan.real_ratios(one, other)
    np.testing.assert_allclose(mine, [(np.log(2 / 1) + np.log(2 / 1.5)) / 2])  # [1, 1, 0] against [0, .5, 1.5]
    np.testing.assert_allclose(theirs, [np.log(1 / 3)])  # [1, 1, 0] against [0, 0, 2]


def test_prompts_are_of_other_datasets_and_none_chooses_the_layer_and_counts():
    tokens = {name: tokens_of(name, [8] * 6) for name in ("a", "b", "c", "dd")}
    choosing, prompts = plan.prompts(tokens, ["a", "b"], prompts=6, choosing=3, prompt=4, seed=1)
    assert len(choosing.ids) == 3 and len(prompts.ids) == 6 and prompts.ids.shape[1] == 4
    names = [str(cluster).split("/")[0] for cluster in (*choosing.cluster, *prompts.cluster)]
    assert set(names) == {"c", "dd"} and not set(choosing.cluster) & set(prompts.cluster)
    _, of_both = plan.prompts(
        {name: tokens[name] for name in "ab"}, ["a", "b"], prompts=6, choosing=3, prompt=4, seed=1
    )
    assert {str(cluster).split("/")[0] for cluster in of_both.cluster} == {"a", "b"}
    with pytest.raises(Problem, match="the study has 0 documents of 9 tokens for prompts"):
        plan.prompts(tokens, ["a", "b"], prompts=6, choosing=3, prompt=9, seed=1)


def test_pairs_are_checked():
    catalogue, settings = ["a", "b", "c"], Chosen(pairs=[["a", "b"], ["b", "c"]]).model_dump()
    assert asked.of_study(settings, ["a", "b"], catalogue) == [["a", "b"]]
    assert asked.of_study(Chosen().model_dump(), ["a", "b"], catalogue) == []
    for more, sentence in (
        ({"pairs": [["a", "x"]]}, "steering.pairs.0: 'x' is not in the study: use two of a, b"),
        ({"pairs": [["a", "b"], ["a", "a"]]}, "steering.pairs.1: 'a' cannot be contrasted with itself"),
        ({"pairs": [["a", "b"], ["a", "b"]]}, "steering.pairs.1: the pair a, b occurs twice"),
        ({"compared_dose": 3}, "steering.compared_dose: 3 is not one of the doses: use one of 1, 2, 4"),
        ({"doses": [2, 1]}, r"steering.doses: \[2, 1\] do not increase"),
        ({"priced": 20}, "steering.priced: 20 is more than there are random vectors: write at most 19"),
    ):
        with pytest.raises(Problem, match=sentence):
            asked.of_study(settings | more, ["a", "b"], catalogue)


# ---------------------------------------------------------------- vectors


def test_random_vectors_are_as_long_and_those_of_logits_permutations():
    vectors = {1: torch.tensor([3.0, 0.0, 4.0, -1.0])}
    for kind in KINDS:
        found = trial.random_vectors(kind, vectors, 6, seed=1)
        assert len(found) == 6 and len({tuple(each[1].tolist()) for each in found}) > 3
        for each in found:
            assert each[1].norm() == pytest.approx(vectors[1].norm().item(), rel=1e-5)
            assert (each[1].sort().values.equal(vectors[1].sort().values)) == (kind == "logits")


def planted(strength: float):
    """A model whose embedding writes which dataset a token is from, and whose head reads it as strongly as said."""
    model = families.causal_model("olmoe", hidden_size=256)
    with torch.no_grad():
        for layer in model.model.layers:  # they hardly change what the embedding writes
            layer.self_attn.o_proj.weight *= 0.005
            layer.mlp.experts.down_proj *= 0.005
        for ids, sign in ((FIRST, 1), (SECOND, -1)):
            model.model.embed_tokens.weight[ids, 3] = sign
            model.lm_head.weight[ids] *= 0.1
            model.lm_head.weight[ids, 3] = sign * strength
    return model


def steered_pair(model) -> Steered:
    """A contrast of the made-up datasets."""
    rng = np.random.default_rng(5)
    sides = []
    for name, ids in (("first", FIRST), ("second", SECOND)):
        made, held_out = rng.choice(ids, (2, 6, 10))
        words = np.bincount(rng.choice(ids, 600), minlength=97)
        own = np.zeros((6, 97), int)
        sides.append(Side(name, made, held_out, np.arange(6).astype(str), words, own))
    asked_of = [Prompts(rng.integers(3, 90, (number, 3)), np.arange(number).astype(str)) for number in (3, 40)]
    outcome = trial.run(model, *sides, *asked_of, SETTINGS, 4096)
    return Steered(*sides, len(asked_of[0].ids), asked_of[1], outcome)


@pytest.fixture(scope="module")
def found() -> dict[str, Steered]:
    return {name: steered_pair(planted(strength)) for name, strength in (("planted", 0.4), ("absent", 0.0))}


def measured(*pairs: Steered, **more) -> xr.Dataset:
    made = measure.measure(pairs, **({"doses": [1, 3], "compared_dose": 3} | STATISTICS | more))
    words = {pair.name: measure.text_of(pair.outcome.examples, Words().decode) for pair in pairs}
    return made.assign_attrs(examples=json.dumps(words))


def test_a_planted_direction_steers_and_a_random_one_does_not(found):
    metrics = measured(found["planted"], compared_dose=1)
    one = metrics.sel(pair="first from second", kind="residual")
    excess, band = (one[name].sel(interval=end).item() for name, end in (("excess", "low"), ("null_excess", "high")))
    assert excess > band and one["p_value"] < 0.01
    ratio = one["log_ratio"].sel(interval="estimate").values
    assert ratio[0] < ratio[1] < ratio[2]
    absent = measured(found["absent"], compared_dose=1).sel(pair="first from second", kind="residual")
    assert absent["excess"].sel(interval="low") < absent["null_excess"].sel(interval="high")


def test_nothing_added_costs_nothing_and_moves_nothing(found):
    outcome = found["planted"].outcome
    model, texts = planted(0.4), found["planted"].one.held_out
    for kind in KINDS:
        vectors = {1: torch.zeros(8 if kind == "logits" else 256)}
        losses, moved = trial.priced(model, texts, kind, [{}, vectors], 3, 4)
        assert (losses[:, 0] == losses[:, 1]).all() and not moved.any()
        texts_written = trial.written(model, texts[:, :3], kind, [{1: vectors[1]}], 5, 1, 4)
        assert np.array_equal(texts_written, trial.written(model, texts[:, :3], kind, [{}], 5, 1, 4))
        assert outcome.prices[kind][0].shape == (6, 4) and outcome.moved[kind].shape == (12, 4)
    residual = outcome.chosen["residual"]
    assert len(residual) == 1 and len(outcome.choosing["residual"]) == 3 and len(outcome.choosing["logits"]) == 4


def test_prices_by_brute_force():
    model, texts = planted(0.4), np.array([[3, 9, 50, 4, 60, 7], [70, 5, 4, 8, 9, 10]])
    vector = {0: torch.linspace(-1, 1, 256)}
    losses, _ = trial.priced(model, texts, "residual", [{}, vector], 2, 1)
    ids = torch.from_numpy(texts)
    states = []
    handle = model.model.layers[0].register_forward_hook(
        lambda module, given, output: torch.cat([output[:, :2], output[:, 2:] + vector[0]], dim=1)
    )
    with torch.inference_mode():
        states.append(model(input_ids=ids, use_cache=False).logits)
        handle.remove()
        states.insert(0, model(input_ids=ids, use_cache=False).logits)
    for condition, logits in enumerate(states):
        each = torch.nn.functional.cross_entropy(logits[:, 2:-1].mT, ids[:, 3:], reduction="none").sum(dim=1)
        np.testing.assert_allclose(losses[:, condition], each, rtol=1e-5)


# ---------------------------------------------------------------- measures


def made_up(rng, effect: dict[str, float], prompts: int = 12, vectors: int = 8) -> Steered:
    """An outcome of two doses in which kinds have some excess over random vectors."""
    ids = np.zeros((4, 4), np.int64)
    side = Side("first", ids, ids, np.arange(4).astype(str), np.array([5, 1]), np.zeros((4, 2), int))
    other = side._replace(name="second", held_out=ids + 1, words=np.array([1, 5]))
    steered, random, prices, moved = {}, {}, {}, {}
    for kind in KINDS:
        of_prompt = rng.normal(0, 0.3, (prompts, 1))
        noise = rng.normal(0, 0.1, (prompts, 3 + vectors)) + of_prompt
        noise[:, 3:] += rng.normal(0, 0.1, vectors)  # each vector's own
        noise[:, 1:3] += rng.normal(0, 0.1) + effect.get(kind, 0)
        steered[kind], random[kind] = noise[:, :3], noise[:, 3:]
        prices[kind] = tuple(np.tile([0.3, 0.6, 0.5], (4, 1)) + rng.normal(0, 0.01, (4, 3)) for _ in range(2))
        moved[kind] = np.full((8, 3), 0.25)
    choosing = {kind: np.array([0.1, 0.3]) for kind in KINDS}
    chosen = {"residual": [1], "input": [1], "logits": [0, 1]}
    examples = {kind: [[1], [2], [3]] for kind in KINDS}
    outcome = Outcome([0, 1], chosen, choosing, steered, random, prices, 2, moved, examples)
    return Steered(side, other, 3, Prompts(np.zeros((prompts, 2)), np.arange(prompts).astype(str)), outcome)


def test_measures_by_hand():
    made = made_up(np.random.default_rng(0), {"residual": 1.0})
    metrics = measured(made)
    one, outcome = metrics.sel(pair="first from second", kind="residual", interval="estimate"), made.outcome
    steered, random = outcome.steered["residual"], outcome.random["residual"]
    np.testing.assert_allclose(one["log_ratio"], steered.mean(axis=0))
    np.testing.assert_allclose(one["excess"], steered[:, 2].mean() - random.mean())
    np.testing.assert_allclose(one["target_ratio"], np.log(6 / 2))
    np.testing.assert_allclose(one["source_ratio"], np.log(2 / 6))
    ratio = one["log_ratio"].values
    np.testing.assert_allclose(one["covered"], (ratio - ratio[0]) / (np.log(3) - ratio[0]))
    price = outcome.prices["residual"][1].mean(axis=0) / 2
    np.testing.assert_allclose(one["source_price"], [0, price[0], price[1]])
    np.testing.assert_allclose(one["random_source_price"], price[2])
    np.testing.assert_allclose(one["moved"], [0, 0.25, 0.25])
    spread = random.mean(axis=0).std(ddof=1) * np.sqrt(1 + 1 / 8)
    band = metrics["null_excess"].sel(pair="first from second", kind="residual").values
    np.testing.assert_allclose(band, [0, -2.364624 * spread, 2.364624 * spread], rtol=1e-5)  # t of 7 degrees
    assert metrics["chosen"].sel(pair="first from second").values.tolist() == ["1", "1", "all"]
    both = measured(made, made_up(np.random.default_rng(1), {})._replace(one=made.one._replace(name="third")))
    each = both["excess"].sel(interval="estimate", kind="residual").values
    assert both["pair"].values.tolist() == [POOLED, "first from second", "third from second"]
    np.testing.assert_allclose(each[0], each[1:].mean())
    assert np.isnan(measured(made, fewest_clusters=5)["excess"].sel(interval="low")).all()


@pytest.mark.slow
def test_intervals_cover_and_p_values_of_nothing_are_even():
    rng, covered, p = np.random.default_rng(3), [], []
    for _ in range(150):
        values = rng.normal(1, 1, 24)
        weights = resampling_weights(np.ones(24), 200, 1, "prompts").astype(float)
        limits = interval(xr.DataArray(measure._means(weights, values), dims="draw")).values
        covered.append(limits[1] <= 1 <= limits[2])
        draws = xr.Dataset({"excess": (("draw", "pair", "kind"), np.zeros((1, 2, 3)))}, {"pair": ["", "x"]})
        made = made_up(rng, {}, prompts=6)
        steered, random = made.outcome.steered, made.outcome.random
        excess = np.array([steered[kind][:, 2].mean() - random[kind].mean() for kind in KINDS])
        draws["excess"][0] = np.tile(excess, (2, 1))
        found = measure._band([made], draws.assign_coords(kind=list(KINDS)), 0.95)
        p += found["p_value"].values[1].tolist()
    assert 0.91 <= np.mean(covered) <= 0.98
    for share in (0.05, 0.5):
        assert np.mean(np.array(p) <= share) == pytest.approx(share, abs=0.03 if share < 0.1 else 0.08)


# ---------------------------------------------------------------- the page


def verdicts(effect: dict[str, float]) -> dict[str, str]:
    made = seen(
        measured(
            made_up(np.random.default_rng(0), effect),
            made_up(np.random.default_rng(4), effect)._replace(
                one=made_up(np.random.default_rng(4), effect).one._replace(name="third")
            ),
        )
    )
    by_question = {finding.question: finding for finding in page.findings(made)}
    return {kind: by_question[page.QUESTIONS[kind]] for kind in KINDS}


def test_a_null_counts_only_if_the_positive_control_steers():
    found = verdicts({"residual": 3.0})
    assert found["residual"].verdict == "yes" and found["logits"].verdict == "unclear"
    assert "positive control does not steer" not in found["logits"].answer
    failed = verdicts({"logits": 3.0})
    assert failed["residual"].verdict != "yes" and failed["logits"].verdict == "unclear"
    assert "The positive control does not steer either, so this says nothing." in failed["logits"].answer
    both = verdicts({"residual": 3.0, "logits": 3.0})
    assert both["logits"].verdict == "yes" and "25.00 % get another expert" in both["logits"].answer


def test_a_pair_that_does_not_follow_the_mean_is_named():
    first, second = made_up(np.random.default_rng(0), {"residual": 4.0}), made_up(np.random.default_rng(4), {})
    metrics = measured(first, second._replace(one=second.one._replace(name="third")))
    finding = page.findings(seen(metrics))[0]
    assert finding.verdict == "yes"
    assert finding.exceptions == "Yet against random vectors it is not above for third from second."


def test_overshoot_and_price_are_said(found):
    made = made_up(np.random.default_rng(0), {"residual": 3.0})
    (price,) = [one for one in page.findings(seen(measured(made))) if "residual stream cost" in one.question]
    assert (
        price.verdict == "yes"
        and "overshoots, beyond real text at a price: first from second from dose 1" in price.answer
    )
    (none,) = [one for one in page.findings(seen(measured(made))) if "router logits cost" in one.question]
    assert none.answer.endswith("No dose overshoots real text.")


def test_the_first_screen_says_so_where_nothing_was_found():
    nothing = page.brief(seen(measured(made_up(np.random.default_rng(0), {"residual": 3.0}))))
    assert nothing.text == "Nothing shows that text can be steered by what is added to router logits."
    everything = measured(made_up(np.random.default_rng(0), {"residual": 3.0, "logits": 3.0}))
    assert "1 of 1 pairs by themselves" in page.brief(seen(everything)).text


# ---------------------------------------------------------------- by hand


@pytest.fixture(scope="module")
def model():
    made = families.causal_model("olmoe")
    with torch.no_grad():
        made.lm_head.weight *= 10  # or else all next tokens are nearly as likely
    return made


def test_places_of_tokens():
    for text, tokens in {"3": [3], "last": [4], "last 2": [3, 4], "all": [0, 1, 2, 3, 4], "generated": []}.items():
        at = one_prompt.place_of(text, "--at", within=True)
        assert np.flatnonzero(one_prompt.mask(at, 5, "the prompt")).tolist() == tokens
    for text, within in (("first", True), ("last x", True), ("-1", True), ("all", False), ("last 2", False)):
        with pytest.raises(Problem, match=f"--at {text} is not allowed: write "):
            one_prompt.place_of(text, "--at", within=within)
    with pytest.raises(Problem, match="there is no token 5: the prompt has tokens 0 to 4"):
        one_prompt.mask(5, 5, "the prompt")
    with pytest.raises(Problem, match="at last 9 is not allowed: the prompt has 5 tokens"):
        one_prompt.mask("last 9", 5, "the prompt")


def test_a_contrast_of_ones_own_prompt(model):
    texts = [[np.array([3, 4, 5]), np.array([6, 7])], [np.array([50, 51]), np.array([52, 53, 54, 55])]]
    vectors, table = one_prompt.contrast(model, *texts, "residual", [1]), one_prompt.table_of(*texts, 97)
    assert table[3] == pytest.approx(np.log(2 - 1 / 6 + 1 / 6)) or table[3] > 0
    one = Asked("3 9 50 4", layer=1, at="last 2", dose=0, generate=4, samples=2, random=3)
    told = one_prompt.steer(model, Words(), one, vectors, table)
    assert told["changed"] == [2, 3] and [each["after"] for each in told["kl"]] == [0]
    assert told["written"]["before"] == told["written"]["after"] and told["ratio"]["before"] == told["ratio"]["after"]
    strong = Asked("3 9 50 4", layer=1, at="last", dose=20, generate=4, samples=2, random=3)
    told = one_prompt.steer(model, Words(), strong, vectors, table)
    assert told["kl"][0]["after"] > 0.01 and told["kl"][0]["place"] == 3
    written = Asked("3 9 50 4", layer=None, kind="logits", at="generated", dose=20, generate=6, samples=2, random=3)
    told = one_prompt.steer(model, Words(), written, one_prompt.contrast(model, *texts, "logits", [0, 1, 2]), table)
    assert told["changed"] == [] and told["kl"] == [] and told["written"]["before"] != told["written"]["after"]
    assert told["written"]["before"].split()[0] == told["written"]["after"].split()[0]


def test_a_text_put_into_itself_changes_nothing_and_another_one_does(model):
    others = [np.array([9, 8, 7]), np.array([60, 61, 62])]
    for kind in KINDS:
        same = Asked("3 9 50 4", kind, 1, 2, source="3 9 50 4", source_at=2, generate=3, samples=1)
        told = one_prompt.patch(model, Words(), same, others)
        assert [each["after"] for each in told["kl"]] == [0, 0] and [each["place"] for each in told["kl"]] == [2, 3]
        assert told["kl"][0]["random"] > 0 and told["written"]["before"] == told["written"]["after"]
    told = one_prompt.patch(model, Words(), Asked("3 9 50 4", "residual", 2, "last", source="7 8 80"), others)
    clean = model(input_ids=torch.tensor([[7, 8, 80]])).logits[0, -1].softmax(dim=-1)
    rows = {row["token"]: row["after"] for row in told["predicted"][0]["tokens"]}
    assert told["taken"] == 2
    for token, after in rows.items():
        assert after == pytest.approx(clean[int(token)].item(), rel=1e-3, abs=1e-6)


def given(*words: str) -> dict:
    return vars(steer.parser().parse_args(["--prompt", "a b", *words]))


def test_the_command_line_is_checked():
    contrast, layer = ("--toward", "x", "--away", "y"), ("--layer", "1")
    one = steer.checked(given(*contrast, *layer))
    assert (one.at, one.dose, one.generate, one.layer) == ("generated", 2.0, 24, 1)
    one = steer.checked(given("--from", "c d", "--layer", "all", "--from-at", "0"))
    assert (one.at, one.generate, one.layer, one.source, one.source_at) == ("last", 0, None, "c d", 0)
    for words, sentence in (
        (layer, "write either --toward and --away, for a contrast, or --from"),
        ((*layer, "--toward", "x"), "write either --toward and --away"),
        ((*contrast, *layer, "--from", "c"), "write either --toward and --away"),
        (("--toward", "x", "--away", "x", *layer), "--away: x cannot be contrasted with itself"),
        ((*contrast, "--layer", "first"), "--layer first is not allowed: write the number of a layer, from 0, or all"),
        ((*layer, "--from", "c", "--dose", "2"), "--dose does not go with --from"),
        ((*layer, "--from", "c", "--at", "all"), "--at all does not go with --from"),
        ((*contrast, *layer, "--from-at", "2"), "--from-at does not go with a contrast"),
        ((*contrast, *layer, "--generate", "0"), "--at generated needs --generate"),
        ((*contrast, *layer, "--generate", "-1"), "--generate -1 is not allowed: write a number of at least 0"),
        ((*contrast, *layer, "--samples", "0"), "--samples 0 is not allowed: write a number of at least 1"),
        ((*contrast, *layer, "--dose", "inf"), "--dose inf is not allowed: write a finite number"),
    ):
        with pytest.raises(Problem, match=sentence):
            steer.checked(given(*words))


def test_what_the_model_has_not_is_refused(model):
    with pytest.raises(Problem, match="layer 7 has no experts: use one of 0, 1, 2, or all"):
        one_prompt.check(Asked("1", layer=7), model, 1)
    with pytest.raises(Problem, match="the prompt has no token"):
        one_prompt.check(Asked(""), model, 0)
    with pytest.raises(
        Problem, match="the prompt has 60 tokens with 24 to be generated, and the model reads 64 at most"
    ):
        one_prompt.check(Asked("1"), model, 60)
    with pytest.raises(Problem, match="f has 1 texts, and a contrast needs two"):
        one_prompt.split([np.array([1])], "f")
