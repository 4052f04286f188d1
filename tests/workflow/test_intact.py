"""`snakemake verify` finds every file that is not what its job wrote; provenance and crate say what that was."""

import json
import shutil

import pytest

from gatebook.files import checksums
from gatebook.run import receipts


@pytest.fixture
def copied_study(tiny_study, tiny_config, workflow):
    """A copy of the tiny study, and a function that verifies it."""
    shutil.copytree(tiny_study.folder / "results", workflow.folder / "results", dirs_exist_ok=True)
    return workflow, lambda: workflow.run("--cores", "2", "verify", configs=[tiny_config])


def test_a_finished_study_is_intact(copied_study):
    _, verify = copied_study
    done = verify()
    assert done.returncode == 0, done.stderr
    assert "are what was written." in done.stderr


def test_each_file_that_differs_is_named(copied_study):
    study, verify = copied_study
    results = study.folder / "results"
    flipped = [next(results.rglob(f"*_*{ending}")) for ending in (".nc", ".csv", ".svg", ".json")]
    for path in flipped:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    truncated, missing = results / "inputs/demo/stories.nc", results / "report/index.html"
    truncated.write_bytes(truncated.read_bytes()[:-1])
    missing.unlink()
    done = verify()
    assert done.returncode != 0
    log = (results / "logs/verify.log").read_text()
    for path in [*flipped, truncated, missing]:
        assert path.relative_to(study.folder).as_posix() in log
    assert f"Error: {len(flipped) + 2} faults in the " in log


def test_a_receipt_that_was_deleted_with_its_files_is_missed(copied_study):
    study, verify = copied_study
    receipt = next(study.folder.glob("results/receipts/plot_chapter/**/*.json"))
    content = json.loads(receipt.read_text())
    for entry in content["outputs"]:
        (study.folder / entry["path"]).unlink()
    receipt.unlink()
    done = verify()
    assert done.returncode != 0 and "Error: 1 faults in the " in done.stderr
    wildcards = " ".join(f"{name}={value}" for name, value in content["wildcards"].items())
    assert f"plot_chapter {wildcards} is in provenance.json, but its receipt is missing" in done.stderr


def test_a_study_without_its_overlay_is_verified_as_it_was_made(copied_study):
    """Its own account says that records were deleted, whatever config the command names."""
    study, _ = copied_study
    results = study.folder / "results"
    account = results / "provenance.json"
    content = json.loads(account.read_text())
    content["config"]["storage"]["keep_records"] = False
    account.write_text(json.dumps(content), encoding="utf-8")
    path = results / "receipts/record_provenance.json"
    receipt = json.loads(path.read_text())
    receipt.pop("sha256")
    (entry,) = [each for each in receipt["outputs"] if each["path"] == "results/provenance.json"]
    entry.update(sha256=checksums.sha256(account), bytes=account.stat().st_size)
    path.write_text(receipts.text(receipt), encoding="utf-8")
    shutil.rmtree(results / "routing")
    done = study.run("--cores", "1", "verify")
    assert done.returncode == 0, done.stderr


def test_provenance_names_every_job_machine_and_checksum(tiny_study):
    results = tiny_study.folder / "results"
    account = json.loads((results / "provenance.json").read_text())
    rules = {job["rule"] for job in account["jobs"]}
    assert {"harvest_corpora", "train_model", "extract_routing", "tally_routing", "build_report"} <= rules
    assert set(account["code"]["rules"]) == rules
    assert account["seeds"]["demo.training.seed"] == account["config"]["demo"]["training"]["seed"]
    assert account["hardware"][0]["cores"] >= 1 and account["hardware"][0]["jobs"] > 0
    assert all(job["seconds"] > 0 for job in account["jobs"])
    crate = json.loads((results / "ro-crate-metadata.json").read_text())
    files = {entity["@id"]: entity for entity in crate["@graph"] if entity["@type"] == "File"}
    assert files["report/index.html"]["encodingFormat"] == "text/html"
    assert len(files) == account["totals"]["files"]
