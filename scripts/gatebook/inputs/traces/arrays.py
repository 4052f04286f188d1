"""Traces as arrays: `.npz`, `.npy` and `.safetensors`, (token, layer, rank), read in blocks."""

import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gatebook.inputs.traces.base import OF_TOKENS, TOKENS_PER_BLOCK, Block, Blocks, Wanted, check_layers, check_shape
from gatebook.problem import Problem

BFLOAT16 = "bfloat16"
DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": BFLOAT16,
}  # fmt: skip
"""The types of safetensors in numpy's words."""


class Array(NamedTuple):
    """An array of a file: its shape, and what reads its next rows, which are read in order."""

    shape: tuple[int, ...]
    next: Callable[[int], np.ndarray]


def read_npz(path: Path, wanted: Wanted) -> Blocks:
    """The blocks of a `.npz` file, compressed or not."""
    with zipfile.ZipFile(path) as archive, ExitStack() as files:
        names = [name.removesuffix(".npy") for name in archive.namelist()]

        def opened(name: str) -> Array:
            return _of_stream(files.enter_context(archive.open(f"{name}.npy")), path)

        yield from _blocks(path, names, opened, wanted)


def read_npy(path: Path, wanted: Wanted) -> Blocks:
    """The blocks of a `.npy` file, which holds ids alone."""
    with path.open("rb") as file:
        yield from _blocks(path, [wanted.columns.get("ids", "indices")], lambda name: _of_stream(file, path), wanted)


