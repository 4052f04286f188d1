"""Weights are read from the files that a model names, and are those that it computes with, or one sentence says why."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from families import FAMILIES, KINDS, causal_model, config_of
from folder_cases import change_config, change_weights
from safetensors.torch import load_file, save_file

from gatebook.inputs.model_folder import load_config
from gatebook.problem import Problem
from gatebook.routing import extraction, models, weights
from gatebook.routing.routers import find_blocks, router_of

CPU = torch.device("cpu")
SETTINGS = {"dtype": "auto", "device": CPU, "attention": "auto", "experts": "auto"}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A tiny Qwen3-MoE in the hub's layout."""
    folder = tmp_path_factory.mktemp("weights") / "original"
    causal_model("qwen3_moe").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(original, tmp_path / "folder")


def rehearse(folder, *, head=True):
    config = load_config(folder)
    models.rehearse(folder, weights.stored(weights.files(folder, config)), config, head=head)


def refused(folder, sentence):
    """The headers alone, and loading, end in the same sentence."""
    for act in (rehearse, lambda folder: models.load(folder, **SETTINGS, head=True)):
        with pytest.raises(Problem, match=sentence) as raised:
            act(folder)
        assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def projections(tensors):
    return [name for name in tensors if name.endswith("_proj.weight")]


def quantize(dtype, largest, suffix="_scale", shape=()):
    """Replace projections by numbers up to `largest`, and add the scales that they are to be multiplied by."""

    def change(tensors):
        for name in projections(tensors):
            scale = tensors[name].abs().max() / largest
            values = tensors[name] / scale
            tensors[name] = (values.round() if dtype == torch.int8 else values).to(dtype)
            if suffix:
                tensors[name + suffix] = scale.reshape(shape)

    return change


