"""The page of the chapter multiple choice in several models: one figure of layers by models, and a finding of each."""

import numpy as np
import xarray as xr

from gatebook.chapters.base.page import (
    BOOTSTRAP,
    Figure,
    Finding,
    Null,
    Seen,
    ends,
    estimate,
    held,
    lies,
    rounded,
    verdict,
)
from gatebook.chapters.multiple_choice_models import MEASURES
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate
from gatebook.measures.summary import MEAN, spread, table
from gatebook.measures.uncertainty import POOLED

NOTHING = Reference("no change", 0.0)
AS_MUCH = Null("as much weight of other experts", 0.0)
SETS = {"own experts": "own_change", "as much of others": "control_change"}
MOST_RANKS = 3


def figures(seen: Seen) -> list[Figure]:
    """The accuracy of all runs; and layers by models, if experts were removed from any."""
    found, known = [_accuracy(seen.metrics)], _removed(seen.metrics)
    return found + ([_by_model(seen.metrics, known)] if known else [])


def findings(seen: Seen) -> list[Finding]:
    """Of each model from which experts were removed, whether they matter beyond their load."""
    return [_finding(seen, run) for run in _removed(seen.metrics)]


def _removed(metrics: xr.Dataset) -> list[str]:
    """The runs of which changes are known."""
    known = np.isfinite(metrics["own_change"].sel(dataset=POOLED, interval="estimate")).any("layer")
    return [str(run) for run in metrics["each"].values[known.values]]


def _items(metrics: xr.Dataset) -> str:
    numbers = metrics["documents"].sel(dataset=POOLED).values.astype(int)
    said = " and ".join(f"{number:,}" for number in dict.fromkeys(numbers.tolist()))
    return f"n = {said} items of each run; intervals: {100 * metrics.attrs['confidence']:g} % {BOOTSTRAP}."


def _finding(seen: Seen, run: str) -> Finding:
    metrics = seen.metrics.sel(each=run, dataset=POOLED)
    found = held(estimate(metrics[f"{MEAN}own_minus_control"]), AS_MUCH, seen.thresholds["odds_effect"])
    own, control = (rounded(estimate(metrics[f"{MEAN}{name}"])) for name in SETS.values())
    items, sources = (int(metrics[name]) for name in ("documents", "clusters"))
    return Finding(
        question=f"Does {run} need a subject's experts beyond as much weight of others?",
        answer=f"Without them the log-odds of right answers change by {own} nats per layer, without as much of others "
        f"by {control}.",
        verdict=verdict(lies(found["low"], found["high"], 0), yes="below"),
        verdict_text="yes means a difference below 0",
        unit="nats of log-odds",
        figure="by_model",
        measure="own_minus_control",
        n=sources,
        n_unit=f"sources, {items:,} items",
        **found,
    )


def _accuracy(metrics: xr.Dataset) -> Figure:
    runs = [str(run) for run in metrics["each"].values]
    value = metrics["accuracy"].sel(dataset=POOLED)
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(runs)))
    line = Series("accuracy", *ends(value))
    plotting.dot_whiskers(ax, runs, [line], [Reference("chance", MEASURES["accuracy"].null)], x_label="accuracy")
    said = ", ".join(f"{run} {' '.join(format_estimate(*estimate(value.sel(each=run))))}" for run in runs)
    return Figure(
        name="accuracy",
        title="Right answers of each model",
        alt=f"Dots with whiskers of accuracy by run: {said}.",
        caption=f"Share of items whose right answer is the most likely: {said}. {_items(metrics)}",
        how_to_read="What is removed from a model that answers no better than chance says nothing about its experts.",
        drawing=drawing,
        data=table(metrics, ["accuracy"]),
    )


def _by_model(metrics: xr.Dataset, runs: list[str]) -> Figure:
    panels, said = [], []
    for title, draw in (("by expert set", _sets), ("by rank", _ranks), ("by rank, renormalised", _renormalised)):
        for run in runs:
            mine = metrics.sel(each=run)
            mine = mine.isel(
                layer=np.flatnonzero(np.isfinite(mine["own_change"].sel(dataset=POOLED, interval="estimate")))
            )
            lines, references = draw(mine)
            panels.append(Panel(f"{run}, {title}", mine["layer"].values, lines, references, "log-odds (nats)"))
    for run in runs:
        value = estimate(metrics[f"{MEAN}own_minus_control"].sel(each=run, dataset=POOLED))
        said.append(f"{run} {' '.join(format_estimate(*value))}")
    drawing = plotting.small_multiples(panels, columns=len(runs), panel_height=2.1, share_y=False)
    return Figure(
        name="by_model",
        title="What is removed, by layer and model",
        alt="Line charts over layers, a column for each model: the change of the right answer's log-odds without the "
        f"subject's experts and as much of others, and without one choice; own minus others: {', '.join(said)}.",
        caption=f"Change of the right answer's log-odds, each layer alone. Own minus others, mean over layers: "
        f"{', '.join(said)} nats. {_items(metrics)}",
        how_to_read="In the first row compare both lines of a panel; in the last one compare with renormalising alone.",
        drawing=drawing,
        data=table(metrics, [name for name in MEASURES if name != "accuracy"]),
    )


def _sets(metrics: xr.Dataset) -> tuple[list[Series], list[Reference]]:
    return [Series(label, *ends(metrics[name].sel(dataset=POOLED))) for label, name in SETS.items()], [NOTHING]


def _ranks(metrics: xr.Dataset) -> tuple[list[Series], list[Reference]]:
    return _by_rank(metrics, "rank_change"), [NOTHING]


def _renormalised(metrics: xr.Dataset) -> tuple[list[Series], list[Reference]]:
    return _by_rank(metrics, "rank_change_renormalised"), [
        Reference("renormalised alone", *ends(metrics["renormalised_change"]))
    ]


def _by_rank(metrics: xr.Dataset, name: str) -> list[Series]:
    """Lines of the first ranks and the last one that the model has."""
    known = metrics["rank"].values[np.isfinite(metrics[name].sel(interval="estimate")).any("layer").values]
    ranks = spread(known, MOST_RANKS) if len(known) else []
    return [
        Series(f"choice {rank + 1}", *ends(metrics[name].sel(rank=rank).transpose("layer", "interval")))
        for rank in ranks
    ]
