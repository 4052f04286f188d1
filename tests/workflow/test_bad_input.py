"""Bad input ends in one sentence that names the key or file, the value and the remedy; nothing half-written stays."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = [{"question": f"What is {n} plus {n}?", "answer": f"{n + n} is the answer."} for n in range(6)]
TOKENS = "results/inputs/tiny/rows.nc"
DESCRIPTION = "results/inputs/tiny/checkpoints/local.json"
TALLIES = "results/tallies/tiny/local/rows.nc"
OF_COUNTS = "results/tallies/published/v1/code.nc"
COUNTS = "domain,layer,expert,selected_count,tokens\ncode,0,0,3,3\ncode,0,1,0,3\n"
SNAKEMAKE_READS = ("Using workflow specific profile ", "Config file ")
"""What Snakemake says before it reads the config."""


def base(model_folder: Path) -> dict:
    """The overlay of a study of a tiny local model and one file."""
    return {
        "study": {"title": "Bad input", "models": ["tiny"], "datasets": ["rows"]},
        "models": {"tiny": {"source": "local", "path": str(model_folder), "device": "cpu"}},
        "datasets": {"rows": {"source": "files", "files": ["rows.jsonl"], "template": "{question} {answer}"}},
    }


def write_rows(text: str):
    """The change to a file with this content."""
    return lambda config, folder: (folder / "rows.jsonl").write_text(text, encoding="utf-8")


def counts(text: str):
    """The change to a study of published counts that a file with this content holds."""

    def change(config, folder):
        (folder / "counts.csv").write_text(text, encoding="utf-8")
        model = {"source": "counts", "id": "a/b", "revision": "v1", "files": ["counts.csv"]}
        config["study"] |= {"models": ["published"], "datasets": ["code"]}
        config["models"] = {"published": model | {"experts_per_layer": 2, "experts_per_token": 1}}
        config["datasets"] = {"code": {"source": "counts", "domain": "code"}}

    return change


def put_nan(config, folder):
    """The change to a model with a number in a router that is none."""
    from safetensors.torch import load_file, save_file

    spoiled = shutil.copytree(config["models"]["tiny"]["path"], folder / "spoiled")
    weights = load_file(spoiled / "model.safetensors")
    weights["model.layers.2.mlp.gate.weight"][0, 0] = math.nan
    save_file(weights, spoiled / "model.safetensors", metadata={"format": "pt"})
    config["models"]["tiny"]["path"] = "spoiled"


def of_job(rule: str, wildcards: str, sentence: str, *, log: str | None = None) -> list[str]:
    """The last screen after a job failed; its log is named after its wildcards, unless `log` says how."""
    named = log or "/".join(part.partition("=")[2] for part in wildcards.split(", "))
    return ["", f"{rule} {wildcards} (log: results/logs/{rule}/{named}.log)", f"Error: {sentence}"]


def of_rows(sentence: str) -> list[str]:
    """The last screen after the rows of the file could not be used."""
    return of_job("tokenize_dataset", "model=tiny, dataset=rows", sentence)


def of_the_counts(sentence: str) -> list[str]:
    """The last screen after published counts could not be used."""
    return of_job("tally_counts", "model=published, checkpoint=v1", sentence)


LONG = f"{300 * 'a'}.jsonl"
CASES = {
    # name: (change of the config or of the folder, target or None for the whole study, what stands on the last screen)
    "typo in a section": (
        lambda c, f: c.update(statstics={}),
        None,
        ["Error: config: the key 'statstics' is unknown: did you mean 'statistics'?"],
    ),
    "typo in a model": (
        lambda c, f: c["models"]["tiny"].update(layer="all"),
        None,
        ["Error: config: models.tiny: the key 'layer' is unknown: did you mean 'layers'?"],
    ),
    "wrong type": (
        lambda c, f: c.update(statistics={"resamples": "many"}),
        None,
        ["Error: config: statistics.resamples: 'many' is not allowed: write a whole number of at least 100."],
    ),
    "unknown dataset": (
        lambda c, f: c["study"].update(datasets=["rowz"]),
        None,
        [
            "Error: config: study.datasets: 'rowz' is not in the catalogue `datasets`: use one of python, cpp, web, "
            "console, algebra, unicode, mathematics, references, science, comments, messages, readme, arithmetic, "
            "stories, rows, or add it."
        ],
    ),
    "unknown model": (
        lambda c, f: c["study"].update(models=["tinny"]),
        None,
        ["Error: config: study.models: 'tinny' is not in the catalogue `models`: use one of demo, tiny, or add it."],
    ),
    "unknown run": (
        lambda c, f: c.update(compare=["tiny/local", "tiny/best"]),
        None,
        [
            "Error: config: compare: tiny/best: 'best' is not among the model's checkpoints: use one of local, or add "
            "it to models.tiny.checkpoints."
        ],
    ),
    "missing file": (
        lambda c, f: c["datasets"]["rows"].update(files=["gone.jsonl"]),
        None,
        ["Error: config: datasets.rows.files[0]: gone.jsonl does not exist: correct the path."],
    ),
    "missing model folder": (
        lambda c, f: c["models"]["tiny"].update(path="no/model"),
        None,
        ["Error: config: models.tiny.path: no/model does not exist: correct the path."],
    ),
    "not a number": (
        lambda c, f: c.update(coactivation={"thresholds": {"strong_lift": math.nan}}),
        None,
        ["Error: config: coactivation.thresholds.strong_lift: nan is not allowed: write a number above 1."],
    ),
    "a path that is too long": (
        lambda c, f: c["datasets"]["rows"].update(files=[LONG]),
        None,
        [f"Error: config: datasets.rows.files[0]: {LONG} does not exist: correct the path."],
    ),
    "results cannot be written": (
        lambda c, f: (f / "results").write_text("in the way"),
        None,
        ["Error: {folder}/results cannot be written: make it a folder that you may write to."],
    ),
    "a key that stands twice": (
        lambda c, f: "study:\n  title: One\n  models: [demo]\n  title: Two\n",
        None,
        ["Error: {folder}/overlay.yaml: line 4: the key 'title' stands in line 2 already: keep one of them."],
    ),
    "missing column": (
        lambda c, f: c["datasets"]["rows"].update(template="{problem}"),
        TOKENS,
        of_rows(
            "datasets.rows.template: rows.jsonl, line 1: there is no column 'problem'; the columns are answer, "
            "question: correct the name."
        ),
    ),
    "empty dataset": (
        write_rows(""),
        TOKENS,
        of_rows("datasets.rows: rows.jsonl cannot be read as json (it has no rows): mend the file or its `format`."),
    ),
    "unreadable file": (
        write_rows('{"question": "half'),
        TOKENS,
        of_rows(
            "datasets.rows: rows.jsonl cannot be read as json (line 1: Unterminated string starting at): mend the file "
            "or its `format`."
        ),
    ),
    "short document": (
        write_rows('{"question": "", "answer": ""}\n'),
        TOKENS,
        of_rows(
            "datasets.rows: document 0 has 1 token(s) (' '), and routing needs 2: mend the data, or set "
            "datasets.rows.limits.minimum_tokens to leave such documents out."
        ),
    ),
    "layer out of range": (
        lambda c, f: c["models"]["tiny"].update(layers=[0, 9]),
        DESCRIPTION,
        of_job(
            "describe_model",
            "model=tiny, checkpoint=local",
            "models.tiny.layers: layer 9 is not a Mixture-of-Experts layer; the model has [0, 1, 2, 3].",
        ),
    ),
    "counts without a column": (
        counts(COUNTS.replace("tokens", "n")),
        OF_COUNTS,
        of_the_counts(
            "models.published.files: counts.csv has no column 'tokens', but domain, layer, expert, selected_count, n: "
            "add it or rename one."
        ),
    ),
    "impossible counts": (
        counts(COUNTS.replace("1,0,3", "1,1,3")),
        OF_COUNTS,
        of_the_counts(
            "models.published.files: domain code, layer 0: selected_count does not add up to tokens x "
            "experts_per_token (1): correct the counts or the number."
        ),
    ),
    "counts of an unknown domain": (
        counts(COUNTS.replace("code", "prose")),
        OF_COUNTS,
        of_the_counts("datasets.code.domain: 'code' is not in counts.csv: use one of prose."),
    ),
    "NaN in a router": (
        put_nan,
        TALLIES,
        of_job(
            "extract_routing",
            "model=tiny, checkpoint=local, part=rows",
            "spoiled: layers.2.mlp.gate.weight holds NaN or infinity in float32: fetch the checkpoint again.",
        ),
    ),
}


def check(done, screen: list[str], folder: Path):
    """Failed with this last screen: an empty line, jobs with their logs, their sentence; of the planning it alone."""
    assert done.returncode == 1
    expected = [line.format(folder=folder) if "{folder}" in line else line for line in screen]
    lines = [line for line in done.stderr.splitlines() if not line.startswith(SNAKEMAKE_READS)]
    assert (lines[-len(expected) :] if "" in expected else lines) == expected
    errors = [line for line in lines if line.startswith("Error: ")]
    assert set(errors) == {expected[-1]}  # a job said it when it failed, too
    assert "Traceback" not in done.stderr
    results = folder / "results"
    assert not list(results.rglob("*.partial")) if results.is_dir() else True


@pytest.mark.parametrize("case", CASES)
def test_the_last_screen_says_what_is_wrong_and_nothing_stays(workflow, model_folder, case):
    change, target, screen = CASES[case]
    folder, config = workflow.folder, base(model_folder)
    write_rows("".join(json.dumps(row) + "\n" for row in ROWS))(config, folder)
    overlay, text = folder / "overlay.yaml", change(config, folder)
    if isinstance(text, str):
        overlay.write_text(text, encoding="utf-8")
    else:
        workflow.overlay(overlay.name, config)
    done = workflow.run("--cores", "1", *filter(None, [target]), configs=[overlay])
    check(done, screen, folder)
    assert not (folder / target).exists() if target else "Job stats" not in done.stdout
    assert not (folder / "results/routing/tiny/local/rows").exists()


def test_in_a_path_with_spaces_jobs_run_and_the_last_lines_say_what_failed(workflow, tmp_path):
    """The environment is in a folder with a space; the job that runs there, verify, finds no results."""
    environment = tmp_path / "my environment"
    environment.symlink_to(sys.prefix)
    _, *command = workflow.command("--cores", "1", "verify")
    done = subprocess.run([environment / "bin/python", *command], capture_output=True, text=True)
    sentence = "Error: {folder}/results holds no receipt of a finished job: run `snakemake verify` in the folder of "
    sentence += "a study, or name that folder with --directory."
    check(done, ["", "verify (log: results/logs/verify.log)", sentence], workflow.folder)


def test_every_failed_job_is_told_at_the_end(workflow, model_folder):
    config = base(model_folder)
    write_rows(json.dumps(ROWS[0]))(config, workflow.folder)
    right = config["datasets"]["rows"]
    config["datasets"] = {name: right | {"template": f"{{{name}}}"} for name in ("a", "b")}
    config["study"]["datasets"] = ["a", "b"]
    targets = ("results/inputs/tiny/a.nc", "results/inputs/tiny/b.nc")
    overlay = workflow.overlay("overlay.yaml", config)
    done = workflow.run("--cores", "1", "--keep-going", *targets, configs=[overlay])
    assert done.returncode == 1
    said = "rows.jsonl, line 1: there is no column '{0}'; the columns are answer, question: correct the name."
    screens = [
        of_job("tokenize_dataset", f"model=tiny, dataset={name}", f"datasets.{name}.template: {said.format(name)}")
        for name in ("a", "b")
    ]
    last = done.stderr.splitlines()[-6:]
    assert sorted([last[:3], last[3:]]) == screens
