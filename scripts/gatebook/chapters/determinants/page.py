"""The page of the chapter determinants: figures, findings and words."""

import numpy as np
import pandas as pd
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
    series,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.determinants import CLASSES, DATASET, PAIR, POSITION, TOKEN, TRIPLE
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures import summary
from gatebook.measures.summary import spread
from gatebook.measures.uncertainty import POOLED

NOTHING = Null("nothing explained", 0.0)
NO_DIFFERENCE = Null("no difference", 0.0)
IDS = "token ids alone"
PARTS = {"token id": TOKEN, "token before": PAIR, "second token before": TRIPLE}
ROLES = {"token id": (TOKEN, None), "dataset": (DATASET, None), "context beyond the token id": (TRIPLE, TOKEN)}
"""What may decide whether an expert is selected: the share of one class, or its share minus that of another."""
MOST_LAYERS = 4


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics, untrained = seen.metrics, seen.untrained
    return [
        _parts_by_layer(metrics, untrained),
        _classes_by_layer(metrics, untrained),
        _added_by_layer(metrics, untrained),
        _classes_by_dataset(metrics),
        _roles_by_expert(metrics),
        _persistence(metrics, untrained),
    ]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that so few tokens cannot answer are left out."""
    found = [_finding_token(seen), _finding_position(seen), _finding_context(seen), _finding_domain(seen)]
    found += [_finding_control(seen), _finding_persistence(seen)]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """How much the token id decides and how much context adds, and the expert that most surely depends on context: what
    explains more has the highest lower end above the upper end of what the token id explains."""
    found = _finding_context(seen)
    if not found.is_known:
        return None
    if found.verdict != "yes":
        return Brief("Nothing shows that more than a token's id decides where it goes.", found.figure)
    mine = _of(seen, TOKEN)
    text = f"The token id explains {percent(over_layers(mine.metrics, 'common_share'))} of where a token goes"
    text += f"{before(mine, 'common_share', hundredfold, ' %')}, and the two tokens before it "
    text += f"{percent(vars(found))} more{before(seen, 'context_added', hundredfold, ' %')}."
    share = seen.metrics["expert_share"].transpose("class", "layer", "expert", "interval")
    surely = share.sel({"class": TRIPLE, "interval": "low"}) - share.sel({"class": TOKEN, "interval": "high"})
    if not (surely > 0).any():
        return Brief(text, "roles_by_expert")
    place = surely.fillna(-np.inf).argmax(...)
    layer, expert = (int(share[dim][place[dim]]) for dim in ("layer", "expert"))
    of_id, of_both = (100 * float(share.sel({"class": name}).isel(place | {"interval": 0})) for name in (TOKEN, TRIPLE))
    more = format_number(round(of_both - of_id))
    example = f"Whether layer {layer} expert {expert} is selected depends on context most surely: the token id "
    example += f"explains {format_number(round(of_id))} % of it, the two tokens before {more} % more."
    return Brief(text, "roles_by_expert", example, layer, (expert,))


def _of(seen: Seen | xr.Dataset | None, name: str):
    """What was seen, or metrics, of one class."""
    return None if seen is None else seen.sel(**{"class": name})


def _finding_token(seen: Seen) -> Finding:
    mine, threshold = _of(seen, TOKEN), seen.thresholds["most"]
    found = numbers(mine, "share_explained", NOTHING, "share_effect", threshold=threshold)
    covered = _covered(mine.metrics)
    return Finding(
        question="Is the token id most of routing?",
        answer=f"It explains {percent(found)} of where tokens go{change(mine, 'share_explained')}; "
        f"{covered} of the tokens have a partner.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means more than {format_number(100 * threshold)} %",
        unit="of the variance of routing",
        figure="classes_by_layer",
        **found,
    )


def _finding_position(seen: Seen) -> Finding:
    mine = _of(seen, POSITION)
    found = numbers(mine, "share_explained", NOTHING, "share_effect")
    return Finding(
        question="Does the place in the text decide where a token goes?",
        answer=f"The position in the window explains {percent(found)}{change(mine, 'share_explained')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a share above 0; its class says whether it matters",
        unit="of the variance of routing",
        figure="classes_by_layer",
        **found,
    )


def _finding_context(seen: Seen) -> Finding:
    found = numbers(seen, "context_added", NO_DIFFERENCE, "share_effect")
    parts = [percent(over_layers(_of(seen.metrics, name), "common_share")) for name in (TOKEN, TRIPLE)]
    return Finding(
        question="Does context decide where a token goes, beyond its id?",
        answer=f"With the two tokens before it {parts[1]} is explained, with the id alone {parts[0]}"
        f"{change(seen, 'context_added')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0, on the same tokens",
        unit="of the variance of routing",
        figure="added_by_layer",
        **found,
    )


def _finding_domain(seen: Seen) -> Finding:
    found = numbers(seen, "domain_added", NO_DIFFERENCE, "share_effect")
    return Finding(
        question="Does the kind of text decide where a token goes, beyond its id?",
        answer=f"If the dataset is known too, {percent(found)} more is explained{change(seen, 'domain_added')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0, on the same tokens",
        unit="of the variance of routing",
        figure="added_by_layer",
        **found,
    )


def _finding_control(seen: Seen) -> Finding:
    found = numbers(seen, "beyond_control", NO_DIFFERENCE, "share_effect")
    words = {"above": "more than", "below": "less than", "around": "about as much as"}
    return Finding(
        question="Does the second token before explain more than the token that follows, which no router sees?",
        answer=f"It explains {words[side(found)]} the next token{change(seen, 'beyond_control')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0; otherwise texts that repeat themselves are enough of a reason",
        unit="of the variance of routing",
        figure="added_by_layer",
        **found,
    )


def _finding_persistence(seen: Seen) -> Finding:
    distance = int(seen.metrics["distance"].values[0])
    mine = seen.sel(distance=distance)
    found = numbers(mine, "persistence_beyond_ids", Null(IDS, 0.0), "overlap_effect")
    shared, of_ids = (percent(over_layers(mine.metrics, name)) for name in ("persistence", "persistence_of_ids"))
    pair = "A token and the next one" if distance == 1 else f"Two tokens {distance} apart"
    return Finding(
        question="Do near tokens share more experts than their ids explain?",
        answer=f"{pair} share {shared} of their experts; their ids alone would give {of_ids}"
        f"{change(mine, 'persistence_beyond_ids')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text=f"yes means more than {IDS}; it is learned only as far as it is more than in the untrained model",
        unit="of a token's experts",
        figure="persistence",
        **found,
    )


def _parts_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    rows, steps, values = [], [], []
    for label, source in checkpoints(metrics, untrained).items():
        share = source["common_share"].sel(dataset=POOLED, interval="estimate")
        for layer in share["layer"].values.tolist():
            rows.append(f"layer {layer}" if untrained is None else f"layer {layer}, {label}")
            reached = [float(share.sel({"class": name, "layer": layer})) for name in PARTS.values()]
            steps.append(np.diff([0, *np.maximum.accumulate(np.maximum(reached, 0))]))
            values.append((label, layer, *reached))
    lengths = dict(zip(PARTS, np.array(steps).T, strict=True))
    drawing, (ax,) = plotting.canvas(plotting.height_for(1.6 * len(rows)))
    plotting.stacked_bars(ax, rows, lengths, x_label="share of routing explained", x_limits=(0, 1))
    of_id, more = (_percent_over_layers(metrics, *pair) for pair in ((TOKEN, None), (TRIPLE, TOKEN)))
    common = 100 * float(metrics["common_tokens"].sel(dataset=POOLED))
    return Figure(
        name="parts_by_layer",
        title="What routing is made of",
        alt=f"Bars by layer of the share of routing that the token id, the token before and the second one before "
        f"explain: on average {of_id} % the id, {more} % more the two tokens before.",
        caption=f"Share of routing explained by the token id, and what the token before and the one before that add, "
        f"of the {common:.0f} % of tokens that have a partner in every class; mean over datasets. "
        f"{size_text(metrics)}; the next figures have intervals.",
        how_to_read="What is missing to 1 is context that is farther back, and all that two tokens before do not tell. "
        "Tokens that have partners in all classes are the more repetitive ones, of which more is "
        "explained than of others. What the untrained model shows is no achievement of training.",
        drawing=drawing,
        data=pd.DataFrame(values, columns=["checkpoint", "layer", *PARTS.values()]),
    )


def _percent_over_layers(metrics: xr.Dataset, finer: str, coarser: str | None) -> str:
    """What a class explains of the common tokens, or adds to another, averaged over layers, in percent."""
    share = metrics["mean_over_layers_common_share"].sel(dataset=POOLED, interval="estimate")
    value = float(share.sel({"class": finer})) - (float(share.sel({"class": coarser})) if coarser else 0)
    return format_number(round(100 * value, 1))


def _covered(metrics: xr.Dataset) -> str:
    """How many of the tokens have a partner of their class, in percent."""
    return f"{format_number(round(100 * float(metrics['coverage'].sel(dataset=POOLED)), 1))}\N{NO-BREAK SPACE}%"


def _classes_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    panels = []
    for name in CLASSES:
        lines = series(_of(metrics, name), _of(untrained, name), "share_explained")
        title = f"{name.capitalize()} ({_covered(_of(metrics, name))})"
        panels.append(Panel(title, metrics["layer"].values, lines, [NOTHING.reference()], "share explained"))
    means = ", ".join(
        f"{name} {rounded(over_layers(_of(metrics, name), 'share_explained'), hundredfold)} %" for name in CLASSES
    )
    return Figure(
        name="classes_by_layer",
        title="How much of routing each class explains",
        alt=f"Line charts over layers of the share of routing that a class explains; on average {means}.",
        caption=f"Share of routing explained by each class, mean over datasets, of the tokens that have a partner of "
        f"their class in another group of clusters; how many do stands in parentheses. Over layers: {means}. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="Panels are about different tokens and cannot be subtracted from each other; the figure of what "
        "is added compares the same tokens. The last panel is the control: a router cannot know the next token. "
        "The CSV has all datasets, and the shares of the common tokens.",
        drawing=plotting.small_multiples(panels, columns=3, share_y=True, y_limits=(None, None), order=ORDER),
        data=summary.table(metrics, ["share_explained", "common_share"]),
    )


def _added_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    names = ("context_added", "domain_added", "beyond_control")
    titles = ("Two tokens before", "Dataset", "Second token before, minus next token")
    panels = [
        Panel(
            title, metrics["layer"].values, series(metrics, untrained, name), [NO_DIFFERENCE.reference()], "share added"
        )
        for name, title in zip(names, titles, strict=True)
    ]
    value, bounds = format_estimate(*over_layers(metrics, "context_added"))
    return Figure(
        name="added_by_layer",
        title="What is explained beyond the token id",
        alt=f"Line charts over layers of the share of routing that is explained beyond the token id; the two tokens "
        f"before add {value} on average.",
        caption=f"What the two tokens before and the dataset add to the share that the token id explains, and by how "
        f"much the second token before explains more than the next one, on the common tokens; context over layers "
        f"{value} {bounds}. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="Above 0 routing depends on more than the token. Where the last panel is near 0, the second token "
        "before may explain what it does only because texts repeat themselves.",
        drawing=plotting.small_multiples(panels, columns=3, share_y=True, order=ORDER),
        data=summary.table(metrics, list(names)),
    )


def _classes_by_dataset(metrics: xr.Dataset) -> Figure:
    share = metrics["mean_over_layers_share_explained"].sel(interval="estimate").isel(dataset=slice(1, None))
    share = share.transpose("dataset", "class")
    datasets = [str(name) for name in share["dataset"].values]
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(datasets)) + 0.8)
    plotting.matrix(
        ax,
        share.values.round(2) + 0.0,  # no -0.00
        datasets,
        [_broken(name) for name in CLASSES],
        kind="magnitude",
        label="share of routing explained, mean over layers",
        annotate=".2f",
        limits=(0, 1),
    )
    of_id = share.sel({"class": TOKEN}).to_series().dropna().sort_values()
    low, high = (f"{of_id.index[place]} ({of_id.iloc[place]:.2f})" for place in (0, -1)) if len(of_id) else ("", "")
    said = f"; the token id explains least of {low} and most of {high}" if len(of_id) else ""
    coverage = metrics["coverage"].isel(dataset=slice(1, None)).transpose("dataset", "class")
    repeated = 100 * float(metrics["repeated"].sel(dataset=POOLED))
    repeats = (
        f"{repeated:.0f} % of tokens repeat their last eight of another group of clusters. " if repeated >= 0 else ""
    )
    data = summary.interval_table(metrics["mean_over_layers_share_explained"].transpose("dataset", "class", "interval"))
    covered = metrics["coverage"].transpose("dataset", "class").values.ravel()
    return Figure(
        name="classes_by_dataset",
        title="What explains routing in each dataset",
        alt=f"Matrix of the share of routing that each class explains, datasets by classes, mean over layers{said}.",
        caption=f"Share of routing explained, mean over layers, of the tokens of each dataset that have a partner; "
        f"from {100 * float(coverage.min()):.0f} to {100 * float(coverage.max()):.0f} % of them do, see the CSV. "
        f"{repeats}{size_text(metrics)}.",
        how_to_read="How many more experts tokens of a dataset share with tokens of the same class, of any dataset, "
        "than with any token. Near-duplicates make a dataset high in the finer classes.",
        drawing=drawing,
        data=data.assign(coverage=covered),
    )


def _broken(name: str) -> str:
    """The name of a class in two lines."""
    words = name.split(" ")
    half = (len(words) + 1) // 2
    return " ".join(words[:half]) + ("\n" + " ".join(words[half:]) if words[half:] else "")


def _roles(metrics: xr.Dataset) -> list[xr.DataArray]:
    """The share of each expert's selection by role (layer, expert)."""
    share = metrics["expert_share"].sel(interval="estimate").transpose("class", "layer", "expert")
    found = []
    for finer, coarser in ROLES.values():
        values = share.sel({"class": finer}, drop=True)
        found.append(values if coarser is None else values - share.sel({"class": coarser}, drop=True))
    return found


