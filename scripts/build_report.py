"""The HTML report with every figure and table of the study."""

import json
from pathlib import Path

import moeatlas
from moeatlas import job, reference, report, site, storage

job.start(snakemake)
source = Path(moeatlas.__file__).parents[2] / "report"
copies = {"figures": snakemake.input.figures, "tables": snakemake.input.tables, "data": snakemake.input.metrics}
sections = []
for path, metrics in zip(snakemake.input.figures, snakemake.input.metrics, strict=True):
    model, checkpoint, chapter = Path(path).parts[-3:]
    words = json.loads(Path(path, "chapter.json").read_text(encoding="utf-8"))
    with storage.open_lazily(metrics) as found:
        beside = [reference.compare(found, chapter, each) for each in snakemake.params.references]
    section = {"model": model, "checkpoint": checkpoint, "chapter": chapter, "words": words}
    sections.append(section | {"published": [each for each in beside if each is not None]})
with storage.atomic_directory(snakemake.output.folder) as folder:
    for kind, paths in copies.items():
        for path in map(Path, paths):
            storage.copy(path, folder.joinpath(kind, *path.parts[-3:]))
    content = site.assemble(
        config=snakemake.params.config,
        commit=snakemake.params.commit,
        software=job.software(),
        models=[json.loads(Path(path).read_text()) for path in snakemake.input.models],
        datasets=[storage.describe_tokens(path) for path in snakemake.input.tokens],
        sections=sections,
        outputs=storage.manifest(folder),
        licences=job.licences(site.packages(snakemake.params.config)),
    )
    storage.copy(source / "assets", folder / "assets")
    for name, page in report.render(content, source / "templates").items():
        (folder / name).write_text(page, encoding="utf-8")
job.log(f"{len(content['findings'])} findings; open {Path(snakemake.output.folder, 'index.html')}")
