import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure as Drawing
from page_cases import seen
from routing_cases import case, random_case, records

from gatebook.chapters.base import page
from gatebook.chapters.base.page import Seen
from gatebook.chapters.router_decisiveness import measure as router_decisiveness
from gatebook.chapters.router_decisiveness import page as decisiveness_page
from gatebook.chapters.selection_frequency import measure as selection_frequency
from gatebook.chapters.selection_frequency import page as frequency_page
from gatebook.measures import summary
from gatebook.report.render import VERDICTS

pytestmark = pytest.mark.filterwarnings("error")

PAGES = {"router_decisiveness": decisiveness_page, "selection_frequency": frequency_page}
LAYERS = (0, 2, 5)
PARTS = ["estimate", "low", "high"]


def metrics_of(
    seed: int, layers=LAYERS, datasets=("poems", "code"), top_k=2, factors=(1.0, 1.2, 2.0), **options
) -> dict:
    """The metrics of both chapters for random routing among 8 experts."""
    rng = np.random.default_rng(seed)
    study = {
        name: random_case(rng, [9, 14, 6, 11, 8], top_k=top_k, layers=layers, **options).tally() for name in datasets
    }
    shared = {"resamples": 20, "seed": 1, "confidence": 0.9}
    return {
        "router_decisiveness": router_decisiveness.measure(study, **shared).metrics,
        "selection_frequency": selection_frequency.measure(
            study, **shared, capacity_factors=list(factors), batch_tokens=20
        ).metrics,
    }


TRAINED = metrics_of(1, expert_bias=1.0)
UNTRAINED = metrics_of(2, expert_bias=0.0)


def with_mean(metrics: xr.Dataset, name: str, interval: tuple[float, float, float], **where) -> xr.Dataset:
    """The same metrics, but for the pooled mean over layers of one measure."""
    changed = metrics.copy(deep=True)
    changed[f"mean_over_layers_{name}"].loc[{"dataset": "pooled"} | where] = list(interval)
    return changed


SHOWN_IN = {
    "normalised_entropy": "entropy_by_layer",
    "top_k_mass": "measures_by_layer",
    "coefficient_of_variation": "balance_by_layer",
    "max_violation": "balance_by_layer",
    "dead_experts": "balance_by_layer",
    "dropped_share": "dropped_by_capacity",
}
"""The figure of the finding on each measure, but for information."""


def finding(page: str, measure: str, metrics: xr.Dataset, untrained: xr.Dataset | None = None) -> page.Finding:
    """The finding on a measure, which names the figure that shows it: for information one with both models' lines."""
    found = PAGES[page].findings(seen(page, metrics, untrained))
    (one,) = [each for each in found if each.measure == measure]
    assert one.figure == (SHOWN_IN | {"information": "measures_by_layer" if untrained else "information"})[measure]
    return one


# ---------------------------------------------------------------- what chapters share


def test_a_table_has_a_row_per_measure_dataset_and_layer():
    metrics = TRAINED["router_decisiveness"]
    names = ["logit_margin", "entropy"]
    table = summary.table(metrics, names)
    assert list(table.columns) == ["measure", "unit", "dataset", "layer", *PARTS]
    keys = []
    for name in names:
        keys += [(name, dataset, layer) for dataset in ("pooled", "poems", "code") for layer in LAYERS]
        keys += [(f"mean_over_layers_{name}", dataset, None) for dataset in ("pooled", "poems", "code")]
    layers = table["layer"].astype(object).where(table["layer"].notna(), None)
    assert list(zip(table["measure"], table["dataset"], layers, strict=True)) == keys
    assert table.groupby("measure", sort=False)["unit"].unique().map(list).to_dict() == {
        "logit_margin": ["logits"],
        "mean_over_layers_logit_margin": ["logits"],
        "entropy": ["nats"],
        "mean_over_layers_entropy": ["nats"],
    }
    for row, (name, dataset, layer) in enumerate(keys):
        where = {"dataset": dataset} | ({} if layer is None else {"layer": layer})
        assert table.loc[row, PARTS].tolist() == metrics[name].sel(where).sel(interval=PARTS).values.tolist()


def test_series_are_the_pooled_values_of_the_trained_and_the_untrained_model():
    trained, untrained = TRAINED["router_decisiveness"], UNTRAINED["router_decisiveness"]
    found = page.series(trained, untrained, "entropy")
    assert [one.label for one in found] == ["trained", "untrained"] == page.ORDER
    for one, source in zip(found, (trained, untrained), strict=True):
        expected = source["entropy"].sel(dataset="pooled", interval=PARTS).transpose("interval", "layer")
        np.testing.assert_array_equal([one.estimate, one.low, one.high], expected)
    assert [one.label for one in page.series(trained, None, "entropy")] == ["trained"]


def test_counts_are_in_words():
    assert page.counts_text(TRAINED["router_decisiveness"]) == (
        "n = 96 tokens of 10 documents of 10 clusters in 2 datasets; intervals: 90 % bootstrap over clusters."
    )


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [(1, 5, [10]), (3, 5, [10, 11, 12]), (5, 5, [10, 11, 12, 13, 14]), (9, 5, [10, 12, 14, 16, 18]), (16, 2, [10, 25])],
)
def test_spread_takes_evenly_from_the_first_to_the_last(length, count, expected):
    assert summary.spread(np.arange(10, 10 + length), count) == expected


