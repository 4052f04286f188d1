"""Counting: the tally of a layer's routing records.

Records are read in blocks and layers are tallied one at a time, so memory does not grow with the number of tokens or
layers, only with documents (about 5 kB each at 64 experts).
"""

import numba
import numpy as np
import xarray as xr

from gatebook.files.origin import identity
from gatebook.inputs.clusters import GROUPS
from gatebook.routing.bins import BINS, LOGIT_EDGES, PROBABILITY_EDGES, UNIT_EDGES
from gatebook.routing.following import complete
from gatebook.routing.records import TOKENS_PER_CHUNK, TOTALS
from gatebook.routing.rule import RoutingRule, routing_rule_of
from gatebook.study.tallies import DIMENSIONS, KNOWN, PER_DOCUMENT, SCALARS, UNITS, scalar_edges

TOKENS_PER_BLOCK = TOKENS_PER_CHUNK
"""As records are chunked, so that a tally taken while they are written is the same to the last bit."""
OF_SELECTED = ("selected_count", "first_count", "weight_sum", "rank_count", "pair_count", "adjacent_count")
CELL_BITS = 19
"""Of a float32 that do not tell its cell (see `_probability_bins`)."""
EXPERT_HISTOGRAMS = ("expert_logit_histogram", "expert_probability_histogram")


def token_scalars(record: dict[str, np.ndarray], q: np.ndarray) -> dict[str, np.ndarray]:
    """The scalars of `SCALARS` for every token, float32 (token,), of a block of records.

    q = w / sum(w) (token, rank) are the weights of the selected experts renormalised to sum 1.
    """
    return {
        "entropy": record["entropy"],
        "effective_experts": np.exp(record["entropy"]),
        "top_k_entropy": _entropies(q),
        "top_1_probability": record["top_1_probability"],
        "top_k_mass": record["top_k_mass"],
        "top_1_share": q[:, 0],
        "logit_margin": record["logit_margin"],
        "boundary_margin": record["boundary_margin"],
        "log_sum_exp": record["log_sum_exp"],
    }


