"""Corpora of the embedded demonstration: documents of many domains, from text that the installed packages bring."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gatebook.inputs.demo import generated, harvested
from gatebook.inputs.demo.packages import REMEDY, order
from gatebook.problem import Problem

DOMAINS: dict[str, Callable[[], Iterator[harvested.Source]]] = {
    "python": harvested.python,
    "cpp": harvested.cpp,
    "javascript": harvested.javascript,
    "json": harvested.json_text,
    "console": harvested.console,
    "tables": harvested.tables,
    "unicode": harvested.unicode,
    "mathematics": harvested.mathematics,
    "science": harvested.science,
    "messages": harvested.messages,
    "readme": harvested.readme,
    "legal": harvested.legal,
    "arithmetic": generated.arithmetic,
    "stories": generated.stories,
}

SPLITS = ("train", "held_out")
HELD_OUT_PERCENT = 25
DOCUMENT_CHARACTERS = (400, 1_500)
BOILERPLATE = re.compile(r"(?i)copyright|licen[cs]ed? |all rights reserved|SPDX|@author|-\*- ")


class Document(NamedTuple):
    """A piece of text with a name that is unique in its domain."""

    id: str
    text: str


def harvest(
    domains: list[str], train_characters: int, held_out_characters: int
) -> dict[str, dict[str, list[Document]]]:
    """Documents of each domain and split, in hash order of their names.

    A source (a file, for instance) is cut into documents of 400 to 1,500 characters. Text that a domain has shown
    before (compared by letters and digits only) is left out. The hash of its name sends one document in four to
    "held_out" and the rest to "train", until the next one would exceed the split's characters.
    Raises `Problem` for an unknown domain, a package that is not installed and a domain without text.
    """
    limits = dict(zip(SPLITS, (train_characters, held_out_characters), strict=True))
    corpora = {}
    for name in domains:
        if name not in DOMAINS:
            raise Problem(f"demo.corpora.domains: there is no domain {name!r}; choose from {', '.join(DOMAINS)}.")
        corpora[name] = _fill(documents(DOMAINS[name](), keep_boilerplate=name == "legal"), limits)
        for split, found in corpora[name].items():
            if not found:
                raise Problem(f"Domain {name} has no {split} document: {REMEDY}.")
    return corpora


def documents(found: Iterable[harvested.Source], keep_boilerplate: bool = False) -> Iterator[Document]:
    """Documents of sources, without text that came before; repeated short pieces (under 40 characters) stay.

    Lines about licences and owners are left out too, unless `keep_boilerplate`.
    """
    seen, written = set(), set()
    for name, blocks in found:
        fresh = []
        for piece in itertools.chain.from_iterable(map(pieces, blocks)):
            key = normalise(piece)
            if key not in seen and (keep_boilerplate or not BOILERPLATE.search(piece)):
                fresh.append(piece)
            if len(key) >= 40:
                seen.add(key)
        for number, text in enumerate(pack(fresh)):
            if normalise(text) not in written:
                written.add(normalise(text))
                yield Document(f"{name}#{number}", text)


def pieces(block: str) -> list[str]:
    """A block as it is, or cut at line breaks and then after sentences where it is longer than a document may be.

    What is too long and has no such places is left out.
    """
    longest = DOCUMENT_CHARACTERS[1]
    parts = [block]
    for place in (r"(?<=\n)", r"(?<=[.;:] )"):
        parts = [piece for part in parts for piece in ([part] if len(part) <= longest else re.split(place, part))]
    return [part for part in parts if 0 < len(part) <= longest]


def pack(parts: Iterable[str]) -> Iterator[str]:
    """Join pieces, in order, into texts of 400 to 1,500 characters; a rest that is shorter is left out."""
    shortest, longest = DOCUMENT_CHARACTERS
    text = ""
    for part in (*parts, None):
        if part is None or len(text) + len(part) > longest:
            if len(text.strip()) >= shortest:
                yield text.strip("\n") + "\n"
            text = ""
        text += part or ""


def normalise(text: str) -> str:
    """Text by its letters and digits only, in lower case: what two copies of the same text share."""
    return re.sub(r"\W+", " ", text).strip().lower()


def split(name: str) -> str:
    """The split that a document belongs to, by the hash of its name."""
    return SPLITS[int(order(f"split {name}"), 16) % 100 < HELD_OUT_PERCENT]


def _fill(found: Iterable[Document], limits: dict[str, int]) -> dict[str, list[Document]]:
    """The first documents of each split, as many as its limit in characters admits, in hash order of their names."""
    kept = {name: [] for name in limits}
    room = dict(limits)
    for document in found:
        where = split(document.id)
        room[where] -= len(document.text)
        if room[where] >= 0:
            kept[where].append(document)
        elif max(room.values()) < 0:
            break
    return {name: sorted(documents, key=lambda document: order(document.id)) for name, documents in kept.items()}


def read(path: str | Path) -> list[Document]:
    """Documents of a corpus file: JSON lines with the keys id and text."""
    with Path(path).open(encoding="utf-8") as lines:
        return [Document(**json.loads(line)) for line in lines]


def share(documents: Iterable[Document], characters: int) -> list[str]:
    """Texts of the first documents that have at most this many characters together."""
    lengths = itertools.accumulate(len(document.text) for document in documents)
    return [document.text for document, length in zip(documents, lengths, strict=True) if length <= characters]
