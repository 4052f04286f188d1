"""Counting: the tally of a layer's routing records.

Records are read in blocks and layers are tallied one at a time, so memory does not grow with the number of tokens or
layers, only with documents (about 5 kB each at 64 experts).
"""

import numpy as np
import torch
import xarray as xr

from gatebook.files.origin import identity
from gatebook.inputs.clusters import GROUPS
from gatebook.routing.bins import BINS, LOGIT_EDGES, PROBABILITY_EDGES, UNIT_EDGES
from gatebook.routing.records import TOKENS_PER_CHUNK, TOTALS
from gatebook.routing.rule import RoutingRule, complete, routing_rule_of
from gatebook.study.tallies import DIMENSIONS, PER_DOCUMENT, SCALARS, UNITS, scalar_edges

TOKENS_PER_BLOCK = TOKENS_PER_CHUNK
"""As records are chunked, so that a tally taken while they are written is the same to the last bit."""
LN_10 = float(np.log(10))
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


class Tally:
    """The tally of one layer, from its records one run of tokens after another, on whatever way they come.

    Tokens wait until their window is whole, so memory does not grow with their number.
    """

    def __init__(self, tokens: xr.Dataset, rule: RoutingRule, bias: np.ndarray | None = None):
        """Nothing is counted yet.

        `tokens` has `position` (token), `document_tokens`, `document_id`, `cluster`, `row`, `group` (document); `bias`
        (expert,) is the router's selection bias, if it has one.
        """
        self._rule, self._bias = rule, bias
        self._documents = tokens[["document_tokens", "document_id", "cluster", "row", "group"]].load()
        self._edges, document_tokens = scalar_edges(rule.experts, rule.top_k), self._documents["document_tokens"].values
        window_start = np.flatnonzero(tokens["position"].values == 0)
        self._window_tokens = np.diff(window_start, append=tokens.sizes["token"])
        self._window_ends = window_start + self._window_tokens
        self._window_document = np.searchsorted(np.cumsum(document_tokens), window_start, side="right")
        self._sums = _zeros(len(document_tokens), rule.experts, rule.top_k)
        self._waiting: list[dict[str, np.ndarray]] = []
        self._windows = self._tokens = 0

    def add(self, record: dict[str, np.ndarray]) -> None:
        """Add the records of the next tokens, full or compact, by name: (token, ...)."""
        self._waiting.append(record)
        self._tokens += len(record["selected_expert"])
        whole = int(np.searchsorted(self._window_ends, self._tokens, side="right"))
        if whole == self._windows:
            return
        lengths, document = (each[self._windows : whole] for each in (self._window_tokens, self._window_document))
        waiting = {name: np.concatenate([part[name] for part in self._waiting]) for name in record}
        count = int(lengths.sum())
        self._waiting = [{name: values[count:] for name, values in waiting.items()}]
        block = complete({name: values[:count] for name, values in waiting.items()}, self._rule, self._bias)
        _add(self._sums, block, lengths, document, self._documents["group"].values, self._edges.values)
        self._windows = whole

    def result(self, attrs: dict, totals: dict[str, np.ndarray] | None = None) -> xr.Dataset:
        """The tally, with the variables that `tallies` describes; the dimension `layer` has size 1.

        `attrs` are those of the records. `totals` are what compact records hold of the router logits
        (`routing.records.TOTALS`).
        """
        if self._windows < len(self._window_tokens):
            raise RuntimeError(f"{self._tokens} tokens were tallied instead of {self._window_ends[-1]}")
        out, document_tokens = dict(self._sums), self._documents["document_tokens"].values.astype(np.int64)
        if totals:
            np.add.at(out["probability_sum"], self._window_document, totals["probability_sum"].astype(np.float64))
            out |= {name: totals[name] for name in EXPERT_HISTOGRAMS}
        windows = np.bincount(self._window_document, minlength=len(document_tokens))
        data = {"tokens": ("document", document_tokens), "neighbours": ("document", document_tokens - windows)}
        data |= {name: (dims, np.expand_dims(out[name], dims.index("layer"))) for name, dims in DIMENSIONS.items()}
        tally = xr.Dataset(
            data,
            coords={
                **{name: ("document", self._documents[name].values) for name in ("document_id", "cluster", "row")},
                "document_group": ("document", self._documents["group"].values),
                "layer": [int(attrs["layer"])],
                "expert": np.arange(self._rule.experts),
                "other": np.arange(self._rule.experts),
                "rank": np.arange(self._rule.top_k),
                "scalar": list(SCALARS),
                "scalar_edge": self._edges.variable,
                "logit_edge": ("logit_bin_edge", LOGIT_EDGES),
                "log10_probability_edge": ("edge", PROBABILITY_EDGES),
                "unit_edge": ("edge", UNIT_EDGES),
            },
            attrs=identity(attrs),
        )
        for name in tally.data_vars:
            tally[name].attrs = {"long_name": name.replace("_", " "), "units": UNITS.get(name, "tokens")}
        return tally


