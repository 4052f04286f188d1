"""Inputs: rows of a dataset become documents by a template, documents become tokens in windows."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from gatebook.files import checksums
from gatebook.files.netcdf import open_lazily
from gatebook.inputs import clusters, rows
from gatebook.inputs.chats import Chat
from gatebook.inputs.rows import Row
from gatebook.inputs.shards import take
from gatebook.inputs.templates import Column, Template, parse
from gatebook.inputs.variants import GENERATED, GIVEN, TEMPLATE
from gatebook.inputs.windows import windows
from gatebook.problem import Problem


class Document(NamedTuple):
    """A document: the number of its row in the dataset's files, its identifier, its cluster, and its text.

    spoken: of a conversation its stretches, (end, role), in order and without a gap.
    """

    row: int
    id: str
    cluster: str
    text: str
    spoken: tuple[tuple[int, str], ...] = ()


def of_dataset(name: str, files: list[str], entry: dict, tokenizer=None) -> Iterator[Document]:
    """The documents of the dataset `name`, made of the rows of files as its `entry` in the catalogue says.

    `tokenizer`, of the transformers library, has the chat template by which conversations are written.
    """
    if "chat" in entry:
        column = Column("messages" if entry["chat"] is True else entry["chat"])
        template = Chat(column, entry["roles"], tokenizer, entry.get("chat_template"), "generate" in entry)
        used = [column]
    else:
        template = parse(f"datasets.{name}.template", entry["template"])
        used = template.columns
    identifier = Column(entry["id"]) if "id" in entry else None
    conditions = entry.get("where", {})
    columns = [Column(column) for column in entry["cluster"]]
    read = partial(rows.read, f"datasets.{name}", files, stated=entry.get("format"), sample_by=entry["sample_by"])
    wanted = [*used, *filter(None, [identifier]), *columns, *map(Column, conditions)]
    kept = islice(rows.where(f"datasets.{name}.where", read(wanted), conditions), entry["limits"].get("documents"))
    return render(name, kept, template, identifier, clusters.of_rows(name, read, columns))


def render(
    name: str, given: Iterable[Row], template: Template | Chat, id_column: Column | None, cluster: Callable[[Row], str]
) -> Iterator[Document]:
    """Documents of rows: the template filled with each row's columns, or its messages as the chat template has them.

    Parameters
    ----------
    name
        Of the dataset in the config.
    given
        The rows, see `rows.read`.
    template
        Of the dataset, or how its conversations are written.
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
        if isinstance(template, Chat):
            text, spoken = row.written(f"datasets.{name}.chat", template)
        else:
            text, spoken = row.text(f"datasets.{name}.template", template), ()
        identifier = row.label(f"datasets.{name}.id", id_column) if id_column else str(row.number)
        yield Document(row.number, identifier, cluster(row), text, spoken)


def tokenize(
    name: str,
    documents: Iterable[Document],
    tokenizer,
    *,
    window: int,
    token_limit: int | None,
    minimum_tokens: int | None,
    roles: Sequence[str] = (),
    continued: int = 0,
) -> xr.Dataset:
    """Tokens of a dataset as a CF indexed ragged array.

    Special tokens are those that the tokenizer adds by itself, and in conversations those of the chat template. A file
    cannot hold the character NUL (U+0000) in texts: tokens are made of it, and the stored texts have its symbol in its
    place.

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
    roles
        Of the speakers of conversations. A token is spoken by who speaks its first character.
    continued
        How many tokens a model may add to each document. They count for `token_limit`, where no document is cut then,
        and a document that does not fit into a window with them is left out and counted.

    Returns
    -------
    xarray.Dataset
        `token_id(token)` int32; `document_index(token)` int32, the document that a token belongs to; `position(token)`
        int32, its place in its window; `role`, `phase` (token) int8, indices into the attribute `flag_meanings`: who
        speaks, and whether a model generated it; "none" where nobody speaks, and where nothing is generated.
        `text(document)`, `document_tokens(document)` int32, `row(document)` int64, the number of its row; coordinates
        `document_id`, `cluster`, `group` (document), see `clusters`. The attribute `ids_repeated` says how many
        documents have the identifier of an earlier one: theirs have a number after it.

    Raises
    ------
    Problem
        If there is no document, or one is shorter than 2 tokens and no minimum is given.
    """
    kept, ids, positions, speakers, left_out, total = [], [], [], [], 0, 0
    meanings = [TEMPLATE, *roles] if roles else ["none"]
    for document in documents:
        if token_limit is not None and token_limit - total < 2:
            break
        tokens, speaker = _encoded(name, document, tokenizer, meanings)
        if len(tokens) < (minimum_tokens or 2):
            if minimum_tokens is None:
                raise Problem(
                    f"datasets.{name}: document {document.id} has {len(tokens)} token(s) ({document.text[:40]!r}), and "
                    f"routing needs 2: mend the data, or set datasets.{name}.limits.minimum_tokens to leave such "
                    "documents out."
                )
            left_out += 1
            continue
        if continued and len(tokens) + continued > window:
            left_out += 1
            continue
        if continued and token_limit is not None and total + len(tokens) + continued > token_limit:
            break
        if token_limit is not None:
            tokens, speaker = tokens[: token_limit - total], speaker[: token_limit - total]
        starts = windows(len(tokens), window)
        positions.append(np.arange(len(tokens)) - np.repeat(starts, np.diff(np.append(starts, len(tokens)))))
        ids.append(tokens)
        speakers.append(speaker)
        kept.append(document)
        total += len(tokens) + continued
    if not kept:
        longer = f", or longer than a window of {window} with the {continued} of `generate`" if continued else ""
        raise Problem(
            f"datasets.{name} has no document ({left_out} left out by minimum_tokens{longer}): check its files, "
            "template and limits."
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
            "role": ("token", np.concatenate(speakers), {"long_name": "who speaks"} | flags(meanings)),
            "phase": (
                "token",
                np.zeros(lengths.sum(), dtype=np.int8),
                {"long_name": "whether a model generated it"} | flags([GIVEN, GENERATED] if continued else ["none"]),
            ),
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


def flags(meanings: Sequence[str]) -> dict:
    """The attributes of a variable with a number for each of some meanings, as the CF conventions have them."""
    return {"flag_values": np.arange(len(meanings), dtype=np.int8), "flag_meanings": " ".join(meanings)}


def _encoded(name: str, document: Document, tokenizer, meanings: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The token ids of a document, int32, and who speaks each, int8, an index into `meanings`: (token,)."""
    if not document.spoken:
        tokens = np.asarray(tokenizer(document.text, verbose=False)["input_ids"], dtype=np.int32)
        return tokens, np.zeros(len(tokens), dtype=np.int8)
    if not tokenizer.is_fast:
        raise Problem(
            f"datasets.{name}.chat: the tokenizer in {tokenizer.name_or_path} does not say where in a text its tokens "
            "are: put its tokenizer.json there."
        )
    encoded = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends, roles = zip(*document.spoken, strict=True)
    first = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:, 0]
    speaker = np.array([meanings.index(role) for role in roles], dtype=np.int8)
    return np.asarray(encoded["input_ids"], dtype=np.int32), speaker[np.searchsorted(ends, first, side="right")]


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
