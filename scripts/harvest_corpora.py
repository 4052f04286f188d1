"""Real text of many domains, from the packages that the study is installed with."""

import json
from pathlib import Path

from gatebook.files import atomic, checksums
from gatebook.inputs.demo import corpora
from gatebook.run import job

job.start(snakemake)
harvested = corpora.harvest(**snakemake.params.corpora, processes=snakemake.threads)
for split in corpora.SPLITS:
    for path in snakemake.output[split]:
        documents = harvested[Path(path).stem][split]
        lines = [json.dumps(document._asdict(), ensure_ascii=False) + "\n" for document in documents]
        with atomic.atomic_file(path) as partial:
            partial.write_text("".join(lines), encoding="utf-8")
        characters = sum(len(document.text) for document in documents)
        size = f"{len(documents)} documents of {len({document.cluster for document in documents})} clusters"
        job.log(f"{path}: {size}, {characters} characters, sha256 {checksums.sha256(path)}")
