"""A job that has loaded a model extracts several parts: for that it must know which of them this run needs.

Snakemake heeds this in the main Snakefile only, not in one that is imported.
"""

from gatebook.run import shelf

plans = []


onstart:
    plans.extend(shelf.plan(workflow))


onsuccess:
    shelf.clear(plans)
