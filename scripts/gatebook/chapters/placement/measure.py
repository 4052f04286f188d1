"""Placement: experts on devices, placed by one half of the clusters and measured on the other.

The groups of clusters with even numbers are the first half, the others the second; the intervals leave out one group of
the second, with the placements as they are. A batch without a group is what is left of it, so that all draws are of the
same batches.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
import xarray as xr

from gatebook.chapters.placement import (
    ALONG,
    BOTH,
    BY_LOAD,
    COMPOSITIONS,
    CONTIGUOUS,
    IN_ORDER,
    MEASURES,
    PIECES,
    PLACEMENTS,
    RANDOM,
    TOGETHER,
    places,
)
from gatebook.chapters.placement.loads import Batches, drops, ratio, rooms_of, straggler, without_each
from gatebook.measures.summary import MEAN, Jackknife, Measured, summarise
from gatebook.measures.token_sample import counted, documents_of, sizes
from gatebook.measures.uncertainty import INTERVAL, POOLED, uniform_loads
from gatebook.study.routed import Layer

RANDOM_PLACEMENTS = 20
NULL_DRAWS = 200
DROPS = ("dropped_share", "unused_room", "lost_tokens")


@dataclass(frozen=True)
class _Before:
    """The layer before: `first` (token,) int64, the first choices of all tokens, and the placements by devices."""

    first: np.ndarray
    placed: list[dict[str, np.ndarray]]


def measure(
    study: xr.Dataset,
    routed_layers: Iterable[Layer],
    pairs: xr.DataArray,
    *,
    state_bytes: float,
    tokens: int,
    devices: list[int],
    batch_tokens: int,
    piece_tokens: int,
    balance: float,
    replicas: list[int],
    capacity_factors: list[float],
    tokens_per_device: int,
    seed: int,
    confidence: float,
) -> Measured:
    """All measures of the chapter, from the tokens of a study, its layers, and the pairs of experts in its tallies.

    Parameters
    ----------
    study
        Its tokens, see `routed.read`.
    routed_layers
        In order, see `routed.read_layers`.
    pairs
        Tokens that select both of two experts, of all datasets: (group, layer, expert, other).
    state_bytes
        Bytes of a token's hidden state; NaN if they are not known.
    tokens
        At most so many of each dataset, see `token_sample.counted`.
    devices, batch_tokens, piece_tokens
        See `Chosen`.
    balance, replicas, capacity_factors, tokens_per_device
        See `Chosen`.
    seed
        Of the sample, of the batches, and of what is random about placements.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        Over `devices`, `layer` and `interval`, and as means over layers: `devices_per_token`, `states_sent`,
        `bytes_sent`, `moved_share`, `traffic_saved` (placement); `straggler`, `straggler_saved`, `composition_cost`
        (placement, composition); `dropped_share`, `lost_tokens`, `unused_room` (composition, room);
        `replica_straggler` (replicas, composition), from none on. `null_devices_per_token`, `null_moved_share`
        (devices): of random placements on average; `null_straggler` (devices, composition, layer, interval): the mean
        over random placements, and between which values they lie; `uniform_straggler` (devices): under uniform routing.
        `device` (devices, placement, layer, expert) int64. Without a group in the second half all are NaN.
    """
    place = counted(study, tokens, seed)
    group, rng = study["group"].values.astype(np.int64), np.random.default_rng([seed, 0x706C616365])
    of_fit, held = place[group[place] % 2 == 0], place[group[place] % 2 == 1]
    known, number = np.unique(group[held], return_inverse=True)
    batches = _batches(study, held, number, len(known), batch_tokens, piece_tokens, rng)
    rooms = [*capacity_factors, *([-tokens_per_device] if tokens_per_device else [])]
    fitted = pairs.isel(group=slice(None, None, 2)).sum("group")
    per_layer, nulls, numbers, before = [], [], [], None
    for layer in routed_layers:
        numbers.append(layer.number)
        first = layer.selected[:, 0].astype(np.int64)
        mine = fitted.sel(layer=layer.number).values.astype(np.float64)
        moves = None if before is None else _moves(before.first[of_fit], first[of_fit], layer.experts)
        counts = {name: each.counts(layer.selected, layer.experts) for name, each in batches.items()}
        placed, found, random = [], [], []
        for index, count in enumerate(devices):
            along = None if before is None else places.along_layers(moves, before.placed[index][ALONG], count)
            placed.append(_placed(mine, count, balance, [seed, layer.number, index], along))
            moved = {} if before is None else _moved(before, first, placed[index], index, held)
            of_tokens = _of_tokens(layer.selected[held], placed[index], moved, number, len(known))
            of_batches, null = _of_batches(layer, mine, batches, counts, placed[index], count, rooms, replicas, rng)
            found.append(of_tokens.merge(of_batches))
            random.append(null)
        per_layer.append(xr.concat(found, dim="devices"))
        nulls.append(xr.concat(random, dim="devices"))
        before = _Before(first, placed)
    draws = xr.concat(per_layer, dim="layer").assign_coords(
        layer=numbers,
        devices=list(devices),
        placement=list(PLACEMENTS),
        composition=list(COMPOSITIONS),
        room=[_named(room) for room in rooms],
        replicas=[0, *replicas],
    )
    random = xr.concat(nulls, dim="layer").assign_coords(
        {name: draws[name] for name in ("layer", "devices", "composition")}
    )
    top_k, experts, size = layer.selected.shape[1], layer.experts, _size(batches)
    device = draws["device"].astype(np.int64).assign_attrs(long_name="device that holds the expert", units="1")
    exact = _exact(experts, top_k, devices, size, seed)
    draws = _related(draws.drop_vars("device"), exact["null_devices_per_token"], random, state_bytes)
    out = summarise(draws, MEASURES, Jackknife(confidence)).assign(device=device)
    out = out.merge(_nulls(random.isel(draw=0, drop=True), confidence)).merge(exact)
    out = out.merge(sizes(study, held)).assign_coords(dataset=[POOLED, *study["name"].values.tolist()])
    out.attrs = {
        "confidence": confidence,
        "seed": seed,
        "experts": experts,
        "top_k": top_k,
        "batch_tokens": size,
        "batches": batches[RANDOM].number,
        "piece_tokens": piece_tokens,
        "random_placements": RANDOM_PLACEMENTS,
        "state_bytes": state_bytes,
    }
    return Measured(out, draws)


def _named(room: float) -> str:
    """A room in words: in even shares, or, if negative, in selections."""
    number, what = (f"{room:g}", "even share") if room > 0 else (f"{-room:,}", "selection")
    return f"{number} {what}{'' if abs(room) == 1 else 's'}"


def _size(batches: dict[str, Batches]) -> int:
    """The tokens of a batch; 0 if there is none."""
    return int(np.bincount(batches[RANDOM].batch).max(initial=0))


def _related(draws: xr.Dataset, by_chance: xr.DataArray, random: xr.DataArray, state_bytes: float) -> xr.Dataset:
    """The draws with what follows from them, the devices `by_chance` and the stragglers of `random` placements."""
    sent = draws["devices_per_token"] * (1 - 1 / draws["devices"])
    return draws.assign(
        states_sent=sent,
        bytes_sent=2 * state_bytes * sent,
        traffic_saved=1 - draws["devices_per_token"] / by_chance,
        straggler_saved=1 - draws["straggler"] / random.mean("random"),
        composition_cost=draws["straggler"] / draws["straggler"].sel(composition=RANDOM, drop=True) - 1,
    )


def _batches(
    study: xr.Dataset,
    held: np.ndarray,
    group: np.ndarray,
    groups: int,
    batch_tokens: int,
    piece_tokens: int,
    rng: np.random.Generator,
) -> dict[str, Batches]:
    """The batches of every composition, of the tokens `held`: whole ones, or a single one if they are too few."""
    document = documents_of(study)[held]
    starts = np.flatnonzero(np.diff(document, prepend=-1))
    within = np.arange(len(held)) - np.repeat(starts, np.diff(starts, append=len(held)))
    piece = np.cumsum(within % piece_tokens == 0) - 1
    turn = rng.permutation(len(np.unique(piece)))[piece]
    orders = {
        RANDOM: rng.permutation(len(held)),
        PIECES: np.argsort(turn, kind="stable"),
        IN_ORDER: np.arange(len(held)),
    }
    size = min(batch_tokens, len(held))
    number = len(held) // size if size else 0
    kept = number * size
    return {
        name: Batches(held[order[:kept]], group[order[:kept]], np.arange(kept) // max(size, 1), groups, number)
        for name, order in orders.items()
    }


def _moves(before: np.ndarray, now: np.ndarray, experts: int) -> np.ndarray:
    """How many tokens choose an expert first in one layer and one in the next: (expert, expert) int64."""
    return np.bincount(before * experts + now, minlength=experts**2).reshape(experts, experts)


def _placed(
    pairs: np.ndarray, devices: int, balance: float, seed: list[int], along: np.ndarray | None
) -> dict[str, np.ndarray]:
    """All placements of a layer, in the order of `PLACEMENTS`; along the layers the first one is contiguous."""
    in_order = places.contiguous(len(pairs), devices)
    together = places.by_coactivation(pairs, devices, seed)
    return {
        CONTIGUOUS: in_order,
        BY_LOAD: places.by_load(np.diagonal(pairs), devices),
        TOGETHER: together,
        BOTH: places.balanced(pairs, together, balance),
        ALONG: in_order if along is None else along,
    }


def _moved(
    before: _Before, first: np.ndarray, placed: dict[str, np.ndarray], index: int, held: np.ndarray
) -> dict[str, np.ndarray]:
    """Whether the first choices of the tokens `held` are on another device than in the layer before: (token,) bool."""
    earlier = before.placed[index]
    return {name: device[first[held]] != earlier[name][before.first[held]] for name, device in placed.items()}


def _of_tokens(
    selected: np.ndarray, placed: dict[str, np.ndarray], moved: dict[str, np.ndarray], group: np.ndarray, groups: int
) -> xr.Dataset:
    """`devices_per_token`, `moved_share` (draw, placement), and `device` (placement, expert).

    `moved` is empty in the first layer, of which no share is known.
    """
    tokens = without_each(np.bincount(group, minlength=groups))

    def means(values: list[np.ndarray]) -> tuple:
        sums = [without_each(np.bincount(group, each, groups)) for each in values]
        return ("draw", "placement"), np.stack([ratio(each, tokens) for each in sums], axis=1)

    unknown = np.full(len(group), np.nan)
    return xr.Dataset(
        {
            "devices_per_token": means([places.devices_of(device, selected) for device in placed.values()]),
            "moved_share": means([moved.get(name, unknown) for name in placed]),
            "device": (("placement", "expert"), np.array(list(placed.values()))),
        }
    )


def _of_batches(
    layer: Layer,
    pairs: np.ndarray,
    batches: dict[str, Batches],
    counts: dict[str, np.ndarray],
    placed: dict[str, np.ndarray],
    devices: int,
    rooms: list[float],
    replicas: list[int],
    rng: np.random.Generator,
) -> tuple[xr.Dataset, xr.DataArray]:
    """The measures of batches, and the straggler of random placements (draw, composition, random)."""
    ones, load = np.eye(devices), np.diagonal(pairs)
    tried = {
        "straggler": [ones[device] for device in placed.values()],
        "replica_straggler": [places.with_replicas(load, more, devices) for more in (0, *replicas)],
        "null": [ones[rng.permutation(placed[CONTIGUOUS])] for _ in range(RANDOM_PLACEMENTS)],
    }
    found = {name: [] for name in (*tried, *DROPS)}
    for name, each in batches.items():
        count = counts[name].astype(np.float64)
        for measure_name, shares in tried.items():
            found[measure_name].append([straggler(count @ share) for share in shares])
        held = count @ ones[placed[BY_LOAD]]
        dropped = drops(held, rooms)
        room = rooms_of(held.sum(axis=-1), devices, rooms)
        dropped["lost_tokens"] = lost_of(placed[BY_LOAD][layer.selected[each.token]], each, room, devices)
        for measure_name in DROPS:
            found[measure_name].append(dropped[measure_name])
    dims = {"straggler": "placement", "replica_straggler": "replicas", "null": "random"}
    dims = {name: ("composition", dim, "draw") for name, dim in dims.items()}
    dims |= dict.fromkeys(DROPS, ("composition", "draw", "room"))
    made = xr.Dataset({name: (dims[name], np.array(values)) for name, values in found.items()})
    return made.drop_vars("null"), made["null"]


def lost_of(device: np.ndarray, batches: Batches, room: np.ndarray, devices: int) -> np.ndarray:
    """The share of tokens that lose all their experts, (draw, room); device (token, rank), room (draw, batch, room)."""
    lost = _count_lost(device, batches.group, batches.batch, room, devices)
    tokens = without_each(np.bincount(batches.group, minlength=batches.groups))
    return ratio(lost, tokens[:, None])


@numba.njit(cache=True)
def _count_lost(device, group, batch, room, devices):
    draws, _, rooms = room.shape
    found, load = np.zeros((draws, rooms)), np.zeros((draws, devices), np.int64)
    for token in range(len(device)):
        if token and batch[token] != batch[token - 1]:
            load[:] = 0
        for draw in range(draws):
            if draw == group[token] + 1:
                continue
            first = np.iinfo(np.int64).max
            for place in device[token]:
                load[draw, place] += 1
                first = min(first, load[draw, place])
            for index in range(rooms):
                if first > room[draw, batch[token], index]:
                    found[draw, index] += 1
    return found


def _nulls(of_random: xr.DataArray, confidence: float) -> xr.Dataset:
    """The mean over random placements, and between which values they lie, by layer and for means over layers."""
    tail, found = (1 - confidence) / 2, {}
    for prefix, values in (("", of_random), (MEAN, of_random.mean("layer"))):
        ends = (
            values.quantile([tail, 1 - tail], "random", skipna=False).rename(quantile="interval").drop_vars("interval")
        )
        each = xr.concat([values.mean("random", skipna=False), ends], dim="interval").assign_coords(
            interval=list(INTERVAL)
        )
        title = f"{MEASURES['straggler'].title} with random placements"
        found[f"{prefix}null_straggler"] = each.transpose(..., "interval").assign_attrs(long_name=title, units="1")
    return xr.Dataset(found)


def _exact(experts: int, top_k: int, devices: list[int], tokens: int, seed: int) -> xr.Dataset:
    """What does not depend on the data: means of random placements, and the straggler under uniform routing."""
    at_random = "with random placements, on average"
    found = {
        "null_devices_per_token": ([places.uniform_devices(experts, top_k, count) for count in devices], at_random),
        "null_moved_share": ([places.random_moves(experts, count) for count in devices], at_random),
        "uniform_straggler": (
            [_uniform(tokens, experts, top_k, count, seed) for count in devices],
            "under uniform routing",
        ),
    }
    made = {}
    for name, (values, words) in found.items():
        declared = MEASURES[name.split("_", 1)[1]]
        made[name] = "devices", values, {"long_name": f"{declared.title} {words}", "units": declared.units}
    return xr.Dataset(made, coords={"devices": list(devices)})


def _uniform(tokens: int, experts: int, top_k: int, devices: int, seed: int) -> float:
    """The straggler of a batch of so many tokens under uniform routing; NaN without tokens."""
    if not tokens:
        return np.nan
    load = (
        uniform_loads(tokens, experts, top_k, NULL_DRAWS, seed) @ np.eye(devices)[places.contiguous(experts, devices)]
    )
    return float((load.max(axis=1) / load.mean(axis=1)).mean())
