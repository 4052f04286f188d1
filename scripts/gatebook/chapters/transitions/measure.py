"""Transitions: what a token's choice of experts in one layer says about its choice in the next layer.

Adjacent layers are taken two by two; a pair has the number of its later layer. Information is that between the first
choices of a token in both, of all tokens whose id occurs in another group of clusters within the same dataset; what ids
alone give is that of the counts in `expected`, which hold hardly any sampling noise: at most (E - 1)^2 / 2 T nats.
What the next set owes to the choice before is the share explained of `measures.explained`, of tokens that have a
partner of the same id and choice. Predictions are of tokens in groups that were not counted for them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.special
import scipy.stats
import xarray as xr

from gatebook.chapters.transitions import BOTH, CLASSES, FEWEST, MEASURES, TOKEN
from gatebook.chapters.transitions.expected import expected
from gatebook.inputs.clusters import GROUPS
from gatebook.measures.explained import Partners, partners, share_explained
from gatebook.measures.summary import Jackknife, Measured, summarise
from gatebook.measures.token_sample import counted, sizes
from gatebook.measures.uncertainty import INTERVAL, POOLED, miller_madow
from gatebook.study.routed import Layer

PAIR = ("expert", "other")
DESCRIBED = {
    "flow": ("tokens by their first choices in the layer before and in this one", "tokens"),
    "expected": ("the same if token ids alone decided", "tokens"),
    "lift": ("tokens by those that token ids alone give", "1"),
    "selection_correlation": ("correlation of the selections of an expert of the layer before and one of this", "1"),
    "logit_correlation": ("the same of their router logits less the mean over a token's experts", "1"),
    "common_tokens": ("share of tokens with a partner of the same id and first choice before", "1"),
}


def measure(study: xr.Dataset, layers: Iterable[Layer], *, tokens: int, seed: int, confidence: float) -> Measured:
    """All measures of the chapter, from the tokens of a study and its layers.

    Parameters
    ----------
    study
        Its tokens, see `routed.read`.
    layers
        In order, see `routed.read_layers`.
    tokens
        At most so many of each dataset, see `token_sample.counted`.
    seed
        Of the sample.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        `mutual_information`, `information_of_ids`, `information_of_ids_and_datasets`, `information_beyond_ids`,
        `next_entropy`, `same_number` (layer, interval); `share_explained` (class, dataset, layer, interval),
        `share_added`, `next_accuracy`, `majority_accuracy`, `accuracy_gained` (dataset, layer, interval); their means
        over layers. `flow`, `expected` (layer, expert, other): tokens by their first choices in the layer before and in
        this one, observed and by ids alone; `lift` (layer, expert, other, interval): their ratio, NaN below `FEWEST`
        expected tokens; `selection_correlation` (layer, expert, other): φ; `logit_correlation` (layer, expert, other):
        Pearson's r of logits less their mean over the experts of a token, NaN without logits; `null_same_number`
        (layer, interval): what numbers given at random give. `before` (layer): the layer before. Of a model with one
        layer all are NaN.
    """
    place, names = counted(study, tokens, seed), study["name"].values.tolist()
    ids = study["token_id"].sel(kind="input").values[place]
    group, dataset = (study[name].values[place].astype(np.int64) for name in ("group", "dataset"))
    token = np.unique(ids, return_inverse=True)[1]
    finest = partners(token * len(names) + dataset, group, dataset, len(names))
    covered = _among(finest.place, len(place))
    text = _Text(token, group, dataset, partners(token, group, dataset, len(names), covered), finest, len(names))
    numbers, before, pairs = [], None, []
    for layer in layers:
        now, experts = (layer.selected[place], _centred(layer.logits, place)), layer.experts
        if before is not None:
            pairs.append(_pair(text, *zip(before, now, strict=True), experts))
        numbers.append(layer.number)
        before = now
    if not pairs:
        numbers = numbers * 2
        pairs.append(_pair(text, *zip(before, before, strict=True), experts) * np.nan)
    every = xr.concat(pairs, dim="layer").assign_coords(
        {"class": list(CLASSES), "dataset": [POOLED, *names], "layer": numbers[1:], "expert": np.arange(experts)}
    )
    every["information_beyond_ids"] = every["mutual_information"] - every["information_of_ids"]
    every["accuracy_gained"] = every["next_accuracy"] - every["majority_accuracy"]
    share = every["share_explained"]
    every["share_added"] = share.sel({"class": BOTH}, drop=True) - share.sel({"class": TOKEN}, drop=True)
    draws, method = every[list(MEASURES)], Jackknife(confidence)
    out = summarise(draws, MEASURES, method).assign_coords(other=np.arange(experts))
    out["lift"] = method.interval(every["root_of_lift"], (0, np.inf)) ** 2
    for name, units in DESCRIBED.items():
        values = out["lift"] if name == "lift" else every[name]
        out[name] = values.assign_attrs(long_name=units[0], units=units[1])
    # Of numbers given at random the mean is 0, in all layers independently of each other.
    ends = xr.DataArray([0, -1, 1], {"interval": list(INTERVAL)}, ["interval"])
    reach = scipy.stats.norm.ppf((1 + confidence) / 2) * ends
    error = every["number_error"]
    over_layers = np.sqrt((error**2).sum("layer", skipna=False)) / error.sizes["layer"]
    for prefix, value in (("", error), ("mean_over_layers_", over_layers)):
        title = {"long_name": "the same, of numbers given at random", "units": "1"}
        out[f"{prefix}null_same_number"] = (value * reach).assign_attrs(title)
    out["before"] = "layer", numbers[:-1], {"long_name": "number of the layer before", "units": "1"}
    attrs = {"pooled_datasets": len(names), "groups": GROUPS, "tokens_per_dataset": tokens}
    attrs |= {"covered": float(covered.mean()), "seed": seed, "confidence": confidence}
    return Measured(out.merge(sizes(study, place)).assign_attrs(attrs), draws)


@dataclass(frozen=True)
class _Text:
    """The tokens that count: `token`, `group`, `dataset` (token,) int64, each numbered from 0.

    ids, finest: the tokens with a partner of the same id and dataset, as partners by id and by both; datasets: how
    many there are.
    """

    token: np.ndarray
    group: np.ndarray
    dataset: np.ndarray
    ids: Partners
    finest: Partners
    datasets: int


def _among(place: np.ndarray, tokens: int) -> np.ndarray:
    """Which of so many tokens have the places `place`: (token,) bool."""
    found = np.zeros(tokens, bool)
    found[place] = True
    return found


def _centred(logits: np.ndarray | None, place: np.ndarray) -> np.ndarray | None:
    """The logits of some tokens less their mean over the token's experts, which no selection depends on."""
    if logits is None:
        return None
    chosen = logits[place]
    return chosen - chosen.mean(axis=1, keepdims=True)


