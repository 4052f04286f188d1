"""Multiple choice: questions, scores by brute force, slots by weight, planted experts, intervals, and real layouts."""

import json
from functools import partial

import families
import numpy as np
import page_cases
import pytest
import torch
import xarray as xr
from item_cases import SUBJECTS, items_of, write_archive, write_hub
from routing_cases import Case, case, logits_for, records
from vocabulary_cases import written

from gatebook.chapters.multiple_choice import asking, experts, measure, page, questions
from gatebook.chapters.multiple_choice.asking import CHANGES, Outcome
from gatebook.chapters.multiple_choice.questions import Asked, Question
from gatebook.files import netcdf
from gatebook.inputs.items import SPLITS, Item
from gatebook.measures.token_sample import documents_of
from gatebook.problem import Problem
from gatebook.routing.patching import CleanRun, weighted
from gatebook.routing.routers import find_blocks, layers_of
from gatebook.study import routed

seen = partial(page_cases.seen, "multiple_choice")
ITEM = Item("clinical_knowledge", "How many?", ("one", "two", "three", "four"), 2)
OF_TEXT = {"context": 5, "answer": 2, "items": 6, "calibration_items": 3, "subjects": [], "leave_out": [], "seed": 1}
STATISTICS = {"flips": 400, "seed": 1, "resamples": 200, "resampling_seed": 2, "confidence": 0.95}


