"""What every chapter has: a table, figures, findings, and the folder in which the report finds them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure as Drawing

from gatebook.figures import export, plotting
from gatebook.figures.plotting import Reference, Series
from gatebook.figures.words import format_beside, format_estimate, format_number
from gatebook.files import atomic, netcdf
from gatebook.files.origin import signature
from gatebook.measures.summary import MEAN, table
from gatebook.measures.uncertainty import INTERVAL, POOLED
from gatebook.run import job

PIXELS_PER_INCH = 96
ORDER = ["trained", "untrained"]
BOOTSTRAP, JACKKNIFE = "bootstrap over clusters", "jackknife over groups of clusters"
EFFECTS = ("negligible", "small", "large")
MOST_NAMED = 3
ROUNDING = 1e-6
"""Of numbers near one; eight times the float32 spacing there."""
DEGREES = {"negligible": "hardly", "small": "somewhat", "large": "strongly"}
SINCE_TRAINING = {"below": "less", "above": "more", "around": "unclear"}
PREPOSITIONS = {"layer": "in", "depth": "at", "dataset": "within"}
ONE_RUN = "one training run"


@dataclass(frozen=True)
class Seen:
    """What the figures and findings of a chapter are made from: all of it stands in one file.

    metrics: what the chapter measured; untrained: the same of the untrained checkpoint, if there is one; difference:
    metrics minus untrained, paired; thresholds: those of the chapter, fixed before the run.
    """

    metrics: xr.Dataset
    untrained: xr.Dataset | None = None
    thresholds: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    difference: xr.Dataset | None = None

    @classmethod
    def read(cls, path: str | Path, thresholds: Mapping[str, float | Sequence[float]]) -> "Seen":
        """From the file of a chapter's metrics."""
        untrained, difference = (netcdf.load_group(path, group) for group in ("untrained", "difference"))
        return cls(netcdf.load(path), untrained, thresholds, difference)

    def sel(self, **where) -> "Seen":
        """The same at one place along some dimensions."""
        parts = (self.metrics, self.untrained, self.difference)
        metrics, untrained, difference = (
            part if part is None else part.sel({dim: label for dim, label in where.items() if dim in part.dims})
            for part in parts
        )
        return Seen(metrics, untrained, self.thresholds, difference)


@dataclass(frozen=True)
class Null:
    """What a measure is held against.

    values: a number, or an array over any of `dataset`, `layer` and `interval`; with `interval` the null has an
    interval of its own. mean: the same averaged over layers, where its interval is known; otherwise its ends are the
    means of those of the layers, which is never too narrow.
    """

    name: str
    values: float | xr.DataArray
    mean: xr.DataArray | None = None

    @classmethod
    def of(cls, name: str, metrics: xr.Dataset, measure: str) -> "Null":
        """That of a measure, as metrics hold it."""
        return cls(name, metrics[f"null_{measure}"], metrics.get(f"{MEAN}null_{measure}"))

    def by_layer(self) -> xr.DataArray:
        """Its values, with the dimension `interval`: without an interval of its own both ends are the value."""
        return _with_ends(self.values)

    def over_layers(self) -> xr.DataArray:
        """The same averaged over layers."""
        if self.mean is not None:
            return _with_ends(self.mean)
        values = self.by_layer()
        return values.mean("layer") if "layer" in values.dims else values

    def numbers(self) -> dict:
        """What a finding says of it."""
        value, low, high = estimate(pooled(self.over_layers()))
        known = "interval" in getattr(self.values, "dims", ())
        ends = {"null_low": low, "null_high": high} if known else {}
        return {"null_name": self.name, "null_value": value} | ends

    def reference(self) -> Reference:
        """Its pooled values by layer as a figure shows them, with a band if it has an interval."""
        values = pooled(xr.DataArray(self.values))
        if "interval" not in values.dims:
            return Reference(self.name, values.values)
        return Reference(self.name, *ends(values))

    def text(self) -> str:
        """Its pooled value, averaged over layers, with its interval, if it has one."""
        found = self.numbers()
        if "null_low" not in found:
            return format_number(found["null_value"])
        return " ".join(format_estimate(*(found[f"null_{part}"] for part in ("value", "low", "high"))))


