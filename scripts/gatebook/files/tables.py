"""Tables as CSV: numbers of 6 significant digits, text that no spreadsheet runs as a formula."""

from pathlib import Path

import pandas as pd

from gatebook.files.atomic import atomic_file

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(data: pd.DataFrame) -> str:
    """CSV (UTF-8, \\n line ends, no index); text that starts like a formula gets an apostrophe, numbers stay."""
    safe = data.rename(columns=_safe_cell)
    for position, column in enumerate(data.columns):
        if not pd.api.types.is_numeric_dtype(data[column]):
            safe.isetitem(position, data[column].astype(object).map(_safe_cell))
    return safe.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _safe_cell(cell: object) -> object:
    if isinstance(cell, str) and cell.startswith(FORMULA):
        return "'" + cell
    return f"{cell:.6g}" if isinstance(cell, float) else cell


def save_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(csv_text(table), encoding="utf-8")
