"""The page of the chapter held-out loss: figures, findings and words."""

import numpy as np
import xarray as xr

from gatebook.chapters.base.page import (
    BOOTSTRAP,
    ONE_RUN,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    degree,
    effect_class,
    ends,
    estimate,
    held,
    pooled,
    rounded,
    sample_size,
    size_text,
)
from gatebook.chapters.held_out_loss import MEASURES
from gatebook.figures import plotting
from gatebook.figures.plotting import Series
from gatebook.figures.words import format_estimate
from gatebook.measures.summary import interval_table


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter from its metrics."""
    metrics = seen.metrics
    return [_loss_by_domain(metrics), _loss_by_step(metrics), _overlap_by_domain(metrics)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings."""
    metrics = seen.metrics
    domains = metrics["gain"].isel(dataset=slice(1, None))
    better = int((domains.sel(interval="low") > 0).sum())
    gain = estimate(pooled(metrics["gain"]))
    found = held(_loss(metrics, -1), Null("unigram model", metrics["unigram_loss"]), ())
    return [
        Finding(
            question="Does the model predict held-out text better than token frequencies do?",
            answer=f"On {better} of {domains.sizes['dataset']} domains; pooled by "
            f"{' '.join(format_estimate(*gain))} nats a token; {ONE_RUN}.",
            unit="nats per token",
            reference_name="untrained model",
            reference_value=_loss(metrics, 0)[0],
            verdict="yes" if better == domains.sizes["dataset"] else "unclear" if better else "no",
            verdict_text="yes means that the interval of the paired gain is above 0 on every domain",
            figure="loss_by_domain",
            **found | {"effect": effect_class(gain, seen.thresholds["loss_effect"])} | sample_size(metrics),
        )
    ]


def brief(seen: Seen) -> Brief:
    """Whether the model has learned more than frequencies, and of which domains it has learned most and least."""
    (found,), gain = findings(seen), seen.metrics["gain"]
    if found.verdict != "yes":
        return Brief("Nothing shows that the model predicts all text better than token frequencies do.", found.figure)
    text = f"Held-out text is {degree(found.effect)} more predictable to the model than token frequencies make it: by "
    text += f"{rounded(estimate(pooled(gain)))} nats a token."
    domains = gain.isel(dataset=slice(1, None)).sortby(gain.isel(dataset=slice(1, None)).sel(interval="estimate"))
    least, most = domains.isel(dataset=0), domains.isel(dataset=-1)
    if not least.sel(interval="high") < most.sel(interval="low"):
        return Brief(text, found.figure)
    names = [f"{each['dataset'].item()} ({rounded(estimate(each))})" for each in (most, least)]
    return Brief(text, found.figure, f"It has learned most of {names[0]} and least of {names[1]}.")


def _loss(metrics: xr.Dataset, checkpoint: int) -> tuple[float, float, float]:
    return estimate(pooled(metrics["loss"]).isel(checkpoint=checkpoint))


def _loss_by_domain(metrics: xr.Dataset) -> Figure:
    domains = [str(name) for name in metrics["dataset"].values]
    parts = {
        "trained": metrics["loss"].isel(checkpoint=-1, drop=True),
        "untrained": metrics["loss"].isel(checkpoint=0, drop=True),
        "unigram": metrics["unigram_loss"],
    }
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(domains)))
    lines = [Series(label, *ends(array)) for label, array in parts.items()]
    plotting.dot_whiskers(ax, domains, lines, x_label=f"loss ({MEASURES['loss'].units})", x_limits=(0, None))
    table = xr.Dataset(parts).to_dataframe().unstack("interval")
    table.columns = [f"{label}_{part}" for label, part in table.columns]
    value, bounds = format_estimate(*estimate(parts["trained"].sel(dataset="pooled")))
    unigram = float(parts["unigram"].sel(dataset="pooled", interval="estimate"))
    return Figure(
        name="loss_by_domain",
        title="Held-out loss by domain",
        alt=f"Dots with whiskers per domain: loss of the trained, the untrained and a unigram model; pooled {value} "
        f"nats per token against {unigram:.2f} for the unigram model.",
        caption=f"Mean loss on held-out documents; pooled {value} {bounds}. {size_text(metrics)}; whiskers: "
        f"{100 * metrics.attrs['confidence']:g} % {BOOTSTRAP}.",
        how_to_read="Further left is better. A domain whose dot is left of its unigram dot has been learned beyond the "
        "frequency of tokens.",
        drawing=drawing,
        data=table.reset_index().rename(columns={"dataset": "domain"}),
    )


def _loss_by_step(metrics: xr.Dataset) -> Figure:
    loss = metrics["loss"].sel(dataset="pooled")
    steps = np.array([int(str(name).removeprefix("step")) for name in loss["checkpoint"].values])
    unigram = Null("unigram", metrics["unigram_loss"]).reference()
    drawing, (ax,) = plotting.canvas(3.2)
    line = Series("held-out", *ends(loss))
    plotting.curves(
        ax, steps, [line], [unigram], x_label="training step", y_label="loss (nats per token)", y_limits=(0, None)
    )
    table = interval_table(loss)
    table.insert(0, "step", steps)
    return Figure(
        name="loss_by_step",
        title="Held-out loss during training",
        alt=f"Curve of held-out loss over {steps[-1]} training steps, from {loss.values[0, 0]:.2f} to "
        f"{loss.values[-1, 0]:.2f} nats per token.",
        caption=f"Pooled held-out loss at every saved checkpoint; {size_text(metrics)}; band: "
        f"{100 * metrics.attrs['confidence']:g} % {BOOTSTRAP}.",
        how_to_read="The first point is the untrained model. Below the dashed line the model knows more than the "
        "frequency of tokens.",
        drawing=drawing,
        data=table,
    )


def _overlap_by_domain(metrics: xr.Dataset) -> Figure:
    corpora = metrics[["overlap", "held_out_documents", "held_out_clusters"]].to_dataframe().reset_index()
    corpora = corpora.rename(columns={"corpus": "domain"})
    percent = 100 * corpora["overlap"]
    most = corpora.loc[percent.idxmax(), "domain"]
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(corpora)))
    rows = [f"{row.domain}, {row.held_out_clusters} sources" for row in corpora.itertuples()]
    label = "runs of 13 tokens that are in the training text (%)"
    plotting.dot_whiskers(ax, rows, [Series("held-out text", percent)], x_label=label, x_limits=(0, None))
    return Figure(
        name="overlap_by_domain",
        title="How much of the held-out text is in the training text",
        alt="Dots per domain: share of runs of 13 tokens that occur in the training text, "
        f"at most {percent.max():.0f} % ({most}), median {percent.median():.1f} %.",
        caption="Share of the runs of 13 tokens in held-out documents that occur anywhere in the training text: "
        f"median over domains {percent.median():.1f} %, most in {most} ({percent.max():.0f} %). n = "
        f"{corpora['held_out_documents'].sum():,} held-out documents of {corpora['held_out_clusters'].sum():,} "
        f"clusters, at least {corpora['held_out_clusters'].min()} in each domain; no cluster is in both splits.",
        how_to_read="A run that was in the training text could be remembered. Headers, templates and idioms recur in "
        "texts of different sources; word problems of the same kind share their wording, but no problem occurs twice.",
        drawing=drawing,
        data=corpora,
    )
