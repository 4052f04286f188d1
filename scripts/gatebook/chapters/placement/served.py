"""What a server that spreads experts over devices reads of a study, and what a study knows of a model's traffic."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from gatebook.files import netcdf
from gatebook.routing.records import layer_files
from gatebook.study.tallies import routing_rule

STATES = "states.nc"


def expert_location(tallies: Mapping[str, xr.Dataset]) -> dict[str, list]:
    """`logical_count` (step, layer, expert): how many tokens select each expert, one dataset a step.

    It is the form that SGLang reads (`--init-expert-location FILE.json`), to place experts and copies of them by load.
    Layers are numbered as in the model; those that have no experts, or of which there are no records, have counts of 0.
    """
    first = next(iter(tallies.values()))
    layers = first["layer"].values
    known = [*layers.tolist(), *routing_rule(first.attrs).get("dense_layers", [])]
    counts = np.zeros((len(tallies), max(known) + 1, first.sizes["expert"]), np.int64)
    for step, tally in enumerate(tallies.values()):
        selected = tally["selected_count"].transpose("document", "layer", "expert")
        counts[step, layers] = selected.values.sum(axis=0, dtype=np.int64)
    return {"logical_count": counts.tolist()}


def state_bytes(records: str) -> float:
    """Bytes of a token's hidden state between two devices, by a folder of records.

    It has as many numbers as the sampled router inputs, each of the type that the model was run in. NaN where no
    inputs were sampled, or the type is not known.
    """
    states = Path(records) / STATES
    with netcdf.open_lazily(next(iter(layer_files(records).values()))) as record:
        bits = re.search(r"\d+", json.loads(record.attrs.get("computation", "{}")).get("dtype", ""))
    if bits is None or not states.exists():
        return np.nan
    with netcdf.open_lazily(states) as sampled:
        return sampled.sizes["hidden"] * int(bits.group()) / 8
