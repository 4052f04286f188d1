"""Selection frequency: how evenly does each layer spread its tokens over the experts?

c_e is the number of tokens that select expert e among their k, T the number of tokens. Under uniform routing every
token picks k of E experts at random; a finite sample is then still not perfectly even, so the chapter states the value
that chance gives at the same number of tokens.
"""

import numpy as np
import xarray as xr

from gatebook.chapters.selection_frequency import MEASURES
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import uncertainty
from gatebook.measures.summary import MEAN, Bootstrap, Jackknife, Measured, summarise
from gatebook.study import tallies

SUMS = ["selected_count", "first_count", "weight_sum", "probability_sum", "z_loss_sum"]
NULL_DRAWS = 200


def coefficient_of_variation(count: xr.DataArray) -> xr.DataArray:
    """std(c) / mean(c) over `expert`, ddof 0; under uniform routing sqrt((1 - f) / (T f)) on average, f = k / E."""
    return count.std("expert") / count.mean("expert")


def gini(count: xr.DataArray) -> xr.DataArray:
    """Gini coefficient over `expert`: 0 for even loads, 1 - 1/E when one expert has everything."""
    experts = count.sizes["expert"]
    ordered = xr.apply_ufunc(np.sort, count, input_core_dims=[["expert"]], output_core_dims=[["expert"]])
    rank = xr.DataArray(2 * np.arange(1, experts + 1) - experts - 1, dims="expert")
    return (ordered * rank).sum("expert") / (experts * ordered.sum("expert"))


def slot_entropy(count: xr.DataArray) -> xr.DataArray:
    """Entropy in bits of the slot shares c_e / sum c over `expert`: log2 E for even loads."""
    share = count / count.sum("expert")
    return -(share * np.log2(share.where(share > 0, 1))).sum("expert")


def max_violation(count: xr.DataArray) -> xr.DataArray:
    """max_e c_e / mean(c) - 1 over `expert`: how far the busiest expert is above an even load."""
    return count.max("expert") / count.mean("expert") - 1


def load_measures(count: xr.DataArray) -> dict[str, xr.DataArray]:
    """The measures that depend on the loads c_e alone."""
    entropy = slot_entropy(count)
    return {
        "coefficient_of_variation": coefficient_of_variation(count),
        "gini": gini(count),
        "normalised_slot_entropy": entropy / np.log2(count.sizes["expert"]),
        "slot_entropy": entropy,
        "max_violation": max_violation(count),
        "dead_experts": (count == 0).sum("expert").astype(np.float64),
    }