@pytest.mark.parametrize(
    ("interval", "place"),
    [
        ((0.4, 0.3, 0.45), "below"),
        ((0.6, 0.55, 0.7), "above"),
        ((0.4, 0.3, 0.6), "around"),
        ((0.4, 0.3, 0.5), "around"),
        ((0.6, 0.5, 0.7), "around"),
        ((0.7, 0.3, 0.45), "below"),  # a corrected interval need not hold its estimate
        ((0.5, 0.5 - 1e-5, 0.5 - 1e-5), "below"),
        ((0.5, 0.5 + 1e-5, 0.5 + 1e-5), "above"),
        ((0.5, 0.5 - 4e-9, 0.5 - 4e-9), "around"),  # no further from it than float32 rounds
        ((0.5, 0.5 + 4e-9, 0.5 + 4e-9), "around"),
    ],
)
def test_an_interval_is_below_or_above_a_threshold_as_a_whole(interval, place):
    assert page.lies(*interval[1:], 0.5) == place


def test_rounding_is_measured_by_the_value_that_it_is_held_against():
    assert page.lies(32e6 - 8, 32e6 - 8, 32e6) == "around" and page.lies(32e6 - 64, 32e6 - 64, 32e6) == "below"
    assert page.lies(-3.8e-9, -3.8e-9, 0.0) == "around" and page.lies(-3.8e-5, -3.8e-5, 0.0) == "below"
    layers = xr.DataArray([[2 - 2e-7] * 3, [2.1] * 3], dims=("layer", "interval"))
    layers = layers.assign_coords(layer=[0, 1], interval=["estimate", "low", "high"])
    assert page.exceptions("above", page.Null("two", 2.0), layers) == {"exceptions": "", "differs": ()}
    assert "below in layer 0" in page.exceptions("above", page.Null("two", 2.0), layers - 0.01)["exceptions"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((-3.8e-9, -3.8e-9, -3.8e-9), (0, 0, 0)),
        ((3.8e-9, 0, 9e-7), (0, 0, 0)),
        ((-3.8e-9, np.nan, np.nan), (0, np.nan, np.nan)),
        ((-3.8e-9, -0.1, 0.1), (-3.8e-9, -0.1, 0.1)),
        ((3.8e-5, 3.7e-5, 3.9e-5), (3.8e-5, 3.7e-5, 3.9e-5)),
        ((np.nan, np.nan, np.nan), (np.nan, np.nan, np.nan)),
    ],
)
def test_rounding_errors_of_zero_are_zero_in_words(values, expected):
    found = page.estimate(xr.DataArray(list(values), dims="interval", coords={"interval": PARTS}))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("logits", ["equal", "of all experts"])
def test_a_router_without_a_choice_is_not_said_to_make_one(logits):
    experts, top_k = (8, 2) if logits == "equal" else (3, 3)
    rng = np.random.default_rng(0)
    values = np.zeros((40, experts)) if logits == "equal" else rng.normal(size=(40, experts))
    study = {"poems": case({0: records(values, top_k)}, [4] * 10).tally()}
    metrics = router_decisiveness.measure(study, resamples=50, seed=1, confidence=0.95).metrics
    entropy, mass, decided = decisiveness_page.findings(seen("router_decisiveness", metrics, None))
    assert "about k / E" in mass.answer and mass.verdict == "unclear"
    assert ("in 100 % of choices the last selected expert" in entropy.answer) == (logits == "equal")
    assert "10⁻" not in " ".join([entropy.answer, mass.answer, decided.answer])


def test_the_numbers_of_a_finding():
    metrics = with_mean(TRAINED["router_decisiveness"], "entropy", (1.5, 1.25, 1.75))
    untrained = with_mean(UNTRAINED["router_decisiveness"], "entropy", (2.0, 1.5, 2.5))
    assert page.over_layers(metrics, "entropy") == (1.5, 1.25, 1.75)
    alone = {
        "estimate": 1.5,
        "low": 1.25,
        "high": 1.75,
        "null_name": "chance",
        "null_value": 2.25,
        "effect": "small to large",
        "exceptions": "",
        "differs": (),
        "measure": "entropy",
        "training": "",
        "n": 10,
        "n_unit": "clusters, 10 documents, 96 tokens",
    }
    borders = {"entropy_effect": [0.1, 1]}
    null = page.Null("chance", 2.25)
    assert page.numbers(Seen(metrics, None, borders), "entropy", null, "entropy_effect") == alone
    both = page.numbers(Seen(metrics, untrained, borders), "entropy", null, "entropy_effect")
    assert both == alone | {"reference_name": "untrained model", "reference_value": 2.0}
    halved = page.numbers(Seen(metrics, None, borders), "entropy", null, "entropy_effect", scale=2)
    assert halved == alone | {"effect": "small"}


