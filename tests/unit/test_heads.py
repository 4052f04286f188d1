"""Heads: found in every family; put back they change nothing; what they return is a slice of a projection's input."""

import families
import pytest
import torch
from families import KINDS, causal_model

from gatebook.problem import Problem
from gatebook.routing import heads

IDS = torch.tensor([[5, 9, 5, 9, 30, 41, 5, 9, 2], [7, 6, 5, 4, 3, 2, 1, 11, 12]])
WITH_HEADS = [family for family in KINDS if family != "nemotron_h"]


@pytest.fixture(autouse=True)
def one_thread():
    """More of them take longer for models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def watched(model, ids=IDS):
    """The attentions of a model, what their heads did, and the logits."""
    found = heads.find_attentions(model)
    with torch.inference_mode(), heads.plainly(model), heads.watching(found) as seen:
        logits = model(input_ids=ids, use_cache=False).logits
    return found, seen, logits


def run(model, found, outputs, where):
    with torch.inference_mode(), heads.plainly(model), heads.replaced(found, outputs, where):
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", WITH_HEADS)
def test_every_head_put_back_leaves_every_bit(family, dtype):
    model = causal_model(family, dtype)
    found, seen, logits = watched(model)
    assert found and all(one.heads == 2 for one in found.values())
    every = {layer: torch.ones(1, 1, 2, dtype=torch.bool) for layer in found}
    assert run(model, found, seen.outputs, every).equal(logits)
    away = {layer: torch.zeros_like(output) for layer, output in seen.outputs.items()}
    assert not run(model, found, away, every).equal(logits)
    assert heads.check_plain(model, IDS) < heads.TOLERANCE.get(dtype, heads.COARSE)


def test_a_head_is_its_pattern_times_its_values_and_is_replaced_alone():
    model = causal_model("olmoe")
    found, seen, logits = watched(model)
    assert list(found) == [0, 1, 2] and seen.patterns[1].shape == (2, 2, 9, 9)
    torch.testing.assert_close(seen.patterns[1].sum(dim=-1), torch.ones(2, 2, 9))
    assert (seen.patterns[1].triu(1) == 0).all()
    attention = model.model.layers[0].self_attn
    with torch.inference_mode():
        normed = model.model.layers[0].input_layernorm(model.model.embed_tokens(IDS))
        values = attention.v_proj(normed).unflatten(-1, (2, 8))
    made = torch.einsum("whqk,wkhd->wqhd", seen.patterns[0], values)
    torch.testing.assert_close(seen.outputs[0], made)
    other = {0: seen.outputs[0].flip(0)}
    one = heads.replaced(found, other, {0: torch.tensor([[[False, True]]])})
    with torch.inference_mode(), heads.plainly(model), heads.watching(found) as after, one:
        model(input_ids=IDS, use_cache=False)
    assert not after.outputs[1].equal(seen.outputs[1])
    where = torch.zeros(1, 9, 2, dtype=torch.bool)
    where[0, 8, 1] = True
    changed = run(model, found, other, {0: where})
    torch.testing.assert_close(changed[:, :8], logits[:, :8])
    assert (changed[:, 8] - logits[:, 8]).abs().max() > 1e-3


def test_attention_is_as_it_was_after_it_was_computed_plainly():
    model = causal_model("mixtral")
    own = model.config._attn_implementation
    heads.find_attentions(model)
    with pytest.raises(ZeroDivisionError), heads.plainly(model):
        assert model.config._attn_implementation == "eager"
        raise ZeroDivisionError
    assert model.config._attn_implementation == own != "eager"


def test_predictions_that_differ_are_refused(monkeypatch):
    model = causal_model("olmoe")
    monkeypatch.setitem(heads.TOLERANCE, torch.float32, -1.0)
    with pytest.raises(Problem, match=r"with the attention 'sdpa' predictions differ by .* set attention to eager\.$"):
        heads.check_plain(model, IDS)


def test_a_family_without_heads_is_named():
    with pytest.raises(
        Problem, match=r"^model_type 'nemotron_h' .*: no attention of it ends in .* no heads are known\.$"
    ):
        heads.find_attentions(causal_model("nemotron_h"))


def test_layers_without_attention_are_left_out():
    family = "lfm2_moe"
    assert families.FAMILIES[family][1]["layer_types"] == ["conv", "full_attention", "conv"]
    assert list(heads.find_attentions(causal_model(family))) == [1]