def _roles_by_expert(metrics: xr.Dataset) -> Figure:
    roles = _roles(metrics)
    layers, experts = (roles[0][dim].values for dim in ("layer", "expert"))
    drawing, axes = plotting.canvas(
        len(ROLES) * plotting.height_for(len(layers)), rows=len(ROLES), titles=[name.capitalize() for name in ROLES]
    )
    highest = max(float(values.max()) for values in roles)
    for ax, values in zip(axes, roles, strict=True):
        plotting.layer_expert_matrix(
            ax,
            values.values,
            layers,
            experts,
            kind="magnitude",
            label="share of the selection",
            limits=(0, highest if highest > 0 else 1),
        )
    stacked = xr.concat(roles, dim=pd.Index(list(ROLES), name="role"))
    known = stacked.notnull().all("role")
    best = stacked.fillna(-1).argmax("role").where(known)
    counts = {name: int((best == index).sum()) for index, name in enumerate(ROLES)}
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    data = summary.interval_table(metrics["expert_share"].transpose("layer", "expert", "class", "interval"))
    return Figure(
        name="roles_by_expert",
        title="Token experts, domain experts, context experts",
        alt=f"Three matrices by layer and expert of how much of an expert's selection the token id, the dataset, and "
        f"context beyond the id explain. What explains most: {said}.",
        caption=f"Share of whether an expert is selected that the token id explains, that the dataset explains, and "
        f"that the two tokens before add to the id; common tokens. Experts by what explains most: {said}. "
        f"{size_text(metrics)}; the CSV has all classes and intervals.",
        how_to_read="The shares overlap: a token id says much about the dataset. A dark cell in all three is an expert "
        "whose selection none of them explains. Columns of different layers do not correspond: expert numbers have no "
        "meaning across layers.",
        drawing=drawing,
        data=data,
    )


