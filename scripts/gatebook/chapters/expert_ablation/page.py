"""The page of the chapter expert ablation: figures, findings and words."""

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
    change,
    counts_text,
    ends,
    estimate,
    held,
    numbers,
    over_layers,
    pooled,
    reference,
    rounded,
    series,
    side,
    verdict,
)
from gatebook.chapters.expert_ablation import ITSELF, PREDICTORS
from gatebook.figures import plotting
from gatebook.figures.plotting import Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import table
from gatebook.measures.uncertainty import POOLED

NOTHING = Null("no change", 0.0)
NO_EXCESS = Null("any slots of its load and weights", 0.0)
CHANCE = Null("chance", 0.0)
MASS = PREDICTORS["weight_sum"]
MOST_DATASETS = 20
SLOTS = {"matched_change": "slots of the expert", "control_change": "slots of others"}


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics = seen.metrics
    return [_by_expert(metrics), _by_dataset(metrics), _use(seen), _against_slots(metrics), _predictors(metrics)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that could not be measured are left out."""
    every = [_finding_mean, _finding_use, _finding_expert, _finding_predicted, _finding_indispensable]
    return [found for found in (each(seen) for each in every) if found.is_known]


def brief(seen: Seen) -> Brief | None:
    """How much one expert matters, and whether those that matter most do so beyond their load and weights."""
    metrics = seen.metrics
    mean, most = over_layers(metrics, "mean_loss_change"), estimate(pooled(metrics["picked_change"]))
    if not np.isfinite([*mean, *most]).all():
        return None
    layer, expert = _cell(metrics, POOLED)
    text = f"Without one expert the loss of a token rises by {rounded(mean)} nats on average, and by {rounded(most)} "
    text += f"without the one that matters most. {_kept_text(metrics)}"
    example = f"That one is layer {layer}, expert {expert}."
    return Brief(text, "against_slots", example, layer, (expert,))


def _cell(metrics: xr.Dataset, dataset: str) -> tuple[int, int]:
    """Layer and number of the expert that was picked in a dataset, or in all."""
    return tuple(int(metrics[f"picked_{part}"].sel(dataset=dataset)) for part in ("layer", "expert"))


def _named(metrics: xr.Dataset, dataset: str) -> str:
    layer, expert = _cell(metrics, dataset)
    return f"layer {layer}, expert {expert}"


def _keeping(metrics: xr.Dataset) -> tuple[list[str], list[str]]:
    """The datasets whose picked expert was tested, and those of them where it keeps an excess above 0."""
    tested = metrics[["excess", "excess_adjusted_p_value"]].isel(dataset=slice(1, None))
    known = tested.sel(dataset=np.isfinite(tested["excess_adjusted_p_value"]).values)
    low = known["excess_adjusted_p_value"] <= metrics.attrs["false_discovery_rate"]
    above = known["excess"].sel(interval="estimate", drop=True) > 0
    return known["dataset"].values.tolist(), known["dataset"].values[(low & above).values].tolist()


def _kept_text(metrics: xr.Dataset) -> str:
    known, kept = _keeping(metrics)
    if not known:
        return "Too few texts are left to hold an expert against others."
    return (
        f"Of the experts that matter most in each of {len(known)} datasets {len(kept) or 'none'} "
        f"{'matters' if len(kept) == 1 else 'matter'} more than as many slots of others with the same weights."
    )


def _finding_mean(seen: Seen) -> Finding:
    found = numbers(seen, "mean_loss_change", NOTHING, "loss_effect")
    count, hurt, helped = _significant(seen.metrics)
    rate = f"{100 * seen.metrics.attrs['false_discovery_rate']:g} %"
    return Finding(
        question="Does a single expert matter?",
        answer=f"Without one the loss of a token changes by {rounded(found)} nats on average"
        f"{change(seen, 'mean_loss_change')}. Of {count} experts {hurt} raise it when they are removed, and {helped} "
        f"lower it, at a false discovery rate of {rate}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that the loss rises",
        unit="nats per token",
        figure="use",
        **found,
    )


def _significant(metrics: xr.Dataset) -> tuple[int, int, int]:
    """How many experts there are, and how many raise and lower the pooled loss significantly when they are removed."""
    low = metrics["adjusted_p_value"].values <= metrics.attrs["false_discovery_rate"]
    value = metrics["loss_change"].sel(dataset=POOLED, interval="estimate").transpose("layer", "expert").values
    return value.size, int((low & (value > 0)).sum()), int((low & (value < 0)).sum())


def _finding_use(seen: Seen) -> Finding:
    null = Null.of("permuted clusters", seen.metrics, "use_correlation")
    found = numbers(seen, "use_correlation", null, "correlation_effect")
    return Finding(
        question="Does removing an expert hurt most where it is used most?",
        answer=f"An expert's share of a dataset's tokens and what removing it does there correlate over datasets with "
        f"{rounded(found)}{_since(seen)}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a correlation above that of permuted clusters",
        unit="correlation",
        figure="use",
        **found,
    )


def _since(seen: Seen) -> str:
    """What training did to the correlation with use, as the end of an answer; "" if that is not known."""
    if seen.untrained is None:
        return ""
    if np.isfinite(over_layers(seen.untrained, "use_correlation")).all():
        return change(seen, "use_correlation")
    return "; in the untrained model what removing it does hardly differs between datasets but by chance"


def _finding_expert(seen: Seen) -> Finding:
    metrics = seen.metrics
    found = _of_pooled(seen, "excess", NO_EXCESS)
    whole, own, other = (rounded(estimate(pooled(metrics[name]))) for name in ("picked_change", *SLOTS))
    return Finding(
        question="Is it the expert, or its load and weights?",
        answer=f"Of {_named(metrics, POOLED)}, which matters most in all datasets together, "
        f"{_share(metrics, POOLED)} % of the slots have a partner among those of other experts. The loss changes by "
        f"{whole} nats without all of its slots, by {own} without those with one, and by {other} without the "
        f"partners. {_kept_text(metrics)}",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that the expert matters beyond its load and weights",
        unit="nats per token",
        figure="against_slots",
        **found,
    )


def _share(metrics: xr.Dataset, dataset: str) -> str:
    share = float(metrics["matched_share"].sel(dataset=dataset))
    return format_number(round(100 * share)) if np.isfinite(share) else "no"


def _of_pooled(seen: Seen, name: str, null: Null) -> dict:
    """What a finding says in numbers of the expert that is picked in all datasets."""
    found = held(_value(seen.metrics, name), null, seen.thresholds["loss_effect"])
    clusters = int(pooled(seen.metrics["tested_clusters"]))
    return found | reference(seen, _value, name) | {"n": clusters, "n_unit": "clusters that it was not picked in"}


def _value(metrics: xr.Dataset, name: str) -> tuple[float, float, float]:
    return estimate(pooled(metrics[name]))


def _finding_predicted(seen: Seen) -> Finding:
    mine = seen.sel(predictor=MASS)
    found = numbers(mine, "prediction", CHANCE, "correlation_effect")
    metrics = seen.metrics
    reliability = over_layers(metrics.sel(predictor=ITSELF), "prediction")
    beyond = over_layers(mine.metrics, "prediction_beyond")
    first_order = over_layers(metrics.sel(predictor=PREDICTORS["gradient"]), "prediction")
    return Finding(
        question="Does routing tell which experts matter?",
        answer=f"The weights that an expert gets in one half of the texts correlate by rank with what removing it does "
        f"in the other half with {rounded(found)}; that itself does with {rounded(reliability)} (difference "
        f"{' '.join(format_estimate(*beyond))}), and the gradient with {rounded(first_order)}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a rank correlation above 0",
        unit="rank correlation",
        figure="predictors",
        **found,
    )


def _finding_indispensable(seen: Seen) -> Finding:
    threshold = seen.thresholds["indispensable"]
    found = _of_pooled(seen, "picked_change", NOTHING)
    return Finding(
        question="Is any single expert indispensable?",
        answer=f"Without {_named(seen.metrics, POOLED)}, which matters most, the loss of a token rises by "
        f"{rounded(found)} nats in texts in which it was not picked.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means more than {format_number(threshold)} nats",
        unit="nats per token",
        figure="against_slots",
        **found,
    )


def _not_run(metrics: xr.Dataset) -> str:
    reason = metrics.attrs.get("not_run", "")
    return f" Nothing was run: {reason.rstrip('.')}." if reason else ""


def _removed(metrics: xr.Dataset) -> str:
    """How experts are removed, and what that rests on."""
    stage = metrics.attrs.get("stage", "score")
    how = "the next one enters in its place" if stage == "score" else "none enters in its place"
    return f"One expert is removed in its layer, and {how}. {counts_text(metrics, JACKKNIFE)}{_not_run(metrics)}"


def _by_expert(metrics: xr.Dataset) -> Figure:
    whole = metrics["loss_change"].sel(dataset=POOLED).transpose("layer", "expert", "interval")
    values = whole.sel(interval="estimate").values
    drawing, (ax,) = plotting.canvas(plotting.height_for(whole.sizes["layer"]))
    rate = metrics.attrs["false_discovery_rate"]
    plotting.layer_expert_matrix(
        ax,
        values,
        whole["layer"].values,
        whole["expert"].values,
        kind="magnitude",
        label="change of loss, nats per token",
        uncertain=~(metrics["adjusted_p_value"].transpose("layer", "expert").values <= rate),
        limits=_limits(values),
    )
    count, hurt, helped = _significant(metrics)
    said = f"of {count} experts {hurt} raise the loss when they are removed, and {helped} lower it"
    return Figure(
        name="change_by_expert",
        title="What removing each expert does",
        alt=f"Matrix of the change of loss, layers by experts; {said}.",
        caption=f"Change of the loss of the next token, mean over datasets: {said}, at a false discovery rate of "
        f"{100 * rate:g} % over all experts. {_removed(metrics)}",
        how_to_read="Hatched cells cannot be told from 0. A loss that falls has the colour of 0.",
        drawing=drawing,
        data=table(metrics.sel(dataset=[POOLED]), ["loss_change"]),
    )


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Of colours: from 0 to the largest value, rounded up to two digits."""
    largest = max(np.nanmax(values, initial=0), 1e-9)
    digit = 10.0 ** (np.floor(np.log10(largest)) - 1)
    return 0, float(np.ceil(largest / digit) * digit)


def _by_dataset(metrics: xr.Dataset) -> Figure:
    datasets = metrics["dataset"].values[1:].tolist()
    cells, data = sorted({_cell(metrics, dataset) for dataset in datasets}), table(metrics, ["loss_change"])
    values = metrics["loss_change"].sel(interval="estimate").isel(dataset=slice(1, None))
    found = np.array(
        [
            values.sel(layer=layer, expert=expert).values if layer >= 0 else np.full(len(datasets), np.nan)
            for layer, expert in cells
        ]
    )
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(datasets)))
    plotting.matrix(
        ax,
        found.T,
        datasets,
        [f"{layer}, {expert}" for layer, expert in cells],
        kind="magnitude",
        label="change of loss, nats per token",
        annotate=".2f",
        limits=_limits(found),
        x_label="layer, expert",
    )
    return Figure(
        name="change_by_dataset",
        title="Where the experts that matter most in a dataset matter",
        alt=f"Matrix of the change of loss, {len(datasets)} datasets by the {len(cells)} experts that matter most in "
        "any of them.",
        caption=f"Change of loss in each dataset without the expert that matters most in one of them. "
        f"{_removed(metrics)} The chapter's table has all experts with intervals.",
        how_to_read="The experts were picked in the same texts: the largest value of a row is too large on average. "
        "The figure of slots shows them in others.",
        drawing=drawing,
        data=data[[cell in cells for cell in zip(data["layer"], data["expert"], strict=True)]],
        names=[f"layer {layer}, expert {expert}" for layer, expert in cells if layer >= 0],
    )


