"""Models: load the base model of a Mixture-of-Experts checkpoint, find its routers and experts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
import xarray as xr
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from gatebook.files import checksums
from gatebook.inputs.model_folder import load_config
from gatebook.problem import Problem
from gatebook.routing.rule import routing_rule

ROUTER_ROWS = ("mlp.gate.weight", "mlp.router.weight", "block_sparse_moe.gate.weight")
"""Names that the rows of a router have within its layer, in files of the supported families."""


def choose_device(wanted: str) -> torch.device:
    """The device `wanted`; "auto" is the first CUDA device when there is one, else the CPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device, visible = torch.device(wanted), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= visible:
        raise Problem(f"device: {wanted} is set, but {visible} CUDA devices are visible: set `device: auto` or `cpu`.")
    return device


def load(
    folder: str | Path,
    *,
    dtype: str,
    device: torch.device,
    attention: str,
    experts: str,
    gpus: int = 1,
    last_layer: int | None = None,
    head: bool = False,
    trust_remote_code: bool = False,
) -> transformers.PreTrainedModel:
    """The model of a folder in the hub's layout, in evaluation mode.

    Parameters
    ----------
    folder
        With config.json and *.safetensors.
    dtype
        "auto" (as stored) or a torch dtype's name.
    device
        Where it is.
    attention
        Of the transformers library; "auto" is the family's own choice.
    experts
        Likewise; "auto" is grouped_mm on a GPU and eager on a CPU, where eager is the faster one.
    gpus
        Above 1 the layers are spread over the visible GPUs and, where these are full, the CPU's memory.
    last_layer
        Layers after it are not read.
    head
        The whole model, or else the base model.
    trust_remote_code
        Whether code in the folder may run.

    Returns
    -------
    transformers.PreTrainedModel

    Raises
    ------
    Problem
        If the weights cannot be read or do not fit the config.
    """
    config = load_config(folder, trust_remote_code)
    if last_layer is not None:
        _cut(config, last_layer + 1)
    if gpus > 1 and torch.cuda.device_count() < gpus:
        raise Problem(f"gpus: {gpus} is set, but {torch.cuda.device_count()} CUDA devices are visible: set it to that.")
    placement = None if device.type == "cpu" else "auto" if gpus > 1 else {"": device}
    remote = {"trust_remote_code": True} if trust_remote_code else {}
    family = AutoModelForCausalLM if head else AutoModel
    model = _from_pretrained(family, folder, config, dtype, attention, experts, device, device_map=placement, **remote)
    return model.eval()


def computation(model: transformers.PreTrainedModel, device: torch.device) -> dict[str, str]:
    """How a loaded model computes: device, dtype, and the implementations of attention and experts."""
    return {
        "device": device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
        "experts": model.config._experts_implementation,
    }


def load_block(folder: str | Path, layer: int, *, dtype: str, device: torch.device, experts: str = "auto") -> nn.Module:
    """The Mixture-of-Experts block of one layer; no other tensor of the folder is read.

    A model of this layer alone is built, so the memory is that of one layer.

    Parameters
    ----------
    folder, dtype, device, experts
        As those of `load`.
    layer
        Number of the layer.

    Returns
    -------
    torch.nn.Module
        In evaluation mode.

    Raises
    ------
    Problem
        As `load` does.
    """
    config = load_config(folder)
    routing_rule(config)
    tensors = {f"model.layers.0.{name}": tensor for name, tensor in _layer_tensors(folder, layer)}
    _cut(config, 1)
    for name, alone in {"first_k_dense_replace": 0, "mlp_only_layers": [], "decoder_sparse_step": 1}.items():
        if hasattr(config, name):
            setattr(config, name, alone)
    config.vocab_size, config.pad_token_id = 1, None
    family = transformers.MODEL_MAPPING[type(config)]
    model = _from_pretrained(
        family, None, config, dtype, "eager", experts, device, state_dict=tensors, needed="layers.0.mlp"
    )
    (block,) = find_blocks(model.eval().to(device)).values()
    return block


def block_gain(folder: str | Path, layer: int) -> np.ndarray | None:
    """The gain of the RMSNorm before the Mixture-of-Experts block of one layer: (hidden,) float32.

    None for a family that normalises the block's output and not its input.
    """
    before, after = "post_attention_layernorm.weight", "post_feedforward_layernorm.weight"
    norms = dict(_layer_tensors(folder, layer, (before, after)))
    return None if after in norms else norms[before].float().numpy()


