"""Maps of router inputs for the expert browser: those with an expert's highest weights, among random ones.

All experts of a layer have the same axes: the two directions in which random router inputs of the layer differ most.
"""

from pathlib import Path

import numpy as np

from gatebook.atlas.browser import Tokens
from gatebook.files import netcdf, parts
from gatebook.files.data_scripts import DataScripts
from gatebook.routing.highest import FILE

RANDOM = 400
"""At most so many random ones on a map."""
DIGITS = 4


def highest(records: list[str], layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The tokens of a whole study with the highest weights of each expert of a layer, from those of every part.

    Dataset and place in it, int64, and weight, float32 (expert, highest), from the highest on; router input (expert,
    highest, hidden) float32. Where an expert has fewer tokens, places are negative.
    """
    kept: list[np.ndarray] = []
    for dataset, folders in enumerate(parts.by_dataset(records)):
        for folder in folders:
            with netcdf.open_lazily(folder / FILE) as file:
                found = [file[name].sel(layer=layer).values for name in ("token", "weight", "state")]
            part = [np.full(found[0].shape, dataset), *found]
            most = part[0].shape[1]
            both = [np.concatenate(pair, axis=1) for pair in zip(kept, part, strict=True)] if kept else part
            order = np.argsort(-both[2], axis=1, kind="stable")[:, :most]  # NaN, where there are fewer, comes last
            kept = [
                np.take_along_axis(each, order.reshape(*order.shape, *[1] * (each.ndim - 2)), axis=1) for each in both
            ]
    return tuple(kept)


def sampled(records: list[str], layer: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `RANDOM` of a layer's sampled router inputs, evenly from all: dataset (token,), input (token, hidden)."""
    dataset, states = [], []
    for number, folders in enumerate(parts.by_dataset(records)):
        with netcdf.open_joined([folder / "states.nc" for folder in folders], along="sample") as file:
            states.append(file["state"].sel(layer=layer).values)
        dataset.append(np.full(len(states[-1]), number))
    whole, of = np.concatenate(states), np.concatenate(dataset)
    chosen = np.unique(np.linspace(0, len(whole) - 1, min(RANDOM, len(whole))).round().astype(int))
    return of[chosen], whole[chosen]


def content(tokens: Tokens, records: list[str], layer: int) -> dict:
    """The map of a layer's experts.

    `variance`: the share of the random inputs' variance that the axes show; `random`: dataset, x, y of each;
    `experts`: for each expert a list of dataset, place in it, index into the vocabulary, weight, x, y. Numbers have
    `DIGITS` significant digits.
    """
    from sklearn.decomposition import PCA

    of, states = sampled(records, layer)
    axes = PCA(2, svd_solver="arpack", random_state=0).fit(states)
    dataset, place, weight, inputs = highest(records, layer)
    experts = []
    for expert in range(len(dataset)):
        known = place[expert] >= 0
        where, at = dataset[expert][known], place[expert][known]
        token = tokens.input[tokens.start[where] + at]
        positions = axes.transform(inputs[expert][known]) if known.any() else np.empty((0, 2))
        numbers = [_rounded(weight[expert][known]), *map(_rounded, positions.T)]
        experts.append([list(one) for one in zip(where.tolist(), at.tolist(), token.tolist(), *numbers, strict=True)])
    random = zip(of.tolist(), *map(_rounded, axes.transform(states).T), strict=True)
    return {
        "variance": _rounded(axes.explained_variance_ratio_[:2].sum(keepdims=True))[0],
        "random": list(map(list, random)),
        "experts": experts,
    }


def add(scripts: DataScripts, tokens: Tokens, records: list[str], layers: list[int]) -> None:
    """Add inputs/LAYER, what `content` gives, to the scripts of the browser, if every part has router inputs of both
    kinds, and `inputs` to its index: whether they have."""
    known = all((Path(folder) / name).exists() for folder in records for name in (FILE, "states.nc"))
    for layer in layers if known else ():
        scripts.add(f"inputs/{layer}", content(tokens, records, layer))
    scripts.add("index", scripts.content("index") | {"inputs": known})


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(values).tolist()]
