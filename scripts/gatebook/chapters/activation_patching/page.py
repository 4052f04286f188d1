"""The page of the chapter activation patching: figures, findings and words."""

import json

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.activation_patching import ALL, BASE, CONTROLS, EXCHANGED, GAP_SHARE, INTEGRATED
from gatebook.chapters.base.page import (
    BOOTSTRAP,
    Figure,
    Finding,
    Null,
    Seen,
    ends,
    estimate,
    held,
    reference,
    side,
    verdict,
)
from gatebook.figures import plotting
from gatebook.figures.plotting import Reference, Series
from gatebook.figures.scatter import against
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.recovered import CHANCE, DIRECTIONS
from gatebook.measures.summary import table

ANOTHER, RANDOM = CONTROLS
BY_CHANCE = Null("chance", CHANCE)
NOTHING = Null("nothing carried", 0.0)
GATE = {"right": "clean prompts answered right", "flips": "corrupt prompts that flip"}
MOST_NAMED = 4


def figures(seen: Seen) -> list[Figure]:
    """The answers in all tasks, and of each task that the model does where they come from."""
    found = [_answers(seen)]
    for name in _patched(seen.metrics):
        one = seen.metrics.sel(task=name)
        found += [each(one, name) for each in (_positions, _experts, _exchanged, _attribution)]
    return found


def findings(seen: Seen) -> list[Finding]:
    """Whether the model does each task, and of those that it does which parts carry it."""
    found = []
    for name in seen.metrics["task"].values.tolist():
        one = seen.sel(task=name)
        found.append(_does(one, name))
        if name in _patched(seen.metrics):
            found += [each(one, name) for each in (_carried, _routing, _agreement)]
    return [each for each in found if each.is_known]


def _patched(metrics: xr.Dataset) -> list[str]:
    """The tasks that are patched."""
    known = np.isfinite(metrics["expert_recovered"].sel(interval="estimate")).any(["direction", "layer", "expert"])
    return metrics["task"].values[known.values].tolist()


def _size(one: xr.Dataset) -> dict:
    return {"n": int(one["clusters"]), "n_unit": f"sources, {int(one['pairs'])} pairs of prompts"}


def _said(array: xr.DataArray) -> str:
    """An estimate with its interval."""
    return " ".join(format_estimate(*estimate(array)))


def _both(one: xr.Dataset, name: str, **where) -> str:
    """A measure in both directions."""
    values = one[name].sel(where) if where else one[name]
    return " and ".join(f"{_said(values.sel(direction=way))} ({way})" for way in DIRECTIONS)


def _data(one: xr.Dataset, names: list[str]) -> pd.DataFrame:
    """The measures of a task as rows."""
    return table(one.expand_dims("task"), names)


def _rest(one: xr.Dataset) -> str:
    """What a figure of a task rests on."""
    method = f"{100 * one.attrs['confidence']:g} % {BOOTSTRAP.replace('clusters', 'sources')}"
    sources, pairs = int(one["clusters"]), int(one["pairs"])
    return f"n = {pairs} pairs of prompts of {sources} sources; intervals: {method}."


# ---------------------------------------------------------------- findings


def _does(seen: Seen, name: str) -> Finding:
    one = seen.metrics
    weaker = min(GATE, key=lambda part: float(one[part].sel(interval="low")))
    found = held(estimate(one[weaker]), BY_CHANCE, seen.thresholds["answer_effect"])
    title = json.loads(one.attrs["titles"])[name]
    passed = bool(one["passed"])
    low = [side(held(estimate(one[part]), BY_CHANCE, seen.thresholds["answer_effect"])) for part in GATE]
    place = "above" if passed else "below" if "below" in low else "around"
    return Finding(
        question=f"Does the model do the task {name}?",
        answer=f"In {name} ({title}) it answers {_said(one['right'])} of the clean prompts right, and "
        f"{_said(one['flips'])} of the corrupt ones the other way{_gap(one) if passed else ''}."
        + ("" if passed else " So nothing more is measured of this task."),
        verdict=verdict(place, yes="above"),
        verdict_text="yes means that both shares lie above chance, by their intervals",
        unit="of prompts",
        figure="answers",
        measure=weaker,
        **found,
        **reference(seen, lambda metrics: estimate(metrics[weaker])),
        **_size(one),
    )


def _gap(one: xr.Dataset) -> str:
    return f"; the logit difference of the two answers is {_said(one['gap'])} larger in clean prompts"


