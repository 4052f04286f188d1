"""The page of the chapter co-activation: figures, findings and words."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy.special
import xarray as xr

from gatebook.chapters.base.page import (
    JACKKNIFE,
    ONE_RUN,
    ORDER,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    before,
    counts_text,
    degree,
    effect_class,
    held,
    lies,
    numbers,
    over_layers,
    percent,
    reference,
    rounded,
    sample_size,
    series,
    side,
    size_text,
    trained,
    verdict,
)
from gatebook.chapters.coactivation import FEWEST, MEASURES
from gatebook.chapters.coactivation.measure import strongest
from gatebook.figures import plotting
from gatebook.figures.explored import Matrices, Matrix
from gatebook.figures.matrix import clustered_order
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate
from gatebook.measures.summary import spread, table

LARGEST_DOUBLINGS = 6
LEAST = 2.0**-LARGEST_DOUBLINGS
PAIRS_SHOWN, PAIRS_LISTED = 10, 100
NEIGHBOURING = (
    "right: the variant adjacent_rank, which counts only pairs at neighbouring ranks, rows sum to at most 2; the "
    "figure that was published with the paper shows this one."
)
NO_RANKS = "the variant of neighbouring ranks, which the paper's figure shows, needs the order of a token's experts."


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one.

    Without pairs (k = 1) it is one figure, which says so; without tested pairs there are no figures of the lift.
    """
    metrics, untrained = seen.metrics, seen.untrained
    found = [_lift_by_layer(metrics, untrained)]
    if metrics["tested_pairs"].sel(dataset="pooled").any():
        found += [_lift_distribution(metrics, untrained), _lift_matrices(metrics), *_strongest_pairs(metrics)]
    return [*found, _published_variant(metrics)] if metrics.attrs["top_k"] > 1 else found


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings."""
    metrics = seen.metrics
    found = [_finding_lift(seen)]
    if 1 < metrics.attrs["top_k"] < metrics.sizes["expert"] and int(
        metrics["tested_pairs"].sel(dataset="pooled").sum()
    ):
        found += [_finding_significant(seen), _finding_strongest(seen)]
        if metrics.sizes["dataset"] > 2:
            found.append(_finding_datasets(seen))
        found += _finding_training(seen)
    return found


def brief(seen: Seen) -> Brief:
    """Whether experts work in pairs, and the pair that does most, if it does for all tested pairs at once."""
    found, name = _finding_lift(seen), "mean_absolute_log2_lift"
    if found.verdict != "yes":
        return Brief("Nothing shows that experts work in pairs beyond what their loads explain.", found.figure)
    text = (
        f"Experts choose their company {degree(found.effect)}: a pair typically meets {_times(vars(found))} times as "
    )
    text += f"often as loads explain, or that much less often{before(seen, name, _factor)}."
    layer, *pair = _strongest_pair(seen.metrics)
    value = _strongest(seen.metrics)
    if not value[1] > 1:
        return Brief(text, found.figure)
    example = f"{_named(layer, *pair).capitalize()} meet {rounded(value)} times as often."
    return Brief(text, _shows_strongest(seen.metrics), example, layer, tuple(pair))


def explored(seen: Seen) -> Matrices | None:
    """The matrices of all layers: lift, and co-activation as published; None without pairs, or if none is tested."""
    metrics = seen.metrics
    if metrics.attrs["top_k"] == 1 or not metrics["tested_pairs"].sel(dataset="pooled").any():
        return None
    top_k, experts = metrics.attrs["top_k"], metrics.sizes["expert"]
    matrices = metrics[["lift", "lift_low", "lift_high", "adjusted_p", *_published(metrics)]]
    found, uniform = matrices.transpose("layer", "expert", "other"), (top_k - 1) / (experts - 1)
    lift = Matrix(
        "lift",
        "Lift",
        found["lift"],
        kind="ratio",
        limits=(1 / 8, 8),
        nulls={"loads explain all": 1.0},
        beside={"low": found["lift_low"], "high": found["lift_high"], "q": found["adjusted_p"]},
        level=1 - metrics.attrs["confidence"],
    )
    published = [
        Matrix(
            name,
            title,
            found[name],
            limits=(0, float(f"{found[name].max().item():.2g}")),
            nulls={"uniform": null},
            word="co-activation",
        )
        for name, title, null in (
            ("coactivation", "Co-activation C(row → column), Eq. 6", uniform),
            ("adjacent_rank", "Co-activation at neighbouring ranks", 2 * uniform / top_k),
        )
        if name in found
    ]
    return Matrices([lift, *published], clustered="lift", load=metrics["selected_share"])


def _published(metrics: xr.Dataset) -> list[str]:
    """The matrices that are published as co-activation and are there: without an order of experts only one is."""
    return [name for name in ("coactivation", "adjacent_rank") if name in metrics]


def _finding_lift(seen: Seen) -> Finding:
    metrics = seen.metrics
    found = numbers(seen, "mean_absolute_log2_lift", _noise(metrics), "lift_effect")
    place = side(found)
    answers = {
        "above": f"Yes: pairs typically meet {_times(found)} times as often as loads explain, or that much less often.",
        "below": "No: pairs meet as often as loads explain.",
        "around": "Unclear: what is left beside the loads may be sampling noise.",
    }
    top_k, experts = metrics.attrs["top_k"], metrics.sizes["expert"]
    if top_k in (1, experts) or math.isnan(found["estimate"]):
        place = "around" if 1 < top_k < experts else "below"
        answers[place] = {
            1: "There are no pairs: every token selects one expert only.",
            experts: "Every token selects all experts, so all pairs meet always.",
        }.get(top_k, f"Too few tokens: no pair is expected in {FEWEST} of them.")
    return Finding(
        question="Do pairs of experts work together more, or less, than their loads explain?",
        answer=answers[place],
        verdict=verdict(place, yes="above"),
        verdict_text="yes means a mean |log₂ lift| above that of sampling noise",
        unit="doublings or halvings (log₂)",
        figure="lift_by_layer",
        **found,
    )


def _finding_significant(seen: Seen) -> Finding:
    """How large the lift of significant pairs is: how many they are grows with the tokens and says nothing about it."""
    metrics = seen.metrics
    found = numbers(seen, "significant_lift", _noise(metrics, "significant_noise"), "lift_effect")
    more, less = (percent(over_layers(metrics, name)) for name in ("share_above", "share_below"))
    known = math.isfinite(found["estimate"])
    size = f"They typically meet {_times(found)} times as often, or that much less often" if known else "There are none"
    return Finding(
        question="How far are those pairs from chance that significantly differ from it?",
        answer=f"{size}: {more} of the pairs meet more often than loads explain, and {less} less often.",
        verdict=verdict(side(found), yes="above") if known else "no",
        verdict_text="yes means a mean |log₂ lift| of these pairs above that of sampling noise; significant "
        f"at a false discovery rate of {_level(metrics)}",
        unit="doublings or halvings (log₂)",
        figure="lift_by_layer",
        **found,
    )


def _finding_strongest(seen: Seen) -> Finding:
    metrics, threshold = seen.metrics, seen.thresholds["strong_lift"]
    names, value = _named(*_strongest_pair(metrics)), _strongest(metrics)
    times = rounded(value)
    place = lies(*value[1:], threshold)
    answers = {
        "above": f"Yes: {names} meet {times} times as often.",
        "below": f"No: the strongest pair, {names}, meets {times} times as often.",
        "around": f"Unclear: the interval of the strongest pair, {names}, holds {threshold:g}.",
    }
    doublings = [math.log2(max(part, LEAST)) if math.isfinite(part) else part for part in value]
    found = held(value, Null("loads explain all", 1.0), ())
    return Finding(
        question=f"Is there a pair that works together {threshold:g} times as often as loads explain?",
        answer=answers[place],
        unit="times as often as loads explain",
        verdict=verdict(place, yes="above"),
        verdict_text="the interval is widened for having chosen the largest of all tested pairs (Bonferroni)",
        figure=_shows_strongest(metrics),
        **found
        | {"effect": effect_class(doublings, seen.thresholds["lift_effect"])}
        | reference(seen, _strongest)
        | sample_size(metrics),
    )


def _finding_datasets(seen: Seen) -> Finding:
    threshold = seen.thresholds["remaining_lift"]
    null = Null("datasets explain nothing", 1.0)
    found = numbers(seen, "remaining_within_datasets", null, "explained_effect", threshold=threshold, datasets=False)
    place, rest = side(found, threshold), percent(found)
    answers = {
        "below": f"Yes: within datasets {rest} of the variance of log lift remain.",
        "above": f"No: within datasets {rest} of the variance of log lift remain.",
        "around": f"Unclear: the interval of what remains within datasets holds {100 * threshold:g} %.",
    }
    return Finding(
        question="Do pairs work together because they serve the same datasets?",
        answer=answers[place],
        verdict=verdict(place, yes="below"),
        verdict_text=f"yes means that less than {100 * threshold:g} % of the variance remains within datasets",
        unit="of the variance of log₂ lift",
        figure="lift_by_layer",
        **found,
    )


def _finding_training(seen: Seen) -> list[Finding]:
    found = trained(seen, "mean_absolute_log2_lift", "lift_effect")
    if found is None:
        return []
    answers = {
        "above": f"Yes: pairs are further from what loads explain than before training; {ONE_RUN}.",
        "below": f"No: pairs are nearer to what loads explain than before training; {ONE_RUN}.",
        "around": "Unclear: the interval of the difference holds 0.",
    }
    place = side(found)
    return [
        Finding(
            question="Did training make pairs of experts?",
            answer=answers[place],
            unit="doublings or halvings (log₂)",
            verdict=verdict(place, yes="above"),
            verdict_text="yes means a paired difference, trained minus untrained, above 0",
            figure="lift_by_layer",
            **found,
        )
    ]


def _noise(metrics: xr.Dataset, name: str = "noise") -> Null:
    return Null("sampling noise alone", metrics[name], metrics.get(f"mean_over_layers_{name}"))


def _times(found: Mapping | Sequence[float]) -> str:
    return rounded(found, _factor)


def _factor(doublings: float) -> float:
    return 2**doublings


def _named(layer: int, expert: int, other: int) -> str:
    return f"experts {expert} and {other} of layer {layer}"


def _strongest_pair(metrics: xr.Dataset) -> tuple[int, int, int]:
    """Layer and experts (in order) of the tested pair of largest lift."""
    lift = metrics["lift"].where(metrics["adjusted_p"].notnull()).transpose("layer", "expert", "other")
    layer, expert, other = np.unravel_index(np.nanargmax(lift.values), lift.shape)
    return int(metrics["layer"][layer]), *sorted((int(expert), int(other)))


def _shows_strongest(metrics: xr.Dataset) -> str:
    """The figure that shows the pair of largest lift: among the significant pairs by name, or else in the histogram."""
    listed = strongest(metrics, 1)
    first = tuple(map(int, listed[["layer", "expert", "other"]].iloc[0])) if len(listed) else None
    return "strongest_pairs" if first == _strongest_pair(metrics) else "lift_distribution"


def _strongest(metrics: xr.Dataset) -> tuple[float, float, float]:
    """The lift of the strongest pair, and an interval that holds for all tested pairs at once."""
    layer, expert, other = _strongest_pair(metrics)
    at = {"layer": layer, "expert": expert, "other": other}
    value, high = (metrics[name].sel(at).item() for name in ("lift", "lift_high"))
    tail, degrees = (1 - metrics.attrs["confidence"]) / 2, max(metrics.attrs["groups"] - 1, 1)
    tests = int(metrics["tested_pairs"].sel(dataset="pooled").sum())
    wider = scipy.special.stdtrit(degrees, tail / tests) / scipy.special.stdtrit(degrees, tail)
    half = wider * (math.sqrt(high) - math.sqrt(value))
    return value, max(math.sqrt(value) - half, 0) ** 2, (math.sqrt(value) + half) ** 2


def _level(metrics: xr.Dataset) -> str:
    return f"{100 * (1 - metrics.attrs['confidence']):.2g} %"


def _lift_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    references = {
        "mean_absolute_log2_lift": [_noise(metrics).reference()],
        "significant_lift": [_noise(metrics, "significant_noise").reference()],
        "remaining_within_datasets": [Reference("datasets explain nothing", 1.0)],
    }
    panels = [
        Panel(measure.title, metrics["layer"].values, series(metrics, untrained, name), references.get(name, []))
        for name, measure in MEASURES.items()
    ]
    value, bounds = format_estimate(*over_layers(metrics, "mean_absolute_log2_lift"))
    noise = _noise(metrics).text()
    none = metrics.attrs["top_k"] == 1
    return Figure(
        name="lift_by_layer",
        title="Pairs beyond their loads, by layer",
        alt="There are no pairs of experts: every token selects one."
        if none
        else f"Small line charts over layers; the mean absolute log2 lift of pairs is {value} on average.",
        caption="Every token selects one expert, so no two experts work together."
        if none
        else f"Mean |log₂ lift| over layers {value} {bounds}, of noise alone {noise}; significance at a false "
        f"discovery rate of {_level(metrics)} over all layers and pairs. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="A mean |log₂ lift| of 1: pairs typically meet twice as often as loads explain, or half as often. "
        "Noise can only raise it; the dashed line is what noise alone would give. Shares of significant pairs grow "
        "with the number of tokens and are not comparable between studies.",
        drawing=plotting.small_multiples(panels, share_y=False, order=ORDER),
        data=table(metrics, list(MEASURES)),
    )


def _tested_lifts(metrics: xr.Dataset) -> np.ndarray:
    """Lifts of the tested pairs, each once: (layer, pair); NaN for the others."""
    lift = metrics["lift"].where(metrics["adjusted_p"].notnull()).transpose("layer", "expert", "other")
    return lift.values[:, *np.triu_indices(metrics.sizes["expert"], 1)]


def _lift_distribution(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    lifts = {"trained": _tested_lifts(metrics)} | (
        {"untrained": _tested_lifts(untrained)} if untrained is not None else {}
    )
    edges = _lift_edges(np.concatenate([lift.ravel() for lift in lifts.values()]))

    def histogram(lift):
        inside = np.clip(lift, edges[0], np.nextafter(edges[-1], 0))
        return np.stack([np.histogram(row[np.isfinite(row)], edges)[0] for row in inside])

    counts, layers = histogram(lifts["trained"]), metrics["layer"].values
    drawing, (ax,) = plotting.canvas(plotting.height_for(2 * len(layers)))
    plotting.histograms(
        ax,
        edges,
        counts,
        layers,
        outline=("untrained", histogram(lifts["untrained"])) if untrained is not None else None,
        reference=Reference("loads explain all", 1.0),
        x_label="lift",
        x_scale="log",
    )
    known = lifts["trained"][np.isfinite(lifts["trained"])]
    quantiles = np.quantile(known, (0.1, 0.9))
    data = xr.DataArray(counts, dims=("layer", "bin"), coords={"layer": layers})
    data = data.to_dataframe("pairs").reset_index()
    data.insert(1, "lift_from", edges[data["bin"]])
    data.insert(2, "lift_to", edges[data["bin"] + 1])
    return Figure(
        name="lift_distribution",
        title="Lift of all pairs",
        alt=f"Histograms of the lift of pairs, one per layer; a tenth of all pairs is below {quantiles[0]:.2f} and a "
        f"tenth above {quantiles[1]:.2f}; 1 means that loads explain all.",
        caption=f"n = {known.size:,} pairs of experts that the null expects in at least {FEWEST} tokens, of "
        f"{int(metrics['tokens'].sel(dataset='pooled')):,} tokens, all datasets pooled; marks: 10 %, 50 % and 90 % "
        "quantile of the pairs. What lies beyond the axis is in the outermost bins.",
        how_to_read="If loads explained all, every layer would be one narrow peak at 1. Left of it are pairs that "
        "avoid each other, right of it pairs that work together.",
        drawing=drawing,
        data=data.drop(columns="bin"),
    )


def _lift_edges(lifts: np.ndarray) -> np.ndarray:
    """Edges of 48 bins of lift, even in its logarithm and symmetric around 1, that hold nearly all of them."""
    with np.errstate(divide="ignore"):
        doublings = np.minimum(np.abs(np.log2(lifts[np.isfinite(lifts)])), LARGEST_DOUBLINGS)
    return np.exp2(np.linspace(-1, 1, 49) * max(1, np.ceil(np.quantile(doublings, 0.99))))


def _lift_matrices(metrics: xr.Dataset) -> Figure:
    layers = spread(metrics["layer"].values, 4)
    rows = math.ceil(len(layers) / 2)
    columns = min(len(layers), 2)
    titles = [f"Layer {layer}" for layer in layers]
    titles += [""] * (rows * columns - len(layers))
    drawing, axes = plotting.canvas(4.1 * rows, rows=rows, columns=columns, titles=titles)
    for ax in axes[len(layers) :]:
        ax.set_axis_off()
    for ax, layer in zip(axes, layers, strict=False):
        lift = metrics["lift"].sel(layer=layer).transpose("expert", "other").values
        order = _clustered(lift)
        adjusted = metrics["adjusted_p"].sel(layer=layer).transpose("expert", "other").values
        plotting.matrix(
            ax,
            lift[np.ix_(order, order)],
            order,
            order,
            kind="ratio",
            label="lift",
            limits=(1 / 8, 8),
            uncertain=(~(adjusted <= 1 - metrics.attrs["confidence"]))[np.ix_(order, order)],
            y_label="Experts, clustered",
            x_label="Experts, clustered",
        )
    shares = [100 * over_layers(metrics, name)[0] for name in ("share_above", "share_below")]
    return Figure(
        name="lift_matrices",
        title="Lift of every pair, experts in clusters",
        alt=f"Symmetric matrices of lift, one per layer; on average over layers {shares[0]:.0f} % of the pairs are "
        f"significantly above 1 and {shares[1]:.0f} % below.",
        caption=f"Lift of every pair of experts, all datasets pooled, in the order of a hierarchical clustering; "
        f"hatched in one direction: not significant at a false discovery rate of {_level(metrics)}; crossed: the "
        "diagonal, and pairs that are never expected. The picture and the CSV, which has every expert's place, are of "
        f"at most four layers; the netCDF file has all. {size_text(metrics)}.",
        how_to_read="Squares of the colour of high lift along the diagonal are groups of experts that work together. "
        "The axes name the experts; the order of one layer says nothing about another.",
        drawing=drawing,
        explores="lift",
        data=_pair_table(
            metrics.sel(layer=layers), ["lift", "lift_low", "lift_high", "adjusted_p", "normalised_pmi", "phi"]
        ),
    )


def _clustered(lift: np.ndarray) -> np.ndarray:
    """Experts in the order of a clustering by log lift (expert, other), where three doublings are as far as it goes."""
    with np.errstate(divide="ignore"):
        return clustered_order(np.clip(np.log2(lift) / 3, -1, 1))


def _pair_table(metrics: xr.Dataset, names: list[str]):
    """The symmetric matrices `names` as rows: layer, expert, other (expert < other), and both places when clustered."""
    frame = metrics[names].to_dataframe().reset_index()
    place = {}
    for layer in metrics["layer"].values:
        order = _clustered(metrics["lift"].sel(layer=layer).transpose("expert", "other").values)
        place |= {(layer, expert): position for position, expert in enumerate(order)}
    frame = frame[frame["expert"] < frame["other"]].sort_values(["layer", "expert", "other"], ignore_index=True)
    for column, end in (("place", "expert"), ("other_place", "other")):
        frame[column] = [place[pair] for pair in zip(frame["layer"], frame[end], strict=True)]
    return frame[["layer", "expert", "other", "place", "other_place", *names]]


def _strongest_pairs(metrics: xr.Dataset) -> list[Figure]:
    """The figure of the strongest pairs, or none if no pair is significant."""
    listed = strongest(metrics, PAIRS_LISTED)
    if not len(listed):
        return []
    above, below = listed[listed["lift"] > 1].head(PAIRS_SHOWN), listed[listed["lift"] < 1].tail(PAIRS_SHOWN)
    titles = ["Most often together", "Most rarely together"]
    drawing, axes = plotting.canvas(plotting.height_for(PAIRS_SHOWN), columns=2, titles=titles)
    for ax, rows in zip(axes, (above, below.iloc[::-1]), strict=True):
        labels = [f"layer {row.layer}: {row.expert} and {row.other}" for row in rows.itertuples()]
        line = Series("lift", *(rows[name].values for name in ("lift", "low", "high")))
        if labels:
            plotting.dot_whiskers(ax, labels, [line], x_label="lift", x_limits=(0, None))
        else:
            ax.set_axis_off()
    first, last = listed.iloc[0], listed.iloc[-1]
    return [
        Figure(
            name="strongest_pairs",
            title="The pairs furthest from what loads explain",
            alt=f"Dot plots of lift for at most {PAIRS_SHOWN} pairs each: from {first['lift']:.2f} (layer "
            f"{int(first['layer'])}, experts {int(first['expert'])} and {int(first['other'])}) down to "
            f"{last['lift']:.3f} (layer {int(last['layer'])}, experts {int(last['expert'])} and {int(last['other'])}).",
            caption=f"Significant pairs of largest and of smallest lift, all datasets pooled; "
            f"{counts_text(metrics, JACKKNIFE)} Each interval is that of one pair and does not allow for the choice of "
            f"extreme ones, which look more extreme than they are. The CSV has up to {PAIRS_LISTED} of each kind.",
            how_to_read="A lift of 3: three times as many tokens select both as loads explain. Pairs of different "
            "layers do not correspond: expert numbers have no meaning across layers. Each panel has its own scale.",
            drawing=drawing,
            data=listed,
            names=[_named(row.layer, row.expert, row.other) for row in pd.concat([above, below]).itertuples()],
        )
    ]


def _published_variant(metrics: xr.Dataset) -> Figure:
    top_k, experts = metrics.attrs["top_k"], metrics.sizes["expert"]
    means = np.abs(np.log2(metrics["lift"].where(metrics["lift"] > 0))).mean(["expert", "other"])
    layer = int(metrics["layer"][int(np.argmax(means.fillna(0).values))])
    chosen = metrics.sel(layer=layer)
    order = _clustered(chosen["lift"].transpose("expert", "other").values)
    uniform = (top_k - 1) / (experts - 1)
    panels = {
        "coactivation": ("C(i → j), Eq. 6", uniform, "Any ranks (Eq. 6)"),
        "adjacent_rank": ("adjacent_rank", 2 * uniform / top_k, "Neighbouring ranks only"),
    }
    panels = {name: panels[name] for name in _published(metrics)}
    both = len(panels) == 2
    drawing, axes = plotting.canvas(4.1, columns=len(panels), titles=[title for *_, title in panels.values()])
    for ax, (name, (label, even, _)) in zip(axes, panels.items(), strict=True):
        values = chosen[name].transpose("expert", "other").values[np.ix_(order, order)]
        plotting.matrix(
            ax,
            values,
            order,
            order,
            kind="magnitude",
            label=label,
            nulls={"uniform routing": even},
            y_label="Expert i, clustered",
            x_label="Expert j, clustered",
        )
    largest = float(chosen["coactivation"].max())
    columns = ["coactivation", "coactivation_low", "coactivation_high", *_published(metrics)[1:]]
    return Figure(
        explores=f"coactivation, {layer}",
        name="published_variant",
        title=f"Co-activation as published, layer {layer}",
        alt=f"{'Two matrices' if both else 'A matrix'} of co-activation in layer {layer}: the share of one expert's "
        f"tokens that also select another, at most {largest:.2f} with uniform routing at {uniform:.3f}"
        f"{'; and that at neighbouring ranks only' if both else ''}.",
        caption=f"In the picture{', left' if both else ''}: C(i → j) = N_ij / N_i, Eq. 6 of the OLMoE paper; rows sum "
        f"to k - 1 = {top_k - 1}; {NEIGHBOURING if both else NO_RANKS} Layer "
        f"{layer} has the largest mean |log₂ lift|; the CSV has intervals of C, the netCDF file all layers. "
        f"{size_text(metrics)}.",
        how_to_read="Row i: of the tokens that select expert i, the share that also selects j. Bright columns are busy "
        "experts, which everyone meets: compare with the lift, where loads are taken out.",
        drawing=drawing,
        data=metrics.sel(layer=[layer])[columns]
        .to_dataframe()
        .reset_index()
        .query("expert != other")
        .sort_values(["layer", "expert", "other"], ignore_index=True)[["layer", "expert", "other", *columns]],
    )
