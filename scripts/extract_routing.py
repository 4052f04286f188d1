"""What every router received, decided and returned for every token, one file per layer; and the tally of it."""

import json
from importlib import import_module
from pathlib import Path

from gatebook.run import job, shelf


def load() -> shelf.Extract:
    """Extraction by the model; what a job imports only if it extracts, and not if it finds its records on the shelf."""
    from gatebook.routing.loaded import LoadedModel
    from gatebook.study import tallied

    # By its name, so that its code does not count as this rule's: whatever it counts, the records are the same.
    tally = import_module("gatebook.study.counting").Tally
    description = json.loads(Path(snakemake.input.description).read_text())
    settings = snakemake.params.model, snakemake.params.extraction
    return LoadedModel(snakemake.input.folder, description, *settings, tally, tallied.path).extract


job.start(snakemake)
shelf.extract(snakemake, load)
