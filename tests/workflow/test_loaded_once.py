"""Extraction in the real workflow: a checkpoint is loaded once; nothing that was extracted is lost or made again."""

import os
import re
import shutil
import signal
import time

import pytest

PARTS = ("arithmetic", "stories", "unicode")
FOLDERS = [f"results/routing/demo/step20/{part}" for part in PARTS]


def logs(study) -> dict[str, str]:
    """The log of each part's extraction."""
    folder = study.folder / "results/logs/extract_routing/demo/step20"
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.log"))}


def records(study) -> dict[str, bytes]:
    """Every file of the checkpoint's records."""
    folder = study.folder / "results/routing/demo/step20"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("[!.]*/*.nc"))}


@pytest.fixture
def without_records(tiny_study, new_workflow):
    """The tiny study as it was before the last checkpoint's records were extracted."""
    study = new_workflow("extraction")
    shutil.copytree(tiny_study.folder, study.folder, dirs_exist_ok=True)
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
