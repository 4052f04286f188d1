"""The page of the chapter domain specialization: figures, findings and words."""

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.base.page import (
    ORDER,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    Service,
    before,
    change,
    counts_text,
    dataset_matrix,
    degree,
    effect_class,
    if_documents,
    numbers,
    over_layers,
    percent,
    rounded,
    series,
    side,
    size_text,
    verdict,
    without_documents,
)
from gatebook.chapters.domain_specialization import MEASURES
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import interval_table, spread, table
from gatebook.measures.uncertainty import INTERVAL, POOLED

WEIGHTS = "Every dataset has the same weight."
MOST_MATRICES, MOST_SPECIALISTS = 4, 14


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics, beside those of the untrained checkpoint if there is one."""
    metrics, untrained = seen.metrics, seen.untrained
    of_domains = [
        _information_by_layer(metrics, untrained),
        _specialization(metrics),
        _strongest_specialists(metrics),
        _divergence_by_dataset(metrics),
    ]
    return of_domains if "excess_repetition" not in metrics else [*of_domains, _repetition_by_layer(metrics, untrained)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings."""
    of_domains = [_finding_information(seen), _finding_strongest(seen)]
    return of_domains if "excess_repetition" not in seen.metrics else [*of_domains, _finding_repetition(seen)]


def brief(seen: Seen) -> Brief:
    """Whether experts specialize, and the expert that serves a dataset most beyond its share."""
    found, metrics = _finding_information(seen), seen.metrics
    if found.verdict != "yes":
        return Brief("Nothing shows that experts serve particular kinds of text.", found.figure)
    value, datasets = rounded(vars(found)), metrics.sizes["dataset"] - 1
    text = f"Experts specialize {degree(found.effect)} by kind of text: one selection tells {value} of the "
    text += f"{_most(metrics):.2f} bits that tell {datasets} datasets apart{before(seen, 'information')}."
    services = served(seen)
    if not services:
        return Brief(text, found.figure)
    first = services[0]
    example = f"Layer {first.layer} expert {first.expert} takes {percent((first.share, first.low, first.high))} of the "
    example += f"tokens of {first.dataset}, {format_number(round(100 * first.usual))} % of the average dataset's."
    return Brief(text, "strongest_specialists", example, first.layer, (first.expert,))


def served(seen: Seen) -> list[Service] | None:
    """Pairs of expert and dataset that differ by the test and by no negligible size, the furthest above first.

    The size is what lies between the expert's mean over datasets and the lower end. None of counts without documents,
    of which no single expert is tested.
    """
    metrics = seen.metrics
    if without_documents(metrics):
        return None
    rows = _specialists(metrics).rename(columns={"mean_over_datasets": "usual"})
    rows = rows[(rows["adjusted_p_value"] <= metrics.attrs["false_discovery_rate"]) & (rows["low"] > rows["usual"])]
    services = [
        Service(
            layer=int(row.layer),
            expert=int(row.expert),
            dataset=str(row.dataset),
            share=row.estimate,
            low=row.low,
            high=row.high,
            usual=row.usual,
            effect=effect_class([row.low - row.usual], seen.thresholds["share_effect"]),
        )
        for row in rows.itertuples()
    ]
    return [one for one in services if one.effect != "negligible"]


def _finding_information(seen: Seen) -> Finding:
    metrics, name = seen.metrics, "information"
    found = numbers(seen, name, _null(metrics, name), "information_effect", scale=_most(metrics))
    p_value = _p_text(float(metrics["p_value_mean_over_layers_information"].sel(dataset=POOLED)), metrics)
    return Finding(
        question="Do experts specialize by domain?",
        answer=f"A selection tells {rounded(found)} bits about the domain{change(seen, name)}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text=f"yes means an interval above that of the null; {p_value} for a value as large",
        unit="bits per selection",
        figure="information_by_layer",
        **found,
    )


def _p_text(p_value: float, metrics: xr.Dataset) -> str:
    """A p-value, as a bound where no permutation reached the value."""
    least = 1 / (1 + metrics.attrs["permutations"])
    return f"p {'≤' if p_value <= least else '='} {format_number(p_value)}"


