"""Published counts: how often each expert was selected in each domain, without the tokens.

A table has one row per `domain`, `layer` and `expert`: `selected_count`, the domain's tokens that select the expert
among their k; `tokens`, how many tokens the domain has; and, if it is known, `first_count`, the tokens whose first
choice is the expert. What is known for neither tokens nor documents, such as weights, is absent from all that follows.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.files import netcdf
from gatebook.problem import Problem

PLACE = ["domain", "layer", "expert"]
COUNTS = ["selected_count", "tokens"]
FIRST = "first_count"


def read(key: str, files: list[str]) -> pd.DataFrame:
    """The rows of CSV files (comma, header) or netCDF files (dimensions domain, layer, expert), one after another.

    `key` is the config key of the files, for the `Problem` that says which file has no such columns.
    """
    tables = []
    for file in files:
        table = _read_file(key, file)
        if missing := [name for name in [*PLACE, *COUNTS] if name not in table]:
            raise Problem(
                f"{key}: {file} has no column {missing[0]!r}, but {', '.join(map(str, table))}: add it or rename one."
            )
        tables.append(table.astype({"domain": str}))
    with_first = [FIRST in table for table in tables]
    if any(with_first) and not all(with_first):
        raise Problem(
            f"{key}: {files[with_first.index(False)]} has no column {FIRST!r}: add it, or remove it from all."
        )
    return pd.concat(tables, ignore_index=True)


def _read_file(key: str, file: str) -> pd.DataFrame:
    ending = Path(file).suffix.lower()
    if ending == ".nc":
        with netcdf.open_lazily(file, remedy=f"correct {key}, or get the file again") as counts:
            return counts.to_dataframe().reset_index()
    if ending != ".csv":
        raise Problem(f"{key}: {file} has the ending {ending!r}: use .csv or .nc.")
    try:
        return pd.read_csv(file, dtype={"domain": str}, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise Problem(f"{key}: {file} cannot be read as CSV ({str(error).splitlines()[0]}): correct it.") from error


def check(key: str, table: pd.DataFrame, experts: int, top_k: int) -> xr.Dataset:
    """The table as counts (domain, layer, expert) and `tokens` (domain), int64.

    A `Problem` naming the config key `key` says which row is wrong: a number that is no count, a row that is there
    twice or not at all, or counts that tokens with `top_k` of `experts` experts each cannot have.
    """
    names = [name for name in [*COUNTS, FIRST] if name in table]
    table = table[[*PLACE, *names]].copy()
    for name in ["layer", "expert", *names]:
        number, least = pd.to_numeric(table[name], errors="coerce"), 1 if name == "tokens" else 0
        for _, row in table[~((number >= least) & (number % 1 == 0))].iterrows():
            raise Problem(
                f"{key}: {_where(row)}: {name} is {str(row[name])!r}: write a whole number of at least {least}."
            )
        table[name] = number.astype(np.int64)
    for _, row in table[table["expert"] >= experts].iterrows():
        raise Problem(f"{key}: {_where(row)}: experts_per_layer is {experts}, counted from 0: correct one of them.")
    for _, row in table[table.duplicated(PLACE)].iterrows():
        raise Problem(f"{key}: {_where(row)} is there twice: remove one row.")
    every = pd.MultiIndex.from_product([table["domain"].unique(), table["layer"].unique(), range(experts)], names=PLACE)
    for row in every.difference(pd.MultiIndex.from_frame(table[PLACE])):
        missing = _where(dict(zip(PLACE, row, strict=True)))
        raise Problem(f"{key}: {missing} is missing: add it, with the count 0 if the expert was never selected.")
    counts = table.set_index(PLACE).to_xarray().sortby(PLACE)
    tokens = counts["tokens"].isel(layer=0, expert=0, drop=True)
    _refuse(key, counts["tokens"] != tokens, "tokens is not that of the domain's other rows")
    _refuse(key, counts["selected_count"] > tokens, "selected_count is more than tokens")
    text = f"selected_count does not add up to tokens x experts_per_token ({top_k})"
    _refuse(key, counts["selected_count"].sum("expert") != top_k * tokens, text)
    if FIRST in counts:
        _refuse(key, counts[FIRST] > counts["selected_count"], f"{FIRST} is more than selected_count")
        _refuse(key, counts[FIRST].sum("expert") != tokens, f"{FIRST} does not add up to tokens")
    return counts.assign(tokens=tokens)


def _refuse(key: str, wrong: xr.DataArray, text: str) -> None:
    """A `Problem` for the first place that is `wrong`."""
    found = np.argwhere(wrong.values)
    if len(found):
        row = {dim: wrong[dim].values[index] for dim, index in zip(wrong.dims, found[0], strict=True)}
        raise Problem(f"{key}: {_where(row)}: {text}: correct the counts or the number.")


def _where(row: dict | pd.Series) -> str:
    return ", ".join(f"{name} {row[name]}" for name in PLACE if name in row)


def tally(counts: xr.Dataset, domain: str, top_k: int, design_effect: float) -> xr.Dataset:
    """The tally of one domain of checked counts, as `tallies` describes it for counts without documents.

    One entry along `document`, which has no identifier, holds all documents, however many there are. `design_effect`,
    an attribute, is how alike their tokens are taken to be (see `measures.token_draws`).
    """
    chosen = counts.sel(domain=[domain]).rename(domain="document").drop_vars("document")
    made = chosen.transpose("document", "layer", "expert").assign_coords(rank=np.arange(top_k))
    made.attrs = {"design_effect": float(design_effect)}
    for name in made.data_vars:
        made[name].attrs = {"long_name": name.replace("_", " "), "units": "tokens"}
    return made
