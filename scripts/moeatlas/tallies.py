"""Tallies: the small, additive statistics of a dataset's routing records from which the chapters are computed.

Every sum is taken document by document and histograms have fixed bins, so tallies of two parts of a dataset combine
exactly into the tally of the whole (`combine`), and memory does not grow with the number of tokens.
"""

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr

BINS = 64
TOKENS_PER_BLOCK = 16_384
SCALARS = {
    "entropy": ("router entropy", "nats"),
    "effective_experts": ("effective number of experts, exp(entropy)", "experts"),
    "top_k_entropy": ("entropy of the renormalised weights of the selected experts", "nats"),
    "top_1_probability": ("largest probability", "1"),
    "top_k_mass": ("probability mass of the selected experts", "1"),
    "top_1_share": ("share of the first expert in the mass of the selected ones", "1"),
    "logit_margin": ("largest minus second largest router logit", "1"),
    "boundary_margin": ("k-th minus (k+1)-th largest router logit", "1"),
    "log_sum_exp": ("log-sum-exp of the router logits", "1"),
}
PER_DOCUMENT = (
    "tokens", "selected_count", "first_count", "probability_sum", "weight_sum", "rank_weight_sum", "scalar_sum",
    "scalar_count", "scalar_histogram", "z_loss_sum",
)  # fmt: skip
PER_DATASET = ("rank_count", "expert_logit_histogram", "expert_probability_histogram", "rank_probability_histogram",
               "rank_share_histogram")  # fmt: skip
LOGIT_EDGES = np.linspace(-32, 32, 8 * BINS + 1)
PROBABILITY_EDGES = np.linspace(-8, 0, BINS + 1)
UNIT_EDGES = np.linspace(0, 1, BINS + 1)


def scalar_edges(experts: int, top_k: int) -> xr.DataArray:
    """Edges of the fixed histogram bins of each scalar: (scalar, edge); the outer bins also hold what lies beyond."""
    limits = {
        "entropy": (0, np.log(experts)),
        "effective_experts": (1, max(experts, 2)),
        "top_k_entropy": (0, np.log(max(top_k, 2))),
        "top_1_probability": (0, 1),
        "top_k_mass": (0, 1),
        "top_1_share": (0, 1),
        "logit_margin": (0, 16),
        "boundary_margin": (0, 4),
        "log_sum_exp": (-16, 48),
    }
    edges = np.stack([np.linspace(*limits[name], BINS + 1) for name in SCALARS])
    return xr.DataArray(edges, dims=("scalar", "edge"), coords={"scalar": list(SCALARS)})


