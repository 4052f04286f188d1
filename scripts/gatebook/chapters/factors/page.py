"""The page of the chapter factors: figures and findings."""

from collections.abc import Sequence

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
    trained,
    verdict,
)
from gatebook.chapters.factors import CLASSES, TOKEN
from gatebook.chapters.factors.measure import NONE, factor_table
from gatebook.figures import plotting
from gatebook.figures.plotting import Panel, Reference, Series
from gatebook.figures.style import say_no_data
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import table

HELD_OUT = "held-out tokens"
MOST_FACTORS, MOST_EXPERTS, SHOWN = 14, 12, 3
GAUSSIAN = "Gaussian vectors of the same covariance"
FIT = ["variance", "component_variance", "active"]


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter."""
    return [_found(seen), _fit(seen), _explained(seen), _factors(seen.metrics), _experts(seen.metrics)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; what rests on factors is left out where none is found again."""
    found = [_finding_parts(seen), *_finding_trained(seen), _finding_token(seen), _finding_expert(seen)]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """Whether there are parts, with the one that is most active."""
    found = _finding_parts(seen)
    if not found.is_known:
        return None
    known = factor_table(seen.metrics)
    if found.verdict != "yes" or known.empty:
        return Brief("Nothing shows that router inputs consist of parts that a second fit finds again.", found.figure)
    one = known.loc[known["share"].idxmax()]
    text = (
        f"Parts that two fits find alike hold {percent((found.estimate, found.low, found.high))} of what tells router "
        "inputs apart."
    )
    example = (
        f"One of layer {one['layer']}, active in {_percent(one['tokens'])} of the tokens, goes with expert "
        f"{one['expert']}."
    )
    return Brief(text, found.figure, example, int(one["layer"]), (int(one["expert"]),))


def _percent(share: float) -> str:
    return f"{format_number(round(100 * float(share), 1))} %"


def _number(metrics: xr.Dataset, name: str) -> float:
    """A share of factors, mean over layers that have any."""
    return float(metrics[name].mean("layer"))


def _null(metrics: xr.Dataset, name: str) -> Null:
    return Null.of("Gaussian", metrics, name)


def _sizes(metrics: xr.Dataset) -> str:
    """What figures rest on, and how their intervals were made."""
    fitted = f"{metrics.attrs['number']} factors fitted to {metrics.attrs['fitted_tokens']:,} tokens of other clusters"
    return f"{fitted}. {counts_text(metrics, JACKKNIFE, HELD_OUT)}"


def _finding_parts(seen: Seen) -> Finding:
    metrics = seen.metrics
    found = numbers(seen, "found_variance", _null(metrics, "found_variance"), "variance_effect")
    elsewhere = _number(metrics, "found_elsewhere")
    again = f", and {_percent(elsewhere)} of these also in the other documents" if np.isfinite(elsewhere) else ""
    return Finding(
        question="Do router inputs consist of parts that a second fit finds again?",
        answer=f"Of {metrics.attrs['number']} factors a second fit finds {_percent(_number(metrics, 'found_factors'))} "
        f"again{again}; of Gaussian vectors {_percent(_number(metrics, 'null_found_factors'))}. They hold "
        f"{percent(found)} of the variance{change(seen, 'found_variance')}; all factors hold "
        f"{percent(over_layers(metrics, 'variance'))}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that factors found again hold more of the variance than those of Gaussian vectors",
        unit="of the variance",
        figure="found_by_layer",
        **found,
    )


def _finding_trained(seen: Seen) -> list[Finding]:
    found = trained(seen, "found_variance", "variance_effect")
    if found is None:
        return []
    return [
        Finding(
            question="Did training make router inputs consist of such parts?",
            answer=f"The variance that parts found again hold changes by {_points(found)} points from that of the "
            "untrained model, whose router inputs hold the embeddings of token ids, too.",
            verdict=verdict(side(found), yes="above"),
            verdict_text="yes means a difference above 0",
            unit="of the variance",
            figure="found_by_layer",
            **found,
        )
    ]


