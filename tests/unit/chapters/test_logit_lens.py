"""The logit lens: what norm and head read, what experts write, slots that match, the measures, the page."""

from functools import partial

import families
import numpy as np
import page_cases
import pytest
import torch
import xarray as xr
from routing_cases import Case, case, logits_for, records
from vocabulary_cases import written

from gatebook.chapters.logit_lens import CONTROL, MATCHED, OWN, SIDES, lens, page, run
from gatebook.chapters.logit_lens import measure as logit_lens
from gatebook.chapters.logit_lens.lens import Handed, Lens
from gatebook.measures.uncertainty import POOLED
from gatebook.problem import Problem
from gatebook.routing.patching import Change, changed, weighted
from gatebook.routing.routers import find_blocks
from gatebook.study import routed

seen = partial(page_cases.seen, "logit_lens")

SETTINGS = {"windows": 6, "fitted_windows": 4, "removal_windows": 4, "tokens": 3, "directions": 2, "caliper": 0.2}
SETTINGS |= {"seed": 6}
DRAWN = {name: SETTINGS[name] for name in ("windows", "fitted_windows", "removal_windows", "seed")}
STATISTICS = {"resamples": 100, "seed": 1, "confidence": 0.95}
READ = {"not_read": "", "not_written": ""}
NORMED = ("flex_olmo", "afmoe")
"""Families in which what experts write passes a norm before it is added."""
SLOW = [
    family
    if family in ("olmoe", "deepseek_v3", "cohere2_moe", "flex_olmo")
    else pytest.param(family, marks=pytest.mark.slow)
    for family in families.FAMILIES
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More of them take longer for models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ids_of(windows: int = 2, positions: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 90, (windows, positions), generator=torch.Generator().manual_seed(seed))


def every(ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(ids.numel())


# ---------------------------------------------------------------- the lens of each family


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", SLOW)
@torch.inference_mode()
def test_after_the_last_layer_it_reads_the_models_own_logits_bit_for_bit(family, dtype):
    model, ids = families.causal_model(family, dtype), ids_of()
    found = Lens(model)
    states = found.run(ids, every(ids)).states
    assert list(states) == found.places and found.places[0] == "embedding" and found.places[-1] == "layer 2"
    logits = found.logits(found.normed(states["layer 2"]))
    assert logits.equal(model(input_ids=ids, use_cache=False).logits.flatten(0, 1).float())
    # with its scale frozen, the norm and the head are linear: they give the same logits again, less their mean
    if dtype == torch.float32:
        tokens = torch.arange(5)
        again = found.unembedded(states["layer 2"]) * found.scale(states["layer 2"])[:, None]
        bias = found.logits(found._bias[None])
        wanted = logits - bias - (logits - bias).mean(dim=1, keepdim=True)
        torch.testing.assert_close(again, wanted, rtol=1e-3, atol=1e-4)
        read = states["layer 2"] @ found.directions(tokens).T * found.scale(states["layer 2"])[:, None]
        torch.testing.assert_close(read, wanted[:, tokens], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", SLOW)
@torch.inference_mode()
def test_what_experts_write_is_what_a_layer_lacks_without_their_weights(family):
    model, ids = families.causal_model(family), ids_of()
    found = Lens(model)
    assert found.unwritten == (
        "what its experts write passes a norm before it is added to the state" if family in NORMED else ""
    )
    layer = min(found.blocks)
    before = found.run(ids, every(ids))
    handed = before.handed[layer]
    with weighted(model, layer, torch.zeros(*ids.shape, handed.selected.shape[1])):
        after = found.run(ids, every(ids))
    lost = before.states[f"layer {layer}"] - after.states[f"layer {layer}"]
    if family not in NORMED:
        torch.testing.assert_close(found.written(layer, handed).sum(dim=1), lost, rtol=1e-3, atol=1e-4)
    assert all(before.states[place].equal(after.states[place]) for place in found.places[: 1 + layer])


def test_layers_in_which_attention_and_experts_are_one_step_have_one_place():
    assert Lens(families.causal_model("cohere2_moe")).places == ["embedding", "layer 0", "layer 1", "layer 2"]
    places = ["embedding", "layer 0", "attention 1", "layer 1", "attention 2", "layer 2"]
    assert Lens(families.causal_model("deepseek_v3")).places == places  # layer 0 has no experts


def test_a_model_that_is_not_norm_and_head_is_refused_with_one_reason(monkeypatch):
    model = families.causal_model("olmoe")
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: _capped(plain(**given)))
    with pytest.raises(Problem, match="not in proportion"):
        Lens(model)
    model = families.causal_model("olmoe")
    monkeypatch.setattr(model.model.norm, "forward", lambda states: states.tanh())
    with pytest.raises(Problem, match="does more than divide"):
        Lens(model)
    model = families.causal_model("olmoe")
    monkeypatch.setattr(model.lm_head, "forward", partial(_doubled, model.lm_head.weight))
    with pytest.raises(Problem, match="no single norm"):
        before = model.lm_head.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
        Lens(model)
    before.remove()
    monkeypatch.setattr(lens, "refusal", lambda config: "it has no head")
    with pytest.raises(Problem, match="it has no head"):
        Lens(families.causal_model("olmoe"))


def _capped(output):
    output.logits = output.logits.tanh()
    return output


def _doubled(weight, states):
    return states @ weight.T


# ---------------------------------------------------------------- reading and fitting, by hand


def test_loss_divergence_and_agreement_by_hand():
    final = run.Final.of(torch.tensor([[0.0, np.log(3)], [2.0, 0.0]]))
    found = run.compared(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), final, torch.tensor([0, 1]))
    kl = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert found[0].tolist() == pytest.approx([np.log(2), np.log(1 + np.e)])
    assert found[1, 0].item() == pytest.approx(kl) and found[2].tolist() == [1, 1]  # equal logits agree
    own = run.compared(torch.tensor([[0.0, np.log(3)], [2.0, 0.0]]), final, torch.tensor([0, 1]))
    assert own[1].tolist() == pytest.approx([0, 0], abs=1e-6) and (own[1] >= 0).all()


def test_translators_leave_what_is_right_and_find_a_shift():
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(200, 5, generator=rng)
    for final in (states, states + torch.arange(5.0)):
        moments = run._Moments(5, torch.device("cpu"))
        for part in (slice(0, 50), slice(50, 200)):
            moments.add(states[part], final[part])
        assert torch.allclose(run.translated(states, moments.solved()), final, atol=0.02)


def test_experts_that_are_dealt_out_keep_their_loads():
    selected = torch.randint(0, 8, (50, 2), generator=torch.Generator().manual_seed(0))
    found = run.dealt(selected, np.random.default_rng(0))
    assert not found.equal(selected) and found.flatten().bincount().equal(selected.flatten().bincount())


def test_slots_are_matched_with_the_nearest_weight_of_other_experts_in_the_same_window():
    handed = Handed(
        torch.zeros(4, 1),
        torch.tensor([[0, 1], [1, 2], [2, 0], [1, 2]]),
        torch.tensor([[4.0, 2], [4, 2], [3, 3], [3, 1]]),
    )
    every_slot, matched, control = run.removed_slots(handed, 0, np.array([0, 0, 1, 1]), 0.1)
    assert every_slot.tolist() == [[True, False], [False, False], [False, True], [False, False]]
    assert matched.equal(every_slot)
    assert control.sum().item() == 2 and control[1, 0] and (control[2, 0] or control[3, 0])


# ---------------------------------------------------------------- the runs against brute force


@pytest.fixture(scope="module")
def tiny():
    return families.causal_model("olmoe")


@pytest.fixture(scope="module")
def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, 90, size) for size in (9, 14, 5, 12, 9, 2)]


