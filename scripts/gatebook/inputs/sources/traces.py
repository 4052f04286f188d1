"""Routing traces: what other engines recorded, in place of a model that is run (`inputs.traces`)."""

from gatebook.inputs.sources import base
from gatebook.problem import Problem

NO_MODEL = "traces hold no model"
HOLDS = {
    "ids": (),
    "order": ("order",),
    "weights": ("order", "weights"),
    "logits": ("order", "weights", "scores", "logits"),
}
"""What traces may hold, by the word after `holds:`, and the capabilities that go with it."""
REASONS = {
    "order": "the traces hold experts in no order (models.{name}.holds)",
    "weights": "the traces hold no routing weights (models.{name}.holds)",
    "scores": "the traces hold no router logits (models.{name}.holds)",
    "logits": "the traces hold no router logits (models.{name}.holds)",
}
OF_DATASETS = {"tokens": "token ids", "documents": "document boundaries"}
"""What a dataset of traces may lack, in words."""
FACTS = ("trace_layers", "experts_per_layer", "experts_per_token")


class Models(base.Models):
    """Models whose routing other engines recorded."""

    required = ("id", "revision")
    optional = (
        "checkpoints", "untrained", "path", "trace_layers", "experts_per_layer", "experts_per_token", "family",
        "router", "holds", "tokenizer",
    )  # fmt: skip

    def resolve(self, name: str, model: dict, config: dict) -> dict:
        """See `base.Models`; there are no folders."""
        key = f"config: models.{name}"
        if "path" not in model and (absent := [each for each in FACTS if each not in model]):
            raise Problem(
                f"{key}.{absent[0]}: traces do not say it: write it, or a `path` with the model's config.json."
            )
        if model.get("experts_per_token", 1) > model.get("experts_per_layer", model.get("experts_per_token", 1)):
            raise Problem(
                f"{key}.experts_per_token: {model['experts_per_token']} is more than experts_per_layer "
                f"({model['experts_per_layer']}): lower it."
            )
        holds = model.get("holds", "ids")
        if holds == "logits" and not {"path", "router"} & model.keys():
            raise Problem(
                f"{key}.holds: of logits it is not known how the router weighs them: write `router`, or a `path` with "
                "the model's config.json."
            )
        checkpoints = model.get("checkpoints", [model["revision"]])
        tokenizer = model.get("tokenizer", {})
        if {"path", "id"} <= tokenizer.keys():
            raise Problem(f"{key}.tokenizer: it has `path` and `id`: write one of them.")
        given = {"folders": {}, "holds": holds, "checkpoints": checkpoints, "training_checkpoints": checkpoints}
        if tokenizer:
            given["tokenizer"] = tokenizer | {"folder": tokenizer.get("path", f"results/tokenizers/{name}")}
        return model | given

    def missing(self, name: str, model: dict, datasets: dict[str, dict]) -> dict[str, str]:
        """The capabilities that the traces of some datasets lack, each with the reason."""
        lacks = dict.fromkeys(("model", "tasks"), NO_MODEL) | {"sample": "traces hold no router inputs"}
        lacks |= {each: REASONS[each].format(name=name) for each in REASONS if each not in HOLDS[model["holds"]]}
        for dataset, entry in datasets.items():
            for each in entry.get("lacks", []):
                lacks.setdefault(each, f"the traces of {dataset} hold no {OF_DATASETS[each]}")
        if "documents" in lacks:
            lacks["clusters"] = lacks["documents"]
        if "tokens" in lacks or "tokenizer" not in model:
            lacks["text"] = lacks.get("tokens", f"models.{name} has no tokenizer")
        return lacks

    def tokenizer(self, model: dict) -> str:
        """See `base.Models`."""
        if "tokenizer" not in model:
            raise Problem(f"config: models: the traces of {model['id']} have no `tokenizer`, which this needs: add it.")
        return model["tokenizer"]["folder"]

    def local_paths(self, model: dict) -> dict[str, str]:
        """See `base.Models`."""
        found = {"path": model["path"]} if "path" in model else {}
        if "path" in model.get("tokenizer", {}):
            found["tokenizer.path"] = model["tokenizer"]["path"]
        return found


class Datasets(base.Datasets):
    """Datasets whose tokens and experts are in files of traces."""

    required, optional = ("traces",), ("columns", "lacks")

    def files(self, name: str, dataset: dict) -> list[str]:
        """See `base.Datasets`: those of a checkpoint are `of`."""
        return paths(dataset)

    def of(self, dataset: dict, model: str, checkpoint: str) -> list[str]:
        """The files and folders that hold what tokens select at a checkpoint."""
        return [path.replace("{model}", model).replace("{checkpoint}", checkpoint) for path in paths(dataset)]


def paths(dataset: dict) -> list[str]:
    """The paths of an entry, with `{model}` and `{checkpoint}` as they stand there."""
    return [dataset["traces"]] if isinstance(dataset["traces"], str) else dataset["traces"]
