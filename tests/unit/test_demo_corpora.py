"""Facts about the demonstration's text: no copies, a stable split, readable lines, right sums."""

import operator
import re
from pathlib import Path

import pytest

from gatebook.inputs.demo import corpora, generated, packages
from gatebook.inputs.demo import harvested as domains
from gatebook.problem import Problem

QUICK = ["javascript", "json", "tables", "unicode", "readme", "legal", "arithmetic", "stories"]


@pytest.fixture(scope="module")
def harvested():
    return corpora.harvest([*QUICK, "python"], train_characters=200_000, held_out_characters=50_000)


def test_every_domain_fills_both_splits_up_to_their_limits(harvested):
    for domain, splits in harvested.items():
        train, held_out = (sum(len(document.text) for document in splits[name]) for name in corpora.SPLITS)
        assert 100_000 < train <= 200_000, domain
        assert 45_000 < held_out <= 50_000, domain


def test_no_document_is_there_twice_neither_in_a_domain_nor_across_the_split(harvested):
    for splits in harvested.values():
        documents = [document for split in splits.values() for document in split]
        assert len({document.id for document in documents}) == len(documents)
        assert len({corpora.normalise(document.text) for document in documents}) == len(documents)


def test_documents_are_in_hash_order_and_of_bounded_length(harvested):
    shortest, longest = corpora.DOCUMENT_CHARACTERS
    for splits in harvested.values():
        for documents in splits.values():
            assert [document.id for document in documents] == sorted(
                (document.id for document in documents), key=packages.order
            )
            assert all(shortest <= len(document.text) <= longest for document in documents)


def test_a_document_goes_where_the_hash_of_its_name_says(harvested):
    for splits in harvested.values():
        for name, documents in splits.items():
            assert all(corpora.split(document.id) == name for document in documents)


def test_the_split_of_a_name_never_changes():
    names = [f"package/module.py#{number}" for number in range(8)]
    expected = ["train", "train", "held_out", "train", "train", "train", "train", "train"]
    assert [corpora.split(name) for name in names] == expected


def test_one_name_in_four_is_held_out():
    held_out = sum(corpora.split(f"name {number}") == "held_out" for number in range(10_000))
    assert abs(held_out / 10_000 - 0.25) < 0.02


def test_a_smaller_limit_gives_a_part_of_the_same_documents():
    small = corpora.harvest(["json"], 20_000, 10_000)["json"]
    large = corpora.harvest(["json"], 200_000, 50_000)["json"]
    assert set(small["train"]) < set(large["train"])
    assert set(small["held_out"]) < set(large["held_out"])


def test_no_minified_code_and_no_licence_headers(harvested):
    for document in harvested["javascript"]["train"] + harvested["python"]["train"]:
        assert max(map(len, document.text.split("\n"))) <= 300, document.id
        assert not re.search(r"(?i)copyright|all rights reserved|licensed under", document.text), document.id


def test_code_has_no_docstrings_left():
    source = 'def f(x):\n    """Say\n    more."""\n    return x  # kept\n'
    assert packages.without_docstrings(source) == "def f(x):\n    return x  # kept\n"
    assert packages.docstrings(source) == ["Say\nmore."]


def test_repeated_text_is_dropped_whatever_its_spacing_and_case():
    first = "The quick brown fox jumps over the lazy dog and runs away. " * 8
    again = first.upper().replace(" ", "\n")
    other = "Nobody knows why the dog did not follow the fox into the woods. " * 8
    found = list(corpora.documents([("a", [first]), ("b", [again]), ("c", [other, first])]))
    assert found == [("a#0", first + "\n"), ("c#0", other + "\n")]


def test_licence_headers_are_dropped_unless_asked_for():
    header, body = "# Copyright 1999 Somebody\n\n", "x = 1\n" * 100
    assert [text for _, text in corpora.documents([("a", [header, body])])] == [body]
    assert [text for _, text in corpora.documents([("a", [header, body])], keep_boilerplate=True)] == [header + body]


def test_pack_joins_pieces_and_keeps_their_order():
    parts = [f"{number:03d} {'x' * 95}\n" for number in range(40)]
    texts = list(corpora.pack(parts))
    assert [len(text) for text in texts] == [1500, 1500, 1000]
    assert "".join(texts) == "".join(parts)


def test_pack_leaves_out_what_is_too_short():
    assert list(corpora.pack(["x" * 398 + "\n"])) == []
    assert list(corpora.pack(["x" * 400 + "\n"])) == ["x" * 400 + "\n"]


