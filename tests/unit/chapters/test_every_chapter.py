"""The contract: what holds for every chapter that there is, found on disk.

The measures of all chapters are those of four made-up studies (`study_cases`), made by the chapters' own rules and
scripts.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import inf, isfinite
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import study_cases
import xarray as xr
import yaml
from filelock import FileLock
from study_cases import CHAPTERS, CHECKPOINTS, STUDIES, metrics_file

from gatebook import chapters
from gatebook.capabilities import CAPABILITIES
from gatebook.chapters.base.contract import Chapter
from gatebook.chapters.base.page import Figure, Finding, Seen
from gatebook.files import netcdf
from gatebook.inputs import catalogues
from gatebook.lists import ROOT
from gatebook.measures import summary
from gatebook.measures.uncertainty import INTERVAL
from gatebook.problem import Problem
from gatebook.run import configuration

HEAVY = ("torch", "transformers", "xarray", "pandas", "scipy", "matplotlib")
KINDS = {
    (0, 1): "a share, a probability, or what is divided by its largest value",
    (-1, 1): "a correlation, a cosine, or the difference of two shares",
    (0, inf): "a size, a distance or a spread",
    (1, inf): "a number of equally likely choices",
    (-inf, 1): "a share of a variance, which a sample can make negative",
    (-inf, inf): "a difference",
}
"""All bounds that measures have."""
NEAR = 0.15
"""A bound is reached by a value that is so much of the whole range away from it: an even share of 8 experts is."""
FARTHEST = {
    "loss unigram_loss lens_loss translated_loss": (0, None, "of a model that is certain and right"),
    "lens_agreement translated_agreement": (0, 1, "of a model that changes all its choices in its last layer, or none"),
    "direction_agreement": (0, 1, "of experts that write what they can, or nothing of it"),
    "half_depth translated_half_depth": (0, None, "of a model whose embedding alone knows half"),
    "share_above share_below": (None, 1, "of many tokens and pairs that all meet more, or less, than loads explain"),
    "majority_accuracy": (None, 1, "of tokens that all choose one expert"),
    "next_entropy": (0, None, "of a layer in which all tokens choose one expert"),
    "seen_mass": (0, None, "of tokens that all take paths of their own"),
    "divergence": (None, 1, "of one of many domains that share no expert"),
    "excess_repetition": (-1, 1, "of texts whose like tokens are apart, or together"),
    "separation": (-1, 1, "of labels that outputs mix and inputs do not, or the other way round"),
    "explained_variance": (0, None, "of points in many equal directions"),
    "trustworthiness": (0, None, "of a map whose neighbours are the farthest points of the space"),
    "top_1_share": (0, None, "1 / k, of even weights"),
    "micro macro macro_often expert_specialization": (0, None, "1 / E, of tokens sent to all experts alike"),
    "output_cosine mean_removed_cosine co_routed_cosine": (-1, 1, "of an expert and its negative, or its copy"),
    "weight_cosine matched_weight_cosine router_cosine gained_router_cosine": (-1, 1, "the same"),
    "cka": (-1, 1, "by the Cauchy-Schwarz inequality, of products without diagonal"),
    "biased_cka weight_gram": (0, 1, "of positive semidefinite matrices: orthogonal, or proportional"),
    "subspace_overlap": (0, 1, "orthogonal, or the same"),
    "read_overlap write_overlap next_overlap": (0, 1, "orthogonal, or one within the other"),
    "effective_rank participation_ratio": (1, None, "of a matrix of rank 1"),
    "router_alignment": (0, 1, "of rows to which an expert responds least, or most"),
    "router_space_overlap": (0, None, "orthogonal"),
    "settled": (0, 1, "of routing that is that of the last checkpoint at once, or only at last"),
    "reach.recovered recovered_after_unrelated ceiling": (None, 1, "of a model that does what is recorded"),
    "use_correlation prediction": (-1, 1, "of opposite, or equal, orders of experts"),
    "accuracy": (0, 1, "of a model that is always wrong, or right"),
    "letter_accuracy": (0, 1, "of right answers that never, or always, stand where most do in calibration items"),
    "longest_accuracy": (0, 1, "of right answers that never, or always, are the longest"),
    "own_accuracy_change control_accuracy_change": (-1, 1, "of a model that goes from right to wrong, or back"),
    "own_weight control_weight": (0, None, "of slots without weight"),
    "matched_share removed_mass": (0, 1, "of slots without a partner, or a layer without other experts"),
    "right_then": (0, 1, "of a model that never, or always, does a task"),
    "distance smallest_size random_edge_effect": (0, None, "of a model whose embedding alone answers"),
    "pearson spearman": (-1, 1, "of opposite, or equal, orders of edges"),
    "first_loss repeated_loss shuffled_loss new_loss": (0, None, "of a model that is certain and right"),
    "head_score head_score_null strongest_score role_attention": (0, 1, "of a head that never looks there, or always"),
    "head_score_beyond strongest_beyond mover_attention": (-1, 1, "of one that looks there, or to the other place"),
    "same_meaning other_meaning": (0, 1, "of meanings that share no expert, or all of them"),
    "meaning_share meaning_share_any_previous capability_share": (None, 1, "of tokens whose meaning alone decides"),
    "label_accuracy lookup_accuracy pair_accuracy": (0, None, "of labels that tell the opposite on the other half"),
    "named_accuracy": (0, 1, "of labels that tell the opposite, or all"),
    "lookup_gap pair_gain named_gain": (-1, 1, "of a guess that is always right, and one that never is"),
    "layer_tells path_tells": (None, 1, "of meanings that have experts of their own"),
    "lift_correlation overlap_correlation": (-1, 1, "of opposite, or equal, orders of pairs"),
    "right flips": (0, None, "of a model that is always wrong"),
    "sets_differ": (0, None, "of prompts that are routed alike"),
    "activation_patching.agreement rank_agreement": (
        -1,
        None,
        "of attribution that has everything the wrong way round",
    ),
    "next_layer_gained next_token_gained": (-1, None, "of guesses that miss what a fixed set hits"),
    "moved random_moved": (None, 1, "of vectors that change every choice"),
    "found_factors found_elsewhere": (0, 1, "of a fit that depends on its start alone, or not at all"),
    "found_variance variance component_variance": (None, 1, "of states that are sums of the directions"),
    "active": (0, None, "of states without any part"),
    "factors.explained": (None, 1, "of factors that the class alone decides"),
    "expert_correlation": (-1, 1, "of a factor that its expert shuns, or that alone decides who selects it"),
    "top_overlap": (0, None, "of lists that share nothing"),
}
"""The ends of the ranges that no made-up study reaches: infimum, supremum, and of what they are one."""
ROUNDING = 1e-6
BEYOND = {"ge": -1, "gt": 0, "le": 1, "lt": 0}
"""What a value is beyond each kind of limit, when it is added to it."""
STUDY = "ordinary"
"""The study on which `make check` and `make test` try the chapters; `make test-long` tries them on the others."""
ALONE = ("collapsed", "whole")
"""The studies whose pages are made without the untrained model."""
CONFIG = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
SCHEMA = yaml.safe_load((ROOT / "config" / "schemas" / "config.schema.yaml").read_text(encoding="utf-8"))
OF_A_CHECKPOINT = [name for name, chapter in CHAPTERS.items() if chapter.scope == "checkpoint"]
KEYS = [
    (name, part, key)
    for name, chapter in CHAPTERS.items()
    for part in ("settings", "thresholds")
    for key in getattr(chapter, part).model_fields
]

every_chapter = pytest.mark.parametrize("name", CHAPTERS)
every_key = pytest.mark.parametrize(("name", "part", "key"), KEYS)
of_a_checkpoint = pytest.mark.parametrize("name", OF_A_CHECKPOINT)
with_measures = pytest.mark.parametrize("name", [name for name in CHAPTERS if CHAPTERS[name].scope != "runs"])


# ---------------------------------------------------------------- the declaration


@every_chapter
def test_chapters_that_it_reads_are_there(name):
    assert {*CHAPTERS[name].chapters, *CHAPTERS[name].beside} <= CHAPTERS.keys() - {name}


@every_chapter
def test_its_parts_have_its_name(name):
    folder = f"scripts/gatebook/chapters/{name}"
    parts = [f"{folder}/{part}.py" for part in ("__init__", "measure", "page")]
    parts += [f"rules/{name}.smk", f"scripts/measure_{name}.py", f"tests/unit/chapters/test_{name}.py"]
    assert [part for part in parts if not (ROOT / part).is_file()] == []
    assert re.findall(r"^rule (\w+):", (ROOT / f"rules/{name}.smk").read_text(), re.MULTILINE) == [f"measure_{name}"]


def test_every_script_that_measures_is_that_of_a_chapter():
    assert sorted(path.stem for path in (ROOT / "scripts").glob("measure_*.py")) == [f"measure_{n}" for n in CHAPTERS]


@every_chapter
def test_to_declare_it_loads_nothing_heavy(name):
    code = f"import sys; from gatebook import chapters; chapters.declared({name!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(HEAVY).isdisjoint(done.stdout.split())


@every_chapter
def test_its_words_are_complete(name):
    chapter = CHAPTERS[name]
    assert chapter.title and chapter.question.endswith("?") and chapter.introduction and chapter.source[0]
    for text in (chapter.question, *chapter.introduction, chapter.null):
        assert text == text.strip() and (not text or text[-1] in ".?")
    assert chapter.measures
    for measure in chapter.measures.values():
        assert all((measure.title, measure.units, measure.formula)) and measure.meaning.endswith(".")
    assert len({measure.title for measure in chapter.measures.values()}) == len(chapter.measures)


@every_chapter
def test_what_it_needs_exists(name):
    chapter = CHAPTERS[name]
    assert set(chapter.needs) <= set(CAPABILITIES)
    assert set(chapter.chapters) <= set(CHAPTERS) - {name}
    for field in ("interval", "reads", "scope"):
        assert getattr(chapter, field) in get_args(Chapter.__annotations__[field]), field


def test_titles_and_parts_of_the_expert_page_are_of_one_chapter_each():
    schema = json.loads((ROOT / "report/schemas/expert_profile.schema.json").read_text(encoding="utf-8"))
    parts = [part for chapter in CHAPTERS.values() for part in chapter.expert_page]
    assert len(parts) == len(set(parts)) and set(parts) <= set(schema["properties"])
    assert len({chapter.title for chapter in CHAPTERS.values()}) == len(CHAPTERS)


# ---------------------------------------------------------------- settings and thresholds


def checked(name: str, section: dict) -> dict:
    """The section of a chapter in the config, checked."""
    schema = catalogues.with_sources(configuration.with_chapters(SCHEMA, CHAPTERS))
    return configuration.check(CONFIG | {name: section}, schema)[name]


def defaults(name: str) -> dict:
    """The section of a chapter that says nothing."""
    chapter = CHAPTERS[name]
    found = {key: field.default for key, field in chapter.settings.model_fields.items()}
    fixed = {key: field.default for key, field in chapter.thresholds.model_fields.items()}
    return found | ({"thresholds": fixed} if fixed else {})


@pytest.mark.parametrize("name", dict.fromkeys(name for name, *_ in KEYS))
def test_its_section_may_be_left_out_and_may_be_written_out(name):
    for section in ({}, defaults(name)):
        assert checked(name, section) == defaults(name)
    parts = {"": {}, "thresholds": {"thresholds": {}}}
    for inside, section in list(parts.items())[: 1 + ("thresholds" in defaults(name))]:
        wrong = {"xyzzy": 1} if not inside else {"thresholds": {"xyzzy": 1}}
        with pytest.raises(
            Problem, match=f"config: {name}{f'.{inside}' if inside else ''}: the key 'xyzzy' is unknown"
        ):
            checked(name, section | wrong)


@every_key
def test_a_key_has_a_meaning_and_its_default_is_within_its_bounds(name, part, key):
    declared = getattr(CHAPTERS[name], part)
    field = declared.model_fields[key]
    assert field.description and not field.is_required()
    assert declared.model_validate({key: field.default}) == declared()


@every_key
def test_a_value_out_of_bounds_is_refused_in_one_sentence(name, part, key):
    field = getattr(CHAPTERS[name], part).model_fields[key]
    bounds = [(word, getattr(bound, word)) for bound in field.metadata for word in BEYOND if hasattr(bound, word)]
    for value in ({"a": 1}, *(limit + BEYOND[word] for word, limit in bounds)):
        section = {key: value} if part == "settings" else {"thresholds": {key: value}}
        with pytest.raises(Problem) as raised:
            checked(name, section)
        place = f"{name}.{key}" if part == "settings" else f"{name}.thresholds.{key}"
        sentence = str(raised.value)
        start = f"config: {place}: {value!r} is not "
        assert sentence.startswith((f"{start}allowed: write ", f"{start}known: use one of "))
        assert sentence.endswith(".") and "\n" not in sentence


# ---------------------------------------------------------------- measures of made-up studies


@pytest.fixture(scope="session")
def finished(shared_folder, model_folder, restoring) -> Callable[[str], Path]:
    """The folder of a study with the measures of all chapters, made by the first process that needs it."""

    def made(name: str) -> Path:
        folder = shared_folder / "studies" / name
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / "done").exists():
                study_cases.write(folder, STUDIES[name](), model_folder)
                with restoring():
                    study_cases.run_jobs(folder)
                (folder / "done").touch()
        return folder

    return made


@pytest.fixture(
    scope="session",
    params=[STUDY, *(pytest.param(name, marks=pytest.mark.long) for name in STUDIES if name != STUDY)],
)
def study(request, finished) -> Path:
    """The folder of each finished study."""
    return finished(request.param)


@cache
def loaded(path: Path) -> xr.Dataset:
    """A file of a finished study, read once."""
    return netcdf.load(path)


def metrics_of(study, name: str) -> list[xr.Dataset]:
    """The metrics of a chapter in a study, those of the studied checkpoint last."""
    skip_if_left_out(study, name)
    known = CHECKPOINTS if CHAPTERS[name].scope == "checkpoint" else CHECKPOINTS[-1:]
    return [loaded(metrics_file(study, name, checkpoint)) for checkpoint in known]


def is_left_out(study, name: str) -> bool:
    """Whether a study has not what a chapter needs; the study of `make check` has it all."""
    return study.name != STUDY and not metrics_file(study, name).exists()


def skip_if_left_out(study, name: str) -> None:
    """Nothing is to be seen of a chapter that a study has not."""
    if is_left_out(study, name):
        pytest.skip(f"the study {study.name} lacks what {name} needs")


def draws_of(study, name: str, checkpoint: str = CHECKPOINTS[-1]) -> xr.Dataset:
    """The draws of a chapter's measures."""
    return loaded(metrics_file(study, name, checkpoint, "draws"))


