"""What a source of models, or of datasets, says about itself; each of the other modules here is one source."""

from collections.abc import Mapping
from types import MappingProxyType

from gatebook.problem import Problem

CHATS = ("chat", "roles", "chat_template", "generate")
"""Keys of datasets of which roles and phases are told apart."""


class Models:
    """A source of models.

    required, optional: keys of its entries in the catalogue `models` that entries of some other source do not have.
    lacks: what is not known of its models (see `capabilities`), each with the reason.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    lacks: Mapping[str, str] = MappingProxyType({"training": "this study trains only the embedded model"})

    def resolve(self, name: str, model: dict, config: dict) -> dict:
        """The entry `models.{name}` with what its source adds.

        Its `checkpoints`, and `training_checkpoints`, of which selections alone are read, both in training order and
        with the same last one; and `folders`, where each of them is. A `Problem` if its keys do not fit one another or
        the rest of the config.
        """
        raise NotImplementedError

    def training_checkpoints(self, name: str, model: dict, checkpoints: list[str], saved: list[str] = ()) -> list[str]:
        """Those that the entry `models.{name}` names, or "all" that are `saved` up to its last one of `checkpoints`."""
        wanted, studied, key = model.get("training_checkpoints", checkpoints), checkpoints[-1], "training_checkpoints"
        if wanted == "all":
            if not saved:
                raise Problem(
                    f"config: models.{name}.{key}: only of the embedded model are all checkpoints known: write a list."
                )
            return saved[: saved.index(studied) + 1]
        if wanted[-1] != studied:
            raise Problem(
                f"config: models.{name}.{key}: {wanted[-1]!r} is the last one, but {studied!r} is studied: write them "
                f"in training order, {studied!r} at the end."
            )
        return list(wanted)

    def tokenizer(self, model: dict) -> str:
        """The folder that holds the tokenizer of a resolved model."""
        return model["folders"][model["checkpoints"][-1]]

    def local_paths(self, model: dict) -> dict[str, str]:
        """The files and folders that must be there before the study starts, by the entry's key."""
        return {}


class Datasets:
    """A source of datasets.

    required, optional: keys of its entries in the catalogue `datasets` that entries of some other source do not have.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def check(self, name: str, dataset: dict, config: dict) -> None:
        """A `Problem` if the entry `datasets.{name}` does not fit the rest of the config."""

    def files(self, name: str, dataset: dict) -> list[str]:
        """The files with the rows of the entry `datasets.{name}`, from which its tokens are made."""
        raise NotImplementedError

    def clusters(self, dataset: dict) -> list[str]:
        """The columns of the rows in which the documents of a cluster agree; none: each document is a cluster."""
        columns = dataset.get("cluster", [])
        return [columns] if isinstance(columns, str) else columns

    def local_paths(self, dataset: dict) -> dict[str, str]:
        """The files that must be there before the study starts, by the entry's key."""
        return {}


def listed(key: str, paths: list[str]) -> dict[str, str]:
    """The paths of a list in the config, by the key of each: {"files[0]": ...}."""
    return {f"{key}[{number}]": path for number, path in enumerate(paths)}
