"""The files of a chapter's measures: metrics, beside them those of the untrained model, and draws."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import xarray as xr

from gatebook.chapters.base.contract import Chapter
from gatebook.files import netcdf
from gatebook.measures import summary, uncertainty
from gatebook.measures.summary import Measured

NAMES = {
    "against": ("checkpoint that others are compared with: the last one, or the one before", ""),
    "alike": ("number that those runs share which differ in their seed alone", "1"),
    "asked_dose": ("number of the dose that is asked for", "1"),
    "axis": ("axis of the map", "1"),
    "cache": ("experts that the cache of a layer holds, times those of a token", "1"),
    "capacity_factor": ("capacity of an expert, in even shares of a batch", "1"),
    "change": ("what is changed about the model", ""),
    "checkpoint": ("checkpoint, in training order", ""),
    "class": ("what the class of a token is made of", ""),
    "clusters": ("clusters of documents that are alike", "clusters"),
    "composition": ("what batches are made of", ""),
    "dataset": ("dataset, or all of them pooled", ""),
    "depth": ("depth of the layer, from 0, the first, to 1, the last", "1"),
    "design_effect": ("how many times larger than of independent tokens variances are taken to be", "1"),
    "devices": ("devices that hold the experts", "devices"),
    "distance": ("distance of two tokens in a text", "tokens"),
    "documents": ("documents", "documents"),
    "direction": ("leading direction of an expert's output", ""),
    "dose": ("number of the dose, from 0", "1"),
    "dose_value": ("factor of a weight, or what is added to a logit", "1"),
    "each": ("run: model and checkpoint", ""),
    "each_experts": ("experts of a layer", "experts"),
    "each_experts_per_token": ("experts that a token selects", "experts"),
    "end": ("end of a direction", ""),
    "example": ("rank of the example, from 0", "1"),
    "exchanged": ("what of the other prompt the experts are handed", ""),
    "expert": ("number of the expert", "1"),
    "experts": ("experts of a layer", "experts"),
    "experts_per_token": ("experts that a token selects", "experts"),
    "factor": ("rank of the factor by its activation, from 0", "1"),
    "finding": ("question that a finding answers", ""),
    "flow": ("occurrence whose flow is drawn", "1"),
    "frequency": ("how often the token id occurs", ""),
    "gradient": ("which gradient attribution takes", ""),
    "group": ("tokens of a prompt", ""),
    "half": ("half of the sources of pairs", ""),
    "interval": ("estimate, and the ends of its interval", ""),
    "head": ("number of the attention head", "1"),
    "intervention": ("name of the change", ""),
    "keep": ("experts of a layer that are kept", "experts"),
    "kind": ("which token counts: the one read, the next, the predicted", ""),
    "label": ("what near tokens may share", ""),
    "layer": ("number of the layer", "1"),
    "layer_overlap": ("overlap of what the routers of two layers read", "1"),
    "length": ("last tokens of a text that are kept", "tokens"),
    "log10_probability_edge": ("edge of a bin of the logarithm of probability, base 10", "1"),
    "matched_share": ("share of the changed tokens that have a control", "1"),
    "measure": ("name of the measure", ""),
    "on_dataset": ("dataset that is changed, or none", ""),
    "pair": ("dataset that is steered toward, and the other; or all pairs pooled", ""),
    "order": ("by what the tokens of an expert are ranked", ""),
    "other": ("number of the other expert", "1"),
    "other_layer": ("number of the other layer", "1"),
    "paired": ("1 where both runs read the same documents", "1"),
    "pairs": ("pairs of prompts", "pairs"),
    "passed": ("1 where the model does the task", "1"),
    "paths": ("number of the most frequent paths", "paths"),
    "place": ("part of the model after which states are read", ""),
    "placement": ("which device holds which experts", ""),
    "point_after": ("text after the token", ""),
    "point_before": ("text before the token", ""),
    "point_dataset": ("dataset of the token", ""),
    "point_text": ("text of the token", ""),
    "point_token": ("token id", "1"),
    "predictor": ("what is to tell the change of loss", ""),
    "projection": ("how the map is made", ""),
    "quantile": ("share of tokens below", "1"),
    "rank": ("rank of the selected expert, from 0", "1"),
    "removed": ("slots that are removed", ""),
    "replicas": ("copies of experts beside one of each", "experts"),
    "role": ("token of a prompt by its role", ""),
    "room": ("room of a device in a batch", ""),
    "ranking": ("by what experts are ranked", ""),
    "read_after": ("number of the layer after which answers are read, -1 for the embedding", "1"),
    "routing": ("which first choices paths are made of", ""),
    "run": ("A, the first of two runs, or B", ""),
    "score": ("what a head may look for", ""),
    "scalar": ("number that the router has for every token", ""),
    "scalar_edge": ("edge of a bin", "that of the scalar"),
    "second": ("run B: model and checkpoint", ""),
    "side": ("tokens at which something is removed, or others", ""),
    "selection": ("which experts of a token count", ""),
    "share": ("share of the tokens", "1"),
    "space": ("vectors that stand for tokens", ""),
    "task": ("pairs of prompts that differ in what decides the answer", ""),
    "token": ("rank of the token, from 0", "1"),
    "stage": ("where the decision of a router is changed", ""),
    "token_order": ("order in which tokens come", ""),
    "token_id": ("token id", "1"),
    "tokens": ("tokens", "tokens"),
    "uniform_value": ("value under uniform routing", "that of the measure"),
    "unit_edge": ("edge of a bin between 0 and 1", "1"),
    "untrained": ("1 for the untrained model", "1"),
    "weight": ("mean routing weight before the change", "1"),
    "vector": ("number of the random vector, from 0", "1"),
    "where": ("which tokens are changed", ""),
    "who": ("which expert is changed, in which tokens", ""),
}
"""Long names and units ("" of words) of what metrics hold beside measures; a variable with attributes keeps them."""


def described(metrics: xr.Dataset) -> xr.Dataset:
    """The same metrics, with a long name for all variables and units for all numbers."""
    metrics = metrics.copy()
    for name in NAMES.keys() & set(metrics.variables):
        long_name, units = NAMES[name]
        known = {"long_name": long_name} | ({"units": units} if units else {})
        metrics[name].attrs = known | metrics[name].attrs
    return metrics


def save_metrics(metrics: xr.Dataset, path: str, groups: Mapping[str, xr.Dataset] = MappingProxyType({})) -> None:
    """Write a chapter's metrics, and the groups beside them, with long names and units."""
    netcdf.save(described(metrics), path, {name: described(group) for name, group in groups.items()})


