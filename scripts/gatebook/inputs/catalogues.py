"""The catalogues of the config, `models`, `datasets` and `tasks`, and the study that it selects from them."""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from gatebook.files import parts
from gatebook.inputs import domains, templates, variants
from gatebook.inputs.limits import token_limit
from gatebook.inputs.sources import counts, demo, files, hub, traces
from gatebook.inputs.tasks.sources import SOURCES as TASKS
from gatebook.problem import Problem

MODELS = {
    "demo": demo.Models(),
    "hub": hub.Models(),
    "local": files.Models(),
    "counts": counts.Models(),
    "traces": traces.Models(),
}
DATASETS = {
    "demo": demo.Datasets(),
    "hub": hub.Datasets(),
    "files": files.Datasets(),
    "counts": counts.Datasets(),
    "traces": traces.Datasets(),
}
"""By the word after `source:` in the config."""
WITHOUT_MODEL = {"counts": "published counts", "traces": "routing traces"}
"""Sources whose models are not run, which a study has alone or not at all, and what they are in words."""
VARIANT = ".question_only"
ROLES = ["system", "user", "assistant"]
"""Of the messages of a conversation, where the config does not say them."""

TOKENS_WITHOUT_LIMIT = 10**6
"""As so many tokens a dataset without a limit counts where memory and time are asked for."""

MOST_SHARDS = 10_000
"""Of a dataset; each is several jobs, and Snakemake plans no more in reasonable time and memory."""


class Selected(dict):
    """Settings of what is selected of a catalogue by name; for any other name a `Problem` that says which there are."""

    def __init__(self, catalogue: str, settings: Mapping[str, dict]):
        super().__init__(settings)
        self.catalogue = catalogue

    def __missing__(self, name: str):
        known = ", ".join(self)
        raise Problem(
            f"config: study.{self.catalogue}: {name!r} is not in the study: use one of {known}, or select it there."
        )


