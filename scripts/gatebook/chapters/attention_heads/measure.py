"""Attention heads: from sequences and pairs of prompts to scores with intervals.

All is a mean, or a ratio of sums, over sequences of random tokens, or over the sources of a task's pairs, which are
resampled whole.
"""

from collections.abc import Mapping

import numpy as np
import scipy.stats
import xarray as xr

from gatebook.chapters.attention_heads import DIRECTIONS, MEASURES, NAMED, SCORES
from gatebook.chapters.attention_heads.doing import Done, halves
from gatebook.chapters.attention_heads.repeated import Found
from gatebook.measures import recovered, uncertainty
from gatebook.measures.summary import Bootstrap, Measured, summarise
from gatebook.measures.uncertainty import POOLED

OF_SEQUENCES, OF_HEADS = "random tokens", ("score", "layer", "head")
GAINS = {"induction_gain": ("shuffled", "repeated"), "repetition_gain": ("new", "shuffled")}


def strongest(beyond: np.ndarray) -> np.ndarray:
    """The head that has most beyond chance in the other half of the sequences than each: (sequence, score) int64.

    beyond (sequence, score, layer, head), NaN where there is no head; numbers of heads count through all layers. The
    halves are every second sequence.
    """
    flat = np.nan_to_num(beyond.reshape(*beyond.shape[:2], -1), nan=-np.inf)
    even = np.arange(len(beyond)) % 2 == 0
    best = {half: flat[even == half].mean(axis=0).argmax(axis=-1) for half in (True, False)}
    return np.stack([best[not half] for half in even])


def of_sequences(found: Found) -> xr.Dataset:
    """What sequences show, as a tally whose documents they are: losses, and what heads look at."""
    beyond, count = found.scores - found.null, len(found.scores)
    tally = {f"{name}_loss": ("document", values) for name, values in found.losses.items()}
    tally |= {gain: ("document", found.losses[other] - found.losses[one]) for gain, (other, one) in GAINS.items()}
    of_heads = {"head_score": found.scores, "head_score_null": found.null, "head_score_beyond": beyond}
    tally |= {name: (("document", *OF_HEADS), values) for name, values in of_heads.items()}
    best = strongest(beyond)[..., None]
    for name, values in {"strongest_score": found.scores, "strongest_beyond": beyond}.items():
        chosen = np.take_along_axis(values.reshape(*values.shape[:2], -1), best, axis=-1)[..., 0]
        tally[name] = ("document", "score"), chosen
    names = [str(number) for number in range(count)]
    coords = {"document_id": ("document", names), "cluster": ("document", names)}
    coords |= {"score": list(SCORES), "layer": found.layers, "head": np.arange(beyond.shape[-1])}
    return xr.Dataset(tally | {"tokens": ("document", np.ones(count, np.int64))}, coords)


def of_pairs(done: Done) -> xr.Dataset:
    """What heads do for the pairs of a task, and what that is divided by: (document, ...), documents being pairs."""
    gap, of_heads = done.clean - done.corrupt, ("document", "layer", "head")
    carried = np.stack([done.patched[0] - done.corrupt[:, None, None], done.clean[:, None, None] - done.patched[1]], 1)
    best = np.zeros((*carried.shape[:2], 1), np.int64)
    for half, other in halves(done.source):
        sums = np.nan_to_num(carried[other].reshape(other.sum(), len(DIRECTIONS), -1).sum(axis=0), nan=-np.inf)
        best[half] = sums.argmax(axis=-1)[:, None]
    known, mover = np.isfinite(done.inhibition), np.full(done.direct.shape, np.nan)
    if set(NAMED) <= set(done.roles):
        io, *others = (done.attention[:, done.roles.index(role)] for role in NAMED)
        mover = io - np.maximum(*others)
    tally = {
        "gap": ("document", gap),
        "carried": (("document", "direction", "layer", "head"), carried),
        "most": (("document", "direction"), np.take_along_axis(carried.reshape(*best.shape[:2], -1), best, -1)[..., 0]),
        "direct_effect": (of_heads, done.direct),
        "direct_effect_beyond": (of_heads, done.direct - done.corrupted),
        "mover_attention": (of_heads, mover),
        "role_attention": (("document", "role", "layer", "head"), done.attention),
        "inhibited": (of_heads, np.where(known, done.inhibition, 0)),
        "inhibition_pairs": (of_heads, known.astype(np.float64)),
        "number": ("document", np.ones(len(gap))),
    }
    return xr.Dataset(tally, {"role": done.roles, "direction": list(DIRECTIONS)})


