"""Domains: one dataset for each value of a column, and the command that prints the values."""

import json

import pytest

from gatebook.inputs import documents, domains, values
from gatebook.problem import Problem

ROWS = [{"text": f"{number}", "meta": {"set": kind}} for number, kind in enumerate(["Web", "Code (C)", "Web", None])]


@pytest.fixture
def file(tmp_path):
    """A file of rows from two sets and none."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Github", "pile_Github"),
        ("Wikipedia (en)", "pile_Wikipedia_en"),
        ("Pile-CC", "pile_Pile-CC"),
        ("abstract_algebra", "pile_abstract_algebra"),
        ("  C++ / C  ", "pile_C_C"),
        ("7", "pile_7"),
    ],
)
def test_the_name_of_a_domain_is_that_of_its_value(value, name):
    assert domains.dataset_name("pile", value) == name


def test_a_value_without_letters_cannot_name_a_dataset():
    with pytest.raises(Problem, match=r"config: datasets\.pile\.values: '漢字' has no letter .* with `where`\.$"):
        domains.dataset_name("pile", "漢字")


def test_an_entry_with_values_stands_for_a_dataset_of_each():
    pile = {"source": "files", "limits": {"documents": 3}, "where": {"lang": ["en", "de"]}}
    catalogue = {"poems": {"source": "hub"}, "pile": pile | {"by": "meta[set]", "values": ["Web", 7]}}
    before = json.dumps(catalogue)
    assert domains.expanded(catalogue) == {
        "poems": {"poems": {"source": "hub"}},
        "pile": {
            "pile_Web": pile | {"where": {"lang": ["en", "de"], "meta[set]": "Web"}},
            "pile_7": pile | {"where": {"lang": ["en", "de"], "meta[set]": "7"}},
        },
    }
    assert json.dumps(catalogue) == before


@pytest.mark.parametrize(
    ("values", "other", "sentence"),
    [
        (["C+", "C#"], "poems", "datasets.pile of 'C#' is called pile_C, as datasets.pile of 'C+' is: rename one"),
        (["C"], "pile_C", "datasets.pile_C is called pile_C, as datasets.pile of 'C' is: rename one, or write a value"),
        (["C"], "poems", None),
    ],
)
def test_two_datasets_of_one_name_are_refused(values, other, sentence):
    catalogue = {"pile": {"by": "set", "values": values}, other: {}}
    if sentence is None:
        assert list(domains.expanded(catalogue)["pile"]) == ["pile_C"]
        return
    with pytest.raises(Problem) as raised:
        domains.expanded(catalogue)
    assert str(raised.value).startswith(f"config: {sentence}")


def test_the_column_of_the_values_has_no_other_condition():
    with pytest.raises(Problem, match=r"datasets\.pile\.where: 'set' is the column of `by`"):
        domains.expanded({"pile": {"by": "set", "values": ["a"], "where": {"set": "b"}}})


def test_the_documents_of_a_domain_are_the_rows_with_its_value(file):
    entry = {"template": "{text}", "sample_by": "line", "cluster": [], "limits": {}}
    pile = domains.expanded({"pile": entry | {"by": "meta[set]", "values": ["Web", "Code (C)"]}})["pile"]
    found = {name: list(documents.of_dataset(name, [file], domain)) for name, domain in pile.items()}
    assert {name: [(each.id, each.text) for each in made] for name, made in found.items()} == {
        "pile_Web": [("0", "0"), ("2", "2")],
        "pile_Code_C": [("1", "1")],
    }


def test_the_command_prints_the_values_and_how_many_rows_have_them(file, capsys):
    values.main([file, file, "--by", "meta[set]"])
    assert capsys.readouterr().out == (
        "4  Web\n2  (null: no dataset has these)\n2  Code (C)\nvalues: [Web, Code (C)]\n"
    )


def test_values_that_yaml_would_take_for_something_else_are_in_quotes():
    assert values.table({"no": 2, "007": 1}).splitlines()[-1] == "values: ['no', '007']"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["absent.jsonl", "--by", "set"], "make values: absent.jsonl cannot be read as json"),
        (["absent.doc", "--by", "set"], "make values: absent.doc has the ending '.doc'"),
        (["FILE", "--by", "set"], "there is no column 'set'; the columns are meta, text: correct the name."),
    ],
)
def test_the_command_says_in_one_sentence_what_is_wrong(file, words, sentence):
    with pytest.raises(SystemExit) as stopped:
        values.main([file if word == "FILE" else word for word in words])
    assert sentence in stopped.value.code
    assert stopped.value.code.startswith("Error: ") and "\n" not in stopped.value.code
