"""What follows from the code but stands elsewhere is what `make lists` would write."""

from gatebook import lists
from gatebook.lists import ROOT


def test_the_files_that_are_fetched_over_the_network_are_all_there_are():
    assert (ROOT / "rules" / "files.txt").read_text(encoding="utf-8").split("\n") == [*lists.files(ROOT), ""]


def test_the_tables_of_settings_are_those_of_the_declarations():
    text = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    assert lists.with_tables(text, lists.known_chapters(ROOT)) == text
