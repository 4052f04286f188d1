"""The site: what the pages of the report say, put together from the chapters, the config and the checksums."""

import hashlib
import json
from collections.abc import Iterable

import xarray as xr
import yaml

from gatebook import chapters
from gatebook.atlas import browser_page, profiles_page
from gatebook.chapters.base.contract import Measure
from gatebook.figures import explored as explored_files
from gatebook.inputs.demo import harvested
from gatebook.report import first_screen, places, published
from gatebook.run import job

MODEL_PAGES = {"experts": profiles_page, "browser": browser_page}
EMBEDDED = (
    "A small OLMoE, trained by this workflow on text found on any machine, and what its routers do with text that it "
    "has not seen."
)
FEW, INTERVALS = "Some datasets rest on few sources", "What the intervals cover"
CAUTIONS = {
    "Expert numbers mean nothing across layers": "Expert 3 of one layer has nothing to do with expert 3 of the next, "
    "nor with expert 3 of another training run. Compare distributions, never numbers.",
    INTERVALS: "Intervals say how results would vary with other text of the same kinds. "
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
    left_out: dict[str, dict[str, str]],
    missing: dict[str, dict[str, str]],
    graph: list[dict],
    software: dict[str, str],
    models: list[dict],
    datasets: list[dict],
    sections: list[dict],
    references: list[dict],
    model_pages: list[dict],
    outputs: list[dict],
    licences: dict[str, str],
    citation: dict,
) -> dict:
    """The dictionary that `report.render` turns into pages.

    Parameters
    ----------
    config
        Of the study.
    commit
        Of the code.
    left_out
        For each model the chapters that it lacks and why.
    missing
        For each model the capabilities that it lacks and why.
    graph
        A list of {rule, makes, reads}: what a rule makes, and the rules whose outputs it reads.
    software
        Versions by name.
    models
        Descriptions of the studied checkpoints.
    datasets
        Attributes of their token files with `documents` and `tokens`.
    sections
        {chapter, of, label, words, published, absent}, where `of` is the folder of its files below figures/, tables/
        and data/, label says what it is about, words is the content of a `chapter.json`, published a list of what
        `published.compare` returns and absent what `absent` does.
    references
        Contents of the files in config/reference/.
    model_pages
        {kind, model, checkpoint, content}, where kind is a key of `MODEL_PAGES` and content what its `page.json` holds.
    outputs
        {path, sha256, bytes} of every file that the report shows or was computed from.
    licences
        By name.
    citation
        Content of CITATION.cff.

    Returns
    -------
    dict
        Of what JSON can hold.
    """
    names = list(dict.fromkeys(section["chapter"] for section in sections))
    browsers = _browsers(model_pages)
    pages = [_chapter(number, name, sections, browsers) for number, name in enumerate(names, start=1)]
    without_documents = all("selections" in lacking for lacking in missing.values())
    findings = [
        finding
        for page in pages
        if chapters.declared(page["name"]).first_screen
        for part in page["sections"]
        for finding in part["findings"]
    ]
    digest = hashlib.sha256(json.dumps([commit, config, outputs], sort_keys=True).encode()).hexdigest()
    return {
        "title": config["study"]["title"],
        "description": config["report"].get("description") or _description(config),
        "build": digest[:12],
        "in_one_line": [first_screen.in_one_line(model, without_documents, datasets) for model in models],
        "identity": _identity(config, commit, left_out, names, without_documents, models, datasets),
        "brief": [*first_screen.briefs(sections, model_pages), *first_screen.training(findings)],
        "pictures": first_screen.pictures(config, models, datasets, sections, model_pages),
        "findings": findings,
        "citation": first_screen.citation(citation),
        "cautions": [
            {"title": title, "text": text} for title, text in _cautions(config, datasets, without_documents).items()
        ],
        "chapters": pages,
        "model_pages": [_model_page(each, len(models), model_pages) for each in model_pages],
        "methods": {
            "metrics": [metric for name in names for metric in _metrics(name, sections)] + _model_metrics(model_pages),
            "unmeasured": [
                found
                for each in references
                if each["model_id"] in [model["model_id"] for model in models]
                and (found := published.unmeasured(each, names))["rows"]
            ],
            "statistics": _statistics(config, names, without_documents),
            "configuration": yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
            "software": [{"name": name, "version": version} for name, version in software.items()],
            "inputs": _inputs(without_documents, models, datasets),
            "rules": graph,
            "outputs": outputs,
            "rebuild": ["make study", "snakemake --cores all"],
            "licences": [{"name": name, "licence": licence} for name, licence in licences.items()],
        },
    }