def _with_ends(values: float | xr.DataArray) -> xr.DataArray:
    array = xr.DataArray(values)
    return array if "interval" in array.dims else array.expand_dims(interval=list(INTERVAL))


def pooled(array: xr.DataArray) -> xr.DataArray:
    """An array at the dataset "pooled", if it has datasets."""
    return array.sel(dataset=POOLED) if "dataset" in array.dims else array


@dataclass(frozen=True)
class Figure:
    """One figure: its drawing and data, and the words of its block in the report.

    `explores`: what readers of the page see first in its place, of what the function `explored` of the chapter's page
    gives: "MATRIX", "MATRIX, LAYER" or "SPACE, CATEGORY"; "" if they see the drawing alone. `names`: experts that the
    drawing names, as "layer 0, expert 14" or "layer 0, experts 3 and 14", beside those that its words name.
    """

    name: str
    title: str
    alt: str
    caption: str
    how_to_read: str
    drawing: Drawing
    data: pd.DataFrame
    explores: str = field(default="")
    names: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Finding:
    """One row of the key findings: a question and its answer with estimate, interval, and what to compare it with.

    `verdict` is "yes", "no" or "unclear"; `effect` the class of its size (see `effect_class`), "" if it has none;
    `exceptions` says where single layers or datasets contradict it (see `exceptions`), `differs` by which of them it
    differs; `null_low` and `null_high` are
    the ends of the null's own interval, if it has one; `figure` the name of the figure that shows it; `measure` that of
    the chapter's measure, "" if it is none; `training` what training did to it: "more", "less", "unclear", or "" where
    it is not known.
    """

    question: str
    answer: str
    estimate: float
    low: float
    high: float
    unit: str
    null_name: str | None
    null_value: float | None
    verdict: str
    verdict_text: str
    effect: str
    n: int
    n_unit: str
    figure: str
    null_low: float | None = field(default=None)
    null_high: float | None = field(default=None)
    exceptions: str = field(default="")
    differs: tuple[str, ...] = field(default=())
    reference_name: str | None = field(default=None)
    reference_value: float | None = field(default=None)
    measure: str = field(default="")
    training: str = field(default="")

    @property
    def is_known(self) -> bool:
        """Whether it has an estimate with an interval."""
        return all(map(isfinite, (self.estimate, self.low, self.high)))


@dataclass(frozen=True)
class Brief:
    """One sentence of the report's first screen: what a chapter found, in plain words, and one example of it.

    A page may have a function `brief` that gives it, or None if there is nothing to say. Where the verdict does not
    hold `text` says that nothing was found, and `example` is "". layer, experts: those that the example names, if it
    names any; `figure` the name of the figure that shows it.
    """

    text: str
    figure: str
    example: str = field(default="")
    layer: int | None = field(default=None)
    experts: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class Service:
    """That an expert serves a dataset beyond its share.

    `share` [`low`, `high`] of the dataset's tokens select it, and `usual` is the mean of this share over all datasets;
    `effect` is the class of the difference that the lower end has. A page may have a function `served` that gives a
    list of them, or None if it cannot tell.
    """

    layer: int
    expert: int
    dataset: str
    share: float
    low: float
    high: float
    usual: float
    effect: str


def checkpoints(metrics: xr.Dataset, untrained: xr.Dataset | None) -> dict[str, xr.Dataset]:
    """The metrics of the studied checkpoint, and of the untrained one if there is one, by what figures call them."""
    return dict(zip(ORDER, [metrics] if untrained is None else [metrics, untrained], strict=False))


def series(metrics: xr.Dataset, untrained: xr.Dataset | None, name: str) -> list[Series]:
    """The pooled measure over layers of the studied checkpoint, and of the untrained one if there is one."""
    pooled = {label: source[name].sel(dataset="pooled") for label, source in checkpoints(metrics, untrained).items()}
    return [Series(label, *ends(array)) for label, array in pooled.items()]


