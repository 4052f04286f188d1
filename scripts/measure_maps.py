"""Maps of router inputs and expert outputs, and how tokens lie in the spaces that they show."""

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from gatebook.chapters.base import results
from gatebook.chapters.maps import CHAPTER
from gatebook.chapters.maps import measure as maps
from gatebook.files import tables
from gatebook.measures import summary
from gatebook.routing import models
from gatebook.run import job
from gatebook.study import samples, tallies

job.start(snakemake)
settings, chosen = snakemake.params.model, snakemake.params.settings
sample = samples.read(snakemake.input.records, snakemake.input.tokens)
available = sample["layer"].values.tolist()
numbers = (
    summary.spread(sample["layer"].values, 3)
    if chosen["layers"] == "first_middle_last"
    else models.choose_layers(chosen["layers"], available, "maps.layers")
)
device = models.choose_device(settings["device"])
experts = tallies.routing_rule(sample.attrs)["experts"]


def layers(bar: tqdm) -> Iterator[maps.Layer]:
    """One layer after another, with only its block in memory."""
    for number in numbers:
        states, selected = samples.read_layer(snakemake.input.records, number)
        block = models.load_block(
            snakemake.input.folder, number, dtype=settings["dtype"], device=device, experts=settings["experts"]
        )
        first = selected[:, 0]
        total, outputs, done = 0, np.empty_like(states), 0
        for given in models.all_expert_outputs(block, states, experts):
            rows = slice(done, done + len(given))
            outputs[rows] = given[np.arange(len(given)), first[rows]]
            total, done = total + given.sum(axis=0, dtype=np.float64), rows.stop
        yield maps.Layer(number, states, first, outputs, (total / done).astype(np.float32))
        bar.update()


with job.progress(total=len(numbers), unit=" layers", description="maps") as bar:
    measured = maps.measure(sample, layers(bar), points=chosen["points"], **snakemake.params.statistics)
results.save(
    measured,
    CHAPTER,
    sample.attrs,
    metrics=snakemake.output.metrics,
    draws=snakemake.output.draws,
    untrained=snakemake.input.untrained,
)
tables.save_table(maps.table(measured.metrics), snakemake.output.table)
job.log(f"{sample.sizes['sample']} tokens in layers {numbers}, {measured.metrics.sizes['point']} of them on the maps")
