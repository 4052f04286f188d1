"""How evenly each layer spreads its tokens over the experts."""

from gatebook.chapters.base import results
from gatebook.chapters.selection_frequency import CHAPTER
from gatebook.chapters.selection_frequency.measure import measure
from gatebook.files.tables import save_table
from gatebook.measures.summary import of_enough, table
from gatebook.run import job
from gatebook.study.tallies import open_tallies, study_identity

job.start(snakemake)
with open_tallies(snakemake.input.tallies) as tallies:
    measured, identity = (
        measure(tallies, **snakemake.params.statistics, **snakemake.params.settings),
        study_identity(tallies),
    )
measured = of_enough(measured, snakemake.params.fewest_clusters)
results.save(
    measured,
    CHAPTER,
    identity,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
metrics = measured.metrics
save_table(table(metrics, [*CHAPTER.measures, "dropped_share"]), snakemake.output.table)
pooled = metrics.sel(dataset="pooled")
job.log(f"{int(pooled['documents'])} documents, {int(pooled['tokens'])} tokens, {len(tallies)} datasets")
