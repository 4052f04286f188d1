"""The page of the chapter similarity: figures, findings and words."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure as Drawing

from gatebook.chapters.base.page import (
    JACKKNIFE,
    ORDER,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    before,
    counts_text,
    degree,
    ends,
    numbers,
    over_layers,
    pooled,
    rounded,
    sample_size,
    series,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.similarity import MEASURES
from gatebook.chapters.similarity.measure import CORRELATIONS, OUTPUTS, PAIRS, SPACES
from gatebook.figures import plotting
from gatebook.figures.explored import Matrices, Matrix
from gatebook.figures.matrix import clustered_order
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import MEAN, spread, table
from gatebook.measures.uncertainty import INTERVAL

WEIGHTS = (
    "matched_weight_cosine", "weight_cosine", "weight_gram", "subspace_overlap", "effective_rank",
    "participation_ratio",
)  # fmt: skip
ROUTER = ("router_cosine", "gained_router_cosine", "router_alignment", "router_space_overlap")
_CLUSTERED = (
    "experts in the order of a hierarchical clustering of each layer by itself, which the axes name; colours end near "
    "the 1 % and 99 % quantiles of the pairs."
)
_BLOCKS = "Clustering makes blocks out of noise, too: compare their brightness with the scale."
IN_TABLES = {
    "mean_removed_cosine": ["mean_removed_cosine", "cka", "matched_weight_cosine"],
    "cka": ["cka", "biased_cka"],
    "router_cosine": ["router_cosine", "gained_router_cosine"],
}
"""The measures in the CSV file of a figure with matrices."""
FIRST = ("mean_removed_cosine", *(name for name in (*OUTPUTS, *PAIRS) if name != "mean_removed_cosine"))
SAMPLED = "sampled tokens"
RANDOM, PERMUTED = "random experts", "permuted tokens"
RANDOM_SPACES, RANDOM_DIRECTIONS = "random spaces", "random directions"
WORDS = {"cka": "CKA", "biased_cka": "biased CKA", "weight_gram": "cosine of WᵀW"}


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics, untrained = seen.metrics, seen.untrained
    return [
        _outputs(metrics, untrained),
        _output_matrices(metrics),
        _cka_matrices(metrics),
        _weights(metrics, untrained),
        _router(metrics, untrained),
        _router_matrices(metrics),
        _spaces(metrics, untrained),
        _angles(metrics, untrained),
        _relations(metrics, untrained),
    ]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that cannot be computed are left out."""
    metrics = seen.metrics
    found = [
        _finding_alike(seen),
        _finding(
            seen,
            "cka",
            _random(metrics, "cka"),
            "cka_effect",
            question="Do experts keep the same tokens near each other more than random experts do?",
            text="Debiased CKA of their outputs is {value}, {place} for random experts",
            figure="outputs_by_layer",
        ),
        _finding(
            seen,
            "matched_weight_cosine",
            _random(metrics, "matched_weight_cosine"),
            "cosine_effect",
            question="Do experts have more similar neurons than random experts?",
            text="With neurons matched, weights have a cosine of {value}, {place} for random experts",
            figure="weights_by_layer",
        ),
        _finding(
            seen,
            "next_overlap",
            _random(metrics, "next_overlap", RANDOM_SPACES),
            "space_effect",
            question="Do experts write where the router of the next layer reads?",
            text="Of their strongest output directions a share of {value} lies in the space of the next router's rows, "
            "{place} for random spaces",
            figure="spaces_by_layer",
        ),
        _finding(
            seen,
            "lift_correlation",
            Null("permuted experts", 0.0),
            "correlation_effect",
            question="Do experts that are selected together give alike outputs?",
            text="Over pairs, lift and similarity of outputs have a rank correlation of {value}, {place} for permuted "
            f"experts (p = {_p_value(metrics, 'lift_correlation')})",
            figure="relations_by_layer",
        ),
    ]
    return [finding for finding in found if np.isfinite(finding.estimate)]


