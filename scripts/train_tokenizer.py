"""A byte-level BPE tokenizer from an equal share of text of each domain."""

from gatebook.files import atomic
from gatebook.inputs.demo import corpora, tokenizer
from gatebook.run import job

job.start(snakemake)
settings = snakemake.params.tokenizer
documents = [corpora.read(path) for path in snakemake.input.corpora]
texts = [text for domain in documents for text in corpora.share(domain, settings["characters_per_domain"])]
trained = tokenizer.train_tokenizer(texts, settings["vocabulary_size"])
with atomic.atomic_directory(snakemake.output.tokenizer) as partial:
    trained.save_pretrained(partial)
job.log(f"{len(trained)} tokens from {sum(map(len, texts))} characters of {len(documents)} domains")
