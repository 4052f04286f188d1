import math
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import combinations, permutations

import numpy as np
import page_cases
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_cases import Case, even_case, random_case, saved, selection_case

from gatebook.chapters.base.page import Seen
from gatebook.chapters.domain_specialization import measure as domain_specialization
from gatebook.chapters.domain_specialization import page
from gatebook.chapters.domain_specialization.measure import jensen_shannon, relative_entropy, shuffled_first
from gatebook.measures import permutation, uncertainty
from gatebook.study import tallies
from gatebook.study.tallies import open_tallies

seen = partial(page_cases.seen, "domain_specialization")

pytestmark = pytest.mark.filterwarnings("error")

MEASURES = list(domain_specialization.MEASURES)
SHARES = ("specialization", "first_specialization")
PARTS = ["estimate", "low", "high"]


def measure(study: dict[str, Case | xr.Dataset], resamples: int = 0, permutations: int = 19, seed: int = 2):
    """Without resamples estimates are the statistics of the sample, not corrected for noise."""
    made = {name: one.tally() if isinstance(one, Case) else one for name, one in study.items()}
    return domain_specialization.measure(
        made,
        resamples=resamples,
        seed=1,
        confidence=0.95,
        permutations=permutations,
        permutation_seed=seed,
        false_discovery_rate=0.05,
    ).metrics


def distribution(*values: float) -> xr.DataArray:
    return xr.DataArray(np.array(values, dtype=float), dims="expert")


# ---------------------------------------------------------------- measures by hand


def test_divergences_by_hand():
    one, half, other = distribution(1, 0), distribution(0.5, 0.5), distribution(0, 1)
    assert relative_entropy(one, half) == pytest.approx(1)
    assert relative_entropy(half, half) == jensen_shannon(half, half) == 0
    assert jensen_shannon(one, other) == pytest.approx(1)
    # The middle is (3/4, 1/4): (log2 4/3 + (log2 2/3 + log2 2) / 2) / 2.
    expected = (math.log2(4 / 3) + (math.log2(2 / 3) + 1) / 2) / 2
    assert jensen_shannon(one, half) == pytest.approx(expected) == jensen_shannon(half, one)


def test_domains_with_experts_of_their_own():
    # Two domains of different size, k = 1: the expert says which one, 1 bit.
    study = {
        "poems": selection_case([[0]] * 9, experts=4, lengths=[4, 5]),
        "code": selection_case([[2], [2]], experts=4),
    }
    found = measure(study).sel(interval="estimate").isel(layer=0)
    for name in ("information", "first_information"):
        assert found[name].values.tolist() == pytest.approx([1, 1, 1])
    # The average domain is (1/2, 0, 1/2, 0), so the middle (3/4, 0, 1/4, 0), as above.
    divergence = (math.log2(4 / 3) + (math.log2(2 / 3) + 1) / 2) / 2
    assert found["divergence"].values.tolist() == pytest.approx([divergence] * 3)
    assert found["largest_specialization"].values.tolist() == [1, 1, 1]
    assert found["specialization"].sel(dataset="pooled").values.tolist() == [0.5, 0, 0.5, 0]
    assert found["specialization"].sel(dataset="code").values.tolist() == [0, 0, 1, 0]
    assert found["repeated_first"].values.tolist() == [1, 1, 1]
    assert found["excess_repetition"].values.tolist() == [0, 0, 0]


def test_uniform_routing_has_the_uniform_values():
    # Experts in turn, 12 tokens: every expert has the same load in each domain, and no neighbours share k = 1 choice.
    metrics = measure({"poems": even_case(6, 2, [6, 6]), "code": even_case(6, 2, [12])})
    found = metrics.sel(interval="estimate").isel(layer=0)
    np.testing.assert_allclose(found["specialization"], 2 / 6)
    np.testing.assert_allclose(found["first_specialization"], 1 / 6)
    uniform = dict(zip(metrics["measure"].values.tolist(), metrics["uniform_value"].values.tolist(), strict=True))
    for name in domain_specialization.BY_DOMAIN:
        np.testing.assert_allclose(found[name], uniform[name], atol=1e-12)
    assert (metrics["p_value"].isel(dataset=[1, 2]) == 1).all()


