"""Steering: from what was written, and what it cost, to measures by pair of datasets, kind and dose.

Means over prompts and over held-out texts are those of draws of their clusters. All pairs together are the mean over
pairs; prompts that several pairs share are drawn together.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from gatebook.chapters.steering import MEASURES
from gatebook.chapters.steering.plan import Prompts, Side, real_ratios
from gatebook.chapters.steering.trial import Outcome
from gatebook.measures import summary
from gatebook.measures.summary import Bootstrap, summarise
from gatebook.measures.uncertainty import INTERVAL, POOLED, Resampling, resampling_weights

ALL = "all"
"""In the place of a layer's number: vectors are added in all of them at once."""


class Steered(NamedTuple):
    """A pair of datasets and what came out: the one that is steered toward, the other, the prompts, the outcome.

    choosing: how many prompts the layer was chosen by.
    """

    one: Side
    other: Side
    choosing: int
    prompts: Prompts
    outcome: Outcome

    @property
    def name(self) -> str:
        """The pair in words."""
        return f"{self.one.name} from {self.other.name}"


def measure(
    pairs: Sequence[Steered],
    *,
    doses: Sequence[float],
    compared_dose: float,
    resamples: int,
    seed: int,
    confidence: float,
    fewest_clusters: int,
) -> xr.Dataset:
    """All measures of the chapter.

    Parameters
    ----------
    pairs
        What came out.
    doses, compared_dose
        The settings of the chapter.
    resamples, seed, confidence, fewest_clusters
        Of the bootstrap over clusters; a pair with fewer of prompts or of held-out texts of a dataset has no intervals.

    Returns
    -------
    xarray.Dataset
        `MEASURES` over `pair` ("pooled" first, their mean) and `interval`, most over `kind`, some over `dose`, of which
        the first is 0. `null_excess` (pair, kind, interval): the band in which one more random vector would lie;
        `p_value`, `q_value` (pair, kind): of it, and corrected for all pairs and kinds; `choosing_ratio` (pair, kind,
        layer), NaN for the mean, and `choosing_all` (pair, kind): by which the layer was chosen; `chosen` (pair, kind)
        text: which; `clusters`, `prompts`, `documents` (pair,).
    """
    draws = _draws(pairs, list(doses).index(compared_dose), resamples, seed)
    metrics = summarise(draws, MEASURES, Bootstrap(confidence)).merge(_sizes(pairs))
    metrics = _without_few(metrics, pairs, fewest_clusters).merge(_band(pairs, draws, confidence))
    metrics = metrics.merge(_choice(pairs))
    metrics = metrics.assign_coords(dose=("dose", [0.0, *doses], {"long_name": "factor of the vector", "units": "1"}))
    metrics["kind"].attrs["long_name"] = "what vectors are added to"
    attrs = {"confidence": confidence, "compared_dose": compared_dose}
    attrs |= {"vectors": pairs[0].outcome.random["residual"].shape[1], "choosing": min(pair.choosing for pair in pairs)}
    return metrics.assign_attrs(attrs)


