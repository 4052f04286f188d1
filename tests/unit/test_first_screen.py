"""What the report says before all else, from words and findings written by hand."""

import pytest

from gatebook.report import first_screen, places

FINDING = {
    "id": "finding-a",
    "estimate": 0.5,
    "low": 0.4,
    "high": 0.6,
    "null_value": 0.1,
    "null_low": 0.05,
    "null_high": 0.15,
    "reference_value": 0.2,
    "verdict": "yes",
    "effect": "large",
    "exceptions": "",
    "training": "unclear",
    "label": "a model",
    "question": "Is it?",
    "measure": {"name": "Lift"},
}
NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, []),
        ({"exceptions": "Yet it is below in layer 3."}, ["surprising"]),
        ({"reference_value": 0.5}, ["surprising"]),  # as far from the null before training
        ({"reference_value": 0.5, "verdict": "no"}, []),
        ({"reference_value": -0.5}, []),  # as far, on the other side
        ({"reference_value": None}, []),
        ({"estimate": 0.1, "reference_value": 0.1, "low": 0.2, "high": 0.3}, []),
        ({"training": "more"}, ["trained"]),
        ({"training": "less"}, ["trained"]),
        ({"training": ""}, []),
        ({"effect": "negligible"}, ["null"]),
        ({"low": 0.15}, ["null"]),  # the intervals touch
        ({"low": -0.9, "high": 0.05}, ["null"]),
        ({"null_low": None, "null_high": None, "low": 0.12}, []),
        ({"null_low": None, "null_high": None, "low": 0.1}, ["null"]),
        ({"null_value": None, "null_low": None, "null_high": None, "low": 0.0}, []),
        ({"low": NAN, "high": NAN}, []),
    ],
)
def test_the_kinds_of_a_finding(changes, kinds):
    assert first_screen.kinds(FINDING | changes) == kinds


def section(brief: dict | None, served: list | None = None) -> dict:
    words = {"brief": brief, "served": served}
    return {"chapter": "domain_specialization", "of": "m/v1", "label": "m, v1", "words": words}


def test_an_example_leads_to_its_experts_or_else_to_its_figure():
    brief = {"text": "They do.", "figure": "a_b", "example": "See.", "layer": 2, "experts": [3, 9]}
    sections = [section(None), section(brief), section(brief | {"experts": []})]
    found = first_screen.briefs(sections, [{"kind": "browser", "model": "m"}])
    figure = f"domain_specialization.html#{places.figure('m/v1', 'domain_specialization', 'a_b')}"
    assert [one["href"] for one in found] == ["browser-m.html#tab=experts&l=2&e=3,9", figure]
    without_browser = first_screen.briefs(sections, [{"kind": "experts", "model": "m"}])
    assert [one["href"] for one in without_browser] == [figure, figure]
    assert (found[0]["text"], found[0]["example"], found[0]["label"]) == ("They do.", "See.", "m, v1")


def test_what_training_did_is_counted_with_a_large_change_as_the_example():
    small = FINDING | {"effect": "small", "training": "less", "id": "finding-b"}
    (found,) = first_screen.training([FINDING, small, FINDING | {"training": "more"}, FINDING | {"training": ""}])
    assert found["text"] == "One training run changed 2 of the 3 values below that are known before it."
    assert (found["example"], found["href"]) == ("Lift rose.", "#finding-a")
    (only,) = first_screen.training([small | {"measure": None}])
    assert (only["example"], only["href"]) == ("Is it? fell.", "#finding-b")


def test_without_a_change_or_without_an_untrained_model_training_is_no_example():
    (none,) = first_screen.training([FINDING])
    assert none["text"].startswith("One training run changed 0 of the 1 values") and none["example"] == ""
    assert first_screen.training([FINDING | {"training": ""}]) == []


MODEL = {
    "model": "m",
    "checkpoint": "v1",
    "layers": [1],
    "moe_layers": [1, 2],
    "experts": 4,
    "top_k": 2,
    "parameters": 1_920_000,
    "active_parameters": 612_345,
}
DATASET = {"model": "m", "dataset": "code", "tokens": 1_234_567}


def test_a_study_in_one_line():
    assert first_screen.in_one_line(MODEL, False, [DATASET, DATASET | {"model": "other"}]) == (
        "m, v1: 2 layers × 4 experts, top 2; 1.92 million parameters, of which a token uses 612 thousand; "
        "1 datasets, 1.23 million tokens"
    )
    counts = {name: MODEL[name] for name in ("model", "layers", "experts", "top_k")}
    assert first_screen.in_one_line(counts, True, [DATASET]) == (
        "m: 1 layers × 4 experts, top 2; published counts of 1 datasets, 1.23 million tokens"
    )


def test_a_model_has_a_picture_if_its_experts_were_tested():
    config = {"domain_specialization": {"thresholds": {"share_effect": [0.05, 0.2]}, "false_discovery_rate": 0.05}}
    share = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    types = [{"type": "number", "share": share, "share_of_all_tokens": 0.1}]
    page = {"kind": "experts", "model": "m", "content": {"rows": [{"layer": 1, "expert": 2, "types": types}]}}
    given = {"config": config, "models": [MODEL], "datasets": [DATASET]}
    assert first_screen.pictures(**given, sections=[section(None)], model_pages=[page]) == []
    (found,) = first_screen.pictures(**given, sections=[section(None, [])], model_pages=[page])
    assert [tile["style"] for tile in found["layers"][0]["tiles"]] == ["nothing", "nothing", "type", "nothing"]
    assert found["browser"] == "browser-m.html" and found["label"] == "m, v1"
    assert "at least 20 percentage points" in found["meaning"] and "Grey: nothing, 3 of 4 experts." in found["meaning"]
    (alone,) = first_screen.pictures(**given, sections=[section(None, [])], model_pages=[])
    assert "Framed" in found["meaning"] and "Framed" not in alone["meaning"]


def test_the_citation_names_the_authors_whoever_they_are():
    authors = [{"name": "A group"}, {"given-names": "Ada", "family-names": "Lovelace"}]
    found = first_screen.citation(
        {"authors": authors, "title": "Software", "version": "1.2", "abstract": "It works.", "license": "MIT"}
    )
    assert found == {"text": "A group, Ada Lovelace: Software, version 1.2. It works.", "licence": "MIT"}
