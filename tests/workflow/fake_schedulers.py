"""Stand-ins for the commands of PBS, Grid Engine and LSF: strict about their options, quick to run and to forget a job.

They take the options that the manuals describe (qsub(1B) of OpenPBS, sge_submit(1) of Grid Engine 8.1.9, bsub of LSF
10.1), as far as config/profiles/generic uses them, and refuse all others. A job starts at once, as a process on this
machine. In the folder $FAKE_SCHEDULER are

- `calls`: a line of JSON for each command with its arguments,
- `ID.state`: what the scheduler says about job ID. The test may write there what it likes, or delete the file: then the
  scheduler has forgotten the job. Without `run` in the folder jobs wait.
- `down`: if there is one, no command is answered.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["FAKE_SCHEDULER"])
CHUNK = r"(ncpus=\d+|mem=\d+[kmgt]?b|ngpus=\d+)"
SECTION = r"(select|order|rusage|span|same|cu|affinity)\[[^]]+\]"
OPTIONS = {  # what may follow an option; None: nothing
    "pbs": {
        "-N": r"[A-Za-z0-9]\S{0,235}",
        "-V": None,
        "-r": r"[yn]",
        "-S": r"/.+",
        "-j": r"oe|eo|n",
        "-o": r"/.+",
        "-l": rf"select=(\d+:)?{CHUNK}(:{CHUNK})*|walltime=(\d+|(\d+:)?\d\d?:\d\d)",
    },
    "sge": {
        "-terse": None,
        "-N": r"[^\d\s/:@\\*?][^\s/:@\\*?]*",
        "-V": None,
        "-r": r"y|yes|n|no",
        "-S": r"/.+",
        "-j": r"y|yes|n|no",
        "-o": r"/.+",
        "-pe": r"[\w.-]+ \d+(-\d+)?",
        "-l": r"(mem_free=\d+[kKmMgG]?|h_rt=\d+|gpu=\d+)(,(mem_free=\d+[kKmMgG]?|h_rt=\d+|gpu=\d+))*",
    },
    "lsf": {
        "-J": r"\S+",
        "-rn": None,
        "-o": r"/.+",
        "-n": r"\d+(,\d+)?",
        "-R": rf"{SECTION}( {SECTION})*",
        "-M": r"\d+([KMGT]B?)?!?",
        "-W": r"(\d+:)?\d+",
        "-gpu": r"num=\d+(:\w+=[\w,]+)*",
    },
}
STATES = {"pbs": ("Q", "R"), "sge": ("qw", "r"), "lsf": ("PEND", "RUN")}  # waiting, running
VARIABLE = {"pbs": "PBS_JOBID", "sge": "JOB_ID", "lsf": "LSB_JOBID"}


def refuse(message: str, code: int = 1):
    """End as a command does that cannot do what it was asked for."""
    print(message, file=sys.stderr)
    sys.exit(code)


def options(scheduler: str, arguments: list[str]) -> dict[str, str]:
    """The options of a submit command that have a value, or a refusal."""
    known, found, waiting = OPTIONS[scheduler], {}, list(arguments)
    while waiting:
        name = waiting.pop(0)
        if name not in known:
            refuse(f"unknown option or argument {name}", 2)
        if known[name]:
            words = 2 if name == "-pe" else 1
            value, waiting = " ".join(waiting[:words]), waiting[words:]
            if not re.fullmatch(known[name], value):
                refuse(f"illegal {name} value {value!r}", 2)
            found[name] = value
    return found


def submit(scheduler: str, arguments: list[str]) -> None:
    """Take the script on standard input, run it, print the id as the scheduler does."""
    asked = options(scheduler, arguments)
    number = 1 + len(list(FOLDER.glob("*.sh")))
    script = FOLDER / f"{number}.sh"
    script.write_text(sys.stdin.read())
    job = f"{number}.head" if scheduler == "pbs" else str(number)
    output = {
        "pbs": f"{asked['-o']}{job}.OU",
        "sge": f"{asked['-o']}/{asked.get('-N')}.o{job}",
        "lsf": asked["-o"].replace("%J", job),
    }[scheduler]
    runs = (FOLDER / "run").exists()
    (FOLDER / f"{job}.state").write_text(STATES[scheduler][runs])
    if runs:
        # PBS and Grid Engine start a job in the home folder; all forget it as soon as it has ended
        command = f"sh {script} >{output!r} 2>&1; rm -f {FOLDER}/{job}.state"
        subprocess.Popen(
            ["sh", "-c", command],
            cwd=None if scheduler == "lsf" else "/",
            env=os.environ | {VARIABLE[scheduler]: job},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    print({"lsf": f"Job <{job}> is submitted to default queue <normal>."}.get(scheduler, job))


def status(scheduler: str, arguments: list[str]) -> None:
    """Say in what state jobs are, as the scheduler does."""
    states = {path.stem: path.read_text() for path in FOLDER.glob("*.state")}
    if scheduler == "sge":
        if arguments[0] != "-u" or len(arguments) != 2:
            refuse(f"unexpected arguments {arguments}")
        if states:
            print("job-ID  prior   name       user         state submit/start at     queue      slots ja-task-ID")
            print("-" * 89)
        for job, state in states.items():
            print(f"{job:>7} 0.55500 some       me           {state:<5} 11/28/2026 09:20:54            1        ")
        return
    *flags, job = arguments
    if flags != {"pbs": [], "lsf": ["-a", "-noheader", "-o", "stat"]}[scheduler]:
        refuse(f"unexpected arguments {arguments}")
    if scheduler == "lsf":
        print(f"{states[job]:<5}") if job in states else refuse(f"Job <{job}> is not found", 255)
    elif job not in states:
        refuse(f"qstat: Unknown Job Id {job}", 153)
    elif states[job] == "F":
        refuse(f"qstat: {job} Job has finished, use -x or -H to obtain historical job information", 35)
    else:
        print("Job id            Name             User              Time Use S Queue")
        print("----------------  ---------------- ----------------  -------- - -----")
        print(f"{job:<17} some             me                00:00:00 {states[job]} workq")


def cancel(scheduler: str, arguments: list[str]) -> None:
    """Forget jobs."""
    for job in arguments:
        if not (FOLDER / f"{job}.state").exists():
            refuse(f"Unknown Job Id {job}")
        (FOLDER / f"{job}.state").unlink()


if __name__ == "__main__":
    scheduler, command, *arguments = sys.argv[1:]
    with (FOLDER / "calls").open("a") as calls:
        print(json.dumps([command, *arguments]), file=calls)
    if (FOLDER / "down").exists():
        refuse(f"{command}: cannot connect to server head (errno=111)", 111)
    {"qsub": submit, "bsub": submit, "qstat": status, "bjobs": status}.get(command, cancel)(scheduler, arguments)