def read_router_rows(folder: str | Path, layers: str | int | list = "all") -> xr.DataArray:
    """The rows of a model's routers, one per layer and expert; no other tensor of the folder is read.

    A router's logits are the products of its rows with what it receives, a token's hidden state after the norm (plus
    the router's own bias in GPT-OSS).

    Parameters
    ----------
    folder
        A model in the hub's layout: config.json and *.safetensors.
    layers
        "all", a layer, a range such as "0-3", or a list of these.

    Returns
    -------
    xarray.DataArray
        (layer, expert, hidden) float32, without a unit; the coordinate `layer` holds the indices of the layers.

    Raises
    ------
    Problem
        If the folder holds no model of a supported family, or a layer has no router.

    Examples
    --------
    >>> rows = read_router_rows("results/demo/checkpoints/demo/step400")  # doctest: +SKIP
    >>> dict(rows.sizes)  # doctest: +SKIP
    {'layer': 4, 'expert': 32, 'hidden': 96}
    """
    config = load_config(folder)
    routing_rule(config)
    chosen, rows = choose_layers(layers, sorted(find_routers(skeleton(config))), "layers"), []
    for layer in chosen:
        found = [tensor.float().numpy() for _, tensor in _layer_tensors(folder, layer, ROUTER_ROWS)]
        if not found:
            raise Problem(f"{folder} has no weights of the router of layer {layer}: fetch the checkpoint again.")
        rows += found
    attrs = {"long_name": "router rows", "units": "1"}
    return xr.DataArray(np.stack(rows), dims=("layer", "expert", "hidden"), coords={"layer": chosen}, attrs=attrs)