def _points(found: dict) -> str:
    return rounded(found, lambda share: 100 * share)


def _finding_token(seen: Seen) -> Finding:
    most = seen.thresholds["most"]
    here = seen.sel(**{"class": TOKEN})
    found = numbers(here, "explained", Null("nothing explained", 0.0), "explained_effect", threshold=most)
    others = [
        f"the {name} {percent(over_layers(seen.metrics.sel({'class': name}), 'explained'))}"
        for name in CLASSES
        if name != TOKEN
    ]
    return Finding(
        question="Are the parts found again token ids?",
        answer=f"The token id explains {percent(found)} of their activation{change(here, 'explained')}; "
        f"{' and '.join(others)}.",
        verdict=verdict(side(found, most), yes="above"),
        verdict_text=f"yes means that the token id explains more than {format_number(100 * most)} %",
        unit="of the activation",
        figure="explained",
        **found,
    )


def _finding_expert(seen: Seen) -> Finding:
    null = Null.of("within datasets", seen.metrics, "expert_correlation")
    found = numbers(seen, "expert_correlation", null, "correlation_effect")
    passed, known = _passed(seen)
    return Finding(
        question="Do the parts found again go with experts of their own?",
        answer=f"Their activation and the selection of the expert of each correlate by {rounded(found)} on average"
        f"{change(seen, 'expert_correlation')}, and by {null.text()} if tokens are permuted within datasets; {passed} "
        f"of {known} parts pass a false discovery rate of "
        f"{format_number(100 * seen.thresholds['false_discovery_rate'])} %.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a correlation above that which datasets alone bring about",
        unit="correlation",
        figure="found_by_layer" if not known else "experts",
        **found,
    )


def _passed(seen: Seen) -> tuple[int, int]:
    """How many factors go with their expert beyond datasets, and how many there are."""
    value = seen.metrics["factor_q_value"].values
    return int((value <= seen.thresholds["false_discovery_rate"]).sum()), len(factor_table(seen.metrics))


def _lines(seen: Seen, name: str) -> list[Series]:
    known = checkpoints(seen.metrics, seen.untrained)
    return [Series(label, *ends(metrics[name])) for label, metrics in known.items()]


def _plain(seen: Seen, name: str) -> list[Series]:
    """Lines without intervals."""
    known = checkpoints(seen.metrics, seen.untrained)
    return [Series(label, *[metrics[name].values] * 3) for label, metrics in known.items()]


def _found(seen: Seen) -> Figure:
    metrics = seen.metrics
    layers, random = metrics["layer"].values, metrics["null_found_factors"].values
    panels = [
        Panel("factors found again", layers, _plain(seen, "found_factors"), [Reference("Gaussian", random)], "share"),
        Panel(
            "variance that they hold",
            layers,
            _lines(seen, "found_variance"),
            [_null(metrics, "found_variance").reference()],
            "share",
        ),
        Panel("of these, in other documents", layers, _plain(seen, "found_elsewhere"), [], "share"),
    ]
    value, bounds = format_estimate(*over_layers(metrics, "found_variance"))
    share, none = (_percent(_number(metrics, name)) for name in ("found_factors", "null_found_factors"))
    cosine = format_number(metrics.attrs["again"])
    return Figure(
        name="found_by_layer",
        title="Factors that a second fit finds again",
        alt=f"Small line charts over layers; {share} of the factors are found again, {none} of those of Gaussian "
        f"vectors, and they hold {value} of the variance.",
        caption=f"Found again: a cosine above {cosine} with the partner in a fit with another seed. Mean over layers "
        f"{share} of the factors against {none} of {GAUSSIAN}; variance that they hold {value} {bounds}. The last "
        f"panel compares with a fit to the other half of the clusters. {_sizes(metrics)}",
        how_to_read="A fit always finds directions. Those of Gaussian vectors, which have no parts, depend on where "
        "the fit starts; those of parts do not. Bands are of other documents, not of other fits.",
        drawing=plotting.small_multiples(panels, share_y=False, y_limits=(0, None), order=ORDER),
        data=table(metrics, ["found_factors", "found_variance", "found_elsewhere"], null="gaussian"),
    )


