"""The page of the chapter agreement: figures, findings and words."""

import json

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.agreement import MEASURES
from gatebook.chapters.agreement.survival import CHAPTERS, QUESTIONS
from gatebook.chapters.base.page import (
    JACKKNIFE,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    counts_text,
    effect_class,
    ends,
    lies,
    numbers,
    over_layers,
    percent,
    rounded,
    sample_size,
    side,
    verdict,
)
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import interval_table, table
from gatebook.measures.uncertainty import INTERVAL, POOLED

NOTHING_DIFFERS = Null("nothing differs", 1.0)
NOTHING = Null("the margin says nothing", 0.5)
EQUAL = Reference("equal routing", 1.0)
BY_LAYER = {"equal_sets": "tokens", "equal_first": "tokens", "kept_experts": "experts", "agreement": "agreement"}
MOST_RUNS = 4
"""Of so many runs single experts are drawn; the CSV has all."""


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter."""
    metrics = seen.metrics
    shown = [_agreement(metrics), _by_layer(metrics), _by_dataset(metrics), _margins(metrics)]
    shown += [_experts(metrics, second) for second in _others(metrics)[:MOST_RUNS] if _differs(metrics, second)]
    return [*shown, _findings(metrics)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings, three for each run; those that are not known are left out."""
    others = _others(seen.metrics)
    found = [ask(seen, second) for second in others for ask in ASKED]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """The run that differs most, and how many findings it changes."""
    known = {second: over_layers(_of(seen, second).metrics, "agreement") for second in _others(seen.metrics)}
    known = {second: value for second, value in known.items() if np.isfinite(value).all()}
    if not known:
        return None
    second = min(known, key=lambda name: known[name][0])
    text = f"Against {seen.metrics.attrs['first']}, {second} agrees {percent(known[second])} on where tokens go, "
    text += f"beyond chance, the least of {len(known)}." if len(known) > 1 else "beyond chance."
    kept, asked = _survived(seen.metrics, second)
    return Brief(text, "agreement", f"There {kept} of {asked} findings have the same verdict.")


def _others(metrics: xr.Dataset) -> list[str]:
    """The runs that are held against the first one, without untrained ones, which are references."""
    untrained = json.loads(metrics.attrs["untrained"])
    names = metrics["second"].values.astype(str).tolist()
    return [name for name in names if name not in untrained] or names


def _of(seen: Seen, second: str) -> Seen:
    return seen.sel(second=second)


def _differs(metrics: xr.Dataset, second: str) -> bool:
    """Whether any token goes elsewhere."""
    value = metrics["equal_sets"].sel(second=second, dataset=POOLED, interval="estimate")
    return bool((value < 1).any())


def _text(metrics: xr.Dataset) -> str:
    left_out = int(metrics.attrs["left_out"])
    missing = f" {left_out:,} tokens that not all runs have are left out." if left_out else ""
    return f"{counts_text(metrics, JACKKNIFE)}{missing}"


def _reference(metrics: xr.Dataset, name: str) -> dict:
    """What an untrained checkpoint has, as the reference of a finding, if it is among the runs."""
    for run in json.loads(metrics.attrs["untrained"]):
        if run in metrics["second"] and np.isfinite(value := over_layers(metrics.sel(second=run), name)[0]):
            return {"reference_name": run, "reference_value": value}
    return {}


def _finding_alike(seen: Seen, second: str) -> Finding:
    mine, threshold, first = _of(seen, second), seen.thresholds["equal"], seen.metrics.attrs["first"]
    found = numbers(mine, "agreement", NOTHING_DIFFERS, "agreement_effect", threshold=threshold)
    equal = over_layers(mine.metrics, "equal_sets")
    return Finding(
        question=f"Are tokens routed alike in {first} and {second}?",
        answer=f"They agree {percent(found)} beyond chance; {percent(equal)} of the tokens have equal sets.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means an agreement above {format_number(threshold)}",
        unit="of a token's experts, corrected for chance",
        figure="agreement",
        **found | _reference(seen.metrics, "agreement"),
    )


