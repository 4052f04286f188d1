"""Routed tokens: all tokens of a study, one dataset after another, and what each layer's routers did to them.

A token has up to three token ids, its kinds: "input" is the token that is routed, "next" the one that follows it in the
same window of text, and "predicted" the one that the model holds most likely to follow; the last is there only if the
extraction kept predictions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from gatebook.files import netcdf, parts
from gatebook.inputs.clusters import sources
from gatebook.inputs.documents import load_tokens
from gatebook.problem import Problem
from gatebook.routing.records import layer_files
from gatebook.study.tallies import routing_rule, study_identity

KINDS = ("input", "next", "predicted")
NONE = -1
"""Token id where there is none: the next one of a window's last token."""
PREDICTIONS = "predictions.nc"
TOKENS_PER_BLOCK = 1 << 16
"""So many tokens of a layer are worked through at a time, where all of them would take too much memory."""


@dataclass(frozen=True)
class Layer:
    """What the routers of one layer did to all tokens of a study.

    number: the layer; experts: how many it has; selected (token, rank) unsigned integers: the selected experts, the
    largest weight first; weight (token, rank) float32: their routing weights; entropy (token,) float32: router entropy
    in nats; logits (token, expert) float32: the raw router logits; margin (token,) float32: the boundary margin. The
    last four are None unless `read_layers` is asked for them.
    """

    number: int
    experts: int
    selected: np.ndarray
    weight: np.ndarray | None = None
    entropy: np.ndarray | None = None
    logits: np.ndarray | None = None
    margin: np.ndarray | None = None


def read(records: list[str], tokens: list[str]) -> xr.Dataset:
    """The tokens of a study from the record folders and token files of its datasets.

    What `read_tokens` gives, with the ids of kind "predicted" if every folder holds predictions. Coordinate: `layer`.
    The attributes say which model and which tokens it is.
    """
    study, parts_of = read_tokens(tokens), parts.by_dataset(records)
    if all((Path(folder) / PREDICTIONS).exists() for folder in records):
        predicted = []
        for folders in parts_of:
            with netcdf.open_joined([folder / PREDICTIONS for folder in folders], along="token") as predictions:
                predicted.append(predictions["predicted_token"].values)
        ids = np.concatenate([study["token_id"], np.concatenate(predicted, dtype=np.int32)[None]])
        study = study.drop_dims("kind").assign(token_id=(("kind", "token"), ids)).assign_coords(kind=list(KINDS))
    identities = {}
    for folders, _ in zip(parts_of, tokens, strict=True):
        with netcdf.open_lazily(next(iter(layer_files(folders[0]).values()))) as record:
            identities[record.attrs["dataset"]] = xr.Dataset(attrs=record.attrs)
    study = study.assign_coords(name=list(identities), layer=list(layer_files(records[0])))
    return study.assign_attrs(study_identity(identities))


def read_tokens(tokens: list[str]) -> xr.Dataset:
    """The tokens of a study from the token files of its datasets alone.

    `token_id` (kind, token) int32, `NONE` where there is none; `dataset` int16, an index into `name`, and `group` int8,
    that of its cluster (token); `document_id` text, `cluster` int64, numbered through all datasets, of which those of
    the same files share theirs, and `start` int64, its first token (document); `documents` int64, how many each dataset
    has, and `dataset_sha256` text, that of its files (name). Coordinates: `kind`, without "predicted"; `name`, the
    datasets.
    """
    ids, groups, clusters, names, lengths, attrs = [], [], [], [], [], []
    for path in tokens:
        known = load_tokens(path)
        names.append(known["document_id"].values.astype(object))
        lengths.append(known["document_tokens"].values)
        given = known["token_id"].values
        ids.append(np.array([given, next_token(given, known["position"].values)], dtype=np.int32))
        groups.append(np.repeat(known["group"].values, lengths[-1]))
        clusters.append(sources(known["cluster"].values, known.attrs["dataset_sha256"]))
        attrs.append(known.attrs)
    ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    return xr.Dataset(
        {
            "token_id": (("kind", "token"), np.concatenate(ids, axis=1)),
            "dataset": ("token", np.repeat(np.arange(len(ids), dtype=np.int16), [part.shape[1] for part in ids])),
            "group": ("token", np.concatenate(groups)),
            "document_id": ("document", np.concatenate(names)),
            "start": ("document", np.append(0, ends[:-1])),
            "documents": ("name", [len(part) for part in names]),
            "dataset_sha256": ("name", [each["dataset_sha256"] for each in attrs]),
            "cluster": ("document", np.unique(np.concatenate(clusters).astype(str), return_inverse=True)[1]),
        },
        coords={"kind": list(KINDS[:2]), "name": [each["dataset"] for each in attrs]},
    )


