from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabulary_cases import vocabulary_case, written

from gatebook.measures import vocabulary
from gatebook.study import routed


@pytest.fixture(scope="module")
def study():
    rng = np.random.default_rng(1)
    return {name: vocabulary_case(rng, lengths, 1.0) for name, lengths in (("poems", [4, 9, 3]), ("code", [6, 2]))}


def test_occurrences_of_a_dataset_and_of_all(study, tmp_path):
    whole = routed.read(**written(study, tmp_path))
    ids = whole["token_id"].sel(kind="next").values
    for dataset, places in (("pooled", range(24)), ("poems", range(16)), ("code", range(16, 24))):
        found = vocabulary.occurrences(whole, "next", dataset)
        expected = [place for place in places if ids[place] != -1]
        assert found.place.tolist() == expected
        assert found.token_id[found.code].tolist() == ids[expected].tolist()
        assert found.token_id.tolist() == sorted(set(ids[expected].tolist()))
        assert found.starts[0] == 0 and found.starts[-1] == len(expected)
        for number, (first, end) in enumerate(zip(found.starts[:-1], found.starts[1:], strict=True)):
            part = found.order[first:end]
            assert set(found.code[part]) == {number} and (np.diff(found.group[part]) >= 0).all()
        members = [group.members for group in found.groups]
        assert sorted(np.concatenate(members).tolist()) == list(range(len(expected)))
        for number, group in enumerate(found.groups):
            assert (found.group[group.members] == number).all()
            assert group.types[group.code].tolist() == found.code[group.members].tolist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.permutations(range(5))), max_size=20), st.integers(1, 5))
def test_counts_equal_counting_one_by_one(tokens, top_k):
    code = np.array([code for code, _ in tokens], dtype=np.int32)
    selected = np.array([order[:top_k] for _, order in tokens], dtype=np.uint8).reshape(len(tokens), top_k)
    expected = Counter((expert, code) for code, order in tokens for expert in order[:top_k])
    found = vocabulary.count(code, selected, 5, 5)
    assert found.tolist() == [[expected[expert, code] for code in range(5)] for expert in range(5)]


def test_counts_of_expert_numbers_above_255():
    found = vocabulary.count(np.array([1, 1]), np.array([[299, 0], [299, 256]], dtype=np.uint16), 2, 300)
    assert found[299].tolist() == [0, 2] and found[256].tolist() == [0, 1] and found.sum() == 4


class Tokenizer:
    """A tokenizer of five tokens, of which the last two are parts of a character, and nothing."""

    texts = (" the", "a\n\tb", "back\\slash\x07", "\ufffd", "")
    names = ("Ġthe", "aĊĉb", "back\\slash", "Ã", None)

    def decode(self, ids):
        return self.texts[ids[0]]

    def convert_ids_to_tokens(self, number):
        return self.names[number]


def test_texts_of_tokens_are_in_one_line():
    found = vocabulary.token_texts(Tokenizer(), np.array([0, 1, 2, 3, 4]))
    assert found == [" the", r"a\n\tb", r"back\\slash\x07", "⟨c3⟩", ""]


@pytest.mark.parametrize(
    ("symbol", "text", "expected"),
    [
        ("ĠâĢ", " \ufffd", " ⟨e2 80⟩"),
        ("Ļs", "\ufffds", "⟨99⟩s"),
        ("âĢĻâĢ", "’\ufffd", "’⟨e2 80⟩"),
        ("<0xE2>", "\ufffd", "⟨e2⟩"),
        ("\ufffd", "\ufffd", "\ufffd"),
    ],
)
def test_parts_of_characters_are_written_as_their_bytes(symbol, text, expected):
    class One(Tokenizer):
        texts, names = (text,), (symbol,)

    assert vocabulary.token_texts(One(), np.array([0])) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"), [("\u202e", r"\u202e"), ("a\u00a0b", r"a\xa0b"), ("héß 中", "héß 中"), (None, "")]
)
def test_what_cannot_be_printed_is_escaped(text, expected):
    assert vocabulary.escaped(text) == expected


def test_bytes_are_written_as_byte_level_tokenizers_do():
    from tokenizers.pre_tokenizers import ByteLevel

    scalars = [number for number in range(0x110000) if number < 0x800 or number % 0x1000 == 0]
    text = "".join(map(chr, scalars))
    ((symbols, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    assert [vocabulary.BYTES[symbol] for symbol in symbols] == list(text.encode())
    assert set(vocabulary.BYTES) == set(ByteLevel.alphabet()) and sorted(vocabulary.BYTES.values()) == [*range(256)]
