"""Domains: an entry of the catalogue with `by` and `values` stands for a dataset of each value of a column."""

import re
from collections.abc import Iterator, Mapping

from gatebook.problem import Problem


def dataset_name(name: str, value: str) -> str:
    """The name of a domain: that of the entry, _, and the value, with _ for each run of what names may not have."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", value).strip("_")
    if not slug:
        raise Problem(
            f"config: datasets.{name}.values: {value!r} has no letter (a to z) or digit to name a dataset by: write it "
            "as a dataset of its own, with `where`."
        )
    return f"{name}_{slug}"


def expanded(catalogue: Mapping[str, dict]) -> dict[str, dict[str, dict]]:
    """The datasets by name that each entry of the catalogue `datasets` stands for; a `Problem` for two of one name."""
    found: dict[str, dict[str, dict]] = {}
    known: dict[str, str] = {}
    for name, entry in catalogue.items():
        found[name] = {}
        for key, dataset, settings in _datasets(name, entry):
            if dataset in known:
                raise Problem(
                    f"config: {key} is called {dataset}, as {known[dataset]} is: rename one, or write a value as a "
                    "dataset of its own, with `where`."
                )
            known[dataset] = key
            found[name][dataset] = settings
    return found


def _datasets(name: str, entry: dict) -> Iterator[tuple[str, str, dict]]:
    """Of each dataset that an entry stands for the key in the config, the name, and the settings."""
    key = f"datasets.{name}"
    if not entry.keys() & {"by", "values"}:
        yield key, name, entry
        return
    for needed, other in (("by", "values"), ("values", "by")):
        if needed not in entry:
            raise Problem(
                f"config: {key}: `{other}` needs `{needed}`: add it; `make values` prints the values of a column."
            )
    by, conditions = entry["by"], entry.get("where", {})
    if by in conditions:
        raise Problem(f"config: {key}.where: {by!r} is the column of `by`, which `values` says: remove it.")
    shared = {part: value for part, value in entry.items() if part not in ("by", "values")}
    for value in map(str, entry["values"]):
        yield f"{key} of {value!r}", dataset_name(name, value), shared | {"where": conditions | {by: value}}
