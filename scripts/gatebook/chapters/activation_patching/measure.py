"""Activation patching: from what a model says to shares of the gap, with intervals over sources.

Everything is a ratio of means over pairs, whose sources are resampled whole (`measures.recovered`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats
import xarray as xr

from gatebook.chapters.activation_patching import ALL, CONTROLS, EXCHANGED, GROUPS, MEASURES, METHODS
from gatebook.chapters.activation_patching.run import Outcome
from gatebook.measures import uncertainty
from gatebook.measures.recovered import DIRECTIONS, answered, does, left, ratio, resampled, shares
from gatebook.measures.summary import MEAN, Bootstrap, Measured, summarise
from gatebook.measures.uncertainty import Resampling
from gatebook.study.pairs import Pairs

GATE = ("right", "flips", "clean_difference", "corrupt_difference", "gap")
TOP = 10
DIMS = {
    "position_recovered": ("direction", "layer", "group"),
    "expert_recovered": ("direction", "layer", "expert"),
    "attention_recovered": ("direction", "layer"),
    "exchanged_recovered": ("direction", "exchanged", "where"),
    "routing_share": (),
    "gap_left": ("change", "where"),
    "sets_differ": ("layer",),
    **dict.fromkeys(("agreement", "rank_agreement", "slope", "top_overlap"), ("direction", "gradient")),
    "chosen_recovered": ("direction",),
    "random_recovered": ("direction",),
}
"""Dimensions of the measures of a task that the model does, after `draw`."""


def gate(clean: np.ndarray, resampling: Resampling) -> xr.Dataset:
    """Draws of the measures `GATE` of a task, (draw,), from m of its windows (window,)."""
    pairs = len(clean) // 2
    right, flips = answered(clean)
    values = right, flips, clean[:pairs], clean[pairs:], left(clean)
    ones = np.ones(pairs)
    return xr.Dataset({name: ("draw", ratio(resampling, each, ones)) for name, each in zip(GATE, values, strict=True)})


def halves(pairs: Pairs, seed: int) -> np.ndarray:
    """Which half of the sources each pair is in, 0 or 1, (pair,); all pairs of a source are in one."""
    known, index = np.unique(pairs.source.astype(str), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(known)) % 2)[index]


def passes(draws: xr.Dataset, confidence: float, sources: int, fewest: int) -> bool:
    """Whether a model does a task, by the intervals of its gate; never with fewer than `fewest` sources."""
    found = summarise(draws[["right", "flips"]], MEASURES, Bootstrap(confidence))
    return sources >= fewest and does(found["right"].values, found["flips"].values)


def task_draws(outcome: Outcome, resampling: Resampling) -> xr.Dataset:
    """Draws of all other measures of a task, `DIMS`."""
    clean = outcome.clean
    gap = left(clean)

    def recovered(patched: np.ndarray) -> np.ndarray:
        return ratio(resampling, shares(patched, clean), gap)

    exchanged = np.stack([outcome.exchanged[name] for name in EXCHANGED])
    changed = np.stack([outcome.exchanged[name] for name in (*EXCHANGED, *CONTROLS)])
    found = {
        "position_recovered": recovered(outcome.positions),
        "expert_recovered": recovered(outcome.experts),
        "attention_recovered": recovered(outcome.attention),
        "exchanged_recovered": recovered(exchanged),
        "gap_left": ratio(resampling, left(changed), gap),
        "sets_differ": ratio(resampling, outcome.differ.T, np.ones(len(gap))),
        "chosen_recovered": recovered(outcome.chosen),
        "random_recovered": recovered(outcome.random.mean(axis=0)),
    }
    routing = found["exchanged_recovered"][:, :, EXCHANGED.index("routing"), -1]
    found["routing_share"] = routing.mean(axis=1)
    return xr.Dataset({name: (("draw", *DIMS[name]), values) for name, values in found.items()}).merge(
        _agreement(found["expert_recovered"], attributed(outcome, resampling))
    )


def attributed(outcome: Outcome, resampling: Resampling) -> np.ndarray:
    """What attribution says that each expert recovers: (draw, direction, gradient, layer, expert)."""
    changes = np.stack([outcome.attribution[method] for method in METHODS])
    moved = shares(changes, np.zeros(len(outcome.clean)))
    return ratio(resampling, moved, left(outcome.clean))


def _agreement(true: np.ndarray, said: np.ndarray) -> xr.Dataset:
    """Draws of how attribution agrees with patching: true (draw, direction, layer, expert), said with a method."""
    true = np.broadcast_to(true[:, :, None], said.shape).reshape(*said.shape[:3], -1)
    said = said.reshape(true.shape)
    values = {
        "agreement": pearson(true, said),
        "rank_agreement": spearman(true, said),
        "slope": _divided((true * said).sum(axis=-1), (said**2).sum(axis=-1)),
        "top_overlap": overlap(true, said),
    }
    return xr.Dataset({name: (("draw", *DIMS[name]), each) for name, each in values.items()})


def pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's r over the last axis, NaN where one of both is constant."""
    one, two = (each - each.mean(axis=-1, keepdims=True) for each in (first, second))
    return _divided((one * two).sum(axis=-1), np.sqrt((one**2).sum(axis=-1) * (two**2).sum(axis=-1)))


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rho over the last axis, without the places at which both are 0 in all of the others."""
    used = ((first != 0) | (second != 0)).reshape(-1, first.shape[-1]).any(axis=0)
    if not used.any():
        return np.full(first.shape[:-1], np.nan)
    return pearson(*(scipy.stats.rankdata(each[..., used], axis=-1) for each in (first, second)))


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which share of the `TOP` places with the largest absolute values of one are among those of the other."""
    most = min(TOP, first.shape[-1])
    tops = [np.argsort(-np.abs(each), axis=-1, kind="stable")[..., :most] for each in (first, second)]
    return (tops[0][..., :, None] == tops[1][..., None, :]).any(axis=-1).mean(axis=-1)


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def null_agreement(outcome: Outcome, resampling: Resampling, permutations: int, seed: int) -> xr.Dataset:
    """`null_agreement`, `null_rank_agreement`, experts permuted within layers: (permutation, direction, gradient)."""
    rng, gap = np.random.default_rng(seed), left(outcome.clean)
    true = ratio(resampling, shares(outcome.experts, outcome.clean), gap)[0]
    said = attributed(outcome, resampling)[0]
    order = rng.random((permutations, *said.shape[-2:])).argsort(axis=-1)
    shuffled = np.take_along_axis(said[None], order[:, None, None], axis=-1)
    true = np.broadcast_to(true[None, :, None], shuffled.shape)
    flat = [each.reshape(*each.shape[:3], -1) for each in (true, shuffled)]
    found = {"null_agreement": pearson(*flat), "null_rank_agreement": spearman(*flat)}
    return xr.Dataset({name: (("permutation", "direction", "gradient"), each) for name, each in found.items()})


