"""Loads of devices in batches of tokens, and what devices with little room would drop."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batches:
    """Tokens in batches: `token`, `group` and `batch` (token,) int64, in the order of the batch; all from 0.

    `group` is numbered among `groups`, `batch` among `number`.
    """

    token: np.ndarray
    group: np.ndarray
    batch: np.ndarray
    groups: int
    number: int

    def counts(self, selected: np.ndarray, experts: int) -> np.ndarray:
        """Selections of every expert in each batch, whole and without each group: (draw, batch, expert) int64."""
        cell = ((self.batch * self.groups + self.group) * experts)[:, None] + selected[self.token]
        shape = self.number, self.groups, experts
        parts = np.bincount(cell.ravel(), minlength=np.prod(shape)).reshape(shape)
        return without_each(parts.swapaxes(0, 1))


def without_each(parts: np.ndarray) -> np.ndarray:
    """The sum over the first axis, and the sums without each of its parts: (1 + parts, ...)."""
    whole = parts.sum(axis=0)
    return np.concatenate([whole[None], whole - parts])


def straggler(load: np.ndarray) -> np.ndarray:
    """How many times the load of an average device the busiest one has, over batches; load (..., batch, device)."""
    return ratio(load.shape[-1] * load.max(axis=-1).sum(axis=-1), load.sum(axis=(-2, -1)))


def drops(load: np.ndarray, rooms: list[float]) -> dict[str, np.ndarray]:
    """The shares of selections that devices with these rooms have to drop, and of room that is not used.

    `dropped_share` and `unused_room` (draw, room), of load (draw, batch, device) in selections; see `rooms_of`.
    """
    devices = load.shape[-1]
    room = rooms_of(load.sum(axis=-1), devices, rooms)
    beyond = load[..., None] - room[:, :, None]
    return {
        "dropped_share": ratio(np.maximum(beyond, 0).sum(axis=(1, 2)), load.sum(axis=(1, 2))[:, None]),
        "unused_room": ratio(np.maximum(-beyond, 0).sum(axis=(1, 2)), devices * room.sum(axis=1)),
    }


def rooms_of(selections: np.ndarray, devices: int, rooms: list[float]) -> np.ndarray:
    """The room of a device in batches with so many selections (draw, batch): (draw, batch, room), 0 if there are none.

    `rooms` are even shares, rounded up to whole selections, or, if negative, selections.
    """
    share = np.array(rooms, np.float64)
    room = np.where(share > 0, np.ceil(share * selections[..., None] / devices - 1e-9), -share)
    return room * (selections[..., None] > 0)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """One by the other, NaN where there is nothing."""
    return part / np.where(whole > 0, whole, np.nan)
