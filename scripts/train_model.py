"""A small OLMoE trained from scratch: its checkpoints, and the held-out loss of each."""

import json
import os
from pathlib import Path

# Set before torch is loaded. Threads that spin for long while they wait are ten times slower where another program
# needs the cores; threads that do not spin at all are twice as slow where none does.
os.environ["GOMP_SPINCOUNT"] = "10000"

import numpy as np
import pandas as pd
import transformers

from gatebook.files import atomic, checksums, netcdf
from gatebook.inputs.demo import corpora, evaluation, training
from gatebook.run import job

job.start(snakemake)
architecture, settings = snakemake.params.settings["model"], snakemake.params.settings["training"]
size = settings["sequence_length"]
transformers.utils.logging.disable_progress_bar()
training.use_deterministic_torch(settings["threads"])
tokenizer = transformers.AutoTokenizer.from_pretrained(snakemake.input.tokenizer)
streams = {
    Path(path).stem: training.token_stream([document.text for document in corpora.read(path)], tokenizer)
    for path in snakemake.input.train
}
everything = np.concatenate(list(streams.values()))
held_out, rows = [], {}
for path in snakemake.input.held_out:
    domain, documents = Path(path).stem, corpora.read(path)
    held_out += evaluation.tokenize(domain, documents, tokenizer, settings["held_out_tokens"], size)
    tokens = [np.array(ids) for ids in tokenizer([document.text for document in documents])["input_ids"]]
    rows[domain] = {
        "documents": len(documents),
        "clusters": len({document.cluster for document in documents}),
        "overlap": evaluation.overlap(tokens, everything),
    }
    job.log(f"{domain}, held out: {rows[domain]}")
predicted = evaluation.predicted_tokens(held_out)
frequencies = {domain: evaluation.unigram_losses(stream, len(tokenizer)) for domain, stream in streams.items()}
unigram = evaluation.unigram_loss_sums(held_out, frequencies)
job.log(f"unigram: {evaluation.summary(held_out, unigram, predicted)}")

model = training.build_model(architecture, tokenizer, settings["seed"])
losses, weights, history = {}, {}, []
for step in training.train(model, training.batches(list(streams.values()), settings), settings, history):
    name = f"step{step}"
    path = next(path for path in snakemake.output.checkpoints if Path(path).name == name)
    with atomic.atomic_directory(path) as partial:
        model.save_pretrained(partial)
        for file in ("tokenizer.json", "tokenizer_config.json"):  # saving it again would note HF_HUB_OFFLINE
            atomic.copy(Path(snakemake.input.tokenizer, file), partial / file)
    weights[name] = checksums.sha256(Path(path, "model.safetensors"))
    losses[name] = evaluation.loss_sums(model, held_out)
    job.log(f"{name}: {evaluation.summary(held_out, losses[name], predicted)}; weights sha256 {weights[name]}")

total, active = training.count_parameters(model)
dataset = evaluation.dataset(
    held_out, losses, unigram, predicted, history, pd.DataFrame.from_dict(rows, orient="index")
)
netcdf.save(
    dataset.assign_attrs(
        weights_sha256=json.dumps(weights),
        seed=settings["seed"],
        settings=json.dumps({"model": architecture, "training": settings | {"seed": None}}, sort_keys=True),
        parameters=total,
        active_parameters=active,
        trained_tokens=settings["steps"] * settings["batch_size"] * size,
    ),
    snakemake.output.training,
)
