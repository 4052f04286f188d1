"""The page of the chapter evolution: figures, findings and words."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure as Drawing

from gatebook.chapters.base.page import (
    BOOTSTRAP,
    JACKKNIFE,
    ONE_RUN,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    counts_text,
    ends,
    numbers,
    over_layers,
    percent,
    pooled,
    rounded,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.evolution import FREQUENCIES, LAST, PREVIOUS
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures import summary
from gatebook.measures.summary import MEAN, spread
from gatebook.measures.uncertainty import POOLED

AT_ONCE, NOTHING, HALF = Null("both at once", 0.0), Null("nothing", 0.0), Null("half of training", 0.5)
SATURATIONS = {
    "all experts": "saturation",
    "first choice": "first_saturation",
    "corrected for loads": "corrected_saturation",
}
EXPLAINED = {"token id": "token_share", "added by the token before": "context_added"}
LOADS = {
    "Coefficient of variation": "coefficient_of_variation",
    "MaxVio": "max_violation",
    "Share of experts never selected": "never_selected",
    "Bits about the dataset": "information",
}
PLACES = ("most frequent at last", "second", "third")
"""Parts of the bars of first choices: experts by how often they are chosen at the last checkpoint."""
MOST_LAYERS = 4


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics."""
    metrics = seen.metrics
    found = [_saturation(metrics), _change(metrics), _parts(metrics), _explained(metrics), _matching(metrics)]
    found += [_by_dataset(metrics), _by_frequency(metrics), _load(metrics, POOLED)]
    if metrics.sizes["dataset"] > 2:
        found.append(_load(metrics, _apart(metrics)))
    return [*found, _balance(metrics), _first_choices(metrics)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that the checkpoints cannot answer are left out."""
    found = [_finding_settled(seen)]
    if (early := _early(seen)) is not None:
        found += [_finding_lead(seen, early), _finding_beyond(seen, early), _finding_matching(seen, early)]
    found.append(_finding_uneven(seen))
    if seen.metrics.sizes["dataset"] > 2:
        found.append(_finding_information(seen))
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """When routing was settled, and whether the token id was learned before context."""
    settled = _finding_settled(seen)
    if not settled.is_known:
        return None
    early = _early(seen)
    lead = None if early is None else _finding_lead(seen, early)
    if lead is None or not np.isfinite([lead.low, lead.high]).all() or lead.verdict != "yes":
        return Brief(
            f"Half of the final routing was settled after {percent(vars(settled))} of training.", settled.figure
        )
    text = f"Half of the final routing was settled after {percent(vars(settled))} of training, "
    text += "for the token id first and for its context later."
    return Brief(text, lead.figure, lead.answer)


# ---------------------------------------------------------------- checkpoints


def _positions(metrics: xr.Dataset) -> np.ndarray:
    """The training steps of the checkpoints, or their places if their names hold no steps."""
    known = metrics["step"].values
    return known if np.isfinite(known).all() else np.arange(len(known), dtype=float)


def _axis(metrics: xr.Dataset) -> dict[str, str]:
    """How figures show them."""
    if np.isfinite(metrics["step"].values).all():
        return {"x_label": "training step", "x_scale": "symlog"}
    return {"x_label": "checkpoint", "x_scale": "linear"}


def _named(metrics: xr.Dataset, checkpoint: str) -> str:
    """A checkpoint in a sentence."""
    step = float(metrics["step"].sel(checkpoint=checkpoint))
    return f"step {step:,.0f}" if np.isfinite(step) else checkpoint


def _names(metrics: xr.Dataset) -> list[str]:
    return [_named(metrics, checkpoint) for checkpoint in metrics["checkpoint"].values.tolist()]


def _early(seen: Seen) -> str | None:
    """The first checkpoint from a share of training on, between the first and the last; None if there is none."""
    at, names = _positions(seen.metrics), seen.metrics["checkpoint"].values.tolist()
    between = [name for name, step in zip(names, at / at[-1], strict=True) if step >= seen.thresholds["early"]]
    return next((name for name in between if name not in (names[0], names[-1])), None)


def _before_training(metrics: xr.Dataset, name: str) -> dict:
    """What a finding says of the untrained checkpoint, if it is one of these."""
    untrained = metrics.attrs.get("untrained")
    if untrained not in metrics["checkpoint"].values:
        return {}
    value = over_layers(metrics.sel(checkpoint=untrained), name)[0]
    return {"reference_name": "untrained model", "reference_value": value} if np.isfinite(value) else {}


# ---------------------------------------------------------------- findings


def _finding_settled(seen: Seen) -> Finding:
    found = numbers(seen, "settled", HALF, "time_effect")
    return Finding(
        question="Was routing settled early in training?",
        answer=f"Half of where the last checkpoint sends tokens, beyond loads, was there after {percent(found)} of the "
        f"training steps; {ONE_RUN}."
        if np.isfinite(found["estimate"])
        else "Not known: steps have no numbers.",
        verdict=verdict(side(found), yes="below"),
        verdict_text="yes means half of the routing before half of training",
        unit="of training",
        figure="saturation_by_step",
        **found,
    )


def _finding_lead(seen: Seen, early: str) -> Finding:
    mine = seen.sel(checkpoint=early)
    found = numbers(mine, "token_lead", AT_ONCE, "lead_effect", datasets=False)
    of_id, of_context = (_part_gained(seen.metrics, name, early) for name in EXPLAINED.values())
    return Finding(
        question="Is the token id learned first and context later?",
        answer=f"At {_named(seen.metrics, early)} there was {of_id} of what the token id comes to explain through "
        f"training, and {of_context} of what the token before it comes to add.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a larger part for the token id",
        unit="of what is learned",
        figure="explained_by_step",
        **found,
    )


def _part_gained(metrics: xr.Dataset, name: str, checkpoint: str) -> str:
    """Which part of what a measure gains through training, averaged over layers, is there at a checkpoint."""
    values = pooled(metrics[MEAN + name]).sel(interval="estimate")
    first, last = (float(values.isel(checkpoint=place)) for place in (0, -1))
    return f"{100 * (float(values.sel(checkpoint=checkpoint)) - first) / (last - first):.0f} %"


def _finding_beyond(seen: Seen, early: str) -> Finding:
    metrics = seen.metrics.sel(checkpoint=early)
    found = numbers(seen.sel(checkpoint=early), "beyond_token_id", NOTHING, "overlap_effect")
    whole = percent(over_layers(metrics.sel(against=LAST), "saturation"))
    by_id = percent(over_layers(metrics, "by_token_id"))
    return Finding(
        question="Is early routing settled beyond the token id?",
        answer=f"At {_named(seen.metrics, early)} {whole} of a token's experts were those of the last checkpoint; "
        f"those that it selects for other tokens of the id would be {by_id}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than the token id alone gives",
        unit="of a token's experts",
        figure="parts_by_step",
        **found | _before_training(seen.metrics, "beyond_token_id"),
    )


def _finding_matching(seen: Seen, early: str) -> Finding:
    mine = seen.sel(checkpoint=early)
    null = Null("matching by chance", mine.metrics["null_matching_gain"].clip(min=0))
    found = numbers(mine, "matching_gain", null, "overlap_effect")
    kept = _whole_percent(mine.metrics, "kept_numbers")
    return Finding(
        question="Have experts only changed their numbers since early training?",
        answer=f"Of the experts at {_named(seen.metrics, early)} {kept} are most like the last one of their number; "
        f"matched, {percent(found)} more of a token's experts are the last checkpoint's.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that matching gains more than by chance; its class says how much",
        unit="of a token's experts",
        figure="matching_by_step",
        **found | _before_training(seen.metrics, "matching_gain"),
    )


def _whole_percent(metrics: xr.Dataset, name: str) -> str:
    """A share of experts, averaged over layers."""
    return f"{100 * over_layers(metrics, name)[0]:.0f} %"


def _finding_uneven(seen: Seen) -> Finding:
    metrics, name = seen.metrics, "coefficient_of_variation"
    values = pooled(metrics[MEAN + name]).sel(interval="estimate").isel(checkpoint=slice(None, -1))
    worst = str(values["checkpoint"].values[int(values.fillna(-1).values.argmax())])
    last = metrics.isel(checkpoint=-1)
    found = numbers(
        seen.sel(checkpoint=worst), name, Null("last checkpoint", last[name], last[MEAN + name]), "variation_effect"
    )
    busiest = rounded(over_layers(metrics.sel(checkpoint=worst), "max_violation"), lambda value: 1 + value)
    return Finding(
        question="Was the load more uneven on the way than at the end?",
        answer=f"It was most uneven at {_named(metrics, worst)}, when the busiest expert of a layer got {busiest} even "
        "shares.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a coefficient of variation above that of the last checkpoint",
        unit="coefficient of variation",
        figure="balance_by_step",
        **found | _before_training(metrics, name),
    )


def _finding_information(seen: Seen) -> Finding:
    metrics, name = seen.metrics, "information_gained"
    mine = seen.sel(checkpoint=metrics["checkpoint"].values[-1])
    domains = np.log2(metrics.sizes["dataset"] - 1)
    found = numbers(
        mine, name, Null("no difference from the first checkpoint", 0.0), "information_effect", scale=domains
    )
    first, last = (rounded(over_layers(metrics.isel(checkpoint=place), "information")) for place in (0, -1))
    return Finding(
        question="Does training make selections tell more about the kind of text?",
        answer=f"At first a selection told {first} bits about the dataset of its token, at last {last}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than at the first checkpoint",
        unit="bits per selection",
        figure="balance_by_step",
        **found,
    )


# ---------------------------------------------------------------- figures


def _by_layer(
    metrics: xr.Dataset,
    lines: Callable[[xr.Dataset], tuple[list[Series], list[Reference]]],
    y_label: str,
    order: Sequence[str] | None = None,
) -> Drawing:
    """Lines over training for some layers, a panel each."""
    axis, panels = _axis(metrics), []
    for layer in spread(metrics["layer"].values, MOST_LAYERS):
        panels.append(Panel(f"Layer {layer}", _positions(metrics), *lines(metrics.sel(layer=layer)), y_label))
    draw = partial(plotting.curves, x_scale=axis["x_scale"])
    return plotting.small_multiples(
        panels, columns=2, panel_height=2.1, x_label=axis["x_label"], order=order, draw=draw
    )


def _series(metrics: xr.Dataset, names: dict[str, str]) -> list[Series]:
    return [Series(label, *ends(pooled(metrics[name]))) for label, name in names.items()]


def _at_half(metrics: xr.Dataset, name: str) -> tuple[str, str]:
    """The measure, averaged over layers, in the middle of the checkpoints: which one, and its value with interval."""
    place = metrics.sizes["checkpoint"] // 2
    one = metrics.isel(checkpoint=place)
    value, bounds = format_estimate(*over_layers(one, name))
    return _named(metrics, str(one["checkpoint"].values)), f"{value} {bounds}"


def _limits(layer: xr.Dataset) -> list[Reference]:
    """What loads alone share in a layer, and the ceiling: what the same weights share in another precision."""
    found = [Reference("by loads alone, all experts", pooled(layer["null_saturation"]).values)]
    if "ceiling" in layer:
        found.append(Reference("corrected, in another precision", float(layer["ceiling"].sel(interval="estimate"))))
    return found


def _saturation(metrics: xr.Dataset) -> Figure:
    mine = metrics.sel(against=LAST)
    half, value = _at_half(mine, "corrected_saturation")
    shown = mine.isel(checkpoint=slice(None, -1))
    ceiling = "Nor can the corrected line be above the dotted one, of the same weights in another precision. "
    ceiling = ceiling if "ceiling" in metrics else ""
    return Figure(
        name="saturation_by_step",
        title="When routing settles",
        alt=f"Line charts over training steps of the share of a token's experts that are those of the last checkpoint; "
        f"corrected for loads {value} at {half}, mean over layers.",
        caption=f"Router saturation: share of a token's experts, and of first choices, that are those of the last "
        f"checkpoint, and the first corrected for loads, mean over datasets; corrected {value} at {half} over layers. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="1 would be the routing of the last checkpoint, which is left out: it is 1 by definition. The "
        "dashed line is what two tokens with nothing in common share because of loads; the corrected line is 0 there. "
        f"{ceiling}A last checkpoint after a falling learning rate belongs to another schedule than those before it.",
        drawing=_by_layer(
            shown,
            lambda layer: (
                _series(layer, SATURATIONS),
                _limits(layer),
            ),
            "shared with the last",
            list(SATURATIONS),
        ),
        data=summary.table(
            mine.assign(settled=metrics["settled"]), [*SATURATIONS.values(), "settled"], null="by_loads"
        ),
    )


def _change(metrics: xr.Dataset) -> Figure:
    mine = metrics.sel(against=PREVIOUS)
    half, value = _at_half(mine, "corrected_saturation")
    return Figure(
        name="change_by_step",
        title="How much routing changes between checkpoints",
        alt=f"Line charts over training steps of the share of a token's experts that are those of the checkpoint "
        f"before; corrected for loads {value} at {half}, mean over layers.",
        caption=f"The same against the checkpoint before; corrected {value} at {half} over layers. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="Checkpoints are not equally far apart: the line falls where many steps lie between two of them, "
        "and rises where routing changes less.",
        drawing=_by_layer(
            mine.isel(checkpoint=slice(1, None)),
            lambda layer: (
                _series(layer, SATURATIONS),
                _limits(layer),
            ),
            "shared with previous",
            list(SATURATIONS),
        ),
        data=summary.table(mine, SATURATIONS.values(), null="by_loads"),
    )


def _bars(metrics: xr.Dataset, panels: dict[str, dict[str, np.ndarray]], rows: Sequence[str], x_label: str) -> Drawing:
    """Stacked bars, a row for each checkpoint, two panels side by side."""
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    titles = [*panels, *[""] * (lines * columns - len(panels))]
    drawing, axes = plotting.canvas(0.6 + lines * (0.7 + 0.19 * len(rows)), rows=lines, columns=columns, titles=titles)
    for index, (ax, parts) in enumerate(zip(axes, panels.values(), strict=False)):
        lowest = index + columns >= len(panels)
        plotting.stacked_bars(ax, rows, parts, x_label=x_label if lowest else "", x_limits=(0, 1))
        if index % columns:
            ax.tick_params(labelleft=False)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return drawing


def _parts(metrics: xr.Dataset) -> Figure:
    mine, panels = pooled(metrics.sel(against=LAST)), {}
    for layer in spread(metrics["layer"].values, MOST_LAYERS):
        one = mine.sel(layer=layer)
        loads, by_id = one["null_saturation"].values, one["by_token_id"].sel(interval="estimate").values
        beyond = one["beyond_token_id"].sel(interval="estimate").values
        parts = {"by loads": loads, "by token id": by_id - loads, "beyond token id": beyond}
        panels[f"Layer {layer}"] = {name: np.maximum(values, 0) for name, values in parts.items()}
    half, value = _at_half(metrics, "beyond_token_id")
    names = ["saturation", "by_token_id", "beyond_token_id"]
    return Figure(
        name="parts_by_step",
        title="What is settled: the token id, or the token in its text",
        alt=f"Bars by layer and checkpoint of the share of a token's experts that are the last checkpoint's, in parts: "
        f"beyond the token id {value} at {half}, mean over layers.",
        caption=f"Share of a token's experts that are those of the last checkpoint: what loads alone give, what the "
        f"last checkpoint's choice for other tokens of the id gives more, and what only the token itself has; the last "
        f"{value} at {half} over layers. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="Bars end where saturation does. The last one is whole by definition: its parts say how much of "
        "the final routing follows from the id. A second part that is as long early on as at last was settled early.",
        drawing=_bars(metrics, panels, _names(metrics), "shared with the last"),
        data=summary.table(metrics.sel(against=LAST), names, null="by_loads"),
    )


def _explained(metrics: xr.Dataset) -> Figure:
    half, value = _at_half(metrics, "token_share")
    _, added = _at_half(metrics, "context_added")
    return Figure(
        name="explained_by_step",
        title="What is learned when: token id and context",
        alt=f"Line charts over training steps of the share of routing that the token id explains, {value} at {half}, "
        f"and that the token before adds, {added}.",
        caption=f"Share of routing that the token id explains, and what the token before it adds, of the tokens that "
        f"have a partner in both; mean over datasets. At {half} over layers {value} and {added}. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="A line that rises early was learned early. The first checkpoint shows what a router explains "
        "without having learned anything, if it is untrained.",
        drawing=_by_layer(metrics, lambda layer: (_series(layer, EXPLAINED), []), "share explained", list(EXPLAINED)),
        data=summary.table(metrics, [*EXPLAINED.values(), "token_lead"]),
    )


def _matching(metrics: xr.Dataset) -> Figure:
    names = {"experts matched": "matched_saturation", "experts as numbered": "saturation"}
    mine = metrics.sel(against=LAST)
    half, value = _at_half(mine, "matching_gain")
    _, kept = _at_half(mine, "kept_numbers")
    return Figure(
        name="matching_by_step",
        title="Other experts, or the same ones with other numbers",
        alt=f"Line charts over training steps of router saturation with experts matched and as they are numbered; "
        f"matching adds {value} at {half}, mean over layers.",
        caption=f"Share of a token's experts that are those of the last checkpoint, experts as numbered and matched "
        f"one to one on the other half of the groups of clusters; at {half} matching adds {value}, and a share of "
        f"{kept} of the experts keep their number, over layers. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="Where the lines are one, no expert has become another. The dashed line is what matching finds if "
        f"the last checkpoint's tokens are in random order, mean of {metrics.attrs['permutations']} orders.",
        drawing=_by_layer(
            mine.isel(checkpoint=slice(None, -1)),
            lambda layer: (
                _series(layer, names),
                [Reference("matched, tokens in random order", layer["null_matched_saturation"].values)],
            ),
            "shared with the last",
            list(names),
        ),
        data=summary.table(mine, ["matched_saturation", "matching_gain", "kept_numbers"], null="by_chance"),
    )


def _by_dataset(metrics: xr.Dataset) -> Figure:
    mine = metrics[[MEAN + "corrected_saturation"]].sel(against=LAST).isel(checkpoint=slice(None, -1))
    values = mine[MEAN + "corrected_saturation"].isel(dataset=slice(1, None)).transpose("dataset", "checkpoint", ...)
    shown = values.sel(interval="estimate")
    datasets = [str(name) for name in shown["dataset"].values]
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(datasets)) + 0.4)
    plotting.matrix(
        ax,
        shown.values.round(2) + 0.0,
        datasets,
        [name.removeprefix("step ") for name in _names(metrics)[:-1]],
        kind="magnitude",
        label="corrected saturation, mean over layers",
        annotate=".2f",
        limits=(0, 1),
        x_label=_axis(metrics)["x_label"],
    )
    place = metrics.sizes["checkpoint"] // 2
    middle = shown.isel(checkpoint=min(place, shown.sizes["checkpoint"] - 1)).to_series().dropna().sort_values()
    half = _named(metrics, str(shown["checkpoint"].values[min(place, shown.sizes["checkpoint"] - 1)]))
    low, high = (f"{middle.index[place]} ({middle.iloc[place]:.2f})" for place in (0, -1)) if len(middle) else ("", "")
    said = f"; at {half} least of {low}, most of {high}" if len(middle) else "; not available"
    return Figure(
        name="saturation_by_dataset",
        title="When routing settles in each dataset",
        alt=f"Matrix of the corrected router saturation, datasets by {len(shown['checkpoint'])} checkpoints, mean over "
        f"layers{said}.",
        caption=f"Router saturation against the last checkpoint, corrected for loads, mean over layers{said}. "
        f"{size_text(metrics)}; the CSV has intervals.",
        how_to_read="Rows that darken late are kinds of text of which routing is learned late. Loads are corrected for "
        "with those of all datasets, so that a dataset whose experts are its own early on is settled early.",
        drawing=drawing,
        data=summary.interval_table(values),
    )


def _by_frequency(metrics: xr.Dataset) -> Figure:
    name = "frequency_saturation"
    half = metrics.isel(checkpoint=metrics.sizes["checkpoint"] // 2)
    values = half[MEAN + name].sel(interval="estimate").values
    tokens = metrics["frequency_tokens"].values
    said = ", ".join(
        f"{label} {format_number(round(float(value), 3))} ({number:,} tokens)"
        for label, value, number in zip(FREQUENCIES, values, tokens, strict=True)
        if np.isfinite(value)
    )
    said = said or "not available"
    at = _named(metrics, str(half["checkpoint"].values))
    return Figure(
        name="saturation_by_frequency",
        title="When rare and frequent tokens settle",
        alt=f"Line charts over training steps of corrected router saturation by how often the token id occurs; at "
        f"{at}: {said}.",
        caption=f"Router saturation against the last checkpoint, corrected for loads, by how often the token id occurs "
        f"among the tokens that were read; at {at} over layers: {said}. All tokens weigh the same. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="Lines that are one mean that frequent ids have no lead. Frequencies are those of this study's "
        "text, not of the training text.",
        drawing=_by_layer(
            metrics.isel(checkpoint=slice(None, -1)),
            lambda layer: (
                [Series(label, *ends(layer[name].sel(frequency=label))) for label in FREQUENCIES],
                [],
            ),
            "corrected saturation",
            list(FREQUENCIES),
        ),
        data=summary.table(metrics, [name]),
    )


def _apart(metrics: xr.Dataset) -> str:
    """The dataset about which selections tell most at the last checkpoint."""
    values = metrics[MEAN + "information"].sel(interval="estimate").isel(checkpoint=-1, dataset=slice(1, None))
    return str(values["dataset"].values[int(values.fillna(-1).values.argmax())])


def _load(metrics: xr.Dataset, dataset: str) -> Figure:
    load = metrics["load"].sel(dataset=dataset).transpose("layer", "checkpoint", "expert") * metrics.sizes["expert"]
    layers = spread(load["layer"].values, MOST_LAYERS)
    shown = load.sel(layer=layers)
    names = [name.removeprefix("step ") for name in _names(metrics)]
    drawing, axes = plotting.canvas(
        len(layers) * (1.2 + 0.13 * len(names)), rows=len(layers), titles=[f"Layer {layer}" for layer in layers]
    )
    for ax, values in zip(axes, shown.values, strict=True):
        plotting.matrix(
            ax,
            values,
            names,
            load["expert"].values,
            kind="ratio",
            label="load, even = 1",
            limits=(1 / 4, 4),
            y_label=_axis(metrics)["x_label"],
            x_label="Expert" if ax is axes[-1] else "",
        )
    peak = load.max("expert").mean("layer")
    whose = "all datasets" if dataset == POOLED else dataset
    highest = _named(metrics, str(peak["checkpoint"].values[int(peak.values.argmax())]))
    said = f"the busiest expert gets {float(peak.max()):.1f} even shares at {highest}, {float(peak[-1]):.1f} at last"
    which = "" if dataset == POOLED else ", about which selections tell most at last"
    return Figure(
        name=f"load_{'of_all' if dataset == POOLED else 'of_one'}",
        title=f"Loads through training, {whose}",
        alt=f"Matrices of the load of each expert by checkpoint for {len(layers)} layers, {whose}; {said}, mean over "
        "layers.",
        caption=f"Share of all selections that each expert gets, by the even share, at every checkpoint; "
        f"{whose}{which}. Mean over layers: {said}. {size_text(metrics)}.",
        how_to_read="A row is a checkpoint, a column an expert. A column that keeps its colour is an expert that keeps "
        "its part; a white one gets an even share. Columns of different layers do not correspond.",
        drawing=drawing,
        data=metrics["load"].sel(dataset=dataset).to_dataframe("share_of_selections").reset_index(),
    )


def _balance(metrics: xr.Dataset) -> Figure:
    layers = spread(metrics["layer"].values, MOST_LAYERS)
    order = [f"layer {layer}" for layer in layers]
    drawing, axes = plotting.canvas(4.8, rows=2, columns=2, titles=list(LOADS))
    axis = _axis(metrics)
    for index, (ax, name) in enumerate(zip(axes, LOADS.values(), strict=True)):
        values = pooled(metrics[name])
        series = [Series(label, *ends(values.sel(layer=layer))) for label, layer in zip(order, layers, strict=True)]
        words = {"x_label": axis["x_label"] if index > 1 else "", "x_scale": axis["x_scale"], "labels": "legend"}
        plotting.curves(ax, _positions(metrics), series, order=order, **words)
        ax.set_ylim(0, None)
    value, bounds = format_estimate(*over_layers(metrics.isel(checkpoint=-1), "coefficient_of_variation"))
    bits = " ".join(format_estimate(*over_layers(metrics.isel(checkpoint=-1), "information")))
    return Figure(
        name="balance_by_step",
        title="How even loads are, and what they tell, through training",
        alt=f"Line charts over training steps of the load's coefficient of variation, its largest overload, the share "
        f"of experts never selected, and the information about the dataset; at last {value} and {bits} bits.",
        caption=f"Loads of all datasets together, and the information of a selection about its dataset, by layer; over "
        f"layers at last: coefficient of variation {value} {bounds}, {bits} bits. {counts_text(metrics, BOOTSTRAP)}",
        how_to_read="Loads that are uneven early and even later were balanced by training. Information may rise "
        "although loads of all datasets together are even: each dataset then has experts of its own.",
        drawing=drawing,
        data=summary.table(metrics, [*LOADS.values(), "information_gained"]),
    )


def _first_choices(metrics: xr.Dataset) -> Figure:
    layer = int(metrics["layer"].values[-1])
    share = metrics["first_choices"].sel(layer=layer).transpose("token_id", "checkpoint", "expert")
    panels, first = {}, []
    for text, values in zip(metrics["token_text"].values.tolist(), share.values, strict=True):
        order = np.argsort(-values[-1], kind="stable")[: len(PLACES)]
        parts = {name: values[:, expert] for name, expert in zip(PLACES, order, strict=False)}
        parts["any other"] = np.clip(1 - sum(parts.values()), 0, 1)
        experts = ", ".join(map(str, order.tolist()))
        panels[f"“{text}”: experts {experts}"] = parts
        first.append(f"“{text}” {100 * values[0, order[0]]:.0f} % to {100 * values[-1, order[0]]:.0f} %")
    said = "; ".join(first)
    data = share.to_dataframe("share").reset_index()
    texts = pd.Series(metrics["token_text"].values, index=metrics["token_id"].values)
    data.insert(1, "token_text", data["token_id"].map(texts))
    return Figure(
        name="first_choices_by_step",
        title=f"Where single token ids are sent first, layer {layer}",
        alt=f"Stacked bars by checkpoint of the first choices of {len(panels)} frequent token ids in layer {layer}; "
        f"share of the expert that is most frequent at last, first and last checkpoint: {said}.",
        caption=f"First choices of the most frequent token ids in layer {layer}, by checkpoint; the experts that are "
        f"most frequent at last are named above, in this order. {size_text(metrics)}; the CSV has all experts.",
        how_to_read="A bar that is one colour is an id that goes to one expert whatever the text. Where the first "
        "colour appears late, the id changed its expert.",
        drawing=_bars(metrics, panels, _names(metrics), "share of first choices"),
        data=data,
    )
