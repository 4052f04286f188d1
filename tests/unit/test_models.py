"""Model folders: what they are, how they load, and one sentence for each way in which they do not."""

import json
import shutil

import numpy as np
import pytest
import torch
from families import FAMILIES, causal_model, watched
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Qwen2MoeConfig

from gatebook.files import checksums
from gatebook.problem import Problem
from gatebook.routing import extraction, models

CPU = torch.device("cpu")
SETTINGS = {"dtype": "auto", "device": CPU, "attention": "auto", "experts": "auto"}


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


# ---------------------------------------------------------------- describe and choose


def _expert_parameters(weights: dict[str, torch.Tensor]) -> int:
    """Parameters of one expert, by the names of its tensors."""
    return sum(tensor.numel() for name, tensor in weights.items() if "layers.0.mlp.experts.0." in name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_uses_all_parameters_but_those_of_experts_that_it_does_not_select(family):
    """Each routed expert of these models has three matrices of 16 x 8, GPT-OSS also biases of 16 and 2 x 8."""
    model = causal_model(family).model
    one = 3 * 16 * 8 + (16 + 2 * 8 if family == "gpt_oss" else 0)
    idle = len(models.find_routers(model)) * (8 - 3) * one
    assert models.active_parameters(model) == sum(each.numel() for each in model.parameters()) - idle


def test_description_of_the_tiny_model(model_folder, other_model_folder):
    description = models.describe(model_folder)
    weights = model_folder / "model.safetensors"
    base = {name: value for name, value in load_file(weights).items() if name != "lm_head.weight"}
    assert description == {
        "model_revision": "local",
        "weights_sha256": checksums.sha256(weights),
        "weights_bytes": weights.stat().st_size,
        "parameters": sum(tensor.numel() for tensor in base.values()),
        "active_parameters": sum(tensor.numel() for tensor in base.values()) - 4 * (8 - 3) * _expert_parameters(base),
        "files": {name: checksums.sha256(model_folder / name) for name in ("config.json", "model.safetensors")},
        "moe_layers": [0, 1, 2, 3],
        "dense_layers": [],
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
    description = models.describe(tmp_path / "q")
    assert (description["moe_layers"], description["dense_layers"]) == ([1, 3], [0, 2])


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


@pytest.fixture(params=FAMILIES)
def family_model(request, tmp_path):
    """A tiny model of each family, and the folder in the hub's own layout that it was saved to."""
    model = causal_model(request.param)
    model.save_pretrained(tmp_path / "family")
    return model, tmp_path / "family"


def test_every_family_loads_from_the_layout_of_the_hub(family_model):
    model, folder = family_model
    loaded = models.load(folder, **SETTINGS)
    expected = model.model.state_dict()
    assert sorted(loaded.state_dict()) == sorted(expected)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert models.describe(folder)["moe_layers"] == sorted(models.find_routers(model.model))


def test_layers_after_the_last_wanted_one_are_not_read(family_model):
    model, folder = family_model
    loaded = models.load(folder, **SETTINGS, last_layer=1)
    assert len(loaded.layers) == 2
    (seen, _), (whole, _) = (
        watched({1: models.find_routers(base)[1]}, base, torch.arange(30)) for base in (loaded, model.model)
    )
    for one, other in zip(seen[1][1], whole[1][1], strict=True):
        torch.testing.assert_close(one, other)


def test_a_block_is_the_same_alone_and_needs_its_layer_only(family_model):
    model, folder = family_model

    def keep_one_layer(weights):
        for name in [name for name in weights if ".layers.2." not in name]:
            del weights[name]

    change_weights(folder, keep_one_layer)
    block = models.load_block(folder, 2, dtype="auto", device=CPU)
    expected = models.find_blocks(model.model)[2].state_dict()
    assert sorted(block.state_dict()) == sorted(expected)
    for name, tensor in block.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_the_gain_before_a_block_is_that_of_the_norm_whose_output_it_receives(family_model):
    model, folder = family_model
    layer, gain = model.model.layers[2], models.block_gain(folder, 2)
    if hasattr(layer, "post_feedforward_layernorm"):
        assert gain is None
        return
    np.testing.assert_array_equal(gain, layer.post_attention_layernorm.weight.detach().numpy())
    modules = {1: layer.post_attention_layernorm, 2: models.find_blocks(model.model)[2]}
    seen, _ = watched(modules, model, torch.arange(9))
    torch.testing.assert_close(seen[1][1], seen[2][0])


def test_router_rows_of_all_layers_are_read_without_the_model(family_model):
    model, folder = family_model
    rows, blocks = models.read_router_rows(folder), models.find_blocks(model.model)
    assert rows.dims == ("layer", "expert", "hidden") and rows.dtype == np.float32
    assert rows["layer"].values.tolist() == sorted(blocks)
    for layer, block in blocks.items():
        np.testing.assert_array_equal(rows.sel(layer=layer), models.router_rows(block))
    np.testing.assert_array_equal(models.read_router_rows(folder, 2), rows.sel(layer=[2]))
    with pytest.raises(Problem, match="layers: layer 3 is not a Mixture-of-Experts layer; the model has"):
        models.read_router_rows(folder, [1, 3])
    change_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if ".layers.2." in name])
    with pytest.raises(Problem, match="has no weights of the router of layer 2: fetch the checkpoint again"):
        models.read_router_rows(folder)


