"""Model folders: what they are, how they load, and one sentence for each way in which they do not."""

import copy
import shutil

import numpy as np
import pytest
import torch
import yaml
from families import FAMILIES, KINDS, SEEING, causal_model, config_of, decided, seeing_model, watched
from folder_cases import change_config, change_weights
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from gatebook.files import checksums
from gatebook.lists import ROOT
from gatebook.problem import Problem
from gatebook.routing import extraction, models, routers
from gatebook.routing.routers import find_blocks, find_norm, find_routers, layers_of

CPU = torch.device("cpu")
SETTINGS = {"dtype": "auto", "device": CPU, "attention": "auto", "experts": "auto"}


@pytest.fixture
def copied(model_folder, tmp_path):
    """A copy of the tiny model that a test may spoil."""
    return shutil.copytree(model_folder, tmp_path / "copied")


# ---------------------------------------------------------------- describe and choose


def _expert_parameters(weights: dict[str, torch.Tensor]) -> int:
    """Parameters of one expert, by the names of its tensors."""
    return sum(tensor.numel() for name, tensor in weights.items() if "layers.0.mlp.experts.0." in name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_uses_all_parameters_but_those_of_experts_that_it_does_not_select(family):
    """Each routed expert has three matrices of 16 x 8, GPT-OSS also biases of 16 and 2 x 8, Nemotron-H no gate."""
    model = causal_model(family).base_model
    one = (2 if family == "nemotron_h" else 3) * 16 * 8 + (16 + 2 * 8 if family == "gpt_oss" else 0)
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
    causal_model("qwen2_moe", num_hidden_layers=4, mlp_only_layers=[0, 2]).save_pretrained(tmp_path / "q")
    description = models.describe(tmp_path / "q")
    assert (description["moe_layers"], description["dense_layers"]) == ([1, 3], [0, 2])


def test_a_config_of_which_no_model_can_be_made_is_one_sentence(tmp_path):
    causal_model("qwen3_moe").save_pretrained(tmp_path)
    for head_dim in (0, -1):
        change_config(tmp_path, head_dim=head_dim)
        with pytest.raises(Problem, match=r"transformers builds no model of its config \(.+\); the README"):
            models.describe(tmp_path)


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
    for layer, router in find_routers(model).items():
        assert router.weight.dtype == expected
        assert torch.equal(router.weight, stored[f"model.layers.{layer}.mlp.gate.weight"].to(expected))
    assert not model.training
    assert not hasattr(model, "lm_head")
    assert model.config._attn_implementation == "sdpa"
    assert model.config._experts_implementation == "eager"


def test_the_config_names_every_implementation_of_experts_that_transformers_has():
    schema = yaml.safe_load((ROOT / "config/schemas/config.schema.yaml").read_text())
    named = schema["properties"]["models"]["additionalProperties"]["properties"]["experts"]["enum"]
    assert set(named) == {"auto", "eager", *ALL_EXPERTS_FUNCTIONS.keys()}


@pytest.mark.parametrize("experts", sorted({"eager", *ALL_EXPERTS_FUNCTIONS.keys()}))
def test_an_implementation_of_experts_runs_or_is_refused_in_one_sentence(model_folder, experts):
    def loaded(chosen):
        return models.load(model_folder, **SETTINGS | {"experts": chosen})

    if experts in ("deepgemm", "sonicmoe"):  # for GPUs
        with pytest.raises(Problem, match=rf"^experts: {experts} is set, but it does not run on .*: set it to auto"):
            loaded(experts)
        with pytest.raises(Problem, match=rf"^experts: {experts} is set, but it does not run on cpu"):
            models.load_block(model_folder, 1, dtype="auto", device=CPU, experts=experts)
        return
    ids, model = torch.arange(20)[None], loaded(experts)
    assert models.computation(model, CPU)["experts"] == experts
    with torch.inference_mode():
        torch.testing.assert_close(model(ids)[0], loaded("eager")(ids)[0], atol=1e-5, rtol=1e-5)


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


@pytest.fixture(scope="module", params=FAMILIES)
def family_model(request, tmp_path_factory):
    """A tiny model of each family, and the folder in the hub's own layout that it was saved to."""
    model, folder = causal_model(request.param), tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, folder


def alone(folder, layer, tmp_path):
    """A copy of a folder that holds the weights of one layer only."""
    folder = shutil.copytree(folder, tmp_path / "alone")
    change_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if f".{layer}." not in name])
    return folder


