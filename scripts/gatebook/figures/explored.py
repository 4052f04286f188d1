"""What readers explore on a page in the place of figures, as data scripts for report/assets/explore.js.

It is matrices over experts, maps of points, flows between layers, a tree of paths, or graphs. All those of a chapter
stand in one folder: `index.js` says what they are, LAYER.js holds the numbers of a layer, and `across.js` those of
matrices over layers. A page loads a layer when a reader asks for it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.colors import to_hex

from gatebook.figures.flow import MOST_BARS, OTHERS, places
from gatebook.figures.matrix import clustered_order, ratio_end
from gatebook.files.data_scripts import DataScripts

FOLDER = "explored"
MOST_NUMBERS = 1_500_000
"""About 4 MB as data scripts; of more layers than that, some are left out."""
COLOURS = {"ratio": "PuOr_r", "magnitude": "cividis"}
SHADES = 33
DIGITS = 3


@dataclass(frozen=True)
class Matrix:
    """A quantity of every two experts of a layer, or of every two layers.

    name, title
        A short name, as a column of a CSV file has it, and the title that readers choose it by.
    values
        (layer, expert, other), or (layer, other layer). Numbers that are equal on both sides of the
        diagonal are written once; the diagonal of a matrix between experts themselves is not shown.
    columns
        What its columns are, if they are not what its rows are.
    kind, limits
        As those of `matrix.matrix`; by default limits of magnitudes are near the 1 % and 99 % quantiles, or at a null
        beyond them.
    nulls
        Value of each null by its name: a number, or one for each layer.
    beside
        Arrays like `values` that the reader is told with them, by their names: `low` and `high`, the interval, and any
        others, such as "q".
    word
        What one of its values is called in a sentence, by default its name.
    level
        Cells whose "q" is above it are marked as not significant.
    """

    name: str
    title: str
    values: xr.DataArray
    columns: str = ""
    kind: Literal["ratio", "magnitude"] = "magnitude"
    limits: tuple[float, float] | None = None
    nulls: Mapping[str, float | xr.DataArray] = field(default_factory=dict)
    beside: Mapping[str, xr.DataArray] = field(default_factory=dict)
    word: str = ""
    level: float | None = None

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The limits of its colours, between which the nulls of a magnitude lie."""
        if self.limits is not None:
            return self.limits
        if self.kind == "ratio":
            end = ratio_end(self.values.values)
            return 2**-end, 2**end
        low, high = quantile_limits(self.values.values)
        nulls = [value for null in self.nulls.values() for value in np.ravel(null) if np.isfinite(value)]
        return min(low, *nulls, high), max(low, *nulls, high)

    @property
    def across(self) -> bool:
        """Whether it is over layers."""
        return self.values.ndim == 2

    @cached_property
    def symmetric(self) -> bool:
        """Whether its numbers are the same on both sides of the diagonal, but for rounding."""
        parts = (self.values, *self.beside.values())
        return all(np.allclose(part.values, part.values.swapaxes(-1, -2), atol=1e-6, equal_nan=True) for part in parts)


class Explored(ABC):
    """What a chapter lets readers explore: its `scripts`."""

    @abstractmethod
    def scripts(self) -> DataScripts:
        """The data scripts: `index`, one for each layer by its number, and `across`, if there is anything for it."""

    def write(self, folder: Path) -> str:
        """Write the data scripts into `FOLDER` in a folder; returns their build."""
        made = self.scripts()
        (folder / FOLDER).mkdir()
        for name, text in made.files().items():
            (folder / FOLDER / name).write_text(text, encoding="utf-8")
        return made.build


