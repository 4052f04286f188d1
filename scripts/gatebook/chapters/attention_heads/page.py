"""The page of the chapter attention heads: figures and findings."""

import json

import numpy as np
import xarray as xr

from gatebook.chapters.attention_heads import DIRECTIONS, INHIBITION, NAME_MOVER, NAMED, NEGATIVE, SCORES
from gatebook.chapters.base.page import (
    BOOTSTRAP,
    MOST_NAMED,
    ORDER,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    checkpoints,
    estimate,
    held,
    percent,
    pooled,
    reference,
    rounded,
    side,
    verdict,
)
from gatebook.figures import plotting
from gatebook.figures.plotting import Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import table

LOSSES = {
    "first_loss": "first half",
    "repeated_loss": "the same again",
    "shuffled_loss": "the same in another order",
    "new_loss": "other tokens",
}
GAINS = {"induction_gain": "by the order", "repetition_gain": "by the tokens"}
OF_SCORES = ["head_score", "head_score_null", "head_score_beyond", "strongest_score", "strongest_beyond"]


def figures(seen: Seen) -> list[Figure]:
    """The losses, what heads look at, and for each task what they carry, write and look at."""
    found = [_losses(seen)]
    if seen.metrics.attrs["heads_unknown"]:
        return found
    found.append(_scores(seen))
    for task in seen.metrics["task"].values:
        found.append(_carried(seen.metrics, str(task)))
        found.append(_parts(seen, str(task)))
    return found


def findings(seen: Seen) -> list[Finding]:
    """Whether the model continues what is repeated, which heads have a name, and what they do for tasks."""
    found = [_finding_gain(seen)]
    if not seen.metrics.attrs["heads_unknown"]:
        found += [_finding_score(seen, score) for score in SCORES]
        for task in map(str, seen.metrics["task"].values):
            found.append(_finding_carried(seen, task))
            if _has_names(seen.metrics, task):
                found.append(_finding_movers(seen, task))
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """Whether the model continues what is repeated, and by which heads."""
    gain = _finding_gain(seen)
    if not gain.is_known:
        return None
    heads = named(seen, "induction")
    if gain.verdict != "yes":
        return Brief("The model does not continue random tokens that are repeated.", gain.figure)
    who = f"by {_list(heads)}" if heads else "though no head passes the threshold of an induction head"
    gained = rounded((gain.estimate, gain.low, gain.high))
    text = f"The model continues random tokens that are repeated, {who}: it gains {gained} nats per token."
    return Brief(text, gain.figure)


def named(seen: Seen, score: str) -> list[tuple[int, int]]:
    """The heads that have the name of a score: (layer, head), the highest score first."""
    metrics = seen.metrics.sel(score=score)
    value, low = (
        metrics[name].sel(interval=part) for name, part in (("head_score", "estimate"), ("head_score_beyond", "low"))
    )
    chosen = (
        (value >= seen.thresholds[score]) & (low > 0) & (metrics["q_value"] <= seen.thresholds["false_discovery_rate"])
    )
    return _heads(chosen, value)


def parts_of(seen: Seen, task: str) -> dict[str, list[tuple[int, int]]]:
    """The heads that have a part in a task with names, by the name of the part."""
    metrics, fixed = seen.metrics.sel(task=task), seen.thresholds
    looks = metrics["role_attention"].sel(interval="estimate") >= fixed["role_attention"]
    at_name = looks.sel(role="IO", drop=True) & (metrics["mover_attention"].sel(interval="low", drop=True) > 0)
    written, least = metrics["direct_effect_beyond"], fixed["direct_share"] * abs(float(metrics["gap"]))
    value, low, high = (written.sel(interval=part, drop=True) for part in ("estimate", "low", "high"))
    inhibited = metrics["inhibition"]
    inhibits = (inhibited.sel(interval="estimate", drop=True) >= fixed["inhibited"]) & (
        inhibited.sel(interval="low", drop=True) > 0
    )
    return {
        NAME_MOVER: _heads(at_name & (value >= least) & (low > 0), value),
        NEGATIVE: _heads(at_name & (value <= -least) & (high < 0), -value),
        INHIBITION: _heads(looks.sel(role="S2", drop=True) & inhibits, inhibited.sel(interval="estimate", drop=True)),
    }


def _heads(chosen: xr.DataArray, value: xr.DataArray) -> list[tuple[int, int]]:
    """Layer and head where `chosen` (layer, head), the largest value first."""
    places = np.argwhere(chosen.transpose("layer", "head").values)
    size = value.transpose("layer", "head").values
    order = sorted(places.tolist(), key=lambda place: -size[tuple(place)])
    return [(int(chosen["layer"][layer]), head) for layer, head in order]


