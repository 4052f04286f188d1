"""Which findings survive: findings of other chapters, made anew from the selections of each run on the same tokens."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr

from gatebook.chapters import coactivation, domain_specialization, selection_frequency
from gatebook.chapters.coactivation.measure import measure as measure_coactivation
from gatebook.chapters.domain_specialization.measure import measure as measure_domain_specialization
from gatebook.chapters.selection_frequency.measure import measure as measure_selection_frequency
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import summary
from gatebook.measures.summary import MEAN, Measured
from gatebook.measures.token_sample import documents_of
from gatebook.measures.uncertainty import INTERVAL, POOLED
from gatebook.study.routed import windows


class Question(NamedTuple):
    """A finding: its words, the chapter and measure that it is about, and what the measure is held against.

    against: a threshold of the chapter, by its key; the variable of its metrics that is its null; or 0. yes: where the
    interval lies then if the answer is yes. ordered: whether it takes the order of a token's experts.
    """

    words: str
    chapter: str
    measure: str
    against: str | float
    yes: Literal["above", "below"] = "above"
    ordered: bool = False


QUESTIONS = (
    Question(
        "Is the load balanced over the experts?",
        "selection_frequency",
        "coefficient_of_variation",
        "balanced_variation",
        "below",
    ),
    Question(
        "Is the busiest expert of a layer busier than chance explains?",
        "selection_frequency",
        "max_violation",
        "null_max_violation",
    ),
    Question("Do experts specialize by domain?", "domain_specialization", "information", "null_information"),
    Question(
        "Does a domain have a favourite expert?",
        "domain_specialization",
        "largest_specialization",
        "null_largest_specialization",
    ),
    Question(
        "Do neighbouring tokens repeat their first choice beyond what the document's loads explain?",
        "domain_specialization",
        "excess_repetition",
        0.0,
        ordered=True,
    ),
    Question(
        "Do pairs of experts work together more, or less, than their loads explain?",
        "coactivation",
        "mean_absolute_log2_lift",
        "noise",
    ),
)
CHAPTERS = {
    "selection_frequency": (selection_frequency.CHAPTER, measure_selection_frequency),
    "domain_specialization": (domain_specialization.CHAPTER, measure_domain_specialization),
    "coactivation": (coactivation.CHAPTER, measure_coactivation),
}


def tally(
    study: xr.Dataset, place: np.ndarray, sets: np.ndarray, layers: list[int], experts: int
) -> dict[str, xr.Dataset]:
    """The tallies of all datasets, as far as they follow from selections; a window counts as a document.

    Parameters
    ----------
    study
        The tokens, see `routed.read_tokens`; its attributes hold the routing rule.
    place
        Those that count, (token,) int64.
    sets
        Their experts, the first choice first: (layer, token, rank) int.
    layers, experts
        Numbers of the layers, and of experts of each.

    Returns
    -------
    dict of str to xarray.Dataset
        By dataset, see `study.tallies`.
    """
    window, position = (each[place] for each in windows(study))
    follows = np.append(False, np.diff(window) == 0) & (position > 0)
    document, dataset = documents_of(study)[place], study["dataset"].values[place]
    found = {}
    for index, name in enumerate(study["name"].values.tolist()):
        mine = np.flatnonzero(dataset == index)
        numbers, first, code = np.unique(window[mine], return_index=True, return_inverse=True)
        owner = document[mine][first]
        group = study["group"].values[place][mine][first]
        counted = [_counts(each[mine].astype(np.int64), code, follows[mine], group, experts) for each in sets]
        data = {
            key: (dims, np.stack([one[key] for one in counted], axis=dims.index("layer"))) for key, dims in DIMS.items()
        }
        tokens = np.bincount(code)
        data |= {"tokens": ("document", tokens)}
        data |= {"neighbours": ("document", np.bincount(code, follows[mine], len(tokens)).astype(np.int64))}
        names = study["document_id"].values[owner].astype(str)
        found[name] = xr.Dataset(
            data,
            coords={
                "document_id": ("document", [f"{one} {two}" for one, two in zip(names, numbers, strict=True)]),
                "cluster": ("document", study["cluster"].values[owner].astype(str)),
                "row": ("document", numbers),
                "document_group": ("document", group),
                "layer": layers,
                "expert": np.arange(experts),
                "other": np.arange(experts),
                "rank": np.arange(sets.shape[-1]),
            },
            attrs={"dataset": name, "dataset_sha256": str(study["dataset_sha256"].values[index])} | study.attrs,
        )
    return found


DIMS = {
    "selected_count": ("document", "layer", "expert"),
    "first_count": ("document", "layer", "expert"),
    "repeated_first": ("document", "layer"),
    "repeated_any": ("document", "layer"),
    "pair_count": ("group", "layer", "expert", "other"),
    "adjacent_count": ("layer", "expert", "other"),
    "rank_count": ("layer", "expert", "rank"),
}


def _counts(
    sets: np.ndarray, document: np.ndarray, follows: np.ndarray, group: np.ndarray, experts: int
) -> dict[str, np.ndarray]:
    """The counts of a layer, without the dimension `layer`; sets (token, rank), `group` (document,)."""
    top_k, documents = sets.shape[1], len(group)
    chosen = np.zeros((len(sets), experts), np.float32)
    np.put_along_axis(chosen, sets, 1, axis=1)
    again = np.append(False, sets[1:, 0] == sets[:-1, 0])
    shared = np.append(False, (chosen[1:] * chosen[:-1]).any(axis=1))
    pairs = np.zeros((GROUPS, experts, experts), np.int64)
    for number in np.unique(group):
        mine = chosen[group[document] == number]
        pairs[number] = np.rint(mine.T @ mine).astype(np.int64)
    adjacent = np.zeros((experts, experts), np.int64)
    for rank in range(top_k - 1):
        np.add.at(adjacent, (sets[:, rank], sets[:, rank + 1]), 1)
    by_document = document[:, None] * experts + sets
    return {
        "selected_count": np.bincount(by_document.ravel(), minlength=documents * experts).reshape(documents, experts),
        "first_count": np.bincount(by_document[:, 0], minlength=documents * experts).reshape(documents, experts),
        "repeated_first": np.bincount(document[again & follows], minlength=documents),
        "repeated_any": np.bincount(document[shared & follows], minlength=documents),
        "pair_count": pairs,
        "adjacent_count": adjacent + adjacent.T,
        "rank_count": np.bincount((sets * top_k + np.arange(top_k)).ravel(), minlength=experts * top_k).reshape(
            -1, top_k
        ),
    }


def answers(
    tallies: dict[str, xr.Dataset], settings: Mapping[str, Mapping], fewest_clusters: int
) -> dict[str, Measured]:
    """What the chapters measure of tallies, by name; settings: the arguments of their `measure`.

    Pairs of experts are measured of all datasets as one, of which the chapter tells the same.
    """
    parts = {name: {"all": joined(tallies)} if name == "coactivation" else tallies for name in CHAPTERS}
    return {
        name: summary.of_enough(measured(parts[name], **settings[name]), fewest_clusters)
        for name, (_, measured) in CHAPTERS.items()
    }


def joined(tallies: dict[str, xr.Dataset]) -> xr.Dataset:
    """All datasets as one, as far as pairs of experts need it."""
    first = next(iter(tallies.values()))
    documents = xr.concat([tally[["tokens"]] for tally in tallies.values()], "document", join="exact")
    counts = sum(tally[["pair_count", "adjacent_count"]] for tally in tallies.values())
    return documents.merge(counts).assign_coords(rank=first["rank"])


def survive(
    of_runs: Mapping[str, Mapping[str, Measured]],
    thresholds: Mapping[str, Mapping[str, float]],
    unordered: tuple[str, ...] = (),
) -> xr.Dataset:
    """The measures of `QUESTIONS` in every run, what each is held against, and its difference from the first run.

    Parameters
    ----------
    of_runs
        The `answers` of each run, the first one first.
    thresholds
        Those of the chapters.
    unordered
        The runs of which the order of a token's experts is not known.

    Returns
    -------
    xarray.Dataset
        `finding_value`, `finding_against`, `finding_difference` (each, finding, interval), pooled means over layers;
        NaN where a run does not know. The interval of the difference, from draws of the same clusters, is paired. What
        it is held against has equal ends if it is a number. Coordinates: `each`, the runs, and `finding`, the
        questions.
    """
    rows = {name: [] for name in ("finding_value", "finding_against", "finding_difference")}
    first = next(iter(of_runs.values()))
    for run, found in of_runs.items():
        parts = []
        for question in QUESTIONS:
            unknown = question.ordered and {run, next(iter(of_runs))} & set(unordered)
            part = np.array(_answer(question, found[question.chapter], first[question.chapter], thresholds))
            parts.append(part * np.nan if unknown else part)
        for key, values in zip(rows, np.swapaxes(parts, 0, 1), strict=True):
            rows[key].append(values)
    words = {
        "finding_value": "measure that the finding is about, mean over layers",
        "finding_against": "what the measure is held against: a threshold, or its null",
        "finding_difference": "measure minus that of the first run",
    }
    dims = ("each", "finding", "interval")
    return xr.Dataset(
        {key: (dims, np.array(values), {"long_name": words[key], "units": "1"}) for key, values in rows.items()},
        coords={"each": list(of_runs), "finding": [each.words for each in QUESTIONS], "interval": list(INTERVAL)},
    )


def _answer(
    question: Question, found: Measured, first: Measured, thresholds: Mapping[str, Mapping[str, float]]
) -> list[list[float]]:
    """Measure, what it is held against, and difference from the first run, each with its interval."""
    metrics, name = found.metrics, question.measure
    value = metrics[MEAN + name].sel(dataset=POOLED).values.tolist()
    if question.against == 0:
        against = [0.0] * 3
    elif question.against in thresholds[question.chapter]:
        against = [thresholds[question.chapter][question.against]] * 3
    else:
        null = metrics[MEAN + question.against].sel(dataset=POOLED)
        against = null.values.tolist() if "interval" in null.dims else [float(null)] * 3
    chapter, _ = CHAPTERS[question.chapter]
    method = summary.METHODS[chapter.interval](metrics.attrs["confidence"])
    only = {name: chapter.measures[name]}
    apart = summary.differences(found.draws, first.draws, only, method)[MEAN + name].sel(dataset=POOLED)
    return [value, against, apart.values.tolist()]