def _fit(seen: Seen) -> Figure:
    metrics = seen.metrics
    layers = metrics["layer"].values
    panels = [
        Panel(
            "variance, all factors", layers, _lines(seen, "variance"), [_null(metrics, "variance").reference()], "share"
        ),
        Panel("variance, principal components", layers, _lines(seen, "component_variance"), [], "share"),
        Panel(
            "active factors of a token",
            layers,
            _lines(seen, "active"),
            [Reference("Gaussian", metrics["null_active"].values)],
            "factors",
        ),
    ]
    whole, random = (percent(over_layers(metrics, "variance")), _percent(_number(metrics, "null_variance")))
    return Figure(
        name="fit",
        title="How well factors fit, which is no evidence of parts",
        alt=f"Small line charts over layers; factors hold {whole} of the variance, those of Gaussian vectors {random}.",
        caption=f"All factors hold {whole} of the variance of documents that they were not fitted to, those of "
        f"{GAUSSIAN} {random}. {_sizes(metrics)}",
        how_to_read="Factors of vectors without parts fit nearly as well, and as many principal components always fit "
        "better. What speaks for parts is that fits agree, and that fewer are active in a token than of a Gaussian.",
        drawing=plotting.small_multiples(panels, share_y=False, y_limits=(0, None), order=ORDER),
        data=table(metrics, FIT, null="gaussian"),
    )


def _explained(seen: Seen) -> Figure:
    metrics = seen.metrics
    panels = [
        Panel(name, metrics["layer"].values, _lines(seen.sel(**{"class": name}), "explained"), [], "share")
        for name in CLASSES
    ]
    said = ", ".join(f"{name} {_said(metrics.sel({'class': name}), 'explained')}" for name in CLASSES)
    return Figure(
        name="explained",
        title="What decides when factors are active",
        alt=f"Small line charts over layers of the share of the activation that a class explains: {said}.",
        caption=f"Mean over the factors found again and over layers: {said}. From pairs of tokens of different groups "
        f"of clusters. {_sizes(metrics)}",
        how_to_read="1: the class alone says how active a factor is. The token id decides its type, and much of its "
        "dataset: what these explain is a part of what the id does, and what it leaves is context.",
        drawing=plotting.small_multiples(panels, y_limits=(None, None), order=ORDER),
        data=table(metrics, ["explained"]),
    )


def _said(metrics: xr.Dataset, name: str) -> str:
    """A mean over layers with its interval, in words where there is none."""
    value = over_layers(metrics, name)
    return " ".join(format_estimate(*value)).strip() if np.isfinite(value[0]) else "not available"


def _shown(metrics: xr.Dataset) -> tuple[int, xr.Dataset]:
    """The layer with most factors found again, and these, the most active first, at most `MOST_FACTORS`."""
    known = (metrics["factor_expert"] != NONE).sum("factor")
    layer = int(metrics["layer"].values[int(known.values.argmax())])
    return layer, metrics.sel(layer=layer).isel(factor=slice(0, min(int(known.max()), MOST_FACTORS)))


def _names(shown: xr.Dataset) -> list[str]:
    """A factor in words: the texts of its most active tokens."""
    found = []
    for number, texts in zip(shown["factor"].values.tolist(), shown["factor_text"].values.tolist(), strict=True):
        known = list(dict.fromkeys(text for text in texts if text))[:SHOWN]
        found.append(f"{number}: {' '.join(f'“{text[:8]}”' for text in known)}")
    return found


def _in_context(shown: xr.Dataset) -> str:
    """The most active token of each of the first factors, in its context."""
    rows = []
    for factor in shown["factor"].values.tolist()[:SHOWN]:
        one = shown.sel(factor=factor).isel(example=0)
        rows.append(f"{factor} {one['factor_before'].item()}[{one['factor_text'].item()}]{one['factor_after'].item()}")
    return f" In context: {'; '.join(rows)}." if rows else ""


