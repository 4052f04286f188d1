"""The sampled tokens of a study: their documents, what the routers received for them, and what they chose."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from torch import nn

from gatebook.files import netcdf, parts
from gatebook.inputs import clusters
from gatebook.inputs.documents import load_tokens
from gatebook.routing import models
from gatebook.routing.records import open_layer
from gatebook.study.tallies import study_identity


class Block(NamedTuple):
    """The Mixture-of-Experts block of a layer with what its router did to the sampled tokens.

    layer: its number; module: the block; states (sample, hidden) float32: what the router received; selected (sample,
    rank) int64: the experts that it chose.
    """

    layer: int
    module: nn.Module
    states: np.ndarray
    selected: np.ndarray


def read(records: list[str], tokens: list[str]) -> xr.Dataset:
    """The sampled tokens of all datasets, one dataset after another, from their record folders and token files.

    Over `sample`: `dataset` (text), `place` int64 (among the tokens of its dataset), `document` and `cluster` int64
    (numbered through all datasets), `group` int8 (see `inputs.clusters`), `token_id` int32. The coordinate `layer`
    holds the layers with router inputs; the attributes say which model and which tokens it is.
    """
    samples, sources, documents = [], {}, 0
    for folders, path in zip(parts.by_dataset(records), tokens, strict=True):
        with _open_states(folders) as states:
            places, layers, attrs = states["sampled_token"].values, states["layer"].values, states.attrs
        known = load_tokens(path)
        document = known["document_index"].values[places].astype(np.int64)
        sample = {
            "dataset": np.full(len(places), attrs["dataset"], dtype=object),
            "place": places.astype(np.int64),
            "document": document + documents,
            "cluster": clusters.sources(known["cluster"].values, known.attrs["dataset_sha256"])[document],
            "group": known["group"].values[document],
            "token_id": known["token_id"].values[places],
        }
        samples.append(xr.Dataset({name: ("sample", values) for name, values in sample.items()}, {"layer": layers}))
        sources[attrs["dataset"]] = xr.Dataset(attrs=attrs)
        documents += known.sizes["document"]
    whole = xr.concat(samples, dim="sample", join="exact", data_vars="minimal", coords="minimal", compat="equals")
    whole["cluster"] = ("sample", np.unique(whole["cluster"].values.astype(str), return_inverse=True)[1])
    return whole.assign_attrs(study_identity(sources))


def read_layer(records: list[str], layer: int) -> tuple[np.ndarray, np.ndarray]:
    """What one layer's router received for the sampled tokens and the experts that it chose, in the order of `read`.

    Router inputs (sample, hidden) float32, selected experts (sample, rank) int64.
    """
    states, selected = [], []
    for folders in parts.by_dataset(records):
        with _open_states(folders) as sample:
            states.append(sample["state"].sel(layer=layer).values)
            places = sample["sampled_token"].values
        with open_layer(folders, layer) as record:
            selected.append(record["selected_expert"].values[places].astype(np.int64))
    return np.concatenate(states), np.concatenate(selected)


def read_blocks(
    records: list[str], folder: str, layers: list[int], *, dtype: str, device: str, experts: str
) -> Iterator[Block]:
    """The blocks of layers with their sampled tokens, one after another: only one is in memory.

    Parameters
    ----------
    records
        The record folders of the study.
    folder
        That of the model.
    layers
        Numbers of layers.
    dtype, device, experts
        The model's settings, see `models.load_block`.

    Yields
    ------
    Block
    """
    place = models.choose_device(device)
    for layer in layers:
        states, selected = read_layer(records, layer)
        yield Block(
            layer, models.load_block(folder, layer, dtype=dtype, device=place, experts=experts), states, selected
        )


def _open_states(folders: list[Path]) -> AbstractContextManager[xr.Dataset]:
    return netcdf.open_joined([folder / "states.nc" for folder in folders], along="sample")
