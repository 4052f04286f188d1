"""The configuration: checked against its schema, completed with the schema's defaults, and resolved into a study."""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from gatebook.capabilities import CAPABILITIES
from gatebook.files import parts
from gatebook.problem import Problem

VARIANT = ".question_only"
TYPES = {
    "object": "a mapping of keys to values",
    "array": "a list with at least one entry",
    "string": "text (put it in quotes)",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}
BOUNDS = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "of at most", "exclusiveMaximum": "below"}


@dataclass(frozen=True)
class Study:
    """What a study runs: settings of the selected models and datasets by name, in the order of the config.

    A model's `checkpoints` are in training order; `folders` says where the files of each are. `shards` says into how
    many shards each dataset is split. `compared` names the runs to compare, {model, checkpoint}, the first one against
    all others; there are at least two, or none. `extraction` is that section of the config.
    """

    models: dict[str, dict]
    datasets: dict[str, dict]
    shards: dict[str, int]
    compared: list[dict[str, str]]
    extraction: dict

    @property
    def of_counts(self) -> bool:
        """Whether this is a study of published counts; then all of its models and datasets are."""
        return any(model["source"] == "counts" for model in self.models.values())

    def missing(self, model: str) -> dict[str, str]:
        """The capabilities that a model's data lack (see `capabilities`), each with the reason."""
        settings = self.models[model]
        if settings["source"] == "counts":
            return dict.fromkeys(CAPABILITIES, "published counts do not allow it")
        lacks = {"roles": "no dataset says who speaks", "clusters": "no dataset says which documents belong together"}
        if settings["source"] != "demo":
            lacks["training"] = "this study trains only the embedded model"
        if len(settings["checkpoints"]) == 1:
            lacks["checkpoints"] = "the model has one checkpoint"
        if not self.extraction["sample"]["size"]:
            lacks["sample"] = "extraction.sample.size is 0"
        if self.extraction["records"] == "compact":
            lacks["logits"] = "extraction.records is compact"
        return lacks

    def parts(self, dataset: str) -> list[str]:
        """The parts in which a dataset is read by extraction: its shards, or itself."""
        return parts.names(dataset, self.shards[dataset])

    def most_tokens(self, model: str, dataset: str | None = None) -> int:
        """How many tokens a dataset, or all together, have at most for a model; one without a limit counts as 10^6."""
        names = [dataset] if dataset else self.datasets
        limits = [_most_tokens(self.datasets[name], self.models[model]) for name in names]
        return sum(10**6 if limit == math.inf else limit for limit in limits)

    def studied_checkpoint(self, model: str) -> str:
        """The last checkpoint of a model: the one that the report is about."""
        return self.models[model]["checkpoints"][-1]

    def local_paths(self) -> dict[str, str]:
        """Config keys of the files and folders that must be there before the study starts, and their paths."""
        paths = {f"models.{name}.path": m["path"] for name, m in self.models.items() if m["source"] == "local"}
        for catalogue, entries in {"models": self.models, "datasets": self.datasets}.items():
            for name, entry in entries.items():
                for number, path in enumerate(entry.get("files", [])):
                    paths[f"{catalogue}.{name}.files[{number}]"] = path
        return paths


def with_chapters(schema: dict, chapters: Mapping) -> dict:
    """The schema with what the `chapters` (declarations by name) add: their names, and their sections."""
    completed = deepcopy(schema)
    properties = completed["properties"]
    properties["chapters"]["items"] = {"enum": list(chapters)}
    for name, chapter in chapters.items():
        section = chapter.schema()
        if section["properties"]:
            properties[name] = section
    return completed


def check(config: dict, schema: dict) -> dict:
    """A copy of `config` completed with the schema's defaults; a `Problem` names a wrong key, its value, the remedy."""
    completed = deepcopy(config)
    _complete(completed, schema)
    errors = list(Draft202012Validator(schema).iter_errors(completed))
    if errors:  # a mistyped key is also a missing one: the mistyped key comes first
        raise Problem(f"config: {_sentence(min(errors, key=_is_not_unknown_key), completed)}")
    return completed