def save(
    measured: Measured,
    chapter: Chapter,
    identity: Mapping[str, str],
    *,
    metrics: str,
    draws: str,
    untrained: Sequence[str] = (),
) -> None:
    """Write what a chapter measured of a checkpoint.

    Parameters
    ----------
    measured, chapter
        What was measured (`summary.of_enough`), and the declaration of the chapter.
    identity
        Attributes that say which model and which data it was measured on.
    metrics, draws
        Where the metrics go, and the draws of the measures.
    untrained
        The metrics and the draws of the untrained checkpoint, if there is one. Then the metrics hold two groups more:
        `untrained`, the metrics of that checkpoint, and `difference`, every measure minus that of the untrained model,
        with the interval of a paired difference.
    """
    groups = {}
    if untrained:
        others, their_draws = map(netcdf.load, untrained)
        method = summary.METHODS[chapter.interval](measured.metrics.attrs["confidence"])
        apart = summary.differences(measured.draws, their_draws, chapter.measures, method)
        apart = uncertainty.without_few(apart, measured.metrics.attrs["fewest_clusters"], measured.metrics["clusters"])
        groups = {"untrained": others, "difference": apart}
    save_metrics(measured.metrics.assign_attrs(identity), metrics, groups)
    netcdf.save(measured.draws.assign_attrs(identity), draws)
