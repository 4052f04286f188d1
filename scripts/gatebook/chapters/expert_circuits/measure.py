"""Statistics of traced tasks: shares, ratios and correlations with a bootstrap over the sources of pairs.

A ratio is that of sums over pairs: in a resample both sums are over the pairs of the sources drawn. Both directions
together are sums over both.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import scipy.stats
import xarray as xr

from gatebook.chapters.expert_circuits import DIRECTIONS, KINDS, MEASURES, RECOMPUTED
from gatebook.chapters.expert_circuits.trace import Traced
from gatebook.measures import recovered, uncertainty
from gatebook.measures.uncertainty import INTERVAL

ABOUT = {
    "kind": ("what circuits consist of", ""),
    "direction": ("which prompt is the clean one", ""),
    "size": ("size of a circuit", "nodes"),
    "member": ("member of the chosen circuit, best first", ""),
    "sender": ("sender of the edge", ""),
    "receiver": ("receiver of the edge", ""),
    "sender_layer": ("layer of the sender, -1 of the embedding", "1"),
    "sender_expert": ("number of the expert that sends, -1 if it is none", "1"),
    "receiver_layer": ("layer of the receiver", "1"),
    "receiver_expert": ("number of the expert that receives, -1 if it is none", "1"),
    "pairs": ("pairs of prompts", "pairs"),
    "sources": ("sources of pairs", "sources"),
    "tested_sources": ("sources of the pairs on which circuits are tested", "sources"),
    "does": ("1 if the model does the task", "1"),
    "chosen_size": ("size of the chosen circuit", "nodes"),
    "nodes": ("nodes of the whole model that circuits may have", "nodes"),
    "most_added": ("size of the most that one other expert adds or takes away", "1"),
    "null_left": ("the same of random experts in the place of the circuit's", "1"),
    "null_chosen": ("faithfulness of random circuits in the shape of the chosen one", "1"),
    "null_faithfulness": ("faithfulness of random circuits of experts alone, as given", "1"),
    "null_pearson": ("Pearson's r of shuffled edges", "1"),
    "null_spearman": ("Spearman's rho of shuffled edges", "1"),
}
"""What variables beside the measures are, and their units, "" of words."""


class Draws:
    """Resamples of the sources of pairs: weights (draw, pair) float64, the first one of the sample."""

    def __init__(self, source: np.ndarray, resamples: int, seed: int, name: str):
        """Of pairs with the sources (pair,); resamples, seed and name as of `recovered.resampled`."""
        resampling = recovered.resampled(source, resamples, seed, name)
        self.sources = resampling.weights.shape[1]
        self.weights = resampling.weights[:, resampling.cluster].astype(np.float64)

    def ratio(self, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """The ratio of sums over pairs of (..., pair) in every draw: (..., draw); NaN where the whole is 0."""
        part, whole = np.asarray(part) @ self.weights.T, np.asarray(whole) @ self.weights.T
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(whole == 0, np.nan, part / whole)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The mean over pairs of (..., pair) in every draw: (..., draw)."""
        return self.ratio(values, np.ones(self.weights.shape[1]))


def together(values: np.ndarray) -> np.ndarray:
    """Values (direction, ...) of both directions, and after them their sum."""
    return np.concatenate([values, values.sum(axis=0, keepdims=True)])


def does(found: Traced, *, fewest_clusters: int, resamples: int, seed: int, confidence: float) -> bool:
    """Whether a model does a task: right and flipped more often than by chance, by the lower ends of intervals.

    Parameters
    ----------
    found
        What it says of the task.
    fewest_clusters
        Never with fewer sources, nor with one, of which no two halves can be made.
    resamples, seed, confidence
        Of the intervals over sources.

    Returns
    -------
    bool
    """
    if len(set(found.source)) < max(fewest_clusters, 2):
        return False
    shares = [_limits(each, confidence, (0, 1))[1] for each in _shares(found, resamples, seed).values()]
    return all(low > MEASURES["right"].null for low in shares)


