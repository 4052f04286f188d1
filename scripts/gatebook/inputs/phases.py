"""The tokens of one variant of a dataset, and of documents that a model continued."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from gatebook.files.origin import provenance_attributes
from gatebook.inputs.documents import tokens_sha256
from gatebook.inputs.variants import ANSWERS, GENERATED, Variant
from gatebook.problem import Problem


def unsigned(attributes: dict) -> dict:
    """The attributes of a file without what made it, for another file that a job makes of it."""
    return {name: value for name, value in attributes.items() if name not in provenance_attributes()}


def split(tokens: xr.Dataset, name: str, variant: Variant) -> xr.Dataset:
    """The tokens of a variant, called `name`, of a dataset, as `documents.tokenize` makes them, without `text`.

    `place` (token,) int64 says where in the dataset each is. What follows one another there is a stretch, and
    `position` counts from its beginning, so that no token seems to follow one that it does not. Documents without such
    a token are left out, without being counted; the others keep cluster and group. A `Problem` if there is no token.
    """
    wanted = np.ones(tokens.sizes["token"], bool)
    for part, value in (("role", variant.role), ("phase", variant.phase)):
        if value is not None:
            wanted &= tokens[part].values == tokens[part].attrs["flag_meanings"].split().index(value)
    place = np.flatnonzero(wanted)
    if not len(place):
        told = "remove it from `roles`" if variant.role else "check its files, template and limits"
        raise Problem(f"datasets.{variant.dataset}: no token is of {name}: {told}.")
    document, length = np.unique(tokens["document_index"].values[place], return_counts=True)
    begins = np.append(True, np.diff(place) > 1) | (tokens["position"].values[place] == 0)
    since = np.arange(len(place)) - np.flatnonzero(begins)[np.cumsum(begins) - 1]
    found = tokens.drop_vars("text", errors="ignore").isel(token=place, document=document)
    index = np.repeat(np.arange(len(document), dtype=np.int32), length)
    found = found.assign(
        document_index=("token", index, tokens["document_index"].attrs),
        position=("token", since.astype(np.int32), {"long_name": "position in its stretch", "units": "tokens"}),
        document_tokens=("document", length.astype(np.int32), tokens["document_tokens"].attrs),
        place=("token", place, {"long_name": "place among the tokens of the dataset", "units": "1"}),
    )
    found.attrs = unsigned(tokens.attrs) | {"dataset": name, "tokens_sha256": tokens_sha256(found)}
    return found


def continued(tokens: xr.Dataset, written: Sequence[np.ndarray], texts: Sequence[str]) -> xr.Dataset:
    """The tokens of a dataset with what a model wrote after each document: ids (token,) int32, and their text.

    `tokens` are made by `documents.tokenize` with room for them: every document is one window. In a conversation the
    assistant speaks what is written; its phase is "generated".
    """
    added = np.array([len(ids) for ids in written])
    length = tokens["document_tokens"].values
    after = np.repeat(np.cumsum(length), added)
    meanings = tokens["role"].attrs["flag_meanings"].split()
    new = {
        "token_id": np.concatenate(written),
        "document_index": np.repeat(np.arange(len(added)), added),
        "position": np.concatenate([before + np.arange(more) for before, more in zip(length, added, strict=True)]),
        "role": np.full(added.sum(), meanings.index(ANSWERS) if ANSWERS in meanings else 0),
        "phase": np.full(added.sum(), tokens["phase"].attrs["flag_meanings"].split().index(GENERATED)),
    }
    whole = {
        name: ("token", np.insert(tokens[name].values, after, values.astype(tokens[name].dtype)), tokens[name].attrs)
        for name, values in new.items()
    }
    whole["document_tokens"] = ("document", (length + added).astype(length.dtype), tokens["document_tokens"].attrs)
    text = [before + more for before, more in zip(tokens["text"].values, texts, strict=True)]
    whole["text"] = ("document", np.array(text, dtype=object), tokens["text"].attrs)
    found = tokens.drop_dims("token").assign(whole)
    found.attrs = unsigned(tokens.attrs) | {"tokens_sha256": tokens_sha256(found)}
    return found
