"""Whether the experts of a layer share their vocabulary."""

from moeatlas import job, storage, token_overlap, vocabulary

job.start(snakemake)
study = vocabulary.read(snakemake.input.records, snakemake.input.tokens)
numbers = study["layer"].values.tolist()
layers = job.progress(
    vocabulary.read_layers(snakemake.input.records, numbers), total=len(numbers), unit=" layers", description="layers"
)
metrics = token_overlap.measure(study, layers, **snakemake.params.settings, **snakemake.params.statistics)
metrics.attrs |= study.attrs
storage.save(metrics, snakemake.output.metrics)
storage.save_table(token_overlap.table(metrics), snakemake.output.table)
job.log(f"{study.sizes['token']} tokens of {study.sizes['name']} datasets in {len(numbers)} layers")