def _pair(text: _Text, selected: tuple, logits: tuple, experts: int) -> xr.Dataset:
    """All of two adjacent layers, from the experts that each token selects in both, (token, rank), and from their
    centred logits (token, expert), None where they are not known."""
    before, after = selected
    one, other = (selected[:, 0].astype(np.int64) for selected in (before, after))
    covered = text.ids.place
    flow = _draws(_counts(text.group[covered], GROUPS, one[covered], other[covered], experts))
    of_ids, of_both = (expected(found, one, other, experts) for found in (text.ids, text.finest))
    explained, common = _explained(text, one, after, experts)
    accuracies = _accuracies(
        _counts(text.group * text.datasets + text.dataset, GROUPS * text.datasets, one, other, experts)
    )
    correlation = _correlation(text.group, before, after, experts)
    apart = np.where(np.eye(experts, dtype=bool), np.nan, 1) * correlation
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(np.where(of_ids >= FEWEST, flow / of_ids, np.nan))
    root[:, np.isnan(root[0])] = np.nan
    return xr.Dataset(
        {
            "mutual_information": ("draw", _information(flow, miller_madow)),
            "information_of_ids": ("draw", _information(of_ids, _entropy)),
            "information_of_ids_and_datasets": ("draw", _information(of_both, _entropy)),
            "next_entropy": ("draw", miller_madow(flow.sum(axis=1)) / np.log(2)),
            "share_explained": (("class", "draw", "dataset"), explained),
            "next_accuracy": (("draw", "dataset"), accuracies[0]),
            "majority_accuracy": (("draw", "dataset"), accuracies[1]),
            "number_error": ((), _by_chance(correlation[0])),
            "same_number": ("draw", _mean(np.diagonal(correlation, axis1=1, axis2=2)) - _mean(apart)),
            "root_of_lift": (("draw", *PAIR), root),
            "flow": (PAIR, flow[0]),
            "expected": (PAIR, of_ids[0]),
            "selection_correlation": (PAIR, correlation[0]),
            "logit_correlation": (PAIR, _logit_correlation(*logits, experts)),
            "common_tokens": ("dataset", common),
        }
    )


def _counts(part: np.ndarray, parts: int, one: np.ndarray, other: np.ndarray, experts: int) -> np.ndarray:
    """How many tokens of each part go from each expert to each of the next layer: (part, expert, other) int64."""
    code = (part * experts + one) * experts + other
    return np.bincount(code, minlength=parts * experts**2).reshape(parts, experts, experts)


def _draws(parts: np.ndarray) -> np.ndarray:
    """Sums over groups (group, ...), and those without each of them: (draw, ...)."""
    whole = parts.sum(axis=0, keepdims=True)
    return np.concatenate([whole, whole - parts])


def _entropy(count: np.ndarray) -> np.ndarray:
    """Entropy in nats of distributions given as counts over the last axis, by their shares."""
    total = count.sum(axis=-1, keepdims=True)
    return scipy.special.entr(count / np.where(total > 0, total, np.nan)).sum(axis=-1)


