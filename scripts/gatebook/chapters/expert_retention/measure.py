"""Retention: what is left of what a model predicts if tokens may select few experts of each layer only.

Documents of groups of clusters with even numbers are for calibration, those of the others for evaluation. Rankings and
the unigram model come from the first, all losses from the second. Pooled is the mean over datasets.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from gatebook.chapters.expert_retention import EFFECT, EVERY, FREQUENCY, MEASURES, OTHER, RANDOM, RANKINGS, WEIGHT
from gatebook.measures import uncertainty
from gatebook.measures.summary import Bootstrap, Measured, summarise
from gatebook.measures.token_sample import beginnings
from gatebook.measures.uncertainty import POOLED, sample_sizes_of


def calibrates(group: np.ndarray) -> np.ndarray:
    """Whether documents are for calibration, from the groups of their clusters: bool of the same shape."""
    return group % 2 == 0


class Texts(NamedTuple):
    """The beginnings of evaluation documents of a dataset, on which keeping few experts is tried.

    ids (text, position) int64; document_id, cluster (text,); unigram (text,) float64: the loss of the unigram model, in
    nats, summed over their tokens but the first; attrs: those of the token file.
    """

    ids: np.ndarray
    document_id: np.ndarray
    cluster: np.ndarray
    unigram: np.ndarray
    attrs: Mapping

    @property
    def tokens(self) -> np.ndarray:
        """How many tokens of each are predicted: (text,) int64."""
        return np.full(len(self.ids), self.ids.shape[1] - 1)


def spaced(names: Sequence[str], count: int) -> list[str]:
    """At most `count` of the datasets, evenly spaced from the first to the last."""
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[place] for place in places]


def texts_of(tokens: xr.Dataset, vocabulary: int, *, documents: int, length: int, seed: int) -> Texts:
    """What is tried of a dataset.

    Parameters
    ----------
    tokens
        Its token file (`documents.load_tokens`).
    vocabulary
        How many token ids there are.
    documents, length, seed
        The settings of the chapter; texts are no longer than a window.

    Returns
    -------
    Texts
        At most so many; none if no evaluation document is that long.
    """
    calibrating = calibrates(tokens["group"].values)
    made, chosen = beginnings(tokens, ~calibrating, documents=documents, length=length, seed=seed)
    ranked = np.repeat(calibrating, tokens["document_tokens"].values)
    nats = unigram_loss(tokens["token_id"].values[ranked], vocabulary)
    names = (tokens[name].values[chosen] for name in ("document_id", "cluster"))
    return Texts(made, *names, nats[made[:, 1:]].sum(axis=1), tokens.attrs)


def unigram_loss(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """-ln p of every token id, in nats: (vocabulary,) float64, from tokens (token,) int.

    p = (c + t / V) / (n + t), c how often the id occurs among the n tokens, t how many different ones do, V the size of
    the vocabulary: tokens that were not seen have together the probability of one that is seen for the first time;
    source: Witten and Bell (1991), The zero-frequency problem.
    """
    count = np.bincount(ids, minlength=vocabulary).astype(np.float64)
    types = max(int((count > 0).sum()), 1)
    return -np.log((count + types / vocabulary) / (count.sum() + types))


def numbers_kept(shares: Sequence[float], experts: int, top_k: int) -> list[int]:
    """How many experts of a layer are kept: `shares` of them, at least `top_k` and fewer than all, increasing."""
    found = {max(int(np.ceil(share * experts - 1e-9)), top_k) for share in shares}
    return sorted(each for each in found if each < experts)


def rankings(
    tallies: Mapping[str, xr.Dataset], chosen: Sequence[str], scan: xr.Dataset | None = None, *, random: int, seed: int
) -> dict[str, np.ndarray]:
    """The experts of each layer in the order in which they are kept, by every ranking, for each dataset.

    Parameters
    ----------
    tallies
        Of all datasets of the study, by name (`study.tallies`).
    chosen
        The datasets on which it is tried. Another dataset's ranking is that of the next of them, by frequency.
    scan
        What removing each expert does to documents, as the rule scan_ablation writes it, of which those for calibration
        rank; None if no expert was removed.
    random
        How many random orders.
    seed
        Of these.

    Returns
    -------
    dict[str, numpy.ndarray]
        By dataset: (order, layer, expert) int64, those of `RANKINGS` but the last, and then the random ones, which are
        the same for all datasets. Equal experts stand by their numbers. With one dataset, OTHER is as FREQUENCY. A
        ranking that is not known is -1 throughout.
    """
    frequency, weight = {}, {}
    for name, tally in tallies.items():
        mine = np.flatnonzero(calibrates(tally["document_group"].values))
        tokens = max(int(tally["tokens"].values[mine].sum()), 1)
        frequency[name], weight[name] = (
            tally[each].isel(document=mine).sum("document").transpose("layer", "expert").values / tokens
            for each in ("selected_count", "weight_sum")
        )
    every = sum(frequency.values())
    drawn = np.random.default_rng(seed).permuted(
        np.broadcast_to(np.arange(every.shape[1]), (random, *every.shape)), axis=-1
    )
    found = {}
    for index, name in enumerate(chosen):
        by = {FREQUENCY: frequency[name], WEIGHT: weight[name], EVERY: every}
        by |= {OTHER: frequency[chosen[(index + 1) % len(chosen)]], EFFECT: _effect(scan, name, every.shape)}
        ordered = [
            np.where(np.isnan(by[each]), -1, np.argsort(-by[each], axis=-1, kind="stable"))
            for each in RANKINGS
            if each != RANDOM
        ]
        found[name] = np.concatenate([ordered, drawn])
    return found


def _effect(scan: xr.Dataset | None, name: str, shape: tuple[int, int]) -> np.ndarray:
    """What removing each expert adds to the loss of a dataset's calibration documents, in nats: (layer, expert)."""
    if scan is None:
        return np.full(shape, np.nan)
    mine = np.flatnonzero((scan["dataset"].values == name) & calibrates(scan["group"].values))
    change = scan["loss_change"].isel(document=mine).transpose("document", "layer", "expert").values
    return change.sum(axis=0) if len(mine) and np.isfinite(change).all() else np.full(shape, np.nan)