def pack(tensors):
    """Four-bit integers in int32, as GPTQ and AWQ lay them out."""
    for name in projections(tensors):
        rows, columns = tensors.pop(name).shape
        place = name.removesuffix("weight")
        tensors[f"{place}qweight"] = torch.zeros(columns // 8, rows, dtype=torch.int32)
        tensors[f"{place}qzeros"] = torch.zeros(1, rows // 8, dtype=torch.int32)
        tensors[f"{place}scales"] = torch.ones(1, rows, dtype=torch.float16)


# ---------------------------------------------------------------- quantized numbers


QUANTIZED = {
    "FP8 without config": (quantize(torch.float8_e4m3fn, 448), r"84 tensors hold quantized .*\(float8_e4m3fn\)"),
    "FP8 without scales": (quantize(torch.float8_e4m3fn, 448, ""), r"84 tensors hold quantized .*in bfloat16"),
    "int8": (quantize(torch.int8, 127), r"84 tensors hold quantized numbers, first \S+proj\.weight \(int8\)"),
    "packed": (pack, r"168 tensors hold quantized numbers, first \S+\.qweight \(int32\), and config\.json has no"),
    "FP8 as bfloat16": (quantize(torch.bfloat16, 448), r"84 tensors belong to parts .* first \S+\.weight_scale: use"),
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_quantized_numbers_are_never_taken_for_weights(folder, case):
    change, sentence = QUANTIZED[case]
    change_weights(folder, change)
    refused(folder, sentence)


@pytest.mark.parametrize(
    "method", [{"quant_method": "modelopt"}, {"quant_method": "gptq", "bits": 4}, {"quant_method": "awq"}, {"bits": 4}]
)
def test_a_method_that_cannot_be_turned_back_is_refused_with_the_config(folder, method):
    change_config(folder, quantization_config=method)
    name = repr(method.get("quant_method"))
    with pytest.raises(Problem, match=rf"config\.json: weights quantized by {name} cannot be turned back .*bfloat16"):
        load_config(folder)


def test_fp8_with_its_scales_is_read_and_each_scale_is_needed(folder, original):
    change_weights(folder, quantize(torch.float8_e4m3fn, 448, "_scale_inv", (1, 1)))
    change_config(folder, quantization_config=FP8)
    rehearse(folder)
    loaded, exact = models.load(folder, **SETTINGS), models.load(original, **SETTINGS)
    for one, other in zip(loaded.parameters(), exact.parameters(), strict=True):
        assert (one - other).abs().max() <= 2**-4 * other.abs().max()
    whole = shutil.copytree(folder, folder.with_name("whole"))
    change_weights(folder, lambda tensors: tensors.pop("model.layers.1.self_attn.q_proj.weight_scale_inv"))
    refused(
        folder, r"1 weights have no scales and stay quantized, first \S*layers\.1\.self_attn\.q_proj\.weight: fetch"
    )
    change_weights(whole, lambda tensors: tensors.pop("model.layers.1.mlp.experts.3.up_proj.weight_scale_inv"))
    refused(whole, r"whole: the tensors of an expert or the scales of its weights are not complete: fetch")


def test_mxfp4_experts_without_their_method_are_refused(tmp_path):
    causal_model("gpt_oss", hidden_size=32, intermediate_size=32).save_pretrained(tmp_path)

    def blocks(tensors):
        for name in [name for name in tensors if name.endswith("_proj") and "experts" in name]:
            shape = tensors.pop(name).shape
            tensors[f"{name}_blocks"] = torch.zeros(shape[0], shape[2], 1, 16, dtype=torch.uint8)
            tensors[f"{name}_scales"] = torch.full((shape[0], shape[2], 1), 120, dtype=torch.uint8)

    change_weights(tmp_path, blocks)
    refused(tmp_path, r"12 tensors hold quantized numbers, first \S+_blocks \(uint8\)")
    change_config(tmp_path, quantization_config={"quant_method": "mxfp4"})
    rehearse(tmp_path)


def test_tensors_beside_the_model_do_not_matter(folder):
    """Old buffers, layers that predict further tokens, a part that sees, quantized or not."""
    beside = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.3.self_attn.q_proj.weight": torch.ones(16, 16).to(torch.float8_e4m3fn),
        "model.layers.3.self_attn.q_proj.weight_scale": torch.ones(()),
        "mtp.layers.0.mlp.gate.weight": torch.ones(8, 16),
        "visual.blocks.0.attn.qkv.weight": torch.ones(48, 16, dtype=torch.int8),
        "model.visual.layers.0.weight_scale": torch.ones(()),
    }
    change_weights(folder, lambda tensors: tensors.update(beside))
    rehearse(folder)
    models.load(folder, **SETTINGS)
    change_weights(folder, lambda tensors: tensors.update({"model.layers.2.mlp.gate.weight_scale": torch.ones(())}))
    models.load(folder, **SETTINGS, last_layer=1)
    refused(folder, r"1 tensors belong to parts .* first \S+layers\.2\.mlp\.gate\.weight_scale")


def test_adapters_beside_the_weights_they_change_are_refused(folder):
    name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    change_weights(folder, lambda tensors: tensors.update({name: torch.ones(2, 16)}))
    refused(folder, r"first \S+lora_A\.weight: use the checkpoint in bfloat16 if this one is quantized or has adapters")


def root_mean_square(tensors):
    return (sum(each.square().sum() for each in tensors) / sum(each.numel() for each in tensors)).sqrt().item()


@pytest.mark.parametrize(
    ("border", "inside", "outside"), [(weights.LARGEST, 0.99, 1.01), (weights.SMALLEST, 1.01, 0.99)]
)
@torch.no_grad()
def test_a_layer_with_weights_of_another_size_than_those_of_any_network_is_refused(folder, border, inside, outside):
    whole = models.load(folder, **SETTINGS)
    layer = {name: tensor.clone() for name, tensor in whole.layers[1].state_dict().items()}
    matrices = {name: tensor for name, tensor in layer.items() if tensor.dim() > 1}
    experts = [tensor for name, tensor in matrices.items() if ".experts." in name]
    sizes = [root_mean_square(matrices.values()), root_mean_square(experts)]
    size = max(sizes) if border == weights.LARGEST else min(sizes)
    for factor in (inside * border / size, outside * border / size):
        for name, tensor in whole.layers[1].state_dict().items():
            tensor.copy_(layer[name] * (factor if name in matrices else 1e6))  # gains may be large
        if factor == inside * border / size:
            weights.check_values(folder, whole)
    with pytest.raises(Problem, match=r"the (weights|experts) of layer 1 have a root mean square of .* bfloat16, or"):
        weights.check_values(folder, whole)


@pytest.mark.parametrize("family", KINDS)
@torch.no_grad()
def test_weights_as_families_initialise_them_pass_and_those_scaled_down_do_not(family, tmp_path):
    usual = getattr(transformers, f"{FAMILIES[family][0]}Config")().initializer_range
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config_of(family, initializer_range=usual))
    weights.check_values(tmp_path, model)
    blocks = find_blocks(model.base_model)
    for tensor in model.parameters():
        tensor /= 150
    with pytest.raises(Problem, match=r"of layer \d have a root mean square of \S+, .* scaled down, so use"):
        weights.check_values(tmp_path, model)
    for tensor in model.parameters():
        tensor *= 150
    layer, block = max(blocks.items())
    kept = {name: tensor.clone() for name, tensor in block.experts.state_dict().items()}
    for tensor in block.experts.parameters():
        tensor.zero_()
    with pytest.raises(Problem, match=rf"the experts of layer {layer} have .* of 0, .* nothing"):
        weights.check_values(tmp_path, model)
    block.experts.load_state_dict(kept)
    for tensor in router_of(block).parameters():  # all experts tie: the study says so
        tensor.zero_()
    weights.check_values(tmp_path, model)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float8_e4m3fn, 448), (torch.int8, 127)])
