"""The tiny study on a real Slurm, with some chapters: the same bytes as on one machine, whatever fails on the way."""

import itertools
import re
import signal
import subprocess
from types import SimpleNamespace

import pytest
import yaml
from slurm import wait_until
from studies import ROOT, TINY, Workflow

from gatebook.run.failures import SILENT

PROFILE = yaml.safe_load((ROOT / "config/profiles/slurm/profile.yaml").read_text(encoding="utf-8"))
SLURM = ("--profile", str(ROOT / "config/profiles/slurm"), "--slurm-init-seconds-before-status-checks", "1")
# README, "On a cluster": how to end the jobs that a killed Snakemake left behind
CANCEL_ORPHANS = """
squeue --me --noheader --format '%A %Z' | awk -v here="$PWD" '$2 == here {print $1}' | xargs --no-run-if-empty scancel
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """The tiny study with a chapter of each kind, but its model asks for a GPU."""
    some = [
        "held_out_loss",
        "router_decisiveness",
        "domain_specialization",
        "paths",
        "similarity",
        "evolution",
        "compare",
    ]
    changes = {"models": {"demo": {"device": "auto"}}, "chapters": some}
    return [TINY, Workflow(tmp_path_factory.mktemp("config")).overlay("changes.yaml", changes)]


@pytest.fixture(scope="module")
def local(tmp_path_factory, configs):
    """The study on this machine."""
    study = Workflow(tmp_path_factory.mktemp("local"))
    study.finish("--profile", str(ROOT / "config/profiles/local"), "--cores", "2", configs=configs)
    return study


@pytest.fixture(scope="module")
def disturbed(cluster, tmp_path_factory, configs):
    """The study on the cluster, while one job exceeds its memory, one its time, one is cancelled and a node dies."""
    study, failed = Workflow(tmp_path_factory.mktemp("disturbed")), {}
    cluster.update(PartitionName="cpu", State="DOWN")  # jobs wait
    run = study.start(*SLURM, "--jobs", "4", configs=configs)
    try:
        failed["memory"] = job = cluster.find("harvest_corpora", "PENDING")
        cluster.update(JobId=job["JobId"], MinMemoryNode="100")
        cluster.update(PartitionName="cpu", State="UP")

        cluster.find("harvest_corpora", "RUNNING", after=job)
        cluster.update(PartitionName="cpu", State="DOWN")
        failed["time"] = job = cluster.find("train_tokenizer", "PENDING")
        cluster.update(JobId=job["JobId"], TimeLimit="1")
        cluster.update(PartitionName="cpu", State="UP")
        cluster.find("train_tokenizer", "RUNNING")
        cluster.freeze(job["JobId"])

        failed["cancelled"] = job = cluster.find("train_model", "RUNNING")
        cluster.cancel(job["JobId"])

        failed["node"] = job = cluster.find("extract_routing", "RUNNING")
        cluster.find("extract_routing", "RUNNING", after=job)  # at the same time, on the other node
        cluster.crash(job["NodeList"])
        code = run.wait(1800)
    finally:
        run.kill()
        cluster.cancel(*(job["JobId"] for job in cluster.queued()))
    cluster.boot(failed["node"]["NodeList"])
    return SimpleNamespace(study=study, failed=failed, code=code, jobs=cluster.jobs())


def test_a_study_with_faults_has_the_bytes_of_a_local_one(disturbed, local):
    assert disturbed.code == 0, disturbed.study.printed.read_text()[-4000:]
    assert disturbed.study.checksums() == local.checksums()


@pytest.mark.parametrize(
    ("fault", "state"), [("memory", "FAILED"), ("time", "TIMEOUT"), ("cancelled", "CANCELLED"), ("node", "NODE_FAIL")]
)
def test_a_failed_job_is_named_and_retried(disturbed, fault, state):
    failed = disturbed.failed[fault]
    same = [job for job in disturbed.jobs if job["Comment"] == failed["Comment"]]
    assert [job["JobState"] for job in same] == [state, "COMPLETED"]
    assert f"SLURM-job '{failed['JobId']}' failed" in disturbed.study.printed.read_text()
    assert [job["Restarts"] for job in same] == ["0", "0"]


def test_a_second_attempt_has_twice_the_memory_and_time(disturbed):
    for fault, memory, minutes in (("memory", "4000M", "00:20:00"), ("cancelled", "8000M", "02:00:00")):
        second = [job for job in disturbed.jobs if job["Comment"] == disturbed.failed[fault]["Comment"]][1]
        assert (second["MinMemoryNode"], second["TimeLimit"]) == (memory, minutes)


def test_extraction_alone_asks_for_a_gpu(disturbed):
    asking = [job for job in disturbed.jobs if "gres:gpu:1" in job.get("TresPerJob", "")]
    extractions = [job for job in disturbed.jobs if "extract_routing" in job["Comment"]]
    assert asking == extractions
    assert len(extractions) == 6 + 1  # one was on the node that died
    assert {job["Partition"] for job in extractions} == {"gpu"}
    assert {job["Partition"] for job in disturbed.jobs if job not in extractions} == {"cpu"}


@pytest.mark.parametrize("group", ["tokens", "tallies", "measures", "figures"])
def test_small_jobs_go_together(disturbed, group):
    rules = [rule for rule, name in PROFILE["groups"].items() if name == group]
    jobs = [path for rule in rules for path in (disturbed.study.folder / "results/receipts" / rule).rglob("*.json")]
    submitted = [job for job in disturbed.jobs if job["Comment"].startswith(f"rule_{group}_")]
    assert 1 <= len(submitted) <= len(jobs) / 2
    assert not {f"rule_{rule}" for rule in rules} & {job["Comment"].split("_wildcards_")[0] for job in disturbed.jobs}


def test_killed_and_interrupted_runs_are_taken_up_again(cluster, tmp_path, configs, local):
    study, targets = Workflow(tmp_path / "study"), ["results/metrics/demo/step20/router_decisiveness.nc"]
    arguments = (*SLURM, "--jobs", "4", *targets)

    run = study.start(*arguments, configs=configs)
    cluster.find("train_model", "RUNNING", after=cluster.newest())
    run.kill()
    run.wait()
    assert cluster.queued()  # Slurm's jobs go on
    subprocess.run(["bash", "-c", CANCEL_ORPHANS], cwd=study.folder, check=True, timeout=60)
    wait_until(lambda: not cluster.queued(), 60, "no orphans")
    study.finish(*SLURM, "--unlock", configs=configs)

    run = study.start(*arguments, configs=configs)
    extracting = cluster.find("extract_routing", "RUNNING", after=cluster.newest())
    run.send_signal(signal.SIGINT)
    assert run.wait(120) != 0
    wait_until(lambda: not cluster.queued(), 60, "no jobs after an interrupt")
    assert {job["JobId"]: job for job in cluster.jobs()}[extracting["JobId"]]["JobState"] == "CANCELLED"

    study.finish(*arguments, configs=configs)
    finished = re.findall(r"Finished jobid: \d+ \(Rule: (train_tokenizer|harvest_corpora)\)", study.printed.read_text())
    assert sorted(finished) == ["harvest_corpora", "train_tokenizer"]
    assert not list((study.folder / "results").rglob("*.partial"))
    here, there = study.checksums(), local.checksums()
    assert here == {name: there[name] for name in here}


def test_the_last_lines_say_what_failed(cluster, workflow, model_folder):
    """Of a group of two jobs that cannot be done one says why, below what Slurm and Snakemake say of it; the other does
    so, too, or it was stopped because of the first, and says nothing."""
    (workflow.folder / "rows.jsonl").write_text('{"question": "How many?"}\n', encoding="utf-8")
    rows = {"source": "files", "files": ["rows.jsonl"]}
    config = {
        "study": {"title": "Bad input", "models": ["tiny"], "datasets": ["a", "b"]},
        "models": {"tiny": {"source": "local", "path": str(model_folder), "device": "cpu"}},
        "datasets": {name: rows | {"template": f"{{{name}}}"} for name in ("a", "b")},
    }
    targets = [f"results/inputs/tiny/{name}.nc" for name in ("a", "b")]
    overlay = workflow.overlay("overlay.yaml", config)
    done = workflow.run(*SLURM, "--jobs", "2", "--retries", "1", "--keep-going", *targets, configs=[overlay])
    assert done.returncode == 1
    screens = {
        f"\ntokenize_dataset model=tiny, dataset={name} (log: results/logs/tokenize_dataset/tiny/{name}.log)\n"
        f"Error: datasets.{name}.template: rows.jsonl, line 1: there is no column '{name}'; the columns are question: "
        "correct the name.\n"
        for name in ("a", "b")
    }
    told = [screen for screen in screens if screen in done.stderr]
    assert told and any(done.stderr.endswith("".join(order)) for order in itertools.permutations(told))
    assert SILENT not in done.stderr
