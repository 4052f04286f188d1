"""Corpora of the embedded demonstration: documents of many domains, from text that the installed packages bring."""

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from gatebook.inputs.demo import generated, harvested
from gatebook.inputs.demo.packages import REMEDY, order
from gatebook.problem import Problem

HARVESTED: dict[str, Callable[[], Iterator[harvested.Source]]] = {
    "python": harvested.python,
    "cpp": harvested.cpp,
    "web": harvested.web,
    "console": harvested.console,
    "algebra": harvested.algebra,
    "unicode": harvested.unicode,
    "mathematics": harvested.mathematics,
    "references": harvested.references,
    "science": harvested.science,
    "comments": harvested.comments,
    "messages": harvested.messages,
    "readme": harvested.readme,
}
GENERATED: dict[str, Callable[[str], Iterator[harvested.Source]]] = {
    "arithmetic": generated.arithmetic,
    "stories": generated.stories,
}

SPLITS = ("train", "held_out")
HELD_OUT_PERCENT = 45
DOCUMENT_CHARACTERS = (300, 700)
BOILERPLATE = re.compile(r"(?i)copyright|licen[cs]ed? |all rights reserved|SPDX|@author|-\*- ")


class Document(NamedTuple):
    """A piece of text with a name that is unique in its domain, and the cluster, the independent source, that it is of.

    A cluster is a file, a block of Unicode, or in a generated domain what draws of its own stand behind.
    """

    id: str
    cluster: str
    text: str


def harvest(
    domains: list[str], train_characters: int, held_out_characters: int, held_out_clusters: int, processes: int = 1
) -> dict[str, dict[str, list[Document]]]:
    """Documents of each domain and split, see `harvest_domain`.

    Parameters
    ----------
    domains
        Names of domains.
    train_characters, held_out_characters
        At most so many of each.
    held_out_clusters
        At least so many are held out.
    processes
        So many share the domains.

    Returns
    -------
    dict[str, dict[str, list[Document]]]
        By domain and split.
    """
    limits = dict(zip(SPLITS, (train_characters, held_out_characters), strict=True))
    of_one = functools.partial(harvest_domain, limits=limits, clusters=held_out_clusters)
    if processes == 1:
        return {name: of_one(name) for name in domains}
    with ProcessPoolExecutor(processes) as pool:
        return dict(zip(domains, pool.map(of_one, domains), strict=True))


def harvest_domain(name: str, limits: dict[str, int], clusters: int) -> dict[str, list[Document]]:
    """Documents of a domain by split; the first ones are of as many clusters as there are, see `interleave`.

    A cluster (a file, for instance) is cut into documents of 300 to 700 characters. Text that a domain has shown
    before (compared by letters and digits only) is left out. A whole cluster is in one split: the hash of its name
    sends 45 % of them to "held_out" and the rest to "train", until a split has its characters; a generated domain
    writes each split by itself. So that no cluster weighs much, each gives at most an even share of a split's
    characters among `clusters`.
    Raises `Problem` for an unknown domain, a package that is not installed, a domain without training text, and one
    that holds out fewer clusters or has a cluster with more than three even shares of the held-out characters.
    """
    if name in HARVESTED:
        sources, where = HARVESTED[name](), split
    elif name in GENERATED:
        sources = itertools.chain.from_iterable(map(GENERATED[name], SPLITS))
        where = generated.split
    else:
        known = ", ".join([*HARVESTED, *GENERATED])
        raise Problem(f"demo.corpora.domains: there is no domain {name!r}; choose from {known}.")
    corpus = _fill(documents(sources, name in HARVESTED), where, limits, clusters)
    if not corpus["train"]:
        raise Problem(f"Domain {name} has no train document: {REMEDY}.")
    _check_clusters(name, corpus["held_out"], clusters)
    return corpus