def intervals(dims: dict[str, list], values: list) -> xr.DataArray:
    """(estimate, low, high) over other dimensions."""
    return xr.DataArray(np.array(values, float), dims | {"interval": PARTS}, (*dims, "interval"))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((0.0, -0.05, 0.05), "negligible"),
        ((0.0, -0.2, 0.05), "negligible to small"),
        ((0.2, 0.15, 0.25), "small"),
        ((-0.2, -0.25, -0.15), "small"),
        ((-0.2, -0.3, -0.15), "small to large"),
        ((0.3, 0.3, 0.4), "large"),
        ((0.2, np.nan, np.nan), "small"),
        ((np.nan, 0.1, 0.2), ""),
    ],
)
def test_the_class_of_an_effect_is_that_of_its_size_and_names_both_ends_of_its_interval(sizes, expected):
    assert page.effect_class(sizes, [0.1, 0.3]) == page.effect_class(sizes, [0.3, 0.1]) == expected


def test_a_null_may_be_a_number_or_have_values_by_layer_and_an_interval():
    number = page.Null("chance", 0.5)
    assert number.numbers() == {"null_name": "chance", "null_value": 0.5} and number.text() == "0.5"
    layers = xr.DataArray([[0.2, 0.4], [0.9, 0.9]], {"dataset": ["pooled", "code"], "layer": [0, 3]})
    plain = page.Null("chance", layers)
    assert plain.numbers()["null_value"] == pytest.approx(0.3)
    assert plain.reference().value.tolist() == [0.2, 0.4] and plain.reference().low is None
    ends = intervals({"layer": [0, 3]}, [[0.2, 0.1, 0.3], [0.4, 0.1, 0.5]])
    found = page.Null("chance", ends).numbers()
    assert [found[f"null_{part}"] for part in ("value", "low", "high")] == pytest.approx([0.3, 0.1, 0.4])
    assert page.Null("chance", ends).reference().high.tolist() == [0.3, 0.5]
    narrow = page.Null("chance", ends, intervals({}, [0.3, 0.25, 0.35]))
    assert narrow.numbers()["null_low"] == 0.25 and narrow.text() == "0.300 [0.250, 0.350]"


@pytest.mark.parametrize(("null", "expected"), [(0.35, "above"), (0.45, "around"), (0.55, "below")])
def test_a_verdict_compares_with_the_interval_of_the_null(null, expected):
    ends = page.Null("chance", intervals({}, [null, null - 0.04, null + 0.04]))
    found = page.held((0.45, 0.4, 0.5), ends, [0.1, 0.3])
    assert page.side(found) == expected
    assert page.side(page.held((0.45, 0.4, 0.5), page.Null("chance", 0.39), [0.1, 0.3])) == "above"


def test_exceptions_are_parts_on_the_other_side_each_by_its_interval():
    null = page.Null("chance", 0.5)
    low, around, high = (0.2, 0.1, 0.3), (0.5, 0.4, 0.6), (0.8, 0.7, 0.9)
    layers = intervals({"layer": [0, 3, 7]}, [low, high, high])
    expected = "Yet against chance it is below in layer 0 and above in layers 3 and 7."
    whole = {"exceptions": expected, "differs": ("layer",)}
    assert page.exceptions("above", null, layers) == page.exceptions("around", null, layers) == whole
    agreed = intervals({"layer": [0, 3, 7]}, [around, high, high])
    none = {"exceptions": "", "differs": ()}
    assert page.exceptions("above", null, agreed) == page.exceptions("around", null, agreed) == none
    names = [f"set {number}" for number in range(14)]
    datasets = intervals({"dataset": names}, [high] * 14)
    found = page.exceptions("below", null, layers, datasets)
    assert found["exceptions"].endswith("Yet against chance it is above within 14 of 14 datasets.")
    assert found["differs"] == ("layer", "dataset")
    assert page.exceptions("above", null, datasets) == none
    some = intervals({"dataset": names[:3]}, [low, around, around])
    assert page.exceptions("above", null, some)["exceptions"] == "Yet against chance it is below within dataset set 0."
    by_layer = page.Null("chance", xr.DataArray([0.1, 0.5, 0.5], {"layer": [0, 3, 7]}))
    assert page.exceptions("above", by_layer, layers)["exceptions"] == ""


def test_a_load_more_even_in_the_mixture_and_less_even_within_each_dataset_is_said_so():
    untrained = with_mean(UNTRAINED["selection_frequency"], "coefficient_of_variation", (0.4, 0.38, 0.42))
    metrics = with_mean(TRAINED["selection_frequency"], "coefficient_of_variation", (0.2, 0.18, 0.22))
    for source, values in ((untrained, (0.4, 0.38, 0.42)), (metrics, (0.9, 0.85, 0.95))):
        source["mean_over_layers_coefficient_of_variation"].loc[{"dataset": ["poems", "code"]}] = list(values)
    one = finding("selection_frequency", "coefficient_of_variation", metrics, untrained)
    assert one.verdict == "yes" and "Yet against 0.5 it is above within datasets poems and code." in one.exceptions
    assert "less than in the untrained model" in one.answer
    assert "but above within datasets poems and code" in one.answer


