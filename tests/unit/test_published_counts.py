"""Counts without tokens: what they allow is what a tally of documents gives, and what they do not allow is absent."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from page_cases import seen
from routing_cases import random_case, selection_case

from gatebook.chapters.base.page import Finding, Seen, counts_text, sample_size
from gatebook.chapters.domain_specialization import measure as domain_specialization
from gatebook.chapters.domain_specialization import page as domain_page
from gatebook.chapters.selection_frequency import measure as selection_frequency
from gatebook.chapters.selection_frequency import page as load_page
from gatebook.inputs import published_counts
from gatebook.problem import Problem

pytestmark = pytest.mark.filterwarnings("error")

KEY = "models.published.files"
STATISTICS = {"resamples": 20, "seed": 1, "confidence": 0.95}
CAPACITY = {"capacity_factors": [1.0], "batch_tokens": 100}
PERMUTATION = {"permutations": 20, "permutation_seed": 2, "false_discovery_rate": 0.05}
CHAPTERS = {
    selection_frequency: STATISTICS | CAPACITY,
    domain_specialization: STATISTICS | PERMUTATION,
}


def rows(study: dict) -> pd.DataFrame:
    """The published counts of a study of cases, as rows in an order of their own."""
    found = []
    for domain, case in study.items():
        tally = case.tally().sum("document")
        for layer in tally["layer"].values:
            for expert in tally["expert"].values:
                place = tally.sel(layer=layer, expert=expert)
                count = {name: int(place[name]) for name in ("selected_count", "first_count", "tokens")}
                found.append({"domain": domain, "layer": int(layer), "expert": int(expert)} | count)
    return pd.DataFrame(found).sample(frac=1, random_state=0)


def tallied(table: pd.DataFrame, experts: int, top_k: int, design_effect: float = 1) -> dict[str, xr.Dataset]:
    counts = published_counts.check(KEY, table, experts, top_k)
    names = counts["domain"].values.tolist()
    return {name: published_counts.tally(counts, name, top_k, design_effect) for name in names}


def measured(tallies: dict[str, xr.Dataset]) -> list[xr.Dataset]:
    return [chapter.measure(tallies, **settings).metrics for chapter, settings in CHAPTERS.items()]


@pytest.fixture(scope="module")
def cases() -> dict:
    """Two domains of different size, 8 experts, top 3, two layers."""
    rng = np.random.default_rng(0)
    return {"code": random_case(rng, [30, 12, 25], top_k=3), "poems": random_case(rng, [9, 14], top_k=3)}


@pytest.fixture(scope="module")
def published(cases) -> list[xr.Dataset]:
    """The metrics of selection frequency and of domain specialization from counts."""
    return measured(tallied(rows(cases), *sizes(cases)))


def sizes(cases: dict) -> tuple[int, int]:
    tally = next(iter(cases.values())).tally()
    return tally.sizes["expert"], tally.sizes["rank"]


# ---------------------------------------------------------------- values


@pytest.mark.slow
def test_the_numbers_are_those_of_the_documents(cases, published):
    """Before the correction for noise, which is another one."""
    tallies = {name: case.tally() for name, case in cases.items()}
    counts = tallied(rows(cases), *sizes(cases))
    for chapter, settings in CHAPTERS.items():
        metrics, whole = chapter.measure(counts, **settings), chapter.measure(tallies, **settings)
        assert len(metrics.draws) >= 5
        for name, values in metrics.draws.items():
            found, expected = values.isel(draw=0), whole.draws[name].isel(draw=0)
            xr.testing.assert_allclose(found, expected.transpose(*found.dims))
        xr.testing.assert_equal(metrics.metrics["tokens"], whole.metrics["tokens"])


def test_uniform_counts_have_the_uniform_values():
    # 3 of 6 experts each, 12 tokens per domain: every expert is selected 6 times, and first twice.
    even = pd.DataFrame(
        [(domain, 0, expert, 6, 2, 12) for domain in ("a", "b") for expert in range(6)],
        columns=["domain", "layer", "expert", "selected_count", "first_count", "tokens"],
    )
    load, domains = (metrics.sel(interval="estimate", layer=0) for metrics in measured(tallied(even, 6, 3)))
    assert load["coefficient_of_variation"].values.tolist() == [0, 0, 0]
    assert load["normalised_slot_entropy"].values == pytest.approx(1)
    assert domains["specialization"].values == pytest.approx(3 / 6)
    assert domains["first_specialization"].values == pytest.approx(1 / 6)
    assert domains["information"].values == pytest.approx(0)


def test_two_domains_with_experts_of_their_own():
    study = {"a": selection_case([[0]] * 9, experts=4), "b": selection_case([[2]] * 2, experts=4)}
    load, domains = (metrics.sel(interval="estimate", layer=0) for metrics in measured(tallied(rows(study), 4, 1)))
    assert domains["information"].sel(dataset="pooled").item() == pytest.approx(1)  # no noise where shares are 0 or 1
    assert domains["specialization"].sel(dataset="pooled").values.tolist() == [0.5, 0, 0.5, 0]
    assert load["dead_experts"].values.tolist() == [2, 3, 3]
    assert load["max_violation"].sel(dataset="pooled").item() == pytest.approx(9 / 11 * 4 - 1)


def test_what_needs_documents_or_weights_is_absent_or_nan(published):
    load, domains = published
    for metrics in published:
        assert (metrics["documents"] == 0).all()
        for values in (values for values in metrics.values() if "interval" in values.dims):
            assert np.isfinite(values).all()
    assert not {"z_loss", "load_balancing_loss", "dropped_share", "rank_share", "weight_share"} & set(load)
    assert not {"repeated_first", "excess_repetition", "p_value"} & set(domains)


@pytest.mark.slow
def test_without_first_choices_their_measures_are_absent_too(cases):
    table = rows(cases).drop(columns="first_count")
    load, domains = measured(tallied(table, *sizes(cases)))
    assert "slot_share" in load and "first_share" not in load
    assert "information" in domains and not [name for name in domains if "first" in name]
    assert len(domain_page.figures(Seen(domains))) == 4


# ---------------------------------------------------------------- words


def test_pages_say_how_intervals_were_made(published):
    load, domains = published
    figures = load_page.figures(Seen(load)) + domain_page.figures(Seen(domains))
    assert [figure.name for figure in figures] == [
        "load_by_expert", "balance_by_layer", "balance_by_dataset", "sorted_loads", "information_by_layer",
        "specialization", "strongest_specialists", "divergence_by_dataset",
    ]  # fmt: skip
    for figure in figures:
        words = " ".join([figure.title, figure.caption, figure.alt, figure.how_to_read])
        assert not any(word in words for word in ("document", "permutation", "bootstrap", "nan", "available"))
    findings = findings_of(load, domains)
    assert {(finding.n, finding.n_unit) for finding in findings} == {(90, "tokens")}
    assert [finding.null_name for finding in findings] == ["uniform routing"] * 3 + ["domains alike"] * 2
    text = "n = 90 tokens in 2 datasets; intervals: 95 % independent draws of tokens, a design effect of 1 allowed for."
    assert counts_text(load) == text
    assert sample_size(load) == {"n": 90, "n_unit": "tokens"}


def findings_of(load: xr.Dataset, domains: xr.Dataset) -> list[Finding]:
    return [
        *load_page.findings(seen("selection_frequency", load)),
        *domain_page.findings(seen("domain_specialization", domains)),
    ]


def routed(shares: dict[str, list[float]], tokens: int) -> pd.DataFrame:
    """Counts of one layer and domains of `tokens` tokens, of which experts get these shares, one expert each."""
    return pd.DataFrame(
        [
            (domain, 0, expert, round(share * tokens), tokens)
            for domain, each in shares.items()
            for expert, share in enumerate(each)
        ],
        columns=["domain", "layer", "expert", "selected_count", "tokens"],
    )


@pytest.mark.parametrize("design_effect", [1, 100])
def test_at_a_million_tokens_verdicts_are_clear(design_effect):
    bent = {"a": [0.7, 0.05, 0.1, 0.15], "b": [0.35, 0.05, 0.5, 0.1]}
    findings = findings_of(*measured(tallied(routed(bent, 500_000), 4, 1, design_effect)))
    assert [finding.verdict for finding in findings] == ["no", "yes", "no", "yes", "yes"]
    assert [finding.effect for finding in findings] == ["large", "large", "negligible", "large", "small"]


@pytest.mark.long
def test_uniform_routing_is_not_found_to_be_uneven_or_specialized():
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(20):
        shares = {name: rng.multinomial(1000, np.full(8, 1 / 8)) / 1000 for name in ("a", "b")}
        verdicts.append([one.verdict for one in findings_of(*measured(tallied(routed(shares, 1000), 8, 1)))])
    balanced, overloaded, dead, informed, favourite = zip(*verdicts, strict=True)
    assert set(balanced) == {"yes"} and set(dead) == {"no"}
    for answers in (overloaded, informed, favourite):
        assert answers.count("yes") <= 2


# ---------------------------------------------------------------- reading


def table_of(text: str, tmp_path) -> list[str]:
    path = tmp_path / "counts.csv"
    path.write_text(text, encoding="utf-8")
    return [str(path)]


HEADER = "domain,layer,expert,selected_count,first_count,tokens\n"
RIGHT = HEADER + "NA,3,0,2,2,3\nNA,3,1,1,1,3\n"


def test_csv_and_netcdf_say_the_same(tmp_path, cases):
    table = rows(cases)
    table.to_csv(tmp_path / "counts.csv", index=False)
    counts = published_counts.check(KEY, table, *sizes(cases))
    counts.to_netcdf(tmp_path / "counts.nc")
    for name in ("counts.csv", "counts.nc"):
        found = published_counts.check(KEY, published_counts.read(KEY, [str(tmp_path / name)]), *sizes(cases))
        xr.testing.assert_equal(found, counts)


def test_files_are_read_one_after_another(tmp_path, cases):
    table = rows(cases)
    files = [str(tmp_path / f"{name}.csv") for name in cases]
    for name, file in zip(cases, files, strict=True):
        table[table["domain"] == name].to_csv(file, index=False)
    found = published_counts.check(KEY, published_counts.read(KEY, files), *sizes(cases))
    xr.testing.assert_equal(found, published_counts.check(KEY, table, *sizes(cases)))


def test_a_domain_may_have_any_name(tmp_path):
    table = published_counts.read(KEY, table_of(RIGHT, tmp_path))
    counts = published_counts.check(KEY, table, 2, 1)
    assert counts["domain"].values.tolist() == ["NA"]
    assert counts["layer"].values.tolist() == [3]
    assert counts["selected_count"].sel(domain="NA", layer=3).values.tolist() == [2, 1]


WRONG = {
    "no column": (RIGHT.replace("tokens", "total"), "counts.csv has no column 'tokens' ... total ... rename"),
    "empty": ("", "counts.csv cannot be read ... correct it"),
    "text": (RIGHT.replace("2,2,3", "two,2,3"), "layer 3, expert 0: selected_count is 'two' ... whole number"),
    "empty cell": (RIGHT.replace("2,2,3", ",2,3"), "expert 0: selected_count is '' ... whole number"),
    "fraction": (RIGHT.replace("2,2,3", "1.5,2,3"), "expert 0: selected_count is '1.5' ... whole number"),
    "negative": (RIGHT.replace("2,2,3", "-2,2,3"), "expert 0: selected_count is '-2' ... of at least 0"),
    "no tokens": (HEADER + "a,0,0,0,0,0\na,0,1,0,0,0\n", "domain a, layer 0, expert 0: tokens is '0' ... at least 1"),
    "expert": (RIGHT.replace("3,1,1", "3,2,1"), "expert 2 ... experts_per_layer is 2"),
    "twice": (RIGHT + "NA,3,1,1,1,3\n", "domain NA, layer 3, expert 1 is there twice"),
    "missing expert": (HEADER + "NA,3,0,3,3,3\n", "domain NA, layer 3, expert 1 is missing ... 0 if"),
    "missing layer": (
        RIGHT + "b,3,0,1,1,1\nb,3,1,0,0,1\nb,4,0,1,1,1\nb,4,1,0,0,1\n",
        "domain NA, layer 4, expert 0 is mis",
    ),
    "tokens differ": (RIGHT.replace("1,1,3", "1,1,4"), "layer 3, expert 1: tokens is not that of ... other rows"),
    "more than tokens": (RIGHT.replace("2,2,3", "4,2,3"), "expert 0: selected_count is more than tokens"),
    "sum": (RIGHT.replace("1,1,3", "0,0,3"), "domain NA, layer 3: selected_count does not add up ... (1)"),
    "first": (RIGHT.replace("1,1,3", "1,2,3"), "expert 1: first_count is more than selected_count"),
    "sum of first": (RIGHT.replace("1,1,3", "1,0,3"), "layer 3: first_count does not add up to tokens"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_table_is_one_sentence_with_its_place(tmp_path, case):
    text, sentence = WRONG[case]
    with pytest.raises(Problem) as caught:
        published_counts.check(KEY, published_counts.read(KEY, table_of(text, tmp_path)), 2, 1)
    assert str(caught.value).startswith(f"{KEY}: ")
    for part in sentence.split(" ... "):
        assert part in str(caught.value)


def test_files_must_be_alike_and_of_a_known_kind(tmp_path):
    (tmp_path / "other.csv").write_text("domain,layer,expert,selected_count,tokens\nb,3,0,1,1\n", encoding="utf-8")
    with pytest.raises(Problem, match=r"other\.csv has no column 'first_count'"):
        published_counts.read(KEY, [*table_of(RIGHT, tmp_path), str(tmp_path / "other.csv")])
    with pytest.raises(Problem, match=r"counts\.txt has the ending '\.txt': use \.csv or \.nc"):
        published_counts.read(KEY, ["counts.txt"])
    (tmp_path / "bad.nc").write_text("no netCDF", encoding="utf-8")
    with pytest.raises(Problem, match=r"bad\.nc"):
        published_counts.read(KEY, [str(tmp_path / "bad.nc")])