def _finding_margin(seen: Seen, second: str) -> Finding:
    mine, first = _of(seen, second), seen.metrics.attrs["first"]
    found = numbers(mine, "margin_tells", NOTHING, "margin_effect")
    kept, changed = (over_layers(mine.metrics, f"margin_{part}") for part in ("kept", "changed"))
    return Finding(
        question=f"Are the decisions that flip from {first} to {second} the closest ones?",
        answer=f"The margin of a token that flips is the smaller one in {percent(found)} of pairs with one that does "
        f"not; it is {rounded(changed)} against {rounded(kept)} on average.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more often than not",
        unit="of pairs",
        figure="margins",
        **found | _reference(seen.metrics, "margin_tells"),
    )


def _finding_survival(seen: Seen, second: str) -> Finding:
    kept, asked = _survived(seen.metrics, second)
    changed = answers(seen.metrics).query("run == @second and survives == 'no'")
    words = [f"“{row.finding}” is {row.verdict} and was {row.first_verdict}" for row in changed.itertuples()]
    return Finding(
        question=f"Do findings of the study survive in {second}?",
        answer=f"{kept} of {asked} have the same verdict as in {seen.metrics.attrs['first']}"
        f"{': ' if words else ''}{'; '.join(words)}.",
        unit="of the findings on load, domains and pairs",
        null_name="all survive",
        null_value=1.0,
        verdict="yes" if kept == asked else "no",
        verdict_text="yes means that no verdict differs",
        **_share(seen, second, "share_surviving", 1),
    )


def _finding_moved(seen: Seen, second: str) -> Finding:
    moved = answers(seen.metrics).query("run == @second and moves == 'yes'")
    asked = _survived(seen.metrics, second)[1]
    of = f": {', '.join(moved['measure'].str.replace('_', ' '))}" if len(moved) else ""
    return Finding(
        question=f"Do the numbers behind the findings differ in {second}?",
        answer=f"{len(moved)} of {asked} differ from {seen.metrics.attrs['first']} beyond their paired intervals{of}.",
        unit="of the numbers behind these findings",
        null_name="none differs",
        null_value=0.0,
        verdict="yes" if len(moved) else "no",
        verdict_text="yes means that any interval of a difference holds no 0",
        **_share(seen, second, "share_moving", 0),
    )


def _share(seen: Seen, second: str, name: str, null: float) -> dict:
    """A share of the findings that a run knows, as numbers of a finding; it is of these alone, without an interval."""
    shares = answers(seen.metrics).groupby("run")[name].first()
    share = float(shares[second])
    untrained = [run for run in json.loads(seen.metrics.attrs["untrained"]) if run in shares and run != second]
    reference = {"reference_name": untrained[0], "reference_value": float(shares[untrained[0]])} if untrained else {}
    effect = effect_class([abs(share - null)] * 3, seen.thresholds["findings_effect"])
    found = {"estimate": share, "low": share, "high": share, "effect": effect, "figure": "findings"}
    return found | reference | sample_size(seen.metrics)


ASKED = (_finding_alike, _finding_margin, _finding_survival, _finding_moved)


