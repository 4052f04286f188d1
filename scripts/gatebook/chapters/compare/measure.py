"""Compare: how does the routing of run B differ from that of run A?

A run is a checkpoint of a model. Runs are compared by relative depth, never by the numbers of their layers or experts:
layer i of L MoE layers has relative depth i / (L - 1), so that the first has 0 and the last 1; a single one has 1/2.
The depths of the comparison are those of the run with fewer studied layers, as far as the other run's layers reach on
both sides of them; between two layers the other run is interpolated linearly. B - A under equal routing is 0.

Clusters that both runs have read are drawn together (paired bootstrap): what makes a text hard for both cancels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.domain_specialization import measure as domain_specialization
from gatebook.chapters.router_decisiveness import measure as router_decisiveness
from gatebook.chapters.selection_frequency import measure as selection_frequency
from gatebook.measures import summary, uncertainty
from gatebook.problem import Problem
from gatebook.study import tallies

COMPARED = {
    "normalised_entropy": router_decisiveness.MEASURES["normalised_entropy"],
    "top_1_probability": router_decisiveness.MEASURES["top_1_probability"],
    "top_k_mass": router_decisiveness.MEASURES["top_k_mass"],
    "token_information": router_decisiveness.MEASURES["information"],
    "coefficient_of_variation": selection_frequency.MEASURES["coefficient_of_variation"],
    "normalised_slot_entropy": selection_frequency.MEASURES["normalised_slot_entropy"],
    "dead_experts": selection_frequency.MEASURES["dead_experts"],
    "domain_information": domain_specialization.MEASURES["information"],
    "divergence": domain_specialization.MEASURES["divergence"],
}
"""The measures of the other chapters that are compared."""
SUMS = list(dict.fromkeys(router_decisiveness.SUMS + selection_frequency.SUMS + domain_specialization.COUNTS))


@dataclass(frozen=True)
class Run:
    """A run: its name (model/checkpoint), its tallies by dataset, the numbers of all MoE layers of its model.

    untrained: whether it is the untrained checkpoint of its model.
    """

    name: str
    tallies: dict[str, xr.Dataset]
    moe_layers: list[int]
    untrained: bool = False

    @property
    def depth(self) -> np.ndarray:
        """Relative depth of every studied layer, increasing: (layer,)."""
        layers = next(iter(self.tallies.values()))["layer"].values.tolist()
        return relative_depth([self.moe_layers.index(layer) for layer in layers], len(self.moe_layers))


def relative_depth(index: list[int], layers: int) -> np.ndarray:
    """i / (L - 1) of the `index`-th of `layers` MoE layers: 0 for the first, 1 for the last; 1/2 for a single one."""
    return np.array(index) / (layers - 1) if layers > 1 else np.full(len(index), 0.5)


def common_depths(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The depths at which two runs are compared: those of the run with fewer, within the range of the other's."""
    few, many = sorted([first, second], key=len)
    return few[(few >= many[0]) & (few <= many[-1])]


def at_depths(values: xr.Dataset, depth: np.ndarray, wanted: np.ndarray) -> xr.Dataset:
    """Values by layer, whose depths are `depth`, at the depths `wanted`: linear between layers, exact at a layer."""
    shares = np.stack([np.interp(wanted, depth, one) for one in np.eye(len(depth))], axis=1)
    weight = xr.DataArray(shares, dims=("depth", "layer"), coords={"depth": wanted})
    return values.drop_vars("layer").map(lambda array: xr.dot(array, weight, dim="layer"))


def same_documents(first: xr.Dataset, second: xr.Dataset) -> bool:
    """Whether two tallies of a dataset are of the same rows of the same files, in whatever order."""
    if first.attrs["dataset_sha256"] != second.attrs["dataset_sha256"]:
        return False
    return np.array_equal(np.sort(first["row"].values), np.sort(second["row"].values))


def resample(
    first: Run, second: Run, resamples: int, seed: int
) -> tuple[dict[str, uncertainty.Resampling], dict[str, uncertainty.Resampling]]:
    """The draws of both runs' clusters: the same of those that they share, which are all if they read the same text."""
    runs = {"A": first, "B": second}
    both = {(run, name): tally for run, each in runs.items() for name, tally in each.tallies.items()}
    drawn = uncertainty.resample(both, resamples, seed)
    return tuple({name: drawn[run, name] for name in each.tallies} for run, each in runs.items())


def measure(first: Run, others: Sequence[Run], *, resamples: int, seed: int, confidence: float) -> xr.Dataset:
    """The measures `COMPARED` of two runs A and B, and B - A, at common depths.

    Parameters
    ----------
    first
        Run A.
    others
        Each is a run B.
    resamples, seed
        Of the bootstrap over clusters.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        The measures (second, run, dataset, depth, interval), where `second` names B and `run` is A or B; `difference_*`
        (second, dataset, depth, interval) is B - A; `mean_over_depths_*` has either without depth. Depths that are not
        common to A and a B are NaN. `paired` (second, dataset) bool: both runs have the same documents; `tokens`,
        `documents` and `clusters` (second, run, dataset); `experts` of a layer, `experts_per_token` and whether it is
        `untrained` (second, run).

    Raises
    ------
    Problem
        If two runs have no depth in common.
    """
    pairs = [_pair(first, other, resamples, seed, confidence) for other in others]
    out = xr.concat(pairs, dim="second", join="outer", combine_attrs="override")
    attrs = {"first": first.name, "resamples": resamples, "seed": seed, "confidence": confidence}
    return out.assign_coords(second=[other.name for other in others]).assign_attrs(attrs)


