"""Config, findings, measures, figures and the report as a run of Weights & Biases."""

import json
import os
from pathlib import Path

from gatebook.files import atomic
from gatebook.report import tracking
from gatebook.run import job

job.start(snakemake)
# Where the files of an offline run wait until it is synchronized.
os.environ.setdefault("WANDB_DATA_DIR", str(Path("wandb/data").resolve()))
for name in ("SILENT", "DISABLE_GIT", "DISABLE_CODE"):
    os.environ.setdefault(f"WANDB_{name}", "true")
os.environ.setdefault("WANDB_CONSOLE", "off")
counts = tracking.log(
    snakemake.params.settings,
    snakemake.params.config,
    tracking.made(snakemake.input.figures, "figures"),
    tracking.made(snakemake.input.tables, "tables"),
    tracking.made(snakemake.input.transitions, "metrics"),
    snakemake.input.report,
)
job.log(f"run: {counts.pop('run')}")
with atomic.atomic_file(snakemake.output.logged) as path:
    path.write_text(json.dumps({**snakemake.params.settings, **counts}, indent=1) + "\n", encoding="utf-8")
job.log(", ".join(f"{value} {name}" for name, value in counts.items() if name != "left_out"))
if counts["left_out"]:
    job.log(f"only in the report, for their length: {', '.join(counts['left_out'])}")
