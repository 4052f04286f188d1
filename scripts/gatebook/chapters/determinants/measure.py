"""Determinants: how much of where a token goes is explained by its id, by the tokens before it, and by its dataset.

`measures.explained` says what is explained, and how it is estimated from tokens that have nothing but a class in
common. The last of the classes is a control: no router sees the token that follows, so what this adds says how much a
class may seem to explain that only goes with the cause, because texts repeat themselves.

The finer a class, the fewer tokens have a partner, and those that have one are not like the others. So classes are
compared on the common tokens: those that have, in every class, a partner among them. They are the same in all draws,
whose classes lose the tokens that have no partner but in the group that is left out: intervals of differences are a
little too wide.
"""

import zlib
from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.determinants import CLASSES, CONTROL, LAST_TOKENS, MEASURES, TOKEN, TOKEN_DATASET, TRIPLE
from gatebook.chapters.determinants.persistence import KINDS, persistence
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import summary
from gatebook.measures.explained import Partners, partners, share_explained
from gatebook.measures.summary import Jackknife, Measured, summarise
from gatebook.measures.token_sample import counted, documents_of, sizes
from gatebook.measures.uncertainty import POOLED
from gatebook.study import routed
from gatebook.study.routed import NONE, Layer

DIFFERENCES = {
    "context_added": (TRIPLE, TOKEN),
    "domain_added": (TOKEN_DATASET, TOKEN),
    "beyond_control": (TRIPLE, CONTROL),
}
"""Measures that are the difference of what two classes explain of the common tokens."""
PERSISTENCE = ("distance", "draw", "dataset")


def text_of(study: xr.Dataset, place: np.ndarray) -> xr.Dataset:
    """What the classes of the tokens `place` of a study are made of: variables over `token`.

    `token_id`, `next` int32; `position` int64, from 0 in each window; `window` int64; `dataset`, `group` int64;
    `document` int64, by its number in the study.
    """
    ids = study["token_id"]
    window, position = routed.windows(study)
    whole = {
        "token_id": ids.sel(kind="input").values,
        "next": ids.sel(kind="next").values,
        "position": position,
        "window": window,
        "dataset": study["dataset"].values.astype(np.int64),
        "group": study["group"].values.astype(np.int64),
        "document": documents_of(study),
    }
    return xr.Dataset({name: ("token", values[place]) for name, values in whole.items()})


def classes(text: xr.Dataset) -> dict[str, np.ndarray]:
    """The value of every class of `CLASSES` for each token, (token,) int64 from 0; that there is none is one."""
    token, dataset, position = (text[name].values for name in ("token_id", "dataset", "position"))
    previous = _before(token, position, 1)
    pair = _together(token, previous)
    values = (
        position,
        dataset,
        token,
        previous,
        _together(token, dataset),
        pair,
        _together(pair, _before(token, position, 2)),
        _together(pair, text["next"].values),
    )
    return {name: _together(value) for name, value in zip(CLASSES, values, strict=True)}


def _before(values: np.ndarray, position: np.ndarray, distance: int) -> np.ndarray:
    """The value of the token so far before each one in its window, `NONE` if there is none."""
    shifted = np.append(np.full(distance, NONE), values)[: len(values)]
    return np.where(position >= distance, shifted, NONE)


def _together(*values: np.ndarray) -> np.ndarray:
    """Numbers from 0 of the different combinations of some values."""

    def numbered(code: np.ndarray, value: np.ndarray) -> np.ndarray:
        known, other = np.unique(value, return_inverse=True)
        return np.unique(code * len(known) + other, return_inverse=True)[1]

    return reduce(numbered, values, np.zeros(len(values[0]), np.int64))


def repeated(text: xr.Dataset, datasets: int) -> np.ndarray:
    """The share of tokens whose last `LAST_TOKENS` tokens, itself among them, occur in another group too.

    (dataset,) float64, of the tokens that have so many; NaN if there is none.
    """
    position, code, length = text["position"].values, text["token_id"].values.astype(np.int64), 1
    while length < LAST_TOKENS:
        code, length = _together(code, _before(code, position, length)), 2 * length
    has = position >= LAST_TOKENS - 1
    known = partners(code, text["group"].values, text["dataset"].values, datasets, has)
    held = np.bincount(text["dataset"].values[has], minlength=datasets)
    return np.where(held > 0, known.coverage, np.nan)


def common_tokens(codes: dict[str, np.ndarray], text: xr.Dataset, datasets: int) -> np.ndarray:
    """Which tokens have, in every class, a partner that is one of them too: (token,) bool."""
    kept = np.ones(text.sizes["token"], bool)
    while True:
        before = kept.sum()
        for code in codes.values():
            found = partners(code, text["group"].values, text["dataset"].values, datasets, kept)
            kept = np.zeros(len(kept), bool)
            kept[found.place] = True
        if kept.sum() == before:
            return kept


