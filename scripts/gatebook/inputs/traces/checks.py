"""What is wrong with traces: said before anything is counted, or left out token by token and counted."""

from collections import Counter
from pathlib import Path

import numba
import numpy as np

from gatebook.inputs.traces.base import Block, Wanted
from gatebook.problem import Problem

LAST = "a last token, of which no experts are recorded by design"
UNRECORDED, SHARED, ZEROS = "not recorded (-1)", "the slot of a shared expert (255)", "all ids are 0"
REASONS = (UNRECORDED, SHARED, ZEROS)
UNSORTED = "selections of a token in a layer that were sorted by their scores"
FILL = (-1, 255)
"""Ids that stand for no expert: never recorded, and the slot of a shared expert."""
FEWEST = 32
"""Tokens from which on a layer that has the same experts for all of them was not recorded."""


class Checks:
    """Goes through the blocks of a dataset, in order: which tokens are kept, and what was found.

    `tokens`, and how many of them are `kept`; `dropped`: those that are left out, by reason; `sorted`: selections that
    were not in the order of their scores.
    """

    def __init__(self, wanted: Wanted):
        """Nothing is checked yet."""
        self._wanted = wanted
        self.dropped, self.sorted, self.tokens, self.kept = Counter(), 0, 0, 0
        layers = len(wanted.kept)
        self._first = np.full((layers, wanted.top_k), -2, dtype=np.int64)
        self._varies = np.zeros(layers, dtype=bool)

    def add(self, block: Block, path: str | Path = "the file") -> tuple[Block, np.ndarray]:
        """The block with as many ids in a row as a token selects, and which of its tokens are kept (token,) bool.

        Raises a `Problem` for what cannot be experts that tokens select.
        """
        wanted = self._wanted
        block = narrowed(block, wanted)
        self.dropped.update(block.dropped)
        fault, place = _faults(block.ids, wanted.experts, self._first, self._varies)
        if place[0] >= 0:
            self._refuse(block, *place, path)
        if block.unrecorded is not None:
            fault[block.unrecorded] = len(REASONS) + 1
        for number, reason in enumerate((*REASONS, LAST), start=1):
            if found := int((fault == number).sum()):
                self.dropped[reason] += found
        kept = fault == 0
        if "scores" in wanted.parts:
            self._scores(block, kept, path)
        self.tokens += block.tokens
        self.kept += int(kept.sum())
        return block, kept

    def finish(self) -> None:
        """Raises a `Problem` for a layer that has the same experts for all tokens, and if no token is left."""
        wanted = self._wanted
        constant = np.flatnonzero((self._first[:, 0] >= 0) & ~self._varies)
        if len(constant) and self.tokens >= FEWEST:
            raise Problem(
                f"{wanted.key}: layer {wanted.layers[wanted.kept[constant[0]]]} has the same experts for all tokens: "
                "it is dense or was not recorded; leave it out in the model's `layers`."
            )
        if not self.kept:
            said = "; ".join(f"{number:,} {reason}" for reason, number in self.dropped.items())
            raise Problem(f"{wanted.key}: no token is left ({said}): record them again.")

    def _scores(self, block: Block, kept: np.ndarray, path) -> None:
        scores = block.scores[kept]
        if scores.shape != (int(kept.sum()), *block.ids.shape[1:]):
            raise Problem(
                f"{self._wanted.key}: {path} has scores of the shape {block.scores.shape} and ids of "
                f"{block.ids.shape}: give one for each id."
            )
        if not np.isfinite(scores).all() or (scores < 0).any():
            raise Problem(
                f"{self._wanted.key}: {path} has scores that are negative or no numbers: give routing weights, or "
                "leave them out (`holds: ids`)."
            )
        self.sorted += int((scores[..., 1:] > scores[..., :-1]).any(axis=-1).sum())

    def _refuse(self, block: Block, kind: int, token: int, place: int, rank: int, path) -> None:
        wanted = self._wanted
        expert, layer = int(block.ids[token, place, rank]), wanted.layers[wanted.kept[place]]
        where = f"{wanted.key}: {path}: token {self.tokens + token}, layer {layer}"
        if kind == 1:
            raise Problem(f"{where}: expert {expert} is there twice: these are not the experts that it selects.")
        raise Problem(
            f"{where}: expert {expert} is out of range, experts_per_layer is {wanted.experts}: correct it, or, if "
            "these are physical experts, add their map as physical_to_logical."
        )


def narrowed(block: Block, wanted: Wanted) -> Block:
    """A block without the columns of ids beyond a token's, if these hold no experts; else a `Problem`."""
    width = block.ids.shape[2]
    if width == wanted.top_k or not block.tokens:
        return block
    if width < wanted.top_k or not np.isin(block.ids[..., wanted.top_k :], FILL).all():
        raise Problem(
            f"{wanted.key}: tokens have {width} experts in a layer, experts_per_token is {wanted.top_k}: correct it."
        )
    scores = None if block.scores is None else block.scores[..., : wanted.top_k]
    return Block(**vars(block) | {"ids": block.ids[..., : wanted.top_k], "scores": scores})


def ordered(block: Block, holds: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Ids and scores (token, layer, rank) in the order in which they are kept.

    The largest score first, ties as they came; in the given order if the config says that it is one; else by id.
    """
    if block.scores is not None:
        if (block.scores[..., 1:] <= block.scores[..., :-1]).all():
            return block.ids, block.scores
        order = np.argsort(-block.scores, axis=-1, kind="stable")
        return np.take_along_axis(block.ids, order, axis=-1), np.take_along_axis(block.scores, order, axis=-1)
    return np.sort(block.ids, axis=-1) if holds == "ids" else block.ids, None


@numba.njit(nogil=True, cache=True)
def _faults(ids, experts, first, varies):
    """For each token 0 or why it is left out, as the number of a reason (token,) int8, and where ids are no experts.

    `ids` (token, layer, rank); `first` (layer, rank) is each layer's first row and `varies` (layer,) whether another
    one differs: both are kept up to date. The place is (kind, token, layer, rank), kind 0 for an id out of range and 1
    for one that is there twice; all -1 if there is none.
    """
    tokens, layers, top_k = ids.shape
    fault, place = np.zeros(tokens, dtype=np.int8), (-1, -1, -1, -1)
    for token in range(tokens):
        for layer in range(layers):
            zeros, twice, unrecorded = True, -1, 0
            for rank in range(top_k):
                expert = np.int64(ids[token, layer, rank])
                zeros &= expert == 0
                if expert == -1:
                    unrecorded = 1
                elif expert == 255 and experts <= 255:
                    unrecorded = max(unrecorded, 2) if unrecorded != 1 else 1
                elif expert < 0 or expert >= experts:
                    return fault, (0, token, layer, rank)
                for other in range(rank):
                    if np.int64(ids[token, layer, other]) == expert:
                        twice = rank
            if unrecorded:
                fault[token] = unrecorded
                continue
            if first[layer, 0] == -2:
                for rank in range(top_k):
                    first[layer, rank] = ids[token, layer, rank]
            elif not varies[layer]:
                for rank in range(top_k):
                    varies[layer] |= first[layer, rank] != ids[token, layer, rank]
            if zeros and top_k > 1:
                if fault[token] == 0:
                    fault[token] = 3
            elif twice >= 0:
                return fault, (1, token, layer, twice)
    return fault, place
