"""The page of the chapter reach: figures, findings and words."""

from functools import partial

import numpy as np
import xarray as xr

from gatebook.chapters.base.page import (
    JACKKNIFE,
    ORDER,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    before,
    change,
    counts_text,
    ends,
    hundredfold,
    numbers,
    over_layers,
    percent,
    rounded,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.reach import DTYPE, KERNEL
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import spread, table
from gatebook.measures.uncertainty import POOLED

CHANCE = Null("chance", 0.0)
NO_DIFFERENCE = Null("no difference", 0.0)
NOTHING_CHANGES = Null("nothing changes", 1.0)
AFTER_UNRELATED = "after unrelated text"
MOST_LAYERS = 4


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    return [_by_length(seen), _by_dataset(seen.metrics), _stability(seen), _margins(seen.metrics)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that could not be measured are left out."""
    found = [_finding_alone(seen), _finding_enough(seen), _finding_unrelated(seen), _finding_stable(seen)]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """How much of where a token goes the token alone settles, and how much the last few; and where it is most."""
    few, middle = (seen.sel(length=length) for length in _first_and_middle(seen.metrics))
    value = over_layers(few.metrics, "recovered")
    if not np.isfinite(value).all():
        return None
    text = f"{_last(seen.metrics, 0).capitalize()} settles {percent(value)} of where it goes"
    text += f"{before(few, 'recovered', hundredfold, ' %')}, and the last {int(middle.metrics['length'])} tokens "
    text += (
        f"settle {percent(over_layers(middle.metrics, 'recovered'))}{before(middle, 'recovered', hundredfold, ' %')}."
    )
    by_dataset = middle.metrics["mean_over_layers_recovered"].isel(dataset=slice(1, None))
    known = by_dataset.sel(interval="estimate").to_series().dropna().sort_values()
    if len(known) < 2:
        return Brief(text, "recovered_by_length")
    most, least = (f"{format_number(round(100 * known.iloc[place]))} % in {known.index[place]}" for place in (-1, 0))
    return Brief(text, "recovered_by_dataset", f"These settle most, {most}, and least, {least}.")


def _first_and_middle(metrics: xr.Dataset, name: str = "recovered") -> tuple[int, int]:
    """The first length, and the middle one of those that the measure is known of, or of all if there is none."""
    estimate = metrics[name].sel(dataset=POOLED, interval="estimate").isel(layer=0)
    known = metrics["length"].values[np.isfinite(estimate.values)]
    lengths = known if len(known) else metrics["length"].values
    return int(lengths[0]), int(lengths[len(lengths) // 2])


def _last(metrics: xr.Dataset, index: int) -> str:
    length = int(metrics["length"].values[index])
    return "the token alone" if length == 1 else f"the end of {length} tokens"


def _finding_alone(seen: Seen) -> Finding:
    mine, threshold = seen.sel(length=_first_and_middle(seen.metrics)[0]), seen.thresholds["most"]
    found = numbers(mine, "recovered", CHANCE, "overlap_effect", threshold=threshold)
    who = _last(seen.metrics, 0)
    return Finding(
        question=f"Does {who} settle most of its routing?",
        answer=f"{who.capitalize()} settles {percent(found)} of where it goes{change(mine, 'recovered')}.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means more than {format_number(100 * threshold)} %",
        unit="of a token's experts, corrected for chance",
        figure="recovered_by_length",
        **found,
    )


def _finding_enough(seen: Seen) -> Finding:
    length, threshold = _first_and_middle(seen.metrics)[1], seen.thresholds["enough"]
    mine = seen.sel(length=length)
    found = numbers(mine, "recovered", CHANCE, "overlap_effect", threshold=threshold)
    return Finding(
        question=f"Are the last {length} tokens enough to know where a token goes?",
        answer=f"They settle {percent(found)} of it{change(mine, 'recovered')}.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means more than {format_number(100 * threshold)} %",
        unit="of a token's experts, corrected for chance",
        figure="recovered_by_length",
        **found,
    )


def _finding_unrelated(seen: Seen) -> Finding:
    length = _first_and_middle(seen.metrics, "lost_to_unrelated")[1]
    mine = seen.sel(length=length)
    found = numbers(mine, "lost_to_unrelated", NO_DIFFERENCE, "overlap_effect")
    parts = [percent(over_layers(mine.metrics, name)) for name in ("recovered", "recovered_after_unrelated")]
    return Finding(
        question="Is unrelated text before a token worse than no text?",
        answer=f"The last {length} tokens settle {parts[0]} alone and {parts[1]} after {length} unrelated ones"
        f"{change(mine, 'lost_to_unrelated')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0",
        unit="of a token's experts, corrected for chance",
        figure="recovered_by_length",
        **found,
    )


def _finding_stable(seen: Seen) -> Finding:
    mine, threshold = seen.sel(change=DTYPE), seen.thresholds["stable"]
    found = numbers(mine, "ceiling", NOTHING_CHANGES, "overlap_effect", threshold=threshold)
    tokens, clusters = (int(seen.metrics[f"changed_{name}"].sel(dataset=POOLED)) for name in ("tokens", "clusters"))
    found |= {"n": clusters, "n_unit": f"clusters, {tokens:,} tokens"}
    equal = percent(over_layers(mine.metrics, "equal_sets"))
    dtype = seen.metrics.attrs.get("other_dtype", DTYPE)
    return Finding(
        question="Does it hang on the precision of numbers where tokens go?",
        answer=f"In {dtype} {percent(found)} of a token's experts are the same, corrected for chance"
        f"{change(mine, 'ceiling')}; {equal} of the tokens keep all. An overlap as high as that "
        "is as good as equality.",
        verdict=verdict(side(found, threshold), yes="below"),
        verdict_text=f"yes means less than {format_number(100 * threshold)} %",
        unit="of a token's experts, corrected for chance",
        figure="stability",
        **found,
    )


def _by_length(seen: Seen) -> Figure:
    metrics, untrained = seen.metrics, seen.untrained
    sources = {ORDER[0]: (metrics, "recovered"), AFTER_UNRELATED: (metrics, "recovered_after_unrelated")}
    if untrained is not None:
        sources[ORDER[1]] = untrained, "recovered"
    panels = []
    for layer in spread(metrics["layer"].values, MOST_LAYERS):
        at = {"dataset": POOLED, "layer": layer}
        lines = [Series(label, *ends(source[name].sel(at))) for label, (source, name) in sources.items()]
        panels.append(Panel(f"Layer {layer}", metrics["length"].values, lines, [CHANCE.reference()], "routing settled"))
    drawing = plotting.small_multiples(
        panels,
        columns=2,
        panel_height=2.1,
        x_label="last tokens kept",
        order=[*ORDER, AFTER_UNRELATED],
        draw=partial(plotting.curves, x_scale="log"),
    )
    said = ", ".join(f"{length} {_settled(metrics, length)}" for length in metrics["length"].values.tolist())
    start = metrics.attrs["windows_with_start"]
    kept = f"{start:,} of the tokens are in windows that begin with special tokens, which are kept. " if start else ""
    measures = ["recovered", "recovered_after_unrelated", "lost_to_unrelated"]
    return Figure(
        name="recovered_by_length",
        title="How much text the routing of a token needs",
        alt=f"Line charts over the number of last tokens that are kept, of the share of routing that they settle; by "
        f"number, on average over layers: {said}.",
        caption=f"Share of the last token's experts, corrected for chance, that the model selects if it sees the last "
        f"n tokens alone, and if as many of an unrelated text stand before them. Over layers, by n: {said}. {kept}"
        f"{_whole(metrics)}{counts_text(metrics, JACKKNIFE)}",
        how_to_read="At 1 the token goes where it goes in its whole text, at 0 it shares no more experts with it than "
        "another token. What is missing at n is text farther back than n tokens. A line after unrelated text that is "
        "below the other means that wrong text is worse than none.",
        drawing=drawing,
        data=table(metrics, measures),
    )


def _settled(metrics: xr.Dataset, length: int) -> str:
    return f"{rounded(over_layers(metrics.sel(length=length), 'recovered'), hundredfold)} %"


def _whole(metrics: xr.Dataset) -> str:
    return f"Tokens with at least {metrics.attrs['longest']} before them. "


def _by_dataset(metrics: xr.Dataset) -> Figure:
    values = metrics["mean_over_layers_recovered"].sel(interval="estimate").isel(dataset=slice(1, None))
    values = values.transpose("dataset", "length")
    drawing, (ax,) = plotting.canvas(plotting.height_for(values.sizes["dataset"]))
    plotting.matrix(
        ax,
        values.values.round(2) + 0.0,  # no -0.00
        [str(name) for name in values["dataset"].values],
        [str(length) for length in values["length"].values],
        kind="magnitude",
        label="routing settled, mean over layers",
        annotate=".2f",
        limits=(0, 1),
        x_label="last tokens kept",
    )
    middle = _first_and_middle(metrics)[1]
    known = values.sel(length=middle).to_series().dropna().sort_values()
    low, high = (f"{known.index[place]} ({known.iloc[place]:.2f})" for place in (0, -1)) if len(known) else ("", "")
    said = f"; the last {middle} settle least in {low} and most in {high}" if len(known) else ""
    return Figure(
        name="recovered_by_dataset",
        title="How much text it is in each dataset",
        alt=f"Matrix of the share of routing that the last tokens settle, datasets by their number{said}.",
        caption=f"Share of the last token's experts, corrected for chance, that the last n tokens settle, mean over "
        f"layers{said}. {_whole(metrics)}{size_text(metrics)}; the CSV has intervals.",
        how_to_read="What is light on the left and dark early is text whose tokens go where they go by themselves. "
        "Datasets have few tokens each: look at the intervals before two cells are told apart.",
        drawing=drawing,
        data=table(metrics, ["recovered"]),
    )


def _row(metrics: xr.Dataset, name: str) -> str:
    """The name of a change, with what it is if that depends on the model."""
    known = {DTYPE: metrics.attrs.get("other_dtype"), KERNEL: metrics.attrs.get("other_kernel")}.get(name)
    return f"{name} ({known})" if known else name


def _rows(metrics: xr.Dataset) -> list[str]:
    return [_row(metrics, name) for name in metrics["change"].values.tolist()]


def _changed_text(metrics: xr.Dataset) -> str:
    tokens, clusters = (int(metrics[f"changed_{name}"].sel(dataset=POOLED)) for name in ("tokens", "clusters"))
    reason = metrics.attrs.get("not_run", "")
    missing = f" Not run: {reason.rstrip('.')}." if reason else ""
    return f"n = {tokens:,} tokens of {clusters:,} clusters.{missing}"


def _stability(seen: Seen) -> Figure:
    metrics, names = seen.metrics, {"ceiling": "overlap, corrected for chance", "equal_sets": "tokens that keep all"}
    known = dict(zip(ORDER, [metrics] if seen.untrained is None else [metrics, seen.untrained], strict=False))
    rows = _rows(metrics)
    drawing, axes = plotting.canvas(2 * plotting.height_for(len(rows)), rows=2)
    for ax, (name, label) in zip(axes, names.items(), strict=True):
        lines = [
            Series(each, *ends(source[f"mean_over_layers_{name}"].sel(dataset=POOLED)))
            for each, source in known.items()
        ]
        plotting.dot_whiskers(ax, rows, lines, [NOTHING_CHANGES.reference()], x_label=label, order=ORDER)
    said = []
    for name in metrics["change"].values.tolist():
        value = over_layers(metrics.sel(change=name), "ceiling")
        if np.isfinite(value[0]):
            said.append(f"{_row(metrics, name)} {' '.join(format_estimate(*value))}")
    of = f": {', '.join(said)}" if said else ""
    return Figure(
        name="stability",
        title="What another way of computing leaves of routing",
        alt=f"Dots with intervals of the overlap of a token's experts before and after a change, and of the share of "
        f"tokens that keep all of them, by change, mean over layers{of}.",
        caption=f"Overlap of the experts of a token in its whole text with those after a change, corrected for chance, "
        f"and share of tokens that keep all, mean over layers{of}. {_changed_text(metrics)}",
        how_to_read="The first row is the same model, run again on windows in other batches. Precision and kernel "
        "change rounding alone. What another precision leaves is the ceiling of all overlaps in the study: two "
        "checkpoints that share as much are the same for all that routing can tell.",
        drawing=drawing,
        data=table(metrics, ["kept_experts", "ceiling", "equal_sets"]),
    )


def _margins(metrics: xr.Dataset) -> Figure:
    rows = _rows(metrics)
    words = {"margin_changed": "tokens that change experts", "margin_kept": "tokens that keep them"}
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(rows)))
    lines = [
        Series(label, *ends(metrics[f"mean_over_layers_{name}"].sel(dataset=POOLED))) for name, label in words.items()
    ]
    plotting.dot_whiskers(ax, rows, lines, x_label="boundary margin")
    said = []
    for name in metrics["change"].values.tolist():
        changed, kept = (over_layers(metrics.sel(change=name), each) for each in words)
        if np.isfinite(changed[0]):
            said.append(f"{_row(metrics, name)} {rounded(changed)} against {rounded(kept)}")
    of = f": {', '.join(said)}" if said else ""
    return Figure(
        name="margins",
        title="Which decisions fall the other way",
        alt=f"Dots with intervals of the boundary margin of tokens that change experts and of those that keep them, by "
        f"change, mean over layers{of}.",
        caption=f"Mean boundary margin, before the change, of the tokens that it sends to other experts and of all "
        f"others{of}. {_changed_text(metrics)}",
        how_to_read="Experts that change at margins near 0 were undecided; margins as large as those of other tokens "
        "would mean that the change decides by itself.",
        drawing=drawing,
        data=table(metrics, ["margin_changed", "margin_kept"]),
    )
