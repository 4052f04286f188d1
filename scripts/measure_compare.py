"""How the routing of a run differs from that of the first run of `compare`, by relative depth."""

import json
from pathlib import Path

from gatebook.chapters.compare import measure as compare
from gatebook.files import netcdf, tables
from gatebook.run import job
from gatebook.study import tallies

job.start(snakemake)
models = [*snakemake.input.first_model, snakemake.input.second_model]
layers = [json.loads(Path(path).read_text(encoding="utf-8"))["moe_layers"] for path in models]
with tallies.open_tallies(snakemake.input.first) as first, tallies.open_tallies(snakemake.input.second) as second:
    identities = [tallies.study_identity(tallies) for tallies in (first, second)]
    runs = [
        compare.Run(f"{identity['model']}/{identity['checkpoint']}", tallies, moe_layers)
        for identity, tallies, moe_layers in zip(identities, (first, second), layers, strict=True)
    ]
    metrics = compare.measure(*runs, **snakemake.params.statistics)
metrics.attrs |= identities[1] | {"first_identity": json.dumps(identities[0], sort_keys=True)}
netcdf.save(metrics, snakemake.output.metrics)
tables.save_table(compare.table(metrics), snakemake.output.table)
job.log(f"{runs[0].name} (A) and {runs[1].name} (B) at {metrics.sizes['depth']} relative depths")