def _shares(found: Traced, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Draws of how often the model is right, and flips."""
    draws = Draws(found.source, resamples, seed, "task")
    return {"right": draws.mean(found.said[0, 0] > 0), "flips": draws.mean(found.said[0, 1] < 0)}


def _limits(draws: np.ndarray, confidence: float, bounds: tuple[float, float] = (-np.inf, np.inf)) -> np.ndarray:
    """Estimate, low and high (..., interval) of draws (..., draw)."""
    array = xr.DataArray(draws, dims=(*(f"dim_{number}" for number in range(draws.ndim - 1)), "draw"))
    return uncertainty.interval(array, confidence, bounds).transpose(..., "interval").values


def faithfulness(curve: np.ndarray, whole: np.ndarray, empty: np.ndarray, draws: Draws) -> np.ndarray:
    """F of circuits that say (direction, ..., pair), by direction and together: (direction, ..., draw).

    whole, empty (direction, pair): what the whole model and the empty circuit say.
    """
    shape = (len(empty), *[1] * (curve.ndim - 2), empty.shape[-1])
    part, scale = together(curve - empty.reshape(shape)), together(whole - empty).reshape(len(empty) + 1, *shape[1:])
    return draws.ratio(part, scale)


def choose(found: Traced, kind: str, *, enough: float, resamples: int, seed: int, confidence: float) -> int:
    """The number of the smallest size that is enough by interval in both directions, on the pairs of the ranking.

    Parameters
    ----------
    found
        The circuits of a task.
    kind
        Of circuits.
    enough
        Faithfulness that is.
    resamples, seed, confidence
        Of the intervals over sources.

    Returns
    -------
    int
        If none is enough, the number of the largest one.
    """
    rank = found.ranked
    draws = Draws(found.source[rank], resamples, seed, "ranked")
    curve = found.curves[kind][..., rank]
    reached = _limits(faithfulness(curve, found.said[:, 0, rank], curve[:, 0], draws), confidence)
    good = (reached[:2, :, 1] >= enough).all(axis=0)
    return int(good.argmax()) if good.any() else len(good) - 1


def area(sizes: np.ndarray, count: int, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The area under a curve and that between it and 1, over the share of nodes that are kept.

    sizes (size,), the first 0; count: of all nodes; curve (..., size, draw). The whole model has F = 1. (..., draw).
    """
    at = np.append(sizes, count) / count
    whole = np.concatenate([curve, np.ones_like(curve[..., :1, :])], axis=-2)
    return tuple(np.trapezoid(each, at, axis=-2) for each in (whole, np.abs(1 - whole)))


def smallest(sizes: np.ndarray, limits: np.ndarray, enough: float, count: int) -> np.ndarray:
    """The smallest size at which each end of F (..., size, interval) is enough: (..., interval), NaN as these.

    The smaller size is that of the upper end, and so the lower end of the interval of sizes. Where none is enough all
    `count` nodes are, which are the model.
    """
    ends = limits[..., [0, 2, 1]]
    passed = ends >= enough
    found = np.where(passed.any(axis=-2), sizes[passed.argmax(axis=-2)], count)
    return np.where(np.isnan(ends).any(axis=-2), np.nan, found)


def correlations(one: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    """Pearson's and Spearman's correlation over edges of values (edge, draw): (draw,) each."""
    ranks = [scipy.stats.rankdata(each, axis=0) for each in (one, other)]
    return {"pearson": _pearson(one, other), "spearman": _pearson(*ranks)}


def _pearson(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = (each - each.mean(axis=0) for each in (one, other))
    size = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return np.divide((one * other).sum(axis=0), size, out=np.full(size.shape, np.nan), where=size > 0)


def measure(
    tasks: Mapping[str, Traced],
    then: Mapping[str, Sequence[Traced]],
    checkpoints: Sequence[str],
    settings: Mapping,
    *,
    fewest_clusters: int,
    resamples: int,
    seed: int,
    confidence: float,
) -> xr.Dataset:
    """The metrics of the chapter.

    Parameters
    ----------
    tasks
        What was traced, by the name of the task.
    then, checkpoints
        What the checkpoints of training say of each task, and their names; none where there is just one.
    settings
        Of the chapter.
    fewest_clusters
        With fewer sources on a half of a task nothing has an interval.
    resamples, seed, confidence
        Of the bootstrap.

    Returns
    -------
    xr.Dataset
        The measures of the chapter, over task and interval; over kind, direction, size, member, edge and checkpoint,
        where they have these; NaN where a task has none of it, and where the model does not do it.
    """
    out = _Layout(tasks, checkpoints, settings).empty()
    for number, (name, found) in enumerate(tasks.items()):
        put = _Put(out, number)
        tested = found.tested
        of = (slice(None), tested if found.orders else slice(None))
        every, test = (Draws(found.source[rows], resamples, seed, "task") for rows in of)
        all_limits, limits = (partial(_known, confidence, one.sources >= fewest_clusters) for one in (every, test))
        for share, draws in _shares(found, resamples, seed).items():
            put(share, all_limits(draws, share))
        put("gap", all_limits(every.mean(found.said[0, 0] - found.said[0, 1])))
        put("pairs", len(tested))
        put("sources", every.sources)
        put("tested_sources", test.sources)
        gate = {"fewest_clusters": fewest_clusters, "resamples": resamples, "seed": seed, "confidence": confidence}
        put("does", int(does(found, **gate)))
        for place, one in enumerate(then.get(name, ())):
            _then(put, place, one, (every, all_limits), (test, limits))
        if found.orders:
            wanted = (settings["enough"], settings["least_part"])
            _circuits(put, found, test, limits, *wanted, confidence)
            _edges(put, found, test, limits, settings, confidence)
    for measure, declared in MEASURES.items():
        out[measure].attrs = {"long_name": declared.title, "units": declared.units, "formula": declared.formula}
    for name, (meaning, units) in ABOUT.items():
        out[name].attrs = {"long_name": meaning} | ({"units": units} if units else {})
    attrs = {"confidence": confidence, "enough": settings["enough"], "fewest_clusters": fewest_clusters}
    attrs |= {"resamples": resamples, "random": settings["random"], "least_part": settings["least_part"]}
    attrs["not_traced"] = next((found.reason for found in tasks.values() if found.reason), "")
    return out.assign_attrs(attrs).assign_coords(task=list(tasks))


def _known(confidence: float, enough: bool, draws: np.ndarray, measure: str = "") -> np.ndarray:
    """The `_limits` of a measure; without ends where there are not `enough` sources."""
    ends = _limits(draws, confidence, MEASURES[measure].bounds if measure else (-np.inf, np.inf))
    return ends if enough else np.where(np.arange(3) == 0, ends, np.nan)


def _then(put, number: int, one: Traced, of_all: tuple[Draws, Callable], of_tested: tuple[Draws, Callable]) -> None:
    """What a checkpoint of training says, of all pairs and of those on which circuits are tested."""
    (every, all_limits), (test, limits) = of_all, of_tested
    put("gap_then", all_limits(every.mean(one.said[0, 0] - one.said[0, 1])), checkpoint=number)
    put("right_then", all_limits(every.mean(one.said[0, 0] > 0), "right_then"), checkpoint=number)
    for kind, curve in one.curves.items():
        here = curve[..., one.tested]
        found = faithfulness(here, one.said[:, 0, one.tested], here[:, 0], test)[:, one.chosen[kind]]
        put("chosen_then", limits(found), checkpoint=number, kind=KINDS.index(kind))


def _circuits(put, found: Traced, test: Draws, limits, enough: float, least: float, confidence: float) -> None:
    """Curves, areas, the chosen circuits, and what is asked of those of experts alone, if these do enough for it."""
    tested = found.tested
    whole, corrupt = (found.said[:, prompt, tested] for prompt in (0, 1))
    for number, kind in enumerate(KINDS):  # that of experts alone comes last
        curve, sizes = found.curves[kind][..., tested], found.sizes[kind]
        empty = curve[:, 0]
        if kind == RECOMPUTED:
            part = limits(test.ratio(together(whole - empty), together(whole - corrupt)))
            put("experts_part", part)
            if not (part[:2, 1] > least).all():
                return
        draws = faithfulness(curve, whole, empty, test)
        ends = limits(draws)
        for place, size in enumerate(sizes[1:], start=1):
            put("faithfulness", ends[:, place], kind=number, size=size)
        put("smallest_size", smallest(sizes[1:], ends[:, 1:], enough, len(found.orders[kind])), kind=number)
        for measure, each in zip(("area", "distance"), area(sizes, len(found.orders[kind]), draws), strict=True):
            put(measure, limits(each, measure), kind=number)
        chosen = found.chosen[kind]
        put("chosen", ends[:, chosen], kind=number)
        put("chosen_size", int(sizes[chosen]), kind=number)
        put("nodes", len(found.orders[kind]), kind=number)
        random = faithfulness(found.random[kind], whole, empty, test)[..., 0]
        put("null_chosen", _band(random, confidence), kind=number)
        for place, member in enumerate(found.circuit(kind)):
            put("member", found.nodes.name(member), kind=number, place=place)
    put("left", limits(faithfulness(found.outside, whole, empty, test)[:, 0]))
    put("null_left", _band(faithfulness(found.random_outside, whole, empty, test)[..., 0], confidence))
    if found.random_curves is not None:
        random = faithfulness(found.random_curves[None], whole[:1], empty[:1], test)[0, ..., 0]
        for size, each in zip(found.random_sizes, random, strict=True):
            put("null_faithfulness", _band(each, confidence), size=size)
    lost = draws[2, chosen] - faithfulness(found.without, whole, empty, test)[2]
    for place, each in enumerate(limits(lost)):
        put("lost", each, place=place)
    added = faithfulness(found.added, whole, empty, test)[2] - draws[2, chosen]
    put("added", limits(added.mean(axis=0)))
    put("most_added", float(np.abs(added[:, 0]).max()))


def _edges(put, found: Traced, test: Draws, limits, settings: Mapping, confidence: float) -> None:
    """Edges, by attribution and by path patching, and how far these agree."""
    tested, top = found.tested, found.strongest
    gap = (found.said[:, 0, tested] - found.said[:, 1, tested]).sum(axis=0)
    attribution, effect = (test.ratio(each.sum(axis=0), gap) for each in (found.attribution, found.effect))
    for place, (sender, receiver) in enumerate(found.edges[:top]):
        put("edge_attribution", limits(attribution)[place], edge=place)
        put("edge_effect", limits(effect)[place], edge=place)
        for end, node in (("sender", sender), ("receiver", receiver)):
            put(end, found.nodes.name(node), edge=place)
            put(f"{end}_layer", int(found.nodes.layer[node]), edge=place)
            put(f"{end}_expert", int(found.nodes.expert[node]), edge=place)
    if len(found.edges) > top:
        put("random_edge_effect", limits(np.abs(effect[top:]).mean(axis=0), "random_edge_effect"))
    for measure, draws in correlations(attribution[:top], effect[:top]).items():
        put(measure, limits(draws, measure))
    rng = np.random.default_rng(settings["seed"] + 4)
    shuffled = np.stack([rng.permutation(attribution[:top, 0]) for _ in range(settings["permutations"])], axis=-1)
    for measure, values in correlations(shuffled, np.broadcast_to(effect[:top, :1], shuffled.shape)).items():
        put(f"null_{measure}", _band(values, confidence))


def _band(values: np.ndarray, confidence: float) -> np.ndarray:
    """The mean of random values (..., draw), and the ends between which they lie: (..., interval)."""
    tail = (1 - confidence) / 2
    return np.stack([values.mean(axis=-1), *np.quantile(values, [tail, 1 - tail], axis=-1)], axis=-1)


class _Layout:
    """Dimensions of the metrics."""

    def __init__(self, tasks: Mapping[str, Traced], checkpoints: Sequence[str], settings: Mapping):
        traced = [found for found in tasks.values() if found.orders]
        most = [len(found.circuit(kind)) for found in traced for kind in KINDS]
        nodes = max((len(found.orders[kind]) for found in traced for kind in KINDS), default=0)
        self.sizes = [size for size in settings["sizes"] if size < nodes] or settings["sizes"][:1]
        self.sizes_of = {
            "task": len(tasks),
            "kind": len(KINDS),
            "direction": len(DIRECTIONS),
            "size": len(self.sizes),
            "place": max(most, default=1),
            "edge": max((found.strongest for found in traced), default=1),
            "checkpoint": len(checkpoints),
            "interval": len(INTERVAL),
        }
        self.checkpoints = list(checkpoints)

    def empty(self) -> xr.Dataset:
        """The metrics with nothing in them."""
        by = {
            "right flips gap added random_edge_effect pearson spearman null_pearson null_spearman": (),
            "experts_part left null_left": ("direction",),
            "faithfulness": ("kind", "direction", "size"),
            "area distance smallest_size chosen null_chosen": ("kind", "direction"),
            "null_faithfulness": ("size",),
            "lost": ("place",),
            "edge_effect edge_attribution": ("edge",),
            "gap_then right_then": ("checkpoint",),
            "chosen_then": ("checkpoint", "kind", "direction"),
        }
        made = {name: self._filled((*dims, "interval"), np.nan) for names, dims in by.items() for name in names.split()}
        made["most_added"] = self._filled((), np.nan)
        for name in ("pairs", "sources", "tested_sources", "does"):
            made[name] = self._filled((), 0)
        for name in ("chosen_size", "nodes"):
            made[name] = self._filled(("kind",), 0)
        made["member"] = self._filled(("kind", "place"), "")
        for end in ("sender", "receiver"):
            made[end] = self._filled(("edge",), "")
            made |= {f"{end}_{part}": self._filled(("edge",), -1) for part in ("layer", "expert")}
        coords = {"kind": list(KINDS), "direction": list(DIRECTIONS), "size": self.sizes}
        coords |= {"checkpoint": self.checkpoints, "interval": list(INTERVAL)}
        return xr.Dataset(made, coords)

    def _filled(self, dims: tuple[str, ...], value) -> tuple[tuple[str, ...], np.ndarray]:
        dims = ("task", *dims)
        kind = object if isinstance(value, str) else type(value)
        return dims, np.full([self.sizes_of[dim] for dim in dims], value, dtype=kind)


class _Put:
    """Writes values of one task into metrics, at places by dimension, of `size` by its label."""

    def __init__(self, out: xr.Dataset, task: int):
        self.out, self.task = out, task

    def __call__(self, name: str, value, **at: int) -> None:
        array = self.out[name]
        place = {"task": self.task} | at
        if "size" in at:
            place["size"] = int(np.flatnonzero(array["size"].values == at["size"])[0])
        array[place] = value
