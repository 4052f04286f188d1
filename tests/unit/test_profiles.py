import json
import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import jsonschema
import numpy as np
import pytest
import xarray as xr
from report_cases import TEMPLATES, make_site
from routing_cases import Case, case, completed, records, saved
from vocabulary_cases import vocabulary_case, written

from gatebook.atlas import profiles
from gatebook.chapters.coactivation import measure as coactivation
from gatebook.chapters.domain_specialization import measure as domain_specialization
from gatebook.chapters.selection_frequency import measure as selection_frequency
from gatebook.chapters.vocabulary_specialization import measure as vocabulary_specialization
from gatebook.files.tables import csv_text
from gatebook.measures import vocabulary
from gatebook.measures.token_types import TYPES
from gatebook.measures.uncertainty import INTERVAL
from gatebook.report import render
from gatebook.study import routed
from gatebook.study.tallies import open_tallies

SCHEMA = json.loads((TEMPLATES.parent / "schemas" / "expert_profile.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
TEXTS = [" the", "ing", ".", "7", " ", "<s>", "日本", "The", "a_b", "<script>x</script>", "\u202ey", "=1+1"]
STATISTICS = {"resamples": 20, "seed": 1, "confidence": 0.95}
SETTINGS = {"partners": 3, "highest": 4, "per_token": 2, "random": 3, "around": 5, "seed": 4, "confidence": 0.95}
CAPACITY = {"capacity_factors": [1.0], "batch_tokens": 100}
PERMUTATION = {"permutations": 100, "permutation_seed": 2, "false_discovery_rate": 0.05}
LENGTHS = {"poems": [90, 40, 70], "code": [60, 100]}
HOSTILE = "<script>alert(1)</script>\u202e\x07'\"" + "x" * 10_000


class Tokenizer:
    """Stands in for one of transformers: the text of id i is TEXTS[i]; "<s>" is special."""

    all_special_ids = (5,)
    added_tokens_decoder: ClassVar = {}

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool) -> str:
        assert not clean_up_tokenization_spaces
        return "".join(TEXTS[one] for one in ids)

    def convert_ids_to_tokens(self, one: int) -> str:
        return TEXTS[one].replace(" ", "Ġ")


class SentencePiece(Tokenizer):
    """The same, with a tokenizer that marks blanks by ▁ and drops that of the first token."""

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool) -> str:
        return super().decode(ids, clean_up_tokenization_spaces).removeprefix(" ")

    def convert_ids_to_tokens(self, one: int) -> str:
        return TEXTS[one].replace(" ", "▁")


def made_up(strength: float = 1.0) -> dict[str, Case]:
    """Two datasets, two layers, 6 experts of which a token selects 2."""
    rng = np.random.default_rng(3)
    return {name: vocabulary_case(rng, lengths, strength) for name, lengths in LENGTHS.items()}


def profiled(study: dict[str, Case], folder: Path, predicted: dict | None = None, **more: xr.Dataset) -> list[dict]:
    """The profiles of a study, from its real metrics and `more` of other chapters, by their names."""
    identity = {"checkpoint": "step1"}
    marked = {
        name: replace(made, layers={layer: one.assign_attrs(identity) for layer, one in made.layers.items()})
        for name, made in study.items()
    }
    paths = written(marked, folder / "records", predicted)
    (folder / "tallies").mkdir()
    tokens = routed.read(**paths)
    with open_tallies(saved(study, folder / "tallies")) as found:
        metrics = {
            "selection_frequency": selection_frequency.measure(found, **STATISTICS, **CAPACITY).metrics,
            "domain_specialization": domain_specialization.measure(found, **STATISTICS, **PERMUTATION).metrics,
            "coactivation": coactivation.measure(found, confidence=0.95).metrics,
        }
    specialization = vocabulary_specialization.measure(
        tokens, routed.read_layers(tokens, paths["records"]), permutations=1, seed=1, confidence=0.95
    ).metrics
    metrics["vocabulary_specialization"] = vocabulary_specialization.with_texts(
        specialization, lambda ids: [vocabulary.escaped(TEXTS[one]) for one in ids]
    )
    metrics |= more
    types = profiles.types(tokens["token_id"].sel(kind="input").values, Tokenizer())
    decode = profiles.decoder(Tokenizer())
    found = []
    for layer in routed.read_layers(tokens, paths["records"], "routing_weight", "entropy"):
        found += profiles.profiles(layer, tokens, types, metrics, decode, **SETTINGS)
    return found


