"""The page of the chapter selection frequency: figures, findings and words."""

from collections.abc import Mapping, Sequence

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
    dataset_matrix,
    degree,
    estimate,
    numbers,
    over_layers,
    percent,
    rounded,
    series,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.selection_frequency import MEASURES
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate
from gatebook.measures.summary import interval_table, spread, table
from gatebook.measures.uncertainty import INTERVAL

LOADS = ("coefficient_of_variation", "gini", "normalised_slot_entropy", "max_violation", "dead_experts")


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics, untrained = seen.metrics, seen.untrained
    of_loads = [
        _load_by_expert(metrics),
        _balance_by_layer(metrics, untrained),
        _balance_by_dataset(metrics),
        _sorted_loads(metrics),
    ]
    if "rank_share" in metrics:
        of_loads.append(_first_choice_share(metrics))
    if "dropped_share" in metrics:
        of_loads.append(_capacity(metrics))
    return [*of_loads, _losses(metrics, untrained)] if "load_balancing_loss" in metrics else of_loads


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings."""
    of_loads = [_finding_balance(seen), _finding_overload(seen), _finding_dead(seen)]
    return of_loads if "dropped_share" not in seen.metrics else [*of_loads, _finding_capacity(seen)]


def brief(seen: Seen) -> Brief:
    """Whether loads are uneven, and the expert that is busier than all others, by the lower end of its interval."""
    found = _finding_overload(seen)
    if found.verdict != "yes":
        return Brief("Nothing shows that any expert gets more than its share of the tokens.", found.figure)
    text = (
        f"The load is {degree(found.effect)} uneven: the busiest expert of a layer gets {_busy(vars(found))} times an "
    )
    text += f"even load, on average over layers{before(seen, 'max_violation', _times_even)}."
    load = seen.metrics["slot_share"].sel(dataset="pooled") * seen.metrics.sizes["expert"]
    load = load.stack(one=("layer", "expert")).transpose("one", "interval")
    busiest = load.isel(one=load.sel(interval="low").fillna(0).values.argmax())
    if not busiest.sel(interval="low") > 1:
        return Brief(text, found.figure)
    layer, expert = map(int, busiest["one"].item())
    example = f"Layer {layer} expert {expert} gets {rounded(estimate(busiest))} times an even load."
    return Brief(text, "load_by_expert", example, layer, (expert,))


def _busy(violation: Mapping | Sequence[float]) -> str:
    """The load of the busiest expert in even loads, from how far it is above one."""
    return rounded(violation, _times_even)


def _times_even(violation: float) -> float:
    return 1 + violation


def _finding_balance(seen: Seen) -> Finding:
    threshold = seen.thresholds["balanced_variation"]
    name = "coefficient_of_variation"
    found = numbers(seen, name, _uniform(seen.metrics, name), "variation_effect", threshold=threshold)
    place = side(found, threshold)
    answers = {
        "below": f"Yes: loads vary by less than {threshold:g} of their mean",
        "above": f"No: loads vary by more than {threshold:g} of their mean",
        "around": f"Unclear: the interval of the variation holds the threshold {threshold:g}",
    }
    return Finding(
        question="Is the load balanced over the experts?",
        answer=f"{answers[place]}{change(seen, name)}.",
        verdict=verdict(place, yes="below"),
        verdict_text=f"balanced means a coefficient of variation below {threshold:g}",
        unit="of the mean load",
        figure="balance_by_layer",
        **found,
    )


def _finding_overload(seen: Seen) -> Finding:
    found = numbers(seen, "max_violation", _uniform(seen.metrics, "max_violation"), "overload_effect")
    return Finding(
        question="Is the busiest expert of a layer busier than chance explains?",
        answer=f"It gets {_busy(found)} times an even load, on average over layers.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="overloaded means MaxVio above its interval under uniform routing",
        unit="above an even load",
        figure="balance_by_layer",
        **found,
    )


def _finding_dead(seen: Seen) -> Finding:
    metrics, experts = seen.metrics, seen.metrics.sizes["expert"]
    found = numbers(seen, "dead_experts", _uniform(metrics, "dead_experts"), "dead_effect", scale=experts)
    total = int(metrics["dead_experts"].sel(dataset="pooled", interval="estimate").sum())
    known = experts * metrics.sizes["layer"]
    return Finding(
        question="Are there experts that no token selects?",
        answer=f"{total} of {known} experts are never selected." if total else f"None of {known}.",
        verdict="yes" if total else "no",
        verdict_text="dead means never selected in this study's tokens",
        unit="experts per layer",
        figure="balance_by_layer",
        **found,
    )


def _finding_capacity(seen: Seen) -> Finding:
    metrics, threshold = seen.metrics, seen.thresholds["dropped_share"]
    factor = float(metrics["capacity_factor"][np.abs(metrics["capacity_factor"] - 1.25).argmin("capacity_factor")])
    found = numbers(
        seen.sel(capacity_factor=factor), "dropped_share", Null("no drops", 0.0), "dropped_effect", threshold=threshold
    )
    return Finding(
        question=f"Would a capacity factor of {factor:g} drop tokens?",
        answer=f"It would drop {percent(found)} of the selections.",
        unit="of selections",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means more than {100 * threshold:g} % dropped",
        figure="dropped_by_capacity",
        **found,
    )


def _uniform(metrics: xr.Dataset, name: str) -> Null:
    return Null.of("uniform routing", metrics, name)


def _load_by_expert(metrics: xr.Dataset) -> Figure:
    share = metrics["slot_share"].sel(dataset="pooled")
    experts = share.sizes["expert"]
    ratio = (share.sel(interval="estimate") * experts).transpose("layer", "expert")
    drawing, (ax,) = plotting.canvas(plotting.height_for(share.sizes["layer"]))
    holds_null = (share.sel(interval="low") * experts <= 1) & (share.sel(interval="high") * experts >= 1)
    plotting.layer_expert_matrix(
        ax,
        ratio.values,
        ratio["layer"].values,
        ratio["expert"].values,
        kind="ratio",
        label="load / even load",
        uncertain=holds_null.transpose("layer", "expert").values,
    )
    layer, expert = np.unravel_index(ratio.values.argmax(), ratio.shape)
    data = interval_table(share)
    return Figure(
        name="load_by_expert",
        title="Load of every expert",
        alt=f"Matrix of loads relative to an even load, layers by experts: from {ratio.min().item():.2f} to "
        f"{ratio.max().item():.2f} times, the largest in layer {int(ratio['layer'][layer])}, expert {expert}.",
        caption=f"Share of all selections that each expert gets, relative to 1 / E"
        f"; hatched where the interval holds 1. {counts_text(metrics)}",
        how_to_read="Orange is busy, purple idle, white an even load. Columns of different "
        "layers do not correspond: expert numbers have no meaning across layers.",
        drawing=drawing,
        data=data[["layer", "expert", "estimate", "low", "high"]].rename(columns={"estimate": "slot_share"}),
    )


def _balance_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    panels = []
    for name in LOADS:
        title, units = MEASURES[name].title, MEASURES[name].units
        uniform = _uniform(metrics, name).reference()
        y_label = "" if units == "1" else units
        panels.append(Panel(title, metrics["layer"].values, series(metrics, untrained, name), [uniform], y_label))
    value, bounds = format_estimate(*over_layers(metrics, "coefficient_of_variation"))
    return Figure(
        name="balance_by_layer",
        title="Load balance by layer",
        alt=f"{len(LOADS)} small line charts over layers; the coefficient of variation of the load is {value} on "
        "average.",
        caption=f"Measures of how uneven the load is, all datasets pooled; coefficient of variation over layers "
        f"{value} {bounds}, under uniform routing {_uniform(metrics, 'coefficient_of_variation').text()}. "
        f"{counts_text(metrics)}",
        how_to_read="The dashed line is uniform routing at the same number of tokens. Sampling noise can only make "
        "loads look less even; estimates and intervals are corrected for that.",
        drawing=plotting.small_multiples(panels, share_y=False, order=ORDER),
        data=table(metrics.sel(dataset=["pooled"]), list(LOADS)),
    )


def _balance_by_dataset(metrics: xr.Dataset) -> Figure:
    drawing, mean = dataset_matrix(
        metrics, "coefficient_of_variation", label="coefficient of variation", annotate=".2f"
    )
    most, least = mean["dataset"].values[[mean.values.argmax(), mean.values.argmin()]]
    return Figure(
        name="balance_by_dataset",
        title="Load balance by dataset",
        alt=f"Matrix of the load's coefficient of variation, datasets by layers: {mean.max().item():.2f} on average "
        f"over layers for {most}, {mean.min().item():.2f} for {least}.",
        caption="Coefficient of variation of the load within each dataset"
        f"; intervals are in the CSV table. {size_text(metrics)}.",
        how_to_read="Dark cells are even loads. A single kind of text usually loads the experts less evenly than a "
        "mixture of texts.",
        drawing=drawing,
        data=table(metrics, list(LOADS)),
    )


def _sorted_loads(metrics: xr.Dataset) -> Figure:
    share = metrics["slot_share"].sel(dataset="pooled", interval="estimate").transpose("layer", "expert")
    experts = share.sizes["expert"]
    ordered = -np.sort(-share.values, axis=1) * experts
    shown = spread(share["layer"].values, 5)
    lines = [
        Series(f"layer {layer}", ordered[row]) for row, layer in enumerate(share["layer"].values) if layer in shown
    ]
    drawing, (ax,) = plotting.canvas(3.2)
    plotting.curves(
        ax,
        np.arange(1, experts + 1),
        lines,
        [Reference("even load", 1.0)],
        x_label="experts, busiest first",
        y_label="load / even load",
        y_limits=(0, None),
    )
    data = xr.DataArray(ordered, dims=("layer", "place"), coords={"layer": share["layer"]})
    return Figure(
        name="sorted_loads",
        title="Loads from the busiest to the idlest expert",
        alt=f"Curves of load by expert, busiest first: from {ordered[:, 0].mean():.2f} to {ordered[:, -1].mean():.2f} "
        "times an even load on average over layers.",
        caption=f"Load of each layer's experts in falling order; {size_text(metrics)}.",
        how_to_read="A flat curve at 1 is a perfect balance; a curve that reaches 0 has experts that nobody selects.",
        drawing=drawing,
        data=data.assign_coords(place=np.arange(1, experts + 1)).to_dataframe("load_ratio").reset_index(),
    )


def _first_choice_share(metrics: xr.Dataset) -> Figure:
    share = metrics["rank_share"].sel(rank=0).transpose("layer", "expert")
    uniform = 1 / metrics.sizes["rank"]
    drawing, (ax,) = plotting.canvas(plotting.height_for(share.sizes["layer"]))
    plotting.layer_expert_matrix(
        ax,
        share.values / uniform,
        share["layer"].values,
        share["expert"].values,
        kind="ratio",
        label="first choices / even share",
    )
    data = metrics["rank_share"].to_dataframe("share").reset_index()
    return Figure(
        name="first_choice_share",
        title="When an expert is selected, is it the first choice?",
        alt=f"Matrix of the share of an expert's selections that are first choices, from {share.min().item():.2f} to "
        f"{share.max().item():.2f}; an even share is {uniform:.2f}.",
        caption="Share of an expert's selections at rank 0, relative to 1 / k, all datasets pooled; the CSV has every "
        f"rank. {size_text(metrics)}.",
        how_to_read="Leaders are mostly first choices when they are selected at all; helpers mostly come second or "
        "later.",
        drawing=drawing,
        data=data[["layer", "expert", "rank", "share"]],
    )


def _capacity(metrics: xr.Dataset) -> Figure:
    dropped = metrics["dropped_share"].sel(dataset="pooled").sortby("capacity_factor")
    lines = [
        Series(f"layer {layer}", *(100 * dropped.sel(layer=layer, interval=part).values for part in INTERVAL))
        for layer in spread(dropped["layer"].values, 5)
    ]
    drawing, (ax,) = plotting.canvas(3.2)
    plotting.curves(
        ax,
        dropped["capacity_factor"].values,
        lines,
        x_label="capacity factor",
        y_label="dropped selections (%)",
        y_limits=(0, None),
    )
    first = 100 * dropped.isel(capacity_factor=0).sel(interval="estimate").mean().item()
    return Figure(
        name="dropped_by_capacity",
        title="What a limited expert capacity would drop",
        alt=f"Curves of dropped selections by capacity factor, one per layer; {first:.1f} % at the smallest factor.",
        caption=f"{metrics['dropped_share'].attrs['long_name'].capitalize()}; each batch holds whole documents of "
        f"one dataset in order; {size_text(metrics)}; intervals: {100 * metrics.attrs['confidence']:g} % {JACKKNIFE}.",
        how_to_read="A capacity factor of 1 gives every expert exactly an even share of the batch; what is selected "
        "beyond that would be dropped. Nothing was dropped in this study.",
        drawing=drawing,
        data=table(metrics, ["dropped_share"]),
    )


def _losses(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    uniform = {"load_balancing_loss": [Reference("uniform routing", float(metrics.sizes["rank"]))], "z_loss": []}
    panels = [
        Panel(MEASURES[name].title, metrics["layer"].values, series(metrics, untrained, name), references)
        for name, references in uniform.items()
    ]
    loss = format_estimate(*over_layers(metrics, "load_balancing_loss"))
    return Figure(
        name="auxiliary_losses",
        title="The two auxiliary losses, as this study's tokens see them",
        alt=f"Two line charts over layers; the load-balancing loss is {loss[0]} on average, {metrics.sizes['rank']} "
        "under uniform routing.",
        caption=f"Load-balancing loss E sum f P and router z-loss by layer, pooled; {counts_text(metrics)}",
        how_to_read="The load-balancing loss is k when load or probability is even; the z-loss grows with the size of "
        "the logits.",
        drawing=plotting.small_multiples(panels, columns=2, share_y=False, order=ORDER),
        data=table(metrics.sel(dataset=["pooled"]), list(uniform)),
    )
