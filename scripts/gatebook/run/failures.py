"""The last lines on the terminal: what each failed job of a run says, after all that Snakemake says of it."""

import atexit
import logging
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from gatebook.problem import ERROR, INTERRUPTED, UNEXPECTED, Problem
from gatebook.run import receipts

SILENT = f"{ERROR}it was stopped before it could say why: it may need more memory or time."
NAMED = 3
"""So many jobs are named that ended in the same sentence."""


class Failures(logging.Handler):
    """Notes which jobs of this run failed and were not run again."""

    def __init__(self):
        super().__init__()
        self.began, self.folder = time.time(), Path.cwd()  # with --directory, Snakemake is back elsewhere at the end
        self.started, self.failed, self.groups, self.planning = {}, {}, {}, ""

    def emit(self, record: logging.LogRecord) -> None:
        """Note a job that starts, maybe once more, or fails, and why no job could be planned."""
        match getattr(record, "event", None):
            case LogEvent.JOB_INFO:
                self.started[record.jobid] = (record.rule_name, dict(record.wildcards), [*record.log])
                self.failed.pop(record.jobid, None)
            case LogEvent.JOB_ERROR if record.jobid in self.started:
                self.failed[record.jobid] = self.started[record.jobid]
            case LogEvent.GROUP_ERROR:  # names every job of the group, those that ended well or never began, too
                numbers = {job["jobid"] for job in record.job_error_info}
                self.groups |= dict.fromkeys(numbers, numbers)
            case LogEvent.ERROR:
                self.planning = refusal(record.getMessage()) or self.planning

    def sentences(self) -> dict[str, list[str]]:
        """The jobs that failed, in words, by the sentence that they ended in; none, if it stopped the planning."""
        found: dict[str, list[str]] = {self.planning: []} if self.planning else {}
        ended = {number: self._ended(number) for number in self.failed}
        for number, (said, place) in ended.items():
            others = {ended.get(other, ("", ""))[0] for other in self.groups.get(number, ())}
            if not said or (said == SILENT and others - {"", SILENT}):  # stopped, because another of its group failed
                continue
            rule, wildcards, _ = self.failed[number]
            of = ", ".join(f"{name}={value}" for name, value in wildcards.items())
            found.setdefault(said, []).append(f"{' '.join(filter(None, [rule, of]))} ({place})")
        return found

    def _ended(self, number: int) -> tuple[str, str]:
        """What a failed job said, and where; nothing, if it ended well, never began or was interrupted."""
        _, _, logs = self.failed[number]
        log = self.folder / (logs[0] if logs else "no log")
        if not log.is_file() or log.stat().st_mtime < self.began:
            return "" if number in self.groups else SILENT, "no log"
        if receipts.path_beside(log).exists():
            return "", ""
        return sentence(log.read_text(encoding="utf-8", errors="replace").splitlines()), f"log: {logs[0]}"

    def tell(self) -> None:
        """Print each sentence once, below the jobs that ended in it."""
        print(text(self.sentences()), end="", file=sys.stderr, flush=True)


def sentence(lines: Iterable[str]) -> str:
    """What a failed job says in the lines of its log; nothing if it was interrupted."""
    said = [line for line in lines if line.startswith((ERROR, UNEXPECTED, INTERRUPTED))]
    return said[-1].removeprefix(INTERRUPTED) if said else SILENT


def refusal(message: str) -> str:
    """The `Problem` that a function of a rule raised, as a sentence, in what Snakemake says of it; else nothing."""
    found = re.search(rf"^ *{Problem.__name__}: (.*)$", message, flags=re.MULTILINE)
    return f"{ERROR}{found[1]}" if found else ""


def text(found: dict[str, list[str]]) -> str:
    """Sentences, each below the jobs that ended in it."""
    parts = []
    for said, jobs in found.items():
        more = [f"and {len(jobs) - NAMED} more"] if len(jobs) > NAMED else []
        parts.append("\n".join(["", *jobs[:NAMED], *more, said, ""]))
    return "".join(parts)


def tell_at_the_end() -> None:
    """Have the failures of this process's run told when it ends; asked again, it does nothing."""
    if not any(isinstance(handler, Failures) for handler in logger.handlers):
        failures = Failures()
        logger.addHandler(failures)
        atexit.register(failures.tell)
