"""What stands around tokens of a study, as text."""

import numpy as np
import transformers
import xarray as xr

from gatebook.measures.vocabulary import escaped, token_texts

AROUND = 8


def contexts(
    study: xr.Dataset, place: np.ndarray, tokenizer: transformers.PreTrainedTokenizerBase
) -> dict[str, list[str]]:
    """`before`, `text` and `after` of the tokens `place` (n,) of a study, up to `AROUND` tokens of the document each.

    Texts are in one line, see `vocabulary.escaped`; characters that are cut at an end of a context are left out.
    """
    ids = study["token_id"].sel(kind="input").values
    ends = np.append(study["start"].values, len(ids))
    document = np.searchsorted(ends, place, side="right") - 1
    found = {"before": [], "text": token_texts(tokenizer, ids[place]), "after": []}
    for one, of in zip(place.tolist(), document.tolist(), strict=True):
        spans = {"before": (max(ends[of], one - AROUND), one), "after": (one + 1, min(ends[of + 1], one + 1 + AROUND))}
        for name, (start, end) in spans.items():
            found[name].append(escaped(tokenizer.decode(ids[start:end].tolist()).strip("\ufffd")))
    return found
