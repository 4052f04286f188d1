"""What follows from the code but stands elsewhere is what `make lists` would write."""

from gatebook import lists
from gatebook.lists import ROOT


def test_the_files_that_are_fetched_over_the_network_are_all_there_are():
    assert (ROOT / "rules" / "files.txt").read_text(encoding="utf-8").split("\n") == [*lists.files(ROOT), ""]


def test_the_tables_are_those_of_the_code():
    for path, text in lists.readmes(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, path


def test_every_chapter_and_every_command_is_among_what_it_can_do():
    declared = lists.known_chapters(ROOT)
    table = lists.abilities(declared, ROOT)
    for name, chapter in declared.items():
        assert f"| {chapter.title} | `{name}` | {chapter.question} |" in table
    for name in lists.COMMANDS:
        assert table.count(f"| `make {name}` | a command | ") == 1


def test_only_what_is_between_the_marks_is_written():
    begin, end = "<!-- x: written by make lists -->", "<!-- end of x -->"
    assert lists.written(f"a\n{begin}\nold\n{end}\nb", x="new") == f"a\n{begin}\nnew\n{end}\nb"
