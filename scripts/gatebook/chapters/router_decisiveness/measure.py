"""Router decisiveness: how sure is the router of its choice?

p is the router's distribution over all E experts: the softmax of its logits z, or its sigmoid scores divided by their
sum. S are the k selected experts, q = w / sum(w) their renormalised weights. Definitions are per token; the chapter
reports means over tokens. Under uniform routing (all logits equal) the entropy is ln E, the top-k entropy ln k, the
largest probability 1 / E, the top-k mass k / E, the share of the first expert 1 / k, both margins are 0, and every
token is a tie.
"""

import numpy as np
import xarray as xr

from gatebook.chapters.router_decisiveness import MEASURES
from gatebook.measures import uncertainty
from gatebook.measures.summary import Bootstrap, Measured, summarise
from gatebook.routing import bins
from gatebook.study import tallies

QUANTILES = (0.1, 0.5, 0.9)
SUMS = ["scalar_sum", "scalar_count", "probability_sum", "rank_weight_sum", "tied_tokens"]
POOLED_HISTOGRAMS = {
    "expert_logit_histogram": bins.LOGIT_EDGES,
    "expert_probability_histogram": bins.PROBABILITY_EDGES,
    "rank_probability_histogram": bins.UNIT_EDGES,
    "rank_share_histogram": bins.UNIT_EDGES,
}


def uniform_values(experts: int, top_k: int) -> dict[str, float]:
    """The value of each measure when all router logits are equal."""
    return {
        "normalised_entropy": 1.0,
        "entropy": np.log(experts),
        "effective_experts": float(experts),
        "top_k_entropy": np.log(top_k),
        "top_1_probability": 1 / experts,
        "top_k_mass": top_k / experts,
        "top_1_share": 1 / top_k,
        "logit_margin": 0.0,
        "boundary_margin": 0.0,
        "tied_share": float(top_k < experts),
        "entropy_of_mean": np.log(experts),
        "information": 0.0,
    }


def measure(dataset_tallies: dict[str, xr.Dataset], *, resamples: int, seed: int, confidence: float) -> Measured:
    """All measures of the chapter from the tallies of a study's datasets.

    Each of `MEASURES` is (dataset, layer, interval): the mean over tokens with its interval, for every dataset and for
    all tokens pooled. `mean_over_layers_*` (dataset, interval) is the same averaged over layers. `rank_weight`
    (dataset, layer, rank, interval) is the mean routing weight by rank; `scalar_quantile` (dataset, layer, scalar,
    quantile, interval) and `scalar_density` (dataset, layer, scalar, bin; share of tokens) describe the distributions
    over tokens; `expert_logit_quantile`, `expert_probability_quantile` (layer, expert, quantile) and
    `rank_probability_quantile`, `rank_share_quantile` (layer, rank, quantile) those of z, p and q over the pooled
    tokens.
    """
    first = next(iter(dataset_tallies.values()))
    experts, top_k = first.sizes["expert"], first.sizes["rank"]
    resampling = uncertainty.resample(dataset_tallies, resamples, seed)
    tokens = uncertainty.dataset_draws(dataset_tallies, ["tokens"], resampling)["tokens"]
    draws, per_layer = [], []
    for tally in tallies.by_layer(dataset_tallies, [*SUMS, "scalar_histogram", *POOLED_HISTOGRAMS]):
        sums = uncertainty.dataset_draws(tally, SUMS, resampling)
        draws.append(measures_of_draws(sums, tokens))
        weight = uncertainty.interval(sums["rank_weight_sum"] / tokens, confidence)
        weight.attrs = {"long_name": "Mean routing weight by rank", "units": "1"}
        distributions = _distributions(tally, first["scalar_edge"], resampling, confidence)
        per_layer.append(distributions.assign(rank_weight=weight))
    values, out = xr.concat(draws, dim="layer"), xr.concat(per_layer, dim="layer", data_vars="minimal")
    out = out.merge(summarise(values, MEASURES, Bootstrap(confidence)))
    out.attrs = {"resamples": resamples, "seed": seed, "confidence": confidence}
    out.attrs["probability"] = tallies.probability_name(first.attrs)
    out["tokens"] = tokens.isel(draw=0, drop=True).astype(np.int64)
    out = out.merge(uncertainty.sample_sizes(dataset_tallies))
    uniform = uniform_values(experts, top_k)
    out["uniform_value"] = ("measure", [uniform[name] for name in MEASURES], {"long_name": "value, all logits equal"})
    return Measured(out.assign_coords(measure=list(MEASURES), scalar_edge=first["scalar_edge"]), values)


def measures_of_draws(sums: xr.Dataset, tokens: xr.DataArray) -> xr.Dataset:
    """Every measure in every draw, (dataset, draw, layer), from the sums over documents."""
    means = sums["scalar_sum"] / sums["scalar_count"].where(sums["scalar_count"] > 0)
    mean_probability = sums["probability_sum"] / tokens
    values = {name: means.sel(scalar=name, drop=True) for name in tallies.SCALARS if name in MEASURES}
    values["tied_share"] = sums["tied_tokens"] / tokens
    values["normalised_entropy"] = values["entropy"] / np.log(sums.sizes["expert"])
    surprise = -np.log(mean_probability.where(mean_probability > 0, 1))
    values["entropy_of_mean"] = (mean_probability * surprise).sum("expert")
    values["information"] = values["entropy_of_mean"] - values["entropy"]
    return xr.Dataset(values)


def _distributions(
    tally: dict[str, xr.Dataset], edges: xr.DataArray, resampling: dict, confidence: float
) -> xr.Dataset:
    """Quantiles and densities over tokens in one layer, from the histograms; one scalar at a time, to save memory."""
    quantiles, densities = [], []
    for scalar in edges["scalar"].values:
        parts = {name: layer.sel(scalar=[scalar]) for name, layer in tally.items()}
        counts = uncertainty.dataset_draws(parts, ["scalar_histogram"], resampling)["scalar_histogram"]
        found = uncertainty.histogram_quantiles(counts.values, edges.sel(scalar=[scalar]).values, QUANTILES)
        draws = xr.DataArray(found, dims=(*counts.dims[:-1], "quantile"))
        quantiles.append(uncertainty.interval(draws.assign_coords(counts.coords), confidence))
        observed = counts.isel(draw=0, drop=True)
        densities.append(observed / observed.sum("bin"))
    out = xr.Dataset(
        {"scalar_quantile": xr.concat(quantiles, dim="scalar"), "scalar_density": xr.concat(densities, dim="scalar")},
        coords={"quantile": list(QUANTILES)},
    )
    for name, bin_edges in POOLED_HISTOGRAMS.items():
        counts = sum(layer[name] for layer in tally.values())
        values = uncertainty.histogram_quantiles(counts.values, bin_edges, QUANTILES)
        if name == "expert_probability_histogram":
            values = 10**values
        out[name.replace("histogram", "quantile")] = ((*counts.dims[:-1], "quantile"), values)
    for name, array in out.data_vars.items():
        array.attrs = {"long_name": name.replace("_", " "), "units": "share of tokens" if "density" in name else "1"}
    return out
