"""The figures and findings of a chapter."""

from gatebook import chapters
from gatebook.chapters.base import page
from gatebook.run import job

job.start(snakemake)
shown = chapters.page(snakemake.wildcards.chapter)
seen = page.Seen.read(snakemake.input.metrics, snakemake.params.thresholds)
page.publish(snakemake.output.figures, shown, seen)