def _carried(seen: Seen, name: str) -> Finding:
    one, threshold = seen.metrics, seen.thresholds["carried"]
    weaker = min(DIRECTIONS, key=lambda way: float(one["chosen_recovered"].sel(direction=way, interval="estimate")))
    value, random = (one[part].sel(direction=weaker) for part in ("chosen_recovered", "random_recovered"))
    null = Null("random experts of the same layers", random)
    found = held(estimate(value), null, seen.thresholds["share_effect"])
    top = ", ".join(f"{_expert(cell)} {_said(cell)}" for cell in _strongest(one, 2))
    attention = ", ".join(f"layer {int(cell['layer'])} {_said(cell)}" for cell in _attentions(one, 2))
    return Finding(
        question=f"Do few experts carry the task {name}?",
        answer=f"The {one.attrs['top']} experts chosen on one half of the sources recover "
        f"{_both(one, 'chosen_recovered')} of the gap in the other half, random ones {_both(one, 'random_recovered')}. "
        f"The strongest alone, denoising: {top}; the attention of {attention}.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means more than {format_number(threshold)} of the gap in both directions",
        unit=GAP_SHARE,
        figure=f"experts_{name}",
        measure="chosen_recovered",
        **found,
        **_size(one),
    )


def _routing(seen: Seen, name: str) -> Finding:
    one, threshold = seen.metrics, seen.thresholds["informative"]
    found = held(estimate(one["routing_share"]), NOTHING, seen.thresholds["share_effect"])
    left = one["gap_left"].sel(where=ALL, change=RANDOM)
    told = float(left.sel(interval="high")) < threshold
    answer = (
        f"With the routing of the other prompt in all layers {_both(one, 'exchanged_recovered', **_all('routing'))} of "
        f"the gap come back, with the other inputs under the prompt's own routing "
        f"{_both(one, 'exchanged_recovered', **_all('inputs'))}. The two prompts select different experts in "
        f"{_said(one['mean_over_layers_sets_differ'])} of the tokens. "
    )
    if told:
        answer += f"Random experts leave {_said(left)} of the gap, so the test can tell."
    else:
        answer += f"Random experts leave {_said(left)} of the gap: the test is not informative."
    return Finding(
        question=f"Does routing carry the task {name}, or do the experts' inputs?",
        answer=answer,
        verdict=verdict(side(found), yes="above") if told else "unclear",
        verdict_text="yes means that exchanged routing moves the answer; unclear also if random experts hardly do",
        unit=GAP_SHARE,
        figure=f"exchanged_{name}",
        measure="routing_share",
        **found,
        **_size(one),
    )


def _all(exchanged: str) -> dict:
    return {"exchanged": exchanged, "where": ALL}


def _agreement(seen: Seen, name: str) -> Finding:
    one, threshold = seen.metrics, seen.thresholds["agreement"]
    ranks = {each: one["rank_agreement"].sel(gradient=each) for each in (BASE, INTEGRATED)}
    weaker = min(DIRECTIONS, key=lambda way: float(ranks[BASE].sel(direction=way, interval="estimate")))
    null = Null("experts permuted", one["null_rank_agreement"].sel(gradient=BASE, direction=weaker))
    found = held(estimate(ranks[BASE].sel(direction=weaker)), null, seen.thresholds["correlation_effect"])
    sizes = {each: _both(one, "slope", gradient=each) for each in (BASE, INTEGRATED)}
    return Finding(
        question=f"Does attribution agree with patching on the task {name}?",
        answer=f"The gradient at the prompt that is patched correlates with the true effect of experts with "
        f"{_both(one, 'agreement', gradient=BASE)}, by rank with {_both(one, 'rank_agreement', gradient=BASE)}. A true "
        f"effect is {sizes[BASE]} times what it says, with integrated gradients {sizes[INTEGRATED]} times.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means rank correlations above {format_number(threshold)} in both directions",
        unit="rank correlation",
        figure=f"attribution_{name}",
        measure="rank_agreement",
        **found,
        **_size(one),
    )


def _strongest(one: xr.Dataset, count: int) -> list[xr.DataArray]:
    """What the experts that recover most recover, denoising."""
    values = one["expert_recovered"].sel(direction=DIRECTIONS[0]).stack(node=("layer", "expert"))
    order = np.argsort(-values.sel(interval="estimate").values, kind="stable")
    return [values.isel(node=place) for place in order[:count]]


def _attentions(one: xr.Dataset, count: int) -> list[xr.DataArray]:
    """The same of the attention of layers."""
    values = one["attention_recovered"].sel(direction=DIRECTIONS[0])
    values = values.dropna("layer", how="all")
    order = np.argsort(-values.sel(interval="estimate").values, kind="stable")
    return [values.isel(layer=place) for place in order[:count]]


def _expert(cell: xr.DataArray) -> str:
    return f"layer {int(cell['layer'])}, expert {int(cell['expert'])}"


# ---------------------------------------------------------------- figures


