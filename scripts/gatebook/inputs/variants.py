"""Variants: what roles and phases make of a dataset that is extracted once.

A conversation has roles: who speaks each token, or the template that stands between the speakers. Text that the studied
checkpoint continued has phases: what is given, and what is generated.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from gatebook.problem import Problem

TEMPLATE, GIVEN, GENERATED = "template", "given", "generated"
ANSWERS = "assistant"
"""The role of what a model generates in a conversation."""


class Variant(NamedTuple):
    """The tokens of a dataset that have a role, in a phase; any role or phase if it is None."""

    dataset: str
    role: str | None
    phase: str | None


def of(name: str, entry: Mapping) -> dict[str, Variant]:
    """The variants by name of the dataset `name`, to which each of its tokens belongs once; none of plain text."""
    phase = GIVEN if "generate" in entry else None
    if "chat" in entry:
        found = {role: Variant(name, role, phase) for role in (*entry["roles"], TEMPLATE)}
    else:
        found = {GIVEN: Variant(name, None, GIVEN)} if phase else {}
    if phase:
        found[GENERATED] = Variant(name, None, GENERATED)
    return {f"{name}.{each}": variant for each, variant in found.items()}


def check(name: str, entry: Mapping, records: str) -> None:
    """A `Problem` if what the entry `datasets.{name}` says of roles and phases does not fit the rest of the config.

    `records`: the setting `extraction.records`.
    """
    key, chat = f"config: datasets.{name}", "chat" in entry
    if not chat and (alone := [each for each in ("roles", "chat_template") if each in entry]):
        raise Problem(f"{key}.{alone[0]}: it is about conversations: add `chat: true`, or remove it.")
    if chat and (two := [each for each in ("template", "question_only") if entry.get(each, "{text}") != "{text}"]):
        raise Problem(f"{key}.{two[0]}: a conversation is written by the chat template: remove it, or `chat`.")
    for role in entry["roles"] if chat else []:
        if role in (TEMPLATE, GIVEN, GENERATED) or not re.fullmatch("[A-Za-z0-9_-]+", role):
            raise Problem(f"{key}.roles: {role!r} cannot name a variant: rename the role in the rows.")
    if of(name, entry) and records == "compact":
        raise Problem(
            f"config: extraction.records: compact records cannot tell the roles and phases of datasets.{name} apart: "
            "write rounded or exact."
        )
