"""Agreement: which runs are compared, which tokens are the same, what flips, experts, and findings made anew."""

import re

import numpy as np
import page_cases
import pytest
import scipy.stats
import xarray as xr
from routing_cases import Case, case, random_case, records
from vocabulary_cases import vocabulary_case, written

from gatebook import chapters
from gatebook.chapters.agreement import CHAPTER, aligned, asked, page, survival
from gatebook.chapters.agreement import measure as agreement
from gatebook.chapters.agreement.measure import Compared
from gatebook.chapters.base.page import Seen
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import token_sample
from gatebook.measures.stability import Cells
from gatebook.problem import Problem
from gatebook.study import routed

SETTINGS = {"name": "a/main", "seed": 1, "confidence": 0.95, "false_discovery_rate": 0.05}
MODELS = {"a": {"checkpoints": ["0", "9"], "untrained": "0"}, "b": {"checkpoints": ["main"]}}
LACKS = {"a": {}, "b": {"model": "traces have none"}}
BFLOAT = {"dtype": "bfloat16"}


# ---------------------------------------------------------------- what is compared


def of_study(runs: list[str], alternatives: list[dict] = (), models=MODELS, lacks=LACKS) -> asked.Asked:
    return asked.of_study({"runs": runs, "alternatives": list(alternatives)}, models, ["a", "b", "c"], lacks)


def test_runs_are_named_by_model_and_checkpoint_and_the_untrained_one_is_beside_them():
    found = of_study(["a", "b"], [BFLOAT, {"experts": "eager", "dtype": "float32"}])
    assert found.names == ["a/9", "b/main", "a/0", "dtype bfloat16", "dtype float32, experts eager"]
    assert list(found.alternatives) == ["dtype-bfloat16", "dtype-float32.experts-eager"] and found.untrained == ["a/0"]
    assert of_study(["a/9", "a/0"]).names == ["a/9", "a/0"] and of_study(["b", "a"]).untrained == []
    assert of_study(["c", "a"], [BFLOAT]) == of_study([]) == asked.NOTHING


