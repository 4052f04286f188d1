"""MoE Routing Atlas: how Mixture-of-Experts language models route tokens."""

__version__ = "0.1.0"
