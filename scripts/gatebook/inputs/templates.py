"""Templates: how the columns of a row become text, and where in a row a value is."""

import datetime
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal

from gatebook.problem import Problem

PLACE = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])+)")


class MisfitError(ValueError):
    """A column that a row lacks, or a value that is no text: what is wrong and the remedy, without the row's place."""


class Column:
    """A column of rows, or a place in one: `answer`, `choices[text]`, `messages[0][content]`.

    A column that has the whole name comes first, also one that is called `messages[0]`.
    """

    def __init__(self, name: str):
        inside = PLACE.fullmatch(name)
        self.name = name
        self._outer, self._keys = (inside[1], re.findall(r"[^\[\]]+", inside[2])) if inside else (name, [])

    def among(self, columns: Iterable[str]) -> str:
        """Which of the columns it is or is in; a `MisfitError` if none."""
        for name in (self.name, self._outer):
            if name in columns:
                return name
        known = ", ".join(sorted(columns))
        raise MisfitError(f"there is no column {self._outer!r}; the columns are {known}: correct the name")

    def value(self, row: Mapping):
        """The value in a row; None where it, or what it would be in, is null."""
        if self.among(row) == self.name:
            return row[self.name]
        value, place = row[self._outer], self._outer
        for key in self._keys:
            if value is None:
                return None
            if isinstance(value, dict) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                raise MisfitError(f"{place} has no [{key}]: correct the name or the row")
            place += f"[{key}]"
        return value

    def text(self, row: Mapping) -> str:
        """The value in a row as text: lists are one item per line; what has no text of its own is a `MisfitError`."""
        value = self.value(row)
        if isinstance(value, list):
            return "\n".join(_text(f"{self.name}[{index}]", item) for index, item in enumerate(value))
        return _text(self.name, value)

    def label(self, row: Mapping) -> str:
        """The text of a value that names something, and so must not be empty."""
        text = self.text(row)
        if not text:
            raise MisfitError(f"{self.name} is empty: mend the row, or take another column")
        return text


class Template:
    """Text with columns in braces, `{question}` or `{messages[0][content]}`; `{{` and `}}` are braces.

    Raises ValueError for a brace without its pair, and a template without any column.
    """

    def __init__(self, template: str):
        self._parts: list[str | Column] = []
        for part in re.split(r"(\{\{|\}\}|\{[^{}]*\})", template):
            if part in ("{{", "}}"):
                self._parts.append(part[0])
            elif part.startswith("{") and part.endswith("}"):
                self._parts.append(Column(part[1:-1]))
            elif {"{", "}"} & set(part):
                raise ValueError("a brace has no pair")
            else:
                self._parts.append(part)
        self.columns = [part for part in self._parts if isinstance(part, Column)]
        if not self.columns:
            raise ValueError("it names no column")

    def text(self, row: Mapping) -> str:
        """The template filled with the columns of a row."""
        return "".join(part if isinstance(part, str) else part.text(row) for part in self._parts)


def parse(key: str, template: str) -> Template:
    """The template that stands under a key of the config; a `Problem` if it is none."""
    try:
        return Template(template)
    except ValueError as error:
        raise Problem(
            f"{key}: {template!r} is no template ({error}): write {{column}} for a column, {{{{ or }}}} for a brace."
        ) from None


def _text(name: str, value) -> str:
    """A single value as text: what a file of text has as it stands there, dates in ISO 8601, bytes as UTF-8."""
    match value:
        case str():
            if not value.isascii() and re.search("[\ud800-\udfff]", value):
                raise MisfitError(f"{name} holds half of a surrogate pair, which is no character: mend the row")
            return value
        case bool():
            return str(value).lower()
        case None:
            raise MisfitError(f"{name} is null: mend the row, or take another column")
        case float() if value != value:
            raise MisfitError(f"{name} is NaN: mend the row, or take another column")
        case int() | float() | datetime.timedelta():
            return str(value)
        case Decimal():
            return format(value, "f")
        case datetime.date() | datetime.time():
            return value.isoformat()
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise MisfitError(f"{name} holds bytes that are not UTF-8: take another column") from None
    inside = [0, *value][-1] if isinstance(value, dict) else 0
    raise MisfitError(f"{name} holds several values: write one of them, such as {{{name}[{inside}]}}")