def test_what_training_did_is_the_paired_difference_and_of_one_training_run():
    trained, untrained = TRAINED["router_decisiveness"], UNTRAINED["router_decisiveness"]
    whole = seen("router_decisiveness", trained, untrained)
    whole.difference["mean_over_layers_entropy"][...] = [0.5, 0.4, 0.6]
    whole.difference["entropy"][...] = 0.5
    expected = ", more than in the untrained model (difference 0.50 [0.40, 0.60], one training run)"
    assert page.change(whole, "entropy") == expected
    assert page.change(Seen(trained, untrained), "entropy") == ""
    assert page.trained(Seen(trained, untrained), "entropy", "entropy_effect") is None
    found = page.trained(whole, "entropy", "entropy_effect", scale=2)
    assert (found["estimate"], found["null_value"], found["effect"]) == (0.5, 0.0, "small")


def test_a_chapter_is_written_as_files_and_words(tmp_path):
    drawing = Drawing(figsize=(5, 2.5))
    drawing.add_subplot().plot([0, 1], [1, 2])
    data = pd.DataFrame({"layer": [0, 1], "estimate": [0.123456789, 2.0]})
    words = {
        "name": "rise",
        "title": "It rises – η²",
        "alt": "A line from 1 to 2.",
        "caption": "One line.",
        "how_to_read": "Left to right.",
    }
    figure = page.Figure(**words, drawing=drawing, data=data)
    answer = finding("router_decisiveness", "information", TRAINED["router_decisiveness"])
    shown = SimpleNamespace(figures=lambda seen: [figure], findings=lambda seen: [answer])
    assert page.write(tmp_path, shown, Seen(TRAINED["router_decisiveness"]), "made by a test") == [answer]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chapter.json", "rise.csv", "rise.pdf", "rise.svg"]
    content = json.loads((tmp_path / "chapter.json").read_text(encoding="utf-8"))
    assert content["figures"] == [words | {"explores": "", "names": [], "width": 480, "height": 240, "places": []}]
    assert [page.Finding(**one | {"differs": tuple(one["differs"])}) for one in content["findings"]] == [answer]
    assert content["brief"] is content["served"] is content["explored"] is None
    assert (tmp_path / "rise.csv").read_text() == "layer,estimate\n0,0.123457\n1,2\n"
    assert "A line from 1 to 2." in (tmp_path / "rise.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_table_of_measures_has_what_the_untrained_checkpoint_has(tmp_path):
    metrics, untrained = (source["router_decisiveness"] for source in (TRAINED, UNTRAINED))
    figures = PAGES["router_decisiveness"].figures
    shown = SimpleNamespace(figures=lambda seen: figures(seen)[:1], findings=lambda seen: [])
    page.write(tmp_path, shown, Seen(metrics, untrained), "made by a test")
    found = pd.read_csv(tmp_path / "entropy_by_layer.csv")
    assert list(found.columns)[-4:] == ["estimate", "low", "high", "untrained"]
    pooled = untrained["normalised_entropy"].sel(dataset="pooled", interval="estimate").values
    mean = untrained["mean_over_layers_normalised_entropy"].sel(dataset="pooled", interval="estimate").item()
    np.testing.assert_allclose(found["untrained"], [*pooled, mean], rtol=1e-5)
    page.write(tmp_path, shown, Seen(metrics), "made by a test")
    assert "untrained" not in pd.read_csv(tmp_path / "entropy_by_layer.csv")


# ---------------------------------------------------------------- figures


STUDIES = {
    "trained and untrained": (TRAINED, UNTRAINED),
    "one layer, one dataset, k is 1": (metrics_of(3, layers=(4,), datasets=("poems",), top_k=1), None),
    "k is E": (metrics_of(4, top_k=8), metrics_of(5, top_k=8)),
}


@pytest.fixture(scope="module", params=[(study, page) for study in STUDIES for page in PAGES], ids=" - ".join)
def made(request):
    study, page = request.param
    trained, untrained = STUDIES[study]
    metrics, reference = trained[page], untrained[page] if untrained else None
    return page, metrics, reference, PAGES[page].figures(Seen(metrics, reference))


@pytest.mark.slow
def test_every_figure_has_words_and_can_be_drawn(made):
    page, _, untrained, figures = made
    number = {"router_decisiveness": 10, "selection_frequency": 7}[page]
    assert len({figure.name for figure in figures}) == len({figure.title for figure in figures}) == number
    for figure in figures:
        assert len(figure.alt) >= 40
        for text in (figure.title, figure.alt, figure.caption, figure.how_to_read):
            assert text == text.strip() != ""
            assert "None" not in text and "nan" not in text
        for text in (figure.alt, figure.caption, figure.how_to_read):
            assert text.endswith(".")
        assert figure.drawing.axes
        figure.drawing.draw_without_rendering()
        assert untrained is not None or "untrained" not in figure.alt + figure.caption + figure.how_to_read


def test_the_data_of_every_figure_are_the_metrics(made):
    _, metrics, _, figures = made
    pooled, layers = metrics.sel(dataset="pooled"), metrics["layer"].values.tolist()
    experts, ranks = range(metrics.sizes["expert"]), range(metrics.sizes["rank"])
    tables = {
        "entropy_by_layer": (["normalised_entropy"], ["pooled"]),
        "measures_by_layer": (list(decisiveness_page.PANELS), ["pooled"]),
        "entropy_by_dataset": (["normalised_entropy"], metrics["dataset"].values),
        "information": (["entropy_of_mean", "entropy", "information"], ["pooled"]),
        "balance_by_layer": (list(frequency_page.LOADS), ["pooled"]),
        "balance_by_dataset": (list(frequency_page.LOADS), metrics["dataset"].values),
        "auxiliary_losses": (["load_balancing_loss", "z_loss"], ["pooled"]),
    }

    def equal(rows, expected):
        np.testing.assert_array_equal(rows.to_numpy(), expected)

    for figure in figures:
        data = figure.data
        if figure.name in tables:
            names, datasets = tables[figure.name]
            pd.testing.assert_frame_equal(data, summary.table(metrics.sel(dataset=list(datasets)), names))
        elif figure.name == "entropy_distribution":
            keys = [(layer, quantile) for layer in layers for quantile in (0.1, 0.5, 0.9)]
            assert list(zip(data["layer"], data["quantile"], strict=True)) == keys
            quantiles = pooled["scalar_quantile"].sel(scalar="entropy", interval=PARTS)
            equal(data[PARTS], [quantiles.sel(layer=layer, quantile=q) for layer, q in keys])
        elif figure.name == "weight_by_rank":
            keys = [(layer, rank) for layer in layers for rank in ranks]
            assert list(zip(data["layer"], data["rank"], strict=True)) == keys
            weight = pooled["rank_weight"].sel(interval=PARTS)
            equal(data[PARTS], [weight.sel(layer=layer).isel(rank=rank) for layer, rank in keys])
        elif figure.name == "logits_by_expert":
            keys = [(layer, e, quantile) for layer in layers for e in experts for quantile in (0.1, 0.5, 0.9)]
            assert list(zip(data["layer"], data["expert"], data["quantile"], strict=True)) == keys
            logit = metrics["expert_logit_quantile"]
            equal(data["logit"], [logit.sel(layer=layer, quantile=q).values[e] for layer, e, q in keys])
        elif figure.name in ("logit_ranges", "probability_ranges"):
            keys = [(layer, e, quantile) for layer in layers for e in experts for quantile in (0.1, 0.5, 0.9)]
            name = figure.name.removesuffix("_ranges")
            assert list(zip(data["layer"], data["expert"], data["quantile"], strict=True)) == keys
            found = metrics[f"expert_{name}_quantile"]
            equal(data[name], [found.sel(layer=layer, quantile=q).values[e] for layer, e, q in keys])
        elif figure.name == "shares_by_rank":
            for label, name in (("probability p", "probability"), ("weight q", "share")):
                rows = data[data["of"] == label]
                found = metrics[f"rank_{name}_quantile"]
                assert len(rows) == found.size
                keys = zip(rows["layer"], rows["rank"], rows["quantile"], strict=True)
                equal(rows["value"], [found.sel(layer=layer, rank=rank, quantile=q) for layer, rank, q in keys])
        elif figure.name == "load_by_expert":
            keys = [(layer, expert) for layer in layers for expert in experts]
            assert list(zip(data["layer"], data["expert"], strict=True)) == keys
            share = pooled["slot_share"].sel(interval=PARTS)
            equal(data[["slot_share", "low", "high"]], [share.sel(layer=layer, expert=e) for layer, e in keys])
        elif figure.name == "sorted_loads":
            keys = [(layer, place) for layer in layers for place in range(1, len(experts) + 1)]
            assert list(zip(data["layer"], data["place"], strict=True)) == keys
            share = pooled["slot_share"].sel(interval="estimate")
            falling = [sorted(share.sel(layer=layer).values.tolist(), reverse=True) for layer in layers]
            equal(data["load_ratio"], np.concatenate(falling) * len(experts))
        elif figure.name == "first_choice_share":
            keys = [(layer, expert, rank) for layer in layers for expert in experts for rank in ranks]
            assert list(zip(data["layer"], data["expert"], data["rank"], strict=True)) == keys
            share = metrics["rank_share"]
            equal(data["share"], [share.sel(layer=layer, expert=e, rank=rank) for layer, e, rank in keys])
        elif figure.name == "dropped_by_capacity":
            assert len(data) == metrics.sizes["dataset"] * (len(layers) + 1) * metrics.sizes["capacity_factor"]
            by_layer = data[data["measure"] == "dropped_share"]
            keys = zip(by_layer["dataset"], by_layer["layer"], by_layer["capacity_factor"], strict=True)
            dropped = metrics["dropped_share"].sel(interval=PARTS)
            equal(by_layer[PARTS], [dropped.sel(dataset=d, layer=layer, capacity_factor=f) for d, layer, f in keys])
            means = data[data["measure"] == "mean_over_layers_dropped_share"]
            keys = zip(means["dataset"], means["capacity_factor"], strict=True)
            dropped = metrics["mean_over_layers_dropped_share"].sel(interval=PARTS)
            equal(means[PARTS], [dropped.sel(dataset=d, capacity_factor=f) for d, f in keys])
            assert len(by_layer) + len(means) == len(data) and means["layer"].isna().all()
        else:
            raise AssertionError(f"{figure.name} is not checked")


def test_lines_are_drawn_where_the_metrics_are():
    metrics, untrained = TRAINED["router_decisiveness"], UNTRAINED["router_decisiveness"]
    drawing = next(
        figure.drawing
        for figure in decisiveness_page.figures(Seen(metrics, untrained))
        if figure.name == "entropy_by_layer"
    )
    drawn = [list(line.get_ydata()) for line in drawing.axes[0].get_lines()]
    for source in (metrics, untrained):
        assert source["normalised_entropy"].sel(dataset="pooled", interval="estimate").values.tolist() in drawn


def figure_of(page: str, name: str, metrics: xr.Dataset, untrained: xr.Dataset | None = None) -> page.Figure:
    return next(figure for figure in PAGES[page].figures(Seen(metrics, untrained)) if figure.name == name)


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ([(0.8, 0.75, 0.85), (0.5, 0.45, 0.55), (0.7, 0.6, 0.8)], "Router entropy is lowest in layer 2"),
        ([(0.8, 0.75, 0.85), (0.7, 0.65, 0.75), (0.4, 0.3, 0.5)], "Router entropy is lowest in layer 5"),
        ([(0.8, 0.75, 0.85), (0.5, 0.45, 0.65), (0.7, 0.6, 0.8)], "Router entropy by layer"),
    ],
)
def test_the_title_names_the_lowest_layer_only_if_it_is_clear(values, title):
    metrics = TRAINED["router_decisiveness"].copy(deep=True)
    metrics["normalised_entropy"].loc[{"dataset": "pooled", "interval": PARTS}] = values
    figure = figure_of("router_decisiveness", "entropy_by_layer", metrics)
    assert figure.title == title
    lowest = min(range(3), key=lambda position: values[position])
    assert f"lowest {values[lowest][0]:.3f} in layer {LAYERS[lowest]}" in figure.alt