def answers(metrics: xr.Dataset) -> pd.DataFrame:
    """The findings that are made anew, a row for each run and finding that it knows.

    Columns: finding, measure, run, estimate, low, high, against_low, against_high, difference (from the first run) with
    its low and high, verdict, first_verdict, survives (yes or no), moves (whether the difference holds no 0); and
    share_surviving and share_moving of the run.
    """
    rows, first = [], str(metrics["each"].values[0])
    for question in QUESTIONS:
        of_first = None
        for run in metrics["each"].values.astype(str):
            at = {"each": run, "finding": question.words}
            value, against, apart = (
                metrics[f"finding_{part}"].sel(at).values for part in ("value", "against", "difference")
            )
            place = lies(*value[1:], *against[1:]) if np.isfinite(value).all() else "around"
            said = verdict(place, question.yes)
            of_first = said if run == first else of_first
            row = {"finding": question.words, "measure": question.measure, "run": run}
            row |= dict(zip(INTERVAL, value, strict=True)) | {"against_low": against[1], "against_high": against[2]}
            row |= dict(zip(("difference", "difference_low", "difference_high"), apart, strict=True))
            row |= {"verdict": said, "first_verdict": of_first, "survives": "yes" if said == of_first else "no"}
            row |= {"moves": "no" if lies(*apart[1:], 0) == "around" else "yes"}
            rows.append(row)
    found = pd.DataFrame(rows)
    found = found[np.isfinite(found["estimate"])].reset_index(drop=True)
    for name, of in {"share_surviving": "survives", "share_moving": "moves"}.items():
        found[name] = (found[of] == "yes").groupby(found["run"]).transform("mean")
    return found


def _survived(metrics: xr.Dataset, second: str) -> tuple[int, int]:
    """How many findings have the verdict of the first run, and how many are known."""
    mine = answers(metrics).query("run == @second")
    return int((mine["survives"] == "yes").sum()), len(mine)


def _said(metrics: xr.Dataset, name: str) -> str:
    parts = []
    for second in metrics["second"].values.astype(str):
        value = over_layers(metrics.sel(second=second), name)
        if np.isfinite(value[0]):
            parts.append(f"{second} {' '.join(format_estimate(*value)).strip()}")
    return f": {', '.join(parts)}" if parts else ""


def _agreement(metrics: xr.Dataset) -> Figure:
    rows = metrics["second"].values.astype(str).tolist()
    drawing, axes = plotting.canvas(2 * plotting.height_for(len(rows)), rows=2)
    panels = {"agreement": ("agreement, corrected for chance", EQUAL), "equal_sets": ("tokens with equal sets", EQUAL)}
    for ax, (name, (label, reference)) in zip(axes, panels.items(), strict=True):
        lines = [Series("run", *ends(metrics[f"mean_over_layers_{name}"].sel(dataset=POOLED)))]
        plotting.dot_whiskers(ax, rows, lines, [reference], x_label=label)
    said, first = _said(metrics, "agreement"), metrics.attrs["first"]
    chance = float(metrics["null_equal_sets"].sel(dataset=POOLED).mean())
    return Figure(
        name="agreement",
        title=f"How far runs agree with {first}",
        alt=f"Dots with intervals of the agreement of runs with {first}, and of the share of tokens with equal sets, "
        f"mean over layers{said or ', not available'}.",
        caption=f"Agreement with {first}, mean over layers{said}. Of tokens that are paired at random "
        f"{format_number(100 * chance)} % have equal sets. {_text(metrics)}",
        how_to_read="1 is equal routing, and 0 in the first panel what loads alone give. An untrained checkpoint shows "
        "what routing that has little in common looks like.",
        drawing=drawing,
        data=table(metrics, ["agreement", "equal_sets"]),
    )


def _by_layer(metrics: xr.Dataset) -> Figure:
    others, panels = _others(metrics), []
    for name, label in BY_LAYER.items():
        lines = [Series(run, *ends(metrics[name].sel(second=run, dataset=POOLED))) for run in others]
        panels.append(Panel(MEASURES[name].title, metrics["layer"].values, lines, [], label))
    drawing = plotting.small_multiples(panels, columns=2, panel_height=2.0, share_y=False, order=others)
    said = _said(metrics.sel(second=others), "equal_sets")
    return Figure(
        name="by_layer",
        title="Where routing differs",
        alt=f"Line charts over layers of {len(BY_LAYER)} measures of agreement with {metrics.attrs['first']}; tokens "
        f"with equal sets, mean over layers{said or ', not available'}.",
        caption=f"Agreement with {metrics.attrs['first']} by layer, all datasets pooled; tokens with equal sets, mean "
        f"over layers{said}. {_text(metrics)}",
        how_to_read="Each panel has its own scale. What differs in one layer changes what the next one reads, so that "
        "differences add up with depth.",
        drawing=drawing,
        data=table(metrics, list(BY_LAYER)),
    )


