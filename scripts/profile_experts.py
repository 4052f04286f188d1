"""The profile of every expert: what the chapters found about it, its kinds of token, and some of them in context."""

import json
from pathlib import Path

import jsonschema

import gatebook
from gatebook.atlas import found, profiles
from gatebook.files import atomic, netcdf, origin, tables
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.run import job
from gatebook.study import routed

job.start(snakemake)
schema = Path(gatebook.__file__).parents[2] / "report/schemas/expert_profile.schema.json"
validator = jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))
tokens = routed.read(snakemake.input.records, snakemake.input.tokens)
metrics = {Path(path).stem: netcdf.load(path) for path in snakemake.input.metrics}
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), **snakemake.params.model)
decode = profiles.decoder(tokenizer)
token_type = profiles.types(tokens["token_id"].sel(kind="input").values, tokenizer)
layers = routed.read_layers(tokens, snakemake.input.records, "routing_weight", "entropy")
bar = job.progress(layers, total=tokens.sizes["layer"], unit=" layers", description="layers")
settings = snakemake.params.settings | snakemake.params.statistics
rate = float(metrics["domain_specialization"].attrs["false_discovery_rate"])


def write(path: Path, content: dict) -> None:
    """Write JSON in one line, making the folder above it."""
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=str)
    path.write_text(text + "\n", encoding="utf-8")


written, of_layers = [], []
with atomic.atomic_directory(snakemake.output.folder) as folder:
    for layer in bar:
        of_layer = profiles.profiles(layer, tokens, token_type, metrics, decode, **settings)
        for profile in of_layer:
            validator.validate(profile)
            write(folder / profiles.file_name(profile), profile)
        coactivation = metrics["coactivation"].sel(layer=layer.number)
        of_layers.append((layer.number, found.of_layer(of_layer, coactivation)))
        written += of_layer
    tables.save_table(profiles.table(written), folder / "experts.csv")
    scripts = found.scripts(of_layers, written[0], settings["confidence"], rate)
    for path, text in scripts.files().items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="ascii")
    write(folder / "page.json", profiles.page(written, rate) | {"build": scripts.build})
    write(folder / "provenance.json", tokens.attrs | {"provenance": origin.provenance()})
    atomic.copy(schema, folder / schema.name)
job.log(f"{len(written)} profiles of experts in {tokens.sizes['layer']} layers")
