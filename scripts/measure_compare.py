"""How the routing of other runs differs from that of the first run of `compare`, by relative depth."""

import json
from contextlib import ExitStack
from pathlib import Path

from gatebook.chapters.base import results
from gatebook.chapters.compare.measure import Run, measure, whole_table
from gatebook.chapters.compare.runs import by_run
from gatebook.files import netcdf
from gatebook.files.tables import save_table
from gatebook.measures.uncertainty import without_few
from gatebook.run import job
from gatebook.study.tallies import open_tallies, study_identity

job.start(snakemake)
paths, runs, identities = list(snakemake.input.tallies), [], {}
with ExitStack() as opened:
    datasets = len(paths) // len(snakemake.input.models)
    for number, model in enumerate(snakemake.input.models):
        tallies = opened.enter_context(open_tallies(paths[number * datasets : (number + 1) * datasets]))
        identity = study_identity(tallies)
        name = f"{identity['model']}/{identity['checkpoint']}"
        identities[name] = identity
        layers = json.loads(Path(model).read_text(encoding="utf-8"))["moe_layers"]
        runs.append(Run(name, tallies, layers, untrained=name in snakemake.params.untrained))
    metrics = measure(runs[0], runs[1:], **snakemake.params.statistics)
    metrics = without_few(metrics, snakemake.params.fewest_clusters, metrics["clusters"].min("run"))
    trainings = {Path(path).stem: netcdf.load(path) for path in snakemake.input.trainings}
    metrics = metrics.merge(by_run(metrics, trainings), combine_attrs="override")
metrics.attrs["runs"] = json.dumps(identities, sort_keys=True)
results.save_metrics(metrics, snakemake.output.metrics)
save_table(whole_table(metrics), snakemake.output.table)
job.log(f"{runs[0].name} (A) and {len(runs) - 1} other runs at {metrics.sizes['depth']} relative depths")
