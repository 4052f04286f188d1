"""The profile for schedulers other than Slurm: on one made of shells, and on stand-ins for PBS, SGE and LSF."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from studies import COUNTS, COUNTS_STUDY, ROOT, hear_interrupts

pytestmark = pytest.mark.long

PROFILES = ROOT / "config/profiles"
SHELL = Path(__file__).with_name("shell_scheduler.sh")
FAKE = Path(__file__).with_name("fake_schedulers.py")
COMMANDS = {"pbs": ("qsub", "qstat", "qdel"), "sge": ("qsub", "qstat", "qdel"), "lsf": ("bsub", "bjobs", "bkill")}
ASKS = {
    "a": {"rule": "a", "threads": 2, "resources": {"mem_mb": 3001, "runtime": 20, "gpu": 1}},
    "b": {"groupid": "b", "threads": 3, "resources": {"mem_mb": 1500, "runtime": 10, "gpu": 0}},
}
OPTIONS = {
    "pbs": [
        "-N a -V -r n -S /bin/sh -j oe -o {logs}/ -l select=1:ncpus=2:mem=3001mb:ngpus=1 -l walltime=1200",
        "-N b -V -r n -S /bin/sh -j oe -o {logs}/ -l select=1:ncpus=3:mem=1500mb -l walltime=600",
    ],
    "sge": [  # memory of a slot
        "-terse -N a -V -r n -S /bin/sh -j y -o {logs} -pe smp 2 -l mem_free=1501M,h_rt=1200,gpu=1",
        "-terse -N b -V -r n -S /bin/sh -j y -o {logs} -pe smp 3 -l mem_free=500M,h_rt=600",
    ],
    "lsf": [
        "-J a -rn -o {logs}/%J.log -n 2 -R span[hosts=1] rusage[mem=3001MB] -M 3001MB -W 20 -gpu num=1",
        "-J b -rn -o {logs}/%J.log -n 3 -R span[hosts=1] rusage[mem=1500MB] -M 1500MB -W 10",
    ],
}
STATES = {"pbs": "Q R H S E W", "sge": "qw r t hqw s dr Rr", "lsf": "PEND RUN PSUSP USUSP SSUSP WAIT UNKWN"}
ENDED = {"pbs": ["F", None], "sge": [None], "lsf": ["DONE", "EXIT", "ZOMBI", None]}
METRICS = "results/metrics/published/v1/selection_frequency.nc"


def profile(folder: Path, scheduler: str) -> list[str]:
    """The arguments for the profile after the one edit that chooses a scheduler."""
    copy = shutil.copytree(PROFILES / "generic", folder / "profile")
    choice = copy / "scheduler.sh"
    choice.write_text(choice.read_text().replace('"$(dirname "$0")/pbs.sh"', scheduler))
    return ["--profile", str(copy), "--seconds-between-status-checks", "1"]


def small(folder: Path, text: str, *arguments: str) -> list[str]:
    """The command that runs a small workflow in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "Snakefile").write_text(text)
    return [sys.executable, "-m", "snakemake", "--directory", str(folder), "-s", str(folder / "Snakefile"), *arguments]


def run(command: list[str]) -> subprocess.CompletedProcess:
    """Run a command; what it prints is captured."""
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def running(job: int) -> list[psutil.Process]:
    """The processes of a shell in the background."""
    processes = [each for each in psutil.process_iter(["status"]) if each.info["status"] != psutil.STATUS_ZOMBIE]
    return [each for each in processes if group_of(each) == job]


