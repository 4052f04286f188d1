"""Models: load the base model of a Mixture-of-Experts checkpoint, find its routers and experts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
import xarray as xr
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from gatebook.files import checksums
from gatebook.inputs.model_folder import load_config
from gatebook.problem import Problem
from gatebook.routing import weights
from gatebook.routing.families import routing_rule
from gatebook.routing.routers import (
    expert_outputs,
    find_blocks,
    find_norm,
    find_routers,
    layers_of,
    router_of,
    rows_of,
    skeleton,
    unsupported,
)


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
        Likewise; "auto" is grouped_mm on a GPU, if the family has it, and eager on a CPU, where it is the faster one.
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
    if head:
        _check_head(folder, config, trust_remote_code)
    if gpus > 1 and torch.cuda.device_count() < gpus:
        raise Problem(f"gpus: {gpus} is set, but {torch.cuda.device_count()} CUDA devices are visible: set it to that.")
    weights.check_stored(folder, weights.stored(weights.files(folder, config)), skeleton(config))
    placement = None if device.type == "cpu" else "auto" if gpus > 1 else {"": device}
    remote = {"trust_remote_code": True} if trust_remote_code else {}
    family = AutoModelForCausalLM if head else AutoModel
    if last_layer is not None:
        family = _changed(type(skeleton(config)), lambda model: _cut(model, last_layer))
        remote = {}
    model = _from_pretrained(family, folder, config, dtype, attention, experts, device, device_map=placement, **remote)
    weights.check_values(folder, model)
    return model.eval()


def rehearse(
    folder: str | Path,
    tensors: dict[str, torch.Tensor],
    config: transformers.PreTrainedConfig,
    *,
    head: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Load a model as `load` does, but without its numbers, which takes no memory.

    Parameters
    ----------
    folder
        Where the tensors are or will be.
    tensors
        By name, on the device "meta" (see `weights.stored`).
    config
        Of the model.
    head, trust_remote_code
        As those of `load`.

    Raises
    ------
    Problem
        If names, shapes or dtypes do not fit the config.
    """
    if head:
        _check_head(folder, config, trust_remote_code)
    with weights.readable(folder), torch.device("meta"):
        model = (AutoModelForCausalLM if head else AutoModel).from_config(config, trust_remote_code=trust_remote_code)
    weights.check_stored(folder, tensors, model)
    options = {"state_dict": tensors, "device_map": {"": "meta"}}
    _from_pretrained(type(model), None, config, "auto", "eager", "eager", torch.device("cpu"), **options)


def _check_head(folder: str | Path, config: transformers.PreTrainedConfig, trust_remote_code: bool) -> None:
    """A `Problem` if transformers knows no model of this config that has an output head."""
    if not trust_remote_code and type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise Problem(
            f"extraction.predictions: transformers has no language-model head for model_type {config.model_type!r} "
            f"({folder}): set it to false."
        )


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
    empty = _empty(folder)
    config = empty.config
    choose_layers(layer, sorted(find_blocks(empty)), "layer")
    model = _parts(folder, empty, lambda model: [find_blocks(model)[layer]], dtype, device, experts)
    block = find_blocks(model)[layer]
    router, weighted = router_of(block), len(expert_matrices(block).down)
    between = [
        name
        for name, child in block.named_children()
        if child not in (router, block.experts) and "shared" not in name and next(child.parameters(), None) is not None
    ]
    if between:
        raise unsupported(config, f"its block has {between[0]}, so what single experts return does not add up to it")
    if len(rows_of(router)) != weighted:
        raise unsupported(
            config, f"its router selects among {len(rows_of(router))} experts, of which {weighted} have weights"
        )
    return block


def block_gain(folder: str | Path, layer: int) -> np.ndarray | None:
    """The gain of the norm before the Mixture-of-Experts block of one layer: (hidden,) float32.

    It is what the norm makes of ones of both signs. None for a family that normalises the block's output and not its
    input.
    """
    empty = _empty(folder)
    config = empty.config
    if (name := find_norm(config)) is None:
        return None
    model = _parts(
        folder, empty, lambda model: [layers_of(model)[layer].get_submodule(name)], "float32", torch.device("cpu")
    )
    norm, one = layers_of(model)[layer].get_submodule(name), 2.0**20  # beside which the norm's epsilon is nothing
    found = []
    for signs in ([1, -1, 1, -1], [1, 1, -1, -1]):
        sign = torch.tensor(signs, dtype=torch.float32).repeat(config.hidden_size // 4)
        with torch.inference_mode():
            found.append(((norm(one * sign) - norm(-one * sign)) / 2 * sign).numpy())
    if not np.array_equal(*found):
        raise unsupported(config, f"{name} before its experts does more than multiply by a gain")
    return found[0]


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
    empty = _empty(folder)
    chosen = choose_layers(layers, sorted(find_routers(empty)), "layers")

    def wanted(model):
        return [router for layer, router in find_routers(model).items() if layer in chosen]

    routers = find_routers(_parts(folder, empty, wanted, "auto", torch.device("cpu")))
    rows = np.stack([rows_of(routers[layer]).detach().float().numpy() for layer in chosen])
    attrs = {"long_name": "router rows", "units": "1"}
    return xr.DataArray(rows, dims=("layer", "expert", "hidden"), coords={"layer": chosen}, attrs=attrs)


def _empty(folder: str | Path) -> transformers.PreTrainedModel:
    """The skeleton of the model in a folder; a `Problem` if it follows no routing rule that is known."""
    config = load_config(folder)
    weights.files(folder, config)  # or else a Problem
    routing_rule(config)
    return skeleton(config)


def _parts(
    folder: str | Path,
    empty: transformers.PreTrainedModel,
    wanted: Callable[[nn.Module], list[nn.Module]],
    dtype: str,
    device: torch.device,
    experts: str = "auto",
) -> transformers.PreTrainedModel:
    """The model of a folder, of which `empty` is the skeleton, with the `wanted` modules alone; no more is read."""
    family = _changed(type(empty), lambda model: _keep(model, wanted(model)))
    placement = None if device.type == "cpu" else {"": device}
    model = _from_pretrained(family, folder, empty.config, dtype, "eager", experts, device, device_map=placement)
    return model.eval()


def _changed(family: type, change: Callable[[nn.Module], object]) -> type:
    """A class of models whose instances are changed before weights are read."""

    def build(self, config):
        family.__init__(self, config)
        change(self)

    return type(family.__name__, (family,), {"__init__": build, "__module__": family.__module__})


def _cut(model: transformers.PreTrainedModel, last_layer: int) -> None:
    """Remove the layers after the last wanted one."""
    del layers_of(model)[last_layer + 1 :]


def _keep(module: nn.Module, wanted: list[nn.Module]) -> None:
    """Put modules without weights in place of all that are not wanted, nor hold what is."""
    for name, child in module.named_children():
        if not any(child is one for one in wanted):
            if any(inside is one for inside in child.modules() for one in wanted):
                _keep(child, wanted)
            else:
                module.register_module(name, nn.Identity())


def _from_pretrained(
    family,
    folder,
    config,
    dtype: str,
    attention: str,
    experts: str,
    device: torch.device,
    **options,
) -> transformers.PreTrainedModel:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if experts == "auto":
        grouped = device.type != "cpu" and type(skeleton(config))._can_set_experts_implementation()
        experts = "grouped_mm" if grouped else "eager"
    place = folder or config.name_or_path
    with weights.readable(place):
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
            key_mapping={r"^(model\.)?language_model\.(model\.)?": "model."},  # of a model that sees, too
            **options,
        )
    weights.check_report(place, model, report)
    if experts != "eager":
        _try_experts(model, experts)
    return model


