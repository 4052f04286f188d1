"""The site: what the pages of the report say, put together from the chapters, the config and the checksums."""

import hashlib
import json
import platform

import yaml

from moeatlas import job
from moeatlas.demo import sources
from moeatlas.pages import (
    coactivation,
    domain_specialization,
    held_out_loss,
    maps,
    router_decisiveness,
    selection_frequency,
    similarity,
    token_overlap,
    vocabulary_specialization,
)

PAGES = {
    "held_out_loss": held_out_loss,
    "router_decisiveness": router_decisiveness,
    "selection_frequency": selection_frequency,
    "domain_specialization": domain_specialization,
    "vocabulary_specialization": vocabulary_specialization,
    "token_overlap": token_overlap,
    "coactivation": coactivation,
    "similarity": similarity,
    "maps": maps,
}
CAUTIONS = {
    "Expert numbers mean nothing across layers": "Expert 3 of one layer has nothing to do with expert 3 of the next, "
    "nor with expert 3 of another training run. Compare distributions, never numbers.",
    "What the intervals cover": "Intervals say how results would vary with other documents from the same sources. "
    "They do not cover another training run, another tokenizer or other kinds of text.",
    "Routing is not importance": "An expert with much probability is used, not necessarily needed. Only an "
    "intervention, which removes or boosts it, can show what it contributes.",
    "Pooled means weighted by tokens": "Pooled values treat all tokens alike, so a dataset with more tokens counts "
    "more; domain specialization alone gives every dataset the same weight. The tables give every dataset by itself.",
}


def assemble(
    *,
    config: dict,
    commit: str,
    software: dict[str, str],
    models: list[dict],
    datasets: list[dict],
    sections: list[dict],
    outputs: list[dict],
    licences: dict[str, str],
) -> dict:
    """The dictionary that `report.render` turns into pages.

    models: descriptions of the studied checkpoints; datasets: attributes of their token files with `documents`,
    `tokens`; sections: {model, checkpoint, chapter, words, published}, where words is the content of a `chapter.json`
    and published a list of what `reference.compare` returns; outputs: {path, sha256, bytes} of every file that the
    report shows or was computed from.
    """
    names = list(dict.fromkeys(section["chapter"] for section in sections))
    chapters = [_chapter(number, name, sections) for number, name in enumerate(names, start=1)]
    digest = hashlib.sha256(json.dumps([commit, config, outputs], sort_keys=True).encode()).hexdigest()
    return {
        "title": config["study"]["title"],
        "description": config["report"]["description"],
        "build": digest[:12],
        "identity": _identity(config, commit, models, datasets),
        "findings": [finding for chapter in chapters for part in chapter["sections"] for finding in part["findings"]],
        "cautions": [{"title": title, "text": text} for title, text in CAUTIONS.items()],
        "chapters": chapters,
        "methods": {
            "metrics": [metric for name in names for metric in _metrics(name)],
            "statistics": _statistics(config),
            "configuration": yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
            "software": [{"name": name, "version": version} for name, version in software.items()],
            "inputs": _inputs(models, datasets),
            "outputs": outputs,
            "jobs": [],
            "rebuild": ["make study", "snakemake --cores all"],
            "licences": [{"name": name, "licence": licence} for name, licence in licences.items()],
        },
    }


def packages(config: dict) -> list[str]:
    """The packages whose licences the report states: those it computes with, and those the demo's text comes from."""
    demo = any(config["models"][name]["source"] == "demo" for name in config["study"]["models"])
    names = {name for name in job.SOFTWARE if name != "python"} | set(sources.PACKAGES if demo else [])
    return sorted(names, key=str.lower)


def _chapter(number: int, name: str, sections: list[dict]) -> dict:
    page = PAGES[name]
    parts, count = [], 0
    for section in (section for section in sections if section["chapter"] == name):
        where = f"{section['model']}/{section['checkpoint']}"
        figures = []
        for words in section["words"]["figures"]:
            count += 1
            figures.append(_figure(f"{number}.{count}", name, where, words))
        ids = {figure["name"]: figure["id"] for figure in figures}
        place = {"chapter": name, "model": section["model"], "checkpoint": section["checkpoint"]}
        findings = [finding | place | {"figure": ids[finding["figure"]]} for finding in section["words"]["findings"]]
        tables = [
            {"title": "All values with intervals", "href": f"tables/{where}/{name}.csv"},
            {"title": "All values and distributions", "href": f"data/{where}/{name}.nc"},
        ]
        parts.append(
            place | {"findings": findings, "figures": figures, "tables": tables, "published": section["published"]}
        )
    return {
        "name": name,
        "title": page.TITLE,
        "question": page.QUESTION,
        "introduction": page.INTRODUCTION,
        "sections": parts,
    }


def _figure(number: str, chapter: str, where: str, words: dict) -> dict:
    path = f"figures/{where}/{chapter}/{words['name']}"
    identifier = f"figure-{where}-{chapter}-{words['name']}".replace("/", "-").replace(".", "-")
    return words | {
        "id": identifier,
        "number": number,
        "svg": f"{path}.svg",
        "pdf": f"{path}.pdf",
        "csv": f"{path}.csv",
        "netcdf": f"data/{where}/{chapter}.nc",
        "rule": f"plot_{chapter}",
        "command": f"snakemake --cores all --forcerun plot_{chapter} -- results/figures/{where}/{chapter}",
    }