@pytest.mark.slow
def test_words_name_the_datasets_at_the_ends():
    metrics = TRAINED["router_decisiveness"].copy(deep=True)
    mean = metrics["mean_over_layers_normalised_entropy"]
    for low, high in (("poems", "code"), ("code", "poems")):
        mean.loc[{"dataset": [low, high], "interval": "estimate"}] = [0.25, 0.75]
        alt = figure_of("router_decisiveness", "entropy_by_dataset", metrics).alt
        assert f"lowest on {low} (0.250 on average over layers), highest on {high} (0.750)" in alt


def test_words_name_one_of_the_busiest_experts():
    metrics = TRAINED["selection_frequency"].copy(deep=True)
    share = metrics["slot_share"]
    share.loc[{"dataset": "pooled"}] = 0.1
    for layer, expert in ((2, 6), (5, 1)):
        share.loc[{"dataset": "pooled", "layer": layer, "expert": expert}] = 0.25
    alt = figure_of("selection_frequency", "load_by_expert", metrics).alt
    assert "from 0.80 to 2.00 times, the largest in layer 2, expert 6." in alt


@pytest.mark.slow
def test_the_order_of_capacity_factors_does_not_matter():
    shuffled = metrics_of(1, expert_bias=1.0, factors=(2.0, 1.0, 1.2))["selection_frequency"]
    ordered = figure_of("selection_frequency", "dropped_by_capacity", TRAINED["selection_frequency"])
    figure = figure_of("selection_frequency", "dropped_by_capacity", shuffled)
    assert figure.alt == ordered.alt
    assert "90 % jackknife over groups of clusters" in figure.caption
    for ours, theirs in zip(figure.drawing.axes[0].get_lines(), ordered.drawing.axes[0].get_lines(), strict=True):
        np.testing.assert_array_equal(ours.get_xydata(), theirs.get_xydata())


