"""The page of the chapter placement: figures, findings and words."""

import numpy as np
import xarray as xr

from gatebook.chapters.base.page import (
    JACKKNIFE,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    change,
    counts_text,
    ends,
    numbers,
    over_layers,
    percent,
    side,
    verdict,
)
from gatebook.chapters.placement import (
    ALONG,
    BOTH,
    BY_LOAD,
    COMPOSITIONS,
    CONTIGUOUS,
    IN_ORDER,
    PIECES,
    PLACEMENTS,
    RANDOM,
    TOGETHER,
    textbook,
)
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import MEAN, table

CHANCE = "placements at random"
AT_RANDOM = Null(CHANCE, 0.0)
MOST_DEVICES = 3
"""Numbers of devices that the trade-off is drawn for."""


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter, of the studied checkpoint; tables hold the untrained one beside it."""
    metrics = seen.metrics
    found = [_trade_off(metrics), _devices_by_layer(metrics), _straggler_by_layer(metrics), _rooms(metrics)]
    return [*found, _replicas(metrics), _moved_by_layer(metrics), _textbook()]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; what no clusters are left to answer is left out."""
    found = [_finding_load(seen), _finding_together(seen), _finding_composition(seen), _finding_along(seen)]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """What co-activation saves in traffic, and what it costs in stragglers."""
    found = _finding_together(seen)
    if not found.is_known:
        return None
    if found.verdict != "yes":
        return Brief("Nothing shows that experts placed by co-activation save traffic.", found.figure)
    where = {"placement": TOGETHER, "composition": PIECES}
    text = f"On {_devices(seen.metrics)} devices experts that are placed by co-activation save "
    text += f"{_percent(found)} of the traffic of a placement at random"
    return Brief(f"{text}. That {_against(_at(seen, **where))} the busiest device's load.", found.figure)


def _devices(metrics: xr.Dataset) -> int:
    """The number of devices that findings are about."""
    return int(metrics["devices"].values[-1])


def _at(seen: Seen, **where) -> Seen:
    """What was seen at that number of devices, and at one place along other dimensions."""
    return seen.sel(devices=_devices(seen.metrics), **where)


def _percent(found: Finding) -> str:
    return percent((found.estimate, found.low, found.high))


def _saved(seen: Seen) -> str:
    """The share of the straggler that a placement takes away, in words."""
    return percent(over_layers(seen.metrics, "straggler_saved"))


def _against(seen: Seen) -> str:
    """By how much of its straggler at random a placement is better or worse, as the beginning of "the load"."""
    value, low, high = over_layers(seen.metrics, "straggler_saved")
    return f"takes {percent((value, low, high))} off" if value > 0 else f"adds {percent((-value, -high, -low))} to"


def _text(metrics: xr.Dataset, name: str, **where) -> str:
    """A measure's mean over layers at one place, with its interval."""
    mean = metrics[MEAN + name].sel(devices=_devices(metrics), **where)
    return " ".join(format_estimate(*(float(part) for part in ends(mean))))


def _finding_load(seen: Seen) -> Finding:
    threshold, metrics = seen.thresholds["worth"], seen.metrics
    here = _at(seen, placement=BY_LOAD, composition=PIECES)
    found = numbers(here, "straggler_saved", AT_RANDOM, "saved_effect", threshold=threshold)
    others = [_saved(_at(seen, placement=BY_LOAD, composition=each)) for each in (RANDOM, IN_ORDER)]
    return Finding(
        question="Is it worth while to balance experts over devices by their load?",
        answer=f"On texts that it has not seen, it takes {percent(found)} of the busiest of {_devices(metrics)} "
        f"devices' load away if batches hold pieces of documents, {others[0]} of random tokens, {others[1]} of "
        f"documents in order{change(here, 'straggler_saved')}.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means more than {format_number(100 * threshold)} % of the load that the busiest device has "
        "with placements at random, in batches of pieces of documents",
        unit="of the straggler",
        figure="trade_off",
        **found,
    )


def _finding_together(seen: Seen) -> Finding:
    here, both = _at(seen, placement=TOGETHER), _at(seen, placement=BOTH)
    found = numbers(here, "traffic_saved", AT_RANDOM, "saved_effect")
    less = percent(over_layers(both.metrics, "traffic_saved"))
    loads = [_against(each.sel(composition=PIECES)) for each in (here, both)]
    return Finding(
        question="Does it save traffic to place experts that are selected together on one device?",
        answer=f"On {_devices(seen.metrics)} devices it saves {percent(found)} of the copies of hidden states"
        f"{change(here, 'traffic_saved')}. In batches of pieces of documents it {loads[0]} the busiest device's load; "
        f"a placement by both saves {less}, and {loads[1]} it.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means fewer copies than placements at random need",
        unit="of the copies of hidden states",
        figure="trade_off",
        **found,
    )


