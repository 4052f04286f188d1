"""The page of the chapter router decisiveness: figures, findings and words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from gatebook.chapters.base.page import (
    ONE_RUN,
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
    ends,
    estimate,
    hundredfold,
    numbers,
    over_layers,
    percent,
    rounded,
    series,
    side,
    size_text,
    trained,
    verdict,
)
from gatebook.chapters.router_decisiveness import MEASURES
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_beside, format_estimate, format_number
from gatebook.measures.summary import interval_table, spread, table

PANELS = (
    "normalised_entropy", "top_k_entropy", "effective_experts", "top_1_probability", "top_k_mass", "top_1_share",
    "logit_margin", "boundary_margin", "information",
)  # fmt: skip


MOST_PANELS = 12
"""Layers in a figure with a panel for each."""


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics, untrained = seen.metrics, seen.untrained
    found = [
        _entropy_by_layer(metrics, untrained),
        _measures_by_layer(metrics, untrained),
        _entropy_by_dataset(metrics),
        _entropy_distribution(metrics, untrained),
        _weight_by_rank(metrics),
        _shares_by_rank(metrics),
        _information(metrics),
        _logits_by_expert(metrics),
        _ranges_of_logits(metrics),
        _ranges_of_probabilities(metrics),
    ]
    if metrics.attrs["probability"] == "softmax":
        return found
    note = (
        f"Probabilities of this router are {metrics.attrs['probability']}. A trained bias or groups of experts may "
        "move its choice away from the most probable experts."
    )
    return [replace(figure, caption=f"{figure.caption} {note}") for figure in found]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings."""
    return [_finding_entropy(seen), _finding_mass(seen), _finding_information(seen)]


def brief(seen: Seen) -> Brief:
    """Whether the router decides, and between which datasets it does most and least."""
    found, metrics = _finding_entropy(seen), seen.metrics
    if side(vars(found)) != "below":
        return Brief("Nothing shows that the router prefers any expert to another.", found.figure)
    text = f"The router is {degree(found.effect)} decided: its entropy is {percent(vars(found))} of the most possible"
    text += f"{before(seen, 'normalised_entropy', hundredfold, ' %')}, 100 % if it knew nothing."
    of_datasets = metrics["mean_over_layers_normalised_entropy"].isel(dataset=slice(1, None))
    of_datasets = of_datasets.sortby(of_datasets.sel(interval="estimate"))
    least, most = of_datasets.isel(dataset=0), of_datasets.isel(dataset=-1)
    if not least.sel(interval="high") < most.sel(interval="low"):
        return Brief(text, found.figure)
    names = [f"{each['dataset'].item()} ({percent(estimate(each))})" for each in (least, most)]
    return Brief(text, "entropy_by_dataset", f"It is surest of {names[0]} and least sure of {names[1]}.")


def _finding_entropy(seen: Seen) -> Finding:
    threshold = seen.thresholds["decisive_entropy"]
    name = "normalised_entropy"
    found = numbers(seen, name, _uniform(seen.metrics, name), "entropy_effect", threshold=threshold)
    place = side(found, threshold)
    answers = {
        "below": f"Router entropy is less than {threshold:g} of its maximum",
        "above": f"Router entropy is more than {threshold:g} of its maximum",
        "around": f"The interval of router entropy holds {threshold:g} of its maximum",
    }
    return Finding(
        question="Is the router sure of its choice?",
        answer=f"{answers[place]}{change(seen, name)}.{_ties(seen)}",
        verdict=verdict(place, yes="below"),
        verdict_text=f"decisive means H / ln E below {threshold:g}",
        unit="of its maximum, ln E",
        figure="entropy_by_layer",
        **found,
    )


def _ties(seen: Seen) -> str:
    """A warning, if many tokens are ties."""
    share = over_layers(seen.metrics, "tied_share")[0]
    if share < seen.thresholds["tied"]:
        return ""
    return (
        f" But in {format_number(100 * share)} % of choices the last selected expert and the first one that is left "
        "out are equal: there the software chose, not the router."
    )