def brief(seen: Seen) -> Brief | None:
    """Whether experts react alike to the same token, and the two that do most."""
    found, name = _finding_alike(seen), "mean_removed_cosine"
    if not found.is_known:
        return None
    if found.verdict != "yes":
        return Brief("Nothing shows that experts of a layer react alike to the same token.", found.figure)
    text = f"Experts of a layer react {degree(found.effect)} alike to the same token: beyond their means, two outputs "
    text += f"have a cosine of {rounded(vars(found))}{before(seen, name)}, "
    text += f"{_permuted(seen.metrics, name).text()} for permuted tokens."
    values = seen.metrics[f"pair_{name}"].transpose("layer", "expert", "other").values
    values = np.where(np.triu(np.ones(values.shape[1:], bool), 1) & np.isfinite(values), values, -np.inf)
    place, *pair = map(int, np.unravel_index(values.argmax(), values.shape))
    layer = int(seen.metrics["layer"].values[place])
    example = f"Of all {int(np.isfinite(values).sum()):,} pairs experts {pair[0]} and {pair[1]} of layer {layer} are "
    return Brief(text, "output_matrices", f"{example}most alike: {values[place, *pair]:.2f}.", layer, tuple(pair))


def explored(seen: Seen) -> Matrices:
    """Every matrix of all layers: over pairs of experts, over experts and router rows, and over pairs of layers."""
    metrics = seen.metrics
    beside = {"co_routed_cosine": {"tokens": metrics["co_routed_tokens"]}}
    found = []
    for name in FIRST:
        found.append(
            Matrix(
                name,
                MEASURES[name].title,
                metrics[f"pair_{name}"],
                nulls=_nulls(metrics, name),
                beside=beside.get(name, {}),
                word=WORDS.get(name, ""),
            )
        )
    alignment = Matrix(
        "alignment",
        "How strongly experts respond to router rows, a(e, j)",
        metrics["alignment"],
        columns="router row",
        nulls={RANDOM_DIRECTIONS: 1.0},
    )
    between = Matrix(
        "router_space_overlap",
        MEASURES["router_space_overlap"].title,
        metrics["layer_overlap"],
        kind="ratio",
        nulls={RANDOM_SPACES: 1.0},
    )
    return Matrices([*found, alignment, between], clustered="mean_removed_cosine", load=metrics.get("selected_share"))


def _finding_alike(seen: Seen) -> Finding:
    return _finding(
        seen,
        "mean_removed_cosine",
        _permuted(seen.metrics, "mean_removed_cosine"),
        "cosine_effect",
        question="Do two experts of a layer react alike to the same token?",
        text="Beyond their means, outputs have a cosine of {value}, {place} for permuted tokens",
        figure="outputs_by_layer",
    )


def _finding(seen: Seen, name: str, null: Null, effect: str, *, question: str, text: str, figure: str) -> Finding:
    """A finding that holds a measure against a null; `text` is its answer with {value} and {place}."""
    found, metrics = numbers(seen, name, null, effect), seen.metrics
    if name in OUTPUTS:
        found |= sample_size(metrics, SAMPLED)
    else:
        found |= {"n": metrics.sizes["layer"] * metrics.sizes["expert"], "n_unit": "experts"}
    words = {"above": "more than", "below": "less than", "around": "not clearly different from that"}
    return Finding(
        question=question,
        answer=f"{text.format(value=rounded(found), place=words[side(found)])}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text=f"yes means an interval above that for {null.name}",
        unit="share" if name == "next_overlap" else "from 0, unlike, to 1, alike",
        figure=figure,
        **found,
    )


def _random(metrics: xr.Dataset, name: str, label: str = RANDOM) -> Null:
    values, mean = (metrics[f"{mean}random_value"].sel(measure=name) for mean in ("", MEAN))
    return Null(label, values, mean)


def _permuted(metrics: xr.Dataset, name: str) -> Null:
    return Null(PERMUTED, metrics["permuted_value"].sel(measure=name))


def _panels(
    metrics: xr.Dataset, untrained: xr.Dataset | None, names: Sequence[str], nulls: Callable[[str], list[Null]]
) -> tuple[Drawing, pd.DataFrame]:
    """One panel for each measure with its nulls, and their data for the CSV."""
    layers, panels, data = metrics["layer"].values, [], []
    for name in names:
        title, units = MEASURES[name].title, MEASURES[name].units
        known = nulls(name)
        lines = [null.reference() for null in known]
        panels.append(Panel(title, layers, series(metrics, untrained, name), lines, "" if units == "1" else units))
        values = [[*line.value, null.numbers()["null_value"]] for line, null in zip(lines, known, strict=True)]
        columns = [null.name.replace(" ", "_") for null in known]
        data.append(table(metrics, [name]).assign(**dict(zip(columns, values, strict=True))))
    drawing = plotting.small_multiples(panels, columns=2 if len(names) == 4 else 3, share_y=False, order=ORDER)
    return drawing, pd.concat(data, ignore_index=True)


