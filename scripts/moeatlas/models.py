"""Models: load the base model of a Mixture-of-Experts checkpoint, find its routers, know their routing rule."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel

from moeatlas import storage
from moeatlas.job import Problem

FAMILIES = {
    "olmoe": ("num_experts", "norm_topk_prob", True),
    "flex_olmo": ("num_experts", "norm_topk_prob", True),
    "qwen2_moe": ("num_experts", "norm_topk_prob", True),
    "qwen3_moe": ("num_experts", "norm_topk_prob", True),
    "mixtral": ("num_local_experts", True, False),
}
"""Supported `model_type`s: the config key of the number of experts, whether weights are renormalised (or its config
key), and whether the router casts its weights to the dtype of the logits."""


@dataclass(frozen=True)
class RoutingRule:
    """How a router turns logits z into selected experts and routing weights (source: the model code in transformers).

    scores: "softmax" (p = softmax(z) over all experts, in float32); selection: "top_k" of p, sorted;
    normalised: whether the weights of the selected experts are divided by their sum;
    cast: whether the weights are cast to the dtype of the logits.
    """

    family: str
    scores: str
    selection: str
    experts: int
    top_k: int
    normalised: bool
    cast: bool

    def apply(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Routing weights and selected experts, both (token, rank), of raw router logits (token, expert)."""
        weights, selected = torch.softmax(logits.float(), dim=-1).topk(self.top_k, dim=-1)
        if self.normalised:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return (weights.to(logits.dtype) if self.cast else weights), selected

    def as_json(self) -> str:
        """The rule as sorted JSON, for the attribute `routing_rule` of every output."""
        return json.dumps(asdict(self), sort_keys=True)


def routing_rule(config: transformers.PreTrainedConfig) -> RoutingRule:
    """The routing rule of a model's config; a `Problem` for a family that is not supported."""
    family = config.model_type
    if family not in FAMILIES:
        raise Problem(
            f"model_type {family!r} ({config.name_or_path}) is not supported: the supported families are "
            f"{', '.join(sorted(FAMILIES))}."
        )
    experts, normalised, cast = FAMILIES[family]
    return RoutingRule(
        family=family,
        scores="softmax",
        selection="top_k",
        experts=getattr(config, experts),
        top_k=config.num_experts_per_tok,
        normalised=normalised if isinstance(normalised, bool) else bool(getattr(config, normalised)),
        cast=cast,
    )


def choose_device(wanted: str) -> torch.device:
    """The device `wanted`; "auto" is the first CUDA device when there is one, else the CPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device, visible = torch.device(wanted), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= visible:
        raise Problem(f"device: {wanted} is set, but {visible} CUDA devices are visible: set `device: auto` or `cpu`.")
    return device


def load_config(folder: str | Path) -> transformers.PreTrainedConfig:
    """The config of a model folder in the hub's layout; a `Problem` when it cannot be read."""
    if not (Path(folder) / "config.json").is_file():
        raise Problem(f"{folder} is not a model folder: it has no config.json.")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise Problem(f"{folder}/config.json cannot be read ({str(error).splitlines()[0]}).") from error


def load(
    folder: str | Path, *, dtype: str, device: torch.device, attention: str, experts: str
) -> transformers.PreTrainedModel:
    """The base model (no language-model head) of a folder in the hub's layout, in evaluation mode on `device`.

    `dtype` is "auto" (as stored) or a torch dtype's name; `experts` "auto" is grouped_mm on a GPU and eager on a CPU,
    where eager is the faster one. Raises a `Problem` when the weights cannot be read or do not fit the config.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if experts == "auto":
        experts = "eager" if device.type == "cpu" else "grouped_mm"
    try:
        model, report = AutoModel.from_pretrained(
            folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            attn_implementation=attention,
            experts_implementation=experts,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise Problem(
            f"{folder} cannot be loaded as a model ({str(error).splitlines()[0]}): mend the folder or the model's "
            "settings."
        ) from error
    # transformers fills what is missing with random numbers
    if unfit := sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"]):
        raise Problem(
            f"{folder}: {len(unfit)} weights are missing or do not have the shape that config.json says, first "
            f"{unfit[0]}: fetch the checkpoint again."
        )
    return model.eval().to(device)


def find_routers(model: transformers.PreTrainedModel) -> dict[int, nn.Module]:
    """Router modules by layer index; dense layers have none, so indices may start above 0."""
    recorder = type(model)._can_record_outputs["router_logits"]
    return {
        layer: module
        for layer, block in enumerate(model.layers)
        for module in block.modules()
        if isinstance(module, recorder.target_class)
    }


def describe(folder: Path) -> dict:
    """What a model folder holds: revision, checksum and size of its weights, layers with experts, routing rule.

    The layers are found on the model's skeleton, without reading its weights. `model_revision` is the hub's commit, or
    "local" for a folder that did not come from the hub.
    """
    config = load_config(folder)
    rule = routing_rule(config)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise Problem(f"{folder} has no *.safetensors file: convert the weights to safetensors.")
    commit = folder / "commit.txt"
    return {
        "model_revision": commit.read_text().strip() if commit.is_file() else "local",
        "weights_sha256": storage.sha256(*weights),
        "weights_bytes": sum(path.stat().st_size for path in weights),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "moe_layers": sorted(find_routers(model)),
        "hidden_layers": config.num_hidden_layers,
        "context": config.max_position_embeddings,
        "vocabulary": config.vocab_size,
    } | {key: value for key, value in asdict(rule).items() if key in ("family", "experts", "top_k")}


def choose_layers(wanted: str | int | list, available: list[int], key: str) -> list[int]:
    """The layers that `wanted` names: "all", one index, a range such as "0-3", or a list of these.

    Raises a `Problem` naming the config key for a layer that has no router.
    """
    if wanted == "all":
        return list(available)
    chosen: set[int] = set()
    for item in wanted if isinstance(wanted, list) else [wanted]:
        first, _, last = str(item).partition("-")
        chosen.update(range(int(first), int(last or first) + 1))
    if not chosen or (wrong := sorted(chosen - set(available))):
        value = f"layer {wrong[0]}" if chosen else f"{wanted!r}"
        raise Problem(f"{key}: {value} is not a Mixture-of-Experts layer; the model has {available}.")
    return sorted(chosen)