def _use(seen: Seen) -> Figure:
    metrics, untrained = seen.metrics, seen.untrained
    null = Null.of("permuted clusters", metrics, "use_correlation")
    parts = {
        "mean_loss_change": ("nats per token", [NOTHING.reference()]),
        "direct_share": ("share at its own tokens", []),
        "use_correlation": ("correlation with use", [null.reference()]),
    }
    drawing, axes = plotting.canvas(6.6, rows=3)
    for ax, (name, (label, references)) in zip(axes, parts.items(), strict=True):
        if name == "use_correlation":
            lines = [
                Series(each, *ends(source[name]))
                for each, source in zip(ORDER, [metrics, untrained], strict=True)
                if source is not None
            ]
        else:
            lines = series(metrics, untrained if name == "mean_loss_change" else None, name)
        plotting.layer_lines(
            ax, metrics["layer"].values, lines, references, y_label=label, order=ORDER, labels="legend"
        )
    said = "; ".join(
        f"{word} {' '.join(format_estimate(*over_layers(metrics, name)))}"
        for name, word in (
            ("mean_loss_change", "change of loss in nats"),
            ("direct_share", "share of it at the expert's own tokens"),
            ("use_correlation", "correlation with use"),
        )
        if np.isfinite(over_layers(metrics, name)).all()
    )
    of = f", mean over layers: {said}" if said else ""
    return Figure(
        name="use",
        title="How much an expert matters, and where",
        alt=f"Line charts over layers of the mean change of loss without an expert, the share of it at the tokens that "
        f"select it, and its correlation with use{of}.",
        caption=f"Mean change of loss over experts; share of it at the tokens that select the expert; correlation over "
        f"datasets of an expert's share of the tokens and its change of loss{of}. {_removed(metrics)}",
        how_to_read="What is not at the expert's own tokens reaches others through attention. The band of the "
        "correlation is what it is if the changes of clusters are permuted over all datasets and their use is not.",
        drawing=drawing,
        data=table(metrics, list(parts)),
    )


