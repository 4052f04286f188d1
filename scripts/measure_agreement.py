"""Of how many tokens runs select the same experts as the first run of `agreement`, and which findings survive."""

import json

import numpy as np

from gatebook.chapters.agreement import aligned, measure, survival
from gatebook.chapters.base import results
from gatebook.files import origin
from gatebook.files.tables import save_table
from gatebook.measures import summary
from gatebook.measures.token_sample import spread
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
names, alternatives = list(snakemake.params.runs), list(snakemake.input.alternatives)
count = len(names) - len(alternatives)
tokens, records = (
    np.array_split(np.array(list(paths)), count) for paths in (snakemake.input.tokens, snakemake.input.records)
)
studies = [routed.read(list(one), list(other)) for one, other in zip(records, tokens, strict=True)]
first = studies[0]
chosen = spread(first, **snakemake.params.chosen)
places = [aligned.places(first, study, (names[0], name))[chosen] for study, name in zip(studies, names, strict=False)]
common = np.all([place != aligned.NOWHERE for place in places], axis=0)
compared = measure.read(
    names,
    [(study, list(folders), place[common]) for study, folders, place in zip(studies, records, places, strict=True)],
    alternatives,
    chosen,
    common,
    unordered=snakemake.params.unordered,
)
settings = {"confidence": snakemake.params.confidence, "false_discovery_rate": snakemake.params.false_discovery_rate}
place, fewest = chosen[common], snakemake.params.fewest_clusters
measured = measure.measure(first, place, compared, name=names[0], seed=snakemake.params.chosen["seed"], **settings)
answers = {}
for name, sets in {names[0]: compared.first, **compared.others}.items():
    if answers and np.array_equal(sets, compared.first):
        answers[name] = answers[names[0]]
        continue
    tallies = survival.tally(first, place, sets, compared.layers, compared.experts)
    answers[name] = survival.answers(tallies, snakemake.params.answers, fewest)
metrics = summary.of_enough(measured, fewest).metrics
metrics = metrics.merge(survival.survive(answers, snakemake.params.thresholds, snakemake.params.unordered))
# An alternative is the first run's model.
identified = dict(zip(names, [*studies, *(first for _ in alternatives)], strict=True))
metrics = metrics.assign_attrs(
    untrained=json.dumps(list(snakemake.params.untrained)),
    left_out=int((~common).sum()),
    runs=json.dumps({name: origin.identity(study.attrs) for name, study in identified.items()}, sort_keys=True),
)
results.save_metrics(metrics, snakemake.output.metrics)
save_table(measure.table(metrics), snakemake.output.table)
job.log(f"{len(place)} tokens, {len(names) - 1} runs against {names[0]}, {int((~common).sum())} tokens left out")