def outputs_alike(layers: list[int], experts: int) -> xr.Dataset:
    """Similarity of experts i and j: 1 / (1 + |i - j|), and unknown between the first and the last."""
    place = np.arange(experts)
    values = np.repeat(1 / (1 + np.abs(place[:, None] - place)[None]), len(layers), axis=0)
    values[:, 0, -1] = values[:, -1, 0] = np.nan
    names = ("pair_mean_removed_cosine", "pair_output_cosine", "pair_cka")
    return xr.Dataset(dict.fromkeys(names, (("layer", "expert", "other"), values)), {"layer": layers})


def promoting(layers: list[int], experts: int) -> xr.Dataset:
    """Expert e promotes the tokens e and e + 1 and suppresses token 0; the last one has none."""
    number = np.tile(np.arange(experts), (len(layers), 1))[..., None]
    promoted = np.where(number < experts - 1, number + np.arange(2), routed.NONE)
    suppressed = np.where(number < experts - 1, 0, routed.NONE)
    found = {"promoted_token": promoted, "suppressed_token": suppressed}
    found |= {"promoted_logit": promoted / 4, "suppressed_logit": suppressed - 1.0}
    parts = {name: (("layer", "expert", name.partition("_")[0]), values) for name, values in found.items()}
    measures = dict.fromkeys(
        ("attribution", "promotion"), (("layer", "expert", "interval"), number + np.array([0.5, 0, 1]))
    )
    coords = {"layer": layers, "interval": ["estimate", "low", "high"], "token_id": np.arange(experts)}
    return xr.Dataset(parts | measures | {"token_text": ("token_id", [f"t{one}" for one in range(experts)])}, coords)


def removed(layers: list[int], experts: int) -> xr.Dataset:
    """Ablation in which the loss changes by 0.01 times the expert's number, and twice that in the last dataset."""
    times = np.array([1.0, 0.5, 2.0])[:, None, None, None] * np.array([1.0, 0.5, 1.5])
    values = 0.01 * np.arange(experts)[:, None] * times.repeat(len(layers), axis=1)
    dims = ("dataset", "layer", "expert", "interval")
    coords = {"dataset": ["pooled", *LENGTHS], "layer": layers, "interval": list(INTERVAL)}
    p = np.full((len(layers), experts), 0.25)
    return xr.Dataset({"loss_change": (dims, values), "adjusted_p_value": (dims[1:3], p)}, coords)


def labelled(layers: list[int], experts: int) -> xr.Dataset:
    """Expert e has the label number e, with a balanced accuracy of 0.9; the last one has none, the model names one."""
    best, named = np.tile(np.arange(experts), (len(layers), 1)), np.full((len(layers), experts), -1)
    best[:, -1], named[:, 0] = -1, 2
    interval_of = np.where(best[..., None] < 0, np.nan, [0.9, 0.8, 1.0])
    dims = ("layer", "expert")
    parts = dict.fromkeys(("expert_accuracy", "expert_precision"), ((*dims, "interval"), interval_of))
    parts |= {"best_label": (dims, best), "named_label": (dims, named)}
    parts["written"] = dims, np.where(named < 0, "", "words").astype(object)
    names = np.array([f"label {one}" for one in range(experts)], dtype=object)
    return xr.Dataset(parts, {"layer": layers, "interval": list(INTERVAL), "label": names})


@pytest.fixture(scope="module")
def study() -> dict[str, Case]:
    return made_up()


