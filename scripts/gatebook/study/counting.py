"""Counting: the tally of a layer's routing records.

Records are read in blocks and layers are tallied one at a time, so memory does not grow with the number of tokens or
layers, only with documents (about 5 kB each at 64 experts).
"""

import numpy as np
import xarray as xr

from gatebook.files.origin import identity
from gatebook.inputs.clusters import GROUPS
from gatebook.inputs.windows import blocks
from gatebook.routing.bins import BINS, LOGIT_EDGES, PROBABILITY_EDGES, UNIT_EDGES
from gatebook.routing.rule import complete, routing_rule_of
from gatebook.study.tallies import DIMENSIONS, PER_DOCUMENT, SCALARS, UNITS, scalar_edges

TOKENS_PER_BLOCK = 4096
EXPERT_HISTOGRAMS = ("expert_logit_histogram", "expert_probability_histogram")


def token_scalars(record: dict[str, np.ndarray], q: np.ndarray) -> dict[str, np.ndarray]:
    """The scalars of `SCALARS` for every token, float32 (token,), of a block of records.

    q = w / sum(w) (token, rank) are the weights of the selected experts renormalised to sum 1.
    """
    return {
        "entropy": record["entropy"],
        "effective_experts": np.exp(record["entropy"]),
        "top_k_entropy": -np.sum(q * np.log(np.where(q > 0, q, 1)), axis=-1),
        "top_1_probability": record["top_1_probability"],
        "top_k_mass": record["top_k_mass"],
        "top_1_share": q[:, 0],
        "logit_margin": record["logit_margin"],
        "boundary_margin": record["boundary_margin"],
        "log_sum_exp": record["log_sum_exp"],
    }


def tally_layer(
    records: xr.Dataset,
    tokens: xr.Dataset,
    tokens_per_block: int = TOKENS_PER_BLOCK,
) -> xr.Dataset:
    """The tally of one layer's records, with the variables that `tallies` describes; the dimension `layer` has size 1.

    `tokens` has `token_id`, `position` (token), `document_tokens`, `document_id` (document). Records, full or compact,
    are read in blocks of whole windows. Compact records hold no logits: the probability of a selected expert is then q
    times the mass of all selected ones, as exact as the routing weights are.
    """
    experts, top_k = records.sizes["expert"], records.sizes["rank"]
    rule, edges = routing_rule_of(records.attrs), scalar_edges(experts, top_k)
    bias = records["selection_bias"].values if "selection_bias" in records else None
    document_tokens, total = tokens["document_tokens"].values, tokens.sizes["token"]
    window_start = np.flatnonzero(tokens["position"].values == 0)
    window_tokens = np.diff(window_start, append=total)
    window_document = np.searchsorted(np.cumsum(document_tokens), window_start, side="right")
    windows_of_document = np.bincount(window_document, minlength=len(document_tokens))
    group = tokens["group"].values
    out = _zeros(len(document_tokens), experts, top_k)
    whole = [name for name in EXPERT_HISTOGRAMS if name in records]
    out |= {name: records[name].values for name in whole}
    per_token = records[[name for name, array in records.items() if {"token", "window"} & set(array.dims)]]
    for windows, span in blocks(window_tokens, tokens_per_block):
        block = per_token.isel(token=span, window=windows, missing_dims="ignore")
        record = {name: array.values for name, array in block.variables.items()}
        _add(out, complete(record, rule, bias), window_tokens[windows], window_document[windows], group, edges.values)

    layer = int(records.attrs["layer"])
    data = {
        "tokens": ("document", document_tokens.astype(np.int64)),
        "neighbours": ("document", document_tokens.astype(np.int64) - windows_of_document),
    }
    data |= {name: (dims, np.expand_dims(out[name], dims.index("layer"))) for name, dims in DIMENSIONS.items()}
    tally = xr.Dataset(
        data,
        coords={
            **{name: ("document", tokens[name].values) for name in ("document_id", "cluster", "row")},
            "document_group": ("document", group),
            "layer": [layer],
            "expert": np.arange(experts),
            "other": np.arange(experts),
            "rank": np.arange(top_k),
            "scalar": list(SCALARS),
            "scalar_edge": edges.variable,
            "logit_edge": ("logit_bin_edge", LOGIT_EDGES),
            "log10_probability_edge": ("edge", PROBABILITY_EDGES),
            "unit_edge": ("edge", UNIT_EDGES),
        },
        attrs=identity(records.attrs),
    )
    for name in tally.data_vars:
        tally[name].attrs = {"long_name": name.replace("_", " "), "units": UNITS.get(name, "tokens")}
    return tally


def _zeros(documents: int, experts: int, top_k: int) -> dict[str, np.ndarray]:
    sizes = {"document": documents, "expert": experts, "rank": top_k, "scalar": len(SCALARS), "bin": BINS}
    sizes |= {"logit_bin": 8 * BINS, "group": GROUPS, "other": experts}
    shapes = {name: tuple(sizes[dim] for dim in dims if dim != "layer") for name, dims in DIMENSIONS.items()}
    return {
        name: np.zeros(
            shape, dtype=np.float64 if name.endswith("sum") else np.int32 if name in PER_DOCUMENT else np.int64
        )
        for name, shape in shapes.items()
    }


