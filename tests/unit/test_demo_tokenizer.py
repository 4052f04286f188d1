"""Facts about the demonstration's tokenizer: nothing is lost, digits stand alone, and it can be made again."""

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatebook.inputs.demo.tokenizer import END_OF_TEXT, PADDING, train_tokenizer
from gatebook.problem import Problem

TEXTS = [
    f"the {noun} of the {other} is {number}\n" for number in range(40) for noun in ("bar", "key") for other in "ab"
]
SIZE = 270


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, SIZE)


@given(text=st.text())
def test_any_text_comes_back_in_nfc(tokenizer, text):

    assert tokenizer.decode(tokenizer(text)["input_ids"]) == unicodedata.normalize("NFC", text)


def test_every_digit_is_a_token_of_its_own(tokenizer):
    assert tokenizer.tokenize("31415 9") == ["3", "1", "4", "1", "5", "Ġ", "9"]
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and set(token) & set(string.digits)]


def test_vocabulary_has_the_asked_size_and_starts_with_the_special_tokens(tokenizer):
    assert len(tokenizer) == SIZE
    assert tokenizer.convert_ids_to_tokens([0, 1]) == [END_OF_TEXT, PADDING]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)


def test_special_tokens_are_not_added_by_themselves(tokenizer):
    assert not set(tokenizer("the bar")["input_ids"]) & {0, 1}


def test_a_frequent_word_is_one_token(tokenizer):
    assert "Ġthe" in tokenizer.tokenize("of the bar")


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    assert train_tokenizer(TEXTS, SIZE).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_it_is_the_same_after_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "The key's of naïve 42\n\n  bars?"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"]) == text
    assert (len(again), again.eos_token_id, again.pad_token_id) == (SIZE, 0, 1)


def test_too_little_text_for_the_vocabulary_is_refused():
    with pytest.raises(Problem, match=r"vocabulary_size is 9999, but the texts give \d+ tokens"):
        train_tokenizer(TEXTS, 9_999)
