"""Routing records on disk: one netCDF file per layer, written by one thread while the model computes."""

import queue
import threading
from dataclasses import dataclass
from pathlib import Path

import netCDF4
import numpy as np

from moeatlas import storage

TOKENS_PER_CHUNK = 4096
ROUNDED_DIGITS = 10
SCALARS = {
    "entropy": ("router entropy H = -sum p ln p over all experts", "nats"),
    "log_sum_exp": ("log-sum-exp of the router logits", "1"),
    "top_k_mass": ("probability mass of the selected experts", "1"),
    "logit_margin": ("largest minus second largest router logit", "1"),
    "boundary_margin": ("k-th minus (k+1)-th largest router logit", "1"),
}


@dataclass(frozen=True)
class Records:
    """What one layer's router did to consecutive tokens, as numpy arrays.

    router_logits float32 (token, expert): the module's raw output; selected_expert uint8 or uint16 (token, rank):
    the module's own choice, sorted by weight; routing_weight float32 (token, rank): what the module returned;
    scalars: float32 (token,) by name, see `SCALARS`.
    """

    router_logits: np.ndarray
    selected_expert: np.ndarray
    routing_weight: np.ndarray
    scalars: dict[str, np.ndarray]


def expert_dtype(experts: int) -> type:
    """The smallest unsigned integer type that holds every expert index."""
    return np.uint8 if experts <= 256 else np.uint16


class RecordWriter:
    """Writes `layer_{layer}.nc` files into a folder from a thread of its own, the only one that calls netCDF.

    Dimensions token, expert, rank. `router_logits(token, expert)` float32, exact or, if `rounded`, with 10 significant
    bits (netCDF's BitRound); `selected_expert(token, rank)`; `routing_weight(token, rank)` float32; and the scalars of
    `SCALARS`. At most one span of tokens per layer waits in memory.
    """

    def __init__(
        self, folder: Path, layers: list[int], *, tokens: int, experts: int, top_k: int, rounded: bool, attrs: dict
    ):
        """Create the files and start the thread; `attrs` are written into every file."""
        self._shape = {"token": tokens, "expert": experts, "rank": top_k}
        self._rounded = rounded
        self._files = {layer: self._create(folder / f"layer_{layer}.nc", layer, attrs) for layer in layers}
        self._queue: queue.Queue = queue.Queue(maxsize=len(layers))
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="record-writer", daemon=True)
        self._thread.start()

    def write(self, layer: int, first: int, records: Records) -> None:
        """Hand over the records of consecutive tokens from token `first` on; raises what the thread ran into."""
        self._raise()
        self._queue.put((layer, first, records))

    def __enter__(self):
        """Nothing to do: the thread already runs."""
        return self

    def __exit__(self, kind, *_):
        """Wait for the thread, close the files, and raise what it ran into."""
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(*item)
                except BaseException as error:  # handed to the main thread, which raises it
                    self._error = error
        try:
            for file in self._files.values():
                file.close()
        except BaseException as error:  # handed to the main thread, which raises it
            self._error = self._error or error

    def _write(self, layer: int, first: int, records: Records) -> None:
        file, span = self._files[layer], slice(first, first + len(records.router_logits))
        file["router_logits"][span] = records.router_logits
        file["selected_expert"][span] = records.selected_expert
        file["routing_weight"][span] = records.routing_weight
        for name, values in records.scalars.items():
            file[name][span] = values

    def _create(self, path: Path, layer: int, attrs: dict) -> netCDF4.Dataset:
        file = netCDF4.Dataset(path, "w", format="NETCDF4")
        for name, size in self._shape.items():
            file.createDimension(name, size)
        rounding = {"significant_digits": ROUNDED_DIGITS, "quantize_mode": "BitRound"} if self._rounded else {}
        expert = expert_dtype(self._shape["expert"])
        self._variable(file, "router_logits", np.float32, ("token", "expert"), "raw router logits", "1", **rounding)
        self._variable(
            file, "selected_expert", expert, ("token", "rank"), "selected experts, largest weight first", "1"
        )
        self._variable(file, "routing_weight", np.float32, ("token", "rank"), "routing weights of them", "1")
        for name, (long_name, units) in SCALARS.items():
            self._variable(file, name, np.float32, ("token",), long_name, units)
        file.setncatts(storage.provenance_attributes() | {"layer": np.int32(layer)} | attrs)
        return file

    def _variable(self, file, name, dtype, dims, long_name, units, **options) -> None:
        chunks = [min(TOKENS_PER_CHUNK, self._shape["token"]), *(self._shape[dim] for dim in dims[1:])]
        variable = file.createVariable(
            name, dtype, dims, zlib=True, complevel=1, shuffle=True, chunksizes=chunks, fill_value=False, **options
        )
        variable.setncatts({"long_name": long_name, "units": units})