# ---------------------------------------------------------------- findings


def test_every_finding_points_to_a_figure_and_says_what_it_rests_on(made):
    chapter, metrics, untrained, figures = made
    for one in PAGES[chapter].findings(seen(chapter, metrics, untrained)):
        assert one.figure in {figure.name for figure in figures} and one.verdict in VERDICTS
        assert one.question.endswith("?") and one.answer.endswith(".")
        assert np.isfinite([one.estimate, one.low, one.high, one.null_value]).all()
        assert one.n == 5 * (metrics.sizes["dataset"] - 1)
        if untrained is None:
            assert one.reference_name is None and one.reference_value is None
            assert "untrained" not in one.answer + one.verdict_text
        elif one.measure != "information":  # which is about the difference from it
            assert one.reference_name == "untrained model" and np.isfinite(one.reference_value)


@pytest.mark.parametrize(
    ("interval", "verdict", "answer"),
    [
        ((0.4, 0.35, 0.45), "yes", "less than 0.5"),
        ((0.8, 0.75, 0.85), "no", "more than 0.5"),
        ((0.48, 0.4, 0.55), "unclear", "holds"),
    ],
)
def test_the_finding_on_entropy_follows_its_interval(interval, verdict, answer):
    metrics = with_mean(TRAINED["router_decisiveness"], "normalised_entropy", interval)
    one = finding("router_decisiveness", "normalised_entropy", metrics)
    assert one.verdict == verdict and answer in one.answer and "0.5" in one.answer
    assert (one.estimate, one.low, one.high, one.null_value) == (*interval, 1)