@with_measures
def test_every_measure_is_in_the_metrics_as_declared(study, name):
    for metrics in metrics_of(study, name):
        for measure, declared in CHAPTERS[name].measures.items():
            found = metrics[measure]
            attributes = {"long_name": declared.title, "units": declared.units, "formula": declared.formula}
            assert found.attrs.items() >= attributes.items(), measure
            if "interval" not in found.dims:
                continue
            assert found["interval"].values.tolist() == list(INTERVAL)
            assert {"dataset", "layer", "intervention", "pair", "task"} & set(found.dims) and not any(
                "draw" in str(dim) for dim in found.dims
            )
            mean = f"mean_over_layers_{measure}"
            of_layers = "layer" in found.dims and not {"expert", "head"} & set(found.dims)  # each layer has its own
            assert (mean in metrics) == of_layers
            if mean in metrics:
                assert set(metrics[mean].dims) == set(found.dims) - {"layer"}
                averaged = {"long_name": f"{declared.title}, mean over layers"}
                assert metrics[mean].attrs.items() >= (attributes | averaged).items()


@every_chapter
def test_every_variable_has_a_long_name_and_every_number_a_unit(study, name):
    path, bare = metrics_file(study, name), []
    skip_if_left_out(study, name)
    parts = {"": loaded(path)} | {group: netcdf.load_group(path, group) for group in ("untrained", "difference")}
    for group, metrics in parts.items():
        for each, variable in metrics.variables.items() if metrics is not None else ():
            wanted = {"long_name"} | ({"units"} if variable.dtype.kind in "iufb" else set())
            bare += [(group, each, word) for word in wanted if not variable.attrs.get(word)]
    assert bare == []


