"""Facts about the demonstration's text: no copies, a stable split, readable lines, right sums."""

import itertools
import operator
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from gatebook.inputs.demo import corpora, evaluation, generated, packages, scenes
from gatebook.inputs.demo import harvested as domains
from gatebook.inputs.demo.tokenizer import train_tokenizer
from gatebook.problem import Problem

HELD_OUT_FRAMES = scenes.FRAMES["held_out"].values()
DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=[pytest.param("default", marks=pytest.mark.long)])
def harvested():
    """The corpora of the default study."""
    return corpora.harvest(**DEFAULT["demo"]["corpora"])


@pytest.fixture(scope="module")
def tokenizer(harvested):
    """The tokenizer of the default study."""
    settings = DEFAULT["demo"]["tokenizer"]
    domains = [splits["train"] for splits in harvested.values()]
    texts = [text for documents in domains for text in corpora.share(documents, settings["characters_per_domain"])]
    return train_tokenizer(texts, settings["vocabulary_size"])


def test_every_domain_fills_its_splits_at_most_up_to_their_limits(harvested):
    limits = [DEFAULT["demo"]["corpora"][f"{name}_characters"] for name in corpora.SPLITS]
    for domain, splits in harvested.items():
        train, held_out = (sum(len(document.text) for document in splits[name]) for name in corpora.SPLITS)
        assert 65_000 < train <= limits[0], domain
        assert 75_000 < held_out <= limits[1], domain


def test_no_document_is_there_twice_neither_in_a_domain_nor_across_the_split(harvested):
    for splits in harvested.values():
        documents = [document for split in splits.values() for document in split]
        assert len({document.id for document in documents}) == len(documents)
        assert len({corpora.normalise(document.text) for document in documents}) == len(documents)


def test_no_cluster_is_in_both_splits(harvested):
    for domain, splits in harvested.items():
        train, held_out = ({document.cluster for document in splits[name]} for name in corpora.SPLITS)
        assert not train & held_out, domain


def test_thirty_clusters_and_more_are_held_out_and_none_has_a_tenth_of_the_tokens_studied(harvested, tokenizer):
    studied, of_loss = DEFAULT["models"]["demo"]["tokens_per_dataset"], DEFAULT["demo"]["training"]["held_out_tokens"]
    window = DEFAULT["demo"]["training"]["sequence_length"]
    for domain, splits in harvested.items():
        tokens, left = Counter(), studied
        for document in splits["held_out"]:
            taken = min(len(tokenizer(document.text)["input_ids"]), left)
            tokens[document.cluster] += taken
            left -= taken
            if not left:
                break
        assert left == 0, domain
        assert len(tokens) >= 30, domain
        assert max(tokens.values()) <= 0.1 * studied, domain
        measured = evaluation.tokenize(domain, splits["held_out"], tokenizer, of_loss, window)
        assert len({document.cluster for document in measured}) >= 30, domain


def test_every_word_of_the_stories_is_one_token(tokenizer):
    assert len(scenes.SCENES) == 10
    for word in scenes.SCENES:
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, word


def test_documents_are_of_bounded_length(harvested):
    shortest, longest = corpora.DOCUMENT_CHARACTERS
    for splits in harvested.values():
        for documents in splits.values():
            assert all(shortest <= len(document.text.strip()) <= longest for document in documents)


def test_the_first_documents_are_of_all_clusters(harvested):
    for splits in harvested.values():
        for documents in splits.values():
            clusters = [document.cluster for document in documents]
            first = clusters[: len(set(clusters))]
            assert first == sorted(set(clusters), key=packages.order)
            assert documents == corpora.interleave(documents)


def test_a_cluster_goes_where_the_hash_of_its_name_says(harvested):
    for domain in corpora.HARVESTED:
        for name, documents in harvested[domain].items():
            assert all(corpora.split(document.cluster) == name for document in documents)


def test_the_split_of_a_name_never_changes():
    names = [f"package/module_{number}.py" for number in range(8)]
    expected = ["held_out", "train", "train", "train", "train", "held_out", "held_out", "held_out"]
    assert [corpora.split(name) for name in names] == expected


def test_nearly_half_of_the_names_are_held_out():
    held_out = sum(corpora.split(f"name {number}") == "held_out" for number in range(10_000))
    assert abs(held_out / 10_000 - 0.45) < 0.02


def test_a_smaller_limit_gives_a_part_of_the_same_documents():
    small = corpora.harvest(["unicode"], 20_000, 10_000, 3)["unicode"]
    large = corpora.harvest(["unicode"], 200_000, 50_000, 3)["unicode"]
    assert set(small["train"]) < set(large["train"])
    assert set(small["held_out"]) < set(large["held_out"])


def test_documents_of_clusters_take_turns():
    found = [corpora.Document(f"{cluster}#{number}", cluster, "") for cluster in "ab" for number in range(2)]
    found.append(corpora.Document("c#0", "c", ""))
    turns = [document.cluster for document in corpora.interleave(found)]
    assert turns[:3] == sorted("abc", key=packages.order)
    assert turns[3:] == sorted("ab", key=packages.order)