@pytest.fixture(autouse=True)
def one_thread():
    """More of them take longer for models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lettered():
    """A byte-level BPE tokenizer for which letters after a space are single tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    bpe.train_from_iterator(["Answer: A B C D Answer: one two three four Question: How many?"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")


# ---------------------------------------------------------------- questions


def test_prompts_by_hand():
    assert questions.block(ITEM, "letters", solved=True) == "How many?\nA. one\nB. two\nC. three\nD. four\nAnswer: C"
    assert questions.block(ITEM, "cloze", solved=True) == "Question: How many?\nAnswer: three"
    assert questions.block(ITEM, "cloze", solved=False) == "Question: How many?\nAnswer:"


def test_letters_are_read_after_the_prompt_and_answers_token_by_token(lettered):
    asking_about = partial(questions.ask, ITEM, [ITEM, ITEM], lettered, window=500)
    one = asking_about(form="letters", shots=2)
    block = questions.block(ITEM, "letters", solved=False)
    prompt = f"The following are questions about clinical knowledge.\n\n{block} C\n\n{block} C\n\n{block}"
    assert lettered.decode(one.texts[0]) == prompt and one.shots == 2
    assert one.position.tolist() == [len(one.texts[0]) - 1] * 4 and one.answer.tolist() == [0, 1, 2, 3]
    assert lettered.decode(one.token) == " A B C D"
    other = asking_about(form="cloze", shots=0)
    for answer, choice in enumerate(ITEM.choices):
        reads = other.answer == answer
        assert lettered.decode(other.token[reads]) == f" {choice}"
        text = other.texts[answer]
        assert text[other.position[reads] + 1].tolist() == other.token[reads].tolist()
        assert (
            len(text) == other.position[reads][-1] + 2
            and text[: other.shared].tolist() == other.texts[0][: other.shared].tolist()
        )


def test_solved_questions_are_dropped_until_the_text_fits(lettered):
    sizes = [
        len(questions.ask(ITEM, [ITEM] * 5, lettered, form="letters", shots=n, window=999).texts[0]) for n in (0, 1, 2)
    ]
    for window, shots in ((sizes[2], 2), (sizes[2] - 1, 1), (sizes[0], 0)):
        assert questions.ask(ITEM, [ITEM] * 5, lettered, form="letters", shots=2, window=window).shots == shots
    assert questions.ask(ITEM, [ITEM], lettered, form="letters", shots=2, window=sizes[0] - 1) is None


def test_letters_of_several_tokens_are_refused(tokenizer):
    with pytest.raises(
        Problem, match=r"makes 2 tokens of ' A', and the form letters needs one: write cloze\."
    ) as raised:
        questions.ask(ITEM, [], tokenizer, form="letters", shots=0, window=999)
    assert "\n" not in str(raised.value)


def test_questions_of_items_are_of_test_and_experts_of_the_other_splits(lettered):
    splits = {split: items_of(split) for split in SPLITS}
    chosen = {"items": 4, "calibration_items": 3, "subjects": [], "leave_out": [], "seed": 3}
    asked = questions.of_items(splits, lettered, form="cloze", shots=1, window=700, **chosen)
    assert asked.subjects == list(SUBJECTS) and (len(asked.test), len(asked.calibration)) == (8, 6)
    texts = {
        name: [lettered.decode(one.texts[0]) for one in part]
        for name, part in asked._asdict().items()
        if name in ("test", "calibration")
    }
    assert all(any(item.question in text.split("\n\n")[-1] for item in splits["test"]) for text in texts["test"])
    assert all(
        any(item.question in text for item in splits["dev"] + splits["validation"]) for text in texts["calibration"]
    )
    one = questions.of_items(
        splits, lettered, form="cloze", shots=1, window=700, **chosen | {"subjects": ["world_religions"]}
    )
    assert one.subjects == ["world_religions"]
    with pytest.raises(
        Problem, match=r"multiple_choice\.subjects: 'xyzzy' is none: use some of abstract_algebra, world"
    ):
        questions.of_items(splits, lettered, form="cloze", shots=1, window=700, **chosen | {"subjects": ["xyzzy"]})
    short = questions.of_items(splits, lettered, form="cloze", shots=1, window=20, **chosen)
    assert (short.too_long, short.test) == (8, [])


def read(study: dict[str, Case], folder) -> xr.Dataset:
    return routed.read_tokens(written(study, folder)["tokens"])


def text_case(documents: int, clusters: int, seed: int, size: int = 9) -> Case:
    ids = np.random.default_rng(seed).integers(3, 90, documents * size)
    made = {0: records(logits_for(np.stack([ids % 8, (ids + 1) % 8], axis=1), 8), 2)}
    return case(made, [size] * documents, ids, [f"{seed} {number % clusters}" for number in range(documents)])


def test_questions_of_text_go_on_as_texts_of_other_sources_do(tmp_path):
    study = read({"a": text_case(24, 12, 1), "b": text_case(9, 9, 2), "c": text_case(9, 4, 3)}, tmp_path)
    asked = questions.of_text(study, **OF_TEXT)
    assert asked.subjects == ["a", "b"] and asked.left_out == ["c"]
    assert [sum(one.subject == name for one in asked.test) for name in "ab"] == [6, 6]
    assert [sum(one.subject == name for one in asked.calibration) for name in "ab"] == [3, 3]
    ids, document = study["token_id"].sel(kind="input").values, documents_of(study)
    start = np.flatnonzero(np.diff(document, prepend=-1))
    sources = {}
    for one in asked.test:
        assert all(len(text) == 7 for text in one.texts) and one.shared == 5
        place = next(at for at in start if ids[at : at + 7].tolist() == one.texts[one.right].tolist())
        assert str(study["cluster"].values[document[place]]) == one.source
        for answer in set(range(4)) - {one.right}:
            endings = [at for at in start if ids[at + 5 : at + 7].tolist() == one.texts[answer][5:].tolist()]
            assert all(str(study["cluster"].values[document[at]]) != one.source for at in endings[:1])
        sources.setdefault(one.subject, []).append(one.source)
    assert all(len(set(found)) == len(found) for found in sources.values())
    assert not {one.source for one in asked.calibration} & {one.source for one in asked.test}
    assert questions.of_text(study, **OF_TEXT | {"leave_out": ["b", "elsewhere"]}).subjects == ["a"]


# ---------------------------------------------------------------- scores


def test_log_odds_and_right_answers_by_hand():
    scores = np.array([[0.0, 0, 0, 0], [2, 0, 1, -1], [-800, -1000, -1000, -1001]])
    odds = asking.log_odds(scores, np.array([3, 0, 0]))
    assert odds[0] == pytest.approx(np.log(1 / 3))
    assert odds[1] == pytest.approx(2 - np.log(1 + np.e + np.exp(-1)))
    assert odds[2] == pytest.approx(200 - np.log(2 + np.exp(-1)))
    assert asking.correct(scores, np.array([3, 2, 0])).tolist() == [0.25, 0, 1]
    assert np.isnan(asking.log_odds(scores * np.nan, np.array([0, 0, 0]))).all()
    assert np.isnan(asking.correct(scores * np.nan, np.array([0, 0, 0]))).all()


def made_up(rng: np.random.Generator, count: int, letters: bool = False) -> list[Question]:
    """Questions of random tokens, whose answers have one to four tokens."""
    made = []
    for number in range(count):
        beginning = rng.integers(3, 90, rng.integers(4, 9))
        about = {
            "subject": "ab"[number % 2],
            "source": str(number),
            "right": int(rng.integers(4)),
            "lengths": np.ones(4),
        }
        if letters:
            every, last = np.arange(4), len(beginning) - 1
            places = {"text": 0 * every, "position": 0 * every + last, "token": 10 + every, "answer": every}
            made.append(Question(texts=(beginning,), shared=len(beginning), **places, **about))
        else:
            endings = [rng.integers(3, 90, rng.integers(1, 5)) for _ in range(4)]
            made.append(questions.continuations(beginning, endings, **about))
    return made


@torch.inference_mode()
def scored_alone(model, question: Question) -> np.ndarray:
    """The scores of a question's answers, each text in a run of its own."""
    logits = [model(torch.from_numpy(text)[None]).logits[0].log_softmax(-1) for text in question.texts]
    found = [
        logits[t][p, token].item() for t, p, token in zip(question.text, question.position, question.token, strict=True)
    ]
    mean = [np.mean(np.array(found)[question.answer == answer]) for answer in range(4)]
    return np.array(mean) * len(found) / 4


def asked_of(model, made: list[Question], own=None, close=False, **options) -> Outcome:
    layers = sorted(find_blocks(model.base_model))
    sets = None if own is None else np.tile(own, (len(made), len(layers), 1))
    chosen = {"caliper": 0.2, "tokens_per_batch": 120} | options
    return asking.ask(model, layers, 3, made, sets, [close] * len(made), **chosen)


@pytest.mark.parametrize("letters", [True, False])
@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "qwen2_moe"])
def test_scores_are_those_of_each_text_alone(family, letters):
    model, made = families.causal_model(family), made_up(np.random.default_rng(0), 7, letters)
    found = asked_of(model, made)
    np.testing.assert_allclose(found.scores, [scored_alone(model, one) for one in made], rtol=1e-4, atol=1e-4)
    assert np.isnan(found.changed["own"]).all() and np.isnan(found.lens).all()


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v2", "qwen2_moe"])
def test_changes_are_those_of_whole_runs(family):
    """Own slots, the control, ranks and renormalising, each layer alone, against whole runs with the same factors."""
    model, made = families.causal_model(family), made_up(np.random.default_rng(1), 3)
    found = asked_of(model, made, own=[0, 1], close=True, tokens_per_batch=10**6)
    batch = asking.Batch(model, sorted(made, key=lambda one: max(map(len, one.texts))))
    order = [made.index(one) for one in batch.questions]
    count = len(layers_of(model.base_model))
    for index, layer in enumerate(sorted(find_blocks(model.base_model))):
        *factors, _ = batch.matched(layer, [[0, 1]] * 3, 0.2)
        weights, removed = batch.without_rank(layer)
        wanted = dict(zip(CHANGES, factors, strict=True)) | {
            "alone": 1 / weights.sum(-1, keepdim=True).expand_as(weights)
        }
        wanted |= {rank: removed[rank] for rank in range(3)} | {"whole": torch.zeros_like(weights)}
        for name, factor in wanted.items():
            with torch.inference_mode(), weighted(model, layer, factor):
                logits = model(batch.clean.token_ids, use_cache=False).logits.log_softmax(-1)
            read = logits[batch.row, batch.position, batch.token].double().numpy()
            sums = np.bincount(batch.slot.numpy(), read, 12) / np.bincount(batch.slot.numpy(), minlength=12)
            scores = sums.reshape(3, 4) * np.bincount(batch.slot.numpy(), minlength=12).reshape(3, 4).mean(
                1, keepdims=True
            )
            ours = (
                getattr(found, name)
                if name in ("alone", "whole")
                else found.changed[name]
                if name in CHANGES
                else found.ranks["kept"][:, :, name]
            )
            np.testing.assert_allclose(ours[order, index], scores, rtol=1e-4, atol=1e-4)
        for change in CHANGES:  # before the layer the lens is that of the clean run, at the end it is the answer
            lens = found.lenses[change][:, index]
            assert np.array_equal(lens[:, : layer + 1], found.lens[:, : layer + 1])
            assert np.array_equal(lens[:, count], found.changed[change][:, index])
    assert np.array_equal(found.lens[:, -1], found.scores)


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3", "granitemoe", "gpt_oss"])
def test_what_leaves_the_last_layer_is_read_out_as_the_models_logits(family):
    model, ids = families.causal_model(family), torch.randint(3, 90, (3, 7), generator=torch.Generator().manual_seed(0))
    clean = CleanRun(model, ids)
    rows, positions = torch.tensor([0, 2, 2]), torch.tensor([6, 1, 3])
    layer = min(find_blocks(model.base_model))
    states = clean.states_within(layer, weighted(model, layer, torch.ones(3, 7, 3)), rows, positions)
    assert len(states) == len(layers_of(model.base_model)) - layer
    with torch.inference_mode():
        logits = model(ids, use_cache=False).logits[rows, positions]
    torch.testing.assert_close(clean.read_out(states[-1]), logits, rtol=1e-4, atol=1e-5)
    assert not any("forward" in vars(one) or one._forward_hooks for one in layers_of(model.base_model))


