"""The page of the chapter retention: figures, findings and words."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from gatebook.chapters.base.page import (
    BOOTSTRAP,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    ends,
    estimate,
    exceptions,
    held,
    percent,
    pooled,
    rounded,
    sample_size,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.expert_retention import EFFECT, EVERY, FREQUENCY, OTHER, RANDOM, RANKINGS, WEIGHT
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import table

NO_DIFFERENCE = Null("no difference", 0.0)
SETS = "random sets"
DRAWN = (FREQUENCY, EVERY, OTHER)
"""Rankings whose curves are drawn; that by weight would lie on the first one."""
OVER = (
    (
        OTHER,
        "Are they experts of this dataset, and not those that all texts use?",
        "They retain {} than as many that another dataset selects most often.",
    ),
    (
        WEIGHT,
        "Is it better to rank experts by how often they are selected than by their weight?",
        "By frequency they retain {} than by weight.",
    ),
    (
        EFFECT,
        "Is it better to rank experts by how often they are selected than by what removing them does?",
        "By frequency they retain {} than by how much the loss rises without one of them.",
    ),
)
"""Rankings that the experts selected most often are held against, with question and answer, see `_finding_over`."""


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics."""
    return [_curves(seen.metrics), _smallest(seen.metrics), _advantage(seen)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that could not be measured are left out."""
    found = [_finding_few(seen), _finding_random(seen), *(_finding_over(seen, *words) for words in OVER)]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """How few experts are enough for a dataset, beside random ones, and for which datasets they are fewest and most."""
    found = _finding_few(seen)
    if not found.is_known:
        return None
    metrics = seen.metrics
    if found.verdict != "yes":
        return Brief("Nothing shows that few experts of a layer are enough for a dataset.", found.figure)
    text = f"With {rounded(vars(found))} of {metrics.attrs['experts']} experts per layer, those that a dataset selects "
    text += f"most often, the model keeps {_enough(metrics)} of what it knows of the dataset; of random ones it takes "
    text += f"{format_number(found.null_value)}."
    known = _of(metrics, "smallest_keep").isel(dataset=slice(1, None)).sel(interval="estimate").to_series().dropna()
    known = known.sort_values()
    if len(known) < 2 or known.iloc[0] == known.iloc[-1]:
        return Brief(text, found.figure)
    least, most = (f"{known.index[place]} ({known.iloc[place]:.0f})" for place in (0, -1))
    return Brief(text, found.figure, f"The fewest are enough for {least}, the most it takes for {most}.")


def _of(metrics: xr.Dataset, name: str, ranking: str = FREQUENCY, **where) -> xr.DataArray:
    return metrics[name].sel(ranking=ranking, **where)


def _enough(metrics: xr.Dataset) -> str:
    return f"{format_number(100 * metrics.attrs['enough'])}\N{NO-BREAK SPACE}%"


def _shown(seen: Seen) -> int:
    """The number that is nearest to the share at which rankings are compared, fewer than all if there is one."""
    keep, experts = seen.metrics["keep"].values, seen.metrics.attrs["experts"]
    fewer = keep[keep < experts] if (keep < experts).any() else keep
    return int(fewer[np.abs(fewer - seen.thresholds["shown"] * experts).argmin()])


def _by_dataset(array: xr.DataArray) -> xr.DataArray:
    """A measure of the single datasets that were tried."""
    return array.isel(dataset=slice(1, None)).dropna("dataset", how="all")


def _tried(metrics: xr.Dataset) -> str:
    """What it was tried on, and how intervals were made, for a caption."""
    out = metrics.attrs["not_tried"]
    least = format_number(metrics.attrs["least_gain"])
    without = f" Without a gain of {least} nats a token, or without long documents: {out}." if out else ""
    method = f"{100 * metrics.attrs['confidence']:g} % {BOOTSTRAP}"
    of = size_text(metrics, "predicted tokens")
    return f"{of}, other documents than those by which experts are ranked; intervals: {method}.{without}"


def _finding_few(seen: Seen) -> Finding:
    metrics, experts = seen.metrics, seen.metrics.attrs["experts"]
    threshold = seen.thresholds["few"] * experts
    values, random = (_of(metrics, "smallest_keep", each) for each in (FREQUENCY, RANDOM))
    found = held(estimate(pooled(values)), Null(SETS, random), seen.thresholds["keep_effect"], experts)
    against = Null(format_number(threshold), threshold)
    found |= exceptions(side(found, threshold), against, _by_dataset(values))
    return Finding(
        question="Are few experts enough for a dataset?",
        answer=f"Of {experts} experts per layer the {rounded(found)} that a dataset selects most often retain "
        f"{_enough(metrics)} of the gain over token frequencies, of random ones it takes "
        f"{rounded(estimate(pooled(random)))}.",
        verdict=verdict(side(found, threshold), yes="below"),
        verdict_text=f"yes means fewer than {format_number(threshold)}",
        unit="experts per layer",
        figure="smallest_keep",
        measure="smallest_keep",
        **found | sample_size(metrics, "predicted tokens"),
    )


def _finding_random(seen: Seen) -> Finding:
    metrics, keep = seen.metrics, _shown(seen)
    null = Null(SETS, metrics["null_retained"].sel(keep=keep, drop=True))
    values = _of(metrics, "retained", keep=keep)
    found = held(estimate(pooled(values)), null, seen.thresholds["retained_effect"])
    found |= exceptions(side(found), null, _by_dataset(values))
    apart = format_estimate(*estimate(pooled(_of(metrics, "advantage", RANDOM, keep=keep))))
    return Finding(
        question="Do the experts that a dataset selects most often retain more than random ones?",
        answer=f"{keep} of {metrics.attrs['experts']} retain {percent(found)} of the gain, random sets "
        f"{format_number(round(100 * found['null_value'], 1))} % (paired difference {' '.join(apart)}).",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than 97.5 % of random sets retain",
        unit="of the gain over token frequencies",
        figure="retained_by_keep",
        measure="retained",
        **found | sample_size(metrics, "predicted tokens"),
    )


def _finding_over(seen: Seen, ranking: str, question: str, answer: str) -> Finding:
    """Whether the experts that a dataset selects most often retain more than those of another ranking.

    In the answer {} stands for how much more or less of the gain that is.
    """
    keep = _shown(seen)
    values = _of(seen.metrics, "advantage", ranking, keep=keep)
    found = held(estimate(pooled(values)), NO_DIFFERENCE, seen.thresholds["retained_effect"])
    found |= exceptions(side(found), NO_DIFFERENCE, _by_dataset(values)) | sample_size(seen.metrics, "predicted tokens")
    value, bounds = format_estimate(*(100 * found[part] for part in ("estimate", "low", "high")))
    word = {"above": "more", "below": "less", "around": "more or less"}[side(found)]
    return Finding(
        question=question,
        answer=answer.format(f"{value} {bounds} % of the gain {word}"),
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a paired difference above 0",
        unit="of the gain over token frequencies",
        figure="advantage",
        measure="advantage",
        **found,
    )


def _curves(metrics: xr.Dataset) -> Figure:
    panels = []
    for name in metrics["dataset"].values.tolist():
        at = {"dataset": name}
        lines = [Series(_label(each), *ends(_of(metrics, "retained", each, **at))) for each in DRAWN]
        random = Reference(SETS, *ends(metrics["null_retained"].sel(at)))
        panels.append(Panel(name, metrics["keep"].values, lines, [random], "gain retained"))
    keep = _middle(metrics)
    said = ", ".join(
        f"{_label(each)} {_value(metrics['retained'].sel(ranking=each, keep=keep, dataset='pooled'))}"
        for each in _known(metrics, RANKINGS)
    )
    of = f" With {keep} of {metrics.attrs['experts']}: {said}." if "available" not in said else ""
    return Figure(
        name="retained_by_keep",
        title="What few experts retain",
        alt="Curves by dataset of the gain over token frequencies that is retained, over the number of experts per "
        f"layer that tokens may select among.{of or ' Values are not available.'}",
        caption="Share of the gain over the dataset's unigram model that is left if tokens may select among the first "
        "k experts of a ranking in every layer; the band holds 95 % of random sets, the dashed line is their mean; "
        f"pooled is the mean over datasets.{of} {_tried(metrics)}",
        how_to_read="At 1 nothing is lost, below 0 the model predicts worse than the frequencies of token ids. Where "
        "the curve of the dataset's own experts is above the band, it matters which experts are kept; where that of "
        "another dataset is in the band, it matters whose they are. The CSV has all rankings and losses in nats; "
        "expert_retention.json, beside the tables, holds the sets.",
        drawing=plotting.small_multiples(
            panels,
            columns=3,
            panel_height=2.0,
            x_label="experts kept per layer",
            y_limits=(None, 1.05),
            draw=plotting.curves,
        ),
        data=table(metrics, ["retained", "added_loss", "gain"]),
    )


def _label(ranking: str) -> str:
    """What a figure calls a ranking."""
    return {FREQUENCY: "own, by frequency", WEIGHT: "own, by weight", EFFECT: "own, by effect", RANDOM: SETS}.get(
        ranking, ranking
    )


def _known(metrics: xr.Dataset, rankings: Sequence[str]) -> list[str]:
    """Those of the rankings that were tried: no effects are known where no expert was removed."""
    return [each for each in rankings if each != EFFECT or _of(metrics, "advantage", each).notnull().any()]


def _middle(metrics: xr.Dataset) -> int:
    """A number of experts in the middle of those that were tried, for words."""
    return int(metrics["keep"].values[(metrics.sizes["keep"] - 1) // 3])


def _value(array: xr.DataArray) -> str:
    return " ".join(format_estimate(*estimate(array)))


def _smallest(metrics: xr.Dataset) -> Figure:
    names = metrics["dataset"].values.tolist()
    drawing, (ax,) = plotting.canvas(plotting.height_for(1.5 * len(names)))
    shown = (FREQUENCY, OTHER, RANDOM)
    lines = [Series(_label(each), *ends(_of(metrics, "smallest_keep", each))) for each in shown]
    plotting.dot_whiskers(
        ax, names, lines, x_label="experts per layer that are enough", x_limits=(0, metrics.attrs["experts"])
    )
    said = ", ".join(f"{_label(each)} {_value(pooled(_of(metrics, 'smallest_keep', each)))}" for each in shown)
    of = f": {said}" if "available" not in said else ""
    return Figure(
        name="smallest_keep",
        title=f"How many experts retain {100 * metrics.attrs['enough']:g} %",
        alt="Dots with whiskers by dataset of the smallest number of experts per layer that retains enough"
        f"{of or ': not available'}.",
        caption=f"Smallest number of the {metrics.attrs['experts']} experts of a layer, of those that were tried, from "
        f"which on {_enough(metrics)} of the gain over token frequencies is retained; mean over datasets{of}. "
        f"{_tried(metrics)}",
        how_to_read="A whisker ends on the right where the lower end of the retained gain passes, on the left where "
        "its upper end does. Numbers are those that were tried, so that differences of one step may be luck.",
        drawing=drawing,
        data=table(metrics, ["smallest_keep"]),
    )


def _advantage(seen: Seen) -> Figure:
    metrics, keep = seen.metrics, _shown(seen)
    names = metrics["dataset"].values.tolist()
    drawing, (ax,) = plotting.canvas(plotting.height_for(1.5 * len(names)))
    shown = _known(metrics, (RANDOM, OTHER, WEIGHT, EFFECT))
    lines = [Series(f"than {_label(each)}", *ends(_of(metrics, "advantage", each, keep=keep))) for each in shown]
    plotting.dot_whiskers(ax, names, lines, [NO_DIFFERENCE.reference()], x_label="more of the gain retained")
    said = ", ".join(f"{_label(each)} {_value(pooled(_of(metrics, 'advantage', each, keep=keep)))}" for each in shown)
    of = f"; {said}" if "available" not in said else ""
    return Figure(
        name="advantage",
        title=f"How much more the own {keep} experts retain",
        alt=f"Dots with whiskers by dataset of how much more of the gain the {keep} most selected experts retain than "
        f"those of other rankings{of}.",
        caption=f"Gain retained by the {keep} experts per layer that a dataset selects most often, minus that retained "
        f"by as many of other rankings, on the same documents; mean over datasets{of}. {_tried(metrics)}",
        how_to_read="Right of 0 the dataset's own experts by frequency are the better choice. The CSV has all numbers.",
        drawing=drawing,
        data=table(metrics, ["advantage"]),
    )
