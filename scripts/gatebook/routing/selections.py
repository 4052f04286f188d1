"""Selections: which experts tokens select, and nothing else, for checkpoints of which no records are made."""

from collections.abc import Callable

import numpy as np
import transformers
import xarray as xr

from gatebook.routing import extraction
from gatebook.routing.families import routing_rule
from gatebook.routing.records import expert_dtype


def select(
    model: transformers.PreTrainedModel,
    layers: list[int],
    token_id: np.ndarray,
    window_start: np.ndarray,
    *,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda tokens: None,
) -> xr.Dataset:
    """Run a base model over all windows and keep the experts that its routers select.

    Parameters
    ----------
    model
        In evaluation mode, without a head.
    layers
        Numbers of layers with routers.
    token_id
        (token,) int.
    window_start
        The offset of each window's first token, in order: (window,) int.
    tokens_per_batch
        Tokens with padding that the model sees at once.
    advance
        Is called with numbers of tokens done.

    Returns
    -------
    xarray.Dataset
        `selected_expert` (layer, token, rank) uint8 or uint16, the largest weight first. The attribute `experts` says
        how many a layer has.

    Raises
    ------
    Problem
        If a router does not follow the rule of its family, or logits are not finite.
    """
    rule = routing_rule(model.config)
    selected = np.empty((len(layers), len(token_id), rule.top_k), expert_dtype(rule.experts))
    for batch in extraction.extract(model, layers, token_id, window_start, tokens_per_batch=tokens_per_batch):
        found = batch.records()
        selected[:, found.tokens] = found.per_token["selected_expert"]
        advance(len(found.tokens))
    words = {"long_name": "selected experts, largest weight first", "units": "1"}
    made = xr.Dataset({"selected_expert": (("layer", "token", "rank"), selected, words)}, coords={"layer": layers})
    return made.assign_attrs(experts=rule.experts, routing_rule=rule.as_json())