def _description(config: dict) -> str:
    """What a study is about, if its config does not say."""
    names = config["study"]["models"]
    if [config["models"][name]["source"] for name in names] == ["demo"]:
        return EMBEDDED
    count = len(config["study"]["datasets"])
    return f"How the routers of {_and(names)} treat {count} dataset{'s' if count > 1 else ''}."


def absent(chapter: str, metrics: xr.Dataset) -> list[str]:
    """Titles of the measures of a chapter that its metrics do not have."""
    return [measure.title for name, measure in chapters.declared(chapter).measures.items() if name not in metrics]


def packages(config: dict) -> list[str]:
    """The packages whose licences the report states: those it computes with, and those the demo's text comes from."""
    demo = any(config["models"][name]["source"] == "demo" for name in config["study"]["models"])
    names = [*(harvested.PACKAGES if demo else []), *(name for name in job.SOFTWARE if name != "python")]
    return [name for _, name in sorted({name.lower(): name for name in names}.items())]


def _cautions(config: dict, datasets: list[dict], without_documents: bool) -> dict[str, str]:
    settings = config["statistics"]
    few = {
        f"{dataset['dataset']} ({dataset['clusters']})": dataset["clusters"]
        for dataset in datasets
        if not without_documents and dataset["clusters"] < settings["few_clusters"]
    }
    if few:
        none = [name for name, clusters in few.items() if clusters < settings["fewest_clusters"]]
        text = f"Datasets with fewer than {settings['few_clusters']} independent sources: {', '.join(few)}. Their "
        text += "intervals may be too narrow, and so may those of all datasets together."
        if none:
            text += f" With fewer than {settings['fewest_clusters']} there is no interval: {', '.join(none)}."
        return {FEW: text} | CAUTIONS
    if not without_documents:
        return CAUTIONS
    return CAUTIONS | {
        INTERVALS: "Published counts do not say which document a token is from. Intervals say how results would vary "
        "if tokens were drawn one by one and the design effect were the one assumed; other text may well vary more."
    }


def _browsers(model_pages: list[dict]) -> dict[str, str]:
    """The pages of the expert browser by model/checkpoint, and by model.

    Chapters about all checkpoints of a model name the experts of the one that the browser shows; those about several
    runs lead nowhere, because the same number means nothing in another run.
    """
    return {
        of: places.model_page("browser", page["model"])
        for page in model_pages
        if page["kind"] == "browser"
        for of in (page["model"], f"{page['model']}/{page['checkpoint']}")
    }


def _chapter(number: int, name: str, sections: list[dict], browsers: dict[str, str]) -> dict:
    """A chapter with its sections; `browsers` are the pages of the expert browser: see `_browsers`."""
    chapter = chapters.declared(name)
    parts, count = [], 0
    for section in (section for section in sections if section["chapter"] == name):
        of, figures = section["of"], []
        browser = browsers.get(of, "")
        for words in section["words"]["figures"]:
            count += 1
            figures.append(_figure(f"{number}.{count}", name, of, words) | {"browser": browser})
            if words["explores"] and section["words"]["explored"] is not None:
                explored = {"first": words["explores"], "build": section["words"]["explored"]}
                folder = f"figures/{of}/{name}/{explored_files.FOLDER}"
                figures[-1]["explored"] = explored | {"folder": folder, "browser": browser}
        ids = {figure["name"]: figure["id"] for figure in figures}
        place = {"chapter": name, "label": section["label"]}
        findings, measures = [], chapter.measures
        for finding in section["words"]["findings"]:
            measure = measures.get(finding["measure"])
            about = None if measure is None else _about(name, measure)
            added = {"id": places.finding(of, name, finding["question"]), "kinds": first_screen.kinds(finding)}
            findings.append(
                finding | place | {"browser": browser} | added | {"figure": ids[finding["figure"]], "measure": about}
            )
        tables = [
            {"title": "All values with intervals", "href": f"tables/{of}/{name}.csv"},
            {"title": "All values and distributions", "href": f"data/{of}/{name}.nc"},
        ]
        words = {key: section[key] for key in ("published", "absent")}
        parts.append(place | {"findings": findings, "figures": figures, "tables": tables} | words)
    return {
        "name": name,
        "title": chapter.title,
        "question": chapter.question,
        "introduction": chapter.introduction,
        "sections": parts,
    }


