"""Where models and datasets come from: one module per source, with all that is special about it.

`catalogues.MODELS` and `catalogues.DATASETS` name the sources that the config may name.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatebook.inputs.sources.base import Datasets


def datasets(source: str) -> "Datasets":
    """What a source of datasets says about itself."""
    return import_module(f"gatebook.inputs.sources.{source}").Datasets()
