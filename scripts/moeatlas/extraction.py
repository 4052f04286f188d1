"""Extraction: one forward pass that records what every router received, decided and returned."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from moeatlas.job import Problem
from moeatlas.models import RoutingRule
from moeatlas.records import SCALARS, Records, expert_dtype

BATCHES_PER_POOL = 8


class _Finished(Exception):
    """Raised by the last wanted router: nothing after it needs to be computed."""


class RouterCapture:
    """Forward hooks that keep what the routers of the wanted layers return, and stop the model at the last of them."""

    def __init__(self, routers: dict[int, nn.Module], layers: list[int]):
        """Watch `routers` (by layer index) at `layers`."""
        self._routers = {layer: routers[layer] for layer in layers}
        self._seen: dict[int, tuple] = {}
        self._handles: list = []

    def __enter__(self):
        """Attach the hooks."""
        last = max(self._routers)
        for layer, router in self._routers.items():
            self._handles.append(router.register_forward_hook(self._hook(layer, layer == last)))
        return self

    def __exit__(self, *_):
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, layer: int, last: bool):
        def hook(module, inputs, output):
            self._seen[layer] = output
            if last:
                raise _Finished

        return hook

    @torch.inference_mode()
    def run(self, model: nn.Module, token_ids: torch.Tensor) -> dict[int, tuple]:
        """(logits, weights, ids) of each wanted layer for `token_ids` (window, position), flattened over both."""
        self._seen = {}
        try:
            model(input_ids=token_ids, use_cache=False)
        except _Finished:
            return self._seen
        raise Problem(f"{type(model).__name__} did not call its routers: its family is not supported.")


def batches(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Indices of windows, sorted by length and grouped so that a padded batch holds at most `tokens_per_batch` tokens.

    A window longer than the budget is a batch of its own. `lengths` is (window,) in tokens.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def pools(lengths: np.ndarray, tokens_per_pool: int) -> Iterator[slice]:
    """Consecutive windows of about `tokens_per_pool` tokens: sorted inside, written in order, so memory is flat."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + tokens_per_pool, side="right")))
        yield slice(start, stop)
        start = stop


def extract(
    model: nn.Module,
    routers: dict[int, nn.Module],
    rule: RoutingRule,
    layers: list[int],
    token_id: np.ndarray,
    window_start: np.ndarray,
    *,
    tokens_per_batch: int,
) -> Iterator[tuple[int, int, Records]]:
    """Run the model over all windows and yield (layer, first token, records) for consecutive spans of tokens.

    `token_id` is (token,), `window_start` (window,) the offset of each window's first token, in order. Windows are
    padded on the right and no attention mask is given: in a causal model padding cannot reach earlier positions, and
    its rows are dropped. The routing rule is checked against the module on the first batch.
    """
    device = next(model.parameters()).device
    lengths = np.diff(np.append(window_start, len(token_id)))
    checked = False
    with RouterCapture(routers, layers) as capture:
        for pool in pools(lengths, BATCHES_PER_POOL * tokens_per_batch):
            first, pool_lengths, pool_starts = window_start[pool][0], lengths[pool], window_start[pool]
            parts: dict[int, list] = {layer: [] for layer in layers}
            places = []
            for batch in batches(pool_lengths, tokens_per_batch):
                span = np.arange(pool_lengths[batch].max())
                valid = span < pool_lengths[batch][:, None]
                source = np.minimum(pool_starts[batch][:, None] + span, len(token_id) - 1)
                ids = torch.from_numpy(np.where(valid, token_id[source], 0).astype(np.int64)).to(device)
                keep = torch.from_numpy(valid.ravel()).to(device)
                for layer, output in capture.run(model, ids).items():
                    if not checked:
                        check_rule(rule, layer, *output)
                    parts[layer].append(_records(layer, rule, *(tensor[keep] for tensor in output)))
                checked = True
                places.append(source[valid] - first)
            order = np.argsort(np.concatenate(places))
            for layer in layers:
                yield layer, int(first), _join(parts[layer], order)


def check_tokens(model: str, description: dict, window: int, token_id: np.ndarray) -> None:
    """A `Problem` when the tokens do not fit the model that `models.describe` describes."""
    if window > description["context"]:
        raise Problem(
            f"models.{model}.window: {window} tokens are more than the model's context of {description['context']}: "
            "write `context` or a smaller number."
        )
    if token_id.max() >= description["vocabulary"]:
        raise Problem(
            f"models.{model}: token id {token_id.max()} is beyond the model's vocabulary of "
            f"{description['vocabulary']}: its tokenizer belongs to another model."
        )


def check_rule(
    rule: RoutingRule, layer: int, logits: torch.Tensor, weights: torch.Tensor, selected: torch.Tensor
) -> None:
    """Compare the rule applied to captured logits with the module's own choice; a `Problem` if a bit differs."""
    if not bool(torch.isfinite(logits).all()):
        return  # `_records` names it
    expected_weights, expected = rule.apply(logits)
    if not torch.equal(expected, selected) or not torch.equal(expected_weights, weights):
        raise Problem(
            f"layer {layer}: the router did not follow the rule read from the model's config ({rule.as_json()}), so "
            "its records cannot be trusted: report this model."
        )


def _records(
    layer: int, rule: RoutingRule, logits: torch.Tensor, weights: torch.Tensor, selected: torch.Tensor
) -> Records:
    if not bool(torch.isfinite(logits).all()):
        raise Problem(
            f"layer {layer}: the router logits hold NaN or infinity: use another dtype (`dtype: float32`) or check the "
            "model's weights."
        )
    order = weights.argsort(dim=-1, descending=True, stable=True)
    scalars = decisiveness_scalars(logits.float(), rule.top_k)
    return Records(
        router_logits=logits.float().cpu().numpy(),
        selected_expert=selected.gather(-1, order).to(torch.int32).cpu().numpy().astype(expert_dtype(rule.experts)),
        routing_weight=weights.gather(-1, order).float().cpu().numpy(),
        scalars={name: value.cpu().numpy() for name, value in scalars.items()},
    )


def decisiveness_scalars(logits: torch.Tensor, top_k: int) -> dict[str, torch.Tensor]:
    """The per-token scalars of `SCALARS` from router logits (token, expert) float32; a margin that needs an expert
    beyond the last is NaN."""
    log_sum_exp = torch.logsumexp(logits, dim=-1)
    log_probability = logits - log_sum_exp[:, None]
    probability = log_probability.exp()
    largest = logits.topk(min(max(top_k + 1, 2), logits.shape[-1]), dim=-1).values
    missing = torch.full_like(log_sum_exp, math.nan)
    return {
        "entropy": -(probability * log_probability).sum(dim=-1),
        "log_sum_exp": log_sum_exp,
        "top_k_mass": probability.topk(top_k, dim=-1).values.sum(dim=-1),
        "logit_margin": largest[:, 0] - largest[:, 1] if largest.shape[-1] > 1 else missing,
        "boundary_margin": largest[:, top_k - 1] - largest[:, top_k] if largest.shape[-1] > top_k else missing,
    }


def _join(parts: list[Records], order: np.ndarray) -> Records:
    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(arrays)[order]

    return Records(
        router_logits=joined([part.router_logits for part in parts]),
        selected_expert=joined([part.selected_expert for part in parts]),
        routing_weight=joined([part.routing_weight for part in parts]),
        scalars={name: joined([part.scalars[name] for part in parts]) for name in SCALARS},
    )
