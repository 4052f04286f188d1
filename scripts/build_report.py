"""The HTML report with every figure and table of the study."""

import json
from pathlib import Path

import gatebook
from gatebook.atlas import budget
from gatebook.figures import explored
from gatebook.files import atomic, netcdf
from gatebook.inputs.documents import describe_dataset
from gatebook.report import assemble, published, render, search
from gatebook.report.manifest import manifest, summary
from gatebook.run import job, receipts

job.start(snakemake)
source = Path(gatebook.__file__).parents[2] / "report"
without_documents = all("selections" in lacking for lacking in snakemake.params.missing.values())
sections = []


def model_lacks(section: dict) -> bool:
    """Whether a section is about a model of which not all is known that routers decide."""
    return "weights" in snakemake.params.missing.get(section["of"].split("/")[0], {})


for section, path, metrics in zip(
    snakemake.params.sections, snakemake.input.figures, snakemake.input.metrics, strict=True
):
    words = json.loads(Path(path, "chapter.json").read_text(encoding="utf-8"))
    with netcdf.open_lazily(metrics) as found:
        printed = [published.beside(found, section["chapter"], each) for each in snakemake.params.references]
        partial = without_documents or model_lacks(section)
        absent = assemble.absent(section["chapter"], found) if partial else []
    sections.append(section | {"words": words, "absent": absent, "published": [each for each in printed if each]})
model_pages = []
for path in map(Path, snakemake.input.pages):
    kind, model, checkpoint = path.parts[-3:]
    content = json.loads((path / "page.json").read_text(encoding="utf-8"))
    model_pages.append({"kind": kind, "model": model, "checkpoint": checkpoint, "content": content})
with atomic.atomic_directory(snakemake.output.folder) as folder:
    for section, *paths in zip(
        sections, snakemake.input.figures, snakemake.input.metrics, snakemake.input.tables, strict=True
    ):
        for kind, path in zip(("figures", "data", "tables"), map(Path, paths), strict=True):
            atomic.copy(path, folder / kind / section["of"] / path.name)
    for path in map(Path, snakemake.input.expert_sets):
        atomic.copy(path, folder.joinpath("tables", *path.parts[-3:]))
    outputs = [file for file in manifest(folder) if Path(file["path"]).parent.name != explored.FOLDER]
    outputs += [summary(path, folder) for path in sorted(folder.glob(f"figures/**/{explored.FOLDER}"))]
    for path in map(Path, snakemake.input.pages):
        copied = folder.joinpath(*path.parts[-3:])
        atomic.copy(path, copied)
        (copied / "page.json").unlink()
        outputs.append(summary(copied, folder))
    models = [json.loads(Path(path).read_text()) for path in snakemake.input.models]
    content = assemble.assemble(
        config=snakemake.params.config,
        commit=snakemake.params.commit,
        left_out=snakemake.params.left_out,
        missing=snakemake.params.missing,
        graph=snakemake.params.graph,
        software=job.software(),
        models=models,
        datasets=[describe_dataset(path) for path in snakemake.input.datasets],
        sections=sections,
        references=snakemake.params.references,
        model_pages=model_pages,
        outputs=outputs,
        licences=job.licences(assemble.packages(snakemake.params.config)),
        citation=snakemake.params.citation,
    )
    times = receipts.run_times(Path(snakemake.log[0]).parent, snakemake.log[0])
    (folder / "run.js").write_text(render.run_script(**times), encoding="utf-8")
    atomic.copy(source / "assets", folder / "assets")
    (folder / search.FILE).write_text(search.script(search.index(content)), encoding="ascii")
    allowed = snakemake.params.config["report"]
    sizes = [
        (len(model["layers"]), model["experts"], len(snakemake.params.config["study"]["datasets"])) for model in models
    ]
    chapters = len({section["chapter"] for section in sections})
    linked = allowed.get("download_megabytes", sum(budget.downloads(*size, chapters) for size in sizes))
    dropped = render.left_out(manifest(folder), linked)
    for path in dropped:
        (folder / path).unlink()
    shown = allowed.get("megabytes", sum(budget.shown(*size, chapters) for size in sizes))
    content = render.without(content, dropped)
    pages = render.render(content, source / "templates")
    total = sum(render.sizes(manifest(folder), True).values()) + sum(len(page.encode()) for page in pages.values())
    if (said := render.oversized(content, total, shown)) != content:
        pages = render.render(said, source / "templates")
    for name, page in pages.items():
        (folder / name).write_text(page, encoding="utf-8")
job.log(f"{len(content['findings'])} findings; open {Path(snakemake.output.folder, 'index.html')}")
