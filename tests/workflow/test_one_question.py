"""One script alone, and one chapter alone, on a finished study: the same bytes, and nothing more than is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from studies import COUNTS, COUNTS_STUDY, Workflow

ROOT = Path(__file__).parents[2]


def run(module: str, folder: Path, *words) -> subprocess.CompletedProcess:
    """Run a module of the library as a command in a folder."""
    command = [sys.executable, "-m", module, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)


def planned(done: subprocess.CompletedProcess) -> dict[str, int]:
    """How many jobs of each rule a dry run would run."""
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", done.stdout, flags=re.MULTILINE)}


@pytest.fixture(scope="module")
def study(tiny_study, tmp_path_factory) -> Workflow:
    """A copy of the finished tiny study."""
    folder = tmp_path_factory.mktemp("alone") / "study"
    shutil.copytree(tiny_study.folder, folder, symlinks=True)
    return Workflow(folder)


def test_a_script_alone_writes_what_its_job_wrote(study, tiny_config):
    before = study.checksums()
    written = [f"{kind}/demo/step20/coactivation" for kind in ("metrics", "draws", "tables")]
    for path in before:
        if path.startswith(tuple(written)):
            (study.folder / "results" / path).unlink()
    words = ["measure_coactivation", "model=demo", "checkpoint=step20", "--configfile", tiny_config]
    done = run("gatebook.run.alone", study.folder, *words)
    assert done.returncode == 0, done.stderr
    assert study.checksums() == before
    receipt = json.loads((study.folder / "results/receipts/measure_coactivation/demo/step20.json").read_text())
    assert [entry["path"] for entry in receipt["outputs"]] == [
        f"results/{path}.{'csv' if path.startswith('tables') else 'nc'}" for path in written
    ]


def test_an_expert_is_changed_by_hand(study, tiny_config):
    """As `make intervene` does it: a page, figures and numbers below prompts/, and the study as it was."""
    before = study.checksums()
    words = ["--prompt", "Tara has 24 postcards", "--layer", "1", "--generate", "2", "--configfile", tiny_config]
    done = run("gatebook.report.intervene", study.folder, *words, "--token", "1", "--factor", "0.5")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().removeprefix("Page: ")).parent
    assert folder.parent == study.folder / "prompts" and study.checksums() == before
    assert {path.name for path in folder.glob("*.svg")} == {"doses.svg", "tokens_0.svg"}
    found = json.loads((folder / "intervention.json").read_text())
    assert (found["layer"], found["dose"], found["where"], len(found["written"])) == (1, 0.5, "token 1", 3)
    page = (folder / "index.html").read_text()
    assert "The weight times" in page.replace("the weight", "The weight") and "What the model writes" in page
    done = run("gatebook.report.intervene", study.folder, *words, "--token", "99")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "there is no token 99" in done.stderr


def test_a_prompt_and_a_token_are_routed_by_hand(study, tiny_config):
    """As `make route` does it: a page and numbers below prompts/, those of the records, and the study as it was."""
    before = study.checksums()
    document = xr.load_dataset(study.folder / "results/inputs/demo/stories.nc", drop_variables="text")
    given = ["--dataset", "stories", "--document", "0", "--token", "1", "--configfile", tiny_config]
    done = run("gatebook.report.route", study.folder, *given)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().removeprefix("Page: ")).parent
    assert folder.parent == study.folder / "prompts" and study.checksums() == before
    found = xr.load_dataset(folder / "routing.nc")
    np.testing.assert_array_equal(found["token_id"], document["token_id"][: found.sizes["token"]])
    record = xr.load_dataset(study.folder / "results/routing/demo/step20/stories/layer_1.nc")
    mine = found["router_logits"].sel(layer=1)
    np.testing.assert_array_equal(mine, record["router_logits"][: found.sizes["token"]])

    done = run("gatebook.report.route", study.folder, "--prompt", "Tara has 24", "--configfile", tiny_config)
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip().removeprefix("Page: "))
    assert "python -m gatebook.report.route --prompt &#39;Tara has 24&#39;" in page.read_text(encoding="utf-8")
    wrong = run("gatebook.report.route", study.folder, *given[:2], "--configfile", tiny_config)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1) and "--dataset needs --document" in wrong.stderr


@pytest.mark.long
def test_a_prompt_needs_no_study(study, tmp_path, tiny_config):
    """The model is trained, here on text that is there already, and nothing else is made."""
    demo = shutil.copytree(study.folder / "results/demo", tmp_path / "results/demo")
    shutil.rmtree(demo / "checkpoints")
    done = run("gatebook.report.route", tmp_path, "--prompt", "Tara has 24", "--configfile", tiny_config)
    assert done.returncode == 0, done.stderr[-4000:]
    assert Path(done.stdout.splitlines()[-1].removeprefix("Page: ")).is_file()
    made = {path.name for path in (tmp_path / "results").iterdir()}
    assert made == {"demo", "logs", "receipts"}


@pytest.mark.long
def test_a_prompt_is_steered_by_hand(study, tiny_config):
    """As `make steer` does it: a page and numbers below prompts/, and the study as it was."""
    before = study.checksums()
    words = ["--prompt", "Tara has 24 postcards", "--layer", "1", "--configfile", tiny_config]
    contrast = ["--toward", "arithmetic", "--away", "stories", "--generate", "3", "--random", "2", "--samples", "2"]
    done = run("gatebook.report.steer", study.folder, *words, *contrast, "--kind", "logits")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().removeprefix("Page: ")).parent
    assert folder.parent == study.folder / "prompts" and study.checksums() == before
    found = json.loads((folder / "steering.json").read_text())
    assert [each["dataset"] for each in found["prices"]] == ["arithmetic", "stories"] and len(found["written"]) == 3
    assert "What it costs" in (folder / "index.html").read_text()
    done = run("gatebook.report.steer", study.folder, *words, "--from", "Ben has 3 pens", "--at", "1", "--from-at", "1")
    assert done.returncode == 0, done.stderr
    done = run("gatebook.report.steer", study.folder, *words, "--from", "Ben has 3 pens", "--at", "99")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "there is no token 99" in done.stderr


def test_a_chapter_alone_makes_only_what_the_study_lacks_and_leaves_the_study_alone(study, tiny_config):
    before = study.checksums()
    words = ["router_decisiveness", "--datasets", "stories", "--configfile", tiny_config]
    dry = planned(run("gatebook.chapters", study.folder, *words, "--", "--dry-run", "--quiet", "rules"))
    assert dry == {"measure_router_decisiveness": 2, "plot_chapter": 1, "total": 3}

    done = run("gatebook.chapters", study.folder, *words)
    assert done.returncode == 0, done.stderr[-4000:]
    own = study.folder / "alone/router_decisiveness/results"
    assert done.stdout.splitlines()[-3:] == [
        "  figures: alone/router_decisiveness/results/figures/demo/step20/router_decisiveness",
        "  tables:  alone/router_decisiveness/results/tables/demo/step20/router_decisiveness.csv",
        "  numbers: alone/router_decisiveness/results/metrics/demo/step20/router_decisiveness.nc",
    ]
    figures = own / "figures/demo/step20/router_decisiveness"
    words_of_it = json.loads((figures / "chapter.json").read_text(encoding="utf-8"))
    assert words_of_it["findings"][0]["answer"] in done.stdout and list(figures.glob("*.svg"))
    alone, whole = (
        xr.load_dataset(folder / "metrics/demo/step20/router_decisiveness.nc")
        for folder in (own, study.folder / "results")
    )
    assert alone["dataset"].values.tolist() == ["pooled", "stories"]
    one, other = (each["entropy"].sel(dataset="stories", interval="estimate") for each in (alone, whole))
    np.testing.assert_array_equal(one, other)
    assert study.checksums() == before


def test_other_limits_and_settings_train_nothing_again(study, tiny_config):
    limits = ["--model", "demo", "--layers", "1", "--tokens", "1000", "--datasets", "stories,arithmetic"]
    words = ["similarity", *limits, "--similarity.permutations", "200", "--configfile", tiny_config]
    dry = planned(run("gatebook.chapters", study.folder, *words, "--", "--dry-run", "--quiet", "rules"))
    upstream = {"describe_model": 2, "tokenize_dataset": 2, "extract_routing": 4, "tally_routing": 4}
    measures = {f"measure_{name}": 2 for name in ("coactivation", "token_overlap", "similarity")}
    assert dry == upstream | measures | {"plot_chapter": 1, "total": 19}


def test_a_chapter_alone_of_a_study_that_was_never_run(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/counts.csv").write_text(COUNTS)
    (tmp_path / "counts.yaml").write_text(yaml.safe_dump(COUNTS_STUDY))
    words = ["selection_frequency", "--configfile", "counts.yaml", "--datasets", "arxiv"]
    done = run("gatebook.chapters", tmp_path, *words, "--selection_frequency.thresholds.balanced_variation", "0.25")
    assert done.returncode == 0, done.stderr[-4000:]
    own = tmp_path / "alone/selection_frequency/results"
    metrics = xr.load_dataset(own / "metrics/published/v1/selection_frequency.nc")
    assert metrics["dataset"].values.tolist() == ["pooled", "arxiv"]
    assert sorted(path.name for path in (own / "figures").rglob("chapter.json")) == ["chapter.json"]
    assert not (tmp_path / "results").exists()

    refused = run("gatebook.chapters", tmp_path, "similarity", "--configfile", "counts.yaml")
    sentence = "Error: similarity cannot be answered: published: published counts do not allow it."
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1] == sentence


def test_a_job_that_fails_has_the_last_word(tmp_path, model_folder):
    (tmp_path / "rows.jsonl").write_text('{"text": "Janet sold 3 eggs for 2 dollars."}\n' * 3)
    config = {
        "study": {"models": ["tiny"], "datasets": ["rows"]},
        "models": {"tiny": {"source": "local", "path": str(model_folder), "device": "cpu"}},
        "datasets": {"rows": {"source": "files", "files": ["rows.jsonl"]}},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    done = run("gatebook.chapters", tmp_path, "coactivation", "--layers", "9", "--configfile", "tiny.yaml")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "Error: models.tiny.layers: layer 9 is not a Mixture-of-Experts layer; the model has [0, 1, 2, 3]."
    )


def test_make_hands_its_variables_over():
    variables = ["NAME=similarity", "MODEL=demo", "LAYERS=1", "TOKENS=10000", "DATASETS=python,cpp", "CORES=2"]
    command = [
        "make",
        "--directory",
        str(ROOT),
        "--dry-run",
        "chapter",
        *variables,
        "OPTIONS=--similarity.permutations 200",
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.replace("\\\n", " ")
    assert (
        "python -m gatebook.chapters similarity --model demo --layers 1 --tokens 10000 --datasets python,cpp --cores 2 "
        "--similarity.permutations 200"
    ) in " ".join(printed.split())