def _about(chapter: str, measure: Measure) -> dict:
    """The name, anchor and meaning of a measure, as Methods has them."""
    return {"name": measure.title, "id": places.metric(chapter, measure.title), "meaning": measure.meaning}


def _model_page(page: dict, models: int, model_pages: list[dict]) -> dict:
    kind, model, checkpoint = page["kind"], page["model"], page["checkpoint"]
    title = MODEL_PAGES[kind].TITLE
    place = {"model": model, "checkpoint": checkpoint, "folder": f"{kind}/{model}/{checkpoint}"}
    if kind == "browser":  # it shows what the profiles hold, if there are any
        builds = [
            each["content"]["build"] for each in model_pages if (each["kind"], each["model"]) == ("experts", model)
        ]
        place["found"] = [{"folder": f"experts/{model}/{checkpoint}", "build": build} for build in builds]
    return {
        "file": places.model_page(kind, model),
        "title": title if models == 1 else f"{title}: {model}",
        "template": f"{kind}.html.j2",
        "variables": {kind: page["content"] | place},
    }


def _figure(number: str, chapter: str, of: str, words: dict) -> dict:
    path = f"figures/{of}/{chapter}/{words['name']}"
    return words | {
        "explored": None,
        "id": places.figure(of, chapter, words["name"]),
        "number": number,
        "svg": f"{path}.svg",
        "pdf": f"{path}.pdf",
        "csv": f"{path}.csv",
        "netcdf": f"data/{of}/{chapter}.nc",
        "rule": "plot_chapter",
        "command": f"snakemake --cores all --force -- results/figures/{of}/{chapter}",
    }


def _metrics(name: str, sections: list[dict]) -> list[dict]:
    absent = set.intersection(*(set(section["absent"]) for section in sections if section["chapter"] == name))
    chapter = chapters.declared(name)
    described = _described(name, chapter.measures.values(), chapter.title, chapter.source, f"{name}.html")
    return [metric for metric in described if metric["name"] not in absent]


def _model_metrics(pages: list[dict]) -> list[dict]:
    """Those of each kind of page about one model, with a link to the page about the first model."""
    first = {page["kind"]: page["model"] for page in reversed(pages)}
    return [
        metric
        for kind, page in MODEL_PAGES.items()
        if kind in first
        for metric in _described(kind, page.MEASURES, page.TITLE, page.SOURCE, places.model_page(kind, first[kind]))
    ]


def _described(
    name: str, measures: Iterable[Measure], page: str, source: tuple[str, str | None], href: str
) -> list[dict]:
    text, url = source
    return [
        {
            "name": measure.title,
            "id": places.metric(name, measure.title),
            "formula": measure.formula,
            "definition": measure.meaning,
            "unit": "none" if measure.units == "1" else measure.units,
            "source": text,
            "source_url": url,
            "page": page,
            "href": href,
        }
        for measure in measures
    ]