# ---------------------------------------------------------------- slots


def test_specialization_is_the_share_beyond_that_of_other_subjects():
    counts = np.array([[[9, 9, 0, 2]], [[9, 1, 0, 10]], [[0, 2, 16, 2]]])
    found = experts.specialised(counts, np.array([10, 10, 20]), 2)
    assert found.tolist() == [[[1, 0]], [[3, 0]], [[2, 1]]]


def test_slots_are_the_same_in_what_all_texts_begin_with_and_none_is_after_the_last_read():
    model, made = families.causal_model("olmoe"), made_up(np.random.default_rng(2), 3)
    batch = asking.Batch(model, made)
    own, control, known = batch.matched(1, [[0, 1, 2]] * 3, 0.3)
    selected, weights = batch.clean.selected[1], batch.clean.weights[1]
    assert (own + control >= 1).all() and (own == 0).sum() == (control == 0).sum() > 0
    assert torch.isin(selected[own == 0], torch.tensor([0, 1, 2])).all()
    assert not torch.isin(selected[control == 0], torch.tensor([0, 1, 2])).any()
    for place, question in enumerate(made):
        rows = range(4 * place, 4 * place + 4)
        for factor in (own, control):
            assert all(factor[row, : question.shared].equal(factor[rows[0], : question.shared]) for row in rows)
            for row, text in zip(rows, question.texts, strict=True):
                assert (factor[row, len(text) - 1 :] == 1).all()
    assert (known["matched"] <= known["slots"]).all() and (known["own_weight"] < known["mass"]).all()
    apart = abs(weights[own == 0].sum() - weights[control == 0].sum()) / weights[own == 0].sum()
    assert apart < 0.1


