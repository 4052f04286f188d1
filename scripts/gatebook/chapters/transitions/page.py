"""The page of the chapter transitions: figures, findings and words."""

import numpy as np
import pandas as pd
import scipy.special
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
    checkpoints,
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
from gatebook.chapters.transitions import BOTH, CLASSES, FEWEST, MEASURES, TOKEN
from gatebook.chapters.transitions.flows import Flows, flows, orders
from gatebook.figures import plotting
from gatebook.figures.explored import Ribbons, Step
from gatebook.figures.flow import MOST_BARS, OTHERS
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.ribbons import ribbons
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import spread, table
from gatebook.measures.uncertainty import POOLED

IDS = "token ids alone"
NOTHING = Null("nothing added", 0.0)
PARTS = ("token id", "dataset", "the rest")
LIFT_LIMITS = (1 / 4, 4)
MOST_FLOWS, MOST_MATRICES = 3, 4
"""Pairs of layers that have a picture."""


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics, untrained = seen.metrics, seen.untrained
    found = [_parts_by_layer(metrics, untrained), _shares_by_layer(metrics, untrained)]
    found.append(_predictions_by_layer(metrics, untrained))
    return [*found, _lift_matrices(metrics), *_flow_figures(metrics)] if _has_pairs(metrics) else found


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; what so few tokens or layers cannot answer is left out."""
    found = [_finding_share(seen), _finding_information(seen), _finding_prediction(seen), _finding_number(seen)]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """What the layer before adds to the token id, and the flow that is most surely more than token ids give."""
    found = _finding_share(seen)
    if not found.is_known:
        return None
    if found.verdict != "yes":
        return Brief("Nothing shows that the layer before says more about a token's experts than its id.", found.figure)
    text = f"A token's choice in the layer before explains {percent(vars(found))} of its experts beyond what its id "
    text += f"explains{before(seen, 'share_added', hundredfold, ' %')}."
    value, low, high = _widened(seen.metrics)
    if not (low > 1).any():
        return Brief(text, found.figure)
    place = np.unravel_index(np.nanargmax(low), low.shape)
    layer, first = (int(seen.metrics[name].values[place[0]]) for name in ("layer", "before"))
    times = rounded([float(part[place]) for part in (value, low, high)])
    example = (
        f"From layer {first} expert {place[1]} to layer {layer} expert {place[2]} go {times} times as many tokens as "
    )
    return Brief(text, "lift_matrices", f"{example}token ids alone give.", layer, (int(place[2]),))


def _widened(metrics: xr.Dataset) -> list[np.ndarray]:
    """The lift of all flows, (layer, expert, other), and the interval that holds for all at once (Bonferroni)."""
    value, high = (np.sqrt(metrics["lift"].sel(interval=end).values) for end in ("estimate", "high"))
    tail, degrees = (1 - metrics.attrs["confidence"]) / 2, metrics.attrs["groups"] - 1
    wider = scipy.special.stdtrit(degrees, tail / max(np.isfinite(high).sum(), 1)) / scipy.special.stdtrit(
        degrees, tail
    )
    half = wider * (high - value)
    return [value**2, np.maximum(value - half, 0) ** 2, (value + half) ** 2]


def explored(seen: Seen) -> Ribbons | None:
    """The flows between all adjacent layers; None without a second layer."""
    if not _has_pairs(seen.metrics):
        return None
    found = flows(seen.metrics)
    return Ribbons(
        [found[0].layers[0], *(one.layers[1] for one in found)],
        [found[0].rows, *(one.columns for one in found)],
        [Step(one.tokens, one.lift, one.low, one.high) for one in found],
        LIFT_LIMITS,
        IDS,
    )


def _has_pairs(metrics: xr.Dataset) -> bool:
    """Whether there are two layers, and tokens that go from one to the other."""
    return bool((metrics["flow"] > 0).any())


def _of(seen: Seen | xr.Dataset | None, name: str):
    """What was seen, or metrics, of one class."""
    return None if seen is None else seen.sel(**{"class": name})


def _finding_share(seen: Seen) -> Finding:
    found = numbers(seen, "share_added", NOTHING, "share_effect")
    of_id, of_both = (percent(over_layers(_of(seen.metrics, name), "share_explained")) for name in (TOKEN, BOTH))
    return Finding(
        question="Does the layer before say more about a token's experts than its id?",
        answer=f"The id explains {of_id} of them, and with the first choice in the layer before {of_both}"
        f"{change(seen, 'share_added')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0, on the same tokens",
        unit="of the variance of routing",
        figure="shares_by_layer",
        **found,
    )


def _finding_information(seen: Seen) -> Finding:
    found = numbers(seen, "information_beyond_ids", Null(IDS, 0.0), "information_effect")
    whole, of_ids, most = (
        rounded(over_layers(seen.metrics, name))
        for name in ("mutual_information", "information_of_ids", "next_entropy")
    )
    return Finding(
        question="Do tokens flow from layer to layer in broader streams than their ids give?",
        answer=f"A first choice gives {whole} of {most} bits about the next one; token ids alone would give {of_ids}"
        f"{change(seen, 'information_beyond_ids')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text=f"yes means more bits than {IDS} give",
        unit="bits",
        figure="predictions_by_layer",
        **found,
    )


def _finding_prediction(seen: Seen) -> Finding:
    found = numbers(seen, "accuracy_gained", NOTHING, "accuracy_effect")
    right, most = (percent(over_layers(seen.metrics, name)) for name in ("next_accuracy", "majority_accuracy"))
    return Finding(
        question="Can the next first choice be told from the one before?",
        answer=f"For {right} of tokens in other text, against {most} by its frequency alone"
        f"{change(seen, 'accuracy_gained')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than by the frequency of the next choice",
        unit="of the tokens",
        figure="predictions_by_layer",
        **found,
    )


def _finding_number(seen: Seen) -> Finding:
    found = numbers(seen, "same_number", _random_numbers(seen.metrics), "correlation_effect")
    return Finding(
        question="Do experts of the same number in adjacent layers have the same tokens?",
        answer=f"The correlation of their selections, less that of any two experts, is {rounded(found)}; numbers given "
        f"at random would give up to {format_number(round(found['null_high'], 3))}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than numbers given at random do; otherwise a line that joins equal numbers shows "
        "nothing",
        unit="correlation",
        figure="predictions_by_layer",
        **found | {"training": ""},
    )


def _random_numbers(metrics: xr.Dataset) -> Null:
    return Null.of("numbers given at random", metrics, "same_number")


def _series(metrics: xr.Dataset, untrained: xr.Dataset | None, name: str, **where) -> list[Series]:
    """A pooled measure over layers of both checkpoints."""
    found = []
    for label, source in checkpoints(metrics, untrained).items():
        values = source[name].sel(where)
        found.append(Series(label, *ends(values.sel(dataset=POOLED) if "dataset" in values.dims else values)))
    return found


def _pair_name(metrics: xr.Dataset, layer: int) -> str:
    return f"layer {int(metrics['before'].sel(layer=layer))} → {layer}"


def _parts_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    names = ("information_of_ids", "information_of_ids_and_datasets", "mutual_information")
    rows, steps, values = [], [], []
    for label, source in checkpoints(metrics, untrained).items():
        for layer in source["layer"].values.tolist():
            reached = [float(source[name].sel(layer=layer, interval="estimate")) for name in names]
            rows.append(_pair_name(metrics, layer) + (f", {label}" if untrained is not None else ""))
            steps.append(np.diff([0, *np.maximum.accumulate(np.maximum(reached, 0))]))
            values.append((label, layer, *reached, float(source["next_entropy"].sel(layer=layer, interval="estimate"))))
    drawing, (ax,) = plotting.canvas(plotting.height_for(1.6 * len(rows)))
    plotting.stacked_bars(
        ax, rows, dict(zip(PARTS, np.array(steps).T, strict=True)), x_label="bits", x_limits=(0, None)
    )
    whole, of_ids = (rounded(over_layers(metrics, name)) for name in ("mutual_information", "information_of_ids"))
    known = "" if whole == "not available" else f"; on average {whole} bits, of which the token id alone gives {of_ids}"
    covered = 100 * metrics.attrs["covered"]
    return Figure(
        name="parts_by_layer",
        title="What a first choice says about the next one",
        alt=f"Bars for each two adjacent layers of the information, in bits, that the first choice in one gives about "
        f"that in the next, in the parts that the token id, the dataset and neither give{known}.",
        caption="Mutual information of first choices in two adjacent layers, and the parts of it that token ids "
        f"alone, and token ids and datasets, give; of the {covered:.0f} % of tokens whose id occurs in another group "
        f"of clusters of the dataset. {size_text(metrics)}; the next figures have intervals.",
        how_to_read="The first part is there in any model whose layers know the token, whatever else they do. The rest "
        "is context that both layers use. All of the bits there are to know stand in the CSV as next_entropy.",
        drawing=drawing,
        data=pd.DataFrame(values, columns=["checkpoint", "layer", *names, "next_entropy"]),
    )


def _shares_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    layers, label = metrics["layer"].values, "share explained"
    panels = [
        Panel(
            name[0].upper() + name[1:],
            layers,
            _series(metrics, untrained, "share_explained", **{"class": name}),
            [Reference("nothing explained", 0.0)],
            label,
        )
        for name in CLASSES
    ]
    added = _series(metrics, untrained, "share_added")
    panels.append(
        Panel("Added by the first choice before", layers, added, [Reference("nothing explained", 0.0)], label)
    )
    value, bounds = format_estimate(*over_layers(metrics, "share_added"))
    common = 100 * float(metrics["common_tokens"].sel(dataset=POOLED).mean())
    tokens = "" if np.isnan(common) else f"; of the {common:.0f} % of tokens that have a partner in all classes"
    known = "" if np.isnan(common) else f"; the first choice before adds {value} to the token id on average"
    return Figure(
        name="shares_by_layer",
        title="What the next set of experts owes to the layer before",
        alt=f"Line charts over layers of the share of a layer's sets of experts that the first choice in the layer "
        f"before, the token id, and both explain{known}.",
        caption=f"Share of which experts a layer selects that is explained by the first choice in the layer before, by "
        f"the token id, and by both{tokens}; mean over datasets. The first choice adds {value} {bounds} to the id. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="A layer has the place of the later one of two. All panels are of the same tokens, which are the "
        "more repetitive ones. What the last one shows is context that both layers use.",
        drawing=plotting.small_multiples(panels, columns=2, share_y=True, y_limits=(None, None), order=ORDER),
        data=table(metrics, ["share_explained", "share_added"]),
    )


def _predictions_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    layers = metrics["layer"].values
    nothing = Reference("nothing", 0.0)
    chosen = (
        ("information_beyond_ids", "Information beyond token ids", "bits", [nothing]),
        ("next_accuracy", "Next first choices told", "share of tokens", []),
        ("accuracy_gained", "Told beyond their frequency", "share of tokens", [nothing]),
        ("same_number", "Experts of the same number", "correlation", [_random_numbers(metrics).reference()]),
    )
    panels = [
        Panel(title, layers, _series(metrics, untrained, name), references, label)
        for name, title, label, references in chosen
    ]
    means = {name: format_estimate(*over_layers(metrics, name)) for name, *_ in chosen}
    told, most = (rounded(over_layers(metrics, name), hundredfold) for name in ("next_accuracy", "majority_accuracy"))
    gained, number = means["accuracy_gained"], means["same_number"]
    correlation = np.abs(metrics["selection_correlation"].values)
    known = np.isfinite(correlation).any()
    most_alike = f"; the strongest of all pairs {np.nanmax(correlation):.2f}" if known else ""
    logits = metrics["logit_correlation"].values
    if np.isfinite(logits).any():
        same = np.nanmean(np.diagonal(logits, axis1=1, axis2=2))
        most_alike += f"; of their logits {same:.2f} at equal numbers and at most {np.nanmax(np.abs(logits)):.2f}"
    says = (
        f"on average {told} % of them against {most} % by their frequency alone"
        if known
        else "of which nothing is known"
    )
    return Figure(
        name="predictions_by_layer",
        title="What can be told of the next layer",
        alt=f"Line charts over layers of how far the first choice in one layer tells that in the next, {says}, and of "
        "the correlation of experts of the same number.",
        caption=f"Information beyond token ids; share of next first choices that are told from the one before in text "
        f"not counted for it, and by how much that is more than by their frequency, {' '.join(gained)}; correlation of "
        f"the selections of experts of equal number, less that of any two, {' '.join(number)}{most_alike}. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="Experts have numbers at random, so those of equal number have nothing to do with each other: a "
        "figure that follows an expert number through the layers shows noise.",
        drawing=plotting.small_multiples(panels, columns=2, share_y=False, y_limits=(None, None), order=ORDER),
        data=table(metrics, [name for name in MEASURES if name not in ("share_explained", "share_added")]),
    )


def _lift_matrices(metrics: xr.Dataset) -> Figure:
    order = orders(metrics)
    numbers = metrics["layer"].values.tolist()
    layers = spread(metrics["layer"].values, MOST_MATRICES)
    columns = min(len(layers), 2)
    rows = -(-len(layers) // columns)
    titles = [_pair_name(metrics, layer).capitalize() for layer in layers] + [""] * (rows * columns - len(layers))
    drawing, axes = plotting.canvas(4.1 * rows, rows=rows, columns=columns, titles=titles)
    for ax in axes[len(layers) :]:
        ax.set_axis_off()
    for ax, layer in zip(axes, layers, strict=False):
        one, other = order[numbers.index(layer) :][:2]
        lift = metrics["lift"].sel(layer=layer).transpose("interval", "expert", "other").values[:, one][:, :, other]
        plotting.matrix(
            ax,
            lift[0],
            one,
            other,
            kind="ratio",
            label="lift over token ids",
            limits=LIFT_LIMITS,
            nulls={IDS: 1.0},
            uncertain=(lift[1] <= 1) & (lift[2] >= 1),
            y_label="Experts of the layer before",
            x_label="Experts of the layer",
        )
    low, high = (metrics["lift"].sel(interval=end) for end in ("low", "high"))
    known = metrics["lift"].sel(interval="estimate")
    counts = f"{int((low > 1).sum()):,} lie above 1 and {int((high < 1).sum()):,} below, by their intervals"
    mine = metrics.sel(layer=layers)
    data = mine["lift"].to_dataset("interval").assign(mine[["flow", "expected"]]).to_dataframe().reset_index()
    return Figure(
        name="lift_matrices",
        title="Flows beyond token ids",
        alt=f"Matrices for pairs of adjacent layers of how many times as many tokens go from one expert to another as "
        f"token ids alone give; of {int(known.count()):,} flows {counts}.",
        caption=f"Tokens that have one first choice in a layer and another one in the next, by those that {IDS} give; "
        f"of {int(known.count()):,} flows with at least {FEWEST} expected tokens {counts}. Hatched: the interval "
        f"holds 1. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="Rows and columns stand in an order that brings strong flows to the diagonal, the same for a layer "
        "in both matrices that it is in. With token ids alone every cell would be 1. Intervals are of single cells: "
        "one in twenty misses by chance. The netCDF file has all layers.",
        drawing=drawing,
        data=data,
    )


def _flow_figures(metrics: xr.Dataset) -> list[Figure]:
    every = flows(metrics)
    chosen = spread(np.arange(len(every)), MOST_FLOWS)
    return [_flow_figure(metrics, every[index], place) for place, index in enumerate(chosen)]


def _bar_names(bars: list[int]) -> list[str]:
    return ["others" if one == OTHERS else str(one) for one in bars]


def _flow_figure(metrics: xr.Dataset, flow: Flows, place: int) -> Figure:
    one, other = flow.layers
    drawing, (ax,) = plotting.canvas(5.4)
    lift = flow.lift.copy()
    apart = [np.array(bars) == OTHERS for bars in (flow.rows, flow.columns)]
    lift[apart[0]] = np.nan
    lift[:, apart[1]] = np.nan
    names = [_bar_names(bars) for bars in (flow.rows, flow.columns)]
    titles = (f"Layer {one}", f"Layer {other}")
    ribbons(ax, *names, flow.tokens, lift, titles=titles, label="lift over token ids", null=IDS, limits=LIFT_LIMITS)
    named = np.where(apart[0][:, None] | apart[1], 0, flow.tokens)
    row, column = np.unravel_index(named.argmax(), named.shape)
    largest = f"from expert {names[0][row]} to {names[1][column]}" if named.any() else "between the others"
    share = format_number(round(100 * named.max() / flow.tokens.sum(), 1))
    parts = {"tokens": flow.tokens, "expected": flow.expected, "lift": flow.lift, "low": flow.low, "high": flow.high}
    pairs = [np.repeat(names[0], len(names[1])), np.tile(names[1], len(names[0]))]
    data = pd.DataFrame(dict(zip(("from", "to"), pairs, strict=True)) | {k: v.ravel() for k, v in parts.items()})
    data.insert(0, "layer", other)
    few = metrics.sizes["expert"] <= MOST_BARS
    experts = "all experts" if few else f"the {MOST_BARS} busiest experts, and all others,"
    return Figure(
        name=f"flow_{one}_to_{other}",
        title=f"Where the tokens of layer {one} go in layer {other}",
        alt=f"Bars for {experts} in layers {one} and {other}, with ribbons between them; the largest, {largest}, "
        f"holds {share} % of the tokens.",
        caption=f"First choices of {int(flow.tokens.sum()):,} tokens: {experts} in layers {one} and {other}. Colour: "
        f"tokens by those that {IDS} give. The largest flow, {largest}, holds {share} % of the tokens. "
        f"{size_text(metrics)}; the CSV has all rows.",
        how_to_read="A broad ribbon may be nothing but the id: what is more than ids give has colour.",
        drawing=drawing,
        data=data,
        explores=f"{one}" if not place else "",
    )
