"""Indirect object identification, for any tokenizer: of two names the one that is not said again receives something.

After Wang et al. (2022), Interpretability in the wild; templates and lists are our own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gatebook.inputs.tasks import base
from gatebook.problem import Problem

if TYPE_CHECKING:
    import numpy as np

PAIRS, SEED = 48, 3
TEMPLATES = (
    "When{one} and{two} came back from the{place},{who} handed the{thing} to",
    "After{one} and{two} had met at the{place},{who} sent the{thing} to",
    "While{one} and{two} were walking to the{place},{who} showed the{thing} to",
    "Since{one} and{two} were alone in the{place},{who} offered the{thing} to",
    "Once{one} and{two} had left the{place},{who} lent the{thing} to",
    "Because{one} and{two} had talked about it at the{place},{who} gave the{thing} to",
    "Yesterday{one} and{two} sat down near the{place}, and{who} passed the{thing} to",
    "Before{one} and{two} went into the{place},{who} brought the{thing} to",
)
NAMES = [
    "Adam", "Alice", "Amy", "Andrew", "Anna", "Anne", "Ben", "Bob", "Carl", "Carla", "Charles", "Chris", "Claire",
    "Daniel", "David", "Edward", "Elena", "Elizabeth", "Emily", "Emma", "Eric", "Farid", "Frank", "George", "Grace",
    "Hannah", "Harry", "Helen", "Henry", "Hugo", "Ines", "Jack", "James", "Jane", "Jason", "Jennifer", "John",
    "Jonas", "Joseph", "Julia", "Kate", "Kevin", "Kira", "Laura", "Liam", "Lisa", "Lucy", "Maria", "Mark", "Martin",
    "Mary", "Matt", "Michael", "Mike", "Mona", "Nick", "Nils", "Oliver", "Omar", "Patrick", "Paul", "Peter", "Petra",
    "Rachel", "Richard", "Robert", "Rosa", "Ruth", "Sam", "Sami", "Sara", "Sarah", "Simon", "Sophie", "Steve",
    "Susan", "Tara", "Thomas", "Tom", "Tony", "Uma", "Victoria", "Wanda", "William", "Yusuf",
]  # fmt: skip
PLACES = [
    "bank", "beach", "bridge", "church", "city", "farm", "field", "forest", "garden", "hospital", "hotel", "house",
    "island", "lake", "library", "market", "museum", "office", "park", "port", "restaurant", "river", "school",
    "shop", "station", "store", "street", "theatre", "tower", "town", "university", "village",
]  # fmt: skip
THINGS = [
    "apple", "bag", "ball", "book", "bottle", "box", "cake", "camera", "card", "coin", "cup", "file", "gift", "hat",
    "key", "letter", "list", "map", "money", "newspaper", "note", "paper", "pen", "phone", "photo", "picture",
    "plate", "radio", "ring", "rope", "shirt", "ticket", "tool", "watch",
]  # fmt: skip
FEWEST = {"names": 4, "places": 2, "things": 2}
"""So many of each list must be single tokens."""


class Tasks(base.Tasks):
    """Sentences in which one of two names is said again; the other one is to follow.

    In half of them the name that is to follow (IO) comes first (ABB), in the others the repeated one (S) does (BAB).
    The corrupt prompt says IO again in the place of S, so that S is to follow. Labels: "IO", "S1", "S1+1" (the token
    after it), "S2". Pairs of one template and order share a source.
    """

    optional = ("pairs", "seed")

    def pairs(self, name: str, task: dict, tokenizer, files: Sequence[str]) -> list[base.Pair]:
        """See `base.Tasks`."""
        known = {"names": NAMES, "places": PLACES, "things": THINGS}
        single = {kind: [word for word in words if _is_single(tokenizer, word)] for kind, words in known.items()}
        for kind, least in FEWEST.items():
            if len(single[kind]) < least:
                raise Problem(
                    f"tasks.{name}: {len(single[kind])} of {len(known[kind])} {kind} are single tokens of the "
                    f"tokenizer, and {least} are needed: remove {name} from study.tasks."
                )
        import numpy as np

        rng = np.random.default_rng(task.get("seed", SEED))
        numbers = range(task.get("pairs", PAIRS))
        return [_pair(f"tasks.{name}", tokenizer, number, single, rng) for number in numbers]

    def title(self, task: dict) -> str:
        """See `base.Tasks`."""
        return "of two names, the one that is not said again receives something"


def _is_single(tokenizer, word: str) -> bool:
    """Whether a word with the blank before it is one token."""
    *before, last = base.encode(tokenizer, f"the {word}")
    return before == base.encode(tokenizer, "the") and last != tokenizer.unk_token_id


def _pair(place: str, tokenizer, number: int, single: dict[str, list[str]], rng: "np.random.Generator") -> base.Pair:
    """The pair with a number, of which template and order follow."""
    receiver, giver = (f" {single['names'][index]}" for index in rng.choice(len(single["names"]), 2, replace=False))
    where, thing = (f" {rng.choice(single[kind])}" for kind in ("places", "things"))
    second, template = number % 2, number // 2 % len(TEMPLATES)
    one, two = (giver, receiver) if second else (receiver, giver)
    clean, corrupt = (
        TEMPLATES[template].format(one=one, two=two, place=where, thing=thing, who=who) for who in (giver, receiver)
    )
    source = f"template {template}, {'BAB' if second else 'ABB'}"
    made = base.of_texts(place, tokenizer, clean, corrupt, right=receiver, wrong=giver, source=source)
    first, again = (index for index, token in enumerate(made.clean) if token == made.wrong)
    labels = {"IO": made.clean.index(made.right), "S1": first, "S1+1": first + 1, "S2": again}
    return made._replace(labels=labels)
