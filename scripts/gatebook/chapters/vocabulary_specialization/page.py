"""The page of the chapter vocabulary specialization: figures, findings and words."""

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
    before,
    change,
    counts_text,
    degree,
    ends,
    estimate,
    held,
    hundredfold,
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
from gatebook.chapters.vocabulary_specialization import MEASURES, OFTEN
from gatebook.chapters.vocabulary_specialization.measure import BY_LAYER, table, top_table
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures import summary

NULL = "token-independent routing"
SELECTIONS = {"first": "first choice", "selected": "all selected"}
MOST_EXPERTS, FEWEST_LED = 12, 5
LAST_SHOWN = "\u024f"


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics, untrained = seen.metrics, seen.untrained
    return [
        _specialization_by_layer(metrics, untrained),
        _kinds_by_layer(metrics, untrained),
        _predictors_by_layer(metrics),
        _domains_by_layer(metrics),
        _specialization_by_dataset(metrics),
        _specialization_by_expert(metrics),
        _top_tokens(metrics),
    ]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that so few documents cannot answer are left out."""
    mine = _of(seen)
    found = [_finding_token(mine), _finding_published(mine), _finding_kind(seen)]
    if seen.metrics.sizes["layer"] > 1:
        found.append(_finding_depth(mine))
    found.append(_finding_domains(seen))
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """Whether the token decides, and the expert that gets most of the ids of its own, by the lower end."""
    mine = _of(seen)
    found = _finding_token(mine)
    if not found.is_known:
        return None
    if found.verdict != "yes":
        return Brief("Nothing shows that the token decides which expert it is sent to.", found.figure)
    text = f"The token decides {degree(found.effect)} where it goes: {percent(vars(found))} of tokens go to the expert "
    text += f"that gets most of their id in other sources{before(mine, 'split_half', hundredfold, ' %')}; if the token "
    text += f"did not matter, {format_number(round(100 * found.null_value))} % would."
    value, ranked = _ranked(mine.metrics)
    best, null = value.isel(one=ranked[0]), mine.metrics["null_expert_specialization"]
    layer, expert = map(int, best["one"].item())
    if not best.sel(interval="low") > null.sel(layer=layer, expert=expert):
        return Brief(text, found.figure)
    tops = top_table(seen.metrics).query(
        "kind == 'input' and order == 'count' and layer == @layer and expert == @expert"
    )
    example = (
        f"Layer {layer} expert {expert} is the first choice of {percent(estimate(best))} of the tokens whose id it "
    )
    example += f"leads, most often {_shown(tops['token'].iloc[0])}."
    return Brief(text, "top_tokens", example, layer, (expert,))


def _of(seen: Seen | xr.Dataset | None, kind: str = "input", selection: str = "first"):
    """What was seen, or metrics, of one kind of token and one selection."""
    return None if seen is None else seen.sel(kind=kind, selection=selection)


def _null(metrics: xr.Dataset, name: str) -> Null:
    return Null.of(NULL, metrics, name)


def _finding_token(seen: Seen) -> Finding:
    found = numbers(seen, "split_half", _null(seen.metrics, "split_half"), "share_effect")
    answer = f"{percent(found)} of tokens go to the expert that gets most of their id in other "
    answer += f"sources{change(seen, 'split_half', ('fewer than', 'more than', 'about as many as'))}"
    return Finding(
        question="Does the token id tell which expert is chosen first?",
        answer=f"{answer}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means an interval above token-independent routing",
        unit="of tokens",
        figure="specialization_by_layer",
        **found,
    )


def _finding_published(seen: Seen) -> Finding:
    found = numbers(seen, "macro", _null(seen.metrics, "macro"), "share_effect")
    chance = format_number(100 * found["null_value"])
    return Finding(
        question="Is the published measure, the mean over token ids, above what chance gives?",
        answer=f"It is {percent(found)}; routing that ignores the token gives {chance} %.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means an interval above token-independent routing",
        unit="of a token id",
        figure="specialization_by_layer",
        **found,
    )


def _finding_kind(seen: Seen) -> Finding:
    kind = str(seen.metrics["kind"].values[-1])
    found = numbers(_of(seen, kind), "input_advantage", Null("no difference", 0.0), "share_effect")
    place = side(found)
    points = rounded(found, hundredfold).removeprefix("−")
    answers = {
        "above": f"The input token tells more: {points} percentage points more tokens go to the expert of their id.",
        "below": f"The {kind} token tells more: {points} percentage points more tokens go to the expert of its id.",
        "around": f"The input token tells about as much as the {kind} one.",
    }
    return Finding(
        question=f"Does the input token tell more about the first choice than the {kind} token?",
        answer=answers[place],
        verdict=verdict(place, yes="above"),
        verdict_text="yes means a difference of the split-half values above 0",
        unit="of tokens",
        figure="kinds_by_layer",
        **found,
    )


def _finding_domains(seen: Seen) -> Finding:
    found = numbers(seen, "share_of_ids", Null("token ids alone", 1.0), "share_effect")
    of_ids, bits = (
        rounded(over_layers(seen.metrics, name)) for name in ("domain_information_of_ids", "domain_information")
    )
    return Finding(
        question="Do domains use other experts beyond what their token ids explain?",
        answer=f"Token ids alone would give {of_ids} of the {bits} bits that a selection "
        f"tells about the domain, {percent(found)}{change(seen, 'share_of_ids')}.",
        verdict=verdict(side(found), yes="below"),
        verdict_text="yes means a share of token ids below 1",
        unit="of the information",
        figure="domains_by_layer",
        **found,
    )


def _finding_depth(seen: Seen) -> Finding:
    found = held(_rise(seen.metrics), Null("no difference", 0.0), seen.thresholds["share_effect"])
    place = side(found)
    first, last = (int(layer) for layer in seen.metrics["layer"].values[[0, -1]])
    words = {"above": "more than", "below": "less than", "around": "about as much as"}
    return Finding(
        question="Does the input token tell more in the last layer than in the first?",
        answer=f"In layer {last} it tells {words[place]} in layer {first}.",
        verdict=verdict(place, yes="above"),
        verdict_text="yes means a difference of the split-half values above 0",
        unit="of tokens",
        figure="kinds_by_layer",
        **found | reference(seen, _rise) | sample_size(seen.metrics),
    )


def _rise(metrics: xr.Dataset) -> tuple[float, float, float]:
    return estimate(pooled(metrics["rise"]))


def _panel(metrics: xr.Dataset, untrained: xr.Dataset | None, name: str, title: str) -> Panel:
    """One measure of one kind and selection over layers, beside its null."""
    lines = series(metrics, untrained, name)
    return Panel(title, metrics["layer"].values, lines, [_null(metrics, name).reference()])


def _specialization_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    mine, before = _of(metrics), _of(untrained)
    panels = []
    for name in BY_LAYER:
        title = MEASURES[name].title.removeprefix("Vocabulary specialization, ").capitalize()
        panels.append(_panel(mine, before, name, title))
    value, bounds = format_estimate(*over_layers(mine, "split_half"))
    null = _null(mine, "split_half").text()
    return Figure(
        name="specialization_by_layer",
        title="How much of a token id goes to one expert",
        alt=f"Four line charts over layers of vocabulary specialization by input token, first choice; the split-half "
        f"value is {value} on average over layers, {null} under token-independent routing.",
        caption=f"Vocabulary specialization by input token, first choice, pooled; split-half over layers {value} "
        f"{bounds}, {null} under {NULL}. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="The dashed line is token-independent routing with the same loads. Where it is far above 0, the "
        "measure is large by chance; only the distance to it says something. The CSV has all kinds of token and both "
        "selections, and every dataset for the input token.",
        drawing=plotting.small_multiples(panels, columns=2, share_y=True, y_limits=(0, None), order=ORDER),
        data=table(metrics, BY_LAYER),
    )


def _kinds_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    kinds = [str(kind) for kind in metrics["kind"].values]
    panels, values = [], []
    for selection, words in SELECTIONS.items():
        for kind in kinds:
            mine, before = _of(metrics, kind, selection), _of(untrained, kind, selection)
            panels.append(_panel(mine, before, "split_half", f"{kind.capitalize()}, {words}"))
            if selection == "first":
                values.append(f"{kind} {format_estimate(*over_layers(mine, 'split_half')).estimate}")
    return Figure(
        name="kinds_by_layer",
        title="Input, next and predicted token" if "predicted" in kinds else "Input and next token",
        alt="Line charts over layers of the split-half vocabulary specialization, one for each kind of token and "
        f"selection; for first choices over layers: {', '.join(values)}.",
        caption="Split-half vocabulary specialization by kind of token, for first choices and for all selected "
        f"experts, pooled. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="A layer that routes by what it has read is high for the input token; one that routes by what it "
        "is about to say is high for the predicted token. Neighbouring tokens depend on each other, so the next "
        "token is above its null also if the router sees the input alone.",
        drawing=plotting.small_multiples(panels, columns=len(kinds), share_y=True, y_limits=(0, None), order=ORDER),
        data=table(metrics, ["split_half", "input_advantage", "rise"]),
    )


def _predictors_by_layer(metrics: xr.Dataset) -> Figure:
    of_classes = {str(name): metrics.sel({"class": name}) for name in metrics["class"].values}
    lines = [Series(name, *ends(mine["predictability"])) for name, mine in of_classes.items()]
    shares = ", ".join(
        f"{name} {100 * over_layers(mine, 'predictability')[0]:.0f} %" for name, mine in of_classes.items()
    )
    return Figure(
        name="predictors_by_layer",
        title="What else tells where a token goes",
        alt="Line chart over layers of how often the expert of a token's class is its first choice, on average by: "
        f"{shares}.",
        caption="First choices that are the expert of the token's class, chosen on one half of the clusters and judged "
        f"on the other, mean over ten halves; on average over layers by {shares}. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="By nothing is how often the most frequent expert is chosen. What the dataset adds to the token is "
        "context in any form. Classes with many values cover fewer tokens: only those whose value occurs in both "
        "halves count.",
        drawing=_single(MEASURES["predictability"].title, metrics, lines, "share of tokens"),
        data=summary.table(metrics, ["predictability"]),
    )


def _domains_by_layer(metrics: xr.Dataset) -> Figure:
    names = {"observed": "domain_information", "of token ids alone": "domain_information_of_ids"}
    lines = [Series(label, *ends(metrics[name])) for label, name in names.items()]
    value, bounds = format_estimate(*over_layers(metrics, "share_of_ids"))
    return Figure(
        name="domains_by_layer",
        title="What token ids say of the domain",
        alt="Line chart over layers of the information about the domain, and of what token ids alone would give of it: "
        f"a share of {value} on average.",
        caption=f"Information of a selection about the domain, and what is left of it if every token goes where tokens "
        f"of its id in other clusters go; share {value} {bounds}. Tokens whose id occurs in one group of clusters only "
        f"do not count. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="Where both lines are equal, domains use other experts only because they have other tokens. The "
        "distance between them is what the context adds, or the domain.",
        drawing=_single(MEASURES["domain_information"].title, metrics, lines, MEASURES["domain_information"].units),
        data=summary.table(metrics, [*names.values(), "share_of_ids"]),
    )


def _single(title: str, metrics: xr.Dataset, lines: list[Series], units: str) -> plotting.Figure:
    panel = Panel(title, metrics["layer"].values, lines, [], units)
    return plotting.small_multiples([panel], columns=1, panel_height=2.4, y_limits=(0, None))


def _specialization_by_dataset(metrics: xr.Dataset) -> Figure:
    mine = _of(metrics).isel(dataset=slice(1, None))
    value = mine["split_half"].sel(interval="estimate")
    ratio = (value / mine["null_split_half"].sel(interval="estimate")).transpose("dataset", "layer")
    datasets = [str(name) for name in ratio["dataset"].values]
    mean = value.mean("layer").dropna("dataset").to_series().sort_values()
    ends = "; the value is not available for any dataset"
    if len(mean):
        low, high = (f"{mean.index[place]} ({mean.iloc[place]:.2f})" for place in (0, -1))
        ends = f"; on average over layers the value is lowest on {low} and highest on {high}"
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(datasets)))
    plotting.matrix(
        ax,
        ratio.values,
        datasets,
        [str(layer) for layer in ratio["layer"].values],
        kind="ratio",
        label="split-half value / token-independent routing",
        annotate=".1f",
        x_label="Layer",
    )
    return Figure(
        name="specialization_by_dataset",
        title="Vocabulary specialization within each dataset",
        alt=f"Matrix of the split-half vocabulary specialization relative to its null, datasets by layers{ends}.",
        caption="Split-half vocabulary specialization by input token, first choice, each dataset by itself, relative "
        f"to token-independent routing within it; {size_text(metrics)}; the CSV has values and intervals.",
        how_to_read="1 means that the token id tells nothing within the dataset. Experts are chosen and judged on "
        "documents of the same dataset, so what separates the datasets does not count here.",
        drawing=drawing,
        data=table(metrics.isel(dataset=slice(1, None)), ["split_half"]),
    )


def _specialization_by_expert(metrics: xr.Dataset) -> Figure:
    value = _of(metrics)["expert_specialization"].transpose("layer", "expert", "interval")
    shown = value.sel(interval="estimate")
    drawing, (ax,) = plotting.canvas(plotting.height_for(shown.sizes["layer"]))
    plotting.layer_expert_matrix(
        ax,
        shown.values,
        shown["layer"].values,
        shown["expert"].values,
        kind="magnitude",
        label="share of the ids that an expert gets most of",
    )
    data = summary.interval_table(
        metrics["expert_specialization"].transpose("kind", "selection", "layer", "expert", "interval")
    )
    null = metrics["null_expert_specialization"].transpose("kind", "selection", "layer", "expert").values.ravel()
    average = format_number(round(float(shown.mean()), 3))
    return Figure(
        name="specialization_by_expert",
        title="How much of its own token ids each expert gets",
        alt=f"Matrix of vocabulary specialization by layer and expert, input token, first choice; {average} on average "
        f"over the experts, {format_number(round(float(_of(metrics)['null_expert_specialization'].mean()), 3))} under "
        "token-independent routing.",
        caption=f"Mean of VS(x, e) over the ids x that occur at least {OFTEN} times and of which expert e gets most, "
        f"input token, first choice, pooled; {size_text(metrics)}; the CSV has intervals, nulls, all kinds of token "
        "and both selections.",
        how_to_read="A bright expert gets nearly all occurrences of its ids. A crossed cell is an expert that gets "
        "most of no frequent id. Columns of different layers do not correspond: expert numbers have no meaning "
        "across layers.",
        drawing=drawing,
        data=data.assign(token_independent=null),
    )


def _top_tokens(metrics: xr.Dataset) -> Figure:
    mine = _of(metrics)
    value, ranked = _ranked(mine)
    tops = top_table(metrics)
    mine_tops = tops[(tops["kind"] == "input") & (tops["order"] == "count")]
    rows, places = [], []
    for layer, expert in (value["one"].values[row] for row in ranked):
        texts = mine_tops[(mine_tops["layer"] == layer) & (mine_tops["expert"] == expert)]["token"].head(3)
        places.append(f"layer {layer}, expert {expert}")
        rows.append(f"{places[-1]}: {' '.join(_shown(text) for text in texts)}")
    parts = ends(value.isel(one=ranked))
    null = float(mine["null_expert_specialization"].mean())
    drawing, (ax,) = plotting.canvas(1.4 + 0.45 * len(rows))
    plotting.dot_whiskers(
        ax,
        rows,
        [Series("expert", *parts)],
        [Reference(f"{NULL}, mean over experts", null)],
        x_label="share of the ids that the expert gets most of",
        x_limits=(0, 1.02),
    )
    return Figure(
        name="top_tokens",
        title="The experts with the most specialized vocabulary",
        alt=f"Dots with intervals for {len(rows)} experts, named by their most frequent tokens; the first is "
        f"{places[0]} with {format_number(round(float(parts[0][0]), 3))} of its ids.",
        caption=f"Experts with the highest lower bound of vocabulary specialization (input token, first choice, "
        f"pooled), with the three most frequent tokens that choose them first. {counts_text(metrics, JACKKNIFE)} "
        "The CSV lists the top tokens of every expert, by share and by count, for all kinds of token.",
        how_to_read="· is a space, \\n a line break; letters beyond European ones are written as numbers. The "
        f"experts are picked as the highest of many, so a new sample would find them somewhat lower. Experts with "
        f"fewer than {FEWEST_LED} ids of their own come last.",
        drawing=drawing,
        data=tops,
        names=places,
    )


def _ranked(mine: xr.Dataset) -> tuple[xr.DataArray, np.ndarray]:
    """Specialization of every expert (one, interval), and the places of those of the highest lower ends."""
    value = mine["expert_specialization"].stack(one=("layer", "expert")).transpose("one", "interval")
    led = mine["led_ids"].stack(one=("layer", "expert")).values
    low = value.sel(interval="low").values
    return value, np.argsort(-np.where(led >= FEWEST_LED, low, low - 1), kind="stable")[:MOST_EXPERTS]


def _shown(text: str) -> str:
    """A token for a row label: short, in quotes, with visible spaces and letters that the font has."""
    short = text if len(text) <= 9 else text[:8] + "…"
    letters = (c if c <= LAST_SHOWN or c in "…⟨⟩" else c.encode("unicode_escape").decode() for c in short)
    return f"‘{''.join(letters)}’".replace(" ", "·")