def dataset_matrix(
    metrics: xr.Dataset, name: str, *, label: str, annotate: str, from_zero: bool = True
) -> tuple[Drawing, xr.DataArray]:
    """A matrix of a measure, datasets by layers, and its means over layers.

    Parameters
    ----------
    metrics
        Holds the measure `name` (dataset, layer, interval); its first dataset, "pooled", is not drawn.
    name
        Of the measure.
    label
        Name of the colour bar.
    annotate
        Format of the values in the cells, such as ".2f".
    from_zero
        Whether the colour scale starts at 0, or else at the smallest value.

    Returns
    -------
    drawing : Drawing
    means : xarray.DataArray
        (dataset,), in the measure's unit.
    """
    values, means = (
        metrics[part].isel(dataset=slice(1, None)).sel(interval="estimate")
        for part in (name, f"mean_over_layers_{name}")
    )
    drawing, (ax,) = plotting.canvas(plotting.height_for(values.sizes["dataset"]))
    plotting.matrix(
        ax,
        values.transpose("dataset", "layer").values,
        [str(dataset) for dataset in values["dataset"].values],
        [str(layer) for layer in values["layer"].values],
        kind="magnitude",
        label=label,
        annotate=annotate,
        x_label="Layer",
        **({} if from_zero else {"limits": (float(values.min()), float(values.max()))}),
    )
    return drawing, means


def counts_text(metrics: xr.Dataset, method: str = BOOTSTRAP, tokens: str = "tokens") -> str:
    """What a pooled figure rests on (see `size_text`), and how its intervals were made, for its caption."""
    if without_documents(metrics):
        method = f"independent draws of tokens, a design effect of {float(metrics['design_effect']):g} allowed for"
    return f"{size_text(metrics, tokens)}; intervals: {100 * metrics.attrs['confidence']:g} % {method}."


def size_text(metrics: xr.Dataset, tokens: str = "tokens") -> str:
    """How many tokens, documents and clusters a pooled figure rests on; `tokens` is what the tokens are called."""
    datasets = metrics.attrs.get("pooled_datasets", metrics.sizes["dataset"] - 1)
    numbers = {word: int(pooled(metrics[name])) for name, word in _sizes(metrics, tokens).items()}
    return f"n = {' of '.join(f'{number:,} {word}' for word, number in numbers.items())} in {datasets} datasets"


def _sizes(metrics: xr.Dataset, tokens: str) -> dict[str, str]:
    names = ("tokens",) if without_documents(metrics) else ("tokens", "documents", "clusters")
    return {name: tokens if name == "tokens" else name for name in names}


def without_documents(metrics: xr.Dataset) -> bool:
    """Whether the metrics are those of published counts: documents and what rests on them are not known."""
    return "design_effect" in metrics


def if_documents(metrics: xr.Dataset, text: str) -> str:
    """A text about documents, which published counts do not have."""
    return "" if without_documents(metrics) else text


def sample_size(metrics: xr.Dataset, tokens: str = "tokens") -> dict:
    """What a pooled finding rests on: `n` clusters, the unit of inference, or tokens where these alone are known."""
    *others, (unit, word) = _sizes(metrics, tokens).items()
    more = [f"{int(pooled(metrics[name])):,} {each}" for name, each in reversed(others)]
    return {"n": int(pooled(metrics[unit])), "n_unit": ", ".join([word, *more])}


def over_layers(metrics: xr.Dataset, name: str) -> tuple[float, float, float]:
    """The pooled measure `name`, averaged over layers, with its interval."""
    return estimate(pooled(metrics[MEAN + name]))