@with_measures
def test_the_table_has_means_over_layers(study, name):
    for checkpoint, metrics in zip(CHECKPOINTS[-1:], metrics_of(study, name)[-1:], strict=True):
        path = metrics_file(study, name, checkpoint, "tables").with_suffix(".csv")
        if not path.exists() or not any(str(each).startswith(summary.MEAN) for each in metrics):
            continue
        rows = pd.read_csv(path, keep_default_na=False, na_values=[""])
        means = rows[rows["measure"].str.startswith(summary.MEAN)]
        assert means["layer"].isna().all()
        for each in set(means["measure"]):
            known = metrics[each].values[np.isfinite(metrics[each].values)]
            found = means.loc[means["measure"] == each, list(INTERVAL)].to_numpy().ravel()
            np.testing.assert_allclose(np.sort(found[np.isfinite(found)]), np.sort(known), rtol=1e-5, atol=1e-12)
        assert {f"{summary.MEAN}{measure}" for measure in set(rows["measure"])} & set(metrics) <= set(means["measure"])


@with_measures
def test_estimates_and_limits_are_within_the_bounds(study, name):
    for metrics in metrics_of(study, name):
        for measure, declared in CHAPTERS[name].measures.items():
            low, high = declared.bounds
            for each in (name for name in (measure, f"mean_over_layers_{measure}") if name in metrics):
                known = metrics[each].values[np.isfinite(metrics[each].values)]
                assert ((low - ROUNDING <= known) & (known <= high + ROUNDING)).all(), each