@pytest.mark.parametrize(("experts", "top_k"), [(6, 2), (5, 3), (4, 1), (3, 3)])
def test_the_uniform_share_of_repetition_counts_pairs_of_sets(experts, top_k):
    sets = [set(chosen) for chosen in combinations(range(experts), top_k)]
    expected = np.mean([bool(a & b) for a in sets for b in sets])
    assert domain_specialization.uniform_values(experts, top_k)["repeated_any"] == pytest.approx(expected)


def test_a_selection_at_random_has_the_uniform_values():
    rng = np.random.default_rng(0)
    study = {
        name: selection_case(rng.random((30_000, 8)).argsort(axis=1)[:, :3], 8, [300] * 100) for name in ("a", "b")
    }
    metrics = measure(study)
    found = metrics.sel(interval="estimate", dataset="pooled").isel(layer=0)
    for name in MEASURES:
        assert found[name].item() == pytest.approx(metrics["uniform_value"].sel(measure=name).item(), abs=0.01)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_repetition_in_random_order_is_the_mean_over_all_orders(choices):
    count = xr.DataArray([[choices.count(expert) for expert in range(3)]], dims=("document", "expert"))
    found = shuffled_first(count, xr.DataArray([len(choices)], dims="document")).item()
    orders = list(permutations(choices))
    pairs = [order[i] == order[i + 1] for order in orders for i in range(len(choices) - 1)]
    assert found == pytest.approx(np.mean(pairs) if pairs else 0)


def test_repetition_by_hand():
    # Windows do not cross documents: neighbours 0-0, 0-1, 1-1 and 2-0; document loads (2, 2) repeat with 1/3.
    study = {"poems": selection_case([[0, 1], [0, 2], [1, 0], [1, 3], [2, 0], [0, 3]], experts=4, lengths=[4, 2])}
    found = measure(study).sel(interval="estimate", dataset="poems").isel(layer=0)
    assert found["repeated_first"].item() == pytest.approx(2 / 4)
    assert found["repeated_any"].item() == pytest.approx(4 / 4)
    assert found["excess_repetition"].item() == pytest.approx(2 / 4 - 3 * (1 / 3) / 4)
    assert found["shuffled_repeated_first"].item() == pytest.approx(1 / 4)
    assert found["expected_repeated_first"].item() == pytest.approx((3**2 + 2**2 + 1) / 6**2)


# ---------------------------------------------------------------- measures by brute force


def bits(probability: dict) -> float:
    return -sum(p * math.log2(p) for p in probability.values() if p > 0)


def from_tokens(selections: dict[str, list[list[int]]]) -> float:
    """I(domain; expert) in bits, the sum of two entropies minus the joint one, all domains being equally likely."""
    joint = Counter()
    for name, tokens in selections.items():
        for selected in tokens:
            for expert in selected:
                joint[name, expert] += 1 / len(tokens) / len(selected) / len(selections)
    experts, domains = Counter(), Counter()
    for (name, expert), p in joint.items():
        experts[expert] += p
        domains[name] += p
    return bits(experts) + bits(domains) - bits(joint)


@pytest.mark.long
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.lists(st.integers(2, 6), min_size=1, max_size=4), min_size=1, max_size=4),
    experts=st.integers(2, 6),
    top_k=st.integers(1, 6),
)
def test_measures_equal_a_loop_over_tokens(seed, lengths, experts, top_k):
    rng, top_k = np.random.default_rng(seed), min(top_k, experts)
    study = {f"set {i}": random_case(rng, n, experts, top_k, (1, 3)) for i, n in enumerate(lengths)}
    metrics = measure(study).sel(interval="estimate")
    for layer in (1, 3):
        found = metrics.sel(layer=layer)
        selected = {name: made.layers[layer]["selected_expert"].values.tolist() for name, made in study.items()}
        first = {name: [ranks[:1] for ranks in tokens] for name, tokens in selected.items()}
        assert found["information"].sel(dataset="pooled").item() == pytest.approx(from_tokens(selected), abs=1e-9)
        assert found["first_information"].sel(dataset="pooled").item() == pytest.approx(from_tokens(first), abs=1e-9)
        for name, made in study.items():
            tokens, one = selected[name], found.sel(dataset=name)
            share = [np.mean([expert in ranks for ranks in tokens]) for expert in range(experts)]
            np.testing.assert_allclose(one["specialization"], share)
            assert one["largest_specialization"].item() == pytest.approx(max(share))
            pairs = [(a, b) for a, b, same in zip(tokens, tokens[1:], np.diff(made.owner) == 0, strict=False) if same]
            assert one["repeated_first"].item() == pytest.approx(np.mean([a[0] == b[0] for a, b in pairs]))
            assert one["repeated_any"].item() == pytest.approx(np.mean([bool({*a} & {*b}) for a, b in pairs]))


