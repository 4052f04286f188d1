"""Whether the token id decides which expert a token is sent to, per layer and kind of token."""

from gatebook.chapters.base import results
from gatebook.chapters.vocabulary_specialization import CHAPTER
from gatebook.chapters.vocabulary_specialization import measure as vocabulary_specialization
from gatebook.files import tables
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.measures import summary, vocabulary
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
tokens = routed.read(snakemake.input.records, snakemake.input.tokens)
layers = routed.read_layers(tokens, snakemake.input.records)
bar = job.progress(layers, total=tokens.sizes["layer"], unit=" layers", description="layers")
measured = vocabulary_specialization.measure(tokens, bar, **snakemake.params.settings, **snakemake.params.statistics)
with job.without_torch(unless=snakemake.params.model["trust_remote_code"]):
    tokenizer = load_tokenizer(str(snakemake.input.tokenizer), **snakemake.params.model)
metrics = vocabulary_specialization.with_texts(measured.metrics, lambda ids: vocabulary.token_texts(tokenizer, ids))
measured = measured._replace(metrics=metrics)
measured = summary.of_enough(measured, snakemake.params.fewest_clusters)
results.save(
    measured,
    CHAPTER,
    tokens.attrs,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(vocabulary_specialization.table(metrics), snakemake.output.table)
job.log(f"{tokens.sizes['token']} tokens of {tokens.sizes['name']} datasets in {tokens.sizes['layer']} layers")