@dataclass(frozen=True)
class Matrices(Explored):
    """The matrices of a chapter, in the order in which readers choose them.

    clustered: name of the one by which the experts of each layer are clustered; load: share of the tokens that selects
    each expert, (layer, expert), None if it is not known.
    """

    matrices: Sequence[Matrix]
    clustered: str
    load: xr.DataArray | None = None

    def scripts(self) -> DataScripts:
        """See `Explored`."""
        between = [one for one in self.matrices if not one.across]
        (basis,) = (one for one in between if one.name == self.clustered)
        layers = self.layers()
        known = between[0].values["layer"].values.tolist()
        made = DataScripts()
        made.add(
            "index",
            {
                "layers": layers,
                "left_out": len(known) - len(layers),
                "experts": between[0].values.shape[-1],
                "all_layers": known,
                "clustered": {"name": basis.name, "title": basis.title},
                "matrices": [_described(one, layers) for one in self.matrices],
            },
        )
        for layer in layers:
            content = {"clustered": _order(basis, layer)}
            if self.load is not None:
                content["load"] = _rounded(self.load.sel(layer=layer).values, None)
            made.add(f"{layer}", content | {"numbers": {one.name: _numbers(one, layer) for one in between}})
        if across := {one.name: _numbers(one, None) for one in self.matrices if one.across}:
            made.add("across", {"numbers": across})
        return made

    def layers(self) -> list[int]:
        """Those that are written: all, or as many as `MOST_NUMBERS` allows, evenly spread, two at the least."""
        between = [one for one in self.matrices if not one.across]
        known, experts = between[0].values["layer"].values, between[0].values.shape[-1]
        each = sum(
            (1 + len(one.beside)) * (experts * (experts - 1) // 2 if one.symmetric else experts**2) for one in between
        )
        fit = max(2, MOST_NUMBERS // each)
        chosen = np.unique(np.linspace(0, len(known) - 1, min(fit, len(known))).round().astype(int))
        return known[chosen].tolist()


@dataclass(frozen=True)
class Points(Explored):
    """Maps of points, one for each space, projection and layer.

    positions: (layer, space, projection, point, axis); categories: by the name of what points are coloured by, the
    category of each point, (point,), or (layer, point) if it is the number of an expert; texts: `before`, `text` and
    `after` of each point, (point,); trustworthiness of the maps: (layer, space, projection).
    """

    positions: xr.DataArray
    categories: Mapping[str, xr.DataArray]
    texts: Mapping[str, Sequence[str]]
    trustworthiness: xr.DataArray

    def scripts(self) -> DataScripts:
        """See `Explored`; positions are thousandths of the range that a map has along each axis."""
        made = DataScripts()
        fixed = {name: values for name, values in self.categories.items() if "layer" not in values.dims}
        index = {
            "layers": self.positions["layer"].values.tolist(),
            "spaces": self.positions["space"].values.tolist(),
            "projections": self.positions["projection"].values.tolist(),
            "categories": list(self.categories),
            "texts": {name: [str(text) for text in texts] for name, texts in self.texts.items()},
        }
        made.add("index", index | {"of": {name: list(map(str, values.values)) for name, values in fixed.items()}})
        for layer in index["layers"]:
            here = self.positions.sel(layer=layer).transpose("space", "projection", "point", "axis").values
            of = {
                name: values.sel(layer=layer).values.tolist()
                for name, values in self.categories.items()
                if name not in fixed
            }
            trust = self.trustworthiness.sel(layer=layer).transpose("space", "projection").values
            trust = [_rounded(row, None) for row in trust]
            made.add(f"{layer}", {"of": of, "positions": _thousandths(here).tolist(), "trustworthiness": trust})
        return made


@dataclass(frozen=True)
class Step:
    """What goes from the bars of one layer to those of the next.

    tokens, ratio, low, high (row, column): tokens, and their number by that of a null, with its interval; NaN if it is
    not known.
    """

    tokens: np.ndarray
    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Ribbons(Explored):
    """Tokens that go from layer to layer.

    layers: their numbers; bars: for each layer the experts that have one, in order, -1 for all others; steps: from each
    layer to the next; limits: of the colours of ratios; null: what a ratio is to, in words.
    """

    layers: Sequence[int]
    bars: Sequence[Sequence[int]]
    steps: Sequence[Step]
    limits: tuple[float, float]
    null: str

    def scripts(self) -> DataScripts:
        """See `Explored`."""
        made = DataScripts()
        steps = [
            {"tokens": one.tokens.astype(int).tolist()}
            | {name: [_rounded(row, None) for row in getattr(one, name)] for name in ("ratio", "low", "high")}
            for one in self.steps
        ]
        index = {
            "layers": list(self.layers),
            "ribbons": [{"bars": [list(bars) for bars in self.bars], "steps": steps}],
            "heads": ["% of tokens", "Times as many"],
            "colour": "Colour: tokens by those that their ids alone give; grey: the other experts.",
            "limits": list(self.limits),
            "colours": _colours("ratio"),
            "null": self.null,
        }
        made.add("index", index)
        return made


@dataclass(frozen=True)
class Word:
    """A word whose occurrences go from layer to layer.

    meanings: their names, at most as many as the palette has colours; choices: the expert of each occurrence in each
    layer, (occurrence, layer) int; classes: what each means, as a place in `meanings`, (occurrence,) int.
    """

    name: str
    meanings: Sequence[str]
    choices: np.ndarray
    classes: np.ndarray

    def flows(self, layers: Sequence[int]) -> dict:
        """What goes from layer to layer.

        bars, kinds, holds: by layer, the expert and meaning of each bar, from above as in `flow.flow`, and what all
        bars of the expert hold, as a sentence; `MOST_BARS` experts have bars, all others, `OTHERS`, together. steps:
        from each layer to the next, how many occurrences go from bar to bar. meanings: the name of each, and what has
        it.
        """
        choices = np.stack([_busiest(chosen) for chosen in np.asarray(self.choices).T], axis=1)
        bars, place = [], np.zeros(choices.shape, int)
        for layer, top in enumerate(places(choices, self.classes)[0].T):
            chosen = choices[:, layer]
            both = list(zip(chosen.tolist(), self.classes.tolist(), strict=True))
            bars.append(list(dict.fromkeys(both[one] for one in np.lexsort((top, chosen == OTHERS)))))
            place[:, layer] = [bars[-1].index(one) for one in both]
        steps = [np.zeros((len(one), len(other)), int) for one, other in pairwise(bars)]
        for layer, tokens in enumerate(steps):
            np.add.at(tokens, (place[:, layer], place[:, layer + 1]), 1)
        every = np.bincount(self.classes, minlength=len(self.meanings)).tolist()
        meanings = zip(self.meanings, every, strict=True)
        return {
            "name": self.name,
            "meanings": [
                [name, f"{number} occurrences of “{self.name}” that mean {name}"] for name, number in meanings
            ],
            "bars": [[expert for expert, _ in one] for one in bars],
            "kinds": [[kind for _, kind in one] for one in bars],
            "holds": [
                [self._held(layer, expert, chosen, every) for expert, _ in one]
                for layer, one, chosen in zip(layers, bars, choices.T, strict=True)
            ],
            "steps": [{"tokens": tokens.tolist()} for tokens in steps],
        }

    def _held(self, layer: int, expert: int, chosen: np.ndarray, every: Sequence[int]) -> str:
        """How many occurrences of each meaning an expert has, of all those of it, as a sentence after another one."""
        held = np.bincount(self.classes[chosen == expert], minlength=len(every))
        parts = zip(held, every, self.meanings, strict=True)
        text = ", ".join(f"{number} of {all_} that mean {name}" for number, all_, name in parts if number)
        return f". Layer {layer} {'others' if expert == OTHERS else f'expert {expert}'}: {text}"


@dataclass(frozen=True)
class Words(Explored):
    """Words, in the order in which readers choose them, that go through layers, at least two."""

    layers: Sequence[int]
    words: Sequence[Word]

    def scripts(self) -> DataScripts:
        """See `Explored`."""
        made = DataScripts()
        index = {
            "layers": list(self.layers),
            "ribbons": [word.flows(self.layers) for word in self.words],
            "heads": ["Occurrences", "Meaning"],
            "colour": "Colour: meaning.",
        }
        made.add("index", index)
        return made


@dataclass(frozen=True)
class Tree(Explored):
    """The most frequent paths through windows of layers.

    windows: the layers of each; paths: by window, the experts of each path, (path, layer) int; tokens: by window, how
    many are on each path, (path,) int; total: how many there are on all paths, those left out too.
    """

    windows: Sequence[Sequence[int]]
    paths: Sequence[np.ndarray]
    tokens: Sequence[np.ndarray]
    total: int

    def scripts(self) -> DataScripts:
        """See `Explored`; a window is found by the number of its last layer."""
        made = DataScripts()
        made.add("index", {"windows": [list(window) for window in self.windows], "total": self.total})
        for window, paths, tokens in zip(self.windows, self.paths, self.tokens, strict=True):
            made.add(f"{window[-1]}", {"paths": paths.tolist(), "tokens": tokens.tolist()})
        return made


@dataclass(frozen=True)
class Graphs(Explored):
    """Graphs of nodes and signed edges, from left to right.

    titles, graphs: of each, as `graph.described` has it; unit: what values of edges are, in words.
    """

    titles: Sequence[str]
    graphs: Sequence[Mapping]
    unit: str

    def scripts(self) -> DataScripts:
        """See `Explored`."""
        made = DataScripts()
        made.add("index", {"graphs": list(self.graphs), "titles": list(self.titles), "unit": self.unit})
        return made


def _colours(kind: str) -> list[str]:
    """The colours of a scale, from its lower end to its upper one."""
    return [to_hex(colour) for colour in mpl.colormaps[COLOURS[kind]](np.linspace(0, 1, SHADES))]


def _busiest(chosen: np.ndarray) -> np.ndarray:
    """Experts (occurrence,), `OTHERS` instead of all but the `MOST_BARS` most frequent ones."""
    experts, number = np.unique(chosen, return_counts=True)
    return np.where(np.isin(chosen, experts[np.argsort(-number, kind="stable")[:MOST_BARS]]), chosen, OTHERS)


def _thousandths(positions: np.ndarray) -> np.ndarray:
    """Positions (..., point, axis) in thousandths of the range of each axis: int."""
    low, high = positions.min(axis=-2, keepdims=True), positions.max(axis=-2, keepdims=True)
    return np.rint(1000 * (positions - low) / np.where(high > low, high - low, 1)).astype(int)


def _described(one: Matrix, layers: list[int]) -> dict:
    nulls = {
        name: [float(f"{value:.4g}") for value in np.broadcast_to(_at(null, layers), len(layers)).tolist()]
        for name, null in one.nulls.items()
    }
    return {
        "name": one.name,
        "title": one.title,
        "word": one.word or one.name.replace("_", " "),
        "columns": one.columns,
        "across": one.across,
        "symmetric": one.symmetric,
        "ratio": one.kind == "ratio",
        "limits": list(one.ends),
        "colours": _colours(one.kind),
        "nulls": {name: values for name, values in nulls.items() if all(map(math.isfinite, values))},
        "beside": list(one.beside),
        "level": one.level,
    }


def _at(null: float | xr.DataArray, layers: list[int]) -> float | np.ndarray:
    return null.sel(layer=layers).values if isinstance(null, xr.DataArray) and "layer" in null.dims else float(null)


def quantile_limits(values: np.ndarray) -> tuple[float, float]:
    """Colour limits near the 1 % and 99 % quantiles of matrices (..., row, column), the diagonal left out."""
    apart = values[..., ~np.eye(values.shape[-1], dtype=bool)] if values.shape[-1] == values.shape[-2] else values
    known = apart[np.isfinite(apart)]
    low, high = (float(f"{end:.2g}") for end in np.quantile(known, (0.01, 0.99))) if known.size else (0.0, 0.0)
    return low, high if high > low else low + 0.01


def _order(basis: Matrix, layer: int) -> list[int]:
    """Experts in clusters, by the logarithms of ratios, in which three doublings are as far as it goes."""
    values = basis.values.sel(layer=layer).values.astype(np.float64)
    if basis.kind == "ratio":
        with np.errstate(divide="ignore"):
            values = np.clip(np.log2(values) / 3, -1, 1)
    return clustered_order((values + values.T) / 2).tolist()


def _numbers(one: Matrix, layer: int | None) -> dict[str, list]:
    """The numbers of a matrix and of what is beside it: row by row, or the upper triangle of a symmetric one."""
    size = max(map(abs, one.ends))
    found = {}
    for name, array in {"": one.values, **one.beside}.items():
        values = (array if layer is None else array.sel(layer=layer)).values
        flat = values[np.triu_indices(len(values), 1)] if one.symmetric else values.ravel()
        found[name] = _rounded(flat, None if one.kind == "ratio" or name not in ("", "low", "high") else size)
    return found


def _rounded(values: np.ndarray, size: float | None) -> list:
    """Numbers to a hundredth or less of a `size`, or with `DIGITS` significant digits; None for those not known."""
    if size is not None:
        place = DIGITS - 1 - math.floor(math.log10(size))
        return [round(value, place) + 0.0 if math.isfinite(value) else None for value in values.astype(float).tolist()]
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values.astype(float).tolist()]
