"""The page of the chapter on circuits: figures, findings and words."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.base.page import (
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    ends,
    estimate,
    held,
    percent,
    rounded,
    side,
    verdict,
)
from gatebook.chapters.expert_circuits import BOTH, CHANCE, DIRECTIONS, GIVEN, KINDS, RECOMPUTED, SWAPPED, WITHIN
from gatebook.figures import graph, plotting
from gatebook.figures.explored import Graphs
from gatebook.figures.graph import Edge, Node
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import table
from gatebook.routing.node_list import EMBEDDING, OUTPUT

OF_THE_GAP = "of the gap"
SAME_LAYERS, SHUFFLED = "random experts of the same layers", "shuffled edges"
LISTED = 16
"""Edges of a figure."""


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter; of tasks that the model does not do only whether it does them."""
    metrics, known = seen.metrics, _done(seen.metrics)
    found = [_gate(metrics)]
    for name in known:
        found += [_drawn(metrics, name)]
    if known:
        found += [_curves(metrics), _chosen(metrics)]
        found += [_members(metrics)] if _by_experts_of(metrics) else []
        found += [_edges(metrics, name) for name in known]
    if metrics.sizes["checkpoint"]:
        found.append(_training(metrics))
    return found


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings."""
    found = [_finding_gate(seen, name) for name in seen.metrics["task"].values.tolist()]
    for name in _done(seen.metrics):
        found += [_finding_few(seen, name), _finding_random(seen, name), _finding_swapped(seen, name)]
        found += [_finding_outside(seen, name)] if name in _by_experts_of(seen.metrics) else []
        found.append(_finding_attribution(seen, name))
        if (early := _first_time(seen.metrics, name)) is not None:
            found.append(_finding_early(seen, name, early))
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """Of the task with the smallest circuit: how few nodes carry how much of it, and which is the first expert."""
    known = [(found, name) for name in _done(seen.metrics) if (found := _finding_few(seen, name)).is_known]
    if not known:
        return None
    found, name = min(known, key=lambda one: one[0].estimate)
    if found.verdict != "yes":
        return Brief("Nothing shows that few nodes are enough for a behaviour.", found.figure)
    one = _of(seen.metrics, name)
    nodes, size = (int(one[part].sel(kind=WITHIN)) for part in ("nodes", "chosen_size"))
    share = percent(estimate(_circuit(one, WITHIN, BOTH)))
    text = (
        f"{size} of {nodes} experts and attention layers carry {share} of what decides the answer in the task {name}."
    )
    if (first := _first_expert(one)) is None:
        return Brief(text, f"circuit_{name}")
    layer, expert = first
    example = f"The first expert among them is {expert} of layer {layer}."
    return Brief(text, f"circuit_{name}", example, layer, (expert,))


def explored(seen: Seen) -> Graphs | None:
    """The circuits that readers explore in the place of their drawings."""
    known = _done(seen.metrics)
    if not known:
        return None
    return Graphs(known, [graph.described(*_graph(_of(seen.metrics, name))) for name in known], OF_THE_GAP)


# ---------------------------------------------------------------- parts of metrics


def _done(metrics: xr.Dataset) -> list[str]:
    """The tasks that the model does and that are traced through it."""
    return [] if metrics.attrs["not_traced"] else metrics["task"].values[metrics["does"].values == 1].tolist()


def _by_experts_of(metrics: xr.Dataset) -> list[str]:
    """Those of which experts carry enough to be shared out among them."""
    return [name for name in _done(metrics) if _by_experts(_of(metrics, name))]


def _of(metrics: xr.Dataset, name: str) -> xr.Dataset:
    return metrics.sel(task=name)


def _circuit(one: xr.Dataset, kind: str, direction: str) -> xr.DataArray:
    return one["chosen"].sel(kind=kind, direction=direction)


def _members_of(one: xr.Dataset, kind: str) -> list[str]:
    return [name for name in one["member"].sel(kind=kind).values.tolist() if name]


def _by_experts(one: xr.Dataset) -> bool:
    """Whether experts carry enough of a task for it to be shared out among them."""
    return bool(one["chosen"].sel(kind=RECOMPUTED).notnull().all())


def _expert(name: str) -> tuple[int, int] | None:
    """Layer and number of an expert by its name, such as L3E14."""
    layer, found, expert = name.removeprefix("L").partition("E")
    return (int(layer), int(expert)) if found and layer.isdigit() else None


def _first_expert(one: xr.Dataset) -> tuple[int, int] | None:
    return next((found for name in _members_of(one, WITHIN) if (found := _expert(name))), None)


def _experts_named(one: xr.Dataset, kind: str) -> list[str]:
    """The experts of a chosen circuit, for the links of a figure."""
    found = [_expert(name) for name in _members_of(one, kind)]
    return [f"layer {each[0]}, expert {each[1]}" for each in found if each]


def _sample(one: xr.Dataset, tested: bool = True) -> dict:
    pairs, sources = int(one["pairs"]), int(one["tested_sources" if tested else "sources"])
    return {"n": sources, "n_unit": f"sources of {'half of ' if tested else ''}{pairs} pairs"}


def _size(metrics: xr.Dataset) -> str:
    """How many pairs there are, for a caption."""
    parts = [
        f"{int(one['pairs'])} pairs of {int(one['sources'])} sources in {name}"
        for name in metrics["task"].values.tolist()
        for one in [_of(metrics, name)]
    ]
    return f"n = {', '.join(parts)}; intervals: {100 * metrics.attrs['confidence']:g} % bootstrap over sources."


def _text(array: xr.DataArray) -> str:
    return " ".join(format_estimate(*estimate(array)))


def _title(metrics: xr.Dataset, name: str) -> str:
    return json.loads(metrics.attrs["titles"])[name]


def _data(metrics: xr.Dataset, names: Sequence[str]) -> pd.DataFrame:
    return table(metrics, names).dropna(subset=["estimate"]).reset_index(drop=True)


# ---------------------------------------------------------------- findings


def _finding_gate(seen: Seen, name: str) -> Finding:
    one = _of(seen.metrics, name)
    right, flips = (estimate(one[part]) for part in ("right", "flips"))
    found = held(min(right, flips), Null("chance", CHANCE), seen.thresholds["faithfulness_effect"])
    done = side(found) == "above"
    reason = seen.metrics.attrs["not_traced"]
    end = f" No circuit of it is known: {reason}" if reason else "" if done else " No circuit of it is looked for."
    return Finding(
        question=f"Does the model do the task {name}?",
        answer=f"It is right in {percent(right)} of the clean prompts, and {percent(flips)} of the pairs flip when "
        f"corrupted, with a gap of {_text(one['gap'])} logits.{end}",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that both are above 1/2",
        unit="of pairs",
        figure="gate",
        measure="right" if right < flips else "flips",
        **found | _sample(one, tested=False),
    )


def _finding_few(seen: Seen, name: str) -> Finding:
    one, threshold = _of(seen.metrics, name), seen.thresholds["few"]
    nodes = int(one["nodes"].sel(kind=WITHIN))
    sizes = one["smallest_size"].sel(kind=WITHIN)
    found = held(
        estimate(sizes.sel(direction=BOTH)), Null("all nodes", float(nodes)), seen.thresholds["size_effect"], nodes
    )
    size = int(one["chosen_size"].sel(kind=WITHIN))
    return Finding(
        question=f"Are few nodes enough for the task {name}?",
        answer=f"With {found['estimate']:.0f} of {nodes} nodes, experts and attention of layers, a circuit has a "
        f"faithfulness of {format_number(seen.metrics.attrs['enough'])}, and with fewer of the sizes tried less. The "
        f"{size} that were enough on the pairs by which they are ranked reach "
        f"{_text(_circuit(one, WITHIN, BOTH))} on the others.",
        verdict=verdict(side(found, threshold * nodes), yes="below"),
        verdict_text=f"yes means fewer than {format_number(threshold * nodes)} nodes",
        unit="nodes",
        figure="faithfulness_by_size",
        measure="smallest_size",
        **found | _sample(one),
    )


def _finding_random(seen: Seen, name: str) -> Finding:
    one = _of(seen.metrics, name)
    if not _by_experts(one):
        return _finding_no_part(seen, name)
    null = Null(SAME_LAYERS, one["null_chosen"].sel(kind=RECOMPUTED, direction=BOTH))
    values = _circuit(one, RECOMPUTED, BOTH)
    found = held(estimate(values), null, seen.thresholds["faithfulness_effect"])
    part = estimate(one["experts_part"].sel(direction=BOTH))
    size = int(one["chosen_size"].sel(kind=RECOMPUTED))
    return Finding(
        question=f"Does it take these experts for the task {name}, and not any of their layers?",
        answer=f"With attention computed, experts carry {percent(part)} of the gap. Of that part {size} experts carry "
        f"{percent(found)}, as many random ones of the same layers {_hundredth(found['null_value'])} % (95 % of them "
        f"{_hundredth(found['null_low'])} to {_hundredth(found['null_high'])} %).",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than 97.5 % of random circuits",
        unit="of the experts' part",
        figure="chosen_circuits",
        measure="chosen",
        **found | _sample(one),
    )


def _finding_no_part(seen: Seen, name: str) -> Finding:
    """Where experts carry too little of a task for it to be shared out among them."""
    one, least = _of(seen.metrics, name), seen.metrics.attrs["least_part"]
    part = one["experts_part"].sel(direction=BOTH)
    found = held(estimate(part), Null("nothing", 0.0), seen.thresholds["faithfulness_effect"])
    return Finding(
        question=f"Do experts carry the task {name}?",
        answer=f"With attention computed, experts carry {_text(part)} of the gap, too little to be shared out among "
        "them.",
        verdict="no",
        verdict_text=f"yes means more than {format_number(least)} of the gap in both directions, by interval",
        unit="of the gap",
        figure="chosen_circuits",
        measure="experts_part",
        **found | _sample(one),
    )


def _finding_swapped(seen: Seen, name: str) -> Finding:
    one, threshold = _of(seen.metrics, name), seen.thresholds["faithful"]
    given, swapped = (estimate(_circuit(one, WITHIN, direction)) for direction in (GIVEN, SWAPPED))
    found = held(min(given, swapped), Null("nothing", 0.0), seen.thresholds["faithfulness_effect"])
    return Finding(
        question=f"Is the circuit of the task {name} one of both answers?",
        answer=f"Its faithfulness is {_words(given)} as given, and {_words(swapped)} with clean and corrupt swapped.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means above {format_number(threshold)} in the worse direction",
        unit="of the gap",
        figure="chosen_circuits",
        measure="chosen",
        **found | _sample(one),
    )


def _hundredth(share: float) -> str:
    """A share in whole percent."""
    return format_number(round(100 * share))


def _words(value: tuple[float, float, float]) -> str:
    return " ".join(format_estimate(*value))


def _finding_outside(seen: Seen, name: str) -> Finding:
    one = _of(seen.metrics, name)
    null = Null("without random experts of the same layers", one["null_left"].sel(direction=BOTH))
    found = held(estimate(one["left"].sel(direction=BOTH)), null, seen.thresholds["faithfulness_effect"])
    lost = one["lost"].dropna("place", how="all")
    needed = int((lost.sel(interval="low") > 0).sum())
    return Finding(
        question=f"Is the circuit of the task {name} complete?",
        answer=f"All experts outside it are enough for {percent(found)} of the experts' part, without as many random "
        f"ones for {_hundredth(found['null_value'])} %. {needed} of its first {lost.sizes['place']} members are "
        f"needed one by one, and another expert adds {_text(one['added'])} on average, the most "
        f"{format_number(float(one['most_added']))}.",
        verdict=verdict(side(found), yes="below"),
        verdict_text="yes means less than is left without 97.5 % of random circuits",
        unit="of the experts' part",
        figure="chosen_circuits",
        measure="left",
        **found | _sample(one),
    )


def _finding_attribution(seen: Seen, name: str) -> Finding:
    one = _of(seen.metrics, name)
    found = held(estimate(one["spearman"]), Null(SHUFFLED, one["null_spearman"]), seen.thresholds["correlation_effect"])
    edge = one["edge_effect"].dropna("edge", how="all")
    mean = format_number(float(np.abs(edge.sel(interval="estimate")).mean()))
    return Finding(
        question=f"Does attribution tell which edges matter in the task {name}?",
        answer=f"Over the {edge.sizes['edge']} strongest edges attribution and path patching have a rank correlation "
        f"of {rounded(found)} (Pearson's {_text(one['pearson'])}). Their effect is {mean} of the gap on average, that "
        f"of random edges {_text(one['random_edge_effect'])}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more than 97.5 % of shuffled edges",
        unit="rank correlation",
        figure=f"edges_{name}",
        measure="spearman",
        **found | _sample(one),
    )


def _first_time(metrics: xr.Dataset, name: str) -> str | None:
    """The first checkpoint of training, before the last one, at which the model does a task, if there is one."""
    known = _of(metrics, name)["chosen_then"].sel(kind=WITHIN, direction=BOTH, interval="estimate")
    found = metrics["checkpoint"].values[np.isfinite(known.values)].tolist()
    return found[0] if len(found) > 1 else None


def _finding_early(seen: Seen, name: str, checkpoint: str) -> Finding:
    one, threshold = _of(seen.metrics, name), seen.thresholds["faithful"]
    then = one.sel(checkpoint=checkpoint)
    values = then["chosen_then"].sel(kind=WITHIN, direction=BOTH)
    found = held(estimate(values), Null("nothing", 0.0), seen.thresholds["faithfulness_effect"])
    return Finding(
        question=f"Was the circuit of the task {name} there as soon as the model did the task?",
        answer=f"At {checkpoint}, the first checkpoint that does it, with a gap of {_text(then['gap_then'])} logits, "
        f"the last one's circuit carried {percent(found)} of it.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means above {format_number(threshold)}",
        unit="of the gap",
        figure="training",
        measure="chosen_then",
        **found | _sample(one),
    )


# ---------------------------------------------------------------- figures


def _gate(metrics: xr.Dataset) -> Figure:
    names = metrics["task"].values.tolist()
    drawing, (ax,) = plotting.canvas(plotting.height_for(1.6 * len(names)))
    lines = [
        Series("right in the clean prompt", *ends(metrics["right"])),
        Series("flips when corrupted", *ends(metrics["flips"])),
    ]
    chance = [Reference("chance", CHANCE)]
    plotting.dot_whiskers(ax, names, lines, chance, x_label="share of pairs", x_limits=(0, 1.02))
    said = "; ".join(
        f"{name} {_text(_of(metrics, name)['right'])} and {_text(_of(metrics, name)['flips'])}" for name in names
    )
    tasks = "; ".join(f"{name}: {_title(metrics, name)}" for name in names)
    return Figure(
        name="gate",
        title="Whether the model does the tasks",
        alt=f"Dots with whiskers by task: right in the clean prompt, and flips when corrupted; {said}.",
        caption=f"Share of pairs in which the right answer is the likelier one after the clean prompt, and the wrong "
        f"one after the corrupt prompt: {said}. Tasks: {tasks}. {_size(metrics)}",
        how_to_read="Only where both whiskers are right of chance is a circuit looked for: a gap between the prompts "
        "alone is no behaviour.",
        drawing=drawing,
        data=_data(metrics, ["right", "flips", "gap"]),
    )


def _graph(one: xr.Dataset) -> tuple[list[Node], list[Edge]]:
    """The chosen circuit with its measured edges: embedding, members, and output."""
    inside, edges = (
        {EMBEDDING, OUTPUT, *_members_of(one, WITHIN)},
        one.dropna("edge", how="all", subset=["edge_effect"]),
    )
    rows = [
        number
        for number, pair in enumerate(zip(edges["sender"].values, edges["receiver"].values, strict=True))
        if set(pair) <= inside
    ]
    nodes: dict[str, Node] = {}
    for row in rows:
        for end in ("sender", "receiver"):
            name = str(edges[end].values[row])
            layer, expert = (int(edges[f"{end}_{part}"].values[row]) for part in ("layer", "expert"))
            nodes[name] = Node(name, 2 * layer + (expert >= 0 or name.startswith("rest")), layer, expert)
    order = sorted(nodes.values(), key=lambda node: (node.column, node.expert))
    place = {node.name: number for number, node in enumerate(order)}
    return order, [
        Edge(place[str(edges["sender"].values[row])], place[str(edges["receiver"].values[row])], *value)
        for row in rows
        for value in [edges["edge_effect"].values[row].tolist()]
    ]


def _drawn(metrics: xr.Dataset, name: str) -> Figure:
    one = _of(metrics, name)
    nodes, edges = _graph(one)
    drawing, (ax,) = plotting.canvas(3.6)
    graph.graph(ax, nodes, edges, OF_THE_GAP)
    strongest = sorted(edges, key=lambda edge: -abs(edge.value))[:3]
    said = "; ".join(graph.sentence(nodes, edge) for edge in strongest) or "no edge within it"
    size = int(one["chosen_size"].sel(kind=WITHIN))
    return Figure(
        name=f"circuit_{name}",
        title=f"The circuit of the task {name}",
        alt=f"Graph from left to right of a circuit of {size} nodes and {len(edges)} edges; strongest: {said}.",
        caption=f"Chosen circuit of {size} nodes, and those of the "
        f"{one['edge_effect'].dropna('edge', how='all').sizes['edge']} strongest edges that lie within it; L3E14 is "
        f"expert 14 of layer 3. Thickness: the share of the gap that is lost if the receiver alone reads the corrupt "
        f"value, by path patching, both directions together. Strongest: {said}. {_size(metrics)}",
        how_to_read="Shares do not add up: what goes through one edge may go through the next one too. An edge that is "
        "drawn in the other colour works against the right answer. The CSV has all measured edges.",
        drawing=drawing,
        data=_edge_rows(one),
        explores=name,
        names=_experts_named(one, WITHIN),
    )


def _edge_rows(one: xr.Dataset) -> pd.DataFrame:
    """The measured edges of a task as rows."""
    known = one.dropna("edge", how="all", subset=["edge_effect"])
    rows = {end: known[end].values.astype(str) for end in ("sender", "receiver")}
    for measure in ("edge_effect", "edge_attribution"):
        rows |= {f"{measure}_{part}": known[measure].sel(interval=part).values for part in ("estimate", "low", "high")}
    return pd.DataFrame(rows)


def _curves(metrics: xr.Dataset) -> Figure:
    panels, said = [], []
    for name in _done(metrics):
        one = _of(metrics, name)
        for kind in KINDS:
            curve = one["faithfulness"].sel(kind=kind)
            lines = [Series(each, *ends(curve.sel(direction=each))) for each in (GIVEN, SWAPPED)]
            null = one["null_faithfulness"].interpolate_na("size", use_coordinate=False)
            random = [Reference(SAME_LAYERS, *ends(null))] if kind == RECOMPUTED else []
            panels.append(Panel(f"{name}, {kind}", metrics["size"].values, lines, random, "faithfulness"))
            said.append(
                f"{name}, {kind}: area {_text(one['area'].sel(kind=kind, direction=BOTH))}, distance from 1 "
                f"{_text(one['distance'].sel(kind=kind, direction=BOTH))}"
            )
    text = "; ".join(said)
    return Figure(
        name="faithfulness_by_size",
        title="Faithfulness by size of the circuit",
        alt=f"Curves of faithfulness over the number of nodes, by task, kind of circuit and direction; {text}.",
        caption=f"Faithfulness of the first nodes of the ranking, on the half of the sources by which they are not "
        f"ranked. Areas under the curve (CPR) and between it and 1 (CMD), over the share of nodes: {text}. The band "
        f"holds 95 % of {metrics.attrs['random']} circuits of as many random experts of each layer that the prompts "
        f"use, as given; between the sizes at which they were drawn it is a straight line. {_size(metrics)}",
        how_to_read="0 is what the empty circuit does, 1 the whole model; above 1, nodes are left out that work "
        "against the answer. On the left attention outside the circuit has the corrupt values too, on the right it is "
        "computed.",
        drawing=plotting.small_multiples(
            panels,
            columns=2,
            panel_height=2.0,
            x_label="nodes",
            draw=lambda *given, **named: plotting.curves(*given, **named, x_scale="log"),
        ),
        data=_data(metrics, ["faithfulness", "area", "distance", "smallest_size"]),
    )


def _chosen(metrics: xr.Dataset) -> Figure:
    rows = [(name, direction) for name in _done(metrics) for direction in DIRECTIONS]
    drawing, (ax,) = plotting.canvas(plotting.height_for(1.5 * len(rows)))

    def values(measure: str, **where) -> list[np.ndarray]:
        found = [_of(metrics, name)[measure].sel(direction=direction, **where) for name, direction in rows]
        return [np.array([float(each.sel(interval=part)) for each in found]) for part in ("estimate", "low", "high")]

    lines = [
        Series("experts of the circuit", *values("chosen", kind=RECOMPUTED)),
        Series(SAME_LAYERS, *values("null_chosen", kind=RECOMPUTED)),
        Series("all other experts", *values("left")),
    ]
    names = [f"{name}, {direction}" for name, direction in rows]
    plotting.dot_whiskers(ax, names, lines, x_label="share of the experts' part")
    said = "; ".join(
        f"{name}: {int(one['chosen_size'].sel(kind=RECOMPUTED))} experts "
        f"{_text(_circuit(one, RECOMPUTED, BOTH))}, all others {_text(one['left'].sel(direction=BOTH))}"
        if _by_experts(one)
        else f"{name}: experts carry {_text(one['experts_part'].sel(direction=BOTH))} of the gap, too little"
        for name in _done(metrics)
        for one in [_of(metrics, name)]
    )
    return Figure(
        name="chosen_circuits",
        title="The experts of the circuit, random ones, and all others",
        alt=f"Dots with whiskers by task and direction of the share of the experts' part that is left; {said}.",
        caption=f"Share of what experts do for the gap, attention computed, that is left with the experts of the "
        f"chosen circuit alone, with as many random ones of the same layers (whiskers: 95 % of "
        f"{metrics.attrs['random']}), and with all experts but the circuit's: {said}. {_size(metrics)}",
        how_to_read="A circuit that is faithful and complete is at 1, with all others at 0. Random experts at 1 would "
        "mean that any of these layers do.",
        drawing=drawing,
        data=_data(metrics, ["chosen", "left", "experts_part"]),
        names=[each for name in _done(metrics) for each in _experts_named(_of(metrics, name), RECOMPUTED)],
    )


def _members(metrics: xr.Dataset) -> Figure:
    rows, values = [], []
    for name in _by_experts_of(metrics):
        one = _of(metrics, name)
        lost = one["lost"].dropna("place", how="all")
        members = _members_of(one, RECOMPUTED)[: lost.sizes["place"]]
        rows += [f"{name}, {member}" for member in members] + [f"{name}, one more"]
        values += [*lost.values, one["added"].values]
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(rows)))
    series = Series("lost, or added by one more", *np.array(values).T)
    plotting.dot_whiskers(ax, rows, [series], [Reference("nothing", 0.0)], x_label="faithfulness")
    largest = int(np.argmax(np.array(values)[:, 0]))
    said = f"the most is lost without {rows[largest]}: {_words(tuple(values[largest]))}"
    return Figure(
        name="members",
        title="What each member is needed for",
        alt=f"Dots with whiskers of the faithfulness that is lost without each expert of a circuit; {said}.",
        caption=f"Faithfulness of the circuit of experts alone, minus that without each of its first members, and "
        f"what a random other expert adds on average; both directions together; {said}. {_size(metrics)}",
        how_to_read="Whiskers left of 0 or on it: the circuit does without this expert. What members do together is "
        "not the sum.",
        drawing=drawing,
        data=_data(metrics, ["lost", "added"]),
        names=[each for name in _done(metrics) for each in _experts_named(_of(metrics, name), RECOMPUTED)],
    )


def _edges(metrics: xr.Dataset, name: str) -> Figure:
    one = _of(metrics, name)
    data = _edge_rows(one)
    shown = data.iloc[:LISTED]
    rows = [f"{sender} → {receiver}" for sender, receiver in zip(shown["sender"], shown["receiver"], strict=True)]
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(rows)))
    lines = [
        Series(label, *(shown[f"{measure}_{part}"] for part in ("estimate", "low", "high")))
        for label, measure in (("path patching", "edge_effect"), ("attribution", "edge_attribution"))
    ]
    plotting.dot_whiskers(ax, rows, lines, [Reference("nothing", 0.0)], x_label="share of the gap")
    said = f"rank correlation {_text(one['spearman'])}, Pearson's {_text(one['pearson'])}"
    chance = " to ".join(format_number(float(one["null_spearman"].sel(interval=end))) for end in ("low", "high"))
    together = _data(metrics.sel(task=[name]), ["spearman", "pearson", "random_edge_effect", "edge_effect"])
    return Figure(
        name=f"edges_{name}",
        title=f"The strongest edges of the task {name}",
        alt=f"Dots with whiskers of the {len(rows)} strongest edges, by attribution and by path patching; {said}.",
        caption=f"The first of the {len(data)} strongest edges by attribution on one half of the sources, on the other "
        f"half: {said}; 95 % of shuffled edges {chance}. Random edges: {_text(one['random_edge_effect'])}. "
        f"{_size(metrics)}",
        how_to_read="Where attribution is far left of path patching, the receiver is saturated: little of the "
        "difference moves it, all of it does. The CSV has all edges.",
        drawing=drawing,
        data=together,
        names=[],
    )


def _training(metrics: xr.Dataset) -> Figure:
    names, checkpoints = metrics["task"].values.tolist(), metrics["checkpoint"].values.tolist()
    steps = np.array(
        [float(digits) if (digits := name.removeprefix("step")).isdigit() else np.nan for name in checkpoints]
    )
    known = np.isfinite(steps).all()
    at = steps if known else np.arange(len(checkpoints), dtype=float)
    panels = [
        Panel("Gap", at, [Series(name, *ends(_of(metrics, name)["gap_then"])) for name in names], y_label="logits")
    ]
    lines = [Series(name, *ends(_of(metrics, name)["chosen_then"].sel(kind=WITHIN, direction=BOTH))) for name in names]
    panels.append(Panel("Faithfulness of the last circuit", at, lines, y_label="faithfulness"))
    where = {"kind": WITHIN, "direction": BOTH}
    said = "; ".join(
        f"{name} from {first} on, then {_text(_of(metrics, name)['chosen_then'].sel(checkpoint=first, **where))}"
        for name in _done(metrics)
        if (first := _first_time(metrics, name))
    )
    last = "; ".join(f"{name} {_text(_of(metrics, name)['gap_then'].isel(checkpoint=-1))} logits" for name in names)
    return Figure(
        name="training",
        title="Tasks and their circuits through training",
        alt=f"Curves over training of the gap and of the faithfulness of the last circuit; at last {last}.",
        caption=f"Gap between clean and corrupt at checkpoints of training (at last {last}), and faithfulness of the "
        f"circuit chosen at the last one, where the model does the task{f': {said}' if said else ''}. "
        f"{_size(metrics)}",
        how_to_read="A faithfulness near 1 from early on: the same nodes carried it all along. The "
        "circuit was chosen at the last checkpoint, which favours it.",
        drawing=plotting.small_multiples(
            panels,
            columns=2,
            panel_height=2.0,
            share_y=False,
            x_label="training step" if known else "checkpoint",
            draw=lambda *given, **named: plotting.curves(*given, **named, x_scale="symlog" if known else "linear"),
        ),
        data=_data(metrics, ["gap_then", "right_then", "chosen_then"]),
    )
