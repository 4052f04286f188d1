"""Tallies: the small, additive statistics of a dataset's routing records from which the chapters are computed.

Per document: `tokens`, `neighbours` (document): tokens, and those that follow another one in the same window; `group`
(document): which group of clusters it is in (see `inputs.clusters`); `selected_count`, `first_count` (document, layer,
expert): tokens that select the expert among the top k, and first; `repeated_first`, `repeated_any` (document, layer):
neighbours whose first expert is the one before's, and that share any selected expert with it; `probability_sum`,
`weight_sum` (document, layer, expert): sums of p and of the routing weight; `rank_weight_sum(document, layer, rank)`;
`scalar_sum`, `scalar_count` (document, layer, scalar) and `scalar_histogram(document, layer, scalar, bin)` of the
decisiveness scalars; `z_loss_sum(document, layer)`: sum of the squared log-sum-exp; `tied_tokens(document, layer)`:
tokens whose last selected expert and the best one that is left out are equal, so that the router does not choose.

Per group of documents: `pair_count(group, layer, expert, other)`: tokens that select both experts, on the diagonal
those that select one. Per dataset: `adjacent_count(layer, expert, other)`: tokens that select both at neighbouring
ranks; `rank_count(layer, expert, rank)`; histograms of logits and of log10 probability per expert, of probability and
of share q per rank (layer, expert or rank, bin). Counts are integers, sums float64.

Every sum is taken document by document and histograms have fixed bins, so tallies of two parts of a dataset combine
exactly into the tally of the whole (`combine`). `counting` makes them.

Traces may hold no logits: their tallies have what `KNOWN` names for the contents of their records, and no `scalar`.

Published counts have a tally too, made by `published_counts`, that holds only `tokens`, `selected_count` and, if it is
known, `first_count`. All documents of a dataset are one entry along `document`, without `document_id`.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import xarray as xr

from gatebook.files.netcdf import open_lazily
from gatebook.files.origin import identity
from gatebook.routing.bins import BINS

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
    "tokens", "neighbours", "selected_count", "first_count", "repeated_first", "repeated_any", "probability_sum",
    "weight_sum", "rank_weight_sum", "scalar_sum", "scalar_count", "scalar_histogram", "z_loss_sum",
    "tied_tokens",
)  # fmt: skip
PER_DATASET = (
    "pair_count", "adjacent_count", "rank_count", "expert_logit_histogram", "expert_probability_histogram",
    "rank_probability_histogram", "rank_share_histogram",
)  # fmt: skip

OF_IDS = ("tokens", "neighbours", "selected_count", "repeated_any", "pair_count")
OF_ORDER = (*OF_IDS, "first_count", "repeated_first", "adjacent_count", "rank_count")
OF_WEIGHTS = (*OF_ORDER, "weight_sum", "rank_weight_sum", "rank_share_histogram")
KNOWN = {"ids": OF_IDS, "order": OF_ORDER, "weights": OF_WEIGHTS}
"""The variables of the tallies of records without logits, by the contents of these."""


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


def combine(tallies: list[xr.Dataset]) -> xr.Dataset:
    """The tally of a dataset from the tallies of its parts: documents one after another, everything else added."""
    first = tallies[0]
    whole = xr.concat(
        [part.drop_vars(PER_DATASET, errors="ignore") for part in tallies],
        dim="document",
        join="exact",
        combine_attrs="override",
    )
    for name in (name for name in PER_DATASET if name in first):
        whole[name] = sum(part[name] for part in tallies).assign_attrs(first[name].attrs)
    return whole


def by_layer(tallies: dict[str, xr.Dataset], names: list[str]) -> Iterator[dict[str, xr.Dataset]]:
    """The variables `names` of all datasets, read one layer after another; the dimension `layer` then has size 1.

    Raises ValueError if the tallies have different layers.
    """
    layers = next(iter(tallies.values()))["layer"]
    if not all(tally["layer"].equals(layers) for tally in tallies.values()):
        raise ValueError("the tallies have different layers")
    for index in range(layers.size):
        yield {name: tally[names].isel(layer=slice(index, index + 1)).load() for name, tally in tallies.items()}


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
    "tied_tokens": ("document", "layer"),
    "repeated_first": ("document", "layer"),
    "repeated_any": ("document", "layer"),
    "pair_count": ("group", "layer", "expert", "other"),
    "adjacent_count": ("layer", "expert", "other"),
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
}
PROBABILITY = {"softmax": "softmax", "sigmoid": "normalised sigmoid scores"}


def routing_rule(attributes: dict) -> dict:
    """The routing rule that records, tallies and metrics carry in their attributes."""
    return json.loads(attributes["routing_rule"])


def probability_name(attributes: dict) -> str:
    """What p is, in words, for a router with the attributes of its records or tally."""
    return PROBABILITY[routing_rule(attributes)["scores"]]


@contextmanager
def open_tallies(paths: list[str]) -> Iterator[dict[str, xr.Dataset]]:
    """Tallies by the name of their dataset, in the given order, opened without reading their arrays."""
    with ExitStack() as files:
        tallies = [files.enter_context(open_lazily(path, cached_bytes=1 << 16)) for path in paths]
        yield {tally.attrs["dataset"]: tally for tally in tallies}


def study_identity(tallies: dict[str, xr.Dataset]) -> dict:
    """Attributes of what is computed from several tallies: the model's identity, and every dataset's checksum."""
    first = next(iter(tallies.values())).attrs
    read = {name: tally.attrs.get("tokens_sha256") or tally.attrs["dataset_sha256"] for name, tally in tallies.items()}
    shared = {name: value for name, value in identity(first).items() if not name.startswith(("dataset", "tokens"))}
    return shared | {"datasets": json.dumps(read)}
