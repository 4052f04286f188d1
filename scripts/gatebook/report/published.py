"""Published values of a model, and how a study's own compare with them."""

from collections.abc import Collection

import numpy as np
import xarray as xr


def beside(metrics: xr.Dataset, chapter: str, reference: dict) -> dict | None:
    """A chapter's metrics beside the published values of the same model; None if nothing is published for the chapter.

    `reference` is the content of a file in config/reference/, whose entries are of several layers, or of the mean over
    layers at several checkpoints. Returns its `source`, `source_url` and `note`, `rows` and `absent`. A row is {name,
    dataset, layer, published, estimate, low, high, difference, covered}, shares as numbers from 0 to 1; `covered` says
    whether the interval holds the published value, None without an interval. `absent` names what the study cannot be
    compared with, because it has no such measure, dataset, layer or checkpoint.
    """
    if metrics.attrs.get("model_id") != reference["model_id"]:
        return None
    rows, absent = [], []
    for entry in (entry for entry in reference["values"] if entry["chapter"] == chapter):
        where = entry["where"]
        if entry["measure"] not in metrics:
            absent.append(f"{entry['name']}, {where['dataset']}")
            continue
        values = metrics[entry["measure"]]
        if any(label not in values[dim].values for dim, label in where.items()):
            absent.append(f"{entry['name']}, {where['dataset']}")
            continue
        values = values.sel(where)
        dim = "layer" if "layers" in entry else "checkpoint"
        for place, percent in zip(entry[f"{dim}s"], entry["percent"], strict=True):
            if place not in values[dim].values:
                absent.append(f"{entry['name']}, {where['dataset']}, {dim} {place}")
                continue
            estimate, low, high = values.sel({dim: place}).values.tolist()
            published = percent / 100
            rows.append(
                {
                    "name": entry["name"],
                    "dataset": where["dataset"],
                    "layer": place if dim == "layer" else f"all, {place}",
                    "published": published,
                    "estimate": estimate,
                    "low": low,
                    "high": high,
                    "difference": estimate - published,
                    "covered": None if np.isnan(low) else low <= published <= high,
                }
            )
    if not rows and not absent:
        return None
    return {key: reference[key] for key in ("source", "source_url", "note")} | {"rows": rows, "absent": absent}


def unmeasured(reference: dict, chapters: Collection[str] = ()) -> dict:
    """What is published of a model but measured by no chapter: source, note and `rows` {name, at, published}.

    `published` is a share from 0 to 1, `at` says where it was measured. `chapters` are those of the report: it may lack
    the one that measures what is published of training.
    """
    of_training = [each for each in reference["values"] if "at" in each and each["chapter"] not in chapters]
    rows = [
        {"name": entry["name"], "at": at, "published": percent / 100}
        for entry in (*reference["unmeasured"], *of_training)
        for at, percent in zip(entry["at"], entry["percent"], strict=True)
    ]
    return {key: reference[key] for key in ("source", "source_url", "note")} | {"rows": rows}