def _outputs(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    drawing, data = _panels(
        metrics, untrained, OUTPUTS, lambda name: [_random(metrics, name), _permuted(metrics, name)]
    )
    value, bounds = format_estimate(*over_layers(metrics, "cka"))
    cosine = format_estimate(*over_layers(metrics, "mean_removed_cosine"))
    return Figure(
        name="outputs_by_layer",
        title="Outputs of two experts for the same tokens",
        alt=f"Five small line charts over layers. Debiased CKA is {value} on average, for random experts "
        f"{_random(metrics, 'cka').numbers()['null_value']:.3f}; the cosine without means is {cosine[0]}.",
        caption=f"Means over pairs of experts. Debiased CKA, mean over layers: {value} {bounds}, for random "
        f"experts {_random(metrics, 'cka').text()}; cosine with means removed: {cosine[0]} {cosine[1]}, for permuted "
        f"tokens {_permuted(metrics, 'mean_removed_cosine').text()}. {_sampled(metrics)}",
        how_to_read="The two nulls are grey. What lies above permuted tokens depends on the token; what lies "
        "above random experts is more than any two functions of these tokens have in common. Each panel has its own "
        "scale.",
        drawing=drawing,
        data=data,
    )


def _nulls(metrics: xr.Dataset, name: str) -> dict[str, xr.DataArray]:
    """The nulls of a measure of pairs by their names: (layer,)."""
    nulls = [_random(metrics, name, RANDOM if name not in ROUTER else RANDOM_DIRECTIONS)]
    nulls += [_permuted(metrics, name)] if name in OUTPUTS else []
    return {null.name: pooled(null.by_layer()).sel(interval="estimate") for null in nulls}


def _matrices(metrics: xr.Dataset, name: str, label: str) -> tuple[Drawing, pd.DataFrame]:
    """Matrices of a measure of pairs for at most four layers, experts in clusters by it, and all pairs as rows."""
    layers, experts = spread(metrics["layer"].values, 4), metrics.sizes["expert"]
    rows, columns = -(-len(layers) // 2), min(len(layers), 2)
    titles = [f"Layer {layer}" for layer in layers] + [""] * (rows * columns - len(layers))
    drawing, axes = plotting.canvas(4.1 * rows, rows=rows, columns=columns, titles=titles)
    frames = []
    for ax in axes[len(layers) :]:
        ax.set_axis_off()
    for ax, layer in zip(axes, layers, strict=False):
        values = metrics[f"pair_{name}"].sel(layer=layer).values.astype(np.float64)
        order = clustered_order(values)
        apart = np.where(np.eye(experts, dtype=bool), np.nan, values)
        low, high = (float(f"{end:.1g}") for end in np.nanquantile(apart, (0.01, 0.99)))
        nulls = {null: float(by_layer.sel(layer=layer)) for null, by_layer in _nulls(metrics, name).items()}
        shown = [value for value in nulls.values() if np.isfinite(value)]
        low, high = min([low, *shown]), max([high, *shown])
        plotting.matrix(
            ax,
            apart[np.ix_(order, order)],
            order,
            order,
            kind="magnitude",
            label=label,
            limits=(low, high if high > low else low + 0.01),
            nulls=nulls,
            y_label="Experts, clustered",
            x_label="Experts, clustered",
        )
        one, other = np.triu_indices(experts, 1)
        place = np.argsort(order)
        places = {"place": place[one], "other_place": place[other]}
        pairs = {name: metrics[f"pair_{name}"].sel(layer=layer).values[one, other] for name in IN_TABLES[name]}
        frames.append(pd.DataFrame({"layer": layer, "expert": one, "other": other} | places | pairs))
    return drawing, pd.concat(frames, ignore_index=True)


def _most_alike(data: pd.DataFrame, name: str) -> str:
    """The pair of the largest value, as the end of a sentence; "" if there is none."""
    if not data[name].notna().any():
        return ""
    best = data.loc[data[name].idxmax()]
    pair = f"{int(best['expert'])} and {int(best['other'])} in layer {int(best['layer'])}"
    return f"; the most similar pair is {pair}, at {best[name]:.2f}"


def _output_matrices(metrics: xr.Dataset) -> Figure:
    drawing, data = _matrices(metrics, "mean_removed_cosine", "cosine of outputs, means removed")
    layers = data["layer"].nunique()
    return Figure(
        name="output_matrices",
        title="Outputs of every pair, experts in clusters",
        alt=f"Matrices of the cosine between the outputs of every pair of experts, means removed, for {layers} "
        f"layers{_most_alike(data, 'mean_removed_cosine')}.",
        caption=f"Cosine of outputs with means removed, {_CLUSTERED} {_sampled(metrics, intervals=False)} "
        "The CSV has CKA and matched weights beside it.",
        how_to_read=f"A bright block is a group of experts that react alike to the same tokens. {_BLOCKS}",
        drawing=drawing,
        data=data,
        explores="mean_removed_cosine",
    )


def _cka_matrices(metrics: xr.Dataset) -> Figure:
    drawing, data = _matrices(metrics, "cka", "debiased CKA of outputs")
    null = _random(metrics, "cka")
    return Figure(
        name="cka_matrices",
        title="CKA of every pair, experts in clusters",
        alt=f"Matrices of the debiased CKA between the outputs of every pair of experts for {data['layer'].nunique()} "
        f"layers{_most_alike(data, 'cka')}; for random experts {null.text()} on average.",
        caption=f"Debiased linear CKA of outputs, {_CLUSTERED} For random experts it is {null.text()}, mean over "
        f"layers. {_sampled(metrics, intervals=False)}",
        how_to_read="A bright block is a group of experts that keep the same tokens near each other, whatever the "
        f"direction of their outputs. {_BLOCKS}",
        drawing=drawing,
        data=data,
        explores="cka",
    )


def _router_matrices(metrics: xr.Dataset) -> Figure:
    drawing, data = _matrices(metrics, "router_cosine", "cosine of router rows")
    return Figure(
        name="router_matrices",
        title="Router rows of every pair, experts in clusters",
        alt=f"Matrices of the cosine between the router rows of every pair of experts for {data['layer'].nunique()} "
        f"layers{_most_alike(data, 'router_cosine')}; 0 on average for random rows.",
        caption=f"Cosine of router rows, {_CLUSTERED} It is 0 on average for random rows. "
        f"n = {metrics.sizes['expert']} experts in each layer.",
        how_to_read="A bright block is a group of experts that the router tends to select for the same tokens; dark "
        f"pairs it sets against each other. {_BLOCKS}",
        drawing=drawing,
        data=data,
        explores="router_cosine",
    )


def _weights(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    drawing, data = _panels(metrics, untrained, WEIGHTS, lambda name: [_random(metrics, name)])
    value, bounds = format_estimate(*over_layers(metrics, "matched_weight_cosine"))
    null = _random(metrics, "matched_weight_cosine")
    pairs = (int(metrics["pair_matched_weight_cosine"][0].notnull().sum()) - metrics.sizes["expert"]) // 2
    return Figure(
        name="weights_by_layer",
        title="Weights of the experts",
        alt=f"Six small line charts over layers. With neurons matched the cosine of two experts' weights is {value} on "
        f"average, for random experts {null.text()}.",
        caption=f"Means over pairs, in the last two panels over experts; neurons are matched for {pairs} pairs of a "
        f"layer: {value} {bounds}, mean over layers, for random experts {null.text()}. {_experts(metrics)}",
        how_to_read="Dashed: Gaussian experts of the same shapes and scales. Without matching, copies whose neurons "
        "are in another order look unrelated.",
        drawing=drawing,
        data=data,
    )


def _router(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    drawing, data = _panels(metrics, untrained, ROUTER, lambda name: [_random(metrics, name, RANDOM_DIRECTIONS)])
    value, bounds = format_estimate(*over_layers(metrics, "router_alignment"))
    return Figure(
        name="router_by_layer",
        title="The router's rows",
        alt=f"Small line charts over layers. An expert responds more to its own router row than to {value} of the "
        "other rows on average; by chance 0.5.",
        caption=f"Cosines: means over pairs. An expert responds more to its own row than to a share of {value} "
        f"{bounds} of the others, mean over layers. {_experts(metrics)}",
        how_to_read="Dashed: random directions. Rows with a positive mean cosine share a direction: it moves all "
        "logits alike and decides nothing. A layer whose routers read what the routers of other layers read has a "
        "value above 1 in the last panel.",
        drawing=drawing,
        data=data,
    )


def _known_spaces(metrics: xr.Dataset) -> list[str]:
    """Without the next router's, where no layer of the study has a next one."""
    return [name for name in SPACES if np.isfinite(over_layers(metrics, name)[0])]


def _spaces(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    known, chance = _known_spaces(metrics), format_number(metrics.attrs["router_share"])
    nulls = {name: _random(metrics, name, RANDOM_SPACES) for name in known}
    drawing, data = _panels(metrics, untrained, known, lambda name: [nulls[name]])
    means = {name: format_estimate(*over_layers(metrics, name)) for name in known}
    return Figure(
        name="spaces_by_layer",
        title="What experts read and write, and what routers read",
        alt="Small line charts over layers of shares: "
        + "; ".join(f"{_title(name)}, {means[name][0]} on average" for name in known)
        + f"; by chance {chance}.",
        caption=f"Share of the {metrics.sizes['spanned']} strongest directions of an expert in the space of a "
        "router's rows, mean over experts. Means over layers: "
        + "; ".join(f"{_title(name)}, {' '.join(means[name])} (random spaces {nulls[name].text()})" for name in known)
        + f"; expected by chance {chance}. {_experts(metrics)}",
        how_to_read="Dashed: random spaces of the same dimensions. 1: all of these directions are among those that the "
        "router reads. The last layer has no next router.",
        drawing=drawing,
        data=data.assign(expected=metrics.attrs["router_share"]),
    )


def _angles(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    number, panels, frames, smallest = np.arange(1, metrics.sizes["spanned"] + 1), [], [], []
    sources = {"trained": metrics} | ({"untrained": untrained} if untrained is not None else {})
    for name in _known_spaces(metrics):
        lines = [Series(label, *ends(source["router_angle"].sel(space=name))) for label, source in sources.items()]
        random = Reference(RANDOM_SPACES, *ends(metrics["random_router_angle"].sel(space=name)))
        panels.append(Panel(MEASURES[name].title, number, lines, [random], "degrees"))
        values = dict(zip(INTERVAL, ends(metrics["router_angle"].sel(space=name)), strict=True))
        frames.append(pd.DataFrame({"space": name, "angle": number} | values | {"random_spaces": random.value}))
        first, by_chance = (format_number(float(each[0])) for each in (values["estimate"], random.value))
        smallest.append(f"{_title(name)}, {first} degrees (random spaces {by_chance})")
    return Figure(
        name="space_angles",
        title="Principal angles between experts and routers",
        alt=f"Small line charts of principal angles. The smallest: {'; '.join(smallest)}.",
        caption="Principal angles between the spaces of the figure before, the smallest first, means over experts and "
        f"layers. The smallest: {'; '.join(smallest)}. {_experts(metrics)}",
        how_to_read="0 degrees: a direction that both have; 90: none that one shares with the other. Few small angles "
        "below the dashed line are few shared directions; a whole curve below it is a shared space.",
        drawing=plotting.small_multiples(panels, x_label="Number of the angle", order=ORDER),
        data=pd.concat(frames, ignore_index=True),
    )


def _title(name: str) -> str:
    """The title of a measure within a sentence."""
    return MEASURES[name].title[0].lower() + MEASURES[name].title[1:]


def _relations(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    drawing, data = _panels(metrics, untrained, CORRELATIONS, lambda name: [_random(metrics, name, "permuted experts")])
    data["p"] = np.concatenate(
        [[*metrics[f"p_{name}"].values, metrics[f"{MEAN}p_{name}"].item()] for name in CORRELATIONS]
    )
    (lift, bounds), (overlap, overlap_bounds) = (format_estimate(*over_layers(metrics, each)) for each in CORRELATIONS)
    small = [_p_value(metrics, name) for name in CORRELATIONS]
    return Figure(
        name="relations_by_layer",
        title="Similar outputs, shared tokens, joint selection",
        alt=f"Two small line charts over layers of rank correlations over pairs: similarity of outputs with lift "
        f"{lift}, with token overlap {overlap} on average.",
        caption=f"Spearman correlation over pairs of experts, mean over layers: with lift {lift} {bounds} (p = "
        f"{small[0]}), with the weighted Jaccard of their tokens {overlap} {overlap_bounds} (p = {small[1]}; "
        f"{metrics.attrs['permutations']:,} permutations of experts). {_experts(metrics)}",
        how_to_read="Above 0: experts that are selected together, or get the same tokens, react alike. A correlation "
        "does not say which comes first. Pairs share experts, so the p-values come from permuted experts, not pairs.",
        drawing=drawing,
        data=data,
    )


def _p_value(metrics: xr.Dataset, name: str) -> str:
    return format_number(float(f"{metrics[f'mean_over_layers_p_{name}'].item():.2g}"))


def _sampled(metrics: xr.Dataset, intervals: bool = True) -> str:
    return counts_text(metrics, JACKKNIFE, SAMPLED) if intervals else f"{size_text(metrics, SAMPLED)}."


def _experts(metrics: xr.Dataset) -> str:
    confidence = f"{100 * metrics.attrs['confidence']:g} %"
    return f"n = {metrics.sizes['expert']} experts in each layer; intervals: {confidence} jackknife over experts."
