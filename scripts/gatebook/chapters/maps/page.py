"""The page of the chapter maps: figures, findings and words."""

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
    counts_text,
    ends,
    estimate,
    hundredfold,
    numbers,
    percent,
    sample_size,
    side,
    size_text,
    verdict,
)
from gatebook.chapters.maps import MEASURES
from gatebook.chapters.maps.measure import LABELS, OTHER_IDS, PROJECTIONS, SPACES
from gatebook.figures import plotting
from gatebook.figures.explored import Points
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.scatter import OTHERS, scatter
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import spread, table
from gatebook.measures.uncertainty import POOLED

RANKS = ("most chosen expert", "second", "third", "fourth", "fifth", "sixth")
MOST_ROWS = 4
SAMPLED = "sampled tokens"
RANDOM = "random tokens of other sources with other ids"


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics, untrained = seen.metrics, seen.untrained
    return [
        _numbers_by_layer(metrics, untrained),
        _inputs_by_dataset(metrics),
        _inputs_by_expert(metrics),
        _outputs_by_expert(metrics),
    ]


def explored(seen: Seen) -> Points:
    """The maps of all layers, of both spaces, by all projections, with the text around every token."""
    metrics = seen.metrics
    return Points(
        metrics["map"],
        {"dataset": metrics["point_dataset"], "first expert": metrics["point_expert"]},
        {name: metrics[f"point_{name}"].values for name in ("before", "text", "after")},
        metrics["trustworthiness"],
    )


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings."""
    return [
        _finding_datasets(seen),
        _finding_agreement(seen, "first expert", "Do router inputs lie together by expert?"),
        _finding_separation(seen),
        _finding_plane(seen),
    ]


def brief(seen: Seen) -> Brief | None:
    """Whether router inputs lie together by kind of text, and the dataset whose inputs most surely do."""
    found = _finding_datasets(seen)
    if not found.is_known:
        return None
    if found.verdict != "yes":
        return Brief("Nothing shows that router inputs lie together by kind of text.", found.figure)
    here = seen.sel(space=SPACES[0], label="dataset, other ids")
    text = f"Router inputs lie together by kind of text: of the nearest ones {percent(vars(found))} are of the same "
    text += f"dataset{before(here, 'agreement', hundredfold, ' %')}, {_percent(found.null_value)} of random ones."
    each = here.metrics["mean_over_layers_agreement"].isel(dataset=slice(1, None))
    null = here.metrics["null_agreement"].isel(dataset=slice(1, None)).mean("layer")
    beyond = (each.sel(interval="low", drop=True) - null).fillna(-np.inf)
    if not (beyond > 0).any():
        return Brief(text, found.figure)
    most = each.isel(beyond.argmax(...))
    dataset = str(most["dataset"].values)
    random = _percent(float(null.sel(dataset=dataset)))
    example = f"Those of {dataset} do most surely: {percent(estimate(most))} against {random}."
    return Brief(text, "inputs_by_dataset", example)


def _finding_datasets(seen: Seen) -> Finding:
    return _finding_agreement(seen, "dataset", "Do router inputs lie together by kind of text?")


def _finding_agreement(seen: Seen, label: str, question: str) -> Finding:
    at = {"space": SPACES[0], "label": f"{label}, other ids"}
    null = Null(RANDOM, seen.metrics["null_agreement"].sel(label=at["label"]))
    found = numbers(seen.sel(**at), "agreement", null, "neighbour_effect")
    word = {"above": "more than", "below": "less than", "around": "about as many as"}[side(found)]
    return Finding(
        question=question,
        answer=f"Of the nearest tokens of other sources with other ids {percent(found)} have the same "
        f"{label}, {word} among random such tokens ({_percent(found['null_value'])})"
        f"{change(seen.sel(**at), 'agreement', ('fewer than', 'more than', 'about as many as'))}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text=f"yes means more neighbours with the same {label} than among random tokens",
        unit="of the 10 nearest tokens",
        figure="neighbours_by_layer",
        **found | sample_size(seen.metrics, SAMPLED),
    )


def _finding_separation(seen: Seen) -> Finding:
    found = numbers(seen, "separation", Null("as in router inputs", 0.0), "neighbour_effect")
    word = {"above": "more", "below": "less", "around": "neither clearly more nor clearly less"}[side(found)]
    expert = {"dataset": POOLED, "label": "first expert"}
    shares = seen.metrics["mean_over_layers_agreement"].sel(expert)
    inputs, outputs = (percent(estimate(shares.sel(space=space))) for space in SPACES)
    return Finding(
        question="Do experts set their outputs further apart than their inputs were?",
        answer=f"Near outputs share the expert {word} often than near inputs do: {outputs} against {inputs}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0",
        unit="of the 10 nearest tokens",
        figure="neighbours_by_layer",
        **found | sample_size(seen.metrics, SAMPLED),
    )


def _finding_plane(seen: Seen) -> Finding:
    threshold = seen.thresholds["plane_variance"]
    found = numbers(
        seen.sel(space=SPACES[0]), "explained_variance", _flat(seen.metrics), "variance_effect", threshold=threshold
    )
    where, bound = side(found, threshold), _percent(threshold)
    answers = {"below": f"less than {bound}", "above": f"more than {bound}", "around": f"the interval holds {bound}"}
    return Finding(
        question="Can a flat map show most of what tells router inputs apart?",
        answer=f"Two axes hold {percent(found)} of the variance, {answers[where]}.",
        verdict=verdict(where, yes="above"),
        verdict_text=f"yes means more than {bound} of the variance on two principal components",
        unit="of the variance",
        figure="neighbours_by_layer",
        **found | sample_size(seen.metrics, SAMPLED),
    )


def _flat(metrics: xr.Dataset) -> Null:
    return Null("equal variance in all directions", 2 / metrics.attrs["hidden_size"])


def _percent(share: float) -> str:
    return f"{format_number(round(100 * share, 1))} %"


def _series(metrics: xr.Dataset, untrained: xr.Dataset | None, name: str, place: dict) -> list[Series]:
    sources = {"trained": metrics} | ({"untrained": untrained} if untrained is not None else {})
    arrays = {label: source[name].sel(place) for label, source in sources.items()}
    return [Series(label, *ends(array)) for label, array in arrays.items()]


def _numbers_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    layers, panels = metrics["layer"].values, []
    for space in SPACES:
        for label in (*LABELS, *OTHER_IDS):
            place = {"dataset": POOLED, "space": space, "label": label}
            null = Null("null", metrics["null_agreement"].sel(label=label)).reference()
            lines = _series(metrics, untrained, "agreement", place)
            panels.append(Panel(f"{space}s: same {label}", layers, lines, [null], "share of neighbours"))
    for space in SPACES:
        lines = _series(metrics, untrained, "explained_variance", {"space": space})
        flat = Reference("null", 2 / metrics.attrs["hidden_size"])
        panels.append(Panel(f"{space}s: two components", layers, lines, [flat], "share of variance"))
    place = {"dataset": POOLED, "space": SPACES[0], "label": OTHER_IDS[0]}
    value, bounds = format_estimate(*estimate(metrics["mean_over_layers_agreement"].sel(place)))
    null = float(metrics["null_agreement"].sel(dataset=POOLED, label=OTHER_IDS[0]).mean("layer"))
    return Figure(
        name="neighbours_by_layer",
        title="What near tokens share",
        alt=f"Small line charts over layers. Of the ten nearest router inputs with other ids {value} have the token's "
        f"dataset on average, against {null:.3f} of random tokens.",
        caption=f"Above: {MEASURES['agreement'].title.lower()}, of the ten nearest of other sources, among router "
        "inputs and among the outputs of the first expert; “other ids”: of those with another token id. "
        "Below: share of the variance on two principal components. "
        f"The spaces have {metrics.attrs['hidden_size']:,} dimensions. "
        f"Same dataset among router inputs with other ids, mean over layers: {value} {bounds}. "
        f"{counts_text(metrics, JACKKNIFE, SAMPLED)}",
        how_to_read="Dashed: tokens drawn at random from those that can be neighbours; below, equal variance in all "
        "directions. The router is linear in its input, so it sends near inputs to the same expert even if it has "
        "learned nothing: compare with the untrained model. The CSV has every dataset by itself.",
        drawing=plotting.small_multiples(panels, share_y=False, y_limits=(0, None), order=ORDER),
        data=table(metrics, ["agreement", "separation", "explained_variance"], null="random"),
    )


def _inputs_by_dataset(metrics: xr.Dataset) -> Figure:
    order = [str(name) for name in metrics["dataset"].values[1:]]
    names = metrics["point_dataset"].values.astype(str)
    drawing = _grid(metrics, SPACES[0], lambda layer: names, order)
    place = {"dataset": POOLED, "space": SPACES[0], "label": "dataset", "interval": "estimate"}
    share = _percent(float(metrics["mean_over_layers_agreement"].sel(place)))
    return Figure(
        name="inputs_by_dataset",
        explores=f"{SPACES[0]}, dataset",
        title="Router inputs by dataset",
        alt=f"Maps of router inputs, one row per layer, by PCA, UMAP and t-SNE, coloured by dataset. In the space "
        f"itself {share} of the nearest tokens of other sources are of the token's dataset.",
        caption=f"Each dot is one of {metrics.sizes['point']:,} tokens; T: trustworthiness. "
        f"{size_text(metrics, SAMPLED)}.",
        how_to_read=_HOW_TO_READ,
        drawing=drawing,
        data=_map_table(metrics, SPACES[0]),
    )


def _inputs_by_expert(metrics: xr.Dataset) -> Figure:
    drawing = _grid(metrics, SPACES[0], lambda layer: _ranks(layer)[0], list(RANKS))
    place = {"dataset": POOLED, "space": SPACES[0], "label": "first expert", "interval": "estimate"}
    share = _percent(float(metrics["mean_over_layers_agreement"].sel(place)))
    return Figure(
        name="inputs_by_expert",
        explores=f"{SPACES[0]}, first expert",
        title="Router inputs by first expert",
        alt=f"Maps of router inputs, one row per layer, by PCA, UMAP and t-SNE, with the six most chosen experts of "
        f"the layer in colour. In the space itself {share} of the nearest tokens have the same first expert.",
        caption=f"The same {metrics.sizes['point']:,} tokens. In colour: the six experts of the layer that most of "
        "these tokens choose first; T: trustworthiness. The CSV has the expert of every token. "
        f"{size_text(metrics, SAMPLED)}.",
        how_to_read=f"{_HOW_TO_READ} A colour stands for another expert in every row.",
        drawing=drawing,
        data=_map_table(metrics, SPACES[0]),
    )


def _outputs_by_expert(metrics: xr.Dataset) -> Figure:
    drawing = _grid(metrics, SPACES[1], lambda layer: _ranks(layer)[0], list(RANKS), means=True)
    shares = metrics["mean_over_layers_agreement"].sel(dataset=POOLED, label="first expert", interval="estimate")
    share = _percent(float(shares.sel(space=SPACES[1])))
    means = metrics["mean_map"].to_dataset("axis").to_dataframe().reset_index()
    means = means.rename(columns={0: "x", 1: "y"}).assign(space="mean output of an expert", dataset="")
    data = pd.concat([_map_table(metrics, SPACES[1]), means])
    return Figure(
        name="outputs_by_expert",
        explores=f"{SPACES[1]}, first expert",
        title="Expert outputs by expert",
        alt=f"Maps of expert outputs, one row per layer, by PCA, UMAP and t-SNE, with the six most chosen experts of "
        f"the layer in colour. In the space itself {share} of the nearest outputs are of the same expert.",
        caption=f"The outputs, not weighted, of the first expert of the same {metrics.sizes['point']:,} tokens. Large "
        "dots with an edge, in the picture alone: the mean output of every expert, over all sampled tokens, whoever "
        f"they were sent to; T: trustworthiness. {size_text(metrics, SAMPLED)}.",
        how_to_read=f"{_HOW_TO_READ} A colour stands for another expert in every row. An expert whose large dot is far "
        "from its small ones treats its own tokens unlike all others.",
        drawing=drawing,
        data=data[["space", "projection", "layer", "dataset", "token_id", "expert", "x", "y"]],
    )


_HOW_TO_READ = (
    "Look for colours that keep together, and check with the numbers above. UMAP and t-SNE show who is near whom, not "
    "how far groups are apart or how large they are. Rows cannot be compared point by point."
)


def _grid(metrics: xr.Dataset, space: str, categories, order: list[str], means: bool = False):
    """Maps of a space: a row for each of at most `MOST_ROWS` layers, a column for each projection.

    `categories` gives the categories of the points from one layer's metrics.
    """
    layers = spread(metrics["layer"].values, MOST_ROWS)
    titles = []
    for layer in layers:
        trust = metrics["trustworthiness"].sel(layer=layer, space=space)
        titles += [f"{name}, layer {layer}, T = {trust.sel(projection=name).item():.2f}" for name in PROJECTIONS]
    drawing, axes = plotting.canvas(0.7 + 2.1 * len(layers), rows=len(layers), columns=len(PROJECTIONS), titles=titles)
    for row, layer in enumerate(layers):
        here = metrics.sel(layer=layer)
        share = [_percent(float(part)) for part in here["component_variance"].sel(space=space)[:2]]
        for column, name in enumerate(PROJECTIONS):
            labels = (f"first, {share[0]}", f"second, {share[1]}") if name == "PCA" else ("", "")
            scatter(
                axes[row * len(PROJECTIONS) + column],
                here["map"].sel(space=space, projection=name).values,
                categories(here),
                order,
                large=(here["mean_map"].sel(projection=name).values, _ranks(here)[1]) if means else None,
                x_label=labels[0],
                y_label=labels[1],
            )
    return drawing


def _ranks(layer: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """How often an expert is the first choice in one layer's map: the name of its rank, of each point and expert."""
    chosen = np.bincount(layer["point_expert"].values, minlength=layer.sizes["expert"])
    names = np.full(len(chosen), OTHERS, dtype=object)
    most = np.argsort(-chosen, kind="stable")[: len(RANKS)]
    names[most] = RANKS[: len(most)]
    return names[layer["point_expert"].values], names


def _map_table(metrics: xr.Dataset, space: str) -> pd.DataFrame:
    """Positions of the points: space, projection, layer, dataset, token_id, expert, x, y."""
    points = metrics[["map", "point_dataset", "point_token", "point_expert"]].sel(space=space)
    x, y = (points["map"].sel(axis=axis, drop=True) for axis in (0, 1))
    frame = points.drop_vars("map").assign(x=x, y=y)
    names = {"point_dataset": "dataset", "point_token": "token_id", "point_expert": "expert"}
    frame = frame.to_dataframe().reset_index().rename(columns=names).sort_values(["layer", "projection", "point"])
    return frame[["space", "projection", "layer", "dataset", "token_id", "expert", "x", "y"]]
