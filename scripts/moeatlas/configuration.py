"""The configuration: checked against its schema, completed with the schema's defaults, and resolved into a study."""

from copy import deepcopy
from dataclasses import dataclass

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from moeatlas.job import Problem

VARIANT = ".question_only"


@dataclass(frozen=True)
class Study:
    """What a study runs: settings of the selected models and datasets by name, in the order of the config.

    A model's `checkpoints` are in training order; `folders` says where the files of each are.
    """

    models: dict[str, dict]
    datasets: dict[str, dict]

    def studied_checkpoint(self, model: str) -> str:
        """The last checkpoint of a model: the one that the report is about."""
        return self.models[model]["checkpoints"][-1]

    def local_paths(self) -> dict[str, str]:
        """Config keys of the files and folders that must be there before the study starts, and their paths."""
        paths = {f"models.{name}.path": m["path"] for name, m in self.models.items() if m["source"] == "local"}
        for name, dataset in self.datasets.items():
            for number, path in enumerate(dataset.get("files", [])):
                paths[f"datasets.{name}.files[{number}]"] = path
        return paths


def check(config: dict, schema: dict) -> dict:
    """A copy of `config` completed with the schema's defaults; a `Problem` names a wrong key, its value, the remedy."""
    completed = deepcopy(config)
    _complete(completed, schema)
    errors = Draft202012Validator(schema).iter_errors(completed)
    if error := best_match(errors, key=lambda error: (-len(error.path), error.validator not in ("oneOf", "if"))):
        raise Problem(f"config: {_sentence(error)}")
    return completed


def resolve(config: dict) -> Study:
    """The study that a checked config selects; a `Problem` for a name that is in no catalogue."""
    models = {name: _model(name, config) for name in config["study"]["models"]}
    datasets = {name: _dataset(name, config) for name in config["study"]["datasets"]}
    return Study(models, datasets)


def _model(name: str, config: dict) -> dict:
    model = dict(_choose(config, "models", name))
    if model["source"] == "demo":
        saved = [f"step{step}" for step in config["demo"]["training"]["checkpoints"]]
        if unknown := [checkpoint for checkpoint in model["checkpoints"] if checkpoint not in saved]:
            raise Problem(
                f"config: models.{name}.checkpoints: {unknown[0]!r} is not saved by the training; "
                f"demo.training.checkpoints gives {', '.join(saved)}."
            )
        model["folders"] = {name: f"results/demo/checkpoints/{name}" for name in model["checkpoints"]}
        if model["window"] == "context":
            model["window"] = config["demo"]["model"]["context"]
    elif model["source"] == "hub":
        model.setdefault("checkpoints", [model["revision"]])
        model["folders"] = {checkpoint: f"results/models/{name}/{checkpoint}" for checkpoint in model["checkpoints"]}
    elif "checkpoints" in model:
        model["folders"] = {name: f"{model['path']}/{name}" for name in model["checkpoints"]}
    else:
        model["checkpoints"], model["folders"] = ["local"], {"local": model["path"]}
    if model.get("untrained", model["checkpoints"][0]) not in model["checkpoints"]:
        raise Problem(f"config: models.{name}.untrained: {model['untrained']!r} is not among its checkpoints.")
    return model


def _dataset(name: str, config: dict) -> dict:
    base = name.removesuffix(VARIANT)
    dataset = dict(_choose(config, "datasets", base))
    question = dataset.pop("question_only", None)
    if base != name:
        if question is None:
            raise Problem(f"config: study.datasets: {name!r} needs a template datasets.{base}.question_only.")
        dataset["template"] = question
    domains = config["demo"]["corpora"]["domains"]
    if dataset["source"] == "demo" and dataset["domain"] not in domains:
        raise Problem(
            f"config: datasets.{base}.domain: {dataset['domain']!r} is not one of demo.corpora.domains "
            f"({', '.join(domains)})."
        )
    return dataset


def _choose(config: dict, catalogue: str, name: str) -> dict:
    if name not in config[catalogue]:
        known = ", ".join(config[catalogue])
        raise Problem(f"config: study.{catalogue}: {name!r} is not in the catalogue `{catalogue}` ({known}).")
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


def _sentence(error: ValidationError) -> str:
    key = ".".join(map(str, error.absolute_path)) or "the top level"
    rule, expected, value = error.validator, error.validator_value, error.instance
    if rule == "additionalProperties":
        known = error.schema["properties"]
        return f"{key}: unknown key {sorted(set(value) - set(known))[0]!r}; known keys are {', '.join(known)}."
    if rule == "required":
        missing = [name for name in expected if name not in value]
        return f"{key}: the key {missing[0]!r} is missing."
    if error.schema is False or expected is False:
        return f"{key}: the key does not belong to a {_parent_source(error)} entry: remove it."
    if rule == "enum":
        return f"{key}: {value!r} is not one of {', '.join(map(str, expected))}."
    if rule == "type":
        return f"{key}: {value!r} is not of type {expected}."
    if rule in ("oneOf", "anyOf", "pattern", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minItems"):
        return f"{key}: {value!r} is not allowed here ({rule}: {_short(expected)})."
    return f"{key}: {error.message}."


def _short(expected) -> str:
    if isinstance(expected, list):
        return " or ".join(str({k: v for k, v in part.items() if k != "items"}) for part in expected)
    return str(expected)


def _parent_source(error: ValidationError) -> str:
    return "source of this kind" if error.parent is None else "catalogue"
