"""Evolution: saturation, its part by token id, matching, loads and the page, on planted training runs."""

from functools import partial

import numpy as np
import page_cases
import pytest
import xarray as xr
from routing_cases import Case, case, logits_for, records

from gatebook.chapters.domain_specialization import measure as domain_specialization
from gatebook.chapters.evolution import LAST, PREVIOUS, matching, page
from gatebook.chapters.evolution import measure as evolution
from gatebook.chapters.selection_frequency import measure as selection_frequency
from gatebook.files import netcdf
from gatebook.inputs.clusters import GROUPS
from gatebook.measures.uncertainty import jackknife
from gatebook.study import routed

seen = partial(page_cases.seen, "evolution")

pytestmark = pytest.mark.filterwarnings("error")

EXPERTS, K, TYPES = 12, 2, 6
LENGTHS = {"poems": [30] * 24, "code": [20] * 22}
STEPS = ("step0", "step10", "step20", "step40")
OPTIONS = {"permutations": 4, "shown_tokens": 2, "resamples": 100, "seed": 1, "confidence": 0.95}


def tokens_of(lengths: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and the ids before them."""
    ids = rng.integers(0, TYPES, sum(lengths))
    first = np.cumsum(lengths) - lengths
    previous = np.append(TYPES, ids[:-1])
    previous[first] = TYPES
    return ids, previous


def sets_of(code: np.ndarray, seed: int) -> np.ndarray:
    """A set of experts for every value of a code: (token, rank)."""
    return np.argsort(np.random.default_rng(seed).random((code.max() + 1, EXPERTS)), axis=1)[code, :K]


def random_sets(tokens: int, rng: np.random.Generator) -> np.ndarray:
    return np.argsort(rng.random((tokens, EXPERTS)), axis=1)[:, :K]


def run_of(kind: str) -> dict[str, dict[str, Case]]:
    """Four checkpoints of a training run: the cases of both datasets by checkpoint."""
    rng = np.random.default_rng(7)
    made = {name: {} for name in STEPS}
    for name, lengths in LENGTHS.items():
        ids, previous = tokens_of(lengths, rng)
        tokens = len(ids)
        nothing, other = random_sets(tokens, rng), random_sets(tokens, rng)
        by_id, by_pair = sets_of(ids, 0), sets_of(ids * (TYPES + 1) + previous, 1)
        turn = rng.random((tokens, 1))
        at = {
            "id": [nothing, by_id, by_id, by_id],
            "own": [nothing, other, other, other],
            "nothing": [nothing, *(random_sets(tokens, rng) for _ in range(3))],
            "slowly": [nothing, *(np.where(turn < part, other, nothing) for part in (0.25, 0.75, 1))],
            "context": [nothing, by_id, np.where(turn < 0.5, by_id, by_pair), by_pair],
            "renamed": [(other + 5) % EXPERTS, (other + 5) % EXPERTS, other, other],
            "collapsed": [np.tile([0, 1], (tokens, 1)), other, other, other],
        }[kind]
        for checkpoint, selected in zip(STEPS, at, strict=True):
            made[checkpoint][name] = case({1: records(logits_for(selected, EXPERTS), K)}, lengths, ids)
    return made


def measured(run: dict[str, dict[str, Case]], folder, place: np.ndarray | None = None, **options) -> xr.Dataset:
    """What is found in a run, whose token files go to a folder; all tokens count, or those of `place`."""
    paths = []
    for name, made in next(iter(run.values())).items():
        attrs = {"dataset": name, "dataset_sha256": f"files of {name}"}
        paths.append(str(folder / f"{name}.nc"))
        netcdf.save(made.tokens.assign_attrs(attrs), folder / f"{name}.nc")
    study = routed.read_tokens(paths)
    place = np.arange(study.sizes["token"]) if place is None else place
    selected = [np.concatenate([made.layers[1]["selected_expert"] for made in each.values()]) for each in run.values()]
    experts = next(iter(next(iter(run.values())).values())).layers[1].sizes["expert"]
    layers = [[routed.Layer(1, experts, each[place]) for each in selected]]
    options = OPTIONS | {"texts": lambda ids: [f"w{each}" for each in ids]} | options
    return evolution.measure(study, place, list(run), layers, **options)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The metrics of every planted run."""
    kinds = ("id", "own", "nothing", "slowly", "context", "renamed", "collapsed")
    return {kind: measured(run_of(kind), tmp_path_factory.mktemp(kind)) for kind in kinds}


def values(metrics: xr.Dataset, name: str, **where) -> np.ndarray:
    """Estimates of all datasets in layer 1, by checkpoint where nothing else is said."""
    array = metrics[name].sel(layer=1, **where)
    array = array.sel(dataset="pooled") if "dataset" in array.dims else array
    return array.sel(interval="estimate").values if "interval" in array.dims else array.values


# ---------------------------------------------------------------- saturation


def test_saturation_by_hand(tmp_path):
    sets = {
        "step0": [[0, 1], [2, 3], [0, 1], [4, 5]],
        "step1": [[1, 2], [3, 2], [4, 5], [4, 0]],
    }
    run = {
        name: {"x": case({1: records(logits_for(np.array(selected), 6), 2)}, [1, 1, 1, 1], np.arange(4))}
        for name, selected in sets.items()
    }
    metrics = measured(run, tmp_path)
    assert values(metrics, "saturation", against=LAST).tolist() == [(1 + 2 + 0 + 1) / 8, 1]
    assert values(metrics, "first_saturation", against=LAST).tolist() == [1 / 4, 1]
    of_first, of_last = np.array([2, 2, 1, 1, 1, 1]) / 4, np.array([1, 1, 2, 1, 2, 1]) / 4
    chance = (of_first * of_last).sum() / 2
    assert values(metrics, "null_saturation", against=LAST)[0] == pytest.approx(chance)
    corrected = values(metrics, "corrected_saturation", against=LAST)
    assert corrected == pytest.approx([(0.5 - chance) / (1 - chance), 1])
    previous = values(metrics, "saturation", against=PREVIOUS)
    assert np.isnan(previous[0]) and previous[1] == 0.5
    assert np.isnan(metrics["settled"]).all()  # between two checkpoints a line is all that is known
    # First choices are 0, 2, 0, 4 and 1, 3, 4, 4: shares 2/4, 1/4, 1/4 against 1/4, 1/4, 2/4 of 1, 3, 4.
    assert values(metrics, "null_first_saturation", against=LAST)[0] == pytest.approx(1 / 4 * 2 / 4)


def test_common_experts_are_counted_as_sets():
    rng = np.random.default_rng(0)
    one, other = (np.argsort(rng.random((50, 9)), axis=1)[:, :4].astype(np.uint8) for _ in range(2))
    wanted = [len({*a} & {*b}) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert evolution.in_common(one, other).tolist() == wanted


@pytest.mark.slow
def test_routing_that_has_nothing_in_common_is_not_saturated(found):
    metrics = found["nothing"].sel(checkpoint=list(STEPS[:-1]))
    array = metrics["corrected_saturation"].sel(against=LAST, layer=1)
    assert (np.abs(array.sel(interval="estimate")) < 0.12).all()
    pooled = array.sel(dataset="pooled")
    assert (pooled.sel(interval="low") < 0.03).all() and (pooled.sel(interval="high") > -0.03).all()
    assert values(metrics, "saturation", against=LAST) == pytest.approx(K / EXPERTS, abs=0.03)


def test_what_stays_is_saturated_and_the_previous_checkpoint_is_the_one_before(found):
    for kind in ("id", "own"):
        corrected = values(found[kind], "corrected_saturation", against=LAST)
        assert corrected[1:] == pytest.approx(1) and abs(corrected[0]) < 0.06
        previous = values(found[kind], "corrected_saturation", against=PREVIOUS)
        assert np.isnan(previous[0]) and abs(previous[1]) < 0.06 and previous[2:] == pytest.approx(1)


def test_datasets_weigh_the_same(found):
    for name in ("saturation", "by_token_id", "null_saturation"):
        array = found["slowly"][name].sel(layer=1)
        array = array.sel(interval="estimate") if "interval" in array.dims else array
        np.testing.assert_allclose(array.sel(dataset="pooled"), array.sel(dataset=list(LENGTHS)).mean("dataset"))


def test_half_is_settled_where_the_line_between_checkpoints_crosses(found):
    # A quarter of the tokens at step 10, three quarters at step 20: half at step 15 of 40.
    assert values(found["slowly"], "settled") == pytest.approx(15 / 40, abs=0.02)
    assert values(found["own"], "settled") == pytest.approx(5 / 40, abs=0.01)


def test_a_crossing_by_hand():
    at = np.array([0.0, 1.0, 3.0])
    table = np.array([[0.0, 0.6, 0.2, np.nan, 0.1], [0.4, 0.1, 0.3, 0.5, 0.5], [0.8, 1.0, 0.4, 1.0, 0.0]])
    np.testing.assert_allclose(evolution.crossing(table, at, 0.5), [1.5, 0, np.nan, np.nan, 1])


def test_steps_are_read_from_names():
    assert evolution.steps(["step5000-tokens20B", "step120000-tokens503B"]).tolist() == [5000, 120000]
    assert evolution.steps(["a_step-3", "a_step_7"]).tolist() == [3, 7]
    assert evolution.steps(["early", "step3"]) is None
    assert evolution.steps(["step7", "step3"]) is None


@pytest.mark.slow
def test_checkpoints_without_steps_have_no_time(tmp_path):
    run = run_of("own")
    metrics = measured({name: run[step] for name, step in zip(("a", "b", "c"), STEPS, strict=False)}, tmp_path)
    assert np.isnan(metrics["settled"]).all() and np.isnan(metrics["step"]).all()
    said = page.findings(seen(metrics))
    assert "At b" in " ".join(one.answer for one in said) and not any("early in training?" in o.question for o in said)
    assert all(figure.drawing.axes for figure in page.figures(seen(metrics)))
    assert page.brief(seen(metrics)) is None


# ---------------------------------------------------------------- by token id


def test_ids_that_decide_leave_nothing_beyond_themselves_and_tokens_that_decide_all(found):
    by_id, own = found["id"], found["own"]
    assert values(by_id, "by_token_id")[1:] == pytest.approx(1)
    assert values(by_id, "beyond_token_id")[1:] == pytest.approx(0)
    assert values(own, "by_token_id")[1:] == pytest.approx(K / EXPERTS, abs=0.03)
    assert values(own, "beyond_token_id")[1:] == pytest.approx(1 - K / EXPERTS, abs=0.03)


def test_by_token_id_is_the_mean_over_other_tokens_of_the_id(tmp_path):
    run = run_of("context")
    poems = {step: {"poems": run[step]["poems"]} for step in STEPS}
    metrics = measured(poems, tmp_path)
    made = run["step20"]["poems"]
    group, ids = made.group, made.token_id
    one, last = (run[step]["poems"].layers[1]["selected_expert"].values for step in ("step20", "step40"))
    held, other = (np.eye(EXPERTS)[selected].sum(axis=1) for selected in (one, last))
    shared = held @ other.T / K
    alike = (ids[:, None] == ids) & (group[:, None] != group)
    wanted = (shared * alike).sum(axis=1) / alike.sum(axis=1)
    assert values(metrics, "by_token_id")[2] == pytest.approx(wanted.mean())


def test_the_share_of_the_token_id_and_what_the_token_before_adds(found):
    metrics = found["context"]
    assert values(metrics, "token_share")[1] == pytest.approx(1) and values(metrics, "context_added")[1] < 0.02
    last = values(metrics, "token_share")[3] + values(metrics, "context_added")[3]
    assert last == pytest.approx(1) and values(metrics, "context_added")[3] > 0.5
    assert abs(values(metrics, "token_share")[0]) < 0.05


def test_the_lead_is_the_difference_of_what_is_gained(found):
    metrics = found["context"]
    token, context = values(metrics, "token_share"), values(metrics, "context_added")
    part = [(each - each[0]) / (each[-1] - each[0]) for each in (token, context)]
    np.testing.assert_allclose(values(metrics, "token_lead"), part[0] - part[1])
    assert values(metrics, "token_lead")[1] > 0.9 and values(metrics, "token_lead")[[0, 3]].tolist() == [0, 0]


def test_frequent_and_rare_ids(tmp_path):
    """Ids that occur once are settled, the frequent one is not."""
    rng, tokens = np.random.default_rng(3), 240
    ids = np.where(np.arange(tokens) % 2, 0, np.arange(tokens) + 1)
    last, nothing = random_sets(tokens, rng), random_sets(tokens, rng)
    early = np.where((ids > 0)[:, None], last, nothing)
    run = {
        name: {"x": case({1: records(logits_for(selected, EXPERTS), K)}, [10] * 24, ids)}
        for name, selected in (("step0", early), ("step1", last))
    }
    metrics = measured(run, tmp_path)
    assert metrics["frequency_tokens"].values.tolist() == [120, 0, 120, 0]
    found = values(metrics, "frequency_saturation", checkpoint="step0")
    assert found[0] == pytest.approx(1) and abs(found[2]) < 0.15 and np.isnan(found[[1, 3]]).all()


# ---------------------------------------------------------------- matching


def test_renamed_experts_are_matched(found):
    metrics = found["renamed"]
    assert values(metrics, "saturation", against=LAST)[0] < 0.3
    assert values(metrics, "matched_saturation") == pytest.approx(1)
    assert values(metrics, "kept_numbers").tolist() == [0, 0, 1, 1]
    gain = values(metrics, "matching_gain")
    assert gain[0] > 0.7 and gain[2:] == pytest.approx(0)
    weight = metrics["saturation"].sel(against=LAST, dataset="pooled", layer=1, interval="estimate").values
    assert values(metrics, "matched_saturation") - gain == pytest.approx(weight)


def test_matching_gains_nothing_where_there_is_nothing_to_match(found):
    metrics = found["nothing"]
    gain, chance = values(metrics, "matching_gain")[:3], values(metrics, "null_matching_gain")[:3]
    assert (np.abs(gain) < 0.05).all() and (np.abs(chance) < 0.05).all()


def test_pairs_are_counted_by_group():
    rng = np.random.default_rng(1)
    one, other = (random_sets(80, rng) for _ in range(2))
    group, weight = rng.integers(0, GROUPS, 80), rng.random(80)
    found = matching.pair_counts(one, other, group, weight, EXPERTS)
    wanted = np.zeros_like(found)
    for token in range(80):
        for i in one[token]:
            for j in other[token]:
                wanted[group[token], i, j] += weight[token]
    np.testing.assert_allclose(found, wanted)


def test_matching_does_not_depend_on_the_numbers_of_experts():
    rng = np.random.default_rng(2)
    one = random_sets(400, rng)
    other = np.where(rng.random((400, 1)) < 0.6, one, random_sets(400, rng))
    group, weight, new = rng.integers(0, GROUPS, 400), np.ones(400), rng.permutation(EXPERTS)
    plain = matching.matching(one, other, group, weight, EXPERTS)
    renamed = matching.matching(new[one], other, group, weight, EXPERTS)
    np.testing.assert_allclose(plain.matched, renamed.matched)
    assert plain.kept[0] == 1 and renamed.kept[0] == (new == np.arange(EXPERTS)).mean()


def test_a_single_group_cannot_be_matched():
    rng = np.random.default_rng(2)
    found = matching.matching(random_sets(9, rng), random_sets(9, rng), np.zeros(9, int), np.ones(9), EXPERTS)
    assert np.isnan(found.matched).all() and np.isnan(found.kept).all()


# ---------------------------------------------------------------- loads


def test_loads_are_those_of_the_chapters_on_loads_and_domains(found):
    tallies = {
        name: made.tally().assign_attrs(dataset=name, dataset_sha256=f"files of {name}")
        for name, made in run_of("slowly")["step20"].items()
    }
    options = {"resamples": 100, "seed": 1, "confidence": 0.95}
    loads = selection_frequency.measure(tallies, **options, capacity_factors=[1.0], batch_tokens=256).metrics
    options |= {"permutations": 100, "permutation_seed": 1, "false_discovery_rate": 0.05}
    domains = domain_specialization.measure(tallies, **options).metrics
    here = found["slowly"].sel(checkpoint="step20")
    for name, wanted in (("coefficient_of_variation", loads), ("max_violation", loads), ("information", domains)):
        mine = here[name].transpose("dataset", "layer", "interval")
        np.testing.assert_allclose(mine, wanted[name].transpose(*mine.dims), rtol=1e-6, atol=1e-9)
    count = sum(tally["selected_count"].sum("document") for tally in tallies.values())
    np.testing.assert_allclose(here["load"].sel(dataset="pooled"), count / count.sum("expert"))


def test_experts_that_are_never_selected_and_information_that_is_gained(found):
    metrics = found["collapsed"]
    assert values(metrics, "never_selected").tolist() == [10 / 12, 0, 0, 0]
    assert values(metrics, "coefficient_of_variation")[0] == pytest.approx(np.sqrt(5), abs=1e-6)
    gained = metrics["information_gained"]
    assert (gained.sel(checkpoint="step0") == 0).all()
    apart = metrics["information"] - metrics["information"].sel(checkpoint="step0", drop=True)
    estimate = {"interval": "estimate"}
    np.testing.assert_allclose(gained.sel(estimate), apart.sel(estimate).transpose(*gained.sel(estimate).dims))


# ---------------------------------------------------------------- first choices


def test_first_choices_of_the_most_frequent_ids(found):
    metrics = found["id"]
    assert metrics["first_choices"].sizes["token_id"] == 2
    assert metrics["token_text"].values.tolist() == [f"w{each}" for each in metrics["token_id"].values]
    share = metrics["first_choices"].sel(layer=1)
    np.testing.assert_allclose(share.sum("expert"), 1)
    assert (share.sel(checkpoint="step40").max("expert") == 1).all()


def test_ids_with_letters_come_first():
    text = xr.Dataset(
        {"token_id": ("token", [7, 7, 7, 5, 5, 9, 3]), "dataset": ("token", [0, 0, 0, 0, 1, 1, 0])},
    )
    words = {7: r"\n", 5: " the", 9: "x1", 3: "  "}
    chosen = evolution.frequent_ids(text, 2, 3, lambda ids: [words[each] for each in ids])
    assert chosen.tolist() == [5, 9, 7]  # shares 7: 3/5, 5: 1/5 + 1/2, 9: 1/2, 3: 1/5


# ---------------------------------------------------------------- which tokens


def test_only_the_tokens_that_count_are_measured(tmp_path):
    run = run_of("slowly")
    cut = {step: {name: made.take(np.arange(12)) for name, made in study.items()} for step, study in run.items()}
    place = np.concatenate([np.arange(360), 720 + np.arange(240)])
    part, alone = measured(run, tmp_path / "part", place), measured(cut, tmp_path / "cut")
    for metrics in (part, alone):
        assert metrics["tokens"].values.tolist() == [600, 360, 240]
        assert metrics["clusters"].values.tolist() == [24, 12, 12]
    xr.testing.assert_allclose(part["load"], alone["load"])
    one, other = (metrics["saturation"].sel(interval="estimate") for metrics in (part, alone))
    xr.testing.assert_allclose(one, other)


# ---------------------------------------------------------------- the page


def findings(metrics: xr.Dataset, **attrs) -> dict[str, object]:
    said = page.findings(seen(metrics.assign_attrs(attrs)))
    words = {"settled early": "settled", "first and": "lead", "beyond": "beyond", "numbers": "matching"}
    words |= {"uneven": "uneven", "kind of": "information"}
    return {key: one for one in said for word, key in words.items() if word in one.question}


@pytest.mark.slow
def test_the_answers_to_planted_training(found):
    assert findings(found["own"])["settled"].verdict == "yes"
    assert findings(found["own"])["beyond"].verdict == "yes"
    assert findings(found["id"])["beyond"].verdict == "unclear"
    assert findings(found["context"])["lead"].verdict == "yes"
    assert findings(found["renamed"])["matching"].verdict == "yes"
    assert findings(found["renamed"])["matching"].effect == "large"
    assert findings(found["own"])["matching"].verdict == "unclear"
    assert findings(found["collapsed"])["uneven"].verdict == "yes"
    assert "step 0" in findings(found["collapsed"])["uneven"].answer
    assert "got 6.000 even shares" in findings(found["collapsed"])["uneven"].answer


def test_answers_are_about_the_first_checkpoint_after_an_eighth_of_training(found):
    assert "step 10" in findings(found["context"])["lead"].answer
    shown = page_cases.seen("evolution", found["context"], early=0.3)
    assert "step 20" in page._finding_lead(shown, page._early(shown)).answer
    late = page_cases.seen("evolution", found["context"], early=0.9)
    assert page._early(late) is None


def test_the_untrained_checkpoint_is_the_reference_where_it_is_one_of_them(found):
    said = findings(found["own"], untrained="step0")["beyond"]
    assert said.reference_value == pytest.approx(
        float(found["own"]["mean_over_layers_beyond_token_id"].sel(checkpoint="step0", dataset="pooled")[0])
    )
    assert findings(found["own"], untrained="")["beyond"].reference_value is None


def test_bars_are_the_parts_of_saturation(found):
    figures = {figure.name: figure for figure in page.figures(seen(found["own"]))}
    ends = {}
    for patch in figures["parts_by_step"].drawing.axes[0].patches:
        row = round(patch.get_y() + 0.35)
        ends[row] = max(ends.get(row, 0), patch.get_x() + patch.get_width())
    wanted = values(found["own"], "saturation", against=LAST)
    assert [ends[row] for row in range(4)] == pytest.approx(wanted, abs=0.01)


def test_the_brief_says_what_came_first_where_that_is_known(found):
    said = page.brief(seen(found["context"]))
    assert "token id first" in said.text and "step 10" in said.example
    assert page.brief(seen(found["own"])).example == ""


@pytest.mark.slow
def test_intervals_hold_the_truth_of_clusters_that_differ():
    """Every source is settled to a degree of its own; the truth is the mean of their degrees."""
    rng, inside = np.random.default_rng(5), []
    for _ in range(150):
        tokens = np.ceil(rng.lognormal(3.5, 0.5, 60)).astype(int)
        owner = np.repeat(np.arange(60), tokens)
        stays = rng.random(len(owner)) < rng.beta(2, 2, 60)[owner]
        last, nothing = random_sets(len(owner), rng), random_sets(len(owner), rng)
        early = np.where(stays[:, None], last, nothing)
        group, none = owner % GROUPS, np.zeros(len(owner), int)
        shares = [evolution._shares(none, 1, group, each, EXPERTS) for each in (early, last)]
        known = evolution._Tokens(group, none, none, none, 1, None, {})
        corrected = evolution._saturation(known, [early, last], shares, 0, 1)[2]
        low, high = jackknife(xr.DataArray(corrected[:, 0], dims="draw")).values[1:]
        inside.append(low <= 0.5 <= high)
    assert np.mean(inside) >= 0.9


def test_the_ceiling_is_drawn_where_reach_has_measured_it(found):
    layer = found["id"].sel(against=LAST).isel(layer=0)
    assert [line.label for line in page._limits(layer)] == ["by loads alone, all experts"]
    ceiling = xr.DataArray([0.9, 0.8, 1.0], {"interval": ["estimate", "low", "high"]}, "interval")
    *_, line = page._limits(layer.assign(ceiling=ceiling))
    assert (line.label, line.value) == ("corrected, in another precision", 0.9)