def _metrics(name: str) -> list[dict]:
    page = PAGES[name]
    source, url = page.SOURCE
    return [
        {
            "name": title,
            "formula": formula,
            "definition": page.MEANINGS[measure],
            "unit": "none" if unit == "1" else unit,
            "source": source,
            "source_url": url,
            "chapter": name,
        }
        for measure, (title, unit, formula) in page.MEASURES.items()
    ]


def _identity(config: dict, commit: str, models: list[dict], datasets: list[dict]) -> list[dict]:
    rows = []
    for model in models:
        mine = [dataset for dataset in datasets if dataset["model"] == model["model"]]
        documents, tokens = (sum(dataset[part] for dataset in mine) for part in ("documents", "tokens"))
        rows += [
            ("Model", f"{model['model']} ({model['model_id']}), checkpoint {model['checkpoint']}"),
            ("Revision", model["model_revision"]),
            ("Weights", f"sha256 {model['weights_sha256'][:16]}… (whole under Methods)"),
            (
                "Architecture",
                f"{model['family']}: {len(model['moe_layers'])} layers x {model['experts']} experts, "
                f"top {model['top_k']}; {model['parameters']:,} parameters without the output head",
            ),
            ("Layers studied", ", ".join(map(str, model["layers"]))),
            ("Data", f"{len(mine)} datasets, {documents:,} documents, {tokens:,} tokens"),
        ]
    statistics = config["statistics"]
    rows += [
        ("Intervals", f"{100 * statistics['confidence']:g} %, bootstrap over documents, {statistics['resamples']:,} "
         f"resamples, seed {statistics['seed']}"),
        ("Code", commit),
        ("Computed on", f"{platform.system()} {platform.machine()}"),
    ]  # fmt: skip
    return [{"label": label, "value": value} for label, value in rows]


def _inputs(models: list[dict], datasets: list[dict]) -> list[dict]:
    rows = [
        {
            "name": f"{model['model']}, {model['checkpoint']}",
            "kind": "model",
            "identity": f"{model['model_id']}, revision {model['model_revision']}",
            "sha256": model["weights_sha256"],
            "bytes": model["weights_bytes"],
        }
        for model in models
    ]
    return rows + [
        {
            "name": f"{dataset['dataset']} for {dataset['model']}",
            "kind": "dataset",
            "identity": f"{dataset['dataset_id']}, revision {dataset['dataset_revision']}; {dataset['documents']:,} "
            f"documents, {dataset['tokens']:,} tokens, {dataset['documents_left_out']} documents left out",
            "sha256": dataset["dataset_sha256"],
            "bytes": int(dataset["dataset_bytes"]),
        }
        for dataset in datasets
    ]


def _statistics(config: dict) -> list[str]:
    settings = config["statistics"]
    confidence = f"{100 * settings['confidence']:g} %"
    return [
        f"Tokens of one document depend on each other, so intervals come from a bootstrap over documents, not over "
        f"tokens: {settings['resamples']:,} resamples, within each dataset, with seed {settings['seed']}. Pooled "
        "values add the resamples of all datasets.",
        f"Intervals are {confidence} percentile intervals moved by twice the bootstrap's bias. For a mean the bias is "
        "nothing. Sampling noise can only raise a measure of inequality, such as the coefficient of variation of the "
        "load, and near even loads the plain percentile interval would hardly ever cover the truth. The bias of those "
        "measures is taken on their squares, to which noise adds. An estimate is never corrected: near even loads it "
        "can lie above its interval. With fewer than about 60 documents intervals are somewhat too narrow.",
        "Co-activation, vocabulary specialization, token overlap, similarity and maps leave out one of 20 groups of "
        "documents at a time instead (delete-a-group jackknife): their counts are too large to be kept for every "
        "document, or resampling would bias them.",
        "The null of router decisiveness is a router whose logits are all equal. The null of the load is uniform "
        "routing: every token picks k of E experts at random, at the same number of tokens. The null of domain "
        "specialization deals whole documents out to the datasets at random. The null of co-activation draws for every "
        "token k different experts such that each expert is selected as often as observed and chance decides the rest. "
        "The nulls of similarity are Gaussian experts of the same shapes and scales on the same tokens, and the same "
        "outputs with the tokens of one expert permuted. Its measures of weights and routers have no sample of text: "
        "their intervals are a jackknife over experts. The null of vocabulary specialization and token overlap chooses "
        "experts as often as observed, whatever the token. The null of the maps' numbers is the share among random "
        "tokens of other documents.",
        "Thresholds of the verdicts stand in the configuration below; they were fixed before the run. A verdict is yes "
        "or no when the whole interval lies on one side, otherwise unclear.",
        "Sequences are padded on the right without an attention mask, and rows of padding are dropped; a causal model "
        "gives the same as for one document at a time. Documents longer than the window are cut into even windows. "
        "Special tokens are kept as the tokenizer adds them.",
    ]