@pytest.mark.parametrize(
    ("interval", "verdict", "words"),
    [
        ((0.5, 0.4, 0.6), "yes", ["50 %", "more than"]),
        ((0.2, 0.1, 0.24), "no", ["20.0 %", "less than"]),
        ((0.3, 0.2, 0.4), "unclear", ["30 %", "about"]),
    ],
)
def test_the_finding_on_mass_compares_with_an_even_share(interval, verdict, words):
    metrics = with_mean(TRAINED["router_decisiveness"], "top_k_mass", interval)
    one = finding("router_decisiveness", "top_k_mass", metrics)
    assert one.verdict == verdict and all(word in one.answer for word in words)
    assert one.null_value == 2 / 8


@pytest.mark.parametrize(
    ("trained", "untrained", "verdict", "effect"),
    [
        ((0.9, 0.85, 0.95), (0.1, 0.05, 0.15), "yes", "large"),
        ((0.1, 0.05, 0.15), (0.5, 0.45, 0.55), "no", "large"),
        ((0.5, 0.49, 0.51), (0.5, 0.495, 0.505), "unclear", "negligible"),
    ],
)
def test_the_finding_on_information_is_the_paired_difference(trained, untrained, verdict, effect):
    metrics = with_mean(TRAINED["router_decisiveness"], "information", trained)
    reference = with_mean(UNTRAINED["router_decisiveness"], "information", untrained)
    one = finding("router_decisiveness", "information", metrics, reference)
    assert (one.verdict, one.effect, one.reference_name) == (verdict, effect, None)
    assert one.estimate == pytest.approx(trained[0] - untrained[0])
    assert f"{trained[0]:.3f} nats" in one.answer and f"{untrained[0]:.3f} in the untrained" in one.answer


def test_the_finding_on_information_without_an_untrained_model_compares_with_none():
    metrics = TRAINED["router_decisiveness"]
    more = finding("router_decisiveness", "information", with_mean(metrics, "information", (0.5, 0.45, 0.55)))
    assert more.verdict == "yes" and "0.500 nats more peaked" in more.answer
    none = finding("router_decisiveness", "information", with_mean(metrics, "information", (0.01, -0.01, 0.02)))
    assert none.verdict == "unclear" and "untrained" not in none.answer


@pytest.mark.parametrize(
    ("interval", "verdict", "word"),
    [
        ((0.4, 0.35, 0.45), "yes", "less than 0.5"),
        ((0.8, 0.75, 0.85), "no", "more than 0.5"),
        ((0.48, 0.4, 0.55), "unclear", "0.5"),
    ],
)
def test_the_finding_on_balance_follows_its_interval(interval, verdict, word):
    metrics = with_mean(TRAINED["selection_frequency"], "coefficient_of_variation", interval)
    one = finding("selection_frequency", "coefficient_of_variation", metrics)
    assert one.verdict == verdict and word in one.answer
    assert one.null_value == metrics["mean_over_layers_null_coefficient_of_variation"].sel(
        dataset="pooled", interval="estimate"
    )


def test_the_finding_on_overload_compares_with_chance():
    metrics = TRAINED["selection_frequency"]
    chance = metrics["mean_over_layers_null_max_violation"].sel(dataset="pooled", interval="estimate").item()
    for shift, verdict in ((0.5, "yes"), (-0.5, "no"), (0, "unclear")):
        interval = (chance + shift, chance + shift - 0.1, chance + shift + 0.1)
        one = finding("selection_frequency", "max_violation", with_mean(metrics, "max_violation", interval))
        assert (one.verdict, one.null_value) == (verdict, chance)
        assert f"{1 + interval[0]:.2f} times" in one.answer


def test_the_finding_on_dead_experts_counts_them():
    metrics = TRAINED["selection_frequency"].copy(deep=True)
    for dead, verdict, answer in (
        ([0, 0, 0], "no", "None of 24"),
        ([1, 0, 2], "yes", "3 of 24"),
    ):
        metrics["dead_experts"].loc[{"dataset": "pooled", "interval": "estimate"}] = dead
        one = finding("selection_frequency", "dead_experts", metrics)
        assert one.verdict == verdict and answer in one.answer


@pytest.mark.parametrize(
    ("interval", "verdict"), [((0.04, 0.02, 0.06), "yes"), ((0.001, 0, 0.002), "no"), ((0.01, 0.005, 0.02), "unclear")]
)
def test_the_finding_on_capacity_takes_the_factor_nearest_to_1_25(interval, verdict):
    metrics = with_mean(TRAINED["selection_frequency"], "dropped_share", interval, capacity_factor=1.2)
    one = finding("selection_frequency", "dropped_share", metrics)
    assert "capacity factor of 1.2 " in one.question
    assert page.percent(interval) in one.answer
    assert (one.verdict, one.estimate, one.low, one.high) == (verdict, *interval)


