"""Run one script of the workflow in this process and print its seconds and its memory (see `measuring.run_job`)."""

import importlib
import json
import runpy
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, Wildcards

from benchmarks import measuring


def main(request: dict) -> measuring.Usage:
    """Run `scripts/<script>.py` as Snakemake would, its log beside its output; measured after importing `modules`."""
    began, log = time.perf_counter(), Path(f"{next(iter(request['output'].values()))}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    snakemake = SimpleNamespace(
        rule=request["script"],
        input=InputFiles(fromdict=request["input"]),
        output=OutputFiles(fromdict=request["output"]),
        params=Params(fromdict=request["params"]),
        wildcards=Wildcards(fromdict=request["wildcards"]),
        log=Log([str(log)]),
        threads=1,
        config={},
    )
    for module in request["modules"]:
        importlib.import_module(module)
    start, ready, spent = measuring.peak_memory(), time.perf_counter(), time.process_time()
    script = measuring.ROOT / "scripts" / f"{request['script']}.py"
    runpy.run_path(str(script), {"snakemake": snakemake}, run_name="__main__")
    seconds, processor = time.perf_counter() - ready, time.process_time() - spent
    return measuring.Usage(seconds, processor, ready - began, measuring.peak_memory(), start)


if __name__ == "__main__":
    print(json.dumps(vars(main(json.loads(sys.argv[1])))))
