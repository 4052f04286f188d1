"""Synthetic routing records for tests: softmax over all experts, weights of the k best not renormalised (as OLMoE)."""

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from moeatlas import tallies
from moeatlas.records import expert_dtype


@dataclass(frozen=True)
class Case:
    """The records of one dataset by layer, its document lengths, and the token id of every token."""

    layers: dict[int, xr.Dataset]
    lengths: np.ndarray
    token_id: np.ndarray
    document_id: np.ndarray

    @property
    def owner(self) -> np.ndarray:
        """Index of the document of every token."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def tally(self, tokens_per_block: int = tallies.TOKENS_PER_BLOCK) -> xr.Dataset:
        """The tally of all layers."""
        layers = {
            layer: tallies.tally_layer(records, self.lengths, self.token_id, tokens_per_block)
            for layer, records in self.layers.items()
        }
        return tallies.tally(layers, self.lengths, self.document_id)

    def take(self, documents: np.ndarray) -> "Case":
        """The same dataset with the given documents only, in the given order; a document may occur more than once."""
        starts = np.cumsum(self.lengths) - self.lengths
        spans = [np.arange(starts[document], starts[document] + self.lengths[document]) for document in documents]
        tokens = np.concatenate(spans)
        return Case(
            {layer: records.isel(token=tokens) for layer, records in self.layers.items()},
            self.lengths[documents],
            self.token_id[tokens],
            self.document_id[documents],
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


def records(logits: np.ndarray, top_k: int, selected: np.ndarray | None = None) -> xr.Dataset:
    """The records of one layer from its logits (token, expert); `selected` (token, rank) settles ties between them."""
    logits = np.asarray(logits, dtype=np.float64)
    log_sum_exp = np.log(np.exp(logits).sum(axis=1))
    log_probability = logits - log_sum_exp[:, None]
    probability = np.exp(log_probability)
    if selected is None:
        selected = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    weight = np.take_along_axis(probability, selected, axis=1)
    largest = -np.sort(-logits, axis=1)
    experts = logits.shape[1]
    missing = np.full(len(logits), np.nan)
    per_token = {
        "entropy": -(probability * log_probability).sum(axis=1),
        "log_sum_exp": log_sum_exp,
        "top_k_mass": weight.sum(axis=1),
        "logit_margin": largest[:, 0] - largest[:, 1],
        "boundary_margin": largest[:, top_k - 1] - largest[:, top_k] if top_k < experts else missing,
    }
    return xr.Dataset(
        {
            "router_logits": (("token", "expert"), logits.astype(np.float32)),
            "selected_expert": (("token", "rank"), selected.astype(expert_dtype(experts))),
            "routing_weight": (("token", "rank"), weight.astype(np.float32)),
        }
        | {name: ("token", values.astype(np.float32)) for name, values in per_token.items()}
    )


def logits_for(selected: np.ndarray, experts: int) -> np.ndarray:
    """Logits (token, expert) that lead to the selection (token, rank): k, k - 1, ..., 1 at its ranks, 0 elsewhere."""
    logits = np.zeros((len(selected), experts))
    np.put_along_axis(logits, selected, np.arange(selected.shape[1], 0, -1)[None, :], axis=1)
    return logits


def case(layers: dict[int, xr.Dataset], lengths: list[int], token_id: np.ndarray | None = None) -> Case:
    """A dataset from records by layer; documents are named doc-0, doc-1, ..., and all token ids are 0 by default."""
    lengths = np.array(lengths)
    token_id = np.zeros(lengths.sum(), dtype=np.int32) if token_id is None else np.asarray(token_id, dtype=np.int32)
    return Case(layers, lengths, token_id, np.array([f"doc-{index}" for index in range(len(lengths))]))


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
) -> Case:
    """Random logits: normal, with a bias per expert, and one per expert and document, of scale `expert_bias`."""
    tokens = sum(lengths)
    made = {}
    for layer in layers:
        bias = expert_bias * rng.standard_normal(experts)
        document_bias = expert_bias * rng.standard_normal((len(lengths), experts))
        noise = 1.5 * rng.standard_normal((tokens, experts))
        made[layer] = records(noise + bias + np.repeat(document_bias, lengths, axis=0), top_k)
    return case(made, lengths, rng.integers(0, vocabulary, tokens))
