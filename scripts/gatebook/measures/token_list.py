"""The tokens of a tokenizer as a table, from which authors of probes see which strings are one token."""

import numpy as np
import pandas as pd
import transformers

from gatebook.measures.token_types import TYPES, classify


def token_list(tokenizer: transformers.PreTrainedTokenizerBase, occurrences: np.ndarray) -> pd.DataFrame:
    """A row for each token id: `token_id`, `token`, `text`, `type`, `occurrences`.

    Parameters
    ----------
    tokenizer
        Whose tokens are listed: `token` as its vocabulary writes it, `text` decoded alone.
    occurrences
        How often each id occurs in the study, (id,) int, as far as the last one that does.

    Returns
    -------
    pandas.DataFrame
        In the order of the ids; `type` is one of `token_types.TYPES`.
    """
    ids = list(range(len(tokenizer)))
    texts = [tokenizer.decode([one]) for one in ids]
    special = set(tokenizer.all_special_ids)
    types = classify(texts, [one in special for one in ids])
    counted = np.zeros(len(ids), np.int64)
    counted[: len(occurrences)] = occurrences[: len(ids)]
    return pd.DataFrame(
        {
            "token_id": ids,
            "token": tokenizer.convert_ids_to_tokens(ids),
            "text": texts,
            "type": [list(TYPES)[each] for each in types],
            "occurrences": counted,
        }
    )