def numbers(
    seen: Seen,
    name: str,
    null: Null,
    effect: str,
    *,
    scale: float = 1,
    threshold: float | None = None,
    datasets: bool = True,
) -> dict:
    """What a finding about a pooled measure, averaged over layers, says in numbers.

    Parameters
    ----------
    seen
        What the chapter measured.
    name
        Of the measure.
    null
        What it is held against.
    effect
        The key of the thresholds that hold the borders of its effect size.
    scale
        What the distance from the null is divided by, before it is held against the borders.
    threshold
        What decides the verdict, and so what an exception is, if that is not the null.
    datasets
        Whether the measure of a single dataset says the same about it as the pooled one about all.

    Returns
    -------
    dict
        Fields of a `Finding`: estimate and interval, null and reference, `effect`, `exceptions`, `differs`, `measure`,
        `training`, and `sample_size`.
    """
    found = held(over_layers(seen.metrics, name), null, seen.thresholds[effect], scale)
    against = null if threshold is None else Null(format_number(threshold), threshold)
    found |= exceptions(side(found, threshold), against, *_parts(seen.metrics, name, datasets))
    about = {"measure": name, "training": SINCE_TRAINING.get(_since_training(seen, name), "")}
    return found | about | reference(seen, over_layers, name) | sample_size(seen.metrics)


def trained(seen: Seen, name: str, effect: str, *, scale: float = 1) -> dict | None:
    """What a finding says in numbers on what training did to the pooled measure `name`, averaged over layers.

    The estimate is the paired difference from the untrained model; None if that is not known. See `numbers`.
    """
    if seen.difference is None or MEAN + name not in seen.difference:
        return None
    null = Null("no difference from the untrained model", 0.0)
    found = held(over_layers(seen.difference, name), null, seen.thresholds[effect], scale)
    found |= exceptions(side(found), null, *_parts(seen.difference, name))
    return found | {"measure": name, "training": SINCE_TRAINING[side(found)]} | sample_size(seen.metrics)


def _since_training(seen: Seen, name: str) -> str | None:
    """Where the paired difference from the untrained model lies (see `lies`); None if it is not known."""
    if seen.difference is None or MEAN + name not in seen.difference:
        return None
    return lies(*over_layers(seen.difference, name)[1:], 0)


def change(seen: Seen, name: str, words: Sequence[str] = ("less than", "more than", "about as much as")) -> str:
    """What training did to the pooled measure, averaged over layers, as the end of an answer; "" if it is not known.

    It is judged by the paired difference from the untrained model, whose interval it states. words: for a measure that
    fell, for one that rose, and for one of which it is not known.
    """
    whole = _since_training(seen, name)
    if whole is None:
        return ""
    value = over_layers(seen.difference, name)
    word = dict(zip(("below", "above", "around"), words, strict=True))[whole]
    contrary = [_contrary(whole, Null("", 0.0), part) for part in _parts(seen.difference, name)]
    but = "".join(f"; but {text}" for text in contrary if text)
    return f", {word} in the untrained model (difference {' '.join(format_estimate(*value))}, {ONE_RUN}{but})"


def rounded(value: Mapping | Sequence[float], turned: Callable[[float], float] = float) -> str:
    """The estimate of a finding, or of (estimate, low, high), with the decimals that its interval allows.

    turned: into another unit, for the estimate and its interval alike.
    """
    parts = [value[part] for part in INTERVAL] if isinstance(value, Mapping) else value
    return format_estimate(*map(turned, parts)).estimate


def percent(value: Mapping | Sequence[float]) -> str:
    """A share as `rounded`, in percent."""
    return f"{rounded(value, hundredfold)} %"


def hundredfold(share: float) -> float:
    """A share in percent."""
    return 100 * share


def degree(effect: str) -> str:
    """The class of an effect as an adverb: "somewhat", "somewhat to strongly"."""
    return " to ".join(DEGREES[each] for each in effect.split(" to "))


def before(seen: Seen, name: str, turned: Callable[[float], float] = float, unit: str = "") -> str:
    """What the pooled measure, averaged over layers, was before training, in parentheses; "" if it is not known.

    It has the decimals of the value after training; turned: into another unit, for both.
    """
    whole = _since_training(seen, name)
    if whole is None or seen.untrained is None:
        return ""
    value = turned(over_layers(seen.untrained, name)[0])
    text = format_beside(value, *map(turned, over_layers(seen.metrics, name))) + unit
    return f" ({'about as' if whole == 'around' else text} before training)"