def test_every_family_loads_from_the_layout_of_the_hub(family_model):
    model, folder = family_model
    loaded = models.load(folder, **SETTINGS)
    expected = model.base_model.state_dict()
    assert sorted(loaded.state_dict()) == sorted(expected)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert models.describe(folder)["moe_layers"] == sorted(find_routers(model.base_model))


def test_layers_after_the_last_wanted_one_are_not_read(family_model, tmp_path):
    model, folder = family_model
    folder = shutil.copytree(folder, tmp_path / "cut")
    change_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if ".layers.2." in name])
    loaded = models.load(folder, **SETTINGS, last_layer=1)
    assert len(layers_of(loaded)) == 2
    (seen, _), (whole, _) = (
        watched({1: find_routers(base)[1]}, base, torch.arange(30)) for base in (loaded, model.base_model)
    )
    for one, other in zip(seen[1][1], whole[1][1], strict=True):
        torch.testing.assert_close(one, other)


def test_a_block_is_the_same_alone_and_needs_its_layer_only(family_model, tmp_path):
    model, folder = family_model
    block = models.load_block(alone(folder, 2, tmp_path), 2, dtype="auto", device=CPU)
    expected = find_blocks(model.base_model)[2].state_dict()
    assert sorted(block.state_dict()) == sorted(expected)
    for name, tensor in block.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_the_gain_before_a_block_is_that_of_the_norm_whose_output_it_receives(family_model):
    """The block's input is the norm's, divided by its root mean square and times the gain."""
    model, folder = family_model
    layer, gain, name = layers_of(model.base_model)[2], models.block_gain(folder, 2), find_norm(model.config)
    if name is None:
        assert gain is None and hasattr(layer, "post_feedforward_layernorm")
        return
    seen, _ = watched({1: layer.get_submodule(name), 2: find_blocks(model.base_model)[2]}, model, torch.arange(9))
    assert torch.equal(seen[1][1], seen[2][0])
    given = seen[1][0]
    if model.config.model_type in ("cohere2_moe", "dbrx"):  # a LayerNorm
        given = given - given.mean(dim=-1, keepdim=True)
    unit = given / given.square().mean(dim=-1, keepdim=True).sqrt()
    torch.testing.assert_close(seen[2][0], unit * torch.from_numpy(gain), atol=1e-3, rtol=1e-3)


def test_a_norm_of_one_plus_its_weight_has_that_gain(tmp_path):
    model = causal_model("qwen3_next")
    model.save_pretrained(tmp_path)
    weight = model.model.layers[2].post_attention_layernorm.weight.detach().numpy()
    np.testing.assert_array_equal(models.block_gain(tmp_path, 2), 1 + weight)
    assert abs(weight).max() < 0.5


def test_router_rows_of_all_layers_are_read_without_the_model(family_model, tmp_path):
    model, folder = family_model
    rows, blocks = models.read_router_rows(folder), find_blocks(model.base_model)
    assert rows.dims == ("layer", "expert", "hidden") and rows.dtype == np.float32
    assert rows["layer"].values.tolist() == sorted(blocks)
    seen = decided(model, torch.arange(12))
    for layer, block in blocks.items():
        np.testing.assert_array_equal(rows.sel(layer=layer), models.router_rows(block))
        states, (logits, *_) = seen[layer]
        expected = states.reshape(-1, 16) @ torch.from_numpy(models.router_rows(block)).T
        bias = getattr(routers.router_of(block), "bias", None)
        torch.testing.assert_close(logits, expected if bias is None else expected + bias)
    if model.config.model_type == "olmoe":
        np.testing.assert_array_equal(models.read_router_rows(alone(folder, 2, tmp_path), 2), rows.sel(layer=[2]))
        with pytest.raises(Problem, match="layers: layer 3 is not a Mixture-of-Experts layer; the model has"):
            models.read_router_rows(folder, [1, 3])
        with pytest.raises(
            Problem, match=r"2 weights are missing .*layers\.0\.mlp\.gate\.weight: fetch the checkpoint"
        ):
            models.read_router_rows(tmp_path / "alone")