@pytest.fixture(scope="module")
def study() -> dict[str, Case]:
    rng = np.random.default_rng(2)
    lengths = {"poems": [5, 9, 3, 8, 7], "code": [4, 12, 6, 11], "tables": [3, 8, 5]}
    return {name: random_case(rng, one, top_k=3) for name, one in lengths.items()}


def test_pooled_is_the_mean_over_datasets_and_specialization_sums_to_k(study):
    metrics = measure(study).sel(interval="estimate")
    for name in (*MEASURES, *SHARES):
        mean = metrics[name].isel(dataset=slice(1, None)).mean("dataset")
        np.testing.assert_allclose(metrics[name].sel(dataset="pooled"), mean, atol=1e-12)
    np.testing.assert_allclose(metrics["specialization"].sum("expert"), 3)
    np.testing.assert_allclose(metrics["first_specialization"].sum("expert"), 1)
    for name in MEASURES:
        xr.testing.assert_allclose(metrics[f"mean_over_layers_{name}"], metrics[name].mean("layer"))


@pytest.mark.slow
def test_renaming_experts_moves_the_shares_and_leaves_the_measures(study):
    new_number = np.array([3, 7, 0, 2, 6, 1, 5, 4])
    metrics = measure(study, resamples=10)
    renamed = measure({name: made.permute_experts(new_number) for name, made in study.items()}, resamples=10)
    for name in MEASURES:
        xr.testing.assert_allclose(renamed[name], metrics[name], rtol=1e-9, atol=1e-12)
    for name in (*SHARES, "p_value", "adjusted_p_value"):
        np.testing.assert_allclose(renamed[name].isel(expert=new_number), metrics[name], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_the_order_and_the_parts_of_the_documents_change_nothing(study):
    metrics = measure(study, resamples=10)
    shuffled = {name: made.take(np.arange(len(made.lengths))[::-1]) for name, made in study.items()}
    # Sums over documents in another order differ by rounding at most.
    xr.testing.assert_allclose(measure(shuffled, resamples=10), metrics, rtol=1e-12, atol=1e-12)
    parts = {
        name: tallies.combine([made.take([0, 1]).tally(), made.take(np.arange(2, len(made.lengths))).tally()])
        for name, made in study.items()
    }
    xr.testing.assert_identical(measure(parts, resamples=10), metrics)


@pytest.mark.slow
def test_splitting_documents_leaves_the_shares_unchanged(study):
    split = {
        name: replace(
            made,
            lengths=np.ones(len(made.token_id), dtype=int),
            documents={part: values[made.owner] for part, values in made.documents.items()},
        )
        for name, made in study.items()
    }
    one, other = (measure(each).sel(interval="estimate") for each in (study, split))
    for name in (*SHARES, *domain_specialization.BY_DOMAIN):
        xr.testing.assert_allclose(one[name], other[name])
    # Documents of one token have no neighbours, so nothing can be repeated.
    assert other["repeated_first"].isnull().all()


@pytest.mark.slow
def test_tallies_in_files_give_the_same_measures(study, tmp_path):
    with open_tallies(saved(study, tmp_path)) as opened:
        found = measure(opened)
    xr.testing.assert_identical(found, measure(study))


# ---------------------------------------------------------------- the null and the intervals


@pytest.mark.slow
def test_the_null_is_that_of_clusters_dealt_out():
    rng, permutations = np.random.default_rng(2), 9
    lengths = {"poems": [5, 9, 3, 8, 7], "code": [4, 12, 6, 11], "tables": [3, 8, 5]}
    clusters = {"poems": list("abbac"), "code": list("abcd"), "tables": list("aab")}
    study = {name: random_case(rng, each, top_k=3, cluster=clusters[name]) for name, each in lengths.items()}
    metrics, names = measure(study, permutations=permutations), list(study)
    made = {name: one.tally() for name, one in study.items()}
    dealing = permutation.deal(made, permutations, seed=2)
    documents = xr.concat([tally.drop_vars(tallies.PER_DATASET) for tally in made.values()], dim="document")
    values = []
    for dealt in dealing.dealt:
        again = {name: documents.isel(document=dealt[dealing.item] == index) for index, name in enumerate(names)}
        found = measure(again, permutations=1).sel(interval="estimate")
        values.append(found[list(domain_specialization.BY_DOMAIN)])
    null = xr.concat(values, dim="draw")
    for name in domain_specialization.BY_DOMAIN:
        for prefix, draws in (("", null[name]), ("mean_over_layers_", null[name].mean("layer"))):
            chance = draws.isel(draw=slice(1, None)).values
            found = metrics[f"{prefix}null_{name}"]
            assert found["interval"].values.tolist() == PARTS
            expected = [chance.mean(axis=0), *np.quantile(chance, [0.025, 0.975], axis=0)]
            np.testing.assert_allclose(found.transpose("interval", ...), expected, rtol=1e-9, atol=1e-12)
    for name, draws in (
        ("information", null["information"]),
        ("mean_over_layers_information", null["information"].mean("layer")),
    ):
        expected = (draws >= draws.isel(draw=0) - 1e-9).mean("draw")
        np.testing.assert_allclose(metrics[f"p_value_{name}"], expected)
    # The test of an expert is that of the distance from the other datasets, in standard errors.
    items = [dealing.of_items(made, name) for name in ("selected_count", "tokens")]
    distance = np.abs(permutation.studentised(*items, dealing))
    p_value = (distance >= distance.isel(draw=0) - 1e-9).mean("draw")
    found = metrics[["p_value", "adjusted_p_value"]].isel(dataset=slice(1, None))
    assert found["dataset"].values.tolist() == names
    np.testing.assert_allclose(found["p_value"].transpose(*p_value.dims), p_value)
    assert metrics["p_value"].sel(dataset="pooled").isnull().all()
    adjusted = scipy.stats.false_discovery_control(p_value.values.ravel())
    np.testing.assert_allclose(found["adjusted_p_value"].transpose(*p_value.dims).values.ravel(), adjusted)


def simulated(
    rng: np.random.Generator, frequency: np.ndarray, clusters: int = 40, layers: int = 1, alike: float = 40
) -> xr.Dataset:
    """A tally with k = 1: each cluster draws its own shares around `frequency`, and each document from them.

    Every other cluster has two documents. The larger `alike` is, the less clusters differ. Layers are drawn
    independently: they are trials.
    """
    cluster = np.repeat(np.arange(clusters), 1 + np.arange(clusters) % 2)
    documents = len(cluster)
    tokens = rng.integers(20, 60, documents)
    shares = rng.dirichlet(alike * frequency, (clusters, layers))[cluster]
    count = rng.multinomial(tokens[:, None], shares)
    zeros = ("document", "layer"), np.zeros((documents, layers), dtype=int)
    return xr.Dataset(
        {
            "tokens": ("document", tokens),
            "neighbours": ("document", tokens - 1),
            "selected_count": (("document", "layer", "expert"), count),
            "first_count": (("document", "layer", "expert"), count),
            "repeated_first": zeros,
            "repeated_any": zeros,
        },
        coords={
            "document_id": ("document", [f"{number:03d}" for number in range(documents)]),
            "cluster": ("document", [f"{number:03d}" for number in cluster]),
            "layer": np.arange(layers),
            "expert": np.arange(len(frequency)),
            "rank": [0],
        },
    )


@pytest.mark.parametrize("alike", [(40, 40), (40, 10)], ids=["clusters differ as much", "more in one dataset"])
def test_p_values_under_the_null_are_uniform(alike):
    rng, frequency = np.random.default_rng(1), np.array([0.4, 0.3, 0.2, 0.1])
    study = {
        name: simulated(rng, frequency, clusters, layers=400, alike=each)
        for name, clusters, each in zip("ab", (20, 30), alike, strict=True)
    }
    dealing = permutation.deal(study, 199, seed=1)
    tokens = dealing.of_items(study, "tokens")
    distance = permutation.studentised(dealing.of_items(study, "selected_count"), tokens, dealing)
    found = [permutation.p_value(np.abs(distance)).isel(dataset=0, expert=1)]
    if alike[0] == alike[1]:  # where clusters of one dataset differ more, datasets are not exchangeable
        sums = permutation.dealt_draws(study, ["tokens", "selected_count", "first_count"], dealing)
        measures = domain_specialization.domain_measures(sums, sums["tokens"])
        found.append(permutation.p_value(measures["information"]).sel(dataset="pooled"))
    for p_value in found:
        # p-values are multiples of 1/200; noise inside the steps makes them continuous.
        continuous = p_value.values - rng.random(p_value.size) / 200
        assert scipy.stats.kstest(continuous, "uniform").pvalue > 0.01


@pytest.mark.slow
def test_intervals_cover_the_truth():
    rng, trials = np.random.default_rng(3), 1000
    frequency = {"a": np.array([0.4, 0.3, 0.2, 0.1]), "b": np.array([0.1, 0.3, 0.2, 0.4])}
    mixture = distribution(*np.mean(list(frequency.values()), axis=0))
    study = {name: simulated(rng, shares, 300, trials) for name, shares in frequency.items()}
    names = ["tokens", "selected_count", "first_count"]
    sums = uncertainty.dataset_draws(study, names, uncertainty.resample(study, 400, seed=1))
    information = domain_specialization.domain_measures(sums, sums["tokens"])["information"].sel(dataset="pooled")
    frequencies = domain_specialization._specialization(sums, sums["tokens"], 0.95)["specialization"]
    known = [relative_entropy(distribution(*shares), mixture).item() for shares in frequency.values()]
    for truth, interval in (
        (np.mean(known), uncertainty.interval(information, 0.95, (0, np.inf), "level")),
        (0.1, frequencies.sel(dataset="b", expert=0)),
        (0.25, frequencies.sel(dataset="pooled", expert=0)),
    ):
        covered = (interval.sel(interval="low") <= truth) & (truth <= interval.sel(interval="high"))
        assert 0.93 <= covered.mean() <= 0.97


def test_specialized_experts_are_found():
    rng, even = np.random.default_rng(4), np.full(8, 1 / 8)
    bent = even.copy()
    bent[[0, 1]] = 3 / 8 - 1 / 16, 1 / 16 - 1 / 32
    bent /= bent.sum()
    study = {"a": simulated(rng, bent), "b": simulated(rng, even), "c": simulated(rng, even)}
    metrics = measure(study, permutations=999).isel(layer=0)
    found = metrics["adjusted_p_value"].sel(dataset="a") <= 0.05
    assert found.values[:2].all()
    assert (metrics["p_value_information"].sel(dataset="pooled") == 1 / 1000).item()


# ---------------------------------------------------------------- the page


def pair_of_metrics(layers=(0, 2, 5, 7), datasets=("poems", "code", "tables"), top_k=2, **options):
    rng = np.random.default_rng(7)
    return [
        measure(
            {name: random_case(rng, [9, 14, 6, 11], top_k=top_k, layers=layers, **options) for name in datasets},
            resamples=3,
        )
        for _ in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trained", "untrained"),
    [pair_of_metrics(), [pair_of_metrics((4,), ("poems",), 1)[0], None], pair_of_metrics(top_k=8)],
    ids=["trained and untrained", "one layer, one dataset, k is 1", "k is E"],
)
def test_every_figure_has_words_and_can_be_drawn(trained, untrained):
    figures = page.figures(Seen(trained, untrained))
    assert len({figure.name for figure in figures}) == len(figures) == 5
    for figure in figures:
        for text in (figure.title, figure.alt, figure.caption, figure.how_to_read):
            assert text == text.strip() != "" and "None" not in text and "nan" not in text
        figure.drawing.draw_without_rendering()
    for one in page.findings(seen(trained, untrained)):
        assert one.figure in {figure.name for figure in figures}
        assert np.isfinite([one.estimate, one.low, one.high, one.null_value]).all()
        assert one.question.endswith("?") and one.answer.endswith(".")


@pytest.mark.slow
def test_the_data_of_the_figures_are_the_metrics():
    trained, _ = pair_of_metrics()
    data = {figure.name: figure.data for figure in page.figures(Seen(trained))}
    assert len(data["specialization"]) == len(data["strongest_specialists"]) == 3 * 4 * 8
    for row in data["specialization"].itertuples():
        where = {"dataset": row.dataset, "layer": row.layer, "expert": row.expert, "interval": PARTS}
        assert [row.estimate, row.low, row.high] == trained["specialization"].sel(where).values.tolist()
        assert [row.first_estimate, row.first_low, row.first_high] == trained["first_specialization"].sel(
            where
        ).values.tolist()
    specialists = data["strongest_specialists"]
    assert (specialists["estimate"] - specialists["mean_over_datasets"]).is_monotonic_decreasing
    for row in specialists.itertuples():
        where = {"dataset": row.dataset, "layer": row.layer, "expert": row.expert}
        found = trained.sel(where)
        assert row.estimate == found["specialization"].sel(interval="estimate")
        assert row.adjusted_p_value == found["adjusted_p_value"] and row.p_value == found["p_value"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "index", "null"),
    [("information", 0, None), ("largest_specialization", 1, None), ("excess_repetition", 2, 0)],
)
def test_verdicts_follow_the_intervals(name, index, null):
    metrics = pair_of_metrics()[0]
    null = metrics[f"null_{name}"].sel(dataset="pooled", interval="estimate").mean().item() if null is None else null
    for shift, verdict in ((0.5, "yes"), (-0.5, "no"), (0, "unclear")):
        changed = metrics.copy(deep=True)
        interval = [null + shift, null + shift - 0.1, null + shift + 0.1]
        changed[f"mean_over_layers_{name}"].loc[{"dataset": "pooled"}] = interval
        one = page.findings(seen(changed))[index]
        assert (one.verdict, one.null_value) == (verdict, pytest.approx(null))