def measure(
    tasks: Mapping[str, Pairs],
    clean: Mapping[str, np.ndarray],
    outcomes: Mapping[str, Outcome],
    layers: Sequence[int],
    experts: int,
    *,
    permutations: int,
    halves_seed: int,
    resamples: int,
    seed: int,
    confidence: float,
    fewest_clusters: int,
) -> Measured:
    """All measures of the chapter.

    Parameters
    ----------
    tasks
        The pairs of every task.
    clean
        m of the windows of each, (window,).
    outcomes
        What patching did in those that are patched.
    layers, experts
        Numbers of the layers with experts, and how many experts each has.
    permutations, halves_seed
        Of the null of attribution.
    resamples, seed, confidence, fewest_clusters
        Of the intervals; a task with fewer sources has none.

    Returns
    -------
    Measured
        `MEASURES`, with the dimension `task`, NaN in tasks that are not patched. `attribution`, `attention_attribution`
        (task, direction, gradient, layer[, expert]), shares of the gap; `null_agreement`, `null_rank_agreement` (task,
        direction, gradient, interval); `chosen` (task, half) text; `passed` (task,) bool; `pairs`, `clusters`, `tokens`
        (task,). The draws are those of `GATE`.
    """
    gates, found, sizes = [], [], []
    like = _coordinates(layers, experts)
    for name, pairs in tasks.items():
        resampling = resampled(pairs.source, resamples, seed, name)
        gates.append(gate(clean[name], resampling))
        known = summarise(gates[-1], MEASURES, Bootstrap(confidence))
        sources = len(set(pairs.source))
        sizes.append((len(pairs), sources, int(pairs.lengths.sum()) * 2))
        known["passed"] = (
            (),
            passes(gates[-1], confidence, sources, fewest_clusters),
            {"long_name": "whether it does it"},
        )
        of_task = _of_task(outcomes.get(name), like, resampling, confidence, permutations, halves_seed)
        found.append(known.merge(of_task))
    metrics = xr.concat(found, dim="task", data_vars="all", join="outer", combine_attrs="override")
    metrics = metrics.assign_coords(task=list(tasks))
    words = {"pairs": "pairs of prompts", "clusters": "sources of pairs", "tokens": "tokens of all prompts"}
    for (name, word), values in zip(words.items(), zip(*sizes, strict=True), strict=True):
        units = {"pairs": "pairs", "clusters": "clusters", "tokens": "tokens"}[name]
        metrics[name] = "task", np.array(values, np.int64), {"long_name": word, "units": units}
    metrics = uncertainty.without_few(metrics, fewest_clusters, metrics["clusters"])
    draws = xr.concat(gates, dim="task").assign_coords(task=list(tasks))
    attrs = {"confidence": confidence, "fewest_clusters": fewest_clusters}
    return Measured(metrics.assign_attrs(attrs), draws)