@dataclass(frozen=True)
class Study:
    """What a study runs: settings of the selected models and datasets by name, in the order of the config.

    A model's `checkpoints` are in training order, and so are its `training_checkpoints`, of which chapters about all of
    training read selections; `folders` says where the files of each are. `shards` says into how many shards each
    dataset is split. `compared` names the runs to compare, {model, checkpoint}, the first one against
    all others; there are at least two, or none. `extraction` is that section of the config. `tasks` are the settings of
    the selected tasks by name, with the `files` of each. `languages` are those of datasets, where the config says so.
    """

    models: Selected
    datasets: Selected
    shards: dict[str, int]
    compared: list[dict[str, str]]
    extraction: dict
    tasks: Selected
    languages: dict[str, str] = field(default_factory=dict)

    @property
    def of_counts(self) -> bool:
        """Whether this is a study of published counts; then all of its models and datasets are."""
        return any(model["source"] == "counts" for model in self.models.values())

    @property
    def of_traces(self) -> bool:
        """Whether this is a study of routing traces; then all of its models and datasets are."""
        return any(model["source"] == "traces" for model in self.models.values())

    def missing(self, model: str) -> dict[str, str]:
        """The capabilities that a model's data lack (see `capabilities`), each with the reason."""
        settings = self.models[model]
        lacks = {} if self.variants else {"roles": "no dataset says who speaks"}
        if len(settings["training_checkpoints"]) == 1:
            lacks["checkpoints"] = "the model has one checkpoint"
        if not self.extraction["sample"]["size"]:
            lacks["sample"] = "extraction.sample.size is 0"
        if self.extraction["records"] == "compact":
            lacks["logits"] = "extraction.records is compact"
        if not self.tasks:
            lacks["tasks"] = "study.tasks names none for this model"
        lacks |= MODELS[settings["source"]].lacks
        return lacks | (MODELS["traces"].missing(model, settings, self.datasets) if self.of_traces else {})

    def parts(self, dataset: str) -> list[str]:
        """The parts in which a dataset is read by extraction: its shards, or itself."""
        return parts.names(dataset, self.shards[dataset])

    @property
    def variants(self) -> dict[str, variants.Variant]:
        """The variants by name that roles and phases make of datasets, see `variants`."""
        found = [variants.of(name, entry) for name, entry in self.datasets.items()]
        return {name: variant for each in found for name, variant in each.items()}

    @property
    def told_apart(self) -> list[str]:
        """The datasets by name, those of which there are variants replaced by these."""
        return [each for name, entry in self.datasets.items() for each in variants.of(name, entry) or [name]]

    def most_tokens(self, model: str, dataset: str | None = None) -> int:
        """How many tokens a dataset, or all together, have at most for a model (see `TOKENS_WITHOUT_LIMIT`)."""
        names = [dataset] if dataset else self.datasets
        return sum(token_limit(self.datasets[name], self.models[model]) or TOKENS_WITHOUT_LIMIT for name in names)

    def studied_checkpoint(self, model: str) -> str:
        """The last checkpoint of a model: the one that the report is about."""
        return self.models[model]["checkpoints"][-1]

    def folder(self, model: str, checkpoint: str) -> str:
        """The folder of a checkpoint, in the hub's layout; a `Problem` if the model has no such one."""
        folders = self.models[model]["folders"]
        if checkpoint not in folders:
            raise Problem(
                f"config: models.{model} has no checkpoint {checkpoint!r}: use one of {', '.join(folders)}, or add it."
            )
        return folders[checkpoint]

    def tokenizer(self, model: str) -> str:
        """The folder that holds a model's tokenizer."""
        return MODELS[self.models[model]["source"]].tokenizer(self.models[model])

    def fetched(self, dataset: str) -> dict:
        """Which rows of the hub are fetched for a dataset, whichever of its templates the study has."""
        settings = self.datasets.get(f"{dataset}{VARIANT}") or self.datasets[dataset]
        if settings["source"] != "hub":
            raise Problem(f"config: datasets.{dataset} is not on the hub: it has no rows to fetch.")
        return DATASETS["hub"].fetched(settings)

    def dataset_files(self, dataset: str) -> list[str]:
        """The files that hold a dataset's rows."""
        settings = self.datasets[dataset]
        return DATASETS[settings["source"]].files(dataset.removesuffix(VARIANT), settings)

    def traces(self, model: str, dataset: str, checkpoint: str) -> list[str]:
        """The files and folders with the routing traces of a dataset at a checkpoint of a model."""
        return DATASETS["traces"].of(self.datasets[dataset], model, checkpoint)

    def local_paths(self) -> dict[str, str]:
        """Config keys of the files and folders that must be there before the study starts, and their paths."""
        found = {}
        catalogues = (
            ("models", self.models, MODELS),
            ("datasets", self.datasets, DATASETS),
            ("tasks", self.tasks, TASKS),
        )
        for catalogue, entries, sources in catalogues:
            for name, entry in entries.items():
                given = sources[entry["source"]].local_paths(entry)
                found |= {f"{catalogue}.{name}.{key}": path for key, path in given.items()}
        for model, settings in self.models.items() if self.of_traces else ():
            for checkpoint in settings["checkpoints"]:
                for name in self.datasets:
                    given = self.traces(model, name, checkpoint)
                    found |= {f"datasets.{name}.traces[{at}] ({checkpoint})": path for at, path in enumerate(given)}
        return found


def with_sources(schema: dict) -> dict:
    """The schema of the config with what the sources say: their names, and which keys go with each."""
    completed = deepcopy(schema)
    for catalogue, sources in {"models": MODELS, "datasets": DATASETS, "tasks": TASKS}.items():
        entry = completed["properties"][catalogue]["additionalProperties"]
        entry["properties"]["source"] = {"enum": list(sources)}
        keys = {name: {*source.required, *source.optional} for name, source in sources.items()}
        known = set().union(*keys.values())
        entry["allOf"] = [
            {
                "if": {"properties": {"source": {"const": name}}},
                "then": {
                    "required": list(source.required),
                    "propertyNames": {"not": {"enum": sorted(known - keys[name])}},
                },
            }
            for name, source in sources.items()
        ]
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
    datasets = _datasets(config)
    entries = {f"models.{name}": model for name, model in models.items()}
    entries |= {f"datasets.{name}": dataset for name, dataset in datasets.items()}
    for source in WITHOUT_MODEL:
        of_source = {key: entry["source"] == source for key, entry in entries.items()}
        if any(of_source.values()) and not all(of_source.values()):
            key, other = (next(key for key, value in of_source.items() if value is wanted) for wanted in (True, False))
            raise Problem(
                f"config: study: {key} has `source: {source}` and {other} `source: {entries[other]['source']}`: select "
                f"only models and datasets of {source}, or none."
            )
    _check_pairs(datasets)
    shards = {
        name: _shards(dataset, models, config["storage"]["tokens_per_shard"]) for name, dataset in datasets.items()
    }
    if many := [name for name, number in shards.items() if number > MOST_SHARDS]:
        raise Problem(
            f"config: storage.tokens_per_shard: datasets.{many[0]} would have {shards[many[0]]:,} shards, more than "
            f"{MOST_SHARDS:,}: raise it."
        )
    languages = {name: entry.pop("language") for name, entry in datasets.items() if "language" in entry}
    selected = Selected("models", models), Selected("datasets", datasets)
    tasks = Selected("tasks", _tasks(config, models))
    return Study(*selected, shards, _compared(config, models), config["extraction"], tasks, languages)