def _add(
    out: dict[str, np.ndarray],
    record: dict[str, np.ndarray],
    lengths: np.ndarray,
    document: np.ndarray,
    group: np.ndarray,
    edges: np.ndarray,
) -> None:
    """Add a block of records to a layer's tally `out`: windows of `lengths` tokens, each of one `document`.

    Sums are taken window by window, so that the size of blocks changes no bit. `group` is that of every document,
    `edges` are those of the scalars.
    """
    starts, owner = np.cumsum(lengths) - lengths, np.repeat(np.arange(len(lengths)), lengths)
    weight, selected = record["routing_weight"], record["selected_expert"].astype(np.int64)
    experts, top_k = out["rank_count"].shape
    share = weight / weight.sum(axis=-1, keepdims=True)

    def add(name, values, *index):
        np.add.at(out[name], (document, *index), values.astype(out[name].dtype))

    def sums(values):
        return np.add.reduceat(values, starts, axis=0, dtype=np.float64)

    def histogram(name, column, values, bin_edges):
        bins = len(bin_edges) - 1
        out[name] += _count(np.arange(column), _bins(values, bin_edges), (column, bins))

    if "router_logits" in record:
        probability = record["probability"]
        probability_sum, chosen = sums(probability), np.take_along_axis(probability, selected, axis=-1)
        log_probability = np.log10(np.maximum(probability, 1e-30))
        histogram("expert_logit_histogram", experts, record["router_logits"], LOGIT_EDGES)
        histogram("expert_probability_histogram", experts, log_probability, PROBABILITY_EDGES)
    else:
        chosen, probability_sum = share * record["top_k_mass"][:, None], record["probability_sum"]
    histogram("rank_probability_histogram", top_k, chosen, UNIT_EDGES)
    histogram("rank_share_histogram", top_k, share, UNIT_EDGES)
    out["rank_count"] += _count(selected, np.arange(top_k), (experts, top_k))
    per_window = (len(lengths), experts)
    add("selected_count", _count(owner[:, None], selected, per_window))
    add("first_count", _count(owner, selected[:, 0], per_window))
    follows = np.delete(np.arange(len(owner)), starts)
    same = selected[follows, 0] == selected[follows - 1, 0]
    add("repeated_first", np.bincount(owner[follows], same, len(lengths)))
    one_hot = np.zeros((len(owner), experts), dtype=np.float32)
    np.put_along_axis(one_hot, selected, 1, axis=1)
    shared = (one_hot[follows] * one_hot[follows - 1]).any(axis=1)
    add("repeated_any", np.bincount(owner[follows], shared, len(lengths)))
    token_group = group[document[owner]]
    for number in np.unique(token_group):
        members = one_hot[token_group == number]
        out["pair_count"][number] += (members.T @ members).astype(np.int64)
    for rank in range(top_k - 1):
        pairs = _count(selected[:, rank], selected[:, rank + 1], (experts, experts))
        out["adjacent_count"] += pairs + pairs.T
    add("weight_sum", _count(owner[:, None], selected, per_window, weight))
    add("probability_sum", probability_sum)
    add("rank_weight_sum", sums(weight))
    add("z_loss_sum", sums(record["log_sum_exp"].astype(np.float64) ** 2))
    add("tied_tokens", np.bincount(owner, record["boundary_margin"] == 0, len(lengths)))
    for index, values in enumerate(token_scalars(record, share).values()):
        known = np.isfinite(values)
        add("scalar_sum", sums(np.where(known, values, 0)), index)
        add("scalar_count", sums(known), index)
        bins = _bins(values[known], edges[index])
        add("scalar_histogram", _count(owner[known], bins, (len(lengths), BINS)), index)


def _bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Index (int32) of the equal-width bin that holds each float32 value; the outer bins also hold what lies beyond.

    No rounding moves a value to another bin if the width is a power of two and divides the first edge, as it does for
    logits, probabilities and their logarithms.
    """
    count = len(edges) - 1
    per_unit = count / (edges[-1] - edges[0])
    first = edges[0] * per_unit
    position = values * np.float32(per_unit)
    position -= np.float32(first % 1)
    np.floor(position, out=position)
    position -= np.float32(first // 1)
    np.clip(position, 0, count - 1, out=position)
    return position.astype(np.int32)


def _count(
    row: np.ndarray, column: np.ndarray, shape: tuple[int, int], weights: np.ndarray | None = None
) -> np.ndarray:
    """How often each (row, column) occurs, or the sum of `weights` there: an array of `shape`; both are broadcast."""
    key = np.asarray(row, dtype=np.int32) * np.int32(shape[1]) + np.asarray(column, dtype=np.int32)
    flat = np.bincount(
        key.ravel(),
        weights=None if weights is None else weights.ravel().astype(np.float64),
        minlength=shape[0] * shape[1],
    )
    return flat.reshape(shape)
