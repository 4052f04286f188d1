"""What stands in other files but follows from the code: `make lists` writes it, a test compares.

The files that the workflow needs where no folder can be listed (rules/files.txt), the tables of the chapters' settings
and costs in config/README.md, and the table of chapters and commands in README.md.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from gatebook import chapters
from gatebook.chapters.base.contract import Chapter, Settings
from gatebook.report import costs

ROOT = Path(__file__).parents[2]
FOLDERS = ("scripts/gatebook", "report", "config/reference")
PAGES = {
    "Expert profiles": ("a page of the report", "What is known of one expert: load, datasets, tokens, partners?"),
    "Expert browser": ("a page of the report", "What do experts and sets of experts receive, token by token?"),
    "Roles and phases": (
        "variants of a dataset, `chat` and `generate`",
        "Do system, user, assistant and what the model itself writes go to other experts?",
    ),
    "Routing traces": ("`source: traces`", "What do traces of another engine say about the model that it serves?"),
    "Published counts": ("`source: counts`", "What do published counts of selected experts say about a model?"),
}
COMMANDS = ("study", "check-config", "chapter", "intervene", "route", "steer", "values", "convert")
"""The targets of the Makefile that answer something, or prepare it."""


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


def abilities(declared: Mapping[str, Chapter], root: Path) -> str:
    """What each chapter, in the order of the default study, each page and each command answers, as Markdown."""
    config = yaml.safe_load((root / "config/config.yaml").read_text(encoding="utf-8"))
    named = dict.fromkeys([*(name for name in config["chapters"] if name in declared), *declared])
    help_ = dict(re.findall(r"^([a-z-]+):.*?## (.*)$", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    rows = [(declared[name].title, f"`{name}`", declared[name].question) for name in named]
    rows += [(title, how, question) for title, (how, question) in PAGES.items()]
    rows += [(f"`make {name}`", "a command", help_[name]) for name in COMMANDS]
    lines = [f"| {title} | {how} | {question.replace('|', chr(92) + '|')} |" for title, how, question in rows]
    return "\n".join(["| what | chapter | what it answers |", "|---|---|---|", *lines])


def written(text: str, **parts: str) -> str:
    """A text with each part between its marks."""
    for name, part in parts.items():
        begin, end = f"<!-- {name}: written by make lists -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{part}\n{end}{rest.split(end)[1]}"
    return text


def readmes(root: Path) -> dict[Path, str]:
    """README.md and config/README.md as they should be, by their path."""
    declared = known_chapters(root)
    parts = {
        root / "README.md": {"abilities": abilities(declared, root)},
        root / "config/README.md": {"chapters": settings_tables(declared), "costs": costs.table(declared, root)},
    }
    return {path: written(path.read_text(encoding="utf-8"), **part) for path, part in parts.items()}


def _rows(settings: type[Settings], prefix: str) -> list[str]:
    fields = settings.model_fields.items()
    meanings = {key: field.description.replace("|", "\\|") for key, field in fields}
    return [f"| `{prefix}{key}` | {meanings[key]} | `{field.default}` |" for key, field in fields]


if __name__ == "__main__":
    (ROOT / "rules/files.txt").write_text("\n".join(files(ROOT)) + "\n", encoding="utf-8")
    for path, text in readmes(ROOT).items():
        path.write_text(text, encoding="utf-8")
