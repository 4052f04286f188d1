"""`snakemake verify` finds every file that is not what its job wrote; provenance and crate say what that was."""

import json
import shutil

import pytest


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
    assert f"Error: {len(flipped) + 2} of " in log


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
