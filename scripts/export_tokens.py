"""The tokens of a dataset as Parquet."""

from gatebook.files import atomic
from gatebook.inputs.documents import load_tokens
from gatebook.run import job
from gatebook.study import exported

job.start(snakemake)
made = exported.samples(load_tokens(snakemake.input.tokens))
with atomic.atomic_file(snakemake.output.samples) as path:
    exported.write(made, path)
job.log(f"{made.num_rows} tokens")
