"""Gatebook: how Mixture-of-Experts language models route tokens."""

from importlib import import_module

__version__ = "0.2.0"
_ELSEWHERE = {"route": "gatebook.routing.texts"}
"""What is reached as `gatebook.NAME`, and its module: imported at its first use, so that the package costs nothing."""


def __getattr__(name: str):
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ELSEWHERE])
