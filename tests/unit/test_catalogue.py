"""The catalogue of config/olmoe.yaml reads rows as the hub has them: what a document of each dataset is."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gatebook.inputs import documents
from gatebook.inputs.sources import hub
from gatebook.inputs.templates import parse

CONFIG = Path(__file__).parents[2] / "config"
CATALOGUE = yaml.safe_load((CONFIG / "olmoe.yaml").read_text(encoding="utf-8"))["datasets"]
QUESTION = {"question": "What is 2 + 2?", "subject": "abstract_algebra", "choices": ["1", "4", "3", "2"], "answer": 1}
ROWS = {
    "math": (
        {
            "problem": "Find $1+1$.",
            "solution": "$\\boxed{2}$",
            "answer": "2",
            "subject": "Prealgebra",
            "level": 1,
            "unique_id": "test/prealgebra/7.json",
        },
        "Problem: Find $1+1$.\nSolution: $\\boxed{2}$",
        "Problem: Find $1+1$.",
        ("test/prealgebra/7.json", "0"),
    ),
    "aqua_rat": (
        {"question": "Half of 4?", "options": ["A)1", "B)2"], "rationale": "4 / 2 = 2.\nB", "correct": "B"},
        "Question: Half of 4?\nA)1\nB)2\nAnswer: 4 / 2 = 2.\nB",
        "Question: Half of 4?\nA)1\nB)2",
        ("0", "0"),
    ),
    "github_code": (
        {"repo_name": "a/b", "path": "c.py", "size": "12", "content": "x = {1: 2}\n", "license": "mit", "hash": "9f"},
        "x = {1: 2}\n",
        None,
        ("9f", "a/b"),
    ),
    "mmlu": (
        QUESTION,
        "Question: What is 2 + 2?\nA. 1\nB. 4\nC. 3\nD. 2\nAnswer:",
        "Question: What is 2 + 2?",
        ("0", "0"),
    ),
}
"""By dataset a row as the hub has it, its document, that of the question alone, its identifier and cluster."""


def entry(name: str) -> dict:
    """An entry of the catalogue, with the defaults of the schema that reading needs."""
    found = {"template": "{text}", "limits": {}, "sample_by": "line"} | CATALOGUE[name]
    return found | {"cluster": hub.Datasets().clusters(found)}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_hub_is_this_document(name, kind, tmp_path):
    row, whole, question, (identifier, cluster) = ROWS[name]
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([row]), buffer)
        path.write_bytes(buffer.getvalue())
    else:
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (document,) = documents.of_dataset(name, [str(path)], entry(name))
    assert (document.text, document.id, document.cluster) == (whole, identifier, cluster)
    assert ("question_only" in CATALOGUE[name]) == (question is not None)
    if question is not None:
        alone = entry(name) | {"template": CATALOGUE[name]["question_only"]}
        (document,) = documents.of_dataset(name, [str(path)], alone)
        assert document.text == question and whole.startswith(question)


def test_every_entry_has_a_template_that_can_be_parsed_and_says_where_on_the_hub_it_is():
    for name in CATALOGUE:
        for key in ("template", "question_only"):
            if key in CATALOGUE[name]:
                assert parse(f"datasets.{name}.{key}", CATALOGUE[name][key]).columns
        assert CATALOGUE[name]["revision"] and CATALOGUE[name]["split"] and "/" in CATALOGUE[name]["path"]


def test_the_example_selects_the_new_entries_with_fineweb():
    example = yaml.safe_load((CONFIG / "examples" / "math_code_text.yaml").read_text(encoding="utf-8"))
    assert example["study"]["datasets"] == [*ROWS, "fineweb"] and set(example["study"]["datasets"]) <= set(CATALOGUE)
