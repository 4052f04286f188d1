"""The pairs of prompts of the study's tasks, as the tokens that a model sees."""

from pathlib import Path

from gatebook.inputs.model_folder import load_tokenizer
from gatebook.inputs.tasks.sources import SOURCES
from gatebook.run import job
from gatebook.study import pairs

job.start(snakemake)
trust = {"trust_remote_code": snakemake.params.model["trust_remote_code"]}
with job.without_torch(unless=trust["trust_remote_code"]):
    tokenizer = load_tokenizer(str(snakemake.input.tokenizer), **trust)
for path in snakemake.output.pairs:
    name = Path(path).stem
    task = snakemake.params.tasks[name]
    source = SOURCES[task["source"]]
    found = pairs.of_list(source.pairs(name, task, tokenizer, task["files"]))
    about = {"model": snakemake.wildcards.model, "task": name, "title": source.title(task), "origin": task["source"]}
    pairs.write(found, path, about)
    job.log(f"{name}: {len(found)} pairs of {len(set(found.source))} sources, {found.lengths.max()} tokens at most")
