"""Files: whole or not there at all, the same bytes for the same data, and signed with what made them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

import netCDF4
import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from gatebook.files.atomic import atomic_file
from gatebook.files.origin import provenance_attributes
from gatebook.problem import Problem

LARGEST_CHUNK = 1 << 14


def save(dataset: xr.Dataset, path: str | Path, groups: Mapping[str, xr.Dataset] = MappingProxyType({})) -> None:
    """Write `dataset` as compressed netCDF-4, whole or not at all; the same data and settings give the same bytes.

    The running job's provenance is added as the JSON attribute `provenance`. `groups` are further datasets in the same
    file, by the name of their group (`xarray.open_dataset(path, group=...)`).
    """
    with atomic_file(path) as partial:
        _write(dataset, partial)
        for name, each in groups.items():
            _write(each, partial, group=name)


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
    """Read a whole netCDF file into memory, without the groups beside its main one."""
    with open_lazily(path) as dataset:
        return dataset.load()


def load_group(path: str | Path, group: str) -> xr.Dataset | None:
    """Read a group of a netCDF file into memory; None if the file has no such group."""
    with netCDF4.Dataset(path) as file:
        if group not in file.groups:
            return None
    with xr.open_dataset(path, engine="netcdf4", decode_times=False, group=group) as dataset:
        return dataset.load()


def open_lazily(
    path: str | Path, leave_out: str | None = None, cached_bytes: int = 4 << 20, remedy: str = "delete it and run again"
) -> xr.Dataset:
    """Open a netCDF file, or all but one variable of it, without reading its arrays; close it by `with`.

    At most `cached_bytes` of each variable are kept in memory to be read again (netCDF's default is 64 MiB). `remedy`
    is what to do about a file that cannot be read; the workflow makes its own ones again.
    """
    default = netCDF4.get_chunk_cache()
    try:
        netCDF4.set_chunk_cache(cached_bytes)
        return xr.open_dataset(path, engine="netcdf4", decode_times=False, drop_variables=leave_out)
    except FileNotFoundError:
        raise Problem(f"{path} does not exist: run the workflow again to make it.") from None
    except (OSError, RuntimeError) as error:
        raise Problem(f"{path} is not a readable netCDF file ({error}): {remedy}.") from error
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
        # Of the wanted rows, a file has those from its first (`start`) to its last; where among `rows` they begin and
        # end is rounded up, because a step may jump over the border. A file with none of them gives an empty part.
        found = []
        for variable, end in zip(self._variables, self._ends.tolist(), strict=True):
            start = end - variable.sizes[self._along]
            here = rows[max(0, -((rows.start - start) // rows.step)) : max(0, -((rows.start - end) // rows.step))]
            part = slice(here.start - start, here.stop - start, here.step) if here else slice(0, 0)
            found.append(variable.isel(wanted | {self._along: part}))
        whole = xr.Variable.concat(found, self._along)
        return (whole.isel({self._along: 0}) if single else whole).values


def _write(dataset: xr.Dataset, path: Path, along: str | None = None, group: str | None = None) -> None:
    dataset = dataset.assign_attrs(provenance_attributes() | dataset.attrs)
    encoding = {}
    for name, array in dataset.variables.items():
        grows = along in array.dims
        packed = array.dtype.kind in "iufb" and (array.size > 1 or grows)
        encoding[name] = {"_FillValue": None} | ({"zlib": True, "complevel": 4, "shuffle": True} if packed else {})
        if grows:
            encoding[name]["chunksizes"] = [max(1, min(size, LARGEST_CHUNK)) for size in array.shape]
    dataset.to_netcdf(
        path,
        mode="a" if group else "w",
        engine="netcdf4",
        group=group,
        encoding=encoding,
        unlimited_dims=[along] if along else None,
    )


def _append(part: xr.Dataset, path: Path, along: str) -> None:
    with netCDF4.Dataset(path, "a") as file:
        first = file.dimensions[along].size
        span = slice(first, first + part.sizes[along])
        for name, array in part.variables.items():
            if along in array.dims:
                file[name][tuple(span if dim == along else slice(None) for dim in array.dims)] = array.values