def test_expert_matrices_and_router_rows_are_what_the_experts_and_the_router_apply(family_model):
    model, _ = family_model
    block, states = models.find_blocks(model.model)[2], torch.randn(6, 16)
    gate, up, down = models.expert_matrices(block)
    assert (gate.shape, up.shape, down.shape) == ((8, 8, 16), (8, 8, 16), (8, 16, 8))
    router = models.find_routers(model.model)[2]
    with torch.inference_mode():
        expected = torch.nn.functional.linear(states, torch.from_numpy(models.router_rows(block)))
        torch.testing.assert_close(router(states)[0], expected + getattr(router, "bias", 0))
        for name, parameter in block.experts.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        for expert in range(8):
            given = models.expert_outputs(block, states, torch.full((6, 1), expert))[:, 0]
            inner = (states @ gate[expert].T, states @ up[expert].T)
            if hasattr(block.experts, "alpha"):  # GPT-OSS
                inner = (inner[0] * torch.sigmoid(block.experts.alpha * inner[0]), inner[1] + 1)
            else:
                inner = (torch.nn.functional.silu(inner[0]), inner[1])
            torch.testing.assert_close(given, inner[0] * inner[1] @ down[expert].T)


def test_random_experts_have_the_scale_of_the_others_and_leave_the_rest_alone(family_model):
    model, _ = family_model
    block = models.find_blocks(model.model)[2]
    before = {name: parameter.detach().clone() for name, parameter in block.experts.named_parameters()}
    made = []
    for seed in ([1, 2], [1, 2], [1, 3]):
        for name, parameter in block.experts.named_parameters():
            parameter.data.copy_(before[name])
        models.randomise_experts(block, 5, seed)
        made.append({name: parameter.detach().clone() for name, parameter in block.experts.named_parameters()})
    for name, old in before.items():
        assert torch.equal(made[0][name][5:], old[5:])
        assert torch.equal(made[0][name], made[1][name]) and not torch.equal(made[0][name], made[2][name])
        drawn = made[0][name][:5]
        assert abs(drawn.std() / old.square().mean().sqrt() - 1) < 5 / drawn.numel() ** 0.5
        assert abs(drawn.mean()) < 5 * drawn.std() / drawn.numel() ** 0.5


