"""Bad input ends in one sentence that names the key or file, the value and the remedy; nothing half-written stays."""

import json
import math
import subprocess
import sys

import pytest

ROWS = [{"question": f"What is {n} plus {n}?", "answer": f"{n + n} is the answer."} for n in range(6)]


@pytest.fixture
def local(workflow, model_folder):
    """A study of a tiny local model and one file; returns a function that runs it with changes to the overlay."""
    rows = workflow.folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    base = {
        "study": {"title": "Bad input", "models": ["tiny"], "datasets": ["rows"]},
        "models": {"tiny": {"source": "local", "path": str(model_folder), "device": "cpu"}},
        "datasets": {"rows": {"source": "files", "files": ["rows.jsonl"], "template": "{question} {answer}"}},
    }

    def run(change, *targets):
        change(base, workflow.folder)
        return workflow.run("--cores", "1", *targets, configs=[workflow.overlay("overlay.yaml", base)])

    return run


def check(done, sentence: str, folder):
    """Failed with exactly one sentence of ours, the last line, which holds every word of `sentence`, no traceback."""
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(set(errors)) == 1, done.stderr[-3000:]
    for part in sentence.split(" ... "):
        assert part in errors[0]
    assert "Traceback" not in done.stderr
    results = folder / "results"
    assert not list(results.rglob("*.partial")) if results.is_dir() else True


PLANNING = {
    "typo in a section": (lambda c, f: c.update(statstics={}), "'statstics' ... statistics"),
    "typo in a model": (lambda c, f: c["models"]["tiny"].update(layer="all"), "models.tiny ... 'layer' ... layers"),
    "wrong type": (lambda c, f: c.update(statistics={"resamples": "many"}), "statistics.resamples ... 'many'"),
    "unknown dataset": (lambda c, f: c["study"].update(datasets=["rowz"]), "study.datasets ... 'rowz' ... rows"),
    "unknown model": (lambda c, f: c["study"].update(models=["tinny"]), "study.models ... 'tinny' ... tiny"),
    "unknown run": (
        lambda c, f: c.update(compare=["tiny/local", "tiny/best"]),
        "compare: tiny/best ... 'best' ... use one of local",
    ),
    "missing file": (
        lambda c, f: c["datasets"]["rows"].update(files=["gone.jsonl"]),
        "datasets.rows.files[0] ... gone.jsonl does not exist ... correct",
    ),
    "missing model folder": (
        lambda c, f: c["models"]["tiny"].update(path="no/model"),
        "models.tiny.path ... no/model does not exist ... correct",
    ),
    "not a number": (
        lambda c, f: c.update(coactivation={"thresholds": {"strong_lift": math.nan}}),
        "coactivation.thresholds.strong_lift: nan ... write a number above 1",
    ),
    "a path that is too long": (
        lambda c, f: c["datasets"]["rows"].update(files=[f"{300 * 'a'}.jsonl"]),
        "datasets.rows.files[0] ... does not exist ... correct",
    ),
    "results cannot be written": (
        lambda c, f: (f / "results").write_text("in the way"),
        "results cannot be written ... a folder that you may write to",
    ),
}


@pytest.mark.parametrize("case", PLANNING)
def test_a_wrong_config_stops_the_study_before_any_job(local, workflow, case):
    change, sentence = PLANNING[case]
    done = local(change)
    check(done, sentence, workflow.folder)
    assert "Job stats" not in done.stdout


def test_a_key_that_stands_twice_stops_the_study_before_any_job(workflow):
    overlay = workflow.folder / "overlay.yaml"
    overlay.write_text("study:\n  title: One\n  models: [demo]\n  title: Two\n", encoding="utf-8")
    done = workflow.run("--dry-run", configs=[overlay])
    check(done, f"{overlay}: line 4: the key 'title' stands in line 2 already: keep one of them.", workflow.folder)


def test_in_a_path_with_spaces_jobs_run_and_the_last_lines_say_what_failed(workflow, tmp_path):
    """The environment is in a folder with a space; the job that runs there, verify, finds no results."""
    environment = tmp_path / "my environment"
    environment.symlink_to(sys.prefix)
    _, *command = workflow.command("--cores", "1", "verify")
    done = subprocess.run([environment / "bin/python", *command], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-3:] == [
        "",
        "verify (log: results/logs/verify.log)",
        f"Error: {workflow.folder}/results holds no receipt of a finished job: run `snakemake verify` in the folder of "
        "a study, or name that folder with --directory.",
    ]