def resolve(config: dict, chapters: Mapping) -> Study:
    """The study that a checked config selects; a `Problem` for a name that is in no catalogue.

    `chapters`: declarations by name. A chapter whose metrics another one reads must be selected, too.
    """
    for name in config["chapters"]:
        for needed in chapters[name].chapters:
            if needed not in config["chapters"]:
                raise Problem(
                    f"config: chapters: {name} reads the metrics of {needed}, which is not among them: add {needed}, "
                    f"or remove {name}."
                )
    models = {name: _model(name, config) for name in config["study"]["models"]}
    datasets = {name: _dataset(name, config) for name in config["study"]["datasets"]}
    entries = {f"models.{name}": model for name, model in models.items()}
    entries |= {f"datasets.{name}": dataset for name, dataset in datasets.items()}
    counts = {key: entry["source"] == "counts" for key, entry in entries.items()}
    if any(counts.values()) and not all(counts.values()):
        key, other = (next(key for key, of_counts in counts.items() if of_counts is wanted) for wanted in (True, False))
        raise Problem(
            f"config: study: {key} has `source: counts` and {other} `source: {entries[other]['source']}`: select only "
            "models and datasets of counts, or none."
        )
    shards = {
        name: _shards(dataset, models, config["storage"]["tokens_per_shard"]) for name, dataset in datasets.items()
    }
    return Study(models, datasets, shards, _compared(config, models), config["extraction"])


def _model(name: str, config: dict) -> dict:
    model = dict(_choose(config, "models", name))
    if model["source"] == "demo":
        training = config["demo"]["training"]
        if late := [step for step in training["checkpoints"] if step > training["steps"]]:
            raise Problem(
                f"config: demo.training.checkpoints: {late[0]} is after the last step: raise demo.training.steps "
                f"({training['steps']}) or remove it."
            )
        saved = [f"step{step}" for step in training["checkpoints"]]
        if unknown := [checkpoint for checkpoint in model["checkpoints"] if checkpoint not in saved]:
            raise Problem(
                f"config: models.{name}.checkpoints: {unknown[0]!r} is not saved by the training: use one of "
                f"{', '.join(saved)}, or add to demo.training.checkpoints."
            )
        model["folders"] = {name: f"results/demo/checkpoints/{name}" for name in model["checkpoints"]}
        if model["window"] == "context":
            model["window"] = config["demo"]["model"]["context"]
    elif model["source"] == "hub":
        if ("revision" in model) == ("checkpoints" in model):
            raise Problem(
                f"config: models.{name}: write `revision`, for one checkpoint, or `checkpoints`, for several, and not "
                "both."
            )
        model.setdefault("checkpoints", [model.get("revision")])
        model["folders"] = {checkpoint: f"results/models/{name}/{checkpoint}" for checkpoint in model["checkpoints"]}
    elif model["source"] == "counts":
        model["checkpoints"] = [model["revision"]]
        if model["experts_per_token"] > model["experts_per_layer"]:
            raise Problem(
                f"config: models.{name}.experts_per_token: {model['experts_per_token']} is more than experts_per_layer "
                f"({model['experts_per_layer']}): lower it."
            )
        if model["layers"] != "all":
            raise Problem(f"config: models.{name}.layers: published counts are studied whole: remove it.")
    elif "checkpoints" in model:
        model["folders"] = {name: f"{model['path']}/{name}" for name in model["checkpoints"]}
    else:
        model["checkpoints"], model["folders"] = ["local"], {"local": model["path"]}
    if model.get("untrained", model["checkpoints"][0]) not in model["checkpoints"]:
        raise Problem(
            f"config: models.{name}.untrained: {model['untrained']!r} is not among the model's checkpoints: use one of "
            f"{', '.join(model['checkpoints'])}, or add it to them."
        )
    for layers in model["layers"] if isinstance(model["layers"], list) else [model["layers"]]:
        first, _, last = str(layers).partition("-")
        if last and int(first) > int(last):
            raise Problem(f'config: models.{name}.layers: "{layers}" holds no layer: write "{last}-{first}".')
    return model


def _dataset(name: str, config: dict) -> dict:
    base = name.removesuffix(VARIANT)
    dataset = dict(_choose(config, "datasets", base))
    question = dataset.pop("question_only", None)
    if base != name:
        if question is None:
            raise Problem(f"config: study.datasets: {name!r} needs a template: add datasets.{base}.question_only.")
        dataset["template"] = question
    domains = config["demo"]["corpora"]["domains"]
    if dataset["source"] == "demo" and dataset["domain"] not in domains:
        raise Problem(
            f"config: datasets.{base}.domain: {dataset['domain']!r} is not harvested: use one of "
            f"{', '.join(domains)}, or add it to demo.corpora.domains."
        )
    return dataset


