"""Model folders: what they are, how they load, and one sentence for each way in which they do not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig

from moeatlas import models, storage
from moeatlas.job import Problem

CPU = torch.device("cpu")
SETTINGS = {"dtype": "auto", "device": CPU, "attention": "sdpa", "experts": "auto"}


@pytest.fixture
def copied(model_folder, tmp_path):
    """A copy of the tiny model that a test may spoil."""
    return shutil.copytree(model_folder, tmp_path / "copied")


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


# ---------------------------------------------------------------- the routing rule


def test_rule_of_olmoe_on_hand_computed_logits():
    rule = models.routing_rule(OlmoeConfig(num_experts=4, num_experts_per_tok=2, norm_topk_prob=False))
    weights, selected = rule.apply(torch.tensor([[0.0, 3.0, 1.0, 2.0]]).log1p())
    assert selected.tolist() == [[1, 3]]
    torch.testing.assert_close(weights, torch.tensor([[0.4, 0.3]]))


def test_rule_of_mixtral_renormalises_and_stays_float32():
    rule = models.routing_rule(MixtralConfig(num_local_experts=4, num_experts_per_tok=2))
    weights, selected = rule.apply(torch.tensor([[0.0, 3.0, 1.0, 1.0]]).log1p().bfloat16())
    assert selected.tolist()[0][0] == 1
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([[2 / 3, 1 / 3]]), atol=1e-2, rtol=0)


@pytest.mark.parametrize("config", [OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig])
@pytest.mark.parametrize("normalised", [False, True])
def test_rule_reads_experts_top_k_and_renormalisation_from_the_config(config, normalised):
    rule = models.routing_rule(config(num_experts=12, num_experts_per_tok=5, norm_topk_prob=normalised))
    assert (rule.experts, rule.top_k, rule.normalised, rule.cast) == (12, 5, normalised, True)
    assert json.loads(rule.as_json())["scores"] == "softmax"


def test_an_unsupported_family_is_named_with_the_supported_ones(copied):
    change_config(copied, model_type="dbrx")
    with pytest.raises(Problem, match=r"model_type 'dbrx' .*: the supported families are flex_olmo, mixtral, olmoe"):
        models.routing_rule(models.load_config(copied))


# ---------------------------------------------------------------- describe and choose


def test_description_of_the_tiny_model(model_folder, other_model_folder):
    description = models.describe(model_folder)
    weights = model_folder / "model.safetensors"
    base = {name: value for name, value in load_file(weights).items() if name != "lm_head.weight"}
    assert description == {
        "model_revision": "local",
        "weights_sha256": storage.sha256(weights),
        "weights_bytes": weights.stat().st_size,
        "parameters": sum(tensor.numel() for tensor in base.values()),
        "moe_layers": [0, 1, 2, 3],
        "hidden_layers": 4,
        "context": 64,
        "vocabulary": 320,
        "family": "olmoe",
        "experts": 8,
        "top_k": 3,
    }
    assert models.describe(other_model_folder)["weights_sha256"] != description["weights_sha256"]


def test_description_takes_the_commit_of_the_hub_and_skips_dense_layers(tmp_path, copied):
    (copied / "commit.txt").write_text("0123abcd\n")
    assert models.describe(copied)["model_revision"] == "0123abcd"
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 50}
    Qwen2MoeConfig(num_hidden_layers=4, mlp_only_layers=[0, 2], num_experts=4, **sizes).save_pretrained(tmp_path / "q")
    shutil.copy(copied / "model.safetensors", tmp_path / "q")
    assert models.describe(tmp_path / "q")["moe_layers"] == [1, 3]


def test_description_needs_safetensors(copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(Problem, match=r"copied has no \*\.safetensors file: convert"):
        models.describe(copied)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [("all", [1, 2, 3, 5]), (2, [2]), ("1-3", [1, 2, 3]), ("3-3", [3]), ([5, "1-2", 2], [1, 2, 5])],
)
def test_chosen_layers(wanted, chosen):
    assert models.choose_layers(wanted, [1, 2, 3, 5], "models.m.layers") == chosen


@pytest.mark.parametrize(("wanted", "wrong"), [(0, 0), ("3-5", 4), ([1, 6], 6), ("2-99", 4)])
def test_a_layer_without_router_names_the_key_the_layer_and_the_layers(wanted, wrong):
    sentence = rf"models\.m\.layers: layer {wrong} is not a Mixture-of-Experts layer; the model has \[1, 2, 3, 5\]"
    with pytest.raises(Problem, match=sentence):
        models.choose_layers(wanted, [1, 2, 3, 5], "models.m.layers")


# ---------------------------------------------------------------- load


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_loaded_weights_are_those_of_the_file_in_the_dtype(model_folder, dtype, expected):
    model = models.load(model_folder, **SETTINGS | {"dtype": dtype})
    stored = load_file(model_folder / "model.safetensors")
    for layer, router in models.find_routers(model).items():
        assert router.weight.dtype == expected
        assert torch.equal(router.weight, stored[f"model.layers.{layer}.mlp.gate.weight"].to(expected))
    assert not model.training
    assert not hasattr(model, "lm_head")
    assert model.config._attn_implementation == "sdpa"
    assert model.config._experts_implementation == "eager"


def test_experts_implementations_agree_in_float32(model_folder):
    ids = torch.arange(20)[None]
    hidden = {}
    for experts in ("eager", "grouped_mm"):
        model = models.load(model_folder, **SETTINGS | {"experts": experts})
        with torch.inference_mode():
            hidden[experts] = model(ids).last_hidden_state
    torch.testing.assert_close(hidden["eager"], hidden["grouped_mm"], atol=1e-5, rtol=1e-5)


def remove_one(weights):
    del weights["model.layers.2.mlp.gate.weight"]


def narrow_one(weights):
    weights["model.layers.2.mlp.gate.weight"] = weights["model.layers.2.mlp.gate.weight"][:4].clone()


@pytest.mark.parametrize("spoil", [remove_one, narrow_one])
def test_weights_that_do_not_fit_are_refused_instead_of_made_up(copied, spoil):
    change_weights(copied, spoil)
    with pytest.raises(Problem, match=r"copied: 1 weights are missing .*layers\.2\.mlp\.gate\.weight: fetch"):
        models.load(copied, **SETTINGS)


def test_every_unreadable_folder_is_one_sentence(copied, tmp_path):
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    for content in (b"", whole[:1000], whole[:-500]):
        weights.write_bytes(content)
        with pytest.raises(Problem, match="copied cannot be loaded as a model") as raised:
            models.load(copied, **SETTINGS)
        assert "\n" not in str(raised.value)
    (copied / "config.json").write_text('{"model_type": ')
    with pytest.raises(Problem, match=r"config\.json cannot be read"):
        models.load_config(copied)
    (copied / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(Problem, match=r"config\.json cannot be read.*no_such_model"):
        models.load_config(copied)
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(Problem, match=r"is not a model folder: it has no config\.json"):
            models.load_config(folder)


def test_remote_code_is_never_run(copied):
    (copied / "evil.py").write_text("raise SystemExit('remote code ran')")
    change_config(copied, model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    with pytest.raises(Problem, match=r"config\.json cannot be read"):
        models.load_config(copied)


def test_an_attention_that_is_not_installed_is_one_sentence(model_folder):
    with pytest.raises(Problem, match=r"cannot be loaded as a model \(FlashAttention2"):
        models.load(model_folder, **SETTINGS | {"attention": "flash_attention_2"})


# ---------------------------------------------------------------- device


@pytest.mark.parametrize(("visible", "chosen"), [(0, "cpu"), (2, "cuda")])
def test_auto_is_cuda_when_there_is_one(monkeypatch, visible, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert models.choose_device("auto") == torch.device(chosen)
    assert models.choose_device("cpu") == CPU


@pytest.mark.parametrize(("wanted", "visible"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_device_that_is_not_there_is_refused(monkeypatch, wanted, visible):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    with pytest.raises(Problem, match=rf"device: {wanted} is set, but {visible} CUDA devices are visible"):
        models.choose_device(wanted)