# ---------------------------------------------------------------- planted models


def planted(alike: bool = False):
    """A model without attention whose experts 0 and 1 say token 90 in layer 0, and are selected by even tokens alone.

    Odd tokens select 2 and 3, which say nothing, and all tokens 6 and 7, with the same weights, which do neither.
    Layer 1 says nothing. Where experts are `alike` all of layer 0 say what 0 and 1 do.
    """
    model = families.causal_model("olmoe", num_hidden_layers=2, num_experts_per_tok=4)
    base = model.base_model
    embedding, head = base.embed_tokens.weight.data, model.lm_head.weight.data
    generator = torch.Generator().manual_seed(0)
    embedding.copy_(0.05 * torch.randn(embedding.shape, generator=generator))
    embedding[:, :2] = 0
    embedding[0::2, 0], embedding[1::2, 1] = 1, 1
    head.copy_(0.1 * torch.randn(head.shape, generator=generator))
    head[90, 2] += 1
    base.norm.weight.data.fill_(1)
    for layer in base.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        layer.post_attention_layernorm.weight.data.fill_(1)
        gate, block = layer.mlp.gate.weight.data, layer.mlp.experts
        for part in (gate, block.gate_up_proj.data, block.down_proj.data):
            part.zero_()
        gate[0:2, 0], gate[2:4, 1], gate[6:8, :2] = 1, 1, 1
    block = base.layers[0].mlp.experts
    who = range(8) if alike else range(2)
    for expert in who:
        half = block.gate_up_proj.shape[1] // 2
        block.gate_up_proj.data[expert, 0, :2] = 1
        block.gate_up_proj.data[expert, half, :2] = 1
        block.down_proj.data[expert, 2, 0] = 0.2
    return model


