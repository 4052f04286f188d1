"""Reach: what is run, overlap corrected for chance, planted reach and planted changes, running a model, the page."""

from copy import deepcopy
from functools import partial

import families
import numpy as np
import page_cases
import pytest
import torch
import xarray as xr
from routing_cases import Case, case, logits_for, records
from vocabulary_cases import written

from gatebook.chapters.reach import AGAIN, DTYPE, KERNEL, page, rerun
from gatebook.chapters.reach import measure as reach
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import stability, uncertainty
from gatebook.measures.stability import Cells
from gatebook.measures.token_sample import documents_of
from gatebook.problem import Problem
from gatebook.routing.families import routing_rule
from gatebook.routing.routers import selection_biases
from gatebook.study import routed

seen = partial(page_cases.seen, "reach")

LENGTHS = [1, 2, 4]
CHOSEN = {"tokens": 60, "lengths": LENGTHS, "windows": 20, "seed": 5, "special": []}
CPU = {"cpu": 256}


def study_case(lengths: dict[str, list[int]], window: int = 10**9, cluster: list[str] | None = None) -> dict[str, Case]:
    """Datasets in which token ids count up from 10 in each document, by tens, and routing is that of the token id."""
    made = {}
    for name, sizes in lengths.items():
        ids = np.concatenate([10 * index + 10 + np.arange(size) for index, size in enumerate(sizes)])
        one = case({1: records(logits_for(np.stack([ids % 8, (ids + 1) % 8], axis=1), 8), 2)}, sizes, ids, cluster)
        made[name] = Case(one.layers, one.lengths, one.token_id, one.documents, window)
    return made


def read(study: dict[str, Case], folder) -> tuple[xr.Dataset, dict]:
    paths = written(study, folder)
    return routed.read(**paths), paths


# ---------------------------------------------------------------- what is run


def test_texts_are_the_ends_of_texts_and_unrelated_ones_are_of_other_groups(tmp_path):
    study, _ = read(study_case({"a": [7] * 25, "b": [6, 3, 9]}), tmp_path)
    planned = reach.plan(study, **CHOSEN)
    ids, group = study["token_id"].sel(kind="input").values, study["group"].values
    _, position = routed.windows(study)
    assert (position[planned.place] >= 4).all() and (np.diff(planned.place) > 0).all()
    assert len(planned.place) == 60 and list(planned.short) == LENGTHS and list(planned.unrelated) == [1, 2]
    owner = {tuple(ids[end - 2 : end]): group[end - 1] for end in range(2, 1 + len(ids)) if position[end - 1] >= 4}
    for index, end in enumerate(planned.place + 1):
        for length in LENGTHS:
            assert planned.short[length][index].tolist() == ids[end - length : end].tolist()
        other = planned.unrelated[2][index]
        assert other[2:].tolist() == ids[end - 2 : end].tolist()
        if sum(tuple(ids[at - 2 : at]) == tuple(other[:2]) for at in range(2, 1 + len(ids))) == 1:
            assert owner[tuple(other[:2])] != group[end - 1]
    again, other_seed = (reach.plan(study, **CHOSEN | {"seed": seed, "tokens": 20}).place.tolist() for seed in (5, 6))
    assert again == reach.plan(study, **CHOSEN | {"tokens": 20}).place.tolist() != other_seed