def _parts(metrics: xr.Dataset, name: str, datasets: bool = True) -> list[xr.DataArray]:
    """A measure by layer, pooled, and by dataset, averaged over layers, each as far as there is more than one."""
    by_layer, by_dataset = pooled(metrics[name]), metrics[MEAN + name]
    if not datasets or "dataset" not in by_dataset.dims:
        return [by_layer]
    return [by_layer, by_dataset.isel(dataset=slice(1, None))]


def held(value: tuple[float, float, float], null: Null, borders: Sequence[float], scale: float = 1) -> dict:
    """An estimate with its interval, its null, and the class of the distance between them, divided by `scale`."""
    against = null.numbers()
    sizes = [(part - against["null_value"]) / scale for part in value]
    return dict(zip(INTERVAL, value, strict=True)) | against | {"effect": effect_class(sizes, borders)}


def reference(seen: Seen, value: Callable[..., tuple[float, float, float]], *arguments) -> dict:
    """What a function says of the untrained model's metrics, as the reference of a finding, if that is known."""
    if seen.untrained is None or not isfinite(found := value(seen.untrained, *arguments)[0]):
        return {}
    return {"reference_name": "untrained model", "reference_value": found}


def effect_class(sizes: Sequence[float], borders: Sequence[float]) -> str:
    """The class of an effect, given with its interval: "negligible", "small" or "large".

    It is negligible below the smaller of two `borders`, large from the larger one on, whatever its sign; if it is not
    the same all over the interval, the classes at both ends are named: "small to large". "" if it is not known.
    """
    if not isfinite(sizes[0]):
        return ""
    known = [size for size in sizes if isfinite(size)]
    nearest = 0.0 if min(known) < 0 < max(known) else min(map(abs, known))
    ends = [EFFECTS[sum(size >= border for border in borders)] for size in (nearest, max(map(abs, known)))]
    return " to ".join(dict.fromkeys(ends))


def ends(array: xr.DataArray) -> list[np.ndarray]:
    """Estimate, low and high of an array with the dimension `interval`, each without it, as figures draw them."""
    return [array.sel(interval=part).values for part in INTERVAL]


def estimate(array: xr.DataArray) -> tuple[float, float, float]:
    """(estimate, low, high) of an array with the single dimension `interval`.

    All that differs from 0 by no more than rounding, which `lies` does not tell from it either, is 0: nothing is said
    of the digits of -3.8e-9. That holds for the three together, so that an estimate near 0 in a wide interval stays.
    """
    found = tuple(float(array.sel(interval=part)) for part in INTERVAL)
    if any(abs(part) > _rounding(0) for part in found):
        return found
    return tuple(0.0 * part for part in found)  # what is not known, NaN, stays so


def lies(low: float, high: float, start: float, end: float | None = None) -> str:
    """Where an interval lies: "below" or "above" a value, or another interval, as a whole, else "around" it.

    What differs by no more than the rounding of float32 does not differ.
    """
    end = start if end is None else end
    return "below" if high < start - _rounding(start) else "above" if low > end + _rounding(end) else "around"


def _rounding(value):
    """By how much sums and means of float32 numbers may miss a value."""
    return ROUNDING * np.maximum(1, np.abs(value))


def side(found: Mapping, threshold: float | None = None) -> str:
    """Where the interval of a finding lies (see `lies`), by the threshold, or by the null and the null's interval."""
    against = (threshold,) if threshold is not None else (found.get("null_low"), found.get("null_high"))
    return lies(found["low"], found["high"], *(against if against[0] is not None else (found["null_value"],)))


def verdict(place: str, yes: str) -> str:
    """The verdict on where an interval lies (see `lies`): "yes" for the place `yes`, "unclear" for "around"."""
    return "unclear" if place == "around" else "yes" if place == yes else "no"


def exceptions(whole: str, null: Null, *parts: xr.DataArray) -> dict:
    """Where parts contradict a finding: `exceptions`, a sentence for each kind of part, and these kinds, `differs`.

    Parameters
    ----------
    whole
        Where the pooled mean over layers lies. Parts contradict it if they lie on the other side of the null, each by
        its interval, and each other if some lie below and some above.
    parts
        The measure with `interval` and one dimension more: `layer`, `depth` or `dataset`.
    """
    contrary = {_kind(part): text for part in parts if (text := _contrary(whole, null, part))}
    sentences = " ".join(f"Yet against {null.name} it is {text}." for text in contrary.values())
    return {"exceptions": sentences, "differs": tuple(contrary)}