def test_scales_that_were_lost_on_the_way_to_another_dtype_are_noticed(folder, dtype, largest):
    change_weights(folder, quantize(dtype, largest, ""))
    change_weights(
        folder, lambda tensors: tensors.update({name: tensors[name].float() for name in projections(tensors)})
    )
    rehearse(folder)
    with pytest.raises(Problem, match=r"folder: the weights of layer 0 have a root mean square of \d"):
        models.load(folder, **SETTINGS)


# ---------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["lm_head.weight", "norm.weight", "layers.2.mlp.experts.7.down_proj.weight"])
def test_what_is_not_finite_anywhere_is_refused(folder, name, value):
    key = name if name.startswith("lm_head") else f"model.{name}"
    change_weights(folder, lambda tensors: tensors[key].view(-1)[3:4].fill_(value))
    loaded = name.replace("7.down_proj.weight", "down_proj")
    with pytest.raises(Problem, match=rf"folder: {loaded} holds NaN or infinity in float32: fetch [a-z ]+\.$"):
        models.load(folder, **SETTINGS, head=True)
    if name == "lm_head.weight":
        models.load(folder, **SETTINGS)


def test_a_dtype_that_is_too_small_for_the_weights_is_named(folder):
    change_weights(folder, lambda tensors: tensors["model.norm.weight"].fill_(1e6))
    models.load(folder, **SETTINGS)
    with pytest.raises(Problem, match=r"norm\.weight holds NaN .* in float16: fetch .*, or set `dtype: float32`"):
        models.load(folder, **SETTINGS | {"dtype": "float16"})


def test_predictions_that_overflow_are_refused(tmp_path):
    model = causal_model("olmoe")
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    with pytest.raises(Problem, match=r"logits of the predictions hold NaN or infinity: .*extraction\.predictions"):
        extraction.write_records(tmp_path, model, [1], np.arange(9), np.array([0]), tokens_per_batch=16)


# ---------------------------------------------------------------- files