def test_every_cluster_counts_before_one_counts_twice(tmp_path):
    cluster = ["x", "x", "y", "z", "z", "z"]
    study, _ = read(study_case({"a": [8, 9, 8, 12, 9, 3], "b": [9] * 6}, cluster=cluster), tmp_path)
    for seed in range(10):
        for tokens, wanted in ((4, [2, 2]), (6, [3, 3]), (9, [3, 6])):
            place = reach.plan(study, **CHOSEN | {"tokens": tokens, "seed": seed}).place
            clusters = study["cluster"].values[documents_of(study)[place]]
            held = [np.unique(clusters[study["dataset"].values[place] == one], return_counts=True)[1] for one in (0, 1)]
            assert all(counts.max() <= -(-tokens // 6) for counts in held) and len(place) == tokens
            assert tokens > 6 or [counts.sum() for counts in held] == wanted


def test_windows_are_whole_and_their_later_tokens_count(tmp_path):
    study, _ = read(study_case({"a": [20, 20, 6], "b": [4, 13]}, window=10), tmp_path)
    planned = reach.plan(study, **CHOSEN | {"windows": 3})
    ids, (_, position) = study["token_id"].sel(kind="input").values, routed.windows(study)
    assert len(planned.windows) == 3
    for window in planned.windows:
        start = np.flatnonzero((ids == window[0]) & (position == 0))
        assert any(ids[at : at + len(window)].tolist() == window.tolist() for at in start)
    assert np.concatenate(planned.windows)[planned.within].tolist() == ids[planned.later].tolist()
    assert (position[planned.later] >= 4).all()
    assert len(planned.later) == sum(len(window) - 4 for window in planned.windows)


def test_special_tokens_that_a_window_begins_with_are_kept(tmp_path):
    study, _ = read(study_case({"a": [9] * 22}), tmp_path)
    special = study["token_id"].sel(kind="input").values[[0, 1, 9, 13]]  # two at the start, one, and one within
    planned = reach.plan(study, **CHOSEN | {"special": special, "tokens": 500})
    document, (_, position) = documents_of(study)[planned.place], routed.windows(study)
    assert position[planned.place][document == 0].tolist() == [6, 7, 8]
    assert position[planned.place][document == 1].tolist() == [5, 6, 7, 8]
    for index, of in enumerate(document):
        leading = [10, 11] if of == 0 else [20] if of == 1 else []
        assert planned.short[2][index].tolist()[:-2] == leading
        assert planned.unrelated[2][index].tolist()[:-4] == leading
    assert planned.begins == 7


def test_one_group_has_no_unrelated_text_and_short_texts_no_tokens(tmp_path):
    one, _ = read(study_case({"a": [30]}), tmp_path / "one")
    assert reach.plan(one, **CHOSEN).unrelated == {}
    short, _ = read(study_case({"a": [4] * 5, "b": [3]}), tmp_path / "short")
    planned = reach.plan(short, **CHOSEN)
    assert len(planned.place) == len(planned.windows) == len(planned.later) == 0


# ---------------------------------------------------------------- overlap


def cells_of(rng: np.random.Generator, tokens: int, datasets: int = 2) -> Cells:
    return Cells(rng.integers(0, GROUPS, tokens), rng.integers(0, datasets, tokens), datasets)


def random_sets(rng: np.random.Generator, tokens: int, experts: int = 8, top_k: int = 2) -> np.ndarray:
    return np.argsort(rng.random((tokens, experts)) ** (1 + np.arange(experts)), axis=1)[:, -top_k:]


def test_overlap_by_hand():
    one = np.array([[0, 1], [2, 3], [4, 5]])
    assert stability.overlap(one, np.array([[1, 0], [3, 4], [6, 7]])).tolist() == [1, 0.5, 0]
    assert stability.overlap(one, np.array([[0, 1, 2]] * 3)).tolist() == [1, 0.5, 0]


def test_chance_is_the_mean_over_pairs_of_different_groups():
    rng = np.random.default_rng(0)
    one, other, cells = random_sets(rng, 120), random_sets(rng, 120), cells_of(rng, 120)
    found = stability.by_chance(one, other, 8, cells)
    pairs = np.array([[len({*a} & {*b}) / 2 for b in other.tolist()] for a in one.tolist()])
    for draw in (0, 1, 8, 20):
        kept = cells.group != draw - 1
        size = np.bincount(cells.dataset[kept], minlength=2)
        weight = kept / size[cells.dataset]
        apart = cells.group[:, None] != cells.group
        by_dataset = []
        for dataset in (0, 1):
            counts = (kept & (cells.dataset == dataset))[:, None] * weight * apart
            by_dataset.append(((pairs * counts).sum(), counts.sum(), size[dataset]))
            assert found[draw, 1 + dataset] == pytest.approx(by_dataset[-1][0] / by_dataset[-1][1])
        whole = [sum(part[at] / part[2] for part in by_dataset) for at in (0, 1)]
        assert found[draw, 0] == pytest.approx(whole[0] / whole[1])


def test_means_leave_out_groups_and_weigh_datasets_alike():
    cells = Cells(np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1]), 2)
    values, every = np.array([1.0, 2, 6, 4, 8]), np.ones(5, bool)
    found = stability.mean(values, every, cells)
    assert found[0].tolist() == [4.5, 3, 6] and found[1].tolist() == [6, 6, 6]
    assert found[2].tolist() == pytest.approx([4.75, 1.5, 8]) and found[4].tolist() == found[0].tolist()
    none = stability.mean(values, np.array([True, True, False, False, False]), cells)
    assert none[0, :2].tolist() == pytest.approx([1.5, 1.5]) and np.isnan(none[0, 2]) and np.isnan(none[1]).all()