def _by_dataset(metrics: xr.Dataset) -> Figure:
    values = metrics["mean_over_layers_agreement"].isel(dataset=slice(1, None)).sel(interval="estimate")
    values = values.transpose("dataset", "second")
    drawing, (ax,) = plotting.canvas(plotting.height_for(values.sizes["dataset"]))
    rows, columns = ([str(each) for each in values[dim].values] for dim in ("dataset", "second"))
    label = "agreement, mean over layers"
    plotting.matrix(
        ax, values.values.round(3) + 0.0, rows, columns, kind="magnitude", label=label, annotate=".3f", limits=(0, 1)
    )
    others = values.sel(second=_others(metrics))
    second = str(others["second"].values[int(np.argmin(others.mean("dataset").fillna(2).values))])
    known = others.sel(second=second).to_series().dropna().sort_values()
    said = ""
    if len(known):
        least, most = (f"{known.index[at]} ({known.iloc[at]:.3f})" for at in (0, -1))
        said = f"; {second} least in {least}, most in {most}"
    return Figure(
        name="by_dataset",
        title="Which text is routed alike",
        alt=f"Matrix of agreement with {metrics.attrs['first']}, {len(rows)} datasets by {len(columns)} runs{said}.",
        caption=f"Agreement with {metrics.attrs['first']}, mean over layers{said}. {_text(metrics)}",
        how_to_read="Rows that are lighter than others in all columns are text whose decisions are close.",
        drawing=drawing,
        data=table(metrics, ["agreement"]),
    )


def _margins(metrics: xr.Dataset) -> Figure:
    rows = metrics["second"].values.astype(str).tolist()
    words = {"margin_changed": "tokens that flip", "margin_kept": "others"}
    drawing, axes = plotting.canvas(2 * plotting.height_for(len(rows)), rows=2)
    lines = [
        Series(label, *ends(metrics[f"mean_over_layers_{name}"].sel(dataset=POOLED))) for name, label in words.items()
    ]
    plotting.dot_whiskers(axes[0], rows, lines, x_label=f"boundary margin in {metrics.attrs['first']}")
    tells = Series(
        "pairs in which the token that flips is closer",
        *ends(metrics["mean_over_layers_margin_tells"].sel(dataset=POOLED)),
    )
    plotting.dot_whiskers(axes[1], rows, [tells], [NOTHING.reference()], x_label="share of pairs")
    said = _said(metrics, "margin_tells")
    return Figure(
        name="margins",
        title="Which decisions fall the other way",
        alt=f"Dots with intervals of the boundary margin of tokens that flip and of others, and of how often the first "
        f"is the smaller one, mean over layers{said or ', not available'}.",
        caption=f"Boundary margin in {metrics.attrs['first']} of tokens whose set differs and of all others, and the "
        f"share of pairs of both in which the one that flips is closer, mean over layers{said}. {_text(metrics)}",
        how_to_read="Rounding flips decisions that were close: a share near 1. A share near 1/2 means that another "
        "model decides, not rounding. A run in which nothing flips has no dot.",
        drawing=drawing,
        data=table(metrics, [*words, "margin_tells"]),
    )


