"""Two written domains: arithmetic with worked answers, and short stories with words of several meanings."""

import random
from collections.abc import Iterator, Sequence

PROBLEMS = 12_000
STORIES = 3_600

NAMES = (
    "Ada", "Ben", "Carla", "Dmitri", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam", "Mona",
    "Nils", "Omar", "Petra", "Quinn", "Rosa", "Sami", "Tara", "Uma", "Viktor", "Wanda", "Yusuf",
)  # fmt: skip
THINGS = (
    "apples", "books", "coins", "pencils", "marbles", "stickers", "cookies", "tickets", "stamps", "shells", "buttons",
    "eggs", "postcards", "candles", "oranges", "tulips",
)  # fmt: skip

# A question and the steps of its answer; `first` is the result of the first step. In each, a is 11 to 70, b is 2 to
# 20, c is 2 to 9, sum is a + b, product is b * c: so that no answer is negative or broken.
QUESTIONS = (
    ("{name} has {a} {things} and finds {b} more. How many {things} does {name} have now?", ("a + b",)),
    ("{name} had {sum} {things} and gave {b} of them to {friend}. How many are left?", ("sum - b",)),
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
)  # fmt: skip

OPENINGS = (
    "It was a cold evening in {month}.", "On {day} morning {name} woke up early.", "{name} still talks of that {day}.",
    "Rain had fallen since {day}.", "It was the last week of {month}.", "{name} and {friend} had the whole {day} free.",
    "Nobody expected anything new on a {day}.", "The wind came from the sea that {day}.",
    "In {month} the days were long and quiet.", "{friend} wrote a long letter about it to {name}.",
)  # fmt: skip
TURNS = (
    "{friend} laughed and shook hands with {name}.", "{name} could not believe it.", "For a moment nobody said a word.",
    "{friend} wanted to go home, but {name} stayed.", "Someone called {name} from across the street.",
    "A child asked {friend} what had happened.", "{name} took a photograph and sent it to {friend}.",
    "Then {friend} had a better idea.", "{name} thanked {friend} twice.", "An old man nodded and smiled at {name}.",
)  # fmt: skip
ENDINGS = (
    "They walked home together in the dark.", "{name} slept well that night.", "The next {day} they came back.",
    "{friend} never forgot that day in {month}.", "After that, {name} was never late again.",
    "It was a story to tell their children.", "By {day} everybody in town had heard of it.",
    "That was how {name} and {friend} became friends.",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "March", "April", "May", "July", "September", "October", "November", "December")

