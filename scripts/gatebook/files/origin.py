"""What made a file: the attributes that every output carries, and the model's and data's identity handed on in them."""

import json

IDENTITY = (
    "model", "model_id", "model_revision", "checkpoint", "weights_sha256", "dataset", "dataset_id", "dataset_revision",
    "dataset_sha256", "tokens_sha256", "routing_rule",
)  # fmt: skip
_running: dict = {}


def start(provenance: dict) -> None:
    """Note what the outputs of this process are made by: rule, wildcards, settings, code hash and software."""
    _running.clear()
    _running.update(provenance)


def provenance() -> dict:
    """Rule, wildcards, settings, code hash and software of the running job; empty outside a job."""
    return dict(_running)


def signature(attributes: dict) -> str:
    """One line that says what a figure was made from."""
    code = json.loads(attributes["provenance"])["code"]
    if "runs" in attributes:
        return f"Gatebook; runs {', '.join(json.loads(attributes['runs']))}; code {code}"
    known = "traces" if "routing_rule" in attributes else "counts"
    weights = f"weights sha256 {attributes['weights_sha256'][:16]}" if "weights_sha256" in attributes else known
    return (
        f"Gatebook; model {attributes['model']} ({attributes['model_id']}), checkpoint "
        f"{attributes['checkpoint']}, {weights}; code {code}"
    )


def provenance_attributes() -> dict[str, str]:
    """Attributes that every output carries: conventions, and the provenance of the running job as JSON."""
    return {
        "Conventions": "CF-1.11",
        "source": "Gatebook",
        "provenance": json.dumps(provenance(), sort_keys=True, default=str),
    }


def identity(attributes: dict) -> dict:
    """The attributes that say which model and which data: handed on from inputs to records, tallies and metrics."""
    return {name: attributes[name] for name in IDENTITY if name in attributes}
