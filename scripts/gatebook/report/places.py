"""Where things stand in the report: pages and anchors, by what they are about."""

import re
from collections.abc import Iterable
from typing import NamedTuple


def slug(text: str) -> str:
    """A text as part of an anchor: small letters, digits, `_` and `-`."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")


def figure(of: str, chapter: str, name: str) -> str:
    """The anchor of a figure; `of` is the folder of its section, such as demo/step400."""
    return f"figure-{of}-{chapter}-{name}".replace("/", "-").replace(".", "-")


def finding(of: str, chapter: str, question: str) -> str:
    """The anchor of a finding."""
    return slug(f"finding {of} {chapter} {question}")


def metric(page: str, title: str) -> str:
    """The anchor of a measure on the page Methods."""
    return slug(f"metric {page} {title}")


def term(name: str) -> str:
    """The anchor of a term on the page Methods."""
    return slug(f"term {name}")


def model_page(kind: str, model: str) -> str:
    """The page of a kind about a model."""
    return f"{kind}-{model}.html"


_NAMED = re.compile(
    r"layer (\d+),? experts? (\d+(?: and \d+)?)|(?:experts?|pair is) (\d+(?: and \d+)?) (?:of|in) layer (\d+)",
    re.IGNORECASE,
)


class Named(NamedTuple):
    """Experts that a text names: where it does so, their layer and numbers."""

    start: int
    end: int
    layer: int
    experts: tuple[int, ...]


def named_experts(text: str) -> list[Named]:
    """Experts that a text names as layer 0, expert 14, as experts 3 and 14 of layer 0, or the like, in their order."""
    return [
        Named(*match.span(), int(match[1] or match[4]), tuple(map(int, (match[2] or match[3]).split(" and "))))
        for match in _NAMED.finditer(text)
    ]


def experts(model: str, layer: int, numbers: Iterable[int]) -> str:
    """Where the expert browser shows one or more experts of a layer."""
    return in_browser(model_page("browser", model), layer, numbers)


def in_browser(page: str, layer: int, numbers: Iterable[int]) -> str:
    """The same on a page of the expert browser."""
    return f"{page}#tab=experts&l={layer}&e={','.join(map(str, numbers))}"
