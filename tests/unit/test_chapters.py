"""The command line of one chapter alone: made from the declarations, and checked like the config."""

from pathlib import Path

import pytest
import yaml

from gatebook.chapters import __main__ as command

ROOT = Path(__file__).parents[2]
DECLARED = command.known()
CONFIG = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
SCHEMA = yaml.safe_load((ROOT / "config" / "schemas" / "config.schema.yaml").read_text(encoding="utf-8"))


def given(*words: str) -> dict:
    """What the command line says."""
    return vars(command.parser(DECLARED).parse_args(words))


def overlay(*words: str) -> dict:
    return command.overlay(given(*words), CONFIG, DECLARED)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-3", -3),
        ("0.5", 0.5),
        (".5", 0.5),
        ("2.0", 2.0),
        ("1e-3", 0.001),
        ("1e4", 10000),
        ("true", True),
        ("false", False),
        ("0-3", "0-3"),
        ("all", "all"),
        ("nan", "nan"),
        ("1_0", "1_0"),
    ],
)
def test_a_word_is_what_it_would_be_in_the_config(text, value):
    found = command.value_of(text)
    assert found == value and type(found) is type(value)


def test_a_list_is_a_list_even_of_one():
    assert command.list_of("1,1.5") == [1, 1.5] and command.list_of("python") == ["python"]
    assert command.value_or_list("0,2-3") == [0, "2-3"] and command.value_or_list("1") == 1


def test_every_chapter_is_listed_with_its_question(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, chapter in DECLARED.items():
        assert f"{name} {chapter.question}" in text


@pytest.mark.parametrize("name", DECLARED)
def test_every_setting_and_threshold_of_a_chapter_is_an_option_with_meaning_and_default(name, capsys):
    with pytest.raises(SystemExit):
        command.main([name, "--help"])
    text, chapter = " ".join(capsys.readouterr().out.split()), DECLARED[name]
    assert chapter.question in text
    for prefix, settings in ((name, chapter.settings), (f"{name}.thresholds", chapter.thresholds)):
        for key, field in settings.model_fields.items():
            default = ",".join(map(str, field.default)) if isinstance(field.default, list) else field.default
            assert f"--{prefix}.{key} VALUE {field.description} (default: {default})" in text


def test_the_overlay_selects_the_chapter_what_it_reads_and_what_was_given():
    words = ["--model", "demo", "--layers", "1", "--tokens", "10000", "--datasets", "python,cpp"]
    assert overlay("similarity", *words, "--similarity.permutations", "200") == {
        "study": {"title": "Similarity of experts, alone", "models": ["demo"], "datasets": ["python", "cpp"]},
        "chapters": ["coactivation", "token_overlap", "similarity"],
        "models": {"demo": {"layers": 1, "tokens_per_dataset": 10000}},
        "compare": [],
        "similarity": {"permutations": 200},
    }


def test_what_is_not_given_is_as_in_the_config():
    assert overlay("compare") == {
        "study": {"title": "Compare, alone", "models": ["demo"]},
        "chapters": ["compare"],
        "models": {"demo": {}},
        "compare": ["demo/step0", "demo/step400"],
    }


def test_lists_and_thresholds_arrive_in_their_sections():
    words = ["--selection_frequency.capacity_factors", "1", "--selection_frequency.thresholds.dropped_share", "0.05"]
    assert overlay("selection_frequency", *words)["selection_frequency"] == {
        "capacity_factors": [1],
        "thresholds": {"dropped_share": 0.05},
    }


def test_needed_chapters_come_first_and_once():
    for name in DECLARED:
        needed = command.with_needed(name, DECLARED)
        assert needed[-1] == name and len(set(needed)) == len(needed)
        for index, each in enumerate(needed):
            assert set(DECLARED[each].chapters) <= set(needed[:index])


WRONG = {
    "no chapter": (["x"], "there is no chapter 'x': use one of activation_patching, "),
    "no model": (["maps", "--model", "x"], "there is no model 'x': use one of demo."),
    "no dataset": (
        ["maps", "--datasets", "x"],
        "config: study.datasets: 'x' is not in the catalogue .* use one of python,",
    ),
    "no layer": (
        ["maps", "--layers", "2-9"],
        "config: models.demo.layers: the embedded model has no layer 9: use 0 to 3",
    ),
    "layers in words": (
        ["maps", "--layers", "first"],
        "config: models.demo.layers: 'first' is not allowed: write all, a ",
    ),
    "no number": (
        ["maps", "--tokens", "few"],
        "config: models.demo.tokens_per_dataset: 'few' is not allowed: write all, ",
    ),
    "out of bounds": (
        ["maps", "--maps.points", "3"],
        "config: maps.points: 3 is not allowed: write a whole number of at l",
    ),
    "a list": (
        ["maps", "--maps.points", "50,60"],
        r"config: maps.points: \[50, 60\] is not allowed: write a whole number",
    ),
    "a threshold": (
        ["maps", "--maps.thresholds.plane_variance", "2"],
        "config: maps.thresholds.plane_variance: 2 is not allowed: write a number above 0 and below 1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence_and_leaves_nothing(case, tmp_path, monkeypatch):
    words, sentence = WRONG[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^Error: {sentence}"):
        command.main(words)
    assert not (tmp_path / "alone").exists()
