"""The list of a tokenizer's tokens."""

import numpy as np

from gatebook.measures.token_list import token_list

TOKENS = ["<s>", "\u0120light", "ing", "7"]


class Four:
    """Four tokens."""

    all_special_ids = (0,)

    def __len__(self):
        return len(TOKENS)

    def decode(self, ids):
        return TOKENS[ids[0]].replace("\u0120", " ")

    def convert_ids_to_tokens(self, ids):
        return [TOKENS[one] for one in ids]


def test_every_id_has_a_row_with_its_text_type_and_number():
    found = token_list(Four(), np.array([1, 0, 5]))
    assert found["token_id"].tolist() == [0, 1, 2, 3] and found["token"].tolist() == TOKENS
    assert found["text"].tolist() == ["<s>", " light", "ing", "7"]
    assert found["type"].tolist() == ["special", "lower-case word", "word piece", "number"]
    assert found["occurrences"].tolist() == [1, 0, 5, 0]
