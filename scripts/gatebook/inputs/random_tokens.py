"""Random tokens of a tokenizer: which ids stand for pieces of text, and what texts begin with."""

import numpy as np


def ordinary_tokens(tokenizer, vocabulary: int | None = None) -> np.ndarray:
    """The ids that stand for pieces of text, without special and added tokens, below `vocabulary`: int64, sorted."""
    added = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    known = np.array(sorted(set(tokenizer.get_vocab().values()) - added), np.int64)
    return known if vocabulary is None else known[known < vocabulary]


def beginning(tokenizer) -> list[int]:
    """The token with which the tokenizer begins texts, if it does."""
    first = list(tokenizer("a")["input_ids"][:1])
    return first if first == [tokenizer.bos_token_id] else []
