"""Patching in numbers: which share of the gap between two prompts comes back, with intervals over sources.

m is the logit of the right answer minus that of the wrong one. The gap is the mean m of clean prompts minus that of
corrupt ones. Denoising recovers (mean patched m − mean corrupt m) / gap, noising (mean clean m − mean patched m) / gap:
0 if a patch does nothing, 1 if it does what the whole other prompt does.
"""

from collections.abc import Sequence

import numpy as np

from gatebook.measures import uncertainty
from gatebook.measures.uncertainty import Resampling

DIRECTIONS = ("denoising", "noising")
CHANCE = 0.5
"""Of two answers that are as likely."""


def resampled(source: Sequence[str], resamples: int, seed: int, name: str) -> Resampling:
    """Draws of whole sources, of pairs (pair,) by their source; `name` is that of the task."""
    known, index = np.unique(np.asarray(source).astype(str), return_inverse=True)
    sizes = np.bincount(index, minlength=len(known))
    return Resampling(uncertainty.resampling_weights(sizes, resamples, seed, name), index)


def ratio(resampling: Resampling, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Ratios of means over pairs in every draw: (draw, ...), of values (pair, ...) and (pair,); NaN by 0."""
    whole = resampling.sums(below)
    whole = np.where(whole == 0, np.nan, whole)
    return resampling.sums(above) / whole.reshape(-1, *[1] * (above.ndim - 1))


def shares(patched: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """By how much a patch moves m in the direction of the other prompt: (pair, direction, ...).

    Parameters
    ----------
    patched
        m of windows with a patch, (..., window): clean prompts and then corrupt ones, see `routing.nodes`.
    clean
        m without it, (window,).
    """
    change = np.moveaxis(patched - clean, -1, 0)
    pairs = len(clean) // 2
    return np.stack([change[pairs:], -change[:pairs]], axis=1)


def left(patched: np.ndarray) -> np.ndarray:
    """m of the clean prompt minus that of the corrupt one with a patch in both, of (..., window): (pair, ...)."""
    pairs = patched.shape[-1] // 2
    return np.moveaxis(patched[..., :pairs] - patched[..., pairs:], -1, 0)


def answered(clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the right answer is the likelier one in the clean prompt, and the wrong one in the corrupt: (pair,).

    clean: m of windows, (window,). 0.5 where both are as likely.
    """
    right, flips = np.split(np.sign(clean) * np.repeat([1, -1], len(clean) // 2), 2)
    return (right + 1) / 2, (flips + 1) / 2


def does(right: Sequence[float], flips: Sequence[float]) -> bool:
    """The gate: whether a model does a task, which it does if both shares (estimate, low, high) lie above chance."""
    return bool(right[1] > CHANCE and flips[1] > CHANCE)
