"""Where models and datasets come from: one module per source, with what the config and the workflow must know of it.

Jobs do not import these modules, only the Snakefile does: what jobs do with a source is in `inputs` itself.
"""