def split(folder, *, name="model-{}.safetensors"):
    """The weights in two files and an index; their names."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    place = {tensor: name.format(index % 2) for index, tensor in enumerate(sorted(tensors))}
    for file in sorted(set(place.values())):
        part = {tensor: value for tensor, value in tensors.items() if place[tensor] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return sorted(set(place.values()))


def decoy(folder, name):
    """Other weights in a file of this name."""
    tensors = load_file(next(folder.glob("*.safetensors")))
    save_file({key: tensor + 1 for key, tensor in tensors.items()}, folder / name, metadata={"format": "pt"})


@pytest.mark.parametrize("sharded", [False, True])
def test_all_read_the_files_that_the_model_names(folder, original, sharded):
    exact = models.load(original, **SETTINGS)
    if sharded:
        decoy(folder, "zz.safetensors")
        names = split(folder)
    else:
        shutil.copytree(folder, other := folder.with_name("other"))
        split(other)
        for name in ("model-0.safetensors", "model-1.safetensors"):
            decoy(other, name)
        for path in other.glob("model*"):
            shutil.copy(path, folder / path.name)
        names = ["model.safetensors"]
    decoy(folder, "a.safetensors")
    assert [path.name for path in weights.files(folder, load_config(folder))] == names
    description = models.describe(folder)
    assert sorted(description["files"]) == ["config.json", *names]
    assert description["weights_bytes"] == sum((folder / name).stat().st_size for name in names)
    loaded, block = models.load(folder, **SETTINGS), models.load_block(folder, 2, dtype="auto", device=CPU)
    for one, other in ((loaded, exact), (block, models.find_blocks(exact)[2])):
        for value, expected in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(value, expected)
    np.testing.assert_array_equal(models.read_router_rows(folder, 1)[0], exact.layers[1].mlp.gate.weight.detach())
    gain = exact.layers[2].post_attention_layernorm.weight.detach()
    np.testing.assert_array_equal(models.block_gain(folder, 2), gain)


def test_the_file_that_the_config_names_goes_first(folder):
    (folder / "model.safetensors").rename(folder / "own.safetensors")
    change_config(folder, transformers_weights="own.safetensors")
    decoy(folder, "model.safetensors")
    assert [path.name for path in weights.files(folder, load_config(folder))] == ["own.safetensors"]
    stored = load_file(folder / "own.safetensors")["model.layers.1.mlp.gate.weight"]
    assert torch.equal(models.load(folder, **SETTINGS).layers[1].mlp.gate.weight, stored)
    assert torch.equal(models.load_block(folder, 1, dtype="auto", device=CPU).gate.weight, stored)


def test_what_is_not_named_is_said_in_the_log(folder, run_script, tmp_path):
    decoy(folder, "adapter_model.safetensors")
    model = {"layers": "all", "trust_remote_code": False, "path": "folder"}
    run_script(
        "describe_model",
        tmp_path,
        input={"folder": str(folder)},
        output={"description": str(tmp_path / "model.json")},
        params={"code": "c0de", "model": model, "predictions": True},
        wildcards={"model": "tiny", "checkpoint": "local"},
    )
    log = (tmp_path / "describe_model.log").read_text()
    assert "folder holds files that the model does not name and that nobody reads: adapter_model.safetensors" in log


WITHOUT = {
    "pytorch_model.bin": r"such as pytorch_model\.bin are never loaded: run `make convert FOLDER=\S+folder`",
    "checkpoint.pth": r"pickled weights such as checkpoint\.pth",
    "model-00001-of-00002.safetensors": r"neither model\.safetensors nor .*and model-00001\S+ is not a whole model",
    "model.gguf": r"model\.gguf is not a whole model .*original of a GGUF",
    "notes.md": r"neither model\.safetensors nor model\.safetensors\.index\.json: fetch the weights",
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_folder_without_weights_says_what_to_do_with_what_it_has(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    for read in (models.describe, lambda folder: models.load(folder, **SETTINGS), models.read_router_rows):
        with pytest.raises(Problem, match=WITHOUT[name]):
            read(folder)


def test_a_file_that_the_index_names_and_that_is_absent_is_named(folder):
    split(folder)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(Problem, match=r"index\.json names 2 files .* 1 of them .* first model-1\.safetensors: fetch"):
        models.describe(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(Problem, match=r"index\.json has no `metadata`: fetch it again"):
        models.describe(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_git_lfs_pointers_and_links_to_nothing_have_remedies_of_their_own(folder, name):
    (folder / name).unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 9\n")
    with pytest.raises(Problem, match=rf"{name} is a git-lfs pointer, not the file: run `git lfs pull`"):
        models.describe(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("../blobs/gone")
    with pytest.raises(Problem, match=rf"{name} is a link to \.\./blobs/gone, which is gone: restore .*or delete"):
        models.describe(folder)


def test_a_model_without_its_output_head_is_described_and_gives_no_predictions(folder):
    change_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    models.describe(folder)
    models.load(folder, **SETTINGS)
    with pytest.raises(Problem, match=r"no output head \(lm_head\.weight is missing\): set extraction\.predictions"):
        models.describe(folder, head=True)
