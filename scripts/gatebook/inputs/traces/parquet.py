"""Traces as a folder of Parquet files: `samples/` of tokens, `actives/{checkpoint}/layer_NN` of what they select.

These are the columns of FLAME-MoE-Traces: `token_id` of tokens, lists `scores` and `indices` of layers; rows of all
files are those of the samples. Tokens may have `document`, `cluster`, `position`, `phase` and `role` beside.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gatebook.inputs.traces.base import OF_TOKENS, TOKENS_PER_BLOCK, Block, Blocks, Wanted, check_layers
from gatebook.problem import Problem


def read(path: Path, wanted: Wanted) -> Blocks:
    """The blocks of a folder."""
    layers = layer_files(path, wanted)
    check_layers(wanted, tuple(layers), len(layers), path / "actives" / wanted.checkpoint)
    samples = _files(path / "samples")
    held = pq.read_schema(samples[0]).names
    names = {part: name for part in OF_TOKENS if (name := wanted.find(part, held))}
    tokens = _batches(samples, list(names.values()) or held[:1])  # a batch without columns has no length
    of_layers = [_selections(layers[wanted.layers[place]], wanted) for place in wanted.kept]
    rows = {len_(samples), *(len_(layers[wanted.layers[place]]) for place in wanted.kept)}
    if len(rows) > 1:
        raise Problem(
            f"{wanted.key}: {path}: samples/ has {len_(samples):,} rows and layers have others "
            f"({', '.join(f'{number:,}' for number in sorted(rows))}): give as many in all."
        )
    for batch, *selections in zip(tokens, *of_layers, strict=True):
        found = {part: np.stack([layer[part] for layer in selections], axis=1) for part in ("ids", *wanted.parts)}
        yield Block(**found, **{part: values(batch.column(name)) for part, name in names.items()})


def layer_files(path: Path, wanted: Wanted) -> dict[int, list[Path]]:
    """The files of each layer of a checkpoint, by its number in the model, in order."""
    folder = path / "actives" / wanted.checkpoint
    if not folder.is_dir():
        known = ", ".join(sorted(each.name for each in (path / "actives").glob("*"))) or "nothing"
        raise Problem(f"{wanted.key}: {path}/actives has no {wanted.checkpoint}, but {known}: correct checkpoints.")
    found = {}
    for each in folder.iterdir():
        if match := re.fullmatch(r"layer_(\d+)(\.parquet)?", each.name):
            found[int(match[1])] = _files(each)
    return dict(sorted(found.items()))


def len_(files: list[Path]) -> int:
    """Rows of files."""
    return sum(pq.read_metadata(file).num_rows for file in files)


def values(column: pa.Array) -> np.ndarray:
    """A column of a batch: numbers, or text as objects."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.to_numpy(zero_copy_only=False)


def _files(path: Path) -> list[Path]:
    """A file, or those of a folder in the order of their names."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise Problem(f"{path} has no Parquet file: get it again.")
    return files


def _batches(files: list[Path], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of `TOKENS_PER_BLOCK` rows, whatever files and row groups these are in; the last may be shorter."""
    waiting, rows = [], 0
    for file in files:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(TOKENS_PER_BLOCK, columns=columns, use_threads=False):
                while rows + batch.num_rows >= TOKENS_PER_BLOCK:
                    missing = TOKENS_PER_BLOCK - rows
                    yield _joined([*waiting, batch.slice(0, missing)])
                    batch, waiting, rows = batch.slice(missing), [], 0
                if batch.num_rows:
                    waiting, rows = [*waiting, batch], rows + batch.num_rows
    if rows:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _selections(files: list[Path], wanted: Wanted) -> Iterator[dict[str, np.ndarray]]:
    """The ids, and what else is wanted, of each batch of a layer's tokens: (token, rank)."""
    held = pq.read_schema(files[0]).names
    names = {part: wanted.need(part, held, files[0]) for part in ("ids", *wanted.parts)}
    for batch in _batches(files, list(names.values())):
        yield {part: _rows(batch.column(name), wanted, files[0]) for part, name in names.items()}


def _rows(column: pa.Array, wanted: Wanted, path: Path) -> np.ndarray:
    """A column of lists of the same length as an array (token, rank)."""
    lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) != 1 or column.null_count:
        found = ", ".join(map(str, lengths))
        raise Problem(f"{wanted.key}: {path} has rows of {found} experts: give {wanted.top_k} in each row.")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
