"""What every router received, decided and returned for every token: one file per layer."""

import json
from pathlib import Path

from gatebook.run import job, shelf


def load() -> shelf.Extract:
    """Extraction by the model; what a job imports only if it extracts, and not if it finds its records on the shelf."""
    from gatebook.routing.loaded import LoadedModel

    description = json.loads(Path(snakemake.input.description).read_text())
    return LoadedModel(snakemake.input.folder, description, snakemake.params.model, snakemake.params.extraction).extract


job.start(snakemake)
shelf.extract(snakemake, load)
