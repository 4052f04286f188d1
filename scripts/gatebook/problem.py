"""Something the user can mend."""

from collections.abc import Iterator

ERROR, UNEXPECTED, INTERRUPTED = "Error: ", "Unexpected ", "Stopped from the keyboard."
"""What the line begins with in which a job says why it failed."""


class Problem(Exception):
    """Something the user can mend: one sentence that names the file or key, the value and the remedy."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, the error itself first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