def test_corrected_is_one_of_equal_sets_and_nothing_of_independent_ones():
    rng = np.random.default_rng(1)
    cells, sets = cells_of(rng, 400), random_sets(rng, 400)
    assert stability.corrected(sets, sets[:, ::-1], 8, cells)[0] == pytest.approx([1, 1, 1])
    found = [stability.corrected(sets, random_sets(rng, 400), 8, cells)[0] for _ in range(60)]
    assert abs(np.mean(found, axis=0)).max() < 0.012
    every = np.tile(np.arange(8), (400, 1))
    assert np.isnan(stability.corrected(every, every, 8, cells)).all()  # chance is all there is


def test_a_planted_share_of_equal_sets_is_found_whatever_the_loads():
    rng = np.random.default_rng(2)
    cells, sets = cells_of(rng, 4000), random_sets(rng, 4000)
    for share in (0.2, 0.7):
        other = np.where(rng.random((4000, 1)) < share, sets, sets[rng.permutation(4000)])
        assert stability.corrected(sets, other, 8, cells)[0, 0] == pytest.approx(share, abs=0.03)
        # Experts that are renamed, and tokens in another order, change nothing.
        order, named = rng.permutation(4000), rng.permutation(8)
        moved = stability.corrected(
            named[sets][order], named[other][order], 8, Cells(cells.group[order], cells.dataset[order], 2)
        )
        np.testing.assert_allclose(moved, stability.corrected(sets, other, 8, cells))


@pytest.mark.slow
def test_intervals_cover_a_planted_share():
    """Clusters differ in how often their tokens go where they went, and in their loads."""
    rng, inside = np.random.default_rng(3), []
    for _ in range(200):
        cluster = np.repeat(np.arange(60), 1 + rng.geometric(0.3, 60))
        cells = Cells(cluster % GROUPS, (cluster >= 30).astype(np.int64), 2)
        favoured = rng.integers(0, 8, 60)[cluster]
        sets = np.stack([favoured, (favoured + rng.integers(1, 8, len(cluster))) % 8], axis=1)
        share = rng.beta(3, 2, 60)[cluster]
        other = np.where(
            rng.random((len(cluster), 1)) < share[:, None], sets, np.argsort(rng.random((len(cluster), 8)))[:, :2]
        )
        draws = xr.DataArray(stability.corrected(sets, other, 8, cells)[:, 0], dims="draw")
        low, high = uncertainty.jackknife(draws).values[1:]
        inside.append(low <= 0.6 <= high)  # the others are uniform, and so share what chance gives
    assert np.mean(inside) >= 0.9


# ---------------------------------------------------------------- all measures


class InMemory:
    """A loader that gives copies of a model that is there already."""

    device = torch.device("cpu")

    def __init__(self, model, fails: str = ""):
        self.model, self.fails, self.loaded = model, fails, []

    def load(self, change: rerun.Change | None = None):
        self.loaded.append(change.name if change else "")
        if change and change.name == self.fails:
            raise Problem("it does not run.")
        model = deepcopy(self.model)
        if change and "dtype" in change.settings:
            model = model.to(getattr(torch, change.settings["dtype"]))
        if change and change.noise:
            rerun.add_noise(model, change.noise, 0)
        return model


@pytest.fixture(scope="module")
def tiny():
    """A tiny OLMoE without a head."""
    return families.causal_model("olmoe").base_model


def found_of(model, folder, loader=None, noise=(0.5,), **options):
    """All measures of a study of random tokens, whose records are what the model does to whole windows."""
    rng, layers = np.random.default_rng(4), sorted(selection_biases(model, [0, 1, 2]))
    study = {}
    for name in ("poems", "code"):
        lengths = rng.integers(6, 12, 22).tolist()
        ids = rng.integers(3, 90, sum(lengths))
        whole = np.split(ids, np.cumsum(lengths)[:-1])
        sets, _ = rerun.selected(model, layers, whole, 256)
        made = {layer: records(logits_for(one, 8), 3) for layer, one in zip(layers, sets, strict=True)}
        study[name] = case(made, lengths, ids)
    read_study, paths = read(study, folder)
    planned = reach.plan(read_study, **CHOSEN | {"tokens": 100} | options)
    full, later, experts = reach.recorded(routed.read_layers(read_study, paths["records"]), planned)
    done = rerun.run(loader or InMemory(model), planned, layers, noise=noise, tokens_per_batch=CPU)
    found = reach.Routed(full, done.short, done.unrelated, later, done.changed, done.margin)
    chosen = {"experts": experts, "lengths": LENGTHS, "noise": noise, "confidence": 0.95}
    metrics = reach.measure(read_study, planned, found, **chosen).metrics
    return metrics.assign_attrs(done.attrs)