def _finding_mass(seen: Seen) -> Finding:
    found = numbers(seen, "top_k_mass", _uniform(seen.metrics, "top_k_mass"), "mass_effect")
    word = {"above": "more than", "below": "less than", "around": "about"}[side(found)]
    return Finding(
        question="Do the selected experts hold more than an even share of the probability?",
        answer=f"They hold {percent(found)} of it, {word} k / E.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="concentrated means more than k / E",
        unit="of all probability",
        figure="measures_by_layer",
        **found,
    )


def _finding_information(seen: Seen) -> Finding:
    name, most = "information", float(seen.metrics["uniform_value"].sel(measure="entropy"))
    found = numbers(seen, name, _uniform(seen.metrics, name), "information_effect", scale=most)
    answer = f"The router's distribution for one token is {rounded(found)} nats more peaked than its "
    answer += "mean over tokens"
    # That it differs from equal logits says little: before training it does, too.
    gained = trained(seen, name, "information_effect", scale=most)
    against = "routing all tokens alike" if gained is None else "the untrained model"
    if gained is not None:
        before = format_beside(over_layers(seen.untrained, name)[0], *over_layers(seen.metrics, name))
        answer += f", against {before} in {against}; {ONE_RUN}"
    return Finding(
        question=f"Does the router's distribution depend on the token more than in {against}?",
        answer=f"{answer}.",
        verdict=verdict(side(gained or found), yes="above"),
        verdict_text="yes means above 0" if gained is None else "yes means a paired difference above 0",
        unit="nats",
        figure="information" if gained is None else "measures_by_layer",
        **(gained or found),
    )


def _uniform(metrics: xr.Dataset, name: str) -> Null:
    return Null("all logits equal", float(metrics["uniform_value"].sel(measure=name)))


def _entropy_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    drawing, (ax,) = plotting.canvas(3.2)
    plotting.layer_lines(
        ax,
        metrics["layer"].values,
        series(metrics, untrained, "normalised_entropy"),
        [_uniform(metrics, "normalised_entropy").reference()],
        y_label="router entropy H / ln E",
        order=ORDER,
    )
    values = metrics["normalised_entropy"].sel(dataset="pooled", interval="estimate")
    lowest = int(values["layer"][values.values.argmin()])
    mean = format_estimate(*over_layers(metrics, "normalised_entropy"))
    title = f"Router entropy is lowest in layer {lowest}"
    if metrics.sizes["layer"] == 1 or _intervals_overlap(metrics["normalised_entropy"].sel(dataset="pooled")):
        title = "Router entropy by layer"
    return Figure(
        name="entropy_by_layer",
        title=title,
        alt=f"Line over layers: router entropy relative to its maximum, mean over layers {mean[0]}, lowest "
        f"{values.min().item():.3f} in layer {lowest}.",
        caption=f"Mean router entropy H / ln E by layer, all datasets pooled; {counts_text(metrics)}",
        how_to_read="1 means that the router knows nothing and all experts are equally probable; 0 means that one "
        "expert has all the probability.",
        drawing=drawing,
        data=table(metrics.sel(dataset=["pooled"]), ["normalised_entropy"]),
    )


def _intervals_overlap(pooled: xr.DataArray) -> bool:
    """Whether the layer with the lowest estimate is not clearly below the next one."""
    ordered = pooled.sortby(pooled.sel(interval="estimate"))
    return bool(ordered.isel(layer=0).sel(interval="high") >= ordered.isel(layer=1).sel(interval="low"))


def _measures_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    panels = []
    for name in PANELS:
        title, units = MEASURES[name].title, MEASURES[name].units
        uniform = _uniform(metrics, name).reference()
        y_label = "" if units == "1" else units
        panels.append(Panel(title, metrics["layer"].values, series(metrics, untrained, name), [uniform], y_label))
    mass = format_estimate(*over_layers(metrics, "top_k_mass"))
    return Figure(
        name="measures_by_layer",
        title="Nine ways to measure how decisive the router is",
        alt=f"Nine small line charts over layers; the selected experts hold {mass[0]} of the probability on average.",
        caption=f"Means over tokens by layer, all datasets pooled; {counts_text(metrics)}",
        how_to_read="Each panel has its own scale. The dashed line is the value with all logits equal. Definitions "
        "are on the Methods page.",
        drawing=plotting.small_multiples(panels, share_y=False, order=ORDER),
        data=table(metrics.sel(dataset=["pooled"]), list(PANELS)),
    )


