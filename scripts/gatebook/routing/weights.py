"""Weights: which files of a folder hold them, and whether what they hold is what the model computes with."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn

from gatebook.inputs.model_folder import require_content
from gatebook.problem import Problem
from gatebook.routing.routers import layers_name, layers_of

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SMALLEST, LARGEST = 1e-3, 10.0
"""Root mean square of a layer's matrices, and of its experts', outside of which they are no weights.

Networks are initialised with 0.02, and the smallest of all supported families with 0.006; training makes matrices
larger (the embedded model's experts go from 0.020 to 0.030 in 20 steps, its router to 0.053), but not above 1.
Quantized numbers whose scales are lost have 30 (int8) or 100 (FP8), and weights that are divided by such scales instead
have 0.02 / 150 = 1.3e-4. Embeddings and gains are not held against it: they are initialised with 0.006 to 1, and some
gains with 0.
"""
AT_ONCE = 1 << 24
"""Numbers of a tensor that are looked at together."""


def files(folder: str | Path, config: transformers.PreTrainedConfig) -> list[Path]:
    """The files that hold a model's weights, in the order of their names, as transformers finds them.

    That is the file that the config names, or else model.safetensors, or else what model.safetensors.index.json names.
    A `Problem` if one of them is not there.
    """
    folder = Path(folder)
    own = getattr(config, "transformers_weights", None)
    found = [name for name in ([own] if own else [WHOLE, INDEX]) if require_content(folder / name).is_file()]
    if not found:
        raise _without_weights(folder)
    if not found[0].endswith(".json"):
        return [folder / found[0]]
    with readable(folder):
        index = json.loads((folder / found[0]).read_text(encoding="utf-8"))
    for key in ("weight_map", "metadata"):
        if key not in index:
            raise Problem(f"{folder}/{found[0]} has no `{key}`: fetch it again.")
    named = sorted(set(index["weight_map"].values()))
    absent = [name for name in named if not require_content(folder / name).is_file()]
    if absent or not named:
        raise Problem(
            f"{folder}/{found[0]} names {len(named)} files of weights, and {len(absent)} of them are not there, first "
            f"{(absent or ['all'])[0]}: fetch the checkpoint again."
        )
    return [folder / name for name in named]


def _without_weights(folder: Path) -> Problem:
    """What to say of a folder without weights that can be read."""
    what = f"{folder} has neither {WHOLE} nor {INDEX}"
    if pickled := sorted(path.name for pattern in PICKLED for path in folder.glob(pattern)):
        return Problem(
            f"{what}, and pickled weights such as {pickled[0]} are never loaded: run `make convert FOLDER={folder}` "
            "and study the folder that it writes."
        )
    if beside := sorted(path.name for pattern in ("*.safetensors", "*.gguf") for path in folder.glob(pattern)):
        return Problem(
            f"{what}, and {beside[0]} is not a whole model in the hub's layout: fetch the missing file, merge an "
            "adapter into its model, or use the original of a GGUF."
        )
    return Problem(f"{what}: fetch the weights of the checkpoint.")


def stored(named: list[Path]) -> dict[str, torch.Tensor]:
    """The tensors in files of weights by name, with their shapes and dtypes but without their contents."""
    found = {}
    for path in named:
        with readable(path.parent), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, not a dict
                part = file.get_slice(name)
                first = part[:0] if (shape := part.get_shape()) else file.get_tensor(name)
                found[name] = torch.empty(shape, dtype=first.dtype, device="meta")
    return found


@contextmanager
def readable(folder: str | Path) -> Iterator[None]:
    """Turn what libraries raise over a model's files into a `Problem`."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "conversion of the weights" in reason:  # it points to a report that is not shown
            raise Problem(
                f"{folder}: the tensors of an expert or the scales of its weights are not complete: fetch the "
                "checkpoint again."
            ) from error
        raise Problem(
            f"{folder} cannot be loaded as a model ({reason}): mend the folder or the model's settings."
        ) from error


def check_stored(folder: str | Path, tensors: dict[str, torch.Tensor], model: transformers.PreTrainedModel) -> None:
    """A `Problem` if tensors of a model hold quantized numbers and its config does not say what they stand for.

    `tensors` are those of `stored`; what lies in other parts of the checkpoint does not matter.
    """
    quantized = [name for name, tensor in tensors.items() if _is_quantized(tensor.dtype) and _within(name, model)]
    if quantized and getattr(model.config, "quantization_config", None) is None:
        dtype = str(tensors[quantized[0]].dtype).removeprefix("torch.")
        raise Problem(
            f"{folder}: {len(quantized)} tensors hold quantized numbers, first {quantized[0]} ({dtype}), and "
            "config.json has no quantization_config that says what they stand for: use the checkpoint in bfloat16, or "
            "the config.json that was published with this one."
        )


def check_report(folder: str | Path, model: transformers.PreTrainedModel, report: dict) -> None:
    """A `Problem` if what transformers loaded is not what the checkpoint holds.

    `report` is the loading info of transformers, which fills what is missing with random numbers and passes over what
    it does not know.
    """
    mismatched = (name for name, *_ in report["mismatched_keys"])
    unfit = [*sorted(report["missing_keys"]), *sorted(mismatched)]
    head = model.get_output_embeddings()
    if head is not None and unfit and all(model.get_submodule(name.rpartition(".")[0]) is head for name in unfit):
        raise Problem(
            f"{folder} has no output head ({unfit[0]} is missing): set extraction.predictions to false, or use a "
            "checkpoint that has it."
        )
    if unfit:
        raise Problem(
            f"{folder}: {len(unfit)} weights are missing or do not have the shape that config.json says, first "
            f"{unfit[0]}: fetch the checkpoint again."
        )
    if unread := sorted(name for name in report["unexpected_keys"] if _within(name, model)):
        raise Problem(
            f"{folder}: {len(unread)} tensors belong to parts of the model that do not read them, first {unread[0]}: "
            "use the checkpoint in bfloat16 if this one is quantized or has adapters, or the config.json that was "
            "published with it."
        )
    left = [name for name, tensor in model.state_dict().items() if _is_quantized(tensor.dtype)]
    if left:
        raise Problem(
            f"{folder}: {len(left)} weights have no scales and stay quantized, first {left[0]}: fetch the checkpoint "
            "again, or use it in bfloat16."
        )


@torch.inference_mode()
def check_values(folder: str | Path, model: transformers.PreTrainedModel) -> None:
    """A `Problem` if weights of a loaded model are not finite, or a layer's are none by their size (see `SMALLEST`).

    Weights that wait on a disk or in another memory for their turn are passed over.
    """
    base, head = model.base_model, model.get_output_embeddings()
    tensors = base.state_dict() | ({} if head is None else {"lm_head.weight": head.weight})
    squares = {
        name: _sum_of_squares(tensor)
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.is_meta
    }
    if spoiled := [name for name, square in squares.items() if not math.isfinite(square)]:
        wider = "" if model.dtype == torch.float32 else ", or set `dtype: float32` if its weights are finite"
        raise Problem(
            f"{folder}: {spoiled[0]} holds NaN or infinity in {str(model.dtype).removeprefix('torch.')}: fetch the "
            f"checkpoint again{wider}."
        )
    for layer in range(len(layers_of(base))):
        within = f"{layers_name(base)}.{layer}."
        matrices = [name for name in squares if name.startswith(within) and tensors[name].dim() > 1]
        experts = [name for name in matrices if ".experts." in name]
        for what, names in (("weights", matrices), ("experts", experts)):
            if names:
                _check_size(folder, f"the {what} of layer {layer}", _root_mean_square(squares, tensors, names))


def _root_mean_square(squares: dict[str, float], tensors: dict[str, torch.Tensor], names: list[str]) -> float:
    return (sum(squares[name] for name in names) / sum(tensors[name].numel() for name in names)) ** 0.5


def _check_size(folder: str | Path, what: str, size: float) -> None:
    """A `Problem` if matrices with this root mean square are no weights."""
    if SMALLEST <= size <= LARGEST:
        return
    reason = "they seem to be scaled down" if size else "nothing was written there"
    if size > LARGEST:
        reason = "they seem to be quantized numbers without their scales"
    raise Problem(
        f"{folder}: {what} have a root mean square of {size:.3g}, and those of networks have one between {SMALLEST:g} "
        f"and 1: {reason}, so use the checkpoint in bfloat16, or fetch it again."
    )


def _sum_of_squares(tensor: torch.Tensor) -> float:
    """The sum of the squares of a tensor's numbers, in float32 by parts, so that no copy of all of them is made."""
    return sum(part.float().square().sum() for part in tensor.reshape(-1).split(AT_ONCE)).item()


def _is_quantized(dtype: torch.dtype) -> bool:
    """Whether numbers of this dtype stand for others: 8-bit floats and all integers but indices."""
    if dtype in (torch.bool, torch.int64):
        return False
    return not dtype.is_floating_point or dtype.itemsize < 2


def _within(name: str, model: nn.Module) -> bool:
    """Whether a stored tensor lies in a layer of the model or in another of its parts.

    Checkpoints hold more: layers that were cut away or that predict further tokens, parts that see and hear.
    """
    first, *rest = re.sub(rf"^(model\.|language_model\.|{model.base_model_prefix}\.)+", "", name).split(".")
    part = (dict(model.named_children()) | dict(model.base_model.named_children())).get(first)
    if part is None or (isinstance(part, nn.ModuleList) and not part._modules.keys() & set(rest[:1])):
        return False
    for inner in rest:
        part = part._modules.get(inner, part)
    return not isinstance(part, nn.Identity)  # which stands for a part that is not wanted
