"""A model's folder: its config and tokenizer are read, or one sentence says why not; its code is not run unasked."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gatebook.inputs.model_folder import load_config, load_tokenizer, window_size
from gatebook.problem import Problem


@pytest.fixture
def copied(model_folder, tmp_path):
    """A copy of the tiny model that a test may spoil."""
    return shutil.copytree(model_folder, tmp_path / "copied")


def one_sentence(raised) -> None:
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


def test_a_config_that_cannot_be_read_is_one_sentence(copied, tmp_path):
    (copied / "config.json").write_text('{"model_type": ')
    with pytest.raises(Problem, match=r"config\.json cannot be read"):
        load_config(copied)
    (copied / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(Problem, match=r"config\.json cannot be read.*no_such_model"):
        load_config(copied)
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(Problem, match=r"is not a model folder: it has no config\.json"):
            load_config(folder)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("hidden_size", "16", r"cannot be read \(.*'hidden_size' expected int, got str.*\): correct it"),
        ("num_hidden_layers", None, r"cannot be read \(.*'num_hidden_layers' expected int, got NoneType"),
        ("num_attention_heads", 0, r"num_attention_heads is 0: write a positive integer"),
        ("num_key_value_heads", -1, r"num_key_value_heads is -1: write a positive integer"),
        ("num_experts_per_tok", 0, r"num_experts_per_tok is 0: write a positive integer"),
        ("num_experts_per_tok", 9, r"num_experts_per_tok is 9, more than the 8 experts of a layer: correct it"),
        ("quantization_config", {"quant_method": "awq"}, r"weights quantized by 'awq' cannot be turned back"),
    ],
)
def test_a_config_that_describes_no_model_names_the_key(copied, key, value, sentence):
    (copied / "config.json").write_text(json.dumps(json.loads((copied / "config.json").read_text()) | {key: value}))
    with pytest.raises(Problem, match=rf"copied/config\.json(: |\s){sentence}") as raised:
        load_config(copied)
    one_sentence(raised)


def test_as_many_experts_as_there_are_may_be_selected(copied):
    config = json.loads((copied / "config.json").read_text()) | {"num_experts_per_tok": 8}
    (copied / "config.json").write_text(json.dumps(config))
    assert load_config(copied).num_experts_per_tok == 8


def test_the_context_of_a_model_that_also_sees_is_that_of_its_text(tmp_path):
    text = {"model_type": "qwen3_5_moe_text", "max_position_embeddings": 77}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_5_moe", "text_config": text}))
    assert window_size("context", str(tmp_path)) == 77


def test_a_model_without_a_context_needs_a_window(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "switch_transformers"}')
    with pytest.raises(Problem, match=r"'switch_transformers' .* has no max_position_embeddings: give .* `window`"):
        window_size("context", str(tmp_path))
    assert window_size(8, str(tmp_path)) == 8


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_is_a_pointer_or_a_link_to_nothing_says_so(copied, name):
    (copied / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 9\n")
    with pytest.raises(Problem, match=rf"{name} is a git-lfs pointer, not the file: run `git lfs pull`") as raised:
        load_tokenizer(str(copied))
    one_sentence(raised)
    (copied / name).unlink()
    (copied / name).symlink_to("../blobs/gone")
    with pytest.raises(Problem, match=rf"{name} is a link to \.\./blobs/gone, which is gone: restore"):
        load_tokenizer(str(copied))


def test_remote_code_is_never_run(copied):
    (copied / "evil.py").write_text("raise SystemExit('remote code ran')")
    config = json.loads((copied / "config.json").read_text()) | {"model_type": "evil"}
    config |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(Problem, match=r"config\.json cannot be read"):
        load_config(copied)


def test_the_tokenizer_and_the_context_come_from_the_model_folder(model_folder, tokenizer):
    loaded = load_tokenizer(str(model_folder))
    assert loaded("Omar sold 4 eggs")["input_ids"] == tokenizer("Omar sold 4 eggs")["input_ids"]
    assert window_size("context", str(model_folder)) == 64
    assert window_size(17, "nowhere") == 17


def test_a_folder_without_a_tokenizer_is_one_sentence(model_folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    with pytest.raises(Problem, match=r"bare has no tokenizer: put tokenizer\.json") as raised:
        load_tokenizer(str(bare))
    one_sentence(raised)
    (bare / "tokenizer.json").write_text('{"half":')
    for folder in (bare, tmp_path / "absent"):
        with pytest.raises(Problem, match="has no readable tokenizer") as raised:
            load_tokenizer(str(folder))
        one_sentence(raised)


def test_a_tokenizer_of_the_repository_is_run_only_when_it_is_trusted(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = tmp_path / "own"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "tokenization_own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\nclass OwnTokenizer(PreTrainedTokenizerFast): pass\n"
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}}
    settings["tokenizer_class"] = "OwnTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    trusted = load_tokenizer(str(folder), trust_remote_code=True)
    assert type(trusted).__name__ == "OwnTokenizer"
    (folder / "tokenization_own.py").write_text("raise SystemExit('run')\n")
    untrusted = load_tokenizer(str(folder))  # transformers' own class reads the same tokenizer.json
    assert type(untrusted).__name__ != "OwnTokenizer"
    assert untrusted("Omar sold 4 eggs")["input_ids"] == trusted("Omar sold 4 eggs")["input_ids"]


WITHOUT_TORCH = """
import sys
from pathlib import Path
from gatebook.inputs import documents
from gatebook.inputs.model_folder import load_tokenizer
from gatebook.run import job

folder, cache = sys.argv[1:]
with job.without_torch(unless=False):
    tokenizer = load_tokenizer(folder)
file = Path(cache, "rows.txt")
file.write_text("Janet sold 3 eggs.")
settings = {"template": "{text}", "sample_by": "line", "cluster": [], "limits": {}}
(document,) = documents.of_dataset("eggs", [str(file)], settings)
assert "torch" not in sys.modules
print(*tokenizer(document.text)["input_ids"])
"""


@pytest.mark.slow
def test_a_job_tokenizes_without_torch_as_with_it(model_folder, tokenizer, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "scripts")}
    command = [sys.executable, "-c", WITHOUT_TORCH, str(model_folder), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "PyTorch" not in done.stderr, done.stderr
    assert list(map(int, done.stdout.split())) == tokenizer("Janet sold 3 eggs.")["input_ids"]