def _entropy_by_dataset(metrics: xr.Dataset) -> Figure:
    drawing, mean = dataset_matrix(
        metrics, "normalised_entropy", label="router entropy H / ln E", annotate=".2f", from_zero=False
    )
    low, high = mean["dataset"].values[[mean.values.argmin(), mean.values.argmax()]]
    return Figure(
        name="entropy_by_dataset",
        title="Router entropy by dataset",
        alt=f"Matrix of router entropy, datasets by layers: lowest on {low} ({mean.min().item():.3f} on average over "
        f"layers), highest on {high} ({mean.max().item():.3f}).",
        caption=f"Mean router entropy H / ln E by dataset and layer; {size_text(metrics)}; intervals are in the CSV.",
        how_to_read="Bright cells are datasets on which the layer's router is less sure. The colour scale starts at "
        "the smallest value, not at 0.",
        drawing=drawing,
        data=table(metrics, ["normalised_entropy"]),
    )


def _entropy_distribution(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    layers = metrics["layer"].values
    edges = metrics["scalar_edge"].sel(scalar="entropy").values

    def density(source):
        return source["scalar_density"].sel(dataset="pooled", scalar="entropy").transpose("layer", "bin").values

    drawing, (ax,) = plotting.canvas(plotting.height_for(2 * len(layers)))
    plotting.histograms(
        ax,
        edges,
        density(metrics),
        layers,
        outline=("untrained", density(untrained)) if untrained is not None else None,
        reference=Reference("all logits equal", edges[-1]),
        x_label="router entropy H (nats)",
    )
    quantiles = metrics["scalar_quantile"].sel(dataset="pooled", scalar="entropy")
    data = interval_table(quantiles)
    median = quantiles.sel(quantile=0.5, interval="estimate").mean().item()
    return Figure(
        name="entropy_distribution",
        title="Distribution of router entropy over tokens",
        alt=f"Histograms of router entropy over tokens, one per layer; the median is {median:.2f} nats on average over "
        f"layers, the maximum possible {edges[-1]:.2f}.",
        caption=f"Share of tokens by router entropy; marks: 10 %, 50 % and 90 % quantile. {counts_text(metrics)} "
        "The CSV holds the quantiles with their intervals.",
        how_to_read="A layer with two humps treats two kinds of tokens differently: one it is sure of, one not.",
        drawing=drawing,
        data=data[["layer", "quantile", "estimate", "low", "high"]],
    )


def _weight_by_rank(metrics: xr.Dataset) -> Figure:
    weight = metrics["rank_weight"].sel(dataset="pooled")
    layers = spread(metrics["layer"].values, 5)
    found = [
        Series(f"layer {layer}", *(weight.sel(layer=layer, interval=part).values for part in weight["interval"].values))
        for layer in layers
    ]
    drawing, (ax,) = plotting.canvas(3.2)
    plotting.curves(ax, weight["rank"].values, found, x_label="rank", y_label="mean routing weight")
    ax.set_xticks(spread(weight["rank"].values, 9))
    first = weight.sel(rank=0, interval="estimate").mean().item()
    data = interval_table(weight)
    return Figure(
        name="weight_by_rank",
        title="Routing weight by rank",
        alt=f"Curves of mean routing weight by rank, one per layer; the first expert gets {first:.3f} on average.",
        caption=f"Mean weight that multiplies the output of the expert at each rank (0 is the largest); "
        f"{counts_text(metrics)}",
        how_to_read="A steep curve: the first expert does most of the work. A flat one: the selected experts share it.",
        drawing=drawing,
        data=data[["layer", "rank", "estimate", "low", "high"]],
    )


def _information(metrics: xr.Dataset) -> Figure:
    def line(label, name):
        pooled = metrics[name].sel(dataset="pooled")
        return Series(label, *ends(pooled))

    lines = [line("entropy of the mean", "entropy_of_mean"), line("mean entropy", "entropy")]
    drawing, (ax,) = plotting.canvas(3.2)
    uniform = _uniform(metrics, "entropy").reference()
    plotting.layer_lines(ax, metrics["layer"].values, lines, [uniform], y_label="nats")
    value, bounds = format_estimate(*over_layers(metrics, "information"))
    return Figure(
        name="information",
        title="The gap is how much more peaked one token's distribution is",
        alt=f"Two lines over layers, the entropy of the mean distribution above the mean entropy; the gap is {value} "
        "nats on average over layers.",
        caption=f"H(E[p]) and E[H(p)] by layer; their difference is {value} {bounds} nats on average over layers. "
        f"{counts_text(metrics)}",
        how_to_read="If all tokens had the same distribution, both lines would coincide. The further apart they are, "
        "the more the distribution depends on the token. The choice itself, the k most probable experts, follows from "
        "the token without doubt: the gap is no measure of what a choice tells.",
        drawing=drawing,
        data=table(metrics.sel(dataset=["pooled"]), ["entropy_of_mean", "entropy", "information"]),
    )


def _logits_by_expert(metrics: xr.Dataset) -> Figure:
    median = metrics["expert_logit_quantile"].sel(quantile=0.5).transpose("layer", "expert")
    odds = np.exp(median - median.mean("expert"))
    experts = np.arange(median.sizes["expert"])
    drawing, (ax,) = plotting.canvas(plotting.height_for(median.sizes["layer"]))
    plotting.layer_expert_matrix(
        ax,
        odds.values,
        median["layer"].values,
        experts,
        kind="ratio",
        label="odds against the layer's average expert",
    )
    data = metrics["expert_logit_quantile"].assign_coords(expert=experts).to_dataframe("logit").reset_index()
    return Figure(
        name="logits_by_expert",
        title="Which experts the router favours whatever the token",
        alt=f"Matrix of the median router logit as odds against the layer's average expert, from "
        f"{odds.min().item():.2f} to {odds.max().item():.2f}.",
        caption="exp of the median router logit z minus its mean over the layer's experts, all datasets pooled; the "
        f"CSV has the median, 10 % and 90 % quantile of the logits. {size_text(metrics)}.",
        how_to_read="1 is an expert like the average one. A number added to all logits of a layer changes nothing, so "
        "only differences within a layer count. Columns of different layers do not correspond: expert numbers have no "
        "meaning across layers.",
        drawing=drawing,
        data=data[["layer", "expert", "quantile", "logit"]],
    )


def _by_layer(metrics: xr.Dataset) -> tuple[list[int], Drawing, list[Axes]]:
    """At most `MOST_PANELS` layers, evenly spread, and a figure with a panel for each, all on one scale."""
    layers = spread(metrics["layer"].values, MOST_PANELS)
    columns = 2 if len(layers) == 4 else min(3, len(layers))
    rows = -(-len(layers) // columns)
    titles = [f"Layer {layer}" for layer in layers] + [""] * (rows * columns - len(layers))
    drawing, axes = plotting.canvas(1.9 * rows + 0.7, rows=rows, columns=columns, titles=titles, share_y=True)
    for ax in axes[len(layers) :]:
        ax.set_axis_off()
    return layers, drawing, axes[: len(layers)]


def _shares_by_rank(metrics: xr.Dataset) -> Figure:
    layers, drawing, axes = _by_layer(metrics)
    names = {"probability p": "rank_probability_quantile", "weight q": "rank_share_quantile"}
    experts, ranks = len(metrics["expert_logit_quantile"]["expert"]), metrics["rank"].values
    references = [Reference("p with all logits equal", 1 / experts), Reference("q of even weights", 1 / len(ranks))]
    for ax, layer in zip(axes, layers, strict=True):
        found = metrics[list(names.values())].sel(layer=layer).transpose("rank", "quantile")
        lines = [Series(label, *found[name].values.T[[1, 0, 2]]) for label, name in names.items()]
        plotting.curves(ax, ranks, lines, references, y_limits=(0, None), labels="legend", order=list(names))
        ax.set(xlabel="rank", ylabel="share" if ax.get_subplotspec().is_first_col() else "", xticks=spread(ranks, 5))
    medians = {name: metrics[name].sel(quantile=0.5).isel(rank=0).mean("layer").item() for name in names.values()}
    probability, weight = medians.values()
    frames = [metrics[name].to_dataframe("value").reset_index() for name in names.values()]
    data = pd.concat([frame.assign(of=label) for label, frame in zip(names, frames, strict=True)], ignore_index=True)
    return Figure(
        name="shares_by_rank",
        title="Probabilities and weights by rank",
        alt=f"Curves by rank, a panel for each layer: the first expert has a median probability of {probability:.3f} "
        f"and a median renormalised weight of {weight:.3f} on average over layers.",
        caption="Router probability p of the selected experts and their weights q, renormalised to the sum 1: medians "
        "over tokens, bands from the 10 % to the 90 % quantile of the tokens, all datasets pooled."
        f"{_left_out(metrics)} {size_text(metrics)}.",
        how_to_read="Bands show how tokens differ, not how sure the median is. Where the band of q touches its dotted "
        "line, some tokens weight their experts evenly. p and q differ by the mass that was not selected.",
        drawing=drawing,
        data=data[["layer", "of", "rank", "quantile", "value"]],
    )


def _ranges_of_logits(metrics: xr.Dataset) -> Figure:
    drawing, data, quantiles = _ranges(metrics, "expert_logit_quantile", "logit", "linear", None)
    wide = (quantiles.sel(quantile=0.9) - quantiles.sel(quantile=0.1)).mean().item()
    return Figure(
        name="logit_ranges",
        title="Router logits of every expert",
        alt=f"Bars by expert, a panel for each layer: the 10 % and 90 % quantiles of an expert's router logit are "
        f"{wide:.2f} apart on average.",
        caption="Router logit z of every expert over tokens, selected or not: median, bar from the 10 % to the 90 % "
        f"quantile, all datasets pooled.{_left_out(metrics)} {size_text(metrics)}.",
        how_to_read="A high bar is an expert that the router favours for nearly every token, a long one an expert "
        "whose logit depends on the token. Only differences within a layer count, and columns of different layers do "
        "not correspond.",
        drawing=drawing,
        data=data,
    )


def _ranges_of_probabilities(metrics: xr.Dataset) -> Figure:
    even = Reference("all logits equal", 1 / len(metrics["expert_logit_quantile"]["expert"]))
    drawing, data, quantiles = _ranges(metrics, "expert_probability_quantile", "probability", "log", even)
    high = quantiles.sel(quantile=0.9)
    layer, expert = np.unravel_index(np.nan_to_num(high.values).argmax(), high.shape)
    return Figure(
        name="probability_ranges",
        title="Router probabilities of every expert",
        alt="Bars by expert on a logarithmic scale, a panel for each layer: a tenth of all tokens give expert "
        f"{expert} of layer {int(metrics['layer'][layer])} a probability above {float(high[layer, expert]):.3f}, the "
        "largest of these quantiles.",
        caption="Router probability p of every expert over tokens, selected or not: median, bar from the 10 % to the "
        f"90 % quantile, all datasets pooled.{_left_out(metrics)} {size_text(metrics)}.",
        how_to_read="A bar that crosses the dashed line is an expert that some tokens give more than an even share and "
        "others less. One wholly above it is probable whatever the token.",
        drawing=drawing,
        data=data,
    )


def _ranges(
    metrics: xr.Dataset, name: str, label: str, y_scale: str, reference: Reference | None
) -> tuple[Drawing, pd.DataFrame, xr.DataArray]:
    """A panel for each layer with the quantiles of every expert, the same of all layers as rows, and as an array."""
    layers, drawing, axes = _by_layer(metrics)
    quantiles = metrics[name].transpose("layer", "expert", "quantile")
    quantiles = quantiles.assign_coords(expert=np.arange(quantiles.sizes["expert"]))
    for ax, layer in zip(axes, layers, strict=True):
        words = {"x_label": "expert", "y_label": label if ax.get_subplotspec().is_first_col() else ""}
        plotting.ranges(ax, quantiles["expert"], quantiles.sel(layer=layer), reference, y_scale=y_scale, **words)
    data = quantiles.to_dataframe(label).reset_index()[["layer", "expert", "quantile", label]]
    return drawing, data, quantiles


def _left_out(metrics: xr.Dataset) -> str:
    """A sentence on the layers that a figure with a panel for each does not show, if there are any."""
    total = metrics.sizes["layer"]
    return "" if total <= MOST_PANELS else f" The picture has {MOST_PANELS} of {total} layers, the CSV all."
