"""Annotation: labels, their scores on planted routing, names by a model, languages of local files, the page."""

import json
from functools import partial
from itertools import combinations

import numpy as np
import page_cases
import pytest
import transformers
import xarray as xr
from routing_cases import Case, case, logits_for, records
from vocabulary_cases import written

from gatebook.chapters.annotation import labels, naming, page, scoring
from gatebook.chapters.annotation import measure as annotation
from gatebook.chapters.annotation.labels import AFTER, FIRST, NAMES, OWN, Labels
from gatebook.inputs import documents
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import uncertainty, word_classes
from gatebook.study import routed

seen = partial(page_cases.seen, "annotation")

pytestmark = pytest.mark.filterwarnings("error")

TEXTS = [" the", " of", " cats", " ran", ".", "\n", " Rome", "7", " blue", "("]
"""The texts of the token ids."""
ARTICLE, PREPOSITION, PLAIN, VERB, STOP, LINE, NAME, DIGIT, COLOUR, BRACKET = range(10)
EXPERTS, K = 6, 2


def texts_of(ids: np.ndarray) -> tuple[list[str], list[bool]]:
    return [TEXTS[one] for one in ids.tolist()], [False] * len(ids)


def measured(study: dict[str, Case], folder, texts=texts_of, **options):
    paths = written(study, folder)
    read = routed.read(**paths)
    options = {"languages": {}, "named": None, "tokens": 10**6, "minimum_share": 0.002, "pairs": 3} | options
    options = {"permutations": 2, "examples": 4, "seed": 1, "confidence": 0.95} | options
    return annotation.measure(read, routed.read_layers(read, paths["records"]), texts, **options)


def planted(first: np.ndarray, lengths: list[int], token_id: np.ndarray, rng: np.random.Generator) -> Case:
    """One layer in which expert 0 gets the tokens `first`, and expert 1 the others; the second choice is random."""
    selected = np.stack([np.where(first, 0, 1), rng.integers(2, EXPERTS, len(first))], axis=1)
    return case({0: records(logits_for(selected, EXPERTS), K)}, lengths, token_id)


def label_of(metrics: xr.Dataset, expert: int) -> str:
    return str(metrics["label"].values[int(metrics["best_label"].sel(layer=0, expert=expert))])


def accuracy_of(metrics: xr.Dataset, expert: int) -> float:
    return float(metrics["expert_accuracy"].sel(layer=0, expert=expert, interval="estimate"))


def study_with(rule, rng: np.random.Generator, texts: int = 24, length: int = 50) -> dict[str, Case]:
    """A dataset of random token ids, in which a rule of the ids and of those before them decides."""
    token_id = rng.integers(0, len(TEXTS), texts * length)
    before = np.where(np.arange(len(token_id)) % length == 0, -1, np.append(-1, token_id[:-1]))
    return {"poems": planted(rule(token_id, before), [length] * texts, token_id, rng)}


# ---------------------------------------------------------------- words and labels


def test_words_are_of_one_closed_class_of_a_language():
    for language, lists in word_classes.LISTS.items():
        assert language in word_classes.LANGUAGES and set(lists) >= set(word_classes.CLOSED)
        for one, other in combinations(lists, 2):
            assert not lists[one] & lists[other], (language, one, other)
    assert set(word_classes.LISTS) == set(word_classes.LANGUAGES)


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        (" on", "en", True),
        ("on", "en", False),  # the rest of "button"
        ("On", "en", True),
        (" sur", "en", False),
        (" sur", "fr", True),
        (" auf", "de", True),
        (" hacia", "es", True),
        ("在", "zh", True),
        ("から", "ja", True),
        ("", "en", False),
    ],
)
def test_a_preposition_is_a_whole_word_of_its_language(text, language, found):
    assert word_classes.is_of(text, "prepositions", language) is found


def test_own_labels_by_hand():
    wanted = {
        " the": {"lower-case word", "articles and determiners"},
        "\n  ": {"whitespace", "line ends"},
        "    ": {"whitespace", "several blanks"},
        " walked": {"lower-case word", "words in -ed"},
        " red": {"lower-case word", "colours"},  # too short for an ending
        "NASA": {"capitalised", "words in capitals"},
        "])": {"punctuation", "closing brackets"},
        "<s>": {"special"},
        " x": {"lower-case word", "single letters"},
        "...": {"punctuation", "ends of sentences"},
        " seven": {"lower-case word", "numbers in words"},
        "42": {"number"},
    }
    found = labels.own(list(wanted), [text == "<s>" for text in wanted], "en")
    for (text, names), has in zip(wanted.items(), found, strict=True):
        assert {name for name, one in zip(OWN, has, strict=True) if one} == names, text


