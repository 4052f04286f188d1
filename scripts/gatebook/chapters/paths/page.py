"""The page of the chapter paths: figures, findings and words."""

from functools import partial

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
    change,
    checkpoints,
    counts_text,
    ends,
    numbers,
    over_layers,
    percent,
    rounded,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.paths import HALF, IDS, INDEPENDENT, OBSERVED
from gatebook.figures import plotting
from gatebook.figures.blocks import blocks
from gatebook.figures.explored import Tree
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import spread, table
from gatebook.measures.uncertainty import POOLED

NO_DIFFERENCE = Null("no difference", 0.0)
MOST_WINDOWS = 4
DRAWN = 200
"""Paths of the static picture of a tree."""


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics, untrained = seen.metrics, seen.untrained
    found = [
        _coverage(metrics, untrained),
        _numbers_by_layer(metrics, untrained),
        _compared_by_layer(metrics, untrained),
    ]
    return [*found, _of_datasets(metrics), _tree(metrics)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; what so few tokens or layers cannot answer is left out."""
    found = [_finding_few(seen), _finding_chain(seen), _finding_datasets(seen)]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """How many paths carry half of the tokens, and the path that most surely belongs to a dataset."""
    found = _finding_few(seen)
    if not found.is_known:
        return None
    if found.verdict != "yes":
        return Brief("Nothing shows that fewer paths carry most tokens than token ids give.", found.figure)
    needed, of_ids = (_half(seen.metrics, routing) for routing in (OBSERVED, IDS))
    text = f"Half of {seen.metrics.attrs['rarefied_tokens']:,} tokens take {needed} paths through "
    text += f"{seen.metrics.attrs['layers']} layers; token ids alone would give {of_ids}."
    score = seen.metrics["best_score"].isel(dataset=slice(1, None)).transpose("dataset", "best", "interval")
    low = score.sel(interval="low").values
    if not np.isfinite(low).any():
        return Brief(text, found.figure)
    dataset, place = np.unravel_index(np.nanargmax(low), low.shape)
    path = seen.metrics.isel(dataset=1 + dataset, best=place)
    experts, layer = str(path["best_path"].values).split(), int(path["best_layer"])
    share = rounded([100 * float(part) for part in score[dataset, place]])
    name = path["dataset"].item()
    example = f"The path {' → '.join(experts)}, which ends in layer {layer}, belongs to {name} most surely: "
    example += f"{share} % of its tokens are from it, if all datasets had equally many."
    return Brief(text, "paths_of_datasets", example, layer, (int(experts[-1]),))


def explored(seen: Seen) -> Tree:
    """The most frequent paths of all windows."""
    metrics = seen.metrics.transpose("layer", "top", "place", ...)
    windows, paths, tokens = [], [], []
    for index in range(metrics.sizes["layer"]):
        windows.append(metrics["window"].values[index].tolist())
        carried = metrics["top_tokens"].values[index]
        paths.append(metrics["top_path"].values[index][carried > 0])
        tokens.append(carried[carried > 0])
    return Tree(windows, paths, tokens, int(metrics["tokens"].sel(dataset=POOLED)))


def _half(metrics: xr.Dataset, routing: str) -> str:
    """The number of paths that carry half of the tokens, mean over windows."""
    value = over_layers(metrics.sel(routing=routing, share=HALF), "paths_needed")[0]
    return f"{value:,.0f}" if np.isfinite(value) else "not available"


def _finding_few(seen: Seen) -> Finding:
    found = numbers(seen, "relative_paths", Null(IDS, 1.0), "paths_effect")
    needed, of_ids = (_half(seen.metrics, routing) for routing in (OBSERVED, IDS))
    return Finding(
        question="Do fewer paths carry most tokens than their ids give?",
        answer=f"Half of {seen.metrics.attrs['rarefied_tokens']:,} tokens take {needed} paths, and would take {of_ids} "
        f"if each layer depended on the token id alone: {percent(found)} of them{change(seen, 'relative_paths')}.",
        verdict=verdict(side(found), yes="below"),
        verdict_text="yes means fewer than token ids alone give",
        unit="of the paths that token ids alone give",
        figure="compared_by_layer",
        **found,
    )


def _finding_chain(seen: Seen) -> Finding:
    found = numbers(seen, "two_back_added", NO_DIFFERENCE, "share_effect")
    return Finding(
        question="Does the layer two before say something that the layer before does not?",
        answer=f"The first choice in it adds {percent(found)} to what the one after it explains of a token's experts"
        f"{change(seen, 'two_back_added')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0, on the same tokens: routing is no chain over first choices",
        unit="of the variance of routing",
        figure="compared_by_layer",
        **found,
    )


def _finding_datasets(seen: Seen) -> Finding:
    rate = seen.metrics.attrs["false_discovery_rate"]
    found = numbers(seen, "specific_share", Null("false discoveries", rate), "specific_effect")
    return Finding(
        question="Do frequent paths tell which kind of text a token is from?",
        answer=f"{percent(found)} of the paths with at least {seen.metrics.attrs['minimum_occurrences']:,} tokens are "
        f"more frequent in some dataset than in the others on average{change(seen, 'specific_share')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text=f"yes means more than the {format_number(100 * rate)} % that may be false discoveries",
        unit="of the frequent paths",
        figure="compared_by_layer",
        **found,
    )


def _series(metrics: xr.Dataset, untrained: xr.Dataset | None, name: str, **where) -> list[Series]:
    """A measure over windows of both checkpoints."""
    known = checkpoints(metrics, untrained).items()
    return [Series(label, *ends(source[name].sel(where))) for label, source in known]


def _window(metrics: xr.Dataset, layer: int) -> str:
    layers = metrics["window"].sel(layer=layer).values
    return f"layers {layers[0]} to {layers[-1]}"


def _coverage(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    panels = []
    for layer in spread(metrics["layer"].values, MOST_WINDOWS):
        lines = []
        for label, source in checkpoints(metrics, untrained).items():
            mine = source["coverage"].sel(layer=layer, routing=OBSERVED)
            lines.append(Series(label, np.interp(metrics["paths"].values, source["paths"].values, mine.values)))
        shares = metrics["coverage"].sel(layer=layer)
        references = [Reference(name, shares.sel(routing=name).values) for name in (IDS, INDEPENDENT)]
        title = _window(metrics, layer).capitalize()
        panels.append(Panel(title, metrics["paths"].values, lines, references, "share of tokens"))
    drawing = plotting.small_multiples(
        panels,
        columns=2,
        panel_height=2.6,
        x_label="most frequent paths",
        y_limits=(0, 1),
        order=ORDER,
        draw=partial(plotting.curves, x_scale="log"),
    )
    needed, of_ids, independent = (_half(metrics, routing) for routing in (OBSERVED, IDS, INDEPENDENT))
    data = metrics["coverage"].to_dataframe("share").reset_index()
    return Figure(
        name="coverage",
        title="How many paths carry how many tokens",
        alt=f"Curves of the share of tokens on the most frequent paths. Half of the tokens take {needed} paths, "
        f"{of_ids} by token ids alone, {independent} if layers were independent.",
        caption=f"Share of {metrics.attrs['rarefied_tokens']:,} tokens on the most frequent paths. Half of them take "
        f"{needed} paths; {of_ids} if each layer depended on the token id alone; {independent} if layers were "
        f"independent. {size_text(metrics)}.",
        how_to_read="The higher a curve, the fewer paths carry the tokens. What lies above the line of token ids is "
        "due to context. Curves of samples of another size cannot be compared with these.",
        drawing=drawing,
        data=data,
    )


def _numbers_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    chosen = (
        ("paths_needed", {"share": 0.5}, "Paths for 50 %", "paths"),
        ("paths_needed", {"share": 0.8}, "Paths for 80 %", "paths"),
        ("paths_needed", {"share": 0.95}, "Paths for 95 %", "paths"),
        ("distinct_paths", {}, "Different paths", "paths"),
        ("path_entropy", {}, "Entropy of paths", "bits"),
        ("seen_mass", {}, "Tokens on seen paths", "share of tokens"),
    )
    panels = []
    for name, where, title, label in chosen:
        nulls = [
            Reference(routing, *ends(metrics[name].sel(where | {"routing": routing}))) for routing in (IDS, INDEPENDENT)
        ]
        lines = _series(metrics, untrained, name, routing=OBSERVED, **where)
        panels.append(Panel(title, metrics["layer"].values, lines, nulls, label))
    value, bounds = format_estimate(*over_layers(metrics.sel(routing=OBSERVED), "distinct_paths"))
    tokens = metrics.attrs["rarefied_tokens"]
    each = tokens / max(over_layers(metrics.sel(routing=OBSERVED), "distinct_paths")[0], 1)
    known = f"{value} different paths, {format_number(round(each, 1))} tokens on each" if tokens else "without tokens"
    possible = metrics.attrs["experts"] ** metrics.attrs["layers"]
    return Figure(
        name="numbers_by_layer",
        title="Paths in numbers",
        alt=f"Line charts by the last layer of a path of numbers of paths, their entropy, and the share of tokens on "
        f"paths that others take too; {known}.",
        caption=f"Of {tokens:,} tokens and {possible:,} possible paths: {value} {bounds} different ones on average. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read=f"The point at a layer is about paths through {metrics.attrs['layers']} layers that end in it. All "
        "lines are of the same number of tokens. Entropy is at most the logarithm of that number, "
        f"{format_number(round(float(np.log2(max(tokens, 1))), 1))} bits.",
        drawing=plotting.small_multiples(panels, columns=3, share_y=False, y_limits=(0, None), order=ORDER),
        data=table(metrics, ["paths_needed", "distinct_paths", "path_entropy", "seen_mass"]),
    )


def _compared_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    rate = metrics.attrs["false_discovery_rate"]
    chosen = (
        ("relative_paths", "Paths for half, by those of ids", "ratio", Reference(IDS, 1.0)),
        ("two_back_added", "Added by the layer two before", "share explained", Reference("no difference", 0.0)),
        ("specific_share", "Paths that belong to a dataset", "share of paths", Reference("false discoveries", rate)),
    )
    panels = [
        Panel(title, metrics["layer"].values, _series(metrics, untrained, name), [reference], label)
        for name, title, label, reference in chosen
    ]
    means = {name: " ".join(format_estimate(*over_layers(metrics, name))) for name, *_ in chosen}
    known = {name: np.isfinite(over_layers(metrics, name)[0]) for name in means}
    said = [
        f"{words} {means[name]}"
        for name, words in (
            ("relative_paths", "paths for half of the tokens, by those that token ids alone give,"),
            ("two_back_added", "share of a set that the layer two before adds to the layer before,"),
            ("specific_share", "frequent paths that belong to a dataset,"),
        )
        if known[name]
    ]
    frequent = ", ".join(f"{number:,}" for number in metrics["frequent_paths"].values.tolist()[:MOST_WINDOWS])
    return Figure(
        name="compared_by_layer",
        title="Paths beside what they might come from",
        alt=f"Line charts by the last layer of a path{': ' + '; '.join(said) if said else ', of too few tokens'}.",
        caption=f"Means over windows{': ' + '; '.join(said) if said else ' are not known'}. Frequent are paths with at "
        f"least {metrics.attrs['minimum_occurrences']:,} tokens: {frequent} of them. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="Below 1 in the first panel: fewer paths than token ids give. Above 0 in the second: to know the "
        "layer before is not enough. How many paths belong to a dataset grows with the number of tokens.",
        drawing=plotting.small_multiples(panels, columns=3, share_y=False, order=ORDER),
        data=table(metrics, ["relative_paths", "two_back_added", "specific_share"]),
    )


def _of_datasets(metrics: xr.Dataset) -> Figure:
    names = metrics["dataset"].values[1:].tolist()
    best = metrics.isel(dataset=slice(1, None))
    first = best.isel(best=0)
    rows = [f"{name}: {' '.join(path.split())}" for name, path in zip(names, first["best_path"].values, strict=True)]
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(rows)))
    null = Reference("an even share", 1 / len(names))
    score = Series("score", *ends(first["best_score"]))
    x_label = "share of the path's tokens that the dataset has"
    plotting.dot_whiskers(ax, [row.strip(": ") for row in rows], [score], [null], x_label=x_label, x_limits=(0, 1))
    listed = best[["best_path", "best_layer", "best_tokens"]].to_dataframe()
    listed = listed.join(best["best_score"].to_dataset("interval").to_dataframe()[["estimate", "low", "high"]])
    listed = listed.reset_index()[["dataset", "best_path", "best_layer", "best_tokens", "estimate", "low", "high"]]
    found = int((best["best_path"] != "").any("best").sum())
    return Figure(
        name="paths_of_datasets",
        title="The path that most surely belongs to each dataset",
        alt="Dots by dataset of the share that it has of the tokens of the path that most surely belongs to it; "
        f"{found} of {len(names)} datasets have such a path.",
        caption=f"Of each dataset the path, by its experts, with the highest lower end of its score among those that "
        f"belong to it: the share that the dataset has of its tokens, if all datasets had equally many. {found} of "
        f"{len(names)} have one at a false discovery rate of "
        f"{format_number(100 * metrics.attrs['false_discovery_rate'])} %. {size_text(metrics)}; intervals: "
        f"{100 * metrics.attrs['confidence']:g} % by Fieller, between groups of clusters.",
        how_to_read="Paths were chosen for this, so the scores are a little too high. The CSV has five of each "
        "dataset, with the last layer of their window.",
        drawing=drawing,
        data=listed,
    )


def _tree(metrics: xr.Dataset) -> Figure:
    layer = int(metrics["layer"].values[-1])
    mine = metrics.sel(layer=layer).transpose("top", "place", ...)
    tokens, total = mine["top_tokens"].values, int(metrics["tokens"].sel(dataset=POOLED))
    known = tokens > 0
    paths, tokens = mine["top_path"].values[known], tokens[known]
    drawing, (ax,) = plotting.canvas(4.4)
    names = [f"Layer {number}" for number in mine["window"].values.tolist()]
    blocks(ax, paths[:DRAWN], tokens[:DRAWN], total, names, x_label="share of tokens")
    data = pd.DataFrame({"path": [" ".join(map(str, path)) for path in paths.tolist()], "tokens": tokens})
    largest = f"{' → '.join(map(str, paths[0].tolist()))} with {format_number(round(100 * tokens[0] / total, 2))} %"
    return Figure(
        name="tree",
        title="The most frequent paths",
        alt="Blocks by layer, split from each layer to the next by the expert that tokens choose first; the most "
        f"frequent path is {largest} of the tokens.",
        caption=f"The {min(DRAWN, len(paths))} most frequent paths through {_window(metrics, layer)}, as wide as their "
        f"share of all {total:,} tokens, by prefix. The most frequent is {largest} of them. {size_text(metrics)}; "
        f"the CSV has {len(paths):,} paths.",
        how_to_read="Each block is split into those of the next layer; colours only tell neighbours apart. "
        "Most tokens are on rarer paths than these.",
        drawing=drawing,
        data=data,
        explores=f"{layer}",
    )
