"""What stands around sampled tokens, as text that a reader of the maps can look up."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from gatebook.inputs.documents import load_tokens
from gatebook.measures.vocabulary import escaped, token_texts

AROUND = 8


def contexts(sample: xr.Dataset, tokens: Sequence[str], tokenizer) -> xr.Dataset:
    """`before`, `text` and `after` (sample,): a token as text and up to `AROUND` tokens of its document on either side.

    Texts are in one line, see `vocabulary.escaped`; characters that are cut at an end of a context are left out.

    Parameters
    ----------
    sample
        The sampled tokens, see `samples.read`.
    tokens
        The token files of its datasets, in its order.
    tokenizer
        Of the model, one of transformers.
    """
    found = {"before": [], "text": [], "after": []}
    for path, dataset in zip(tokens, dict.fromkeys(sample["dataset"].values), strict=True):
        known = load_tokens(path)
        ids, document = known["token_id"].values, known["document_index"].values
        places = sample["place"].values[sample["dataset"].values == dataset]
        starts, ends = (np.searchsorted(document, document[places], side) for side in ("left", "right"))
        for place, start, end in zip(places, starts, ends, strict=True):
            for name, part in (("before", ids[max(start, place - AROUND) : place]), ("after", ids[place + 1 : end])):
                text = tokenizer.decode(part[:AROUND].tolist())
                found[name].append(escaped(text.strip("\ufffd")))
        found["text"] += token_texts(tokenizer, ids[places])
    return xr.Dataset({name: ("sample", np.array(texts, dtype=object)) for name, texts in found.items()})