def test_labels_of_context_by_hand(tmp_path):
    made = case({0: records(np.zeros((6, 3)), 1)}, [4, 2], [ARTICLE, NAME, STOP, NAME, NAME, PLAIN])
    other = case({0: records(np.zeros((2, 3)), 1)}, [2], [PLAIN, NAME])
    read = routed.read(**written({"a": made, "b": other}, tmp_path))
    found = Labels.of(read, np.arange(8), texts_of, {"a": "en", "b": "fr"})
    has = {name: found.matrix[:, place].astype(int).tolist() for place, name in enumerate(found.names)}
    assert has[FIRST] == [1, 0, 0, 0, 1, 0, 1, 0]
    assert has["capitalised"] == [0, 1, 0, 1, 1, 0, 0, 1]
    assert has[f"{AFTER}capitalised"] == [0, 0, 1, 0, 0, 1, 0, 0]
    assert has[NAMES] == [0, 1, 0, 0, 0, 0, 0, 1]  # not after the end of a sentence, nor at the beginning
    assert has["articles and determiners"] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert has["dataset: b"] == has["language: French"] == [0] * 6 + [1, 1]
    part = Labels.of(read, np.array([1, 7]), texts_of, {})
    assert part.names[-2:] == ["dataset: a", "dataset: b"]
    assert part.matrix[:, part.names.index(NAMES)].tolist() == [True, True]  # what is before it counts, drawn or not


# ---------------------------------------------------------------- scores


def test_accuracy_and_precision_by_hand():
    # 10 tokens, 4 select the expert; 5 have the label, 3 of them select it: ½ (3/4 + 4/6).
    assert scoring.accuracy(*map(np.array, (3, 4, 5, 10))) == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert scoring.precision(np.array(3), np.array(5)) == pytest.approx(0.6)
    assert np.isnan(scoring.accuracy(*map(np.array, (5.0, 10.0, 5.0, 10.0))))


@pytest.fixture(scope="module")
def random_study(tmp_path_factory):
    """Tokens of random ids and experts, with the labels of the tokens."""
    rng = np.random.default_rng(3)
    made = study_with(lambda ids, before: rng.random(len(ids)) < 0.4, rng, texts=30, length=12)
    paths = written(made, tmp_path_factory.mktemp("random"))
    read = routed.read(**paths)
    (layer,) = routed.read_layers(read, paths["records"])
    found = Labels.of(read, np.arange(360), texts_of, {})
    return found, read["group"].values.astype(int), layer.selected.astype(int)


def test_counts_and_scores_are_those_of_their_definitions(random_study):
    found, group, selected = random_study
    known = scoring.totals(found, group)
    counts = scoring.count(found, group, np.repeat(np.arange(360), K), selected.ravel(), EXPERTS, known)
    chooses = group % 2 == 0
    among = scoring.eligible(*known, 0.01)
    share = found.matrix[chooses].mean(axis=0)
    assert (among == ((share >= 0.01) & (share <= 0.99))).all()
    label = scoring.best(counts.of(scoring.CHOOSING).accuracy(), among)
    scores = scoring.held_out(counts, label)

    def defined(expert: int, place: int, tokens: np.ndarray) -> float:
        has, mine = found.matrix[tokens, place], (selected[tokens] == expert).any(axis=1)
        return (has[mine].mean() + (~has)[~mine].mean()) / 2

    for expert in range(EXPERTS):
        every = [defined(expert, place, chooses) if among[place] else 0 for place in range(len(among))]
        assert label[expert] == int(np.argmax(every))
        assert scores.accuracy[0, expert] == pytest.approx(defined(expert, label[expert], ~chooses))
        without = ~chooses & (group != 5)
        assert scores.accuracy[1 + 5, expert] == pytest.approx(defined(expert, label[expert], without))
        assert scores.accuracy[1 + 4, expert] == scores.accuracy[0, expert]  # group 4 chose
        has, mine = found.matrix[~chooses, label[expert]], (selected[~chooses] == expert).any(axis=1)
        assert scores.precision[0, expert] == pytest.approx(mine[has].mean())


