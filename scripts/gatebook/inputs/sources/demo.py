"""The embedded demo: the workflow makes the model and its datasets itself (`inputs.demo`)."""

from types import MappingProxyType

from gatebook.inputs.sources import base
from gatebook.problem import Problem


class Models(base.Models):
    """Checkpoints of the model that the workflow trains."""

    required, optional = ("checkpoints",), ("untrained",)
    lacks = MappingProxyType({})

    def resolve(self, name: str, model: dict, config: dict) -> dict:
        """See `base.Models`."""
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
        layers, chosen = config["demo"]["model"]["layers"], model["layers"]
        for item in chosen if isinstance(chosen, list) else [chosen]:
            last = str(item).rpartition("-")[2]
            if last != "all" and int(last) >= layers:
                raise Problem(
                    f"config: models.{name}.layers: the embedded model has no layer {last}: use 0 to {layers - 1}, or "
                    "raise demo.model.layers."
                )
        window = config["demo"]["model"]["context"] if model["window"] == "context" else model["window"]
        folders = {checkpoint: f"results/demo/checkpoints/{checkpoint}" for checkpoint in model["checkpoints"]}
        return model | {"window": window, "folders": folders}

    def tokenizer(self, model: dict) -> str:
        """See `base.Models`."""
        return "results/demo/tokenizer"


class Datasets(base.Datasets):
    """Held-out documents of one domain of the harvested text."""

    required = ("domain",)

    def check(self, name: str, dataset: dict, config: dict) -> None:
        """See `base.Datasets`."""
        domains = config["demo"]["corpora"]["domains"]
        if dataset["domain"] not in domains:
            raise Problem(
                f"config: datasets.{name}.domain: {dataset['domain']!r} is not harvested: use one of "
                f"{', '.join(domains)}, or add it to demo.corpora.domains."
            )

    def clusters(self, dataset: dict) -> list[str]:
        """See `base.Datasets`: what the harvest took for one source."""
        return ["cluster"]

    def files(self, name: str, dataset: dict) -> list[str]:
        """See `base.Datasets`."""
        return [f"results/demo/corpora/held_out/{dataset['domain']}.jsonl"]
