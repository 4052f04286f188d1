"""Files: whole or not there at all, the same bytes for the same data, and signed with what made them."""

import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from moeatlas import job, parts
from moeatlas.tables import csv_text

IDENTITY = (
    "model", "model_id", "model_revision", "checkpoint", "weights_sha256", "dataset", "dataset_id", "dataset_revision",
    "dataset_sha256", "tokens_sha256", "routing_rule",
)  # fmt: skip

LARGEST_CHUNK = 1 << 14
UNWRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR,
    errno.EISDIR,
)  # fmt: skip


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` at a clean exit, delete it at an error."""
    with _partial(Path(path)) as partial:
        yield partial
        partial.replace(path)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; rename it to `path` at a clean exit, delete it at an error."""
    with _partial(Path(path)) as partial:
        partial.mkdir()
        yield partial
        _remove(Path(path))
        partial.replace(path)


def save(dataset: xr.Dataset, path: str | Path) -> None:
    """Write `dataset` as compressed netCDF-4, whole or not at all; the same data and settings give the same bytes.

    The running job's provenance is added as the JSON attribute `provenance`.
    """
    with atomic_file(path) as partial:
        _write(dataset, partial)


def save_parts(parts: Iterable[xr.Dataset], path: str | Path, along: str) -> None:
    """Write datasets, made one at a time, as one file: joined along the dimension `along`, otherwise like `save`.

    Variables without that dimension, and attributes, are those of the first part. Chunks hold one part or less of it,
    so that a part can be read without the others.
    """
    with atomic_file(path) as partial:
        for part in parts:
            if partial.exists():
                _append(part, partial, along)
            else:
                _write(part, partial, along)
            del part  # before the next one is made


def load(path: str | Path) -> xr.Dataset:
    """Read a whole netCDF file into memory."""
    with open_lazily(path) as dataset:
        return dataset.load()


def layer_files(folder: str | Path) -> dict[int, Path]:
    """The files of a folder of records by layer, in the order of the layers."""
    files = {int(path.stem.removeprefix("layer_")): path for path in Path(folder).glob("layer_*.nc")}
    return dict(sorted(files.items()))


def load_tokens(path: str | Path, shard: int = 1, shards: int = 1) -> xr.Dataset:
    """Read a dataset's token file, or a shard of it (see `parts.take`).

    `text` is left out: xarray would pad every document to the longest one in memory.
    """
    with open_lazily(path, leave_out="text") as tokens:
        return tokens.load() if shards == 1 else parts.take(tokens, shard, shards).load()


def open_lazily(path: str | Path, leave_out: str | None = None, cached_bytes: int = 4 << 20) -> xr.Dataset:
    """Open a netCDF file, or all but one variable of it, without reading its arrays; close it by `with`.

    At most `cached_bytes` of each variable are kept in memory to be read again (netCDF's default is 64 MiB).
    """
    default = netCDF4.get_chunk_cache()
    try:
        netCDF4.set_chunk_cache(cached_bytes)
        return xr.open_dataset(path, engine="netcdf4", decode_times=False, drop_variables=leave_out)
    except FileNotFoundError:
        raise job.Problem(f"{path} does not exist: run the workflow again to make it.") from None
    except (OSError, RuntimeError) as error:
        raise job.Problem(f"{path} is not a readable netCDF file ({error}): delete it and run again.") from error
    finally:
        netCDF4.set_chunk_cache(*default)


@contextmanager
def open_joined(paths: list[Path], along: str) -> Iterator[xr.Dataset]:
    """The files of a dataset's parts as one dataset: joined along a dimension, and read only where it is used.

    A variable without that dimension is kept if it is the same in all parts. Attributes are those of the first part.
    """
    with ExitStack() as files:
        first, *others = [files.enter_context(open_lazily(path)) for path in paths]
        joined = {}
        for name, variable in first.variables.items():
            rest = [other.variables[name] for other in others]
            if along in variable.dims:
                lazy = indexing.LazilyIndexedArray(_Joined([variable, *rest], along))
                joined[name] = xr.Variable(variable.dims, lazy, variable.attrs)
            elif all(map(variable.equals, rest)):
                joined[name] = variable
        yield xr.Dataset(joined, attrs=first.attrs) if others else first


def open_layer(folders: list[Path], layer: int) -> AbstractContextManager[xr.Dataset]:
    """One layer's records of a dataset, from the folders of its parts."""
    return open_joined([layer_files(folder)[layer] for folder in folders], along="token")


@contextmanager
def open_tallies(paths: list[str]) -> Iterator[dict[str, xr.Dataset]]:
    """Tallies by the name of their dataset, in the given order, opened without reading their arrays."""
    with ExitStack() as files:
        tallies = [files.enter_context(open_lazily(path, cached_bytes=1 << 16)) for path in paths]
        yield {tally.attrs["dataset"]: tally for tally in tallies}


def study_identity(tallies: dict[str, xr.Dataset]) -> dict:
    """Attributes of what is computed from several tallies: the model's identity, and every dataset's checksum."""
    first = next(iter(tallies.values())).attrs
    read = {name: tally.attrs.get("tokens_sha256") or tally.attrs["dataset_sha256"] for name, tally in tallies.items()}
    shared = {name: value for name, value in identity(first).items() if not name.startswith(("dataset", "tokens"))}
    return shared | {"datasets": json.dumps(read)}


def signature(attributes: dict) -> str:
    """One line that says what a figure was made from."""
    code = json.loads(attributes["provenance"])["code"]
    weights = f"weights sha256 {attributes['weights_sha256'][:16]}" if "weights_sha256" in attributes else "counts"
    return (
        f"MoE Routing Atlas; model {attributes['model']} ({attributes['model_id']}), checkpoint "
        f"{attributes['checkpoint']}, {weights}; code {code}"
    )


def save_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(csv_text(table), encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, making the folders above `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def manifest(folder: Path) -> list[dict]:
    """Path, SHA-256 and size in bytes of every file below `folder`, in the order of the paths."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [
        {"path": path.relative_to(folder).as_posix(), "sha256": sha256(path), "bytes": path.stat().st_size}
        for path in files
    ]


def summary(folder: Path, root: Path) -> dict:
    """One line for a folder below `root`, like those of `manifest`: its checksum is over the files in their order."""
    files = manifest(folder)
    return {
        "path": f"{folder.relative_to(root).as_posix()}/ ({len(files):,} files)",
        "sha256": sha256(*(folder / file["path"] for file in files)),
        "bytes": sum(file["bytes"] for file in files),
    }


def describe_dataset(path: str | Path) -> dict:
    """The attributes of a dataset's token file with its numbers of `documents` and `tokens`.

    Published counts have no token file: from their tally, which does not know `documents`.
    """
    with open_lazily(path, leave_out="text") as dataset:
        if "token" in dataset.sizes:
            return dataset.attrs | {"documents": dataset.sizes["document"], "tokens": dataset.sizes["token"]}
        return dataset.attrs | {"tokens": int(dataset["tokens"].sum())}


def provenance_attributes() -> dict[str, str]:
    """Attributes that every output carries: conventions, and the provenance of the running job as JSON."""
    return {
        "Conventions": "CF-1.11",
        "source": "MoE Routing Atlas",
        "provenance": json.dumps(job.provenance(), sort_keys=True, default=str),
    }


def identity(attributes: dict) -> dict:
    """The attributes that say which model and which data: handed on from inputs to records, tallies and metrics."""
    return {name: attributes[name] for name in IDENTITY if name in attributes}


def sha256(*paths: str | Path) -> str:
    """SHA-256 (hexadecimal) over the contents of files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def array_sha256(*arrays: np.ndarray) -> str:
    """SHA-256 (hexadecimal) over dtype, shape and contents of arrays, in the given order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_room(path: str | Path, needed: int) -> None:
    """A `Problem` if about `needed` bytes do not fit on the disk where `path` will be written."""
    free = shutil.disk_usage(_existing_folder(Path(path))).free
    if needed > free:
        raise job.Problem(
            f"{path} would take about {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free on that disk: make room, "
            "lower limits.tokens of the dataset, or set extraction.records to compact."
        )


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that is this job's own; what killed jobs left there is deleted first."""
    # No name of a model, checkpoint or dataset holds "~": the pattern below never matches another output's file.
    partial = path.with_name(f".{path.name}~{socket.gethostname()}-{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{path.name}~*.partial"):
            _remove(stale)
        try:
            yield partial
        finally:
            _remove(partial)
    except (OSError, RuntimeError) as error:
        known = getattr(error, "errno", None) in UNWRITABLE
        if not known and not str(error).startswith("NetCDF: HDF"):
            raise
        reason = os.strerror(error.errno) if known else error
        raise job.Problem(
            f"{path} cannot be written ({reason}; {_free(path)}): make room or make it writable, then run again."
        ) from error


