"""What every chapter has: a table, figures, findings, and the folder in which the report finds them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure as Drawing

from gatebook.figures import export, plotting
from gatebook.figures.plotting import Series
from gatebook.files import atomic, netcdf
from gatebook.files.origin import signature
from gatebook.measures.uncertainty import INTERVAL
from gatebook.run import job

PIXELS_PER_INCH = 96
ORDER = ["trained", "untrained"]


@dataclass(frozen=True)
class Seen:
    """What the figures and findings of a chapter are made from: all of it stands in one file.

    metrics: what the chapter measured; untrained: the same of the untrained checkpoint, if there is one; difference:
    metrics minus untrained, paired; thresholds: those of the chapter, fixed before the run.
    """

    metrics: xr.Dataset
    untrained: xr.Dataset | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    difference: xr.Dataset | None = None

    @classmethod
    def read(cls, path: str | Path, thresholds: Mapping[str, float]) -> "Seen":
        """From the file of a chapter's metrics."""
        untrained, difference = (netcdf.load_group(path, group) for group in ("untrained", "difference"))
        return cls(netcdf.load(path), untrained, thresholds, difference)


@dataclass(frozen=True)
class Figure:
    """One figure: its drawing and data, and the words of its block in the report."""

    name: str
    title: str
    alt: str
    caption: str
    how_to_read: str
    drawing: Drawing
    data: pd.DataFrame


@dataclass(frozen=True)
class Finding:
    """One row of the key findings: a question and its answer with estimate, interval, and what to compare it with.

    `verdict` is "yes", "no" or "unclear"; `figure` the name of the figure that shows it.
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
    n: int
    n_unit: str
    figure: str
    reference_name: str | None = field(default=None)
    reference_value: float | None = field(default=None)


def series(metrics: xr.Dataset, untrained: xr.Dataset | None, name: str) -> list[Series]:
    """The pooled measure over layers of the studied checkpoint, and of the untrained one if there is one."""
    sources = {"trained": metrics} | ({"untrained": untrained} if untrained is not None else {})
    pooled = {label: source[name].sel(dataset="pooled") for label, source in sources.items()}
    return [Series(label, *(array.sel(interval=part).values for part in INTERVAL)) for label, array in pooled.items()]


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


def counts_text(metrics: xr.Dataset, method: str = "bootstrap over documents") -> str:
    """How many tokens and documents a pooled figure rests on, and how its intervals were made, for its caption."""
    if without_documents(metrics):
        return f"{size_text(metrics)}; published counts, without intervals."
    return f"{size_text(metrics)}; bands: {100 * metrics.attrs['confidence']:g} % {method}."


def size_text(metrics: xr.Dataset) -> str:
    """How many tokens and documents a pooled figure rests on."""
    pooled = metrics.sel(dataset="pooled")
    documents = "" if without_documents(metrics) else f" of {int(pooled['documents']):,} documents"
    return f"n = {int(pooled['tokens']):,} tokens{documents} in {metrics.sizes['dataset'] - 1} datasets"


def without_documents(metrics: xr.Dataset) -> bool:
    """Whether the metrics are those of published counts: documents, intervals and what rests on them are not known."""
    return not metrics["documents"].sel(dataset="pooled").any()


def if_documents(metrics: xr.Dataset, text: str) -> str:
    """A text about documents or intervals, which published counts do not have."""
    return "" if without_documents(metrics) else text


def sample_size(metrics: xr.Dataset) -> dict:
    """What a pooled finding rests on: its `n` and `n_unit`, which are tokens where documents are not known."""
    unit = "tokens" if without_documents(metrics) else "documents"
    return {"n": int(metrics[unit].sel(dataset="pooled")), "n_unit": unit}


def over_layers(metrics: xr.Dataset, name: str) -> tuple[float, float, float]:
    """The pooled measure `name`, averaged over layers, with its interval."""
    return estimate(metrics[f"mean_over_layers_{name}"].sel(dataset="pooled"))


def numbers(metrics: xr.Dataset, untrained: xr.Dataset | None, name: str, null_name: str, null_value: float) -> dict:
    """The numbers of a finding about a pooled measure, averaged over layers.

    Parameters
    ----------
    metrics, untrained
        Of the studied and, if there is one, of the untrained checkpoint.
    name
        Of the measure.
    null_name, null_value
        Its null in words, and its value in the measure's unit.

    Returns
    -------
    dict
        Fields of a `Finding`: estimate, low, high, those of the null and of the reference, and `sample_size`.
    """
    value, low, high = over_layers(metrics, name)
    return {
        "estimate": value,
        "low": low,
        "high": high,
        "null_name": null_name,
        "null_value": null_value,
        "reference_name": "untrained model" if untrained is not None else None,
        "reference_value": over_layers(untrained, name)[0] if untrained is not None else None,
    } | sample_size(metrics)


def estimate(array: xr.DataArray) -> tuple[float, float, float]:
    """(estimate, low, high) of an array with the single dimension `interval`."""
    return tuple(float(array.sel(interval=part)) for part in INTERVAL)


def lies(low: float, high: float, threshold: float) -> str:
    """Where an interval lies: "below" or "above" the threshold as a whole, else "around" it."""
    return "below" if high < threshold else "above" if low > threshold else "around"


def verdict(place: str, yes: str) -> str:
    """The verdict on where an interval lies (see `lies`): "yes" for the place `yes`, "unclear" for "around"."""
    return "unclear" if place == "around" else "yes" if place == yes else "no"


def write(folder: Path, figures: list[Figure], findings: list[Finding], source: str) -> None:
    """Write every figure as SVG, PDF and CSV, and `chapter.json`: the words of the figures, and the findings."""
    blocks = []
    for figure in figures:
        width, height = (round(inches * PIXELS_PER_INCH) for inches in figure.drawing.get_size_inches())
        export.save(
            figure.drawing, folder, figure.name, figure.data, title=figure.title, description=figure.alt, source=source
        )
        words = {key: getattr(figure, key) for key in ("name", "title", "alt", "caption", "how_to_read")}
        blocks.append(words | {"width": width, "height": height})
    content = {"figures": blocks, "findings": [asdict(finding) for finding in findings]}
    (folder / "chapter.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def publish(folder: str | Path, figures: list[Figure], findings: list[Finding], metrics: xr.Dataset) -> None:
    """Write a chapter's figures and findings (see `write`), whole or not at all, and log the findings."""
    with atomic.atomic_directory(folder) as partial:
        write(partial, figures, findings, signature(metrics.attrs))
    for finding in findings:
        job.log(f"{finding.question} {finding.answer}")
