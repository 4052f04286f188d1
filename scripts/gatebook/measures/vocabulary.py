"""Vocabulary: which token ids the experts of a layer receive, counted for each kind of token (see `routed`).

A type is a token id that occurs. Counts are dense, (expert, type), of one layer at a time.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
import xarray as xr

from gatebook.inputs.clusters import GROUPS
from gatebook.measures.uncertainty import POOLED, sample_sizes_of
from gatebook.study.routed import NONE


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


def occurrences(tokens: xr.Dataset, kind: str, dataset: str) -> Occurrences:
    """The tokens of one dataset, or of all, "pooled", that have a token id of the kind."""
    ids = tokens["token_id"].sel(kind=kind).values
    wanted = ids != NONE
    if dataset != POOLED:
        wanted &= tokens["dataset"].values == list(tokens["name"].values).index(dataset)
    place = np.flatnonzero(wanted).astype(np.int32)
    token_id, code = np.unique(ids[place], return_inverse=True)
    return Occurrences(place, token_id, code.astype(np.int32), tokens["group"].values[place])


def sample_sizes(tokens: xr.Dataset) -> xr.Dataset:
    """`documents` and `clusters` (dataset,) int64 of the tokens of a study, pooled first."""
    documents = tokens["documents"].values
    return sample_sizes_of(documents.tolist(), np.split(tokens["cluster"].values, np.cumsum(documents)[:-1]))


def count(code: np.ndarray, selected: np.ndarray, types: int, experts: int) -> np.ndarray:
    """How often each expert is selected by each type: int32 (expert, type), from types (n,), selections (n, rank)."""
    number = np.zeros((types, experts), np.int32)
    _add_tokens(code, selected, number)
    return number.T


@numba.njit(cache=True)
def _add_tokens(code, selected, number):
    """Add the selections of tokens, (n,) and (n, rank), to `number` (type, expert)."""
    for token in range(len(code)):
        for rank in range(selected.shape[1]):
            number[code[token], selected[token, rank]] += 1


def token_texts(tokenizer, token_ids: np.ndarray) -> list[str]:
    r"""Each token id as text in one line: backslashes, line breaks and what cannot be printed are escaped (\n, \x07).

    Bytes that are a part of a character are written as ⟨e2 80⟩. `tokenizer` is one of transformers.
    """
    texts = []
    for number in token_ids.tolist():
        text, symbol = tokenizer.decode([number]), tokenizer.convert_ids_to_tokens(number)
        if "\ufffd" in text:
            pieces = CUT.split(_token_bytes(symbol).decode("utf-8", "surrogateescape"))
            texts.append("".join(_hexadecimal(one) if CUT.match(one) else escaped(one) for one in pieces))
        else:
            texts.append(escaped(text or symbol))
    return texts


CUT = re.compile("([\udc80-\udcff]+)")
"""Bytes of a character that is cut, as `surrogateescape` decodes them."""
PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
"""Bytes that byte-level tokenizers write as the character of the same number, the others as those from 256 on."""
BYTES = {chr(byte): byte for byte in PRINTED}
BYTES |= {chr(256 + place): byte for place, byte in enumerate(sorted(set(range(256)) - set(PRINTED)))}


def _token_bytes(symbol: str) -> bytes:
    """The bytes of a token that its tokenizer writes as `symbol`: <0xE2>, one character for each byte, or text."""
    if byte := re.fullmatch("<0x([0-9A-F]{2})>", symbol):
        return bytes.fromhex(byte[1])
    return bytes(map(BYTES.get, symbol)) if BYTES.keys() >= set(symbol) else symbol.encode()


def _hexadecimal(cut: str) -> str:
    return f"⟨{cut.encode('utf-8', 'surrogateescape').hex(' ')}⟩"


def escaped(text: str | None) -> str:
    """Text in one line, with backslashes, line breaks and what cannot be printed escaped; empty for None."""
    return "".join(map(_escaped_character, text or ""))


def _escaped_character(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    return character.encode("unicode_escape").decode()