@of_a_checkpoint
def test_the_first_draw_is_the_estimate(study, name):
    for checkpoint, metrics in zip(CHECKPOINTS, metrics_of(study, name), strict=True):
        draws = draws_of(study, name, checkpoint)
        measures = CHAPTERS[name].measures.items()
        names = {f"{mean}{measure}": declared for measure, declared in measures for mean in ("", summary.MEAN)}
        assert names.keys() & set(draws)
        for each in (each for each in names if each in draws and not names[each].bias):  # others are corrected
            estimate = metrics[each].sel(interval="estimate", drop=True)
            dim = next(dim for dim in draws[each].dims if str(dim).startswith("draw"))
            first = draws[each].isel({dim: 0}).transpose(*estimate.dims)
            np.testing.assert_allclose(first, estimate, rtol=1e-6)  # but for rounding beyond a bound


@of_a_checkpoint
def test_the_difference_from_the_untrained_model_is_that_of_the_metrics(study, name):
    before, metrics = metrics_of(study, name)
    path = metrics_file(study, name)
    xr.testing.assert_identical(netcdf.load_group(path, "untrained"), before)
    difference = netcdf.load_group(path, "difference")
    ours, theirs = draws_of(study, name), draws_of(study, name, CHECKPOINTS[0])
    paired = [each for each in CHAPTERS[name].measures if each in ours and ours[each].sizes == theirs[each].sizes]
    assert set(paired) == set(difference) & set(CHAPTERS[name].measures)
    for each in difference:
        apart = (metrics[each] - before[each]).sel(interval="estimate")
        found = difference[each].sel(interval="estimate").transpose(*apart.dims)
        np.testing.assert_allclose(found, apart, rtol=1e-12, atol=1e-12)
        assert difference[each].attrs["units"] == metrics[each].attrs["units"]
        assert (
            difference[each].attrs["long_name"]
            == f"{metrics[each].attrs['long_name']}, difference from the untrained model"
        )