def test_in_brief_the_load_is_uneven_or_nothing_shows_that_it_is():
    metrics = with_mean(TRAINED["selection_frequency"], "max_violation", (1.5, 1.4, 1.6))
    metrics["mean_over_layers_null_max_violation"].loc[{"dataset": "pooled"}] = [0.2, 0.1, 0.3]
    share = metrics["slot_share"]
    share.loc[{"dataset": "pooled"}] = [0.1, 0.05, 0.15]
    share.loc[{"dataset": "pooled", "layer": 5, "expert": 1}] = [0.25, 0.24, 0.26]
    share.loc[{"dataset": "pooled", "layer": 2, "expert": 6}] = [0.3, 0.1, 0.5]  # more, but with less certainty
    found = frequency_page.brief(seen("selection_frequency", metrics))
    assert "strongly uneven: the busiest expert of a layer gets 2.50 times an even load" in found.text
    assert (found.example, found.layer, found.experts) == ("Layer 5 expert 1 gets 2.000 times an even load.", 5, (1,))
    none = with_mean(metrics, "max_violation", (0.2, 0.1, 0.3))
    found = frequency_page.brief(seen("selection_frequency", none))
    assert (found.text, found.example) == ("Nothing shows that any expert gets more than its share of the tokens.", "")


def test_in_brief_the_router_decides_or_nothing_shows_that_it_does():
    metrics = with_mean(TRAINED["router_decisiveness"], "normalised_entropy", (0.6, 0.55, 0.65))
    mean = metrics["mean_over_layers_normalised_entropy"]
    mean.loc[{"dataset": "poems"}], mean.loc[{"dataset": "code"}] = [0.7, 0.65, 0.75], [0.4, 0.35, 0.45]
    untrained = with_mean(UNTRAINED["router_decisiveness"], "normalised_entropy", (0.9, 0.89, 0.91))
    found = decisiveness_page.brief(seen("router_decisiveness", metrics, untrained))
    assert "its entropy is 60.0 % of the most possible (90.0 % before training), 100 % if" in found.text
    assert found.example == "It is surest of code (40.0 %) and least sure of poems (70.0 %)."
    mean.loc[{"dataset": "code"}] = [0.6, 0.4, 0.8]
    assert decisiveness_page.brief(seen("router_decisiveness", metrics)).example == ""
    none = with_mean(metrics, "normalised_entropy", (0.99, 0.98, 1.0))
    found = decisiveness_page.brief(seen("router_decisiveness", none))
    assert (found.text, found.example) == ("Nothing shows that the router prefers any expert to another.", "")


@pytest.mark.parametrize(
    ("difference", "text", "training"),
    [
        ((0.5, 0.4, 0.6), " (2.00 before training)", "more"),
        ((-0.5, -0.6, -0.4), " (2.00 before training)", "less"),
        ((0.1, -0.1, 0.3), " (about as before training)", "unclear"),
    ],
)
def test_before_training_is_told_as_far_as_the_paired_difference_tells(difference, text, training):
    metrics = with_mean(TRAINED["router_decisiveness"], "entropy", (1.5, 1.4, 1.6))
    whole = seen("router_decisiveness", metrics, with_mean(UNTRAINED["router_decisiveness"], "entropy", (2, 1.9, 2.1)))
    whole.difference["mean_over_layers_entropy"][...] = list(difference)
    assert page.before(whole, "entropy") == text and page.before(Seen(metrics), "entropy") == ""
    assert page.numbers(whole, "entropy", page.Null("", 0.0), "entropy_effect")["training"] == training


@pytest.mark.parametrize(
    ("value", "shown", "percent"),
    [
        ((5.699, 4.1, 7.5), "5.7", "570 %"),
        ((0.73561, 0.7312, 0.7401), "0.7356", "73.56 %"),
        ((0.2, 0.1, 0.3), "0.20", "20 %"),
        ((0.5, np.nan, np.nan), "0.5", "50 %"),
    ],
)
def test_an_estimate_in_a_sentence_has_the_decimals_of_its_interval(value, shown, percent):
    assert page.rounded(value) == page.rounded(dict(zip(PARTS, value, strict=True))) == shown
    assert page.percent(value) == percent
    assert page.degree("small") == "somewhat" and page.degree("small to large") == "somewhat to strongly"


@pytest.mark.slow
def test_captions_say_what_the_probabilities_of_a_sigmoid_router_are():
    metrics = TRAINED["router_decisiveness"]
    sigmoid = metrics.assign_attrs(probability="normalised sigmoid scores")
    note = " Probabilities of this router are normalised sigmoid scores. A trained bias or groups of experts may move "
    note += "its choice away from the most probable experts."
    plain = [figure.caption for figure in decisiveness_page.figures(Seen(metrics))]
    assert [figure.caption for figure in decisiveness_page.figures(Seen(sigmoid))] == [text + note for text in plain]
    assert not any("sigmoid" in text for text in plain)
