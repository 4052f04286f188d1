"""Budgets: how large the folders of pages may become."""

from collections.abc import Mapping

from gatebook.files.sizes import format_bytes
from gatebook.problem import Problem

NAMED = 3


def check(key: str, what: str, sizes: Mapping[str, int], megabytes: float, remedy: str) -> None:
    """A `Problem` if files are larger together than the config allows; it names the largest kinds of them.

    Parameters
    ----------
    key
        The budget's key in the config.
    what
        What the files are, in words.
    sizes
        Bytes by kind of file.
    megabytes
        What they may take together, in MB (10⁶ bytes).
    remedy
        What would make them smaller, in words.

    Raises
    ------
    Problem
        If they take more.
    """
    total = sum(sizes.values())
    if total > megabytes * 1e6:
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:NAMED]
        parts = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in largest)
        raise Problem(
            f"config: {key}: {what} would take {format_bytes(total)}, more than {megabytes:g} MB ({parts}): {remedy}, "
            f"or raise {key}."
        )