def test_a_block_whose_weights_are_missing_is_refused(copied):
    change_weights(copied, remove_one)
    with pytest.raises(Problem, match=r"copied: 1 weights are missing .*layers\.0\.mlp\.gate\.weight: fetch"):
        models.load_block(copied, 2, dtype="auto", device=CPU)
    with pytest.raises(Problem, match="weights are missing"):
        models.load_block(copied, 7, dtype="auto", device=CPU)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_outputs_of_single_experts_weighted_and_summed_are_the_block(family, dtype, tolerance):
    model = causal_model(family, dtype)
    blocks, routers = models.find_blocks(model.model), models.find_routers(model.model)
    seen, _ = watched(blocks, model, torch.arange(40))
    assert sorted(seen) == sorted(routers)
    for layer, (states, output) in seen.items():
        block, states = blocks[layer], states.reshape(-1, 16)
        output = (output[0] if isinstance(output, tuple) else output).reshape(-1, 16)
        with torch.inference_mode():
            _, weights, selected = routers[layer](states)
            alone = models.expert_outputs(block, states, selected)
            assert alone.shape == (40, 3, 16)
            expected = (alone * weights[..., None]).sum(dim=1)
            if hasattr(block, "shared_experts"):
                expected = expected + block.shared_experts(states)
            if hasattr(block, "shared_expert"):
                expected = expected + block.shared_expert(states) * block.shared_expert_gate(states).sigmoid()
        assert (expected - output).abs().max() <= tolerance * output.abs().max()


def test_tied_embeddings_load(tmp_path):
    model = causal_model("qwen3_moe", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    assert torch.equal(models.load(tmp_path, **SETTINGS).embed_tokens.weight, model.model.embed_tokens.weight)


def mxfp4(shape: tuple[int, ...], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random blocks and scales of a tensor (expert, row, column) in MXFP4, and what they stand for."""
    values = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.randint(0, 16, (*shape[:-1], shape[-1] // 32, 32), generator=generator)
    scales = torch.randint(120, 126, codes.shape[:-1], generator=generator)
    exact = (values[codes] * 2.0 ** (scales - 127)[..., None]).reshape(shape)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    return blocks, scales.to(torch.uint8), exact


def test_gpt_oss_as_it_is_released_is_dequantized_so_that_its_routers_are_called(tmp_path):
    model = causal_model("gpt_oss", torch.bfloat16, hidden_size=32, intermediate_size=32)
    model.save_pretrained(tmp_path)
    generator, expected = torch.Generator().manual_seed(3), {}

    def quantize(weights):
        for layer in range(3):
            for name, shape in (("gate_up_proj", (8, 64, 32)), ("down_proj", (8, 32, 32))):
                key = f"model.layers.{layer}.mlp.experts.{name}"
                del weights[key]
                blocks, scales, expected[layer, name] = mxfp4(shape, generator)
                weights |= {f"{key}_blocks": blocks, f"{key}_scales": scales}

    change_weights(tmp_path, quantize)
    change_config(
        tmp_path, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens"]}
    )
    loaded = models.load(tmp_path, **SETTINGS)
    for (layer, name), values in expected.items():
        found = getattr(loaded.layers[layer].mlp.experts, name)
        assert torch.equal(found.float(), values.transpose(1, 2)), (layer, name)
    seen, _ = watched(models.find_routers(loaded), loaded, torch.arange(20))
    assert sorted(seen) == [0, 1, 2]


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


def test_layers_spread_over_devices_are_captured_as_if_they_were_on_one(tmp_path):
    """Layers whose weights stay on disk until they are needed: the hooks that move them leave the routers' hooks be."""
    model = causal_model("olmoe")
    model.save_pretrained(tmp_path / "m")
    spread = {"embed_tokens": "cpu", "rotary_emb": "cpu", "layers.0": "cpu", "norm": "cpu"}
    spread |= {f"layers.{layer}": "disk" for layer in (1, 2)}
    loaded = AutoModel.from_pretrained(tmp_path / "m", device_map=spread, offload_folder=tmp_path / "offload")
    assert loaded.hf_device_map == spread
    tokens = np.arange(40, dtype=np.int32)
    found = []
    for each in (model.model, loaded):
        (span,) = extraction.extract(each, [0, 1, 2], tokens, np.array([0, 25]), tokens_per_batch=64)
        found.append(dict(span.records("exact")))
    for layer in (0, 1, 2):
        one, other = (records[layer].per_token["router_logits"] for records in found)
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_more_gpus_than_there_are_is_refused(model_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Problem, match=r"^gpus: 2 is set, but 1 CUDA devices are visible"):
        models.load(model_folder, **SETTINGS, gpus=2)
