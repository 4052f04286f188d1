"""How much of a dataset a model reads."""


def token_limit(dataset: dict, model: dict) -> int | None:
    """At most how many tokens of a dataset a model reads, from the two entries; None for all."""
    limits = (dataset["limits"].get("tokens"), model["tokens_per_dataset"])
    return min((limit for limit in limits if limit not in (None, "all")), default=None)
