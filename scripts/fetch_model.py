"""A checkpoint from the Hugging Face hub, at its pinned revision."""

from gatebook.files import atomic
from gatebook.inputs import hub
from gatebook.run import job

job.start(snakemake)
model = snakemake.params.model
snapshot = hub.fetch_model(
    snakemake.wildcards.model, model["id"], model["revision"], trust_remote_code=model["trust_remote_code"]
)
with atomic.atomic_directory(snakemake.output.folder) as folder:
    hub.link_snapshot(snapshot, folder)
job.log(f"{model['id']} at {model['revision']}: commit {hub.commit(folder=snapshot)}")
