"""The data of the expert browser, and the table of expert sets that are specific to a dataset."""

import json

from gatebook.atlas import browser, budget, fit, router_inputs
from gatebook.files import atomic, origin, tables
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.measures import vocabulary
from gatebook.run import job
from gatebook.study import routed, tallies

job.start(snakemake)
records, settings = snakemake.input.records, snakemake.params.settings
given = routed.read(records, snakemake.input.tokens)
tokens = browser.Tokens(given, settings["stored_tokens"])
plots = settings["plots"] if browser.hold_logits(records) else 0
texts = browser.choose_texts(tokens.documents, settings["texts"], settings["text_tokens"], plots)
tokenizer = load_tokenizer(str(snakemake.input.tokenizer), **snakemake.params.model)
layers = routed.read_layers(given, records, "routing_weight")
scripts, table = browser.assemble(
    tokens,
    texts,
    job.progress(layers, total=given.sizes["layer"], unit=" layers", description="layers"),
    lambda layer: browser.read_plots(records, layer, texts),
    vocabulary.token_texts(tokenizer, tokens.ids),
    snakemake.params.confidence,
    settings,
)
router_inputs.add(scripts, tokens, records, given["layer"].values.tolist())
size = given.sizes["layer"], tallies.routing_rule(given.attrs)["experts"], given.sizes["name"]
dropped = fit.fitted(scripts, settings.get("megabytes", budget.browser(*size)))
files = scripts.files()
with atomic.atomic_directory(snakemake.output.scripts) as folder:
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="ascii")
    page = {"build": scripts.build, "provenance": origin.provenance()}
    (folder / "page.json").write_text(json.dumps(page, indent=1, default=str) + "\n", encoding="utf-8")
tables.save_table(table, snakemake.output.table)
sizes = browser.size_by_kind(scripts.sizes())
kinds = ", ".join(f"{kind} {size / 1e6:.2f}" for kind, size in sizes.items())
job.log(f"{len(files)} data scripts of {given.sizes['layer']} layers, {sum(sizes.values()) / 1e6:.1f} MB: {kinds}")
if dropped:
    job.log(f"Left out, to fit: {'; '.join(dropped)}")
