"""How much one expert matters, where, whether it is the expert or its load, and what tells it."""

from gatebook.chapters.base import results
from gatebook.chapters.expert_ablation import CHAPTER
from gatebook.chapters.expert_ablation.measure import measure
from gatebook.files import netcdf, tables
from gatebook.files.origin import identity
from gatebook.measures import summary
from gatebook.run import job

job.start(snakemake)
scan, tested = netcdf.load(snakemake.input.scan), netcdf.load_group(snakemake.input.scan, "tested")
measured = measure(
    scan,
    tested,
    **snakemake.params.settings,
    confidence=snakemake.params.confidence,
    fewest_clusters=snakemake.params.fewest_clusters,
)
kept = ("not_run", "stage", "caliper", "datasets")
results.save(
    measured,
    CHAPTER,
    identity(scan.attrs) | {name: scan.attrs[name] for name in kept},
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(summary.table(measured.metrics, CHAPTER.measures), snakemake.output.table)
job.log(f"{scan.sizes['document']} documents, {scan.sizes['layer']} layers of {scan.sizes['expert']} experts")