def _means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of values (text, ...) in every draw, by how often each text counts in it (draw, text): (draw, ...)."""
    total = np.tensordot(weights, values, axes=1)
    return total / weights.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))


def _held_out(side: Side, resamples: int, seed: int) -> np.ndarray:
    """How often each held-out text counts in each draw: (draw, text) float64."""
    known, index = np.unique(side.cluster, return_inverse=True)
    found = resampling_weights(np.bincount(index, minlength=len(known)), resamples, seed, side.name)
    return Resampling(found, index).weights[:, index].astype(np.float64)


def _draws(pairs: Sequence[Steered], compared: int, resamples: int, seed: int) -> xr.Dataset:
    """The draws of all measures, those of all pairs first."""
    known = np.unique(np.concatenate([pair.prompts.cluster for pair in pairs]).astype(str))
    of_all = resampling_weights(np.ones(len(known)), resamples, seed, "prompts").astype(np.float64)
    found = [
        _of_pair(pair, of_all[:, np.searchsorted(known, pair.prompts.cluster.astype(str))], compared, resamples, seed)
        for pair in pairs
    ]
    each = xr.concat(found, dim="pair")
    whole = xr.concat([each.mean("pair").expand_dims("pair"), each], dim="pair")
    return whole.assign_coords(pair=[POOLED, *(pair.name for pair in pairs)])


def _of_pair(pair: Steered, weights: np.ndarray, compared: int, resamples: int, seed: int) -> xr.Dataset:
    """The draws of all measures of a pair; weights (draw, prompt)."""
    texts = [_held_out(side, resamples, seed) for side in (pair.one, pair.other)]
    real = [_means(each, of) for each, of in zip(texts, real_ratios(pair.one, pair.other), strict=True)]
    found = {f"{name}_ratio": (("draw",), values) for name, values in zip(("target", "source"), real, strict=True)}
    kinds: dict[str, list[np.ndarray]] = {}
    for kind, steered in pair.outcome.steered.items():
        ratio, random = _means(weights, steered), pair.outcome.random[kind].mean(axis=1)
        doses = steered.shape[1] - 1
        made = {"log_ratio": ratio, "random_ratio": _means(weights, random)}
        made["excess"] = _means(weights, steered[:, 1 + compared] - random)
        made["covered"] = (ratio - ratio[:, :1]) / (real[0][:, None] - ratio[:, :1])
        for name, drawn, price in zip(("target", "source"), texts, pair.outcome.prices[kind], strict=True):
            cost = _means(drawn, price) / pair.outcome.tokens
            made[f"{name}_price"] = _with_zero(cost[:, :doses])
            made[f"random_{name}_price"] = cost[:, doses:].mean(axis=1)
        one, other = np.split(pair.outcome.moved[kind], [len(pair.one.held_out)])
        moved = (_means(texts[0], one) + _means(texts[1], other)) / 2
        made |= {"moved": _with_zero(moved[:, :doses]), "random_moved": moved[:, doses:].mean(axis=1)}
        for name, values in made.items():
            kinds.setdefault(name, []).append(values)
    for name, values in kinds.items():
        stacked = np.stack(values, axis=1)
        found[name] = (("draw", "kind", "dose")[: stacked.ndim]), stacked
    return xr.Dataset(found, coords={"kind": list(pair.outcome.steered)})


def _with_zero(values: np.ndarray) -> np.ndarray:
    """Values (draw, dose) with those of the dose 0 before them."""
    return np.concatenate([np.zeros((len(values), 1)), values], axis=1)


def _sizes(pairs: Sequence[Steered]) -> xr.Dataset:
    """How many prompts, and held-out texts and their clusters, of both datasets, there are; of all pairs the sums."""
    prompts = [len(pair.prompts.ids) for pair in pairs]
    documents = [sum(len(side.held_out) for side in (pair.one, pair.other)) for pair in pairs]
    clusters = [sum(len(set(side.cluster)) for side in (pair.one, pair.other)) for pair in pairs]
    known = {
        "prompts": (prompts, "prompts, each of a cluster", "prompts"),
        "documents": (documents, "held-out texts", "documents"),
        "clusters": (clusters, "clusters of held-out texts", "clusters"),
    }
    return xr.Dataset(
        {
            name: ("pair", np.array([sum(numbers), *numbers]), {"long_name": title, "units": unit})
            for name, (numbers, title, unit) in known.items()
        }
    )


def _without_few(metrics: xr.Dataset, pairs: Sequence[Steered], fewest: int) -> xr.Dataset:
    """The metrics without the limits of pairs with few clusters, and of all together if there is one."""
    least = [min(len(pair.prompts.ids), *(len(set(each.cluster)) for each in pair[:2])) for pair in pairs]
    enough = xr.DataArray([min(least) >= fewest, *(number >= fewest for number in least)], dims="pair")
    for name in MEASURES:
        kept = metrics[name].where(enough | (metrics["interval"] == "estimate")).transpose(*metrics[name].dims)
        metrics[name] = kept.assign_attrs(metrics[name].attrs)
    return metrics


def _band(pairs: Sequence[Steered], draws: xr.Dataset, confidence: float) -> xr.Dataset:
    """Where one more random vector would lie, less the mean of those that there are, and p values of the excess.

    The prediction interval of Student's t: the spread of n vectors times the square root of 1 + 1 / n.
    """
    each = np.array([[random.mean(axis=0) for random in pair.outcome.random.values()] for pair in pairs])
    means = np.concatenate([each.mean(axis=0, keepdims=True), each])  # (pair, kind, vector)
    number = means.shape[-1]
    spread = means.std(axis=-1, ddof=1) * np.sqrt(1 + 1 / number)
    half = spread * scipy.stats.t.ppf((1 + confidence) / 2, number - 1)
    excess = draws["excess"].isel(draw=0).transpose("pair", "kind").values
    p = scipy.stats.t.sf(excess / np.maximum(spread, 1e-12), number - 1)
    q = np.full(p.shape, np.nan)
    q[1:] = scipy.stats.false_discovery_control(p[1:].ravel()).reshape(p[1:].shape)
    band = np.stack([0 * half, -half, half], axis=-1)
    nats = {"units": "nats per token"}
    return xr.Dataset(
        {
            "null_excess": (("pair", "kind", "interval"), band, nats | {"long_name": "band of one more random vector"}),
            "random_each": (
                ("pair", "kind", "vector"),
                means,
                nats | {"long_name": "log-likelihood ratio with each random vector"},
            ),
            "p_value": (("pair", "kind"), p, {"long_name": "p value of the excess", "units": "1"}),
            "q_value": (("pair", "kind"), q, {"long_name": "p value, corrected for all", "units": "1"}),
        },
        coords={"interval": list(INTERVAL), "kind": draws["kind"], "pair": draws["pair"]},
    )


def _choice(pairs: Sequence[Steered]) -> xr.Dataset:
    """By what, and as which, layers were chosen."""
    layers, kinds = pairs[0].outcome.layers, list(pairs[0].outcome.choosing)
    ratio = np.full((1 + len(pairs), len(kinds), len(layers)), np.nan)
    whole, chosen = np.full(ratio.shape[:2], np.nan), np.full(ratio.shape[:2], "", dtype=object)
    for row, pair in enumerate(pairs, start=1):
        for column, kind in enumerate(kinds):
            tried = pair.outcome.choosing[kind]
            ratio[row, column] = tried[: len(layers)]
            whole[row, column] = tried[-1] if len(tried) > len(layers) else np.nan
            found = pair.outcome.chosen[kind]
            chosen[row, column] = ALL if len(found) > 1 else str(found[0])
    nats = {"long_name": "log-likelihood ratio of the prompts by which the layer is chosen", "units": "nats per token"}
    return xr.Dataset(
        {
            "choosing_ratio": (("pair", "kind", "layer"), ratio, nats),
            "choosing_all": (("pair", "kind"), whole, nats | {"long_name": f"{nats['long_name']}, all layers at once"}),
            "chosen": (("pair", "kind"), chosen, {"long_name": "layer in which vectors are added"}),
        },
        coords={"layer": layers},
    )


def table(metrics: xr.Dataset, names: Sequence[str] = tuple(MEASURES)) -> pd.DataFrame:
    """Measures as rows: measure, unit, pair, kind, dose, estimate, low, high."""
    whole = summary.table(metrics, names).drop(columns="layer")
    columns = [each for each in ("measure", "unit", "pair", "kind", "dose", *INTERVAL) if each in whole]
    return whole[columns]


def text_of(examples: Mapping, decode) -> dict:
    """The examples of an outcome as text, by kind: the prompt, and what follows unsteered and steered."""
    return {kind: [decode(ids) for ids in texts] for kind, texts in examples.items()}
