"""The Hugging Face hub: models and datasets at pinned revisions, which two rules fetch (`inputs.hub`)."""

from gatebook.inputs.sources import base
from gatebook.problem import Problem


class Models(base.Models):
    """Checkpoints in repositories of the hub."""

    required, optional = ("id",), ("revision", "checkpoints", "training_checkpoints", "untrained")

    def resolve(self, name: str, model: dict, config: dict) -> dict:
        """See `base.Models`."""
        if ("revision" in model) == ("checkpoints" in model):
            raise Problem(
                f"config: models.{name}: write `revision`, for one checkpoint, or `checkpoints`, for several, and not "
                "both."
            )
        checkpoints = model["checkpoints"] if "checkpoints" in model else [model["revision"]]
        in_training = self.training_checkpoints(name, model, checkpoints)
        folders = {each: f"results/models/{name}/{each}" for each in dict.fromkeys([*checkpoints, *in_training])}
        return model | {"checkpoints": checkpoints, "training_checkpoints": in_training, "folders": folders}

    def fetched(self, model: dict) -> dict:
        """Which repository is fetched for an entry, beside the revision, and how."""
        return {key: model[key] for key in ("id", "trust_remote_code")}


class Datasets(base.Datasets):
    """Splits of datasets in repositories of the hub."""

    required = ("path", "split", "revision")
    optional = ("name", "id", "cluster", "question_only", "where", "by", "values", *base.CHATS)

    def files(self, name: str, dataset: dict) -> list[str]:
        """See `base.Datasets`."""
        return [f"results/datasets/{name}.parquet"]

    def fetched(self, dataset: dict) -> dict:
        """Which rows are fetched for an entry, whatever is made of them."""
        rows = {key: dataset.get(key) for key in ("path", "name", "split", "revision")}
        kept = {"where": dataset["where"]} if "where" in dataset else {}
        return rows | {"documents": dataset["limits"].get("documents")} | kept