def tally_layer(records: xr.Dataset, tokens: xr.Dataset, tokens_per_block: int = TOKENS_PER_BLOCK) -> xr.Dataset:
    """The tally of one layer's records, full or compact, of the tokens of a part (see `Tally`).

    Compact records hold no logits: the probability of a selected expert is then q times the mass of all selected ones,
    as exact as the routing weights are.
    """
    bias = records["selection_bias"].values if "selection_bias" in records else None
    tally = Tally(tokens, routing_rule_of(records.attrs), bias)
    per_token = {name: array.variable for name, array in records.items() if "token" in array.dims}
    for start in range(0, records.sizes["token"], tokens_per_block):
        tally.add({name: array[start : start + tokens_per_block].values for name, array in per_token.items()})
    return tally.result(records.attrs, {name: records[name].values for name in TOTALS if name in records})


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
    weight, selected = record["routing_weight"], record["selected_expert"].astype(np.int32)
    experts, top_k = out["rank_count"].shape
    share = weight / weight.sum(axis=-1, keepdims=True)

    def add(name, values):
        np.add.at(out[name], document, values.astype(out[name].dtype))

    def histogram(name, bins):
        count = out[name].shape[-1]
        out[name] += _count(np.arange(bins.shape[-1]), bins, (bins.shape[-1], count))

    if "router_logits" in record:
        probability = record["probability"]
        add("probability_sum", np.add.reduceat(probability, starts, axis=0, dtype=np.float64))
        chosen = torch.from_numpy(probability).gather(-1, torch.from_numpy(record["selected_expert"].astype(np.int64)))
        chosen = chosen.numpy()
        histogram("expert_logit_histogram", _bins(record["router_logits"], LOGIT_EDGES))
        histogram("expert_probability_histogram", _log10_bins(record["log_probability"], probability))
    else:
        chosen = share * record["top_k_mass"][:, None]
    histogram("rank_probability_histogram", _bins(chosen, UNIT_EDGES))
    histogram("rank_share_histogram", _bins(share, UNIT_EDGES))
    out["rank_count"] += _count(selected, np.arange(top_k), (experts, top_k))
    per_window = (len(lengths), experts)
    add("selected_count", _count(owner[:, None], selected, per_window))
    add("first_count", _count(owner, selected[:, 0], per_window))
    _add_pairs(out, selected, group[document[owner]])
    _add_repetitions(out, selected, starts, owner, document)
    add("weight_sum", _count(owner[:, None], selected, per_window, weight))
    add("rank_weight_sum", np.add.reduceat(weight, starts, axis=0, dtype=np.float64))
    add("tied_tokens", np.bincount(owner, record["boundary_margin"] == 0, len(lengths)))
    add("z_loss_sum", np.add.reduceat(record["log_sum_exp"].astype(np.float64) ** 2, starts))
    scalars = np.stack(list(token_scalars(record, share).values()))
    known = np.isfinite(scalars)
    sums = [np.add.reduceat(values, starts, dtype=np.float64) for values in np.where(known, scalars, 0)]
    add("scalar_sum", np.stack(sums, axis=1))
    add("scalar_count", np.add.reduceat(known, starts, axis=1, dtype=np.int64).T)
    row, bins = owner * len(scalars) + np.arange(len(scalars))[:, None], _bins(np.where(known, scalars, 0), edges)
    if not known.all():
        row, bins = row[known], bins[known]
    histograms = _count(row, bins, (len(lengths) * len(scalars), BINS))
    add("scalar_histogram", histograms.reshape(len(lengths), len(scalars), BINS))


