"""The data card of a model's records as Parquet."""

import json
from pathlib import Path

from gatebook.files import atomic
from gatebook.inputs.documents import describe_dataset
from gatebook.run import job
from gatebook.study import exported

job.start(snakemake)
checkpoints = [json.loads(Path(path).read_text(encoding="utf-8")) for path in snakemake.input.descriptions]
datasets = {Path(path).stem: describe_dataset(path) for path in snakemake.input.tokens}
known = ("gatebook", "torch", "transformers", "tokenizers")
made = {name: version for name, version in job.software().items() if name in known} | dict(snakemake.params.made)
card = exported.card(snakemake.wildcards.model, Path(snakemake.output.card).parent, checkpoints, datasets, made)
with atomic.atomic_file(snakemake.output.card) as path:
    path.write_text(card, encoding="utf-8")
job.log(f"{len(datasets)} datasets, {len(checkpoints)} checkpoints")
