"""How much text before a token its routing needs, and how much of it another way of computing leaves."""

import torch

from gatebook.chapters.base import results
from gatebook.chapters.reach import CHAPTER, rerun
from gatebook.chapters.reach import measure as reach
from gatebook.files import tables
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.measures import summary
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
model, settings = snakemake.params.model, dict(snakemake.params.settings)
noise, seed = settings.pop("noise"), settings["seed"]
tokens = routed.read(snakemake.input.records, snakemake.input.tokens)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), trust_remote_code=model["trust_remote_code"])
planned = reach.plan(tokens, **settings, special=tokenizer.all_special_ids)
full, later, experts = reach.recorded(routed.read_layers(tokens, snakemake.input.records), planned)
loader = rerun.Loader(snakemake.input.folder, model, tokens["layer"].values.tolist()[-1], seed)
torch.set_num_threads(snakemake.params.threads if loader.device.type == "cpu" else 1)
found = rerun.run(
    loader, planned, tokens["layer"].values.tolist(), noise=noise, tokens_per_batch=snakemake.params.tokens_per_batch
)
measured = reach.measure(
    tokens,
    planned,
    reach.Routed(full, found.short, found.unrelated, later, found.changed, found.margin),
    experts=experts,
    lengths=settings["lengths"],
    noise=noise,
    confidence=snakemake.params.confidence,
)
measured = summary.of_enough(measured, snakemake.params.fewest_clusters)
measured = summary.Measured(measured.metrics.assign_attrs(found.attrs), measured.draws)
results.save(
    measured,
    CHAPTER,
    tokens.attrs,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(summary.table(measured.metrics, CHAPTER.measures), snakemake.output.table)
job.log(f"{len(planned.place)} tokens, {len(planned.windows)} windows in {tokens.sizes['layer']} layers")
