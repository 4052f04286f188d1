"""What tokens select according to traces, as records: one file per layer."""

import json
from pathlib import Path

import numpy as np

from gatebook.files import atomic
from gatebook.files.origin import identity
from gatebook.inputs.documents import load_tokens
from gatebook.inputs.traces import forms
from gatebook.inputs.traces.base import asked, taken
from gatebook.inputs.traces.checks import narrowed
from gatebook.routing import traced
from gatebook.routing.records import RecordWriter
from gatebook.routing.rule import RoutingRule
from gatebook.run import job

job.start(snakemake)
tokens = load_tokens(snakemake.input.tokens, **snakemake.params.place)
name, holds = tokens.attrs["dataset"], snakemake.params.model["holds"]
description = json.loads(Path(snakemake.input.description).read_text(encoding="utf-8"))
rule, key = RoutingRule(**description["rule"]), f"datasets.{name}"
wanted = asked(key, snakemake.params.dataset, description, holds, snakemake.wildcards.checkpoint)
paths = list(map(str, snakemake.input.traces))
places, window = tokens["source_token"].values, np.cumsum(tokens["position"].values == 0) - 1
attrs = identity(tokens.attrs | description) | {
    "routing_rule": rule.as_json(dense_layers=description["dense_layers"]),
    "traces": json.dumps(paths),
}
with (
    atomic.atomic_directory(snakemake.output.records) as folder,
    RecordWriter(
        folder,
        rule,
        description["layers"],
        tokens=len(places),
        windows=int(window[-1]) + 1,
        contents="exact" if holds == "logits" else holds,
        attrs=attrs,
        threads=snakemake.threads,
    ) as writer,
    job.progress(total=len(places), unit=" tokens", description=f"import {name}") as bar,
):
    for mine, block in taken(forms.read(paths, wanted), places):
        found = traced.records(narrowed(block, wanted), holds, rule, mine, np.unique(window[mine]), key)
        writer.write(lambda found=found: found)
        bar.update(len(mine))
job.log(f"{name}: {len(places)} tokens, {len(description['layers'])} layers")
