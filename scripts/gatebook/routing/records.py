"""Routing records on disk: one netCDF file per layer, compressed and written by threads while the model computes."""

import math
import queue
import threading
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import xarray as xr

from gatebook.files.netcdf import open_joined
from gatebook.files.origin import provenance_attributes
from gatebook.routing import bins
from gatebook.routing.rule import SCALARS, RoutingRule

TOKENS_PER_CHUNK, BYTES_PER_CHUNK_OF_STATES = 4096, 1 << 20
BITS = {"rounded": 10, "compact": 7}
"""Bits after the leading one that router logits keep in rounded records, and all floats per token in compact ones."""
BITS_OF = {"float32": 23, "float16": 10, "bfloat16": 7}
"""Bits after the leading one of the floats that models compute with."""
CONTENTS = ("exact", "rounded", "compact")
PER_TOKEN = {
    "router_logits": (("token", "expert"), "raw router logits", "1"),
    "selected_expert": (("token", "rank"), "selected experts, largest weight first", "1"),
    "routing_weight": (("token", "rank"), "routing weights of the selected experts", "1"),
} | {name: (("token",), long_name, units) for name, (long_name, units) in SCALARS.items()}
TOTALS = {
    "probability_sum": (np.float32, ("window", "expert"), "sum of p over the tokens of each window", "1"),
    "expert_logit_histogram": (np.int64, ("expert", "logit_bin"), "router logits by bin (bins.py)", "tokens"),
    "expert_probability_histogram": (np.int64, ("expert", "bin"), "log10 p by bin (bins.py)", "tokens"),
}
"""What compact records keep of the router logits: dtype, dimensions, long name, units."""
IN_TRACES = {
    "ids": ["selected_expert"],
    "order": ["selected_expert"],
    "weights": ["selected_expert", "routing_weight"],
}
"""Contents of records of traces without logits: the variables that they hold; of "ids", experts are in no order."""


@dataclass(frozen=True)
class Records:
    """What the routers of all layers did to some tokens, as numpy arrays by the names of `PER_TOKEN` and `TOTALS`.

    `tokens` (row,) and `windows` (window,) are their places in the dataset, in order; the windows are whole. The first
    axis of an array is the layer. Full records hold `router_logits`, the module's raw output, and `selected_expert`
    uint8 or uint16, its own choice sorted by weight; weights and scalars follow from them (`following.complete`).
    Compact records hold `selected_expert`, `routing_weight`, the scalars that do not follow from the weights, and
    totals. Floats are float32, or what `float32` makes so. `complete` says that no token before the last one here is to
    come.
    """

    tokens: np.ndarray
    windows: np.ndarray
    per_token: dict[str, np.ndarray]
    totals: dict[str, np.ndarray]
    complete: bool = True


def contents_of(rule: RoutingRule, contents: str) -> list[str]:
    """The variables of `PER_TOKEN` that records of these contents hold."""
    if contents in IN_TRACES:
        return IN_TRACES[contents]
    if contents != "compact":
        return ["router_logits", "selected_expert"]
    return ["selected_expert", "routing_weight", *(name for name in SCALARS if name not in rule.in_the_weights)]


def largest_bytes(rule: RoutingRule, contents: str, dtype: str, tokens: int, layers: int) -> int:
    """An upper estimate of the disk that records take: a float costs its sign, exponent and the bits that it keeps.

    Parameters
    ----------
    rule
        Of the model.
    contents
        One of `CONTENTS`.
    dtype
        Of the model, "float32", "bfloat16" or "float16", which limits what its logits can hold.
    tokens, layers
        How many.

    Returns
    -------
    int
        Bytes.
    """
    width = {"expert": rule.experts, "rank": rule.top_k}
    float_bytes = (9 + BITS.get(contents, BITS_OF[dtype])) / 8
    expert_bytes = np.dtype(expert_dtype(rule.experts)).itemsize
    per_token = sum(
        math.prod(width.get(dim, 1) for dim in PER_TOKEN[name][0])
        * (expert_bytes if name == "selected_expert" else float_bytes)
        for name in contents_of(rule, contents)
    )
    return int(per_token * tokens * layers)


def expert_dtype(experts: int) -> type:
    """The smallest unsigned integer type that holds every expert index."""
    return np.uint8 if experts <= 256 else np.uint16


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """float32 values with their significands rounded to `bits` bits after the leading one, to nearest, ties to even.

    This is netCDF's BitRound; the bits that become zero compress away.
    """
    drop = 23 - bits
    pattern = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    nearest = pattern + (((pattern >> drop) & 1) + ((1 << (drop - 1)) - 1)).astype(np.uint32)
    return np.where(np.isfinite(values), (nearest >> drop << drop).view(np.float32), values)


