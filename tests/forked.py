"""Snakemake in children of a process that has imported it: half of a dry run is spent on that.

It reads lines of JSON, the arguments of `become`, and answers each with the exit status of a child that ran snakemake.
"""

import json
import os
import signal
import sys

from snakemake import cli


def become(
    arguments: list[str], folder: str, environment: dict[str, str], stdout: str, stderr: str, timeout: int
) -> None:
    """Let this process be as if it had been started as `python -m snakemake`, with its output in two files."""
    signal.alarm(timeout)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate((os.devnull, stdout, stderr)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.argv = [cli.__file__.replace("cli.py", "__main__.py"), *arguments]
    sys.path[0] = folder


def serve() -> bool:
    """Fork for every line: True in a child, which is then to run snakemake; False at the end of the input."""
    while line := sys.stdin.readline():
        if not (child := os.fork()):
            become(**json.loads(line))
            return True
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return False


if __name__ == "__main__" and serve():
    cli.main()