def _against_slots(metrics: xr.Dataset) -> Figure:
    names = metrics["dataset"].values.tolist()
    shown = [POOLED, *sorted(names[1:], key=lambda name: -_known(_excess(metrics, name)))[:MOST_DATASETS]]
    rows = [f"{name}: {_named(metrics, name)}" if _cell(metrics, name)[0] >= 0 else name for name in shown]
    drawing, axes = plotting.canvas(2 * plotting.height_for(len(rows)), rows=2)
    slots = [Series(label, *ends(metrics[name].sel(dataset=shown))) for name, label in SLOTS.items()]
    plotting.dot_whiskers(axes[0], rows, slots, [NOTHING.reference()], x_label="change of loss, nats per token")
    excess = Series("excess", *ends(metrics["excess"].sel(dataset=shown)))
    plotting.dot_whiskers(axes[1], rows, [excess], [Reference("no excess", 0.0)], x_label="excess, nats per token")
    found = {name: _weights(metrics, name) for name in shown}
    said = "; ".join(f"{name} {text}" for name, text in found.items() if text)
    of = f" Matched slots and mean weights of both sides: {said}." if said else ""
    clusters = int(pooled(metrics["tested_clusters"]))
    caliper = metrics.attrs.get("caliper")
    within = f" within {100 * caliper:g} %" if caliper else ""
    return Figure(
        name="against_slots",
        title="The expert, or its load and weights",
        alt=f"Dots with intervals of the change of loss without slots of the expert that matters most in each dataset, "
        f"and without as many slots of others with the same weights, and of the difference. {_kept_text(metrics)}",
        caption=f"Change of loss if the weights of slots are 0: those of the expert that matters most in a dataset, or "
        f"in all of them, that have a partner with the same weight{within} among those of other experts of the layer "
        f"in the same text, and their partners. {_kept_text(metrics)}{of} n = {clusters} clusters in which no expert "
        f"was picked; intervals: {100 * metrics.attrs['confidence']:g} % {JACKKNIFE}.{_not_run(metrics)}",
        how_to_read="Slots without a partner are left out on both sides: an expert may matter most where its weights "
        "are larger than those of any other. What is left of the difference is the expert's own.",
        drawing=drawing,
        data=table(metrics, ["picked_change", *SLOTS, "excess"]),
        names=[_named(metrics, name) for name in shown if _cell(metrics, name)[0] >= 0],
    )


