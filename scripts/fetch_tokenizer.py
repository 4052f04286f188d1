"""The tokenizer of a model whose routing was traced, from the Hugging Face hub, at its pinned revision."""

from gatebook.files import atomic
from gatebook.inputs import hub
from gatebook.run import job

job.start(snakemake)
name, tokenizer = snakemake.wildcards.model, snakemake.params.model["tokenizer"]
trust = snakemake.params.model["trust_remote_code"]
snapshot = hub.fetch_tokenizer(name, tokenizer["id"], tokenizer["revision"], trust_remote_code=trust)
with atomic.atomic_directory(snakemake.output.folder) as folder:
    hub.link_snapshot(snapshot, folder)
job.log(f"{tokenizer['id']} at {tokenizer['revision']}: commit {hub.commit(folder=snapshot)}")
