"""Pairs of prompts that the embedded model tells apart: word problems, and brackets in code."""

import random
from collections.abc import Iterator, Sequence

from gatebook.inputs.demo import corpora, generated
from gatebook.inputs.tasks.base import Pair, encode, of_texts
from gatebook.problem import Problem

PAIRS, SEED = 40, 5
ANSWERS = (" +", " -")
"""What follows the first number of an answer, if the question ends in now, and in left."""
OPENED, CLOSED = ("(", "["), (")", "]")
LONGEST = 40
"""Tokens of a prompt of code, from the beginning of its document."""


def operator(place: str, tokenizer, seed: int, count: int) -> list[Pair]:
    """Word problems that end in "now", and in "left" when corrupted, up to the first number of the answer.

    Each has draws of its own of the numbers, names and things, so it is independent of the others.
    """
    rng, known = random.Random(seed), {text for text, _ in generated.QUESTIONS}
    questions = [text for text in sorted(known) if text.endswith(" now?") and f"{text[:-5]} left?" in known]
    found = []
    for number in range(count):
        a, b = 11 + int(60 * rng.random()), 2 + int(19 * rng.random())
        name, friend = (_drawn(rng, names) for names in (generated.NAMES[::2], generated.NAMES[1::2]))
        words = {"name": name, "friend": friend, "things": _drawn(rng, generated.THINGS), "b": b, "sum": a + b}
        clean = f"{questions[number % len(questions)].format(**words)} {a + b}"
        corrupt = clean.replace(" now? ", " left? ")
        found.append(of_texts(place, tokenizer, clean, corrupt, *ANSWERS, source=f"problem {number}"))
    return found


def bracket(place: str, tokenizer, files: Sequence[str], count: int) -> list[Pair]:
    """Held-out code up to a token that is ")" alone; corrupt, the token that opened it is "[" in the place of "(".

    One for each document, of the documents' order, in turn of the files. Documents of one cluster are not independent.
    """
    documents = [corpora.read(file) for file in files]
    found = []
    for turn in range(max(map(len, documents))):
        for file, of_file in zip(files, documents, strict=True):
            for document in of_file[turn : turn + 1]:
                if len(found) < count and (made := _closed(tokenizer, document.text)):
                    found.append(made._replace(source=f"{file.rpartition('/')[2]}: {document.cluster}"))
    if not found:
        raise Problem(f"{place}: no held-out code has a pair of brackets of single tokens: remove it from study.tasks.")
    return found


def _drawn(rng: random.Random, options: Sequence[str]) -> str:
    """One of them; only `random()` gives the same numbers in every version of Python."""
    return options[int(rng.random() * len(options))]


def _closed(tokenizer, text: str) -> Pair | None:
    """The pair of the first bracket of a document that can be told by its opening one, without its source."""
    tokens = encode(tokenizer, text)
    offsets = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    at = {span: place for place, span in enumerate(offsets)}
    for opened, closed in _matched(text):
        first, last = at.get((opened, opened + 1)), at.get((closed, closed + 1))
        if first is None or last is None or last > LONGEST or last - first < 3:
            continue
        prompts = text[:closed], f"{text[:opened]}{OPENED[1]}{text[opened + 1 : closed]}"
        try:
            made = of_texts("", tokenizer, *prompts, *CLOSED, source="")
        except Problem:  # the tokens around a bracket are others with it
            continue
        if made.clean == tokens[:last] and sum(a != b for a, b in zip(made.clean, made.corrupt, strict=True)) == 1:
            return made
    return None


def _matched(text: str) -> Iterator[tuple[int, int]]:
    """Places of "(" and of the ")" that closes it, by the latter, where brackets between them match."""
    waiting: list[int] = []
    for place, character in enumerate(text):
        if character in "([{":
            waiting.append(place)
        elif character in ")]}":
            if waiting and text[waiting[-1]] == "([{"[")]}".index(character)]:
                opened = waiting.pop()
                if character == ")":
                    yield opened, place
            else:
                waiting.clear()