def pair(metrics: xr.Dataset, second: str) -> xr.Dataset:
    """The comparison of run A and one run B, named `second`, at the depths that both have."""
    return metrics.sel(second=second).dropna("depth", how="all", subset=list(COMPARED))


def _pair(first: Run, second: Run, resamples: int, seed: int, confidence: float) -> xr.Dataset:
    runs = {"A": first, "B": second}
    depths = common_depths(first.depth, second.depth)
    if not len(depths):
        raise Problem(
            f"compare: {first.name} and {second.name} have no layers at the same relative depth: study more layers of "
            "their models (models.NAME.layers)."
        )
    draws, sizes = [], []
    for run, resampling in zip(runs.values(), resample(first, second, resamples, seed), strict=True):
        tokens = uncertainty.dataset_draws(run.tallies, ["tokens"], resampling)["tokens"]
        draws.append(at_depths(_draws(run.tallies, tokens, resampling), run.depth, depths))
        sizes.append(uncertainty.sample_sizes(run.tallies).assign(tokens=tokens.isel(draw=0).astype(np.int64)))
    out = xr.concat(sizes, dim="run").assign_coords(run=list(runs), depth=depths)
    paired = [same_documents(tally, second.tallies[name]) for name, tally in first.tallies.items()]
    sizes = [next(iter(run.tallies.values())).sizes for run in runs.values()]
    out["experts"] = ("run", [size["expert"] for size in sizes], {"long_name": "Experts of a layer"})
    out["experts_per_token"] = ("run", [size["rank"] for size in sizes], {"long_name": "Experts of a token"})
    out["untrained"] = ("run", np.array([run.untrained for run in runs.values()], dtype=np.int8))
    out["paired"] = ("dataset", np.array([all(paired), *paired], dtype=np.int8))
    for name, measure in COMPARED.items():
        attributes = {"units": measure.units, "formula": measure.formula}
        for prefix, words, over in (("", "", ()), ("mean_over_depths_", ", mean over depths", "depth")):
            values = [draw[name].mean(over) for draw in draws]
            found = [uncertainty.interval(each, confidence, measure.bounds, measure.bias) for each in values]
            difference = uncertainty.difference_interval(*values, confidence, measure.bounds, measure.bias)
            title = f"{measure.title}{words}"
            out[prefix + name] = xr.concat(found, dim="run").assign_attrs(attributes, long_name=title)
            out[f"{prefix}difference_{name}"] = difference.assign_attrs(attributes, long_name=f"{title}, B - A")
    return out


def table(metrics: xr.Dataset, names: Iterable[str] = COMPARED) -> pd.DataFrame:
    """The measures `names` of one comparison (`pair`) as rows, each followed by its means over depths.

    Columns: measure, unit, run (A, B, B - A), dataset, depth, estimate, low, high. Means have the name that they have
    in the metrics, `mean_over_depths_*`, and an empty depth.
    """
    parts = []
    for prefix, name in ((prefix, name) for name in names for prefix in ("", "mean_over_depths_")):
        both, difference = (summary.interval_table(metrics[f"{prefix}{part}{name}"]) for part in ("", "difference_"))
        rows = pd.concat([both, difference.assign(run="B - A")])
        parts.append(rows.assign(measure=prefix + name, unit=metrics[name].attrs["units"]))
    return pd.concat(parts, ignore_index=True)[["measure", "unit", "run", "dataset", "depth", *uncertainty.INTERVAL]]


def whole_table(metrics: xr.Dataset) -> pd.DataFrame:
    """`table` of every comparison, with the columns first (A) and second (B)."""
    parts = [(str(second), table(pair(metrics, second))) for second in metrics["second"].values]
    return pd.concat(
        [rows.assign(first=metrics.attrs["first"], second=second) for second, rows in parts], ignore_index=True
    )


def _draws(
    dataset_tallies: dict[str, xr.Dataset], tokens: xr.DataArray, resampling: dict[str, uncertainty.Resampling]
) -> xr.Dataset:
    """The measures `COMPARED` of a run in every draw: (dataset, draw, layer)."""
    per_layer = []
    for tally in tallies.by_layer(dataset_tallies, SUMS):
        sums = uncertainty.dataset_draws(tally, SUMS, resampling)
        decisiveness = router_decisiveness.measures_of_draws(sums, tokens).rename(information="token_information")
        domains = domain_specialization.domain_measures(sums, tokens).rename(information="domain_information")
        found = decisiveness.merge(selection_frequency.measures_of_draws(sums, tokens)).merge(domains)
        per_layer.append(found[list(COMPARED)])
    return xr.concat(per_layer, dim="layer")
