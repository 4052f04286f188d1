"""The page of the chapter compare: figures, findings and words."""

import math
from collections.abc import Mapping
from dataclasses import replace

import xarray as xr
from matplotlib.figure import Figure as Drawing

from gatebook.chapters.base.page import (
    BOOTSTRAP,
    ONE_RUN,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    ends,
    estimate,
    exceptions,
    held,
    lies,
    pooled,
    rounded,
    sample_size,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.compare import EFFECTS, runs
from gatebook.chapters.compare.measure import COMPARED, pair, table
from gatebook.figures import plotting
from gatebook.figures.plotting import Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.uncertainty import INTERVAL

BY_DATASET = ("normalised_entropy", "coefficient_of_variation", "domain_information")
ASKED = (
    (
        "normalised_entropy",
        "Is the router of {B} surer of its choice than that of {A}?",
        "entropy",
        "below",
        "of its maximum, ln E",
    ),
    (
        "token_information",
        "Does the router's distribution in {B} depend on the token more than in {A}?",
        "dependence on the token",
        "above",
        "nats",
    ),
    (
        "coefficient_of_variation",
        "Is the load of {B}, all datasets together, more even than that of {A}?",
        "coefficient of variation of the load",
        "below",
        "of the mean load",
    ),
    (
        "domain_information",
        "Do the experts of {B} tell domains apart better than those of {A} do?",
        "information about the domain",
        "above",
        "bits per selection",
    ),
)
"""Measure, question, what the answer is about, where the interval of B - A lies if the answer is yes, unit."""


def figures(seen: Seen) -> list[Figure]:
    """All figures of the comparison of the first run with each of the others, and, if these are several, of all."""
    found = [_runs(seen.metrics)] if seen.metrics.sizes["second"] > 1 else []
    for metrics in _pairs(seen.metrics):
        made = [_measures_by_depth(metrics), _differences_by_depth(metrics), _differences_by_dataset(metrics)]
        if metrics.attrs["suffix"]:
            made = [
                replace(
                    each, name=each.name + metrics.attrs["suffix"], title=f"{each.title}: {metrics.attrs['second']}"
                )
                for each in made
            ]
        found += made
    return found


def findings(seen: Seen) -> list[Finding]:
    """The rows of the comparison in the table of key findings."""
    return [found for _, _, found in _findings(seen.metrics)]


def brief(seen: Seen) -> Brief | None:
    """In how many of the measures that are asked about runs differ, and the first of those that differ most."""
    known = [(metrics, asked, found) for metrics, asked, found in _findings(seen.metrics) if found.is_known]
    if not known:
        return None
    differ = [each for each in known if each[2].verdict != "unclear"]
    first = seen.metrics.attrs["first"]
    if not differ:
        return Brief(f"Nothing shows that routing differs from that of {first}.", known[0][2].figure)
    seconds = list(dict.fromkeys(metrics.attrs["second"] for metrics, *_ in known))
    others = seconds[0] if len(seconds) == 1 else f"{len(seconds)} other runs"
    text = f"Routing differs between {first} and {others} in {len(differ)} of {len(known)} comparisons."
    metrics, (name, _, subject, *_), found = min(differ, key=lambda each: each[2].effect != "large")
    one, other = _means(metrics, name)
    return Brief(text, found.figure, f"The {subject} is {one} in {first} and {other} in {metrics.attrs['second']}.")


def _findings(metrics: xr.Dataset) -> list[tuple[xr.Dataset, tuple[str, ...], Finding]]:
    """Each finding with the comparison that it is about and what was asked."""
    return [(each, asked, _finding(each, *asked)) for each in _pairs(metrics) for asked in ASKED]


def _means(metrics: xr.Dataset, name: str) -> list[str]:
    """A pooled measure in runs A and B, mean over depths."""
    means = pooled(metrics[f"mean_over_depths_{name}"])
    return [rounded(estimate(means.sel(run=run))) for run in ("A", "B")]


def _pairs(metrics: xr.Dataset) -> list[xr.Dataset]:
    """Each comparison by itself; `suffix` tells the names of its figures from those of others, if there are any."""
    seconds = [str(second) for second in metrics["second"].values]
    marks = [f"_{second.replace('/', '_')}" for second in seconds] if len(seconds) > 1 else [""]
    return [
        pair(metrics, second).assign_attrs(second=second, suffix=mark)
        for second, mark in zip(seconds, marks, strict=True)
    ]


def _finding(metrics: xr.Dataset, name: str, question: str, subject: str, yes: str, unit: str) -> Finding:
    null = Null("no difference", 0.0)
    found = held(_difference(metrics, name), null, EFFECTS[name])
    place = side(found)
    one, other = _means(metrics, name)
    doubt = "; the interval of the difference holds 0" if place == "around" else ""
    datasets = metrics[f"mean_over_depths_difference_{name}"].isel(dataset=slice(1, None))
    return Finding(
        question=question.format(A=metrics.attrs["first"], B=metrics.attrs["second"]),
        answer=f"The {subject} is {one} in A and {other} in B{doubt}; {_trainings(metrics)}.",
        unit=f"{unit}, B − A",
        verdict=verdict(place, yes),
        verdict_text=f"yes means an interval of B − A {yes} 0",
        figure="differences_by_depth" + metrics.attrs["suffix"],
        **found
        | exceptions(place, null, pooled(metrics[f"difference_{name}"]), datasets)
        | sample_size(metrics.sel(run="B")),
    )


def _trainings(metrics: xr.Dataset) -> str:
    """How many training runs a comparison rests on: two checkpoints of one model are of the same."""
    first, second = (metrics.attrs[run].split("/")[0] for run in ("first", "second"))
    return ONE_RUN if first == second else f"{ONE_RUN} of each model"


def _difference(metrics: xr.Dataset, name: str) -> tuple[float, float, float]:
    """Pooled B - A of a measure, mean over depths, with its interval."""
    return estimate(metrics[f"mean_over_depths_difference_{name}"].sel(dataset="pooled"))


def _runs_text(metrics: xr.Dataset) -> str:
    """Which runs are compared, on how much text, and how the intervals were made, for a caption."""
    named = [
        f"{run} is {name}, {size_text(metrics.sel(run=run))}"
        for run, name in (("A", metrics.attrs["first"]), ("B", metrics.attrs["second"]))
    ]
    names = metrics["dataset"].values[1:]
    unpaired = [str(name) for name in names[metrics["paired"].values[1:] == 0]]
    pairing = "the same text, whose clusters are drawn together"
    if unpaired:
        pairing = f"unpaired, because documents differ, in {', '.join(unpaired)}"
    percent = f"{100 * metrics.attrs['confidence']:g} %"
    return f"{'; '.join(named)}. {_unequal(metrics)}Intervals: {percent} {BOOTSTRAP}, {pairing}."


def _unequal(metrics: xr.Dataset) -> str:
    """What cannot be compared if the runs have other numbers of experts or select other numbers of them."""
    sizes = list(zip(metrics["experts_per_token"].values, metrics["experts"].values, strict=True))
    if sizes[0] == sizes[1]:
        return ""
    (k, experts), (other_k, other_experts) = sizes
    return (
        f"A selects {k} of {experts} experts, B {other_k} of {other_experts}: mass of the selected, probabilities, "
        "numbers of experts and nats or bits depend on that and cannot be compared as they stand. "
    )


def _panels(metrics: xr.Dataset, prefix: str, runs: Mapping[str, dict], references: list[Reference]) -> Drawing:
    """A panel for each measure over relative depth; runs: which run each line selects, by its label.

    Trained runs come first: they have the colour that they have in other chapters, and the untrained model has its own.
    """
    order = sorted(runs, key=lambda label: int(metrics["untrained"].sel(runs[label]).min()))
    titles = [measure.title for measure in COMPARED.values()]
    rows = math.ceil(len(titles) / 3)
    drawing, axes = plotting.canvas(1.9 * rows + 0.6, rows=rows, columns=3, titles=titles)
    for index, (ax, (name, measure)) in enumerate(zip(axes, COMPARED.items(), strict=True)):
        pooled = metrics[prefix + name].sel(dataset="pooled")
        lines = [Series(label, *ends(pooled.sel(where))) for label, where in runs.items()]
        plotting.curves(
            ax,
            metrics["depth"].values,
            lines,
            references,
            x_label="relative depth" if index >= len(titles) - 3 else "",
            y_label="" if measure.units == "1" else measure.units,
            labels="legend",
            order=order,
        )
    return drawing


def _runs(metrics: xr.Dataset) -> Figure:
    """Every run by itself, with the deviation over those that differ in their seed alone."""
    values, named = runs.estimates(metrics), runs.titles()
    values["experts_per_token"], values["experts"] = metrics["each_experts_per_token"], metrics["each_experts"]
    rows = [f"{row.Index} ({row.experts_per_token} of {row.experts})" for row in values.itertuples()]
    drawing, axes = plotting.canvas(
        plotting.height_for(len(rows)) + 0.6, columns=len(named), titles=[title for title, _ in named.values()]
    )
    for index, (ax, (name, (_, unit))) in enumerate(zip(axes, named.items(), strict=True)):
        shown = ends(metrics[f"each_{name}"]) if name in runs.SHOWN else [values[name]]
        plotting.dot_whiskers(ax, rows, [Series("run", *shown)], x_label=unit)
        ax.tick_params(labelleft=index == 0)
    return Figure(
        name="runs",
        title="All runs",
        alt=f"Dots for {len(rows)} runs in {len(named)} panels: {', '.join(title for title, _ in named.values())}.",
        caption="All datasets pooled, mean over depths; in brackets how many of how many experts a token selects. "
        + _seeds_text(metrics),
        how_to_read="A difference between two runs that is no larger than that between seeds may be the luck of a "
        "training run; whiskers, which are about sources, do not show that. Runs with other numbers of experts can "
        "be compared in their loss; chance makes the load of more experts less even, and information is per selection.",
        drawing=drawing,
        data=values.join(runs.spread(metrics)).reset_index(),
    )


def _seeds_text(metrics: xr.Dataset) -> str:
    """How much the runs vary that differ in their seed alone."""
    deviations, found = runs.spread(metrics), []
    for _, members in deviations.groupby(metrics["alike"].values):
        if len(members) > 1:
            row = members.iloc[0]
            parts = [
                f"{title.lower()} {format_number(row[f'{name}_over_seeds'])} {unit}".strip()
                for name, (title, unit) in runs.titles().items()
            ]
            names = ", ".join(members.index)
            found.append(f"Standard deviation over {names}, which differ in their seed alone: {', '.join(parts)}.")
    return " ".join(found) or "No two runs differ in their seed alone: the spread between training runs is not known."


def _measures_by_depth(metrics: xr.Dataset) -> Figure:
    runs = {f"{run}: {metrics.attrs[name]}": {"run": run} for run, name in (("A", "first"), ("B", "second"))}
    entropy = metrics["mean_over_depths_normalised_entropy"].sel(dataset="pooled")
    one, other = (format_estimate(*estimate(entropy.sel(run=run))).estimate for run in ("A", "B"))
    return Figure(
        name="measures_by_depth",
        title="Both runs by relative depth",
        alt=f"{len(COMPARED)} small line charts over relative depth, each with a line for A and one for B; router "
        f"entropy is {one} of its maximum in A and {other} in B on average.",
        caption=f"Measures of both runs by relative depth, all datasets pooled. {_runs_text(metrics)}",
        how_to_read="Each panel has its own scale. 0 is the first MoE layer of a model, 1 the last. Where bands "
        "overlap the runs may still differ: the next figure shows the difference itself.",
        drawing=_panels(metrics, "", runs, []),
        data=table(metrics.sel(dataset=["pooled"])),
    )


def _differences_by_depth(metrics: xr.Dataset) -> Figure:
    places = {name: lies(*_difference(metrics, name)[1:], 0) for name in COMPARED}
    apart = sum(place != "around" for place in places.values())
    value, bounds = format_estimate(*_difference(metrics, "normalised_entropy"))
    return Figure(
        name="differences_by_depth",
        title=f"{apart} of {len(COMPARED)} measures differ between the runs",
        alt=f"{len(COMPARED)} small line charts of B minus A over relative depth; the difference in router entropy is "
        f"{value} {bounds} of its maximum on average.",
        caption="B − A by relative depth, all datasets pooled; a measure counts as different if the interval of the "
        f"mean over depths does not hold 0. {_runs_text(metrics)}",
        how_to_read="Above the dashed line B has more of a measure, below it A. A band that crosses the line is no "
        "evidence of a difference at that depth.",
        drawing=_panels(metrics, "difference_", {"B − A": {}}, [Reference("no difference", 0.0)]),
        data=table(metrics.sel(dataset=["pooled"])),
    )


def _differences_by_dataset(metrics: xr.Dataset) -> Figure:
    names = [str(name) for name in metrics["dataset"].values]
    titles = [COMPARED[name].title for name in BY_DATASET]
    drawing, axes = plotting.canvas(plotting.height_for(len(names)) + 0.4, columns=3, titles=titles)
    for index, (ax, name) in enumerate(zip(axes, BY_DATASET, strict=True)):
        values = metrics[f"mean_over_depths_difference_{name}"]
        line = Series("B − A", *ends(values))
        units = COMPARED[name].units
        x_label = "B − A" if units == "1" else f"B − A ({units})"
        plotting.dot_whiskers(ax, names, [line], [Reference("no difference", 0.0)], x_label=x_label)
        ax.tick_params(labelleft=index == 0)
    entropy = metrics["mean_over_depths_difference_normalised_entropy"].isel(dataset=slice(1, None))
    below = int((entropy.sel(interval="high") < 0).sum())
    above = int((entropy.sel(interval="low") > 0).sum())
    parts = {name: metrics[f"mean_over_depths_difference_{name}"] for name in BY_DATASET}
    data = xr.concat(parts.values(), dim="measure").assign_coords(measure=list(parts)).to_dataset("interval")
    return Figure(
        name="differences_by_dataset",
        title="Differences between the runs by dataset",
        alt=f"Dots with whiskers for every dataset: B minus A of three measures; router entropy is lower in B on "
        f"{below} of {len(names) - 1} datasets and higher on {above}.",
        caption=f"B − A of three measures, mean over depths, by dataset. {_runs_text(metrics)}",
        how_to_read="A whisker that crosses the dashed line is no evidence of a difference on that dataset.",
        drawing=drawing,
        data=data.to_dataframe()[list(INTERVAL)].reset_index(),
    )