def specialists() -> xr.Dataset:
    """Metrics in which two experts are far above their means, one hardly, and one without a test that holds."""
    metrics = pair_of_metrics()[0].copy(deep=True)
    metrics["mean_over_layers_information"].loc[{"dataset": "pooled"}] = [0.5, 0.4, 0.6]
    for name in ("null_information", "mean_over_layers_null_information"):
        metrics[name].loc[{"dataset": "pooled"}] = 0.1
    metrics["specialization"].loc[{"dataset": "pooled"}] = 0.25
    metrics["specialization"].loc[{"dataset": ["poems", "code", "tables"]}] = [0.2, 0.15, 0.24]
    metrics["adjusted_p_value"][...] = 0.01
    for dataset, expert, share in (("code", 3, 0.9), ("poems", 3, 0.4), ("tables", 6, 0.31), ("poems", 7, 0.8)):
        at = {"dataset": dataset, "layer": 5, "expert": expert}
        metrics["specialization"].loc[at] = [share, share - 0.05, share + 0.05]
    metrics["adjusted_p_value"].loc[{"dataset": "poems", "layer": 5, "expert": 7}] = 0.06
    return metrics


@pytest.mark.slow
def test_experts_serve_datasets_by_the_test_and_by_no_negligible_size():
    found = page.served(seen(specialists()))
    assert [(one.layer, one.expert, one.dataset, one.effect) for one in found] == [
        (5, 3, "code", "large"),
        (5, 3, "poems", "small"),
    ]
    assert (found[0].share, found[0].usual) == (0.9, 0.25)
    assert (found[0].low, found[0].high) == pytest.approx((0.85, 0.95))


