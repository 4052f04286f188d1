"""The values of a column of files and how many rows have each: python -m gatebook.inputs.values data/x.jsonl --by lang

They are what `values` and `where` of a dataset may name; the last line can be copied into the config.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

import yaml

from gatebook.inputs import rows
from gatebook.inputs.templates import Column
from gatebook.problem import Problem

NULL = "(null: no dataset has these)"


def counts(files: Sequence[str], by: str, stated: str | None = None) -> Counter[str | None]:
    """How many rows of files have each value of a column as text; None stands for null. See `rows.read`."""
    column = Column(by)
    found = rows.read("make values", files, [column], stated=stated)
    return Counter(row.text_or_none("make values", column) for row in found)


def table(counted: Counter[str | None]) -> str:
    """The values, the most frequent first, and all but null as the line `values: [...]` of a config."""
    ordered = sorted(counted.items(), key=lambda each: (-each[1], each[0] or ""))
    width = len(str(max(counted.values())))
    lines = [f"{count:>{width}}  {NULL if value is None else value}" for value, count in ordered]
    names = [value for value, _ in ordered if value is not None]
    listed = yaml.safe_dump(names, default_flow_style=True, allow_unicode=True, width=sys.maxsize).strip()
    return "\n".join([*lines, f"values: {listed}"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m gatebook.inputs.values", description="Count the values of a column."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="such as data/x.jsonl")
    parser.add_argument("--by", required=True, metavar="COLUMN", help="such as lang, or meta[pile_set_name]")
    parser.add_argument("--format", choices=["json", "jsonl", "parquet", "csv", "tsv"], help="default: by the ending")
    given = parser.parse_args(arguments)
    try:
        print(table(counts(given.files, given.by, given.format)))
    except Problem as problem:
        sys.exit(f"Error: {problem}")


if __name__ == "__main__":
    main()
