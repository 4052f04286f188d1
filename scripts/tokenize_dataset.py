"""The documents of a dataset as the tokens that a model sees."""

from pathlib import Path

import pyarrow.parquet as pq

from gatebook.files import checksums, netcdf
from gatebook.inputs import documents, rows
from gatebook.inputs.limits import token_limit
from gatebook.inputs.model_folder import load_tokenizer, window_size
from gatebook.run import job

job.start(snakemake)
name, settings, model = snakemake.wildcards.dataset, snakemake.params.dataset, snakemake.params.model
files, folder = [str(file) for file in snakemake.input.files], str(snakemake.input.tokenizer)
limits, trust = settings["limits"], {"trust_remote_code": model["trust_remote_code"]}
with job.without_torch(unless=model["trust_remote_code"]):
    tokenizer = load_tokenizer(folder, **trust)
texts = documents.of_dataset(name, files, settings, tokenizer)
tokens = documents.tokenize(
    name,
    job.progress(texts, unit=" documents", description=f"tokenize {name}"),
    tokenizer,
    window=window_size(model["window"], folder, **trust),
    token_limit=token_limit(settings, model),
    minimum_tokens=limits.get("minimum_tokens"),
    roles=settings.get("roles", ()),
    continued=settings.get("generate", {}).get("tokens", 0),
)
source = settings.get("path") or settings.get("domain") or ", ".join(settings["files"])
tokens.attrs |= {
    "model": snakemake.wildcards.model,
    "dataset": name,
    "dataset_id": f"{source} ({rows.stated(settings['where'])})" if "where" in settings else source,
    "dataset_revision": pq.read_schema(files[0]).metadata[b"commit"].decode() if "revision" in settings else "local",
    "dataset_sha256": checksums.sha256(*files),
    "dataset_bytes": sum(Path(file).stat().st_size for file in files),
    "tokens_sha256": documents.tokens_sha256(tokens),
}
netcdf.save(tokens, snakemake.output.tokens)
left_out, repeated = tokens.attrs["documents_left_out"], tokens.attrs["ids_repeated"]
number = len(set(tokens["cluster"].values))
job.log(
    f"{name}: {tokens.sizes['document']} documents in {number} clusters, {tokens.sizes['token']} tokens, "
    f"{left_out} documents left out" + (f", {repeated} with an id that came before" if repeated else "")
)