def test_a_cluster_gives_an_even_share_at_most(monkeypatch):
    lines = [f"{number:03d} {word} " + "x" * 340 + "\n" for number, word in enumerate(range(1000, 1400))]
    files = [(f"file {number}", lines[number * 40 : number * 40 + 40]) for number in range(10)]
    monkeypatch.setitem(corpora.HARVESTED, "files", lambda: iter(files))
    for documents in corpora.harvest(["files"], 12_000, 12_000, 4)["files"].values():
        sizes = Counter()
        for document in documents:
            sizes[document.cluster] += len(document.text)
        assert max(sizes.values()) <= 3_000


def test_too_few_clusters_are_refused_and_one_that_is_too_large():
    with pytest.raises(Problem, match=r"held_out_clusters is 40, but domain stories holds out 30: lower it, raise"):
        corpora.harvest(["stories"], 50_000, 50_000, 40)
    held_out = [corpora.Document(f"{index}", f"{min(index, 9)}", "x" * 100) for index in range(20)]
    with pytest.raises(
        Problem, match=r"Domain poems has 55 % of its held-out text from one cluster, more than three of 10"
    ):
        corpora._check_clusters("poems", held_out, 10)


def test_variants_of_a_file_are_left_out():
    verse = [f"verse {number} tells of the sea and of ship number {number} in the harbour\n" for number in range(12)]
    other = [line.replace("harbour", "haven") if index % 2 else line for index, line in enumerate(verse)]
    sources = [("a", ["".join(verse[:8])]), ("b", ["".join(other[:8])])]
    assert [document.cluster for document in corpora.documents(sources, different=True)] == ["a"]
    assert [document.cluster for document in corpora.documents(sources, different=False)] == ["a", "b"]


def test_no_minified_code_and_no_licence_headers(harvested):
    for document in harvested["web"]["train"] + harvested["python"]["train"]:
        assert max(map(len, document.text.split("\n"))) <= 400, document.id
        assert not re.search(r"(?i)copyright|all rights reserved|licensed under", document.text), document.id


def test_code_has_no_docstrings_left():
    source = 'def f(x):\n    """Say\n    more."""\n    return x  # kept\n'
    assert packages.without_docstrings(source) == "def f(x):\n    return x  # kept\n"
    assert packages.docstrings(source) == ["Say\nmore."]


def test_repeated_text_is_dropped_whatever_its_spacing_and_case():
    first = "The quick brown fox jumps over the lazy dog and runs away. " * 8
    again = first.upper().replace(" ", "\n")
    other = "Nobody knows why the dog did not follow the fox into the woods. " * 8
    found = list(corpora.documents([("a", [first]), ("b", [again]), ("c", [other, first])], different=False))
    assert found == [("a#0", "a", first + "\n"), ("c#0", "c", other + "\n")]


def test_licence_headers_are_dropped():
    header, body = "# Copyright 1999 Somebody\n\n", "x = 1\n" * 100
    assert [document.text for document in corpora.documents([("a", [header, body])], different=False)] == [body]


def test_pack_joins_pieces_and_keeps_their_order():
    parts = [f"{number:03d} {'x' * 95}\n" for number in range(40)]
    texts = list(corpora.pack(parts))
    assert [len(text) for text in texts] == [700, 700, 700, 700, 700, 500]
    assert "".join(texts) == "".join(parts)


def test_pack_leaves_out_what_is_too_short():
    assert list(corpora.pack(["x" * 298 + "\n"])) == []
    assert list(corpora.pack(["x" * 300 + "\n"])) == ["x" * 300 + "\n"]


def test_long_blocks_are_cut_at_lines_then_at_sentences():
    lines = "a line of a long block\n" * 100
    assert corpora.pieces(lines) == ["a line of a long block\n"] * 100
    assert corpora.pieces("One sentence of many. " * 100) == ["One sentence of many. "] * 100
    assert corpora.pieces("x" * 5_000) == []
    assert corpora.pieces("short\ntext.") == ["short\ntext."]


def test_every_step_of_every_arithmetic_problem_is_right():
    count = 0
    signs = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    for _, problems in itertools.chain.from_iterable(map(generated.arithmetic, corpora.SPLITS)):
        for problem in problems:
            steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", problem)
            assert steps and problem.endswith(f"The answer is {steps[-1][3]}.\n")
            assert all(signs[sign](int(left), int(right)) == int(result) for left, sign, right, result in steps)
            assert len(steps) == problem.count("=") == 1 or steps[0][3] == steps[1][0]
            count += 1
    assert count == 2 * generated.ARITHMETIC_DOCUMENTS * generated.PROBLEMS_PER_DOCUMENT