def measure(
    found: Found, done: Mapping[str, Done], *, resamples: int, seed: int, confidence: float, fewest_clusters: int
) -> Measured:
    """All measures of the chapter.

    Parameters
    ----------
    found
        What sequences show.
    done
        What heads do for the tasks that the model does, by name.
    resamples, seed, confidence
        Of the intervals.
    fewest_clusters
        With fewer sequences, or sources of pairs, there are no intervals.

    Returns
    -------
    Measured
        `MEASURES`: losses and gains (dataset, interval), dataset being "pooled"; scores (score, layer, head, interval)
        with `q_value`, `strongest_*` (dataset, score, interval); of tasks (task, layer, head, interval), with
        `direction` or `role` where there are several, and `pairs`, `sources`, `gap` (task). `documents`, `clusters`
        (dataset): the sequences. The draws are those of what has a dataset.
    """
    method, tallies = Bootstrap(confidence), {OF_SEQUENCES: of_sequences(found)}
    tally = tallies[OF_SEQUENCES]
    resampling = uncertainty.resample(tallies, resamples, seed)
    names = [name for name in MEASURES if name in tally]
    sums = uncertainty.dataset_draws(tallies, [*names, "tokens"], resampling).sel(dataset=[POOLED])
    draws = sums[names] / sums["tokens"]
    of_heads = [name for name in names if "head" in draws[name].dims]
    metrics = summarise(draws.drop_vars(of_heads).drop_dims(("layer", "head")), MEASURES, method)
    metrics = metrics.merge(uncertainty.sample_sizes(tallies).isel(dataset=[0]))
    for name in of_heads:
        metrics[name] = _interval(draws[name].sel(dataset=POOLED, drop=True), name, method)
    metrics["q_value"] = OF_HEADS, q_values(tally["head_score_beyond"].values), Q_VALUE
    metrics = uncertainty.without_few(metrics, fewest_clusters, metrics["clusters"])
    metrics = metrics.merge(_of_tasks(done, metrics, resamples, seed, method, fewest_clusters))
    attrs = {"confidence": confidence, "fewest_clusters": fewest_clusters}
    return Measured(metrics.assign_attrs(attrs), draws.drop_vars(of_heads).drop_dims(("layer", "head")))


Q_VALUE = {"long_name": "p value of the score beyond chance, corrected for all heads and scores", "units": "1"}
OF_TASKS = {
    "recovered": ("direction", "layer", "head"),
    "strongest_recovered": ("direction",),
    "direct_effect": ("layer", "head"),
    "direct_effect_beyond": ("layer", "head"),
    "role_attention": ("role", "layer", "head"),
    "mover_attention": ("layer", "head"),
    "inhibition": ("layer", "head"),
}
RATIOS = {"recovered": ("carried", "gap"), "strongest_recovered": ("most", "gap")}
RATIOS |= {"inhibition": ("inhibited", "inhibition_pairs")}


def q_values(beyond: np.ndarray) -> np.ndarray:
    """One-sided p values that scores beyond chance are above 0, corrected by Benjamini and Hochberg for all of them.

    beyond (sequence, ...) float64, NaN where there is no head; returned are (...).
    """
    count = len(beyond)
    error = beyond.std(axis=0, ddof=1) / np.sqrt(count)
    p = scipy.stats.t.sf(beyond.mean(axis=0) / np.maximum(error, 1e-12), count - 1)
    found, known = np.full(p.shape, np.nan), np.isfinite(p)
    if known.any():
        found[known] = scipy.stats.false_discovery_control(p[known])
    return found


def _interval(draws: xr.DataArray, name: str, method: Bootstrap) -> xr.DataArray:
    measure = MEASURES[name]
    attrs = {"long_name": measure.title, "units": measure.units, "formula": measure.formula}
    return method.interval(draws, measure.bounds, measure.bias).assign_attrs(attrs)


def _of_tasks(
    done: Mapping[str, Done], metrics: xr.Dataset, resamples: int, seed: int, method: Bootstrap, fewest: int
) -> xr.Dataset:
    """What heads do for tasks, with the dimension `task`, which is empty without any."""
    coords = {"layer": metrics["layer"], "head": metrics["head"], "direction": list(DIRECTIONS)}
    coords |= {"role": list(dict.fromkeys(role for one in done.values() for role in one.roles)), "task": list(done)}
    sizes = {dim: len(values) for dim, values in coords.items()} | {"interval": len(uncertainty.INTERVAL)}
    found = {
        name: xr.DataArray(np.full([sizes[dim] for dim in shape], np.nan), dims=shape)
        for name, dims in OF_TASKS.items()
        for shape in [("task", *dims, "interval")]
    }
    sources = []
    for number, (task, one) in enumerate(done.items()):
        tally = of_pairs(one)
        resampling = recovered.resampled(one.source, resamples, seed, task)
        sources.append(len(set(one.source)))
        for name, dims in OF_TASKS.items():
            above, below = (resampling.sums(tally[part].values) for part in RATIOS.get(name, (name, "number")))
            with np.errstate(divide="ignore", invalid="ignore"):
                values = above / below.reshape(*below.shape, *[1] * (above.ndim - below.ndim))
            draws = xr.DataArray(values, {"role": one.roles} if "role" in dims else {}, ("draw", *dims))
            each = _interval(draws, name, method).where(
                (sources[-1] >= fewest) | (np.array(uncertainty.INTERVAL) == "estimate")
            )
            if "role" in dims:
                each = each.reindex(role=coords["role"])
            found[name][number] = each.values
    for name in OF_TASKS:
        measure = MEASURES[name]
        attrs = {"long_name": measure.title, "units": measure.units, "formula": measure.formula}
        found[name] = found[name].assign_attrs(attrs)
    about = {"pairs": [len(one.clean) for one in done.values()], "sources": sources}
    about |= {"gap": [float((one.clean - one.corrupt).mean()) for one in done.values()]}
    for name, values in about.items():
        title, units = SIZES[name]
        found[name] = xr.DataArray(np.array(values, float), dims="task", attrs={"long_name": title, "units": units})
    about = {"long_name": "run into which the output of a head of the other one is put"}
    coords["direction"] = "direction", list(DIRECTIONS), about
    return xr.Dataset(found, coords | {"interval": list(uncertainty.INTERVAL)})


SIZES = {
    "pairs": ("pairs of prompts of a task", "pairs"),
    "sources": ("sources of the pairs of a task", "sources"),
    "gap": ("difference of the logits of both answers, clean minus corrupt, mean over pairs", "logits"),
}
