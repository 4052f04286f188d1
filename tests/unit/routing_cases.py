"""Synthetic routing records for tests: the weights of the k best experts are their probabilities (as in OLMoE)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from gatebook.files import netcdf
from gatebook.inputs.clusters import groups
from gatebook.routing import bins
from gatebook.routing.records import contents_of, expert_dtype
from gatebook.routing.rule import RoutingRule, routing_rule_of
from gatebook.study import counting


@dataclass(frozen=True)
class Case:
    """The records of one dataset by layer, its document lengths, and the token id of every token.

    documents: `document_id`, `cluster`, `row` and `group` (document,). Documents longer than `window` tokens are cut
    into windows.
    """

    layers: dict[int, xr.Dataset]
    lengths: np.ndarray
    token_id: np.ndarray
    documents: dict[str, np.ndarray]
    window: int = 10**9

    @property
    def document_id(self) -> np.ndarray:
        """The names of the documents."""
        return self.documents["document_id"]

    @property
    def group(self) -> np.ndarray:
        """The group of every token."""
        return self.documents["group"][self.owner]

    @property
    def owner(self) -> np.ndarray:
        """Index of the document of every token."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def tokens(self) -> xr.Dataset:
        """The token file of the dataset."""
        starts = np.cumsum(self.lengths) - self.lengths
        position = (np.arange(len(self.token_id)) - np.repeat(starts, self.lengths)) % self.window
        return xr.Dataset(
            {
                "token_id": ("token", self.token_id),
                "position": ("token", position.astype(np.int32)),
                "document_tokens": ("document", self.lengths),
            }
            | {name: ("document", values) for name, values in self.documents.items()}
        ).set_coords(["document_id", "cluster", "group"])

    def tally_layers(self, tokens_per_block: int = counting.TOKENS_PER_BLOCK) -> Iterator[xr.Dataset]:
        """The tally of one layer after another."""
        for layer, made in self.layers.items():
            yield counting.tally_layer(made.assign_attrs(layer=layer), self.tokens, tokens_per_block)

    def tally(self, tokens_per_block: int = counting.TOKENS_PER_BLOCK) -> xr.Dataset:
        """The tally of all layers."""
        return xr.concat(self.tally_layers(tokens_per_block), "layer", data_vars="minimal", join="exact")

    def compact(self) -> "Case":
        """The same routing, as compact records."""
        return replace(self, layers={layer: compact(made, self.tokens) for layer, made in self.layers.items()})

    def take(self, documents: np.ndarray) -> "Case":
        """The same dataset with the given documents only, in the given order; a document may occur more than once."""
        starts = np.cumsum(self.lengths) - self.lengths
        spans = [np.arange(starts[document], starts[document] + self.lengths[document]) for document in documents]
        tokens = np.concatenate(spans)
        return Case(
            {layer: records.isel(token=tokens) for layer, records in self.layers.items()},
            self.lengths[documents],
            self.token_id[tokens],
            {name: values[documents] for name, values in self.documents.items()},
            self.window,
        )

    def permute_experts(self, new_number: np.ndarray) -> "Case":
        """The same routing with expert e renamed `new_number[e]` in every layer."""

        def renamed(records):
            selected = records["selected_expert"]
            return records.assign(
                router_logits=records["router_logits"].isel(expert=np.argsort(new_number)),
                selected_expert=selected.copy(data=new_number[selected.values].astype(selected.dtype)),
            )

        return replace(self, layers={layer: renamed(records) for layer, records in self.layers.items()})


def records(
    logits: np.ndarray,
    top_k: int,
    selected: np.ndarray | None = None,
    scores: str = "softmax",
    bias: np.ndarray | None = None,
) -> xr.Dataset:
    """The records of one layer from its logits (token, expert).

    `selected` (token, rank) settles ties between them, or is what a router with a selection `bias` (expert) selects.
    """
    logits = np.asarray(logits, dtype=np.float32)
    experts = logits.shape[1]
    if selected is None:
        selected = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    rule = RoutingRule("made up", experts, top_k, normalised=False, scores=scores, bias=bias is not None)
    made = xr.Dataset(
        {
            "router_logits": (("token", "expert"), logits),
            "selected_expert": (("token", "rank"), selected.astype(expert_dtype(experts))),
        },
        attrs={"routing_rule": rule.as_json()},
    )
    return made if bias is None else made.assign(selection_bias=("expert", np.asarray(bias, dtype=np.float32)))


def probabilities(logits: np.ndarray, scores: str = "softmax") -> np.ndarray:
    """p (token, expert) float64: softmax(z), or sigmoid(z) divided by its sum."""
    logits = np.asarray(logits, dtype=np.float64)
    score = np.exp(logits) if scores == "softmax" else 1 / (1 + np.exp(-logits))
    return score / score.sum(axis=1, keepdims=True)


