"""Expert ablation: which documents, sums against whole runs, matched slots, planted effects, the page."""

import json
import os
import runpy
from contextlib import chdir
from functools import partial
from pathlib import Path

import families
import numpy as np
import page_cases
import pytest
import scipy.stats
import study_cases
import torch
import xarray as xr

from gatebook.chapters.expert_ablation import ITSELF, PREDICTORS, page, scan
from gatebook.chapters.expert_ablation import measure as ablation
from gatebook.files import netcdf
from gatebook.inputs.clusters import GROUPS, groups
from gatebook.measures import uncertainty
from gatebook.measures.summary import MEAN
from gatebook.routing.families import routing_rule
from gatebook.routing.patching import Change, CleanRun, changed
from gatebook.run import alone

seen = partial(page_cases.seen, "expert_ablation")

CHOSEN = {"splits": 5, "permutations": 40, "false_discovery_rate": 0.05, "seed": 1}
STATISTICS = {"confidence": 0.95, "fewest_clusters": 2}


# ---------------------------------------------------------------- which documents


def tokens_of(cluster: list[str], lengths: list[int] | None = None, window: int = 4) -> xr.Dataset:
    """A dataset whose token ids are the number of the document, times ten, plus the position in it."""
    lengths = lengths or [6] * len(cluster)
    place = np.concatenate([np.arange(length) for length in lengths])
    index = np.repeat(np.arange(len(lengths)), lengths)
    return xr.Dataset(
        {
            "token_id": ("token", (10 * index + place).astype(np.int32)),
            "document_index": ("token", index),
            "position": ("token", place % window),
        },
        coords={
            "document_id": ("document", [f"d{number}" for number in range(len(cluster))]),
            "cluster": ("document", cluster),
            "group": ("document", groups(np.array(cluster))),
        },
        attrs={"dataset": "a", "dataset_sha256": "f" * 64},
    )


def test_one_document_of_each_cluster_and_groups_in_turn():
    tokens = tokens_of([f"c{number // 2}" for number in range(70)])
    for seed in range(5):
        first, others = scan.chosen(tokens, clusters=6, tested_clusters=12, seed=seed)
        of = [tokens["cluster"].values[part] for part in (first, others)]
        assert (len(first), len(others)) == (6, 12) and len(set(np.concatenate(of))) == 18
        assert all(len(set(tokens["group"].values[part])) == len(part) for part in (first, others))
    again = scan.chosen(tokens, clusters=6, tested_clusters=12, seed=4)
    assert again[0].tolist() == first.tolist() and again[1].tolist() == others.tolist()
    fewer = scan.chosen(tokens, clusters=3, tested_clusters=3, seed=4)[0]  # such as at the untrained checkpoint
    assert set(fewer) < set(first)


def test_few_clusters_are_shared_out_and_single_tokens_left_out():
    for clusters, wanted in ((5, (3, 2)), (1, (1, 0)), (8, (4, 4)), (15, (8, 7)), (17, (9, 8)), (20, (10, 8))):
        found = scan.chosen(tokens_of(list("abcdefghijklmnopqrst"[:clusters])), clusters=10, tested_clusters=8, seed=0)
        assert tuple(map(len, found)) == wanted
    short = tokens_of(list("abc"), [5, 1, 7])
    assert sorted(np.concatenate(scan.chosen(short, clusters=2, tested_clusters=2, seed=0))) == [0, 2]
    assert [part.tolist() for part in scan.windows(short, np.array([2, 0]))] == [[20, 21, 22, 23], [0, 1, 2, 3]]
    about = scan.about(short, np.array([2]))
    assert about["cluster"].values.tolist() == ["f" * 16 + "/c"] and about["dataset"].values.tolist() == ["a"]


# ---------------------------------------------------------------- sums of a model


