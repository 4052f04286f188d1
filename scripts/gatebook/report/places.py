"""Where things stand in the report: pages and anchors, by what they are about."""

import re
from collections.abc import Iterable


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


def experts(model: str, layer: int, numbers: Iterable[int]) -> str:
    """Where the expert browser shows one or more experts of a layer."""
    return f"{model_page('browser', model)}#tab=experts&l={layer}&e={','.join(map(str, numbers))}"
