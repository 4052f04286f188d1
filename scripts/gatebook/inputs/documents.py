"""Inputs: rows of a dataset become documents by a template, documents become tokens in windows."""

import glob
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from gatebook.files import checksums
from gatebook.files.netcdf import open_lazily
from gatebook.inputs.clusters import groups
from gatebook.inputs.shards import take
from gatebook.inputs.windows import windows
from gatebook.problem import Problem

if TYPE_CHECKING:
    import datasets

NO_PARTS = {"flag_values": np.zeros(1, dtype=np.int8), "flag_meanings": "none"}
FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text", ".text": "text"}


class Document(NamedTuple):
    """A document: the number of its row in the dataset's files, its identifier, its cluster, and its text."""

    row: int
    id: str
    cluster: str
    text: str


class Template(string.Formatter):
    """`str.format` templates over the columns of a row; lists are written one item per line, a null is an error."""

    def get_field(self, field_name, args, kwargs):
        """The value of a field, as `str.format` finds it; a null is refused: it would become the word None."""
        value, first = super().get_field(field_name, args, kwargs)
        if value is None:
            raise ValueError(f"{field_name} is null")
        return value, first

    def convert_field(self, value, conversion):
        """Join lists by line breaks, and leave the rest to `str.format`."""
        if conversion is None and isinstance(value, list | tuple):
            return "\n".join(map(str, value))
        return super().convert_field(value, conversion)

    def columns(self, template: str) -> set[str]:
        """Names of the columns that `template` uses, for instance {"question", "answer"}."""
        fields = (field for _, field, _, _ in self.parse(template) if field is not None)
        return {re.split(r"[.\[]", field)[0] for field in fields}


def file_format(name: str, path: str, stated: str | None = None) -> str:
    """The `datasets` builder for a file: json (also jsonl), parquet, csv or text, as stated or by its ending."""
    if stated:
        return "json" if stated == "jsonl" else stated
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise Problem(f"datasets.{name}.files: {path} has the ending {ending!r}: use {known}, or set `format`.")
    return FORMATS[ending]


def read_rows(
    name: str, files: list[str], builder: str, sample_by: str, cache: Path, limit: int | None
) -> "datasets.Dataset":
    """Rows of local files, in order, read by the `datasets` library.

    Parameters
    ----------
    name
        Of the dataset in the config.
    files
        Paths.
    builder
        Of the library: "json", "csv", "parquet" or "text".
    sample_by
        What a row of a text file is: "line", "paragraph" or "document".
    cache
        A folder for the library's working copy.
    limit
        At most so many rows, or all.

    Returns
    -------
    datasets.Dataset
        Each row is a dictionary, by column.

    Raises
    ------
    Problem
        If the files cannot be read as such.
    """
    import datasets

    datasets.config.HF_HUB_OFFLINE = True  # it would report to the hub that a file is read
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    paths = [glob.escape(file) for file in files]
    options = {"sample_by": sample_by} if builder == "text" else {}
    try:
        rows = datasets.load_dataset(builder, data_files=paths, split="train", cache_dir=str(cache), **options)
    except (datasets.exceptions.DatasetGenerationError, ValueError, OSError, StopIteration) as error:
        reason = (str(error.__cause__ or error) or "it is empty").splitlines()[0]
        raise Problem(
            f"datasets.{name}: {', '.join(files)} cannot be read as {builder} ({reason}): "
            "mend the file or its `format`."
        ) from error
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def render(
    name: str, rows: Iterable[dict], template: str, id_column: str | None, clusters: Sequence[str] | None
) -> Iterator[Document]:
    """Documents of rows: the template filled with each row's columns.

    Parameters
    ----------
    name
        Of the dataset in the config.
    rows
        By column.
    template
        A format string such as "{title}: {text}".
    id_column
        Holds the identifiers; without it they are the numbers of the rows.
    clusters
        That of each row; without them every document is a cluster, named by the number of its row.

    Yields
    ------
    Document

    Raises
    ------
    Problem
        For a column that is not there, a null, and a template that is no format string.
    """
    formatter = Template()
    try:
        wanted = formatter.columns(template) | ({id_column} if id_column else set())
    except ValueError as error:
        raise Problem(
            f"datasets.{name}: the template {template!r} is not a format string ({error}): write {{column}} for a "
            "column, and {{ or }} for a brace."
        ) from error
    for number, row in enumerate(rows):
        if missing := sorted(wanted - set(row)):
            columns = ", ".join(sorted(row))
            raise Problem(
                f"datasets.{name}: there is no column {missing[0]!r}; the columns are {columns}: correct `template` or "
                "`id`."
            )
        try:
            text = formatter.vformat(template, (), row)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
            raise Problem(
                f"datasets.{name}: the template {template!r} does not fit row {number} ({error!r}): "
                "correct the template or the row."
            ) from error
        cluster = str(number) if clusters is None else str(clusters[number])
        yield Document(number, str(row[id_column]) if id_column else str(number), cluster, text)


