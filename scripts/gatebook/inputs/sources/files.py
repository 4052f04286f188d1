"""The user's own files: models in folders in the hub's layout, and datasets in files of rows."""

from gatebook.inputs.sources import base
from gatebook.problem import Problem


class Models(base.Models):
    """Models in folders of this machine: the source `local`."""

    required, optional = ("path",), ("checkpoints", "training_checkpoints", "untrained")

    def resolve(self, name: str, model: dict, config: dict) -> dict:
        """See `base.Models`."""
        if "checkpoints" not in model and "training_checkpoints" not in model:
            alone = ["local"]
            return model | {"checkpoints": alone, "training_checkpoints": alone, "folders": {"local": model["path"]}}
        if "checkpoints" not in model:
            raise Problem(
                f"config: models.{name}.training_checkpoints: they are subfolders of `path`, and none of them is "
                "studied: add `checkpoints`."
            )
        in_training = self.training_checkpoints(name, model, model["checkpoints"])
        folders = {each: f"{model['path']}/{each}" for each in dict.fromkeys([*model["checkpoints"], *in_training])}
        return model | {"training_checkpoints": in_training, "folders": folders}

    def local_paths(self, model: dict) -> dict[str, str]:
        """See `base.Models`."""
        return {"path": model["path"]}


class Datasets(base.Datasets):
    """Datasets in files of this machine."""

    required = ("files",)
    optional = ("format", "id", "cluster", "question_only", "where", "by", "values", *base.CHATS)

    def files(self, name: str, dataset: dict) -> list[str]:
        """See `base.Datasets`."""
        return dataset["files"]

    def local_paths(self, dataset: dict) -> dict[str, str]:
        """See `base.Datasets`."""
        return base.listed("files", dataset["files"])