class Tally:
    """The tally of one layer, from its records one run of tokens after another, on whatever way they come.

    Sums are taken token by token, so that the length of the runs changes no bit.
    """

    def __init__(
        self, tokens: xr.Dataset, rule: RoutingRule, bias: np.ndarray | None = None, contents: str | None = None
    ):
        """Nothing is counted yet.

        `tokens` has `position` (token), `document_tokens`, `document_id`, `cluster`, `row`, `group` (document); `bias`
        (expert,) is the router's selection bias, if it has one; `contents` are those of the records: of those of
        `tallies.KNOWN` only what it names is counted.
        """
        self._rule, self._bias, self._known = rule, bias, KNOWN.get(contents)
        self._documents = tokens[["document_tokens", "document_id", "cluster", "row", "group"]].load()
        self._edges, document_tokens = scalar_edges(rule.experts, rule.top_k), self._documents["document_tokens"].values
        self._follows = tokens["position"].values > 0
        self._document_ends = np.cumsum(document_tokens)
        self._sums = _zeros(len(document_tokens), rule.experts, rule.top_k)
        self._latest = np.full((2, rule.experts), -2)
        self._tokens = 0

    def add(self, record: dict[str, np.ndarray]) -> None:
        """Add the records of the next tokens, full or compact, by name: (token, ...)."""
        out = self._sums
        if self._known is None:
            record = complete(record, self._rule, self._bias)
        selected = record["selected_expert"]
        weight = record["routing_weight"] if "routing_weight" in record else np.zeros(selected.shape, np.float32)
        place = np.arange(self._tokens, self._tokens + len(selected))
        document = np.searchsorted(self._document_ends, place, side="right")
        self._add_choices(selected, weight, place, document)
        self._tokens += len(selected)
        if self._known is not None and "weight_sum" not in self._known:
            return
        share = _shares(weight)
        _add_histogram(out["rank_share_histogram"], share, *_scale(UNIT_EDGES))
        _add_sums(out["rank_weight_sum"], document, weight)
        if self._known is not None:
            return
        if "router_logits" in record:
            probability = record["probability"]
            chosen = _chosen(probability, selected)
            _add_sums(out["probability_sum"], document, probability)
            _add_histogram(out["expert_logit_histogram"], record["router_logits"], *_scale(LOGIT_EDGES))
            _add_probabilities(out["expert_probability_histogram"], probability.view(np.int32), BIN_OF_CELL, NEXT_BIN)
        else:
            chosen = share * record["top_k_mass"][:, None]
        _add_histogram(out["rank_probability_histogram"], chosen, *_scale(UNIT_EDGES))
        _add_margins(out["tied_tokens"], out["z_loss_sum"], document, record["boundary_margin"], record["log_sum_exp"])
        scalars = np.stack(list(token_scalars(record, share).values()))
        sums = (out[f"scalar_{name}"] for name in ("sum", "count", "histogram"))
        _add_scalars(*sums, document, scalars, *_scale(self._edges.values))

    def _add_choices(self, selected: np.ndarray, weight: np.ndarray, place: np.ndarray, document: np.ndarray) -> None:
        """Add what the next tokens select, (token, rank); `place`, `document` (token,) are theirs."""
        out, group = self._sums, self._documents["group"].values[document]
        _add_selected(*(out[name] for name in OF_SELECTED), selected, weight, document, group)
        follows, repeated = self._follows[place], (out["repeated_first"], out["repeated_any"])
        _add_repetitions(*repeated, selected, document, follows, self._tokens, self._latest)

    def result(self, attrs: dict, totals: dict[str, np.ndarray] | None = None) -> xr.Dataset:
        """The tally, with the variables that `tallies` describes; the dimension `layer` has size 1.

        `attrs` are those of the records. `totals` are what compact records hold of the router logits
        (`routing.records.TOTALS`).
        """
        if self._tokens < len(self._follows):
            raise RuntimeError(f"{self._tokens} tokens were tallied instead of {len(self._follows)}")
        out, document_tokens = dict(self._sums), self._documents["document_tokens"].values.astype(np.int64)
        for name in ("pair_count", "adjacent_count"):  # counted from the better rank to the worse one
            out[name] = out[name] + out[name].swapaxes(-2, -1)
        every = np.arange(self._rule.experts)
        np.add.at(out["pair_count"], (self._documents["group"].values[:, None], every, every), out["selected_count"])
        window_document = np.searchsorted(self._document_ends, np.flatnonzero(~self._follows), side="right")
        if totals:
            np.add.at(out["probability_sum"], window_document, totals["probability_sum"].astype(np.float64))
            out |= {name: totals[name] for name in EXPERT_HISTOGRAMS}
        windows = np.bincount(window_document, minlength=len(document_tokens))
        data = {"tokens": ("document", document_tokens), "neighbours": ("document", document_tokens - windows)}
        data |= {name: (dims, np.expand_dims(out[name], dims.index("layer"))) for name, dims in DIMENSIONS.items()}
        if self._known is not None:
            data = {name: data[name] for name in data if name in self._known}
        tally = xr.Dataset(
            data,
            coords={
                **{name: ("document", self._documents[name].values) for name in ("document_id", "cluster", "row")},
                "document_group": ("document", self._documents["group"].values),
                "layer": [int(attrs["layer"])],
                "expert": np.arange(self._rule.experts),
                "other": np.arange(self._rule.experts),
                "rank": np.arange(self._rule.top_k),
            },
            attrs=identity(attrs),
        )
        if self._known is None:
            tally = tally.assign_coords(
                {
                    "scalar": list(SCALARS),
                    "scalar_edge": self._edges.variable,
                    "logit_edge": ("logit_bin_edge", LOGIT_EDGES),
                    "log10_probability_edge": ("edge", PROBABILITY_EDGES),
                }
            )
        if "rank_share_histogram" in tally:
            tally = tally.assign_coords(unit_edge=("edge", UNIT_EDGES))
        for name in tally.data_vars:
            tally[name].attrs = {"long_name": name.replace("_", " "), "units": UNITS.get(name, "tokens")}
        return tally


