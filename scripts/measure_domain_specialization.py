"""Whether experts serve particular kinds of text, per layer and dataset."""

from gatebook.chapters.base import results
from gatebook.chapters.domain_specialization import CHAPTER
from gatebook.chapters.domain_specialization.measure import measure
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
save_table(table(metrics, CHAPTER.measures), snakemake.output.table)
job.log(f"{int(metrics['documents'][0])} documents, {len(tallies)} datasets")
