"""How large the report will be, from the sizes of its models, or a sentence that says which limits it would exceed."""

import json
from pathlib import Path

from gatebook.files import atomic
from gatebook.report import estimate
from gatebook.run import job

job.start(snakemake)
models = []
for path in map(Path, snakemake.input.models):
    model = json.loads(path.read_text(encoding="utf-8"))
    sizes = {"layers": len(model["layers"]), "datasets": snakemake.params.datasets}
    models.append({key: model[key] for key in ("model", "experts", "top_k")} | sizes)
    models[-1]["tokens"] = snakemake.params.tokens[model["model"]]
found = estimate.sizes(models, snakemake.params.chapters, snakemake.params.browser)
estimate.check(found, snakemake.params.limits)
with atomic.atomic_file(snakemake.output.sizes) as path:
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
job.log(", ".join(f"{key} about {sum(sizes.values()) / 1e6:.1f} MB" for key, sizes in found.items()))
