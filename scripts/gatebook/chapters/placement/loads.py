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


def loads_of(count: np.ndarray, shares: list[np.ndarray], rooms: list[float]) -> dict[str, np.ndarray]:
    """What placements make of batches: `straggler` (draw, placement), `dropped_share`, `unused_room` (.., room).

    Parameters
    ----------
    count
        Selections of every expert: (draw, batch, expert) float64.
    shares
        Of each placement: which share of an expert's tokens each device computes, (expert, device).
    rooms
        Of a device in a batch: in even shares of its selections, or, if negative, in selections.

    Returns
    -------
    dict
        NaN where there are no selections.
    """
    load = np.stack([count @ each for each in shares], axis=1)  # (draw, placement, batch, device)
    total, devices = count.sum(axis=(1, 2))[:, None], load.shape[-1]
    room = rooms_of(count.sum(axis=-1), devices, rooms)[:, None, :, None]  # (draw, 1, batch, 1, room)
    beyond = load[..., None] - room
    return {
        "straggler": ratio(devices * load.max(axis=-1).sum(axis=-1), total),
        "dropped_share": ratio(np.maximum(beyond, 0).sum(axis=(2, 3)), total[..., None]),
        "unused_room": ratio(np.maximum(-beyond, 0).sum(axis=(2, 3)), devices * room.sum(axis=(2, 3))),
    }


def rooms_of(selections: np.ndarray, devices: int, rooms: list[float]) -> np.ndarray:
    """The room of a device in batches with so many selections (draw, batch): (draw, batch, room), 0 if there are none.

    Even shares are rounded up to whole selections.
    """
    share = np.array(rooms, np.float64)
    room = np.where(share > 0, np.ceil(share * selections[..., None] / devices - 1e-9), -share)
    return room * (selections[..., None] > 0)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """One by the other, NaN where there is nothing."""
    return part / np.where(whole > 0, whole, np.nan)