def read_safetensors(path: Path, wanted: Wanted) -> Blocks:
    """The blocks of a `.safetensors` file, which is not mapped: it would be in memory as far as it was read."""
    size = path.stat().st_size
    with path.open("rb") as file, ExitStack() as files:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if length <= size else {}
            places = {
                name: (DTYPES[each["dtype"]], *map(tuple, (each["shape"], each["data_offsets"])))
                for name, each in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Problem(f"{wanted.key}: {path} cannot be read as safetensors ({error!r}): get it again.") from error
        if not places or size < 8 + length + max(stop for *_, (_, stop) in places.values()):
            raise Problem(f"{wanted.key}: {path} cannot be read as safetensors (it is cut off): get it again.")

        def opened(name: str) -> Array:
            dtype, shape, (start, _) = places[name]
            stream = files.enter_context(path.open("rb"))
            stream.seek(8 + length + start)
            rows = _rows_of(stream, shape, np.dtype("<u2" if dtype == BFLOAT16 else dtype), path)
            return Array(shape, (lambda number: _float32(rows(number))) if dtype == BFLOAT16 else rows)

        yield from _blocks(path, list(places), opened, wanted)


def _float32(bits: np.ndarray) -> np.ndarray:
    """Numbers in bfloat16, of which numpy has the bits alone."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _of_stream(stream, path: Path) -> Array:
    """An array in numpy's format, read row by row from a stream, without ever being whole in memory."""
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except ValueError as error:
        raise Problem(f"{path} has no array in numpy's format ({error}): save it anew.") from error
    if fortran and len(shape) > 1:
        raise Problem(f"{path} has an array in Fortran order: save it in C order (numpy.ascontiguousarray).")
    if dtype.hasobject:
        raise Problem(f"{path} has an array of Python objects, which is not read: save numbers or text.")
    return Array(shape, _rows_of(stream, shape, dtype, path))


def _rows_of(stream, shape: tuple[int, ...], dtype: np.dtype, path: Path) -> Callable[[int], np.ndarray]:
    """What reads the next rows of an array from a stream."""

    def following(rows: int) -> np.ndarray:
        part = np.empty((rows, *shape[1:]), dtype=dtype)
        view = memoryview(part.reshape(-1).view(np.uint8))
        done = 0
        while done < len(view):
            got = stream.readinto(view[done:])
            if not got:
                raise Problem(f"{path} ends before its arrays do: get it again.")
            done += got
        return part

    return following


def _blocks(path: Path, names: list[str], opened: Callable[[str], Array], wanted: Wanted) -> Blocks:
    ids = opened(wanted.need("ids", names, path))
    check_shape(wanted, ids.shape, path)
    if (name := wanted.find("layers", names)) is None:
        layers = None
    else:
        numbers = opened(name)
        layers = tuple(numbers.next(numbers.shape[0]).tolist())
    check_layers(wanted, layers, ids.shape[1], path)
    physical = wanted.find("physical_to_logical", names)
    logical = None if physical is None else (given := opened(physical)).next(given.shape[0])
    parts = [part for part in (*OF_TOKENS, *wanted.parts) if wanted.find(part, names)]
    arrays = {part: opened(wanted.find(part, names)) for part in parts}
    _check_lengths(path, ids, arrays, wanted)
    last = [part for part, array in arrays.items() if array.shape[0] > ids.shape[0]]
    for start in range(0, ids.shape[0], TOKENS_PER_BLOCK):
        rows = min(TOKENS_PER_BLOCK, ids.shape[0] - start)
        found = {part: array.next(rows) for part, array in arrays.items()}
        given = studied(ids.next(rows), wanted)
        block = Block(given if logical is None else to_logical(given, logical, wanted, path), **_studied(found, wanted))
        if last and start + rows == ids.shape[0]:
            block = _with_last(block, {part: arrays[part].next(1) for part in last})
        yield block


def _check_lengths(path: Path, ids: Array, arrays: Mapping[str, Array], wanted: Wanted) -> None:
    """A `Problem` if arrays have other numbers of tokens than the ids, but for one token more, the last one."""
    for part, array in arrays.items():
        more = array.shape[0] - ids.shape[0]
        if more != 0 and (more != 1 or part not in OF_TOKENS):
            raise Problem(
                f"{wanted.key}: {path} has experts of {ids.shape[0]} tokens and {part} of {array.shape[0]}: give as "
                "many, or one more."
            )


def _with_last(block: Block, last: Mapping[str, np.ndarray]) -> Block:
    """A block with the file's last token: what is known of it, and otherwise what is known of the one before it."""
    given = {part: getattr(block, part) for part in OF_TOKENS if getattr(block, part) is not None}
    known = {part: np.concatenate([values, last.get(part, values[-1:])]) for part, values in given.items()}
    for part in ("ids", "scores", "logits"):
        values = getattr(block, part)
        if values is not None:
            fill = np.full((1, *values.shape[1:]), -1 if part == "ids" else 0, dtype=values.dtype)
            known[part] = np.concatenate([values, fill])
    unrecorded = np.zeros(block.tokens + 1, dtype=bool)
    unrecorded[-1] = True
    return Block(**known, unrecorded=unrecorded)


def studied(values: np.ndarray, wanted: Wanted) -> np.ndarray:
    """Those layers of values (token, layer, ...) that are studied."""
    kept = wanted.kept
    return values if len(kept) == values.shape[1] else values[:, list(kept)]


def _studied(found: Mapping[str, np.ndarray], wanted: Wanted) -> dict[str, np.ndarray]:
    return {part: studied(values, wanted) if part in wanted.parts else values for part, values in found.items()}


def to_logical(ids: np.ndarray, logical: np.ndarray, wanted: Wanted, path: str | Path) -> np.ndarray:
    """Ids of experts (token, layer, rank) of ids of their copies on devices, by a map (layer, copy); -1 stays.

    The map is of all layers of the file, or of the studied ones. A `Problem` for a copy that it does not have.
    """
    logical = np.asarray(logical)
    if logical.ndim != 2 or len(logical) not in (len(wanted.layers), len(wanted.kept)):
        raise Problem(
            f"{wanted.key}: {path} has a map of physical experts of the shape {logical.shape}, not (layer, copy) with "
            f"{len(wanted.layers)} layers: correct it."
        )
    logical = logical if len(logical) == len(wanted.kept) else logical[list(wanted.kept)]
    if (most := int(ids.max(initial=-1))) >= logical.shape[1]:
        raise Problem(
            f"{wanted.key}: {path} has the physical expert {most}, and its map {logical.shape[1]} of them: get the map "
            "that held while it was recorded."
        )
    layer = np.arange(ids.shape[1])[:, None]
    return np.where(ids < 0, ids, logical[layer, np.maximum(ids, 0)])
