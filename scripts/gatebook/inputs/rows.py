"""Rows of files: JSON, JSON lines, Parquet, CSV, TSV and text, one after another, with nothing guessed.

What a file of text holds stays as it is written: numbers of JSON and cells of CSV are their characters.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from gatebook.inputs.chats import Chat
from gatebook.inputs.templates import Column, MisfitError, Template
from gatebook.problem import Problem

FORMATS = {
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "tsv",
    ".txt": "text", ".text": "text",
}  # fmt: skip
COMPRESSED = (".gz", ".bz2", ".zst")
ONE_OBJECT = (
    "it holds one JSON object, perhaps of columns, and one on a line for each row is needed, as pandas writes them by "
    "to_json(path, orient='records', lines=True)"
)
PARQUET_ROWS = 1000
"""Rows of a Parquet file that are in memory at once."""


class Row(NamedTuple):
    """A row of files: its number in all of them, from 0, where it stands, and its values by column."""

    number: int
    place: str
    columns: Mapping

    def text(self, key: str, part: Column | Template) -> str:
        """The text of a column, or of a template; `key` of the config is named by the `Problem` if there is none."""
        with self._told(key):
            return part.text(self.columns)

    def written(self, key: str, chat: Chat) -> tuple[str, tuple[tuple[int, str], ...]]:
        """The text of a conversation and its stretches, see `Chat.written`; likewise."""
        with self._told(key):
            return chat.written(self.columns)

    def label(self, key: str, column: Column) -> str:
        """The text of a column, likewise, but empty text is a `Problem`, too."""
        with self._told(key):
            return column.label(self.columns)

    def text_or_none(self, key: str, column: Column) -> str | None:
        """The text of a column, or None where it is null."""
        with self._told(key):
            return None if column.value(self.columns) is None else column.text(self.columns)

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        try:
            yield
        except MisfitError as error:
            raise Problem(f"{key}: {self.place}: {error}.") from None


def file_format(key: str, path: str, stated: str | None = None) -> str:
    """The format of a file: json (also lines), parquet, csv, tsv or text, as stated or by its ending."""
    if stated:
        return "json" if stated == "jsonl" else stated
    endings = [ending.lower() for ending in Path(path).suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    ending = endings[-1] if endings else ""
    if ending not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise Problem(
            f"{key}: {path} has the ending {ending!r}: use {known}, all but .parquet also with "
            f"{', '.join(COMPRESSED)} after it, or set `format`."
        )
    return FORMATS[ending]


def read(
    key: str, files: Sequence[str], wanted: Iterable[Column], *, stated: str | None = None, sample_by: str = "line"
) -> Iterator[Row]:
    """The rows of files, in order, one at a time: only an array of JSON and a text that is one document are held whole.

    Parameters
    ----------
    key
        Of the dataset in the config, for the sentences of a `Problem`.
    files
        Paths.
    wanted
        What is read of a row; nothing else has to be in every file.
    stated
        The format of all files, or None: each has that of its ending.
    sample_by
        What a row of a text file is: "line", "paragraph" or "document".

    Yields
    ------
    Row

    Raises
    ------
    Problem
        If a file cannot be read, or lacks a column.
    """
    import pyarrow as pa

    wanted, number = list(wanted), 0
    for path in files:
        form, before = file_format(key, path, stated), number
        try:
            for place, columns in of_file(path, form, wanted, sample_by=sample_by):
                yield Row(number, f"{path}, {place}", columns)
                number += 1
            if number == before:
                raise ValueError("it has no rows")
        except MisfitError as error:
            raise Problem(f"{key}: {path}: {error}.") from None
        except (ValueError, OSError, RecursionError, csv.Error, pa.ArrowException) as error:
            reason = str(error).splitlines()[0].rstrip(".:")
            raise Problem(
                f"{key}: {path} cannot be read as {form} ({reason}): mend the file or its `format`."
            ) from error


def where(key: str, rows: Iterable[Row], conditions: Mapping) -> Iterator[Row]:
    """The rows whose columns have the values of the `conditions`, {column: value or list of values}.

    Values are compared as text; a null is none of them. A `Problem` that names the `key` if there is no such row.
    """
    wanted = [(Column(column), set(texts(values))) for column, values in conditions.items()]
    found = False
    for row in rows:
        if all(row.text_or_none(key, column) in values for column, values in wanted):
            found = True
            yield row
    if conditions and not found:
        raise Problem(f"{key}: no row has {stated(conditions)}: `make values` prints the values that there are.")


def stated(conditions: Mapping) -> str:
    """Conditions in words."""
    return ", ".join(f"{column}: {' or '.join(texts(values))}" for column, values in conditions.items())


def texts(values) -> list[str]:
    """A value of the config, or a list of them, as the texts that rows have."""
    listed = values if isinstance(values, list) else [values]
    return [str(value).lower() if isinstance(value, bool) else str(value) for value in listed]


def of_file(
    path: str, form: str, wanted: list[Column] | None, *, sample_by: str = "line", opened: Callable | None = None
) -> Iterator[tuple[str, dict]]:
    """The rows of one file, one at a time.

    Parameters
    ----------
    path
        Of the file.
    form
        See `file_format`.
    wanted
        What is read of a row; None is all that it has.
    sample_by
        See `read`.
    opened
        Opens the file and decompresses it; None for a file of this machine. Parquet is always one of this machine.

    Yields
    ------
    tuple[str, dict]
        Where in the file the row is, and its values by column.

    Raises
    ------
    ValueError, OSError, csv.Error, RecursionError, pyarrow.ArrowException
        If the file cannot be read as `form`.
    """
    import pyarrow as pa

    if form == "parquet":
        yield from _parquet(path, wanted)
        return
    with (opened or pa.input_stream)(path) as stream:  # which decompresses by the ending
        file = io.BufferedReader(stream)
        if form == "json":
            yield from _json(file)
        elif form == "text":
            yield from _text(_lines(file), sample_by)
        else:
            yield from _cells(_lines(file), "\t" if form == "tsv" else ",", wanted)


def _lines(file: BinaryIO) -> Iterator[str]:
    """The lines of a file in UTF-8, with their ends and without a byte order mark."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            wrong = line[error.start]
            raise ValueError(f"line {number} is not UTF-8, it has the byte 0x{wrong:02x}: convert it") from None
        yield text.removeprefix("\ufeff") if number == 1 else text


