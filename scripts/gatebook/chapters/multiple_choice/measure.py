"""Multiple choice: from what a model says to single items to measures by subject and layer.

A mean over items is a ratio of sums over the sources of a subject's items, which are resampled whole. Pooled are all
items of all subjects.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats
import xarray as xr

from gatebook.chapters.multiple_choice import MEASURES
from gatebook.chapters.multiple_choice.asking import CHANGES, Outcome, correct, log_odds
from gatebook.chapters.multiple_choice.questions import ANSWERS, Asked, Question
from gatebook.measures import uncertainty
from gatebook.measures.summary import Bootstrap, Measured, summarise
from gatebook.measures.uncertainty import POOLED

RATIOS = {
    "matched_share": ("matched", "slots"),
    "own_weight": ("own_weight", "matched"),
    "control_weight": ("control_weight", "matched"),
    "removed_mass": ("own_weight", "mass"),
}
"""Measures that are ratios of sums over items, of what `Outcome.slots` holds."""
OF_ALL = (
    "rank_change",
    "rank_change_renormalised",
    "renormalised_change",
    "first_minus_last",
    "own_lens",
    "control_lens",
)
"""Measures of all subjects together: they are of few items of each."""


def item_values(outcome: Outcome, asked: Asked, layers: Sequence[int]) -> xr.Dataset:
    """What is averaged over items, by the names of the measures: (item, ...) float64, NaN where nothing was asked."""
    right = np.array([question.right for question in asked.test], np.int64)
    odds, hit = log_odds(outcome.scores, right), correct(outcome.scores, right)
    found: dict[str, tuple] = {"log_odds": (("item",), odds), "accuracy": (("item",), hit)}
    found["letter_accuracy"] = ("item",), _letter(asked, right)
    longest = np.array([question.lengths for question in asked.test], float).reshape(-1, ANSWERS)
    found["longest_accuracy"] = ("item",), correct(longest, right)
    for change in CHANGES:
        after = outcome.changed[change]
        found[f"{change}_change"] = ("item", "layer"), log_odds(after, right) - odds[:, None]
        found[f"{change}_accuracy_change"] = ("item", "layer"), correct(after, right) - hit[:, None]
        found[f"{change}_lens"] = ("item", "layer", "read_after"), log_odds(outcome.lenses[change], right)
    found["own_minus_control"] = ("item", "layer"), found["own_change"][1] - found["control_change"][1]
    for mass, name in {"kept": "rank_change", "renormalised": "rank_change_renormalised"}.items():
        found[name] = ("item", "layer", "rank"), log_odds(outcome.ranks[mass], right) - odds[:, None, None]
    kept = found["rank_change"][1]
    found["first_minus_last"] = ("item", "layer"), kept[..., 0] - kept[..., -1]
    for name, scores in {"renormalised_change": outcome.alone, "layer_change": outcome.whole}.items():
        found[name] = ("item", "layer"), log_odds(scores, right) - odds[:, None]
    found["lens"] = ("item", "read_after"), log_odds(outcome.lens, right)
    found |= {f"slots_{name}": (("item", "layer"), values) for name, values in outcome.slots.items()}
    after = np.arange(outcome.lens.shape[1]) - 1
    return xr.Dataset(found, coords={"layer": list(layers), "read_after": after, "rank": np.arange(kept.shape[-1])})


def _letter(asked: Asked, right: np.ndarray) -> np.ndarray:
    """Whether the right answer is where most are in calibration questions, (item,) float64; NaN if there are none."""
    if not asked.calibration:
        return np.full(len(right), np.nan)
    places = np.bincount([question.right for question in asked.calibration], minlength=4)
    best = places == places.max()
    return best[right] / best.sum()


def measure(
    outcome: Outcome,
    asked: Asked,
    layers: Sequence[int],
    *,
    flips: int,
    seed: int,
    resamples: int,
    resampling_seed: int,
    confidence: float,
) -> Measured:
    """All measures of the chapter.

    Parameters
    ----------
    outcome
        What the model said to the test questions.
    asked
        The questions.
    layers
        Numbers of the layers that were changed.
    flips, seed
        The settings of the chapter.
    resamples, resampling_seed, confidence
        Of the intervals.

    Returns
    -------
    Measured
        `MEASURES`: those of a layer have (dataset, layer, interval) and means over layers, those of ranks and of the
        ablated lens no dataset; `lens` (dataset, read_after, interval), -1 for the embedding. `contrast`: the planned
        ones, with `p_value`, `q_value`, `contrast_estimate` (contrast,). `tokens`, `documents`, `clusters` (dataset):
        of the texts of the test questions, the questions, and their sources.
    """
    values = item_values(outcome, asked, layers)
    tallies = {name: _tally(values, asked.test, name) for name in asked.subjects}
    resampling = uncertainty.resample(tallies, resamples, resampling_seed) if tallies else {}
    draws = xr.Dataset() if tallies else _nothing(values, 1 + resamples)
    for name in MEASURES if tallies else ():
        above, below = (f"slots_{part}" for part in RATIOS[name]) if name in RATIOS else (name, f"number_{name}")
        above, below = (_sums(tallies, part, resampling, name in OF_ALL) for part in (above, below))
        draws[name] = above / below.where(below > 0)
    metrics = summarise(draws, MEASURES, Bootstrap(confidence)).merge(uncertainty.sample_sizes(tallies))
    of_dataset = [int(tally["texts"].sum()) for tally in tallies.values()]
    metrics["tokens"] = "dataset", np.array([sum(of_dataset), *of_dataset], np.int64)
    close = [int(tally["number_lens"].isel(read_after=0).sum()) for tally in tallies.values()]
    metrics["close_items"] = (
        "dataset",
        np.array([sum(close), *close]),
        {"long_name": "items read closely", "units": "1"},
    )
    metrics = metrics.merge(contrasts(values["own_minus_control"], asked.test, flips, seed))
    attrs = {"confidence": confidence, "left_out": ", ".join(asked.left_out), "pooled_datasets": len(tallies)}
    attrs |= {"shortened": int(asked.shortened), "too_long": int(asked.too_long)}
    return Measured(metrics.assign_attrs(attrs), draws)


def _nothing(values: xr.Dataset, draws: int) -> xr.Dataset:
    """The draws of all measures where no item was asked: NaN."""
    found = xr.Dataset()
    for name in MEASURES:
        like = values["own_change" if name in RATIOS else name]
        shape = {"draw": draws} | ({} if name in OF_ALL else {"dataset": 1}) | dict(list(like.sizes.items())[1:])
        found[name] = tuple(shape), np.full(tuple(shape.values()), np.nan)
    return found.assign_coords(values.coords).assign_coords(dataset=[POOLED])


def _tally(values: xr.Dataset, questions: Sequence[Question], subject: str) -> xr.Dataset:
    """The items of a subject as the documents of a tally, each with its values and how many it has of each, 0 or 1."""
    mine = np.flatnonzero([question.subject == subject for question in questions])
    tally, found = values.isel(item=mine).rename(item="document"), {}
    for name, array in tally.items():
        if name.startswith("slots_"):
            found[name] = array.fillna(0)
        else:
            found[name], found[f"number_{name}"] = array.fillna(0), array.notnull().astype(np.float64)
    texts = [questions[place].tokens for place in mine]
    found["texts"] = xr.DataArray(texts, dims="document")
    found["tokens"] = xr.ones_like(found["texts"])  # items weigh the same
    sources = np.array([questions[place].source for place in mine], dtype=object)
    names = {"document_id": ("document", mine.astype(str)), "cluster": ("document", sources)}
    return xr.Dataset(found).assign_coords(names).assign_attrs(dataset=subject)


def _sums(
    tallies: Mapping[str, xr.Dataset], name: str, resampling: Mapping[str, uncertainty.Resampling], of_all: bool
) -> xr.DataArray:
    """Sums of a variable over items in every draw, of all subjects and of each, or of all alone."""
    if not of_all:
        return uncertainty.dataset_draws(dict(tallies), [name], dict(resampling))[name]
    array = next(iter(tallies.values()))[name]
    coords = {dim: array[dim] for dim in array.dims[1:]}
    total = sum(resampling[subject].sums(tally[name].values) for subject, tally in tallies.items())
    return xr.DataArray(total, coords, ("draw", *array.dims[1:]))


def contrasts(values: xr.DataArray, questions: Sequence[Question], flips: int, seed: int) -> xr.Dataset:
    """The planned contrasts: own minus control of each layer, all subjects, and of each subject, mean over layers.

    If own and control experts were worth the same, each source might have its sign reversed. p is the share of random
    signs, one for each source of a subject, and of the signs as they are, with a mean at least as far from 0; q is p
    corrected by Benjamini and Hochberg.

    Parameters
    ----------
    values
        (item, layer) float64, NaN where nothing was removed.
    questions
        The items.
    flips, seed
        How many random signs there are, and their seed.

    Returns
    -------
    xarray.Dataset
        `contrast_estimate` in nats, `p_value`, `q_value` (contrast,) float64.
    """
    subject = np.array([question.subject for question in questions])
    known_sources, source = np.unique([f"{each.subject}\n{each.source}" for each in questions], return_inverse=True)
    rng, sources = np.random.default_rng(seed), len(known_sources)
    signs = np.concatenate([np.ones((1, sources)), rng.choice([-1.0, 1.0], (flips, sources))])
    known, columns = [], []
    for layer in values["layer"].values.tolist():
        known.append(f"layer {layer}")
        columns.append(values.sel(layer=layer).values)
    for name in dict.fromkeys(subject):
        known.append(str(name))
        columns.append(np.where(subject == name, values.mean("layer").values, np.nan))
    table = np.array(columns).T
    number = np.isfinite(table).sum(axis=0)
    totals = np.zeros((sources, table.shape[1]))
    np.add.at(totals, source, np.nan_to_num(table))
    means = signs @ totals / np.where(number > 0, number, np.nan)
    p = (np.abs(means) >= np.abs(means[0]) - 1e-12).mean(axis=0)
    p, q = np.where(number > 0, p, np.nan), np.full(len(known), np.nan)
    if (number > 0).any():
        q[number > 0] = scipy.stats.false_discovery_control(p[number > 0])
    words = {"contrast_estimate": ("own minus control, planned contrasts", "nats", means[0])}
    words |= {"p_value": ("p value of random signs", "1", p), "q_value": ("p value, corrected for all", "1", q)}
    made = {
        name: ("contrast", numbers, {"long_name": title, "units": units})
        for name, (title, units, numbers) in words.items()
    }
    about = {"long_name": "planned contrast: a layer, of all subjects, or a subject, of all layers"}
    return xr.Dataset(made, coords={"contrast": ("contrast", np.array(known, dtype=object), about)})


def closely(questions: Sequence[Question], close_items: int) -> list[bool]:
    """Which questions are asked closely: the first ones of each subject, (item,)."""
    seen: dict[str, int] = {}
    found = []
    for question in questions:
        seen[question.subject] = seen.get(question.subject, 0) + 1
        found.append(seen[question.subject] <= close_items)
    return found


def nothing_removed(asked: Asked) -> str:
    """Why no experts are removed, in a clause; "" if they are."""
    if not asked.test:
        return "no subject has enough sources with texts that are long enough"
    with_calibration = {question.subject for question in asked.calibration}
    if len(asked.subjects) < 2:
        return "experts of a subject are those that others select less often, and there is one subject"
    if missing := [name for name in asked.subjects if name not in with_calibration]:
        return f"{missing[0]} has no calibration items"
    return ""
