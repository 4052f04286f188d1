"""Two written domains: arithmetic with worked answers, and short stories with words of several meanings."""

import random
from collections.abc import Iterator, Sequence

from gatebook.inputs.demo import scenes

SEEDS = {
    ("arithmetic", "train"): 1,
    ("stories", "train"): 2,
    ("arithmetic", "held_out"): 3,
    ("stories", "held_out"): 4,
}
ARITHMETIC_DOCUMENTS = 3_000
PROBLEMS_PER_DOCUMENT = 4
STORIES_PER_MEANING = 60

NAMES = (
    "Ada", "Ben", "Carla", "Dmitri", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam", "Mona",
    "Nils", "Omar", "Petra", "Quinn", "Rosa", "Sami", "Tara", "Uma", "Viktor", "Wanda", "Yusuf",
)  # fmt: skip
THINGS = (
    "apples", "books", "coins", "pencils", "marbles", "stickers", "cookies", "tickets", "stamps", "shells", "buttons",
    "eggs", "postcards", "candles", "oranges", "tulips",
)  # fmt: skip

# A question and the steps of its answer; `first` is the result of the first step. In each, a is 11 to 70, b is 2 to
# 20, c is 2 to 9, sum is a + b, product is b * c: so that no answer is negative or broken. In the last four the last
# word of the question alone says whether to add or to subtract: what the model does can be traced to one token.
QUESTIONS = (
    ("{name} has {a} {things} and finds {b} more. How many {things} does {name} have now?", ("a + b",)),
    ("{name} had {sum} {things} and gave {b} of them to {friend}. How many {things} does {name} have left?",
     ("sum - b",)),
    ("There are {c} boxes with {a} {things} in each. How many {things} are there in all?", ("c * a",)),
    ("{name} shares {product} {things} equally among {c} friends. How many does each one get?", ("product / c",)),
    ("{name} has {a} {things} and {friend} has {sum}. How many more does {friend} have?", ("sum - a",)),
    ("{c} tables each have {b} {things}, and {a} more lie on the floor. How many in all?", ("c * b", "first + a")),
    ("{name} picks {a} {things} on Monday and {b} on Tuesday, then loses {c}. How many stay?", ("a + b", "first - c")),
    ("A shop sells {c} bags of {b} {things}. {name} returns {c}. How many were kept?", ("c * b", "first - c")),
    ("{product} {things} are packed in {c} equal boxes; {a} are added to one box. How many are in that box?",
     ("product / c", "first + a")),
    ("{name} reads {b} pages a day for {c} days and has {a} pages left. How long is the book?",
     ("b * c", "first + a")),
    ("A train has {c} cars with {a} seats each, and {b} seats are free. How many are taken?",
     ("c * a", "first - b") ),
    ("{name} saves {b} coins a week. How many coins are saved after {c} weeks?", ("b * c",)),
    ("{name} has {sum} {things}, and {b} change hands. How many {things} does {name} have now?", ("sum + b",)),
    ("{name} has {sum} {things}, and {b} change hands. How many {things} does {name} have left?", ("sum - b",)),
    ("{name} keeps {sum} {things} in a box, and {friend} moves {b}. How many {things} does {name} have now?",
     ("sum + b",)),
    ("{name} keeps {sum} {things} in a box, and {friend} moves {b}. How many {things} does {name} have left?",
     ("sum - b",)),
)  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "March", "April", "May", "July", "September", "October", "November", "December")


def split(cluster: str) -> str:
    """The split that a cluster is written for, the first part of its name."""
    return cluster.partition("/")[0]


def arithmetic(part: str) -> Iterator[tuple[str, list[str]]]:
    """Word problems with small numbers, each on one line with the steps of its answer, for a split `part`.

    Each split has draws of its own. A document holds problems that are drawn independently of all others, so it is a
    cluster by itself: what documents share, the kinds of question, is the same in all of them.
    """
    rng = random.Random(SEEDS["arithmetic", part])
    for number in range(ARITHMETIC_DOCUMENTS):
        yield f"{part}/{number}", [_problem(rng) for _ in range(PROBLEMS_PER_DOCUMENT)]


def stories(part: str) -> Iterator[tuple[str, list[str]]]:
    """Stories about one of ten words in one of its three meanings, for a split `part`; none has the scenes of another.

    Each split has draws and sentences of its own. Stories of a word and meaning draw from the same few sentences, so
    these are a cluster.
    """
    rng = random.Random(SEEDS["stories", part])
    for word, meanings in scenes.SCENES.items():
        for meaning, sentences in meanings.items():
            yield f"{part}/{word}/{meaning}", _stories(rng, sentences[part], scenes.FRAMES[part])


def _problem(rng: random.Random) -> str:
    a, b, c = 11 + int(60 * rng.random()), 2 + int(19 * rng.random()), 2 + int(8 * rng.random())
    numbers = {"a": a, "b": b, "c": c, "sum": a + b, "product": b * c}
    question, steps = _pick(rng, QUESTIONS)
    name, friend = _sample(rng, NAMES, 2)
    words = [question.format(name=name, friend=friend, things=_pick(rng, THINGS), **numbers)]
    for step in steps:
        left, sign, right = step.split()
        x, y = numbers[left], numbers[right]
        numbers["first"] = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[sign]
        words.append(f"{x} {sign} {y} = {numbers['first']}.")
    return " ".join([*words, f"The answer is {numbers['first']}.\n"])


def _stories(rng: random.Random, sentences: Sequence[str], frame: dict[str, Sequence[str]]) -> list[str]:
    """Stories of ten sentences, seven of them about the word, each with another choice of these."""
    told, found = set(), []
    while len(found) < STORIES_PER_MEANING:
        chosen = _sample(rng, range(len(sentences)), 7)
        if frozenset(chosen) not in told:
            told.add(frozenset(chosen))
            found.append(_story(rng, [sentences[index] for index in chosen], frame))
    return found


def _story(rng: random.Random, scene: Sequence[str], frame: dict[str, Sequence[str]]) -> str:
    name, friend = _sample(rng, NAMES, 2)
    opening, turn, ending = (_pick(rng, frame[part]) for part in ("openings", "turns", "endings"))
    sentences = [opening, *scene[:3], turn, *scene[3:], ending]
    filled = {"name": name, "friend": friend, "day": _pick(rng, DAYS), "month": _pick(rng, MONTHS)}
    return " ".join(sentences).format(**filled) + "\n"


# Only `random()` gives the same numbers in every version of Python; `choice` and `sample` promise no such thing.
def _pick(rng: random.Random, options: Sequence) -> object:
    return options[int(rng.random() * len(options))]


def _sample(rng: random.Random, options: Sequence, count: int) -> list:
    rest = list(options)
    return [rest.pop(int(rng.random() * len(rest))) for _ in range(count)]