def _experts(metrics: xr.Dataset, second: str) -> Figure:
    mine = metrics.sel(second=second)
    values = mine["expert_agreement"].sel(interval="estimate").transpose("layer", "expert")
    classes = mine["expert_class"].transpose("layer", "expert").values
    drawing, (ax,) = plotting.canvas(plotting.height_for(values.sizes["layer"]))
    limits = (float(np.floor(20 * values.min()) / 20), 1.0)
    of = values["layer"].values, values["expert"].values
    plotting.layer_expert_matrix(
        ax,
        values.values,
        *of,
        kind="magnitude",
        label="tokens in both runs / in either",
        uncertain=classes == 0,
        limits=limits,
    )
    stable, sensitive = int((classes > 0).sum()), int((classes < 0).sum())
    flat = values.stack(one=("layer", "expert"))
    layer, expert = flat["one"].values[int(np.argmin(flat.fillna(2).values))]
    text = f"{stable} of {classes.size} experts are stable and {sensitive} sensitive"
    data = interval_table(mine["expert_agreement"]).merge(
        mine[["expert_q", "expert_class"]].to_dataframe()[["expert_q", "expert_class"]].reset_index(),
        on=["layer", "expert"],
    )
    rate, halves = format_number(100 * metrics.attrs["false_discovery_rate"]), float(mine["expert_halves"])
    again = (
        f" In two halves of the sources these differences have a correlation of {halves:.2f}."
        if np.isfinite(halves)
        else ""
    )
    number = metrics["second"].values.astype(str).tolist().index(second)
    return Figure(
        name=f"experts_{number}",
        title=f"Which experts keep their tokens in {second}",
        alt=f"Matrix of the agreement of every expert, layers by experts, between {metrics.attrs['first']} and "
        f"{second}; {text}.",
        caption=f"Of the tokens that select an expert in {metrics.attrs['first']} or {second}, the share that does in "
        f"both: least for layer {layer}, expert {expert}, {float(flat.min()):.3f}. {text}: hatched where the "
        f"difference from the layer's mean is not significant at a false discovery rate of {rate} %.{again} "
        f"{_text(metrics)}",
        how_to_read="A sensitive expert keeps fewer of its tokens than the others of its layer, a stable one more. "
        "Statements about a sensitive one are the first to check in another engine or precision.",
        drawing=drawing,
        data=data,
        names=(f"layer {layer}, expert {expert}",),
    )


def _findings(metrics: xr.Dataset) -> Figure:
    data = answers(metrics)
    asked = [question for question in QUESTIONS if question.words in set(data["finding"])]
    runs = metrics["each"].values.astype(str).tolist()
    titles = [CHAPTERS[question.chapter][0].measures[question.measure].title for question in asked]
    height = max(-(-len(asked) // 2), 1) * (plotting.height_for(len(runs)) + 0.3)
    drawing, axes = plotting.canvas(
        height, rows=max(-(-len(asked) // 2), 1), columns=2, titles=[*titles, ""][: 2 * -(-len(asked) // 2)]
    )
    for index, ax in enumerate(axes):
        if index >= len(asked):
            ax.set_axis_off()
            continue
        mine = data[data["finding"] == asked[index].words].set_index("run").reindex(runs)
        first = mine.iloc[0]
        against = Reference(
            "held against",
            (first["against_low"] + first["against_high"]) / 2,
            first["against_low"],
            first["against_high"],
        )
        plotting.dot_whiskers(ax, runs, [Series("run", *(mine[part].values for part in INTERVAL))], [against])
        ax.tick_params(labelleft=index % 2 == 0)
    parts = []
    for second in metrics["second"].values.astype(str):
        kept, number = _survived(metrics, second)
        moved = int((data["run"].eq(second) & data["moves"].eq("yes")).sum())
        parts.append(f"{second} {kept} of {number}, with {moved} numbers that differ beyond their paired intervals")
    said = "; ".join(parts)
    return Figure(
        name="findings",
        title="Which findings survive",
        alt=f"Dots with intervals of {len(asked)} measures that findings rest on, for {len(runs)} runs; the same "
        f"verdict as in {runs[0]}: {said}.",
        caption=f"Measures of other chapters, made anew from the selections of each run on the same tokens, and what "
        f"the first run's are held against. The same verdict as in {runs[0]}: {said}. Intervals are those of the "
        f"chapters. {_text(metrics)}",
        how_to_read="A finding survives if the dots lie on the same side of the line, or band. The CSV has the "
        "verdicts, and differences from the first run with paired intervals, which show smaller ones than dots can.",
        drawing=drawing,
        data=data,
    )