@pytest.fixture(scope="module")
def fitted(tiny, texts) -> run.Fitted:
    return run.fit(Lens(tiny), texts, tokens=4, seed=0, tokens_per_batch=64)


@torch.inference_mode()
def test_sums_are_those_of_each_window_alone(tiny, texts, fitted):
    read, found = Lens(tiny), run.score(Lens(tiny), texts, fitted, seed=0, tokens_per_batch=24)
    again = run.score(Lens(tiny), texts, fitted, seed=0, tokens_per_batch=1000)
    for name in ("lens", "translated"):
        np.testing.assert_allclose(found[name], again[name], rtol=1e-4, atol=1e-4)
    for name in ("slots", "attribution", "promotion", "of_layer"):
        one, other = (each[name].isel(kind=0) for each in (found, again))
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    text = torch.from_numpy(texts[1])[None]
    final = tiny(input_ids=text, use_cache=False).logits[0, :-1]
    following = text[0, 1:]
    loss = torch.nn.functional.cross_entropy(final, following, reduction="sum").item()
    assert found["lens"][1, -1].values.tolist() == pytest.approx([loss, 0, 13], abs=1e-3)
    states = read.run(text, torch.arange(13))
    early = read.logits(read.normed(states.states["attention 1"]))
    kl = (final.softmax(1) * (final.log_softmax(1) - early.log_softmax(1))).sum().item()
    loss = torch.nn.functional.cross_entropy(early, following, reduction="sum").item()
    agree = (early.argmax(1) == final.argmax(1)).sum().item()
    place = read.places.index("attention 1")
    assert found["lens"][1, place].values.tolist() == pytest.approx([loss, kl, agree], rel=1e-4)
    layer, handed = 2, states.handed[2]
    scale, slots = read.scale(states.states["layer 2"]), np.zeros(8)
    wanted = np.zeros((3, 8))
    written_ = read.written(layer, handed)
    for token in range(13):
        for rank in range(3):
            expert = handed.selected[token, rank]
            logits = read.unembedded(written_[token, rank][None])[0] * scale[token]
            slots[expert] += 1
            wanted[0, expert] += logits[following[token]]
            own = logits[fitted.promoted[layer, expert]].mean() - logits[fitted.suppressed[layer, expert]].mean()
            wanted[1, expert] += own
            for other in range(8):
                apart = logits[fitted.promoted[layer, other]].mean() - logits[fitted.suppressed[layer, other]].mean()
                wanted[2, other] += apart
    mine = found.isel(kind=0, document=1, layer=layer)
    assert mine["slots"].values.tolist() == slots.tolist()
    for row, name in zip(wanted, ("attribution", "promotion", "of_layer"), strict=True):
        np.testing.assert_allclose(mine[name], row, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_removing_an_experts_slots_is_removing_the_expert_by_its_weight(tiny, texts, fitted):
    read = Lens(tiny)
    found = run.remove(read, texts[:3], fitted.strongest, caliper=0.3, tokens_per_batch=64)
    for index, layer in enumerate(read.blocks):
        for number, text in enumerate(texts[:3]):
            text = torch.from_numpy(text)[None]
            losses = []
            for expert in (-1, fitted.strongest[index]):
                with changed(tiny, layer, Change("weight"), expert):
                    logits = tiny(input_ids=text, use_cache=False).logits[0, :-1]
                losses.append(torch.nn.functional.cross_entropy(logits, text[0, 1:], reduction="none"))
            mine = found["change"].sel(removed=OWN, layer=layer).isel(document=number, place=-1)
            hit = (
                read.run(text, torch.arange(text.numel() - 1)).handed[layer].selected == fitted.strongest[index]
            ).any(1)
            apart = losses[1] - losses[0]
            assert mine.values.tolist() == pytest.approx([apart[hit].sum().item(), apart[~hit].sum().item()], abs=1e-4)
            assert found["tokens"].sel(removed=OWN, layer=layer)[:, number].values.tolist() == [hit.sum(), (~hit).sum()]
    slots = found["slots"].sum("document")
    assert slots.sel(removed=MATCHED).equals(slots.sel(removed=CONTROL).assign_coords(removed=MATCHED))
    assert (slots.sel(removed=MATCHED, drop=True) <= slots.sel(removed=OWN, drop=True)).all()
    assert (found["change"].sel(layer=2).isel(place=slice(0, 6)) == 0).all()  # before that layer's experts


@torch.inference_mode()
def test_an_expert_that_writes_for_a_token_promotes_it_and_its_weights_say_so(texts):
    """Expert 3 of layer 1 is made to write the row of token 50, whatever it receives."""
    model = families.causal_model("olmoe")
    block = find_blocks(model.base_model)[1]
    row = model.lm_head.weight[50] / model.model.norm.weight
    block.experts.down_proj[3] = 30 * row[:, None] * block.experts.down_proj[3].abs().mean()
    block.experts.gate_up_proj[3] = block.experts.gate_up_proj[3].abs()
    read = Lens(model)
    found = run.fit(read, texts, tokens=2, seed=0, tokens_per_batch=64)
    assert 50 in (found.promoted[1, 3, 0], found.suppressed[1, 3, 0])
    named, shared = run.read_weights(read, found, tokens=2, directions=1)
    assert 50 in named[1, 3, 0, :, 0]
    assert shared[1, 3, 3] >= 0.5 and shared.shape == (3, 8, 8) and ((shared >= 0) & (shared <= 1)).all()
    sums = run.score(read, texts, found, seed=0, tokens_per_batch=64).sum("document")
    promotion = sums["promotion"] / sums["slots"] - sums["of_layer"] / sums["slots"].sum("expert")
    assert int(promotion.isel(kind=0, layer=1).values.argmax()) == 3
    assert float(promotion.isel(kind=0, layer=1).max()) > 5 * abs(float(promotion.isel(kind=1, layer=1).mean()))


# ---------------------------------------------------------------- which text


def study_case(clusters: int = 12, window: int = 10) -> dict[str, Case]:
    """Two datasets of documents of two windows each, of like clusters; token ids are random."""
    rng, made = np.random.default_rng(0), {}
    for name in ("poems", "code"):
        lengths = rng.integers(12, 20, clusters).tolist()
        ids = rng.integers(3, 90, sum(lengths))
        layer = records(logits_for(np.stack([ids % 8, (ids + 1) % 8, (ids + 2) % 8], axis=1), 8), 3)
        one = case(dict.fromkeys((0, 1, 2), layer), lengths, ids)
        made[name] = Case(one.layers, one.lengths, one.token_id, one.documents, window)
    return made


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> xr.Dataset:
    return routed.read(**written(study_case(), tmp_path_factory.mktemp("study")))


def test_clusters_are_scored_or_fitted_on_and_each_has_its_turn(study):
    planned = logit_lens.plan(study, **DRAWN)
    cluster = study["cluster"].values[logit_lens.documents_of(study)]
    scored, fitted_on = ([set(cluster[span].tolist()) for span in spans] for spans in (planned.scored, planned.fitted))
    assert set().union(*scored).isdisjoint(set().union(*fitted_on)) and all(len(each) == 1 for each in scored)
    assert len(planned.scored) == 12 and len(set().union(*scored)) == 12  # one of each cluster before a second one
    assert [next(iter(each)) for each in scored] == planned.cluster.tolist()
    assert planned.dataset.tolist() == [0] * 6 + [1] * 6 and planned.removal.sum() == 8
    assert set(cluster[planned.among].tolist()).isdisjoint(set().union(*scored))
    more = logit_lens.plan(study, **DRAWN | {"windows": 10})
    assert len(more.scored) == 20 and set(more.cluster.tolist()) == set(planned.cluster.tolist())
    again, other = (logit_lens.plan(study, **DRAWN | {"seed": seed}) for seed in (6, 7))
    assert again.cluster.tolist() == planned.cluster.tolist() != other.cluster.tolist()


def test_the_unigram_model_by_hand(study):
    planned, ids = logit_lens.plan(study, **DRAWN), study["token_id"].sel(kind="input").values
    dataset, span = study["dataset"].values, planned.scored[0]
    counts = [np.bincount(ids[planned.among & (dataset == one)], minlength=97) for one in (0, 1)]
    common = (counts[0] + counts[1] + 1) / (sum(map(np.sum, counts)) + 97)
    wanted = -sum(np.log((counts[0][one] + 97 * common[one]) / (counts[0].sum() + 97)) for one in ids[span[1:]])
    assert logit_lens.unigram_loss(study, planned, 97)[0] == pytest.approx(wanted)


def test_half_of_the_gain_by_hand():
    depth = np.array([0, 0.5, 1, 1.5, 2])
    gains = [[-1, 1, 2, 3, 4], [2.5, 1, 1, 1, 4], [-1, 0, 1, 3, 4], [0, 0, 0, 0, -1], [1, 3, 1, 3, 4]]
    found = logit_lens.half_depth(xr.DataArray(gains, dims=("draw", "place")), depth)
    assert found.values[[0, 1, 2, 4]].tolist() == pytest.approx([1, 0, 1.25, 0.25]) and np.isnan(found.values[3])
    assert [logit_lens.depth_of(each) for each in ("embedding", "layer 0", "attention 3")] == [0, 1, 3.5]


# ---------------------------------------------------------------- all measures, and the page


@pytest.fixture(scope="module")
def metrics(study, tiny) -> xr.Dataset:
    planned = logit_lens.plan(study, **DRAWN)
    found = run.found(Lens(tiny), study, planned, SETTINGS, 256)
    made = logit_lens.measure(study, planned, found, **STATISTICS).metrics
    return logit_lens.with_texts(made, lambda ids: [f"t{one}" for one in ids])


def test_measures_fit_each_other(metrics):
    of = metrics.sel(interval="estimate")
    last = of.isel(place=-1)
    assert (last["lens_divergence"] < 1e-5).all() and (last["lens_agreement"] == 1).all()
    xr.testing.assert_allclose(last["lens_loss"], last["translated_loss"].rename("lens_loss"))
    before = of["lens_loss"].sel(place="embedding") - of["lens_loss"].sel(place="layer 2")
    added = 3 * (of["mean_over_layers_added_by_attention"] + of["mean_over_layers_added_by_experts"])
    np.testing.assert_allclose(added.values, before.values)
    # each token has three slots, so the layer's attribution is that of its experts weighted by their slots
    assert metrics["attribution"].dims == ("layer", "expert", "interval") and of["attribution"].notnull().sum() > 12
    assert metrics["clusters"].values.tolist() == [12, 6, 6] and metrics["removal_clusters"] == 8
    removal = of["removal_change"].sel(removed=OWN).isel(place=-1)
    assert (removal.notnull().all("side")).any()
    pooled = of["lens_loss"].sel(dataset=[*metrics["dataset"].values[1:]])
    low, high = pooled.min("dataset"), pooled.max("dataset")
    assert ((low <= of["lens_loss"].sel(dataset=POOLED)) & (of["lens_loss"].sel(dataset=POOLED) <= high)).all()


def test_promotion_of_experts_that_are_dealt_out_is_chance(metrics):
    null, own = metrics["mean_over_layers_null_mean_promotion"], metrics["mean_over_layers_mean_promotion"]
    assert null.sel(interval="low") <= 0.1 and abs(float(null.sel(interval="estimate"))) < 0.5 * float(own[0])
    assert (metrics["null_direction_agreement"].sel(interval="estimate") < 0.5).all()


@pytest.mark.slow
def test_figures_and_findings_say_what_was_measured(metrics):
    shown = seen(metrics.assign_attrs(READ))
    figures = {figure.name: figure for figure in page.figures(shown)}
    assert all("n = " in figure.caption and "Not measured" not in figure.caption for figure in figures.values())
    assert {*SIDES} <= set(figures["removal_by_depth"].data["side"])
    assert len(figures["promotion_by_expert"].data) == 24
    assert {finding.figure for finding in page.findings(shown)} <= set(figures)
    rows = logit_lens.token_table(metrics)
    assert set(rows["kind"]) == {"promoted", "suppressed", "read"} and rows["token"].str.startswith("t").all()
    assert len(rows[rows["kind"] == "read"]) == 3 * 8 * 2 * 2 * 3


def test_where_nothing_can_be_read_nothing_is_said_but_the_reason(study):
    planned = logit_lens.plan(study, **DRAWN)
    found = logit_lens.nothing([0, 1, 2], planned, experts=8, tokens=3, directions=2)
    made = logit_lens.measure(study, planned, found, **STATISTICS).metrics
    made = logit_lens.with_texts(made, lambda ids: []).assign_attrs(READ | {"not_read": "it has no head"})
    assert page.findings(seen(made)) == [] and page.brief(seen(made)) is None
    for figure in page.figures(seen(made)):
        assert "Not measured: it has no head." in figure.caption and "nan" not in figure.caption + figure.alt


def test_a_study_without_other_clusters_gives_the_reason(study, model_folder):
    loading = {"dtype": "auto", "device": torch.device("cpu"), "attention": "auto", "experts": "auto", "gpus": 1}
    arguments = (SETTINGS, str(model_folder), loading | {"trust_remote_code": False}, {"cpu": 256})
    planned = logit_lens.plan(study, **DRAWN)
    found, reasons = run.study(study, planned._replace(fitted=[]), *arguments)
    assert "none is left to fit on" in reasons["not_read"] and np.isnan(found.scored["lens"]).all()
    found, reasons = run.study(study, planned, *arguments)
    assert reasons == READ and np.isfinite(found.scored["lens"]).all()


@pytest.mark.slow
def test_where_experts_write_through_a_norm_the_lens_is_read_and_nothing_is_said_of_them(study):
    planned, read = logit_lens.plan(study, **DRAWN), Lens(families.causal_model("flex_olmo"))
    found = run.found(read, study, planned, SETTINGS, 256)
    made = logit_lens.with_texts(
        logit_lens.measure(study, planned, found, **STATISTICS).metrics, lambda ids: ["t"] * len(ids)
    )
    assert made["lens_loss"].notnull().all() and made["removal"].notnull().all()
    assert (found.promoted == routed.NONE).all()
    for name in ("attribution", "promotion", "layer_attribution", "attribution_spread", "direction_agreement"):
        assert made[name].isnull().all(), name
    shown = seen(made.assign_attrs(READ | {"not_written": read.unwritten}))
    told = {figure.name for figure in page.figures(shown) if "passes a norm" in figure.caption}
    assert len(told) == 5 and "loss_by_depth" not in told
    assert {finding.figure for finding in page.findings(shown)} == {
        "loss_by_depth",
        "added_by_layer",
        "removal_by_depth",
    }


@pytest.mark.long
def test_intervals_cover_planted_losses(study):
    """Clusters differ in their mean loss; the planted mean of all clusters is within the intervals often enough."""
    planned, inside = logit_lens.plan(study, **DRAWN), []
    rng = np.random.default_rng(0)
    nothing = logit_lens.nothing([0, 1, 2], planned, experts=8, tokens=3, directions=2)
    lengths = np.array([len(span) - 1 for span in planned.scored])
    for _ in range(150):
        loss = 3 + 0.5 * rng.standard_normal(len(lengths))
        values = np.zeros(nothing.scored["lens"].shape)
        values[..., 0] = (loss * lengths)[:, None]
        scored = nothing.scored.assign(lens=(("document", "place", "what"), values))
        draws = logit_lens._of_places(study, planned, nothing._replace(scored=scored), 200, 1)
        low, high = np.quantile(draws["lens_loss"].sel(dataset=POOLED).isel(place=0).values[1:], [0.025, 0.975])
        inside.append(low <= 3 <= high)
    assert np.mean(inside) >= 0.9
