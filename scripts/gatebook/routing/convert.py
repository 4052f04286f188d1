"""Pickled weights as safetensors: `make convert FOLDER=...` writes a folder beside, without a pickle in it."""

import json
import pickle
import sys
import zipfile
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict

from gatebook.files import atomic
from gatebook.inputs.hub import FILES
from gatebook.inputs.model_folder import load_config, require_content
from gatebook.problem import Problem
from gatebook.routing.models import rehearse
from gatebook.routing.weights import PICKLED

INDEX = "pytorch_model.bin.index.json"


def convert(folder: Path, *, shard_bytes: int = 5 * 10**9) -> Path:
    """Write the pickled weights of a model's folder as safetensors; the new folder, with config and tokenizer.

    Names and shapes are compared with the config first. A pickle is only read for tensors: code in it is not run.
    """
    target = folder.with_name(f"{folder.name}-safetensors")
    if target.exists():
        raise Problem(f"{target} exists already: study it, or delete it to convert {folder} again.")
    config, state = load_config(folder), {}
    for path in _pickles(folder):
        state |= _tensors(path)
    while len({name.partition(".")[0] for name in state}) == 1 and all("." in name for name in state):
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}  # module., _orig_mod.
    empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    rehearse(folder, empty, config, head=any("lm_head" in name for name in state))
    atomic.check_room(target, sum(tensor.nbytes for tensor in state.values()), "move the folder to a larger disk")
    with atomic.atomic_directory(target) as partial:
        save_torch_state_dict(state, partial, max_shard_size=shard_bytes, metadata={"format": "pt"})
        for path in sorted({path for pattern in FILES for path in folder.glob(pattern)}):
            if path.suffix != ".safetensors" and not path.name.endswith(".index.json"):
                atomic.copy(path, partial / path.name)
    return target


def _pickles(folder: Path) -> list[Path]:
    """The files of pickled weights: those of the index if there is one, or else the only one."""
    if (folder / INDEX).is_file():
        named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return [require_content(folder / name) for name in sorted(set(named))]
    found = sorted(path for pattern in PICKLED for path in folder.glob(pattern) if path.name != "training_args.bin")
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise Problem(f"{folder} has to hold one file of pickled weights, or {INDEX}, but has {names}: leave only one.")
    return [require_content(found[0])]


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors by name in a pickled state dict, which may lie in a checkpoint with the state of the training."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise Problem(
            f"{path} cannot be read as tensors alone ({str(error).splitlines()[0]}): save the model's state_dict() "
            "where it was trained."
        ) from error
    for inner in [held, *(held.values() if isinstance(held, dict) else [])]:
        if isinstance(inner, dict) and inner and all(isinstance(value, torch.Tensor) for value in inner.values()):
            return {name: tensor for name, tensor in inner.items() if isinstance(name, str)}
    raise Problem(f"{path} holds no state_dict of tensors by name: save the model's state_dict() where it was trained.")


def main() -> None:
    """Convert the folder that the command line names."""
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("Error: no folder is given: make convert FOLDER=path/of/the/model.")
    try:
        print(f"Weights in safetensors: {convert(Path(sys.argv[1]))}")
    except Problem as problem:
        sys.exit(f"Error: {problem}")


if __name__ == "__main__":
    main()