def _finding_strongest(seen: Seen) -> Finding:
    metrics, name = seen.metrics, "largest_specialization"
    found = numbers(seen, name, _null(metrics, name), "share_effect")
    even = metrics.attrs["top_k"] / metrics.sizes["expert"]
    return Finding(
        question="Does a domain have a favourite expert?",
        answer=f"Its most frequent expert gets {percent(found)} of its tokens, on average; "
        f"an even share would be {format_number(100 * even)} %.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means an interval above that of the null",
        unit="of the domain's tokens",
        figure="information_by_layer",
        **found,
    )


def _finding_repetition(seen: Seen) -> Finding:
    found = numbers(seen, "excess_repetition", Null("tokens in random order", 0.0), "share_effect")
    repeated = over_layers(seen.metrics, "repeated_first")
    shuffled = [part - found["estimate"] for part in repeated]
    return Finding(
        question="Do neighbouring tokens repeat their first choice beyond what the document's loads explain?",
        answer=f"{percent(repeated)} of tokens repeat it; in random order it would be {percent(shuffled)}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means an interval above 0",
        unit="of tokens",
        figure="repetition_by_layer",
        **found,
    )


def _null(metrics: xr.Dataset, name: str) -> Null:
    """What a measure is where clusters are dealt out at random; of published counts, where domains are alike."""
    return Null.of("domains alike" if without_documents(metrics) else "clusters dealt out at random", metrics, name)


def _most(metrics: xr.Dataset) -> float:
    """The most that a selection can tell about the domain, in bits; 1 where there is one domain."""
    return np.log2(max(metrics.sizes["dataset"] - 1, 2))


def _information_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    names = [name for name in ("information", "first_information", "largest_specialization") if name in metrics]
    null = _null(metrics, "information")
    first = ", over all selections and over first choices alone" if "first_information" in names else ""
    drawn = f"{metrics.attrs['permutations']:,} random assignments of clusters to domains"
    if without_documents(metrics):
        drawn = f"{metrics.attrs['resamples']:,} draws of tokens from the mean of all domains"
    panels = [
        Panel(
            MEASURES[name].title,
            metrics["layer"].values,
            series(metrics, untrained, name),
            [_null(metrics, name).reference()],
            "share of the domain's tokens" if name == "largest_specialization" else MEASURES[name].units,
        )
        for name in names
    ]
    value, bounds = format_estimate(*over_layers(metrics, "information"))
    largest = " ".join(format_estimate(*over_layers(metrics, "largest_specialization")))
    return Figure(
        name="information_by_layer",
        title="What a selection tells about the domain",
        alt=f"Line charts over layers: one selection tells {value} bits about the domain on average over layers"
        f", {null.text()} with {null.name}.",
        caption=f"Mutual information of domain and expert by layer{first}; "
        f"{value} {bounds} bits per selection on average over layers, {null.text()} with {null.name}. Last: the share "
        f"of a domain's tokens that its most frequent expert gets, mean over domains, {largest} on average. {WEIGHTS} "
        f"{counts_text(metrics)}",
        how_to_read="No information, 0, means that all domains use the experts alike; the most possible is log2 of the "
        f"number of domains, {_most(metrics):.2f} bits. The dashed line is the mean of {drawn}, "
        "the grey band holds 95 % of them. A "
        "token's k selections tell partly the same, so their information does not add up.",
        drawing=plotting.small_multiples(panels, panel_height=2.1, share_y=False, order=ORDER),
        data=table(metrics.sel(dataset=[POOLED]), names),
    )


