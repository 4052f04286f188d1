"""The page of the chapter reuse: figures, findings and words."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure as Drawing

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
    verdict,
)
from gatebook.chapters.reuse import ORDERS, TEXT
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import MEAN, table
from gatebook.measures.uncertainty import POOLED

UNIFORM = "uniform routing"
NO_DIFFERENCE = Null("no difference", 0.0)
FREQUENT = Null("the most frequent experts", 0.0)
POLICIES = {
    "optimum": "optimal_hits",
    "most recently used": "recent_hits",
    "dataset's most frequent": "frequent_hits",
    "most frequent of all": "general_hits",
}
TOLD = {"next_layer": "Next layer", "next_token": "Next token"}


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    return [_by_size(seen), _orders_by_size(seen), _by_layer(seen), _by_dataset(seen.metrics), _told_by_layer(seen)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; what no clusters are left to answer is left out."""
    found = [_finding_hot(seen), _finding_own(seen), _finding_recent(seen), _finding_order(seen)]
    found += [_finding_next_layer(seen), _finding_next_token(seen)]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """What the hot sets hit, and the one that most surely does, of a layer and a dataset."""
    found, here = _finding_hot(seen), _at(seen)
    if not found.is_known:
        return None
    if found.verdict != "yes":
        return Brief("Nothing shows that datasets have hot sets of experts.", found.figure)
    count = _experts(here.metrics)
    text = f"{_some(count)} of each layer {_get(count)} {percent(vars(found))} of what texts of a dataset select"
    text += f"{before(here, 'frequent_hits', hundredfold, ' %')}; of all datasets together "
    text += f"{percent(over_layers(here.metrics, 'general_hits'))}."
    share = here.metrics["frequent_hits"].isel(dataset=slice(1, None)).transpose("layer", "dataset", "interval")
    lowest = share.sel(interval="low", drop=True).fillna(-np.inf)
    if not (lowest > float(here.metrics["uniform_hits"])).any():
        return Brief(text, "hits_by_dataset")
    place = lowest.argmax(...)
    most = share.isel(place)
    layer, dataset = int(most["layer"]), str(most["dataset"].values)
    experts = tuple(sorted(seen.metrics["hot_expert"].sel(layer=layer, dataset=dataset).values.tolist()))
    example = f"In layer {layer} {_named(experts)} {_get(count)} {percent(ends(most))} of what "
    return Brief(text, "hits_by_dataset", f"{example}{dataset} selects.", layer, experts)


def _at(seen: Seen) -> Seen:
    """What was seen of the cache that findings are about."""
    return seen.sel(cache=int(seen.metrics["cache"].values[0]))


def _experts(metrics: xr.Dataset) -> int:
    """How many experts that cache holds."""
    return int(metrics["cache_experts"].values.ravel()[0])


def _some(count: int) -> str:
    return f"{count} experts" if count > 1 else "One expert"


def _get(count: int) -> str:
    return "get" if count > 1 else "gets"


def _named(experts: tuple[int, ...]) -> str:
    *others, last = map(str, experts)
    return f"experts {', '.join(others)} and {last}" if others else f"expert {last}"


def _percents(metrics: xr.Dataset, *names: str, **where) -> list[str]:
    """Means over layers of measures at one place along some dimensions, in percent."""
    return [percent(ends(metrics[MEAN + name].sel(dataset=POOLED, **where))) for name in names]


def _ordered(metrics: xr.Dataset, name: str) -> list[str]:
    """The mean over layers of a measure in every order, in percent."""
    return [_percents(metrics, name, token_order=order)[0] for order in ORDERS]


def _uniform(metrics: xr.Dataset) -> Null:
    return Null(UNIFORM, float(metrics["uniform_hits"]))


def _finding_hot(seen: Seen) -> Finding:
    here = _at(seen)
    found = numbers(here, "frequent_hits", _uniform(here.metrics), "hits_effect")
    count, experts = _experts(here.metrics), here.metrics.attrs["experts"]
    return Finding(
        question="Do texts of one dataset have a hot set of experts?",
        answer=f"The {count} of {experts} experts of a layer that other texts of the dataset select most get "
        f"{percent(found)} of the selections{change(here, 'frequent_hits')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text=f"yes means more than {format_number(100 * float(here.metrics['uniform_hits']))} %, as uniform "
        "routing gives; the class says whether it matters",
        unit="of the selections",
        figure="hits_by_layer",
        **found,
    )