def test_pairs_are_those_that_most_tokens_of_the_first_half_select(random_study):
    found, group, selected = random_study
    chosen = scoring.pairs(selected, group, EXPERTS, 4)
    sets = [tuple(sorted(each)) for each in selected[group % 2 == 0].tolist()]
    number = [sets.count(tuple(pair)) for pair in chosen.tolist()]
    assert number == sorted((sets.count(each) for each in set(sets)), reverse=True)[:4]
    token, pair = scoring.members(selected, chosen)
    assert (np.diff(token) >= 0).all()
    for place, both in enumerate(chosen.tolist()):
        assert token[pair == place].tolist() == np.flatnonzero(np.isin(selected, both).sum(axis=1) == 2).tolist()
    none = scoring.pairs(selected[:, :1], group, EXPERTS, 4)  # of a model that selects one expert
    counts = scoring.count(found, group, *scoring.members(selected, none), 0, scoring.totals(found, group))
    assert counts.hits.shape == (GROUPS, 0, len(found.names)) and counts.accuracy().shape[1] == 0


def test_token_ids_that_tell_on_one_half_are_looked_up_on_the_other(random_study):
    found, group, selected = random_study
    value = scoring.lookup(found.code, group, selected, len(found.token_id), EXPERTS)
    first, mine = group % 2 == 0, (selected == 0).any(axis=1)
    ids = range(len(found.token_id))
    telling = [(found.code[first & mine] == one).mean() > (found.code[first & ~mine] == one).mean() for one in ids]
    guess = np.array(telling)[found.code]
    assert value[0, 0] == pytest.approx((guess[~first & mine].mean() + (~guess)[~first & ~mine].mean()) / 2)
    none = scoring.lookup(found.code, np.where(first, 0, 1), np.zeros((360, 1), int), len(ids), 2)
    assert np.isnan(none).all()


def test_the_interval_of_a_label_covers_its_accuracy():
    """Clusters differ in how well the label tells; the truth is that of their mean."""
    rng, inside = np.random.default_rng(7), []
    for _ in range(150):
        right = rng.beta(14, 6, 60)  # the mean is 0.7
        parts = np.zeros((GROUPS, 4))
        for cluster, one in enumerate(right):
            has, others = rng.binomial(40, one), rng.binomial(60, 1 - one)
            parts[cluster % GROUPS] += has, 40, has + others, 100
        hits, selected, labelled, tokens = scoring.draws(parts).T
        value = xr.DataArray(scoring.accuracy(hits, selected, labelled, tokens), dims="draw")
        low, high = uncertainty.jackknife(value).values[1:]
        inside.append(low <= 0.7 <= high)
    assert 0.9 <= np.mean(inside) <= 0.99