@of_a_checkpoint
def test_a_checkpoint_does_not_differ_from_itself(study, name):
    chapter, draws = CHAPTERS[name], draws_of(study, name)
    found = summary.differences(draws, draws, chapter.measures, summary.METHODS[chapter.interval](0.95))
    assert set(found) >= set(draws) & set(chapter.measures)
    for each in found.values():
        assert (each.values[np.isfinite(each.values)] == 0).all()


# ---------------------------------------------------------------- bounds


@with_measures
def test_intervals_are_cut_exactly_to_the_bounds(name):
    chapter = CHAPTERS[name]
    far = xr.DataArray(
        [[0.5, 1000.0, -1000.0, 500.0, -500.0]], dims=("dataset", "draw"), coords={"dataset": ["pooled"]}
    )
    draws = xr.Dataset(dict.fromkeys(chapter.measures, far))
    found = summary.summarise(draws, chapter.measures, summary.METHODS[chapter.interval](0.95))
    for measure, declared in chapter.measures.items():
        assert declared.bounds in KINDS, measure
        for end, bound in zip(("low", "high"), declared.bounds, strict=True):
            limit = found[measure].sel(dataset="pooled", interval=end).item()
            if declared.bias:  # which moves such draws far beyond either end
                assert declared.bounds[0] <= limit <= declared.bounds[1], measure
            else:
                assert limit == bound if isfinite(bound) else abs(limit) > 1, measure


