"""The object that a rule's script gets is that of the real Snakefile; and scripts run with it, one by one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
import yaml
from studies import COUNTS, COUNTS_STUDY, SELECTED

from gatebook.problem import Problem
from gatebook.run import alone

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
TINY = ROOT / "tests" / "config" / "tiny.yaml"
COACTIVATION = {"model": "demo", "checkpoint": "step20"}


@pytest.fixture
def tiny(tmp_path):
    """A folder that has what the chapter co-activation of the tiny study reads, as empty files."""
    inputs = [f"results/tallies/demo/step20/{dataset}.nc" for dataset in ("unicode", "arithmetic", "stories")]
    inputs += [f"results/{kind}/demo/step0/coactivation.nc" for kind in ("metrics", "draws")]
    for name in inputs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def counts(tmp_path):
    """The folder of a study of published counts, and its overlay."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "counts.csv").write_text(COUNTS)
    (tmp_path / "counts.yaml").write_text(yaml.safe_dump(COUNTS_STUDY))
    return tmp_path


def run_line(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the command line in a folder."""
    command = [sys.executable, "-m", "gatebook.run.alone", *words]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_object_is_that_of_the_rule(tiny):
    here = Path.cwd()
    made = alone.snakemake_object("measure_coactivation", directory=tiny, configfiles=[TINY], **COACTIVATION)
    assert Path.cwd() == here
    assert type(made).__name__ == "Snakemake" and type(made).__module__.startswith("snakemake.")
    assert made.rule == "measure_coactivation"
    assert made.input.tallies == [
        f"results/tallies/demo/step20/{name}.nc" for name in ("unicode", "arithmetic", "stories")
    ]
    assert made.input.untrained == [f"results/{kind}/demo/step0/coactivation.nc" for kind in ("metrics", "draws")]
    assert list(made.input) == [*made.input.tallies, *made.input.untrained]
    assert dict(made.output.items()) == {
        "metrics": "results/metrics/demo/step20/coactivation.nc",
        "draws": "results/draws/demo/step20/coactivation.nc",
        "table": "results/tables/demo/step20/coactivation.csv",
    }
    assert list(made.log) == ["results/logs/measure_coactivation/demo/step20.log"]
    assert dict(made.wildcards.items()) == COACTIVATION
    assert made.params.statistics == {"confidence": 0.95} and len(made.params.code) == 16
    assert made.threads == 1 and made.resources.mem_mb > 2000
    assert made.config["statistics"]["resamples"] == 100
    assert Path(made.scriptdir) == SCRIPTS
    assert all((tiny / path).parent.is_dir() for path in (*made.output, *made.log))


def test_what_is_given_takes_the_place_of_what_the_rule_says(tiny, tmp_path):
    made = alone.snakemake_object(
        "measure_coactivation",
        directory=tiny,
        configfiles=[TINY],
        input={"untrained": []},
        output={"metrics": tmp_path / "m.nc"},
        params={"confidence": 0.9},
        **COACTIVATION,
    )
    assert made.input.untrained == [] and len(made.input.tallies) == len(made.input) == 3
    assert made.output.metrics == str(tmp_path / "m.nc")
    assert made.output.table == "results/tables/demo/step20/coactivation.csv"
    assert made.params.confidence == 0.9 and len(made.params.code) == 16


WRONG = {
    "a rule that is nearly one": (("measure_coactivaton", COACTIVATION), "did you mean measure_coactivation?"),
    "no rule": (("x", {}), "no rule 'x' with a script: use one of .*, measure_coactivation, "),
    "a rule without a script": (("all", {}), "no rule 'all' with a script"),
    "a missing wildcard": (
        ("measure_coactivation", {"model": "demo"}),
        "the wildcard checkpoint is missing: its wildcards are checkpoint, model; add checkpoint=VALUE",
    ),
    "an unknown wildcard": (
        ("measure_coactivation", COACTIVATION | {"dataset": "stories"}),
        "dataset is no wildcard of this rule: its wildcards are checkpoint, model",
    ),
    "wildcards of a rule without any": (
        ("build_report", {"model": "demo"}),
        "model is no wildcard .* has no wildcards",
    ),
    "an unknown model": (("measure_coactivation", COACTIVATION | {"model": "a"}), "model=a .* use one of demo"),
    "an unknown checkpoint": (
        ("measure_coactivation", COACTIVATION | {"checkpoint": "a"}),
        "checkpoint=a is not in the study: use one of step0, step20",
    ),
    "an unknown dataset": (
        ("tokenize_dataset", {"model": "demo", "dataset": "a"}),
        "dataset=a .* use one of unicode, arithmetic, stories",
    ),
    "an unknown chapter": (("plot_chapter", {"of": "runs", "chapter": "a"}), "chapter=a .* use one of held_out_loss, "),
    "an unknown part": (
        ("extract_routing", COACTIVATION | {"part": "a"}),
        "extract_routing does not make results/routing/demo/step20/a in this study: correct model=demo .* part=a",
    ),
    "a rule for other models": (
        ("fetch_model", COACTIVATION),
        "fetch_model: config: models.demo is not a hub model",
    ),
    "inputs that are not there": (
        ("tally_routing", COACTIVATION | {"part": "stories"}),
        "reads results/inputs/demo/stories.nc .and 1 others., which does not exist: make it by snakemake ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence(tiny, case):
    (rule, wildcards), sentence = WRONG[case]
    with pytest.raises(Problem, match=sentence):
        alone.snakemake_object(rule, directory=tiny, configfiles=[TINY], **wildcards)
    assert not (tiny / "results" / "logs").exists()


def test_a_wrong_config_is_one_sentence(tmp_path):
    (tmp_path / "o.yaml").write_text("maps: {points: many}")
    with pytest.raises(Problem, match=r"config: maps\.points: 'many' is not allowed: write a whole number of at least"):
        alone.snakemake_object("verify", directory=tmp_path, configfiles=[tmp_path / "o.yaml"])
    with pytest.raises(Problem, match=r"absent\.yaml cannot be read \(No such file or directory\): name a config file"):
        alone.snakemake_object("verify", directory=tmp_path, configfiles=["absent.yaml"])
    with pytest.raises(Problem, match="absent is not a folder"):
        alone.snakemake_object("verify", directory=tmp_path / "absent")


@pytest.mark.slow
def test_the_command_line_runs_the_script_where_the_study_is(counts, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    wildcards = ["model=published", "checkpoint=v1"]
    options = ["--directory", str(counts), "--configfile", str(counts / "counts.yaml")]
    done = run_line(elsewhere, "tally_counts", *wildcards, *options)
    assert done.returncode == 0, done.stderr
    tally = xr.load_dataset(counts / "results/tallies/published/v1/arxiv.nc")
    assert tally["selected_count"].isel(document=0).values.tolist() == [SELECTED["arxiv", layer] for layer in (0, 7)]
    assert json.loads(tally.attrs["provenance"])["rule"] == "tally_counts"
    receipt = json.loads((counts / "results/receipts/tally_counts/published/v1.json").read_text())
    tallies = [f"results/tallies/published/v1/{dataset}.nc" for dataset in ("github", "arxiv")]
    assert [output["path"] for output in receipt["outputs"]] == tallies
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tally_counts", "model=published"], "Error: tally_counts: the wildcard checkpoint is missing: "),
        (["tally_counts", "model=published", "checkpoint=a"], "Error: tally_counts: checkpoint=a is not in "),
        (["tally_counts", "published"], "'published' is no wildcard with its value: write NAME=VALUE"),
    ],
)
def test_the_command_line_says_what_is_wrong(counts, words, sentence):
    done = run_line(counts, *words, "--configfile", "counts.yaml")
    assert done.returncode != 0
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_problem_in_the_script_is_one_sentence(counts):
    (counts / "data" / "counts.csv").write_text(COUNTS.replace("arxiv,0,0,", "arxiv,0,0,1"))
    done = run_line(counts, "tally_counts", "model=published", "checkpoint=v1", "--configfile", "counts.yaml")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: models.published.files: ") and done.stderr.count("\n") == 1
    assert not (counts / "results/tallies/published/v1/arxiv.nc").exists()
