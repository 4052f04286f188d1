"""What is told at the end of a run: every failed job's sentence, once, and no job that was run again and ended well."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.exceptions import InputFunctionException, format_exception_to_string
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from gatebook.problem import Problem
from gatebook.run import failures

MISSING = "Error: datasets.a: there is no column 'b': correct `template`."


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run in a folder of its own: functions by which a job starts, with what it writes to its log, and fails."""
    monkeypatch.chdir(tmp_path)
    found = failures.Failures()

    def emit(event, **of_job):
        found.emit(logging.makeLogRecord({"event": event, **of_job}))

    def start(number: int, *lines: str, rule="measure", **wildcards):
        log = Path("results/logs", f"{number}.log")
        emit(LogEvent.JOB_INFO, jobid=number, rule_name=rule, wildcards=wildcards, log=[str(log)])
        if lines:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("\n".join(lines), encoding="utf-8")

    def fail(*numbers: int, group=False):
        if group:
            emit(LogEvent.GROUP_ERROR, job_error_info=[{"jobid": number} for number in numbers])
        for number in numbers:
            emit(LogEvent.JOB_ERROR, jobid=number)

    found.start, found.fail = start, fail
    return found


def test_each_sentence_stands_once_below_its_jobs(run):
    for number, dataset in enumerate("abcde"):
        run.start(number, "2 rows", MISSING, model="tiny", dataset=dataset)
    run.start(7, "Unexpected KeyError: 'x'", "Traceback (most recent call last):", "KeyError: 'x'", rule="plot")
    run.start(8, "all is well")
    run.fail(0, 1, 2, 3, 4, 7)
    assert failures.text(run.sentences()).splitlines() == [
        "",
        "measure model=tiny, dataset=a (log: results/logs/0.log)",
        "measure model=tiny, dataset=b (log: results/logs/1.log)",
        "measure model=tiny, dataset=c (log: results/logs/2.log)",
        "and 2 more",
        MISSING,
        "",
        "plot (log: results/logs/7.log)",
        "Unexpected KeyError: 'x'",
    ]


def test_logs_are_found_from_another_folder(run, tmp_path_factory, monkeypatch):
    run.start(1, MISSING)
    run.fail(1)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert run.sentences() == {MISSING: ["measure (log: results/logs/1.log)"]}


def test_a_job_that_was_run_again_is_told_only_if_it_failed_again(run):
    run.start(1, "Error: no memory.")
    run.fail(1)
    run.start(1, "done")
    assert run.sentences() == {}
    run.start(1, "Error: no memory, again.")
    run.fail(1)
    assert list(run.sentences()) == ["Error: no memory, again."]


def test_a_job_that_was_killed_or_could_not_begin_is_told(run):
    run.start(1, "loading the model")
    run.start(2)
    run.fail(1, 2)
    assert run.sentences() == {failures.SILENT: ["measure (log: results/logs/1.log)", "measure (no log)"]}


def test_of_a_group_only_the_jobs_that_failed_are_told(run):
    run.start(1, "done")
    Path("results/receipts").mkdir()
    Path("results/receipts/1.json").touch()
    run.start(2, MISSING)
    run.start(3)  # was never begun
    run.start(4, "Error: of an earlier run.")
    os.utime("results/logs/4.log", (1, 1))
    run.fail(1, 2, 3, 4, group=True)
    assert run.sentences() == {MISSING: ["measure (log: results/logs/2.log)"]}


def test_a_job_that_was_stopped_because_another_of_its_group_failed_is_not_told(run):
    run.start(1, "2 rows")
    run.start(2, MISSING)
    run.start(3, "2 rows")
    run.fail(1, 2, group=True)
    run.fail(3)
    others = ["measure (log: results/logs/3.log)"]
    assert run.sentences() == {MISSING: ["measure (log: results/logs/2.log)"], failures.SILENT: others}
    run.fail(1, 3, group=True)  # nobody of this group says why
    assert run.sentences()[failures.SILENT] == ["measure (log: results/logs/1.log)", *others]


def test_a_job_that_was_interrupted_is_not_told(run):
    run.start(1, "Stopped from the keyboard.")
    run.fail(1)
    assert run.sentences() == {} and failures.text({}) == ""


def test_why_no_job_could_be_planned_is_told_after_what_snakemake_says_of_it(run):
    rule = SimpleNamespace(name="plot", lineno=3, snakefile="a.smk", workflow=SimpleNamespace(linemaps={}))
    problem = Problem("config: study.models: 'x' is not in the study.")
    refused = InputFunctionException(problem, {"model": "x"}, rule=rule)
    said = f"Error: {problem}"
    assert failures.refusal(format_exception_to_string(KeyError("x"))) == ""
    others = "At least one job did not complete successfully."
    for message, told in ((others, ""), (format_exception_to_string(refused), f"\n{said}\n"), (others, f"\n{said}\n")):
        run.emit(logging.makeLogRecord({"event": LogEvent.ERROR, "msg": message}))
        assert failures.text(run.sentences()) == told


def test_it_listens_once(monkeypatch):
    monkeypatch.setattr(logger, "handlers", [])
    kept = []
    monkeypatch.setattr(failures.atexit, "register", kept.append)
    failures.tell_at_the_end()
    failures.tell_at_the_end()
    assert len(kept) == len(logger.handlers) == 1