@pytest.fixture(scope="module")
def model():
    """A tiny OLMoE."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield families.causal_model("olmoe").requires_grad_(False)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, 90, length).astype(np.int32) for length in (9, 4, 14, 2, 9)]


@pytest.fixture(scope="module", params=["score", "weight"])
def scanned(request, model, texts) -> tuple[str, xr.Dataset]:
    """What is found, two and three windows at a time."""
    done = []
    found = scan.scan(model, [0, 2], texts, stage=request.param, tokens_per_batch=28, advance=done.append)
    assert sum(done) == len(texts) * 2 * 8
    return request.param, found


@torch.inference_mode()
def test_sums_are_those_of_whole_runs_of_each_document_alone(model, texts, scanned):
    stage, found = scanned
    assert found["predicted_tokens"].values.tolist() == [len(text) - 1 for text in texts]
    for row, text in enumerate(texts):
        ids = torch.tensor(text[None].astype(np.int64))
        clean = CleanRun(model, ids)
        for layer in (0, 2):
            at = found.sel(layer=layer).isel(document=row)
            weights, selected = clean.weights[layer][0, :-1], clean.selected[layer][0, :-1]
            norms = clean.contributions(layer)[0, :-1].norm(dim=-1)
            for expert in (0, 3, 7):
                with changed(model, layer, Change(stage), expert):
                    effect = (clean._loss(ids, clean.known) - clean.loss)[0]
                hit = selected == expert
                wanted = {
                    "loss_change": effect.sum(),
                    "loss_change_at": effect[hit.any(dim=-1)].sum(),
                    "selected_tokens": hit.sum(),
                    "weight_sum": weights[hit].sum(),
                    "contribution_norm": norms[hit].sum(),
                }
                for name, value in wanted.items():
                    assert float(at[name].sel(expert=expert)) == pytest.approx(float(value), abs=1e-4), name


def test_all_slots_are_counted_and_the_last_layer_has_no_effect_elsewhere(texts, scanned):
    _, found = scanned
    slots = found["selected_tokens"].sum("expert")
    assert (slots == 3 * found["predicted_tokens"]).all()  # k is 3
    last = found.sel(layer=2)
    np.testing.assert_allclose(last["loss_change_at"], last["loss_change"], atol=1e-5)
    assert np.abs(found.sel(layer=0)["loss_change_at"] - found.sel(layer=0)["loss_change"]).max() > 1e-3
    unused = found["selected_tokens"] == 0
    assert unused.any() and (found["loss_change"].where(unused, 0) == 0).all()


def test_slots_of_a_picked_expert_are_all_of_it(model, texts, scanned):
    stage, found = scanned
    cells = [(0, 3), (2, 5)]
    done = scan.tested(model, texts, cells=cells, caliper=0.3, tokens_per_batch=28)
    for index, (layer, expert) in enumerate(cells):
        at, of = done.isel(of=index), found.sel(layer=layer, expert=expert)
        np.testing.assert_array_equal(at["picked_slots"], of["selected_tokens"])
        if stage == "weight":
            np.testing.assert_allclose(at["picked_change"], of["loss_change"], atol=1e-4)
    assert 0 < done["matched_slots"].sum() < done["picked_slots"].sum()
    apart = (done["control_weight"] - done["matched_weight"]) / done["matched_weight"].where(done["matched_slots"] > 0)
    assert np.nanmax(np.abs(apart)) <= 0.3 and done["matched_slots"].dtype == float
    whole = scan.tested(model, texts, cells=cells, caliper=1e9, tokens_per_batch=28)
    np.testing.assert_allclose(whole["matched_change"], whole["picked_change"], atol=1e-5)  # all have a partner


@pytest.mark.slow
@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_moe", "gpt_oss", "mixtral"])
def test_other_families_are_scanned(family, texts):
    """Weights that are normalised, biases, shared experts, dense layers."""
    model = families.causal_model(family).requires_grad_(False)
    layers = sorted(CleanRun(model, torch.tensor(texts[0][None].astype(np.int64))).selected)
    assert scan.reason_against(model, layers, "score") == ""
    found = scan.scan(model, layers, texts[:2], stage="score", tokens_per_batch=64)
    assert all(np.isfinite(found[name]).all() for name in scan.SUMS)
    assert np.abs(found["gradient"]).max() > 0 and np.abs(found["direct_logit"]).max() > 0
    assert routing_rule(model.base_model.config).experts == found.sizes["expert"]


def test_models_whose_experts_cannot_be_removed_are_told_why():
    all_of_them = families.causal_model("olmoe", num_experts=4, num_experts_per_tok=4)
    assert "use the stage weight" in scan.reason_against(all_of_them, [0], "score")
    assert scan.reason_against(all_of_them, [0], "weight") == ""


# ---------------------------------------------------------------- planted sums


def planted(
    rng: np.random.Generator,
    *,
    datasets: int = 4,
    clusters: int = 10,
    layers: int = 2,
    experts: int = 12,
    rho: float = 0.8,
    noise: float = 0.5,
    excess: float = 0.01,
    truth: int | None = None,
) -> tuple[xr.Dataset, xr.Dataset, dict]:
    """A scan and a test in which changes of loss and use differ between datasets, and documents from these.

    Returned last is what is true of any number of documents: `change` (dataset, layer, expert), `correlation` (layer,)
    and `excess`. Documents have a factor in common for use and change, and noise of their own.
    """
    shape, fixed = (datasets, layers, experts), rng if truth is None else np.random.default_rng(truth)
    spread = fixed.standard_normal(shape)
    use = 0.2 * np.exp(0.4 * spread)
    change = 0.01 + 0.01 * (rho * spread + np.sqrt(1 - rho**2) * fixed.standard_normal(shape))
    apart = [part - part.mean(axis=0) for part in (use, change)]
    sums = [(one * other).sum(axis=(0, 2)) for one, other in (apart, (apart[0],) * 2, (apart[1],) * 2)]
    true = {"change": change, "correlation": sums[0] / np.sqrt(sums[1] * sums[2]), "excess": excess}

    def documents() -> tuple[xr.Dataset, np.ndarray, np.ndarray]:
        place = np.repeat(np.arange(datasets), clusters)
        tokens = rng.integers(20, 60, len(place))
        names = np.array([f"d{index}" for index in place], dtype=object)
        about = xr.Dataset(
            {
                "dataset": ("document", names),
                "cluster": ("document", np.array([f"{name}/{number}" for number, name in enumerate(names)], object)),
                "group": ("document", np.concatenate([rng.permutation(GROUPS)[:clusters] for _ in range(datasets)])),
                "predicted_tokens": ("document", tokens),
            }
        )
        return about, place, tokens

    about, place, tokens = documents()
    common = np.exp(0.3 * rng.standard_normal((len(place), *shape[1:])) - 0.045)
    used = use[place] * common * tokens[:, None, None]
    own = noise * 0.01 * rng.standard_normal(used.shape)
    changed_by = (change[place] * common + own) * tokens[:, None, None]
    values = {
        "loss_change": changed_by,
        "loss_change_at": 0.75 * changed_by,
        "selected_tokens": used,
        "weight_sum": used,
        "contribution_norm": change[place] * tokens[:, None, None],  # what is to be predicted, without noise
        "direct_logit": -change[place] * tokens[:, None, None],
        "gradient": rng.standard_normal(used.shape),
    }
    made = about.assign({name: (("document", "layer", "expert"), each) for name, each in values.items()})
    made = made.assign_coords(layer=np.arange(1, 1 + layers)).assign_attrs(not_run="", stage="score", caliper=0.1)
    made = made.merge(scan.picked(made, [f"d{index}" for index in range(datasets)]), combine_attrs="override")
    about, place, tokens = documents()
    parts = [0.05 + 0.02 * noise * rng.standard_normal((len(place), 2)) for _ in range(2)]
    found = {
        "picked_change": (parts[0] + parts[1]) * tokens[:, None],
        "matched_change": (parts[0] + excess) * tokens[:, None],
        "control_change": parts[1] * tokens[:, None],
        "picked_slots": np.full((len(place), 2), 10.0),
        "matched_slots": np.full((len(place), 2), 8.0),
        "matched_weight": np.full((len(place), 2), 2.0),
        "control_weight": np.full((len(place), 2), 2.1),
    }
    return made, about.assign({name: (("document", "of"), each) for name, each in found.items()}), true


def measured(made: xr.Dataset, tested: xr.Dataset, **chosen) -> xr.Dataset:
    return ablation.measure(made, tested, **CHOSEN | chosen, **STATISTICS).metrics.assign_attrs(made.attrs)


@pytest.fixture(scope="module")
def trained() -> tuple[xr.Dataset, dict]:
    made, tested, true = planted(np.random.default_rng(1))
    return measured(made, tested), true


def test_rates_by_hand():
    values, tokens = np.array([1.0, 2, 3, 8]), np.array([10, 10, 10, 20])
    found = ablation.rates(values, tokens, np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), 2)
    assert found[0].tolist() == pytest.approx([(0.15 + 11 / 30) / 2, 0.15, 11 / 30])
    assert found[1].tolist() == pytest.approx([(0.2 + 11 / 30) / 2, 0.2, 11 / 30])
    assert found[2].tolist() == pytest.approx([0.25, 0.1, 0.4]) and found[3, 2] == pytest.approx(0.3)
    alone = ablation.rates(values[:1], tokens[:1], np.array([0]), np.array([0]), 2)
    assert alone[0, :2].tolist() == [0.1, 0.1] and np.isnan(alone[0, 2]) and np.isnan(alone[1]).all()


def test_changes_are_those_planted(trained):
    metrics, true = trained
    change = metrics["loss_change"].sel(interval="estimate")
    each = change.isel(dataset=slice(1, None)).transpose("dataset", "layer", "expert").values
    assert np.abs(each - true["change"]).mean() < 0.004
    np.testing.assert_allclose(change.sel(dataset="pooled"), each.mean(axis=0))
    mean = metrics["mean_loss_change"].sel(interval="estimate").transpose("dataset", "layer")
    np.testing.assert_allclose(mean, change.mean("expert").transpose("dataset", "layer"))
    assert metrics["direct_share"].sel(interval="estimate").values == pytest.approx(0.75)
    assert metrics["tokens"].values[0] == metrics["tokens"].values[1:].sum()
    assert metrics["clusters"].values.tolist() == [40, 10, 10, 10, 10] == metrics["tested_clusters"].values.tolist()


def correlated(made: xr.Dataset, orders: int = 0) -> tuple[np.ndarray, np.ndarray]:
    use, change = (made[name].values for name in ("selected_tokens", "loss_change"))
    return ablation.correlation(use, change, *of_documents(made), ablation.permuted(made.sizes["document"], orders, 0))


def test_without_noise_the_correlation_is_the_plain_one():
    made, _, true = planted(np.random.default_rng(2), noise=0.0)
    even = made["predicted_tokens"].values[:, None, None]
    rate = made["contribution_norm"].values  # change without the documents' own factor
    flat = made.assign(loss_change=made["contribution_norm"] * 1.0)
    place = np.array([int(name[1:]) for name in made["dataset"].values])
    use = np.stack([made["selected_tokens"].values[place == index].mean(axis=0) for index in range(4)])
    tokens = np.stack([even[place == index].mean(axis=0) for index in range(4)])
    flat["selected_tokens"] = ("document", "layer", "expert"), (use / tokens)[place] * even
    found, _ = correlated(flat)
    one, other = ((part - part.mean(axis=0)) for part in (use / tokens, true["change"]))
    wanted = (one * other).sum(axis=(0, 2)) / np.sqrt((one**2).sum(axis=(0, 2)) * (other**2).sum(axis=(0, 2)))
    assert found[0] == pytest.approx(wanted) and rate.shape == flat["loss_change"].shape


def test_the_correlation_does_not_depend_on_noise_and_its_null_is_around_0():
    rng, found, null = np.random.default_rng(3), [], []
    for _ in range(30):
        made, _, true = planted(rng, noise=1.0, datasets=6)
        draws, permuted = correlated(made, 20)
        found.append(draws[0] - true["correlation"])
        null.append(permuted)
    assert abs(np.mean(found)) < 0.03  # a plain one is too small by a fifth
    assert abs(np.mean(null)) < 0.02 and np.std(null) < 0.15


def test_where_there_is_nothing_but_noise_no_correlation_is_known():
    made, _, _ = planted(np.random.default_rng(4), noise=1.0)
    rng = np.random.default_rng(0)
    made["loss_change"] = made["loss_change"] * 0 + 1e-6 * rng.standard_normal(made["loss_change"].shape)
    assert np.isnan(correlated(made)[0][0]).all()
    one = made.isel(document=made["dataset"].values == "d0")
    assert np.isnan(correlated(one)[0]).all()


def test_predictors_are_ordered_by_what_they_tell(trained):
    metrics, _ = trained
    found = metrics["prediction"].sel(interval="estimate").mean("layer").to_series().to_dict()
    assert found[PREDICTORS["contribution_norm"]] == pytest.approx(-found[PREDICTORS["direct_logit"]])
    assert found[PREDICTORS["contribution_norm"]] > found[ITSELF] > 0.5
    assert abs(found[PREDICTORS["gradient"]]) < 0.4
    beyond = metrics["prediction_beyond"].sel(predictor=ITSELF)
    assert (beyond == 0).all()


def test_without_noise_halves_agree():
    made, tested, _ = planted(np.random.default_rng(5), noise=0.0)
    made["loss_change"] = made["contribution_norm"] * 1.0
    found = measured(made, tested)["prediction"].sel(interval="estimate")
    assert found.sel(predictor=ITSELF).values == pytest.approx(1)
    assert found.sel(predictor=PREDICTORS["direct_logit"]).values == pytest.approx(-1)


def test_spearman_is_that_of_scipy():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, (3, 20)).astype(float), rng.standard_normal((3, 20))
    wanted = [scipy.stats.spearmanr(*pair).statistic for pair in zip(one, other, strict=True)]
    assert ablation._spearman(one, other) == pytest.approx(wanted)
    assert np.isnan(ablation._spearman(np.ones(4), np.arange(4.0)))


def test_the_picked_expert_is_that_with_the_largest_change():
    made, _, _ = planted(np.random.default_rng(6))
    rate = made["loss_change"] / made["predicted_tokens"]
    made["loss_change"][{"layer": 1, "expert": 4}] = 3 * made["predicted_tokens"]
    mine = made["dataset"].values == "d2"
    made["loss_change"][{"document": mine, "layer": 0, "expert": 7}] = 4 * made["predicted_tokens"][mine]
    found = scan.picked(made.drop_vars(["cell_layer", "cell_expert", "cell"]), ["d0", "d1", "d2", "d3"])
    assert scan.cells_of(found, "d0") == [(2, 4), (2, 4)] and scan.cells_of(found, "d2") == [(1, 7), (2, 4)]
    assert rate.sizes["expert"] == 12


def test_the_excess_is_that_planted():
    made, tested, _ = planted(np.random.default_rng(7), excess=0.05, noise=0.1)
    metrics = measured(made, tested)
    assert metrics["excess"].sel(interval="estimate").values == pytest.approx(0.05, abs=0.005)
    assert (metrics["excess_adjusted_p_value"] < 0.01).all()
    assert metrics["matched_share"].values == pytest.approx(0.8)
    assert metrics["matched_weight"].values == pytest.approx(0.25)
    assert metrics["control_weight"].values == pytest.approx(2.1 / 8)


@pytest.mark.slow
def test_excesses_of_nothing_are_hardly_ever_found():
    rng, found = np.random.default_rng(8), []
    for _ in range(60):
        tested = planted(rng, excess=0.0, layers=1, experts=3)[1]
        excess = ablation._tests(tested, [f"d{index}" for index in range(4)])["excess"]
        p = xr.concat([ablation.p_values(excess.isel(dataset=index)) for index in range(5)], "dataset")
        found.append(bool((ablation.adjusted(p) <= 0.05).any()))
    assert np.mean(found) < 0.15


@pytest.mark.long
@pytest.mark.parametrize("clusters", [6, 12])
def test_intervals_cover_what_is_planted(clusters):
    """Those of the mean change, the correlation with use and the excess; of predictions, what they are on average."""
    rng, inside, predicted = np.random.default_rng(9), [], []
    for _ in range(120):
        made, tested, true = planted(rng, datasets=8, clusters=clusters, layers=1, noise=1.0)
        change = ablation.rates(made["loss_change"].values, *of_documents(made), 8)[:, 0].mean(axis=(1, 2))
        excess = (tested["matched_change"] - tested["control_change"]).values[:, 1]
        cases = [
            (true["change"].mean(), change),
            (true["correlation"][0], correlated(made)[0][:, 0]),
            (true["excess"], ablation.rates(excess, *of_documents(tested), 8)[:, 0]),
        ]
        limits = [(value, *ends(draws)[1:]) for value, draws in cases]
        inside.append([low <= value <= high for value, low, high in limits])
        made, *_ = planted(rng, datasets=8, clusters=clusters, layers=1, noise=1.0, truth=1)
        found = ablation.predictions(made, of_documents(made)[1], 8, 3, 0)[:, :, 0]
        predicted.append([ends(each) for each in found])
    assert (np.mean(inside, axis=0) >= 0.9).all()
    average, low, high = np.moveaxis(predicted, -1, 0)
    average = average.mean(axis=0)
    assert (((low <= average) & (average <= high)).mean(axis=0) >= 0.9).all()


def of_documents(made: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, dataset and group of the documents of a planted scan."""
    place = np.array([int(name[1:]) for name in made["dataset"].values])
    return made["predicted_tokens"].values, place, made["group"].values