def measure(
    dataset_tallies: dict[str, xr.Dataset],
    *,
    resamples: int,
    seed: int,
    confidence: float,
    capacity_factors: list[float],
    batch_tokens: int,
) -> Measured:
    """All measures of the chapter from the tallies of a study's datasets; those that counts alone allow, from counts.

    Parameters
    ----------
    dataset_tallies
        The tallies of a study's datasets, by name.
    resamples, seed
        Of the bootstraps over documents and over batches, and of the draws of uniform routing.
    confidence
        Of the intervals, between 0 and 1.
    capacity_factors
        Multiples of an even share that an expert may take of a batch.
    batch_tokens
        Tokens of a batch.

    Returns
    -------
    Measured
        Each of `MEASURES` is (dataset, layer, interval), and `mean_over_layers_*` (dataset, interval) its mean over
        layers. `slot_share`, `first_share`, `weight_share` (dataset, layer, expert, interval): share of the selections,
        of the first choices and of the routing weight that an expert gets; `selection_frequency` (dataset, layer,
        expert, interval) = c_e / T, which sums to k. `rank_share` (layer, expert, rank): at which rank an expert is
        selected, pooled. `dropped_share` (dataset, layer, capacity_factor, interval): see `dropped_share`;
        `mean_over_layers_*` has it without layer. `null_*` (dataset, interval) and `mean_over_layers_null_*`: the mean
        of a load measure under uniform routing at the same number of tokens, and an interval that holds it at
        `confidence`, in one layer and averaged over all. `tokens` and `documents` (dataset) int64.
    """
    first = next(iter(dataset_tallies.values()))
    experts, top_k = first.sizes["expert"], first.sizes["rank"]
    resampling = uncertainty.resample(dataset_tallies, resamples, seed)
    of_documents = uncertainty.has_documents(first)
    sizes = {name: tally["tokens"].values for name, tally in dataset_tallies.items()}
    tokens = uncertainty.dataset_draws(dataset_tallies, ["tokens"], resampling)["tokens"]
    names = [name for name in SUMS if name in first]
    draws, per_layer = [], []
    of_ranks = ["rank_count"] if "rank_count" in first else []
    for tally in tallies.by_layer(dataset_tallies, [*names, *of_ranks]):
        sums = uncertainty.dataset_draws(tally, names, resampling)
        found, shares = measures_of_draws(sums, tokens), _shares(sums, tokens, confidence)
        if of_documents:
            found["dropped_share"] = _dropped(tally, sizes, top_k, batch_tokens, capacity_factors)
        if of_ranks:
            rank_count = sum(layer["rank_count"] for layer in tally.values())
            shares["rank_share"] = rank_count / rank_count.sum("rank").where(rank_count.sum("rank") > 0)
            shares["rank_share"].attrs = {"long_name": "share of an expert's selections at each rank", "units": "1"}
        draws.append(found)
        per_layer.append(shares)
    values, out = xr.concat(draws, dim="layer"), xr.concat(per_layer, dim="layer", data_vars="minimal")
    out = out.merge(summarise(values, MEASURES, Bootstrap(confidence)))
    out.attrs = {"resamples": resamples, "seed": seed, "confidence": confidence}
    if "probability_sum" in first:
        out.attrs["probability"] = tallies.probability_name(first.attrs)
    if of_documents:
        long_name = f"share of selections beyond the experts' capacity, batches of {batch_tokens} tokens"
        dropped = values["dropped_share"].rename(draw_of_groups="draw")
        for name, each in (("dropped_share", dropped), ("mean_over_layers_dropped_share", dropped.mean("layer"))):
            shares = Jackknife(confidence).interval(each, (0, 1))
            out[name] = shares.assign_attrs(long_name=long_name, units="1")
    out["tokens"] = tokens.isel(draw=0, drop=True).astype(np.int64)
    out = out.merge(uncertainty.sample_sizes(dataset_tallies))
    return Measured(out.merge(_uniform(out["tokens"], experts, top_k, out.sizes["layer"], seed, confidence)), values)


def measures_of_draws(sums: xr.Dataset, tokens: xr.DataArray) -> xr.Dataset:
    """Every measure in every draw, (dataset, draw, layer), from the sums over documents that there are."""
    count, experts = sums["selected_count"], sums.sizes["expert"]
    values = load_measures(count)
    if "probability_sum" in sums:
        values["load_balancing_loss"] = experts * (count / tokens * sums["probability_sum"] / tokens).sum("expert")
    if "z_loss_sum" in sums:
        values["z_loss"] = sums["z_loss_sum"] / tokens
    return xr.Dataset(values)


def _shares(sums: xr.Dataset, tokens: xr.DataArray, confidence: float) -> xr.Dataset:
    """The share that each expert gets of the selections, and of what else there are sums of, with intervals."""
    count = sums["selected_count"]
    shares = {
        "slot_share": (count / count.sum("expert"), "share of all selections"),
        "selection_frequency": (count / tokens, "share of tokens that select the expert"),
    }
    if "first_count" in sums:
        shares["first_share"] = (sums["first_count"] / tokens, "share of all first choices")
    if "weight_sum" in sums:
        weight = sums["weight_sum"]
        shares["weight_share"] = (weight / weight.sum("expert"), "share of all routing weight")
    return xr.Dataset(
        {
            name: uncertainty.interval(share, confidence, (0, 1)).assign_attrs(long_name=long_name, units="1")
            for name, (share, long_name) in shares.items()
        }
    )