def _table(metrics: xr.Dataset) -> pd.DataFrame:
    """All factors found again, or their number where there are none."""
    known = factor_table(metrics)
    return known if len(known) else pd.DataFrame({"factors": [0]})


def _factors(metrics: xr.Dataset) -> Figure:
    layer, shown = _shown(metrics)
    columns = [*CLASSES, "tokens", "expert"]
    values = [
        shown["factor_explained"].transpose("factor", "class").values.T,
        [shown["factor_tokens"].values, shown["factor_expert_correlation"].sel(interval="estimate").values],
    ]
    drawing, (ax,) = plotting.canvas(plotting.height_for(max(shown.sizes["factor"], 1)))
    if shown.sizes["factor"]:
        cells = np.clip(np.concatenate(values).T, 0, 1)
        options = {"kind": "magnitude", "label": "share, or correlation", "limits": (0, 1), "annotate": ".2f"}
        plotting.matrix(ax, cells, _names(shown), columns, **options)
    else:
        say_no_data(ax)
    number = len(factor_table(metrics))
    return Figure(
        name="factors",
        title=f"The factors found again, layer {layer}",
        alt=f"Matrix of {shown.sizes['factor']} factors of layer {layer}, with the share of their activation that "
        "token id, dataset and token type explain, the share of tokens in which they are active, and the correlation "
        "with their expert.",
        caption=f"Rows are factors, the most active first, named by the tokens in which they are most active. Columns: "
        "the share of the activation that the token id, the dataset and the token type explain, the share of tokens in "
        "which the factor is active, the correlation with the selection of its expert. Of "
        f"{number} factors of all layers, with {shown.sizes['example']} tokens in context of each, in the CSV."
        f"{_in_context(shown)} {_sizes(metrics)}",
        how_to_read="A factor that its token id explains is a word or a sign. One that the id leaves open and the "
        "dataset explains is a kind of text. Read the examples in the CSV before giving a factor a name.",
        drawing=drawing,
        data=_table(metrics),
    )


def _experts(metrics: xr.Dataset) -> Figure:
    layer, shown = _shown(metrics)
    chosen = _most(shown["factor_expert"].values)
    drawing, (ax,) = plotting.canvas(plotting.height_for(max(shown.sizes["factor"], 1)))
    if chosen:
        values = shown["factor_correlation"].sel(expert=chosen).transpose("factor", "expert").values
        options = {"kind": "magnitude", "label": "correlation", "limits": (0, 1), "annotate": ".2f"}
        plotting.matrix(ax, values, _names(shown), chosen, x_label="Expert", **options)
    else:
        say_no_data(ax)
    value = _said(metrics, "expert_correlation")
    rows = table(metrics, ["expert_correlation"], null="within_datasets")
    return Figure(
        name="experts",
        title=f"Factors and experts, layer {layer}",
        alt=f"Matrix of {shown.sizes['factor']} factors by {len(chosen)} experts of layer {layer}, of the correlation "
        f"of activation and selection; {value} on average with the factor's own expert.",
        caption="The experts that these factors go with, chosen on the clusters that factors were fitted to; "
        f"correlations are of the others. Mean over layers and factors with their own expert {value}. "
        f"{_sizes(metrics)}",
        how_to_read="One bright cell in a row and a column: a part that has an expert, and an expert of one part. "
        "Negative correlations have the colour of 0; the CSV holds them.",
        drawing=drawing,
        data=pd.concat([rows, _correlations(metrics)], ignore_index=True),
        names=[f"layer {layer}, expert {expert}" for expert in chosen],
    )


def _most(experts: Sequence[int]) -> list[int]:
    """The different experts of factors, in the order of these, at most `MOST_EXPERTS`."""
    return sorted(dict.fromkeys(int(one) for one in experts if one != NONE))[:MOST_EXPERTS]


def _correlations(metrics: xr.Dataset) -> pd.DataFrame:
    """The correlation of every factor found again with every expert, as rows."""
    rows = (
        metrics["factor_correlation"]
        .to_dataframe("correlation")
        .reset_index()[["layer", "factor", "expert", "correlation"]]
    )
    return rows.dropna(subset="correlation")
