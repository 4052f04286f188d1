"""Prompts that ask for one capability, made from templates, each beside neutral text of as many tokens."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gatebook.inputs.demo.generated import DAYS, MONTHS, NAMES, THINGS
from gatebook.inputs.probes import Probe, Sample

NEUTRAL = "neutral"
CITIES = (
    ("Paris", "France"), ("Rome", "Italy"), ("Madrid", "Spain"), ("Berlin", "Germany"), ("Vienna", "Austria"),
    ("Athens", "Greece"), ("Lisbon", "Portugal"), ("Oslo", "Norway"), ("Cairo", "Egypt"), ("Tokyo", "Japan"),
)  # fmt: skip
WORDS = (
    ("house", "maison", "Haus"), ("water", "eau", "Wasser"), ("bread", "pain", "Brot"), ("night", "nuit", "Nacht"),
    ("tree", "arbre", "Baum"), ("sun", "soleil", "Sonne"), ("book", "livre", "Buch"), ("milk", "lait", "Milch"),
    ("fish", "poisson", "Fisch"), ("friend", "ami", "Freund"),
)  # fmt: skip
TEMPLATES = {
    "arithmetic": (
        "{name} has {a} {things} and finds {b} more. How many {things} does {name} have now?",
        "{name} had {sum} {things} and gave {b} of them to {friend}. How many are left?",
        "What is {a} + {b}? The sum of {a} and {b} is",
        "There are {c} boxes with {a} {things} in each. How many {things} are there in all?",
        "A book costs {a} coins and a pen {c} coins. Both together cost",
        "Take {sum}, subtract {b}, and add {c}. The result is",
        "{c} times {b} is the number of {things} on the {c} tables. It is",
        "On {day} {name} counted {a} {things}, on the next day {b}. The difference is",
    ),
    "recall": (
        "The capital of {country} is {city}. The capital of {other_country} is",
        "Question: in which country is the city of {city}? Answer: {city} is in",
        "Everybody knows that {city} is the largest town of",
        "Which city is the seat of the government of {country}? It is",
        "{name} was born in {city}, and so {name} was born in the country of",
        "A week has seven days, and the day after {day} is",
        "The month that follows {month} in the calendar is",
        "People who live in {country} see its capital as the heart of the country. Its name is",
    ),
    "translation": (
        'The French word for "{english}" is "{french}", and the German word is',
        "English: {english}. German: {german}. English: {other_english}. German:",
        'How do you say "{english}" in French? You say',
        'Translate "{german}" into English. The translation is',
        "{name} learns German and writes {german} under the picture of a {english}. In French it is",
        'In the dictionary "{french}" stands for "{english}", and "{other_french}" stands for',
        "French: {french}. English: {english}. French: {other_french}. English:",
        'The German "{german}" and the French "{french}" both mean the English word',
    ),
    "code": (
        "def add(x, y):\n    return x + y\n\nprint(add({a}, {b}))",
        "for item in {things}:\n    if item > {a}:\n        print(item)",
        "class Box:\n    def __init__(self, {things}):\n        self.{things} = {things}",
        "import os\n\nwith open('{english}.txt') as file:\n    lines = file.read()",
        "values = [{a}, {b}, {c}]\ntotal = sum(values)\nassert total ==",
        "try:\n    value = int(text)\nexcept ValueError:\n    value = {a}",
        "#include <vector>\nint main() {{ int {english} = {b}; return {english}; }}",
        "while count < {sum}:\n    count += {c}\n    {things}.append(count)",
    ),
    "reasoning": (
        "All {things} are red. This is one of the {things}. Therefore it is",
        "{name} is older than {friend}, and {friend} is older than {third}. So the oldest of them is",
        "If it rains on {day}, {name} stays at home. {name} is not at home. So on {day} it does not",
        "Either {name} or {friend} took the {things}. It was not {name}. Hence it was",
        "No {english} is a {other_english}. This is a {english}. Thus it cannot be a",
        "{name} stands to the left of {friend}, who stands to the left of {third}. In the middle stands",
        "Whoever lives in {city} lives in {country}. {name} does not live in {country}. Therefore {name} does not",
        "If all {things} are in the box, the box is full. The box is not full. So some {things} are",
    ),
    NEUTRAL: (
        "{name} walked along the river in {month} and looked at the boats that lay there, while {friend} stayed.",
        "The garden behind the house was quiet on {day}. A few {things} lay on the bench beside the old door.",
        "In {month} the weather was mild, and {name} and {friend} sat outside until it was dark in the street.",
        "There was a small shop in {city} where {name} used to stop on the way home to talk about the day.",
        "{friend} put the {things} on the shelf, closed the window and went up to the room under the roof.",
        "The train to {city} left late on {day}, and so {name} had time for a cup of tea in the station.",
        "It was one of these long evenings in {month}: the light was soft and the people of {country} slept.",
        "{name} has a {english} and a picture of {city} that hangs in the hall beside the {things} of {friend}.",
    ),
}
"""By capability, templates; their prompts end where an answer would begin."""
CAPABILITIES = tuple(name for name in TEMPLATES if name != NEUTRAL)


class Generated(NamedTuple):
    """What is made: the capabilities by name, prompts of each, and the seed."""

    names: Sequence[str]
    each: int
    seed: int


def generate(wanted: Generated) -> list[Probe]:
    """A probe for each capability: its prompts, and as many of neutral text, cut to as many tokens in pairs.

    Templates take turns, and are the sources of the samples.
    """
    return [_probe(name, wanted.each, random.Random(f"{wanted.seed} {name}")) for name in wanted.names]


def _probe(name: str, each: int, rng: random.Random) -> Probe:
    prompts = [_filled(name, number, rng) for number in range(each)]
    neutral = [_filled(NEUTRAL, number, rng, 3) for number in range(each)]
    return Probe(name, None, prompts + [one._replace(at_most=place) for place, one in enumerate(neutral)])


def _filled(label: str, number: int, rng: random.Random, parts: int = 1) -> Sample:
    """A sample of the template whose turn it is; neutral text goes on with `parts` of the same template."""
    template = TEMPLATES[label][number % len(TEMPLATES[label])]
    text = " ".join(template.format(**_values(rng)) for _ in range(parts))
    return Sample(label, text, f"{label} {number % len(TEMPLATES[label])}")


# Only `random()` gives the same numbers in every version of Python; `choice` and `sample` promise no such thing.
def _values(rng: random.Random) -> dict:
    def among(options: Sequence) -> Callable[[int], object]:
        start = int(rng.random() * len(options))
        return lambda more=0: options[(start + more) % len(options)]

    a, b, c = 11 + int(60 * rng.random()), 2 + int(19 * rng.random()), 2 + int(8 * rng.random())
    person, place, word = among(NAMES), among(CITIES), among(WORDS)
    return {
        **{"a": a, "b": b, "c": c, "sum": a + b},
        **{"name": person(), "friend": person(5), "third": person(11)},
        **{"things": among(THINGS)(), "day": among(DAYS)(), "month": among(MONTHS)()},
        **dict(zip(("city", "country"), place(), strict=True)),
        "other_country": place(3)[1],
        **dict(zip(("english", "french", "german"), word(), strict=True)),
        **{"other_english": word(3)[0], "other_french": word(3)[1]},
    }