def _add_pairs(out: dict[str, np.ndarray], selected: np.ndarray, group: np.ndarray) -> None:
    """Add to `out` which experts are selected (token, rank) together; `group` (token,) is that of each token."""
    groups, experts, _ = out["pair_count"].shape
    by_rank = np.ascontiguousarray(selected.T)
    low, high = np.triu_indices(len(by_rank), 1)
    row = group.astype(np.int32) * experts
    pairs = _count(row + by_rank[low], by_rank[high], (groups * experts, experts)).reshape(groups, experts, experts)
    out["pair_count"] += pairs + pairs.transpose(0, 2, 1)
    every = np.arange(experts)
    out["pair_count"][:, every, every] += _count(group, by_rank, (groups, experts))
    adjacent = _count(by_rank[:-1], by_rank[1:], (experts, experts))
    out["adjacent_count"] += adjacent + adjacent.T


def _add_repetitions(
    out: dict[str, np.ndarray], selected: np.ndarray, starts: np.ndarray, owner: np.ndarray, document: np.ndarray
) -> None:
    """Add to `out` which tokens share an expert with the one before in their window.

    Parameters
    ----------
    out
        A layer's tally.
    selected
        Experts (token, rank).
    starts, document
        The first token and the document of each window: (window,).
    owner
        The window of each token: (token,).
    """
    index = torch.from_numpy(selected.astype(np.int64))
    chosen = torch.zeros(len(selected), out["rank_count"].shape[0], dtype=torch.uint8).scatter_(-1, index, 1)
    follows = np.delete(np.arange(1, len(owner)), starts[1:] - 1)
    same = selected[1:, 0] == selected[:-1, 0]
    shared = chosen[:-1].gather(-1, index[1:]).amax(dim=-1).numpy()
    for name, values in {"repeated_first": same, "repeated_any": shared}.items():
        count = np.bincount(owner[follows], values[follows - 1], len(starts))
        np.add.at(out[name], document, count.astype(out[name].dtype))


def _bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Index (int32) of the equal-width bin that holds each float32 value; the outer bins also hold what lies beyond.

    `edges` (edge,) are those of all values; or (row, edge) those of each row of values (row, token).

    No rounding moves a value to another bin if the width is a power of two and divides the first edge, as it does for
    logits, probabilities and their logarithms.
    """
    count = edges.shape[-1] - 1
    per_unit = count / (edges[..., -1:] - edges[..., :1])
    first = edges[..., :1] * per_unit
    position = torch.from_numpy(values) * torch.from_numpy(per_unit.astype(np.float32))
    position -= torch.from_numpy((first % 1).astype(np.float32))
    position = position.floor_().sub_(torch.from_numpy((first // 1).astype(np.float32)))
    return position.clamp_(0, count - 1).int().numpy()


def _log10_bins(log_probability: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The bin of log10 p, (token, expert) int32, from ln p and p (token, expert).

    Where rounding could move ln p over an edge, and where p is 0, log10 p itself decides.
    """
    count = len(PROBABILITY_EDGES) - 1
    position = torch.from_numpy(log_probability) * (count / float(PROBABILITY_EDGES[-1] - PROBABILITY_EDGES[0]) / LN_10)
    below = position.floor()
    unsure = np.flatnonzero(position.sub_(below).sub_(0.5).abs_().numpy() > 0.499)
    bins = below.add_(count).clamp_(0, count - 1).int().numpy()
    bins.ravel()[unsure] = _bins(np.log10(np.maximum(probability.ravel()[unsure], 1e-30)), PROBABILITY_EDGES)
    return bins


def _count(
    row: np.ndarray, column: np.ndarray, shape: tuple[int, int], weights: np.ndarray | None = None
) -> np.ndarray:
    """How often each (row, column) occurs, or the sum of `weights` there: an array of `shape`; both are broadcast."""
    key = np.asarray(row, dtype=np.int32) * np.int32(shape[1]) + np.asarray(column, dtype=np.int32)
    weights = None if weights is None else torch.from_numpy(weights.ravel().astype(np.float64))
    return torch.bincount(torch.from_numpy(key.ravel()), weights, minlength=shape[0] * shape[1]).numpy().reshape(shape)
