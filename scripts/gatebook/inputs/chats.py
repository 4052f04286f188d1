"""Conversations: the text that a chat template makes of messages, and which of its characters each role speaks."""

import re
from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from gatebook.inputs.templates import Column, MisfitError
from gatebook.inputs.variants import ANSWERS, TEMPLATE

DAY = date(2024, 7, 26)
"""The day that templates are told, so that the same messages are the same text on all days."""
TODAY = re.compile(r"""strftime_now\((['"])(.*?)\1\)""")
MARK = "\ue000{}\ue001"
"""Stands for a message's text where the places of texts are looked for; characters that mean nothing."""


class Message(NamedTuple):
    """What one speaker says."""

    role: str
    content: str


class Chat(NamedTuple):
    """How the rows of a dataset are written as conversations.

    column: holds the messages. roles: of the speakers that there may be. tokenizer: of the transformers library, with
    its chat template, or `template` in its place. continued: whether a model is to answer what is given.
    """

    column: Column
    roles: Sequence[str]
    tokenizer: object
    template: str | None = None
    continued: bool = False

    def written(self, row: dict) -> tuple[str, tuple[tuple[int, str], ...]]:
        """The text of a row's conversation, and its stretches, (end, role), in order and without a gap.

        Where the model is to answer, a last message of the assistant is left out, and the text ends where an answer
        begins. A `MisfitError` if there is no such text, or it does not hold the messages as they are.
        """
        messages = self._messages(row)
        if self.continued and messages and messages[-1].role == ANSWERS:
            messages.pop()
        if not messages:
            raise MisfitError(f"{self.column.name} holds no message that something can follow: mend the row")
        if any(mark in message.content for message in messages for mark in "\ue000\ue001"):
            raise MisfitError(f"{self.column.name} holds U+E000 or U+E001, which no text means: remove them")
        text = self._rendered(messages)
        marked = self._rendered([Message(each.role, MARK.format(number)) for number, each in enumerate(messages)])
        if stretches := _stretches(text, marked, messages):
            return text, _ends(stretches)
        raise MisfitError(
            f"the chat template{self._whose} changes, leaves out or reorders the messages, so who speaks is unknown: "
            "set `chat_template` to one that writes each message once, in order"
        )

    @property
    def _whose(self) -> str:
        return "" if self.template else f" of the tokenizer in {self.tokenizer.name_or_path}"

    def _messages(self, row: dict) -> list[Message]:
        value, name = self.column.value(row), self.column.name
        if not isinstance(value, list):
            raise MisfitError(f"{name} is no list of messages: name the column that is one by `chat`")
        found = []
        for number, each in enumerate(value):
            if not isinstance(each, dict) or not {"role", "content"} <= each.keys():
                raise MisfitError(f"{name}[{number}] has no role and content: mend the row")
            role, content = (Column(f"{name}[{number}][{key}]").text(row) for key in ("role", "content"))
            if role not in self.roles:
                raise MisfitError(f"{name}[{number}] has the role {role!r}: add it to `roles`")
            found.append(Message(role, content))
        return found

    def _rendered(self, messages: list[Message]) -> str:
        from jinja2 import TemplateError

        if not (self.template or self.tokenizer.chat_template):
            raise MisfitError(
                f"the tokenizer in {self.tokenizer.name_or_path} has no chat template: set `chat_template`"
            )
        template = TODAY.sub(lambda call: repr(DAY.strftime(call[2])), self.tokenizer.get_chat_template(self.template))
        try:
            return self.tokenizer.apply_chat_template(
                [each._asdict() for each in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=self.continued,
                date_string=DAY.strftime("%d %b %Y"),
            )
        except TemplateError as error:
            raise MisfitError(
                f"the chat template{self._whose} refuses the messages ({error}): mend the row, or set `chat_template`"
            ) from None


def _stretches(text: str, marked: str, messages: list[Message]) -> list[tuple[str, str]]:
    """(text, role) one after another, from a text, and the same with a mark in place of what each message says.

    Nothing if a mark is not there once, in order, or the text does not hold what is said, trimmed or not.
    """
    between = [marked]
    for number in range(len(messages)):
        parts = between.pop().split(MARK.format(number))
        if len(parts) != 2:
            return []
        between += parts
    found, end = [(between[0], TEMPLATE)], len(between[0])
    for message, after in zip(messages, between[1:], strict=True):
        said = message.content
        trimmed = said, said.rstrip(), said.lstrip(), said.strip()
        written = next((each for each in trimmed if text.startswith(each + after, end)), None)
        if written is None:
            return []
        found += [(written, message.role), (after, TEMPLATE)]
        end += len(written) + len(after)
    return found if "".join(part for part, _ in found) == text else []


def _ends(stretches: list[tuple[str, str]]) -> tuple[tuple[int, str], ...]:
    """Where each stretch ends, with its role; empty ones are left out."""
    found, end = [], 0
    for text, role in stretches:
        end += len(text)
        if text:
            found.append((end, role))
    return tuple(found)