def tally_layer(records: xr.Dataset, tokens: xr.Dataset, tokens_per_block: int = TOKENS_PER_BLOCK) -> xr.Dataset:
    """The tally of one layer's records, full or compact, of the tokens of a part (see `Tally`).

    Compact records hold no logits: the probability of a selected expert is then q times the mass of all selected ones,
    as exact as the routing weights are.
    """
    bias = records["selection_bias"].values if "selection_bias" in records else None
    tally = Tally(tokens, routing_rule_of(records.attrs), bias, records.attrs.get("contents"))
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


def _scale(edges: np.ndarray) -> tuple:
    """What `_bin` needs of equal-width bins with `edges` (edge,) or (row, edge): bins per unit, and the first edge in
    bins, as a fraction and a whole number, float32, one or (row,).

    No rounding moves a value to another bin if the width is a power of two and divides the first edge, as it does for
    logits and probabilities.
    """
    per_unit = (edges.shape[-1] - 1) / (edges[..., -1] - edges[..., 0])
    first = edges[..., 0] * per_unit
    return tuple(np.asarray(value, dtype=np.float32)[()] for value in (per_unit, first % 1, first // 1))


def _log10_bin(probability: np.ndarray) -> np.ndarray:
    """The bin (int32) of log10 p of each p (float32)."""
    per_unit, fraction, whole = _scale(PROBABILITY_EDGES)
    position = np.log10(np.fmax(probability, np.float32(1e-30))) * per_unit - fraction
    return np.clip(np.floor(position) - whole, 0, BINS - 1).astype(np.int32)


def _probability_bins() -> tuple[np.ndarray, np.ndarray]:
    """How the bin of log10 p is found without a logarithm: by cells of floats that begin with the same bits.

    The bin of the smallest float of each cell, (cell,) int32, and the bits of the smallest float32 p above each bin,
    (bin,) int32. A cell is 1/16 of an octave, so it has at most one edge inside.
    """
    cells = np.arange(1 << (31 - CELL_BITS), dtype=np.int32) << CELL_BITS
    near = (10 ** PROBABILITY_EDGES[1:-1]).astype(np.float32).view(np.int32)
    around = near[:, None] + np.arange(-8, 9, dtype=np.int32)
    inside = _log10_bin(around.view(np.float32)) >= np.arange(1, BINS)[:, None]
    smallest = around[np.arange(BINS - 1), inside.argmax(axis=1)]
    return _log10_bin(cells.view(np.float32)), np.append(smallest, np.iinfo(np.int32).max)


BIN_OF_CELL, NEXT_BIN = _probability_bins()


@numba.njit(nogil=True, cache=True)
def _bin(value, per_unit, fraction, whole, last):
    """The equal-width bin (see `_scale`) that holds a value; the first and the `last` also hold what lies beyond."""
    position = np.floor(value * per_unit - fraction) - whole
    position = position if position < last else last
    return np.int32(position if position > 0 else np.float32(0))


@numba.njit(nogil=True, cache=True)
def _add_histogram(out, values, per_unit, fraction, whole):
    """Add the bins of `values` (token, row) to `out` (row, bin)."""
    rows, count = out.shape
    bins, last = np.empty(rows, dtype=np.int32), np.float32(count - 1)
    found = np.zeros((rows, count + 16), dtype=np.int32)  # rows of 2^n bins would meet on the same lines of a cache
    for token in range(len(values)):
        for row in range(rows):
            bins[row] = _bin(values[token, row], per_unit, fraction, whole, last)
        for row in range(rows):
            found[row, np.uint32(bins[row])] += 1
    out += found[:, :count]


@numba.njit(nogil=True, cache=True)
def _add_probabilities(out, pattern, bin_of_cell, next_bin):
    """Add the bins of log10 p to `out` (expert, bin), from the bits of p as int32 (token, expert)."""
    for token in range(len(pattern)):
        for expert in range(len(out)):
            bits = pattern[token, expert]
            place = bin_of_cell[np.uint32((bits >> CELL_BITS) & (len(bin_of_cell) - 1))]
            out[expert, np.uint32(place + np.int32(bits >= next_bin[np.uint32(place)]))] += 1


@numba.njit(nogil=True, cache=True)
def _chosen(probability, selected):
    """p of the selected experts, (token, rank)."""
    out = np.empty(selected.shape, dtype=np.float32)
    for token in range(len(selected)):
        for rank in range(selected.shape[1]):
            out[token, rank] = probability[token, selected[token, rank]]
    return out


@numba.njit(nogil=True, cache=True)
def _shares(weight):
    """Weights (token, rank) divided by their sum, float32."""
    out = np.empty(weight.shape, dtype=np.float32)
    for token in range(len(weight)):
        total = np.float32(0)
        for rank in range(weight.shape[1]):
            total += weight[token, rank]
        for rank in range(weight.shape[1]):
            out[token, rank] = weight[token, rank] / total
    return out


@numba.njit(nogil=True, cache=True)
def _entropies(share):
    """The entropy in nats of each row of shares (token, rank): (token,) float32."""
    out = np.empty(len(share), dtype=np.float32)
    for token in range(len(share)):
        entropy = 0.0
        for q in share[token]:
            if q > 0:
                entropy -= q * np.log(q)
        out[token] = entropy
    return out


@numba.njit(nogil=True, cache=True)
def _add_margins(tied, z_loss, document, boundary_margin, log_sum_exp):
    """Add tokens whose margin is 0, and squares of log-sum-exp, to those of their documents."""
    for token in range(len(document)):
        tied[document[token]] += boundary_margin[token] == 0
        z_loss[document[token]] += np.float64(log_sum_exp[token]) ** 2


@numba.njit(nogil=True, cache=True)
def _add_sums(out, document, values):
    """Add `values` (token, column) to `out` (document, column)."""
    for token in range(len(values)):
        row = out[document[token]]
        for column in range(len(row)):
            row[column] += values[token, column]


@numba.njit(nogil=True, cache=True)
def _add_selected(
    selected_count, first_count, weight_sum, rank_count, pairs, adjacent, selected, weight, document, group
):
    """Add what tokens select, (token, rank), to the counts of `tallies`, of pairs only from the better rank on."""
    tokens, top_k = selected.shape
    for token in range(tokens):
        chosen, here, pair = selected[token], document[token], pairs[group[token]]
        first_count[here, chosen[0]] += 1
        for rank in range(top_k):
            expert = chosen[rank]
            selected_count[here, expert] += 1
            weight_sum[here, expert] += weight[token, rank]
            rank_count[expert, rank] += 1
            for other in range(rank + 1, top_k):
                pair[expert, chosen[other]] += 1
            if rank + 1 < top_k:
                adjacent[expert, chosen[rank + 1]] += 1


@numba.njit(nogil=True, cache=True)
def _add_repetitions(first, shared, selected, document, follows, start, latest):
    """Add which tokens share an expert with the one before in their window.

    `first`, `shared` (document,) int; `selected` (token, rank), `document` (token,); whether a token `follows` one in
    its window (token,) bool; the number of the first token; and that of the `latest` token that selected each expert
    first, and at all, (2, expert), which is kept up to date.
    """
    for token in range(len(selected)):
        number, any_again = start + token, False
        first_again = latest[0, selected[token, 0]] == number - 1
        for expert in selected[token]:
            any_again |= latest[1, expert] == number - 1
        if follows[token]:
            first[document[token]] += first_again
            shared[document[token]] += any_again
        latest[0, selected[token, 0]] = number
        for expert in selected[token]:
            latest[1, expert] = number


@numba.njit(nogil=True, cache=True)
def _add_scalars(total, known, histogram, document, values, per_unit, fraction, whole):
    """Add `values` (scalar, token) but those that are not finite to sums, numbers and histograms by document."""
    last = np.float32(histogram.shape[-1] - 1)
    for scalar in range(len(values)):
        for token in range(values.shape[1]):
            value, here = values[scalar, token], document[token]
            if np.isfinite(value):
                total[here, scalar] += value
                known[here, scalar] += 1
                place = _bin(value, per_unit[scalar], fraction[scalar], whole[scalar], last)
                histogram[here, scalar, place] += 1
