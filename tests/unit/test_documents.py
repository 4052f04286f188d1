"""Rows become documents, documents become tokens and windows, or one sentence says why not."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatebook.files import netcdf
from gatebook.inputs import documents
from gatebook.inputs.documents import Document
from gatebook.problem import Problem

ENTRY = {"template": "{text}", "sample_by": "line", "cluster": [], "limits": {}}


@pytest.fixture
def made(tmp_path):
    """The documents of one file of JSON lines, as the entry of a dataset says."""

    def run(rows: list[dict], **entry) -> list[Document]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return list(documents.of_dataset("gsm8k", [str(path)], ENTRY | entry))

    return run


def one_sentence(raised) -> str:
    text = str(raised.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# ---------------------------------------------------------------- documents of rows


def test_a_document_knows_its_row_its_identifier_and_its_cluster(made):
    rows = [{"text": "a", "name": 7, "by": {"who": "one"}}, {"text": "b", "name": "x", "by": {"who": "one"}}]
    assert made(rows) == [Document(0, "0", "0", "a"), Document(1, "1", "1", "b")]
    assert made(rows, id="name", cluster=["by[who]"], template="{name}{text}") == [
        Document(0, "7", "one", "7a"),
        Document(1, "x", "one", "xb"),
    ]


def test_rows_are_kept_by_value_before_they_are_limited(made):
    rows = [{"text": text, "kind": kind} for text, kind in zip("abcde", "xyxyx", strict=True)]
    assert [each.row for each in made(rows, where={"kind": "x"}, limits={"documents": 2})] == [0, 2]
    assert [each.row for each in made(rows, limits={"documents": 9})] == [0, 1, 2, 3, 4]


def test_clusters_of_several_columns_are_those_among_all_rows(made):
    rows = [{"text": "a", "author": "x", "page": "m"}, {"text": "b", "author": "x", "page": "n"}]
    columns = {"cluster": ["author", "page"]}
    first, second = (made(rows, where={"text": text}, **columns) for text in "ab")
    assert first[0].cluster == second[0].cluster == '["x", "m"]'


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"template": "{question}"}, ".template: FILE, line 1: there is no column 'question'; the columns are text: "),
        ({"id": "name"}, ".id: FILE, line 1: there is no column 'name'"),
        ({"template": "{text}{id}"}, ".template: FILE, line 1: there is no column 'id'"),
        ({"cluster": ["page"]}, ".cluster: FILE, line 1: there is no column 'page'"),
        ({"id": "text"}, ".id: FILE, line 2: text is empty: mend the row, or take another column."),
        ({"cluster": ["text"]}, ".cluster: FILE, line 2: text is empty"),
    ],
)
def test_what_does_not_fit_names_the_key_the_file_and_the_line(made, tmp_path, entry, sentence):
    with pytest.raises(Problem) as raised:
        made([{"text": "a"}, {"text": ""}], **entry)
    expected = sentence.replace("FILE", str(tmp_path / "rows.jsonl"))
    assert one_sentence(raised).startswith("datasets.gsm8k" + expected)


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
    for index, (*_, text, _) in enumerate(DOCUMENTS):
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
    lengths = np.array([len(tokenizer(text)["input_ids"]) for *_, text, _ in DOCUMENTS])
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


def test_repeated_identifiers_are_told_apart_by_a_number(tokenizer):
    names = ["a", "b", "a", "a (2)", "a", "b"]
    tokens = tokenize([Document(row, name, "x", "Yuki got 9") for row, name in enumerate(names)], tokenizer)
    assert tokens["document_id"].values.tolist() == ["a", "b", "a (2)", "a (2) (2)", "a (3)", "b (2)"]
    assert tokens.attrs["ids_repeated"] == 4
    assert tokenize(DOCUMENTS, tokenizer).attrs["ids_repeated"] == 0


def test_a_nul_is_a_token_and_its_symbol_in_the_file(tokenizer, tmp_path):
    text = "Omar\0got 9"
    tokens = tokenize([Document(0, "a\0b", "c\0d", text)], tokenizer)
    assert tokenizer.decode(tokens["token_id"].values) == text
    netcdf.save(tokens, tmp_path / "t.nc")
    loaded = netcdf.load(tmp_path / "t.nc")
    stored = [loaded[part].item() for part in ("text", "document_id", "cluster")]
    assert stored == ["Omar␀got 9", "a␀b", "c␀d"]


def test_minimum_tokens_leaves_short_documents_out_and_counts_them(tokenizer):
    lengths = [len(tokenizer(text)["input_ids"]) for *_, text, _ in DOCUMENTS]
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