def _finding_composition(seen: Seen) -> Finding:
    here = _at(seen, placement=BY_LOAD, composition=IN_ORDER)
    found = numbers(here, "composition_cost", Null("batches of random tokens", 0.0), "saved_effect")
    pieces = over_layers(_at(seen, placement=BY_LOAD, composition=PIECES).metrics, "composition_cost")
    return Finding(
        question="Do the texts of a batch decide how much the busiest device has to do?",
        answer=f"Documents in order add {percent(found)} to the straggler of batches of random tokens, pieces of "
        f"documents {percent(pieces)}, with experts placed by load on {_devices(seen.metrics)} devices"
        f"{change(here, 'composition_cost')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that documents in order have a larger straggler than random tokens",
        unit="of the straggler of random tokens",
        figure="trade_off",
        **found,
    )


def _finding_along(seen: Seen) -> Finding:
    here = _at(seen, placement=ALONG)
    random = float(here.metrics["null_moved_share"])
    found = numbers(here, "moved_share", Null(CHANCE, random), "moved_effect")
    contiguous = over_layers(_at(seen, placement=CONTIGUOUS).metrics, "moved_share")
    return Finding(
        question="Can a token's first choices stay on one device from layer to layer?",
        answer=f"{percent(found)} of them change device if experts are placed along the layers, {percent(contiguous)} "
        f"if they are contiguous, on {_devices(seen.metrics)} devices{change(here, 'moved_share')}.",
        verdict=verdict(side(found), yes="below"),
        verdict_text="yes means fewer moves than with placements at random",
        unit="of the tokens",
        figure="moved_by_layer",
        **found,
    )


def _trade_off(metrics: xr.Dataset) -> Figure:
    counts = metrics["devices"].values[-MOST_DEVICES:].tolist()
    titles = [f"{each.capitalize()}, {count} devices" for count in counts for each in COMPOSITIONS]
    drawing, axes = plotting.canvas(2.4 * len(counts) + 0.6, rows=len(counts), columns=3, titles=titles)
    rows, cells = [*PLACEMENTS, CHANCE], [(count, each) for count in counts for each in COMPOSITIONS]
    for index, (ax, (count, composition)) in enumerate(zip(axes, cells, strict=True)):
        mine = metrics.sel(devices=count)
        random = float(mine["null_devices_per_token"])
        null = mine[f"{MEAN}null_straggler"].sel(composition=composition)
        x = [[*part, chance] for part, chance in zip(ends(mine[f"{MEAN}devices_per_token"]), [random] * 3, strict=True)]
        straggler = mine[f"{MEAN}straggler"].sel(composition=composition)
        y = [[*part, float(chance)] for part, chance in zip(ends(straggler), ends(null), strict=True)]
        across, up = Series("devices per token", *x), Series("straggler" if index % 3 == 0 else "", *y)
        plotting.crosses(ax, rows, across, up, chance=CHANCE)
    known = [
        f"{name} {_text(metrics, 'devices_per_token', placement=name)} devices and a straggler of "
        f"{_text(metrics, 'straggler', placement=name, composition=PIECES)}"
        for name in (CONTIGUOUS, BY_LOAD, TOGETHER, BOTH)
    ]
    batches = f"{metrics.attrs['batches']} batches of {metrics.attrs['batch_tokens']:,} tokens"
    return Figure(
        name="trade_off",
        title="Traffic against stragglers",
        alt=f"Points by placement of devices per token and straggler, a panel for each composition of batches; on "
        f"{_devices(metrics)} devices with pieces of documents: {'; '.join(known)}.",
        caption=f"On {_devices(metrics)} devices, with pieces of documents of {metrics.attrs['piece_tokens']} tokens: "
        f"{'; '.join(known)}. {_bytes(metrics)}Means over layers; {batches}; placements were made by the other half of "
        f"the clusters. {counts_text(metrics, JACKKNIFE)} The cross in grey is the mean of "
        f"{metrics.attrs['random_placements']} placements at random, and its line the range of most.",
        how_to_read="To the left there is less traffic, below there is less to wait for. What is selected together is "
        "often busy together: then a placement to the left of chance is above it. Panels have scales of their own.",
        drawing=drawing,
        data=table(metrics, ["devices_per_token", "straggler", "traffic_saved", "straggler_saved", "composition_cost"]),
    )


