"""The page of the chapter multiple choice: figures and findings."""

from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.base.page import (
    BOOTSTRAP,
    ORDER,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    checkpoints,
    ends,
    estimate,
    held,
    lies,
    numbers,
    over_layers,
    percent,
    pooled,
    reference,
    rounded,
    side,
    verdict,
)
from gatebook.chapters.multiple_choice import CHANCE
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import spread, table
from gatebook.measures.uncertainty import POOLED

GUESSING = Null("chance", CHANCE)
NO_CHANGE = Null("no change", 0.0)
AS_MUCH = Null("as much weight of other experts", 0.0)
SIDES = {"own experts": "own", "as much of others": "control"}
OF_SETS = [f"{one}{what}" for what in ("_change", "_accuracy_change", "_weight") for one in SIDES.values()]
OF_SETS += ["own_minus_control", "layer_change", "matched_share", "removed_mass"]
MOST = 4
"""Layers that have panels, and ranks that have lines."""


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter; those of changes only if experts were removed."""
    found = [_answers(seen)]
    if seen.metrics.attrs["nothing_removed"]:
        return found
    found += [_sets_by_layer(seen.metrics), _sets_by_subject(seen)]
    return found + ([_ranks(seen.metrics), _lenses(seen.metrics)] if _is_close(seen.metrics) else [])


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that were not measured are left out."""
    found = [_finding_accuracy(seen)]
    if not seen.metrics.attrs["nothing_removed"]:
        found += [_finding_layer(seen), _finding_own(seen), _finding_beyond(seen)]
        found += [_finding_ranks(seen)] if _is_close(seen.metrics) else []
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """How much the experts of a subject do for its right answers, beyond as much weight of others."""
    known = {finding.measure: finding for finding in findings(seen)}
    if "own_minus_control" not in known:
        return None
    own, beyond = (known[name] for name in ("own_change", "own_minus_control"))
    if beyond.verdict != "yes":
        return Brief("Nothing shows that right answers need a subject's experts more than any others.", beyond.figure)
    text = f"Without a subject's experts in one layer the log-odds of right answers fall by {rounded(_negative(own))} "
    text += f"nats, {rounded(_negative(beyond))} of them beyond what as much weight of others does."
    return Brief(text, beyond.figure)


def _negative(finding: Finding) -> tuple[float, float, float]:
    return -finding.estimate, -finding.high, -finding.low


def _is_close(metrics: xr.Dataset) -> bool:
    return bool(np.isfinite(metrics["rank_change"]).any())


def _items(metrics: xr.Dataset, close: bool = False) -> str:
    """How many items a figure rests on, and how its intervals were made."""
    items = int(pooled(metrics["close_items" if close else "documents"]))
    of = "" if close else f" of {int(pooled(metrics['clusters'])):,} sources"
    subjects = metrics.sizes["dataset"] - 1
    how = f"{100 * metrics.attrs['confidence']:g} % {BOOTSTRAP}"
    return f"n = {items:,} items{of} in {subjects} subjects; intervals: {how}."


def _size(metrics: xr.Dataset, close: bool = False) -> dict:
    """What a finding rests on."""
    items = int(pooled(metrics["close_items" if close else "documents"]))
    if close:
        return {"n": items, "n_unit": "items"}
    return {"n": int(pooled(metrics["clusters"])), "n_unit": f"sources, {items:,} items"}


def _subjects(metrics: xr.Dataset) -> list[str]:
    return [str(name) for name in metrics["dataset"].values]


def _left_out(metrics: xr.Dataset) -> str:
    """What was not asked, as sentences."""
    left_out, shortened, too_long = (metrics.attrs[name] for name in ("left_out", "shortened", "too_long"))
    said = f"With too few sources for items: {left_out}. " if left_out else ""
    said += f"{shortened:,} items have fewer solved ones before them than they should, to fit. " if shortened else ""
    return said + (f"{too_long:,} items are longer than the window and are not asked. " if too_long else "")


