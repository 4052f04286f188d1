"""The page of the chapter interventions: figures, findings and words."""

import json

import pandas as pd
import xarray as xr

from gatebook.chapters.base.page import (
    BOOTSTRAP,
    Figure,
    Finding,
    Null,
    Seen,
    ends,
    estimate,
    held,
    rounded,
    side,
    verdict,
)
from gatebook.chapters.interventions import CONTROL, EXPERT, MATCHED
from gatebook.chapters.interventions.measure import table
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Series
from gatebook.figures.words import format_estimate, format_number

NO_DIFFERENCE = Null("matched control", 0.0)
WEAKER = 0.9
"""A control with less than so much of the weight is told as weaker."""
STATES = ("before", "after", "control")
X_LABEL = {
    "weight": "factor of the routing weight",
    "logit": "added to the logit",
    "score": "removed",
}


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics: doses, sizes, and the next tokens of each prompt."""
    prompts = [one for one in _told(seen.metrics) if one["prompt"]]
    return [_doses(seen.metrics), _sizes(seen.metrics), *map(_tokens, prompts, range(len(prompts)))]


def findings(seen: Seen) -> list[Finding]:
    """A row for each change in a dataset; what is measured on a prompt, one text, answers no question about others."""
    found = [_finding(seen, name) for name in seen.metrics["intervention"].values.tolist()]
    return [one for one in found if one.is_known]


def _told(metrics: xr.Dataset) -> list[dict]:
    """What came out beside the measures, see `measure.described`."""
    return json.loads(metrics.attrs["told"])


def _at(metrics: xr.Dataset, name: str) -> xr.Dataset:
    """The metrics of one change at the dose that was asked for."""
    one = metrics.sel(intervention=name)
    return one.isel(dose=int(one["asked_dose"]))


def change(one: xr.Dataset) -> str:
    """A change in words, of the metrics of one."""
    dose, stage = float(one["dose_value"]), one["stage"].item()
    doing = {
        "weight": f"the weight times {format_number(dose)}",
        "logit": f"{format_number(dose)} added to the logit",
        "score": "removed before selection",
    }[stage]
    return f"layer {int(one['layer'])} expert {int(one['expert'])}, {doing}"


def _finding(seen: Seen, name: str) -> Finding:
    one = _at(seen.metrics, name)
    found = held(estimate(one["excess_kl"]), NO_DIFFERENCE, seen.thresholds["kl_effect"])
    own, control = (estimate(one["kl"].sel(who=who)) for who in (MATCHED, CONTROL))
    weights = [format_number(round(float(one["weight"].sel(who=who)), 3)) for who in (MATCHED, CONTROL)]
    return Finding(
        question=f"Does {change(one)}, change predictions in {one['on_dataset'].item()} more than its control?",
        answer=f"By {rounded(own)} nats a token, the control by {rounded(control)}; mean weights {weights[0]} and "
        f"{weights[1]}, {100 * float(one['matched_share']):.0f} % of its tokens have a control.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a paired difference above 0",
        unit="nats per token",
        figure="doses",
        measure="excess_kl",
        n=int(one["clusters"]),
        n_unit=f"clusters, {int(one['tokens'].sel(who=MATCHED)):,} matched tokens",
        **found,
    )


def _rest(metrics: xr.Dataset) -> str:
    """What figures rest on, for their captions."""
    tokens = ", ".join(
        f"{(number := int(metrics['tokens'].sel(intervention=name, who=EXPERT))):,} token{'s' if number != 1 else ''}"
        + (f" of {int(clusters):,} clusters" if (clusters := metrics["clusters"].sel(intervention=name)) else "")
        + f" ({name})"
        for name in metrics["intervention"].values.tolist()
    )
    method = f"{100 * metrics.attrs['confidence']:g} % {BOOTSTRAP}"
    return f"n = {tokens}; intervals: {method}, none on a prompt."


def _doses(metrics: xr.Dataset) -> Figure:
    panels, labels = [], set()
    for name in metrics["intervention"].values.tolist():
        one = metrics.sel(intervention=name)
        known = one["dose_value"].notnull().values
        one = one.isel(dose=known)
        lines = [Series(who, *ends(one["kl"].sel(who=who))) for who in (EXPERT, MATCHED, CONTROL)]
        lines = lines if one["on_dataset"].item() else [lines[0], lines[2]]
        panels.append(Panel(name, one["dose_value"].values, lines, [], "nats per token"))
        labels.add(X_LABEL[one["stage"].item()])
    said = "; ".join(f"{name} {_beside(_at(metrics, name))}" for name in metrics["intervention"].values.tolist())
    return Figure(
        name="doses",
        title="How much predictions change with the dose",
        alt=f"Curves of the divergence of next-token predictions over the dose, beside a control: {said}.",
        caption="Divergence of the next-token probabilities at the changed tokens, before from after, of the expert "
        f"and of its matched control. At the dose that was asked for: {said}. {_rest(metrics)}",
        how_to_read="At factor 1, or 0 added, nothing changes. Where the control is as high, the change does what it "
        "does because of the weight that is changed, and not because of the expert.",
        drawing=plotting.small_multiples(
            panels,
            columns=2,
            panel_height=2.1,
            share_y=False,
            x_label=" or ".join(sorted(labels)),
            y_limits=(0, None),
            order=[EXPERT, MATCHED, CONTROL],
            draw=plotting.curves,
        ),
        data=table(metrics),
    )


def _beside(one: xr.Dataset) -> str:
    """The divergence of a change and of its control."""
    own, control = (" ".join(format_estimate(*estimate(one["kl"].sel(who=who)))) for who in (MATCHED, CONTROL))
    own, control = (text.replace(" interval not available", "") for text in (own, control))
    return f"{own}, control {control}"


def _sizes(metrics: xr.Dataset) -> Figure:
    names = metrics["intervention"].values.tolist()
    drawing, axes = plotting.canvas(
        2 * plotting.height_for(1.5 * len(names)), rows=2, titles=["At the changed tokens", "At later tokens"]
    )
    at = xr.concat([_at(metrics, name).drop_vars("dose") for name in names], dim="intervention")
    for ax, measure in zip(axes, ("kl", "kl_after"), strict=True):
        lines = [Series(who, *ends(at[measure].sel(who=who))) for who in (EXPERT, MATCHED, CONTROL)]
        plotting.dot_whiskers(ax, names, lines, x_label="divergence (nats per token)", x_limits=(0, None))
    weights = "; ".join(f"{name}: {change(_at(metrics, name))}, {control_of(metrics, name)}" for name in names)
    return Figure(
        name="sizes",
        title="What was asked for, beside its control",
        alt=f"Dots with whiskers of the divergence at the changed tokens and at later ones, of {len(names)} changes: "
        "of the expert, of its matched tokens, and of the control.",
        caption=f"Divergence of the next-token probabilities, before from after. {weights}. {_rest(metrics)}",
        how_to_read="Compare matched tokens with the control: they have as much weight. The expert alone has tokens to "
        "which no control has as much.",
        drawing=drawing,
        data=table(metrics),
    )


def control_of(metrics: xr.Dataset, name: str) -> str:
    """What stands beside a change as its control, in words."""
    _, own, control = (float(each) for each in metrics["weight"].sel(intervention=name))
    share = float(metrics["matched_share"].sel(intervention=name))
    if not share > 0:
        return "for which no other expert can stand in"
    text = f"mean weight {format_number(round(own, 3))} against {format_number(round(control, 3))} of the control"
    text += f", {100 * share:.0f} % of the tokens matched"
    return text + (", so that a part of the difference may be that of the weights" if control < WEAKER * own else "")


def _tokens(one: dict, number: int) -> Figure:
    last = one["predicted"][-1]
    rows = pd.DataFrame(last["tokens"])
    drawing, (ax,) = plotting.canvas(plotting.height_for(1.4 * len(rows)))
    lines = [Series(state, rows[state].values) for state in STATES]
    plotting.dot_whiskers(
        ax,
        [f"“{token}”" for token in rows["token"]],
        lines,
        x_label="probability of the next token",
        x_limits=(0, None),
    )
    weights = one["weight"]
    text = ""
    if one["written"]:
        quoted = (f"{state}: “{' '.join(part.split())}”" for state, part in zip(STATES, one["written"], strict=True))
        text = f" What the model writes, {'; '.join(quoted)}."
    of = f"layer {one['layer']}, expert {one['expert']}"
    control = f" (weight {_weight(weights[MATCHED])}; control: experts {', '.join(one['controls'])}, "
    control += f"{_weight(weights[CONTROL])})" if one["controls"] else ""
    return Figure(
        name=f"tokens_{number}",
        title=f"Next tokens: {one['name']}",
        alt=f"Dots of the probabilities of the next tokens of a prompt, before and after a change of {of}, and with "
        "the control.",
        caption=f"The likeliest tokens after “{_end(one)}”, before and after the change at {one['where']}{control}. "
        f"n = 1 text, which has no interval.{text}",
        how_to_read="The control is the same change of the other selected expert with the nearest weight. What it does "
        "as well is no work of this expert.",
        drawing=drawing,
        data=pd.concat([pd.DataFrame(each["tokens"]).assign(place=each["place"]) for each in one["predicted"]]),
        names=[of],
    )


def _weight(value: float | None) -> str:
    return "none" if value is None else format_number(round(value, 3))


def _end(one: dict) -> str:
    """The end of a prompt in one line."""
    text = " ".join(one["prompt"].split())
    return text if len(text) <= 60 else f"… {text[-60:]}"
