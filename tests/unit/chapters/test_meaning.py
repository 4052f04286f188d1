"""Meaning: matching by token id, pairs by brute force, a planted meaning and its nulls, what paths tell."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import xarray as xr

from gatebook.chapters.base.page import Seen
from gatebook.chapters.meaning import matching, measure, page, telling
from gatebook.inputs import capability_prompts, probes, selected_probes
from gatebook.inputs.demo.scenes import SCENES
from gatebook.inputs.probes import Probe, Sample
from gatebook.inputs.sources import probes as sources
from gatebook.measures import uncertainty
from gatebook.problem import Problem

EXPERTS, TOP_K = 8, 2
SETTINGS = {"permutations": 99, "told_permutations": 19, "splits": 4, "window": 2, "examples": 2, "seed": 1}


class Words:
    """A tokenizer whose tokens are words with the blank before them."""

    all_special_ids = (0,)

    def __init__(self):
        self.known = {"<s>": 0}

    def __call__(self, text, add_special_tokens=True):
        parts = [f" {part}" for part in text.split()]
        ids = [self.known.setdefault(part, len(self.known)) for part in parts]
        return {"input_ids": [0, *ids] if add_special_tokens else ids}


def matched(label, code=None, previous=None, source=None, of_word=True) -> matching.Matched:
    """Samples with one occurrence each."""
    every = np.arange(len(label))
    code, previous, source = (given if given is not None else other for given, other in (
        (code, np.zeros(len(label), int)), (previous, every), (source, every)))  # fmt: skip
    label = np.array(label)
    names = [f"m{number}" for number in range(label.max() + 1)]
    texts = [np.array([1, 2])] * len(label)
    sizes = (len(label), 0, "")
    return matching.Matched("w", of_word, names, texts, label, np.array(source), every, every * 0 + 1,
                            np.array(code), np.array(previous), *sizes)  # fmt: skip


def brute_force(one: matching.Matched, sets, any_previous):
    """W and B from all pairs, one by one."""
    found = {}
    for a, b in combinations(range(len(one.sample)), 2):
        first, second = one.sample[a], one.sample[b]
        if one.token_id[a] != one.token_id[b] or one.source[first] == one.source[second]:
            continue
        if one.previous[a] == one.previous[b] and not any_previous:
            continue
        same = one.label[first] == one.label[second]
        shared = len(set(sets[a].tolist()) & set(sets[b].tolist())) / sets.shape[1]
        found.setdefault(one.token_id[a], {True: [], False: []})[same].append(shared)
    parts = [(each[True], each[False]) for each in found.values() if each[True] and each[False]]
    weight = np.array([len(s) * len(o) / (len(s) + len(o)) for s, o in parts])
    return tuple((weight * [np.mean(each[side]) for each in parts]).sum() / weight.sum() for side in (0, 1))


def random_sets(rng, number):
    return np.argsort(rng.random((number, EXPERTS)), axis=1)[:, :TOP_K]


@pytest.mark.parametrize("any_previous", [False, True])
def test_pairs_are_those_of_brute_force(any_previous):
    rng = np.random.default_rng(0)
    sample = np.sort(rng.integers(0, 12, 60))
    one = matched(np.arange(12) % 2, source=np.arange(12) // 4 * 2 + np.arange(12) % 2)._replace(
        sample=sample, token_id=rng.integers(0, 4, 60), previous=rng.integers(0, 3, 60)
    )
    sets, design = random_sets(rng, 60), measure.Design.of(one)
    here = measure.together(design, sets, EXPERTS, any_previous=any_previous)
    same, other = measure.contrast(here, design.jackknife(), TOP_K)
    assert (same[0], other[0]) == pytest.approx(brute_force(one, sets, any_previous))
    left_out = np.isin(one.source[sample], np.unique(one.source)[design.group == 2])
    kept = one._replace(**{name: getattr(one, name)[~left_out] for name in ("sample", "token_id", "previous")})
    assert (same[3], other[3]) == pytest.approx(brute_force(kept, sets[~left_out], any_previous))


def test_a_set_for_each_meaning_is_all_and_one_set_for_all_is_nothing():
    one, layers = matched([0] * 4 + [1] * 4), [0, 3]
    apart = np.where(one.label[:, None] == 0, [0, 1], [2, 3])
    for sets, share in ((apart, 1.0), (np.tile([0, 1], (8, 1)), 0.0)):
        found = measure.measure([one], [np.stack([sets] * 2)], layers, experts=EXPERTS, confidence=0.95, **SETTINGS)
        assert found.metrics["meaning_share"].sel(dataset="w", interval="estimate").values.tolist() == [share] * 2
        assert np.isnan(found.metrics["capability_share"]).all()


def test_what_the_token_before_decides_is_no_meaning():
    label = np.repeat([0, 1], 20)
    previous = np.concatenate([np.arange(20) % 2, np.arange(20) % 2 + (np.arange(20) < 14)])
    sets = np.stack([np.stack([previous, 3 + previous], axis=1)])
    one = matched(label, previous=previous)
    found = measure.measure([one], [sets], [0], experts=EXPERTS, confidence=0.95, **SETTINGS).metrics.sel(
        dataset="w", interval="estimate", layer=0
    )
    assert found["meaning_share_any_previous"] > 0.1
    assert found["meaning_share"] == 0


def planted(rng, strength, layers=2, per=12):
    """Occurrences of a word whose meaning adds `strength` to the logits of some experts."""
    one = matched(np.repeat(np.arange(3), per))
    base, effect = rng.standard_normal((layers, EXPERTS)), strength * rng.standard_normal((layers, 3, EXPERTS))
    noise = rng.gumbel(size=(layers, 3 * per, EXPERTS))
    logits = base[:, None] + effect[:, one.label] + noise
    return one, np.argsort(-logits, axis=-1)[..., :TOP_K]


def several(strength, number=6):
    rng = np.random.default_rng(3)
    words, sets = zip(*(planted(rng, strength) for _ in range(number)), strict=True)
    words = [word._replace(name=f"w{index}") for index, word in enumerate(words)]
    return measure.measure(words, sets, [0, 1], experts=EXPERTS, confidence=0.95, **SETTINGS).metrics


def test_a_planted_meaning_is_found_and_its_null_is_not():
    found, nothing = several(2.0), several(0.0)
    share = found["mean_over_layers_meaning_share"].sel(dataset="pooled")
    assert share.sel(interval="low") > 0.1 and found["words_p_value"] == 0.01
    assert (found["q_value"].isel(dataset=slice(1, None)) < 0.05).mean() > 0.8
    low, high = (
        nothing["mean_over_layers_meaning_share"].sel(dataset="pooled", interval=end) for end in ("low", "high")
    )
    assert low < 0 < high and nothing["words_p_value"] > 0.05 and (nothing["q_value"] > 0.05).sum() == 12
    assert found["path_tells"].sel(dataset="pooled", interval="low") > 0.3 and found["told_p_value"][0] == 0.05
    told = nothing["path_tells"].sel(dataset="pooled")
    average, low, high = nothing["null_path_tells"].sel(dataset="pooled").values
    assert low < told.sel(interval="estimate") < high and abs(average) < 0.1


@pytest.mark.slow
def test_intervals_cover_what_many_samples_show():
    rng = np.random.default_rng(5)
    base, effect = rng.standard_normal(EXPERTS), 0.8 * rng.standard_normal((3, EXPERTS))

    def shares(per):
        one = matched(np.repeat(np.arange(3), per))
        logits = base + effect[one.label] + rng.gumbel(size=(3 * per, EXPERTS))
        design = measure.Design.of(one)
        here = measure.together(design, np.argsort(-logits, axis=-1)[:, :TOP_K], EXPERTS)
        same, other = measure.contrast(here, design.jackknife(), TOP_K)
        return (same - other) / (1 - other)

    truth = shares(400)[0]
    drawn = [shares(12) for _ in range(150)]
    made, wide = (
        np.array([uncertainty.jackknife(xr.DataArray(each, dims="draw")).values for each in draws])
        for draws in (map(measure.narrowed, drawn), (each[:21] for each in drawn))
    )
    covered = ((made[:, 1] <= truth) & (truth <= made[:, 2])).mean()
    assert 0.92 <= covered <= 0.985 and made[:, 0].mean() == pytest.approx(truth, abs=0.02)
    assert (made[:, 0] == wide[:, 0]).all()
    narrower = (made[:, 2] - made[:, 1]) / (wide[:, 2] - wide[:, 1])
    assert (narrower <= 1 + 1e-9).all() and (narrower >= 0.5**0.5 - 1e-9).all() and narrower.mean() < 0.95


def test_a_path_tells_what_no_layer_does():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(4), 24)
    bits = np.stack([label // 2, label % 2])  # each layer holds one half of the meaning
    sets = np.stack([bits * 2, bits * 2 + 1], axis=-1)
    kernel = telling.kernels(np.arange(len(label)), len(label), sets, EXPERTS)
    assert (np.diagonal(kernel, axis1=1, axis2=2) == 0).all() and set(np.unique(kernel)) == {0, 1}
    layer, path = telling.hits(kernel, label[None], 4, splits=3, window=2, seed=[0])
    assert (path == 1).all() and layer.mean() == pytest.approx(0.5, abs=0.01)
    shuffled = rng.permutation(label)
    by_chance = telling.hits(kernel, shuffled[None], 4, splits=3, window=2, seed=[0])[1]
    assert abs(telling.beyond_chance(by_chance[0], shuffled, 4)) < 0.15
    assert telling.beyond_chance(np.ones(96), label, 4) == 1 and telling.beyond_chance(label == 0, label, 4) == 0


def test_the_flow_of_every_word_can_be_explored_and_examples_are_drawn():
    rng = np.random.default_rng(1)
    made = {f"w{number}": planted(rng, number, layers=3) for number in range(3)}
    words = [word._replace(name=name) for name, (word, _) in made.items()]
    sets = [sets for _, sets in made.values()]
    found = measure.measure(words, sets, [0, 2, 3], experts=EXPERTS, confidence=0.95, **SETTINGS).metrics
    shown = page.explored(Seen(found))
    assert shown.layers == [0, 2, 3] and {word.name for word in shown.words} == set(made)
    share = found["mean_over_layers_meaning_share"].sel(
        interval="estimate", dataset=[word.name for word in shown.words]
    )
    assert (np.diff(share) <= 0).all()
    for word in shown.words:
        (one, chosen), flows = made[word.name], word.flows(shown.layers)
        places = [list(zip(*both, strict=True)) for both in zip(flows["bars"], flows["kinds"], strict=True)]
        assert word.meanings == one.labels
        for step in (0, 1):
            wanted = Counter(zip(*chosen[step : step + 2, :, 0].tolist(), one.label.tolist(), strict=True))
            tokens = np.array(flows["steps"][step]["tokens"])
            told = {
                (places[step][row][0], places[step + 1][column][0], places[step][row][1]): tokens[row, column]
                for row, column in np.argwhere(tokens).tolist()
            }
            assert told == wanted
    drawn = page._flows(found)
    assert drawn.explores == shown.words[0].name and len(drawn.drawing.axes) == SETTINGS["examples"]
    assert drawn.data["flow_word"].unique().tolist() == [word.name for word in shown.words[:2]]
    assert page.explored(Seen(found.isel(layer=[0]))) is page.explored(Seen(found.isel(flow=[]))) is None


# ---------------------------------------------------------------- matching


def test_tokens_are_matched_by_id_and_others_are_skipped_and_counted():
    texts = ("a light came", "lights out", "no light at light", "far away the light")
    probe = Probe(
        "light", " light", [Sample("x" if place < 2 else "y", text, text) for place, text in enumerate(texts)]
    )
    words = Words()
    found = matching.match(probe, words, window=4)
    assert (found.samples, found.skipped, found.labels, found.reason) == (4, 2, ["x", "y"], "")
    assert found.sample.tolist() == [0, 1] and found.position.tolist() == [2, 2]  # beyond the window there is none
    assert found.previous.tolist() == [words.known[" a"], words.known[" no"]] and found.label.tolist() == [0, 1]
    assert matching.match(probe, words, window=9).sample.tolist() == [0, 1, 1, 2]
    several_tokens = matching.match(probe._replace(token=" light bulb"), words, window=9)
    assert several_tokens.skipped == 4 and several_tokens.reason == "' light bulb' is 2 tokens"
    assert not measure.Design.of(several_tokens).enough


def test_without_a_token_all_but_special_ones_count_and_neutral_text_is_as_long():
    samples = [Sample("asked", "b c", "s"), Sample("neutral", "b d e f g", "t", at_most=0)]
    found = matching.match(Probe("p", None, samples), Words(), window=9)
    assert found.sample.tolist() == [0, 0, 1, 1] and found.position.tolist() == [1, 2, 1, 2]
    assert found.previous.tolist()[0] == 0 and not found.of_word


# ---------------------------------------------------------------- probes


def test_probes_of_the_demo_hold_no_training_sentence_and_each_word_once_at_least():
    found = probes.of_demo()
    assert len(found) == 10 and {len(probe.samples) for probe in found} == {36}
    trained = {text for meanings in SCENES.values() for each in meanings.values() for text in each["train"]}
    for probe in found:
        assert all(probe.token in sample.text and sample.text not in trained for sample in probe.samples)
        assert not any("{" in sample.text for sample in probe.samples)


def test_generated_prompts_come_from_templates_in_turn_and_are_the_same_again():
    names = list(capability_prompts.CAPABILITIES)
    wanted = capability_prompts.Generated(names, 10, 3)
    found = capability_prompts.generate(wanted)
    assert [probe.name for probe in found] == names and found == capability_prompts.generate(wanted)
    for probe in found:
        assert probe.labels == [probe.name, "neutral"] and len(probe.samples) == 20
        assert len({sample.source for sample in probe.samples}) == 16
        assert [sample.at_most for sample in probe.samples] == [None] * 10 + list(range(10))


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"source": "files"}, "probes.mine.files with `source: files`: write it."),
        ({"source": "demo", "each": 3}, "probes.mine.each with `source: demo`: remove it."),
        ({"source": "generated", "names": ["code"], "seed": 1}, "probes.mine.each with `source: generated`: write it."),
    ],
)
def test_keys_of_a_catalogue_entry_fit_its_source(entry, sentence):
    config = {"study": {"probes": ["mine"]}, "probes": {"mine": entry}}
    with pytest.raises(Problem) as raised:
        sources.selected(config)
    assert str(raised.value) == f"config: {sentence}"
    with pytest.raises(Problem, match=r"'yours' is not in the catalogue `probes` \(mine\): use one of it, or add it."):
        sources.selected(config | {"study": {"probes": ["yours"]}})


def test_files_of_selected_probes_are_known_by_their_keys():
    config = {
        "study": {"probes": ["mine"]},
        "probes": {"mine": {"source": "files", "files": ["a.yaml", "b.yaml"]}, "other": {"source": "demo"}},
    }
    found = sources.selected(config)
    assert found == {"mine": config["probes"]["mine"]}
    assert sources.files(found) == {"probes.mine.files[0]": "a.yaml", "probes.mine.files[1]": "b.yaml"}


FILE = """
- token: " light"
  meanings:
    - {meaning_label: lamp, text_samples: [a light, the light]}
    - {meaning_label: weight, text_samples: [so light]}