def kept(order: np.ndarray, number: int) -> np.ndarray:
    """Which experts are the first `number` of an order (layer, expert): (layer, expert) bool."""
    found = np.zeros(order.shape, bool)
    np.put_along_axis(found, order[:, :number], True, axis=1)
    return found


def gains(texts: Mapping[str, Texts], clean: Mapping[str, np.ndarray], *, resamples: int, seed: int) -> xr.DataArray:
    """What a model knows beyond token frequencies: (dataset, draw) nats per token.

    clean: by dataset, the loss of each text with all experts, in nats, (text,).
    """
    if not texts:
        return xr.DataArray(np.zeros((0, 1 + resamples)), {"dataset": []}, ("dataset", "draw"))
    parts = {name: _tally(text, clean=clean[name]) for name, text in texts.items()}
    sums = _draws(parts, ["tokens", "clean", "unigram"], resamples, seed)
    return (sums["unigram"] - sums["clean"]) / sums["tokens"]


def learned(gain: xr.DataArray, least: float, confidence: float) -> list[str]:
    """The datasets of which a model surely knows more than `least` nats per token, by the intervals of `gains`."""
    low = uncertainty.interval(gain, confidence).sel(interval="low")
    return [name for name in gain["dataset"].values.tolist() if low.sel(dataset=name) > least]


def _tally(text: Texts, **values: np.ndarray) -> xr.Dataset:
    """Texts as the documents of a tally; values (text, ...) have the dimensions order and keep."""
    named = {name: (("document", "order", "keep")[: each.ndim], each) for name, each in values.items()}
    ids = {"document_id": ("document", text.document_id), "cluster": ("document", text.cluster)}
    more = {"tokens": ("document", text.tokens), "unigram": ("document", text.unigram)}
    return xr.Dataset(named | more, coords=ids, attrs=dict(text.attrs))


def _draws(parts: dict[str, xr.Dataset], names: list[str], resamples: int, seed: int) -> xr.Dataset:
    """Sums over texts in every draw, without those of all datasets."""
    sums = uncertainty.dataset_draws(parts, names, uncertainty.resample(parts, resamples, seed))
    return sums.isel(dataset=slice(1, None))


