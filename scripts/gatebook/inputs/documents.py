"""Inputs: rows of a dataset become documents by a template, documents become tokens in windows."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from gatebook.files import checksums
from gatebook.files.netcdf import open_lazily
from gatebook.inputs import clusters, rows
from gatebook.inputs.rows import Row
from gatebook.inputs.shards import take
from gatebook.inputs.templates import Column, Template, parse
from gatebook.inputs.windows import windows
from gatebook.problem import Problem

NO_PARTS = {"flag_values": np.zeros(1, dtype=np.int8), "flag_meanings": "none"}


class Document(NamedTuple):
    """A document: the number of its row in the dataset's files, its identifier, its cluster, and its text."""

    row: int
    id: str
    cluster: str
    text: str


def of_dataset(name: str, files: list[str], entry: dict) -> Iterator[Document]:
    """The documents of the dataset `name`, made of the rows of files as its `entry` in the catalogue says."""
    template = parse(f"datasets.{name}.template", entry["template"])
    identifier = Column(entry["id"]) if "id" in entry else None
    conditions = entry.get("where", {})
    columns = [Column(column) for column in entry["cluster"]]
    read = partial(rows.read, f"datasets.{name}", files, stated=entry.get("format"), sample_by=entry["sample_by"])
    wanted = [*template.columns, *filter(None, [identifier]), *columns, *map(Column, conditions)]
    kept = islice(rows.where(f"datasets.{name}.where", read(wanted), conditions), entry["limits"].get("documents"))
    return render(name, kept, template, identifier, clusters.of_rows(name, read, columns))


def render(
    name: str, given: Iterable[Row], template: Template, id_column: Column | None, cluster: Callable[[Row], str]
) -> Iterator[Document]:
    """Documents of rows: the template filled with each row's columns.

    Parameters
    ----------
    name
        Of the dataset in the config.
    given
        The rows, see `rows.read`.
    template
        Of the dataset.
    id_column
        Holds the identifiers; without it they are the numbers of the rows.
    cluster
        Names that of a row, see `clusters.of_rows`.

    Yields
    ------
    Document

    Raises
    ------
    Problem
        For a column that is not there, a value that is no text, and an empty identifier.
    """
    for row in given:
        text = row.text(f"datasets.{name}.template", template)
        identifier = row.label(f"datasets.{name}.id", id_column) if id_column else str(row.number)
        yield Document(row.number, identifier, cluster(row), text)


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

    Special tokens are those that the tokenizer adds by itself. A file cannot hold the character NUL (U+0000) in texts:
    tokens are made of it, and the stored texts have its symbol in its place.

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
        see `clusters`. The attribute `ids_repeated` says how many documents have the identifier of an earlier one:
        theirs have a number after it.

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
    stated = _of(kept, "id")
    names = told_apart(stated)
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
            "document_id": ("document", names),
            "cluster": ("document", _of(kept, "cluster"), {"long_name": "cluster of documents that are alike"}),
            "group": ("document", clusters.groups(_of(kept, "cluster")), {"long_name": "group of clusters"}),
        },
        attrs={
            "featureType": "indexed ragged array",
            "window": window,
            "documents_left_out": left_out,
            "ids_repeated": int((names != stated).sum()),
        },
    )


def _of(documents: list[Document], part: str) -> np.ndarray:
    """One part of every document as a file can hold it, text (document,)."""
    texts = [getattr(document, part).replace("\0", "\N{SYMBOL FOR NULL}") for document in documents]
    return np.array(texts, dtype=object)


def told_apart(names: np.ndarray) -> np.ndarray:
    """The names (document,), one that came before with a number after it."""
    found: dict[str, None] = {}
    times: Counter[str] = Counter()
    for name in names:
        distinct = name
        while distinct in found:
            times[name] += 1
            distinct = f"{name} ({times[name] + 1})"
        found[distinct] = None
    return np.array(list(found), dtype=object)


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