def probabilities(logits: np.ndarray) -> np.ndarray:
    """softmax over the last axis, float32."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def token_scalars(record: dict[str, np.ndarray], probability: np.ndarray, q: np.ndarray) -> dict[str, np.ndarray]:
    """The scalars of `SCALARS` for every token, float32 (token,), of a block of records.

    q = w / sum(w) are the weights of the selected experts renormalised to sum 1.
    """
    return {
        "entropy": record["entropy"],
        "effective_experts": np.exp(record["entropy"]),
        "top_k_entropy": -np.sum(q * np.log(np.where(q > 0, q, 1)), axis=-1),
        "top_1_probability": probability.max(axis=-1),
        "top_k_mass": record["top_k_mass"],
        "top_1_share": q[:, 0],
        "logit_margin": record["logit_margin"],
        "boundary_margin": record["boundary_margin"],
        "log_sum_exp": record["log_sum_exp"],
    }


def blocks(document_tokens: np.ndarray, tokens_per_block: int = TOKENS_PER_BLOCK) -> Iterator[tuple[slice, slice]]:
    """(documents, tokens) of consecutive blocks of whole documents with about `tokens_per_block` tokens."""
    ends = np.cumsum(document_tokens)
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + tokens_per_block, side="right")))
        yield slice(start, stop), slice(before, int(ends[stop - 1]))
        start = stop


def tally_layer(
    records: xr.Dataset,
    document_tokens: np.ndarray,
    token_id: np.ndarray,
    tokens_per_block: int = TOKENS_PER_BLOCK,
) -> dict[str, np.ndarray]:
    """The tally of one layer's records, read in blocks of whole documents; see `tally` for the variables."""
    experts, top_k = records.sizes["expert"], records.sizes["rank"]
    documents, edges = len(document_tokens), scalar_edges(experts, top_k).values
    vocabulary, compact_id = np.unique(token_id, return_inverse=True)
    out = _zeros(documents, experts, top_k)
    token_count = np.zeros((2, len(vocabulary) * experts), dtype=np.int64)
    for document_span, token_span in blocks(document_tokens, tokens_per_block):
        record = {name: records[name][token_span].values for name in records.data_vars}
        lengths = document_tokens[document_span]
        starts = np.append(0, np.cumsum(lengths)[:-1])
        owner = np.repeat(np.arange(len(lengths)), lengths)
        logits, selected = record["router_logits"], record["selected_expert"].astype(np.int64)
        probability = probabilities(logits)
        share = record["routing_weight"] / record["routing_weight"].sum(axis=-1, keepdims=True)

        def per_document(values, starts=starts):
            return np.add.reduceat(values, starts, axis=0, dtype=np.float64)

        span_shape = (len(lengths), experts)
        out["selected_count"][document_span] = _count(owner[:, None], selected, span_shape)
        out["first_count"][document_span] = _count(owner, selected[:, 0], span_shape)
        out["probability_sum"][document_span] = per_document(probability)
        out["weight_sum"][document_span] = _count(owner[:, None], selected, span_shape, record["routing_weight"])
        out["rank_weight_sum"][document_span] = per_document(record["routing_weight"])
        out["z_loss_sum"][document_span] = per_document(record["log_sum_exp"].astype(np.float64) ** 2)
        for index, values in enumerate(token_scalars(record, probability, share).values()):
            known = np.isfinite(values)
            out["scalar_sum"][document_span, index] = per_document(np.where(known, values, 0))
            out["scalar_count"][document_span, index] = per_document(known)
            bins = _bins(values[known], edges[index])
            out["scalar_histogram"][document_span, index] = _count(owner[known], bins, (len(lengths), BINS))

        ranks = np.arange(top_k)
        chosen_probability = np.take_along_axis(probability, selected, axis=-1)
        out["rank_count"] += _count(selected, ranks, (experts, top_k))
        log_probability = np.log10(np.maximum(probability, 1e-30))
        expert, per_expert, per_rank = np.arange(experts), (experts, BINS), (top_k, BINS)
        out["expert_logit_histogram"] += _count(expert, _bins(logits, LOGIT_EDGES), (experts, 8 * BINS))
        out["expert_probability_histogram"] += _count(expert, _bins(log_probability, PROBABILITY_EDGES), per_expert)
        out["rank_probability_histogram"] += _count(ranks, _bins(chosen_probability, UNIT_EDGES), per_rank)
        out["rank_share_histogram"] += _count(ranks, _bins(share, UNIT_EDGES), per_rank)
        key = compact_id[token_span][:, None] * experts + selected
        token_count[0] += np.bincount(key.ravel(), minlength=token_count.shape[1])
        token_count[1] += np.bincount(key[:, 0], minlength=token_count.shape[1])

    present = np.flatnonzero(token_count[0])
    out["entry_token_id"] = vocabulary[present // experts].astype(np.int32)
    out["entry_expert"] = (present % experts).astype(np.int32)
    out["entry_count"], out["entry_first_count"] = token_count[:, present]
    return out


def tally(layers: dict[int, dict[str, np.ndarray]], document_tokens: np.ndarray, document_id: np.ndarray) -> xr.Dataset:
    """The tally of a dataset from the tallies of its layers.

    Per document: `tokens(document)`; `selected_count`, `first_count` (document, layer, expert): tokens that select the
    expert among the top k, and first; `probability_sum`, `weight_sum` (document, layer, expert): sums of p and of the
    routing weight; `rank_weight_sum(document, layer, rank)`; `scalar_sum`, `scalar_count` (document, layer, scalar) and
    `scalar_histogram(document, layer, scalar, bin)` of the decisiveness scalars; `z_loss_sum(document, layer)`: sum of
    the squared log-sum-exp. Per dataset: `rank_count(layer, expert, rank)`; histograms of logits and of log10
    probability per expert, of probability and of share q per rank (layer, expert or rank, bin); and token id x
    expert counts as sparse entries: `entry_layer`, `entry_token_id`, `entry_expert`, `entry_count` (top k) and
    `entry_first_count`. Counts are integers, sums float64.
    """
    first = next(iter(layers.values()))
    experts, top_k = first["rank_count"].shape
    data = {"tokens": ("document", document_tokens.astype(np.int64))}
    for name in (*PER_DOCUMENT[1:], *PER_DATASET):
        stacked = np.stack([layer[name] for layer in layers.values()], axis=1 if name in PER_DOCUMENT else 0)
        data[name] = (DIMENSIONS[name], stacked)
    entries = {name: np.concatenate([layer[name] for layer in layers.values()]) for name in ENTRIES}
    lengths = [len(layer["entry_count"]) for layer in layers.values()]
    data["entry_layer"] = ("entry", np.repeat(np.array(list(layers), dtype=np.int32), lengths))
    data |= {name: ("entry", values) for name, values in entries.items()}
    dataset = xr.Dataset(
        data,
        coords={
            "document_id": ("document", document_id),
            "layer": list(layers),
            "expert": np.arange(experts),
            "rank": np.arange(top_k),
            "scalar": list(SCALARS),
            "scalar_edge": scalar_edges(experts, top_k).variable,
            "logit_edge": ("logit_bin_edge", LOGIT_EDGES),
            "log10_probability_edge": ("edge", PROBABILITY_EDGES),
            "unit_edge": ("edge", UNIT_EDGES),
        },
    )
    for name in dataset.data_vars:
        dataset[name].attrs = {"long_name": name.replace("_", " "), "units": UNITS.get(name, "tokens")}
    return dataset


def combine(tallies: list[xr.Dataset]) -> xr.Dataset:
    """The tally of a dataset from the tallies of its parts: documents one after another, everything else added."""
    first, keys = tallies[0], ["entry_layer", "entry_token_id", "entry_expert"]
    added = [*PER_DATASET, "entry_layer", *ENTRIES]
    whole = xr.concat(
        [part.drop_vars(added) for part in tallies], dim="document", join="exact", combine_attrs="override"
    )
    for name in PER_DATASET:
        whole[name] = sum(part[name] for part in tallies).assign_attrs(first[name].attrs)
    entries = pd.concat([part[["entry_layer", *ENTRIES]].to_dataframe() for part in tallies])
    for name, column in entries.groupby(keys, as_index=False).sum().items():
        whole[name] = ("entry", column.to_numpy(first[name].dtype), first[name].attrs)
    return whole


ENTRIES = ("entry_token_id", "entry_expert", "entry_count", "entry_first_count")
DIMENSIONS = {
    "selected_count": ("document", "layer", "expert"),
    "first_count": ("document", "layer", "expert"),
    "probability_sum": ("document", "layer", "expert"),
    "weight_sum": ("document", "layer", "expert"),
    "rank_weight_sum": ("document", "layer", "rank"),
    "scalar_sum": ("document", "layer", "scalar"),
    "scalar_count": ("document", "layer", "scalar"),
    "scalar_histogram": ("document", "layer", "scalar", "bin"),
    "z_loss_sum": ("document", "layer"),
    "rank_count": ("layer", "expert", "rank"),
    "expert_logit_histogram": ("layer", "expert", "logit_bin"),
    "expert_probability_histogram": ("layer", "expert", "bin"),
    "rank_probability_histogram": ("layer", "rank", "bin"),
    "rank_share_histogram": ("layer", "rank", "bin"),
}
UNITS = {
    "probability_sum": "1",
    "weight_sum": "1",
    "rank_weight_sum": "1",
    "z_loss_sum": "1",
    "scalar_sum": "that of the scalar",
    "entry_layer": "1",
    "entry_token_id": "1",
    "entry_expert": "1",
}


def routing_rule(attributes: dict) -> dict:
    """The routing rule that records, tallies and metrics carry in their attributes."""
    return json.loads(attributes["routing_rule"])


def _zeros(documents: int, experts: int, top_k: int) -> dict[str, np.ndarray]:
    sizes = {"document": documents, "expert": experts, "rank": top_k, "scalar": len(SCALARS), "bin": BINS}
    sizes["logit_bin"] = 8 * BINS
    shapes = {name: tuple(sizes[dim] for dim in dims if dim != "layer") for name, dims in DIMENSIONS.items()}
    return {
        name: np.zeros(
            shape, dtype=np.float64 if name.endswith("sum") else np.int32 if name in PER_DOCUMENT else np.int64
        )
        for name, shape in shapes.items()
    }


def _bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Index of the equal-width bin that holds each value; values beyond the edges fall in the outer bins."""
    count = len(edges) - 1
    position = (values - edges[0]) * (count / (edges[-1] - edges[0]))
    return np.clip(position, 0, count - 1).astype(np.int64)


def _count(
    row: np.ndarray, column: np.ndarray, shape: tuple[int, int], weights: np.ndarray | None = None
) -> np.ndarray:
    """How often each (row, column) occurs, or the sum of `weights` there: an array of `shape`; both are broadcast."""
    row, column = np.broadcast_arrays(row, column)
    flat = np.bincount(
        (row * shape[1] + column).ravel(),
        weights=None if weights is None else weights.ravel().astype(np.float64),
        minlength=shape[0] * shape[1],
    )
    return flat.reshape(shape)
