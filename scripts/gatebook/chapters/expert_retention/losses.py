"""Losses of texts under a model whose tokens select among few experts of each layer only."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import transformers

from gatebook.chapters.expert_retention.measure import kept
from gatebook.routing.patching import CleanRun, restricted


def losses(
    model: transformers.PreTrainedModel,
    ids: np.ndarray,
    tokens_per_batch: int,
    *,
    layers: Sequence[int] = (),
    orders: Sequence[np.ndarray] = (),
    numbers: Sequence[int] = (),
    stage: str = "score",
    advance: Callable[[int], object] = lambda tokens: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each text, with all experts and with few.

    Parameters
    ----------
    model
        With a head, in evaluation mode.
    ids
        Token ids (text, position) int64.
    tokens_per_batch
        That it sees at once.
    layers
        Numbers of the layers with routers.
    orders
        Their experts in the order in which they are kept: (layer, expert) each; with any below 0 it is not tried.
    numbers
        How many are kept.
    stage
        How those enter that would not be selected, see `patching.restricted`.
    advance
        Is called with numbers of tokens done.

    Returns
    -------
    clean, lost : numpy.ndarray
        Nats, summed over the predicted tokens: (text,) and (text, order, number) float64, NaN of what was not tried.
    """
    clean = np.zeros(len(ids))
    lost = np.full((len(ids), len(orders), len(numbers)), np.nan)
    several = max(tokens_per_batch // ids.shape[1], 1)
    for start in range(0, len(ids), several):
        part = slice(start, start + several)
        run = CleanRun(model, torch.from_numpy(ids[part]).to(model.device))
        clean[part], every = _sums(run.loss), torch.arange(len(run.token_ids))
        for index, order in enumerate(orders):
            for place, number in enumerate(numbers if (order >= 0).all() else ()):
                among = dict(zip(layers, torch.from_numpy(kept(order, number)), strict=True))
                lost[part, index, place] = _sums(run.loss_within(min(layers), every, restricted(model, among, stage)))
                advance(run.token_ids.numel())
    return clean, lost


def _sums(loss: torch.Tensor) -> np.ndarray:
    return loss.double().sum(dim=1).cpu().numpy()
