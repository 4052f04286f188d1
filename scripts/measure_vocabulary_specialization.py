"""Whether the token id decides which expert a token is sent to, per layer and kind of token."""

from moeatlas import inputs, job, storage, vocabulary, vocabulary_specialization

job.start(snakemake)
study = vocabulary.read(snakemake.input.records, snakemake.input.tokens)
numbers = study["layer"].values.tolist()
layers = job.progress(
    vocabulary.read_layers(snakemake.input.records, numbers), total=len(numbers), unit=" layers", description="layers"
)
metrics = vocabulary_specialization.measure(study, layers, **snakemake.params.settings, **snakemake.params.statistics)
tokenizer = inputs.load_tokenizer(str(snakemake.input.tokenizer), **snakemake.params.model)
metrics = vocabulary_specialization.with_texts(metrics, lambda ids: vocabulary.token_texts(tokenizer, ids))
metrics.attrs |= study.attrs
storage.save(metrics, snakemake.output.metrics)
storage.save_table(vocabulary_specialization.table(metrics), snakemake.output.table)
job.log(f"{study.sizes['token']} tokens of {study.sizes['name']} datasets in {len(numbers)} layers")
