"""Probes: labelled texts about a word of several meanings, or about one capability beside neutral text.

A file of probes is a YAML list. Each item has `meanings`, a list of {meaning_label, text_samples}, and `token`, the
string whose routing is read, with its blank; without `token` every token of the texts is read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from gatebook.inputs.demo import scenes
from gatebook.inputs.demo.generated import NAMES
from gatebook.problem import Problem

FEWEST_LABELS = 2


class Sample(NamedTuple):
    """A text with a label.

    source: what it shares with other samples, such as a template, its own text if it shares nothing: samples of one
    source are not independent. at_most: the sample whose number of tokens it is cut to, by its place; None if it stays
    whole.
    """

    label: str
    text: str
    source: str
    at_most: int | None = None


class Probe(NamedTuple):
    """Labelled samples about a `token`, or about all tokens (None); a source has samples of one label only."""

    name: str
    token: str | None
    samples: list[Sample]

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the samples."""
        return list(dict.fromkeys(sample.label for sample in self.samples))


def of_demo() -> list[Probe]:
    """The words of the embedded stories, each with the sentences of its meanings that no training text holds.

    Names in the sentences follow one another in alphabetical order.
    """
    found = []
    for word, meanings in scenes.SCENES.items():
        samples = []
        for label, sentences in meanings.items():
            for place, sentence in enumerate(sentences["held_out"]):
                name, friend = (NAMES[(len(samples) + more) % len(NAMES)] for more in (0, 7))
                samples.append(Sample(label, sentence.format(name=name, friend=friend), f"{label} {place}"))
        found.append(Probe(word, f" {word}", samples))
    return found


def read(path: str) -> list[Probe]:
    """The probes of a YAML file; a `Problem` names the file, the place and the remedy."""
    try:
        items = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"probes: {path} cannot be read ({error}): write a YAML file in UTF-8.") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise Problem(f"probes: {path} is no YAML of plain values ({reason}): mend the file.") from None
    if not isinstance(items, list) or not items:
        raise Problem(f"probes: {path} is not a list of probes: begin each with `- token:` or `- meanings:`.")
    return [_probe(item, f"{path}, probe {number}", number) for number, item in enumerate(items, 1)]


def _probe(item, place: str, number: int) -> Probe:
    """A probe of an item of a file."""
    if not isinstance(item, dict) or not {"meanings"} <= item.keys() <= {"token", "meanings"}:
        raise Problem(f"probes: {place} does not have the keys token and meanings alone: write these.")
    token, meanings = item.get("token"), item["meanings"]
    if "token" in item and (not isinstance(token, str) or not token):
        raise Problem(f"probes: {place}: token is {token!r}: write a text in quotes, or remove the key.")
    if not isinstance(meanings, list) or len(meanings) < FEWEST_LABELS:
        raise Problem(f"probes: {place}: meanings has not {FEWEST_LABELS} items: list at least so many.")
    samples = [sample for meaning in meanings for sample in _samples(meaning, place)]
    known: dict[str, str] = {}
    for label, text, *_ in samples:
        if known.setdefault(text, label) != label:
            raise Problem(f"probes: {place}: {text[:40]!r} is a sample of {known[text]} and of {label}: remove one.")
    if len(set(known.values())) != len(meanings):
        raise Problem(f"probes: {place}: two meanings have one meaning_label: write another one.")
    return Probe(token.strip() or repr(token) if token else f"probe {number}", token, samples)


def _samples(meaning, place: str) -> list[Sample]:
    """The samples of a meaning."""
    if not isinstance(meaning, dict) or meaning.keys() != {"meaning_label", "text_samples"}:
        raise Problem(f"probes: {place}: a meaning has not the keys meaning_label and text_samples alone: write these.")
    label, texts = meaning["meaning_label"], meaning["text_samples"]
    if not isinstance(label, str) or not label:
        raise Problem(f"probes: {place}: meaning_label is {label!r}: write a text in quotes.")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise Problem(f"probes: {place}: text_samples of {label} is no list of texts: write each in quotes.")
    return [Sample(label, text, text) for text in texts]


def told_apart(catalogued: dict[str, Sequence[Probe]]) -> list[Probe]:
    """The probes of several entries of the catalogue, with the entry before a name that two of them share."""
    names = [probe.name for found in catalogued.values() for probe in found]
    found, taken = [], set()
    for entry, probes in catalogued.items():
        for probe in probes:
            name = probe.name if names.count(probe.name) == 1 and probe.name != "pooled" else f"{entry}: {probe.name}"
            number = 1
            while name in taken:
                number += 1
                name = f"{entry}: {probe.name} ({number})"
            taken.add(name)
            found.append(probe._replace(name=name))
    return found