def test_no_problem_is_in_both_splits(harvested):
    train, held_out = (
        {line for document in harvested["arithmetic"][name] for line in document.text.splitlines()}
        for name in corpora.SPLITS
    )
    assert len(held_out) > 1_000
    assert not train & held_out


def test_a_story_is_a_document_of_one_meaning_in_the_sentences_of_its_split(harvested):
    for name, documents in harvested["stories"].items():
        for document in documents:
            part, word, meaning = document.cluster.split("/")
            assert part == name
            patterns = [_pattern(sentence) for sentence in scenes.SCENES[word][meaning][name]]
            assert sum(bool(pattern.search(document.text)) for pattern in patterns) == 7
            assert document.text.count("\n") == 1 and "{" not in document.text


def test_no_sentence_of_the_held_out_stories_is_in_the_training_text(harvested):
    """Not even the longest part of it without a name or a date."""
    text = "".join(document.text for splits in harvested.values() for document in splits["train"])
    meanings = itertools.chain.from_iterable(words.values() for words in scenes.SCENES.values())
    sentences = itertools.chain.from_iterable([*(by_split["held_out"] for by_split in meanings), *HELD_OUT_FRAMES])
    for sentence in sentences:
        part = max(re.split(r"{\w+}", sentence), key=len)
        assert len(part) >= 8 and part not in text, sentence


def test_no_two_stories_have_the_same_scenes():
    for name in corpora.SPLITS:
        for cluster, stories in generated.stories(name):
            _, word, meaning = cluster.split("/")
            patterns = [_pattern(sentence) for sentence in scenes.SCENES[word][meaning][name]]
            told = {tuple(bool(pattern.search(story)) for pattern in patterns) for story in stories}
            assert len(told) == len(stories) == generated.STORIES_PER_MEANING


def _pattern(sentence):
    return re.compile(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(sentence)))


def test_each_word_has_three_meanings_of_twelve_sentences_in_each_split():
    sentences = []
    for word, meanings in scenes.SCENES.items():
        assert len(meanings) == 3
        for by_split in meanings.values():
            for name in corpora.SPLITS:
                assert len(by_split[name]) == 12
                assert all(len(re.findall(rf" {word}\b", sentence)) == 1 for sentence in by_split[name])
                sentences += by_split[name]
    assert len(set(sentences)) == len(sentences)


def test_generated_text_is_the_same_every_time():
    for name in corpora.SPLITS:
        assert list(generated.arithmetic(name)) == list(generated.arithmetic(name))
        assert list(generated.stories(name)) == list(generated.stories(name))


def test_unicode_rows_name_their_character_and_blocks_are_sources():
    blocks = dict(domains.unicode())
    assert "é U+00E9 LATIN SMALL LETTER E WITH ACUTE\n" in blocks["Latin-1 Supplement"]
    assert blocks["Cherokee"][0] == "Ꭰ U+13A0 CHEROKEE LETTER A\n"
    assert all(ord(row[0]) == int(re.match(r"U\+(\w+)", row[2:])[1], 16) for rows in blocks.values() for row in rows)


def test_algebra_is_whole_lines_of_sympys_tests(harvested):
    for document in harvested["algebra"]["held_out"]:
        assert all("==" in line and domains._is_closed(line) for line in document.text.splitlines()), document.id


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
        corpora.harvest(["poetry"], 1_000, 1_000, 1)


def test_an_empty_domain_is_refused(monkeypatch):
    monkeypatch.setitem(corpora.HARVESTED, "empty", lambda: iter([("a", ["short\n"])]))
    with pytest.raises(Problem, match="Domain empty has no train document"):
        corpora.harvest(["empty"], 1_000, 1_000, 1)


@pytest.mark.slow
def test_text_comes_only_from_packages_that_the_study_pins(monkeypatch):
    used = {*domains.DESCRIBED}
    look_up = packages.installed_files
    monkeypatch.setattr(packages, "installed_files", lambda package: used.add(package) or look_up(package))
    corpora.harvest(list(corpora.HARVESTED), 3_000, 3_000, 1)
    requirements = Path(__file__).parents[2] / "envs" / "requirements.txt"
    pinned = re.findall(r"(?m)^([\w.-]+)==", requirements.read_text())
    assert {"torch", "scipy", "rich"} < used
    assert {_canonical(name) for name in used} <= {_canonical(name) for name in pinned}
    assert {_canonical(name) for name in used} <= {_canonical(name) for name in domains.PACKAGES}


def _canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_read_and_share_give_back_the_first_documents(tmp_path):
    path = tmp_path / "poems.jsonl"
    path.write_text(
        '{"id": "a", "cluster": "x", "text": "1234"}\n{"id": "b", "cluster": "x", "text": "56\\n"}\n'
        '{"id": "c", "cluster": "y", "text": "7"}\n'
    )
    documents = corpora.read(path)
    assert documents == [("a", "x", "1234"), ("b", "x", "56\n"), ("c", "y", "7")]
    assert corpora.share(documents, 7) == ["1234", "56\n"]