def _answers(seen: Seen) -> Figure:
    metrics, tasks = seen.metrics, seen.metrics["task"].values.tolist()
    drawing, (ax,) = plotting.canvas(plotting.height_for(2 * len(tasks)))
    lines = [Series(label, *ends(metrics[part])) for part, label in GATE.items()]
    limits = {"x_label": "share of prompts", "x_limits": (0, 1.02)}
    plotting.dot_whiskers(ax, tasks, lines, [Reference("chance", CHANCE)], **limits)
    titles = json.loads(metrics.attrs["titles"])
    said = "; ".join(
        f"{name} {_said(metrics['right'].sel(task=name))} and {_said(metrics['flips'].sel(task=name))}"
        for name in tasks
    )
    gaps = "; ".join(
        f"{name} ({titles[name]}): logit difference {_said(one['clean_difference'])} in clean and "
        f"{_said(one['corrupt_difference'])} in corrupt prompts" + ("" if bool(one["passed"]) else ", not done")
        for name, one in ((name, metrics.sel(task=name)) for name in tasks)
    )
    return Figure(
        name="answers",
        title="Which tasks the model does",
        alt=f"Dots with intervals of the share of clean prompts answered right and of corrupt ones that flip: {said}.",
        caption=f"{gaps}. {' '.join(f'{name}: {_rest(metrics.sel(task=name))}' for name in tasks)}",
        how_to_read="A task is patched if both shares lie above chance. A difference of logits above 0 alone is no "
        "behaviour.",
        drawing=drawing,
        data=table(metrics, ["right", "flips", "clean_difference", "corrupt_difference", "gap"]),
    )


def _positions(one: xr.Dataset, name: str) -> Figure:
    layers, groups = one["layer"].values, one["group"].values.tolist()
    columns = [*groups, "attention", "experts"]
    drawing, axes = plotting.canvas(2 * plotting.height_for(len(layers)), rows=2, titles=[*DIRECTIONS])
    known = one.sel(interval="estimate")
    of_experts = known["exchanged_recovered"].sel(exchanged=EXCHANGED[-1]).values[:, :-1]
    for number, (ax, way) in enumerate(zip(axes, DIRECTIONS, strict=True)):
        at = known.sel(direction=way)
        parts = [at["position_recovered"].transpose("layer", "group").values, at["attention_recovered"].values[:, None]]
        plotting.matrix(
            ax,
            np.concatenate([*parts, of_experts[number][:, None]], axis=1),
            layers,
            columns,
            kind="magnitude",
            label="share of the gap",
            annotate=".2f",
            limits=(0, 1),
            y_label="Layer",
        )
    last = one["position_recovered"].sel(group=groups[-1], direction=DIRECTIONS[0], interval="estimate").values
    place = int(layers[np.argmax(last >= CHANCE)]) if (last >= CHANCE).any() else None
    moved = (
        f"the last token holds half of it from layer {place} on" if place is not None else "the last token never does"
    )
    return Figure(
        name=f"positions_{name}",
        title=f"Where the answer is kept: {name}",
        alt=f"Two matrices, {len(layers)} layers by positions and parts, of the share of the gap that comes back; "
        f"{moved}.",
        caption="Share of the gap that comes back with the other prompt's states, as a layer hands them on, at some "
        "tokens; with the other output of its attention, and with the other output of its experts, at all tokens. "
        f"Denoising, {moved}. {_rest(one)}",
        how_to_read="Read downwards: where a column gives way to another one, attention has moved the answer. The "
        "chapter's table has the intervals.",
        drawing=drawing,
        data=_data(one, ["position_recovered", "attention_recovered", "exchanged_recovered"]),
    )


def _experts(one: xr.Dataset, name: str) -> Figure:
    layers, numbers = one["layer"].values, one["expert"].values
    values = one["expert_recovered"].transpose("direction", "layer", "expert", "interval")
    drawing, axes = plotting.canvas(2 * plotting.height_for(len(layers)), rows=2, titles=[*DIRECTIONS])
    top = np.ceil(100 * max(float(values.sel(interval="estimate").max()), 1e-3)) / 100
    for ax, way in zip(axes, DIRECTIONS, strict=True):
        at = values.sel(direction=way)
        around = (at.sel(interval="low") <= 0) & (at.sel(interval="high") >= 0)
        plotting.layer_expert_matrix(
            ax,
            at.sel(interval="estimate").values,
            layers,
            numbers,
            kind="magnitude",
            label="share of the gap",
            uncertain=around.values,
            limits=(0, top),
        )
    said = "; ".join(f"{_expert(cell)} {_said(cell)}" for cell in _strongest(one, MOST_NAMED))
    chosen = "; ".join(str(each) for each in one["chosen"].values)
    return Figure(
        name=f"experts_{name}",
        title=f"Which experts carry the answer: {name}",
        alt=f"Two matrices, layers by experts, of the share of the gap that comes back; the strongest: {said}.",
        caption="Share of the gap that comes back with the other prompt's weight times output of one expert. "
        f"Denoising, the strongest: {said}. Chosen for each half of the sources by the other half (layer.expert): "
        f"{chosen}; together they recover {_both(one, 'chosen_recovered')}, as many random experts of the same layers "
        f"{_both(one, 'random_recovered')}. {_rest(one)}",
        how_to_read="Hatched cells cannot be told from 0. A share below 0 has the colour of 0. Shares of experts do "
        "not add up: what one hands on others may hand on again.",
        drawing=drawing,
        data=_data(one, ["expert_recovered", "chosen_recovered", "random_recovered"]),
        names=[_expert(cell) for cell in _strongest(one, MOST_NAMED)],
    )


