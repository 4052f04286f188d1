"""The tally that extraction takes of its records while it has them in memory, beside them."""

from pathlib import Path

from gatebook.run.code import code_hash


def path(records: str | Path) -> Path:
    """Where the tally of a folder of records lies, if one was taken: its name says by which code of `counting`.

    What another code took is left there: the records are the same.
    """
    folder = Path(__file__).parent
    return Path(records) / f"tally_{code_hash(folder / 'counting.py', folder.parent)}.nc"