def _finding_own(seen: Seen) -> Finding:
    here = _at(seen)
    found = numbers(here, "own_gain", NO_DIFFERENCE, "hits_effect")
    (general,) = _percents(here.metrics, "general_hits")
    return Finding(
        question="Is the hot set that of the dataset?",
        answer=f"A dataset's own set hits {percent(found)} of the selections more than the most frequent experts of "
        f"all datasets, which hit {general}{change(here, 'own_gain')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that a dataset's own set hits more",
        unit="of the selections",
        figure="hits_by_layer",
        **found,
    )


def _finding_recent(seen: Seen) -> Finding:
    here = _at(seen)
    found = numbers(here, "recent_gain", Null("the fixed set", 0.0), "hits_effect")
    recent, best = (_percents(here.metrics, name, token_order=TEXT)[0] for name in ("recent_hits", "optimal_hits"))
    (fixed,) = _percents(here.metrics, "frequent_hits")
    return Finding(
        question="Is it better to keep the experts used last than the dataset's most frequent?",
        answer=f"A cache of {_experts(here.metrics)} experts a layer hits {recent} with those used last, {fixed} with "
        f"the fixed set, and {best} if it knew what comes: a difference of {percent(found)}"
        f"{change(here, 'recent_gain')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more hits with the experts used last",
        unit="of the selections",
        figure="hits_by_layer",
        **found,
    )


def _finding_order(seen: Seen) -> Finding:
    here = _at(seen)
    found = numbers(here, "order_gain", Null("tokens shuffled in documents", 0.0), "hits_effect")
    text, within, across = _ordered(here.metrics, "recent_hits")
    return Finding(
        question="Does a cache live on the order of tokens?",
        answer=f"With the experts used last it hits {text} in text order, {within} with the tokens of a document "
        f"shuffled, and {across} with those of a dataset shuffled: order adds {percent(found)}"
        f"{change(here, 'order_gain')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means more hits in text order than with the tokens of each document shuffled",
        unit="of the selections",
        figure="hits_by_layer",
        **found,
    )


def _finding_next_layer(seen: Seen) -> Finding:
    found = numbers(seen, "next_layer_gained", FREQUENT, "hits_effect")
    return Finding(
        question="Do a token's experts tell those of the next layer?",
        answer=f"{_told(seen, 'next_layer')} The gain is {percent(found)}{change(seen, 'next_layer_gained')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that more is told than by frequency",
        unit="of the selections",
        figure="told_by_layer",
        **found,
    )


def _finding_next_token(seen: Seen) -> Finding:
    found = numbers(seen, "next_token_gained", FREQUENT, "hits_effect")
    return Finding(
        question="Do a token's experts tell those of the next token?",
        answer=f"{_told(seen, 'next_token')} The gain is {percent(found)}{change(seen, 'next_token_gained')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that more is told than by frequency",
        unit="of the selections",
        figure="told_by_layer",
        **found,
    )


def _told(seen: Seen, name: str) -> str:
    """What is told, in every order, and what is most frequent, as a sentence."""
    text, within, across = _ordered(seen.metrics, f"{name}_hits")
    (frequent,) = _percents(seen.metrics, f"{name}_frequent")
    return (
        f"Of its {seen.metrics.attrs['top_k']} experts {text} are told, {within} from another token of the document, "
        f"{across} from one of the dataset, and {frequent} are among the most frequent."
    )


def _text(metrics: xr.Dataset, name: str, **where) -> str:
    """A measure's mean over layers at one place along some dimensions, with its interval."""
    return " ".join(format_estimate(*ends(metrics[MEAN + name].sel(dataset=POOLED, **where))))


