import json

import numpy as np
import page_cases
import pytest
import xarray as xr
from routing_cases import Case, even_case, random_case

from gatebook.chapters.base.page import Seen
from gatebook.chapters.compare import measure as compare
from gatebook.chapters.compare import page
from gatebook.chapters.compare.measure import COMPARED, Run
from gatebook.chapters.compare.runs import by_run, estimates, spread
from gatebook.chapters.domain_specialization import measure as domain_specialization
from gatebook.chapters.router_decisiveness import measure as router_decisiveness
from gatebook.chapters.selection_frequency import measure as selection_frequency
from gatebook.measures import uncertainty
from gatebook.problem import Problem
from gatebook.report.render import VERDICTS

SETTINGS = {"resamples": 40, "seed": 1, "confidence": 0.9}
FIGURES = ["measures_by_depth", "differences_by_depth", "differences_by_dataset"]
PARTS = ["estimate", "low", "high"]
LENGTHS = {"poems": [9, 14, 6, 11, 8], "code": [12, 7, 10]}


def run(seed: int, layers=(0, 1, 2), moe_layers=None, name="demo/a", lengths=LENGTHS, **options) -> Run:
    """A run of random routing; the number of layers may be larger than that of the studied ones."""
    rng = np.random.default_rng(seed)
    cases = {dataset: random_case(rng, each, layers=layers, **options) for dataset, each in lengths.items()}
    return Run(name, tallied(cases), list(moe_layers or layers))


def tallied(cases: dict[str, Case]) -> dict[str, xr.Dataset]:
    """Tallies that say which files they are of, by dataset."""
    return {
        name: made.tally().assign_attrs(dataset=name, dataset_sha256=f"files of {name}") for name, made in cases.items()
    }


def of_other_files(one: Run, datasets: list[str]) -> Run:
    """The same run, but `datasets` are made from other files, with names of their own."""
    changed = {name: one.tallies[name].assign_attrs(dataset=f"new {name}", dataset_sha256=name) for name in datasets}
    return Run(one.name, one.tallies | changed, one.moe_layers)


@pytest.fixture(scope="module")
def runs() -> tuple[Run, Run]:
    return run(1), run(2, name="demo/b", expert_bias=1.5)


@pytest.fixture(scope="module")
def metrics(runs) -> xr.Dataset:
    return measure(*runs)


def measure(first: Run, second: Run) -> xr.Dataset:
    """The comparison of two runs alone."""
    return compare.pair(compare.measure(first, [second], **SETTINGS), second.name)


def seen(metrics: xr.Dataset) -> Seen:
    """What the page of one comparison is made from."""
    return page_cases.seen("compare", metrics.expand_dims("second"))


def chapters(one: Run) -> xr.Dataset:
    """The compared measures as the chapters measure them."""
    load = selection_frequency.measure(one.tallies, **SETTINGS, capacity_factors=[1.0], batch_tokens=20).metrics
    null = {"permutations": 100, "permutation_seed": 1, "false_discovery_rate": 0.05}
    domains = domain_specialization.measure(one.tallies, **SETTINGS, **null).metrics
    sources = {
        "token_information": (router_decisiveness.measure(one.tallies, **SETTINGS).metrics, "information"),
        "domain_information": (domains, "information"),
        "divergence": (domains, "divergence"),
    }
    sources |= {name: (load, name) for name in COMPARED if name in load}
    decisive = sources["token_information"][0]
    sources |= {name: (decisive, name) for name in COMPARED if name not in sources}
    found = {name: source[measure] for name, (source, measure) in sources.items()}
    return xr.Dataset(
        found | {f"mean_over_layers_{name}": source[f"mean_over_layers_{it}"] for name, (source, it) in sources.items()}
    )


# ---------------------------------------------------------------- depth