# ---------------------------------------------------------------- planted routing


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is found where prepositions, what follows an article, or nothing decides."""
    rules = {
        "preposition": lambda ids, before: ids == PREPOSITION,
        "context": lambda ids, before: before == ARTICLE,
        "nothing": lambda ids, before: np.arange(len(ids)) % 7 < 3,
    }
    rng = np.random.default_rng(11)
    return {
        name: annotation.with_texts(
            measured(study_with(rule, rng), tmp_path_factory.mktemp(name)).metrics,
            lambda ids: [repr(TEXTS[one])[1:-1] for one in ids.tolist()],
        )
        for name, rule in rules.items()
    }


def test_what_is_planted_is_found_and_chance_is_a_coin(found):
    one = found["preposition"]
    assert label_of(one, 0) == "prepositions" and accuracy_of(one, 0) == 1
    assert float(one["expert_precision"].sel(layer=0, expert=0, interval="estimate")) == 1
    assert float(one["lookup_accuracy"].sel(layer=0, interval="estimate")) > 0.6
    for expert in range(2, EXPERTS):
        assert abs(accuracy_of(one, expert) - 0.5) < 0.1
    for metrics in found.values():
        null = metrics["mean_over_layers_null_label_accuracy"].sel(interval="estimate")
        assert float(null) == pytest.approx(0.5, abs=0.03)
    nothing = found["nothing"]["mean_over_layers_label_accuracy"]
    assert float(nothing.sel(interval="estimate")) == pytest.approx(0.5, abs=0.03)


def test_context_can_tell_what_no_token_id_does(found):
    one = found["context"]
    assert label_of(one, 0) == f"{AFTER}articles and determiners" and accuracy_of(one, 0) == 1
    gap = one["lookup_gap"].sel(layer=0)
    assert float(gap.sel(interval="high")) < 0


def test_samples_are_tokens_that_select_the_expert_on_the_scored_half(found):
    one = found["preposition"]
    assert set(one["sample_token"].sel(layer=0, expert=0).values.tolist()) == {PREPOSITION}
    assert PREPOSITION not in one["sample_token"].sel(layer=0, expert=1).values
    assert one["tokens"].values.tolist() == [1200, 1200]


def test_of_one_language_nothing_is_asked(found):
    assert np.isnan(found["nothing"]["language_share"]).all()


def test_a_label_of_one_dataset_stands_beside_those_of_tokens(tmp_path):
    rng = np.random.default_rng(2)
    study = {
        name: planted(np.full(600, name == "code"), [50] * 12, rng.integers(0, len(TEXTS), 600), rng)
        for name in ("poems", "code")
    }
    metrics = measured(study, tmp_path).metrics
    assert label_of(metrics, 0) == "dataset: code" and label_of(metrics, 1) == "dataset: poems"
    assert float(metrics["expert_accuracy"].sel(layer=0, expert=0, interval="low")) == 1


# ---------------------------------------------------------------- names by the model


@pytest.fixture(scope="module")
def model(model_folder):
    return transformers.AutoModelForCausalLM.from_pretrained(model_folder).eval()


def test_log_likelihoods_are_those_of_whole_texts(model, monkeypatch):
    prompt, endings = np.array([5, 9, 2, 30]), [np.array([7]), np.array([8, 3, 11]), np.array([7, 1])]
    found = naming.log_likelihoods(model, prompt, endings)
    for value, ending in zip(found, endings, strict=True):
        ids = transformers.tokenization_utils_base.to_py_obj(np.concatenate([prompt, ending]))
        import torch

        with torch.inference_mode():
            likely = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        wanted = sum(float(likely[3 + place, token]) for place, token in enumerate(ending))
        assert value == pytest.approx(wanted, abs=1e-4)
    monkeypatch.setattr(transformers, "DynamicCache", type("Another", (), {}))
    np.testing.assert_allclose(naming.log_likelihoods(model, prompt, endings), found, atol=1e-4)


def test_the_label_is_the_one_that_a_list_makes_likelier_than_nothing_does(model, tokenizer, monkeypatch):
    listed, calls = [["a"], ["b"]], []
    values = {"": [-1.0, -5.0], "a": [-1.5, -4.0], "b": [-0.5, -4.9]}  # gains: -0.5 and 1; 0.5 and 0.1

    def likely(model, prompt, endings):
        text = tokenizer.decode(prompt.tolist())
        calls.append(text)
        return np.array(values[text.rsplit("List: ", 1)[1].split("\n")[0]])

    monkeypatch.setattr(naming, "log_likelihoods", likely)
    given, words = naming.name(model, tokenizer, naming.Asked([0, 2], [3, 1], listed, ["x", "y"]), 3)
    assert given == ["y", "x"] and len(calls) == 3 and all("\n" not in one for one in words)
    found = naming.named(naming.Asked([0, 2], [3, 1], listed, []), given, words, [0, 2], 4)
    assert found["label"].values.tolist() == [["", "", "", "y"], ["", "x", "", ""]]


def test_typical_tokens_are_those_that_are_more_frequent_than_usual():
    code, selected = np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 0, 1, 1, 1])[:, None]
    assert naming.typical(code, selected, 3, 2, 2)[:, 0].tolist() == [1, 2]


def test_names_are_scored_like_labels_and_against_random_ones(tmp_path):
    rng = np.random.default_rng(4)
    study = study_with(lambda ids, before: ids == PREPOSITION, rng)
    label = np.full((1, EXPERTS), "", dtype=object)
    label[0, :2] = "prepositions", "line ends"
    named = xr.Dataset(
        {"label": (("layer", "expert"), label), "written": (("layer", "expert"), label)},
        coords={"layer": [0]},
        attrs={"not_named": ""},
    )
    metrics = measured(study, tmp_path, named=named).metrics
    held = metrics["accuracy"].sel(layer=0)
    one, other = (float(held.sel(expert=expert, label=label[0, expert])) for expert in (0, 1))
    assert one == 1 and float(metrics["named_accuracy"].sel(layer=0, interval="estimate")) == pytest.approx(
        (1 + other) / 2
    )
    own = [name for name, known in zip(metrics["label"].values, metrics["eligible"].values, strict=True) if known]
    random = float(held.sel(expert=[0, 1], label=[name for name in own if name in OWN]).mean())
    gain = metrics["named_gain"].sel(layer=0, interval="estimate")
    assert float(gain) == pytest.approx((1 + other) / 2 - random, abs=1e-6)
    assert metrics["named_label"].values[0, 2:].tolist() == [-1] * 4


# ---------------------------------------------------------------- languages of local files

SENTENCES = {
    "en": ("the a this", "and or but", "of in with", "house river dog"),
    "fr": ("le une ces", "et ou mais", "de dans avec", "maison fleuve chien"),
    "de": ("der eine dieses", "und oder aber", "von mit nach", "Haus Fluss Hund"),
    "es": ("el una estos", "y o pero", "de en con", "casa río perro"),
}
SIGN = " ."


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Local files of four languages, sentences from closed lists, read as datasets: ids of their words, by language."""
    folder, rng, ids = tmp_path_factory.mktemp("languages"), np.random.default_rng(6), {SIGN: 0}
    read = {}
    for language, lists in SENTENCES.items():
        rows = []
        for _ in range(24):
            words = [rng.choice(lists[place % 4].split()) for place in range(24)]
            rows.append({"text": " ".join([*words, *["."] * 6])})
        path = folder / f"{language}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        entry = {"template": "{text}", "cluster": [], "limits": {}, "sample_by": "line"}
        texts = [each.text for each in documents.of_dataset(language, [str(path)], entry)]
        read[language] = [[ids.setdefault(f" {word}", len(ids)) for word in text.split()] for text in texts]
    return read, list(ids)


