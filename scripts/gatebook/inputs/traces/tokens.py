"""The token file of a dataset of traces, of the same variables as that of a dataset of text."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from gatebook.inputs import clusters
from gatebook.inputs.documents import told_apart
from gatebook.inputs.traces.base import Block
from gatebook.problem import Problem

NONE = -1
"""Token id where it is not known."""
SHORT = "of documents that are too short or beyond the limits"


class Gathered:
    """The tokens of blocks, in order: ids, documents, clusters, positions, phases and roles."""

    def __init__(self, key: str, lacks: Sequence[str] = ()):
        """Nothing is gathered yet; `key` is the dataset's in the config, `lacks` what its files do not hold."""
        self._key, self._lacks = key, lacks
        self._ids, self._kept, self._positions, self._starts = [], [], [], []
        self._names, self._clusters, self._labels = [], [], {"phase": [], "role": []}
        self._known: dict[tuple, int] = {}
        self._codes = {"phase": {"none": 0}, "role": {"none": 0}}
        self._last, self._tokens = None, 0

    def add(self, block: Block, file: int, kept: np.ndarray) -> None:
        """Add a block of a file, and which of its tokens are kept (token,) bool.

        Raises a `Problem` if what the files lack is not what the config says, or a document is in several pieces.
        """
        if not block.tokens:
            return
        self._ids.append(self._of_block(block, "token_id", "tokens", np.int32, NONE))
        self._documents(block, file)
        position = block.position
        self._positions.append(None if position is None else np.asarray(position, dtype=np.int32))
        for part, codes in self._codes.items():
            self._labels[part].append(_coded(getattr(block, part), codes, block.tokens))
        self._kept.append(kept)
        self._tokens += block.tokens

    def token_ids(self) -> np.ndarray:
        """Those of all tokens, kept or not: (token,) int32."""
        return np.concatenate(self._ids) if self._ids else np.empty(0, np.int32)

    def file(self, kept: np.ndarray, limits: Mapping, tokens: int | None) -> xr.Dataset:
        """What `documents.tokenize` makes of text, without texts, from the `kept` tokens (token,) bool.

        Parameters
        ----------
        kept
            Of all tokens that were gathered.
        limits
            Of the dataset: `documents` and `minimum_tokens`, if any.
        tokens
            At most so many are read; the last document is cut.

        Returns
        -------
        xarray.Dataset
            `source_token(token)` int64 says where in the files each token is. A new window begins with a document,
            after tokens that are left out, and where positions do not go on. The attribute `dropped` (JSON) has the
            numbers of tokens that were left out with their documents.
        """
        starts = np.array(self._starts, dtype=np.int64)
        place, document, left_out = _limited(kept, starts, limits, tokens, self._key)
        numbers, index = np.unique(document, return_inverse=True)
        position = _positions(place, index, self._given_positions())
        lengths = np.bincount(index).astype(np.int32)
        names = np.array([self._names[number] for number in numbers], dtype=object)
        cluster = _named(self._clusters, numbers)
        distinct = told_apart(names)
        made = {
            "token_id": (self.token_ids()[place], {"long_name": "token id"}),
            "document_index": (
                index.astype(np.int32),
                {"long_name": "index of the token's document", "instance_dimension": "document"},
            ),
            "position": (position, {"long_name": "position in the window that the model sees", "units": "tokens"}),
            "source_token": (place, {"long_name": "number of the token in the files"}),
        }
        for part, meaning in (("role", "who speaks"), ("phase", "part of an answer")):
            codes = self._codes[part]
            flags = {"flag_values": np.arange(len(codes), dtype=np.int8), "flag_meanings": " ".join(codes)}
            made[part] = (np.concatenate(self._labels[part])[place], {"long_name": meaning} | flags)
        return xr.Dataset(
            {name: ("token", values, attrs) for name, (values, attrs) in made.items()}
            | {
                "document_tokens": ("document", lengths, {"long_name": "tokens of the document", "units": "tokens"}),
                "row": ("document", numbers.astype(np.int64), {"long_name": "number of the document in the files"}),
            },
            coords={
                "document_id": ("document", distinct),
                "cluster": ("document", cluster, {"long_name": "cluster of documents that are alike"}),
                "group": ("document", clusters.groups(cluster), {"long_name": "group of clusters"}),
            },
            attrs={
                "featureType": "indexed ragged array",
                "window": int(position.max()) + 1,
                "documents_left_out": len(starts) - len(numbers),
                "ids_repeated": int((distinct != names).sum()),
                "dropped": json.dumps({SHORT: left_out} if left_out else {}),
            },
        )

    def _of_block(self, block: Block, part: str, capability: str, dtype, none) -> np.ndarray:
        values = getattr(block, part)
        if (values is None) != (capability in self._lacks):
            what, remedy = ("have no", "add") if values is None else ("have a", "remove")
            raise Problem(f"{self._key}.lacks: its files {what} {part}: {remedy} {capability!r}.")
        return np.full(block.tokens, none, dtype) if values is None else np.asarray(values, dtype)

    def _documents(self, block: Block, file: int) -> None:
        names = self._of_block(block, "document", "documents", None, "all")
        changes = np.flatnonzero(names[1:] != names[:-1]) + 1
        first = (None if "documents" in self._lacks else file, str(names[0]))
        starts = [*([0] if first != self._last else []), *changes.tolist()]
        cluster = names if block.cluster is None else np.asarray(block.cluster)
        if block.cluster is not None:
            inside = np.setdiff1d(np.flatnonzero(cluster[1:] != cluster[:-1]) + 1, changes)
            if len(inside):
                raise Problem(
                    f"{self._key}: document {names[inside[0]]} has tokens of two clusters: give a document one."
                )
        for start in starts:
            known = (file, str(names[start]))
            if known in self._known:
                raise Problem(
                    f"{self._key}: document {names[start]} goes on after another one: give the tokens of a document "
                    "one after another."
                )
            self._known[known] = len(self._names)
            self._names.append(str(names[start]))
            of_file = (
                cluster[start] if block.cluster is not None else f"{file}/{names[start]}" if file else names[start]
            )
            self._clusters.append(of_file)
            self._starts.append(self._tokens + start)
        self._last = (first[0], str(names[-1]))

    def _given_positions(self) -> np.ndarray | None:
        given = [each is not None for each in self._positions]
        return np.concatenate(self._positions) if all(given) else None


