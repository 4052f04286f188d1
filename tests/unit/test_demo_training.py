"""Facts about the demonstration's model: its optimiser, its losses, and that training can be repeated to the bit."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gatebook.inputs.demo import evaluation, optimizers, training
from gatebook.inputs.demo.corpora import Document
from gatebook.inputs.demo.tokenizer import train_tokenizer
from gatebook.problem import Problem

TEXTS = [f"{name} has {number} books and {number} pens.\n" for number in range(60) for name in ("Ada", "Ben", "Carla")]
MODEL = {
    "hidden_size": 32, "layers": 2, "heads": 2, "experts": 8, "experts_per_token": 2, "expert_size": 16, "context": 64,
}  # fmt: skip
SETTINGS = {
    "seed": 3, "steps": 60, "checkpoints": [0, 60], "batch_size": 8, "sequence_length": 32, "learning_rate": 0.01,
    "load_balancing_loss": 0.01, "z_loss": 0.001,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 280)


@pytest.fixture(scope="module")
def stream(tokenizer):
    return training.token_stream(TEXTS, tokenizer)


def trained(tokenizer, stream, **changes):
    settings = SETTINGS | changes
    training.use_deterministic_torch(threads=1)
    model = training.build_model(MODEL, tokenizer, settings["seed"])
    history = []
    steps = list(training.train(model, training.batches([stream], settings), settings, history))
    return model, steps, history


@pytest.fixture(scope="module")
def run(tokenizer, stream):
    return trained(tokenizer, stream)


@pytest.mark.parametrize("shape", [(6, 6), (10, 4), (4, 10)])
def test_orthogonalisation_approaches_u_times_v(shape):
    matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    found = optimizers.orthogonalise(matrix, steps=5)
    inside = u.mT @ found @ v.mT
    values = torch.diagonal(inside, dim1=-2, dim2=-1)
    torch.testing.assert_close(inside, torch.diag_embed(values), atol=2e-5, rtol=0)
    large = s / s.norm(dim=-1, keepdim=True) > 0.01
    assert values[large].min() > 0.6 and values[large].max() < 1.3


def test_one_step_maps_each_singular_value_by_the_polynomial():
    matrix = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
    s = torch.linalg.svdvals(matrix / matrix.norm())
    a, b, c = optimizers.NEWTON_SCHULZ
    expected = (a * s + b * s**3 + c * s**5).abs().sort(descending=True).values
    torch.testing.assert_close(torch.linalg.svdvals(optimizers.orthogonalise(matrix, steps=1)), expected)


def test_muon_takes_the_matrices_of_a_stack_one_by_one():
    generator = torch.Generator().manual_seed(3)
    start, gradient = torch.randn(2, 3, 8, 5, generator=generator)
    parameter = torch.nn.Parameter(start.clone())
    parameter.grad = gradient
    optimizers.Muon([{"params": [parameter], "stacked": 2}], lr=0.1, momentum=0.95, weight_decay=0.5).step()
    for expert, half in itertools.product(range(3), (slice(0, 4), slice(4, 8))):
        momentum = 0.05 * gradient[expert, half]
        update = optimizers.orthogonalise(0.05 * gradient[expert, half] + 0.95 * momentum)
        expected = start[expert, half] * (1 - 0.1 * 0.5) - 0.1 * 0.2 * math.sqrt(5) * update
        torch.testing.assert_close(parameter.data[expert, half], expected)


def test_every_parameter_has_one_optimiser_and_matrices_have_muon(tokenizer):
    model = training.build_model(MODEL, tokenizer, seed=0)
    muon, adamw = optimizers.build(model, 0.01)
    owned = [[id(p) for group in each.param_groups for p in group["params"]] for each in (muon, adamw)]
    assert sorted(owned[0] + owned[1]) == sorted(map(id, model.parameters()))
    by_muon = {name for name, parameter in model.named_parameters() if id(parameter) in owned[0]}
    kinds = {name.split(".", 3)[-1] for name in by_muon}
    assert kinds == {
        "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight",
        "mlp.experts.gate_up_proj", "mlp.experts.down_proj",
    }  # fmt: skip


def test_schedule_warms_up_holds_and_falls_to_two_percent():
    factors = [optimizers.schedule(step, 600) for step in range(601)]
    assert factors[0] == 1 / 24 and factors[23] == 1.0
    assert set(factors[23:312]) == {1.0}
    assert factors[456] == pytest.approx(0.51)
    assert factors[600] == pytest.approx(0.02)


def test_load_balancing_loss_of_uniform_routing_is_k():
    logits = torch.zeros(64, 8)
    logits += 1e-6 * torch.eye(8).repeat(8, 1) + 1e-6 * torch.eye(8).roll(1, 0).repeat(8, 1)
    assert training.load_balancing_loss(logits, 2).item() == pytest.approx(2.0, rel=1e-4)


def test_load_balancing_loss_of_collapsed_routing_is_the_number_of_experts():
    logits = torch.tensor([[50.0, 0.0, 0.0, 0.0]]).repeat(10, 1)
    assert training.load_balancing_loss(logits, 1).item() == pytest.approx(4.0)


def test_load_balancing_loss_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]]))
    shares, means = [0.5, 1.0, 0.5], [0.3, 0.3, 0.4]
    expected = 3 * sum(share * mean for share, mean in zip(shares, means, strict=True))
    assert training.load_balancing_loss(logits, 2).item() == pytest.approx(expected)


def test_load_balancing_loss_of_one_layer_is_that_of_transformers():
    from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(4))
    expected = load_balancing_loss_func((logits,), num_experts=8, top_k=3)
    torch.testing.assert_close(training.load_balancing_loss(logits, 3), expected)


def test_z_loss_by_hand():
    logits = torch.log(torch.tensor([[1.0, 1.0, 2.0], [0.5, 0.25, 0.25]]))
    assert training.z_loss(logits).item() == pytest.approx((math.log(4) ** 2 + 0) / 2)


def test_gradients_of_the_chunked_loss_are_those_of_the_plain_loss(tokenizer, monkeypatch):
    monkeypatch.setattr(training, "HEAD_ROWS", 7)
    batch = torch.randint(0, 280, (3, 16), generator=torch.Generator().manual_seed(5))
    chunked, plain = (training.build_model(MODEL, tokenizer, seed=0) for _ in range(2))
    losses = training.backward(chunked, batch, 0.01, 0.001)
    outputs = plain(input_ids=batch, labels=batch, output_router_logits=True)
    logits = outputs.router_logits
    balance = sum(training.load_balancing_loss(layer, 2) for layer in logits) / 2
    z = sum(training.z_loss(layer) for layer in logits) / 2
    cross_entropy = torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    (cross_entropy + 0.01 * balance + 0.001 * z).backward()
    assert losses == pytest.approx((cross_entropy.item(), balance.item(), z.item()), rel=1e-5)
    for one, other in zip(chunked.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_parameter_counts_by_hand(tokenizer):
    total, active = training.count_parameters(training.build_model(MODEL, tokenizer, seed=0))
    attention, norms, router, expert = 4 * 32 * 32, 4 * 32, 8 * 32, 3 * 32 * 16
    shared = 2 * 280 * 32 + 2 * (attention + norms + router) + 32
    assert (total, active) == (shared + 2 * 8 * expert, shared + 2 * 2 * expert)


def test_token_stream_ends_each_text(tokenizer):
    ids = tokenizer(["one", "two"])["input_ids"]
    assert training.token_stream(["one", "two"], tokenizer).tolist() == [*ids[0], 0, *ids[1], 0]


def test_batches_take_streams_in_turn_and_each_sequence_once_before_any_twice():
    streams = [np.arange(0, 30), np.arange(100, 141)]
    settings = {"seed": 0, "sequence_length": 10, "batch_size": 6}
    batch, again = itertools.islice(training.batches(streams, settings), 2)
    assert batch.dtype == torch.int64 and batch.shape == (6, 10)
    assert (batch[:, 0] >= 100).tolist() == [False, True] * 3
    assert sorted(batch[::2, 0].tolist()) == [0, 10, 20] == sorted(again[::2, 0].tolist())
    second = [*batch[1::2, 0].tolist(), again[1, 0].item()]
    assert sorted(second) == [100, 110, 120, 130]
    assert (batch - batch[:, :1] == torch.arange(10)).all()


def test_training_stops_at_the_checkpoints(run):
    _, steps, history = run
    assert steps == [0, 60]
    assert len(history) == 60


def test_loss_starts_at_that_of_guessing_and_falls(run):
    _, _, history = run
    assert history[0].cross_entropy == pytest.approx(math.log(280), abs=0.2)
    assert history[0].load_balancing == pytest.approx(2.0, abs=0.1)
    assert history[0].z == pytest.approx(math.log(8) ** 2, rel=0.05)
    assert history[-1].cross_entropy < 0.5 * history[0].cross_entropy


@pytest.mark.slow
def test_two_trainings_are_the_same_to_the_last_bit(run, tokenizer, stream):
    model, _, history = run
    again, _, again_history = trained(tokenizer, stream)
    assert history == again_history
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_another_seed_gives_another_model(run, tokenizer, stream):
    other, _, _ = trained(tokenizer, stream, seed=4, steps=2)
    assert not torch.equal(run[0].lm_head.weight, other.lm_head.weight)


def test_a_checkpoint_loads_like_any_model_bit_for_bit(run, tokenizer, tmp_path):
    model = run[0]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "OlmoeForCausalLM"
    weights, again = model.state_dict(), loaded.state_dict()
    assert weights.keys() == again.keys()
    assert all(weights[name].dtype == torch.float32 and torch.equal(weights[name], again[name]) for name in weights)
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS[7])["input_ids"] == tokenizer(TEXTS[7])["input_ids"]


def test_a_loss_that_is_not_finite_stops_training(tokenizer, stream):
    model = training.build_model(MODEL, tokenizer, seed=0)
    torch.nn.init.constant_(model.lm_head.weight, math.inf)
    with pytest.raises(Problem, match=r"Training diverged at step 0 .*learning_rate, now 0\.01"):
        list(training.train(model, training.batches([stream], SETTINGS), SETTINGS, []))


def test_document_loss_equals_token_by_token_computation(run):
    model = run[0]
    held_out = [evaluation.HeldOut("a", str(length), "", np.arange(2, 2 + length)) for length in (20, 5, 11)]
    expected = np.zeros(3)
    for index, document in enumerate(held_out):
        for position in range(1, len(document.tokens)):
            with torch.no_grad():
                logits = model(torch.tensor(document.tokens[:position])[None]).logits[0, -1].double()
            expected[index] -= logits.log_softmax(-1)[document.tokens[position]].item()
    np.testing.assert_allclose(evaluation.loss_sums(model, held_out), expected, rtol=1e-5)
    assert evaluation.predicted_tokens(held_out).tolist() == [19, 4, 10]


def test_unigram_loss_by_hand():
    losses = {
        "a": evaluation.unigram_losses(np.array([2, 2, 2, 3]), vocabulary_size=4),
        "b": evaluation.unigram_losses(np.array([1, 1]), vocabulary_size=4),
    }
    np.testing.assert_allclose(losses["a"], -np.log(np.array([1, 1, 4, 2]) / 8))
    held_out = [
        evaluation.HeldOut("b", "x", "", np.array([0, 1, 3])),
        evaluation.HeldOut("a", "y", "", np.array([2, 1])),
    ]
    expected = [-math.log(3 / 6) - math.log(1 / 6), -math.log(1 / 8)]
    np.testing.assert_allclose(evaluation.unigram_loss_sums(held_out, losses), expected)


def test_learned_loss_is_below_the_unigram_loss(run, tokenizer, stream):
    texts = ["".join(TEXTS[start::40]) for start in range(5)]
    held_out = [evaluation.HeldOut("books", text, "", np.array(tokenizer(text)["input_ids"][:32])) for text in texts]
    learned = evaluation.loss_sums(run[0], held_out)
    unigram = evaluation.unigram_loss_sums(held_out, {"books": evaluation.unigram_losses(stream, len(tokenizer))})
    assert (learned < 0.7 * unigram).all()


def test_held_out_are_the_first_tokens_of_the_first_documents_until_the_limit(tokenizer):
    documents = [Document(str(number), "poems", text) for number, text in enumerate(TEXTS[:5])]
    lengths = [len(tokenizer(document.text)["input_ids"]) for document in documents]
    kept = evaluation.tokenize("books", documents, tokenizer, limit=lengths[0] + 1, size=100)
    assert [document[:3] for document in kept] == [("books", "0", "poems"), ("books", "1", "poems")]
    assert kept[1].tokens.tolist() == tokenizer(TEXTS[1])["input_ids"]
    assert len(evaluation.tokenize("books", documents, tokenizer, limit=10_000, size=100)) == 5
    short = evaluation.tokenize("books", documents, tokenizer, limit=6, size=3)
    assert [document.tokens.tolist() for document in short] == [tokenizer(text)["input_ids"][:3] for text in TEXTS[:2]]


def test_overlap_is_the_share_of_runs_of_thirteen_tokens():
    training_text = np.arange(100)
    documents = [np.arange(10, 30), np.arange(200, 215), np.arange(5)]  # 8 runs, 3 others, none
    assert evaluation.overlap(documents, training_text) == pytest.approx(8 / 11)
    assert evaluation.overlap([np.arange(20)[::-1]], training_text) == 0
    known, unknown = np.arange(87, 101), np.arange(88, 101)  # both end with a token that never follows in the text
    assert evaluation.overlap([known], training_text) == 0.5
    assert evaluation.overlap([unknown], training_text) == 0


def test_dataset_holds_losses_with_names_and_units():
    held_out = [evaluation.HeldOut("a", "x", "f", np.arange(4)), evaluation.HeldOut("b", "y", "g", np.arange(3))]
    sums = {"step0": np.array([6.0, 4.0]), "step2": np.array([3.0, 1.0])}
    history = [training.Losses(5.0, 2.5, 1.5), training.Losses(4.0, 2.0, 1.0)]
    corpora = pd.DataFrame({"documents": [9, 8], "clusters": [3, 2], "overlap": [0.5, 0.0]}, index=["a", "b"])
    found = evaluation.dataset(held_out, sums, np.array([5.0, 3.0]), np.array([3, 2]), history, corpora)
    assert dict(found.sizes) == {"step": 2, "checkpoint": 2, "document": 2, "corpus": 2}
    assert found.cluster.values.tolist() == ["f", "g"]
    assert found.held_out_clusters.sel(corpus="b").item() == 2
    assert found.loss_sum.sel(checkpoint="step2").values.tolist() == [3.0, 1.0]
    assert found.training_loss.values.tolist() == [5.0, 4.0]
    assert found.load_balancing_loss.values.tolist() == [2.5, 2.0]
    assert found.z_loss.values.tolist() == [1.5, 1.0]
    assert found.domain.values.tolist() == ["a", "b"]
    assert all({"long_name", "units"} <= set(variable.attrs) for variable in found.variables.values())


def test_summary_is_loss_per_token_of_each_domain_and_their_mean():
    held_out = [evaluation.HeldOut(domain, "x", "", np.arange(3)) for domain in ("a", "a", "b")]
    line = evaluation.summary(held_out, np.array([2.0, 4.0, 9.0]), np.array([1, 2, 3]))
    assert line == "a 2.00, b 3.00, mean 2.50"
