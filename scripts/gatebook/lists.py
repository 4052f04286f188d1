"""What stands in other files but follows from the code: `make lists` writes it, a test compares.

The files that the workflow needs where no folder can be listed (rules/files.txt), and the tables of the chapters'
settings in config/README.md.
"""

from collections.abc import Mapping
from pathlib import Path

from gatebook import chapters
from gatebook.chapters.base.contract import Chapter, Settings

ROOT = Path(__file__).parents[2]
FOLDERS = ("scripts/gatebook", "report", "config/reference")
BEGIN, END = "<!-- chapters: written by make lists -->", "<!-- end of chapters -->"


def files(root: Path) -> list[str]:
    """Paths, below the repository `root`, of the files that rules read beside scripts and config."""
    return [
        path.relative_to(root).as_posix()
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.name[0] != "."
    ]


def known_chapters(root: Path) -> dict[str, Chapter]:
    """The declarations of all chapters by name, in alphabetical order."""
    folders = sorted((root / "scripts/gatebook/chapters").glob("*/measure.py"))
    return {path.parent.name: chapters.declared(path.parent.name) for path in folders}


def settings_tables(declared: Mapping[str, Chapter]) -> str:
    """The settings and thresholds of the chapters as Markdown: what each means and its default."""
    parts = []
    for name, chapter in declared.items():
        rows = [*_rows(chapter.settings, ""), *_rows(chapter.thresholds, "thresholds.")]
        if rows:
            parts.append("\n".join([f"### {name}", "| key | meaning | default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def with_tables(text: str, declared: Mapping[str, Chapter]) -> str:
    """The text of config/README.md with `settings_tables` between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{settings_tables(declared)}\n{END}{rest.split(END)[1]}"


def _rows(settings: type[Settings], prefix: str) -> list[str]:
    fields = settings.model_fields.items()
    meanings = {key: field.description.replace("|", "\\|") for key, field in fields}
    return [f"| `{prefix}{key}` | {meanings[key]} | `{field.default}` |" for key, field in fields]


if __name__ == "__main__":
    (ROOT / "rules/files.txt").write_text("\n".join(files(ROOT)) + "\n", encoding="utf-8")
    readme = ROOT / "config/README.md"
    written = with_tables(readme.read_text(encoding="utf-8"), known_chapters(ROOT))
    readme.write_text(written, encoding="utf-8")