def _persistence(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    layers = spread(metrics["layer"].values, MOST_LAYERS)
    columns = min(2, len(layers))
    rows = -(-len(layers) // columns)
    titles = [f"Layer {layer}" for layer in layers] + [""] * (rows * columns - len(layers))
    drawing, axes = plotting.canvas(0.6 + 2.1 * rows, rows=rows, columns=columns, titles=titles, share_y=True)
    for index, ax in enumerate(axes):
        if index >= len(layers):
            ax.set_axis_off()
            continue
        lines, references = [], []
        for label, source in checkpoints(metrics, untrained).items():
            mine = source.sel(dataset=POOLED, layer=layers[index])
            lines.append(Series(label, *ends(mine["persistence"])))
            of_ids = mine["persistence_of_ids"].sel(interval="estimate").values
            references.append(Reference(f"{IDS}, {label}", of_ids))
        plotting.curves(
            ax,
            metrics["distance"].values,
            lines,
            references,
            x_label="distance in tokens" if index + columns >= len(layers) else "",
            y_label="shared experts" if index % columns == 0 else "",
            x_scale="log",
            labels="legend",
            order=ORDER,
        )
    for ax in axes:
        ax.set_ylim(0, None)
    distance = int(metrics["distance"].values[0])
    value, bounds = format_estimate(*over_layers(metrics.sel(distance=distance), "persistence"))
    of_ids = rounded(over_layers(metrics.sel(distance=distance), "persistence_of_ids"))
    return Figure(
        name="persistence",
        title="How long a text stays with its experts",
        alt=f"Line charts over the distance of two tokens of the share of experts that they have in common; {value} at "
        f"distance {distance}, {of_ids} by {IDS}.",
        caption=f"Share of experts that two tokens of a window have in common, by their distance, mean over datasets; "
        f"at distance {distance} over layers {value} {bounds}, {of_ids} by {IDS}. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="What lies above the dashed line is shared because of the text around, not of the tokens. It is no "
        "sign of learned topics by itself: attention that averages over a window makes all of its tokens alike, "
        "in an untrained model most of all.",
        drawing=drawing,
        data=summary.table(metrics, ["persistence", "persistence_of_ids", "persistence_beyond_ids"]),
    )