@pytest.fixture(scope="module")
def ordinary(tiny, tmp_path_factory) -> xr.Dataset:
    return found_of(tiny, tmp_path_factory.mktemp("ordinary"))


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory) -> xr.Dataset:
    """A model without attention, whose routing needs nothing but the token."""
    model = deepcopy(tiny)
    for layer in model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    return found_of(model, tmp_path_factory.mktemp("alone"))


def estimate(metrics: xr.Dataset, name: str, **where) -> np.ndarray:
    return metrics[name].sel(dataset="pooled", interval="estimate", **where).values


def test_routing_without_attention_needs_nothing_but_the_token(alone):
    for name in ("recovered", "recovered_after_unrelated"):
        values = estimate(alone, name)
        assert values[np.isfinite(values)] == pytest.approx(1)
    assert (estimate(alone, "lost_to_unrelated", length=[1, 2]) == 0).all()
    assert np.isnan(estimate(alone, "recovered_after_unrelated", length=4)).all()


def test_more_text_settles_more(ordinary):
    mean = estimate(ordinary, "mean_over_layers_recovered")
    assert (np.diff(mean) > 0).all() and 0 < mean[0] < mean[-1] < 1
    apart = ordinary["recovered"] - ordinary["recovered_after_unrelated"]
    lost = ordinary["lost_to_unrelated"].sel(interval="estimate").transpose(*apart.dims[:-1])
    xr.testing.assert_allclose(apart.sel(interval="estimate"), lost)


def test_what_changes_nothing_leaves_all_and_noise_leaves_less(ordinary):
    for name in ("kept_experts", "equal_sets"):
        assert (estimate(ordinary, name, change=AGAIN) == 1).all()
    assert estimate(ordinary, "ceiling", change=AGAIN) == pytest.approx(1)
    noisy = "noise of 50 %"
    assert ordinary["change"].values.tolist() == [AGAIN, DTYPE, KERNEL, noisy]
    assert (estimate(ordinary, "ceiling", change=noisy) < estimate(ordinary, "ceiling", change=DTYPE)).all()
    assert np.isnan(estimate(ordinary, "margin_changed", change=AGAIN)).all()
    means = [estimate(ordinary, f"mean_over_layers_{name}", change=noisy) for name in ("margin_changed", "margin_kept")]
    assert means[0] < means[1]
    assert (estimate(ordinary, "equal_sets") <= estimate(ordinary, "kept_experts")).all()
    assert ordinary.attrs["other_dtype"] == "bfloat16" and ordinary.attrs["other_kernel"] == "grouped_mm"
    assert ordinary["tokens"].values[0] == 100 and ordinary["clusters"].values[0] == 44
    assert ordinary["changed_clusters"].values.tolist() == [20, 10, 10]


def test_a_kernel_that_does_not_run_is_left_out_with_the_reason_and_another_failure_is_one(tiny, ordinary):
    text = np.arange(5, 15)
    planned = reach.Plan(np.array([9]), {1: [text[-1:]]}, {}, 0, [text], np.arange(4, 10), np.arange(4, 10))
    run = partial(rerun.run, planned=planned, layers=[1], noise=[], tokens_per_batch=CPU)
    done = run(InMemory(tiny, KERNEL))
    assert list(done.changed) == [AGAIN, DTYPE] and done.attrs["not_run"] == "it does not run."
    assert done.changed[AGAIN].shape == (1, 6, 3) and done.margin.shape == (1, 6) and done.short[1].shape == (1, 1, 3)
    with pytest.raises(Problem, match="does not run"):
        run(InMemory(tiny, DTYPE))
    without = ordinary.assign_attrs(not_run="it does not run.")
    assert "Not run: it does not run." in page.figures(seen(without))[2].caption


def test_without_a_long_text_no_model_is_loaded_and_nothing_is_said(tiny, tmp_path):
    loader = InMemory(tiny)
    metrics = found_of(tiny, tmp_path, loader, lengths=[64])
    assert loader.loaded == [] and np.isnan(metrics["ceiling"]).all() and metrics["tokens"].values[0] == 0
    shown = seen(metrics)
    assert page.findings(shown) == [] and page.brief(shown) is None
    assert all(figure.drawing.axes for figure in page.figures(shown))