def _information(count: np.ndarray, entropy: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Mutual information in bits of rows and columns of counts (draw, row, column), by an `entropy` in nats."""
    joint = entropy(count.reshape(len(count), -1))
    return (entropy(count.sum(axis=1)) + entropy(count.sum(axis=2)) - joint) / np.log(2)


def _explained(text: _Text, one: np.ndarray, after: np.ndarray, experts: int) -> tuple[np.ndarray, np.ndarray]:
    """What each class explains of the next set, (class, draw, 1 + dataset), and the share of tokens that it is of.

    They are the tokens with a partner of the same id and first choice before, who are partners in all classes.
    """
    codes = dict(zip(CLASSES, (one, text.token, text.token * experts + one), strict=True))
    found = partners(codes[BOTH], text.group, text.dataset, text.datasets)
    common = _among(found.place, len(one))
    parts = [
        share_explained(partners(code, text.group, text.dataset, text.datasets, common), after, experts).share
        for code in codes.values()
    ]
    return np.array(parts), np.append(found.coverage.mean(), found.coverage)


def _accuracies(count: np.ndarray) -> np.ndarray:
    """How often the next first choice is told by the one before, and by its frequency: (2, draw, 1 + dataset).

    count (group x dataset, expert, other). Each group is told from the others, in the draw of a group without it.
    """
    experts = count.shape[-1]
    count = count.reshape(GROUPS, -1, experts, experts)
    whole, datasets = count.sum(axis=1), count.shape[1]
    hits = np.zeros((2, 1 + GROUPS, datasets))
    tokens = np.zeros((1 + GROUPS, datasets))
    for draw in range(1 + GROUPS):
        known = whole.sum(axis=0) - (whole[draw - 1] if draw else 0)
        for group in range(GROUPS):
            table = known - whole[group]
            if group == draw - 1 or not table.any():
                continue
            most = np.full(experts, table.sum(axis=0).argmax())
            best = np.where(table.any(axis=1), table.argmax(axis=1), most)
            for row, told in enumerate((best, most)):
                hits[row, draw] += count[group][:, np.arange(experts), told].sum(axis=1)
            tokens[draw] += count[group].sum(axis=(1, 2))
    of_datasets = hits / np.where(tokens > 0, tokens, np.nan)
    return np.concatenate([_mean(of_datasets[..., None, :])[..., None], of_datasets], axis=-1)


def _correlation(group: np.ndarray, before: np.ndarray, after: np.ndarray, experts: int) -> np.ndarray:
    """Correlation of the selections of each expert and each of the next layer: (draw, expert, other) float64."""
    both, loads = np.zeros((GROUPS, experts, experts)), np.zeros((2, GROUPS, experts))
    for number in range(GROUPS):
        mine = np.flatnonzero(group == number)
        chosen = np.zeros((2, len(mine), experts), np.float32)
        for place, selected in enumerate((before, after)):
            np.put_along_axis(chosen[place], selected[mine].astype(np.int64), 1, axis=1)
        both[number] = chosen[0].T @ chosen[1]
        loads[:, number] = chosen.sum(axis=1)
    tokens = _draws(np.bincount(group, minlength=GROUPS))[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        share, one, other = (_draws(part) for part in (both, *loads))
        share, one, other = share / tokens, one[:, :, None] / tokens, other[:, None, :] / tokens
        spread = one * (1 - one) * other * (1 - other)
        return (share - one * other) / np.sqrt(np.where(spread > 1e-12, spread, np.nan))


def _logit_correlation(one: np.ndarray | None, other: np.ndarray | None, experts: int) -> np.ndarray:
    """Correlation over tokens of each column of one and each of the other: (expert, other) float64."""
    if one is None or other is None:
        return np.full((experts, experts), np.nan)
    one, other = (values - values.mean(axis=0, dtype=np.float64).astype(np.float32) for values in (one, other))
    spread = np.outer(*(np.linalg.norm(values.astype(np.float64), axis=0) for values in (one, other)))
    return (one.T @ other) / np.where(spread > 0, spread, np.nan)


def _by_chance(correlation: np.ndarray) -> float:
    """Standard error of the mean over pairs (expert, other) of equal number, if the numbers were given at random.

    That of the sum over a random permutation (Hoeffding 1951), by the number of experts; NaN if nothing is known.
    """
    known, experts = np.isfinite(correlation), len(correlation)
    if not known.any() or experts < 2:
        return np.nan
    apart = np.where(known, correlation, correlation[known].mean())
    apart = apart - apart.mean(axis=0) - apart.mean(axis=1, keepdims=True) + apart.mean()
    return float(np.sqrt((apart**2).sum() / (experts - 1)) / experts)


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean of what is known in each draw, (draw, ...); NaN if nothing is."""
    flat = values.reshape(*values.shape[:-2], -1) if values.ndim > 2 else values
    known = np.isfinite(flat)
    return np.where(known, flat, 0).sum(axis=-1) / np.where(known.any(axis=-1), known.sum(axis=-1), np.nan)