def _bytes(metrics: xr.Dataset) -> str:
    """What a token sends in a layer, where that is known in bytes."""
    if not np.isfinite(metrics.attrs["state_bytes"]):
        return ""
    return (
        f"A hidden state has {metrics.attrs['state_bytes']:,.0f} bytes: a token sends and receives "
        f"{_text(metrics, 'bytes_sent', placement=CONTIGUOUS)} of them in a layer if experts are contiguous, "
        f"{_text(metrics, 'bytes_sent', placement=TOGETHER)} by co-activation. "
    )


def _lines(metrics: xr.Dataset, name: str, **where) -> list[Series]:
    """A measure over layers, a line for each placement."""
    return [Series(each, *ends(metrics[name].sel(placement=each, **where))) for each in PLACEMENTS]


def _devices_by_layer(metrics: xr.Dataset) -> Figure:
    panels = []
    for count in metrics["devices"].values.tolist():
        random = Reference(CHANCE, float(metrics["null_devices_per_token"].sel(devices=count)))
        lines = _lines(metrics, "devices_per_token", devices=count)
        panels.append(Panel(f"{count} devices", metrics["layer"].values, lines, [random], "devices per token"))
    text = _text(metrics, "devices_per_token", placement=TOGETHER)
    random = format_number(float(metrics["null_devices_per_token"].values[-1]))
    return Figure(
        name="devices_by_layer",
        title="Devices per token by layer",
        alt=f"Line charts over layers of the devices per token of each placement; by co-activation {text} of "
        f"{_devices(metrics)}, at random {random}.",
        caption=f"To how many devices a token goes; on {_devices(metrics)} devices by co-activation {text}, at random "
        f"and under uniform routing {random}. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="The dashed line is exact: it is what placements at random give on average, whatever the routing. "
        "Experts that are never selected together cannot get below it.",
        drawing=plotting.small_multiples(panels, columns=2, panel_height=2.4, share_y=False, order=list(PLACEMENTS)),
        data=table(metrics, ["devices_per_token", "states_sent", "bytes_sent"]),
    )


def _straggler_by_layer(metrics: xr.Dataset) -> Figure:
    count, panels = _devices(metrics), []
    for composition in COMPOSITIONS:
        here = {"devices": count, "composition": composition}
        references = [
            Reference(CHANCE, *ends(metrics["null_straggler"].sel(here))),
            Reference("uniform routing", float(metrics["uniform_straggler"].sel(devices=count))),
        ]
        lines = _lines(metrics, "straggler", **here)
        panels.append(Panel(composition.capitalize(), metrics["layer"].values, lines, references, "straggler"))
    known = [f"{each} {_text(metrics, 'straggler', placement=BY_LOAD, composition=each)}" for each in COMPOSITIONS]
    return Figure(
        name="straggler_by_layer",
        title="Stragglers by layer",
        alt=f"Line charts over layers of the straggler of each placement on {count} devices, a panel for each "
        f"composition of batches; by load: {'; '.join(known)}.",
        caption=f"Load of the busiest of {count} devices, by that of an average one, in batches of "
        f"{metrics.attrs['batch_tokens']:,} tokens. By load: {'; '.join(known)}. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="1 means that all devices have as much to do. Uniform routing lies above 1 by the noise of a "
        "batch. The band of placements at random holds most of them.",
        drawing=plotting.small_multiples(panels, columns=3, panel_height=2.6, share_y=False, order=list(PLACEMENTS)),
        data=table(metrics, ["straggler"]),
    )


def _rooms(metrics: xr.Dataset) -> Figure:
    count, rooms = _devices(metrics), metrics["room"].values.tolist()
    shown = {"dropped_share": "selections dropped", "lost_tokens": "tokens that lose all", "unused_room": "room unused"}
    drawing, axes = plotting.canvas(plotting.height_for(3 * len(rooms)) + 1.2, rows=3)
    mine = metrics.sel(devices=count)
    for ax, (name, label) in zip(axes, shown.items(), strict=True):
        values = [Series(each, *ends(mine[MEAN + name].sel(composition=each))) for each in COMPOSITIONS]
        plotting.dot_whiskers(ax, rooms, values, x_label=f"share of {label}", order=list(COMPOSITIONS))
    known = [f"{each} {_text(metrics, 'dropped_share', composition=each, room=rooms[0])}" for each in COMPOSITIONS]
    return Figure(
        name="dropped_by_room",
        title="What devices with little room would drop",
        alt=f"Dots by the room of a device of the share of selections dropped, of tokens that lose all their experts, "
        f"and of room unused; dropped with {rooms[0]}: {'; '.join(known)}.",
        caption=f"With experts placed by load on {count} devices; dropped with a room of {rooms[0]}: "
        f"{'; '.join(known)}. A device keeps the first selections in token order. Means over layers; "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="A room of 1 even share is exactly what a device needs if all have as much to do. More room drops "
        "less and leaves more of it unused. Nothing was dropped in this study.",
        drawing=drawing,
        data=table(metrics, list(shown)),
    )