def _identity(
    config: dict,
    commit: str,
    left_out: dict[str, dict[str, str]],
    names: list[str],
    without_documents: bool,
    models: list[dict],
    datasets: list[dict],
) -> list[dict]:
    rows = []
    for model in models:
        mine = [dataset for dataset in datasets if dataset["model"] == model["model"]]
        tokens = sum(int(dataset["tokens"]) for dataset in mine)
        titles = {}
        for chapter, reason in left_out[model["model"]].items():
            titles.setdefault(reason, []).append(chapters.declared(chapter).title)
        reasons = [f"{', '.join(names)}: {reason}" for reason, names in titles.items()]
        if without_documents:
            rows += [
                ("Model", f"{model['model']} ({model['model_id']})"),
                ("Revision", model["model_revision"]),
                ("Architecture", f"{model['experts']} experts per layer, top {model['top_k']}"),
                ("Layers studied", ", ".join(map(str, model["layers"]))),
                ("Data", f"published counts of {len(mine)} datasets, {tokens:,} tokens"),
                ("Left out", "; ".join(reasons)),
            ]
            continue
        documents, clusters, dropped = (
            sum(int(dataset[part]) for dataset in mine) for part in ("documents", "clusters", "documents_left_out")
        )
        data = f"{len(mine)} datasets, {documents:,} documents of {clusters:,} clusters, {tokens:,} tokens"
        if "weights_sha256" not in model:
            rows += [
                ("Model", f"{model['model']} ({model['model_id']}), checkpoint {model['checkpoint']}"),
                ("Revision", model["model_revision"]),
                ("Architecture", f"{model['family']}: {model['experts']} experts per layer, top {model['top_k']}"),
                ("Layers studied", ", ".join(map(str, model["layers"]))),
                ("Data", f"routing traces of {data}"),
                ("Left out", "; ".join([*reasons, f"{dropped:,} documents of the datasets", *_dropped(mine)])),
            ]
            continue
        rows += [
            ("Model", f"{model['model']} ({model['model_id']}), checkpoint {model['checkpoint']}"),
            ("Revision", model["model_revision"]),
            ("Weights", f"sha256 {model['weights_sha256'][:16]}… (whole under Methods)"),
            (
                "Architecture",
                f"{model['family']}: {len(model['moe_layers'])} layers x {model['experts']} experts, "
                f"top {model['top_k']}; {model['parameters']:,} parameters without the output head, "
                f"of which a token uses {model['active_parameters']:,}",
            ),
            ("Layers studied", ", ".join(map(str, model["layers"]))),
            ("Data", data),
            ("Left out", "; ".join([*reasons, f"{dropped:,} documents of the datasets"])),
        ]
    rows += [("Intervals", _intervals(config, names, without_documents)), ("Code", commit)]
    return [{"label": label, "value": value} for label, value in rows]


def _dropped(datasets: list[dict]) -> list[str]:
    """Tokens of traces that were left out, by dataset and reason, and selections that had to be sorted."""
    found = []
    for dataset in datasets:
        reasons = json.loads(dataset.get("dropped", "{}"))
        found += [f"{number:,} tokens of {dataset['dataset']}: {reason}" for reason, number in reasons.items()]
        if dataset.get("sorted_selections"):
            found.append(
                f"{dataset['sorted_selections']:,} selections of {dataset['dataset']} were sorted by their scores"
            )
    return found


def _intervals(config: dict, names: list[str], without_documents: bool) -> str:
    """Which methods made the intervals, and of which chapters."""
    settings = config["statistics"]
    share, drawn = f"{100 * settings['confidence']:g} %", f"{settings['resamples']:,} draws, seed {settings['seed']}"
    if without_documents:
        return f"{share}: tokens drawn independently, with a design effect, {drawn}"
    titles = {}
    for chapter in map(chapters.declared, names):
        method = (
            f"bootstrap over clusters, {drawn}"
            if chapter.interval == "bootstrap"
            else "jackknife over groups of clusters"
        )
        titles.setdefault(method + (f", {chapter.also}" if chapter.also else ""), []).append(chapter.title)
    return f"{share}: {'; '.join(f'{method} ({_listed(found)})' for method, found in titles.items())}"


