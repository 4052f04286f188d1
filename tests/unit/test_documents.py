"""Rows are read for real, templates fill them, documents become tokens and windows, or one sentence says why not."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatebook.files import netcdf
from gatebook.inputs import documents
from gatebook.inputs.documents import Document
from gatebook.problem import Problem

ROWS = [
    {"question": "What is 2 + 3?", "answer": "5", "options": ["4", "5"]},
    {"question": 'Is "naïve, 漢字 🐍" text?\nYes.', "answer": "ja", "options": ["ja", "nein", "é"]},
]


@pytest.fixture
def read(tmp_path):
    """Read one file with the given name and content; `read(name, content, format=None, sample_by="line")`."""

    def run(name: str, content: bytes, stated: str | None = None, sample_by: str = "line") -> list[dict]:
        path = str(tmp_path / name)
        (tmp_path / name).write_bytes(content)
        builder = documents.file_format("gsm8k", path, stated)
        return list(documents.read_rows("gsm8k", [path], builder, sample_by, tmp_path / "cache", None))

    return run


def lines(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def one_sentence(raised) -> str:
    text = str(raised.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# ---------------------------------------------------------------- reading files


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.JSONL", "rows.json"])
def test_json_lines(read, name):
    assert read(name, lines(ROWS)) == ROWS


def test_json_array(read):
    assert read("rows.json", json.dumps(ROWS).encode()) == ROWS


def test_json_lines_by_stated_format(read):
    assert read("rows.data", lines(ROWS), "jsonl") == ROWS


def test_csv_with_quotes_commas_and_line_breaks(read, tmp_path):
    flat = [{"question": row["question"], "answer": row["answer"] + "!"} for row in ROWS]
    with (tmp_path / "source").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(flat)
    assert read("rows.csv", (tmp_path / "source").read_bytes()) == flat


def test_parquet(read):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    assert read("rows.parquet", sink.getvalue().to_pybytes()) == ROWS


@pytest.mark.parametrize(
    ("sample_by", "texts"),
    [
        ("line", ["one", "two", "", "three é"]),
        ("paragraph", ["one\ntwo", "three é\n"]),
        ("document", ["one\ntwo\n\nthree é\n"]),
    ],
)
def test_text_by_line_paragraph_and_document(read, sample_by, texts):
    rows = read("book.txt", "one\ntwo\n\nthree é\n".encode(), sample_by=sample_by)
    assert [row["text"] for row in rows] == texts


def test_several_files_are_read_in_the_given_order(tmp_path):
    paths = [tmp_path / name for name in ("b.jsonl", "a.jsonl", "c[1].jsonl")]
    for number, path in enumerate(paths):
        path.write_bytes(lines([{"text": str(number)}]))
    for limit, expected in ((None, "012"), (2, "01"), (9, "012")):
        rows = documents.read_rows("gsm8k", [str(path) for path in paths], "json", "line", tmp_path / "cache", limit)
        assert rows["text"][:] == list(expected)


def test_an_ending_that_is_not_known_names_the_endings_and_the_key():
    with pytest.raises(
        Problem, match=r"datasets\.gsm8k\.files: a\.xlsx has the ending '\.xlsx'.*\.jsonl.*set `format`"
    ):
        documents.file_format("gsm8k", "a.xlsx")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jsonl", b"", "it is empty"),
        ("blank.jsonl", b"\n\n", "no data"),
        ("empty.json", b"[]", "no data"),
        ("half.json", b'[{"text": "a"}, {"te', "string"),
        ("half.jsonl", b'{"text": "a"}\n{"te', "closing quotation mark"),
        ("scalar.json", b"3", "JSON parse error"),
        ("binary.jsonl", bytes(range(256)), "JSON parse error"),
        ("empty.csv", b"", "No columns"),
        ("header.csv", b"text\n", "no data"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3,4\n", "Expected 2 fields in line 3"),
        ("latin1.csv", "text\né\n".encode("latin1"), "utf-8"),
        ("empty.txt", b"", "at least one example"),
        ("latin1.txt", "é à".encode("latin1"), "utf-8"),
        ("empty.parquet", b"", "0 bytes"),
        ("text.parquet", b"this is not parquet", "not a parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(read, name, content, reason, capfd):
    with pytest.raises(Problem, match=rf"datasets\.gsm8k: .*{name} cannot be read as ") as raised:
        read(name, content)
    assert reason in one_sentence(raised)
    assert "Failed to" not in capfd.readouterr().err  # the library's own messages


def test_a_file_in_another_format_than_stated_is_one_sentence(read):
    with pytest.raises(
        Problem, match=r"rows\.jsonl cannot be read as parquet .*mend the file or its `format`"
    ) as raised:
        read("rows.jsonl", lines(ROWS), "parquet")
    one_sentence(raised)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(Problem, match=r"absent\.jsonl cannot be read as json \(Unable to find") as raised:
        list(documents.read_rows("gsm8k", [str(tmp_path / "absent.jsonl")], "json", "line", tmp_path / "cache", None))
    one_sentence(raised)


# ---------------------------------------------------------------- templates


def rendered(rows, template, id_column=None, clusters=None):
    return list(documents.render("gsm8k", rows, template, id_column, clusters))


def texts(*arguments):
    return [(document.id, document.text) for document in rendered(*arguments)]


def test_templates_fill_columns_lists_and_nested_fields():
    assert texts(ROWS, "Q: {question}\nA: {answer}")[0] == ("0", "Q: What is 2 + 3?\nA: 5")
    assert texts(ROWS, "{options}")[1] == ("1", "ja\nnein\né")
    assert texts(ROWS, "{options[1]}") == [("0", "5"), ("1", "nein")]
    arc = [{"choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "id": 7}]
    assert texts(arc, "{choices[text]}; {choices[label]}", "id") == [("7", "red\nblue; A\nB")]
    assert texts(arc, "{{kept}} {id:03d} {id!r}") == [("0", "{kept} 007 7")]


def test_a_document_knows_its_row_its_identifier_and_its_cluster():
    rows = [{"text": "a", "name": 7}, {"text": "b", "name": "x"}]
    assert rendered(rows, "{text}") == [Document(0, "0", "0", "a"), Document(1, "1", "1", "b")]
    assert rendered(rows, "{text}", "name", np.array(["one", "one"])) == [
        Document(0, "7", "one", "a"),
        Document(1, "x", "one", "b"),
    ]


def test_columns_of_a_template():
    assert documents.Template().columns("{a} {b.c} {d[e]} {a!r:>3} {{x}}") == {"a", "b", "d"}


@pytest.mark.parametrize(("template", "column"), [("{text}", "text"), ("{question} {Answer}", "Answer")])
def test_a_missing_column_names_the_dataset_the_column_and_those_there_are(template, column):
    with pytest.raises(Problem) as raised:
        texts(ROWS, template)
    expected = f"datasets.gsm8k: there is no column '{column}'; the columns are answer, options, question: "
    assert one_sentence(raised) == expected + "correct `template` or `id`."
    with pytest.raises(Problem, match="there is no column 'task_id'"):
        texts(ROWS, "{question}", "task_id")


@pytest.mark.parametrize("template", ["{question", "question}", "{question!}", "{question!x", "{question!rr}"])
def test_a_template_with_a_typing_error_is_one_sentence(template):
    with pytest.raises(Problem, match=r"datasets\.gsm8k: the template .* is not a format string") as raised:
        texts(ROWS, template)
    assert repr(template) in one_sentence(raised)


@pytest.mark.parametrize(
    "template", ["{options[7]}", "{question.name}", "{question[text]}", "{answer:05d}", "{answer!z}"]
)
def test_a_template_that_does_not_fit_a_row_names_the_row(template):
    with pytest.raises(Problem, match=r"datasets\.gsm8k: the template .* does not fit row 0 ") as raised:
        texts(ROWS, template)
    assert repr(template) in one_sentence(raised)


def test_a_null_is_never_written_as_the_word_none():
    rows = [{"text": "fine"}, {"text": None}]
    with pytest.raises(Problem, match=r"does not fit row 1 .*text is null"):
        texts(rows, "{text}")


# ---------------------------------------------------------------- windows and tokens


def tokenize(given, tokenizer, **changes):
    options = {"window": 64, "token_limit": None, "minimum_tokens": None} | changes
    return documents.tokenize("gsm8k", given, tokenizer, **options)


DOCUMENTS = [
    Document(0, "a", "sales", "Janet sold 3 eggs for 2 dollars"),
    Document(2, "b", "Omar", "how much did Omar get? naïve 漢字 🐍"),
    Document(3, "c", "sales", "Yuki got 9"),
]


def alone(text: str) -> Document:
    return Document(9, "x", "x", text)


def test_tokens_decode_to_the_documents(tokenizer):
    tokens = tokenize(DOCUMENTS, tokenizer)
    assert tokens["document_id"].values.tolist() == ["a", "b", "c"]
    assert tokens["text"].values.tolist() == [document.text for document in DOCUMENTS]
    assert tokens["row"].values.tolist() == [0, 2, 3]
    assert tokens["cluster"].values.tolist() == ["sales", "Omar", "sales"]
    assert tokens["group"].values.tolist() == [0, 1, 0]
    for index, (*_, text) in enumerate(DOCUMENTS):
        ids = tokens["token_id"].values[tokens["document_index"].values == index]
        assert tokenizer.decode(ids) == text
        assert tokens["document_tokens"].values[index] == len(ids)
    assert (np.diff(tokens["document_index"]) >= 0).all()
    for name in ("role", "phase"):  # plain text has neither
        assert tokens[name].dtype == np.int8 and (tokens[name] == 0).all()
        assert tokens[name].attrs["flag_meanings"] == "none"
    for name in ("token_id", "document_index", "position", "document_tokens"):
        assert tokens[name].dtype == np.int32
    assert tokens["document_index"].attrs["instance_dimension"] == "document"


def test_documents_longer_than_the_window_are_cut_into_even_windows(tokenizer):
    text = DOCUMENTS[1].text
    length = len(tokenizer(text)["input_ids"])
    tokens = tokenize([alone(text), alone("Yuki got 9")], tokenizer, window=length - 1)
    half = (length + 1) // 2
    short = len(tokenizer("Yuki got 9")["input_ids"])
    expected = [*range(half), *range(length - half), *range(short)]
    assert tokens["position"].values.tolist() == expected
    assert tokens.attrs["window"] == length - 1


@given(limit=st.integers(2, 60))
def test_the_token_limit_cuts_exactly_there(tokenizer, limit):
    lengths = np.array([len(tokenizer(text)["input_ids"]) for *_, text in DOCUMENTS])
    tokens = tokenize(DOCUMENTS, tokenizer, token_limit=limit)
    alone = limit - 1 in np.cumsum(lengths)[:-1]  # one more token would be a document of one
    assert tokens.sizes["token"] == min(limit - alone, lengths.sum())
    whole = tokenize(DOCUMENTS, tokenizer)
    np.testing.assert_array_equal(tokens["token_id"], whole["token_id"][: tokens.sizes["token"]])


def test_nothing_is_read_beyond_the_token_limit(tokenizer):
    length = len(tokenizer(DOCUMENTS[0].text)["input_ids"])

    def documents():
        yield DOCUMENTS[0]
        yield alone("")  # too short, but no longer wanted
        raise AssertionError("read on")

    assert tokenize(documents(), tokenizer, token_limit=length).sizes == {"token": length, "document": 1}


@pytest.mark.parametrize("text", ["", "a"])
def test_a_document_too_short_to_route_names_itself_and_the_remedy(tokenizer, text):
    with pytest.raises(Problem, match=r"datasets\.gsm8k: document x has \d token.*limits\.minimum_tokens") as raised:
        tokenize([*DOCUMENTS, alone(text)], tokenizer)
    one_sentence(raised)


def test_minimum_tokens_leaves_short_documents_out_and_counts_them(tokenizer):
    lengths = [len(tokenizer(text)["input_ids"]) for *_, text in DOCUMENTS]
    tokens = tokenize([alone(""), *DOCUMENTS, alone("a")], tokenizer, minimum_tokens=min(lengths[:2]))
    assert tokens["document_id"].values.tolist() == ["a", "b"]
    assert tokens.attrs["documents_left_out"] == 3


def test_a_dataset_without_documents_is_one_sentence(tokenizer):
    with pytest.raises(Problem, match=r"datasets\.gsm8k has no document \(0 left out"):
        tokenize([], tokenizer)
    with pytest.raises(Problem, match=r"datasets\.gsm8k has no document \(3 left out"):
        tokenize(DOCUMENTS, tokenizer, minimum_tokens=1000)


def test_tokens_survive_the_file(tokenizer, tmp_path):
    tokens = tokenize(DOCUMENTS, tokenizer)
    netcdf.save(tokens, tmp_path / "t.nc")
    loaded = netcdf.load(tmp_path / "t.nc")
    for name in (
        "token_id",
        "document_index",
        "position",
        "text",
        "document_id",
        "document_tokens",
        "row",
        "cluster",
        "group",
    ):
        np.testing.assert_array_equal(loaded[name], tokens[name])