def _specialization(metrics: xr.Dataset) -> Figure:
    layers = spread(metrics["layer"].values, MOST_MATRICES)
    by_dataset = metrics.isel(dataset=slice(1, None))
    datasets = [str(name) for name in by_dataset["dataset"].values]
    share = metrics["specialization"].sel(interval="estimate", drop=True)
    # What the test compares a domain with, too: colour and hatching say the same.
    ratio = share.isel(dataset=slice(1, None)) / share.sel(dataset=POOLED, drop=True)
    drawing, axes = plotting.canvas(
        len(layers) * (1.3 + 0.17 * len(datasets)), rows=len(layers), titles=[f"Layer {layer}" for layer in layers]
    )
    known = not without_documents(metrics)
    differs = _specialized(by_dataset) if known else None
    end = 2.0 ** max(1, np.ceil(np.log2(max(ratio.quantile(0.99).item(), 1))))
    for ax, layer in zip(axes, layers, strict=True):
        plotting.matrix(
            ax,
            ratio.sel(layer=layer).transpose("dataset", "expert").values,
            datasets,
            metrics["expert"].values,
            kind="ratio",
            label="DS / mean over domains",
            uncertain=~differs.sel(layer=layer).transpose("dataset", "expert").values if known else None,
            limits=(1 / end, end),
            x_label="Expert",
        )
    data = interval_table(by_dataset["specialization"])[["dataset", "layer", "expert", *INTERVAL]]
    if "first_specialization" in metrics:
        first = interval_table(by_dataset["first_specialization"])
        data[[f"first_{part}" for part in INTERVAL]] = first[list(INTERVAL)]
    hatched = (
        "; hatched where it does not differ from the expert's mean over the other domains: "
        f"{metrics.attrs['permutations']:,} permutations of clusters, false discovery rate "
        f"{metrics.attrs['false_discovery_rate']:g} (Benjamini-Hochberg over layers, experts and domains)"
    )
    differing = f"{_count_text(metrics)} of expert and domain differ from the average domain" if known else ""
    return Figure(
        name="specialization",
        title=differing or "Which experts a domain selects",
        alt=f"Matrices of the share of a domain's tokens that select an expert, relative to its mean over domains, "
        f"domains by experts: from {ratio.min().item():.2f} to {ratio.max().item():.2f} times.",
        caption=f"DS(e, D) relative to its mean over all domains, layers {', '.join(map(str, layers))}"
        f"{if_documents(metrics, hatched)}. The CSV has all layers"
        f", with intervals{', also for first choices' if 'first_specialization' in metrics else ''}. "
        f"{size_text(metrics)}.",
        how_to_read="White: the domain selects the expert as often as the average domain does; orange: more often; "
        "purple: more rarely. A column with one orange cell is an expert of one domain, a white column one that serves "
        "all alike; a crossed one is selected by none. Columns of different layers do not correspond: expert numbers "
        "have no meaning across layers.",
        drawing=drawing,
        data=data,
    )


def _strongest_specialists(metrics: xr.Dataset) -> Figure:
    specialists = _specialists(metrics)
    shown = specialists.head(MOST_SPECIALISTS)
    even = metrics.attrs["top_k"] / metrics.sizes["expert"]
    drawing, (ax,) = plotting.canvas(plotting.height_for(int(1.3 * len(shown))))
    plotting.dot_whiskers(
        ax,
        [f"{row.dataset}: L{row.layer}, E{row.expert}" for row in shown.itertuples()],
        [
            Series("in the domain", *(100 * shown[part] for part in INTERVAL)),
            Series("mean over all domains", 100 * shown["mean_over_datasets"]),
        ],
        [Reference("even share k / E", 100 * even)],
        x_label="tokens that select the expert (%)",
        x_limits=(0, None),
    )
    best = shown.iloc[0]
    differ = ""
    if not without_documents(metrics):
        rate = f"{metrics.attrs['false_discovery_rate']:g}"
        differ = f"; {_count_text(metrics)} differ from the average domain at a false discovery rate of {rate}"
    return Figure(
        name="strongest_specialists",
        title="The strongest specialists",
        alt=f"Dot chart of the {len(shown)} pairs of expert and domain that are furthest above the expert's mean: "
        f"first expert {best['expert']} of layer {best['layer']}, which {100 * best['estimate']:.0f} % of the tokens "
        f"of {best['dataset']} select, {100 * best['mean_over_datasets']:.0f} % on average over domains.",
        caption=f"Pairs of expert and domain by DS(e, D) minus its mean over domains{differ}. The CSV has all pairs in "
        f"this order{if_documents(metrics, ', with p-values')}. {counts_text(metrics)}",
        how_to_read="L is the layer, E the expert. The further the two dots are apart, the more the expert belongs to "
        "the domain. These are the largest of many pairs, so chance has pushed them up a little. An expert can be a "
        "specialist because the domain's tokens are rare elsewhere.",
        drawing=drawing,
        data=specialists,
        names=[f"layer {row.layer}, expert {row.expert}" for row in shown.itertuples()],
    )


