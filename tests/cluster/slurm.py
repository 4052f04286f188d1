"""A real Slurm on the loopback of this machine: munge, a controller and four virtual nodes, until `stop`."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "setpriv")
NODES = {"c1": 17011, "c2": 17012, "g1": 17013, "g2": 17014}
FOUND_BY_SRUN = Path("/etc/slurm/slurm.conf")  # steps of a job look only here
PREFIX = "atlas-slurm-"

CONFIGURATION = """
ClusterName=atlas
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=17000
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=86400
NodeName=c1,c2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17011,17012 CPUs=8 RealMemory=64000
NodeName=g1,g2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17013,17014 CPUs=8 RealMemory=64000 Gres=gpu:1
PartitionName=cpu Nodes=c1,c2 Default=YES
PartitionName=gpu Nodes=g1,g2
"""


def missing() -> str | None:
    """Why no cluster can be started here, or nothing."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    if absent:
        return f"{', '.join(absent)} not found: `make test-cluster` installs Slurm on Debian"
    if FOUND_BY_SRUN.exists() and PREFIX not in str(FOUND_BY_SRUN.resolve()):
        return f"this machine has a Slurm of its own ({FOUND_BY_SRUN})"
    return None


def wait_until(condition: Callable, seconds: float, what: str):
    """The first true value of `condition`, asked twice a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


class Cluster:
    """Two nodes without and two with one fake GPU each; `jobs` remembers every job."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # short: sockets have names of at most 108 characters
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        """Write the configuration, start all daemons, and wait until every node is idle."""
        for name in ("munge", "state", *NODES):
            (self.folder / name).mkdir(mode=0o755)
        self.folder.chmod(0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        file = self.folder / "slurm.conf"
        file.write_text(CONFIGURATION.format(host=socket.gethostname().split(".")[0], folder=self.folder))
        # a character device that exists everywhere stands in for the GPU
        (self.folder / "gres.conf").write_text("NodeName=g1,g2 Name=gpu File=/dev/null\n")
        FOUND_BY_SRUN.parent.mkdir(exist_ok=True)
        FOUND_BY_SRUN.unlink(missing_ok=True)
        FOUND_BY_SRUN.symlink_to(file)

        munge = [f"--{name}={self.folder}/munge/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        self._daemon("munged", "--foreground", f"--key-file={key}", *munge)
        wait_until((self.folder / "munge" / "socket").exists, 20, "munged")
        self._daemon("slurmctld", "-D", "-i")
        for node in NODES:
            self.boot(node)
        wait_until(lambda: self._slurm("sinfo", "-hN", "-t", "idle").count("\n") == len(NODES), 60, "idle nodes")

    def stop(self) -> None:
        """Cancel all jobs, end the daemons, and delete what they wrote."""
        if "slurmctld" in self.daemons:
            self.cancel(*(job["JobId"] for job in self.queued()))
        for name in reversed(self.daemons):
            self.daemons[name].terminate()
            try:
                self.daemons[name].wait(20)
            except subprocess.TimeoutExpired:
                self.daemons[name].kill()
        FOUND_BY_SRUN.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def boot(self, node: str) -> None:
        """Start a node."""
        self._daemon(node, "-D", "-N", node, program="slurmd")

    def crash(self, node: str) -> None:
        """End a node and all that runs on it at once, as a power cut would."""
        self.daemons[node].kill()
        for job in self.queued():
            if job.get("NodeList") == node:
                for process in self.processes(job["JobId"]):
                    process.kill()

    def jobs(self) -> list[dict[str, str]]:
        """Every job since the start as scontrol shows it, in the order of submission."""
        lines = self._slurm("scontrol", "show", "job", "--oneliner").splitlines()
        jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]
        return sorted(jobs, key=lambda job: int(job["JobId"]))

    def queued(self) -> list[dict[str, str]]:
        """Jobs that wait, run or end."""
        return [job for job in self.jobs() if job["JobState"] in ("PENDING", "RUNNING", "COMPLETING")]

    def newest(self) -> dict[str, str] | None:
        """The job that was submitted last, if there is any."""
        return next(reversed(self.jobs()), None)

    def find(self, rule: str, state: str, after: dict[str, str] | None = None) -> dict[str, str]:
        """Wait for the first job of a rule in a state, of those submitted after another job."""
        number = int(after["JobId"]) if after else 0

        def found():
            of_rule = [job for job in self.jobs() if f"rule_{rule}" in job["Comment"] and int(job["JobId"]) > number]
            return next((job for job in of_rule if job["JobState"] == state), None)

        return wait_until(found, 900, f"{rule} {state}")

    def cancel(self, *jobs: str) -> None:
        """Cancel jobs and wait until none of them is left."""
        if jobs:
            self._slurm("scancel", *jobs)
        wait_until(lambda: not {job["JobId"] for job in self.queued()} & {*jobs}, 60, "cancelled jobs")

    def update(self, **settings: str) -> None:
        """Change a job or a partition: `scontrol update`."""
        self._slurm("scontrol", "update", *(f"{name}={value}" for name, value in settings.items()))

    def freeze(self, job: str) -> None:
        """Stop all processes of a job, as a hanging file system would."""
        for process in self.processes(job):
            if not process.name().startswith("slurmstepd"):
                process.send_signal(signal.SIGSTOP)

    def processes(self, job: str) -> list[psutil.Process]:
        """The processes of a running job: Slurm's own and their descendants."""
        steps = [
            process
            for process in psutil.process_iter(["cmdline"])
            if " ".join(process.info["cmdline"] or []).startswith(f"slurmstepd: [{job}.")
        ]
        return [process for step in steps for process in (step, *step.children(recursive=True))]

    def _daemon(self, name: str, *arguments: str, program: str | None = None) -> None:
        """Start a daemon that ends when this process does."""
        with (self.folder / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", program or name, *arguments],
                env=os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @staticmethod
    def _slurm(*command: str) -> str:
        """What a command of Slurm prints, or nothing while the controller does not answer."""
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