def test_expert_matrices_are_what_the_experts_apply(family_model):
    model, _ = family_model
    block, states = copy.deepcopy(find_blocks(model.base_model)[2]), torch.randn(6, 16)
    gate, up, down = models.expert_matrices(block)
    gated = model.config.model_type != "nemotron_h"
    assert (gate.shape, up.shape, down.shape) == ((8, 8 if gated else 0, 16), (8, 8, 16), (8, 16, 8))
    with torch.inference_mode():
        for name, parameter in block.experts.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        for expert in range(8):
            given = models.expert_outputs(block, states, torch.full((6, 1), expert))[:, 0]
            inner = (states @ gate[expert].T, states @ up[expert].T)
            if not gated:
                inner = (block.experts.act_fn(inner[1]), torch.tensor(1.0))
            elif hasattr(block.experts, "alpha"):  # GPT-OSS
                inner = (inner[0] * torch.sigmoid(block.experts.alpha * inner[0]), inner[1] + 1)
            else:
                activation = getattr(block.experts, "act_fn", None) or block.experts.mlp.activation_fn
                inner = (activation(inner[0]), inner[1])
            torch.testing.assert_close(given, inner[0] * inner[1] @ down[expert].T)


@pytest.mark.parametrize("family", SEEING)
def test_the_text_model_of_one_that_also_sees_is_studied(family, tmp_path):
    model = seeing_model(family)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("model.language_model.layers.") for name in weights)
    text, expected = models.load(tmp_path, **SETTINGS), model.model.language_model.state_dict()
    assert sorted(text.state_dict()) == sorted(expected)
    for name, tensor in text.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    blocks, description = find_blocks(model.model.language_model), models.describe(tmp_path)
    assert (description["family"], description["moe_layers"]) == (f"{family}_text", sorted(blocks))
    assert (description["context"], description["vocabulary"]) == (64, 97)
    block = models.load_block(tmp_path, 2, dtype="auto", device=CPU)
    for name, tensor in block.state_dict().items():
        assert torch.equal(tensor, blocks[2].state_dict()[name]), name
    np.testing.assert_array_equal(models.read_router_rows(tmp_path, 2)[0], models.router_rows(blocks[2]))
    tokens = np.arange(40, dtype=np.int32)
    (batch,) = extraction.extract(text, sorted(blocks), tokens, np.array([0, 25]), tokens_per_batch=64)
    assert batch.layers == sorted(blocks) and len(batch.records().per_token["selected_expert"][0]) == 40


def test_predictions_need_a_head_that_transformers_has(tmp_path):
    seeing_model("qwen3_vl_moe").save_pretrained(tmp_path)
    with pytest.raises(Problem, match=r"^extraction\.predictions: .* no language-model head .*: set it to false"):
        models.load(tmp_path, **SETTINGS, head=True)


def test_experts_whose_outputs_do_not_add_up_to_the_block_are_not_taken_out_of_it(tmp_path):
    config = config_of("nemotron_h", moe_latent_size=8)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    assert models.describe(tmp_path)["experts"] == 8
    with pytest.raises(Problem, match="its block has fc1_latent_proj, so what single experts return does not add up"):
        models.load_block(tmp_path, 2, dtype="auto", device=CPU)


@pytest.mark.parametrize("family", KINDS)
def test_random_experts_have_the_scale_of_the_others_and_leave_the_rest_alone(family):
    block = find_blocks(causal_model(family).base_model)[2]
    before = {name: parameter.detach().clone() for name, parameter in block.experts.named_parameters()}
    made = []
    for seed in ([1, 2], [1, 2], [1, 3]):
        for name, parameter in block.experts.named_parameters():
            parameter.data.copy_(before[name])
        models.randomise_experts(block, 5, seed)
        made.append({name: parameter.detach().clone() for name, parameter in block.experts.named_parameters()})
    before, *made = ({name: each.unflatten(0, (8, -1)) for name, each in one.items()} for one in (before, *made))
    for name, old in before.items():
        assert torch.equal(made[0][name][5:], old[5:])
        assert torch.equal(made[0][name], made[1][name]) and not torch.equal(made[0][name], made[2][name])
        drawn = made[0][name][:5]
        assert abs(drawn.std() / old.square().mean().sqrt() - 1) < 5 / drawn.numel() ** 0.5
        assert abs(drawn.mean()) < 5 * drawn.std() / drawn.numel() ** 0.5