# Word, its meanings, and sentences that use the word in that meaning.
SCENES = {
    "bar": {
        "pub": (
            "The bar at the corner was full of noisy students.", "{name} ordered two beers at the bar.",
            "Behind the bar a waiter poured wine until midnight.", "They left the bar when the music stopped.",
        ),
        "rod": (
            "A steel bar held the old gate shut.", "{name} bent the iron bar with a heavy hammer.",
            "The smith laid the glowing bar on the anvil.", "Rust had eaten the bar from one end to the other.",
        ),
        "law": (
            "{name} had studied for the bar for three years.", "The bar exam asked about contracts and theft.",
            "A judge welcomed the young lawyers to the bar.", "Whoever leaves the bar may not plead in court.",
        ),
    },
    "light": {
        "lamp": (
            "The light in the kitchen was still on.", "{name} switched off the light and locked the door.",
            "A red light flashed above the stairs.", "The street light kept {friend} awake.",
        ),
        "weight": (
            "The suitcase was light enough for a child.", "{name} wore a light jacket and thin shoes.",
            "A light load lets the horse run faster.", "The new boat is strong but light.",
        ),
        "physics": (
            "The speed of light in a vacuum is the same for everyone.", "A prism splits white light into colours.",
            "In the laboratory {name} measured how light bends in glass.", "A photon of light carries little energy.",
        ),
    },
    "key": {
        "lock": (
            "{name} turned the key in the rusty lock.", "The key to the front door was lost.",
            "A small brass key hung on a nail.", "The key did not fit the padlock.",
        ),
        "music": (
            "The song was written in the key of G minor.", "The choir changed key before the last verse.",
            "{name} played the tune again in a higher key.", "In a major key the melody sounds happy.",
        ),
        "data": (
            "Each key in the table points to one value.", "{name} sorted the records by their key.",
            "The database refused a row without a primary key.", "A missing key made the program stop.",
        ),
    },
    "match": {
        "sport": (
            "The football match ended in a draw.", "{name} scored twice before the match was over.",
            "A tennis match may last five sets.", "After the match the fans sang in the rain.",
        ),
        "fire": (
            "{name} struck a match and lit the candle.", "The wet match would not burn.",
            "A single match set the dry hay on fire.", "{friend} held the match until it burned a finger.",
        ),
        "pair": (
            "The curtains match the colour of the carpet.", "{name} found two gloves that match.",
            "The two fingerprints match exactly.", "His story did not match what {friend} had seen.",
        ),
    },
    "bank": {
        "money": (
            "{name} opened an account at the bank.", "The bank raised the interest on the loan.",
            "A clerk of the bank counted the notes twice.", "{friend} paid the cash into the bank.",
        ),
        "river": (
            "Willows grow along the bank of the river.", "They fished from the muddy bank.",
            "The boat drifted toward the grassy bank.", "{name} swam across to the other bank.",
        ),
        "turn": (
            "The pilot let the plane bank to the left.", "Gulls bank and turn above the waves.",
            "In a strong wind the glider will bank sharply.", "{name} felt the aircraft bank before it landed.",
        ),
    },
    "spring": {
        "season": (
            "In spring the cherry trees are white.", "After a hard winter, spring came late.",
            "Farmers plant the corn in early spring.", "{name} loves the smell of rain in spring.",
        ),
        "coil": (
            "A steel spring drives the old clock.", "The spring in the mattress was broken.",
            "{name} pressed the spring and let it go.", "The spring pushed the lever back.",
        ),
        "water": (
            "Cold water came from a spring in the rocks.", "{name} drank from the spring and filled a bottle.",
            "The spring feeds a small stream in the valley.", "Even in August the spring never ran dry.",
        ),
    },
    "pitch": {
        "sound": (
            "The singer held the high pitch for ten seconds.", "The pitch of the bell was too low.",
            "{name} tuned the string until its pitch was right.", "A dog hears a pitch that people cannot hear.",
        ),
        "throw": (
            "The first pitch was fast and low.", "{name} missed the pitch and lost the bat.",
            "The catcher dropped the last pitch of the game.", "His curving pitch fooled every batter.",
        ),
        "sale": (
            "{name} made a pitch to the investors.", "The sales pitch took only five minutes.",
            "Her pitch for the new product won the contract.", "They rehearsed the pitch in front of {friend}.",
        ),
    },
    "plant": {
        "leaf": (
            "{name} watered the plant on the windowsill.", "The plant has green leaves and white flowers.",
            "A tomato plant needs sun and soil.", "Without water the plant dried up in a week.",
        ),
        "factory": (
            "The car plant employs two thousand workers.", "At night the power plant burns coal.",
            "Engineers closed the chemical plant for repairs.", "{name} worked at the steel plant all year.",
        ),
        "put": (
            "The spy tried to plant a microphone in the office.", "{name} wanted to plant the flag on the summit.",
            "Someone had to plant the evidence in the car.", "They plant false rumours to confuse {friend}.",
        ),
    },
}  # fmt: skip


def arithmetic() -> Iterator[tuple[str, list[str]]]:
    """Word problems with small numbers, each on one line with the steps of its answer."""
    rng = random.Random(1)
    for start in range(0, PROBLEMS, 1_000):
        yield f"arithmetic/{start}", [_problem(rng) for _ in range(1_000)]


def stories() -> Iterator[tuple[str, list[str]]]:
    """Stories of about seven sentences around one of eight words in one of its three meanings."""
    rng = random.Random(2)
    scenes = [sentences for meanings in SCENES.values() for sentences in meanings.values()]
    for start in range(0, STORIES, 100):
        yield f"stories/{start}", [_story(rng, _pick(rng, scenes)) for _ in range(100)]


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


def _story(rng: random.Random, scene: Sequence[str]) -> str:
    name, friend = _sample(rng, NAMES, 2)
    first, second, third = _sample(rng, scene, 3)
    sentences = [_pick(rng, OPENINGS), first, second, _pick(rng, TURNS), third, _pick(rng, ENDINGS)]
    filled = {"name": name, "friend": friend, "day": _pick(rng, DAYS), "month": _pick(rng, MONTHS)}
    return " ".join(sentences).format(**filled) + "\n\n"


# Only `random()` gives the same numbers in every version of Python; `choice` and `sample` promise no such thing.
def _pick(rng: random.Random, options: Sequence) -> object:
    return options[int(rng.random() * len(options))]


def _sample(rng: random.Random, options: Sequence, count: int) -> list:
    rest = list(options)
    return [rest.pop(int(rng.random() * len(rest))) for _ in range(count)]
