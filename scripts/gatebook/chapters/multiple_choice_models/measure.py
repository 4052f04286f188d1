"""What the chapter multiple choice found of several runs, side by side."""

from collections.abc import Mapping

import xarray as xr

from gatebook.chapters.multiple_choice_models import MEASURES
from gatebook.measures.summary import MEAN
from gatebook.measures.uncertainty import POOLED

SIZES = ("documents", "clusters", "tokens", "close_items")


def measure(runs: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The metrics of all subjects of several runs, along `each`.

    Parameters
    ----------
    runs
        The metrics of the chapter multiple choice by run, model/checkpoint, in order.

    Returns
    -------
    xarray.Dataset
        `MEASURES`, their means over layers, and the numbers of items, with `each` before their dimensions and "pooled"
        as the only dataset; layers and ranks are those of any run, NaN where a model has them not. Attributes:
        `confidence`.
    """
    names = [f"{mean}{name}" for name in MEASURES for mean in ("", MEAN)] + list(SIZES)
    parts = [run[[name for name in names if name in run]].sel(dataset=[POOLED]) for run in runs.values()]
    first = next(iter(runs.values()))
    options = {"join": "outer", "combine_attrs": "drop_conflicts", "data_vars": "all", "coords": "minimal"}
    joined = xr.concat([part.drop_attrs(deep=False) for part in parts], "each", compat="override", **options)
    attrs = {"confidence": first.attrs["confidence"]}
    return joined.assign_coords(each=list(runs)).assign_attrs(attrs)