def _known(value: float) -> float:
    return value if np.isfinite(value) else -np.inf


def _excess(metrics: xr.Dataset, name: str) -> float:
    return float(metrics["excess"].sel(dataset=name, interval="estimate"))


def _weights(metrics: xr.Dataset, name: str) -> str:
    """The share of matched slots of a dataset's picked expert and the mean weights of both sides, in words."""
    values = [float(metrics[each].sel(dataset=name)) for each in ("matched_share", "matched_weight", "control_weight")]
    if not np.isfinite(values).all():
        return ""
    return f"{100 * values[0]:.0f} %, {values[1]:.3f} and {values[2]:.3f}"


def _predictors(metrics: xr.Dataset) -> Figure:
    of = metrics["mean_over_layers_prediction"].transpose("predictor", "interval")
    rows = [name for name in metrics["predictor"].values.tolist() if name != ITSELF]
    itself = [float(each) for each in ends(of.sel(predictor=ITSELF))]
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(rows)))
    ceiling = [Reference(ITSELF, *itself)] if np.isfinite(itself).all() else []
    plotting.dot_whiskers(
        ax, rows, [Series("predictor", *ends(of.sel(predictor=rows)))], ceiling, x_label="rank correlation"
    )
    known = [name for name in [*rows, ITSELF] if np.isfinite(of.sel(predictor=name)).all()]
    said = "; ".join(f"{name} {' '.join(format_estimate(*ends(of.sel(predictor=name))))}" for name in known)
    means = f", mean over layers: {said}" if said else ""
    return Figure(
        name="predictors",
        title="What tells which experts matter",
        alt=f"Dots with intervals of the rank correlation of predictors with the change of loss{means}.",
        caption=f"Rank correlation over a layer's experts of a number of one half of the clusters with the change of "
        f"loss in the other half, mean over {metrics.attrs['splits']} splits{means}. {_removed(metrics)}",
        how_to_read="The band is the change of loss itself, its reliability: a number that reaches it says as much of "
        "an expert as removing it does.",
        drawing=drawing,
        data=table(metrics, ["prediction", "prediction_beyond"]),
    )
