"""Published counts in place of a model and its tokens (`inputs.published_counts`)."""

from gatebook.capabilities import CAPABILITIES
from gatebook.inputs.sources import base
from gatebook.problem import Problem

DESIGN_EFFECT = 100.0
"""1 + (m - 1) rho (Kish 1965, Survey Sampling) for documents of m = 500 tokens with an intra-class correlation rho of
0.2: an assumption, since published counts cannot tell."""


class Models(base.Models):
    """Models that published counts are about."""

    required = ("id", "revision", "files", "experts_per_layer", "experts_per_token")
    lacks = dict.fromkeys(CAPABILITIES, "published counts do not allow it")

    def resolve(self, name: str, model: dict, config: dict) -> dict:
        """See `base.Models`; there are no folders."""
        if model["experts_per_token"] > model["experts_per_layer"]:
            raise Problem(
                f"config: models.{name}.experts_per_token: {model['experts_per_token']} is more than experts_per_layer "
                f"({model['experts_per_layer']}): lower it."
            )
        if model["layers"] != "all":
            raise Problem(f"config: models.{name}.layers: published counts are studied whole: remove it.")
        alone = [model["revision"]]
        return {"design_effect": DESIGN_EFFECT} | model | {"checkpoints": alone, "training_checkpoints": alone}

    def local_paths(self, model: dict) -> dict[str, str]:
        """See `base.Models`."""
        return base.listed("files", model["files"])


class Datasets(base.Datasets):
    """Domains of published counts; they have no rows, the model has the files."""

    required = ("domain",)

    def files(self, name: str, dataset: dict) -> list[str]:
        """See `base.Datasets`: none of its own."""
        return []
