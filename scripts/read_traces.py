"""The tokens of a dataset of traces that are sound at all checkpoints; what is wrong with others is counted."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from gatebook.files import checksums, netcdf
from gatebook.inputs import documents
from gatebook.inputs.limits import token_limit
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.inputs.traces import forms
from gatebook.inputs.traces.base import asked
from gatebook.inputs.traces.checks import Checks
from gatebook.inputs.traces.tokens import Gathered, add_text, check_same
from gatebook.run import job

job.start(snakemake)
name, settings, model = snakemake.wildcards.dataset, snakemake.params.dataset, snakemake.params.model
description = json.loads(Path(snakemake.input.description).read_text(encoding="utf-8"))
key, lacks, found, masks, dropped, unsorted = f"datasets.{name}", settings.get("lacks", []), None, [], Counter(), 0
for checkpoint, order in snakemake.params.order.items():
    paths = [str(snakemake.input.traces[place]) for place in order]
    wanted = asked(key, settings, description, model["holds"], checkpoint)
    checks, gathered, kept = Checks(wanted), Gathered(key, lacks), []
    with job.progress(unit=" tokens", description=f"read {name} {checkpoint}") as bar:
        for number, block in forms.read(paths, wanted):
            sound, mask = checks.add(block, paths[number])
            gathered.add(sound, number, mask)
            kept.append(mask)
            bar.update(block.tokens)
    checks.finish()
    check_same(found, gathered, key, checkpoint)
    found, unsorted = gathered, unsorted + checks.sorted
    masks.append(np.concatenate(kept))
    dropped |= checks.dropped  # by reason the most of any checkpoint
limit = token_limit(settings, model)
tokens = found.file(np.logical_and.reduce(masks), settings["limits"], limit)
if snakemake.input.tokenizer and "tokens" not in lacks:
    with job.without_torch(unless=model["trust_remote_code"]):
        tokenizer = load_tokenizer(str(snakemake.input.tokenizer), trust_remote_code=model["trust_remote_code"])
    tokens = add_text(tokens, tokenizer, key)
files = forms.files(snakemake.input.traces)
left_out = dict(dropped) | json.loads(tokens.attrs["dropped"])
tokens.attrs |= {
    "model": snakemake.wildcards.model,
    "dataset": name,
    "dataset_id": ", ".join(dict.fromkeys(map(str, snakemake.input.traces))),
    "dataset_revision": "local",
    "dataset_sha256": checksums.sha256(*files),
    "dataset_bytes": sum(file.stat().st_size for file in files),
    "tokens_sha256": documents.tokens_sha256(tokens),
    "dropped": json.dumps(left_out, sort_keys=True),
    "sorted_selections": unsorted,
}
netcdf.save(tokens, snakemake.output.tokens)
said = "".join(f"; {number:,} tokens left out: {reason}" for reason, number in left_out.items())
job.log(f"{name}: {tokens.sizes['document']} documents, {tokens.sizes['token']} tokens{said}")
