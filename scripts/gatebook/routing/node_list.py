"""The nodes of a model: the parts that add to its residual stream, and what reads it last."""

from typing import NamedTuple

import numpy as np

EMBEDDING, ATTENTION, REST, EXPERT, OUTPUT = "embedding", "attention", "rest", "expert", "output"


class Nodes(NamedTuple):
    """The nodes of a model, in the order in which they come: each (node,).

    kind: one of the words above; layer: int, -1 of the embedding, of the output how many layers there are; expert: int,
    -1 of other nodes; place: int, a node reaches those with a larger one.
    """

    kind: np.ndarray
    layer: np.ndarray
    expert: np.ndarray
    place: np.ndarray

    def number(self, kind: str, layer: int = -1, expert: int = -1) -> int:
        """The number of a node."""
        (found,) = np.flatnonzero((self.kind == kind) & (self.layer == layer) & (self.expert == expert))
        return int(found)

    def name(self, number: int) -> str:
        """What a node is called, such as L3E14."""
        kind, layer = self.kind[number], self.layer[number]
        if kind == EXPERT:
            return f"L{layer}E{self.expert[number]}"
        return str(kind) if kind in (EMBEDDING, OUTPUT) else f"{kind} {layer}"