def group_of(process: psutil.Process) -> int | None:
    """The process group of a process, if it has not ended meanwhile."""
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def wait_until(condition: Callable) -> None:
    """Wait until a condition holds, at most five minutes: the machine may be busy."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def cancel_orphans(folder: str) -> str:
    """README, "Interrupted": how to end the jobs that a killed Snakemake left behind."""
    (line,) = re.findall(r"^basename .*", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return line.replace("config/profiles/generic", folder)


class Shells:
    """The scheduler whose jobs are shells in the background."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.arguments = profile(folder, str(SHELL))

    def calls(self, command: str) -> list[list[str]]:
        """What the scheduler was asked for."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.split()[1:] for line in lines if line.startswith(command)]

    def end(self) -> None:
        """End the jobs that a failed test left behind."""
        for job, *_ in self.calls("submit"):
            try:
                os.killpg(int(job), signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def shells(tmp_path, monkeypatch):
    """Shells in the background as a scheduler."""
    (tmp_path / "shells").mkdir()
    monkeypatch.setenv("SHELL_SCHEDULER", str(tmp_path / "shells"))
    scheduler = Shells(tmp_path / "shells")
    yield scheduler
    scheduler.end()


def test_all_jobs_of_a_study_run_through_the_scheduler(shells, workflow):
    (workflow.folder / "data").mkdir()
    (workflow.folder / "data/counts.csv").write_text(COUNTS, encoding="utf-8")
    overlay = workflow.overlay("counts.yaml", COUNTS_STUDY)
    done = workflow.finish(*shells.arguments, METRICS, configs=[overlay], timeout=1800)
    tallies, measures = shells.calls("submit")
    assert tallies[1:] == ["tallies", "threads=1", "mem_mb=2000", "runtime=10", "gpu="]
    assert measures[1:] == ["measures", "threads=1", "mem_mb=2100", "runtime=61", "gpu="]
    printed = done.stdout + done.stderr
    assert re.findall(r"with external jobid '(\d+)'", printed) == [tallies[0], measures[0]]
    assert re.findall(r"^ *(\w*)rule \w+:$", printed, flags=re.MULTILINE) == ["", ""]  # no localrule
    assert (workflow.folder / METRICS).exists()
    assert not list((workflow.folder / ".snakemake").glob("tmp.*"))


def test_a_failing_job_is_retried_with_more_and_reported(shells, tmp_path):
    text = """
rule all:
    input: "flaky", "broken"
rule flaky:
    output: "flaky"
    threads: 2
    resources: mem_mb=lambda wildcards, attempt: 1000 * attempt, runtime=10, gpu=1
    shell: "test {resources.mem_mb} -ge 2000 && touch {output}"
rule broken:
    output: "broken"
    resources: mem_mb=500, runtime=lambda wildcards, attempt: 10 * attempt
    shell: "echo the reason; false"
"""
    done = run(small(tmp_path / "study", text, *shells.arguments))
    assert done.returncode != 0
    submitted = shells.calls("submit")
    asked = {rule: [" ".join(call[2:]) for call in submitted if call[1] == rule] for rule in ("flaky", "broken")}
    assert asked["flaky"] == [f"threads=2 mem_mb={each} runtime=10 gpu=1" for each in (1000, 2000)]
    assert asked["broken"] == [f"threads=1 mem_mb=500 runtime={each} gpu=" for each in (10, 20, 30)]
    assert (tmp_path / "study/flaky").exists() and not (tmp_path / "study/broken").exists()
    for job, rule, *_ in submitted[:2]:
        assert re.search(rf"Error in rule {rule}:\n(    .*\n)*?    external_jobid: {job}", done.stdout + done.stderr)
    assert "the reason" in (tmp_path / "study/results/logs/cluster/broken.log").read_text()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_after_an_interrupt_or_a_kill_the_same_command_goes_on(shells, tmp_path, sent):
    text = """
rule sleeps:
    output: "slept"
    resources: mem_mb=500, runtime=10
    shell: "test -e go || {{ touch started; sleep 300; }}; touch {output}"