def ends(draws: np.ndarray) -> np.ndarray:
    """Estimate, low and high by the jackknife."""
    return uncertainty.jackknife(xr.DataArray(draws, dims="draw"), 0.95).values


def test_p_values_are_those_of_a_t_test():
    values = np.random.default_rng(0).normal(0.3, 1, 12)
    total = np.append(values.sum(), values.sum() - values) / np.append(12, np.full(12, 11))
    wanted = scipy.stats.ttest_1samp(values, 0).pvalue
    assert float(ablation.p_values(xr.DataArray(total, dims="draw"))) == pytest.approx(wanted)
    assert ablation.p_values(xr.DataArray(np.zeros(21), dims="draw")).isnull()


# ---------------------------------------------------------------- the job


@pytest.mark.slow
def test_a_stopped_scan_goes_on_where_it_was(tmp_path, model_folder, monkeypatch, restoring):
    study_cases.write(tmp_path, study_cases.ordinary(), model_folder)
    with alone.read_workflow(tmp_path, [tmp_path / "study.yaml"]) as workflow:
        script, snakemake = alone.job(workflow, "scan_ablation", {"model": "demo", "checkpoint": "step9"})
    asked, real = [], scan.scan

    def stopped(model, layers, given, **options):
        asked.append(len(given))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(model, layers, given, **options)

    with chdir(tmp_path), restoring():
        for path in (*snakemake.output, *snakemake.log):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(scan, "scan", stopped)
        with pytest.raises(KeyboardInterrupt):
            runpy.run_path(os.fspath(script), {"snakemake": snakemake}, run_name="__main__")
        assert [path.stem for path in Path("results/ablation/demo/.finished/step9").glob("*.nc")] == ["python"]
        runpy.run_path(os.fspath(script), {"snakemake": snakemake}, run_name="__main__")
        assert len(asked) == 3 and not Path("results/ablation/demo/.finished").exists()
        found = netcdf.load("results/ablation/demo/step9.nc")
        resumed = found.drop_attrs().copy()
        runpy.run_path(os.fspath(script), {"snakemake": snakemake}, run_name="__main__")
        xr.testing.assert_identical(resumed, netcdf.load("results/ablation/demo/step9.nc").drop_attrs())
    assert len(asked) == 5 and json.loads(found.attrs["datasets"]).keys() == {"python", "cpp"}


