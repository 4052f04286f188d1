"""What each expert is for, as a label that is chosen on one half of the clusters and scored on the other."""

from gatebook.atlas import profiles
from gatebook.chapters.annotation import CHAPTER, OF_EXPERTS
from gatebook.chapters.annotation import measure as annotation
from gatebook.chapters.base import results
from gatebook.files import netcdf, tables
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.measures import summary, vocabulary
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
used = ("tokens", "minimum_share", "pairs", "permutations", "examples", "seed")
tokens = routed.read(snakemake.input.records, snakemake.input.tokens)
with job.without_torch(unless=snakemake.params.model["trust_remote_code"]):
    tokenizer = load_tokenizer(str(snakemake.input.tokenizer), **snakemake.params.model)
layers = routed.read_layers(tokens, snakemake.input.records)
measured = annotation.measure(
    tokens,
    job.progress(layers, total=tokens.sizes["layer"], unit=" layers", description="layers"),
    lambda ids: profiles.texts(ids, tokenizer),
    languages=snakemake.params.languages,
    named=netcdf.load(snakemake.input.named) if snakemake.input.named else None,
    **{key: snakemake.params.settings[key] for key in used},
    confidence=snakemake.params.confidence,
)
metrics = annotation.with_texts(measured.metrics, lambda ids: vocabulary.token_texts(tokenizer, ids))
measured = summary.of_enough(measured._replace(metrics=metrics), snakemake.params.fewest_clusters)
results.save(
    measured,
    CHAPTER,
    tokens.attrs,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
of_layers = [name for name in CHAPTER.measures if name not in OF_EXPERTS]
tables.save_table(summary.table(measured.metrics, of_layers), snakemake.output.table)
job.log(f"{int(metrics['eligible'].sum())} labels of experts in {tokens.sizes['layer']} layers")