def _shards(dataset: dict, models: dict[str, dict], tokens_per_shard: int) -> int:
    """Into how many shards a dataset is split, for all models; takes `shards` out of it: it changes no token."""
    stated = dataset.pop("shards", None)
    most = max(_most_tokens(dataset, model) for model in models.values())
    return stated or (1 if most == math.inf else math.ceil(most / tokens_per_shard))


def _most_tokens(dataset: dict, model: dict) -> float:
    limits = (dataset["limits"].get("tokens"), model["tokens_per_dataset"])
    return min((limit for limit in limits if limit not in (None, "all")), default=math.inf)


def _compared(config: dict, models: dict[str, dict]) -> list[dict[str, str]]:
    runs = [dict(zip(("model", "checkpoint"), run.split("/"), strict=True)) for run in config["compare"]]
    if all(run["model"] in config["models"].keys() - models.keys() for run in runs):
        return []
    for run in runs:
        name, checkpoint = run["model"], run["checkpoint"]
        if name not in models:
            raise Problem(
                f"config: compare: {name}/{checkpoint}: the study has no model {name!r}: use one of "
                f"{', '.join(models)}, or add it to study.models."
            )
        if checkpoint not in models[name]["checkpoints"]:
            raise Problem(
                f"config: compare: {name}/{checkpoint}: {checkpoint!r} is not among the model's checkpoints: use one "
                f"of {', '.join(models[name]['checkpoints'])}, or add it to models.{name}.checkpoints."
            )
        if models[name]["source"] == "counts":
            raise Problem(
                f"config: compare: {name}/{checkpoint}: published counts have no documents from which a comparison "
                "could be made: remove it."
            )
    if len(runs) == 1:
        raise Problem(f"config: compare: {config['compare'][0]} is a single run: add another one, or write [].")
    return runs


def _choose(config: dict, catalogue: str, name: str) -> dict:
    if name not in config[catalogue]:
        known = ", ".join(config[catalogue])
        raise Problem(
            f"config: study.{catalogue}: {name!r} is not in the catalogue `{catalogue}`: use one of {known}, or add it."
        )
    return config[catalogue][name]


def _complete(value, schema: dict) -> None:
    """Fill the defaults of `properties` into dicts, level by level; the validator judges what has a wrong type."""
    if not isinstance(value, dict):
        return
    properties = schema.get("properties", {})
    for key, part in properties.items():
        if "default" in part:
            value.setdefault(key, deepcopy(part["default"]))
    for key, item in value.items():
        part = properties.get(key, schema.get("additionalProperties"))
        if isinstance(part, dict):
            _complete(item, part)


def _is_not_unknown_key(error: ValidationError) -> bool:
    return error.validator != "additionalProperties"


def _sentence(error: ValidationError, config: dict) -> str:
    """What is wrong, with the key, its value and the remedy."""
    key = ".".join(map(str, error.absolute_path))
    inside, value = f"{key}: " if key else "", error.instance
    match error.validator:
        case "additionalProperties":
            known = list(error.schema["properties"])
            unknown = next(name for name in value if name not in known)
            close = get_close_matches(str(unknown), known, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(known)}."
            return f"{inside}the key {unknown!r} is unknown: {remedy}"
        case "required":
            missing = next(name for name in error.validator_value if name not in value)
            return f"{inside}the key {missing!r} is missing: add it."
        case "enum":
            return f"{inside}{value!r} is not known: use one of {', '.join(error.validator_value)}."
        case "uniqueItems":
            return f"{inside}{value!r} holds an entry twice: remove one."
        case "not":  # in the schema: a key that only entries of another source have
            entry = config
            for part in error.absolute_path:
                entry = entry[part]
            return f"{inside}the key {value!r} does not go with `source: {entry['source']}`: remove it."
    return f"{inside}{value!r} is not allowed: write {_wanted(error.schema)}."


def _wanted(schema: dict) -> str:
    """What a schema asks for in words: its description, or its type and bounds."""
    if "description" in schema and schema.get("type") != "object":  # an object's describes the section
        return schema["description"]
    bounds = [f"{word} {schema[rule]}" for rule, word in BOUNDS.items() if rule in schema]
    return " ".join([TYPES[schema["type"]], " and ".join(bounds)]).strip()
