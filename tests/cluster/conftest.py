"""A Slurm for all tests of this folder, and a hard time limit for each of them."""

import signal
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock
from slurm import Cluster, missing

LIMIT = 2400  # seconds


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """End a test, with its fixtures, that hangs."""

    def stop(*_):
        raise TimeoutError(f"{item.name} took more than {LIMIT} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        return (yield)
    finally:
        signal.alarm(0)


@pytest.fixture(scope="session")
def cluster():
    """A running Slurm."""
    if reason := missing():
        pytest.skip(reason)
    with FileLock(Path(tempfile.gettempdir(), "atlas-slurm.lock")):  # srun knows one cluster on a machine
        slurm = Cluster()
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