def _coordinates(layers: Sequence[int], experts: int) -> dict[str, list]:
    return {
        "direction": list(DIRECTIONS),
        "layer": list(layers),
        "expert": list(range(experts)),
        "group": list(GROUPS),
        "exchanged": list(EXCHANGED),
        "change": [*EXCHANGED, *CONTROLS],
        "where": [*(f"layer {layer}" for layer in layers), ALL],
        "gradient": list(METHODS),
    }


def _of_task(
    outcome: Outcome | None,
    like: Mapping[str, list],
    resampling: Resampling,
    confidence: float,
    permutations: int,
    seed: int,
) -> xr.Dataset:
    """The measures of a task beside its gate, with intervals; all of them NaN if it is not patched."""
    draws = _nothing(like) if outcome is None else task_draws(outcome, resampling)
    known = summarise(draws.assign_coords({dim: like[dim] for dim in like}), MEASURES, Bootstrap(confidence))
    known = known.drop_vars(f"{MEAN}expert_recovered")
    if outcome is None:
        return known
    for name, each in null_agreement(outcome, resampling, permutations, seed).items():
        known[name] = uncertainty.chance(each, confidence, "permutation")
        known[name].attrs = {"long_name": f"{MEASURES[name[5:]].title}, experts permuted", "units": "1"}
    dims = ("direction", "gradient", "layer", "expert")
    words = {"long_name": "attributed effect of an expert, a share of the gap", "units": "1"}
    known["attribution"] = dims, attributed(outcome, resampling)[0], words
    moved = np.stack([outcome.attention_attribution[method] for method in METHODS])
    whole = shares(moved, np.zeros(len(outcome.clean))).mean(axis=0) / left(outcome.clean).mean()
    words = {"long_name": "attributed effect of the attention of a layer, a share of the gap", "units": "1"}
    known["attention_attribution"] = dims[:-1], whole, words
    chosen = [
        ", ".join(f"{like['layer'][layer]}.{expert}" for layer, expert in half) for half in outcome.chosen_experts
    ]
    words = {"long_name": "layer and number of the experts chosen for a half of the sources"}
    known["chosen"] = "half", np.array(chosen, dtype=object), words
    return known.assign_coords(half=["first half", "second half"])


def _nothing(like: Mapping[str, list]) -> xr.Dataset:
    """One draw of all measures of `DIMS`, NaN."""
    shapes = {name: [len(like[dim]) for dim in dims] for name, dims in DIMS.items()}
    return xr.Dataset({name: (("draw", *DIMS[name]), np.full((1, *shape), np.nan)) for name, shape in shapes.items()})
