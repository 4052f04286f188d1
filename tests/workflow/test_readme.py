"""The Python examples of the README run as they stand there."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from gatebook.files import netcdf
from gatebook.routing import models
from gatebook.run import alone

README = Path(__file__).parents[2] / "README.md"
SECTION = README.read_text(encoding="utf-8").partition("\n## From Python\n")[2].partition("\n## ")[0]
EXAMPLES = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
DATASETS = ("python", "stories")
STUDY = {
    "study": {"datasets": list(DATASETS)},
    "models": {"demo": {"checkpoints": ["step400"], "untrained": "step400", "window": 32, "tokens_per_dataset": "all"}},
    "compare": [],
}


@pytest.fixture
def study(tmp_path, model_folder, restored_process, monkeypatch):
    """The working directory: a study of a tiny model at the paths of the default study, made script by script."""
    monkeypatch.chdir(tmp_path)
    for name in ("checkpoints/demo/step400", "tokenizer"):
        shutil.copytree(model_folder, Path("results/demo", name))
    for name in DATASETS:
        path = Path(f"results/demo/corpora/held_out/{name}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [f"{name} {number}: Janet sold {number} eggs for 2 dollars." for number in range(20)]
        rows = [{"text": text, "cluster": f"source {number}"} for number, text in enumerate(texts)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("study.yaml").write_text(yaml.safe_dump(STUDY))

    def run(rule: str, **wildcards):
        alone.main([rule, *(f"{name}={value}" for name, value in wildcards.items()), "--configfile", "study.yaml"])

    run("describe_model", model="demo", checkpoint="step400")
    for name in DATASETS:
        run("tokenize_dataset", model="demo", dataset=name)
        run("extract_routing", model="demo", checkpoint="step400", part=name)
        run("tally_routing", model="demo", checkpoint="step400", part=name)
    run("measure_router_decisiveness", model="demo", checkpoint="step400")


def test_examples_run_as_they_stand(study, capsys):
    reading, routing, rows, sampled = ({} for _ in EXAMPLES)
    for example, names in zip(EXAMPLES, (reading, routing, rows, sampled), strict=True):
        exec(example, names)

    record = netcdf.load("results/routing/demo/step400/python/layer_1.nc")
    assert reading["entropy"].dims == ("layer", "interval")
    assert reading["load"].sum() == record["selected_expert"].size
    assert reading["load"].loc[3] == (record["selected_expert"] == 3).sum()

    tokens = routing["routing"]["token_text"].values.tolist()
    assert "".join(tokens) == "def area(radius):Once upon a time"
    printed = [f"{token!r} {expert}" for token, expert in zip(tokens, routing["first"].values, strict=True)]
    assert capsys.readouterr().out.splitlines()[-len(tokens) :] == printed

    block = models.load_block("results/demo/checkpoints/demo/step400", 1, dtype="auto", device=torch.device("cpu"))
    np.testing.assert_array_equal(rows["rows"].sel(layer=1), models.router_rows(block))
    assert sorted(rows["cosine"]) == [0, 1, 2, 3]
    np.testing.assert_allclose(np.diag(rows["cosine"][3]), 1)

    kept = netcdf.load("results/routing/demo/step400/stories/states.nc")
    np.testing.assert_array_equal(sampled["inputs"], kept["state"].sel(layer=1))
    assert sampled["selected"].shape == (300, 3) and sampled["states"].dtype == np.float32


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_takes_no_more_than_five_lines(number):
    lines = [line for line in EXAMPLES[number].splitlines() if line]
    assert 3 <= len(lines) <= 5 and not any(len(line) > 120 for line in lines)
