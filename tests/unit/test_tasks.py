"""Tasks: pairs from files and of the embedded study, and what is wrong with them in one sentence."""

import json

import pytest
from task_cases import Words

from gatebook.inputs.demo import corpora, pairs
from gatebook.inputs.tasks.base import of_texts
from gatebook.inputs.tasks.sources import SOURCES
from gatebook.problem import Problem

GIVEN = {
    "clean": "The capital of France is",
    "corrupt": "The capital of Japan is",
    "right": " Paris",
    "wrong": " Tokyo",
}


def made(rows: list, folder, **task) -> list:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return SOURCES["files"].pairs("mine", {"files": [str(path)], **task}, Words(), [str(path)])


def test_lines_of_a_file_are_pairs(tmp_path):
    tokenizer = Words()
    first, second = made([GIVEN, "", GIVEN | {"source": "countries"}], tmp_path)
    words = tokenizer(GIVEN["clean"])["input_ids"]
    assert first.clean == words and len(first.corrupt) == len(words)
    assert [a != b for a, b in zip(first.clean, first.corrupt, strict=True)] == [False, False, False, True, False]
    assert first.right != first.wrong and {first.right, first.wrong}.isdisjoint(first.clean)
    assert first.source.endswith("line 1") and second.source == "countries"
    assert len(made([GIVEN] * 5, tmp_path, pairs=3)) == 3


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (GIVEN | {"corrupt": "The capital of Japan"}, "line 1: the clean prompt has 5 tokens, the corrupt one 4"),
        (GIVEN | {"corrupt": GIVEN["clean"]}, "line 1: both prompts are 'The capital of France is'"),
        (GIVEN | {"right": " New York"}, "line 1: the answer ' New York' is not a single token after"),
        (GIVEN | {"wrong": " Rio de Janeiro"}, "line 1: the answer ' Rio de Janeiro' is not a single token"),
        (GIVEN | {"wrong": " Paris"}, "line 1: both answers are ' Paris'"),
        ({key: GIVEN[key] for key in ("clean", "corrupt", "right")}, "line 1: wrong is '': write a text"),
        (GIVEN | {"clean": 3}, "line 1: clean is 3: write a text"),
        (GIVEN | {"source": 3}, "line 1: source is 3: write a text"),
        ([1], "line 1 is no mapping"),
        ("{", "line 1 is not JSON"),
        ("", "hold no pair"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_line(row, sentence, tmp_path):
    with pytest.raises(Problem) as raised:
        made([row], tmp_path)
    assert sentence in str(raised.value) and "tasks.mine" in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Problem, match=r"tasks\.mine: .*gone\.jsonl cannot be read"):
        SOURCES["files"].pairs("mine", {"files": []}, Words(), [str(tmp_path / "gone.jsonl")])


def test_an_answer_that_merges_with_the_prompt_is_none():
    with pytest.raises(Problem, match="is not a single token after"):
        of_texts("here", Words(), "It is ab", "It is cd", "e", "f", "one")


def test_word_problems_differ_in_their_last_word_alone():
    tokenizer = Words()
    found = pairs.operator("tasks.operator", tokenizer, 5, 12)
    for pair in found:
        clean, corrupt = tokenizer.text(pair.clean), tokenizer.text(pair.corrupt)
        assert " have now? " in clean and clean.replace(" now?", " left?") == corrupt
        first = clean.rpartition(" ")[2]
        assert f" {first} " in clean.partition("?")[0]  # the number that the answer begins with
        assert tokenizer.text([pair.right, pair.wrong]) == " + -"
    assert len({pair.source for pair in found}) == 12 and len({tuple(pair.clean) for pair in found}) == 12
    starts = {tokenizer.text(pair.clean)[:-3].partition(" ")[2].split()[0] for pair in found}
    assert starts == {"has", "keeps"}
    assert found == pairs.operator("", tokenizer, 5, 12) != pairs.operator("", tokenizer, 6, 12)


def test_brackets_are_those_that_match(tmp_path):
    tokenizer, path = Words(), tmp_path / "python.jsonl"
    texts = ["a = [1, 2]; call(one, [2], (3, 4))", "no bracket here", "f(x)", "wrong(one, two], three)"]
    documents = [corpora.Document(str(n), f"file {n}", text)._asdict() for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    (pair,) = pairs.bracket("tasks.bracket", tokenizer, [str(path)], 10)
    assert tokenizer.text(pair.clean) == "a = [1, 2]; call(one, [2], (3, 4"
    assert tokenizer.text(pair.corrupt) == "a = [1, 2]; call(one, [2], [3, 4"
    assert tokenizer.text([pair.right, pair.wrong]) == ")]" and pair.source == "python.jsonl: file 0"
    path.write_text(json.dumps(documents[1]))
    with pytest.raises(Problem, match=r"tasks\.bracket: no held-out code"):
        pairs.bracket("tasks.bracket", tokenizer, [str(path)], 10)


def test_documents_of_all_files_come_in_turn(tmp_path):
    paths = []
    for name in ("python", "cpp"):
        paths.append(str(tmp_path / f"{name}.jsonl"))
        documents = [corpora.Document(str(n), f"{name} {n}", f"call{n}(one, two)")._asdict() for n in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    found = pairs.bracket("", Words(), paths, 4)
    assert [pair.source.partition(": ")[2] for pair in found] == ["python 0", "cpp 0", "python 1", "cpp 1"]
