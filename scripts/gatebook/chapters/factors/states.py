"""The router inputs that factors are fitted to: the model run over the windows that hold the drawn tokens."""

from collections.abc import Callable

import numpy as np
import transformers
import xarray as xr

from gatebook.routing import extraction
from gatebook.routing.families import routing_rule
from gatebook.routing.records import expert_dtype
from gatebook.study import routed


def read(
    model: transformers.PreTrainedModel,
    layers: list[int],
    study: xr.Dataset,
    place: np.ndarray,
    *,
    tokens_per_batch: int,
    advance: Callable[[int], object] = lambda tokens: None,
) -> xr.Dataset:
    """What routers receive for some tokens of a study, and the experts that these select.

    Parameters
    ----------
    model
        In evaluation mode, without a head.
    layers
        Numbers of layers with routers.
    study
        Its tokens, see `routed.read_tokens`.
    place
        Which tokens, (sample,) int64, increasing.
    tokens_per_batch
        Tokens with padding that the model sees at once.
    advance
        Is called with numbers of tokens done.

    Returns
    -------
    xarray.Dataset
        `state` (layer, sample, hidden) float32, `selected_expert` (layer, sample, rank) uint8 or uint16; the coordinate
        `token` (sample,) is `place`. The attribute `experts` says how many a layer has.
    """
    rule, spans = routing_rule(model.config), windows(study, place)
    tokens = np.concatenate(spans)
    sampled, start = np.searchsorted(tokens, place), np.cumsum([0, *map(len, spans[:-1])])
    ids = study["token_id"].sel(kind="input").values[tokens]
    extras = extraction.Extras(
        sampled=sampled, states=np.empty((len(layers), len(place), model.config.hidden_size), np.float32)
    )
    selected = np.empty((len(layers), len(place), rule.top_k), expert_dtype(rule.experts))
    options = {"tokens_per_batch": tokens_per_batch, "extras": extras}
    for batch in extraction.extract(model, layers, ids, start, **options):
        found = batch.records()
        wanted = np.isin(found.tokens, sampled)
        at = np.searchsorted(sampled, found.tokens[wanted])
        selected[:, at] = found.per_token["selected_expert"][:, wanted]
        advance(len(found.tokens))
    words = {"long_name": "selected experts, largest weight first", "units": "1"}
    return xr.Dataset(
        {
            "state": (("layer", "sample", "hidden"), extras.states, {"long_name": "router input", "units": "1"}),
            "selected_expert": (("layer", "sample", "rank"), selected, words),
        },
        {"layer": layers, "token": ("sample", place, {"long_name": "place among the study's tokens", "units": "1"})},
        {"experts": rule.experts, "routing_rule": rule.as_json()},
    )


def windows(study: xr.Dataset, place: np.ndarray) -> list[np.ndarray]:
    """The windows of a study with some of its tokens, each up to the last of these: their places (token,) int64."""
    window, position = routed.windows(study)
    known, last = np.unique(window[place][::-1], return_index=True)
    last = place[::-1][last]
    return [np.arange(end - position[end], end + 1) for end in last[np.argsort(known)]]
