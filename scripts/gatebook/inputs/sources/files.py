"""The user's own files: models in folders in the hub's layout, and datasets in files of rows."""

from gatebook.inputs.sources import base


class Models(base.Models):
    """Models in folders of this machine: the source `local`."""

    required, optional = ("path",), ("checkpoints", "untrained")

    def resolve(self, name: str, model: dict, config: dict) -> dict:
        """See `base.Models`."""
        if "checkpoints" in model:
            return model | {"folders": {each: f"{model['path']}/{each}" for each in model["checkpoints"]}}
        return model | {"checkpoints": ["local"], "folders": {"local": model["path"]}}

    def local_paths(self, model: dict) -> dict[str, str]:
        """See `base.Models`."""
        return {"path": model["path"]}


class Datasets(base.Datasets):
    """Datasets in files of this machine."""

    required, optional = ("files",), ("format", "id", "cluster", "question_only", "where", "by", "values")

    def files(self, name: str, dataset: dict) -> list[str]:
        """See `base.Datasets`."""
        return dataset["files"]

    def local_paths(self, dataset: dict) -> dict[str, str]:
        """See `base.Datasets`."""
        return base.listed("files", dataset["files"])