def completed(full: xr.Dataset) -> xr.Dataset:
    """Full records with the weights of a softmax router and the scalars, from their definitions in float64."""
    logits, top_k = full["router_logits"].values.astype(np.float64), full.sizes["rank"]
    rule, selected = json.loads(full.attrs["routing_rule"]), full["selected_expert"].values.astype(int)
    probability = probabilities(logits, rule["scores"])
    score = probability if rule["scores"] == "softmax" else 1 / (1 + np.exp(-logits))
    largest = -np.sort(-logits, axis=1)
    preference = score + full["selection_bias"].values if rule["bias"] else logits
    preferred = -np.sort(-preference, axis=1)
    missing = np.full(len(logits), np.nan)
    per_token = {
        "entropy": -(probability * np.log(probability)).sum(axis=1),
        "log_sum_exp": np.log(np.exp(logits).sum(axis=1)),
        "top_1_probability": probability.max(axis=1),
        "top_k_mass": np.take_along_axis(probability, selected, axis=1).sum(axis=1),
        "logit_margin": largest[:, 0] - largest[:, 1],
        "boundary_margin": preferred[:, top_k - 1] - preferred[:, top_k] if top_k < logits.shape[1] else missing,
    }
    weight = np.take_along_axis(score, selected, axis=1).astype(np.float32)
    arrays = {name: ("token", values.astype(np.float32)) for name, values in per_token.items()}
    return full.assign(arrays | {"routing_weight": (("token", "rank"), weight)})


def compact(full: xr.Dataset, tokens: xr.Dataset) -> xr.Dataset:
    """Compact records of the same routing: sums of p per window and histograms per expert instead of logits."""
    rule = routing_rule_of(full.attrs)
    probability = probabilities(full["router_logits"].values, rule.scores)
    starts = np.flatnonzero(tokens["position"].values == 0)

    def histograms(values, edges):
        inside = np.clip(values.astype(np.float64), edges[0], np.nextafter(edges[-1], -np.inf))
        return np.array([np.histogram(column, edges)[0] for column in inside.T])

    logits, log_probability = full["router_logits"].values, np.log10(probability).astype(np.float32)
    return completed(full)[contents_of(rule, "compact")].assign(
        probability_sum=(("window", "expert"), np.add.reduceat(probability, starts, axis=0).astype(np.float32)),
        expert_logit_histogram=(("expert", "logit_bin"), histograms(logits, bins.LOGIT_EDGES)),
        expert_probability_histogram=(("expert", "bin"), histograms(log_probability, bins.PROBABILITY_EDGES)),
    )


def logits_for(selected: np.ndarray, experts: int) -> np.ndarray:
    """Logits (token, expert) that lead to the selection (token, rank): k, k - 1, ..., 1 at its ranks, 0 elsewhere."""
    logits = np.zeros((len(selected), experts))
    np.put_along_axis(logits, selected, np.arange(selected.shape[1], 0, -1)[None, :], axis=1)
    return logits


def case(
    layers: dict[int, xr.Dataset],
    lengths: list[int],
    token_id: np.ndarray | None = None,
    cluster: list[str] | None = None,
) -> Case:
    """A dataset from records by layer; documents are named doc-0, doc-1, ...

    By default all token ids are 0, and every document is a cluster.
    """
    lengths = np.array(lengths)
    token_id = np.zeros(lengths.sum(), dtype=np.int32) if token_id is None else np.asarray(token_id, dtype=np.int32)
    names = np.array([f"doc-{index}" for index in range(len(lengths))])
    cluster = names if cluster is None else np.array(cluster)
    documents = {"document_id": names, "cluster": cluster, "row": np.arange(len(names)), "group": groups(cluster)}
    return Case(layers, lengths, token_id, documents)


def selection_case(selected: np.ndarray, experts: int, lengths: list[int] | None = None, **options) -> Case:
    """One layer, numbered 0, with a given selection (token, rank); one document unless `lengths` says otherwise."""
    selected = np.asarray(selected)
    return case({0: records(logits_for(selected, experts), selected.shape[1])}, lengths or [len(selected)], **options)


def even_case(experts: int, top_k: int, lengths: list[int]) -> Case:
    """Uniform routing: all logits equal, and experts selected in turn, so that each has each rank once in E tokens."""
    tokens = sum(lengths)
    selected = (np.arange(tokens)[:, None] + np.arange(top_k)) % experts
    return case({0: records(np.zeros((tokens, experts)), top_k, selected)}, lengths)


def random_case(
    rng: np.random.Generator,
    lengths: list[int],
    experts: int = 8,
    top_k: int = 2,
    layers: tuple[int, ...] = (0, 1),
    vocabulary: int = 5,
    expert_bias: float = 0.5,
    cluster: list[str] | None = None,
) -> Case:
    """Random logits: normal, with a bias per expert, and one per expert and document, of scale `expert_bias`."""
    tokens = sum(lengths)
    made = {}
    for layer in layers:
        bias = expert_bias * rng.standard_normal(experts)
        document_bias = expert_bias * rng.standard_normal((len(lengths), experts))
        noise = 1.5 * rng.standard_normal((tokens, experts))
        made[layer] = records(noise + bias + np.repeat(document_bias, lengths, axis=0), top_k)
    return case(made, lengths, rng.integers(0, vocabulary, tokens), cluster)


def saved(study: dict[str, Case], folder: Path) -> list[Path]:
    """Write the tally of every dataset of a study into `folder`, as the workflow does; the paths of the files."""
    paths = [folder / f"{name}.nc" for name in study]
    for path, (name, made) in zip(paths, study.items(), strict=True):
        attrs = {"dataset": name, "dataset_sha256": f"files of {name}"}
        parts = (part.assign_attrs(attrs) for part in made.tally_layers())
        netcdf.save_parts(parts, path, along="layer")
    return paths
