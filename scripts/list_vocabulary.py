"""The tokens of a model's tokenizer, and how often each occurs in the study."""

import numpy as np

from gatebook.files import netcdf, tables
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.measures.token_list import token_list
from gatebook.run import job

job.start(snakemake)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), **snakemake.params.model)
occurrences = np.zeros(0, np.int64)
for path in snakemake.input.tokens:
    found = np.bincount(netcdf.load(path)["token_id"].values, minlength=len(occurrences))
    found[: len(occurrences)] += occurrences
    occurrences = found
listed = token_list(tokenizer, occurrences)
tables.save_table(listed, snakemake.output.table)
job.log(f"{len(listed)} tokens, {int((listed['occurrences'] > 0).sum())} of them in the study")