def _over_sizes(seen: Seen, lines: dict[str, tuple[str, dict]]) -> list[Panel]:
    """Means over layers by the experts of a cache: a panel for each checkpoint, of measures by their labels."""
    panels = []
    for label, whole in checkpoints(seen.metrics, seen.untrained).items():
        metrics = whole.sortby("cache")
        drawn = [
            Series(line, *ends(metrics[MEAN + name].sel(dataset=POOLED, **where)))
            for line, (name, where) in lines.items()
        ]
        uniform = Reference(UNIFORM, metrics["uniform_hits"].values)
        panels.append(
            Panel(label.capitalize(), metrics["cache_experts"].values, drawn, [uniform], "share of selections")
        )
    return panels


def _sizes_drawing(panels: list[Panel], order: list[str]) -> Drawing:
    """The panels, over the experts of a cache."""
    label = "experts in the cache of a layer"
    return plotting.small_multiples(
        panels, columns=2, panel_height=2.8, x_label=label, y_limits=(0, 1), order=order, draw=plotting.curves
    )


def _by_size(seen: Seen) -> Figure:
    metrics = seen.metrics
    places = {name: {"token_order": TEXT} if "token_order" in metrics[name].dims else {} for name in POLICIES.values()}
    lines = {label: (name, places[name]) for label, name in POLICIES.items()}
    cache = int(metrics["cache"].values[0])
    known = [f"{label} {_text(metrics, name, cache=cache, **places[name])}" for label, name in POLICIES.items()]
    count, experts = _experts(metrics), metrics.attrs["experts"]
    return Figure(
        name="hits_by_size",
        title="What caches hit",
        alt=f"Lines over the experts in a layer's cache of the share of selections that each policy hits; with {count} "
        f"of {experts}: {'; '.join(known)}.",
        caption=f"Share of the selections whose expert is in the cache of its layer, in text order; mean over datasets "
        f"and layers. With {count} of {experts} experts: {'; '.join(known)}. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="The optimum knows what comes: no cache that begins empty is above it. Fixed sets were chosen on "
        "other sources. Where that of all datasets is far below the dataset's own, the hot set belongs to the text.",
        drawing=_sizes_drawing(_over_sizes(seen, lines), list(POLICIES)),
        data=table(metrics, list(POLICIES.values())),
    )


def _orders_by_size(seen: Seen) -> Figure:
    metrics = seen.metrics
    lines = {order: ("recent_hits", {"token_order": order}) for order in ORDERS}
    here = _at(seen).metrics
    known = [f"{order} {_text(here, 'recent_hits', token_order=order)}" for order in ORDERS]
    best = [f"{order} {_text(here, 'optimal_hits', token_order=order)}" for order in ORDERS]
    return Figure(
        name="orders_by_size",
        title="What the order of tokens gives to a cache",
        alt=f"Lines over the experts in a layer's cache of the share of selections hit with the experts used last, in "
        f"three orders of tokens; with {_experts(metrics)} experts: {'; '.join(known)}.",
        caption=f"Hits of a cache that keeps the experts used last. With {_experts(metrics)} experts: "
        f"{'; '.join(known)}; of the optimum: {'; '.join(best)}. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="What is left with the tokens of a dataset shuffled comes of uneven loads alone. Shuffled in "
        "documents it has what documents are about, and in text order what near tokens share.",
        drawing=_sizes_drawing(_over_sizes(seen, lines), list(ORDERS)),
        data=table(metrics, ["recent_hits", "optimal_hits", "order_gain", "document_gain"]),
    )


def _by_layer(seen: Seen) -> Figure:
    here = _at(seen)
    chosen = (
        ("frequent_hits", "Dataset's most frequent", _uniform(here.metrics).reference()),
        ("own_gain", "Beyond the most frequent of all", NO_DIFFERENCE.reference()),
        ("recent_gain", "Used last, beyond the dataset's most frequent", NO_DIFFERENCE.reference()),
        ("order_gain", "Used last, beyond tokens shuffled in documents", NO_DIFFERENCE.reference()),
    )
    panels = [
        Panel(
            title,
            here.metrics["layer"].values,
            series(here.metrics, here.untrained, name),
            [reference],
            "share of selections",
        )
        for name, title, reference in chosen
    ]
    known = [f"{title.lower()} {_text(here.metrics, name)}" for name, title, _ in chosen]
    count = _experts(here.metrics)
    return Figure(
        name="hits_by_layer",
        title=f"Hits by layer with {_some(count).lower()} in a cache",
        alt=f"Line charts over layers of hits and of what they are beyond others; on average {'; '.join(known)}.",
        caption=f"With {_some(count).lower()} of each layer in its cache, means over datasets; on average "
        f"{'; '.join(known)}. {counts_text(here.metrics, JACKKNIFE)}",
        how_to_read="A difference above 0 is what the set, or the policy, is worth over the other one.",
        drawing=plotting.small_multiples(panels, columns=2, share_y=False, order=ORDER),
        data=table(seen.metrics, [name for name, *_ in chosen]),
    )


