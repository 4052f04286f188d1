"""What the report says before all else: the study in one line and in brief, who serves what, and what to look at."""

from gatebook.figures.words import available, format_large
from gatebook.report import places, tiles


def kinds(finding: dict) -> list[str]:
    """Of which of `render.KINDS` a finding is."""
    found = {
        "surprising": bool(finding["exceptions"]) or (finding["verdict"] == "yes" and _far_before_training(finding)),
        "trained": finding["training"] in ("more", "less"),
        "null": finding["effect"] == "negligible" or _reaches_null(finding),
    }
    return [name for name, holds in found.items() if holds]


def _reaches_null(finding: dict) -> bool:
    """Whether the interval holds the null, or a part of the null's interval."""
    null, low, high = (finding[name] for name in ("null_value", "low", "high"))
    if not all(map(available, (null, low, high))):
        return False
    start, end = (finding[name] if available(finding[name]) else null for name in ("null_low", "null_high"))
    return low <= end and high >= start


def _far_before_training(finding: dict) -> bool:
    """Whether the untrained model's value is at least as far from the null, on the same side."""
    null, before = finding["null_value"], finding["reference_value"]
    if not (available(null) and available(before)):
        return False
    distance = finding["estimate"] - null
    return distance != 0 and (before - null) / distance >= 1


def briefs(sections: list[dict], model_pages: list[dict]) -> list[dict]:
    """What chapters say in brief: {text, example, href, label}.

    href leads to the experts of the example in the expert browser, if the model has one, or else to its figure.
    """
    found, browsable = [], {page["model"] for page in model_pages if page["kind"] == "browser"}
    for section in (section for section in sections if section["words"]["brief"]):
        brief, of = section["words"]["brief"], section["of"]
        href = f"{section['chapter']}.html#{places.figure(of, section['chapter'], brief['figure'])}"
        model = of.split("/")[0]
        if brief["experts"] and model in browsable:
            href = places.experts(model, brief["layer"], brief["experts"])
        found.append({"text": brief["text"], "example": brief["example"], "href": href, "label": section["label"]})
    return found


def training(findings: list[dict]) -> list[dict]:
    """What training did, in a sentence, if an untrained model is known."""
    known = [finding for finding in findings if finding["training"]]
    if not known:
        return []
    changed = [finding for finding in known if finding["training"] != "unclear"]
    text = f"One training run changed {len(changed)} of the {len(known)} values below that are known before it."
    large = sorted(changed, key=lambda finding: finding["effect"] != "large")
    if not large:
        return [{"text": text, "example": "", "href": "#findings", "label": ""}]
    first = large[0]
    rose = "rose" if first["training"] == "more" else "fell"
    example = f"{(first['measure'] or {'name': first['question']})['name']} {rose}."
    return [{"text": text, "example": example, "href": f"#{first['id']}", "label": first["label"]}]


def pictures(
    config: dict, models: list[dict], datasets: list[dict], sections: list[dict], model_pages: list[dict]
) -> list[dict]:
    """For each model of which a chapter tells which experts serve what: its tiles, and what they mean.

    Parameters
    ----------
    config, models, datasets, sections, model_pages
        As those of `assemble.assemble`.

    Returns
    -------
    list of dict
        What `tiles.picture` returns but `idle`, with `label` of the section, `meaning` in sentences and
        `browser`, the page that tiles lead to.
    """
    found = []
    for section in (section for section in sections if section["words"]["served"] is not None):
        name = section["of"].split("/")[0]
        (model,) = (model for model in models if model["model"] == name)
        settings = config[section["chapter"]]
        small, large = settings["thresholds"]["share_effect"]
        rows = [
            row
            for page in model_pages
            if (page["kind"], page["model"]) == ("experts", name)
            for row in page["content"]["rows"]
        ]
        drawn = tiles.picture(
            layers=model["layers"],
            experts=model["experts"],
            datasets=[dataset["dataset"] for dataset in datasets if dataset["model"] == name],
            served=section["words"]["served"],
            types=tiles.typical(rows, small),
        )
        meaning = (
            f"Full colour: at least {100 * large:g} percentage points more of the dataset's tokens than of the average "
            f"dataset's select the expert; pale: at least {100 * small:g}. The whole interval lies there, and a test "
            f"by permutation of sources holds at a false discovery rate of {settings['false_discovery_rate']:g}. "
        )
        if rows:
            meaning += f"Framed: no dataset, but {100 * small:g} points more of the expert's tokens than of all are of "
            meaning += "this type. "
        meaning += f"Grey: nothing, {drawn.pop('idle')} of {len(model['layers']) * model['experts']} experts."
        found.append(
            drawn | {"label": section["label"], "meaning": meaning, "browser": places.model_page("browser", name)}
        )
    return found


def citation(citation: dict) -> dict:
    """How to cite the software, in a sentence, and its licence."""
    names = [
        author.get("name") or " ".join(author[part] for part in ("given-names", "family-names"))
        for author in citation["authors"]
    ]
    text = f"{', '.join(names)}: {citation['title']}, version {citation['version']}. {citation['abstract']}"
    return {"text": text, "licence": citation["license"]}


def in_one_line(model: dict, without_documents: bool, datasets: list[dict]) -> str:
    """What was measured, on what."""
    mine = [dataset for dataset in datasets if dataset["model"] == model["model"]]
    tokens = format_large(sum(int(dataset["tokens"]) for dataset in mine))
    shape = f"{model['experts']} experts, top {model['top_k']}"
    if without_documents:
        layers = len(model["layers"])
        return f"{model['model']}: {layers} layers × {shape}; published counts of {len(mine)} datasets, {tokens} tokens"
    if "parameters" not in model:
        data = f"routing traces of {len(mine)} datasets, {tokens} tokens"
        return f"{model['model']}, {model['checkpoint']}: {len(model['layers'])} layers × {shape}; {data}"
    return (
        f"{model['model']}, {model['checkpoint']}: {len(model['moe_layers'])} layers × {shape}; "
        f"{format_large(model['parameters'])} parameters, of which a token uses "
        f"{format_large(model['active_parameters'])}; {len(mine)} datasets, {tokens} tokens"
    )
