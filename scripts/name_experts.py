"""What a model itself says that some of its experts are for: a label of each, and its own words."""

import torch

from gatebook.atlas import profiles
from gatebook.chapters.annotation import naming
from gatebook.chapters.annotation.labels import Labels
from gatebook.files import netcdf
from gatebook.inputs.model_folder import load_config, load_tokenizer
from gatebook.measures.token_sample import counted
from gatebook.routing import models, patching
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
model, settings = dict(snakemake.params.model), snakemake.params.settings
tokens = routed.read(snakemake.input.records, snakemake.input.tokens)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), trust_remote_code=model["trust_remote_code"])
place = counted(tokens, settings["tokens"], settings["seed"])
labels = Labels.of(tokens, place, lambda ids: profiles.texts(ids, tokenizer), snakemake.params.languages)
layers = [
    (layer.number, layer.experts, layer.selected[place])
    for layer in routed.read_layers(tokens, snakemake.input.records)
]
options = {key: settings[key] for key in ("minimum_share", "named", "listed", "seed")}
asked = naming.ask(labels, tokens["group"].values[place], layers, profiles.decoder(tokenizer), **options)
device = models.choose_device(model.pop("device"))
torch.set_num_threads(snakemake.threads if device.type == "cpu" else 1)
reason = patching.refusal(load_config(snakemake.input.folder, model["trust_remote_code"])) or ""
given, written = [], []
if reason:
    asked = naming.Asked([], [], [], [])
    job.log(f"no expert is named: {reason}")
else:
    loaded = models.load(snakemake.input.folder, device=device, head=True, **model)
    with job.progress(total=len(asked.experts), unit=" experts", description="experts") as bar:
        given, written = naming.name(loaded, tokenizer, asked, settings["written"], bar.update)
found = naming.named(asked, given, written, [number for number, *_ in layers], max(each for _, each, _ in layers))
netcdf.save(found.assign_attrs(tokens.attrs | {"not_named": reason}), snakemake.output.named)
job.log(f"{len(given)} experts named on {device}, by {len(asked.candidates)} labels")
