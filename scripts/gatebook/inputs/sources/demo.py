"""The embedded demo: the workflow makes the model and its datasets itself (`inputs.demo`)."""

from types import MappingProxyType

from gatebook.inputs.sources import base
from gatebook.problem import Problem


class Models(base.Models):
    """Checkpoints of a model that the workflow trains.

    `resolve` adds the settings of its `model` and `training`: those of `demo`, with the ones that it changes.
    """

    required, optional = ("checkpoints",), ("training_checkpoints", "untrained", "seed", "model", "training")
    lacks = MappingProxyType({})

    def resolve(self, name: str, model: dict, config: dict) -> dict:
        """See `base.Models`."""
        training = config["demo"]["training"] | model.get("training", {})
        if "seed" in model:
            training |= {"seed": model["seed"]}
        architecture = config["demo"]["model"] | model.get("model", {})
        if architecture["experts_per_token"] > architecture["experts"]:
            raise Problem(
                f"config: models.{name}.model: a token cannot select {architecture['experts_per_token']} of "
                f"{architecture['experts']} experts: lower experts_per_token or raise experts."
            )
        if late := [step for step in training["checkpoints"] if step > training["steps"]]:
            raise Problem(
                f"config: demo.training.checkpoints: {late[0]} is after the last step: raise demo.training.steps "
                f"({training['steps']}) or remove it."
            )
        saved = [f"step{step}" for step in training["checkpoints"]]
        for key in ("checkpoints", "training_checkpoints"):
            named = model.get(key, [])
            if named != "all" and (unknown := [checkpoint for checkpoint in named if checkpoint not in saved]):
                raise Problem(
                    f"config: models.{name}.{key}: {unknown[0]!r} is not saved by the training: use one of "
                    f"{', '.join(saved)}, or add to demo.training.checkpoints."
                )
        in_training = self.training_checkpoints(name, model, model["checkpoints"], saved)
        layers, chosen = architecture["layers"], model["layers"]
        for item in chosen if isinstance(chosen, list) else [chosen]:
            last = str(item).rpartition("-")[2]
            if last != "all" and int(last) >= layers:
                raise Problem(
                    f"config: models.{name}.layers: the embedded model has no layer {last}: use 0 to {layers - 1}, or "
                    "raise demo.model.layers."
                )
        window = architecture["context"] if model["window"] == "context" else model["window"]
        known = dict.fromkeys([*model["checkpoints"], *in_training])
        folders = {checkpoint: f"results/demo/checkpoints/{name}/{checkpoint}" for checkpoint in known}
        found = {"training_checkpoints": in_training, "folders": folders, "window": window}
        return model | found | {"model": architecture, "training": training}

    def tokenizer(self, model: dict) -> str:
        """See `base.Models`."""
        return "results/demo/tokenizer"


class Datasets(base.Datasets):
    """Held-out documents of one domain of the harvested text."""

    required, optional = ("domain",), ("generate",)

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
