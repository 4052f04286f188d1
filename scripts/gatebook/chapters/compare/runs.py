"""Every run by itself, and how much runs differ that differ in their training seed alone.

Runs are alike if they are the same checkpoint of models that this workflow trained with the same settings, apart from
the seed. The standard deviation over them, with n - 1, is what another training run changes.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.compare.measure import COMPARED
from gatebook.chapters.held_out_loss import MEASURES as LOSS

SHOWN = ("coefficient_of_variation", "dead_experts", "domain_information")
"""Measures that are shown of every run, beside its held-out loss."""


def by_run(metrics: xr.Dataset, trainings: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The measures `SHOWN` and the held-out loss of every run, as `each_*`, and which runs are `alike`.

    Parameters
    ----------
    metrics
        The comparison of the first run with all others, see `measure`.
    trainings
        By name of the model, the record of its training (`demo.evaluation.dataset`), if the workflow trained it.

    Returns
    -------
    xr.Dataset
        Along `each`, the names of the runs, the first one first: the measures (each, interval) of all datasets
        together, mean over depths; the loss, nats per token of all held-out documents, NaN for a model from elsewhere;
        `each_experts` of a layer and `each_experts_per_token`; and `alike`, a number that those runs share which differ
        in their seed alone.
    """
    seconds = metrics["second"].values.astype(str).tolist()
    names = [metrics.attrs["first"], *seconds]
    out = xr.Dataset(coords={"each": names})
    for name in (*(f"mean_over_depths_{name}" for name in SHOWN), "experts", "experts_per_token"):
        values = metrics[name]
        if "dataset" in values.dims:
            values = values.sel(dataset="pooled", drop=True)
        parts = [values.sel(run="A", second=seconds[0], drop=True)]
        parts += [values.sel(run="B", second=second, drop=True) for second in seconds]
        out["each_" + name.removeprefix("mean_over_depths_")] = xr.concat(parts, dim="each")
    losses, settings = [], []
    for name in names:
        model, checkpoint = name.split("/")
        training = trainings.get(model)
        losses.append(np.nan if training is None else held_out_loss(training, checkpoint))
        settings.append(name if training is None else f"{checkpoint} {training.attrs['settings']}")
    out["each_held_out_loss"] = ("each", losses, {"long_name": LOSS["loss"].title, "units": LOSS["loss"].units})
    out["alike"] = ("each", pd.factorize(np.array(settings))[0], {"long_name": "Same settings but the seed"})
    return out


def held_out_loss(training: xr.Dataset, checkpoint: str) -> float:
    """Loss per predicted token of all held-out documents at a checkpoint, nats."""
    losses = training["loss_sum"].sel(checkpoint=checkpoint)
    return float(losses.sum() / training["predicted_tokens"].sum())


def estimates(metrics: xr.Dataset) -> pd.DataFrame:
    """A row for every run, its name the index: the measures `SHOWN` and the loss, without intervals."""
    measured = {name: metrics[f"each_{name}"].sel(interval="estimate").values for name in SHOWN}
    measured["held_out_loss"] = metrics["each_held_out_loss"].values
    return pd.DataFrame(measured, index=pd.Index(metrics["each"].values.astype(str), name="run"))


def spread(metrics: xr.Dataset) -> pd.DataFrame:
    """Standard deviation of the measures and the loss over the runs that are like a run; NaN where it is the only one.

    A row for every run, its name the index; the columns are those of `estimates`, with `_over_seeds`.
    """
    values = estimates(metrics)
    return values.groupby(metrics["alike"].values).transform("std").add_suffix("_over_seeds")


def titles() -> dict[str, tuple[str, str]]:
    """What the measures of every run are called, and their units ("" for plain numbers)."""
    measures = {name: COMPARED[name] for name in SHOWN} | {"held_out_loss": LOSS["loss"]}
    return {name: (each.title, "" if each.units == "1" else each.units) for name, each in measures.items()}
