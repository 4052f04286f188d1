"""Routing records on disk: one netCDF file per layer, compressed and written by threads while the model computes."""

import math
import queue
import threading
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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

TOKENS_PER_CHUNK = 4096
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


@dataclass(frozen=True)
class Records:
    """What one layer's router did to consecutive tokens, as numpy arrays by the names of `PER_TOKEN` and `TOTALS`.

    Full records hold `router_logits` float32, the module's raw output, and `selected_expert` uint8 or uint16, its own
    choice sorted by weight; weights and scalars follow from them, see `routing.complete`. Compact records hold
    `selected_expert`, `routing_weight` float32, the scalars float32 that do not follow from the weights, and totals.
    """

    per_token: dict[str, np.ndarray]
    totals: dict[str, np.ndarray]


def contents_of(rule: RoutingRule, contents: str) -> list[str]:
    """The variables of `PER_TOKEN` that records of these contents hold."""
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


def packed(values: np.ndarray, rows: int) -> bytes:
    """A chunk of `rows` rows as HDF5 stores it: filled up with zeros, bytes shuffled, deflated.

    zlib's run-length strategy is twice as fast as its default on shuffled floats and 7 % smaller; any reader inflates
    it.
    """
    whole = np.zeros((rows, *values.shape[1:]), dtype=values.dtype)
    whole[: len(values)] = values
    shuffled = whole.view(np.uint8).reshape(-1, values.dtype.itemsize).T.tobytes()
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return deflate.compress(shuffled) + deflate.flush()