def test_long_blocks_are_cut_at_lines_then_at_sentences():
    lines = "a line of a long block\n" * 100
    assert corpora.pieces(lines) == ["a line of a long block\n"] * 100
    assert corpora.pieces("One sentence of many. " * 100) == ["One sentence of many. "] * 100
    assert corpora.pieces("x" * 5_000) == []
    assert corpora.pieces("short\ntext.") == ["short\ntext."]


def test_every_step_of_every_arithmetic_problem_is_right():
    count = 0
    signs = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    for _, problems in generated.arithmetic():
        for problem in problems:
            steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", problem)
            assert steps and problem.endswith(f"The answer is {steps[-1][3]}.\n")
            assert all(signs[sign](int(left), int(right)) == int(result) for left, sign, right, result in steps)
            assert len(steps) == problem.count("=") == 1 or steps[0][3] == steps[1][0]
            count += 1
    assert count == generated.PROBLEMS


def test_every_story_uses_its_word_and_has_no_blank_left():
    words = re.compile(rf"\b({'|'.join(generated.SCENES)})\b", re.IGNORECASE)
    for _, stories in generated.stories():
        for story in stories:
            assert len(set(map(str.lower, words.findall(story)))) >= 1
            assert "{" not in story


def test_each_of_eight_words_has_three_meanings_and_is_in_each_of_their_sentences():
    assert len(generated.SCENES) == 8
    for word, meanings in generated.SCENES.items():
        assert len(meanings) == 3
        assert all(re.search(rf"\b{word}\b", sentence) for scene in meanings.values() for sentence in scene)


def test_generated_text_is_the_same_every_time():
    assert list(generated.arithmetic()) == list(generated.arithmetic())
    assert list(generated.stories()) == list(generated.stories())


def test_unicode_rows_name_their_character():
    (_, rows) = next(domains.unicode())
    assert "é U+00E9 LATIN SMALL LETTER E WITH ACUTE\n" in rows
    assert all(ord(row[0]) == int(re.match(r"U\+(\w+)", row[2:])[1], 16) for row in rows)


def test_prose_is_told_from_lists_code_and_references():
    assert domains._is_prose(
        "The matrix is factored once and the factors are kept, so that many systems with the same matrix and other "
        "right-hand sides can be solved quickly.\n\n"
    )
    assert not domains._is_prose("x : array_like\n    " + "The input array. " * 10)
    assert not domains._is_prose(".. [1] " + "Knuth, The Art of Computer Programming. " * 5)
    assert not domains._is_prose("Run it:\n>>> " + "f(x) + g(y) " * 12 + ".")


def test_a_missing_package_is_named_with_the_remedy():
    with pytest.raises(Problem, match=r"Package no-such-package is not installed.*pinned requirements"):
        list(packages.texts({"no-such-package": ".*"}))


def test_a_package_without_the_files_is_named_with_the_pattern():
    with pytest.raises(Problem, match=r"Package numpy has no file that matches 'nothing'"):
        list(packages.texts({"numpy": "nothing"}))


def test_an_unknown_domain_is_refused_with_the_choices():
    with pytest.raises(Problem, match=r"no domain 'poetry'; choose from python, cpp"):
        corpora.harvest(["poetry"], 1_000, 1_000)


def test_an_empty_domain_is_refused(monkeypatch):
    monkeypatch.setitem(corpora.DOMAINS, "empty", lambda: iter([("a", ["short\n"])]))
    with pytest.raises(Problem, match="Domain empty has no train document"):
        corpora.harvest(["empty"], 1_000, 1_000)


def test_text_comes_only_from_packages_that_the_study_pins(monkeypatch):
    used = {*domains.LICENSED, *domains.DESCRIBED}
    look_up = packages.installed_files
    monkeypatch.setattr(packages, "installed_files", lambda package: used.add(package) or look_up(package))
    corpora.harvest(list(corpora.DOMAINS), 3_000, 3_000)
    requirements = Path(__file__).parents[2] / "envs" / "requirements.txt"
    pinned = re.findall(r"(?m)^([\w.-]+)==", requirements.read_text())
    assert {"torch", "scipy", "rich"} < used
    assert {_canonical(name) for name in used} <= {_canonical(name) for name in pinned}
    assert {_canonical(name) for name in used} <= {_canonical(name) for name in domains.PACKAGES}


def _canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_read_and_share_give_back_the_first_documents(tmp_path):
    path = tmp_path / "poems.jsonl"
    path.write_text('{"id": "a", "text": "1234"}\n{"id": "b", "text": "56\\n"}\n{"id": "c", "text": "7"}\n')
    documents = corpora.read(path)
    assert documents == [("a", "1234"), ("b", "56\n"), ("c", "7")]
    assert corpora.share(documents, 7) == ["1234", "56\n"]
