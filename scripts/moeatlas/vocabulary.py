"""Vocabulary: which token ids the experts of a layer receive, counted for three kinds of token.

The kind "input" is the token that is routed, "next" the one that follows it in the same window of text, and "predicted"
the one that the model holds most likely to follow; the last is there only if the extraction kept predictions. A type is
a token id that occurs. Counts are dense, (expert, type), of one layer at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

from moeatlas import parts, storage
from moeatlas.statistics import POOLED
from moeatlas.tallies import GROUPS, document_groups

KINDS = ("input", "next", "predicted")
NONE = -1
"""Token id where there is none: the next one of a window's last token."""
PREDICTIONS = "predictions.nc"


@dataclass(frozen=True)
class Group:
    """The tokens of one group of documents among some occurrences.

    members (n,) int32: which occurrences; types (t,) int32: their types, increasing; code (n,) int32: index into them.
    """

    members: np.ndarray
    types: np.ndarray
    code: np.ndarray


@dataclass(frozen=True)
class Occurrences:
    """The tokens, among those of a dataset or of all datasets, that have a token id of some kind.

    place (n,) int32: which token of the study; token_id (type,) int32, increasing: the ids that occur; code (n,) int32:
    index into them; group (n,) int8: group of documents, see `tallies.document_groups`.
    """

    place: np.ndarray
    token_id: np.ndarray
    code: np.ndarray
    group: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """The occurrences in the order of their types and, within these, of their groups: (n,) int."""
        return np.lexsort((self.group, self.code))

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each type begins in `order`, and the end of the last one: (type + 1,) int."""
        return np.append(0, np.cumsum(np.bincount(self.code, minlength=len(self.token_id))))

    @cached_property
    def groups(self) -> list[Group]:
        """The occurrences in each group of documents."""
        found = []
        for number in range(GROUPS):
            members = np.flatnonzero(self.group == number).astype(np.int32)
            types, code = np.unique(self.code[members], return_inverse=True)
            found.append(Group(members, types, code.astype(np.int32)))
        return found


def read(records: list[str], tokens: list[str]) -> xr.Dataset:
    """The tokens of a study, one dataset after another, from the record folders and token files of its datasets.

    `token_id` (kind, token) int32, `NONE` where there is none; `dataset` int16 and `group` int8 (token); `documents`
    (name) int64. Coordinates: `kind`, without "predicted" unless every folder holds predictions; `name`, the datasets;
    `layer`. The attributes say which model and which tokens it is.
    """
    kinds = KINDS if all((Path(folder) / PREDICTIONS).exists() for folder in records) else KINDS[:2]
    ids, groups, sources, documents = [], [], {}, []
    for folders, path in zip(parts.by_dataset(records), tokens, strict=True):
        known = storage.load_tokens(path)
        document = np.repeat(np.arange(known.sizes["document"]), known["document_tokens"].values)
        given = known["token_id"].values
        found = [given, next_token(given, known["position"].values)]
        if "predicted" in kinds:
            with storage.open_joined([folder / PREDICTIONS for folder in folders], along="token") as predictions:
                found.append(predictions["predicted_token"].values)
        ids.append(np.array(found, dtype=np.int32))
        groups.append(document_groups(known["document_id"].values)[document])
        documents.append(known.sizes["document"])
        with storage.open_lazily(next(iter(storage.layer_files(folders[0]).values()))) as record:
            sources[record.attrs["dataset"]] = xr.Dataset(attrs=record.attrs)
    return xr.Dataset(
        {
            "token_id": (("kind", "token"), np.concatenate(ids, axis=1)),
            "dataset": ("token", np.repeat(np.arange(len(ids), dtype=np.int16), [part.shape[1] for part in ids])),
            "group": ("token", np.concatenate(groups)),
            "documents": ("name", documents),
        },
        coords={"kind": list(kinds), "name": list(sources), "layer": list(storage.layer_files(records[0]))},
        attrs=storage.study_identity(sources),
    )


def read_layers(records: list[str], layers: list[int]) -> Iterator[tuple[int, np.ndarray, int]]:
    """For one layer after another: its number, the selected experts (token, rank) of all tokens of `read`, and E."""
    for layer in layers:
        selected = []
        for folder in records:
            with storage.open_lazily(storage.layer_files(folder)[layer]) as record:
                selected.append(record["selected_expert"].values)
                experts = record.sizes["expert"]
        yield layer, np.concatenate(selected), experts


def next_token(token_id: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The token id that follows each token in its window (token,), `NONE` for the last one of a window.

    position (token,) is the place in the window, 0 for its first token.
    """
    return np.append(np.where(position[1:] == 0, NONE, token_id[1:]), NONE).astype(token_id.dtype)


def occurrences(study: xr.Dataset, kind: str, dataset: str) -> Occurrences:
    """The tokens of one dataset, or of all, "pooled", that have a token id of the kind."""
    ids = study["token_id"].sel(kind=kind).values
    wanted = ids != NONE
    if dataset != POOLED:
        wanted &= study["dataset"].values == list(study["name"].values).index(dataset)
    place = np.flatnonzero(wanted).astype(np.int32)
    token_id, code = np.unique(ids[place], return_inverse=True)
    return Occurrences(place, token_id, code.astype(np.int32), study["group"].values[place])


def count(code: np.ndarray, selected: np.ndarray, types: int, experts: int) -> np.ndarray:
    """How often each expert is selected by each type: int32 (expert, type), from types (n,), selections (n, rank)."""
    cell = code.astype(np.intp)[:, None] * experts + selected
    return np.bincount(cell.ravel(), minlength=types * experts).astype(np.int32).reshape(types, experts).T


def token_texts(tokenizer, token_ids: np.ndarray) -> list[str]:
    r"""Each token id as text in one line: backslashes, line breaks and what cannot be printed are escaped (\n, \x07).

    A token that is a part of a character is written as the tokenizer writes it. `tokenizer` is one of transformers.
    """
    texts = []
    for number in token_ids.tolist():
        text = tokenizer.decode([number])
        texts.append(escaped(tokenizer.convert_ids_to_tokens(number) if "\ufffd" in text or not text else text))
    return texts


def escaped(text: str | None) -> str:
    """Text in one line, with backslashes, line breaks and what cannot be printed escaped; empty for None."""
    return "".join(map(_escaped_character, text or ""))


def _escaped_character(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    return character.encode("unicode_escape").decode()
