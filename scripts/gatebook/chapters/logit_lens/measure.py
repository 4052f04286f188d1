"""Logit lens: which windows are read, and what their sums amount to.

All sums are over the tokens of single windows, so that clusters can be resampled. Translators are fitted, and experts
and their tokens chosen, on windows of other clusters than those that are scored; intervals are given these choices.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.logit_lens import (
    ATTENTION,
    BY_PLACE,
    CONTROL,
    EMBEDDING,
    LAYER,
    MATCHED,
    MEASURES,
    OWN,
    REMOVED,
    SIDES,
    TRANSLATED,
)
from gatebook.measures import summary, uncertainty
from gatebook.measures.summary import MEAN, Bootstrap, Measured, summarise
from gatebook.measures.token_sample import documents_of, sizes
from gatebook.measures.uncertainty import POOLED
from gatebook.study import routed

OF_EXPERTS = ("attribution", "promotion")
NULLS = ("attribution_spread", "mean_promotion")
TINY = 1e-12


class Plan(NamedTuple):
    """Which windows are read.

    fitted, scored: their tokens, (position,) places in the study each; dataset, cluster (scored window,); removal
    (scored window,) bool: which run without an expert too; among (token,) bool: the tokens of all clusters that are not
    scored, on which the unigram model rests.
    """

    fitted: list[np.ndarray]
    scored: list[np.ndarray]
    dataset: np.ndarray
    cluster: np.ndarray
    removal: np.ndarray
    among: np.ndarray


def plan(study: xr.Dataset, *, windows: int, fitted_windows: int, removal_windows: int, seed: int) -> Plan:
    """Which windows are read of a study.

    Every second cluster of a dataset, in random order, is scored, the others are not. Of each side as many windows of
    each dataset are drawn as are asked for, one of each cluster before a second one.

    Parameters
    ----------
    study
        Its tokens, see `routed.read_tokens`.
    windows, fitted_windows, removal_windows, seed
        The settings of the chapter.

    Returns
    -------
    Plan
    """
    _, position = routed.windows(study)
    start = np.flatnonzero(position == 0)
    length = np.diff(start, append=len(position))
    cluster_of = study["cluster"].values[documents_of(study)]
    dataset, cluster = study["dataset"].values[start], cluster_of[start]
    side: dict[int, bool] = {}
    drawn: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for index, name in enumerate(study["name"].values.tolist()):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        mine = rng.permutation(np.flatnonzero(dataset == index))
        unsettled = [each for each in dict.fromkeys(cluster[mine].tolist()) if each not in side]
        side |= {each: place % 2 == 0 for place, each in enumerate(unsettled)}
        for scored, most in ((True, windows), (False, fitted_windows)):
            kept = mine[[side[each] is scored for each in cluster[mine].tolist()] & (length[mine] > 1)]
            turn = pd.Series(cluster[kept]).groupby(cluster[kept]).cumcount().to_numpy()
            drawn[scored].append(kept[np.argsort(turn, kind="stable")][:most])
    scored, fitted = (np.concatenate([np.zeros(0, np.int64), *drawn[kind]]) for kind in (True, False))
    turn = pd.Series(dataset[scored]).groupby(dataset[scored]).cumcount().to_numpy()
    spans = [[np.arange(start[each], start[each] + length[each]) for each in chosen] for chosen in (fitted, scored)]
    among = ~np.isin(cluster_of, [each for each, scored in side.items() if scored])
    return Plan(*spans, dataset[scored], cluster[scored], turn < removal_windows, among)


def unigram_loss(study: xr.Dataset, planned: Plan, vocabulary: int) -> np.ndarray:
    """Sums over the scored windows of -ln u(next token), in nats: (window,) float64.

    u = (c_d + V q) / (N_d + V) with the counts c_d of the window's dataset and q = (c + 1) / (N + V) with those of all
    datasets, both of the clusters that are not scored.
    """
    ids, of = study["token_id"].sel(kind="input").values, study["dataset"].values
    counts = np.array(
        [np.bincount(ids[planned.among & (of == index)], minlength=vocabulary) for index in range(study.sizes["name"])],
        dtype=np.float64,
    )
    common = (counts.sum(axis=0) + 1) / (counts.sum() + vocabulary)
    loss = -np.log((counts + vocabulary * common) / (counts.sum(axis=1, keepdims=True) + vocabulary))
    return np.array(
        [loss[dataset, ids[span[1:]]].sum() for span, dataset in zip(planned.scored, planned.dataset, strict=True)]
    )


class Found(NamedTuple):
    """What was found of a study.

    scored, removed: see `run.score` and `run.remove`; unigram (scored window,): see `unigram_loss`; promoted,
    suppressed (layer, expert, token) int64 and their logits; read (layer, expert, direction, end, token) and shared
    (layer, expert, other): see `run.read_weights`; strongest (layer,): the expert that is removed.
    """

    scored: xr.Dataset
    removed: xr.Dataset
    unigram: np.ndarray
    promoted: np.ndarray
    suppressed: np.ndarray
    promoted_logit: np.ndarray
    suppressed_logit: np.ndarray
    read: np.ndarray
    shared: np.ndarray
    strongest: Sequence[int]


def nothing(layers: Sequence[int], planned: Plan, *, experts: int, tokens: int, directions: int) -> Found:
    """What is found where nothing can be read.

    Parameters
    ----------
    layers, experts
        Numbers of the layers with experts, and how many each has.
    planned
        Which windows would be read.
    tokens, directions
        The settings of the chapter.

    Returns
    -------
    Found
        All is NaN, and no token is known.
    """
    sizes_of = {
        "removed": len(REMOVED),
        "side": len(SIDES),
        "kind": 2,
        "layer": len(layers),
        "expert": experts,
        "what": 3,
    }
    sizes_of |= {"place": 1 + len(layers), "token": tokens, "direction": directions, "end": 2, "other": experts}

    def unknown(dims: str, documents: int = 0, value: float = np.nan) -> tuple[list[str], np.ndarray]:
        names = dims.split()
        return names, np.full([(sizes_of | {"document": documents})[name] for name in names], value)

    number, removals = len(planned.scored), int(planned.removal.sum())
    coords = {"place": [EMBEDDING, *map(LAYER.format, layers)], "layer": list(layers)}
    scored = dict.fromkeys(("lens", "translated"), unknown("document place what", number))
    of_experts = unknown("kind document layer expert", number)
    scored |= dict.fromkeys(("slots", "attribution", "promotion", "of_layer"), of_experts)
    removed = {"change": unknown("removed side document layer place", removals)}
    removed |= {"tokens": unknown("removed side document layer", removals)}
    removed |= dict.fromkeys(("slots", "weight"), unknown("removed document layer", removals))
    token, logit = unknown("layer expert token", value=routed.NONE)[1], unknown("layer expert token")[1]
    return Found(
        xr.Dataset(scored, coords),
        xr.Dataset(removed, coords | {"removed": list(REMOVED), "side": list(SIDES)}),
        np.full(number, np.nan),
        *(token.astype(np.int64),) * 2,
        *(logit,) * 2,
        unknown("layer expert direction end token", value=routed.NONE)[1].astype(np.int64),
        unknown("layer expert other")[1],
        [routed.NONE] * len(layers),
    )


def depth_of(place: str) -> float:
    """After how many layers a place is; the attention of a layer is half of it."""
    kind, _, layer = place.partition(" ")
    return 0.0 if kind == EMBEDDING else int(layer) + (0.5 if kind == ATTENTION.split()[0] else 1.0)


def half_depth(gain: xr.DataArray, depth: np.ndarray) -> xr.DataArray:
    """The first depth at which a gain over `place` is half of that at the last one, between places on a line.

    depth (place,) is increasing. NaN where the last gain is not above 0.
    """
    values = gain.transpose(..., "place")
    found = np.apply_along_axis(_half, -1, values.values, depth)
    return values.isel(place=0, drop=True).copy(data=found)


def _half(gain: np.ndarray, depth: np.ndarray) -> float:
    wanted = gain[-1] / 2
    if not wanted > TINY:
        return np.nan
    after = int((gain >= wanted).argmax())
    if after == 0:
        return float(depth[0])
    return float(np.interp(wanted, gain[after - 1 : after + 1], depth[after - 1 : after + 1]))


def measure(
    study: xr.Dataset, planned: Plan, found: Found, *, resamples: int, seed: int, confidence: float
) -> Measured:
    """All measures of the chapter.

    Parameters
    ----------
    study
        Its tokens, see `routed.read_tokens`.
    planned
        Which windows were read.
    found
        What was found in them.
    resamples, seed, confidence
        Of the bootstrap.

    Returns
    -------
    Measured
        `lens_*`, `translated_*`, `translation_gain` (dataset, place, interval); `unigram_loss`, `half_depth`,
        `translated_half_depth`, `mean_translation_gain` (dataset, interval); `added_by_attention`, `added_by_experts`,
        `experts_beyond_attention`, `layer_attribution` (dataset, layer, interval); `attribution`, `promotion` (layer,
        expert, interval); `attribution_spread`, `mean_promotion`, `direction_agreement` (layer, interval) and their
        nulls `null_*`; `removal_change` (removed, side, layer, place, interval), `removal`, `removal_excess` (layer,
        interval); what has no dataset is pooled. `place_depth` (place), in layers. `promoted_token`,
        `suppressed_token` and their logits (layer, expert, token), `read_token` (layer, expert, direction, end, token).
        `strongest_expert` (layer,), `removed_slots`, `removed_weight` (removed, layer); `tokens`, `documents`,
        `clusters` (dataset): of the scored text; `removal_tokens`, `removal_clusters`.
    """
    method = Bootstrap(confidence)
    draws = _of_places(study, planned, found, resamples, seed)
    of_experts, nulls = _of_experts(study, planned, found, resamples, seed)
    agreement, by_chance = _of_directions(found, resamples, seed, confidence)
    draws = draws.merge(of_experts.drop_vars(OF_EXPERTS)).assign(direction_agreement=agreement)
    draws = draws.merge(_of_removal(study, planned, found, resamples, seed))
    out = summarise(draws, MEASURES, method)
    for name in OF_EXPERTS:
        known = MEASURES[name]
        attrs = {"long_name": known.title, "units": known.units, "formula": known.formula}
        out[name] = method.interval(of_experts[name], known.bounds).assign_attrs(attrs)
    for name, values in summarise(nulls, MEASURES, method).items():
        prefix, bare = (MEAN, name.removeprefix(MEAN)) if str(name).startswith(MEAN) else ("", name)
        out[f"{prefix}null_{bare}"] = values.assign_attrs(long_name=f"{values.attrs['long_name']}, experts dealt out")
    out = out.merge(by_chance).merge(_told(study, planned, found))
    attrs = {"pooled_datasets": study.sizes["name"], "resamples": resamples, "confidence": confidence}
    return Measured(out.assign_attrs(attrs), draws)


def _tallies(study: xr.Dataset, planned: Plan, among: np.ndarray) -> dict[str, xr.Dataset]:
    """The scored windows `among` (window,) of each dataset as its documents, for the bootstrap."""
    lengths = np.array([len(span) - 1 for span in planned.scored], dtype=np.int64)
    files, found = study["dataset_sha256"].values.tolist(), {}
    for index, name in enumerate(study["name"].values.tolist()):
        mine = np.flatnonzero(among & (planned.dataset == index))
        coords = {name: ("document", planned.cluster[mine].astype(str)) for name in ("document_id", "cluster")}
        attrs = {"dataset": name, "dataset_sha256": files[index]}
        if len(mine):
            found[name] = xr.Dataset(
                {"tokens": ("document", lengths[mine]), "window": ("document", mine)}, coords, attrs
            )
    return found


def _of_places(study: xr.Dataset, planned: Plan, found: Found, resamples: int, seed: int) -> xr.Dataset:
    """Draws of what is read at places, of every dataset and pooled."""
    every = np.ones(len(planned.scored), bool)
    tallies = _tallies(study, planned, every)
    names = ["tokens", "lens", "translated", "unigram"]
    for name, tally in tallies.items():
        window = tally["window"].values
        parts = found.scored[["lens", "translated"]].isel(document=window)
        tallies[name] = tally.assign({**parts, "unigram": ("document", found.unigram[window])})
    sums = uncertainty.dataset_draws(tallies, names, uncertainty.resample(tallies, resamples, seed))
    sums = sums.reindex(dataset=[POOLED, *study["name"].values.tolist()])
    means = {name: sums[name] / sums["tokens"].where(sums["tokens"] > 0) for name in names[1:]}
    out = xr.Dataset()
    for kind, measures in (("lens", BY_PLACE), ("translated", TRANSLATED)):
        out = out.assign({name: means[kind].isel(what=place) for place, name in enumerate(measures)})
    out["unigram_loss"] = means["unigram"]
    out["translation_gain"] = out["lens_loss"] - out["translated_loss"]
    out["mean_translation_gain"] = out["translation_gain"].isel(place=slice(None, -1)).mean("place", skipna=False)
    depth = np.array([depth_of(place) for place in out["place"].values.tolist()])
    for name, loss in (("half_depth", "lens_loss"), ("translated_half_depth", "translated_loss")):
        out[name] = half_depth(out["unigram_loss"] - out[loss], depth)
    return out.merge(_added(out["lens_loss"], found.scored["layer"].values.tolist()))


def _added(loss: xr.DataArray, layers: list[int]) -> xr.Dataset:
    """By how much the loss over `place` falls by attention and by experts of the layers; NaN where that is not told."""
    places, unknown = loss["place"].values.tolist(), loss.isel(place=0, drop=True) * np.nan
    parts: dict[str, list[xr.DataArray]] = {"added_by_attention": [], "added_by_experts": []}
    for layer in layers:
        between, after = ATTENTION.format(layer), places.index(LAYER.format(layer))
        at = (after - 2, after - 1, after) if between in places else None
        values = [loss.isel(place=one, drop=True) for one in at] if at else None
        parts["added_by_attention"].append(values[0] - values[1] if values else unknown)
        parts["added_by_experts"].append(values[1] - values[2] if values else unknown)
    out = xr.Dataset({name: xr.concat(each, "layer") for name, each in parts.items()}).assign_coords(layer=layers)
    return out.assign(experts_beyond_attention=out["added_by_experts"] - out["added_by_attention"])


def _pooled(study: xr.Dataset, planned: Plan, values: xr.Dataset, resamples: int, seed: int) -> xr.Dataset:
    """Draws of the sums of values (document, ...) over all scored windows, datasets being strata."""
    tallies = _tallies(study, planned, np.ones(len(planned.scored), bool))
    resampling, total = uncertainty.resample(tallies, resamples, seed), {}
    for name, array in values.items():
        array = array.transpose("document", ...)
        sums = sum(resampling[dataset].sums(array.values[tally["window"].values]) for dataset, tally in tallies.items())
        total[name] = (("draw", *array.dims[1:]), sums)
    return xr.Dataset(total, {name: each for name, each in values.coords.items() if "document" not in each.dims})


def _of_experts(
    study: xr.Dataset, planned: Plan, found: Found, resamples: int, seed: int
) -> tuple[xr.Dataset, xr.Dataset]:
    """Draws of what experts write, and of the same after they were dealt out."""
    parts = found.scored[["slots", "attribution", "promotion", "of_layer"]]
    by_kind = []
    for kind in range(2):
        sums = _pooled(study, planned, parts.isel(kind=kind), resamples, seed)
        known, all_slots = sums["slots"].where(sums["slots"] > 0), sums["slots"].sum("expert", skipna=False)
        attribution = sums["attribution"] / known
        promotion = sums["promotion"] / known - sums["of_layer"] / all_slots.where(all_slots > 0)
        promotion = promotion.where(xr.DataArray(found.promoted[..., 0] != routed.NONE, dims=("layer", "expert")))
        made = {"attribution": attribution, "promotion": promotion}
        made |= {"attribution_spread": attribution.std("expert"), "mean_promotion": promotion.mean("expert")}
        by_kind.append(xr.Dataset(made))
    tallies = _tallies(study, planned, np.ones(len(planned.scored), bool))
    whole = found.scored["attribution"].isel(kind=0).sum("expert", skipna=False)
    for name, tally in tallies.items():
        tallies[name] = tally.assign(whole=whole.isel(document=tally["window"].values))
    sums = uncertainty.dataset_draws(tallies, ["whole", "tokens"], uncertainty.resample(tallies, resamples, seed))
    sums = sums.reindex(dataset=[POOLED, *study["name"].values.tolist()])
    by_kind[0]["layer_attribution"] = sums["whole"] / sums["tokens"]
    return by_kind[0], by_kind[1][list(NULLS)]


def _of_directions(found: Found, resamples: int, seed: int, confidence: float) -> tuple[xr.DataArray, xr.Dataset]:
    """Draws of the agreement with directions, experts resampled, and what the tokens of other experts give."""
    rng, experts = np.random.default_rng(seed), found.shared.shape[1]
    layers, every = {"layer": found.scored["layer"].values}, np.arange(experts)

    def mean(expert: np.ndarray, other: np.ndarray) -> xr.DataArray:
        return xr.DataArray(found.shared[:, expert, other], layers, ("layer", "draw", "expert")).mean("expert")

    chosen = np.concatenate([every[None], rng.integers(0, experts, (resamples, experts))])
    draws = mean(chosen, chosen)
    null = mean(np.tile(every, (resamples, 1)), rng.permuted(np.tile(every, (resamples, 1)), axis=1))
    known = MEASURES["direction_agreement"]
    attrs = {"long_name": f"{known.title}, tokens of other experts", "units": known.units}
    chance = {
        "null_direction_agreement": uncertainty.chance(null, confidence, "draw").assign_attrs(attrs),
        f"{MEAN}null_direction_agreement": uncertainty.chance(null.mean("layer"), confidence, "draw").assign_attrs(
            attrs
        ),
    }
    return draws, xr.Dataset(chance)


def _of_removal(study: xr.Dataset, planned: Plan, found: Found, resamples: int, seed: int) -> xr.Dataset:
    """Draws of what is lost without the strongest experts; clusters of all datasets are resampled together."""
    tallies = _tallies(study, planned, planned.removal)
    window = np.concatenate([tally["window"].values for tally in tallies.values()])
    whole = xr.concat(tallies.values(), "document", coords="minimal", compat="override", combine_attrs="drop")
    place = np.searchsorted(np.flatnonzero(planned.removal), window)
    values = found.removed[["change", "tokens"]].isel(document=place).transpose("document", ...)
    whole = whole.assign_coords(cluster=("document", planned.cluster[window].astype(str)))
    resampling = uncertainty.resample({POOLED: whole}, resamples, seed)[POOLED]
    coords = {name: values[name] for name in ("removed", "side", "layer", "place")}
    change, tokens = (
        xr.DataArray(resampling.sums(values[name].values), dims=("draw", *values[name].dims[1:])).assign_coords(
            {dim: coords[dim] for dim in values[name].dims[1:]}
        )
        for name in ("change", "tokens")
    )
    at_end = change.isel(place=-1).sum("side", skipna=False) / tokens.sum("side", skipna=False)
    return (
        xr.Dataset(
            {
                "removal_change": change / tokens.where(tokens > 0),
                "removal": at_end.sel(removed=OWN, drop=True),
                "removal_excess": at_end.sel(removed=MATCHED, drop=True) - at_end.sel(removed=CONTROL, drop=True),
            }
        )
        .drop_vars("place", errors="ignore")
        .assign_coords(place=coords["place"])
    )


def _told(study: xr.Dataset, planned: Plan, found: Found) -> xr.Dataset:
    """What stands in the metrics beside measures."""
    tokens = np.sort(np.concatenate([np.zeros(0, np.int64), *(span[:-1] for span in planned.scored)]))
    slots, weight = (found.removed[name].sum("document", skipna=False) for name in ("slots", "weight"))
    removal = np.flatnonzero(planned.removal)
    counts = {
        "removal_tokens": sum(len(planned.scored[each]) - 1 for each in removal),
        "removal_clusters": len(np.unique(planned.cluster[removal])),
    }
    of_experts = ("layer", "expert", "token")
    found_tokens = {
        "promoted_token": (of_experts, found.promoted, "token that the expert promotes"),
        "suppressed_token": (of_experts, found.suppressed, "token that the expert suppresses"),
        "read_token": (("layer", "expert", "direction", "end", "token"), found.read, "token that a direction reads"),
        "promoted_logit": (of_experts, found.promoted_logit, "mean logit that the expert adds beyond its layer"),
        "suppressed_logit": (of_experts, found.suppressed_logit, "mean logit that the expert adds beyond its layer"),
    }
    out = xr.Dataset(
        {
            name: (dims, values, {"long_name": title, "units": "1"})
            for name, (dims, values, title) in found_tokens.items()
        }
    )
    out["strongest_expert"] = (
        "layer",
        list(found.strongest),
        {"long_name": "expert with the largest sum of weights", "units": "1"},
    )
    out["removed_slots"] = slots.assign_attrs(long_name="slots that are removed", units="slots")
    out["removed_weight"] = (weight / slots.where(slots > 0)).assign_attrs(
        long_name="mean weight of removed slots", units="1"
    )
    depth = [depth_of(place) for place in found.scored["place"].values.tolist()]
    out["place_depth"] = "place", depth, {"long_name": "layers before the place", "units": "layers"}
    for name, value in counts.items():
        out[name] = ((), value, {"long_name": name.replace("_", " of "), "units": name.split("_")[1]})
    out = out.assign_coords(layer=found.scored["layer"].values, expert=np.arange(found.promoted.shape[1]))
    return out.merge(sizes(study, tokens))


def with_texts(metrics: xr.Dataset, texts: Callable[[np.ndarray], list[str]]) -> xr.Dataset:
    """The metrics with `token_text` (token_id): the texts of all ids that they name, as `texts` gives them."""
    named = [metrics[f"{kind}_token"].values.ravel() for kind in ("promoted", "suppressed", "read")]
    token_id = np.unique(np.concatenate(named))
    token_id = token_id[token_id != routed.NONE]
    text = np.array(texts(token_id), dtype=object)
    return metrics.assign(token_text=("token_id", text, {"long_name": "text of the token, escaped"})).assign_coords(
        token_id=token_id
    )


def table(metrics: xr.Dataset) -> pd.DataFrame:
    """The measures as rows (`summary.table`)."""
    return summary.table(metrics, MEASURES)


def token_table(metrics: xr.Dataset) -> pd.DataFrame:
    """What experts promote and suppress as rows: layer, expert, kind, rank, token_id, token, logit; and what their
    directions read, kind "read", with the direction and its end."""
    texts = dict(zip(metrics["token_id"].values.tolist(), metrics["token_text"].values.tolist(), strict=True))
    parts = []
    for kind in ("promoted", "suppressed", "read"):
        rows = metrics[f"{kind}_token"].to_dataframe("token_id").reset_index()
        rows["logit"] = metrics[f"{kind}_logit"].values.ravel() if kind != "read" else np.nan
        parts.append(rows.rename(columns={"token": "rank"}).assign(kind=kind))
    whole = pd.concat(parts, ignore_index=True)
    whole["token"] = whole["token_id"].map(texts)
    columns = ["layer", "expert", "kind", "direction", "end", "rank", "token_id", "token", "logit"]
    whole = whole.astype({"direction": "Int64", "end": "Int64"})
    return whole.loc[whole["token_id"] != routed.NONE, columns].reset_index(drop=True)