def _finding_accuracy(seen: Seen) -> Finding:
    value = estimate(pooled(seen.metrics["accuracy"]))
    borders = seen.thresholds["accuracy_effect"]
    found = held(value, GUESSING, borders)
    guesses = [percent(estimate(pooled(seen.metrics[name]))) for name in ("letter_accuracy", "longest_accuracy")]
    by_subject = seen.metrics["accuracy"].isel(dataset=slice(1, None))
    better = int((by_subject.sel(interval="low") > CHANCE).sum())
    return Finding(
        question="Does the model choose right answers more often than chance?",
        answer=f"In {percent(value)} of the items; the most frequent letter is right in {guesses[0]}, the longest "
        f"answer in {guesses[1]}. Above chance by its interval: {better} of {by_subject.sizes['dataset']} subjects.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than one in four",
        unit="of the items",
        figure="answers",
        measure="accuracy",
        **found | reference(seen, lambda metrics: estimate(pooled(metrics["accuracy"]))) | _size(seen.metrics),
    )


def _finding_layer(seen: Seen) -> Finding:
    found = numbers(seen, "layer_change", NO_CHANGE, "odds_effect") | _size(seen.metrics)
    return Finding(
        question="Do right answers get less likely without all experts of a layer?",
        answer=f"Their log-odds change by {rounded(found)} nats per layer. What few of the experts do can be told only "
        "if this can.",
        verdict=verdict(side(found), yes="below"),
        verdict_text="yes means a change below 0; else these items are too few to say anything of experts",
        unit="nats of log-odds",
        figure="sets_by_layer",
        **found,
    )


def _finding_own(seen: Seen) -> Finding:
    found = numbers(seen, "own_change", NO_CHANGE, "odds_effect") | _size(seen.metrics)
    hit = [
        format_estimate(*(100 * part for part in over_layers(seen.metrics, f"{one}_accuracy_change")))
        for one in SIDES.values()
    ]
    return Finding(
        question="Do right answers get less likely without the subject's experts?",
        answer=f"Their log-odds change by {rounded(found)} nats per layer, accuracy by {' '.join(hit[0])} points; "
        f"{percent(over_layers(seen.metrics, 'matched_share'))} of their slots are removed.",
        verdict=verdict(side(found), yes="below"),
        verdict_text="yes means a change below 0",
        unit="nats of log-odds",
        figure="sets_by_layer",
        **found,
    )


def _finding_beyond(seen: Seen) -> Finding:
    metrics, rate = seen.metrics, seen.thresholds["false_discovery_rate"]
    found = numbers(seen, "own_minus_control", AS_MUCH, "odds_effect") | _size(metrics)
    passed = [str(each["contrast"].item()) for each in metrics["q_value"] if float(each) <= rate]
    tested = int(np.isfinite(metrics["q_value"]).sum())
    weights = [over_layers(metrics, f"{one}_weight")[0] for one in SIDES.values()]
    place = side(found)
    named = f" ({', '.join(passed[:MOST])}{', ...' if len(passed) > MOST else ''})" if passed else ""
    return Finding(
        question="Is it these experts, beyond as much weight of others?",
        answer=f"Without them log-odds change by {rounded(found)} nats more than without as much of others, of the "
        f"same texts and mean weights of {format_number(weights[0])} and {format_number(weights[1])}. {len(passed)} of "
        f"{tested} planned contrasts pass a false discovery rate of {format_number(100 * rate)} %{named}.",
        verdict=verdict(place if passed else "around", yes="below"),
        verdict_text="yes means a difference below 0, and a planned contrast that passes",
        unit="nats of log-odds",
        figure="sets_by_layer",
        **found,
    )


def _finding_ranks(seen: Seen) -> Finding:
    found = numbers(seen, "first_minus_last", Null("the last choice", 0.0), "odds_effect") | _size(seen.metrics, True)
    first, last = (over_layers(seen.metrics.isel(rank=place), "rank_change") for place in (0, -1))
    alone = over_layers(seen.metrics, "renormalised_change")
    return Finding(
        question="Does a right answer need first choices more than last ones?",
        answer=f"Without the first choice of all tokens log-odds change by {rounded(first)} nats per layer, without "
        f"the last by {rounded(last)}; renormalising alone by {rounded(alone)}.",
        verdict=verdict(side(found), yes="below"),
        verdict_text="yes means a difference below 0",
        unit="nats of log-odds",
        figure="ranks",
        **found,
    )