def measure(
    texts: Mapping[str, Texts],
    clean: Mapping[str, np.ndarray],
    lost: Mapping[str, np.ndarray],
    *,
    numbers: Sequence[int],
    experts: int,
    enough: float,
    resamples: int,
    seed: int,
    confidence: float,
) -> Measured:
    """All measures of the chapter.

    Parameters
    ----------
    texts
        By dataset, on what it could be tried.
    clean
        The loss of each text with all experts, in nats: (text,).
    lost
        Of those datasets on which it was tried the same with few, (text, order, number), orders as `rankings` gives
        them. Without any all measures are NaN.
    numbers
        How many experts per layer were kept, increasing.
    experts
        Of a layer; with all of them what is retained is 1.
    enough
        The setting of the chapter.
    resamples, seed, confidence
        Of the bootstrap over clusters.

    Returns
    -------
    Measured
        `retained`, `advantage`, `added_loss` (ranking, keep, dataset, interval), `smallest_keep` (ranking, dataset,
        interval), `gain` (dataset, interval); `null_retained` (keep, dataset, interval): that of random sets. `tokens`,
        `documents`, `clusters` (dataset): of what was tried.
    """
    names, keep = list(lost), [*numbers, experts]
    shape = (len(RANKINGS), len(keep), 0, 1 + resamples)
    nothing = xr.DataArray(np.zeros(shape), dims=("ranking", "keep", "dataset", "draw"))
    coords = {"ranking": list(RANKINGS), "keep": keep, "dataset": []}
    retained = added = nothing.assign_coords(coords)
    gain, of_sets = retained.isel(ranking=0, keep=0, drop=True), retained.isel(draw=0).rename(ranking="order")
    if names:
        tried = {}
        for name, values in lost.items():
            whole = np.broadcast_to(clean[name][:, None, None], (*values.shape[:2], 1))
            tried[name] = _tally(texts[name], clean=clean[name], lost=np.concatenate([values, whole], axis=2))
        sums = _draws(tried, ["tokens", "clean", "unigram", "lost"], resamples, seed).assign_coords(keep=keep)
        worse, gain = sums["lost"] - sums["clean"], sums["unigram"] - sums["clean"]
        left = 1 - worse / gain
        retained, added = _by_ranking(left), _by_ranking(worse / sums["tokens"])
        gain, of_sets = gain / sums["tokens"], left.isel(order=slice(len(RANKINGS) - 1, None), draw=0)
    draws = {"retained": retained, "advantage": retained.sel(ranking=FREQUENCY, drop=True) - retained}
    draws |= {"smallest_keep": _smallest(retained, enough), "added_loss": added, "gain": gain}
    whole = xr.Dataset({name: _with_mean(values) for name, values in draws.items()})
    out = summarise(whole.transpose("ranking", "keep", "dataset", "draw"), MEASURES, Bootstrap(confidence))
    known = {"long_name": "retained gain of random sets", "units": "1"}
    null = uncertainty.chance(_with_mean(of_sets), confidence, "order")
    out["null_retained"] = null.transpose("keep", "dataset", "interval").assign_attrs(known)
    out = out.merge(_sizes([texts[name] for name in names]))
    attrs = {"confidence": confidence, "experts": experts, "enough": enough, "pooled_datasets": len(names)}
    return Measured(out.assign_attrs(attrs), whole)


def _by_ranking(values: xr.DataArray) -> xr.DataArray:
    """Values by order as those by ranking: that of random sets is their mean."""
    first = len(RANKINGS) - 1
    random = values.isel(order=slice(first, None)).mean("order")
    found = xr.concat([values.isel(order=slice(None, first)), random.expand_dims("order")], dim="order")
    return found.rename(order="ranking").assign_coords(ranking=list(RANKINGS))


def _with_mean(values: xr.DataArray) -> xr.DataArray:
    """Values (..., dataset), and before them their mean over datasets."""
    mean = values.mean("dataset").expand_dims(dataset=[POOLED])
    return xr.concat([mean, values.assign_coords(dataset=values["dataset"].astype(object))], dim="dataset")


def _smallest(retained: xr.DataArray, enough: float) -> xr.DataArray:
    """The smallest number from which on all that were tried retain enough, of `retained` (keep, ...): (...)."""
    passes = (retained >= enough).isel(keep=slice(None, None, -1)).cumprod("keep").sum("keep")
    place = retained.sizes["keep"] - passes.clip(min=1).astype(int)
    return retained["keep"][place].drop_vars("keep").astype(float).where(retained.notnull().all("keep"))


def _sizes(tried: Sequence[Texts]) -> xr.Dataset:
    """`tokens`, `documents` and `clusters` (dataset,) of what was tried, pooled first."""
    found = sample_sizes_of([len(text.ids) for text in tried], [text.cluster.astype(object) for text in tried])
    tokens = [int(text.tokens.sum()) for text in tried]
    known = {"long_name": "tokens that are predicted", "units": "tokens"}
    return found.assign(tokens=("dataset", np.array([sum(tokens), *tokens], np.int64), known))


def sets(
    orders: Mapping[str, np.ndarray], numbers: Sequence[int], layers: Sequence[int], metrics: xr.Dataset
) -> list[dict]:
    """The sets of experts that a dataset's own rankings keep, as they are exported.

    Parameters
    ----------
    orders
        What `rankings` gives.
    numbers
        How many experts per layer are kept.
    layers
        Numbers of the layers, in the order of the orders.
    metrics
        What was measured of them.

    Returns
    -------
    list[dict]
        {dataset, ranking, keep, experts: {layer: [numbers, increasing]}, retained: [estimate, low, high]}.
    """
    found = []
    for name, order in orders.items():
        for place, ranking in enumerate((FREQUENCY, WEIGHT, EFFECT)):
            for number in numbers if (order[place] >= 0).all() else ():
                value = metrics["retained"].sel(dataset=name, ranking=ranking, keep=number).values
                experts = {str(layer): np.sort(order[place, row, :number]).tolist() for row, layer in enumerate(layers)}
                about = {"dataset": name, "ranking": ranking, "keep": number, "experts": experts}
                found.append(about | {"retained": [each if np.isfinite(each) else None for each in value.tolist()]})
    return found