@pytest.fixture(scope="module")
def found(study, tmp_path_factory) -> list[dict]:
    rng = np.random.default_rng(5)
    predicted = {name: rng.integers(0, len(TEXTS), len(made.token_id)) for name, made in study.items()}
    more = {"similarity": outputs_alike([0, 2], 6), "expert_ablation": removed([0, 2], 6)}
    more |= {"logit_lens": promoting([0, 2], 6), "annotation": labelled([0, 2], 6)}
    return profiled(study, tmp_path_factory.mktemp("study"), predicted, **more)


def joined(study: dict[str, Case], layer: int) -> xr.Dataset:
    """All records of a layer with what follows from them, one dataset after another, and the id of every token."""
    whole = xr.concat([completed(made.layers[layer]) for made in study.values()], "token")
    return whole.assign(token_id=("token", np.concatenate([made.token_id for made in study.values()])))


def tokens_of(study: dict[str, Case], profile: dict) -> tuple[xr.Dataset, np.ndarray]:
    """The records of a profile's layer, and which of their tokens select its expert."""
    whole = joined(study, profile["layer"])
    return whole, (whole["selected_expert"].values == profile["expert"]).any(axis=1)


def test_the_schema_is_right_and_describes_every_value():
    VALIDATOR.check_schema(SCHEMA)

    def described(schema: dict) -> bool:
        inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
        inner += [schema["items"]] if "items" in schema else []
        return all(
            ("description" in one or "$ref" in one or one.keys() <= {"type", "minimum"}) for one in inner
        ) and all(map(described, inner))

    assert described(SCHEMA)
    listed = SCHEMA["properties"]["token_types"]["items"]["properties"]["type"]["oneOf"]
    assert {one["const"]: one["description"].casefold() for one in listed} == {
        name: f"{meaning}.".casefold() for name, meaning in TYPES.items()
    }


def test_there_is_a_valid_profile_for_every_expert(found):
    assert [(one["layer"], one["expert"]) for one in found] == [(layer, one) for layer in (0, 2) for one in range(6)]
    for profile in found:
        VALIDATOR.validate(json.loads(json.dumps(profile, allow_nan=False)))
        assert (profile["model"], profile["checkpoint"], profile["tokens"]) == ("made up", "last", 360)


def test_counts_are_those_of_the_records(study, found):
    for profile in found:
        whole, mine = tokens_of(study, profile)
        ranks = (whole["selected_expert"].values == profile["expert"]).sum(axis=0)
        load = profile["load"]
        assert profile["ranks"] == ranks.tolist()
        assert (load["selected_tokens"], load["first_tokens"]) == (mine.sum(), ranks[0])
        assert load["selected_share"]["estimate"] == pytest.approx(mine.mean(), rel=1e-3)
        assert load["first_share"]["estimate"] == pytest.approx(ranks[0] / 360, rel=1e-3)
        assert load["times_even"]["estimate"] == pytest.approx(mine.mean() / (2 / 6), rel=1e-3)
        entropy = whole["entropy"].values
        assert profile["entropy"]["nats"]["estimate"] == pytest.approx(entropy[mine].mean(), rel=1e-3)
        assert profile["entropy"]["normalised"]["estimate"] == pytest.approx(entropy[mine].mean() / np.log(6), rel=1e-3)
        assert profile["entropy"]["normalised_all_tokens"] == pytest.approx(entropy.mean() / np.log(6), rel=1e-3)
        starts = np.cumsum([0, *(sum(lengths) for lengths in LENGTHS.values())])
        for domain, name, start, end in zip(profile["domains"], LENGTHS, starts[:-1], starts[1:], strict=True):
            assert domain["dataset"] == name
            assert domain["share"]["estimate"] == pytest.approx(mine[start:end].mean(), rel=1e-3)


def test_types_of_the_tokens_are_counted(study, found):
    expected = ["lower-case word", "word piece", "punctuation", "number", "whitespace", "special", "other script"]
    expected += ["capitalised", "identifier", "identifier", "identifier", "number"]
    for profile in found:
        whole, mine = tokens_of(study, profile)
        names = np.array(expected)[whole["token_id"].values]
        assert [one["type"] for one in profile["token_types"]] == list(TYPES)
        for one in profile["token_types"]:
            share = one["share"]
            assert share["estimate"] == pytest.approx((names[mine] == one["type"]).mean(), rel=1e-3)
            assert one["share_of_all_tokens"] == pytest.approx((names == one["type"]).mean(), rel=1e-3)
            assert 0 <= share["low"] <= share["estimate"] <= share["high"] <= 1