def _answers(seen: Seen) -> Figure:
    metrics, names = seen.metrics, _subjects(seen.metrics)
    known = checkpoints(metrics, seen.untrained)
    guess = {"most frequent letter": "letter_accuracy", "longest answer": "longest_accuracy"}
    drawing, axes = plotting.canvas(2 * plotting.height_for(len(names)), rows=2)
    for ax, name, references in (
        (axes[0], "accuracy", [GUESSING.reference()]),
        (axes[1], "log_odds", [Reference("chance", float(np.log(1 / 3)))]),
    ):
        lines = [Series(label, *ends(source[name])) for label, source in known.items()]
        label = "accuracy" if name == "accuracy" else "log-odds of the right answer (nats)"
        plotting.dot_whiskers(ax, names, lines, references, x_label=label, order=ORDER)
    value, bounds = format_estimate(*estimate(pooled(metrics["accuracy"])))
    guesses = "; ".join(f"{word} {percent(estimate(pooled(metrics[name])))}" for word, name in guess.items())
    how = (
        "text goes on"
        if metrics.attrs["source"] == "text"
        else f"{metrics.attrs['form']}, {metrics.attrs['shots']} shots"
    )
    return Figure(
        name="answers",
        title="Right answers by subject",
        alt=f"Dots with whiskers of accuracy and log-odds of the right answer by subject; pooled accuracy {value}.",
        caption=f"Share of items whose right answer is the most likely ({how}), and its log-odds; pooled {value} "
        f"{bounds}; {guesses}. {_left_out(metrics)}{_items(metrics)}",
        how_to_read="Right of the dashed line the model knows something of the subject. Log-odds may be below chance "
        "where accuracy is above it: a few answers that are much less likely than others pull their mean down.",
        drawing=drawing,
        data=table(metrics, ["accuracy", *guess.values(), "log_odds"]),
    )


def _sets_by_layer(metrics: xr.Dataset) -> Figure:
    layers = metrics["layer"].values
    lines = [Series(label, *ends(pooled(metrics[f"{one}_change"]))) for label, one in SIDES.items()]
    lines.append(Series("all experts of the layer", *ends(pooled(metrics["layer_change"]))))
    drawing, axes = plotting.canvas(5.6, rows=2)
    plotting.layer_lines(
        axes[0], layers, lines, [NO_CHANGE.reference()], y_label="change of log-odds (nats)", labels="legend"
    )
    apart = [Series("difference", *ends(pooled(metrics["own_minus_control"])))]
    plotting.layer_lines(
        axes[1], layers, apart, [NO_CHANGE.reference()], y_label="own − others (nats)", labels="legend"
    )
    said = {one: f"{over_layers(metrics, f'{one}_weight')[0]:.3g}" for one in SIDES.values()}
    value, bounds = format_estimate(*over_layers(metrics, "own_minus_control"))
    shares = [percent(over_layers(metrics, name)) for name in ("matched_share", "removed_mass")]
    whole = " ".join(format_estimate(*over_layers(metrics, "layer_change")))
    return Figure(
        name="sets_by_layer",
        title="The experts of a subject, removed in one layer",
        alt=f"Line charts over layers of the change of the right answer's log-odds without the subject's experts and "
        f"without as much of others, and of their difference, {value} nats on average.",
        caption=f"Difference {value} {bounds} nats, mean over layers. {shares[0]} of own slots have a partner; removed "
        f"are {shares[1]} of a layer's weight on either side, with mean weights {said['own']} and {said['control']}. "
        f"Without all experts of a layer log-odds change by {whole} nats. {_items(metrics)}",
        how_to_read="What the lines of own experts and of others share is the load that is removed. Where the "
        "difference is below 0, it has to be these experts. Only if all experts of a layer show an effect, few of them "
        "can. Each layer is changed alone.",
        drawing=drawing,
        data=table(metrics, OF_SETS),
    )


