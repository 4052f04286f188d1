"""A model's folder in the hub's layout: its config and its tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import StrictDataclassError

from gatebook.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def load_config(folder: str | Path, trust_remote_code: bool = False) -> "PreTrainedConfig":
    """The config of a model folder in the hub's layout, of its text model if it also sees or hears.

    A `Problem` when it cannot be read.
    """
    from transformers import AutoConfig

    if not (Path(folder) / "config.json").is_file():
        raise Problem(f"{folder} is not a model folder: it has no config.json.")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except StrictDataclassError as error:  # its last line says which value has a wrong type
        reason = str(error).splitlines()[-1].strip()
        raise Problem(f"{folder}/config.json is wrong ({reason}): correct it, or get the file again.") from error
    except (ValueError, OSError) as error:
        raise Problem(f"{folder}/config.json cannot be read ({str(error).splitlines()[0]}).") from error
    text = config.get_text_config()
    if (quantization := getattr(config, "quantization_config", None)) is not None:
        # quantized kernels bypass the router modules
        text.quantization_config = quantization | {"dequantize": True}
    text.name_or_path = config.name_or_path
    return text


def load_tokenizer(folder: str, *, trust_remote_code: bool = False):
    """The tokenizer of a model folder; a `Problem` when there is none, or it cannot be read."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise Problem(f"{folder} has no readable tokenizer ({str(error).splitlines()[0]}): fetch it again.") from error
    if not tokenizer("text", add_special_tokens=False)["input_ids"]:  # transformers makes an empty one without files
        raise Problem(f"{folder} has no tokenizer: put tokenizer.json beside config.json.")
    return tokenizer


def window_size(window: int | str, folder: str, *, trust_remote_code: bool = False) -> int:
    """The window in tokens; "context" is the longest context of the model in `folder`."""
    if window != "context":
        return window
    return load_config(folder, trust_remote_code).max_position_embeddings
