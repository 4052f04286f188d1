"""The page of the chapter token overlap: figures, findings and words."""

import numpy as np
import pandas as pd
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
    estimate,
    held,
    numbers,
    over_layers,
    pooled,
    reference,
    rounded,
    sample_size,
    series,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.token_overlap.measure import table
from gatebook.figures import plotting
from gatebook.figures.matrix import clustered_order
from gatebook.figures.plotting import Panel, Reference
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import spread
from gatebook.measures.uncertainty import POOLED

NULL = "token-independent routing"
TITLES = {"weighted_jaccard": "Weighted Jaccard", "rarefied_jaccard": "Jaccard of rarefied sets"}
MOST_MATRICES = 4
BINS = 60
QUANTILES = (0.1, 0.5, 0.9)


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics, untrained = seen.metrics, seen.untrained
    return [
        _overlap_by_layer(metrics, untrained),
        _clustered(metrics),
        _distribution(metrics, untrained),
        _overlap_by_expert(metrics),
    ]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that so few tokens cannot answer are left out."""
    found = [_finding_overlap(seen, name) for name in TITLES]
    if seen.metrics.sizes["layer"] > 1:
        found.append(_finding_depth(seen))
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """How much vocabulary two experts share, and the two that share most."""
    found = _finding_overlap(seen, "weighted_jaccard")
    if not found.is_known:
        return None
    if found.verdict != "yes":
        return Brief("Nothing shows that experts share less vocabulary than chance.", found.figure)
    text = f"Two experts of a layer share less vocabulary than chance: they overlap by {rounded(vars(found))}"
    chance = rounded((found.null_value, found.null_low, found.null_high))
    text += f"{before(seen, 'mean_weighted_jaccard')}, {chance} under {NULL}."
    overlap = seen.metrics["weighted_jaccard"].transpose("layer", "expert", "other")
    apart = overlap.where(seen.metrics["expert"] < seen.metrics["other"])
    most = apart.isel(apart.fillna(-1).argmax(...))
    layer, *pair = (int(most[dim]) for dim in apart.dims)
    example = f"Of all {int(apart.notnull().sum()):,} pairs experts {pair[0]} and {pair[1]} of layer {layer} share "
    return Brief(text, "clustered_overlap", f"{example}most: {float(most):.2f}.", layer, tuple(pair))


def _finding_overlap(seen: Seen, name: str) -> Finding:
    found = numbers(seen, f"mean_{name}", _null(seen.metrics, name), "overlap_effect")
    word = {"below": "less than", "above": "more than", "around": "about as much as"}[side(found)]
    answer = f"Two experts overlap by {rounded(found)} on average, {word} under {NULL}"
    questions = {
        "weighted_jaccard": "Do experts share less vocabulary than chance?",
        "rarefied_jaccard": "Do they, if it does not count how often they get a token id?",
    }
    return Finding(
        question=questions[name],
        answer=f"{answer}{change(seen, f'mean_{name}')}.",
        verdict=verdict(side(found), yes="below"),
        verdict_text=f"yes means an interval below {NULL}",
        unit="of the vocabulary of both (Jaccard)",
        figure="overlap_by_layer",
        **found,
    )


def _finding_depth(seen: Seen) -> Finding:
    found = held(_rise(seen.metrics), Null("no difference", 0.0), seen.thresholds["overlap_effect"])
    place = side(found)
    first, last = (int(layer) for layer in seen.metrics["layer"].values[[0, -1]])
    words = {"above": "more than", "below": "less than", "around": "about as much as"}
    return Finding(
        question="Do experts share more vocabulary in the last layer than in the first?",
        answer=f"In layer {last} they share {words[place]} in layer {first}.",
        verdict=verdict(place, yes="above"),
        verdict_text="yes means a difference of the weighted Jaccard above 0",
        unit="of the vocabulary of both (Jaccard)",
        figure="overlap_by_layer",
        **found | reference(seen, _rise) | sample_size(seen.metrics),
    )


def _null(metrics: xr.Dataset, name: str) -> Null:
    return Null.of(NULL, metrics, f"mean_{name}")


def _rise(metrics: xr.Dataset) -> tuple[float, float, float]:
    return estimate(metrics["rise_weighted_jaccard"].sel(dataset=POOLED))


def _overlap_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    panels = []
    for name, title in TITLES.items():
        null = _null(metrics, name).reference()
        panels.append(Panel(title, metrics["layer"].values, series(metrics, untrained, f"mean_{name}"), [null]))
    value, bounds = format_estimate(*over_layers(metrics, "mean_weighted_jaccard"))
    null = _null(metrics, "weighted_jaccard").text()
    return Figure(
        name="overlap_by_layer",
        title="How much vocabulary two experts share",
        alt=f"Two line charts over layers; the weighted Jaccard of two experts is {value} on average over pairs and "
        f"layers, {null} under {NULL}.",
        caption=f"Mean over all pairs of experts, input tokens pooled; weighted Jaccard over layers {value} "
        f"{bounds}, {null} under {NULL}; sets rarefied to {metrics.attrs['rarefied_tokens']:,} tokens per expert. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="The dashed line is routing that does not depend on the token: experts would then differ by chance "
        "alone. The further below it, the more each expert has a vocabulary of its own.",
        drawing=plotting.small_multiples(panels, columns=2, share_y=False, y_limits=(0, None), order=ORDER),
        data=table(metrics),
    )


def _clustered(metrics: xr.Dataset) -> Figure:
    layers = spread(metrics["layer"].values, MOST_MATRICES)
    columns = min(2, len(layers))
    rows = -(-len(layers) // columns)
    overlap = metrics["weighted_jaccard"].transpose("layer", "expert", "other")
    orders = {int(layer): clustered_order(overlap.sel(layer=layer).values) for layer in overlap["layer"].values}
    limits = (0, _highest(overlap.sel(layer=layers)))
    null = _null(metrics, "weighted_jaccard")
    by_layer = pooled(null.by_layer()).sel(interval="estimate")
    titles = [f"Layer {layer}" for layer in layers] + [""] * (rows * columns - len(layers))
    drawing, axes = plotting.canvas(0.5 + 3.6 * rows, rows=rows, columns=columns, titles=titles)
    for ax, layer in zip(axes, layers, strict=False):
        order = orders[layer]
        plotting.matrix(
            ax,
            overlap.sel(layer=layer).values[np.ix_(order, order)],
            np.arange(len(order)),
            np.arange(len(order)),
            kind="magnitude",
            label="weighted Jaccard",
            limits=limits,
            nulls={null.name: float(by_layer.sel(layer=layer))},
            x_label="place in clustered order",
            y_label="place in clustered order",
        )
    for ax in axes[len(layers) :]:
        ax.set_axis_off()
    data = metrics[["weighted_jaccard", "null_weighted_jaccard"]].to_dataframe().reset_index()
    data = data[data["expert"] < data["other"]]
    for column in ("expert", "other"):
        places = [
            int(np.flatnonzero(orders[layer] == e)[0]) for layer, e in zip(data["layer"], data[column], strict=True)
        ]
        data[f"place_of_{column}"] = places
    most = data.loc[data["weighted_jaccard"].idxmax()] if data["weighted_jaccard"].notna().any() else None
    pair = (
        f"; the most alike are experts {int(most['expert'])} and {int(most['other'])} of layer {int(most['layer'])} "
        f"with {most['weighted_jaccard']:.2f}"
        if most is not None
        else ""
    )
    return Figure(
        name="clustered_overlap",
        title="Experts with a similar vocabulary, side by side",
        alt=f"Matrices of the weighted Jaccard of all pairs of experts in {len(layers)} layers, in clustered "
        f"order{pair}.",
        caption="Weighted Jaccard of all pairs of experts; experts are in the order of a hierarchical clustering "
        "(average linkage, optimal leaf order) of their own layer. The CSV has all layers, pairs, places in the "
        f"order, and nulls. {size_text(metrics)}.",
        how_to_read="A bright square on the diagonal is a group of experts that get much the same tokens. The diagonal "
        "itself, an expert with itself, is left out. The order has no meaning across layers.",
        drawing=drawing,
        data=data.reset_index(drop=True),
    )


def _distribution(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    layers = metrics["layer"].values
    sources = [metrics] if untrained is None else [metrics, untrained]
    null = _null(metrics, "weighted_jaccard").reference().value
    edges = np.linspace(0, 1.05 * _highest(null, *(source["weighted_jaccard"] for source in sources)), BINS + 1)
    upper = np.triu_indices(metrics.sizes["expert"], 1)

    def counts(source: xr.Dataset) -> np.ndarray:
        matrices = source["weighted_jaccard"].transpose("layer", "expert", "other").values
        return np.array([np.histogram(matrix[upper], edges)[0] for matrix in matrices])

    drawing, (ax,) = plotting.canvas(plotting.height_for(2 * len(layers)))
    plotting.histograms(
        ax,
        edges,
        counts(metrics),
        layers,
        label="pairs of experts",
        outline=("untrained", counts(untrained)) if untrained is not None else None,
        reference=Reference(f"mean under {NULL}", null),
        x_label="weighted Jaccard",
    )
    pairs = metrics["weighted_jaccard"].transpose("expert", "other", "layer").values[upper]
    # By pandas, which does not warn of layers where no pair of experts has tokens.
    quantiles = pd.DataFrame(pairs).quantile(list(QUANTILES)).to_numpy()
    quantiles = xr.DataArray(quantiles, {"quantile": list(QUANTILES), "layer": layers})
    data = quantiles.transpose("layer", "quantile").to_dataframe("weighted_jaccard").reset_index()
    median = format_number(round(float(quantiles.sel(quantile=0.5).mean()), 3))
    return Figure(
        name="overlap_distribution",
        title="Distribution over pairs of experts",
        alt=f"Histograms of the weighted Jaccard over pairs of experts, one per layer; the median is {median} on "
        "average over layers.",
        caption="Pairs of experts by weighted Jaccard; marks: 10 %, 50 % and 90 % quantile, which the CSV has. "
        f"{size_text(metrics)}.",
        how_to_read="A long tail to the right is a few pairs of experts that share much of their vocabulary.",
        drawing=drawing,
        data=data[["layer", "quantile", "weighted_jaccard"]],
    )


def _highest(*arrays: np.ndarray | xr.DataArray) -> float:
    """The end of a scale from 0 for values that may all be 0 or, where experts get no tokens, not available."""
    known = np.concatenate([np.ravel(array) for array in arrays])
    return known[known > 0].max(initial=0) or 1.0


def _overlap_by_expert(metrics: xr.Dataset) -> Figure:
    mean, null = (metrics[name].mean("other").transpose("layer", "expert") for name in _PAIRS)
    ratio = mean / null
    least, most = (format_number(round(float(value), 2)) for value in (ratio.min(), ratio.max()))
    drawing, (ax,) = plotting.canvas(plotting.height_for(mean.sizes["layer"]))
    plotting.layer_expert_matrix(
        ax, ratio.values, mean["layer"].values, mean["expert"].values, kind="ratio", label=f"overlap / {NULL}"
    )
    return Figure(
        name="overlap_by_expert",
        title="How much each expert shares with the others",
        alt=f"Matrix of the mean weighted Jaccard of each expert with the others, relative to {NULL}: from {least} to "
        f"{most}.",
        caption=f"Mean weighted Jaccard of an expert with all others of its layer, relative to {NULL}. "
        f"{size_text(metrics)}.",
        how_to_read="1 is an expert whose tokens are like everybody's; a low value is an expert with a vocabulary of "
        "its own. Columns of different layers do not correspond: expert numbers have no meaning across layers.",
        drawing=drawing,
        data=xr.Dataset({"overlap": mean, "token_independent": null}).to_dataframe().reset_index(),
    )


_PAIRS = ("weighted_jaccard", "null_weighted_jaccard")