@pytest.mark.parametrize(
    ("runs", "alternatives", "words"),
    [
        ([], [BFLOAT], "agreement.runs: it is empty, but there are alternatives: write the run"),
        (["a"], [], "agreement.runs: a is a single run: add another one"),
        (["a", "a/9"], [], "agreement.runs: a/9 occurs twice: remove one"),
        (["a", "d"], [], "agreement.runs: d: the study has no model 'd': use one of a, b"),
        (["a/3", "b"], [], "agreement.runs: a/3: '3' is not among the model's checkpoints: use one of 0, 9"),
        (["b", "a"], [BFLOAT], "agreement.alternatives: b cannot be run again (traces have none): write []"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, alternatives, words):
    with pytest.raises(Problem, match=re.escape(f"config: {words}")):
        of_study(runs, alternatives)
    with pytest.raises(Problem, match=r"config: agreement\.runs: b: counts: remove it"):
        of_study(["a", "b"], lacks=LACKS | {"b": {"selections": "counts"}})


def counting(lengths: list[int], names: list[str], window: int, first: int = 0) -> Case:
    """Token ids count up within a document, from a number of its own."""
    ids = np.concatenate([100 * int(name) + first + np.arange(size) for name, size in zip(names, lengths, strict=True)])
    made = case({0: records(np.eye(4)[ids % 4], 1)}, lengths, ids, names)
    made.documents["document_id"] = np.array(names, dtype=object)
    return Case(made.layers, made.lengths, made.token_id, made.documents, window)


def test_tokens_are_the_same_by_document_and_place(tmp_path):
    def read(study: Case, name: str) -> xr.Dataset:
        return routed.read(**written({"x": study}, tmp_path / name))

    first = read(counting([5, 4, 3], ["7", "2", "5"], 3), "first")
    assert aligned.places(first, first, ("a", "b")).tolist() == list(range(12))
    cut = read(counting([3, 4, 4], ["5", "7", "9"], 3), "cut")  # in another order, one shorter, one missing, one more
    assert aligned.places(first, cut, ("a", "b")).tolist() == [3, 4, 5, 6, -1, -1, -1, -1, -1, 0, 1, 2]
    longer = read(counting([5], ["7"], 10), "longer")  # other windows: what is read before the last two is another text
    assert aligned.places(first, longer, ("a", "b")).tolist()[:5] == [0, 1, 2, -1, -1]
    with pytest.raises(Problem, match="a and b have other token ids in document 7 of x: compare runs"):
        aligned.places(first, read(counting([5], ["7"], 3, first=1), "other"), ("a", "b"))


def test_whole_windows_are_spread_over_clusters(tmp_path):
    study = {"x": counting([9, 9, 9, 4], ["1", "2", "3", "4"], 3), "y": counting([20], ["5"], 20)}
    study["x"].documents["cluster"][1] = "1"  # two documents of one source
    read = routed.read(**written(study, tmp_path))
    window, _ = routed.windows(read)
    for seed in range(5):
        place = token_sample.spread(read, 9, seed)
        mine = place[place < 31]
        assert all((window[mine] == one).sum() == (window == one).sum() for one in np.unique(window[mine]))
        cluster = read["cluster"].values[token_sample.documents_of(read)[mine]]
        assert len(mine) <= 9 and len(set(cluster)) == 3
        assert (place >= 31).sum() == 20  # at least one window


# ---------------------------------------------------------------- measures


def runs_of(
    rng: np.random.Generator, noise: dict[str, float], folder, *, tokens: int = 40, weak: int | None = None
) -> tuple[xr.Dataset, np.ndarray, Compared]:
    """A study and runs whose logits are those of the first one with Gaussian noise; `weak`: the only expert with "
    "noise."""
    study = {name: random_case(rng, [tokens] * 24, 8, 2, layers=(1, 3)) for name in ("x", "y")}
    read = routed.read(**written(study, folder))
    logits = np.array(
        [np.concatenate([made.layers[layer]["router_logits"].values for made in study.values()]) for layer in (1, 3)]
    )
    others = {}
    for name, scale in noise.items():
        moved = scale * rng.standard_normal(logits.shape)
        if weak is not None:
            moved[..., np.arange(8) != weak] = 0
        others[name] = best(logits + moved)
    ordered = -np.sort(-logits, axis=-1)
    margin = (ordered[..., 1] - ordered[..., 2]).astype(np.float32)
    place = np.arange(read.sizes["token"])
    return read, place, Compared([1, 3], 8, best(logits), margin, others)


def best(logits: np.ndarray) -> np.ndarray:
    return np.argsort(-logits, axis=-1, kind="stable")[..., :2]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[xr.Dataset, np.ndarray, Compared, xr.Dataset]:
    rng = np.random.default_rng(3)
    study, place, compared = runs_of(rng, {"same": 0, "rounded": 0.05, "rough": 0.3}, tmp_path_factory.mktemp("runs"))
    compared.others["shuffled"] = compared.first[:, rng.permutation(len(place))]
    return study, place, compared, agreement.measure(study, place, compared, **SETTINGS).metrics


def mean(metrics: xr.Dataset, name: str, second: str) -> float:
    return metrics[f"mean_over_layers_{name}"].sel(second=second, dataset="pooled", interval="estimate").item()


def test_a_run_against_itself_agrees_and_a_shuffled_one_as_chance_has_it(made):
    *_, metrics = made
    for name in ("equal_sets", "equal_first", "kept_experts", "agreement"):
        assert (metrics[name].sel(second="same") == 1).all()
    assert (metrics["expert_agreement"].sel(second="same") == 1).all()
    assert (metrics["expert_class"].sel(second="same") == 0).all()
    assert np.isnan(metrics["margin_changed"].sel(second="same")).all()  # nothing flips
    assert mean(metrics, "agreement", "shuffled") == pytest.approx(0, abs=0.03)
    for name in agreement.NULLS:
        chance = metrics[f"null_{name}"].sel(second="shuffled", dataset="pooled").mean().item()
        assert mean(metrics, name, "shuffled") == pytest.approx(chance, abs=0.03)
        assert chance == pytest.approx(
            {"equal_sets": 1 / 28, "equal_first": 1 / 8, "kept_experts": 1 / 4}[name], abs=0.03
        )
    bounds = metrics["mean_over_layers_margin_tells"].sel(second="shuffled", dataset="pooled")
    assert bounds.sel(interval="low") < 0.5 < bounds.sel(interval="high")  # the margin says nothing there


def test_noise_of_a_known_size_flips_what_it_must(made):
    *_, compared, metrics = made
    for second in ("rounded", "rough"):
        one, two = (sets.reshape(-1, 2) for sets in (compared.first, compared.others[second]))
        equal = np.mean([set(a) == set(b) for a, b in zip(one.tolist(), two.tolist(), strict=True)])
        assert mean(metrics, "equal_sets", second) == pytest.approx(equal)
        kept = np.mean([len(set(a) & set(b)) / 2 for a, b in zip(one.tolist(), two.tolist(), strict=True)])
        assert mean(metrics, "kept_experts", second) == pytest.approx(kept)
        assert mean(metrics, "equal_first", second) == pytest.approx((one[:, 0] == two[:, 0]).mean())
        assert mean(metrics, "margin_tells", second) > 0.75
        assert mean(metrics, "margin_changed", second) < mean(metrics, "margin_kept", second)
    # of two experts at a boundary, noise of deviation s turns the margin m round with probability Phi(-m / (s sqrt 2))
    predicted = scipy.stats.norm.cdf(-compared.margin / (0.05 * np.sqrt(2))).mean()
    assert 1 - mean(metrics, "equal_sets", "rounded") == pytest.approx(predicted, rel=0.2)


def test_how_well_the_margin_tells_is_counted_pair_by_pair():
    rng = np.random.default_rng(0)
    group, dataset = rng.integers(0, 4, 60), np.repeat([0, 1], 30)
    margin, flips = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    known = rng.random(60) < 0.9
    found = agreement.tells(margin, flips, known, Cells(group, dataset, 2))

    def by_pairs(among: np.ndarray) -> float:
        changed, kept = margin[among & flips & known], margin[among & ~flips & known]
        return np.mean([(a < b) + (a == b) / 2 for a in changed for b in kept])

    assert found.shape == (1 + GROUPS, 3)
    for draw, left in ((0, np.ones(60, bool)), (3, group != 2), (10, np.ones(60, bool))):
        of = [by_pairs(left & (dataset == one)) for one in (0, 1)]
        assert found[draw] == pytest.approx([np.mean(of), *of])
    assert np.isnan(agreement.tells(margin, np.zeros(60, bool), known, Cells(group, dataset, 2))).all()


def test_the_agreement_of_experts_is_that_of_their_tokens():
    one, two = np.array([[0, 1], [0, 2], [1, 0]]), np.array([[1, 0], [2, 1], [1, 2]])
    found = agreement.of_expert(one, two, 4, np.array([0, 0, 1]))
    assert found[0, :3] == pytest.approx([1 / 3, 2 / 3, 1 / 2]) and np.isnan(found[0, 3])
    assert found[1, :3] == pytest.approx([0, 1, 0]) and found[2, :3] == pytest.approx([1 / 2, 1 / 2, 1])


def test_an_expert_with_noise_is_sensitive_and_without_one_hardly_any_is_found(tmp_path):
    rng = np.random.default_rng(5)
    weak = agreement.measure(*runs_of(rng, {"weak": 0.4}, tmp_path / "weak", weak=6), **SETTINGS).metrics
    classes = weak["expert_class"].sel(second="weak")
    assert weak["expert_halves"].item() > 0.9
    assert (classes.sel(expert=6) == -1).all() and (classes.sel(expert=[0, 1, 2, 3, 4, 5, 7]) >= 0).all()
    even = agreement.measure(*runs_of(rng, {"even": 0.2}, tmp_path / "even"), **SETTINGS).metrics
    assert (even["expert_class"] != 0).sum() <= 2 and abs(even["expert_halves"].item()) < 0.7


def test_p_values_hold_their_level_and_do_not_go_below_what_signs_support():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((12, 400))
    draws = np.concatenate([values.mean(axis=0)[None], (values.sum(axis=0) - values) / 11])
    p = agreement.p_values(draws)
    assert 0.02 < (p < 0.05).mean() < 0.09 and p.min() >= 2 * 0.5**12
    assert agreement.p_values(draws + 100).max() == 2 * 0.5**12
    assert agreement.p_values(np.zeros((5, 2))).tolist() == [1, 1]


def test_what_is_not_known_is_not_told(made):
    study, place, compared, _ = made
    less = compared._replace(margin=compared.margin * np.nan, unordered=["rough"])
    metrics = agreement.measure(study, place, less, **SETTINGS).metrics
    assert np.isnan(metrics["margin_tells"]).all() and np.isnan(metrics["margin_kept"]).all()
    assert np.isnan(metrics["equal_first"].sel(second="rough")).all()
    assert np.isnan(metrics["null_equal_first"].sel(second="rough")).all()
    assert np.isfinite(metrics["equal_first"].sel(second="rounded")).all()


# ---------------------------------------------------------------- findings


@pytest.fixture(scope="module")
def retold(tmp_path_factory) -> tuple[dict[str, Case], xr.Dataset, np.ndarray]:
    """A study whose documents are single windows, and its selections."""
    rng = np.random.default_rng(2)
    study = {
        name: vocabulary_case(rng, [17, 30, 9, 24, 12, 21, 28, 15], 2.0, experts=8, top_k=3) for name in ("x", "y")
    }
    read = routed.read(**written(study, tmp_path_factory.mktemp("retold")))
    sets = [
        np.concatenate([made.layers[layer]["selected_expert"].values for made in study.values()]) for layer in (0, 2)
    ]
    rule = next(iter(study.values())).layers[0].attrs["routing_rule"]
    return study, read.assign_attrs(routing_rule=rule), np.array(sets)


def test_tallies_of_selections_are_those_of_records(retold):
    study, read, sets = retold
    found = survival.tally(read, np.arange(read.sizes["token"]), sets, [0, 2], 8)
    for name, made in study.items():
        whole = made.tally()
        for part in (*survival.DIMS, "tokens", "neighbours"):
            np.testing.assert_array_equal(
                found[name][part].transpose(*whole[part].dims).values, whole[part].values, part
            )
        assert found[name]["document_group"].values.tolist() == whole["document_group"].values.tolist()


def test_verdicts_are_those_of_the_chapters_and_a_collapsed_run_loses_one(retold):
    _, read, sets = retold
    bootstrap = {"resamples": 100, "seed": 1, "confidence": 0.95}
    settings = {"coactivation": {"confidence": 0.95}}
    settings["domain_specialization"] = bootstrap | {
        "permutations": 100,
        "permutation_seed": 2,
        "false_discovery_rate": 0.05,
    }
    settings["selection_frequency"] = bootstrap | {"capacity_factors": [1.25], "batch_tokens": 50}
    fixed = {name: chapters.declared(name).thresholds().model_dump() for name in survival.CHAPTERS}
    collapsed = np.broadcast_to(np.arange(3), sets.shape)
    place, made = np.arange(read.sizes["token"]), {}
    for name, of in {"a/main": sets, "b/main": collapsed}.items():
        made[name] = survival.answers(survival.tally(read, place, of, [0, 2], 8), settings, 2)
    whole = survival.survive(made, fixed)
    table = page.answers(whole)
    for name, measured in made["a/main"].items():
        seen = Seen(measured.metrics.assign_attrs(top_k=3), None, fixed[name])
        of_chapter = {each.question: each.verdict for each in chapters.page(name).findings(seen)}
        mine = table.query("run == 'a/main' and finding in @of_chapter")
        assert len(mine) == sum(each.chapter == name for each in survival.QUESTIONS)
        assert {row.finding: row.verdict for row in mine.itertuples()} == {
            each: of_chapter[each] for each in mine["finding"]
        }
    assert (whole["finding_difference"].sel(each="a/main").dropna("finding", how="all") == 0).all()
    lost = set(table.query("run == 'b/main' and survives == 'no'")["finding"])
    assert "Is the load balanced over the experts?" in lost
    unknown = survival.survive(made, fixed, ("b/main",))["finding_value"].sel(each="b/main")
    assert np.isnan(unknown).all("interval").sum() > 0


def test_the_page_says_which_run_differs(made):
    *_, metrics = made
    runs = ["a/main", *metrics["second"].values]
    shape = ("each", "finding", "interval")
    values = np.tile([0.4, 0.3, 0.5], (len(runs), len(survival.QUESTIONS), 1))
    values[-1] += 1  # another side of what it is held against
    against = np.full_like(values, 0.7)
    findings = xr.Dataset(
        {
            "finding_value": (shape, values),
            "finding_against": (shape, against),
            "finding_difference": (shape, values - values[:1]),
        },
        coords={"each": runs, "finding": [each.words for each in survival.QUESTIONS]},
    )
    whole = metrics.merge(findings.assign_coords(interval=metrics["interval"].values))
    whole = whole.assign_attrs(metrics.attrs, untrained='["shuffled"]', left_out=3)
    seen = page_cases.seen("agreement", whole)
    told = {(each.question.split(" in ")[0].split(" from ")[0], each.question): each for each in page.findings(seen)}
    survived = [each for each in told.values() if "survive" in each.question]
    assert [each.verdict for each in survived] == ["yes", "yes", "yes"]  # the untrained run is a reference
    alike = {each.question: each for each in told.values() if "alike" in each.question}
    assert [each.verdict for each in alike.values()] == ["yes", "yes", "no"]
    moved = [each for each in told.values() if "numbers behind" in each.question]
    assert [(each.verdict, each.estimate, each.reference_value) for each in moved] == [("no", 0, 1)] * 3
    assert all(each.reference_name == "shuffled" for each in alike.values())
    figures = {figure.name: figure for figure in page.figures(seen)}
    assert (
        "experts_0" not in figures
        and "experts_1" in figures
        and "3 tokens that not all runs have" in figures["margins"].caption
    )
    changed = page.answers(whole).query("run == 'shuffled'")
    assert set(changed["survives"]) == {"no"} and set(changed["share_surviving"]) == {0}
    assert "rough agrees" in page.brief(seen).text and CHAPTER.scope == "runs"
