"""Pairs of prompts that differ in what decides the answer, as arrays and as a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import xarray as xr

from gatebook.files import checksums, netcdf
from gatebook.inputs.tasks.base import Pair

CLEAN, CORRUPT = 0, 1
NOWHERE = -1
"""The position of a role that a pair does not have."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of prompts of one length, and the answer to each.

    ids: token ids (prompt, pair, position) int64, prompt 0 clean and 1 corrupt, 0 after the end. lengths: tokens of
    both prompts of a pair, (pair,) int64. right, wrong: the answer after the clean prompt and after the corrupt one,
    (pair,) int64. source: what pairs share that are not independent, (pair,) text. labels: positions by role, (pair,)
    int64, `NOWHERE` where a pair has none; "changed", the first that differs, and "end", the last, are always there.
    """

    ids: np.ndarray
    lengths: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    source: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.lengths)

    def __getitem__(self, rows) -> "Pairs":
        """Some of the pairs: a slice, numbers (row,) or (pair,) bool."""
        parts = {name: getattr(self, name)[rows] for name in ("lengths", "right", "wrong", "source")}
        labels = {role: places[rows] for role, places in self.labels.items()}
        return Pairs(ids=self.ids[:, rows], labels=labels, **parts)

    def swapped(self) -> "Pairs":
        """The same pairs with clean and corrupt exchanged, and so right and wrong."""
        return replace(self, ids=self.ids[::-1].copy(), right=self.wrong, wrong=self.right)


def of_list(found: Sequence[Pair]) -> Pairs:
    """Pairs of single ones, in their order."""
    lengths = np.array([len(pair.clean) for pair in found], np.int64)
    ids = np.zeros((2, len(found), lengths.max()), np.int64)
    for number, pair in enumerate(found):
        ids[:, number, : lengths[number]] = pair.clean, pair.corrupt
    labels = {"changed": (ids[CLEAN] != ids[CORRUPT]).argmax(axis=1), "end": lengths - 1}
    for role in dict.fromkeys(role for pair in found for role in pair.labels):
        labels[role] = np.array([pair.labels.get(role, NOWHERE) for pair in found], np.int64)
    source = np.array([pair.source for pair in found], dtype=object)
    right, wrong = (np.array([getattr(pair, name) for pair in found], np.int64) for name in ("right", "wrong"))
    return Pairs(ids, lengths, right, wrong, source, labels)


def write(pairs: Pairs, path: str | Path, attributes: Mapping) -> None:
    """Write pairs as netCDF with attributes, such as `task` and `title`; the checksum of the tokens is added."""
    roles = list(pairs.labels)
    about = {"long_name": "position by role, -1 where there is none"}
    dataset = xr.Dataset(
        {
            "token_id": (("prompt", "pair", "position"), pairs.ids, {"long_name": "token id, 0 after the end"}),
            "length": ("pair", pairs.lengths, {"long_name": "tokens of each prompt"}),
            "right": ("pair", pairs.right, {"long_name": "token id of the answer after the clean prompt"}),
            "wrong": ("pair", pairs.wrong, {"long_name": "token id of the answer after the corrupt prompt"}),
            "source_id": ("pair", pairs.source, {"long_name": "what pairs share that are not independent"}),
            "label": (("role", "pair"), np.array([pairs.labels[role] for role in roles]), about),
        },
        coords={"prompt": ["clean", "corrupt"], "role": roles},
        attrs=dict(attributes) | {"tokens_sha256": checksums.array_sha256(pairs.ids, pairs.right, pairs.wrong)},
    )
    netcdf.save(dataset, path)


def read(path: str | Path) -> tuple[Pairs, dict]:
    """Pairs from a file, and its attributes."""
    found = netcdf.load(path)
    ids, lengths, right, wrong = (found[name].values for name in ("token_id", "length", "right", "wrong"))
    labels = {str(role): found["label"].values[number] for number, role in enumerate(found["role"].values)}
    return Pairs(ids, lengths, right, wrong, found["source_id"].values.astype(object), labels), found.attrs
