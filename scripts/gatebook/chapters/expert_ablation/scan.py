"""What is done to a model: every expert is removed in some documents, and the picked ones are tested in others.

Of a cluster one document is taken, and of that its first window: more of them with fewer tokens each, because what
chance varies is the document. The tokens of a window are those that another one follows in it. All numbers are sums
over the tokens of a document.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
import transformers
import xarray as xr

from gatebook.chapters.expert_ablation import PREDICTORS
from gatebook.inputs.clusters import sources
from gatebook.measures.slots import match
from gatebook.measures.uncertainty import POOLED
from gatebook.problem import Problem
from gatebook.routing import extraction
from gatebook.routing.families import routing_rule
from gatebook.routing.patching import Change, CleanRun, refusal, weighted

SUMS = ("loss_change_at", *PREDICTORS)
"""What is added up of each document for every expert; `loss_change` is among the predictors."""
PARTS = ("picked", "matched", "control")
"""The slots that are removed in turn: all of the picked expert, those of them with a partner, and the partners."""
TESTED = (*(f"{part}_change" for part in PARTS), "picked_slots", "matched_slots", "matched_weight", "control_weight")
"""What is added up of each document for a picked expert."""
ABOUT = ("dataset", "document_id", "cluster")


def chosen(tokens: xr.Dataset, *, clusters: int, tested_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The documents of a dataset that are scanned and those that are tested, by number: (document,) int64 each.

    A random one of each cluster; clusters of different groups before a second one of a group. Datasets with fewer
    clusters than both numbers together give at most half of them, rounded up, to the scan. Documents whose first window
    has a single token are left out.

    Parameters
    ----------
    tokens
        Of the dataset, see `documents.load_tokens`.
    clusters, tested_clusters
        How many of each.
    seed
        Together with the dataset's name it decides which.
    """
    rng = np.random.default_rng([seed, zlib.crc32(tokens.attrs["dataset"].encode())])
    lengths = np.array([len(window) for window in windows(tokens, np.arange(tokens.sizes["document"]))])
    order = pd.DataFrame({name: tokens[name].values for name in ("cluster", "group")})
    order = order.iloc[rng.permutation(np.flatnonzero(lengths > 1))].drop_duplicates("cluster")

    def spread(rest: pd.DataFrame, count: int) -> np.ndarray:
        turn = rest.groupby("group").cumcount().to_numpy()
        return rest.index.to_numpy()[np.argsort(turn, kind="stable")[:count]]

    scanned = spread(order, min(clusters, max(len(order) - tested_clusters, -(-len(order) // 2))))
    return scanned, spread(order.drop(index=scanned), tested_clusters)


def windows(tokens: xr.Dataset, documents: np.ndarray) -> list[np.ndarray]:
    """The token ids of the first window of each document: (position,) int32 each."""
    starts = np.flatnonzero(tokens["position"].values == 0)
    ends = np.append(starts[1:], tokens.sizes["token"])
    first = np.searchsorted(tokens["document_index"].values[starts], documents)
    return [tokens["token_id"].values[starts[place] : ends[place]] for place in first]


def about(tokens: xr.Dataset, documents: np.ndarray) -> xr.Dataset:
    """What is to be known of documents: `dataset`, `document_id` and `cluster` text, `group` int8 (document)."""
    named = sources(tokens["cluster"].values[documents], tokens.attrs["dataset_sha256"])
    return xr.Dataset(
        {
            "dataset": ("document", np.array([tokens.attrs["dataset"]] * len(documents), dtype=object)),
            "document_id": ("document", tokens["document_id"].values[documents].astype(object)),
            "cluster": ("document", named),
            "group": ("document", tokens["group"].values[documents]),
        }
    )


def reason_against(model: transformers.PreTrainedModel, layers: Sequence[int], stage: str) -> str:
    """Why experts of a loaded model cannot be removed at a stage; "" if they can."""
    if why := refusal(model.config):
        return why
    try:
        CleanRun(model, torch.zeros(1, 2, dtype=torch.int64, device=model.device)).handed_on(layers[0], Change(stage))
    except Problem as problem:
        return str(problem)
    return ""


def scan(
    model: transformers.PreTrainedModel,
    layers: Sequence[int],
    given: Sequence[np.ndarray],
    *,
    stage: str,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda count: None,
) -> xr.Dataset:
    """The sums of documents with every expert removed in turn.

    Parameters
    ----------
    model
        With its head, in evaluation mode.
    layers
        Numbers of layers with routers.
    given
        Token ids of a window of each document, (position,) int each, of at least 2 tokens.
    stage
        At which experts are removed, see `patching`.
    tokens_per_batch
        That the model sees at once.
    advance
        Is called with numbers of runs done: of a window with an expert removed.

    Returns
    -------
    xarray.Dataset
        (document, layer, expert) float64: `loss_change`, of it at tokens that select the expert `loss_change_at`, in
        nats; sums over these of `weight_sum`, the routing weight, `contribution_norm`, the norm of weight times output,
        `direct_logit` and `gradient` (see `CleanRun`); `selected_tokens`, their number. `predicted_tokens` (document)
        int64: all of them.
    """
    experts = routing_rule(model.base_model.config).experts
    found = {name: np.zeros((len(given), len(layers), experts)) for name in SUMS}
    for rows, clean in _clean_runs(model, given, tokens_per_batch):
        gradients = clean.gradients()
        for index, layer in enumerate(layers):
            effect = clean.effects(layer, Change(stage), list(range(experts))).double()
            selected = clean.selected[layer][:, :-1]
            hits = torch.stack([(selected == expert).any(dim=-1) for expert in range(experts)]) & clean.known
            slots = {
                "selected_tokens": torch.ones_like(selected),
                "weight_sum": clean.weights[layer][:, :-1],
                "contribution_norm": clean.contributions(layer)[:, :-1].float().norm(dim=-1),
                "direct_logit": clean.direct_logits(layer),
                "gradient": gradients[layer][:, :-1],
            }
            sums = {name: _by_expert(values, selected, clean.known, experts) for name, values in slots.items()}
            sums |= {"loss_change": effect.sum(dim=-1).T, "loss_change_at": (effect * hits).sum(dim=-1).T}
            for name, values in sums.items():
                found[name][rows, index] = values.cpu().numpy()
            advance(len(rows) * experts)
    dims = ("document", "layer", "expert")
    made = xr.Dataset({name: (dims, values) for name, values in found.items()}, coords={"layer": list(layers)})
    made["predicted_tokens"] = "document", np.array([len(window) - 1 for window in given], np.int64)
    return made


def nothing(layers: Sequence[int], experts: int, names: Sequence[str]) -> tuple[xr.Dataset, xr.Dataset]:
    """The scan and the test of a model whose experts cannot be removed: of no document."""
    per_expert = np.zeros((0, len(layers), experts))
    scanned = xr.Dataset(dict.fromkeys(SUMS, (("document", "layer", "expert"), per_expert)))
    tested = xr.Dataset({name: (("document", "of"), np.zeros((0, 2))) for name in TESTED})
    missing = {name: ("cell", np.full(len(names) + 1, -1)) for name in ("cell_layer", "cell_expert")}
    whole = scanned.assign(missing).assign_coords(layer=list(layers), cell=[*names, POOLED])
    of_documents = {"predicted_tokens": np.int64, "group": np.int8} | dict.fromkeys(ABOUT, object)
    empty = {name: ("document", np.zeros(0, dtype)) for name, dtype in of_documents.items()}
    return whole.assign(empty), tested.assign(empty)


def _clean_runs(
    model: transformers.PreTrainedModel, given: Sequence[np.ndarray], tokens_per_batch: int
) -> Iterator[tuple[np.ndarray, CleanRun]]:
    """The model's runs on batches of windows, padded to their longest: which windows (row,), and the run."""
    for rows in extraction.batches(np.array([len(window) for window in given]), tokens_per_batch):
        lengths = [len(given[row]) for row in rows]
        ids = np.zeros((len(rows), max(lengths)), np.int64)
        for place, row in enumerate(rows):
            ids[place, : lengths[place]] = given[row]
        yield rows, CleanRun(model, *(torch.tensor(each, device=model.device) for each in (ids, lengths)))


def _by_expert(values: torch.Tensor, selected: torch.Tensor, known: torch.Tensor, experts: int) -> torch.Tensor:
    """Sums (window, expert) float64 of values of slots (window, position, rank) over `known` tokens."""
    kept = (values.double() * known[..., None]).flatten(1)
    return kept.new_zeros(len(values), experts).scatter_add_(1, selected.flatten(1), kept)


def picked(scanned: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """The expert of which the change of loss per token is the largest, of each dataset and of their mean.

    `cell_layer`, `cell_expert` (cell) int64; cell: the names of the datasets, and "pooled".
    """
    of = scanned[["loss_change", "predicted_tokens"]].assign_coords(dataset=scanned["dataset"]).groupby("dataset").sum()
    change = (of["loss_change"] / of["predicted_tokens"]).sel(dataset=list(names))
    whole = xr.concat([change, change.mean("dataset").expand_dims(dataset=[POOLED])], "dataset")
    layer, expert = np.divmod(whole.values.reshape(len(names) + 1, -1).argmax(axis=1), whole.sizes["expert"])
    return xr.Dataset(
        {"cell_layer": ("cell", scanned["layer"].values[layer]), "cell_expert": ("cell", expert)},
        coords={"cell": [*names, POOLED]},
    )


def cells_of(found: xr.Dataset, name: str) -> list[tuple[int, int]]:
    """Layer and expert of what is `picked` in a dataset, and in all of them."""
    return [tuple(int(found[part].sel(cell=cell)) for part in ("cell_layer", "cell_expert")) for cell in (name, POOLED)]


def tested(
    model: transformers.PreTrainedModel,
    given: Sequence[np.ndarray],
    *,
    cells: Sequence[tuple[int, int]],
    caliper: float,
    tokens_per_batch: int,
) -> xr.Dataset:
    """The sums of documents without slots of experts, and without as many matched slots of others.

    Parameters
    ----------
    model, given, tokens_per_batch
        As those of `scan`.
    cells
        Layer and expert of each picked expert.
    caliper
        See `match`; slots are matched with those of the same window.

    Returns
    -------
    xarray.Dataset
        (document, of) float64: `picked_change`, `matched_change`, `control_change` in nats; `picked_slots`,
        `matched_slots`; sums of the weights of the matched ones and of their partners `matched_weight`,
        `control_weight`. `predicted_tokens` (document) int64.
    """
    found = {name: np.zeros((len(given), len(cells))) for name in TESTED}
    for rows, clean in _clean_runs(model, given, tokens_per_batch):
        every = torch.arange(len(rows), device=model.device)
        for index, (layer, expert) in enumerate(cells):
            removed = _slots(clean, layer, expert, caliper)
            weights = clean.weights[layer].double()
            for part, mask in zip(PARTS, removed, strict=True):
                after = clean.loss_within(layer, every, weighted(model, layer, 1 - mask.float()))
                found[f"{part}_change"][rows, index] = (after - clean.loss).double().sum(dim=-1).cpu().numpy()
            sums = [removed[0], removed[1], weights * removed[1], weights * removed[2]]
            for name, values in zip(TESTED[len(PARTS) :], sums, strict=True):
                found[name][rows, index] = values.flatten(1).sum(dim=-1).cpu().numpy()
    made = xr.Dataset({name: (("document", "of"), values) for name, values in found.items()})
    made["predicted_tokens"] = "document", np.array([len(window) - 1 for window in given], np.int64)
    return made


def _slots(clean: CleanRun, layer: int, expert: int, caliper: float) -> list[torch.Tensor]:
    """Which slots of a layer are removed in turn, see `PARTS`: (window, position, rank) bool each."""
    weight = clean.weights[layer].float().cpu().numpy()
    usable = np.zeros(weight.shape, bool)
    usable[:, :-1] = (clean.known.cpu().numpy()[..., None]) & (weight[:, :-1] > 0)
    own = (clean.selected[layer] == expert).cpu().numpy() & usable
    matched, control = np.zeros_like(own), np.zeros_like(own)
    for row, values in enumerate(weight.reshape(len(weight), -1)):
        mine, others = (np.flatnonzero(each[row]) for each in (own, usable & ~own))
        first, second = match(values[mine], values[others], caliper)
        matched[row].flat[mine[first]] = True
        control[row].flat[others[second]] = True
    return [torch.tensor(mask, device=clean.known.device) for mask in (own, matched, control)]