def _sets_by_subject(seen: Seen) -> Figure:
    metrics, names = seen.metrics, _subjects(seen.metrics)
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(names)))
    lines = [Series(label, *ends(metrics[f"mean_over_layers_{one}_change"])) for label, one in SIDES.items()]
    plotting.dot_whiskers(
        ax, names, lines, [NO_CHANGE.reference()], x_label="change of log-odds (nats), mean over layers"
    )
    planned = metrics[["contrast_estimate", "p_value", "q_value"]].to_dataframe().reset_index()
    rows = table(metrics, ["own_change", "control_change", "own_minus_control"])
    smallest = float(metrics["q_value"].min())
    return Figure(
        name="sets_by_subject",
        title="The experts of each subject",
        alt="Dots with whiskers by subject of the change of the right answer's log-odds without its experts and "
        f"without as much of others, mean over layers; the smallest corrected p value is {format_number(smallest)}.",
        caption=f"Own minus control was planned for each layer and each subject: {len(planned)} contrasts, the "
        f"smallest p value, corrected for all of them, is {format_number(smallest)}. {_items(metrics)}",
        how_to_read="Compare the two dots of a row, not a dot with 0. A subject has few items: an interval of one "
        "subject that lies beside 0 is expected of one in twenty.",
        drawing=drawing,
        data=pd.concat([rows, planned], ignore_index=True),
    )


def _ranks(metrics: xr.Dataset) -> Figure:
    layers, ranks = metrics["layer"].values, spread(metrics["rank"].values, MOST)
    alone = metrics["renormalised_change"]
    drawing, axes = plotting.canvas(5.6, rows=2)
    for ax, name, references, label in (
        (axes[0], "rank_change", [NO_CHANGE.reference()], "weights kept"),
        (axes[1], "rank_change_renormalised", [Reference("renormalised alone", *ends(alone))], "weights renormalised"),
    ):
        lines = [Series(f"choice {rank + 1}", *ends(metrics[name].sel(rank=rank))) for rank in ranks]
        plotting.layer_lines(ax, layers, lines, references, y_label=f"nats, {label}", labels="legend")
    first, last = (format_estimate(*over_layers(metrics.isel(rank=place), "rank_change")) for place in (0, -1))
    baseline = format_estimate(*over_layers(metrics, "renormalised_change"))
    return Figure(
        name="ranks",
        title="Without the r-th choice of every token",
        alt="Line charts over layers of the change of the right answer's log-odds without the first to the last choice "
        f"of every token; mean over layers without the first {first.estimate}, without the last {last.estimate} nats.",
        caption=f"Mean over layers without the first choice {' '.join(first)} nats, without the last {' '.join(last)}; "
        f"renormalising alone, nothing removed, {' '.join(baseline)}. {_items(metrics, close=True)}",
        how_to_read="Above, the other weights are as they were; below, they are divided by their sum, which is a "
        "change of its own: compare with the dashed line.",
        drawing=drawing,
        data=table(metrics, ["rank_change", "rank_change_renormalised", "renormalised_change", "first_minus_last"]),
    )


def _lenses(metrics: xr.Dataset) -> Figure:
    after = metrics["read_after"].values
    clean = Series("as it is", *ends(metrics["lens"].sel(dataset=POOLED).transpose("read_after", "interval")))
    panels = []
    for layer in spread(metrics["layer"].values, MOST):
        lines = [clean]
        for label, one in SIDES.items():
            at = metrics[f"{one}_lens"].sel(layer=layer).transpose("read_after", "interval")
            lines.append(Series(f"without {label}", at.sel(interval="estimate").values))
        panels.append(Panel(f"Removed in layer {layer}", after, lines, (), "log-odds (nats)"))
    drawing = plotting.small_multiples(
        panels, columns=2, panel_height=2.1, x_label="read after layer", draw=partial(plotting.curves)
    )
    steps = ", ".join(rounded(estimate(metrics["lens"].sel(dataset=POOLED, read_after=one))) for one in after)
    rise = metrics["lens"].sel(dataset=POOLED)
    sure = [int(one) for one in after if lies(*ends(rise.sel(read_after=one))[1:], float(np.log(1 / 3))) == "above"]
    said = f" Above chance by its interval first after layer {sure[0]}." if sure and sure[0] >= 0 else ""
    return Figure(
        name="lenses",
        title="What each layer would answer",
        alt=f"Line charts over layers of the right answer's log-odds as read after each layer, as the model is and "
        f"without experts; as it is, from the embedding on: {steps} nats.",
        caption=f"Log-odds read by the last norm and the head, from the embedding (−1) on: {steps}.{said} "
        f"{_items(metrics, close=True)}",
        how_to_read="Lines part where the experts are removed. Where they meet again, later layers make up for it. The "
        "band is that of the model as it is, over items; the CSV has those of the others.",
        drawing=drawing,
        data=table(metrics, ["lens", "own_lens", "control_lens"]),
    )