@pytest.mark.parametrize("decides", ["language", "word class"])
def test_experts_of_languages_and_of_word_classes_are_told_apart(spoken, decides, tmp_path):
    (read, texts), rng, study = spoken, np.random.default_rng(8), {}
    for number, (language, documents_of) in enumerate(read.items()):
        token_id = np.concatenate(documents_of)
        word = np.tile(np.append(np.arange(24) % 4, [4] * 6), 24)
        first = np.full(len(word), number) if decides == "language" else word
        selected = np.stack([first, 5 + rng.integers(0, 3, len(word))], axis=1)
        study[language] = case({0: records(logits_for(selected, 8), 2)}, [30] * 24, token_id)

    def named(ids: np.ndarray) -> tuple[list[str], list[bool]]:
        return [texts[one] for one in ids.tolist()], [False] * len(ids)

    languages = {name: name for name in SENTENCES}
    metrics = measured(study, tmp_path, named, languages=languages).metrics
    metrics = annotation.with_texts(metrics, lambda ids: [texts[one] for one in ids.tolist()])
    value = {name: float(metrics[name].sel(layer=0, interval="estimate")) for name in ("language_share", "class_share")}
    beyond = metrics["language_beyond_token"].sel(layer=0)
    (finding,) = [one for one in page.findings(seen(metrics)) if one.question == "Do experts serve languages?"]
    null = metrics["mean_over_layers_null_language_share"]
    assert abs(float(null.sel(interval="estimate"))) < 0.03
    if decides == "language":
        assert finding.verdict == "yes" and value["language_share"] > 0.4 and abs(value["class_share"]) < 0.05
        assert float(beyond.sel(interval="low")) > 0.3  # the same full stop goes elsewhere
        assert label_of(metrics, 1) in ("language: French", "dataset: fr") and accuracy_of(metrics, 1) == 1
    else:
        assert finding.verdict == "no" and value["class_share"] > 0.3 and abs(value["language_share"]) < 0.05
        assert abs(float(beyond.sel(interval="estimate"))) < 0.05
        assert [label_of(metrics, expert) for expert in range(3)] == list(word_classes.CLOSED)
    (figure,) = [each for each in page.figures(seen(metrics)) if each.name == "languages"]
    assert "of English, French, German, Spanish" in figure.caption


# ---------------------------------------------------------------- the page


def test_answers_to_planted_routing(found):
    planted_, none = seen(found["preposition"], found["nothing"]), seen(found["nothing"])
    answers = {one.measure: one for one in reversed(page.findings(planted_))}
    assert {"label_accuracy", "lookup_gap", "pair_gain"} <= set(answers) and "named_gain" not in answers
    assert "of 1 of 6 experts it is 0.75 or more" in answers["label_accuracy"].answer
    assert page.brief(planted_).example.startswith("Most surely known is layer 0 expert ")
    assert page.brief(none).text.startswith("Nothing shows that ")
    (first, *_) = page.findings(none)
    assert first.verdict == "no" and "of 0 of 6 experts" in first.answer


def test_the_catalogue_has_the_label_the_experts_and_their_tokens(found):
    figures = {figure.name: figure for figure in page.figures(seen(found["preposition"]))}
    data = figures["catalogue"].data
    row = data[data["experts"] == "0"].iloc[0]
    assert (row["label"], row["balanced_accuracy"], row["precision"]) == ("prepositions", 1, 1)
    assert row["sample_tokens"] == " ".join([" of"] * 4)
    assert any("layer 0, expert 0" in name for name in figures["catalogue"].names)
    assert data["experts"].str.contains(" ").sum() == 3  # pairs
