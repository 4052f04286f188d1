"""Whether router inputs consist of parts that a second fit finds again, and what these parts go with."""

import numpy as np
from threadpoolctl import threadpool_limits

from gatebook.chapters.base import results
from gatebook.chapters.factors import CHAPTER
from gatebook.chapters.factors import measure as factors
from gatebook.chapters.factors.texts import contexts
from gatebook.files import netcdf, origin, tables
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.measures import summary
from gatebook.measures.token_types import classify
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
study = routed.read_tokens(snakemake.input.tokens)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), **snakemake.params.tokenizer)
settings = snakemake.params.settings
with netcdf.open_lazily(snakemake.input.states) as states:
    place, experts, numbers = states["token"].values, int(states.attrs["experts"]), states["layer"].values.tolist()
    ids, code = np.unique(study["token_id"].sel(kind="input").values[place], return_inverse=True)
    special = set(tokenizer.all_special_ids)
    known = ids.tolist()
    types = classify([tokenizer.decode([one]) for one in known], [one in special for one in known])[code]
    sampled = factors.sample(study, place, types, settings["seed"])

    def read(layer: int) -> factors.Layer:
        """The states of a layer."""
        here = states.sel(layer=layer)
        selected = np.zeros((len(place), experts), bool)
        np.put_along_axis(selected, here["selected_expert"].values.astype(np.int64), True, axis=1)
        return factors.Layer(layer, here["state"].values, selected)

    layers = job.progress(map(read, numbers), total=len(numbers), unit=" layers", description="factors")
    with threadpool_limits(1):  # the same bytes, whatever the number of cores
        measured = factors.measure(study, sampled, layers, settings, confidence=snakemake.params.confidence)
    identity = origin.identity(states.attrs) | {"datasets": states.attrs["datasets"]}
measured = summary.of_enough(measured, snakemake.params.fewest_clusters)
metrics = factors.with_texts(measured.metrics, lambda places: contexts(study, places, tokenizer))
measured = summary.Measured(metrics, measured.draws)
results.save(
    measured,
    CHAPTER,
    identity,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(summary.table(measured.metrics, CHAPTER.measures), snakemake.output.table)
tables.save_table(factors.factor_table(metrics), snakemake.output.factors)
job.log(f"{len(place)} tokens in layers {numbers}, {sampled.fitted.sum()} of them fitted to")
