"""The documents of a dataset as the tokens that a model sees."""

import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from gatebook.files import checksums, netcdf
from gatebook.inputs import clusters, documents
from gatebook.inputs.limits import token_limit
from gatebook.inputs.model_folder import load_tokenizer, window_size
from gatebook.run import job

job.start(snakemake)
name, settings, model = snakemake.wildcards.dataset, snakemake.params.dataset, snakemake.params.model
files, folder = [str(file) for file in snakemake.input.files], str(snakemake.input.tokenizer)
limits, trust = settings["limits"], {"trust_remote_code": model["trust_remote_code"]}
with job.without_torch(unless=model["trust_remote_code"]):
    tokenizer = load_tokenizer(folder, **trust)
builder = documents.file_format(name, files[0], settings.get("format"))
with tempfile.TemporaryDirectory() as cache:
    rows = documents.read_rows(name, files, builder, settings["sample_by"], Path(cache), limits.get("documents"))
    of_rows = clusters.of_rows(name, rows, settings["cluster"]) if settings["cluster"] else None
    texts = documents.render(name, rows, settings["template"], settings.get("id"), of_rows)
    tokens = documents.tokenize(
        name,
        job.progress(texts, unit=" documents", description=f"tokenize {name}"),
        tokenizer,
        window=window_size(model["window"], folder, **trust),
        token_limit=token_limit(settings, model),
        minimum_tokens=limits.get("minimum_tokens"),
    )
tokens.attrs |= {
    "model": snakemake.wildcards.model,
    "dataset": name,
    "dataset_id": settings.get("path") or settings.get("domain") or ", ".join(settings["files"]),
    "dataset_revision": pq.read_schema(files[0]).metadata[b"commit"].decode() if "revision" in settings else "local",
    "dataset_sha256": checksums.sha256(*files),
    "dataset_bytes": sum(Path(file).stat().st_size for file in files),
    "tokens_sha256": documents.tokens_sha256(tokens),
}
netcdf.save(tokens, snakemake.output.tokens)
left_out = tokens.attrs["documents_left_out"]
number = len(set(tokens["cluster"].values))
job.log(
    f"{name}: {tokens.sizes['document']} documents in {number} clusters, {tokens.sizes['token']} tokens, "
    f"{left_out} documents left out"
)