def _json(file: BinaryIO) -> Iterator[tuple[str, dict]]:
    """An array of objects, or an object on each line."""
    first = file.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first == b"[":
        for number, row in enumerate(_parsed("".join(_lines(file)))):
            yield f"row {number}", _object(f"row {number}", row)
        return
    rows = _json_lines(file)
    start = [row for row in (next(rows, None), next(rows, None)) if row]
    if len(start) == 1 and _of_columns(list(start[0][1].values())):
        raise ValueError(ONE_OBJECT)
    yield from chain(start, rows)


def _json_lines(file: BinaryIO) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(_lines(file), 1):
        if line.isspace():
            continue
        place = f"line {number}"
        try:
            row = _parsed(line)
        except json.JSONDecodeError as error:
            if line.strip() == "{":
                raise ValueError(ONE_OBJECT) from None
            raise ValueError(f"{place}: {error.msg}") from None
        except RecursionError:
            raise ValueError(f"{place} is nested too deeply") from None
        yield place, _object(place, row)


def _parsed(text: str):
    """JSON, with its numbers as they are written; NaN and Infinity, which JSON does not have, are null."""
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=lambda _: None)


def _object(place: str, row) -> dict:
    if not isinstance(row, dict):
        raise ValueError(f"{place} is no JSON object")
    return row


def _of_columns(values: list) -> bool:
    """Whether the values of an object are columns: objects with the same keys, or lists of one length."""
    if not values or any(type(value) is not type(values[0]) for value in values):
        return False
    if isinstance(values[0], dict):
        return all(value.keys() == values[0].keys() for value in values)
    if len(values) == 1 or not isinstance(values[0], list) or any(isinstance(item, dict) for item in chain(*values)):
        return False  # such as a row with the messages of a conversation
    return len({len(value) for value in values}) == 1


def _cells(lines: Iterable[str], delimiter: str, wanted: list[Column] | None) -> Iterator[tuple[str, dict]]:
    """CSV: every cell is its characters, an empty one is empty text."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = next(reader, [])
    names = header if wanted is None else [column.among(header) for column in wanted] if header else []
    used = {name: header.index(name) for name in names}
    if twice := [name for name in used if header.count(name) > 1]:
        raise ValueError(f"the header has {twice[0]!r} twice")
    try:
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(f"line {reader.line_num} has {len(cells)} cells, and the header {len(header)}")
            yield f"line {reader.line_num}", {name: cells[index] for name, index in used.items()}
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None


def _text(lines: Iterable[str], sample_by: str) -> Iterator[tuple[str, dict]]:
    """Plain text: its lines, its paragraphs, which empty lines separate, or the whole."""
    text, number = "", 0
    for number, line in enumerate(lines, 1):
        text += line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line
        if sample_by == "line":
            yield f"line {number}", {"text": text.removesuffix("\n")}
            text = ""
        elif sample_by == "paragraph" and text.endswith("\n\n"):
            if text != "\n\n":
                yield f"line {number}", {"text": text.removesuffix("\n\n")}
            text = ""
    if text:
        yield f"line {number}", {"text": text}


def _parquet(path: str, wanted: list[Column] | None) -> Iterator[tuple[str, dict]]:
    """Parquet: values have their types; single precision is not written with the digits of double precision."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        used = names if wanted is None else sorted({column.among(names) for column in wanted})
        short = [name for name in used if pa.types.is_float32(file.schema_arrow.field(name).type)]
        for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=used):
            for row in batch.to_pylist():
                exact = {name: float(str(np.float32(row[name]))) for name in short if row[name] is not None}
                yield f"row {number}", row | exact
                number += 1