# ---------------------------------------------------------------- running a model


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3"])
def test_sets_are_those_of_each_text_alone_and_margins_those_of_the_rule(family):
    model = families.causal_model(family).base_model
    rng = np.random.default_rng(0)
    texts = [rng.integers(3, 90, size) for size in (3, 9, 3, 1)]
    layers = sorted(families.decided(model, torch.tensor(texts[0])))
    sets, margin = rerun.selected(model, layers, texts, 8, margins=True)
    rule, biases = routing_rule(model.config), selection_biases(model, layers)
    start = 0
    for text in texts:
        rows = slice(start, start := start + len(text))
        for index, (layer, (_, (logits, _, ids))) in enumerate(families.decided(model, torch.tensor(text)).items()):
            assert (np.sort(sets[index, rows]) == ids.sort().values.numpy()).all()
            wanted = rule.scalars(logits, ids, biases[layer])["boundary_margin"]
            np.testing.assert_allclose(margin[index, rows], wanted, rtol=1e-4, atol=1e-6)
    assert np.isnan(rerun.selected(model, layers, texts, 8)[1]).all()


def test_changes_differ_from_how_the_model_computes():
    ours = rerun.changes({"dtype": "float32", "experts": "eager"}, [0.01])
    assert [change.name for change in ours] == reach.names_of([0.01]) == [AGAIN, DTYPE, KERNEL, "noise of 1 %"]
    assert [dict(change.settings) for change in ours[1:3]] == [{"dtype": "bfloat16"}, {"experts": "grouped_mm"}]
    theirs = rerun.changes({"dtype": "bfloat16", "experts": "grouped_mm"}, [])
    assert [dict(change.settings) for change in theirs[1:3]] == [{"dtype": "float32"}, {"experts": "eager"}]


def test_noise_is_a_share_of_the_spread_of_each_tensor_and_depends_on_the_seed():
    layer = torch.nn.Linear(400, 300)
    torch.nn.init.normal_(layer.weight, 1, 2)
    torch.nn.init.constant_(layer.bias, 3)
    made = [deepcopy(layer) for _ in range(3)]
    for each, seed in zip(made, (1, 1, 2), strict=True):
        rerun.add_noise(each, 0.1, seed)
    added = (made[0].weight - layer.weight).detach()
    assert float(added.std()) == pytest.approx(0.2, rel=0.02) and abs(float(added.mean())) < 0.002
    assert made[0].bias.equal(layer.bias)  # which has no spread
    assert made[0].weight.equal(made[1].weight) and not made[0].weight.equal(made[2].weight)
    with pytest.raises(Problem, match="set gpus higher"):
        rerun.add_noise(torch.nn.Linear(2, 2, device="meta"), 0.1, 0)


def test_the_loader_changes_what_it_is_told(model_folder):
    settings = {"dtype": "auto", "attention": "auto", "experts": "auto", "gpus": 1, "trust_remote_code": False}
    loader = rerun.Loader(str(model_folder), settings | {"device": "cpu"}, 3, 0)
    plain = loader.load()
    again, dtype, kernel, noise = map(loader.load, rerun.changes({"dtype": "float32", "experts": "eager"}, [0.1]))
    assert all(a.equal(b) for a, b in zip(plain.parameters(), again.parameters(), strict=True))
    assert (dtype.dtype, kernel.config._experts_implementation) == (torch.bfloat16, "grouped_mm")
    assert not plain.layers[0].mlp.gate.weight.equal(noise.layers[0].mlp.gate.weight)


# ---------------------------------------------------------------- the page


def test_the_answers_to_planted_routing(alone, ordinary):
    names = ("alone", "enough", "unrelated", "stable")
    of_alone = dict(zip(names, page.findings(seen(alone)), strict=True))
    assert [of_alone[name].verdict for name in names[:3]] == ["yes", "yes", "unclear"]
    assert "the token alone settle" in of_alone["alone"].question and "settles 100" in of_alone["alone"].answer
    of_both = dict(zip(names, page.findings(seen(ordinary, alone)), strict=True))
    assert of_both["alone"].verdict != "yes" and of_both["enough"].verdict == "no"
    assert "less than in the untrained model" in of_both["alone"].answer
    assert "In bfloat16" in of_both["stable"].answer and of_both["stable"].n == 20
    assert "settle" in page.brief(seen(ordinary)).text


def test_figures_show_all_lengths_and_changes(ordinary, alone):
    lines, matrix, stability, margins = page.figures(seen(ordinary, alone))
    named = {text.get_text() for legend in lines.drawing.legends for text in legend.get_texts()}
    assert {"trained", "untrained", "after unrelated text"} <= named
    assert set(matrix.data["length"]) == set(LENGTHS)
    assert "another dtype (bfloat16)" in stability.caption and "grouped_mm" in margins.alt + stability.alt
