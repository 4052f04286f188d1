"""Extraction in the real workflow: a checkpoint is loaded once; nothing that was extracted is lost or made again."""

import json
import os
import re
import shutil
import signal
import time

import pytest
import xarray as xr

pytestmark = pytest.mark.long

PARTS = ("arithmetic", "stories", "unicode")
FOLDERS = [f"results/routing/demo/step20/{part}" for part in PARTS]


def logs(study, checkpoint: str = "demo/step20") -> dict[str, str]:
    """The log of each part's extraction."""
    folder = study.folder / "results/logs/extract_routing" / checkpoint
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.log"))}


def records(study, checkpoint: str = "demo/step20") -> dict[str, bytes]:
    """Every file of the checkpoint's records."""
    folder = study.folder / "results/routing" / checkpoint
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("[!.]*/*.nc"))}


@pytest.fixture
def without_records(tiny_study, new_workflow):
    """The tiny study as it was before the last checkpoint's records were extracted."""
    study = new_workflow("extraction")
    shutil.copytree(tiny_study.folder, study.folder, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(study.folder / "results/routing/demo/step20")
    shutil.rmtree(study.folder / "results/logs/extract_routing")
    return study


def test_on_two_cores_at_most_two_jobs_loaded_a_checkpoint_and_no_shelf_is_left(tiny_study):
    for checkpoint in ("step0", "step20"):
        folder = tiny_study.folder / "results/logs/extract_routing/demo" / checkpoint
        texts = [path.read_text() for path in folder.glob("*.log")]
        loads = sum(f"loading demo {checkpoint}\n" in text for text in texts)
        assert loads in (1, 2)
        assert sum(", extracted by the job of " in text for text in texts) == len(PARTS) - loads
    assert not list((tiny_study.folder / "results/routing").rglob(".finished"))


def test_every_job_for_itself_makes_the_same_bytes(tiny_study, tiny_config, without_records):
    without_records.finish("--cores", "2", "--no-hooks", *FOLDERS, configs=[tiny_config])
    assert all("loading demo step20" in text for text in logs(without_records).values())
    assert records(without_records) == records(tiny_study)


def test_a_killed_run_loses_only_the_part_in_hand(tiny_study, tiny_config, without_records):
    shelf = without_records.folder / "results/routing/demo/step20/.finished"
    run = without_records.start("--cores", "1", *FOLDERS, configs=[tiny_config])
    try:
        end = time.monotonic() + 600
        while run.poll() is None and not list(shelf.glob("[!.]*/layer_*.nc")):
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    finished = {path.name for path in shelf.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert finished
    without_records.finish("--unlock", configs=[tiny_config])
    without_records.finish("--cores", "1", "--rerun-incomplete", *FOLDERS, configs=[tiny_config])
    taken = {part for part, text in logs(without_records).items() if ", extracted by the job of " in text}
    assert finished <= taken and not shelf.exists()
    extracted = re.findall(r"^(?:(\w+): )?\d+ tokens .*/s$", "".join(logs(without_records).values()), re.MULTILINE)
    assert len(extracted) == len(PARTS) - len(finished)
    assert sum("loading demo step20" in text for text in logs(without_records).values()) == (len(extracted) > 0)
    assert records(without_records) == records(tiny_study)


@pytest.fixture
def tallied(workflow, model_folder):
    """Tally datasets of a tiny local model, given by templates for the same rows, and return the extractions' logs.

    Logs of earlier runs are deleted; `changes` of the config are those besides.
    """
    rows = [{"question": f"What is {number} + 1?", "answer": f"It is {number + 1}."} for number in range(60)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (workflow.folder / "rows.jsonl").write_text(lines, encoding="utf-8")

    def run(datasets: dict[str, dict], **changes) -> dict[str, str]:
        shutil.rmtree(workflow.folder / "results/logs", ignore_errors=True)
        model = {"source": "local", "path": str(model_folder), "device": "cpu"}
        config = {"study": {"models": ["tiny"], "datasets": list(datasets)}, "models": {"tiny": model}} | changes
        config["datasets"] = {
            name: {"source": "files", "files": ["rows.jsonl"]} | dataset for name, dataset in datasets.items()
        }
        tallies = [f"results/tallies/tiny/local/{name}.nc" for name in datasets]
        workflow.finish("--cores", "1", *tallies, configs=[workflow.overlay("rows.yaml", config)])
        return logs(workflow, "tiny/local")

    return run


def test_a_new_dataset_and_a_changed_template_extract_nothing_else(tallied, workflow):
    datasets = {"one": {"template": "{question}"}, "two": {"template": "{answer}"}}
    texts = "".join(tallied(datasets).values())
    assert (texts.count("loading tiny local"), texts.count(", extracted by the job of ")) == (1, 1)
    first = records(workflow, "tiny/local")
    datasets["three"] = {"template": "{question} {answer}"}
    assert list(tallied(datasets)) == ["three"]
    second = records(workflow, "tiny/local")
    assert {name: second[name] for name in first} == first and len(second) == 3 * len(first) / 2
    datasets["two"] = {"template": "So {answer}"}
    assert list(tallied(datasets)) == ["two"]
    third = records(workflow, "tiny/local")
    changed = {name.split("/")[0] for name, content in third.items() if content != second[name]}
    assert changed == {"two"} and third.keys() == second.keys()
    assert not (workflow.folder / "results/routing/tiny/local/.finished").exists()


def test_shards_share_a_loaded_model_and_records_that_are_not_kept_leave_no_shelf(tallied, workflow):
    datasets = {"one": {"template": "{question}", "shards": 2}, "two": {"template": "{answer}"}}
    found = tallied(datasets, storage={"keep_records": False})
    assert list(found) == ["one.shard_1_of_2", "one.shard_2_of_2", "two"]
    texts = "".join(found.values())
    assert (texts.count("loading tiny local"), texts.count(", extracted by the job of ")) == (1, 2)
    assert not list((workflow.folder / "results/routing").rglob("*.nc"))
    assert not list((workflow.folder / "results/routing").rglob(".finished"))
    for name in datasets:
        tally = xr.load_dataset(workflow.folder / f"results/tallies/tiny/local/{name}.nc")
        tokens = xr.load_dataset(workflow.folder / f"results/inputs/tiny/{name}.nc").sizes["token"]
        assert tally["tokens"].sum() == tokens and tally.sizes["document"] == 60
        assert (tally["selected_count"].sum(["document", "expert"]) == 3 * tokens).all()
