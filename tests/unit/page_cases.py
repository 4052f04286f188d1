"""What pages are made from, with the thresholds of the default study."""

import xarray as xr

from gatebook import chapters
from gatebook.chapters.base.page import Seen


def seen(chapter: str, metrics: xr.Dataset, untrained: xr.Dataset | None = None, **thresholds) -> Seen:
    """What the page of a chapter sees; the differences have intervals as wide as those of both models together."""
    fixed = chapters.declared(chapter).thresholds().model_dump() | thresholds
    return Seen(metrics, untrained, fixed, None if untrained is None else _apart(metrics, untrained))


def _apart(metrics: xr.Dataset, untrained: xr.Dataset) -> xr.Dataset:
    found = {}
    for name, values in metrics.items():
        if "interval" in values.dims and values.sizes == untrained[name].sizes:
            others = untrained[name].sel(interval=["estimate", "high", "low"])
            found[name] = values - others.assign_coords(interval=["estimate", "low", "high"])
    return xr.Dataset(found)