def documents(found: Iterable[harvested.Source], different: bool) -> Iterator[Document]:
    """Documents of sources, each a cluster, without text that came before; repeated pieces under 40 characters stay.

    Lines about licences and owners are left out too, and, if documents must be `different`, those of which more than
    half of the runs of eight words came before: variants of the same file, for instance.
    """
    seen, written, runs = set(), set(), set()
    for cluster, blocks in found:
        fresh = []
        for piece in itertools.chain.from_iterable(map(pieces, blocks)):
            key = normalise(piece)
            if key not in seen and not BOILERPLATE.search(piece):
                fresh.append(piece)
            if len(key) >= 40:
                seen.add(key)
        for number, text in enumerate(pack(fresh)):
            key = normalise(text)
            words = key.split()
            own = set(zip(*(words[start:] for start in range(8)), strict=False)) if different else set()
            if key not in written and 2 * len(own & runs) <= len(own):
                written.add(key)
                runs |= own
                yield Document(f"{cluster}#{number}", cluster, text)


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
    """Join pieces, in order, into texts of 300 to 700 characters; a rest that is shorter is left out."""
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


def split(cluster: str) -> str:
    """The split that a harvested cluster belongs to, by the hash of its name."""
    return SPLITS[int(order(f"split {cluster}"), 16) % 100 < HELD_OUT_PERCENT]


def interleave(documents: Iterable[Document]) -> list[Document]:
    """First one document of every cluster, then the second ones and so on; clusters, and documents in them, by hash."""
    by_cluster = {}
    for document in sorted(documents, key=lambda document: order(document.id)):
        by_cluster.setdefault(document.cluster, []).append(document)
    rounds = itertools.zip_longest(*(by_cluster[cluster] for cluster in sorted(by_cluster, key=order)))
    return [document for turn in rounds for document in turn if document]


def largest_share(documents: list[Document]) -> float:
    """The share of the characters that the cluster with most of them has."""
    characters = Counter()
    for document in documents:
        characters[document.cluster] += len(document.text)
    return max(characters.values()) / characters.total()


def _fill(
    found: Iterable[Document], where: Callable[[str], str], limits: dict[str, int], clusters: int
) -> dict[str, list[Document]]:
    """Documents of each split, as many as its limit in characters and the share of a cluster admit."""
    kept = {name: [] for name in limits}
    room = dict(limits)
    for cluster, of_cluster in itertools.groupby(found, key=lambda document: document.cluster):
        name = where(cluster)
        left = min(room[name], limits[name] // clusters)
        for document in sorted(of_cluster, key=lambda document: order(document.id)):
            left -= len(document.text)
            if left < 0:
                break
            room[name] -= len(document.text)
            kept[name].append(document)
        if max(room.values()) < DOCUMENT_CHARACTERS[1]:
            break
    return {name: interleave(documents) for name, documents in kept.items()}


def _check_clusters(domain: str, held_out: list[Document], clusters: int) -> None:
    found = len({document.cluster for document in held_out})
    if found < clusters:
        raise Problem(
            f"demo.corpora.held_out_clusters is {clusters}, but domain {domain} holds out {found}: lower it, raise "
            "demo.corpora.held_out_characters, or leave the domain out."
        )
    if (share := largest_share(held_out)) > 3 / clusters:
        raise Problem(
            f"Domain {domain} has {100 * share:.0f} % of its held-out text from one cluster, more than three of "
            f"{clusters} even shares: lower demo.corpora.held_out_characters, or leave the domain out."
        )


def read(path: str | Path) -> list[Document]:
    """Documents of a corpus file: JSON lines with the keys id, cluster and text."""
    with Path(path).open(encoding="utf-8") as lines:
        return [Document(**json.loads(line)) for line in lines]


def share(documents: Iterable[Document], characters: int) -> list[str]:
    """Texts of the first documents that have at most this many characters together."""
    lengths = itertools.accumulate(len(document.text) for document in documents)
    return [document.text for document, length in zip(documents, lengths, strict=True) if length <= characters]
