"""Rows are the characters of files: nothing is guessed, and what cannot be read is one sentence."""

import bz2
import csv
import datetime
import gzip
import io
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gatebook.inputs import rows
from gatebook.inputs.templates import Column
from gatebook.problem import Problem

QUESTIONS = [
    {"question": "What is 2 + 3?", "answer": "5", "options": ["4", "5"]},
    {"question": 'Is "naïve, 漢字 🐍" text?\nYes.', "answer": "ja", "options": ["ja", "nein", "é"]},
]
NAMES = ("question", "answer", "options")


@pytest.fixture
def read(tmp_path):
    """Read one file with the given name and content: its rows by column."""

    def run(name: str, content: bytes, *columns: str, **options) -> list[dict]:
        (tmp_path / name).write_bytes(content)
        found = rows.read("datasets.gsm8k", [str(tmp_path / name)], map(Column, columns), **options)
        return [row.columns for row in found]

    return run


def lines(given) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given).encode()


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def one_sentence(raised) -> str:
    text = str(raised.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.JSONL", "rows.json", "rows.ndjson"])
def test_json_lines(read, name):
    assert read(name, lines(QUESTIONS)) == QUESTIONS
    assert read(name, b"\xef\xbb\xbf\n" + lines(QUESTIONS)) == QUESTIONS  # a byte order mark, an empty line


def test_json_array(read):
    assert read("rows.json", b" " + json.dumps(QUESTIONS, indent=1).encode()) == QUESTIONS


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user"}], "tools": [{"name": "add"}]},
        {"options": ["a", "b"]},
        {"a": {"b": "c"}, "d": "e"},
    ],
)
def test_a_single_row_with_lists_or_mappings_is_a_row(read, row):
    assert read("rows.jsonl", lines([row])) == [row]