def add_text(made: xr.Dataset, tokenizer, key: str) -> xr.Dataset:
    """A token file with the `text(document)` that a tokenizer of the transformers library gives its ids.

    A `Problem` for a token id that the tokenizer does not have.
    """
    ids, most = made["token_id"].values, len(tokenizer)
    if len(ids) and (ids.max() >= most or ids.min() < 0):
        wrong = int(ids.max() if ids.max() >= most else ids.min())
        raise Problem(
            f"{key}: token id {wrong} is not one of the {most:,} of the tokenizer: correct models' `tokenizer`."
        )
    parts = np.split(ids, np.cumsum(made["document_tokens"].values)[:-1])
    texts = [tokenizer.decode(part.tolist()).replace("\0", "\N{SYMBOL FOR NULL}") for part in parts]
    return made.assign(text=("document", np.array(texts, dtype=object), {"long_name": "text"}))


def _coded(values: np.ndarray | None, codes: dict[str, int], tokens: int) -> np.ndarray:
    """The number of each value (token,) int8, by `codes`, to which new ones are added."""
    if values is None:
        return np.zeros(tokens, dtype=np.int8)
    known, inverse = np.unique(np.asarray(values).astype(str), return_inverse=True)
    numbers = [codes.setdefault(each.strip().replace(" ", "_") or "none", len(codes)) for each in known]
    return np.array(numbers, dtype=np.int8)[inverse]


def _limited(kept: np.ndarray, starts: np.ndarray, limits: Mapping, tokens: int | None, key: str):
    """The tokens that are read, (token,) int64 places in the files, their documents, and how many were left out."""
    place = np.flatnonzero(kept)
    document = (np.searchsorted(starts, place, side="right") - 1).astype(np.int32)
    lengths = np.bincount(document, minlength=len(starts))
    whole = lengths >= (limits.get("minimum_tokens") or 2)
    if "documents" in limits:
        whole &= np.cumsum(whole) <= limits["documents"]
    mine = whole[document]
    if tokens is not None:
        mine &= np.cumsum(mine) <= tokens
        number = np.bincount(document[mine], minlength=len(starts))
        mine &= (number >= 2)[document]
    if not mine.any():
        raise Problem(f"{key} has no document of two tokens: check its files and limits.")
    return place[mine], document[mine], int((~mine).sum())


def _positions(place: np.ndarray, document: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    """The place of each token in its window, (token,) int32."""
    begins = np.ones(len(place), dtype=bool)
    begins[1:] = (np.diff(place) != 1) | (np.diff(document) != 0)
    if given is not None:
        begins[1:] |= np.diff(given[place]) != 1
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.append(starts, len(place)))
    return (np.arange(len(place)) - np.repeat(starts, lengths)).astype(np.int32)


def _named(values: list, numbers: np.ndarray) -> np.ndarray:
    """The clusters of documents as text; numbers are filled up with zeros, so that they sort as numbers do."""
    mine = [values[number] for number in numbers]
    if all(isinstance(each, (int, np.integer)) for each in mine):
        width = len(str(max(mine)))
        return np.array([f"{each:0{width}d}" for each in mine], dtype=object)
    return np.array([str(each) for each in mine], dtype=object)


def check_same(one: Gathered | None, other: Gathered, key: str, checkpoint: str) -> None:
    """A `Problem` if the files of a checkpoint are of other tokens than those of the one before it."""
    if one is not None and not np.array_equal(one.token_ids(), other.token_ids()):
        raise Problem(f"{key}: the traces of {checkpoint} are of other tokens than those of the checkpoint before it.")