class RecordWriter:
    """Writes `layer_{layer}.nc` files into a folder while the model computes.

    Dimensions token, expert, rank, and window in compact records. `contents` says what is kept: "exact" the router
    logits as they are, "rounded" the logits with 10 bits after the leading one, "compact" no logits but `TOTALS`, and
    weights and scalars with 7 bits after the leading one, as bfloat16 has. One thread owns the files, `threads` threads
    compress chunks; the bytes do not depend on their number.
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
    ):
        """Create the files for so many tokens and windows and start the threads.

        `attrs` are written into every file; `bias` is each layer's selection bias, if the routers have one.
        """
        self._contents, self._rule, self._rows = contents, rule, min(TOKENS_PER_CHUNK, tokens)
        self._sizes = {"token": tokens, "window": windows, "expert": rule.experts, "rank": rule.top_k}
        self._sizes |= {"logit_bin": len(bins.LOGIT_EDGES) - 1, "bin": len(bins.PROBABILITY_EDGES) - 1}
        self._files = {}
        for layer in layers:
            path = folder / f"layer_{layer}.nc"
            self._create(path, layer, attrs, (bias or {}).get(layer))
            self._files[layer] = h5py.File(path, "r+")
        self._waiting: dict[tuple[int, str], list[np.ndarray]] = defaultdict(list)
        self._written: dict[tuple[int, str], int] = defaultdict(int)
        self._totals: dict[int, dict[str, list | np.ndarray]] = {}
        self._pending: deque = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="record-packer")
        self._ahead = 4 * threads
        self._queue: queue.Queue = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="record-writer", daemon=True)
        self._thread.start()

    def write(self, records: Iterable[tuple[int, Records]]) -> None:
        """Hand over the next tokens' (layer, records), which may be a generator: the writing thread iterates over it.

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
        self._pool.shutdown()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (given := self._queue.get()) not in (None, _Abandoned):
            if self._error is None:
                self._attempt(lambda given=given: [self._keep(*item) for item in given])
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

    def _keep(self, layer: int, records: Records) -> None:
        """Cut the records into chunks as far as they go, and keep the rest."""
        for name, values in records.per_token.items():
            if bits := self._bits(name):
                values = rounded(values, bits)
            waiting = self._waiting[layer, name]
            waiting.append(values)
            if sum(map(len, waiting)) >= self._rows:
                joined = np.concatenate(waiting)
                whole = len(joined) - len(joined) % self._rows
                for start in range(0, whole, self._rows):
                    self._submit(layer, name, joined[start : start + self._rows])
                self._waiting[layer, name] = [joined[whole:]]
        for name, values in records.totals.items():
            totals = self._totals.setdefault(layer, {})
            if name == "probability_sum":
                totals.setdefault(name, []).append(values)
            else:
                totals[name] = totals.get(name, 0) + values

    def _bits(self, name: str) -> int | None:
        """The bits that a variable's floats are rounded to."""
        floats = name != "selected_expert" if self._contents == "compact" else name == "router_logits"
        return BITS.get(self._contents) if floats and name in PER_TOKEN else None

    def _submit(self, layer: int, name: str, chunk: np.ndarray) -> None:
        first = self._written[layer, name]
        self._written[layer, name] = first + len(chunk)
        place = (first,) + (0,) * (chunk.ndim - 1)
        self._pending.append((layer, name, place, self._pool.submit(packed, chunk, self._rows)))
        while len(self._pending) > self._ahead:
            self._store()

    def _store(self) -> None:
        layer, name, place, chunk = self._pending.popleft()
        self._files[layer][name].id.write_direct_chunk(place, chunk.result())

    def _finish(self) -> None:
        for (layer, name), waiting in self._waiting.items():
            if len(rest := np.concatenate(waiting)):
                self._submit(layer, name, rest)
        while self._pending:
            self._store()
        for layer, totals in self._totals.items():
            for name, values in totals.items():
                self._files[layer][name][...] = np.concatenate(values) if name == "probability_sum" else values
        written = {self._written[key] for key in self._waiting}
        if written != {self._sizes["token"]}:
            raise RuntimeError(f"{sorted(written)} tokens were recorded instead of {self._sizes['token']}")

    def _create(self, path: Path, layer: int, attrs: dict, bias: np.ndarray | None) -> None:
        with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
            totals = TOTALS if self._contents == "compact" else {}
            variables = [(name, *PER_TOKEN[name]) for name in contents_of(self._rule, self._contents)]
            dimensions = {dim for _, dims, *_ in variables for dim in dims} | {"expert"}
            for name in sorted(dimensions.union(*(dims for _, dims, *_ in totals.values()))):
                file.createDimension(name, self._sizes[name])
            for name, *meaning in variables:
                dtype = expert_dtype(self._rule.experts) if name == "selected_expert" else np.float32
                self._variable(file, name, dtype, *meaning)
            for name, meaning in totals.items():
                self._variable(file, name, *meaning)
            if bias is not None:
                self._variable(file, "selection_bias", np.float32, ("expert",), "bias added to scores to select", "1")
                file["selection_bias"][:] = bias
            file.setncatts(provenance_attributes() | {"layer": np.int32(layer), "contents": self._contents})
            file.setncatts(attrs)

    def _variable(self, file, name, dtype, dims, long_name, units) -> None:
        rows = {"token": self._rows, "window": min(TOKENS_PER_CHUNK, self._sizes["window"])}
        chunks = [rows.get(dim, self._sizes[dim]) for dim in dims]
        variable = file.createVariable(
            name, dtype, dims, zlib=True, complevel=1, shuffle=True, chunksizes=chunks, fill_value=False
        )
        variable.setncatts({"long_name": long_name, "units": units})
        if bits := self._bits(name):
            variable.setncattr("_QuantizeBitRoundNumberOfSignificantBits", np.int32(bits))


class _Abandoned:
    """Put into the queue when the main thread failed: what waits need not be written."""


def layer_files(folder: str | Path) -> dict[int, Path]:
    """The files of a folder of records by layer, in the order of the layers."""
    files = {int(path.stem.removeprefix("layer_")): path for path in Path(folder).glob("layer_*.nc")}
    return dict(sorted(files.items()))


def open_layer(folders: list[Path], layer: int) -> AbstractContextManager[xr.Dataset]:
    """One layer's records of a dataset, from the folders of its parts."""
    return open_joined([layer_files(folder)[layer] for folder in folders], along="token")