def _inputs(without_documents: bool, models: list[dict], datasets: list[dict]) -> list[dict]:
    if without_documents:
        return [
            {
                "name": f"{dataset['dataset']} for {dataset['model']}",
                "kind": "counts",
                "identity": f"{dataset['dataset_id']}, {dataset['tokens']:,} tokens",
                "sha256": dataset["dataset_sha256"],
                "bytes": int(dataset["dataset_bytes"]),
            }
            for dataset in datasets
        ]
    rows = [
        {
            "name": f"{model['model']}, {model['checkpoint']}",
            "kind": "model",
            "identity": f"{model['model_id']}, revision {model['model_revision']}",
            "sha256": model["weights_sha256"],
            "bytes": model["weights_bytes"],
        }
        for model in models
        if "weights_sha256" in model
    ]
    return rows + [
        {
            "name": f"{dataset['dataset']} for {dataset['model']}",
            "kind": "dataset",
            "identity": f"{dataset['dataset_id']}, revision {dataset['dataset_revision']}; {dataset['documents']:,} "
            f"documents of {dataset['clusters']:,} clusters, {dataset['tokens']:,} tokens, "
            + "; ".join([f"{dataset['documents_left_out']} documents left out", *_dropped([dataset])]),
            "sha256": dataset["dataset_sha256"],
            "bytes": int(dataset["dataset_bytes"]),
        }
        for dataset in datasets
    ]


def _statistics(config: dict, names: list[str], without_documents: bool) -> list[str]:
    declared = [chapters.declared(name) for name in names]
    nulls = " ".join(chapter.null for chapter in declared if chapter.null)
    verdicts = (
        "Thresholds of the verdicts stand in the configuration below; they were fixed before the run. A verdict is yes "
        "or no when the whole interval lies on one side of the threshold, or of the null and the null's own interval "
        "where it has one, otherwise unclear. Beside it stands the class of the effect, negligible, small or large: "
        "that of the estimate's distance from the null, by the borders in the configuration; if it is not the same all "
        "over the interval, the classes at both ends are named. Where single layers or datasets lie on the other side, "
        "each by its interval, the finding says so. What training did is judged by the difference from the untrained "
        "model, paired over the same text, and rests on as many training runs as the finding says."
    )
    settings = config["statistics"]
    confidence = f"{100 * settings['confidence']:g} %"
    if without_documents:
        return [
            "Published counts do not say which document a token is from. Intervals are those of tokens drawn "
            f"independently, each with its selections, {settings['resamples']:,} times with seed {settings['seed']}. "
            "Tokens of a text are alike, so that would be too narrow: the variance is multiplied by a design effect, "
            "which the captions state. It is an assumption: 1 + (m − 1) ρ for documents of m tokens with an intra-"
            "class correlation ρ (Kish 1965). The null of the load is uniform routing: every token picks k of E "
            "experts at random, at the same number of tokens. The null of domains is that all have the same shares.",
            verdicts,
        ]
    jackknifed = [chapter.title for chapter in declared if chapter.interval == "jackknife"]
    jackknife = (
        f"{_listed(jackknifed)} {'leave' if len(jackknifed) > 1 else 'leaves'} out one of at most 20 groups of whole "
        "clusters at a time instead (delete-a-group jackknife): their counts are too large to be kept for every "
        "cluster, or resampling would bias them."
    )
    return [
        "Documents from one source, such as a file, are alike, so intervals come from a bootstrap over clusters, which "
        f"are the sources that the datasets name or else their documents: {settings['resamples']:,} resamples, within "
        f"each dataset, with seed {settings['seed']}. Pooled values add the resamples of all datasets. A dataset with "
        f"fewer than {settings['fewest_clusters']} clusters has no interval; with fewer than "
        f"{settings['few_clusters']} intervals may be too narrow.",
        f"Intervals are {confidence} percentile intervals. Sampling noise can only raise a measure of inequality or of "
        "information: estimates of such measures are corrected by the bootstrap's bias, their intervals by twice that, "
        "those of measures of spread on their squares, to which noise adds.",
        *([jackknife] if jackknifed else []),
        nulls,
        verdicts,
        "Sequences are padded on the right without an attention mask, and rows of padding are dropped; a causal model "
        "gives the same as for one document at a time. Documents longer than the window are cut into even windows. "
        "Special tokens are kept as the tokenizer adds them.",
    ]


def _listed(titles: list[str]) -> str:
    """Titles in a sentence: Co-activation, similarity and maps."""
    return _and([titles[0], *(title[0].lower() + title[1:] for title in titles[1:])] if titles else [])


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