def _replicas(metrics: xr.Dataset) -> Figure:
    count, copies = _devices(metrics), metrics["replicas"].values
    lines = [
        Series(each, *ends(metrics[f"{MEAN}replica_straggler"].sel(devices=count, composition=each)))
        for each in COMPOSITIONS
    ]
    uniform = Reference("uniform routing", float(metrics["uniform_straggler"].sel(devices=count)))
    drawing, (ax,) = plotting.canvas(3.2)
    plotting.curves(ax, copies, lines, [uniform], x_label="copies of experts, beside one of each", y_label="straggler")
    pieces = [_text(metrics, "replica_straggler", composition=PIECES, replicas=each) for each in copies[[0, -1]]]
    return Figure(
        name="replicas",
        title="What copies of busy experts even out",
        alt=f"Lines of the straggler over the number of copies, one for each composition of batches; with pieces of "
        f"documents {pieces[0]} without and {pieces[1]} with {copies[-1]} copies.",
        caption=f"Straggler on {count} devices, experts and copies placed by load; {metrics.attrs['experts']} experts "
        f"in a layer. With pieces of documents {pieces[0]} without copies and {pieces[1]} with {copies[-1]}. Means "
        f"over layers; {counts_text(metrics, JACKKNIFE)}",
        how_to_read="Copies cost memory. Those of an expert share its tokens evenly, which the busiest experts get "
        "most of; nothing is said of traffic, which depends on the copy that a token takes.",
        drawing=drawing,
        data=table(metrics, ["replica_straggler"]),
    )


def _moved_by_layer(metrics: xr.Dataset) -> Figure:
    count = _devices(metrics)
    random = float(metrics["null_moved_share"].sel(devices=count))
    drawing, (ax,) = plotting.canvas(3.2)
    lines = _lines(metrics, "moved_share", devices=count)
    plotting.layer_lines(
        ax,
        metrics["layer"].values,
        lines,
        [Reference(CHANCE, random)],
        y_label="share of tokens",
        order=list(PLACEMENTS),
    )
    text = _text(metrics, "moved_share", placement=ALONG)
    return Figure(
        name="moved_by_layer",
        title="First choices that change device between layers",
        alt=f"Line chart over layers of the share of tokens whose first choice is on another device than in the layer "
        f"before; along layers {text}, at random {format_number(random)}.",
        caption=f"On {count} devices {text} of the tokens change device if experts are placed along the layers, "
        f"{format_number(random)} at random. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="The first layer has no layer before it. A placement along the layers follows the first choices "
        "alone; what else it does is in the other figures.",
        drawing=drawing,
        data=table(metrics, ["moved_share"]),
    )


def _textbook() -> Figure:
    data = textbook.worked()
    parts = {part: data[part].values for part in ("kept", "dropped", "unused room")}
    rows = data["loads"].tolist()
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(rows)))
    plotting.stacked_bars(ax, rows, parts, x_label="selections, and room for more")
    told = ", ".join(f"{row}: {dropped}" for row, dropped in zip(rows, data["dropped"], strict=True))
    return Figure(
        name="worked_example",
        title="Drops by hand",
        alt=f"Bars of selections kept and dropped by three devices that have room for three each. Dropped, by the "
        f"loads of the devices: {told}.",
        caption=f"What the same computation says of loads that can be counted on fingers: {textbook.DEVICES} devices, "
        f"room for {textbook.ROOM} selections on each, one expert a token, n = 6 or 8 tokens. Dropped, by the loads of "
        f"the devices: {told}.",
        how_to_read="As many selections are dropped with even loads of 6 tokens as with 8, none; one device that has "
        "all 6 drops half of them, while 6 of 9 places stay empty.",
        drawing=drawing,
        data=data,
    )
