"""Small additive statistics of a dataset's records: counts, sums and histograms per document."""

from pathlib import Path

from moeatlas import job, storage, tallies

job.start(snakemake)
tokens = storage.load_tokens(snakemake.input.tokens)
lengths, token_id = tokens["document_tokens"].values, tokens["token_id"].values
files = sorted(Path(snakemake.input.records).glob("layer_*.nc"), key=lambda path: int(path.stem.removeprefix("layer_")))
layers = {}
for path in job.progress(files, unit=" layers", description=f"tally {tokens.attrs['dataset']}"):
    with storage.open_lazily(path) as records:
        layers[int(records.attrs["layer"])] = tallies.tally_layer(records, lengths, token_id)
        identity = storage.identity(records.attrs)
tally = tallies.tally(layers, lengths, tokens["document_id"].values)
storage.save(tally.assign_attrs(identity), snakemake.output.tally)
job.log(f"{tally.sizes['document']} documents, {len(token_id)} tokens, {len(layers)} layers")