def test_top_tokens_are_counted_as_first_choices(study, found):
    for profile in found:
        assert list(profile["top_tokens"]) == ["input", "next", "predicted"]
        whole, _ = tokens_of(study, profile)
        ids, first = whole["token_id"].values, whole["selected_expert"].values[:, 0] == profile["expert"]
        tops = profile["top_tokens"]["input"]
        for one in [*tops["most_frequent"], *tops["most_specific"]]:
            mine = ids == one["token_id"]
            assert one["text"] == vocabulary.escaped(TEXTS[one["token_id"]])
            assert one["count"] == (mine & first).sum()
            assert one["share_of_expert"] == pytest.approx(mine[first].mean(), rel=1e-3)
            assert one["share_of_token"] == pytest.approx(first[mine].mean(), rel=1e-3)
        counts = [one["count"] for one in tops["most_frequent"]]
        often = [(first & (ids == one)).sum() for one in np.unique(ids) if (ids == one).sum() >= 10]
        assert counts == [number for number in sorted(often, reverse=True) if number][:5]


def test_own_tokens_are_all_those_that_mostly_choose_the_expert_first(study, found):
    seen = 0
    for profile in found:
        whole, _ = tokens_of(study, profile)
        ids, first = whole["token_id"].values, whole["selected_expert"].values[:, 0] == profile["expert"]
        sent = {one: (first & (ids == one)).sum() for one in np.unique(ids).tolist()}
        own = [one for one in sent if (ids == one).sum() >= 10 and 2 * sent[one] > (ids == one).sum()]
        expected = sorted(own, key=lambda one: (-sent[one], one))
        assert profile["own_tokens"] == [vocabulary.escaped(TEXTS[one]) for one in expected]
        seen += len(own)
    assert seen > 5


def test_partners_have_the_largest_lift_and_share_tokens(study, found):
    for profile in found:
        whole, mine = tokens_of(study, profile)
        lifts = [one["lift"]["estimate"] for one in profile["partners"]]
        assert len(lifts) == 3 and lifts == sorted(lifts, reverse=True)
        for one in profile["partners"]:
            both = (whole["selected_expert"].values[mine] == one["expert"]).any(axis=1)
            assert one["expert"] != profile["expert"]
            assert one["coactivation"] == pytest.approx(both.mean(), rel=1e-3)
            assert one["lift"]["low"] <= one["lift"]["estimate"] <= one["lift"]["high"]


def test_tokens_that_an_expert_promotes_have_their_texts_and_logits(found):
    assert found[2]["logits"] == {
        "attribution": {"estimate": 2.5, "low": 2.0, "high": 3.0},
        "promotion": {"estimate": 2.5, "low": 2.0, "high": 3.0},
        "promoted": [{"token_id": 2, "text": "t2", "logit": 0.5}, {"token_id": 3, "text": "t3", "logit": 0.75}],
        "suppressed": [{"token_id": 0, "text": "t0", "logit": -1.0}],
    }
    assert found[5]["logits"]["promoted"] == found[5]["logits"]["suppressed"] == []
    row = profiles.table(found[2:3]).iloc[0]
    assert (row["attribution"], row["promoted_token"], row["suppressed_token"]) == (2.5, "t2", "t0")


def test_the_nearest_experts_are_the_others_with_the_most_similar_outputs(found):
    nearest = {profile["expert"]: [one["expert"] for one in profile["nearest"]] for profile in found[:6]}
    assert nearest == {0: [1, 2, 3], 1: [0, 2, 3], 2: [1, 3, 0], 3: [2, 4, 1], 4: [3, 5, 2], 5: [4, 3, 2]}
    assert found[0]["nearest"][1]["cka"] == 0.3333