def test_relative_depth_by_hand():
    assert compare.relative_depth([0, 1, 2, 3, 4], 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert compare.relative_depth([0], 1).tolist() == [0.5]
    assert compare.relative_depth([1, 7], 8).tolist() == [1 / 7, 1]


def test_depth_counts_moe_layers_and_not_those_that_are_studied():
    assert run(0, layers=(3, 9), moe_layers=[1, 3, 5, 7, 9]).depth.tolist() == [0.25, 1]


def test_common_depths_are_those_of_the_run_with_fewer_layers_inside_the_others():
    few, many = np.array([0, 0.5, 1]), np.array([0.25, 0.5, 0.75, 1])
    assert compare.common_depths(few, many).tolist() == compare.common_depths(many, few).tolist() == [0.5, 1]


def test_values_between_layers_by_hand():
    values = xr.Dataset({"x": (("draw", "layer"), [[1.0, 3, 4]])}, coords={"layer": [2, 5, 6]})
    found = compare.at_depths(values, np.array([0, 0.5, 1]), np.array([0, 0.25, 0.5, 0.9]))
    np.testing.assert_allclose(found["x"], [[1, 2, 3, 3.8]], rtol=1e-12)
    assert found["depth"].values.tolist() == [0, 0.25, 0.5, 0.9]


@pytest.mark.slow
def test_runs_with_different_layers_are_compared_at_the_depths_of_the_shorter_one():
    three, five = run(3), run(4, layers=(2, 4, 6, 7, 9), name="other/b")
    found = measure(three, five)
    assert found["depth"].values.tolist() == [0, 0.5, 1]
    expected = chapters(five).sel(interval="estimate", layer=[2, 6, 9])
    for name in COMPARED:
        values = found[name].sel(run="B", interval="estimate").transpose("dataset", "depth")
        np.testing.assert_allclose(values, expected[name].transpose("dataset", "layer"), rtol=1e-12)


@pytest.mark.slow
def test_a_depth_between_two_layers_is_interpolated():
    three, four = run(3), run(4, layers=(0, 1, 2, 3), name="other/b")
    found = measure(four, three)["top_k_mass"].sel(run="A", interval="estimate", depth=0.5)
    expected = router_decisiveness.measure(four.tallies, **SETTINGS).metrics["top_k_mass"].sel(interval="estimate")
    np.testing.assert_allclose(found, expected.sel(layer=[1, 2]).mean("layer"), rtol=1e-12)


def test_runs_without_a_common_depth_are_refused():
    first, last = (run(0, layers=(layer,), moe_layers=range(4), name=f"demo/{layer}") for layer in (0, 3))
    with pytest.raises(Problem, match="demo/0 and demo/3 have no layers at the same relative depth: study more"):
        measure(first, last)


# ---------------------------------------------------------------- values


@pytest.mark.slow
def test_both_runs_have_the_values_and_intervals_of_the_chapters(runs, metrics):
    for label, one in zip("AB", runs, strict=True):
        expected, found = chapters(one), metrics.sel(run=label)
        for name in COMPARED:
            by_depth = found[name].transpose("dataset", "depth", "interval")
            by_layer = expected[name].transpose("dataset", "layer", "interval")
            np.testing.assert_allclose(by_depth, by_layer, rtol=1e-9, atol=1e-12)
            means = found[f"mean_over_depths_{name}"], expected[f"mean_over_layers_{name}"]
            np.testing.assert_allclose(*means, rtol=1e-9, atol=1e-12)


def test_differences_are_those_of_the_estimates_and_inside_their_intervals(metrics):
    for prefix in ("", "mean_over_depths_"):
        for name in COMPARED:
            difference, values = metrics[f"{prefix}difference_{name}"], metrics[prefix + name].sel(interval="estimate")
            lowest, highest = COMPARED[name].bounds
            inside = ((lowest < values) & (values < highest)).all("run")  # corrected estimates are cut to the bounds
            expected = (values.sel(run="B") - values.sel(run="A")).drop_vars("interval")
            xr.testing.assert_allclose(
                difference.sel(interval="estimate", drop=True).where(inside), expected.where(inside), rtol=1e-12
            )
            assert (difference.sel(interval="low") <= difference.sel(interval="high")).all()


def test_a_run_does_not_differ_from_itself(runs):
    metrics = measure(runs[0], Run("demo/copy", runs[0].tallies, runs[0].moe_layers))
    assert metrics["paired"].values.tolist() == [1, 1, 1]
    for name in COMPARED:
        assert (metrics[f"difference_{name}"] == 0).all()
        assert (metrics[f"mean_over_depths_difference_{name}"] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("unpaired", [[], ["poems"]])
def test_exchanging_the_runs_changes_the_sign(runs, unpaired):
    first, second = runs[0], of_other_files(runs[1], unpaired)
    one, other = measure(first, second), measure(second, first)
    for name in COMPARED:
        for difference in (f"difference_{name}", f"mean_over_depths_difference_{name}"):
            mirrored = -other[difference].sel(interval=["estimate", "high", "low"]).values
            np.testing.assert_allclose(one[difference], mirrored, rtol=1e-9, atol=1e-12)


def test_uniform_routing_of_both_runs_differs_in_nothing():
    study = tallied({name: even_case(6, 2, [12, 18]) for name in ("poems", "code")})
    metrics = measure(Run("demo/a", study, [0]), of_other_files(Run("demo/b", study, [0]), ["code"]))
    for name in COMPARED:
        np.testing.assert_allclose(metrics[f"difference_{name}"], 0, atol=1e-6)


def test_expert_numbers_mean_nothing(runs, metrics):
    rng, new_number = np.random.default_rng(2), np.array([3, 7, 0, 2, 6, 1, 5, 4])
    cases = {
        name: random_case(rng, lengths, layers=(0, 1, 2), expert_bias=1.5).permute_experts(new_number)
        for name, lengths in LENGTHS.items()
    }
    other = Run("demo/b", tallied(cases), [0, 1, 2])
    xr.testing.assert_allclose(measure(runs[0], other), metrics, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_runs_with_different_numbers_of_experts():
    one, other = run(5), run(6, name="large/b", experts=12, top_k=3)
    found = measure(one, other)["difference_top_k_mass"].sel(interval="estimate")
    masses = [router_decisiveness.measure(each.tallies, **SETTINGS).metrics["top_k_mass"] for each in (one, other)]
    expected = (masses[1] - masses[0]).sel(interval="estimate").transpose("dataset", "layer")
    np.testing.assert_allclose(found.transpose("dataset", "depth"), expected, rtol=1e-12)


# ---------------------------------------------------------------- documents


def test_the_same_documents_are_drawn_together_in_whatever_order(runs, metrics):
    first, second = runs
    shuffled = {name: tally.isel(document=slice(None, None, -1)) for name, tally in second.tallies.items()}
    found = measure(first, Run(second.name, shuffled, second.moe_layers))
    xr.testing.assert_allclose(found, metrics, rtol=1e-12)
    assert found["paired"].values.tolist() == [1, 1, 1]


def test_runs_that_read_some_of_the_same_clusters_share_their_draws(runs):
    first, second = runs
    few = Run(second.name, {name: tally.isel(document=slice(2)) for name, tally in second.tallies.items()}, [0, 1, 2])
    one, other = (
        {name: each.weights[:, each.cluster] for name, each in drawn.items()}
        for drawn in compare.resample(first, few, 20, 1)
    )
    for name in LENGTHS:
        np.testing.assert_array_equal(one[name][:, :2], other[name])
    assert measure(first, few)["paired"].values.tolist() == [0, 0, 0]


def test_different_documents_are_drawn_independently(runs, metrics):
    first, second = runs
    found = measure(first, of_other_files(second, ["code"]))
    assert found["paired"].values.tolist() == [0, 1, 0]
    for part, dataset, same in (("estimate", "code", True), ("low", "code", False), ("low", "poems", True)):
        where = {"dataset": dataset, "interval": part}
        difference = found["difference_normalised_entropy"].sel(where)
        assert np.array_equal(difference, metrics["difference_normalised_entropy"].sel(where)) == same
    draws = compare.resample(first, of_other_files(second, ["code"]), 200, 1)
    poems, code = (np.array([each[name].weights for each in draws]) for name in ("poems", "code"))
    assert (poems[0] == poems[1]).all()
    assert abs(np.corrcoef(code[0, 1:].ravel(), code[1, 1:].ravel())[0, 1]) < 0.15


def clusters_of(name: str, files: str, clusters: int) -> Run:
    """A run on one dataset whose clusters have one document each."""
    names = ("document", [f"{number:03d}" for number in range(clusters)])
    coords, attrs = {"document_id": names, "cluster": names, "layer": [0]}, {"dataset": files, "dataset_sha256": files}
    tokens = {"tokens": ("document", np.ones(clusters, int))}
    return Run(name, {"poems": xr.Dataset(tokens, coords, attrs)}, [0])


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_intervals_of_a_difference_cover_the_truth(paired):
    documents, repetitions, covered, widths = 80, 300, 0, []
    runs = clusters_of("demo/a", "old", documents), clusters_of("demo/b", "old" if paired else "new", documents)
    for seed in range(repetitions):
        first, noise, others = np.random.default_rng(seed).normal(5, 2, size=(3, documents))
        second = 0.8 * (first if paired else others) + noise  # its mean is 9, that of the first run 5
        draws = [
            xr.DataArray(resampling["poems"].sums(values) / resampling["poems"].sums(np.ones(documents)), dims="draw")
            for values, resampling in zip((first, second), compare.resample(*runs, 300, seed), strict=True)
        ]
        _, low, high = uncertainty.difference_interval(*draws, 0.95).values
        covered += low <= 4 <= high
        widths.append(high - low)
    assert 0.92 <= covered / repetitions <= 0.98
    # Paired: the variance of noise and of -0.2 times the first; unpaired: of all three.
    variance = 4 * (1 + 0.2**2) if paired else 4 * (1 + 1 + 0.8**2)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(variance / documents), rel=0.05)


# ---------------------------------------------------------------- table and page


def test_the_table_has_both_runs_and_their_difference(metrics):
    table = compare.table(metrics)
    assert list(table.columns) == ["measure", "unit", "run", "dataset", "depth", *PARTS]
    assert len(table) == len(COMPARED) * 3 * 3 * (3 + 1)  # measures, runs and difference, datasets, depths and mean
    row = table[(table["run"] == "B - A") & (table["measure"] == "divergence") & (table["depth"] == 0.5)]
    expected = metrics["difference_divergence"].sel(depth=0.5, interval=PARTS)
    np.testing.assert_array_equal(row.set_index("dataset")[PARTS], expected.sel(dataset=row["dataset"].values))
    means = table[table["measure"] == "mean_over_depths_divergence"]
    assert len(means) == 3 * 3 and means["depth"].isna().all() and table["depth"].isna().sum() == len(COMPARED) * 9
    for run, rows in means.groupby("run"):
        expected = metrics["mean_over_depths_difference_divergence"]
        if run != "B - A":
            expected = metrics["mean_over_depths_divergence"].sel(run=run)
        expected = expected.sel(dataset=rows["dataset"].values, interval=PARTS)
        np.testing.assert_array_equal(rows[PARTS], expected.transpose("dataset", "interval"))


def with_difference(metrics: xr.Dataset, name: str, interval: tuple[float, float, float]) -> xr.Dataset:
    changed = metrics.copy(deep=True)
    changed[f"mean_over_depths_difference_{name}"].loc[{"dataset": "pooled"}] = list(interval)
    return changed


@pytest.mark.parametrize(
    ("interval", "entropy", "information"),
    [((-2, -3, -1), "yes", "no"), ((2, 1, 3), "no", "yes"), ((1, -1, 3), "unclear", "unclear")],
)
def test_verdicts_follow_from_the_interval_of_the_difference(metrics, interval, entropy, information):
    for name, verdict in (("normalised_entropy", entropy), ("domain_information", information)):
        index = [asked[0] for asked in page.ASKED].index(name)
        finding = page.findings(seen(with_difference(metrics, name, interval)))[index]
        assert finding.verdict == verdict in VERDICTS
        assert (finding.estimate, finding.low, finding.high, finding.null_value) == (*interval, 0)
        assert ("holds 0" in finding.answer) == (verdict == "unclear")
        assert "demo/a" in finding.question and "demo/b" in finding.question


def test_in_brief_runs_differ_or_nothing_shows_that_they_do(metrics):
    same = metrics
    for name, *_ in page.ASKED:
        same = with_difference(same, name, (0, -1, 1))
    found = page.brief(seen(same))
    assert (found.text, found.example) == ("Nothing shows that routing differs from that of demo/a.", "")
    small = with_difference(same, "normalised_entropy", (0.011, 0.01, 0.012))
    found = page.brief(seen(with_difference(small, "domain_information", (5, 4, 6))))
    assert found.text == "Routing differs between demo/a and demo/b in 2 of 4 comparisons."
    assert found.example.startswith("The information about the domain is ") and found.example.endswith(" in demo/b.")


@pytest.mark.slow
def test_figures_say_which_runs_and_how_many_measures_differ(metrics):
    same = metrics.copy(deep=True)
    for name in COMPARED:
        same[f"mean_over_depths_difference_{name}"].loc[{"dataset": "pooled"}] = [0, -1, 1]
    for source, title in ((same, "0 of 9"), (with_difference(same, "divergence", (1, 0.5, 2)), "1 of 9")):
        figures = {figure.name: figure for figure in page.figures(seen(source))}
        assert figures["differences_by_depth"].title.startswith(title)
        for figure in figures.values():
            assert len(figure.alt) >= 40
            assert (
                "A is demo/a, n = 77 tokens of 8 documents of 8 clusters in 2 datasets; B is demo/b" in figure.caption
            )
            assert {finding.figure for finding in page.findings(seen(source))} <= set(figures)


@pytest.mark.slow
def test_captions_name_the_datasets_whose_documents_differ(runs, metrics):
    found = measure(runs[0], of_other_files(runs[1], ["code"]))
    assert "unpaired, because documents differ, in code." in page.figures(seen(found))[0].caption
    assert "the same text, whose clusters are drawn together." in page.figures(seen(metrics))[0].caption


@pytest.mark.slow
def test_each_of_several_runs_is_compared_by_itself(runs, metrics):
    """One of them has layers at other depths."""
    first, second = runs
    third = run(3, layers=(0, 1, 2, 3), name="demo/c")
    whole = compare.measure(first, [second, third], **SETTINGS)
    for other, alone in ((second, metrics), (third, measure(first, third))):
        xr.testing.assert_identical(compare.pair(whole, other.name), alone.assign_attrs(whole.attrs))
    whole = whole.merge(by_run(whole, {}), combine_attrs="override")
    (overview, *figures), findings = page.figures(Seen(whole)), page.findings(page_cases.seen("compare", whole))
    assert overview.name == "runs" and "the spread between training runs is not known" in overview.caption
    assert [figure.name for figure in figures[:3]] == [f"{name}_demo_b" for name in FIGURES]
    assert all(figure.title.endswith(": demo/c") and "B is demo/c" in figure.caption for figure in figures[3:])
    assert len(findings) == 2 * len(page.ASKED)
    assert [finding.figure for finding in findings[4:]] == ["differences_by_depth_demo_c"] * 4


def trained(seed: int, loss: float, **settings) -> xr.Dataset:
    """The record of a training that has `loss` nats per held-out token at the checkpoint "end"."""
    return xr.Dataset(
        {
            "loss_sum": (("checkpoint", "document"), [[9.0, 9.0], [2 * loss, 4 * loss]]),
            "predicted_tokens": ("document", [2, 4]),
        },
        coords={"checkpoint": ["start", "end"]},
        attrs={"seed": seed, "settings": json.dumps(settings)},
    )


@pytest.fixture(scope="module")
def several() -> xr.Dataset:
    """A run, two with other seeds, one with other settings and more experts, and one from elsewhere."""
    one, *others = [
        run(seed, name=f"{name}/end", **options)
        for seed, (name, options) in enumerate(
            {"a": {}, "b": {}, "c": {}, "wide": {"experts": 12, "top_k": 3}, "hub": {}}.items(), start=1
        )
    ]
    trainings = {"a": trained(0, 3.0), "b": trained(1, 3.2), "c": trained(2, 3.4), "wide": trained(0, 2.5, experts=12)}
    metrics = compare.measure(one, others, **SETTINGS)
    return metrics.merge(by_run(metrics, trainings), combine_attrs="override")


def test_every_run_has_its_measures_and_its_held_out_loss(several):
    values = estimates(several)
    assert values.index.tolist() == [f"{name}/end" for name in ("a", "b", "c", "wide", "hub")]
    np.testing.assert_allclose(values["held_out_loss"], [3.0, 3.2, 3.4, 2.5, np.nan], rtol=1e-12)
    where = {"dataset": "pooled", "interval": "estimate", "run": "B"}
    expected = several["mean_over_depths_domain_information"].sel(where | {"second": "wide/end"}).item()
    assert values.loc["wide/end", "domain_information"] == expected
    assert several["each_experts"].values.tolist() == [8, 8, 8, 12, 8]
    assert several["alike"].values.tolist() == [0, 0, 0, 1, 2]


def test_the_spread_is_over_runs_that_differ_in_their_seed_alone(several):
    found, values = spread(several), estimates(several)
    assert found.loc["a/end":"c/end", "held_out_loss_over_seeds"].tolist() == pytest.approx([0.2] * 3)
    expected = np.std(values["coefficient_of_variation"].iloc[:3], ddof=1)
    assert found.loc["b/end", "coefficient_of_variation_over_seeds"] == pytest.approx(expected)
    assert found.loc["wide/end":].isna().all(axis=None)


@pytest.mark.slow
def test_other_checkpoints_of_the_same_model_are_not_alike():
    one, other = run(1, name="a/end"), run(1, name="a/start")
    metrics = compare.measure(one, [other], **SETTINGS)
    found = by_run(metrics, {"a": trained(0, 3.0)})
    assert found["alike"].values.tolist() == [0, 1]
    assert found["each_held_out_loss"].values.tolist() == [3.0, 3.0]


@pytest.mark.slow
def test_the_overview_states_the_spread_and_what_cannot_be_compared(several):
    overview, *figures = page.figures(Seen(several))
    assert "Standard deviation over a/end, b/end, c/end, which differ in their seed alone" in overview.caption
    assert "held-out loss 0.2 nats per token." in overview.caption
    assert overview.data["held_out_loss_over_seeds"].notna().tolist() == [True, True, True, False, False]
    of_wide = [figure for figure in figures if "wide" in figure.name]
    assert all("A selects 2 of 8 experts, B 3 of 12" in figure.caption for figure in of_wide)
    assert not any("cannot be compared" in figure.caption for figure in figures if figure not in of_wide)