def tokenize(
    name: str,
    documents: Iterable[Document],
    tokenizer,
    *,
    window: int,
    token_limit: int | None,
    minimum_tokens: int | None,
) -> xr.Dataset:
    """Tokens of a dataset as a CF indexed ragged array.

    Special tokens are those that the tokenizer adds by itself.

    Parameters
    ----------
    name
        Of the dataset in the config.
    documents
        See `render`.
    tokenizer
        Of the transformers library.
    window
        Tokens that the model sees at once; a longer document is cut into even windows.
    token_limit
        Where it is reached the last document is cut; a single token that fits is left out.
    minimum_tokens
        Shorter documents are left out and counted in the attribute `documents_left_out`.

    Returns
    -------
    xarray.Dataset
        `token_id(token)` int32; `document_index(token)` int32, the document that a token belongs to; `position(token)`
        int32, its place in its window; `role`, `phase` (token) int8, indices into the attribute `flag_meanings`: who
        speaks, and in which part of an answer; of plain text "none". `text(document)`, `document_tokens(document)`
        int32, `row(document)` int64, the number of its row; coordinates `document_id`, `cluster`, `group` (document),
        see `clusters`.

    Raises
    ------
    Problem
        If there is no document, or one is shorter than 2 tokens and no minimum is given.
    """
    kept, ids, positions, left_out, total = [], [], [], 0, 0
    for document in documents:
        if token_limit is not None and token_limit - total < 2:
            break
        tokens = np.asarray(tokenizer(document.text, verbose=False)["input_ids"], dtype=np.int32)
        if len(tokens) < (minimum_tokens or 2):
            if minimum_tokens is None:
                raise Problem(
                    f"datasets.{name}: document {document.id} has {len(tokens)} token(s) ({document.text[:40]!r}), and "
                    f"routing needs 2: mend the data, or set datasets.{name}.limits.minimum_tokens to leave such "
                    "documents out."
                )
            left_out += 1
            continue
        if token_limit is not None:
            tokens = tokens[: token_limit - total]
        starts = windows(len(tokens), window)
        positions.append(np.arange(len(tokens)) - np.repeat(starts, np.diff(np.append(starts, len(tokens)))))
        ids.append(tokens)
        kept.append(document)
        total += len(tokens)
    if not kept:
        raise Problem(
            f"datasets.{name} has no document ({left_out} left out by minimum_tokens): check its files, template and "
            "limits."
        )
    lengths = np.array([len(tokens) for tokens in ids], dtype=np.int32)
    return xr.Dataset(
        {
            "token_id": ("token", np.concatenate(ids), {"long_name": "token id"}),
            "document_index": (
                "token",
                np.repeat(np.arange(len(kept), dtype=np.int32), lengths),
                {"long_name": "index of the token's document", "instance_dimension": "document"},
            ),
            "position": (
                "token",
                np.concatenate(positions).astype(np.int32),
                {"long_name": "position in the window that the model sees", "units": "tokens"},
            ),
            "role": ("token", np.zeros(total, dtype=np.int8), {"long_name": "who speaks"} | NO_PARTS),
            "phase": ("token", np.zeros(total, dtype=np.int8), {"long_name": "part of an answer"} | NO_PARTS),
            "text": ("document", _of(kept, "text"), {"long_name": "text"}),
            "document_tokens": ("document", lengths, {"long_name": "tokens of the document", "units": "tokens"}),
            "row": ("document", np.array([document.row for document in kept]), {"long_name": "row in the files"}),
        },
        coords={
            "document_id": ("document", _of(kept, "id")),
            "cluster": ("document", _of(kept, "cluster"), {"long_name": "cluster of documents that are alike"}),
            "group": ("document", groups(_of(kept, "cluster")), {"long_name": "group of clusters"}),
        },
        attrs={"featureType": "indexed ragged array", "window": window, "documents_left_out": left_out},
    )


def _of(documents: list[Document], part: str) -> np.ndarray:
    """One part of every document, text (document,)."""
    return np.array([getattr(document, part) for document in documents], dtype=object)


def tokens_sha256(tokens: xr.Dataset) -> str:
    """The checksum of what a model is given: token ids, and where documents and windows begin."""
    return checksums.array_sha256(*(tokens[part].values for part in ("token_id", "document_index", "position")))


def load_tokens(path: str | Path, shard: int = 1, shards: int = 1) -> xr.Dataset:
    """Read a dataset's token file, or a shard of it (see `shards.take`).

    `text` is left out: xarray would pad every document to the longest one in memory.
    """
    with open_lazily(path, leave_out="text") as tokens:
        return tokens.load() if shards == 1 else take(tokens, shard, shards).load()


def describe_dataset(path: str | Path) -> dict:
    """The attributes of a dataset's token file with its numbers of `documents`, `clusters` and `tokens`.

    Published counts have no token file: from their tally, which knows `tokens` alone.
    """
    with open_lazily(path, leave_out="text") as dataset:
        if "token" in dataset.sizes:
            clusters = len(np.unique(dataset["cluster"].values.astype(str)))
            sizes = {"documents": dataset.sizes["document"], "clusters": clusters, "tokens": dataset.sizes["token"]}
            return dataset.attrs | sizes
        return dataset.attrs | {"tokens": int(dataset["tokens"].sum())}
