"""Telling the meaning of a word from its experts: from one layer, or from its path through several.

A sample goes to the meaning of whose samples it shares most experts with, on average; along a path the overlaps of its
layers are added. Samples are split into halves at random, each with the same share of every meaning. In one half the
best single layer and the best window of layers are chosen, every sample being told from the others of its half; then
the samples of the other half are told by these, from the first half alone. Every half chooses for the other one.
"""

from typing import TYPE_CHECKING

import numpy as np

from gatebook.inputs.clusters import GROUPS

if TYPE_CHECKING:
    from gatebook.chapters.meaning.measure import Design


def kernels(source: np.ndarray, sources: int, selected: np.ndarray, experts: int) -> np.ndarray:
    """|S and S'| / k of every two sources, mean over their occurrences, 0 of one and itself: (layer, source, source).

    source (occurrence,) int; selected (layer, occurrence, rank) int.
    """
    mean = np.zeros((len(selected), sources, experts))
    for layer, one in enumerate(selected):
        np.add.at(mean[layer], (source[:, None], one), 1 / selected.shape[2])
    mean /= np.bincount(source, minlength=sources)[:, None]
    found = np.einsum("lue,lve->luv", mean, mean) * selected.shape[2]
    found[:, np.arange(sources), np.arange(sources)] = 0
    return found


def hits(
    kernel: np.ndarray, label: np.ndarray, labels: int, *, splits: int, window: int, seed: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """How often each source is told right while it is held out, by a layer and by a path.

    Parameters
    ----------
    kernel
        See `kernels`.
    label
        Of the sources, in every draw: (draw, source) int.
    labels
        How many there are.
    splits
        Into halves.
    window
        Layers of a path; all of them if there are fewer.
    seed
        Of the halves.

    Returns
    -------
    layer, path : numpy.ndarray
        (draw, source) float64 each: the share of the splits that hold the source out in which it is told right.
    """
    layers, window = len(kernel), min(window, len(kernel))
    paths = np.stack([kernel[start : start + window].sum(axis=0) for start in range(layers - window + 1)])
    rng = np.random.default_rng(seed)
    found = np.zeros((2, *label.shape))
    for index, one in enumerate(label):
        half = np.stack([_half(one, rng) for _ in range(splits)])
        half = np.concatenate([half, ~half])
        for kind, options in enumerate((kernel, paths)):
            found[kind, index] = _held_out(options, one, labels, half)
    return found[0], found[1]


def _half(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the sources of each label, rounded down, at random: (source,) bool."""
    order = np.lexsort((rng.random(len(label)), label))
    place = np.empty(len(label), np.int64)
    place[order] = np.arange(len(label)) - np.searchsorted(label[order], label[order])
    return place < np.bincount(label)[label] // 2


def _held_out(options: np.ndarray, label: np.ndarray, labels: int, half: np.ndarray) -> np.ndarray:
    """The share of the splits that hold a source out in which the option that its other half chose tells it right.

    options (option, source, source); half (split, source) bool: the half that chooses. (source,) float64.
    """
    is_label = label[:, None] == np.arange(labels)  # (source, label)
    chosen = half[:, :, None] & is_label  # (split, source, label)
    columns = chosen.transpose(1, 0, 2).reshape(len(label), -1).astype(np.float64)
    shared = (options @ columns).reshape(len(options), len(label), *chosen.shape[::2]).swapaxes(1, 2)
    number = chosen.sum(axis=1)[:, None] - chosen  # without itself: (split, source, label)
    score = shared / np.maximum(number, 1)
    right = np.where(number > 0, score, -1).argmax(axis=-1) == label  # (option, split, source)
    size = np.maximum(np.bincount(label, minlength=labels), 1)[label]
    best = np.where(half, right / size, 0).sum(axis=-1).argmax(axis=0)  # (split,)
    told = np.take_along_axis(right, best[None, :, None], axis=0)[0] & ~half
    return told.sum(axis=0) / np.maximum((~half).sum(axis=0), 1)


def beyond_chance(hit: np.ndarray, label: np.ndarray, labels: int, weight: np.ndarray | None = None) -> float:
    """(a - 1/M) / (1 - 1/M), a the mean over M labels of the mean of hits; NaN if a label has no source.

    hit, label, weight (source,): weights are 1 if there are none.
    """
    weight = np.ones(len(hit)) if weight is None else weight
    size, total = (np.bincount(label, weights=each, minlength=labels) for each in (weight, weight * hit))
    mean = (total / np.where(size > 0, size, np.nan)).mean()
    return (mean - 1 / labels) / (1 - 1 / labels)


def without_groups(hit: np.ndarray, design: "Design") -> np.ndarray:
    """`beyond_chance` of all sources and without each group of them: (draw,) float64."""
    group = design.group
    draws = [beyond_chance(hit, design.label, design.labels)]
    return np.array(
        draws
        + [
            beyond_chance(hit, design.label, design.labels, (group != left_out).astype(float))
            for left_out in range(GROUPS)
        ]
    )