def _list(heads: list[tuple[int, int]]) -> str:
    """Heads by their names, or the first of them and how many more there are."""
    texts = [f"head {head} of layer {layer}" for layer, head in heads[:MOST_NAMED]]
    rest = len(heads) - len(texts)
    return ", ".join(texts) + (f" and {rest} more" if rest else "")


def _has_names(metrics: xr.Dataset, task: str) -> bool:
    return set(NAMED) <= set(metrics["role"].values) and bool(metrics["mover_attention"].sel(task=task).notnull().any())


def _sequences(metrics: xr.Dataset) -> str:
    how = f"{100 * metrics.attrs['confidence']:g} % {BOOTSTRAP}"
    return f"n = {int(pooled(metrics['documents']).item()):,} sequences; intervals: {how}."


def _pairs(metrics: xr.Dataset, task: str) -> str:
    here = metrics.sel(task=task)
    how = f"{100 * metrics.attrs['confidence']:g} % {BOOTSTRAP}"
    return f"n = {int(here['pairs'])} pairs of {int(here['sources'])} sources; intervals: {how}."


def _not_done(metrics: xr.Dataset) -> str:
    """Which tasks the model does not do, as sentences."""
    reasons = json.loads(metrics.attrs["not_done"])
    return "".join(f" The model does not do {task}: {reason}." for task, reason in reasons.items())


def _finding_gain(seen: Seen) -> Finding:
    null = Null("the same tokens in another order", 0.0)
    found = held(estimate(pooled(seen.metrics["induction_gain"])), null, seen.thresholds["gain_effect"])
    least = seen.thresholds["gain_effect"][0]
    seen_before = format_estimate(*estimate(pooled(seen.metrics["repetition_gain"])))
    return Finding(
        question="Does the model continue what is repeated?",
        answer=f"Random tokens that come again in the same order gain {rounded(found)} nats per token over another "
        f"order; that the tokens were seen before gains {' '.join(seen_before)}.{_not_done(seen.metrics)}",
        verdict=verdict(side(found, least), yes="above"),
        verdict_text=f"yes means a gain above {format_number(least)} nats; heads that copy without regard to order may "
        "gain less than that by where tokens stand",
        unit="nats per token",
        figure="losses",
        n=int(pooled(seen.metrics["documents"])),
        n_unit="sequences",
        measure="induction_gain",
        **found | reference(seen, lambda metrics: estimate(pooled(metrics["induction_gain"]))),
    )


def _finding_score(seen: Seen, score: str) -> Finding:
    metrics, name, threshold = seen.metrics.sel(score=score), SCORES[score], seen.thresholds[score]
    chance = "attention spread evenly" if score == "previous_token" else "the same head where nothing is repeated"
    value = estimate(pooled(metrics["strongest_score"]))
    found = held(estimate(pooled(metrics["strongest_beyond"])), Null(chance, 0.0), seen.thresholds["score_effect"])
    heads = named(seen, score)
    who = f"Named so: {_list(heads)}." if heads else "No head is named so."
    few = "no" if value[2] < threshold else "unclear"
    return Finding(
        question=f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name} head?",
        answer=f"{who} The strongest head, found in other sequences, has a score of {rounded(value)}, "
        f"{rounded(found)} of it beyond chance; a name needs {format_number(threshold)}.",
        verdict="yes" if heads else few,
        verdict_text="yes means that a head has the name, no that the strongest one is below the threshold by its "
        "interval",
        unit="of the attention",
        figure="scores",
        n=int(pooled(metrics["documents"])),
        n_unit="sequences",
        measure="strongest_beyond",
        **found | reference(seen, lambda other: estimate(pooled(other["strongest_beyond"].sel(score=score)))),
    )


def _finding_carried(seen: Seen, task: str) -> Finding:
    here = seen.metrics.sel(task=task)
    back, lost = (here["strongest_recovered"].sel(direction=each) for each in DIRECTIONS)
    found = held(estimate(back), Null("no change", 0.0), seen.thresholds["carried_effect"])
    sure = (
        here["recovered"].sel(direction=DIRECTIONS[0], interval="low") >= seen.thresholds["carried_effect"][0]
    ).values
    return Finding(
        question=f"Does a single head carry the task {task}?",
        answer=f"The strongest one, found in other pairs, brings back {percent(found)} of the difference between both "
        f"prompts, and {percent(estimate(lost))} is lost without it. {int(sure.sum())} of {sure.size} heads bring back "
        f"more than {format_number(100 * seen.thresholds['carried_effect'][0])} % by their intervals.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than nothing",
        unit="of the difference",
        figure=f"carried_{task}",
        n=int(here["sources"]),
        n_unit=f"sources, {int(here['pairs'])} pairs",
        measure="strongest_recovered",
        **found,
    )


