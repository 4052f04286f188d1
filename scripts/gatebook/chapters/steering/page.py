"""The page of the chapter steering: figures and findings."""

import json

import numpy as np
import xarray as xr

from gatebook.chapters.base.page import (
    BOOTSTRAP,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    ends,
    estimate,
    held,
    lies,
    percent,
    rounded,
    side,
    verdict,
)
from gatebook.chapters.steering import WORDS
from gatebook.chapters.steering.measure import ALL, table
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.uncertainty import POOLED

CONTROL = "residual"
NO_PRICE = Null("no added loss", 0.0)
RANDOM = "random vectors"
QUESTIONS = {
    "residual": "Does a vector in the residual stream steer text, more than random ones (the positive control)?",
    "input": "Does a vector in what routers and experts receive steer text, more than random ones?",
    "logits": "Can routing be steered: does a vector in the router logits steer text, more than random ones?",
}


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter: doses, prices, what is beyond random vectors, and layers."""
    return [_doses(seen.metrics), _prices(seen.metrics), _beyond(seen), _layers(seen.metrics)]


def findings(seen: Seen) -> list[Finding]:
    """Whether each kind steers, and what the positive control costs."""
    found = [_finding(seen, kind) for kind in WORDS] + [_finding_price(seen, kind) for kind in (CONTROL, "logits")]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """Whether router logits steer, and how far, with the price."""
    known = {finding.question: finding for finding in findings(seen)}
    finding = known.get(QUESTIONS["logits"])
    if finding is None:
        return None
    if finding.verdict != "yes":
        return Brief("Nothing shows that text can be steered by what is added to router logits.", finding.figure)
    passed = _passed(seen, "logits")
    text = f"A vector in the router logits steers text by {rounded(estimate(_of(seen.metrics, 'excess', 'logits')))} "
    text += f"nats per token more than random ones, {len(passed)} of {len(_pairs(seen.metrics))} pairs by themselves."
    return Brief(text, finding.figure)


def _pairs(metrics: xr.Dataset) -> list[str]:
    return [str(name) for name in metrics["pair"].values if name != POOLED]


def _of(metrics: xr.Dataset, name: str, kind: str, pair: str = POOLED) -> xr.DataArray:
    return metrics[name].sel(kind=kind, pair=pair)


def _at_compared(metrics: xr.Dataset, name: str, kind: str, pair: str = POOLED) -> tuple[float, float, float]:
    """A measure at the dose that is compared with random vectors."""
    return estimate(_of(metrics, name, kind, pair).sel(dose=metrics.attrs["compared_dose"]))


def _null(metrics: xr.Dataset, kind: str, pair: str = POOLED) -> Null:
    return Null(RANDOM, _of(metrics, "null_excess", kind, pair))


def _passed(seen: Seen, kind: str) -> list[str]:
    """The pairs whose contrast is beyond random vectors, corrected for all pairs and kinds, and by its interval."""
    rate, found = seen.thresholds["false_discovery_rate"], []
    for pair in _pairs(seen.metrics):
        q, low = float(_of(seen.metrics, "q_value", kind, pair)), estimate(_of(seen.metrics, "excess", kind, pair))[1]
        if q <= rate and low > 0:
            found.append(pair)
    return found


def _place(seen: Seen, kind: str) -> str:
    """Where the excess of a kind lies by the band of random vectors."""
    return side(held(estimate(_of(seen.metrics, "excess", kind)), _null(seen.metrics, kind), (0, 0)))


def _size(metrics: xr.Dataset, count: str, unit: str) -> dict:
    return {"n": int(metrics[count].sel(pair=POOLED)), "n_unit": f"{unit} in {len(_pairs(metrics))} pairs"}


def _finding(seen: Seen, kind: str) -> Finding:
    metrics, dose = seen.metrics, format_number(seen.metrics.attrs["compared_dose"])
    value = estimate(_of(metrics, "excess", kind))
    found = held(value, _null(metrics, kind), seen.thresholds["ratio_effect"])
    place, passed, pairs = side(found), _passed(seen, kind), _pairs(metrics)
    each = "; ".join(
        f"{pair} {rounded(estimate(_of(metrics, 'excess', kind, pair)))} "
        f"({_layer(metrics, kind, pair)}, {percent(_at_compared(metrics, 'covered', kind, pair))} of the way to real "
        "text)"
        for pair in pairs
    )
    prices = [rounded(_at_compared(metrics, f"{name}_price", kind)) for name in ("target", "source")]
    answer = f"At dose {dose} by {rounded(value)} nats per token: {each}. The price is {prices[0]} nats on the dataset "
    answer += f"steered toward and {prices[1]} on the other."
    informative = kind == CONTROL or _place(seen, CONTROL) == "above"
    if not informative:
        answer += " The positive control does not steer either, so this says nothing."
    missing = [pair for pair in pairs if pair not in passed]
    contrary = (
        f"Yet against {RANDOM} it is not above for {' and '.join(missing)}." if place == "above" and missing else ""
    )
    if place != "above" and passed:
        contrary = f"Yet against {RANDOM} it is above for {' and '.join(passed)}."
    if kind == "logits":
        moved = percent(_at_compared(metrics, "moved", kind))
        answer += f" Of the slots {moved} get another expert, with random vectors "
        answer += f"{percent(estimate(_of(metrics, 'random_moved', kind)))}."
    return Finding(
        question=QUESTIONS[kind],
        answer=answer,
        verdict=verdict(place if informative else "around", yes="above"),
        verdict_text="yes means an interval above the band in which one more random vector would lie"
        + ("" if kind == CONTROL else ", and unclear if the positive control does not steer"),
        unit="nats per token",
        figure="beyond_random",
        measure="excess",
        exceptions=contrary,
        **found,
        **_size(metrics, "prompts", f"prompts, {metrics.attrs['vectors']} random vectors,"),
    )


def _layer(metrics: xr.Dataset, kind: str, pair: str) -> str:
    """Where vectors are added, in words."""
    chosen = str(metrics["chosen"].sel(kind=kind, pair=pair).item())
    return "all layers" if chosen == ALL else f"layer {chosen}"


def _overshoots(metrics: xr.Dataset, kind: str, pair: str) -> list[float]:
    """The doses at which text is beyond real text of the dataset by its interval, and costs loss there."""
    target = estimate(metrics["target_ratio"].sel(pair=pair))
    found = []
    for dose in metrics["dose"].values[1:].tolist():
        ratio, price = (
            estimate(_of(metrics, name, kind, pair).sel(dose=dose)) for name in ("log_ratio", "target_price")
        )
        if lies(ratio[1], ratio[2], target[1], target[2]) == "above" and price[1] > 0:
            found.append(dose)
    return found


def _finding_price(seen: Seen, kind: str) -> Finding:
    metrics, dose = seen.metrics, format_number(seen.metrics.attrs["compared_dose"])
    value = _at_compared(metrics, "target_price", kind)
    found = held(value, NO_PRICE, seen.thresholds["price_effect"])
    random = [rounded(estimate(_of(metrics, f"random_{name}_price", kind))) for name in ("target", "source")]
    other = rounded(_at_compared(metrics, "source_price", kind))
    beyond = {pair: _overshoots(metrics, kind, pair) for pair in _pairs(metrics)}
    said = "; ".join(f"{pair} from dose {format_number(doses[0])} on" for pair, doses in beyond.items() if doses)
    over = f"Steered text overshoots, beyond real text at a price: {said}." if said else "No dose overshoots real text."
    return Finding(
        question=f"Does steering by the {WORDS[kind]} cost loss on the very dataset it steers toward?",
        answer=f"At dose {dose} {rounded(value)} nats per token, and {other} on the other dataset; random vectors cost "
        f"{random[0]} and {random[1]}. {over}",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means an added loss above 0",
        unit="nats per token",
        figure="prices",
        measure="target_price",
        **found,
        **_size(metrics, "clusters", "clusters of held-out texts"),
    )


def _rest(metrics: xr.Dataset, texts: bool = False) -> str:
    """What a figure rests on, for its caption."""
    prompts, documents, clusters = (
        int(metrics[name].sel(pair=POOLED)) for name in ("prompts", "documents", "clusters")
    )
    of = (
        f"{documents:,} held-out texts of {clusters:,} clusters" if texts else f"{prompts:,} prompts, each of a cluster"
    )
    how = f"{100 * metrics.attrs['confidence']:g} % {BOOTSTRAP}"
    return f"n = {of}, in {len(_pairs(metrics))} pairs; intervals: {how}."


def _panels(metrics: xr.Dataset, lines, references, label: str) -> list[Panel]:
    """A panel for each pair and kind."""
    return [
        Panel(
            f"{pair}: {WORDS[kind]}",
            metrics["dose"].values,
            [Series(name, *ends(_of(metrics, measure, kind, pair))) for name, measure in lines.items()],
            references(kind, pair),
            label,
        )
        for pair in _pairs(metrics)
        for kind in WORDS
    ]


def _curves(panels: list[Panel]):
    return plotting.small_multiples(
        panels, columns=len(WORDS), panel_height=2.2, x_label="factor of the vector", draw=plotting.curves
    )


def _doses(metrics: xr.Dataset) -> Figure:
    def references(kind: str, pair: str) -> list[Reference]:
        found = [
            Reference(f"real text {name}", *(float(part) for part in ends(metrics[f"{measure}_ratio"].sel(pair=pair))))
            for name, measure in {"steered toward": "target", "of the other": "source"}.items()
        ]
        middle = float(_of(metrics, "random_ratio", kind, pair).sel(interval="estimate"))
        band = ends(_of(metrics, "null_excess", kind, pair))
        return [Reference(RANDOM, *(middle + float(part) for part in band)), *found]

    said = "; ".join(
        f"{WORDS[kind]} {' '.join(format_estimate(*_at_compared(metrics, 'log_ratio', kind)))}" for kind in WORDS
    )
    dose = format_number(metrics.attrs["compared_dose"])
    return Figure(
        name="doses",
        title="How far text is steered",
        alt="Curves over the dose of the log-likelihood ratio of written text, by pair of datasets and by what vectors "
        f"are added to; at dose {dose}, mean of the pairs: {said}.",
        caption=f"Log-likelihood ratio of written tokens, the dataset steered toward against the other; dose 0 is "
        f"unsteered. At dose {dose}, mean of the pairs: {said}. {_written(metrics)} {_rest(metrics)}",
        how_to_read=f"Only what is outside the band of {RANDOM}, which were tried at dose {dose}, is due to the "
        "vector. Beyond the line of real text steering overshoots: the text has more of the dataset's words than the "
        "dataset. Read it with the next figure, which has the price.",
        drawing=_curves(_panels(metrics, {"steered": "log_ratio"}, references, "nats per token")),
        data=table(metrics, ["log_ratio", "covered", "target_ratio", "source_ratio", "random_ratio"]),
    )


def _written(metrics: xr.Dataset) -> str:
    """An example of what is written, in one line."""
    pair, kinds = next(iter(json.loads(metrics.attrs["examples"]).items()))
    prompt, plain, steered = (" ".join(each.split()) for each in kinds["logits"])
    return f"An example ({pair}, router logits): after “{prompt}” unsteered “{plain}”, steered “{steered}”."


def _prices(metrics: xr.Dataset) -> Figure:
    def references(kind: str, pair: str) -> list[Reference]:
        value = estimate(_of(metrics, "random_target_price", kind, pair))
        return [Reference(f"{RANDOM}, steered toward", *value)]

    said = "; ".join(
        f"{WORDS[kind]} {' '.join(format_estimate(*_at_compared(metrics, 'target_price', kind)))}" for kind in WORDS
    )
    dose = format_number(metrics.attrs["compared_dose"])
    lines = {"dataset steered toward": "target_price", "other dataset": "source_price"}
    names = ["target_price", "source_price", "random_target_price", "random_source_price", "moved", "random_moved"]
    return Figure(
        name="prices",
        title="What steering costs",
        alt="Curves over the dose of the loss that vectors add on held-out texts of both datasets, by pair and kind; "
        f"on the dataset steered toward at dose {dose}, mean of the pairs: {said} nats per token.",
        caption=f"Added loss on held-out texts, in nats per token. On the dataset steered toward at dose {dose}, mean "
        f"of the pairs: {said}. {_rest(metrics, texts=True)}",
        how_to_read="A vector that made the model write the dataset well would cost nothing on it. Where both lines "
        f"rise the model is damaged; the dashed line is what {RANDOM} of the same length cost at dose {dose}.",
        drawing=_curves(_panels(metrics, lines, references, "nats per token")),
        data=table(metrics, names),
    )


def _beyond(seen: Seen) -> Figure:
    metrics = seen.metrics
    names = [POOLED, *_pairs(metrics)]
    drawing, axes = plotting.canvas(
        len(WORDS) * plotting.height_for(len(names)),
        rows=len(WORDS),
        titles=[word.capitalize() for word in WORDS.values()],
    )
    for ax, kind in zip(axes, WORDS, strict=True):
        lines = [Series("vector − random", *ends(metrics["excess"].sel(kind=kind, pair=names)))]
        lines.append(Series("one more random vector", *ends(metrics["null_excess"].sel(kind=kind, pair=names))))
        plotting.dot_whiskers(
            ax, ["mean of the pairs", *names[1:]], lines, [Reference(RANDOM, 0.0)], x_label="nats per token"
        )
    said = "; ".join(
        f"{WORDS[kind]} {' '.join(format_estimate(*estimate(_of(metrics, 'excess', kind))))}" for kind in WORDS
    )
    rate = format_number(100 * seen.thresholds["false_discovery_rate"])
    passed = ", ".join(f"{WORDS[kind]} {len(_passed(seen, kind))}" for kind in WORDS)
    data = table(metrics, ["excess"]).merge(
        metrics[["p_value", "q_value", "chosen"]].to_dataframe().reset_index(), on=["pair", "kind"]
    )
    return Figure(
        name="beyond_random",
        title="Beyond random vectors",
        alt="Dots with whiskers of the log-likelihood ratio of steered text minus that of random vectors, by pair and "
        f"by what vectors are added to; mean of the pairs: {said}.",
        caption=f"Steered text minus the mean of {metrics.attrs['vectors']} random vectors of the same length "
        f"(permutations for router logits), after the same prompts. Mean of the pairs: {said}. Pairs that pass a false "
        f"discovery rate of {rate} %, of {len(_pairs(metrics))}: {passed}. {_rest(metrics)}",
        how_to_read="The lower whiskers of a row are where one more random vector would lie. The residual stream is "
        "the positive control: where it does not steer, these prompts cannot show that something else does.",
        drawing=drawing,
        data=data,
    )


def _layers(metrics: xr.Dataset) -> Figure:
    panels = []
    for pair in _pairs(metrics):
        lines = [
            Series(word, metrics["choosing_ratio"].sel(pair=pair, kind=kind).values) for kind, word in WORDS.items()
        ]
        panels.append(Panel(pair, metrics["layer"].values, lines, (), "nats per token"))
    chosen = "; ".join(
        f"{pair}: {', '.join(f'{word} {_layer(metrics, kind, pair)}' for kind, word in WORDS.items())}"
        for pair in _pairs(metrics)
    )
    whole = metrics["choosing_all"].to_dataframe("estimate").reset_index().assign(layer=ALL)
    each = metrics["choosing_ratio"].to_dataframe("estimate").reset_index()
    data = each.astype({"layer": str}).merge(whole, how="outer").dropna(subset="estimate")
    best = format_number(round(float(np.nanmax(metrics["choosing_ratio"])), 2))
    return Figure(
        name="layers",
        title="Which layer steers",
        alt="Lines over layers of the log-likelihood ratio of text that is steered in one layer, by what vectors are "
        f"added to; the largest is {best} nats per token.",
        caption="Log-likelihood ratio of text steered in one layer, after the prompts by which the layer is chosen, "
        f"which count nowhere else. Chosen are {chosen}. n = {_choosing(metrics)} prompts a pair, without intervals.",
        how_to_read="What is added to the residual stream is carried on to later layers; the other kinds are not, and "
        "are tried in all layers at once, too, which the CSV has.",
        drawing=plotting.small_multiples(panels, columns=2, panel_height=2.2, share_y=False),
        data=data,
    )


def _choosing(metrics: xr.Dataset) -> int:
    return int(metrics.attrs["choosing"])