def _exchanged(one: xr.Dataset, name: str) -> Figure:
    rows, where = list(EXCHANGED), one["where"].values.tolist()
    drawing, axes = plotting.canvas(
        plotting.height_for(2 * len(rows)) + plotting.height_for(3 * len(where)),
        rows=2,
        titles=["Exchanged with the other prompt in all layers", "Routing, beside its controls"],
    )
    whole, order = one["exchanged_recovered"].sel(where=ALL), [*DIRECTIONS, EXCHANGED[0], ANOTHER, RANDOM]
    lines = [Series(way, *ends(whole.sel(direction=way))) for way in DIRECTIONS]
    plotting.dot_whiskers(axes[0], rows, lines, [Reference("nothing", 0.0)], x_label="share of the gap", order=order)
    left = one["gap_left"]
    lines = [Series(each, *ends(left.sel(change=each))) for each in (EXCHANGED[0], ANOTHER, RANDOM)]
    plotting.dot_whiskers(axes[1], where, lines, [Reference("all of it", 1.0)], x_label="gap that is left", order=order)
    controls = "; ".join(
        f"{each} {_said(left.sel(change=each, where=ALL))}" for each in (EXCHANGED[0], ANOTHER, RANDOM)
    )
    differ = ", ".join(
        f"{_said(cell)} (layer {int(cell['layer'])})" for cell in one["sets_differ"].transpose("layer", ...)
    )
    return Figure(
        name=f"exchanged_{name}",
        title=f"Routing, or what experts receive: {name}",
        alt="Dots with intervals of the share of the gap that exchanged routing and inputs bring back, and of the gap "
        f"that is left with other routing; in all layers: {controls}.",
        caption="Above: what the experts of all layers are handed, exchanged with the other prompt. Inputs are "
        "exchanged under the prompt's own routing. Below: what is left of the gap with other routing in both prompts: "
        f"{controls}. Random experts get the weights of the selected ones, {one.attrs['scrambles']} draws. Tokens from "
        f"the first changed one on that select other experts in the two prompts: {differ}. {_rest(one)}",
        how_to_read="If random experts leave the gap as it is, routing does not matter for this task at all, and that "
        "exchanged routing changes nothing says nothing.",
        drawing=drawing,
        data=_data(one, ["exchanged_recovered", "routing_share", "gap_left", "sets_differ"]),
    )


def _attribution(one: xr.Dataset, name: str) -> Figure:
    drawing, axes = plotting.canvas(3.8, columns=2, titles=[*DIRECTIONS])
    true = one["expert_recovered"].sel(interval="estimate").transpose("direction", "layer", "expert")
    for ax, way in zip(axes, DIRECTIONS, strict=True):
        y = true.sel(direction=way).values.ravel()
        said = one["attribution"].sel(direction=way).transpose("gradient", "layer", "expert")
        groups = {each: (said.sel(gradient=each).values.ravel(), y) for each in (BASE, INTEGRATED)}
        against(ax, groups, x_label="attributed share of the gap", y_label="true share of the gap")
    ranks = "; ".join(f"{each} {_both(one, 'rank_agreement', gradient=each)}" for each in one["gradient"].values)
    found = "; ".join(f"{each} {_both(one, 'top_overlap', gradient=each)}" for each in one["gradient"].values)
    null = _said(one["null_rank_agreement"].sel(gradient=BASE, direction=DIRECTIONS[0]))
    return Figure(
        name=f"attribution_{name}",
        title=f"Attribution against patching: {name}",
        alt=f"Scatter plots of the true share of the gap of {true.sizes['layer'] * true.sizes['expert']} experts over "
        "the attributed one, with the line of equality.",
        caption=f"Each point is an expert. Rank correlation with the true effect: {ranks}; with experts permuted "
        f"within layers {null}. Shared among the ten strongest: {found}. Integrated gradients take "
        f"{one.attrs['steps']} steps from the embedding of one prompt to that of the other. {_rest(one)}",
        how_to_read="The gradient is right for small changes only: points above the line are effects that it makes too "
        "small.",
        drawing=drawing,
        data=_data(one, ["agreement", "rank_agreement", "slope", "top_overlap", "expert_recovered", "attribution"]),
    )