def test_every_failed_job_is_told_at_the_end(local, workflow):
    def two_wrong(config, folder):
        right = config["datasets"]["rows"]
        config["datasets"] = {name: right | {"template": f"{{{name}}}"} for name in ("a", "b")}
        config["study"]["datasets"] = ["a", "b"]

    done = local(two_wrong, "--keep-going", "results/inputs/tiny/a.nc", "results/inputs/tiny/b.nc")
    assert done.returncode == 1
    said = "rows.jsonl, line 1: there is no column '{0}'; the columns are answer, question"
    lines = done.stderr.splitlines()[-6:]
    assert [line.split(": correct")[0] for line in sorted(lines)] == sorted(
        part
        for name in ("a", "b")
        for part in (
            "",
            f"tokenize_dataset model=tiny, dataset={name} (log: results/logs/tokenize_dataset/tiny/{name}.log)",
            f"Error: datasets.{name}.template: {said.format(name)}",
        )
    )


TOKENS = "results/inputs/tiny/rows.nc"
RUNNING = {
    "missing column": (
        lambda c, f: c["datasets"]["rows"].update(template="{problem}"),
        TOKENS,
        "datasets.rows ... 'problem' ... answer, question",
    ),
    "empty dataset": (
        lambda c, f: (f / "rows.jsonl").write_text(""),
        TOKENS,
        "datasets.rows ... rows.jsonl",
    ),
    "unreadable file": (
        lambda c, f: (f / "rows.jsonl").write_text('{"question": "half'),
        TOKENS,
        "datasets.rows ... rows.jsonl",
    ),
    "short document": (
        lambda c, f: (f / "rows.jsonl").write_text('{"question": "", "answer": ""}\n'),
        TOKENS,
        "datasets.rows ... document 0 ... limits.minimum_tokens",
    ),
    "layer out of range": (
        lambda c, f: c["models"]["tiny"].update(layers=[0, 9]),
        "results/inputs/tiny/checkpoints/local.json",
        "models.tiny.layers ... layer 9 ... [0, 1, 2, 3]",
    ),
}


@pytest.mark.parametrize("case", RUNNING)
def test_a_job_that_cannot_work_says_why_and_leaves_nothing(local, workflow, case):
    change, target, sentence = RUNNING[case]
    check(local(change, target), sentence, workflow.folder)
    assert not (workflow.folder / target).exists()


COUNTS = "domain,layer,expert,selected_count,tokens\ncode,0,0,3,3\ncode,0,1,0,3\n"
OF_COUNTS = {
    "missing column": (COUNTS.replace("tokens", "n"), "models.published.files ... counts.csv ... 'tokens' ... rename"),
    "impossible counts": (
        COUNTS.replace("1,0,3", "1,1,3"),
        "models.published.files ... domain code, layer 0 ... add up",
    ),
    "unknown domain": (COUNTS.replace("code", "prose"), "datasets.code.domain ... 'code' ... counts.csv ... prose"),
}


@pytest.mark.parametrize("case", OF_COUNTS)
def test_published_counts_that_cannot_be_right_are_refused(workflow, case):
    text, sentence = OF_COUNTS[case]
    (workflow.folder / "counts.csv").write_text(text, encoding="utf-8")
    model = {"source": "counts", "id": "a/b", "revision": "v1", "files": ["counts.csv"]}
    base = {
        "study": {"title": "Bad counts", "models": ["published"], "datasets": ["code"]},
        "models": {"published": model | {"experts_per_layer": 2, "experts_per_token": 1}},
        "datasets": {"code": {"source": "counts", "domain": "code"}},
    }
    target = "results/tallies/published/v1/code.nc"
    done = workflow.run("--cores", "1", target, configs=[workflow.overlay("overlay.yaml", base)])
    check(done, sentence, workflow.folder)
    assert not (workflow.folder / target).exists()


def test_nan_in_the_logits_stops_the_extraction(local, workflow, model_folder):
    from safetensors.torch import load_file, save_file

    def spoil(config, folder):
        spoiled = folder / "spoiled"
        spoiled.mkdir()
        for path in model_folder.iterdir():
            (spoiled / path.name).write_bytes(path.read_bytes())
        weights = load_file(spoiled / "model.safetensors")
        name = next(name for name in weights if "layers.2" in name and "gate.weight" in name)
        weights[name][0, 0] = float("nan")
        save_file(weights, spoiled / "model.safetensors", metadata={"format": "pt"})
        config["models"]["tiny"]["path"] = "spoiled"

    done = local(spoil, "results/tallies/tiny/local/rows.nc")
    check(done, "layers.2.mlp.gate.weight ... NaN ... fetch the checkpoint again", workflow.folder)
    assert not (workflow.folder / "results/routing/tiny/local/rows").exists()