@pytest.mark.long
def test_bounds_are_reached_and_no_wider(finished):
    stated = {name: ends for names, (*ends, _) in FARTHEST.items() for name in names.split()}
    wrong = []
    for name in (name for name in CHAPTERS if CHAPTERS[name].scope != "runs"):
        studies = [made for made in map(finished, STUDIES) if not is_left_out(made, name)]
        found = [metrics for made in studies for metrics in metrics_of(made, name)]
        for measure, declared in CHAPTERS[name].measures.items():
            known = np.concatenate([metrics[measure].values.ravel() for metrics in found if measure in metrics])
            if not np.isfinite(known).any():  # what takes three layers, which no made-up study has
                continue
            ends = np.array([np.nanmin(known), np.nanmax(known)])
            low, high = (bound if isfinite(bound) else end for bound, end in zip(declared.bounds, ends, strict=True))
            reached = np.abs(ends - (low, high)) <= NEAR * (high - low)
            known_ends = stated.get(f"{name}.{measure}", stated.get(measure, (None, None)))
            for bound, near, farthest in zip(declared.bounds, reached, known_ends, strict=True):
                if bound != farthest if farthest is not None else isfinite(bound) and not near:
                    wrong.append((name, measure, bound, ends.tolist()))
    assert wrong == []


# ---------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def seen(study) -> Callable[[str], Seen]:
    """What a chapter's page is made from, with the untrained checkpoint or, in the studies `ALONE`, without it."""

    def read(name: str) -> Seen:
        skip_if_left_out(study, name)
        whole = Seen.read(metrics_file(study, name), CHAPTERS[name].thresholds().model_dump())
        return replace(whole, untrained=None, difference=None) if study.name in ALONE else whole

    return read


def shows(figure: Figure, finding: Finding, difference: xr.Dataset | None) -> bool:
    """Whether a figure's data hold what a finding says, or its lines are those of which it is the difference."""

    def is_there(value: float) -> bool:
        numbers = figure.data.select_dtypes("number").to_numpy(float, na_value=np.nan)
        return bool(np.isclose(numbers, value, rtol=1e-6, atol=ROUNDING if value == 0 else 0).any())

    mean = f"{summary.MEAN}{finding.measure}"
    if difference is not None and mean in difference and (difference[mean] == finding.estimate).any():
        named = {text.get_text() for legend in figure.drawing.legends for text in legend.get_texts()}
        drawn = "untrained" in named and mean in set(figure.data["measure"])
        if drawn or finding.estimate:  # 0 may be either
            return drawn
    return is_there(finding.estimate)


def in_words(*texts: str) -> None:
    """Texts say something, and no number in them is missing."""
    for text in texts:
        assert text == text.strip() and text, texts
        assert not re.search(r"\b(nan|NaN|inf)\b", text), text


@every_chapter
def test_its_page_comes_out_with_words_data_and_answers(seen, name):
    shown, page = seen(name), chapters.page(name)
    figures = page.figures(shown)
    named = {figure.name for figure in figures}
    assert figures and len(named) == len(figures)
    for figure in figures:
        in_words(figure.title, figure.alt, figure.caption, figure.how_to_read)
        assert len(figure.data) and figure.drawing.axes, figure.name
        for label in (label for ax in figure.drawing.axes for label in (ax.get_xlabel(), ax.get_ylabel())):
            assert not re.match(r"of |1$|.*doubling", label), label
    for finding in page.findings(shown):
        in_words(finding.question, finding.answer, finding.verdict_text, finding.unit, finding.n_unit)
        assert finding.question.endswith("?") and finding.answer.endswith("."), finding
        assert finding.verdict in {"yes", "no", "unclear"} and finding.figure in named and finding.n > 0
        if not isfinite(finding.estimate):
            assert not re.search(r"\d", finding.answer), "it says why, and gives no number"
            continue
        (figure,) = [each for each in figures if each.name == finding.figure]
        assert shows(figure, finding, shown.difference), finding
        assert finding.low - ROUNDING <= finding.estimate <= finding.high + ROUNDING, finding
        assert set(finding.effect.split(" to ")) <= {"negligible", "small", "large"}, finding
        assert finding.exceptions == "" or re.fullmatch(r"(Yet against .+ it is .+\.)+", finding.exceptions), finding
        for value in (finding.null_value, finding.reference_value):
            assert value is None or isfinite(value), finding
    brief = page.brief(shown) if hasattr(page, "brief") else None
    if brief is not None:
        in_words(brief.text, *filter(None, [brief.example]))
        assert brief.figure in named and brief.text.endswith(".") and brief.example[-1:] in ("", ".")
        assert bool(brief.experts) == (brief.layer is not None) and (brief.example or not brief.experts)
        assert (brief.text.startswith("Nothing shows that ")) <= (brief.example == "")