def _layer_tensors(folder: str | Path, layer: int, wanted: tuple[str, ...] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """Names within the layer and tensors of one layer, all or the `wanted` ones, read one at a time."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        with _readable(folder), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, not a dict
                before, found, inside = name.removeprefix("model.").partition(f"layers.{layer}.")
                if found and not before and (not wanted or inside in wanted):
                    yield inside, file.get_tensor(name)


def _from_pretrained(
    family,
    folder,
    config,
    dtype: str,
    attention: str,
    experts: str,
    device: torch.device,
    *,
    needed: str = "",
    **options,
) -> transformers.PreTrainedModel:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if experts == "auto":
        experts = "eager" if device.type == "cpu" else "grouped_mm"
    with _readable(folder or config.name_or_path):
        model, report = family.from_pretrained(
            folder,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            attn_implementation=None if attention == "auto" else attention,
            experts_implementation=experts,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    # transformers fills what is missing with random numbers
    mismatched = (name for name, *_ in report["mismatched_keys"])
    unfit = [name for name in [*sorted(report["missing_keys"]), *sorted(mismatched)] if needed in name]
    if unfit:
        raise Problem(
            f"{folder or config.name_or_path}: {len(unfit)} weights are missing or do not have the shape that "
            f"config.json says, first {unfit[0]}: fetch the checkpoint again."
        )
    return model


@contextmanager
def _readable(folder: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise Problem(
            f"{folder} cannot be loaded as a model ({str(error).splitlines()[0]}): mend the folder or the model's "
            "settings."
        ) from error


def _cut(config: transformers.PreTrainedConfig, layers: int) -> None:
    """Keep the first `layers` layers of a config, in its lists by layer too."""
    whole = config.num_hidden_layers
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == whole and name.endswith("layer_types"):
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers


def skeleton(config: transformers.PreTrainedConfig, trust_remote_code: bool = False) -> transformers.PreTrainedModel:
    """The base model of a config, without weights."""
    with torch.device("meta"):
        return AutoModel.from_config(config, trust_remote_code=trust_remote_code)


def find_routers(model: transformers.PreTrainedModel) -> dict[int, nn.Module]:
    """Router modules by layer index; dense layers have none, so indices may start above 0."""
    recorder = type(model)._can_record_outputs["router_logits"]
    return {
        layer: module
        for layer, block in enumerate(model.layers)
        for module in block.modules()
        if isinstance(module, recorder.target_class)
    }


def find_blocks(model: transformers.PreTrainedModel) -> dict[int, nn.Module]:
    """Mixture-of-Experts blocks, which hold a router and its `experts`, by layer index."""
    return {
        layer: module
        for layer, router in find_routers(model).items()
        for module in model.layers[layer].modules()
        if any(child is router for child in module.children())
    }


def expert_outputs(block: nn.Module, states: torch.Tensor, selected: torch.Tensor) -> torch.Tensor:
    """The output of each selected expert alone, not weighted: (token, rank, hidden).

    `states` (token, hidden) is what the block's router received, `selected` (token, rank) int64 the experts. Weighted
    and summed over ranks they are the block's output, less that of its shared experts.
    """
    one = torch.ones(selected.numel(), 1, dtype=states.dtype, device=states.device)
    alone = block.experts(states.repeat_interleave(selected.shape[1], dim=0), selected.reshape(-1, 1), one)
    return alone.view(*selected.shape, -1)


@torch.inference_mode()
def all_expert_outputs(
    block: nn.Module, states: np.ndarray, count: int, tokens_per_batch: int = 64
) -> Iterator[np.ndarray]:
    """What the first `count` experts of a block give for the same tokens: (token, expert, hidden) float32, by batches.

    `states` (token, hidden) is what the block's router received. Outputs are not weighted (see `expert_outputs`).
    """
    weight = next(block.parameters())
    for start in range(0, len(states), tokens_per_batch):
        batch = torch.from_numpy(states[start : start + tokens_per_batch]).to(weight.device, weight.dtype)
        every = torch.arange(count, device=weight.device).expand(len(batch), -1)
        yield expert_outputs(block, batch, every).float().cpu().numpy()


class ExpertMatrices(NamedTuple):
    """The weights of a block's experts: y = down (act(gate x) * (up x)), biases aside.

    `gate`, `up` (expert, neuron, hidden), `down` (expert, hidden, neuron): views, in the block's dtype and device.
    """

    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor

    def take(self, count: int) -> "ExpertMatrices":
        """Those of the first `count` experts."""
        return ExpertMatrices(*(matrix[:count] for matrix in self))


def expert_matrices(block: nn.Module) -> ExpertMatrices:
    """The weights of a block's experts, whatever way its family stores them."""
    both, down = block.experts.gate_up_proj.detach(), block.experts.down_proj.detach()
    if block.experts.is_transposed:
        both, down = both.mT, down.mT
    gate, up = both.chunk(2, dim=1) if block.experts.is_concatenated else (both[:, ::2], both[:, 1::2])
    return ExpertMatrices(gate, up, down)


def router_rows(block: nn.Module) -> np.ndarray:
    """The rows of a block's router, one per expert: (expert, hidden) float32."""
    router = block.router if hasattr(block, "router") else block.gate
    return router.weight.detach().float().cpu().numpy()


@torch.no_grad()
def randomise_experts(block: nn.Module, count: int, seed: list[int]) -> None:
    """Overwrite the first `count` experts by Gaussian ones with the root mean square of each parameter."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    for parameter in block.experts.parameters():
        scale = torch.stack([expert.float().square().mean() for expert in parameter]).mean().sqrt().cpu()
        parameter[:count] = (torch.randn(parameter[:count].shape, generator=generator) * scale).to(parameter)


def active_parameters(model: transformers.PreTrainedModel) -> int:
    """How many parameters of a model one token uses: all but those of the experts that it does not select.

    Embeddings count whole, as they do among all parameters, though a token reads one row of them.
    """
    rule = routing_rule(model.config)
    idle = sum(
        parameter.numel() // rule.experts * (rule.experts - rule.top_k)
        for block in find_blocks(model).values()
        for parameter in block.experts.parameters()
    )
    return sum(parameter.numel() for parameter in model.parameters()) - idle


def selection_bias(router: nn.Module) -> torch.Tensor | None:
    """The trained bias that a router adds to its scores when it selects, (expert,) float32; None if it has none."""
    return getattr(router, "e_score_correction_bias", None)


def describe(folder: Path, trust_remote_code: bool = False) -> dict:
    """What a model folder holds: revision, checksums and size of its weights, layers with experts, routing rule.

    The layers are found on the model's skeleton, without reading its weights. `model_revision` is the hub's commit, or
    "local" for a folder that did not come from the hub.
    """
    config = load_config(folder, trust_remote_code)
    rule = routing_rule(config)
    model = skeleton(config, trust_remote_code)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise Problem(f"{folder} has no *.safetensors file: convert the weights to safetensors.")
    commit = folder / "commit.txt"
    layers = sorted(find_routers(model))
    return {
        "model_revision": commit.read_text().strip() if commit.is_file() else "local",
        "weights_sha256": checksums.sha256(*weights),
        "weights_bytes": sum(path.stat().st_size for path in weights),
        "files": {path.name: checksums.sha256(path) for path in [folder / "config.json", *weights]},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "active_parameters": active_parameters(model),
        "moe_layers": layers,
        "dense_layers": sorted(set(range(config.num_hidden_layers)) - set(layers)),
        "context": config.max_position_embeddings,
        "vocabulary": config.vocab_size,
        "family": rule.family,
        "experts": rule.experts,
        "top_k": rule.top_k,
    }


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