def test_the_format_is_the_stated_one_or_that_of_each_file(read, tmp_path):
    assert read("rows.data", lines(QUESTIONS), stated="jsonl") == QUESTIONS
    (tmp_path / "a.csv").write_text("answer\n7\n")
    (tmp_path / "b.jsonl").write_text('{"answer": "8"}\n')
    found = list(rows.read("datasets.gsm8k", [str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")], [Column("answer")]))
    assert [(row.number, row.columns["answer"]) for row in found] == [(0, "7"), (1, "8")]
    assert [row.place for row in found] == [f"{tmp_path}/a.csv, line 2", f"{tmp_path}/b.jsonl, line 1"]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_cells_with_quotes_delimiters_and_line_breaks(read, delimiter):
    flat = [{"question": row["question"], "answer": row["answer"] + f"!{delimiter}"} for row in QUESTIONS]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["question", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(flat)
    name = {",": "rows.csv", "\t": "rows.tsv"}[delimiter]
    for start in (b"", b"\xef\xbb\xbf"):
        assert read(name, start + text.getvalue().encode(), "question", "answer") == flat


def test_parquet(read):
    assert read("rows.parquet", parquet(pa.Table.from_pylist(QUESTIONS)), *NAMES) == QUESTIONS


@pytest.mark.parametrize(
    ("ending", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".zst", lambda data: pa.compress(data, "zstd", asbytes=True))],
)
def test_compressed_files(read, ending, compress):
    assert read(f"rows.jsonl{ending}", compress(lines(QUESTIONS))) == QUESTIONS
    assert read(f"rows.json{ending}", compress(json.dumps(QUESTIONS).encode())) == QUESTIONS
    assert read(f"rows.csv{ending}", compress(b"a,b\n1,2\n"), "b") == [{"b": "2"}]


def test_several_members_of_gzip_are_one_file(read):
    both = b"".join(gzip.compress(lines([row])) for row in QUESTIONS)
    assert read("rows.jsonl.gz", both) == QUESTIONS


@pytest.mark.parametrize(
    ("sample_by", "texts"),
    [
        ("line", ["one", "two", "", "three é"]),
        ("paragraph", ["one\ntwo", "three é\n"]),
        ("document", ["one\ntwo\n\nthree é\n"]),
    ],
)
def test_text_by_line_paragraph_and_document(read, sample_by, texts):
    for end in ("\n", "\r\n"):
        book = "one\ntwo\n\nthree é\n".replace("\n", end).encode()
        assert [row["text"] for row in read("book.txt", book, sample_by=sample_by)] == texts


def test_paragraphs_are_those_between_empty_lines(read):
    text = "\n\na\n\n\nb\n\n\n\n\nc"
    found = [row["text"] for row in read("book.txt", text.encode(), sample_by="paragraph")]
    assert found == [part for part in text.split("\n\n") if part]


def test_several_files_are_read_in_the_given_order(tmp_path):
    paths = [tmp_path / name for name in ("b.jsonl", "a.jsonl", "c[1].jsonl")]
    for number, path in enumerate(paths):
        path.write_bytes(lines([{"text": str(number)}]))
    found = rows.read("datasets.gsm8k", [str(path) for path in paths], [])
    assert [(row.number, row.columns["text"]) for row in found] == [(0, "0"), (1, "1"), (2, "2")]


def test_rows_are_read_one_at_a_time(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines(QUESTIONS) + b"no JSON")
    found = rows.read("datasets.gsm8k", [str(tmp_path / "rows.jsonl")], [])
    assert [next(found).columns for _ in QUESTIONS] == QUESTIONS
    with pytest.raises(Problem, match="line 3: Expecting value"):
        next(found)


# ---------------------------------------------------------------- nothing is guessed


def test_cells_are_their_characters(read):
    cells = ["007", "1.10", "2026-01-31", "NA", "None", "", " x ", "true", "1e3", "12345678901234567890"]
    table = "a,b\n" + "".join(f'{number},"{cell}"\n' for number, cell in enumerate(cells))
    assert [row["b"] for row in read("rows.csv", table.encode(), "b")] == cells


def test_numbers_and_texts_of_json_are_as_written(read):
    given = b'{"a": 1.10, "b": 12345678901234567890123, "c": "2026-01-31", "d": 1E5, "e": "007", "f": -0, "g": NaN}\n'
    expected = {"a": "1.10", "b": "12345678901234567890123", "c": "2026-01-31", "d": "1E5", "e": "007", "f": "-0"}
    assert read("rows.jsonl", given) == [expected | {"g": None}]
    assert read("rows.json", b"[" + given + b"]") == [expected | {"g": None}]


def test_parquet_has_types_and_keeps_them(read):
    table = pa.table(
        {
            "day": [datetime.date(2026, 1, 31), None],
            "count": pa.array([18, None], pa.int64()),
            "single": pa.array([0.1, None], pa.float32()),
            "price": [Decimal("1.10"), Decimal("2.00")],
        }
    )
    found = read("rows.parquet", parquet(table), *table.column_names)
    assert found[1] == {"day": None, "count": None, "single": None, "price": Decimal("2.00")}
    texts = [Column(name).text(found[0]) for name in table.column_names]
    assert texts == ["2026-01-31", "18", "0.1", "1.10"]


def test_files_need_only_the_columns_that_are_read(read, tmp_path):
    first, second = lines([{"text": "a", "note": None}]), lines([{"text": "b", "note": "seen", "more": {"url": "x"}}])
    for order in ((first, second), (second, first)):
        found = read("rows.jsonl", b"".join(order))
        assert sorted(row["text"] for row in found) == ["a", "b"]
    tables = [pa.table({"text": ["a"], "n": [1]}), pa.table({"m": ["x"], "text": ["b"]})]
    for name, table in zip(("1.parquet", "2.parquet"), tables, strict=True):
        pq.write_table(table, tmp_path / name)
    found = rows.read("datasets.gsm8k", [str(tmp_path / "1.parquet"), str(tmp_path / "2.parquet")], [Column("text")])
    assert [row.columns for row in found] == [{"text": "a"}, {"text": "b"}]


def test_columns_are_found_by_their_whole_name(read):
    table = pa.table({"a.b": ["dot"], "c[0]": ["bracket"], "c": [["list"]], "a": [{"b": "inside"}]})
    found = read("rows.parquet", parquet(table), "a.b", "c[0]")
    assert [(row["a.b"], row["c[0]"]) for row in found] == [("dot", "bracket")]
    assert read("rows.csv", b"a.b,c[0]\n1,2\n", "c[0]", "a.b") == [{"a.b": "1", "c[0]": "2"}]
    assert read("rows.parquet", parquet(table), "c[1]") == [{"c": ["list"]}]


# ---------------------------------------------------------------- what cannot be read


def test_an_ending_that_is_not_known_names_the_endings_and_the_key():
    for path, ending in (("a.xlsx", ".xlsx"), ("a.gz", ""), ("a", "")):
        with pytest.raises(Problem, match=rf"datasets\.gsm8k: {path} has the ending '{ending}'.*set `format`"):
            rows.file_format("datasets.gsm8k", path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jsonl", b"", "it has no rows"),
        ("blank.jsonl", b"\n\n", "it has no rows"),
        ("empty.json", b"[]", "it has no rows"),
        ("half.json", b'[{"text": "a"},\n{"te', "Unterminated string starting at: line 2"),
        ("half.jsonl", b'{"text": "a"}\n{"te', "line 2: Unterminated string"),
        ("scalar.json", b"3", "line 1 is no JSON object"),
        ("scalar.jsonl", b'{"text": "a"}\n"b"\n', "line 2 is no JSON object"),
        ("scalars.json", b'["a"]', "row 0 is no JSON object"),
        ("binary.jsonl", bytes(range(10)), "line 1: Expecting value"),
        (
            "latin1.jsonl",
            '{"text": "a"}\n{"text": "é"}\n'.encode("latin1"),
            "line 2 is not UTF-8, it has the byte 0xe9",
        ),
        ("latin1.json", '[{"text": "a"},\n{"text": "é"}]'.encode("latin1"), "line 2 is not UTF-8"),
        ("deep.jsonl", b'{"text": "a"}\n' + b'{"a":' * 9999 + b"1" + b"}" * 9999, "line 2 is nested too deeply"),
        ("columns.json", b'{"text": {"0": "a", "1": "b"}, "id": {"0": 1, "1": 2}}', "orient='records'"),
        ("columns.json", b'{"text": ["a", "b"], "id": [1, 2]}', "orient='records'"),
        ("pretty.json", b'{\n "data": [\n  {"text": "a"}]}', "it holds one JSON object"),
        ("empty.csv", b"", "it has no rows"),
        ("header.csv", b"text\n", "it has no rows"),
        ("ragged.csv", b"text,b\n1,2\n1,2,3,4\n", "line 3 has 4 cells, and the header 2"),
        ("short.csv", b"text,b\n1\n", "line 2 has 1 cells, and the header 2"),
        ("open.csv", b'text\n"1\n', "line 2: unexpected end of data"),
        ("twice.csv", b"text,text\n1,2\n", "the header has 'text' twice"),
        ("latin1.csv", "text\né\n".encode("latin1"), "line 2 is not UTF-8"),
        ("empty.txt", b"", "it has no rows"),
        ("latin1.txt", "é à".encode("latin1"), "line 1 is not UTF-8"),
        ("empty.parquet", b"", "0 bytes"),
        ("text.parquet", b"this is not parquet", "not a parquet file"),
        ("cut.jsonl.gz", gzip.compress(lines(QUESTIONS * 99))[:-9], "Truncated"),
        ("plain.jsonl.gz", lines(QUESTIONS), "incorrect header check"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(read, name, content, reason):
    with pytest.raises(Problem, match=rf"datasets\.gsm8k: .*{name} cannot be read as .*mend the file") as raised:
        read(name, content, "text")
    assert reason in one_sentence(raised)


def test_an_empty_file_among_others_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(QUESTIONS))
    (tmp_path / "b.jsonl").write_bytes(b"")
    with pytest.raises(Problem, match=r"b\.jsonl cannot be read as json \(it has no rows\)"):
        list(rows.read("datasets.gsm8k", [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")], []))


def test_a_file_in_another_format_than_stated_is_one_sentence(read):
    with pytest.raises(Problem, match=r"rows\.jsonl cannot be read as parquet .*the file or its `format`") as raised:
        read("rows.jsonl", lines(QUESTIONS), stated="parquet")
    one_sentence(raised)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(Problem, match=r"absent\.jsonl cannot be read as json \(.*No such file") as raised:
        list(rows.read("datasets.gsm8k", [str(tmp_path / "absent.jsonl")], []))
    one_sentence(raised)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_column_that_no_row_has_names_the_file_and_its_columns(read, name):
    content = {"rows.csv": b"a,b\n1,2\n", "rows.parquet": parquet(pa.table({"b": [1], "a": [2]}))}[name]
    with pytest.raises(Problem) as raised:
        read(name, content, "a", "text")
    assert one_sentence(raised).endswith(f"{name}: there is no column 'text'; the columns are a, b: correct the name.")


# ---------------------------------------------------------------- rows by value


PAGES = [
    {"text": "a", "lang": "en", "meta": {"year": "2020"}},
    {"text": "b", "lang": "no", "meta": None},
    {"text": "c", "lang": "no", "meta": {"year": "2021"}},
    {"text": "d", "lang": None, "meta": {"year": "2021"}},
    {"text": "e", "lang": True, "meta": {"year": "2020"}},
]


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ({}, "abcde"),
        ({"lang": "no"}, "bc"),
        ({"lang": ["en", "no"]}, "abc"),
        ({"lang": True}, "e"),
        ({"meta[year]": 2021}, "cd"),
        ({"meta[year]": 2021, "lang": "no"}, "c"),
    ],
)
def test_rows_are_kept_by_value(conditions, kept):
    given = [rows.Row(number, f"line {number}", row) for number, row in enumerate(PAGES)]
    found = list(rows.where("datasets.pages.where", given, conditions))
    assert "".join(row.columns["text"] for row in found) == kept
    assert [row.number for row in found] == ["abcde".index(text) for text in kept]


def test_a_value_that_no_row_has_is_one_sentence():
    given = [rows.Row(number, f"line {number}", row) for number, row in enumerate(PAGES)]
    with pytest.raises(Problem) as raised:
        list(rows.where("datasets.pages.where", given, {"lang": ["de", "fr"], "meta[year]": 2020}))
    assert one_sentence(raised) == (
        "datasets.pages.where: no row has lang: de or fr, meta[year]: 2020: `make values` prints the values that there "
        "are."
    )
    with pytest.raises(Problem, match=r"datasets\.pages\.where: line 0: there is no column 'language'"):
        list(rows.where("datasets.pages.where", given, {"language": "de"}))