def _by_dataset(metrics: xr.Dataset) -> Figure:
    cache = int(metrics["cache"].values[0])
    here = metrics.sel(cache=cache)
    labels = list(POLICIES)[1:]
    rows = here["dataset"].values[1:].tolist()
    drawn = []
    for label in labels:
        values = here[MEAN + POLICIES[label]].isel(dataset=slice(1, None))
        drawn.append(Series(label, *ends(values.sel(token_order=TEXT) if "token_order" in values.dims else values)))
    drawing, (ax,) = plotting.canvas(plotting.height_for(1.6 * len(rows)))
    uniform = Reference(UNIFORM, float(here["uniform_hits"]))
    plotting.dot_whiskers(ax, rows, drawn, [uniform], x_label="share of selections", order=list(POLICIES))
    fixed = drawn[1].estimate
    most = f"; the set of {rows[np.nanargmax(fixed)]} hits most" if np.isfinite(fixed).any() else ""
    value = rounded(over_layers(here, "frequent_hits"), hundredfold)
    return Figure(
        name="hits_by_dataset",
        title="Hits by dataset",
        alt=f"Dots for each dataset of the share of selections that three policies hit; a dataset's most frequent "
        f"experts {value} % on average{most}.",
        caption=f"With {_experts(here)} of {metrics.attrs['experts']} experts of each layer in its cache, means over "
        f"layers{most}. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="A dataset whose own set is far to the right of the set of all datasets has a hot set of its own.",
        drawing=drawing,
        data=table(metrics, [POLICIES[label] for label in labels]),
    )


def _told_by_layer(seen: Seen) -> Figure:
    panels = []
    for name, title in TOLD.items():
        for label, metrics in checkpoints(seen.metrics, seen.untrained).items():
            values = metrics[f"{name}_hits"].sel(dataset=POOLED)
            lines = [Series(order, *ends(values.sel(token_order=order))) for order in ORDERS]
            frequent = metrics[f"{name}_frequent"].sel(dataset=POOLED, interval="estimate").values
            panels.append(
                Panel(
                    f"{title}, {label}",
                    metrics["layer"].values,
                    lines,
                    [Reference("most frequent", frequent)],
                    "share of selections",
                )
            )
    metrics = seen.metrics
    known = [
        f"of the {title.lower()} {_text(metrics, f'{name}_hits', token_order=TEXT)}, most frequent "
        f"{_text(metrics, f'{name}_frequent')}"
        for name, title in TOLD.items()
    ]
    return Figure(
        name="told_by_layer",
        title="What can be fetched ahead",
        alt=f"Line charts over layers of hit@{metrics.attrs['top_k']} from the layer before and from the token before, "
        f"in three orders of tokens; on average {'; '.join(known)}.",
        caption=f"Share of a token's experts among the {metrics.attrs['top_k']} that are told from its experts in the "
        f"layer before, and from those of the token before; on average {'; '.join(known)}. In other orders what is "
        f"given is of another token. {counts_text(metrics, JACKKNIFE)}",
        how_to_read="What lies above the dashed line is worth fetching ahead. What another token of the document tells "
        "as well is no more than what the text is about, and one of the dataset tells which dataset it is.",
        drawing=plotting.small_multiples(panels, columns=len(panels) // 2, panel_height=2.2, order=list(ORDERS)),
        data=table(metrics, [f"{name}_{part}" for name in TOLD for part in ("hits", "frequent", "gained")]),
    )
