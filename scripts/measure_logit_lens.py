"""What each layer already knows of the next token, and what experts write for it."""

import torch

from gatebook.chapters.base import results
from gatebook.chapters.logit_lens import CHAPTER, run
from gatebook.chapters.logit_lens import measure as logit_lens
from gatebook.files import tables
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.measures import summary, vocabulary
from gatebook.routing import models
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
given, settings = dict(snakemake.params.model), snakemake.params.settings
device = models.choose_device(given.pop("device"))
torch.set_num_threads(snakemake.params.threads if device.type == "cpu" else 1)
tokens = routed.read(snakemake.input.records, snakemake.input.tokens)
chosen = {name: settings[name] for name in ("windows", "fitted_windows", "removal_windows", "seed")}
planned = logit_lens.plan(tokens, **chosen)
found, reasons = run.study(
    tokens, planned, settings, snakemake.input.folder, given | {"device": device}, snakemake.params.tokens_per_batch
)
measured = logit_lens.measure(tokens, planned, found, **snakemake.params.statistics)
measured = summary.of_enough(measured, snakemake.params.fewest_clusters)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), trust_remote_code=given["trust_remote_code"])
metrics = logit_lens.with_texts(measured.metrics, lambda ids: vocabulary.token_texts(tokenizer, ids))
measured = summary.Measured(metrics.assign_attrs(reasons), measured.draws)
results.save(
    measured,
    CHAPTER,
    tokens.attrs,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(logit_lens.table(measured.metrics), snakemake.output.table)
tables.save_table(logit_lens.token_table(measured.metrics), snakemake.output.tokens)
job.log(f"{len(planned.scored)} windows scored, {len(planned.fitted)} fitted on")
for reason in filter(None, reasons.values()):
    job.log(f"not measured: {reason}")
