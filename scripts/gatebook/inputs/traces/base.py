"""What all forms of traces have in common: a block of tokens, what is asked of a file, and names of its columns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from gatebook.problem import Problem

TOKENS_PER_BLOCK = 1 << 15
"""So many tokens a form reads at a time, where its files allow it."""
NAMES = {
    "ids": ("indices", "selected_experts", "routed_experts", "experts", "topk_ids", "top_indices", "expert"),
    "scores": ("scores", "topk_weights", "routing_weights", "weights", "score"),
    "logits": ("router_logits", "logits"),
    "token_id": ("token_id", "token_ids", "input_ids"),
    "document": ("document", "document_id", "request_id"),
    "cluster": ("cluster",),
    "position": ("position", "positions"),
    "phase": ("phase",),
    "role": ("role",),
    "layers": ("layers",),
    "physical_to_logical": ("physical_to_logical_map", "physical_to_logical"),
}
"""What files may hold, and how it is usually called there; `columns` in the config says otherwise."""
OF_TOKENS = ("token_id", "document", "cluster", "position", "phase", "role")


@dataclass(frozen=True)
class Wanted:
    """What is read of the files of a dataset.

    key: its key in the config, for sentences; checkpoint: the one whose experts are read; layers: the numbers in the
    model of the layers that files hold, in their order; kept: the places among these of the layers that are studied;
    experts, top_k: of a layer, and of a token; parts: what is read beside the ids, of "scores" and "logits"; columns:
    names in the files, by the keys of `NAMES`.
    """

    key: str
    checkpoint: str
    layers: tuple[int, ...]
    kept: tuple[int, ...]
    experts: int
    top_k: int
    parts: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    def find(self, part: str, held) -> str | None:
        """The name of a part among those that a file has; None if it has none.

        Raises a `Problem` if the config names one that is not there.
        """
        if part in self.columns and self.columns[part] not in held:
            known = ", ".join(map(str, held))
            raise Problem(
                f"{self.key}.columns.{part}: {self.columns[part]!r} is not in the file, which has {known}: use one of "
                "them."
            )
        names = [self.columns[part]] if part in self.columns else NAMES[part]
        return next((name for name in names if name in held), None)

    def need(self, part: str, held, path) -> str:
        """The name of a part, see `find`; a `Problem` if there is none."""
        name = self.find(part, held)
        if name is None:
            raise Problem(
                f"{self.key}: {path} has no {part} ({', '.join(NAMES[part])}), but {', '.join(map(str, held))}: name "
                f"it in {self.key}.columns.{part}."
            )
        return name


@dataclass(frozen=True)
class Block:
    """Some tokens as a form has them; what is not known is None.

    ids (token, layer, rank) integers, of the studied layers; scores (token, layer, rank), logits (token, layer, expert)
    floats; token_id (token,) integers, one id for each; document, cluster, phase, role (token,) integers or text,
    which a document's tokens share or not; position (token,) integers. unrecorded (token,) bool: tokens whose experts
    are not known by design; dropped: tokens that the form had to leave out, by reason.
    """

    ids: np.ndarray
    scores: np.ndarray | None = None
    logits: np.ndarray | None = None
    token_id: np.ndarray | None = None
    document: np.ndarray | None = None
    cluster: np.ndarray | None = None
    position: np.ndarray | None = None
    phase: np.ndarray | None = None
    role: np.ndarray | None = None
    unrecorded: np.ndarray | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """How many."""
        return len(self.ids)


PER_TOKEN = tuple(each.name for each in fields(Block) if each.name != "dropped")
Blocks = Iterator[Block]


def check_layers(wanted: Wanted, found: tuple[int, ...] | None, number: int, path: str | Path) -> None:
    """A `Problem` if a file's layers are not those of the config: by their numbers, if it has any, or how many."""
    if found is not None and tuple(found) != wanted.layers:
        raise Problem(
            f"{wanted.key}: {path} has the layers {_ranges(found)}, the model's trace_layers are "
            f"{_ranges(wanted.layers)}: correct trace_layers."
        )
    if number != len(wanted.layers):
        raise Problem(
            f"{wanted.key}: {path} has {number} layers, the model's trace_layers are {len(wanted.layers)} "
            f"({_ranges(wanted.layers)}): correct trace_layers."
        )


def check_shape(wanted: Wanted, shape: tuple[int, ...], path: str | Path) -> None:
    """A `Problem` if an array of ids is not (token, layer, rank)."""
    if len(shape) != 3:
        raise Problem(f"{wanted.key}: {path} has ids of the shape {shape}, not (token, layer, rank): reshape them.")


def _ranges(layers) -> str:
    """Layers in words: 2-9, or 0, 2, 4."""
    layers = list(layers)
    whole = layers == list(range(layers[0], layers[-1] + 1)) if layers else False
    return f"{layers[0]}-{layers[-1]}" if whole and len(layers) > 2 else ", ".join(map(str, layers))


def with_last_token(ids: np.ndarray, tokens: int, wanted: Wanted, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Ids of a document (token, layer, rank) with as many rows as it has tokens, and which of them are unrecorded.

    Engines record no experts for a token that nothing follows: one row less than tokens is no mistake. Any other
    difference is a `Problem`.
    """
    if len(ids) == tokens:
        return ids, None
    if len(ids) != tokens - 1:
        raise Problem(
            f"{wanted.key}: {where} has {tokens} token ids and experts of {len(ids)} tokens: give as many, or one less."
        )
    unrecorded = np.zeros(tokens, dtype=bool)
    unrecorded[-1] = True
    return np.concatenate([ids, np.full((1, *ids.shape[1:]), -1, dtype=ids.dtype)]), unrecorded


def asked(key: str, settings: Mapping, description: Mapping, holds: str, checkpoint: str) -> Wanted:
    """What is read of the files of a dataset.

    Parameters
    ----------
    key
        Of the dataset in the config.
    settings
        Its entry.
    description
        Of the model, see `routing.traced.describe`.
    holds
        What the traces hold, as the config says.
    checkpoint
        Whose experts are read.

    Returns
    -------
    Wanted
    """
    layers, studied = description["trace_layers"], description["layers"]
    return Wanted(
        key=key,
        checkpoint=checkpoint,
        layers=tuple(layers),
        kept=tuple(layers.index(layer) for layer in studied),
        experts=description["experts"],
        top_k=description["top_k"],
        parts={"weights": ("scores",), "logits": ("logits",)}.get(holds, ()),
        columns=settings.get("columns", {}),
    )


def taken(blocks: Iterator[tuple[int, Block]], places: np.ndarray) -> Iterator[tuple[np.ndarray, Block]]:
    """Of each block the tokens at `places` (token,), in order, among all tokens of the files, and their own numbers."""
    start = 0
    for _, block in blocks:
        first, last = np.searchsorted(places, (start, start + block.tokens))
        if last > first:
            yield np.arange(first, last), rows(block, places[first:last] - start)
        start += block.tokens


def rows(block: Block, place: np.ndarray) -> Block:
    """Some tokens of a block, by their places in it."""
    whole = len(place) == block.tokens
    chosen = {part: getattr(block, part) for part in PER_TOKEN}
    return Block(**{part: values if values is None or whole else values[place] for part, values in chosen.items()})
