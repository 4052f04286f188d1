"""Folders of models as a test changes them."""

import json

from safetensors.torch import load_file, save_file


def change_config(folder, **values):
    """Set values in the config.json of a model's folder."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder, change):
    """Let `change` alter the tensors of a model's folder, by name."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
