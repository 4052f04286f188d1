"""Induction, for any tokenizer: random tokens begin again, and what came before is to come again."""

from collections.abc import Sequence

from gatebook.inputs.tasks import base
from gatebook.problem import Problem

PAIRS, LENGTH, SEED = 48, 16, 7


class Tasks(base.Tasks):
    """Random tokens, all different, and the first of them again; the next is the one that followed the last one.

    The corrupt prompt has another token in that place: nothing else says what follows. Labels: "first", where the last
    token stands before, and "second", the place after it. A pair is a source by itself.
    """

    optional = ("pairs", "length", "seed")

    def pairs(self, name: str, task: dict, tokenizer, files: Sequence[str]) -> list[base.Pair]:
        """See `base.Tasks`."""
        import numpy as np

        from gatebook.inputs.random_tokens import beginning, ordinary_tokens

        tokens, begin = ordinary_tokens(tokenizer), beginning(tokenizer)
        length = task.get("length", LENGTH)
        if len(tokens) <= length:
            raise Problem(
                f"tasks.{name}.length: the tokenizer has {len(tokens)} ordinary tokens, and {length + 1} different "
                "ones are needed: lower it."
            )
        rng = np.random.default_rng(task.get("seed", SEED))
        found = []
        for number in range(task.get("pairs", PAIRS)):
            *first, other = rng.choice(tokens, length + 1, replace=False).tolist()
            last = int(rng.integers(length // 2, length - 1))
            again, changed = first[: last + 1], [*first[: last + 1], other, *first[last + 2 :]]
            labels = {"first": len(begin) + last, "second": len(begin) + last + 1}
            prompts = ([*begin, *half, *again] for half in (first, changed))
            found.append(base.Pair(*prompts, first[last + 1], other, str(number), labels))
        return found

    def title(self, task: dict) -> str:
        """See `base.Tasks`."""
        return "random tokens begin again, and the next is the one that followed before"
