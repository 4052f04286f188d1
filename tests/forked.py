"""Snakemake in children of a process that has imported it: half of a dry run is spent on that.

It reads lines of JSON, the arguments of `become`, and answers each with the exit status of a child that ran snakemake.
What these take for Python hands the scripts of jobs to another process, see forked_jobs.py.
"""

import json
import os
import runpy
import shlex
import signal
import socket
import sys

import forked_jobs
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


def for_python(folder: str, address: str) -> str:
    """The path of a program that is taken for Python, and has scripts done at an address."""
    path, client = f"{folder}/python", [sys.executable, "-S", "-E", forked_jobs.__file__, sys.executable, address]
    with open(path, "w", opener=lambda *given: os.open(*given, mode=0o700), encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
    return path


def main(folder: str) -> None:
    """Serve both, with a socket in a folder, until the end of the input."""
    address = f"{folder}/jobs"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        if not (jobs := os.fork()):
            runpy.run_path(forked_jobs.serve(listener), run_name="__main__")
            return
    python = for_python(folder, address)
    if serve():
        sys.executable = python
        cli.main()
    else:
        os.kill(jobs, signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
