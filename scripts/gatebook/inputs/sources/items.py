"""Multiple-choice items: the study's text, a repository of the hub, or files of this machine (`inputs.items`)."""

from collections.abc import Mapping

from gatebook.problem import Problem

FETCHED = "results/multiple_choice/items"
"""Where the rule fetch_items puts those of the hub."""


def files(settings: Mapping) -> list[str]:
    """The folder or tar that holds the items of the section `multiple_choice`; none if they are made of text.

    Raises a `Problem` if its keys do not fit one another.
    """
    source, path, key = settings["source"], settings["path"], "config: multiple_choice"
    if source == "text":
        if path:
            raise Problem(f"{key}.path: {path!r} with `source: text`: remove it, or write `source: hub` or `files`.")
        if settings["form"] != "cloze":
            raise Problem(f"{key}.form: items of text have no {settings['form']}: write cloze.")
        return []
    if not path:
        raise Problem(f"{key}.path: '' with `source: {source}`: write where the items are.")
    return [FETCHED] if source == "hub" else [path]
