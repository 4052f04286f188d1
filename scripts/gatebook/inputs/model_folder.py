"""A model's folder in the hub's layout: its config and its tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING

from gatebook.problem import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

POINTER = b"version https://git-lfs"
"""What the file begins with that git keeps in place of a large one."""
TOKENIZER_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
SIZES = (
    "hidden_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "max_position_embeddings",
)  # fmt: skip
EXPERTS, SELECTED = ("num_experts", "num_local_experts", "n_routed_experts"), "num_experts_per_tok"


def load_config(folder: str | Path, trust_remote_code: bool = False) -> "PreTrainedConfig":
    """The config of a model folder in the hub's layout, of its text model if it also sees or hears.

    A `Problem` when it cannot be read.
    """
    from transformers import AutoConfig

    if not require_content(Path(folder) / "config.json").is_file():
        raise Problem(f"{folder} is not a model folder: it has no config.json.")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers computes with what the file says
        raise Problem(f"{folder}/config.json cannot be read ({_reason(error)}): correct it.") from error
    text = config.get_text_config()
    _check_sizes(folder, text)
    quantization = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None)
    if quantization is not None:
        # quantized kernels bypass the router modules
        text.quantization_config = quantization | {"dequantize": True}
        _check_quantization(folder, text.quantization_config)
    text.name_or_path = config.name_or_path
    return text


def load_tokenizer(folder: str, *, trust_remote_code: bool = False):
    """The tokenizer of a model folder; a `Problem` when there is none, or it cannot be read."""
    from transformers import AutoTokenizer

    for pattern in TOKENIZER_FILES:
        for path in sorted(Path(folder).glob(pattern)):
            require_content(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise Problem(f"{folder} has no readable tokenizer ({str(error).splitlines()[0]}): fetch it again.") from error
    if not tokenizer("text", add_special_tokens=False)["input_ids"]:  # transformers makes an empty one without files
        raise Problem(f"{folder} has no tokenizer: put tokenizer.json beside config.json.")
    return tokenizer


def require_content(path: Path) -> Path:
    """The path itself; a `Problem` if it is a link to nothing, or the text by which git-lfs stands for a large file."""
    if path.is_symlink() and not path.exists():
        raise Problem(
            f"{path} is a link to {path.readlink()}, which is gone: restore that file (a cache may have been pruned), "
            f"or delete {path.parent} and fetch the model again."
        )
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise Problem(f"{path} is a git-lfs pointer, not the file: run `git lfs pull` in its repository.")
    return path


def _check_sizes(folder: str | Path, config: "PreTrainedConfig") -> None:
    """A `Problem` if a size in the config is no positive integer, or more experts are selected than there are."""
    found = {name: getattr(config, name, None) for name in (*SIZES, *EXPERTS, SELECTED)}
    sizes = {name: value for name, value in found.items() if isinstance(value, int)}  # transformers checks the types
    for name, value in sizes.items():
        if value < 1:
            raise Problem(f"{folder}/config.json: {name} is {value}: write a positive integer.")
    experts = [sizes[name] for name in EXPERTS if name in sizes]
    if experts and sizes.get(SELECTED, 0) > max(experts):
        raise Problem(
            f"{folder}/config.json: {SELECTED} is {sizes[SELECTED]}, more than the {max(experts)} experts of a layer: "
            "correct it."
        )


def _check_quantization(folder: str | Path, quantization: dict) -> None:
    """A `Problem` if transformers cannot turn quantized weights back when it loads them."""
    from transformers.quantizers import AutoHfQuantizer

    try:
        quantizer = AutoHfQuantizer.from_config(dict(quantization), pre_quantized=True)
        undone = "dequantize" in quantizer.get_load_operations()
    except (ValueError, TypeError, ImportError):  # a method that it does not know, or that needs a package
        undone = False
    if not undone:
        raise Problem(
            f"{folder}/config.json: weights quantized by {quantization.get('quant_method')!r} cannot be turned back "
            "when they are loaded: use the checkpoint in bfloat16."
        )


def _reason(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def window_size(window: int | str, folder: str, *, trust_remote_code: bool = False) -> int:
    """The window in tokens; "context" is the longest context of the model in `folder`."""
    if window != "context":
        return window
    config = load_config(folder, trust_remote_code)
    if not hasattr(config, "max_position_embeddings"):
        raise Problem(
            f"model_type {config.model_type!r} ({folder}) has no max_position_embeddings: give the model a `window` in "
            "tokens."
        )
    return config.max_position_embeddings