def measure(
    study: xr.Dataset,
    layers: Iterable[Layer],
    *,
    tokens: int,
    distances: Sequence[int],
    seed: int,
    confidence: float,
) -> Measured:
    """All measures of the chapter, from the tokens of a study and its layers.

    Parameters
    ----------
    study
        Its tokens, see `routed.read`.
    layers
        In order, see `routed.read_layers`.
    tokens
        At most so many of each dataset, see `sample`.
    distances
        Of pairs of tokens, for persistence.
    seed
        Of the sample and of the replacements.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        `share_explained`, `common_share` (class, dataset, layer, interval), `coverage` (class, dataset);
        `context_added`, `domain_added`, `beyond_control` (dataset, layer, interval); `expert_share` (class, layer,
        expert, interval); `persistence`, `persistence_of_ids`, `persistence_beyond_ids` (distance, dataset, layer,
        interval). Pooled is the mean over datasets. `common_tokens` and `repeated` (dataset): the shares of the common
        tokens, and of those whose last tokens occur in another group; `tokens`, `documents`, `clusters` (dataset): of
        the sample. Measures that have layers have `mean_over_layers_*`, but for those of experts.
    """
    place, names = counted(study, tokens, seed), study["name"].values.tolist()
    text = text_of(study, place)
    group, dataset, codes = text["group"].values, text["dataset"].values, classes(text)
    common = common_tokens(codes, text, len(names))
    own, shared = (
        {name: partners(code, group, dataset, len(names), among) for name, code in codes.items()}
        for among in (None, common)
    )
    numbers, per_layer = [], []
    for layer in layers:
        numbers.append(layer.number)
        selected = layer.selected[place]
        rng = np.random.default_rng([seed, layer.number, zlib.crc32(b"determinants")])
        of_pairs = persistence(own[TOKEN], text, selected, distances, rng)
        found = xr.Dataset({name: (PERSISTENCE, values) for name, values in zip(KINDS, of_pairs, strict=True)})
        found["share_explained"], _, found["coverage"] = _explained(own, selected, layer.experts)
        found["common_share"], found["expert_share"], _ = _explained(shared, selected, layer.experts)
        per_layer.append(found)
    coords = {"class": list(codes), "dataset": [POOLED, *names], "layer": numbers, "distance": list(distances)}
    draws = xr.concat(per_layer, dim="layer").assign_coords(coords)
    for name, (finer, coarser) in DIFFERENCES.items():
        one, other = (draws["common_share"].sel({"class": each}, drop=True) for each in (finer, coarser))
        draws[name] = one - other
    draws["persistence_beyond_ids"] = draws["persistence"] - draws["persistence_of_ids"]
    of_experts, coverage = draws["expert_share"], draws["coverage"].isel(draw=0, layer=0, drop=True)
    draws, method = draws.drop_vars(["expert_share", "coverage"]), Jackknife(confidence)
    out = summarise(draws, MEASURES, method)
    out["expert_share"] = method.interval(of_experts, MEASURES["expert_share"].bounds)
    out["coverage"] = coverage
    for name in ("expert_share", "coverage"):
        measure = MEASURES[name]
        out[name].attrs = {"long_name": measure.title, "units": measure.units, "formula": measure.formula}
    held = np.bincount(dataset, minlength=len(names))
    parts = {
        "common_tokens": (shared[TOKEN].tokens[0] / held, "share of the tokens that have a partner in every class"),
        "repeated": (repeated(text, len(names)), f"share of the tokens whose last {LAST_TOKENS} occur elsewhere too"),
    }
    for name, (values, title) in parts.items():
        known = values[np.isfinite(values)]
        mean = known.mean() if len(known) else np.nan
        out[name] = "dataset", np.append(mean, values), {"long_name": title, "units": "1"}
    out = out.assign_coords(expert=np.arange(out.sizes["expert"])).merge(sizes(study, place))
    attrs = {"pooled_datasets": len(names), "groups": GROUPS, "tokens_per_dataset": tokens}
    return Measured(out.assign_attrs(attrs | {"seed": seed, "confidence": confidence}), draws)


def _explained(found: dict[str, Partners], selected: np.ndarray, experts: int) -> list[tuple]:
    """What every class explains of a layer, (class, draw, dataset), and of its experts, and the coverage, likewise."""
    parts = zip(*(share_explained(each, selected, experts) for each in found.values()), strict=True)
    dims = ("dataset", "expert", "dataset")
    return [(("class", "draw", dim), np.array(part)) for dim, part in zip(dims, parts, strict=True)]


def table(metrics: xr.Dataset) -> pd.DataFrame:
    """The measures as rows (`summary.table`)."""
    return summary.table(metrics, [name for name in MEASURES if name not in ("coverage", "expert_share")])
