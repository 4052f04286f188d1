"""Placements: which device holds which experts of a layer.

A placement is the device of every expert, (expert,) int64 from 0. All devices hold as many experts, or, where their
number does not divide that of the experts, the first ones one more.
"""

import numpy as np
import scipy.optimize
import scipy.stats

STARTS = 5
"""Random starts of the quadratic assignment; the best end counts."""


def contiguous(experts: int, devices: int) -> np.ndarray:
    """Experts in the order of their numbers, which is how they are loaded where nobody says otherwise."""
    held = experts // devices + (np.arange(devices) < experts % devices)
    return np.repeat(np.arange(devices), held)


def by_load(load: np.ndarray, devices: int) -> np.ndarray:
    """The busiest expert first, each on the device that has the least load of those with room.

    load (expert,) is how many tokens select each. Longest processing time first with equal parts, as in DeepSeek's
    load balancer (EPLB, `balanced_packing`); source: Graham (1969), Bounds on multiprocessing timing anomalies. Which
    devices hold one expert more, if they must, is decided on the way.
    """
    device, held, busy = np.empty(len(load), np.int64), np.zeros(devices, np.int64), np.zeros(devices)
    full, larger = divmod(len(load), devices)
    for expert in np.argsort(-load, kind="stable"):
        open_for_more = (held > full).sum() < larger
        chosen = np.argmin(np.where(held < full + open_for_more, busy, np.inf))
        device[expert] = chosen
        held[chosen] += 1
        busy[chosen] += load[expert]
    return device


def by_coactivation(pairs: np.ndarray, devices: int, seed: int | list[int]) -> np.ndarray:
    """Experts that are selected together on one device, as far as equal parts allow.

    Parameters
    ----------
    pairs
        Tokens that select both of two experts, on the diagonal those that select one: (expert, expert), symmetric.
    devices
        How many.
    seed
        Of the starts.

    Returns
    -------
    numpy.ndarray
        (expert,) int64, in which no two experts can change places for more tokens that select both experts of a pair on
        one device: the best of `STARTS` ends of `scipy.optimize.quadratic_assignment`, after `exchanged`. Source:
        Vogelstein et al. (2015), Fast approximate quadratic programming for graph matching.
    """
    together = _together(pairs)
    slots = contiguous(len(pairs), devices)
    same = (slots[:, None] == slots).astype(np.float64)
    options = {"maximize": True, "P0": "randomized", "rng": np.random.default_rng(seed)}
    scaled = together / max(together.max(), 1)
    ends = [scipy.optimize.quadratic_assignment(scaled, same, options=options) for _ in range(STARTS)]
    return exchanged(together, slots[max(ends, key=lambda end: end.fun).col_ind])


def balanced(pairs: np.ndarray, device: np.ndarray, balance: float) -> np.ndarray:
    """The placement `device` after experts have changed places for more even loads.

    They do (see `exchanged`) as long as the number of tokens that select both experts of a pair on one device grows,
    less `balance` times what loads alone would give: of that a device with busy experts has much. `pairs` are as those
    of `by_coactivation`.
    """
    together, load = _together(pairs), np.diagonal(pairs).astype(np.float64)
    by_chance = _together(np.outer(load, load))
    by_chance *= together.sum() / max(by_chance.sum(), 1)
    return exchanged(together - balance * by_chance, device)


def _together(pairs: np.ndarray) -> np.ndarray:
    """Pairs of different experts: the diagonal is 0."""
    return pairs * (1.0 - np.eye(len(pairs)))


def exchanged(gain: np.ndarray, device: np.ndarray) -> np.ndarray:
    """The placement after pairs of experts have changed places, the best first, until none gains by it.

    gain (expert, expert), symmetric with a diagonal of 0, is what a pair on one device is worth.
    """
    device, least = device.copy(), 1e-9 * np.abs(gain).max(initial=0)
    while True:
        with_device = gain @ np.eye(device.max() + 1)[device]
        moved = with_device[:, device] - np.take_along_axis(with_device, device[:, None], axis=1)
        gained = np.where(device[:, None] == device, 0, moved + moved.T - 2 * gain)
        one, other = np.unravel_index(gained.argmax(), gained.shape)
        if gained[one, other] <= least:
            return device
        device[one], device[other] = device[other], device[one]


def along_layers(moves: np.ndarray, before: np.ndarray, devices: int) -> np.ndarray:
    """Experts on the devices that most of their tokens come from.

    moves (expert before, expert) is how many tokens choose first one in the layer before and the other in this one,
    before (expert,) the placement of the layer before. It is the best one with equal parts for moves by first choices
    from that layer (`scipy.optimize.linear_sum_assignment`).
    """
    slots = contiguous(moves.shape[1], devices)
    stays = (np.arange(devices)[:, None] == before).astype(np.float64) @ moves
    return slots[scipy.optimize.linear_sum_assignment(stays.T[:, slots], maximize=True)[1]]


def with_replicas(load: np.ndarray, replicas: int, devices: int) -> np.ndarray:
    """The share of each expert's tokens that each device computes: (expert, device) float64.

    Copies are added one after another for the expert with the most tokens per copy, which its copies share evenly, and
    then placed `by_load`; two copies may end on one device. Source: EPLB, `replicate_experts`.
    """
    copies = np.ones(len(load), np.int64)
    for _ in range(replicas):
        copies[np.argmax(load / copies)] += 1
    expert = np.repeat(np.arange(len(load)), copies)
    found = np.zeros((len(load), devices))
    np.add.at(found, (expert, by_load((load / copies)[expert], devices)), 1 / copies[expert])
    return found


def uniform_devices(experts: int, top_k: int, devices: int) -> float:
    """How many different devices hold the experts of a token under uniform routing, by the hypergeometric law.

    It is also what a random placement gives on average, whatever the routing.
    """
    held = np.bincount(contiguous(experts, devices), minlength=devices)
    return float((1 - scipy.stats.hypergeom.pmf(0, experts, held, top_k)).sum())


def random_moves(experts: int, devices: int) -> float:
    """The share of tokens whose expert changes device between two layers with random placements, on average."""
    held = np.bincount(contiguous(experts, devices), minlength=devices)
    return float(1 - ((held / experts) ** 2).sum())


def devices_of(device: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """How many different devices hold the selected experts (token, rank) of each token: (token,) int64."""
    held = np.sort(device[selected], axis=1)
    return 1 + (held[:, 1:] != held[:, :-1]).sum(axis=1)