def _kind(values: xr.DataArray) -> str:
    """The dimension of a measure's parts: `layer`, `depth` or `dataset`."""
    (kind,) = set(values.dims) - {"interval"}
    return kind


def _contrary(whole: str, null: Null, values: xr.DataArray) -> str:
    """Which parts lie below and which above, if that is a contradiction."""
    kind = _kind(values)
    against = pooled(null.by_layer()) if kind == "layer" else null.over_layers()
    low, high = (against.sel(interval=end, drop=True) for end in ("low", "high"))
    sides = {
        "below": values.sel(interval="high", drop=True) < low - _rounding(low),
        "above": values.sel(interval="low", drop=True) > high + _rounding(high),
    }
    found = {side: array[kind].values[array.values] for side, array in sides.items() if array.any()}
    if not {"below", "above"} <= {whole, *found}:
        return ""
    return " and ".join(f"{side} {_named(kind, labels, values.sizes[kind])}" for side, labels in found.items())


def _named(kind: str, labels: Sequence, total: int) -> str:
    """Some parts of `total`, by their names, or if they are many by their number."""
    if len(labels) > MOST_NAMED:
        return f"{PREPOSITIONS[kind]} {len(labels)} of {total} {kind}s"
    *others, last = map(str, labels)
    names = f"{', '.join(others)} and {last}" if others else last
    return f"{PREPOSITIONS[kind]} {kind}{'s' if others else ''} {names}"


def write(folder: Path, shown: ModuleType, seen: Seen, source: str) -> list[Finding]:
    """What a chapter's page (`shown`) makes of what was seen; returns the findings.

    Every figure as SVG, PDF and CSV, and `chapter.json`: {figures, findings, brief, served, explored}, the words of the
    figures, the findings, the `Brief`, the list of `Service`, and the build of what readers explore, each None if the
    page has none. `source` stands in the files.
    """
    blocks, findings = [], shown.findings(seen)
    for figure in shown.figures(seen):
        width, height = (round(inches * PIXELS_PER_INCH) for inches in figure.drawing.get_size_inches())
        about = {"title": figure.title, "description": figure.alt, "source": source}
        data = _with_untrained(figure.data, seen.untrained)
        places = export.save(figure.drawing, folder, figure.name, data, **about)
        keys = ("name", "title", "alt", "caption", "how_to_read", "explores", "names")
        words = {key: getattr(figure, key) for key in keys}
        blocks.append(words | {"width": width, "height": height, "places": places})
    brief, served, explored = (
        getattr(shown, name)(seen) if hasattr(shown, name) else None for name in ("brief", "served", "explored")
    )
    content = {
        "figures": blocks,
        "findings": [asdict(finding) for finding in findings],
        "brief": None if brief is None else asdict(brief),
        "served": None if served is None else [asdict(one) for one in served],
        "explored": None if explored is None else explored.write(folder),
    }
    (folder / "chapter.json").write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    return findings


def _with_untrained(data: pd.DataFrame, untrained: xr.Dataset | None) -> pd.DataFrame:
    """A table of measures (see `summary.table`), with the estimates of the untrained checkpoint as one more column."""
    names = set(data["measure"].str.removeprefix(MEAN)) if "measure" in data else set()
    if untrained is None or not names or not names <= set(untrained):
        return data
    of = list(data.columns[: data.columns.get_loc("estimate")])
    other = table(untrained, names)[[*of, "estimate"]].rename(columns={"estimate": "untrained"})
    return data.merge(other, on=of, how="left", validate="one_to_one")


def publish(folder: str | Path, shown: ModuleType, seen: Seen) -> None:
    """Write a chapter's figures and words (see `write`), whole or not at all, and log the findings."""
    with atomic.atomic_directory(folder) as partial:
        findings = write(partial, shown, seen, signature(seen.metrics.attrs))
    for finding in findings:
        job.log(f"{finding.question} {finding.answer}")
