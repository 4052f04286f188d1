"""Reach: how much of where a token goes the end of its text settles, and how much of it a change of the model leaves.

How the overlap of two sets of experts is corrected for chance is told in `measures.stability`.

The tokens before the last n of an unrelated text belong to another token that was drawn, whose group is another one.
Which one it is counts as chance: what leaves out a group leaves out the tokens of that group, not those that have its
text before them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from gatebook.chapters.reach import AGAIN, DTYPE, KERNEL, MEASURES, NOISE
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import stability
from gatebook.measures.stability import Cells
from gatebook.measures.summary import Jackknife, Measured, summarise
from gatebook.measures.token_sample import documents_of, in_turn, sizes
from gatebook.measures.uncertainty import POOLED
from gatebook.study import routed

DIMS = ("layer", "draw", "dataset")


class Plan(NamedTuple):
    """What is run.

    place (token,) int64: the tokens that are drawn, by their places in the study; short, unrelated: by length, the text
    of each, (position,) int32, unrelated only for lengths of at most half the longest; begins: how many of the tokens
    are in a window that begins with special ones, which their texts keep. windows: the token ids of the windows that
    are run with changes, whole; later (token,) int64: the places of their tokens that count, and within (token,) int64
    among all their tokens.
    """

    place: np.ndarray
    short: dict[int, list[np.ndarray]]
    unrelated: dict[int, list[np.ndarray]]
    begins: int
    windows: list[np.ndarray]
    later: np.ndarray
    within: np.ndarray


def plan(
    study: xr.Dataset, *, tokens: int, lengths: Sequence[int], windows: int, seed: int, special: Collection[int]
) -> Plan:
    """What is run of a study.

    Parameters
    ----------
    study
        Its tokens, see `routed.read`.
    tokens, lengths, windows, seed
        The settings of the chapter.
    special
        The ids of special tokens.

    Returns
    -------
    Plan
    """
    ids = study["token_id"].sel(kind="input").values
    window, position = routed.windows(study)
    start, longest = np.arange(len(ids)) - position, max(lengths)
    leading = _leading(np.isin(ids, list(special)), position)[window]
    eligible = np.flatnonzero(position - leading >= longest)
    of = study["dataset"].values, study["cluster"].values[documents_of(study)]
    names = study["name"].values.tolist()
    place = np.sort(in_turn(eligible, *of, names, seed)[:tokens])
    other = _unrelated(study["group"].values[place].astype(np.int64), np.random.default_rng(seed))

    def text(index: int, length: int, before: Sequence[int] = ()) -> np.ndarray:
        last, first = place[index] + 1, start[place[index]]
        kept = ids[first : first + leading[place[index]]]
        return np.concatenate([kept, *(ids[end - length : end] for end in (*(place[one] + 1 for one in before), last))])

    every = range(len(place))
    short = {length: [text(index, length) for index in every] for length in lengths}
    unrelated = {
        length: [text(index, length, [other[index]]) for index in every]
        for length in lengths
        if 2 * length <= longest and other is not None
    }
    ends = np.flatnonzero(np.append(position[1:] == 0, True))
    long = ends[np.isin(ends, eligible)]  # the last tokens of windows that are long enough
    chosen = np.sort(in_turn(long, *of, names, seed)[:windows])
    spans = [np.arange(start[end], end + 1) for end in chosen]
    whole = np.concatenate([np.zeros(0, np.int64), *spans])
    within = np.flatnonzero(np.isin(whole, eligible))
    begins = int((leading[place] > 0).sum())
    return Plan(place, short, unrelated, begins, [ids[span] for span in spans], whole[within], within)


def _leading(special: np.ndarray, position: np.ndarray) -> np.ndarray:
    """With how many special tokens each window begins: (window,) int64."""
    others = np.where(special, len(special), position)
    starts = np.flatnonzero(position == 0)
    return np.minimum(np.minimum.reduceat(others, starts), np.diff(starts, append=len(position)))


def _unrelated(group: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """For each token a random one of another group, (token,) int64; None if there is but one group."""
    order = np.argsort(group, kind="stable")
    size = np.bincount(group, minlength=GROUPS)
    others = len(group) - size[group]
    if not (others > 0).all():
        return None
    end = np.cumsum(size)[group]
    return order[(end + (rng.random(len(group)) * others).astype(np.int64)) % len(group)]


class Routed(NamedTuple):
    """What the routers of all layers did: sets of experts (layer, token, rank) int.

    full: of the tokens that are drawn, in their whole text, as recorded; short, unrelated: the same in the texts of the
    plan, by length; later: of the tokens of the windows that count, as recorded; changed: the same by change, after it;
    margin (layer, token) float32: their boundary margin.
    """

    full: np.ndarray
    short: Mapping[int, np.ndarray]
    unrelated: Mapping[int, np.ndarray]
    later: np.ndarray
    changed: Mapping[str, np.ndarray]
    margin: np.ndarray


def recorded(layers: Iterable[routed.Layer], planned: Plan) -> tuple[np.ndarray, np.ndarray, int]:
    """What `Routed` calls `full` and `later`, from the records of all layers, and the number of experts."""
    full, later = [], []
    for layer in layers:
        full.append(layer.selected[planned.place].astype(np.int64))
        later.append(layer.selected[planned.later].astype(np.int64))
    return np.array(full), np.array(later), layer.experts


def names_of(noise: Sequence[float]) -> list[str]:
    """The names of all changes."""
    return [AGAIN, DTYPE, KERNEL, *(NOISE.format(100 * share) for share in noise)]


def measure(
    study: xr.Dataset,
    planned: Plan,
    found: Routed,
    *,
    experts: int,
    lengths: Sequence[int],
    noise: Sequence[float],
    confidence: float,
) -> Measured:
    """All measures of the chapter.

    Parameters
    ----------
    study
        Its tokens, see `routed.read`.
    planned
        What was run.
    found
        What the routers did.
    experts
        Of a layer.
    lengths, noise
        The settings of the chapter.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        `recovered`, `recovered_after_unrelated`, `lost_to_unrelated` (length, dataset, layer, interval);
        `kept_experts`, `ceiling`, `equal_sets`, `margin_changed`, `margin_kept` (change, dataset, layer, interval);
        their `mean_over_layers_*`. What was not run is NaN. Pooled is the mean over datasets. `tokens`, `documents`,
        `clusters` (dataset): of the tokens that are drawn; `changed_tokens`, `changed_clusters` (dataset): of those
        that are run with changes.
    """
    cells, later = Cells.of(study, planned.place), Cells.of(study, planned.later)
    names, layers = study["name"].values.tolist(), study["layer"].values.tolist()
    nothing = np.full((len(layers), 1 + GROUPS, 1 + len(names)), np.nan)

    def of_texts(texts: Mapping[int, np.ndarray]) -> tuple:
        sets = [texts.get(length) for length in lengths]
        per_length = [_by_layer(stability.corrected, found.full, each, experts, cells) for each in sets]
        return ("length", *DIMS), np.array([nothing if each is None else each for each in per_length])

    draws = xr.Dataset(
        {"recovered": of_texts(found.short), "recovered_after_unrelated": of_texts(found.unrelated)},
        coords={"length": list(lengths), "layer": layers, "dataset": [POOLED, *names]},
    )
    draws["lost_to_unrelated"] = draws["recovered"] - draws["recovered_after_unrelated"]
    changes = names_of(noise)
    parts = [_changed(found, found.changed.get(name), experts, later, nothing) for name in changes]
    for name in parts[0]:
        draws[name] = ("change", *DIMS), np.array([part[name] for part in parts])
    draws = draws.assign_coords(change=changes)
    out = summarise(draws, MEASURES, Jackknife(confidence)).merge(sizes(study, planned.place))
    changed = sizes(study, planned.later)
    for name in ("tokens", "clusters"):
        known = {"long_name": f"{name} that are run with changes", "units": name}
        out[f"changed_{name}"] = changed[name].assign_attrs(known)
    attrs = {"pooled_datasets": len(names), "groups": GROUPS, "longest": max(lengths), "confidence": confidence}
    attrs |= {"windows_with_start": planned.begins}
    return Measured(out.assign_attrs(attrs), draws)


def _by_layer(measured, one: np.ndarray, other: np.ndarray | None, *arguments) -> np.ndarray | None:
    """A function of two sets of every layer, None if there are no others."""
    return None if other is None else np.array([measured(*sets, *arguments) for sets in zip(one, other, strict=True)])


def _changed(
    found: Routed, after: np.ndarray | None, experts: int, cells: Cells, nothing: np.ndarray
) -> dict[str, np.ndarray]:
    """The measures of one change, (layer, draw, dataset) each; NaN if it was not run."""
    if after is None:
        return dict.fromkeys(("kept_experts", "ceiling", "equal_sets", "margin_changed", "margin_kept"), nothing)
    layers = zip(found.later, after, found.margin, strict=True)
    parts = [stability.kept(before, now, margin, experts, cells) for before, now, margin in layers]
    changed = {name: np.array([part[name] for part in parts]) for name in parts[0]}
    return {"ceiling" if name == "agreement" else name: values for name, values in changed.items()}