def _finding_movers(seen: Seen, task: str) -> Finding:
    here, roles = seen.metrics.sel(task=task), parts_of(seen, task)
    most = here["direct_effect_beyond"].sel(interval="estimate").transpose("layer", "head")
    place = np.unravel_index(int(np.nanargmax(most.values)), most.shape)
    value = estimate(here["direct_effect_beyond"].isel(layer=place[0], head=place[1]))
    gap = float(here["gap"])
    found = held(value, Null("writes the same in both prompts", 0.0), seen.thresholds["carried_effect"], scale=gap)
    texts = [f"{name}: {_list(heads) if heads else 'none'}" for name, heads in roles.items()]
    return Finding(
        question=f"Which heads move names in {task}?",
        answer=f"{'; '.join(texts)}. Head {place[1]} of layer {int(here['layer'][place[0]])} writes most, "
        f"{rounded(found)} of {format_number(gap)} logits between both prompts.",
        verdict="yes" if roles[NAME_MOVER] else "no",
        verdict_text="yes means that a head looks at the right name more than at the other, and writes it",
        unit="logits",
        figure=f"parts_{task}",
        n=int(here["sources"]),
        n_unit=f"sources, {int(here['pairs'])} pairs",
        measure="direct_effect_beyond",
        **found,
    )


def _losses(seen: Seen) -> Figure:
    metrics = seen.metrics
    known = checkpoints(metrics, seen.untrained)
    drawing, axes = plotting.canvas(4.6, rows=2)
    for ax, names, references, label in (
        (axes[0], LOSSES, [], "loss (nats per token)"),
        (axes[1], GAINS, [Reference("no gain", 0.0)], "gain (nats per token)"),
    ):
        lines = [
            Series(
                of, *(np.array(each) for each in zip(*(estimate(pooled(source[name])) for name in names), strict=True))
            )
            for of, source in known.items()
        ]
        plotting.dot_whiskers(ax, list(names.values()), lines, references, x_label=label, order=ORDER)
    value, bounds = format_estimate(*estimate(pooled(metrics["induction_gain"])))
    unknown = metrics.attrs["heads_unknown"]
    return Figure(
        name="losses",
        title="Random tokens, repeated",
        alt="Dots with whiskers of the loss on the first half of random sequences and on second halves that are the "
        f"same, in another order, or other tokens; the order of the repetition gains {value} nats per token.",
        caption=f"The order of a repetition gains {value} {bounds} nats per token.{_not_done(metrics)} "
        f"{f'Heads are not measured: {unknown} ' if unknown else ''}{_sequences(metrics)}",
        how_to_read="A model that continues what is repeated loses less where the same comes again than where it "
        "comes in another order. Random tokens are hard: a trained model expects text and may lose more on them than "
        "an untrained one.",
        drawing=drawing,
        data=table(metrics, [*LOSSES, *GAINS]),
    )


def _scores(seen: Seen) -> Figure:
    metrics = seen.metrics
    layers, heads = metrics["layer"].values, metrics["head"].values
    height = len(SCORES) * (plotting.height_for(len(layers)) - 0.3)
    drawing, axes = plotting.canvas(height, rows=len(SCORES), titles=[f"{name} score" for name in SCORES.values()])
    for ax, score in zip(axes, SCORES, strict=True):
        here = metrics.sel(score=score)
        value, low = (
            here[name].sel(interval=part) for name, part in (("head_score", "estimate"), ("head_score_beyond", "low"))
        )
        _matrix(ax, value, ~(low > 0), layers, heads, "share of the attention", {"threshold": seen.thresholds[score]})
    texts = [f"{name}: {_list(named(seen, score)) or 'none'}" for score, name in SCORES.items()]
    best = {score: estimate(pooled(metrics["strongest_score"].sel(score=score)))[0] for score in SCORES}
    return Figure(
        name="scores",
        title="What heads look at in repeated random tokens",
        alt="Matrices of layers by heads of the attention to the token before, to the same token in the first half, "
        "and to the token after that; the strongest heads have "
        f"{', '.join(f'{value:.2f}' for value in best.values())}.",
        caption=f"Heads with a name: {'; '.join(texts)}. All others have none. {_sequences(metrics)}",
        how_to_read="Hatched cells are not above chance by their interval. A cell needs the threshold, too, to have "
        "a name: attention that is above chance but small is no head's main business.",
        drawing=drawing,
        data=table(metrics, OF_SCORES),
    )