def _specialized(metrics: xr.Dataset) -> xr.DataArray:
    """Which DS (dataset, layer, expert) differ from the expert's mean over the other datasets."""
    return metrics["adjusted_p_value"] <= metrics.attrs["false_discovery_rate"]


def _count_text(metrics: xr.Dataset) -> str:
    """How many pairs of expert and domain differ from the average domain, and of how many, over all layers."""
    by_dataset = _specialized(metrics.isel(dataset=slice(1, None)))
    return f"{int(by_dataset.sum()):,} of {by_dataset.size:,} pairs"


def _specialists(metrics: xr.Dataset) -> pd.DataFrame:
    """Every (dataset, layer, expert) with DS and p-values, those first that are furthest above the expert's mean."""
    by_dataset = metrics.isel(dataset=slice(1, None))
    mean = metrics["specialization"].sel(dataset=POOLED, interval="estimate", drop=True)
    p_values = [name for name in ("p_value", "adjusted_p_value") if name in metrics]
    values = by_dataset["specialization"].to_dataset("interval").assign(mean_over_datasets=mean, **by_dataset[p_values])
    names = [*INTERVAL, "mean_over_datasets", *p_values]
    rows = values.to_dataframe(dim_order=["dataset", "layer", "expert"])[names].reset_index()
    order = (rows["mean_over_datasets"] - rows["estimate"]).argsort(kind="stable")
    return rows.iloc[order].reset_index(drop=True)


def _divergence_by_dataset(metrics: xr.Dataset) -> Figure:
    drawing, mean = dataset_matrix(metrics, "divergence", label="Jensen-Shannon divergence (bits)", annotate=".3f")
    most, least = mean["dataset"].values[[mean.values.argmax(), mean.values.argmin()]]
    null = _null(metrics, "divergence")
    return Figure(
        name="divergence_by_dataset",
        title="How far each domain is from the average domain",
        alt=f"Matrix of the Jensen-Shannon divergence from the average domain, datasets by layers: "
        f"{mean.max().item():.3f} bits on average over layers for {most}, {mean.min().item():.3f} for {least}.",
        caption=f"Jensen-Shannon divergence of a domain's selections from the mean of all domains"
        f"; with {null.name} it is {null.text()} bits on average. Intervals are in the CSV table. "
        f"{size_text(metrics)}.",
        how_to_read="Bright cells are domains that use the layer's experts unlike the others. The mean holds the "
        "domain itself, so with few domains values are smaller.",
        drawing=drawing,
        data=table(metrics, ["divergence"]),
    )


def _repetition_by_layer(metrics: xr.Dataset, untrained: xr.Dataset | None) -> Figure:
    names = ["repeated_first", "repeated_any"]
    references = {name: [Reference("uniform routing", _uniform(metrics, name))] for name in names}
    for label, name in (("given the dataset's loads", "expected"), ("document in random order", "shuffled")):
        value = metrics[f"{name}_repeated_first"].sel(dataset=POOLED).values
        references["repeated_first"].append(Reference(label, value))
    panels = [
        Panel(MEASURES[name].title, metrics["layer"].values, series(metrics, untrained, name), references[name])
        for name in names
    ]
    value, bounds = format_estimate(*over_layers(metrics, "repeated_first"))
    excess, excess_bounds = format_estimate(*over_layers(metrics, "excess_repetition"))
    return Figure(
        name="repetition_by_layer",
        title="Do neighbouring tokens choose the same experts?",
        alt=f"Two line charts over layers: the share of tokens that repeat the first choice of the token before, "
        f"{value} on average, and the share that select any of its experts again.",
        caption=f"Tokens that repeat the choice of the token before in the same window: {value} {bounds} of first "
        f"choices on average over layers, {excess} {excess_bounds} more than with the tokens of each document in "
        f"random order. {WEIGHTS} {counts_text(metrics)}",
        how_to_read="Choices repeat more often than under uniform routing because loads are uneven, more so because "
        "a document keeps to its subject; only what lies above the highest dashed line comes from the order of tokens. "
        "References but uniform routing are those of first choices in the studied model.",
        drawing=plotting.small_multiples(panels, columns=2, panel_height=2.4, share_y=False, order=ORDER),
        data=table(metrics, [*names, "excess_repetition"]),
    )


def _uniform(metrics: xr.Dataset, name: str) -> float:
    return float(metrics["uniform_value"].sel(measure=name))
