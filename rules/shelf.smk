"""What a run extracts, and that each checkpoint is loaded as seldom as may be: `gatebook.run.shelf`.

Snakemake heeds this only in the main Snakefile, not in one that is imported.
"""

from gatebook.run import shelf

plans = []


onstart:
    plans.extend(shelf.plan(workflow))


onsuccess:
    shelf.clear(plans)