def about(rng: np.random.Generator, parity: int, count: int, name: str) -> list[Question]:
    """Questions of tokens of one parity, whose right answer is token 90."""
    made = []
    for number in range(count):
        endings = [np.array([token]) for token in 3 + rng.choice(40, 4, replace=False)]
        right = int(rng.integers(4))
        endings[right] = np.array([90])
        beginning = 2 * rng.integers(2, 44, 8) + parity
        about = {"subject": name, "source": f"{name} {number}", "right": right, "lengths": np.ones(4)}
        made.append(questions.continuations(beginning, endings, **about))
    return made


def measured_of(model, calibration: int = 6, test: int = 12, seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    parts = [
        [one for parity, name in enumerate(("even", "odd")) for one in about(rng, parity, count, name)]
        for count in (calibration, test)
    ]
    asked = Asked(*parts, ["even", "odd"])
    counts, tokens = asking.loads(model, [0, 1], asked.calibration, asked.subjects, 8, 200)
    sets = experts.specialised(counts, tokens, 2)
    own = sets[[asked.subjects.index(one.subject) for one in asked.test]]
    close = measure.closely(asked.test, 3)
    found = asking.ask(model, [0, 1], 4, asked.test, own, close, caliper=0.1, tokens_per_batch=200)
    metrics = measure.measure(found, asked, [0, 1], **STATISTICS).metrics
    return metrics.assign_attrs(
        nothing_removed="", source="text", form="cloze", shots=0, experts=json.dumps(sets.tolist())
    )


@pytest.fixture(scope="module")
def two_experts() -> xr.Dataset:
    return measured_of(planted())


def test_two_experts_that_carry_a_subject_are_found_and_the_control_shows_nothing(two_experts):
    metrics = two_experts
    sets = [sorted(of_layers[0]) for of_layers in json.loads(metrics.attrs["experts"])]
    assert sets == [[0, 1], [2, 3]]
    at = {"dataset": "even", "layer": 0}
    assert metrics["own_change"].sel(at | {"interval": "high"}) < -0.3
    assert abs(metrics["control_change"].sel(at)).max() < 1e-5
    assert abs(metrics["own_change"].sel(dataset="odd")).max() < 1e-5
    assert abs(metrics["own_minus_control"].sel(layer=1)).max() < 1e-5
    assert metrics["matched_share"].sel(at | {"interval": "estimate"}) == 1
    weights = [metrics[f"{side}_weight"].sel(at | {"interval": "estimate"}).item() for side in CHANGES]
    assert weights[0] == pytest.approx(weights[1], rel=0.05)
    q = metrics["q_value"].to_series()
    assert q["even"] < 0.05 and q["layer 0"] < 0.05 and q["odd"] > 0.5 and q["layer 1"] > 0.5
    findings = {one.measure: one for one in page.findings(seen(metrics))}
    assert (
        findings["own_minus_control"].verdict == "yes"
        and "2 of 4 planned contrasts" in findings["own_minus_control"].answer
    )
    assert "of them beyond what as much weight of others does" in page.brief(seen(metrics)).text


def test_experts_that_are_alike_do_not_differ_from_the_control():
    metrics = measured_of(planted(alike=True))
    change = metrics["own_change"].sel(dataset="pooled", layer=0)
    assert (
        change.sel(interval="high") < -0.1
        and metrics["control_change"].sel(dataset="pooled", layer=0, interval="high") < -0.1
    )
    assert abs(metrics["own_minus_control"]).max() < 1e-5 and (metrics["q_value"] > 0.5).all()


# ---------------------------------------------------------------- measures


def outcome_of(odds: np.ndarray, own: np.ndarray, control: np.ndarray, right: np.ndarray) -> Outcome:
    """An outcome with given log-odds (item,), and after changes (item, layer)."""
    items, layers = own.shape

    def scores(values: np.ndarray) -> np.ndarray:
        made = np.full((*values.shape, 4), -np.log(3.0))
        np.put_along_axis(made, right.reshape(-1, *[1] * values.ndim), values[..., None], axis=-1)
        return made

    nothing = np.full((items, layers, 2, 4), np.nan)
    slots = {name: np.ones((items, layers)) for name in asking.SLOTS}
    lens, lenses = np.full((items, 3, 4), np.nan), dict.fromkeys(CHANGES, np.full((items, layers, 3, 4), np.nan))
    changed = {"own": scores(own), "control": scores(control)}
    return Outcome(
        scores(odds),
        changed,
        {"kept": nothing, "renormalised": nothing},
        nothing[:, :, 0],
        nothing[:, :, 0],
        lens,
        lenses,
        slots,
    )


def of_sources(subject: list[str], source: list[str], right: np.ndarray) -> list[Question]:
    one = np.arange(1)
    return [
        Question(name, each, (np.arange(5),), 5, one, one, one, one, int(place), np.array([1, 2, 3, 3]))
        for name, each, place in zip(subject, source, right, strict=True)
    ]


def test_means_and_guesses_by_hand():
    odds = np.array([1.0, -2, 0.5, 3])
    right = np.array([0, 1, 2, 2])
    own, control = odds[:, None] + np.array([[-1.0], [-2], [0], [-3]]), odds[:, None] - 1
    test = of_sources(["a", "a", "b", "b"], list("wxyz"), right)
    calibration = of_sources(["a", "b", "b"], list("stu"), np.array([2, 2, 0]))
    found = measure.measure(
        outcome_of(odds, own, control, right), Asked(calibration, test, ["a", "b"]), [5], **STATISTICS
    ).metrics
    at = {"interval": "estimate"}
    assert found["log_odds"].sel(at).values.tolist() == pytest.approx([0.625, -0.5, 1.75])
    assert found["accuracy"].sel(at).values.tolist() == pytest.approx([0.75, 0.5, 1])
    assert found["letter_accuracy"].sel(at).values.tolist() == [0.5, 0, 1]
    assert found["longest_accuracy"].sel(at).values.tolist() == [0.25, 0, 0.5]
    assert found["own_minus_control"].sel(at).values[:, 0].tolist() == pytest.approx([-0.5, -0.5, -0.5])
    assert found["own_change"].sel(at).values[:, 0].tolist() == pytest.approx([-1.5, -1.5, -1.5])
    assert found["contrast"].values.tolist() == ["layer 5", "a", "b"] and (found["p_value"] > 0.1).all()
    assert np.isnan(found["rank_change"]).all() and found["tokens"].values.tolist() == [20, 10, 10]


def test_what_cannot_be_told_apart_is_chance():
    model = families.causal_model("olmoe")
    torch.nn.init.zeros_(model.lm_head.weight)
    made = made_up(np.random.default_rng(3), 4, letters=True)
    scores, right = asked_of(model, made).scores, np.array([one.right for one in made])
    assert asking.log_odds(scores, right) == pytest.approx([np.log(1 / 3)] * 4)
    assert asking.correct(scores, right).tolist() == [0.25] * 4


def test_without_items_nothing_is_known():
    found = measure.measure(asked_of(families.causal_model("olmoe"), []), Asked([], [], []), [0, 1, 2], **STATISTICS)
    metrics = found.metrics.assign_attrs(nothing_removed=measure.nothing_removed(Asked([], [], [])), source="text")
    assert all(np.isnan(values).all() for name, values in metrics.items() if "interval" in values.dims)
    assert metrics["documents"].values.tolist() == [0] and page.findings(seen(metrics)) == []
    assert [figure.name for figure in page.figures(seen(metrics))] == ["answers"]
    assert "enough sources" in metrics.attrs["nothing_removed"]


def simulated(rng: np.random.Generator, effect: float) -> xr.Dataset:
    """Sources of unequal numbers of items, whose items are alike, in two subjects."""
    source = np.repeat(np.arange(40), 1 + rng.geometric(0.5, 40))
    shared, items = rng.standard_t(5, 40)[source], len(source)
    own = np.stack([effect + shared + rng.normal(0, 1, items) for _ in range(2)], axis=1)
    right = rng.integers(0, 4, items)
    subject = np.where(source < 20, "a", "b").tolist()
    asked = Asked([], of_sources(subject, source.astype(str).tolist(), right), ["a", "b"])
    return measure.measure(
        outcome_of(np.zeros(items), own, np.zeros((items, 2)), right), asked, [0, 1], **STATISTICS
    ).metrics


@pytest.mark.long
def test_intervals_cover_where_there_is_no_effect():
    rng, inside = np.random.default_rng(4), []
    for _ in range(80):
        found = simulated(rng, 0.0)["mean_over_layers_own_minus_control"].sel(dataset="pooled")
        inside.append(found.sel(interval="low") <= 0 <= found.sel(interval="high"))
    assert np.mean(inside) >= 0.88


def test_p_values_are_uniform_where_there_is_no_effect():
    """Sources of unequal numbers of items, whose items are alike."""
    rng, p = np.random.default_rng(5), []
    for _ in range(200):
        source = np.repeat(np.arange(20), 1 + rng.geometric(0.5, 20))
        values = xr.DataArray(
            (rng.standard_t(5, 20)[source] + rng.normal(0, 1, len(source)))[:, None], {"layer": [0]}, ("item", "layer")
        )
        asked = of_sources(["a"] * len(source), source.astype(str).tolist(), np.zeros(len(source), int))
        p.append(measure.contrasts(values, asked, 200, 1)["p_value"].values[0])
    assert np.mean(np.array(p) <= 0.1) < 0.16 and 0.42 < np.mean(p) < 0.58


def test_an_effect_is_found_by_all_contrasts():
    found = simulated(np.random.default_rng(5), -1.5)
    assert (found["q_value"] < 0.05).all()
    assert found["own_minus_control"].sel(dataset="pooled", interval="high").max() < 0


def test_a_page_without_changes_says_what_was_answered(two_experts):
    metrics = two_experts.assign_attrs(
        nothing_removed="there is one subject", left_out="poems", too_long=3, shortened=2
    )
    shown = seen(metrics, metrics)
    assert [figure.name for figure in page.figures(shown)] == ["answers"] and page.brief(shown) is None
    (finding,) = page.findings(shown)
    assert finding.measure == "accuracy" and finding.n == 24
    caption = page.figures(shown)[0].caption
    assert "too few sources for items: poems." in caption and "3 items are longer than the window" in caption


# ---------------------------------------------------------------- real layouts


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """The same items in the layout of the hub, and as the tar of the archive."""
    folder = tmp_path_factory.mktemp("layouts")
    splits = {split: items_of(split) for split in SPLITS}
    write_archive(folder / "archive", splits)
    return {"hub": write_hub(folder / "hub", splits), "archive": folder / "archive/data.tar"}


LOADED = {"dtype": "auto", "device": "cpu", "attention": "auto", "experts": "auto"}
KNOWN: dict[tuple[str, str], xr.Dataset] = {}
SETTINGS = {"source": "files", "form": "letters", "shots": 1, "subjects": [], "leave_out": [], "items": 5}
SETTINGS |= {"calibration_items": 3, "close_items": 1, "experts": 2, "caliper": 0.2, "flips": 100, "seed": 7}


@pytest.mark.parametrize(
    ("family", "layout", "form"),
    [
        ("olmoe", "hub", "letters"),
        pytest.param("olmoe", "archive", "letters", marks=pytest.mark.slow),
        pytest.param("qwen2_moe", "archive", "letters", marks=pytest.mark.slow),
        pytest.param("deepseek_v2", "hub", "cloze", marks=pytest.mark.slow),
        pytest.param("deepseek_v2", "archive", "cloze", marks=pytest.mark.slow),
    ],
)
def test_the_layouts_run_on_models_of_each_family(
    family, layout, form, layouts, lettered, run_script, tmp_path, results=KNOWN
):
    model = families.causal_model(family, vocab_size=len(lettered), max_position_embeddings=600)
    model.save_pretrained(tmp_path / "model")
    lettered.save_pretrained(tmp_path / "model")
    (tmp_path / "described.json").write_text('{"model_id": "made up", "weights_sha256": "0"}')
    run_script(
        "measure_multiple_choice",
        tmp_path,
        input={"folder": tmp_path / "model", "tokenizer": tmp_path / "model", "tokens": [], "rows": layouts[layout],
               "description": tmp_path / "described.json", "untrained": []},
        output={name: tmp_path / f"{name}.{end}" for name, end in
                {"metrics": "nc", "draws": "nc", "table": "csv", "contrasts": "csv"}.items()},
        wildcards={"model": family, "checkpoint": "main"},
        params={"model": LOADED | {"gpus": 1, "trust_remote_code": False},
                "read": {"layers": "all", "window": 500}, "threads": 1, "tokens_per_batch": {"cpu": 4000},
                "settings": SETTINGS | {"form": form}, "changes": True, "fewest_clusters": 2,
                "statistics": {"seed": 1, "resamples": 100, "confidence": 0.95}},
    )  # fmt: skip
    metrics = netcdf.load(tmp_path / "metrics.nc")
    assert metrics["dataset"].values.tolist() == ["pooled", *SUBJECTS] and metrics["documents"].values.tolist() == [
        10,
        5,
        5,
    ]
    assert metrics["layer"].values.tolist() == ([0, 1, 2] if family == "olmoe" else [1, 2])
    for name in ("accuracy", "own_minus_control", "rank_change", "own_lens"):
        assert np.isfinite(metrics[name].sel(interval="estimate")).all(), name
    assert {figure.name for figure in page.figures(seen(metrics))} == {
        "answers",
        "sets_by_layer",
        "sets_by_subject",
        "ranks",
        "lenses",
    }
    other = results.setdefault((family, form), metrics)
    xr.testing.assert_identical(other.drop_attrs(), metrics.drop_attrs())  # of the same items in both layouts