def _matrix(ax, value: xr.DataArray, uncertain: xr.DataArray, layers, heads, label: str, nulls: dict) -> None:
    shown = value.transpose("layer", "head").values
    known = shown[np.isfinite(shown)]
    low, high = (min(known.min(), 0), max(known.max(), 0)) if known.size else (0, 1)
    plotting.matrix(
        ax,
        shown,
        layers,
        heads,
        kind="magnitude",
        label=label,
        uncertain=uncertain.transpose("layer", "head").values,
        limits=(low, high if high > low else low + 1),
        nulls=nulls,
        annotate="z.2f",
        y_label="Layer",
        x_label="Head",
    )


def _carried(metrics: xr.Dataset, task: str) -> Figure:
    here = metrics.sel(task=[task])
    layers, heads = metrics["layer"].values, metrics["head"].values
    names = ["denoising: brought back", "noising: lost", "written, clean minus corrupt"]
    drawing, axes = plotting.canvas(3 * (plotting.height_for(len(layers)) - 0.3), rows=3, titles=names)
    values = [here["recovered"].sel(task=task, direction=each) for each in DIRECTIONS]
    values.append(here["direct_effect_beyond"].sel(task=task))
    for ax, each, label in zip(axes, values, ["share of the difference"] * 2 + ["logits"], strict=True):
        around = (each.sel(interval="low") <= 0) & (each.sel(interval="high") >= 0)
        _matrix(ax, each.sel(interval="estimate"), around, layers, heads, label, {})
    text, bounds = format_estimate(*estimate(here["strongest_recovered"].sel(task=task, direction=DIRECTIONS[0])))
    unknown = metrics.attrs["direct_unknown"]
    return Figure(
        name=f"carried_{task}",
        title=f"What heads do for {task}",
        alt=f"Matrices of layers by heads of the share of {task} that one head brings back or takes away, and of "
        f"what it writes for the answer itself; the strongest head brings back {text}.",
        caption="The output of one head, at all positions, from the other prompt of a pair. The strongest head "
        f"brings back {text} {bounds} of the difference of {format_number(here['gap'].item())} logits, in pairs in "
        "which it was not chosen. "
        f"{f'What heads write is not available: {unknown}. ' if unknown else ''}{_pairs(metrics, task)}",
        how_to_read="Hatched cells do not differ from 0 by their interval. Where much is brought back and little is "
        "written, the head hands on what others write. The two directions differ where other heads stand in.",
        drawing=drawing,
        data=table(here, ["recovered", "strongest_recovered", "direct_effect", "direct_effect_beyond"]),
    )


def _parts(seen: Seen, task: str) -> Figure:
    here = seen.metrics.sel(task=[task])
    looks = here["role_attention"].sel(task=task)
    layers, heads = here["layer"].values, here["head"].values
    roles = [str(role) for role in looks["role"].values if looks.sel(role=role).notnull().any()]
    titles, values = [f"attention to {role}" for role in roles], [looks.sel(role=role) for role in roles]
    inhibition = here["inhibition"].sel(task=task)
    if inhibition.notnull().any():
        titles, values = [*titles, "inhibition of name movers"], [*values, inhibition]
    drawing, axes = plotting.canvas(
        len(values) * (plotting.height_for(len(layers)) - 0.3), rows=len(values), titles=titles
    )
    for ax, each, title in zip(axes, values, titles, strict=True):
        around = (each.sel(interval="low") <= 0) & (each.sel(interval="high") >= 0)
        label = "share of the attention" if title.startswith("attention") else "share of the attention of name movers"
        _matrix(ax, each.sel(interval="estimate"), around, layers, heads, label, {})
    most = float(looks.sel(role="changed", interval="estimate").max())
    said = ""
    if _has_names(seen.metrics, task):
        texts = [f"{name}: {_list(found) if found else 'none'}" for name, found in parts_of(seen, task).items()]
        said = f"{'; '.join(texts)}. ".capitalize()
    return Figure(
        name=f"parts_{task}",
        title=f"Where heads look when {task} is answered",
        alt="Matrices of layers by heads of the attention of the last token to parts of the prompt; at most "
        f"{most:.2f} of a head's attention goes to the token that was changed.",
        caption=f"Attention of the last token. {said}{_pairs(seen.metrics, task)}",
        how_to_read="A head may read, in the token that it looks at, what other heads have brought there. Looking is "
        "not yet using: compare with what the head does.",
        drawing=drawing,
        data=table(here, ["role_attention", "mover_attention", "inhibition"]),
    )