@torch.inference_mode()
def _try_experts(model: transformers.PreTrainedModel, experts: str) -> None:
    """A `Problem` if an implementation of experts, tried with one token, does not run on the model's device."""
    for block in list(find_blocks(model.base_model).values())[:1]:
        up = expert_matrices(block).up
        states = torch.ones(1, up.shape[-1], dtype=model.dtype, device=up.device)
        one = torch.ones(1, 1, dtype=model.dtype, device=up.device)
        try:
            block.experts(states, torch.zeros(1, 1, dtype=torch.int64, device=up.device), one)
        except Exception as error:
            raise Problem(
                f"experts: {experts} is set, but it does not run on {up.device.type} in {model.dtype} "
                f"({str(error).splitlines()[0]}): set it to auto."
            ) from error


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
    """The weights of a block's experts: y = down (act(gate x) * (up x)), biases aside; or y = down act(up x).

    `gate`, `up` (expert, neuron, hidden), `down` (expert, hidden, neuron): views, in the block's dtype and device.
    `gate` of experts without gates has no neurons.
    """

    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor

    def take(self, count: int) -> "ExpertMatrices":
        """Those of the first `count` experts."""
        return ExpertMatrices(*(matrix[:count] for matrix in self))


def expert_matrices(block: nn.Module) -> ExpertMatrices:
    """The weights of a block's experts, whatever way its family stores them."""
    experts = block.experts
    if hasattr(experts, "mlp"):  # DBRX: the rows of all experts, one after another
        gate, up, down = (
            rows.detach().unflatten(0, (experts.num_experts, -1))
            for rows in (experts.mlp.w1, experts.mlp.v1, experts.mlp.w2)
        )
        return ExpertMatrices(gate, up, down.mT)
    up, down = (experts.gate_up_proj if experts.has_gate else experts.up_proj).detach(), experts.down_proj.detach()
    if experts.is_transposed:
        up, down = up.mT, down.mT
    if not experts.has_gate:
        return ExpertMatrices(up[:, :0], up, down)
    gate, up = up.chunk(2, dim=1) if experts.is_concatenated else (up[:, ::2], up[:, 1::2])
    return ExpertMatrices(gate, up, down)


def router_rows(block: nn.Module) -> np.ndarray:
    """The rows of a block's router, one per expert: (expert, hidden) float32."""
    return rows_of(router_of(block)).detach().float().cpu().numpy()


@torch.no_grad()
def randomise_experts(block: nn.Module, count: int, seed: list[int]) -> None:
    """Overwrite the first `count` experts by Gaussian ones with the root mean square of each parameter."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    experts = len(expert_matrices(block).down)
    for parameter in block.experts.parameters():
        parameter = parameter.unflatten(0, (experts, -1))
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


def describe(folder: Path, trust_remote_code: bool = False, *, head: bool = False) -> dict:
    """What a model folder holds: revision, checksums and size of its weights, layers with experts, routing rule.

    The layers are found on the model's skeleton, without reading its weights. `model_revision` is the hub's commit, or
    "local" for a folder that did not come from the hub. A `Problem` if the weights do not fit the model, with `head` of
    the whole one (see `rehearse`).
    """
    config = load_config(folder, trust_remote_code)
    rule = routing_rule(config)
    model = skeleton(config)
    files = weights.files(folder, config)
    rehearse(folder, weights.stored(files), config, head=head, trust_remote_code=trust_remote_code)
    commit = folder / "commit.txt"
    layers = sorted(find_routers(model))
    return {
        "model_revision": commit.read_text().strip() if commit.is_file() else "local",
        "weights_sha256": checksums.sha256(*files),
        "weights_bytes": sum(path.stat().st_size for path in files),
        "files": {path.name: checksums.sha256(path) for path in [folder / "config.json", *files]},
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
