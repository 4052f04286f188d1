"""The chapters: one question about routing each, in a folder of its own with its declaration, measures and page."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatebook.chapters.base.contract import Chapter


def declared(name: str) -> "Chapter":
    """The declaration of a chapter."""
    return import_module(f"gatebook.chapters.{name}").CHAPTER


def page(name: str) -> ModuleType:
    """The page of a chapter: its `figures` and `findings`."""
    return import_module(f"gatebook.chapters.{name}.page")