@pytest.mark.slow
def test_in_brief_experts_specialize_or_nothing_shows_that_they_do():
    metrics = specialists()
    found = page.brief(seen(metrics))
    assert "specialize strongly by kind of text: one selection tells 0.50 of the 1.58 bits" in found.text
    assert found.example == "Layer 5 expert 3 takes 90.0 % of the tokens of code, 25 % of the average dataset's."
    assert (found.layer, found.experts) == (5, (3,))
    metrics["adjusted_p_value"][...] = 1
    assert page.served(seen(metrics)) == [] and page.brief(seen(metrics)).example == ""
    metrics["mean_over_layers_information"].loc[{"dataset": "pooled"}] = [0.1, 0.05, 0.15]
    found = page.brief(seen(metrics))
    assert (found.text, found.example) == ("Nothing shows that experts serve particular kinds of text.", "")


@pytest.mark.slow
def test_the_answer_compares_with_the_untrained_model():
    trained, untrained = pair_of_metrics()
    for interval, words in (
        ([2, 1.9, 2.1], "more than"),
        ([0, 0, 0], "less than"),
        ([1, 0.5, 1.1], "about as much as"),
    ):
        changed, reference = trained.copy(deep=True), untrained.copy(deep=True)
        changed["mean_over_layers_information"].loc[{"dataset": "pooled"}] = interval
        reference["mean_over_layers_information"].loc[{"dataset": "pooled"}] = [1, 0.9, 1.2]
        answer = page.findings(seen(changed, reference))[0].answer
        assert f"{words} in the untrained model" in answer and "one training run" in answer
    assert "untrained" not in page.findings(seen(trained))[0].answer