def dropped_share(batch_count: np.ndarray, batch_tokens: np.ndarray, top_k: int, factors: list[float]) -> np.ndarray:
    """Share of selections beyond the capacity of their expert, per batch: (batch, ..., factor).

    `batch_count` is (batch, ..., expert), `batch_tokens` (batch,). Each expert takes at most
    C = ceil(factor k T / E) of a batch's T tokens; sum_e max(0, c_e - C) / (k T) is dropped.
    """
    experts = batch_count.shape[-1]
    shape = (len(batch_tokens),) + (1,) * (batch_count.ndim - 1)
    slots = (top_k * batch_tokens).reshape(shape)
    capacities = [np.ceil(factor * slots / experts) for factor in factors]
    dropped = [np.maximum(batch_count - capacity, 0).sum(axis=-1) for capacity in capacities]
    return np.stack(dropped, axis=-1) / slots


def document_batches(document_tokens: np.ndarray, batch_tokens: int) -> np.ndarray:
    """Batch number of each document: consecutive whole documents until a batch holds `batch_tokens` tokens.

    The last batch, which may be short, is joined to the one before it.
    """
    batch, held, number = np.empty(len(document_tokens), dtype=np.int64), 0, 0
    for index, tokens in enumerate(document_tokens):
        batch[index] = number
        held += int(tokens)
        if held >= batch_tokens:
            number, held = number + 1, 0
    if held and number:
        batch[batch == number] = number - 1
    return batch


def _dropped(
    layer: dict[str, xr.Dataset], sizes: dict[str, np.ndarray], top_k: int, batch_tokens: int, factors: list[float]
) -> xr.DataArray:
    """Share of selections beyond the capacity, with all documents and without each group: (dataset, draw, ...).

    layer: the selected counts of every dataset; sizes: its documents' tokens. Batches are made anew of the documents
    that are left.
    """
    parts = np.zeros((2, 1 + len(layer), 1 + GROUPS, len(factors)))
    for index, (name, tally) in enumerate(layer.items(), start=1):
        count, group = tally["selected_count"].isel(layer=0).values, tally["document_group"].values
        for left_out in range(-1, GROUPS):
            kept = group != left_out
            starts = np.flatnonzero(np.diff(document_batches(sizes[name][kept], batch_tokens), prepend=-1))
            if len(starts):
                tokens = np.add.reduceat(sizes[name][kept], starts)
                loads = np.add.reduceat(count[kept], starts, axis=0, dtype=np.int64)
                shares = dropped_share(loads, tokens, top_k, factors)
                parts[0, index, 1 + left_out], parts[1, index, 1 + left_out] = tokens @ shares, tokens.sum()
    parts[:, 0] = parts[:, 1:].sum(axis=1)
    with np.errstate(invalid="ignore"):  # without the only group nothing is left
        values = parts[0] / parts[1]
    coords = {"dataset": [uncertainty.POOLED, *layer], "capacity_factor": list(factors)}
    found = xr.DataArray(values, coords, ("dataset", "draw_of_groups", "capacity_factor"))
    return found.expand_dims(layer=next(iter(layer.values()))["layer"])


def _uniform(tokens: xr.DataArray, experts: int, top_k: int, layers: int, seed: int, confidence: float) -> xr.Dataset:
    """Each load measure over random uniform routings of the same number of tokens, per dataset, with its interval."""
    tail, per_layer, out = (1 - confidence) / 2, [], {}
    for layer in range(layers):
        loads = [uncertainty.uniform_loads(int(n), experts, top_k, NULL_DRAWS, [seed, layer]) for n in tokens.values]
        per_layer.append(xr.Dataset(load_measures(xr.DataArray(loads, dims=("dataset", "draw", "expert")))))
    for name, values in xr.concat(per_layer, dim="layer").transpose("dataset", "draw", "layer").items():
        for mean, draws in (("", values.values.reshape(len(tokens), -1)), (MEAN, values.values.mean(axis=-1))):
            ends = np.quantile(draws, [tail, 1 - tail], axis=1)
            stacked = np.stack([draws.mean(axis=1), *ends], axis=-1)
            long_name = f"{MEASURES[name].title} under uniform routing, {NULL_DRAWS} draws"
            attrs = {"long_name": long_name, "units": MEASURES[name].units}
            out[f"{mean}null_{name}"] = (("dataset", "interval"), stacked, attrs)
    return xr.Dataset(out, coords={"interval": list(uncertainty.INTERVAL)})