class _Joined(BackendArray):
    """Variables of several files, joined along a dimension, of which only what is asked for is read."""

    def __init__(self, variables: list[xr.Variable], along: str):
        self._variables, self._along, self._dims = variables, along, variables[0].dims
        self._ends = np.cumsum([variable.sizes[along] for variable in variables])
        self._size = int(self._ends[-1])
        sizes = variables[0].sizes | {along: self._size}
        self.shape, self.dtype = tuple(sizes[dim] for dim in self._dims), variables[0].dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        """What integers and slices of positive steps, one for each dimension, say."""
        wanted = dict(zip(self._dims, key, strict=True))
        single = not isinstance(wanted[self._along], slice)
        rows = range(self._size)[slice(wanted[self._along], wanted[self._along] + 1) if single else wanted[self._along]]
        found = []
        for variable, end in zip(self._variables, self._ends.tolist(), strict=True):
            start = end - variable.sizes[self._along]
            here = rows[max(0, -((rows.start - start) // rows.step)) : max(0, -((rows.start - end) // rows.step))]
            part = slice(here.start - start, here.stop - start, here.step) if here else slice(0, 0)
            found.append(variable.isel(wanted | {self._along: part}))
        whole = xr.Variable.concat(found, self._along)
        return (whole.isel({self._along: 0}) if single else whole).values


def _free(path: Path) -> str:
    return f"{shutil.disk_usage(_existing_folder(path)).free / 1e9:.1f} GB free on that disk"


def _existing_folder(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(dataset: xr.Dataset, path: Path, along: str | None = None) -> None:
    dataset = dataset.assign_attrs(provenance_attributes() | dataset.attrs)
    encoding = {}
    for name, array in dataset.variables.items():
        grows = along in array.dims
        packed = array.dtype.kind in "iufb" and (array.size > 1 or grows)
        encoding[name] = {"_FillValue": None} | ({"zlib": True, "complevel": 4, "shuffle": True} if packed else {})
        if grows:
            encoding[name]["chunksizes"] = [max(1, min(size, LARGEST_CHUNK)) for size in array.shape]
    dataset.to_netcdf(path, engine="netcdf4", encoding=encoding, unlimited_dims=[along] if along else None)


def _append(part: xr.Dataset, path: Path, along: str) -> None:
    with netCDF4.Dataset(path, "a") as file:
        first = file.dimensions[along].size
        span = slice(first, first + part.sizes[along])
        for name, array in part.variables.items():
            if along in array.dims:
                file[name][tuple(span if dim == along else slice(None) for dim in array.dims)] = array.values