def float32(values: np.ndarray) -> np.ndarray:
    """Values of float32, float16 or bfloat16, of which numpy has the bits only (uint16), as float32."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def packed(values: np.ndarray, rows: int) -> bytes:
    """A chunk of `rows` rows as HDF5 stores it: filled up with zeros, bytes shuffled, deflated.

    zlib's run-length strategy is twice as fast as its default on shuffled floats and 7 % smaller; any reader inflates
    it.
    """
    whole = values
    if len(values) < rows:
        whole = np.zeros((rows, *values.shape[1:]), dtype=values.dtype)
        whole[: len(values)] = values
    shuffled = whole.view(np.uint8).reshape(-1, values.dtype.itemsize).T.tobytes()
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return deflate.compress(shuffled) + deflate.flush()


@dataclass(frozen=True)
class Variable:
    """A variable of a layer's file: dtype, dimensions, long name, units, and the bits that its floats keep."""

    dtype: type
    dims: tuple[str, ...]
    long_name: str
    units: str
    bits: int | None = None


class LayerWriter:
    """Writes `layer_{layer}.nc` files into a folder, chunk by chunk along one dimension, while the model computes.

    Rows may come in any order between two `complete` moments. One thread owns the files and places the rows; `threads`
    threads round, compress and tally the chunks whose rows have all come. The bytes do not depend on their number.
    """

    def __init__(
        self,
        folder: Path,
        layers: list[int],
        variables: dict[str, Variable],
        sizes: dict[str, int],
        *,
        along: str,
        rows: int,
        attrs: dict,
        threads: int = 1,
        tallies: dict | None = None,
        constants: dict[int, dict[str, tuple[Variable, np.ndarray]]] | None = None,
    ):
        """Create the files and start the threads.

        Parameters
        ----------
        folder
            Where the files go.
        layers
            Numbers of layers.
        variables
            Of every file; those with the dimension `along` are written chunk by chunk.
        sizes
            Of their dimensions.
        along
            The dimension of the rows.
        rows
            Of a chunk, at most.
        attrs
            Of every file.
        threads
            That compress.
        tallies
            By layer, what is given every chunk's values as they are stored, in order, by `add({name: values})`.
        constants
            By layer, further variables with their values.
        """
        self._variables, self._sizes, self._along = variables, sizes, along
        self._count, self._rows = sizes[along], min(rows, sizes[along])
        self._names = [name for name, variable in variables.items() if along in variable.dims]
        self._layers, self._tallies = layers, tallies or {}
        self._files = {}
        for layer in layers:
            path = folder / f"layer_{layer}.nc"
            self._create(path, {"layer": np.int32(layer)} | attrs, (constants or {}).get(layer, {}))
            self._files[layer] = h5py.File(path, "r+")
        self._open: dict[int, dict[str, np.ndarray]] = {}
        self._missing: dict[int, int] = {}
        self._next = 0
        self._packing: dict[tuple[int, int], Future] = {}
        self._last: dict[int, Future] = {}
        self._pending: deque = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="record-packer")
        self._queue: queue.Queue = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="record-writer", daemon=True)
        self._thread.start()

    def write(self, records: Callable[[], Records]) -> None:
        """Hand over what gives the next records: the writing thread calls it, and waits for the device there.

        Raises what that thread ran into before.
        """
        self._raise()
        self._queue.put(records)

    def __enter__(self):
        """Nothing to do: the threads already run."""
        return self

    def __exit__(self, kind, *_):
        """Write what waits, close the files, and raise what the thread ran into."""
        self._queue.put(None if kind is None else _Abandoned)
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (given := self._queue.get()) not in (None, _Abandoned):
            if self._error is None:
                self._attempt(lambda given=given: self._keep(given()))
        if given is None and self._error is None:
            self._attempt(self._finish)
        for file in self._files.values():
            self._attempt(file.close)

    def _attempt(self, step: Callable[[], object]) -> None:
        """Run a step; the first error is kept for the main thread, which raises it."""
        try:
            step()
        except BaseException as error:
            self._error = self._error or error

    def _keep(self, records: Records) -> None:
        """Place the rows in their chunks, and have those compressed that are whole."""
        chunks, first = np.unique(records.tokens // self._rows, return_index=True)
        for chunk, start, stop in zip(chunks.tolist(), first, np.append(first, len(records.tokens))[1:], strict=True):
            size = min(self._rows, self._count - chunk * self._rows)
            if chunk not in self._missing:
                self._missing[chunk] = size
                self._open[chunk] = {
                    name: np.empty((len(values), size, *values.shape[2:]), dtype=values.dtype)
                    for name, values in records.per_token.items()
                }
            places = records.tokens[start:stop] - chunk * self._rows
            if places[-1] - places[0] == len(places) - 1:
                places = slice(places[0], places[-1] + 1)
            for name, values in records.per_token.items():
                self._open[chunk][name][:, places] = values[:, start:stop]
            self._missing[chunk] -= int(stop - start)
        while self._missing.get(self._next) == 0:
            self._submit(self._next)
            self._next += 1
        self._store(wait=False)
        if records.complete:
            self._complete()

    def _submit(self, chunk: int) -> None:
        del self._missing[chunk]
        values = self._open.pop(chunk)
        for index, layer in enumerate(self._layers):
            part = {name: array[index] for name, array in values.items()}
            packing = self._pool.submit(self._pack, layer, part, self._last.get(layer))
            self._packing[layer, chunk] = self._last[layer] = packing

    def _pack(self, layer: int, chunk: dict[str, np.ndarray], before: Future | None) -> dict[str, bytes]:
        """A chunk's bytes by name, once its values are tallied, after those of the chunk before."""
        stored = {}
        for name, values in chunk.items():
            variable = self._variables[name]
            stored[name] = float32(values) if variable.dtype is np.float32 else values
            if variable.bits:
                stored[name] = rounded(stored[name], variable.bits)
        ready = {name: packed(values, self._rows) for name, values in stored.items()}
        if layer in self._tallies:
            if before is not None:
                before.result()
            self._tallies[layer].add(stored)
        return ready

    def _complete(self) -> None:
        """Write what was handed over before the last complete moment; then what has come since has its turn.

        So at most what lies between three such moments is in memory. In a file, the chunks of a variable between two of
        them follow one another, and a last chunk that is not full comes at the end.
        """
        self._store(wait=True)
        chunks = sorted({chunk for _, chunk in self._packing})
        full = [chunk for chunk in chunks if (chunk + 1) * self._rows <= self._count]
        for part in (full, chunks[len(full) :]):
            for layer in self._layers:
                for name in self._names:
                    self._pending.extend((layer, name, chunk, self._packing[layer, chunk]) for chunk in part)
        self._packing = {}

    def _store(self, wait: bool) -> None:
        """Write the chunks whose turn it is; `wait` for those that are not packed yet."""
        while self._pending and (wait or self._pending[0][-1].done()):
            layer, name, chunk, packing = self._pending.popleft()
            place = (chunk * self._rows,) + (0,) * (len(self._variables[name].dims) - 1)
            self._files[layer][name].id.write_direct_chunk(place, packing.result()[name])

    def _finish(self) -> None:
        self._complete()
        self._store(wait=True)
        written = min(self._next * self._rows, self._count)
        if written != self._count or self._missing:
            sizes = {chunk: min(self._rows, self._count - chunk * self._rows) for chunk in self._missing}
            waiting = sum(sizes[chunk] - missing for chunk, missing in self._missing.items())
            raise RuntimeError(f"{written + waiting} {self._along}s were recorded instead of {self._count}")

    def _create(self, path: Path, attrs: dict, constants: dict[str, tuple[Variable, np.ndarray]]) -> None:
        with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
            for name in sorted({dim for variable in self._variables.values() for dim in variable.dims}):
                file.createDimension(name, self._sizes[name])
            for name, variable in self._variables.items():
                self._variable(file, name, variable)
            for name, (variable, values) in constants.items():
                self._variable(file, name, variable)
                file[name][...] = values
            file.setncatts(provenance_attributes() | attrs)

    def _variable(self, file: netCDF4.Dataset, name: str, variable: Variable) -> None:
        rows = {self._along: self._rows, "window": min(TOKENS_PER_CHUNK, self._sizes.get("window", 1))}
        created = file.createVariable(
            name,
            variable.dtype,
            variable.dims,
            zlib=True,
            complevel=1,
            shuffle=True,
            chunksizes=[rows.get(dim, self._sizes[dim]) for dim in variable.dims],
            fill_value=False,
        )
        created.setncatts({"long_name": variable.long_name, "units": variable.units})
        if variable.bits:
            created.setncattr("_QuantizeBitRoundNumberOfSignificantBits", np.int32(variable.bits))


class RecordWriter(LayerWriter):
    """Writes the records of a part, `layer_{layer}.nc`, into a folder while the model computes.

    Dimensions token, expert, rank, and window in compact records. `contents` says what is kept: "exact" the router
    logits as they are, "rounded" the logits with 10 bits after the leading one, "compact" no logits but `TOTALS`, and
    weights and scalars with 7 bits after the leading one, as bfloat16 has; of traces, those of `IN_TRACES`.
    """

    def __init__(
        self,
        folder: Path,
        rule: RoutingRule,
        layers: list[int],
        *,
        tokens: int,
        windows: int,
        contents: str,
        attrs: dict,
        bias: dict[int, np.ndarray] | None = None,
        threads: int = 1,
        tallies: dict | None = None,
    ):
        """Create the files for so many tokens and windows and start the threads.

        `attrs` are written into every file; `bias` is each layer's selection bias, if the routers have one. `tallies`
        are those of `LayerWriter`.
        """
        sizes = {"token": tokens, "window": windows, "expert": rule.experts, "rank": rule.top_k}
        sizes |= {"logit_bin": len(bins.LOGIT_EDGES) - 1, "bin": len(bins.PROBABILITY_EDGES) - 1}
        variables = {}
        for name in contents_of(rule, contents):
            whole = name == "selected_expert" or (contents != "compact" and name != "router_logits")
            dtype = expert_dtype(rule.experts) if name == "selected_expert" else np.float32
            dims, long_name, units = PER_TOKEN[name]
            long_name = "selected experts, in the order of their numbers" if contents == "ids" else long_name
            variables[name] = Variable(dtype, dims, long_name, units, bits=None if whole else BITS.get(contents))
        self.totals: dict[str, np.ndarray] = {}
        if contents == "compact":
            for name, meaning in TOTALS.items():
                variables[name] = Variable(*meaning)
                shape = (len(layers), *(sizes[dim] for dim in variables[name].dims))
                self.totals[name] = np.zeros(shape, dtype=variables[name].dtype)
        meaning = Variable(np.float32, ("expert",), "bias added to scores to select", "1")
        super().__init__(
            folder,
            layers,
            variables,
            sizes,
            along="token",
            rows=TOKENS_PER_CHUNK,
            attrs={"contents": contents} | attrs,
            threads=threads,
            tallies=tallies,
            constants={layer: {"selection_bias": (meaning, values)} for layer, values in (bias or {}).items()},
        )

    def _keep(self, records: Records) -> None:
        super()._keep(records)
        for name, values in records.totals.items():
            if name == "probability_sum":
                self.totals[name][:, records.windows] = values
            else:
                self.totals[name] += values

    def _finish(self) -> None:
        super()._finish()
        for index, layer in enumerate(self._layers):
            for name, values in sorted(self.totals.items()):
                self._files[layer][name][...] = values[index]


STATES = {
    "router_input": "what the router receives",
    "block_output": "what the Mixture-of-Experts block returns, before it is added to the residual stream",
}
BITS_OF_STATES = 7


@dataclass(frozen=True)
class States:
    """Which hidden states are kept: some of `STATES`, at some layers, for tokens in order (sample,)."""

    what: list[str]
    layers: list[int]
    tokens: np.ndarray

    def largest_bytes(self, hidden: int) -> int:
        """An upper estimate of the disk that they take, at `hidden` values each: two bytes a value, as in bfloat16."""
        return 2 * len(self.what) * len(self.layers) * len(self.tokens) * hidden

    def writer(self, folder: Path, hidden: int, first_token: int, attrs: dict, threads: int) -> LayerWriter:
        """What writes them: `layer_{layer}.nc`, each of `what` (sample, hidden), and `sampled_token` (sample,).

        They are float32 rounded to the bits of bfloat16, which any reader of netCDF reads, and whose other two bytes
        compress away.

        Parameters
        ----------
        folder
            Where the files go.
        hidden
            Values of a state.
        first_token
            Place of the first token here in its dataset, from whose beginning `sampled_token` counts.
        attrs
            Of every file.
        threads
            That compress.

        Returns
        -------
        LayerWriter
            Already at work.
        """
        place = Variable(np.int64, ("sample",), "index of the token", "1")
        return LayerWriter(
            folder,
            self.layers,
            {name: Variable(np.float32, ("sample", "hidden"), STATES[name], "1", BITS_OF_STATES) for name in self.what},
            {"sample": len(self.tokens), "hidden": hidden},
            along="sample",
            rows=max(1, BYTES_PER_CHUNK_OF_STATES // (4 * hidden)),
            attrs=attrs,
            threads=threads,
            constants={layer: {"sampled_token": (place, self.tokens + first_token)} for layer in self.layers},
        )


class _Abandoned:
    """Put into the queue when the main thread failed: what waits need not be written."""


def layer_files(folder: str | Path) -> dict[int, Path]:
    """The files of a folder of records by layer, in the order of the layers."""
    files = {int(path.stem.removeprefix("layer_")): path for path in Path(folder).glob("layer_*.nc")}
    return dict(sorted(files.items()))


def open_layer(folders: list[Path], layer: int) -> AbstractContextManager[xr.Dataset]:
    """One layer's records of a dataset, from the folders of its parts."""
    return open_joined([layer_files(folder)[layer] for folder in folders], along="token")


def taken(records: xr.Dataset, place: np.ndarray) -> xr.Dataset:
    """The records of the tokens `place` (token,), in order, of a layer; full ones, because totals are of all tokens."""
    found = {}
    for name, array in records.data_vars.items():
        values = array.values
        found[name] = (array.dims, values[place] if "token" in array.dims else values, array.attrs)
    return xr.Dataset(found, attrs=records.attrs)
