"""Templates fill the columns of rows into text, or one sentence says why not."""

import datetime
from decimal import Decimal

import pytest

from gatebook.inputs.templates import Column, MisfitError, Template, parse
from gatebook.problem import Problem

ROW = {
    "question": "What is 2 + 3?",
    "options": ["4", "5"],
    "choices": {"text": ["red", "blue"], "label": ["A", "B"], "0": "none"},
    "messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}],
    "a.b": "a dot",
    "options[1]": "a bracket",
    "note": None,
    "gaps": ["yes", None],
    "nested": [["a"], ["b"]],
    "half": "\ud83d",
    "broken": b"\xe9",
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Q: {question}\n{options}", "Q: What is 2 + 3?\n4\n5"),
        ("{options[0]}", "4"),
        ("{options[1]}", "a bracket"),  # the column of that name comes first
        ("{choices[text]}; {choices[label][1]}; {choices[0]}", "red\nblue; B; none"),
        ("{messages[0][content]} {messages[1][content]}", "Hello. Good day."),
        ("{a.b}", "a dot"),
        ("{{kept}} {{{question}}}", "{kept} {What is 2 + 3?}"),
    ],
)
def test_templates_fill_columns_lists_and_places_in_them(template, text):
    assert Template(template).text(ROW) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        (18, "18"),
        (12345678901234567890, "12345678901234567890"),
        (1.5, "1.5"),
        (True, "true"),
        (datetime.date(2026, 1, 31), "2026-01-31"),
        (datetime.datetime(2026, 1, 31, 10, 0, tzinfo=datetime.UTC), "2026-01-31T10:00:00+00:00"),
        (datetime.time(10, 5), "10:05:00"),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+3"), "1000"),
        ("naïve".encode(), "naïve"),
        ([1, 2], "1\n2"),
        ([], ""),
    ],
)
def test_values_are_written_as_they_are_stored(value, text):
    assert Column("x").text({"x": value}) == text


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("note", "note is null: mend the row"),
        ("gaps", "gaps[1] is null: mend the row"),
        ("choices", "choices holds several values: write one of them, such as {choices[0]}"),
        ("messages", "messages[0] holds several values: write one of them, such as {messages[0][content]}"),
        ("nested", "nested[0] holds several values: write one of them, such as {nested[0][0]}"),
        ("half", "half holds half of a surrogate pair"),
        ("broken", "broken holds bytes that are not UTF-8"),
        ("options[7]", "options has no [7]: correct the name or the row"),
        ("choices[colour]", "choices has no [colour]"),
        ("messages[0][content][0]", "messages[0][content] has no [0]"),
        ("question.name", "there is no column 'question.name'; the columns are a.b, broken, "),
        ("question!r", "there is no column 'question!r'"),
        ("question:>1000000000", "there is no column 'question:>1000000000'"),
        ("", "there is no column ''"),
    ],
)
def test_what_is_no_text_says_so_with_the_remedy(name, wrong):
    with pytest.raises(MisfitError) as raised:
        Template(f"{{{name}}}").text(ROW)
    assert str(raised.value).startswith(wrong)


def test_nan_is_no_text():
    with pytest.raises(MisfitError, match="x is NaN"):
        Column("x").text({"x": float("nan")})


def test_a_place_in_null_is_null():
    assert Column("note[a][b]").value(ROW) is None
    with pytest.raises(MisfitError, match=r"note\[a\] is null"):
        Column("note[a]").text(ROW)


def test_a_label_is_not_empty():
    assert Column("x").label({"x": 0}) == "0"
    with pytest.raises(MisfitError, match="x is empty: mend the row, or take another column"):
        Column("x").label({"x": ""})


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{question", "a brace has no pair"),
        ("question}", "a brace has no pair"),
        ("{a{b}}", "a brace has no pair"),
        ("{a}}", "a brace has no pair"),
        ("Hello", "it names no column"),
        ("{{text}}", "it names no column"),
        ("", "it names no column"),
    ],
)
def test_what_is_no_template_is_one_sentence(template, reason):
    with pytest.raises(Problem) as raised:
        parse("datasets.gsm8k.template", template)
    assert str(raised.value) == (
        f"datasets.gsm8k.template: {template!r} is no template ({reason}): write {{column}} for a column, {{{{ or }}}} "
        "for a brace."
    )


def test_columns_of_a_template():
    assert [column.name for column in Template("{a} {b.c} {d[e]} {{x}}").columns] == ["a", "b.c", "d[e]"]
