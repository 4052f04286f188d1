"""Whether the experts of a layer share their vocabulary."""

from moeatlas import job, routed, storage, token_overlap

job.start(snakemake)
study = routed.read(snakemake.input.records, snakemake.input.tokens)
layers = routed.read_layers(study, snakemake.input.records)
bar = job.progress(layers, total=study.sizes["layer"], unit=" layers", description="layers")
metrics = token_overlap.measure(study, bar, **snakemake.params.settings, **snakemake.params.statistics)
metrics.attrs |= study.attrs
storage.save(metrics, snakemake.output.metrics)
storage.save_table(token_overlap.table(metrics), snakemake.output.table)
job.log(f"{study.sizes['token']} tokens of {study.sizes['name']} datasets in {study.sizes['layer']} layers")