def _model(name: str, config: dict) -> dict:
    model = _choose(config["models"], "models", name)
    model = MODELS[model["source"]].resolve(name, model, config)
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


def _datasets(config: dict) -> dict[str, dict]:
    """The selected datasets by name; the name of an entry with `by` selects all of its domains."""
    found = domains.expanded(config["datasets"])
    catalogue = {name: entry for entries in found.values() for name, entry in entries.items()}
    selected = {}
    for name in config["study"]["datasets"]:
        base = name.removesuffix(VARIANT)
        for each in found.get(base, [base]):
            selected[each + name[len(base) :]] = _dataset(each, name != base, catalogue, config)
    return selected


def _dataset(name: str, only_question: bool, catalogue: dict[str, dict], config: dict) -> dict:
    dataset = _choose(catalogue, "datasets", name)
    dataset = ({"roles": ROLES} if "chat" in dataset else {}) | dataset
    variants.check(name, dataset, config["extraction"]["records"])
    question, key = dataset.pop("question_only", None), f"config: datasets.{name}"
    if only_question:
        if question is None:
            raise Problem(f"config: study.datasets: '{name}{VARIANT}' needs a template: add datasets.{name}{VARIANT}.")
        dataset["template"], key = question, f"{key}{VARIANT}"
    else:
        key += ".template"
    templates.parse(key, dataset["template"])
    source = DATASETS[dataset["source"]]
    source.check(name, dataset, config)
    return dataset | {"cluster": source.clusters(dataset)}


def _tasks(config: dict, models: dict[str, dict]) -> dict[str, dict]:
    """The selected tasks by name; those of the embedded model's text only if no other model is studied."""
    of_demo, found = all(model["source"] == "demo" for model in models.values()), {}
    for name in config["study"]["tasks"]:
        task = _choose(config["tasks"], "tasks", name)
        if task["source"] != "demo" or of_demo:
            source = TASKS[task["source"]]
            source.check(name, task, config)
            found[name] = task | {"files": source.files(task, config)}
    return found


def _check_pairs(datasets: dict[str, dict]) -> None:
    """A `Problem` if two datasets are made from the same rows, which pairs them, but not of the same clusters."""
    known: dict[tuple, str] = {}
    for name, dataset in datasets.items():
        rows = tuple(DATASETS[dataset["source"]].files(name.removesuffix(VARIANT), dataset)) or (name,)
        other = known.setdefault(rows, name)
        if dataset["cluster"] != datasets[other]["cluster"]:
            raise Problem(
                f"config: datasets.{name}.cluster: {dataset['cluster']} is not that of {other} "
                f"({datasets[other]['cluster']}), which has the same files: write the same columns for both."
            )


def _shards(dataset: dict, models: dict[str, dict], tokens_per_shard: int) -> int:
    """Into how many shards a dataset is split, for all models; takes `shards` out of it: it changes no token."""
    stated = dataset.pop("shards", None)
    limits = [token_limit(dataset, model) for model in models.values()]
    return stated or (1 if None in limits else math.ceil(max(limits) / tokens_per_shard))


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
        if models[name].get("holds", "logits") != "logits":
            raise Problem(
                f"config: compare: {name}/{checkpoint}: its traces hold no router logits from which a comparison could "
                "be made: remove it."
            )
        if models[name]["source"] == "counts":
            raise Problem(
                f"config: compare: {name}/{checkpoint}: published counts have no documents from which a comparison "
                "could be made: remove it."
            )
    if len(runs) == 1:
        raise Problem(f"config: compare: {config['compare'][0]} is a single run: add another one, or write [].")
    return runs


def _choose(entries: dict[str, dict], catalogue: str, name: str) -> dict:
    if name not in entries:
        known = ", ".join(entries)
        raise Problem(
            f"config: study.{catalogue}: {name!r} is not in the catalogue `{catalogue}`: use one of {known}, or add it."
        )
    return entries[name]
