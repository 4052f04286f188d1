"""A study that is killed again and again ends as if nothing had happened, and loses only the jobs under way."""

import os
import random
import re
import signal
import time

KILLS = 10
STARTED = re.compile(r"^(?:local)?rule .*\n(?: +(?:input|output): .*\n)* +log: (\S+)\n +jobid: (\d+)$", re.MULTILINE)
FINISHED = re.compile(r"^Finished jobid: (\d+) ", re.MULTILINE)


def started(printed: str) -> dict[str, str]:
    """Log file of each job that a run started, by the run's number for the job."""
    return {number: log for log, number in STARTED.findall(printed)}


def finished(printed: str) -> set[str]:
    """Log files of the jobs that a run finished."""
    logs = started(printed)
    return {logs[number] for number in FINISHED.findall(printed) if number in logs}


def test_a_study_killed_at_ten_random_moments(workflow, tiny_study, tiny_config):
    choose = random.Random(0)
    jobs = len(list((tiny_study.folder / "results" / "logs").rglob("*.log")))
    done, again = set(), []
    for goal in sorted(choose.sample(range(jobs - 1), KILLS)):  # jobs to be finished before the next kill
        workflow.printed.write_text("")
        run = workflow.start("--cores", "2", "--rerun-incomplete", configs=[tiny_config])
        try:
            end = time.monotonic() + 1800
            while run.poll() is None and len(done | finished(workflow.printed.read_text())) < goal:
                assert time.monotonic() < end, workflow.printed.read_text()[-4000:]
                time.sleep(0.2)
            while run.poll() is None and not started(workflow.printed.read_text()):
                time.sleep(0.2)
            time.sleep(choose.uniform(0, 2))
        finally:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        printed = workflow.printed.read_text()
        again += done & set(started(printed).values())
        done |= finished(printed)
        workflow.finish("--unlock", configs=[tiny_config])
    last = workflow.finish("--cores", "2", "--rerun-incomplete", configs=[tiny_config])
    assert again + sorted(done & set(started(last.stdout + last.stderr).values())) == []
    assert workflow.checksums() == tiny_study.checksums()
    assert not list((workflow.folder / "results").rglob("*.partial"))