- meanings:
    - {meaning_label: maths, text_samples: [1 + 1]}
    - {meaning_label: other, text_samples: [hello]}
"""


def test_a_file_of_probes(tmp_path):
    path = tmp_path / "probes.yaml"
    path.write_text(FILE)
    word, capability = probes.read(str(path))
    texts = {"a light": "lamp", "the light": "lamp", "so light": "weight"}
    assert word == Probe("light", " light", [Sample(label, text, text) for text, label in texts.items()])
    assert capability.token is None and capability.labels == ["maths", "other"]
    twice = selected_probes.read({name: {"source": "files", "files": [str(path)]} for name in ("a", "b")})
    assert [probe.name for probe in twice] == ["a: light", "a: probe 2", "b: light", "b: probe 2"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: 1", "is not a list of probes"),
        ("- !!python/object/apply:os.system [ls]", "is no YAML of plain values"),
        ("- [", "is no YAML of plain values"),
        ("- {token: 3, meanings: []}", "token is 3: write a text in quotes"),
        ("- {words: 3}", "does not have the keys token and meanings alone"),
        ("- {meanings: [{meaning_label: a, text_samples: [b]}]}", "meanings has not 2 items"),
        ("- {meanings: [{meaning_label: a, text_samples: [b]}, {label: a}]}", "a meaning has not the keys"),
        ("- {meanings: [{meaning_label: a, text_samples: [b]}, {meaning_label: 1, text_samples: [c]}]}", "is 1: write"),
        ("- {meanings: [{meaning_label: a, text_samples: [b]}, {meaning_label: c, text_samples: [1]}]}", "no list of"),
        ("- {meanings: [{meaning_label: a, text_samples: [b]}, {meaning_label: c, text_samples: [b]}]}", "'b' is a"),
        ("- {meanings: [{meaning_label: a, text_samples: [b]}, {meaning_label: a, text_samples: [c]}]}", "have one"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "probes.yaml"
    path.write_text(content)
    with pytest.raises(Problem) as raised:
        probes.read(str(path))
    text = str(raised.value)
    assert sentence in text and str(path) in text and "\n" not in text and text.endswith(".")