"""
    study = tmp_path / "study"
    command = small(study, text, *shells.arguments)
    with (tmp_path / "printed").open("w") as printed:
        pipes = {"stdout": printed, "stderr": printed}
        first = subprocess.Popen(command, **pipes, start_new_session=True, preexec_fn=hear_interrupts)
    wait_until((study / "started").exists)
    wait_until(lambda: "external jobid" in (tmp_path / "printed").read_text())  # else Snakemake knows of none to cancel
    first.send_signal(sent)
    assert first.wait(600) != 0
    ((job, *_),) = shells.calls("submit")
    if sent == signal.SIGKILL:
        assert running(int(job)) and not shells.calls("cancel")
        subprocess.run(["bash", "-c", cancel_orphans(shells.arguments[1])], cwd=study, check=True, timeout=600)
        assert run([*command, "--unlock"]).returncode == 0
    assert shells.calls("cancel") == [[job]]
    wait_until(lambda: not running(int(job)))
    (study / "go").touch()
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert (study / "slept").exists() and len(shells.calls("submit")) == 2


class FakeScheduler:
    """PBS, Grid Engine or LSF as far as the commands of `fake_schedulers.py` go."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        for command in COMMANDS[name]:
            file = folder / "bin" / command
            file.parent.mkdir(exist_ok=True)
            file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" {name} {command} "$@"\n')
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        self.arguments = profile(folder, f'"$(dirname "$0")/{name}.sh"')
        self.study = folder / "study"

    def calls(self, command: str) -> list[list[str]]:
        """The arguments of every call of a command."""
        calls = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return [arguments for name, *arguments in calls if name == command]

    def script(self, name: str, *arguments: str) -> subprocess.CompletedProcess:
        """Run submit.sh, status.sh or cancel.sh in the folder of the study."""
        command = [str(self.folder / "profile" / f"{name}.sh"), *arguments]
        return subprocess.run(command, cwd=self.study, capture_output=True, text=True, timeout=600)

    def submit(self, job: str = "exit 0", asks: dict = ASKS["a"]) -> str:
        """Submit a job, as Snakemake writes it; its id."""
        scripts = self.study / ".snakemake/tmp.abc"
        scripts.mkdir(parents=True, exist_ok=True)
        script = scripts / f"snakejob.{len(list(scripts.iterdir()))}.sh"
        script.write_text(f"#!/bin/sh\n# properties = {json.dumps(asks)}\n{job}\n")
        done = self.script("submit", str(script))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def status(self, job: str) -> str:
        """What status.sh says of a job."""
        done = self.script("status", job)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def says(self, job: str, state: str | None) -> None:
        """What the scheduler says of a job from now on; nothing: it has forgotten it."""
        file = self.folder / f"{job}.state"
        file.write_text(state) if state else file.unlink(missing_ok=True)


@pytest.fixture(params=COMMANDS)
def fake(request, tmp_path, monkeypatch):
    """A stand-in for a scheduler, in front of the PATH."""
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.setenv("FAKE_SCHEDULER", str(folder))
    scheduler = FakeScheduler(request.param, folder)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
    return scheduler


def test_a_scheduler_is_asked_for_what_a_job_asks_for(fake):
    for asks in ASKS.values():
        fake.submit(asks=asks)
    logs = fake.study / "results/logs/cluster"
    calls = [" ".join(arguments) for arguments in fake.calls(COMMANDS[fake.name][0])]
    assert calls == [options.format(logs=logs) for options in OPTIONS[fake.name]]


def test_a_job_that_ended_is_known_when_the_scheduler_has_forgotten_it(fake):
    (fake.folder / "run").touch()
    ended = {"success": fake.submit("exit 0"), "failed": fake.submit("exit 3")}
    wait_until(lambda: not list(fake.folder.glob("*.state")))
    assert {word: fake.status(job) for word, job in ended.items()} == {"success": "success", "failed": "failed"}
    assert len(list((fake.study / "results/logs/cluster").iterdir())) == 2


def test_a_job_that_the_scheduler_knows_is_running_also_while_it_does_not_answer(fake):
    job = fake.submit()
    for state in STATES[fake.name].split():
        fake.says(job, state)
        assert fake.status(job) == "running", state
    (fake.folder / "down").touch()
    done = fake.script("status", job)
    assert (done.returncode, done.stdout) == (0, "running\n")
    assert "cannot connect to server" in done.stderr


def test_a_job_that_went_without_a_last_word_has_failed_after_a_minute(fake):
    for state in ENDED[fake.name]:
        job = fake.submit()
        fake.says(job, state)
        assert [fake.status(job), fake.status(job)] == ["running", "running"], state
        os.utime(fake.study / f".snakemake/tmp.abc/{job}.gone", (time.time() - 200,) * 2)
        assert fake.status(job) == "failed", state


def test_jobs_are_cancelled(fake):
    jobs = [fake.submit(), fake.submit()]
    assert fake.script("cancel", *jobs).returncode == 0
    assert fake.calls(COMMANDS[fake.name][2]) == [jobs]


@pytest.mark.parametrize("fake", ["sge"], indirect=True)
def test_grid_engine_gives_up_a_job_that_it_could_not_start(fake):
    job = fake.submit()
    fake.says(job, "Eqw")
    assert [fake.status(job), fake.status(job)] == ["running", "running"]
    assert fake.calls("qdel") == [[job]]
    assert (fake.study / f".snakemake/tmp.abc/{job}.gone").exists()


def test_a_refused_submission_says_why(fake):
    (fake.folder / "down").touch()
    with pytest.raises(AssertionError, match="cannot connect to server"):
        fake.submit()
    assert not list(fake.study.rglob("*.submitted"))