def read_layers(tokens: xr.Dataset, records: list[str], *wanted: str) -> Iterator[Layer]:
    """One layer after another of the `tokens` that `read` gives, from the record folders of their datasets.

    `wanted`: what is needed beside the selected experts, "routing_weight", "entropy" and "boundary_margin", which are
    computed if the records hold router logits, and these, "router_logits" (see `hold_logits`). Raises a `Problem` if a
    layer has records of more or fewer tokens.
    """
    for number in tokens["layer"].values.tolist():
        values: dict[str, np.ndarray] = {}
        done = 0
        for folder in records:
            with netcdf.open_lazily(layer_files(folder)[number]) as record:
                experts = routing_rule(record.attrs)["experts"]
                done += record.sizes["token"]
                if done > tokens.sizes["token"]:
                    break
                for start, block in _blocks(record, ("selected_expert", *wanted)):
                    first = done - record.sizes["token"] + start
                    for name, part in block.items():
                        if name not in values:
                            values[name] = np.empty((tokens.sizes["token"], *part.shape[1:]), part.dtype)
                        values[name][first : first + len(part)] = part
        if done != tokens.sizes["token"]:
            raise Problem(
                f"{Path(records[0]).parent}: the records of layer {number} and the token files have different numbers "
                "of tokens: delete the folder and run the workflow again."
            )
        names = ("selected_expert", "routing_weight", "entropy", "router_logits", "boundary_margin")
        yield Layer(number, experts, *map(values.get, names))


def hold_logits(records: list[str]) -> bool:
    """Whether the records of all datasets hold router logits: compact ones do not."""
    return _hold(records, "router_logits")


def hold_weights(records: list[str]) -> bool:
    """Whether the records of all datasets say what the routing weights are."""
    return _hold(records, "router_logits", "routing_weight")


def hold_margins(records: list[str]) -> bool:
    """Whether the records of all datasets say how close the router's decisions were."""
    return _hold(records, "router_logits", "boundary_margin")


def _hold(records: list[str], *names: str) -> bool:
    """Whether the records of all datasets hold any of the variables `names`."""
    for folder in records:
        with netcdf.open_lazily(next(iter(layer_files(folder).values()))) as record:
            if not any(name in record for name in names):
                return False
    return True


def read_selected(path: str, place: np.ndarray) -> Iterator[Layer]:
    """One layer after another of what the rule select_experts wrote of the tokens `place` (token,) of a study.

    Raises a `Problem` if the file is of other tokens.
    """
    with netcdf.open_lazily(path) as found:
        if not np.array_equal(found["token"].values, place):
            raise Problem(f"{path} is of other tokens than this study counts: delete it and run the workflow again.")
        for number in found["layer"].values.tolist():
            yield Layer(number, int(found.attrs["experts"]), found["selected_expert"].sel(layer=number).values)


def windows(study: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The window of every token of a study, by its number, and the token's position in it, from 0: (token,) int64."""
    following = study["token_id"].sel(kind="next").values
    first = np.append(True, following[:-1] == NONE)
    window = np.cumsum(first) - 1
    return window, np.arange(len(first)) - np.flatnonzero(first)[window]


def slices(tokens: int) -> Iterator[slice]:
    """Slices of at most `TOKENS_PER_BLOCK` tokens, in order."""
    for start in range(0, tokens, TOKENS_PER_BLOCK):
        yield slice(start, min(start + TOKENS_PER_BLOCK, tokens))


def next_token(token_id: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The token id that follows each token in its window (token,), `NONE` for the last one of a window.

    position (token,) is the place in the window, 0 for its first token.
    """
    return np.append(np.where(position[1:] == 0, NONE, token_id[1:]), NONE).astype(token_id.dtype)


def _blocks(record: xr.Dataset, names: tuple[str, ...]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The first token of each block of one layer's records, and the variables `names` of its tokens."""
    held = [name for name, array in record.items() if "token" in array.dims]
    needed = held if set(names) - set(held) else names
    for part in slices(record.sizes["token"]):
        block = {name: record[name][part].values for name in needed}
        if needed is held:
            block |= _computed(block, record, names)
        yield part.start, {name: block[name] for name in names}


def _computed(block: dict[str, np.ndarray], record: xr.Dataset, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What follows from a block of records with router logits: routing weights and, among `names`, scalars."""
    import torch  # takes a second, and chapters that read only selected experts do without it

    from gatebook.routing.following import complete
    from gatebook.routing.rule import routing_rule_of

    rule = routing_rule_of(record.attrs)
    if {"entropy", "boundary_margin"} & set(names):
        bias = record["selection_bias"].values if "selection_bias" in record else None
        return complete(block, rule, bias)
    selected = torch.from_numpy(block["selected_expert"].astype(np.int64))
    return {"routing_weight": rule.weights(torch.from_numpy(block["router_logits"]), selected).numpy()}
