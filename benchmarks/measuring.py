"""Measuring: runs that take turns, medians of paired ratios, a job's time and memory, and the table of results."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, the value with its unit, the goal, and whether it is met."""

    what: str
    measured: str
    goal: str = ""
    met: str = ""


@dataclass(frozen=True)
class Times:
    """Seconds of every round of one variant, float64 (round,): on the wall, and of all threads on the processor."""

    wall: np.ndarray
    processor: np.ndarray


@dataclass(frozen=True)
class Usage:
    """Seconds of a job on the wall and on the processor, without its imports, which took `imports` seconds; its peak
    memory, and its memory after the imports, in bytes."""

    seconds: float
    processor: float
    imports: float
    peak: int
    start: int


def interleaved(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Run every variant once untimed, then all of them in every round, each round beginning with the next one."""
    names = list(variants)
    for run in variants.values():
        run()
    seconds = {name: np.zeros((2, rounds)) for name in names}
    for index in range(rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            began = np.array([time.perf_counter(), time.process_time()])
            variants[name]()
            seconds[name][:, index] = np.array([time.perf_counter(), time.process_time()]) - began
    return {name: Times(*both) for name, both in seconds.items()}


def ratio(times: Times, base: Times) -> float:
    """Median over rounds of the wall time of a variant, divided by that of another in the same round."""
    return float(np.median(times.wall / base.wall))


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes (Linux)."""
    # ru_maxrss would do on other systems, but on Linux a child starts with the value of its parent.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def run_job(
    script: str,
    modules: tuple[str, ...],
    input: dict,
    output: dict,
    params: dict | None = None,
    wildcards: dict | None = None,
) -> Usage:
    """Run `scripts/<script>.py` in a process of its own on one core, with what its rule would give it.

    The `modules` that the script needs are imported before time and memory are measured.
    """
    request = {"script": script, "modules": modules, "input": input, "output": output, "params": params or {}}
    request["wildcards"] = wildcards or {}
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", core, sys.executable, "-m", "benchmarks.job", json.dumps(request, default=str)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script} failed:\n{done.stderr}")
    return Usage(**json.loads(done.stdout.splitlines()[-1]))


def judged(what: str, value: float, unit: str, *, at_most: float | None = None, at_least: float | None = None) -> Row:
    """A row with its value to three digits, and the verdict on its goal if it has one."""
    measured = f"{_number(value)} {unit}".strip()
    if at_most is not None:
        return Row(what, measured, f"at most {_number(at_most)}", "yes" if value <= at_most else "no")
    if at_least is not None:
        return Row(what, measured, f"at least {_number(at_least)}", "yes" if value >= at_least else "no")
    return Row(what, measured)


def table(rows: list[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = [tuple(name for name in asdict(Row("", ""))), *(tuple(asdict(row).values()) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def machine() -> str:
    """The machine in words: cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB of memory"


def say(text: str) -> None:
    """One line on stderr about what is being measured."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _number(value: float) -> str:
    return (
        f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.{_digits(value)}f}"
    )


def _digits(value: float) -> int:
    return 2 if abs(value) < 10 else 1
