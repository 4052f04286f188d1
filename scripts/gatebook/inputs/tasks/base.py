"""What a source of tasks says about itself, and a pair of prompts made of texts."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from gatebook.problem import Problem


class Pair(NamedTuple):
    """Two prompts as tokens, of one length, and the token that follows each.

    clean, corrupt: token ids of the prompts. right, wrong: the answer after the clean prompt and after the corrupt one.
    source: names what pairs share that are not independent. labels: positions by their role in the prompts.
    """

    clean: list[int]
    corrupt: list[int]
    right: int
    wrong: int
    source: str
    labels: Mapping[str, int] = MappingProxyType({})


class Tasks:
    """A source of tasks.

    required, optional: keys of its entries in the catalogue `tasks` that entries of some other source do not have.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def check(self, name: str, task: dict, config: dict) -> None:
        """A `Problem` if the entry `tasks.{name}` does not fit the rest of the config."""

    def files(self, task: dict, config: dict) -> list[str]:
        """The files from which the pairs of an entry are made, beside the tokenizer."""
        return []

    def local_paths(self, task: dict) -> dict[str, str]:
        """The files that must be there before the study starts, by the entry's key."""
        return {}

    def pairs(self, name: str, task: dict, tokenizer, files: Sequence[str]) -> list[Pair]:
        """The pairs of the entry `tasks.{name}` for a tokenizer, of its `files`; a `Problem` if there are none."""
        raise NotImplementedError

    def title(self, task: dict) -> str:
        """What its pairs are, in words."""
        raise NotImplementedError


def encode(tokenizer, text: str) -> list[int]:
    """The tokens of a text, with the special ones that the tokenizer adds by itself."""
    return list(tokenizer(text, verbose=False)["input_ids"])


def of_texts(place: str, tokenizer, clean: str, corrupt: str, right: str, wrong: str, source: str) -> Pair:
    """A pair of two prompts as texts and the texts of their answers.

    Parameters
    ----------
    place
        Where the pair stands, for errors: a key of the config, a file and its line.
    tokenizer
        Of the transformers library.
    clean, corrupt
        The prompts.
    right, wrong
        What follows each, with the blank before it.
    source
        See `Pair`.

    Returns
    -------
    Pair

    Raises
    ------
    Problem
        If the prompts are equal or of different lengths, or an answer is not one token, or both are the same.
    """
    prompts = encode(tokenizer, clean), encode(tokenizer, corrupt)
    if clean == corrupt or prompts[0] == prompts[1]:
        raise Problem(f"{place}: both prompts are {_short(clean)}: change the corrupt one, or remove the pair.")
    if len(prompts[0]) != len(prompts[1]):
        raise Problem(
            f"{place}: the clean prompt has {len(prompts[0])} tokens, the corrupt one {len(prompts[1])} "
            f"({_short(clean)}): make them of one length, or remove the pair."
        )
    answers = [_answer(place, tokenizer, *each) for each in zip((clean, corrupt), prompts, (right, wrong), strict=True)]
    if answers[0] == answers[1]:
        raise Problem(f"{place}: both answers are {right!r}: write different ones, or remove the pair.")
    return Pair(*prompts, *answers, source)


def _answer(place: str, tokenizer, prompt: str, tokens: list[int], text: str) -> int:
    """The token that an answer is after a prompt."""
    whole = encode(tokenizer, prompt + text)
    if whole[:-1] != tokens:
        raise Problem(
            f"{place}: the answer {text!r} is not a single token after {_short(prompt)}: write it with the blank "
            "before it, take another word, or remove the pair."
        )
    return whole[-1]


def _short(text: str) -> str:
    """A text, or its end."""
    return repr(text if len(text) <= 60 else f"…{text[-60:]}")
