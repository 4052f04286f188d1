"""Items of MMLU: both layouts hold the same, and what is wrong is told with file, row and remedy."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from item_cases import items_of, write_archive, write_hub

from gatebook.inputs import items
from gatebook.inputs.items import SPLITS, Item
from gatebook.inputs.sources import items as source
from gatebook.problem import Problem

GIVEN = {split: items_of(split) for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_all_layouts_are_read_to_the_same_items(split, tmp_path):
    archive = write_archive(tmp_path / "archive", GIVEN)
    for path in (
        write_hub(tmp_path / "hub", GIVEN),
        write_hub(tmp_path / "by subject", GIVEN, whole=False),
        archive,
        archive / "data",
        archive / "data.tar",
    ):
        assert items.read(str(path), split) == GIVEN[split], path


def test_where_the_hub_has_all_subjects_in_one_file_those_of_each_are_not_read_again(tmp_path):
    write_hub(tmp_path, GIVEN), write_hub(tmp_path, GIVEN, whole=False)
    assert len(items.read(str(tmp_path), "test")) == len(GIVEN["test"])


def test_items_about_one_passage_have_one_source():
    passage = "It was a dark night. " * 12
    one, two = (Item("history", f"{passage}\n{ending}", ("a", "b", "c", "d"), 0) for ending in ("Who?", "When?"))
    assert one.source == two.source
    short = [Item("history", f"A short line.\n{ending}", ("a", "b", "c", "d"), 0) for ending in ("Who?", "When?")]
    assert short[0].source != short[1].source


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"answer": 4}, r"test-00000-of-00001\.parquet, row 1: the right answer is 4: write 0 to 3"),
        ({"choices": ["a", "b", "c"]}, r"row 1 has 3 answers: write four"),
        ({"choices": ["a", "b", None, "d"]}, r"row 1: the answer C is None: write a text, or remove the row"),
        ({"question": " "}, r"row 1: the question is ' ': write a text"),
    ],
)
def test_a_broken_row_of_parquet_is_told(changed, sentence, tmp_path):
    write_hub(tmp_path, {"test": GIVEN["test"]})
    path = tmp_path / "all/test-00000-of-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([rows[0], rows[1] | changed, *rows[2:]]), path)
    with pytest.raises(Problem, match=sentence) as raised:
        items.read(str(tmp_path), "test")
    assert str(raised.value).startswith(f"multiple_choice.path: {path}") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("Why?,a,b,c,d\n", r"world_religions_test\.csv, row 10 has 5 cells: write question, A, B, C, D"),
        ("Why?,a,b,c,d,E\n", r"row 10: the right answer is 'E': write 0 to 3 in Parquet, A to D in CSV"),
        ("Why?,a,,c,d,A\n", r"row 10: the answer B is ''"),
        ('"Why?,a,b,c,d,A\n', r"cannot be read as CSV in UTF-8 \(unexpected end of data\): mend the file"),
        (b"\xff,a,b,c,d,A\n", r"cannot be read as CSV in UTF-8 \('utf-8' codec"),
    ],
)
def test_a_broken_row_of_csv_is_told(line, sentence, tmp_path):
    folder = write_archive(tmp_path, GIVEN)
    path = folder / "data/test/world_religions_test.csv"
    path.write_bytes(path.read_bytes() + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(Problem, match=sentence) as raised:
        items.read(str(folder), "test")
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_a_folder_without_items_and_a_file_that_is_no_tar_are_told(tmp_path):
    with pytest.raises(Problem, match="has no items of the split dev: it must hold all/dev-"):
        items.read(str(tmp_path), "dev")
    (tmp_path / "data.tar").write_text("no tar")
    with pytest.raises(Problem, match=r"data\.tar cannot be read as a tar"):
        items.read(str(tmp_path / "data.tar"), "test")
    write_hub(tmp_path / "hub", {"test": GIVEN["test"]})
    shutil.copy(tmp_path / "data.tar", tmp_path / "hub/all/test-00000-of-00001.parquet")
    with pytest.raises(Problem, match="cannot be read as parquet"):
        items.read(str(tmp_path / "hub"), "test")


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, []),
        ({"source": "hub", "path": "cais/mmlu", "form": "letters"}, [source.FETCHED]),
        ({"source": "files", "path": "data.tar"}, ["data.tar"]),
        ({"source": "hub"}, r"multiple_choice\.path: '' with `source: hub`: write where the items are\."),
        ({"path": "items"}, r"multiple_choice\.path: 'items' with `source: text`: remove it"),
        ({"form": "letters"}, r"multiple_choice\.form: items of text have no letters: write cloze\."),
    ],
)
def test_where_items_are_and_keys_that_do_not_fit(settings, wanted):
    settings = {"source": "text", "path": "", "form": "cloze"} | settings
    if isinstance(wanted, list):
        assert source.files(settings) == wanted
    else:
        with pytest.raises(Problem, match=wanted):
            source.files(settings)
