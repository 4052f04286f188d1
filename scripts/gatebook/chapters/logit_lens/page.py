"""The page of the chapter logit lens: figures, findings and words."""

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.base.page import (
    ORDER,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    change,
    checkpoints,
    counts_text,
    ends,
    estimate,
    exceptions,
    held,
    numbers,
    over_layers,
    percent,
    pooled,
    reference,
    rounded,
    sample_size,
    series,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.logit_lens import BY_PLACE, CONTROL, LAYER, MATCHED, OWN, SIDES, TRANSLATED
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Series
from gatebook.figures.style import say_no_data
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import interval_table, spread, table
from gatebook.measures.uncertainty import INTERVAL

NOTHING, NO_DIFFERENCE = Null("nothing", 0.0), Null("no difference", 0.0)
PLAIN, TRANSLATION = "trained", "trained, translated"
LINES = [*ORDER, TRANSLATION]
DEALT, OTHERS = "experts dealt out at random", "tokens of other experts"
MOST_PLACES, MOST_LAYERS, MOST_EXPERTS, SHOWN = 12, 4, 12, 4


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics = seen.metrics
    return [
        _loss_by_depth(seen),
        _loss_by_dataset(metrics),
        _reached(seen),
        _added(metrics),
        _attribution_by_expert(metrics),
        _attribution_by_layer(seen),
        _promotion(metrics),
        _promotion_by_layer(seen),
        _directions(seen),
        _removal(metrics),
    ]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that could not be measured are left out."""
    found = [
        _finding_half(seen),
        _finding_attention(seen),
        _finding_translator(seen),
        _finding_attribution(seen),
        _finding_promotion(seen),
        _finding_directions(seen),
        _finding_removal(seen),
    ]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """How deep in the model half of its knowledge can be read, and what the expert that promotes most promotes."""
    metrics = seen.metrics
    half = estimate(pooled(metrics["half_depth"]))
    if not np.isfinite(half).all():
        return None
    text = f"Half of what the model knows of the next token beyond frequencies can be read after {rounded(half)} of "
    text += (
        f"{_layers(metrics)} layers; a layer's attention adds {rounded(over_layers(metrics, 'added_by_attention'))} "
    )
    text += f"and its experts {rounded(over_layers(metrics, 'added_by_experts'))} nats a token on average."
    if not np.isfinite(over_layers(metrics, "added_by_attention")).all():
        text = f"{text.partition(';')[0]}."
    if not (most := _by_promotion(metrics)):
        return Brief(text, "loss_by_depth")
    layer, expert = most[0]
    example = f"In layer {layer}, expert {expert} promotes its own tokens most: {_promoted(metrics, layer, expert)}."
    return Brief(text, "promotion_by_expert", example, layer, (expert,))


# ---------------------------------------------------------------- words


def _layers(metrics: xr.Dataset) -> int:
    """How many layers the model has."""
    return round(float(metrics["place_depth"].values[-1]))


def _reason(metrics: xr.Dataset, written: bool = False) -> str:
    """Why nothing could be read, or nothing of what experts have written, as a sentence; "" if it could."""
    known = [metrics.attrs["not_read"], metrics.attrs["not_written"] if written else ""]
    reason = next(filter(None, known), "").rstrip(".")
    return f"Not measured: {reason}. " if reason else ""


def _by_promotion(metrics: xr.Dataset) -> list[tuple[int, int]]:
    """Layers and experts by their promotion, the largest first; those that are not known are left out."""
    known = (
        metrics["promotion"].sel(interval="estimate").to_series().dropna().sort_values(ascending=False, kind="stable")
    )
    return [(int(layer), int(expert)) for layer, expert in known.index.to_frame()[["layer", "expert"]].to_numpy()]


def _promoted(metrics: xr.Dataset, layer: int, expert: int) -> str:
    """The first tokens that an expert promotes, quoted."""
    texts = dict(zip(metrics["token_id"].values.tolist(), metrics["token_text"].values.tolist(), strict=True))
    tokens = metrics["promoted_token"].sel(layer=layer, expert=expert).values[:SHOWN].tolist()
    return ", ".join(f"“{texts[token]}”" for token in tokens)


def _finite(values: tuple[float, float, float], text: str) -> str:
    return text if np.isfinite(values[0]) else ""


# ---------------------------------------------------------------- findings


def _finding_half(seen: Seen) -> Finding:
    metrics, layers = seen.metrics, _layers(seen.metrics)
    value, middle = estimate(pooled(metrics["half_depth"])), Null("an even gain", _layers(seen.metrics) / 2)
    found = held(value, middle, seen.thresholds["depth_effect"], layers)
    found |= exceptions(side(found), middle, metrics["half_depth"].isel(dataset=slice(1, None)))
    translated = estimate(pooled(metrics["translated_half_depth"]))
    return Finding(
        question="Can half of what the model knows in the end be read before the middle of its layers?",
        answer=f"The head reads half of the gain over token frequencies after {rounded(value)} of {layers} layers, and "
        f"a translator after {rounded(translated)}.",
        verdict=verdict(side(found), yes="below"),
        verdict_text="yes means before the middle layer, where it would be if every layer added as much",
        unit="layers",
        figure="loss_by_depth",
        measure="half_depth",
        **found | sample_size(metrics),
    )


def _finding_attention(seen: Seen) -> Finding:
    found = numbers(seen, "experts_beyond_attention", NO_DIFFERENCE, "loss_effect")
    parts = [rounded(over_layers(seen.metrics, f"added_by_{part}")) for part in ("attention", "experts")]
    return Finding(
        question="Do a layer's experts add more that the head can read than its attention?",
        answer=f"Attention adds {parts[0]} nats a token and experts {parts[1]}, on average over layers.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0",
        unit="nats per token",
        figure="added_by_layer",
        **found,
    )


def _finding_translator(seen: Seen) -> Finding:
    value = estimate(pooled(seen.metrics["mean_translation_gain"]))
    found = held(value, NO_DIFFERENCE, seen.thresholds["loss_effect"])
    by_dataset = seen.metrics["mean_translation_gain"].isel(dataset=slice(1, None))
    found |= exceptions(side(found), NO_DIFFERENCE, by_dataset)
    found |= reference(seen, lambda metrics: estimate(pooled(metrics["mean_translation_gain"])))
    worse = _worse(seen.metrics)
    where = f"it is worse after {', '.join(worse)}" if worse else "it is worse nowhere"
    return Finding(
        question="Do states hold more about the next token than the head reads in them?",
        answer=f"A translator reads {rounded(found)} nats a token more before the end of the last layer; {where}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0",
        unit="nats per token",
        figure="loss_by_depth",
        measure="mean_translation_gain",
        **found | sample_size(seen.metrics),
    )


def _worse(metrics: xr.Dataset) -> list[str]:
    """The places after which a translator reads less, by the interval."""
    high = pooled(metrics["translation_gain"]).sel(interval="high")
    return [str(place) for place in metrics["place"].values[high.values < 0]]


def _finding_attribution(seen: Seen) -> Finding:
    found = numbers(seen, "layer_attribution", NOTHING, "attribution_effect")
    return Finding(
        question="Do experts themselves move the logits towards the true next token?",
        answer=f"Those of a layer together move its logit by {rounded(found)} nats a token"
        f"{change(seen, 'layer_attribution')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means above 0, against the mean of all logits",
        unit="nats per token",
        figure="attribution_by_layer",
        **found,
    )


def _finding_promotion(seen: Seen) -> Finding:
    null = Null.of(DEALT, seen.metrics, "mean_promotion")
    found = numbers(seen, "mean_promotion", null, "attribution_effect", datasets=False)
    return Finding(
        question="Does an expert write for tokens of its own?",
        answer=f"On other text its outputs hold the tokens that it promotes {rounded(found)} nats further above those "
        f"that it suppresses than its layer's do{change(seen, 'mean_promotion')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than after experts are dealt out to slots at random",
        unit="nats",
        figure="promotion_by_layer",
        **found,
    )


def _finding_directions(seen: Seen) -> Finding:
    null = Null.of(OTHERS, seen.metrics, "direction_agreement")
    found = numbers(seen, "direction_agreement", null, "agreement_effect", datasets=False)
    experts = seen.metrics.sizes["layer"] * seen.metrics.sizes["expert"]
    against = percent([null.numbers()[f"null_{part}"] for part in ("value", "low", "high")])
    return Finding(
        question="Can what an expert promotes be read from its weights, without text?",
        answer=f"Its leading output directions name {percent(found)} of the tokens that it promotes or suppresses"
        f"{change(seen, 'direction_agreement')}, and {against} of those of another expert.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than of the tokens of other experts",
        unit="of the tokens",
        figure="direction_agreement",
        **found | {"n": experts, "n_unit": "experts"},
    )


def _finding_removal(seen: Seen) -> Finding:
    found = numbers(seen, "removal_excess", NO_DIFFERENCE, "loss_effect", datasets=False)
    metrics = seen.metrics
    return Finding(
        question="Is what the strongest expert of a layer adds more than its weight?",
        answer=f"Without it the loss changes by {rounded(over_layers(metrics, 'removal'))} nats a token, on average "
        f"over layers. Without its slots that have a match it is {rounded(found)} above that without as many slots of "
        "other experts with the same weights.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than slots of other experts with the same weights in the same windows",
        unit="nats per token",
        figure="removal_by_depth",
        **found
        | {"n": int(metrics["removal_clusters"]), "n_unit": f"clusters, {int(metrics['removal_tokens']):,} tokens"},
    )


# ---------------------------------------------------------------- figures


def _by_place(seen: Seen, plain: str, other: str) -> list[Series]:
    """A measure of places, of both checkpoints, and that of the translator."""
    lines = {PLAIN: (seen.metrics, plain), TRANSLATION: (seen.metrics, other)}
    if seen.untrained is not None:
        lines[ORDER[1]] = seen.untrained, plain
    known = {label: pooled(source[name]) for label, (source, name) in lines.items()}
    places = seen.metrics["place"].values
    return [Series(label, *ends(values.reindex(place=places))) for label, values in known.items()]


def _said(metrics: xr.Dataset, name: str, digits: int = 2) -> str:
    """A measure at every place in words, at most so many of them."""
    values = pooled(metrics[name]).sel(interval="estimate")
    chosen = spread(np.arange(values.sizes["place"]), MOST_PLACES)
    known = [(str(values["place"].values[each]), float(values[each])) for each in chosen]
    return ", ".join(f"{place} {value:.{digits}f}" for place, value in known if np.isfinite(value))


def _loss_by_depth(seen: Seen) -> Figure:
    metrics = seen.metrics
    drawing, (ax,) = plotting.canvas(3.6)
    unigram = Null("unigram model", metrics["unigram_loss"]).reference()
    lines = _by_place(seen, "lens_loss", "translated_loss")
    depth = metrics["place_depth"].values
    plotting.curves(ax, depth, lines, [unigram], x_label="layers before", y_label="loss (nats per token)", order=LINES)
    half = estimate(pooled(metrics["half_depth"]))
    value, bounds = format_estimate(*half)
    names = ["lens_loss", "translated_loss", "translation_gain", "unigram_loss", "half_depth", "translated_half_depth"]
    said = _finite(half, f"Half of the gain over the unigram model is reached after {value} {bounds} layers. ")
    translated = _finite(half, f" Translated: {_said(metrics, 'translated_loss')}.")
    return Figure(
        name="loss_by_depth",
        title="What the head reads in the state, by depth",
        alt=f"Curves of the loss in nats over depth, of the lens, of the translated lens and of the untrained model: "
        f"{_said(metrics, 'lens_loss') or 'not known'}.",
        caption=f"Loss of the next token if the final norm and the head read the state after a part of the model; the "
        f"attention of a layer is half of it. {said}{_plain(metrics)}{translated} {_reason(metrics)}"
        f"{counts_text(metrics)}",
        how_to_read="Where a line is flat, what is added there is not about the next token, or not yet in a direction "
        "that the head reads. The translated line reads in all directions; it is fitted by least squares to the final "
        "states on other clusters, not to the loss, and may lie above the plain one. The unigram model knows how "
        "frequent tokens are in each dataset, from the text of the clusters that are not scored.",
        drawing=drawing,
        data=table(metrics, [*names, "mean_translation_gain"]),
    )


def _plain(metrics: xr.Dataset) -> str:
    said = _said(metrics, "lens_loss")
    return f"The lens reads {said}." if said else ""


def _loss_by_dataset(metrics: xr.Dataset) -> Figure:
    values = metrics["lens_loss"].sel(interval="estimate").isel(dataset=slice(1, None)).transpose("dataset", "place")
    values = values.isel(place=spread(np.arange(values.sizes["place"]), MOST_PLACES))
    drawing, (ax,) = plotting.canvas(plotting.height_for(values.sizes["dataset"]) + 0.4)
    plotting.matrix(
        ax,
        values.values,
        [str(name) for name in values["dataset"].values],
        [str(place) for place in values["place"].values],
        kind="magnitude",
        label="loss (nats per token)",
        annotate=".1f",
        x_label="after",
    )
    half = (
        metrics["half_depth"].sel(interval="estimate").isel(dataset=slice(1, None)).to_series().dropna().sort_values()
    )
    known = [f"{half.index[place]} ({half.iloc[place]:.1f})" for place in (0, -1)] if len(half) else []
    said = f"; half of the gain is reached first in {known[0]} and last in {known[1]} layers" if known else ""
    return Figure(
        name="loss_by_dataset",
        title="What the head reads, by dataset",
        alt=f"Matrix of lens losses, datasets by places{said}.",
        caption=f"Lens loss in nats per token{said}. {_reason(metrics)}{size_text(metrics)}; the CSV has intervals.",
        how_to_read="Read a row from left to right: where it becomes dark early, few layers settle the next token.",
        drawing=drawing,
        data=table(metrics, ["lens_loss", "translated_loss", "unigram_loss", "half_depth", "translated_half_depth"]),
    )


def _reached(seen: Seen) -> Figure:
    metrics, depth = seen.metrics, seen.metrics["place_depth"].values
    drawing, axes = plotting.canvas(5.6, rows=2)
    words = {"lens_divergence": "divergence (nats per token)", "lens_agreement": "tokens with the final choice"}
    for ax, (plain, other), label in zip(
        axes, zip(BY_PLACE[1:], TRANSLATED[1:], strict=True), words.values(), strict=True
    ):
        options = {"x_label": "layers before", "y_label": label, "y_limits": (0, None), "labels": "legend"}
        plotting.curves(ax, depth, _by_place(seen, plain, other), order=LINES, **options)
    said = "; ".join(_said(metrics, name) for name in words)
    return Figure(
        name="reached_by_depth",
        title="How near the final prediction is, by depth",
        alt=f"Curves over depth of the divergence from the final prediction and of the share of tokens whose most "
        f"likely next token is the final one{f': {said}' if said.strip('; ') else ''}.",
        caption=f"KL divergence, in nats, of the model's prediction from what the lens reads, and share of tokens for "
        f"which both hold the same token most likely{f': {said}' if said.strip('; ') else ''}. {_reason(metrics)}"
        f"{counts_text(metrics)}",
        how_to_read="At the end the divergence is 0 and the agreement 1 by definition. A loss that falls while the "
        "agreement does not rise comes of tokens that the model gets right in another way.",
        drawing=drawing,
        data=table(metrics, [*BY_PLACE[1:], *TRANSLATED[1:]]),
    )


def _added(metrics: xr.Dataset) -> Figure:
    names = {"added_by_attention": "attention", "added_by_experts": "experts"}
    drawing, (ax,) = plotting.canvas(3.2)
    lines = [Series(label, *ends(pooled(metrics[name]))) for name, label in names.items()]
    plotting.layer_lines(ax, metrics["layer"].values, lines, [NOTHING.reference()], y_label="nats per token")
    means = [over_layers(metrics, name) for name in names]
    said = ", ".join(
        f"{label} {' '.join(format_estimate(*mean))}" for label, mean in zip(names.values(), means, strict=True)
    )
    said = _finite(means[0], f": {said}") or ". The state after attention is not told from that before it"
    return Figure(
        name="added_by_layer",
        title="What attention and experts add",
        alt=f"Lines over layers of how much the lens loss falls by attention and by experts{said}.",
        caption=f"Fall of the lens loss by the attention of a layer and by its experts, with what stands beside them; "
        f"means over layers{said}. {_reason(metrics)}{counts_text(metrics)}",
        how_to_read="Only what the head can read at once counts here. What experts write for later layers to read does "
        "not, and shows as what these layers add.",
        drawing=drawing,
        data=table(metrics, [*names, "experts_beyond_attention"]),
    )


def _attribution_by_expert(metrics: xr.Dataset) -> Figure:
    values = metrics["attribution"].transpose("layer", "expert", "interval")
    shown, low, high = ends(values)
    known = values.sel(interval="estimate").to_series().dropna().sort_values()
    drawing, (ax,) = plotting.canvas(plotting.height_for(values.sizes["layer"]))
    limits = (min(float(known.iloc[0]), 0.0), max(float(known.iloc[-1]), 1e-6)) if len(known) else None
    with np.errstate(invalid="ignore"):
        holds = (low <= 0) & (high >= 0)
    plotting.layer_expert_matrix(
        ax,
        shown,
        metrics["layer"].values,
        metrics["expert"].values,
        kind="magnitude",
        label="nats at the tokens that select it",
        uncertain=holds,
        limits=limits,
    )
    ends_of = [
        f"layer {known.index[at][0]}, expert {known.index[at][1]} ({known.iloc[at]:.2f})"
        for at in (0, -1)
        if len(known)
    ]
    said = f", from {' to '.join(ends_of)}" if ends_of else ""
    return Figure(
        name="attribution_by_expert",
        title="How directly each expert serves the true next token",
        alt=f"Matrix of direct attributions, layers by experts{said}.",
        caption=f"By how much the output of an expert itself moves the logit of the true next token against the mean "
        f"logit, at the tokens that select it{said}; hatched where the interval holds 0. {_reason(metrics, True)}"
        f"{counts_text(metrics)}",
        how_to_read="The division by the size of the final state is held as it is for each token, so that direct "
        "effects add up. An expert near 0 may still matter through the layers after it.",
        drawing=drawing,
        data=interval_table(values),
        names=[f"layer {known.index[at][0]}, expert {known.index[at][1]}" for at in (0, -1) if len(known)],
    )


def _attribution_by_layer(seen: Seen) -> Figure:
    metrics = seen.metrics
    drawing, axes = plotting.canvas(5.2, rows=2)
    options = {"labels": "legend", "order": ORDER}
    lines = series(metrics, seen.untrained, "layer_attribution")
    layers = metrics["layer"].values
    plotting.layer_lines(axes[0], layers, lines, [NOTHING.reference()], y_label="nats per token", **options)
    null = Null.of(DEALT, metrics, "attribution_spread")
    lines = [
        Series(label, *ends(one["attribution_spread"])) for label, one in checkpoints(metrics, seen.untrained).items()
    ]
    plotting.layer_lines(axes[1], layers, lines, [null.reference()], y_label="spread over experts (nats)", **options)
    means = [over_layers(metrics, name) for name in ("layer_attribution", "attribution_spread")]
    said = [" ".join(format_estimate(*each)) for each in means]
    said = _finite(means[0], f"; means over layers {said[0]} and {said[1]}")
    return Figure(
        name="attribution_by_layer",
        title="How directly the experts of a layer serve the true next token",
        alt=f"Lines over layers of the attribution of all experts of a layer, and of how much they differ{said}.",
        caption=f"Direct attribution of all selected experts of a layer to the true next token, and standard "
        f"deviation of the attribution over its experts, corrected for the noise of the sample{said}. "
        f"{_reason(metrics, True)}{counts_text(metrics)}",
        how_to_read="A spread as large as with experts dealt out means that the experts of a layer serve the next "
        "token alike.",
        drawing=drawing,
        data=table(metrics, ["layer_attribution", "attribution_spread"]),
    )


def _promotion(metrics: xr.Dataset) -> Figure:
    chosen = _by_promotion(metrics)[:MOST_EXPERTS]
    names = [f"layer {layer}, expert {expert}" for layer, expert in chosen]
    values = [metrics["promotion"].sel(layer=layer, expert=expert) for layer, expert in chosen]
    estimates = [np.array([float(each.sel(interval=part)) for each in values]) for part in INTERVAL]
    drawing, (ax,) = plotting.canvas(plotting.height_for(max(len(names), 1)))
    if names:
        options = {"x_label": "promotion (nats)", "x_limits": (0, None)}
        plotting.dot_whiskers(ax, names, [Series("", *estimates)], **options)
    else:
        say_no_data(ax)
    said = "; ".join(
        f"{name} {_promoted(metrics, *place)}" for name, place in list(zip(names, chosen, strict=True))[:SHOWN]
    )
    return Figure(
        name="promotion_by_expert",
        title="What experts promote",
        alt=f"Dots with intervals of the promotion by the experts that promote their own tokens most"
        f"{f': {said}' if said else ''}.",
        caption=f"By how much the outputs of an expert hold the tokens that it promotes above those that it "
        f"suppresses, more than its layer does{f'. What they promote: {said}' if said else ''}. The CSV has all "
        f"experts with their tokens. {_reason(metrics, True)}{counts_text(metrics)}",
        how_to_read="Tokens are chosen on some clusters and their logits taken on others, so that an expert without a "
        "direction of its own is at 0, however many there are to choose the largest from.",
        drawing=drawing,
        data=_promotion_table(metrics),
        names=names,
    )


def _promotion_table(metrics: xr.Dataset) -> pd.DataFrame:
    """The promotion by every expert, with its tokens."""
    rows = interval_table(metrics["promotion"].transpose("layer", "expert", "interval"))
    texts = dict(zip(metrics["token_id"].values.tolist(), metrics["token_text"].values.tolist(), strict=True))
    for kind in ("promoted", "suppressed"):
        tokens = metrics[f"{kind}_token"].transpose("layer", "expert", "token").values.reshape(len(rows), -1)
        rows[kind] = [" ".join(f"“{texts[each]}”" for each in one if each in texts) for one in tokens.tolist()]
    return rows


def _promotion_by_layer(seen: Seen) -> Figure:
    metrics = seen.metrics
    drawing, (ax,) = plotting.canvas(3.2)
    lines = [Series(label, *ends(one["mean_promotion"])) for label, one in checkpoints(metrics, seen.untrained).items()]
    null = Null.of(DEALT, metrics, "mean_promotion")
    plotting.layer_lines(
        ax, metrics["layer"].values, lines, [null.reference()], y_label="promotion (nats)", order=ORDER
    )
    mean = over_layers(metrics, "mean_promotion")
    said = _finite(mean, f": mean over layers {' '.join(format_estimate(*mean))}, {DEALT} {null.text()}")
    return Figure(
        name="promotion_by_layer",
        title="Whether experts write for tokens of their own",
        alt=f"Line over layers of the mean promotion by experts{said}.",
        caption=f"Mean over the experts of a layer of how much their outputs hold their own promoted tokens above "
        f"their suppressed ones, more than the layer's{said}. {_reason(metrics, True)}{counts_text(metrics)}",
        how_to_read="An untrained expert also writes in directions of its own, if inputs are alike. Experts that are "
        "dealt out to the slots of their layer at random have none.",
        drawing=drawing,
        data=table(metrics, ["mean_promotion"], null="mean_promotion"),
    )


def _directions(seen: Seen) -> Figure:
    metrics = seen.metrics
    drawing, (ax,) = plotting.canvas(3.2)
    known = checkpoints(metrics, seen.untrained)
    lines = [Series(label, *ends(one["direction_agreement"])) for label, one in known.items()]
    null = Null.of(OTHERS, metrics, "direction_agreement")
    layers, label = metrics["layer"].values, "share of the tokens"
    plotting.layer_lines(ax, layers, lines, [null.reference()], y_label=label, order=ORDER)
    mean = over_layers(metrics, "direction_agreement")
    said = _finite(mean, f": mean over layers {' '.join(format_estimate(*mean))}, {OTHERS} {null.text()}")
    experts = metrics.sizes["layer"] * metrics.sizes["expert"]
    return Figure(
        name="direction_agreement",
        title="What the weights alone say",
        alt=f"Line over layers of the share of promoted and suppressed tokens that an expert's leading output "
        f"directions read{said}.",
        caption=f"Share of the tokens that an expert promotes or suppresses that are among those at the ends of the "
        f"leading directions of its down projection, read through the final norm's gain and the head{said}. "
        f"{_reason(metrics, True)}n = {experts:,} experts; intervals: {100 * metrics.attrs['confidence']:g} % "
        "bootstrap over experts.",
        how_to_read="The band is what the directions of an expert say of the tokens of other experts of its layer. "
        "Directions tell what an expert can write, not what it writes for the tokens that are sent to it.",
        drawing=drawing,
        data=table(metrics, ["direction_agreement"], null="direction_agreement"),
    )


def _removal(metrics: xr.Dataset) -> Figure:
    panels, here, elsewhere = [], *SIDES
    lines = {
        f"{OWN}, there": (OWN, here),
        f"{OWN}, {elsewhere}": (OWN, elsewhere),
        f"{MATCHED}, there": (MATCHED, here),
        f"{CONTROL}, there": (CONTROL, here),
    }
    depth, experts = metrics["place_depth"].values, metrics["strongest_expert"].values.tolist()
    for layer in spread(metrics["layer"].values, MOST_LAYERS):
        first = metrics["place"].values.tolist().index(LAYER.format(layer)) - 1  # before its experts
        values = metrics["removal_change"].sel(layer=layer).isel(place=slice(first, None))
        shown = [Series(label, *ends(values.sel(removed=removed, side=at))) for label, (removed, at) in lines.items()]
        index = metrics["layer"].values.tolist().index(layer)
        title = f"Layer {layer}, expert {experts[index]}" if experts[index] >= 0 else f"Layer {layer}"
        panels.append(Panel(title, depth[first:], shown, [NOTHING.reference()], "nats per token"))
    drawing = plotting.small_multiples(
        panels, columns=2, panel_height=2.2, x_label="layers before", order=list(lines), draw=plotting.curves
    )
    loss, excess = (over_layers(metrics, name) for name in ("removal", "removal_excess"))
    said = ""
    if np.isfinite(loss[0]):
        kept = metrics["removed_slots"].sel(removed=MATCHED) / metrics["removed_slots"].sel(removed=OWN)
        weight = metrics["removed_weight"].mean("layer")
        mean = {name: format_number(round(float(weight.sel(removed=name)), 3)) for name in (OWN, MATCHED, CONTROL)}
        said = (
            f"In the end, over all tokens and on average over layers, all slots: {' '.join(format_estimate(*loss))}; "
        )
        said += f"matched slots minus those of other experts: {' '.join(format_estimate(*excess))}. "
        said += f"{100 * float(kept.mean()):.0f} % of the slots have a match; mean weights {mean[OWN]} (all), "
        said += f"{mean[MATCHED]} (matched) and {mean[CONTROL]} (other experts). "
    tokens, clusters = (int(metrics[f"removal_{name}"]) for name in ("tokens", "clusters"))
    return Figure(
        name="removal_by_depth",
        title="The lens without the strongest expert",
        alt=f"Curves over depth of the change of the lens loss where the strongest expert of a layer is removed, where "
        f"it is not, and where slots of other experts are removed instead. {said}".strip(),
        caption=f"Change of the lens loss if the expert with the largest sum of weights adds nothing, at the tokens "
        f"where slots are removed and elsewhere, beside as many slots of other experts with the same weights in the "
        f"same windows. {said}{_reason(metrics)}n = {tokens:,} tokens of {clusters:,} clusters; intervals: "
        f"{100 * metrics.attrs['confidence']:g} % bootstrap over clusters.",
        how_to_read="What falls back towards 0 is made up for by later layers. What is as large for slots of other "
        "experts is what any expert of that weight does there.",
        drawing=drawing,
        data=table(metrics, ["removal_change", "removal", "removal_excess"]),
        names=[panel.title.lower() for panel in panels if "expert" in panel.title],
    )
