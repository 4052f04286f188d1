"""Selection frequency: how evenly does each layer spread its tokens over the experts?

c_e is the number of tokens that select expert e among their k, T the number of tokens. Under uniform routing every
token picks k of E experts at random; a finite sample is then still not perfectly even, so the chapter states the value
that chance gives at the same number of tokens.
"""

import numpy as np
import xarray as xr

from moeatlas import statistics

MEASURES = {
    "coefficient_of_variation": ("Coefficient of variation of the load", "1", "CV = std(c) / mean(c), ddof 0"),
    "gini": ("Gini coefficient of the load", "1", "Σᵢ Σⱼ |cᵢ − cⱼ| / (2 E Σᵢ cᵢ)"),
    "normalised_slot_entropy": ("Slot entropy / log₂ E", "1", "−Σₑ sₑ log₂ sₑ / log₂ E, sₑ = cₑ / (k T)"),
    "slot_entropy": ("Slot entropy", "bits", "−Σₑ sₑ log₂ sₑ, sₑ = cₑ / (k T)"),
    "max_violation": ("Largest overload (MaxVio)", "1", "maxₑ cₑ E / (k T) − 1"),
    "dead_experts": ("Experts never selected", "experts", "number of e with cₑ = 0"),
    "load_balancing_loss": ("Load-balancing loss", "1", "E Σₑ fₑ Pₑ, fₑ = cₑ / T, Pₑ = E[pₑ]"),
    "z_loss": ("Router z-loss", "1", "E[(ln Σₑ exp zₑ)²]"),
}
"""Measure: (title, units, formula)."""
BOUNDS = {
    "gini": (0, 1),
    "normalised_slot_entropy": (0, 1),
    "coefficient_of_variation": (0, np.inf),
    "slot_entropy": (0, np.inf),
    "max_violation": (0, np.inf),
    "dead_experts": (0, np.inf),
}
SQUARED = {"coefficient_of_variation", "gini", "max_violation"}
"""Measures of spread: 0 for even loads, and raised by noise in proportion to its size, see `statistics.interval`."""
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
) -> xr.Dataset:
    """All measures of the chapter from the tallies of a study's datasets.

    Each of `MEASURES` is (dataset, layer, interval), and `mean_over_layers_*` (dataset, interval) its mean over layers.
    `slot_share`, `first_share`, `weight_share` (dataset, layer, expert, interval): share of the selections, of the
    first choices and of the routing weight that an expert gets; `selection_frequency` (dataset, layer, expert,
    interval) = c_e / T, which sums to k. `rank_share` (layer, expert, rank): at which rank an expert is selected,
    pooled. `dropped_share` (dataset, layer, capacity_factor, interval): see `dropped_share`; `mean_over_layers_*` has
    it without layer. `uniform_*` (dataset): the mean of the load measure under uniform routing at the same number of
    tokens.
    """
    first = next(iter(dataset_tallies.values()))
    experts, top_k = first.sizes["expert"], first.sizes["rank"]
    names = ["tokens", "selected_count", "first_count", "weight_sum", "probability_sum", "z_loss_sum"]
    draws = statistics.dataset_draws(dataset_tallies, names, resamples, seed)
    count, tokens = draws["selected_count"], draws["tokens"]
    values = load_measures(count)
    values["load_balancing_loss"] = experts * (count / tokens * draws["probability_sum"] / tokens).sum("expert")
    values["z_loss"] = draws["z_loss_sum"] / tokens
    out = xr.Dataset(attrs={"resamples": resamples, "seed": seed, "confidence": confidence})
    for name, (title, units, formula) in MEASURES.items():
        attributes = {"long_name": title, "units": units, "formula": formula}
        bounds = BOUNDS.get(name, (-np.inf, np.inf))
        squared = name in SQUARED
        out[name] = statistics.interval(values[name], confidence, bounds, squared).assign_attrs(attributes)
        averaged = statistics.interval(values[name].mean("layer"), confidence, bounds, squared)
        out[f"mean_over_layers_{name}"] = averaged.assign_attrs(
            attributes | {"long_name": f"{title}, mean over layers"}
        )
    shares = {
        "slot_share": (count / count.sum("expert"), "share of all selections"),
        "first_share": (draws["first_count"] / tokens, "share of all first choices"),
        "weight_share": (draws["weight_sum"] / draws["weight_sum"].sum("expert"), "share of all routing weight"),
        "selection_frequency": (count / tokens, "share of tokens that select the expert"),
    }
    for name, (share, long_name) in shares.items():
        out[name] = statistics.interval(share, confidence, (0, 1)).assign_attrs(long_name=long_name, units="1")
    rank_count = sum(tally["rank_count"] for tally in dataset_tallies.values())
    out["rank_share"] = rank_count / rank_count.sum("rank").where(rank_count.sum("rank") > 0)
    out["rank_share"].attrs = {"long_name": "share of an expert's selections at each rank", "units": "1"}
    dropped = _capacity(dataset_tallies, capacity_factors, batch_tokens, resamples, seed)
    for name, draws_of_it in (("dropped_share", dropped), ("mean_over_layers_dropped_share", dropped.mean("layer"))):
        out[name] = statistics.interval(draws_of_it, confidence, (0, 1)).assign_attrs(
            long_name=f"share of selections beyond the experts' capacity, batches of {batch_tokens} tokens", units="1"
        )
    out["tokens"] = tokens.isel(draw=0, drop=True).astype(np.int64)
    out["documents"] = statistics.document_counts(dataset_tallies)
    return out.merge(_uniform(out["tokens"], experts, top_k, seed))


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


def _capacity(dataset_tallies, factors, batch_tokens, resamples, seed) -> xr.DataArray:
    """Draws of the dropped share of every dataset and pooled, with batches instead of documents as resampled unit."""
    numerator = {}
    for name, tally in dataset_tallies.items():
        batch = document_batches(tally["tokens"].values, batch_tokens)
        starts = np.flatnonzero(np.diff(batch, prepend=-1))
        tokens = np.add.reduceat(tally["tokens"].values, starts)
        count = np.add.reduceat(tally["selected_count"].values.astype(np.int64), starts, axis=0)
        dropped = dropped_share(count, tokens, tally.sizes["rank"], factors)
        numerator[name] = xr.Dataset(
            {
                "dropped": (("document", "layer", "capacity_factor"), dropped * tokens[:, None, None]),
                "tokens": ("document", tokens),
            },
            coords={
                "layer": tally["layer"],
                "capacity_factor": list(factors),
                "document_id": ("document", np.array([f"{number:09d}" for number in range(len(tokens))])),
            },
        )
    draws = statistics.dataset_draws(numerator, ["dropped", "tokens"], resamples, seed)
    return draws["dropped"] / draws["tokens"]


def _uniform(tokens: xr.DataArray, experts: int, top_k: int, seed: int) -> xr.Dataset:
    """Mean of each load measure over random uniform routings of the same number of tokens, per dataset."""
    rows = []
    for number in tokens.values:
        loads = statistics.uniform_loads(int(number), experts, top_k, NULL_DRAWS, seed)
        found = load_measures(xr.DataArray(loads, dims=("draw", "expert")))
        rows.append({f"uniform_{name}": value.mean("draw").item() for name, value in found.items()})
    out = xr.Dataset({name: ("dataset", [row[name] for row in rows]) for name in rows[0]})
    for name, array in out.data_vars.items():
        measure_name = name.removeprefix("uniform_")
        array.attrs = {
            "long_name": f"{MEASURES[measure_name][0]} under uniform routing, {NULL_DRAWS} draws",
            "units": MEASURES[measure_name][1],
        }
    return out