# ---------------------------------------------------------------- the page


def test_answers_to_planted_effects(trained):
    metrics, _ = trained
    made, tested, _ = planted(np.random.default_rng(11), noise=0.0, excess=0.0)
    untrained = measured(made.assign(loss_change=made["loss_change"] * 1e-6), tested * 1)
    answers = page.findings(seen(metrics, untrained))
    assert [found.verdict for found in answers][:2] == ["yes", "yes"]
    assert answers[1].null_name == "permuted clusters" and "10 % of the" not in answers[0].answer
    assert "80 % of the slots" in answers[2].answer
    assert page.brief(seen(metrics)).experts == (int(metrics["picked_expert"].sel(dataset="pooled")),)
    drawn = page.figures(seen(metrics, untrained))
    assert [figure.name for figure in drawn][3] == "against_slots" and "n = 40 clusters" in drawn[3].caption


def test_a_model_whose_experts_cannot_be_removed_has_a_page_that_says_why():
    made, tested = scan.nothing([0, 1], 8, ["a", "b"])
    metrics = measured(made.assign_attrs(not_run="it has no head.", stage="score", caliper=0.1), tested)
    assert metrics[f"{MEAN}prediction"].isnull().all() and metrics["documents"].values.tolist() == [0, 0, 0]
    assert page.findings(seen(metrics)) == [] and page.brief(seen(metrics)) is None
    for figure in page.figures(seen(metrics)):
        assert "Nothing was run: it has no head." in figure.caption and figure.drawing.axes
        assert "nan" not in figure.caption + figure.alt
