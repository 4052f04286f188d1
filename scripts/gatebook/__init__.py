"""Gatebook: how Mixture-of-Experts language models route tokens."""

__version__ = "0.2.0"