def test_a_block_whose_weights_are_missing_is_refused(copied):
    change_weights(copied, remove_one)
    with pytest.raises(Problem, match=r"copied: 1 weights are missing .*layers\.2\.mlp\.gate\.weight: fetch"):
        models.load_block(copied, 2, dtype="auto", device=CPU)
    with pytest.raises(Problem, match="layer: layer 7 is not a Mixture-of-Experts layer"):
        models.load_block(copied, 7, dtype="auto", device=CPU)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_outputs_of_single_experts_weighted_and_summed_are_the_block(family, dtype, tolerance):
    model = causal_model(family, dtype)
    blocks = find_blocks(model.base_model)
    seen, _ = watched(blocks, model, torch.arange(40))
    assert sorted(seen) == sorted(find_routers(model.base_model))
    returned = decided(model, torch.arange(40))
    for layer, (states, output) in seen.items():
        block, states = blocks[layer], states.reshape(-1, 16)
        output = (output[0] if isinstance(output, tuple) else output).reshape(-1, 16)
        with torch.inference_mode():
            _, weights, selected = returned[layer][1]
            single = models.expert_outputs(block, states, selected)
            assert single.shape == (40, 3, 16)
            expected = (single * weights[..., None]).sum(dim=1)
            for name, shared in block.named_children():
                if name in ("shared_experts", "shared_expert", "shared_mlp"):
                    gate = getattr(block, "shared_expert_gate", None)
                    expected = expected + shared(states) * (1 if gate is None else gate(states).sigmoid())
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
    seen, _ = watched(find_routers(loaded), loaded, torch.arange(20))
    assert sorted(seen) == [0, 1, 2]


def test_a_checkpoint_in_fp8_is_loaded_with_the_values_that_it_stands_for(tmp_path):
    """Blocks of 8 x 8 weights have one scale, `weight_scale_inv`; routers, norms and embeddings are not quantized."""
    model, expected = causal_model("qwen3_moe"), {}
    model.save_pretrained(tmp_path)

    def quantize(weights):
        for name in [name for name in weights if name.endswith("_proj.weight")]:
            blocks = weights[name].unfold(0, 8, 8).unfold(1, 8, 8)
            scale = blocks.abs().amax(dim=(2, 3)) / 448
            wide = scale.repeat_interleave(8, 0).repeat_interleave(8, 1)
            weights[name] = (weights[name] / wide).to(torch.float8_e4m3fn)
            weights[f"{name}_scale_inv"] = scale
            expected[name] = weights[name].float() * wide

    change_weights(tmp_path, quantize)
    quantization = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [8, 8]}
    change_config(tmp_path, quantization_config=quantization)
    loaded = models.load(tmp_path, **SETTINGS | {"dtype": "float32"})
    block = models.load_block(tmp_path, 2, dtype="float32", device=CPU)
    for layer in range(3):
        for experts in [loaded.layers[layer].mlp.experts] + [block.experts] * (layer == 2):
            for expert in range(8):
                gate, up, down = (
                    expected[f"model.layers.{layer}.mlp.experts.{expert}.{name}_proj.weight"]
                    for name in ("gate", "up", "down")
                )
                torch.testing.assert_close(experts.gate_up_proj[expert], torch.cat([gate, up]))
                torch.testing.assert_close(experts.down_proj[expert], down)
    query = expected["model.layers.1.self_attn.q_proj.weight"]
    torch.testing.assert_close(loaded.layers[1].self_attn.q_proj.weight, query)
    assert (query - model.model.layers[1].self_attn.q_proj.weight).abs().max() > 1e-3  # of the original
    seen, _ = watched(find_routers(loaded), loaded, torch.arange(20))
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
        (batch,) = extraction.extract(each, [0, 1, 2], tokens, np.array([0, 25]), tokens_per_batch=64)
        found.append(batch.records().per_token["router_logits"])
    assert found[0].shape[0] == 3
    np.testing.assert_allclose(*found, atol=1e-5)


def test_more_gpus_than_there_are_is_refused(model_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Problem, match=r"^gpus: 2 is set, but 1 CUDA devices are visible"):
        models.load(model_folder, **SETTINGS, gpus=2)