def test_what_removing_an_expert_does_is_that_of_the_chapter(found):
    for profile in found:
        change, name = 0.01 * profile["expert"], list(LENGTHS)[1 if profile["expert"] else 0]
        assert profile["ablation"]["loss_change"]["estimate"] == pytest.approx(change)
        most = profile["ablation"]["most"]
        assert most["dataset"] == name and most["loss_change"]["high"] == pytest.approx(3 * change)
        assert profile["ablation"]["adjusted_p"] == 0.25
    assert profiles.table(found)["loss_change_low"].tolist() == pytest.approx([0.005 * one for one in range(6)] * 2)


def test_the_label_is_that_of_the_chapter(found):
    known = {"estimate": 0.9, "low": 0.8, "high": 1.0}
    first, last = found[0]["label"], found[5]["label"]
    assert first == {"name": "label 0", "accuracy": known, "precision": known} | {
        "by_model": "label 2",
        "in_its_own_words": "words",
    }
    nothing = dict.fromkeys(known)
    assert last == {"name": None, "accuracy": nothing, "precision": nothing, "by_model": None, "in_its_own_words": ""}
    rows = profiles.page(found, 0.05)["rows"]
    assert rows[0]["label"] == ["label 0", 0.9, 0.8, 1.0] and rows[5]["label"] == []
    table = profiles.table(found)
    assert table["label"].tolist()[:2] == ["label 0", "label 1"] and table["label_accuracy"][0] == 0.9


def test_contexts_are_the_source_text_of_tokens_that_select_the_expert(study, found):
    for profile in found:
        shown = profile["contexts"]
        assert len(shown["highest"]) == 4 and len(shown["random"]) == 3
        weights = [one["weight"] for one in shown["highest"]]
        assert weights == sorted(weights, reverse=True)
        assert max(one["weight"] for one in shown["random"]) <= max(weights)
        for one in [*shown["highest"], *shown["random"]]:
            made = study[one["dataset"]]
            document = made.document_id.tolist().index(one["document"])
            start, size = int(made.lengths[:document].sum()), int(made.lengths[document])
            text = [TEXTS[token] for token in made.token_id[start : start + size]]
            at = one["position"]
            assert one["before"] == "".join(text[max(0, at - 5) : at])
            assert one["token"] == text[at]
            assert one["after"] == "".join(text[at + 1 : at + 6])
            record = completed(made.layers[profile["layer"]]).isel(token=start + at)
            mine = record["selected_expert"].values == profile["expert"]
            assert record["routing_weight"].values[mine] == pytest.approx([one["weight"]], rel=1e-3)


@pytest.mark.slow
def test_compact_records_without_predictions_and_samples_give_the_same_profiles(study, found, tmp_path):
    compact = profiled({name: made.compact() for name, made in study.items()}, tmp_path)
    for one, other in zip(compact, found, strict=True):
        VALIDATOR.validate(one)
        assert not {"nearest", "ablation", "logits"} & set(one) and list(one["top_tokens"]) == ["input", "next"]
        for name in ("ranks", "domains", "token_types", "partners"):
            assert one[name] == other[name]
        assert one["entropy"]["nats"]["estimate"] == pytest.approx(other["entropy"]["nats"]["estimate"], rel=1e-3)


def uniform_with_idle_expert() -> dict[str, Case]:
    """All logits equal; experts 0 to 3 are selected in turn, 4 and 5 never."""
    selected = (np.arange(240)[:, None] + np.arange(2)) % 4
    made = records(np.zeros((240, 6)), 2, selected)
    return {name: case({0: made}, [80, 80, 80], np.arange(240) % 3) for name in ("one", "two")}


@pytest.mark.slow
def test_uniform_routing_has_its_known_values_and_an_idle_expert_none(tmp_path):
    busy, *_, idle = profiled(uniform_with_idle_expert(), tmp_path)
    assert busy["load"]["times_even"] == {"estimate": 1.5, "low": 1.5, "high": 1.5}
    assert busy["entropy"]["normalised"]["estimate"] == 1 and busy["ranks"] == [120, 120]
    assert [one["share"]["estimate"] for one in busy["domains"]] == [0.5, 0.5]
    for one in busy["token_types"]:
        assert one["share"]["estimate"] == one["share_of_all_tokens"]
    nothing = {"estimate": None, "low": None, "high": None}
    assert idle["load"]["selected_tokens"] == 0 and idle["entropy"]["nats"] == nothing
    assert idle["contexts"] == {"highest": [], "random": []} and idle["ranks"] == [0, 0]
    assert idle["top_tokens"]["input"] == {"most_frequent": [], "most_specific": []}
    VALIDATOR.validate(idle)
    assert profiles.typical_types(idle) == []
    assert page_of([busy, idle])[1]["entropy"] is None


