"""Seconds of processor time that a job takes before its script does anything: Python and the script's imports.

What a function imports when it is called, such as torch where a tally is taken from files, is not in it.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks import measuring
from benchmarks.measuring import Row

SCRIPTS, ROUNDS = measuring.ROOT / "scripts", 3


def imports(script: Path) -> str:
    """The imports of a script, as a program; those inside of functions are left out."""
    lines = script.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith(("import ", "from ")))


def processor_seconds(program: str) -> float:
    """Of a Python process that runs a program: the least of `ROUNDS` times."""
    environment, times = os.environ | {"PYTHONPATH": str(SCRIPTS)}, []
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def rows() -> list[Row]:
    """Start-up by script, the longest first."""
    measuring.say("start-up")
    found = {script.stem: processor_seconds(imports(script)) for script in sorted(SCRIPTS.glob("*.py"))}
    return [
        measuring.judged(f"start-up of `{name}`", seconds, "s")
        for name, seconds in sorted(found.items(), key=lambda item: -item[1])
    ]


if __name__ == "__main__":
    print(measuring.table(rows()))
