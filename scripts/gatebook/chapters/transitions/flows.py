"""Flows: which experts of two adjacent layers are drawn, in which order, and how many tokens go from one to another.

Expert numbers mean nothing, so experts stand in the order of a common barycentre: the place of each is, but for a
factor, the mean place of the experts in the layers before and after with which it has more tokens than token ids give
(the second eigenvector of this graph, by reciprocal averaging).
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from gatebook.figures.flow import MOST_BARS, OTHERS

ROUNDS = 200


def orders(metrics: xr.Dataset) -> list[np.ndarray]:
    """The experts of the first layer in order, and those of every layer after it: (expert,) int64 each."""
    flow, expected = (metrics[name].transpose("layer", "expert", "other").values for name in ("flow", "expected"))
    gained = np.maximum(np.nan_to_num(flow - expected), 0)
    layers, experts = len(gained) + 1, gained.shape[1]
    weight = np.zeros((layers, experts))
    weight[:-1] += gained.sum(axis=2)
    weight[1:] += gained.sum(axis=1)
    place = np.tile(np.linspace(-1, 1, experts), (layers, 1))
    for _ in range(ROUNDS):
        pull = np.zeros_like(place)
        pull[1:] += np.einsum("le,leo->lo", place[:-1], gained)
        pull[:-1] += np.einsum("lo,leo->le", place[1:], gained)
        place = (place + pull / np.where(weight > 0, weight, 1)) / 2
        place -= (weight * place).sum() / max(weight.sum(), 1)
        place /= max(np.abs(place).max(), 1e-12)
    return list(np.argsort(place, axis=1, kind="stable"))


class Flows(NamedTuple):
    """What goes from the bars of one layer to those of the next.

    layers: both; rows, columns: the experts of their bars, in order, `OTHERS` last if there are more; tokens, expected
    (row, column): tokens that go from one to the other, and how many would by their ids alone; low, high (row, column):
    the interval of their ratio, NaN with `OTHERS`.
    """

    layers: tuple[int, int]
    rows: list[int]
    columns: list[int]
    tokens: np.ndarray
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def lift(self) -> np.ndarray:
        """Tokens by those that ids alone give, (row, column); NaN where they give none."""
        return self.tokens / np.where(self.expected > 0, self.expected, np.nan)


def flows(metrics: xr.Dataset) -> list[Flows]:
    """The flows between all adjacent layers; a layer has the same bars on both sides."""
    order, metrics = orders(metrics), metrics.transpose("layer", "expert", "other", ...)
    numbers, before = metrics["layer"].values.tolist(), metrics["before"].values.tolist()
    tokens, expected = (np.nan_to_num(metrics[name].values) for name in ("flow", "expected"))
    loads = [tokens[0].sum(axis=1), *tokens.sum(axis=1)]
    bars = [_bars(one, load) for one, load in zip(order, loads, strict=True)]
    found = []
    for index, layer in enumerate(numbers):
        sides = bars[index : index + 2]
        sums = [_summed(values[index], *sides) for values in (tokens, expected)]
        ends = [_taken(metrics["lift"].sel(interval=end).values[index], *sides) for end in ("low", "high")]
        found.append(Flows((before[index], layer), *sides, *sums, *ends))
    return found


def _bars(order: np.ndarray, load: np.ndarray) -> list[int]:
    """The experts with the largest loads, in order, and `OTHERS` if these are not all that have tokens."""
    most = np.argsort(-load, kind="stable")[:MOST_BARS]
    named = [int(expert) for expert in order if expert in most and load[expert] > 0]
    return named + ([OTHERS] if (np.delete(load, named) > 0).any() else [])


def _summed(values: np.ndarray, rows: list[int], columns: list[int]) -> np.ndarray:
    """Values (expert, other) by bars, all experts without one added up: (row, column)."""
    for named in (rows, columns):
        rest = np.delete(values, [one for one in named if one != OTHERS], axis=0).sum(axis=0)
        values = np.stack([rest if one == OTHERS else values[one] for one in named]).T
    return values


def _taken(values: np.ndarray, rows: list[int], columns: list[int]) -> np.ndarray:
    """Values (expert, other) of the experts with bars, NaN of others: (row, column)."""
    others = np.equal(rows, OTHERS)[:, None] | np.equal(columns, OTHERS)
    return np.where(others, np.nan, values[np.ix_(rows, columns)])