def test_typical_types_are_those_above_their_share_of_all_tokens():
    def one(name: str, low: float, share: float, everywhere: float) -> dict:
        return {"type": name, "share": {"estimate": share, "low": low, "high": 1}, "share_of_all_tokens": everywhere}

    listed = [one("number", 0.3, 0.4, 0.2), one("special", 0.1, 0.3, 0.2), one("whitespace", 0.5, 0.6, 0.1)]
    assert [each["type"] for each in profiles.typical_types({"token_types": listed})] == ["whitespace", "number"]


@pytest.mark.parametrize("tokenizer", [Tokenizer(), SentencePiece()])
def test_text_has_the_blank_before_its_first_word(tokenizer):
    decode = profiles.decoder(tokenizer)
    assert decode(np.array([0, 1, 0])) == " theing the" and decode(np.array([1, 0])) == "ing the"
    assert decode(np.array([], dtype=int)) == ""


def page_of(found: list[dict]) -> list[dict]:
    """The rows in the page of profiles in a report."""
    place = {"model": "demo", "checkpoint": "step1", "folder": "experts/demo/step1"}
    entry = {"title": "Expert profiles", "template": "experts.html.j2"}
    entry |= {"file": "experts-demo.html", "variables": {"experts": profiles.page(found, 0.05) | place}}
    text = render.render(make_site() | {"model_pages": [entry]}, TEMPLATES)["experts-demo.html"]
    return json.loads(re.search(r'<script type="application/json" id="rows">(.*?)</script>', text)[1])


def test_the_page_has_a_row_for_every_expert(found):
    rows = page_of(found)
    assert rows == json.loads(json.dumps(profiles.page(found, 0.05)["rows"]))
    assert [(row["layer"], row["expert"]) for row in rows] == [(one["layer"], one["expert"]) for one in found]


def test_the_page_has_the_shares_of_all_datasets_and_marks_those_that_stand_out(found):
    for profile, row in zip(found, profiles.page(found, 0.3)["rows"], strict=True):
        for domain, (*share, marked) in zip(profile["domains"], row["shares"], strict=True):
            assert share[0] == domain["share"]["estimate"]
            assert share[1:] == pytest.approx([domain["share"]["low"], domain["share"]["high"]], abs=0.0005)
            assert marked == (domain["adjusted_p"] <= 0.3)
    profile = json.loads(json.dumps(found[0]))
    for one, p in zip(profile["domains"], (0.05, None), strict=True):
        one["adjusted_p"] = p
    assert [one[-1] for one in profiles.page([profile], 0.05)["rows"][0]["shares"]] == [1, 0]


def test_hostile_tokens_are_inert_on_the_page_and_in_the_table(found):
    hostile = json.loads(json.dumps(found))
    for profile in hostile:
        for one in profile["top_tokens"]["input"]["most_frequent"]:
            one["text"] = HOSTILE
    assert {token for row in page_of(hostile) for token in row["tokens"]} == {HOSTILE}
    for profile in hostile:
        profile["top_tokens"]["input"]["most_frequent"][0]["text"] = "=1+1"
    assert ",'=1+1," in csv_text(profiles.table(hostile))


def test_the_table_has_a_row_of_scalars_for_every_expert(found):
    table = profiles.table(found)
    assert len(table) == 12 and not table.columns.duplicated().any()
    assert table["selected_tokens"].groupby(table["layer"]).sum().tolist() == [720, 720]
    shares = table[[f"share_of_{name.replace(' ', '_')}" for name in TYPES]]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=2e-3)
