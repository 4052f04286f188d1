"""Meaning: pairs of the same token id in different samples, of the same label and of two labels.

S is the set of the k experts that an occurrence selects. For every token id W is the mean of |S and S'| / k over pairs
of occurrences of one label, B over pairs of two labels; pairs within a source (a sample, or a template) do not count,
nor, unless that is said, pairs that have their previous token in common. Token ids are averaged with the weights
n_W n_B / (n_W + n_B), n the numbers of their pairs, and the share of routing that the label decides is

    (W - B) / (1 - B),

the variance of S within a token id that the label explains. In the share of several probes numerator and denominator
are the means of theirs. All of them come from what every two sources have together, so that a draw is a product of
matrices: a permutation deals labels out to sources, a draw of the jackknife leaves a group of sources out. A bootstrap
would pair sources with copies of themselves.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.stats
import xarray as xr

from gatebook.chapters.meaning import MEASURES, telling
from gatebook.chapters.meaning.matching import Matched
from gatebook.inputs.clusters import GROUPS
from gatebook.measures.summary import MEAN, Jackknife, Measured, summarise
from gatebook.measures.uncertainty import POOLED

TINY = 1e-12
DRAWS_AT_ONCE = 250
LEFT_OUT = -1
TOLD = ("layer_tells", "path_tells")
KINDS = {"meaning_share": "meaning", "meaning_share_any_previous": "any_previous", "capability_share": "capability"}
FIRST, SECOND = np.triu_indices(GROUPS, 1)
"""Every two groups."""
MOST_LABELS = 6
"""Of a word whose flow is drawn: more colours cannot be told apart."""
FEWEST_SOURCES = 2
"""Of each label: with fewer there are no pairs."""


class Design(NamedTuple):
    """The occurrences of a probe as its pairs need them.

    source (occurrence,) int64 and label (source,) int64: of the sources that have any, in order; code (occurrence,):
    the token id; pair (occurrence,): the token id and the one before it, both as places among those that there are;
    code_of (pair,): the code of each pair. labels: how many there are.
    """

    source: np.ndarray
    label: np.ndarray
    code: np.ndarray
    pair: np.ndarray
    code_of: np.ndarray
    labels: int

    @classmethod
    def of(cls, matched: Matched) -> "Design":
        """The design of a probe."""
        sources, first, source = np.unique(matched.source, return_index=True, return_inverse=True)
        both = np.stack([matched.token_id, matched.previous])
        codes, code = np.unique(matched.token_id, return_inverse=True)
        pairs, pair = np.unique(both, axis=1, return_inverse=True)
        label = matched.label[first] if len(sources) else np.zeros(0, np.int64)
        code_of = np.searchsorted(codes, pairs[0])
        return cls(source[matched.sample], label, code, pair.reshape(-1), code_of, len(matched.labels))

    @property
    def enough(self) -> bool:
        """Whether every label has the sources that pairs need."""
        return bool((np.bincount(self.label, minlength=self.labels) >= FEWEST_SOURCES).all())

    @property
    def group(self) -> np.ndarray:
        """The group of each source that the jackknife leaves out, in turn: (source,) int64."""
        return np.arange(len(self.label)) % GROUPS

    def jackknife(self) -> np.ndarray:
        """The labels of all sources, without each group, and without every two of them: (draw, source) int64."""
        kept = self.group != np.arange(GROUPS)[:, None]
        every = np.concatenate([np.ones((1, len(self.label)), bool), kept, kept[FIRST] & kept[SECOND]])
        return np.where(every, self.label, LEFT_OUT)

    def permuted(self, number: int, seed: Sequence[int]) -> np.ndarray:
        """The labels as they are, and permuted over sources: (1 + number, source) int64."""
        rng = np.random.default_rng(seed)
        return np.stack([self.label, *(rng.permutation(self.label) for _ in range(number))])


class Together(NamedTuple):
    """Occurrences of one token id in every two sources, of the ids that have enough: (id, pair of sources) sparse.

    shared: how many experts their pairs share; number: how many pairs they are. pair (2, pair of sources): the sources.
    """

    shared: scipy.sparse.csr_array
    number: scipy.sparse.csr_array
    pair: np.ndarray


def together(design: Design, selected: np.ndarray, experts: int, *, any_previous: bool = False) -> Together:
    """What the sources of a probe have together in a layer.

    Parameters
    ----------
    design
        Of the probe.
    selected
        The experts of its occurrences, (occurrence, rank) int, all different.
    experts
        Of a layer.
    any_previous
        Whether pairs with the same previous token count.
    """
    pair = np.stack(np.triu_indices(len(design.label), 1))
    count = np.zeros((len(selected), experts + 1))  # the last column counts occurrences
    np.put_along_axis(count, selected, 1, axis=1)
    count[:, -1] = 1
    parts = list(_products(design.code, np.arange(len(design.code)), design.source, count))
    if not any_previous:
        less = _products(design.pair, design.code_of, design.source, count)
        parts += [(code, at, -shared, -number) for code, at, shared, number in less]
    rows = np.concatenate([np.full(len(at[0]), code) for code, at, *_ in parts] or [[]]).astype(np.int64)
    one, other = np.concatenate([at for _, at, *_ in parts] or [np.zeros((2, 0), np.int64)], axis=1)
    column = one * len(design.label) - one * (one + 1) // 2 + other - one - 1  # of the upper triangle
    shape = (int(design.code.max(initial=-1)) + 1, pair.shape[1])
    made = [
        scipy.sparse.csr_array((np.concatenate([part[index] for part in parts] or [[]]), (rows, column)), shape=shape)
        for index in (2, 3)
    ]
    return Together(*made, pair)


def _products(code: np.ndarray, owner: np.ndarray, source: np.ndarray, count: np.ndarray) -> Iterator[tuple]:
    """Of each code that two sources have: its `owner`, the pairs of sources (2, pair), shared experts and pairs."""
    order = np.argsort(code, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
        sources, index = np.unique(source[places], return_inverse=True)
        if len(sources) < FEWEST_SOURCES:
            continue
        sums = np.zeros((len(sources), count.shape[1]))
        np.add.at(sums, index, count[places])
        at = np.triu_indices(len(sources), 1)
        product = sums[:, :-1] @ sums[:, :-1].T
        yield owner[code[places[0]]], sources[np.stack(at)], product[at], sums[at[0], -1] * sums[at[1], -1]


def contrast(found: Together, label: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """W and B under labels: (draw,) float64 each, NaN where no token id has pairs of both kinds.

    Parameters
    ----------
    found
        What the sources have together.
    label
        Of the sources, (draw, source) int; one may be `LEFT_OUT`.
    top_k
        Experts of an occurrence.
    """
    both = [_contrast(found, part, top_k) for part in np.array_split(label, -(-len(label) // DRAWS_AT_ONCE))]
    return tuple(np.concatenate(each) for each in zip(*both, strict=True))


def _contrast(found: Together, label: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    one, other = (label.T[index] for index in found.pair)  # (pair, draw)
    kept = (one != LEFT_OUT) & (other != LEFT_OUT)
    same, apart = ((which & kept).astype(float) for which in (one == other, one != other))
    same_number, other_number = found.number @ same, found.number @ apart
    known = (same_number > 0.5) & (other_number > 0.5)  # whole numbers of pairs
    weight = np.where(known, same_number * other_number / np.maximum(same_number + other_number, 1), 0)
    total = weight.sum(axis=0)
    total = np.where(total > 0, total, np.nan) * top_k
    return tuple(
        (weight * np.where(known, found.shared @ which / np.where(known, number, 1), 0)).sum(axis=0) / total
        for which, number in ((same, same_number), (apart, other_number))
    )


def measure(
    probes: Sequence[Matched],
    selected: Sequence[np.ndarray],
    layers: Sequence[int],
    *,
    experts: int,
    permutations: int,
    told_permutations: int,
    splits: int,
    window: int,
    examples: int,
    seed: int,
    confidence: float,
) -> Measured:
    """All measures of the chapter.

    Parameters
    ----------
    probes
        The occurrences of each.
    selected
        Their experts, (layer, occurrence, rank) int64 each, the first choice first.
    layers
        Numbers of layers with routers.
    experts
        Of a layer.
    permutations, told_permutations, splits, window, examples, seed
        The settings of the chapter.
    confidence
        Of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        `same_meaning`, `other_meaning`, `meaning_share`, `meaning_share_any_previous`, `capability_share` (dataset,
        layer, interval) with their `mean_over_layers_*`; `layer_tells`, `path_tells`, `path_gain` (dataset, interval).
        Datasets are probes, those of words and of capabilities; what is not measured of one is NaN, and pooled is the
        mean over those of the same kind. `null_layer_tells`, `null_path_tells`, `null_path_gain` (dataset, interval):
        what is told of permuted labels. `p_value`, `q_value` (dataset, layer) of the shares, corrected within words and
        within capabilities; `words_p_value`, `capabilities_p_value`: of all of a kind; `told_p_value` (dataset,) of
        `path_tells`, that of all words first. `samples`, `skipped`, `tokens`, `documents`, `clusters` (dataset,): all
        samples, those without an occurrence, occurrences, samples with any, their sources; `of_word` (dataset,).
        `flow_*`: of every measured word with at most `MOST_LABELS` meanings, that whose meaning decides most first,
        the first choice of every occurrence.
    """
    names = [probe.name for probe in probes]
    nothing = np.full((len(layers), 1 + GROUPS + len(FIRST), 1 + len(probes)), np.nan)
    pairs = {
        (kind, end): nothing.copy() for kind in ("meaning", "any_previous", "capability") for end in ("same", "other")
    }
    p_value = np.full((len(probes), len(layers)), np.nan)
    permuted_told = {name: np.full((1 + told_permutations, 1 + len(probes)), np.nan) for name in TOLD}
    told = {name: np.full((1 + GROUPS, 1 + len(probes)), np.nan) for name in TOLD}
    apart: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for number, (probe, sets) in enumerate(zip(probes, selected, strict=True)):
        design = Design.of(probe)
        if not design.enough:
            continue
        seeds = [seed, zlib.crc32(probe.name.encode())]
        main = "meaning" if probe.of_word else "capability"
        left_out = design.jackknife()
        permuted = design.permuted(permutations, seeds)
        dealt = np.zeros((len(layers), 1 + permutations))
        for layer, one in enumerate(sets):
            place, top_k = (layer, slice(None), 1 + number), one.shape[1]
            here = together(design, one, experts)
            _put(pairs, main, place, contrast(here, left_out, top_k))
            dealt[layer] = np.subtract(*contrast(here, permuted, top_k))
            p_value[number, layer] = _p_value(dealt[layer])
            if probe.of_word:
                here = together(design, one, experts, any_previous=True)
                _put(pairs, "any_previous", place, contrast(here, left_out, top_k))
        apart[probe.of_word].append(dealt.mean(axis=0))
        if probe.of_word:
            labels = design.permuted(told_permutations, seeds)
            kernels = telling.kernels(design.source, len(design.label), sets, experts)
            hits = telling.hits(kernels, labels, design.labels, splits=splits, window=window, seed=seeds)
            for name, each in zip(TOLD, hits, strict=True):
                told[name][:, 1 + number] = telling.without_groups(each[0], design)
                of_draws = zip(each, labels, strict=True)
                permuted_told[name][:, 1 + number] = [telling.beyond_chance(*one, design.labels) for one in of_draws]
    found = {name: _share(pairs[kind, "same"], pairs[kind, "other"]) for name, kind in KINDS.items()}
    found |= {f"{end}_meaning": _averaged(pairs["meaning", end]) for end in ("same", "other")}
    found = {name: values.swapaxes(0, 1) for name, values in found.items()}
    variables = {name: (("draw", "layer", "dataset"), narrowed(values)) for name, values in found.items()}
    means = {name: narrowed(values.mean(axis=1)) for name, values in found.items()}
    variables |= {f"{MEAN}{name}": (("draw", "dataset"), values) for name, values in means.items()}
    variables |= {name: (("draw", "dataset"), _averaged(values)) for name, values in told.items()}
    coords = {"layer": list(layers), "dataset": [POOLED, *names]}
    made = xr.Dataset(variables, coords=coords)
    made["path_gain"] = made["path_tells"] - made["layer_tells"]
    out = summarise(made, MEASURES, Jackknife(confidence)).merge(sizes(probes))
    out = (
        out.merge(_corrected(p_value, probes, layers))
        .merge(_of_permuted(permuted_told, confidence))
        .merge(_of_all(apart))
    )
    out = out.merge(_flows(out, probes, selected, layers))
    reasons = "; ".join(f"{probe.name}: {probe.reason}" for probe in probes if probe.reason)
    attrs = {"confidence": confidence, "groups": GROUPS, "window": min(window, len(layers)), "examples": examples}
    return Measured(out.assign_attrs(attrs | {"not_matched": reasons}), made)


def narrowed(draws: np.ndarray) -> np.ndarray:
    """Draws of the jackknife that vary as much as a statistic of pairs does.

    Parameters
    ----------
    draws
        The statistic of all, without each group, and without every two groups: (draw, ...).

    Returns
    -------
    numpy.ndarray
        That of all and those without each group, (1 + group, ...), nearer to that of all. What belongs to pairs of
        samples, and not to one or the other, counts twice in the variance of a jackknife; how much it is shows in the
        draws without two groups (Efron and Stein 1981, The jackknife estimate of variance, section 5). The variance is
        divided by at most 2, which is what it is too large by if all of it belongs to pairs.
    """
    whole, one, two = np.split(draws, [1, 1 + GROUPS])
    filled = one != whole
    groups = filled.sum(axis=0)
    both = filled[FIRST] & filled[SECOND]
    joint = groups * whole - (groups - 1) * (one[FIRST] + one[SECOND]) + (groups - 2) * two
    with np.errstate(divide="ignore", invalid="ignore"):
        of_pairs = _squares(joint, both) / (groups * (groups - 1))
        ratio = 1 - of_pairs / (_squares(one, filled) * (groups - 1) / groups)
    ratio = np.clip(np.nan_to_num(ratio, nan=1.0), 0.5, 1)
    return np.concatenate([whole, whole + np.sqrt(ratio) * (one - whole)])


def _squares(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The sum of squares about the mean over the first axis, of those `among` them."""
    mean = np.where(among, values, 0).sum(axis=0) / among.sum(axis=0)
    return np.where(among, (values - mean) ** 2, 0).sum(axis=0)


def _put(pairs: dict, kind: str, place: tuple, both: tuple[np.ndarray, np.ndarray]) -> None:
    for end, values in zip(("same", "other"), both, strict=True):
        pairs[kind, end][place] = values


def _averaged(values: np.ndarray) -> np.ndarray:
    """Values (..., 1 + probe) with the mean over the probes that have any in the first place."""
    known = np.isfinite(values[..., 1:])
    number = known.sum(axis=-1)
    mean = np.where(known, values[..., 1:], 0).sum(axis=-1) / np.where(number > 0, number, np.nan)
    return np.concatenate([mean[..., None], values[..., 1:]], axis=-1)


def _share(same: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(W - B) / (1 - B), of every probe and of the means: (..., 1 + probe); 0 where all sets are the same."""
    part, room = _averaged(same - other), _averaged(1 - other)
    return np.where(room > TINY, part / np.where(room > TINY, room, 1), np.where(np.isfinite(room), 0, np.nan))


def _p_value(apart: np.ndarray) -> float:
    """The share of draws in which W - B is at least as large as in the first one: (draw,)."""
    return float((apart >= apart[0] - TINY).mean()) if np.isfinite(apart[0]) else np.nan


def _of_all(apart: dict[bool, list[np.ndarray]]) -> xr.Dataset:
    """p values of the mean of W - B over layers and over words, or capabilities, whose labels are permuted apart."""
    found = {}
    for of_word, name in ((True, "words"), (False, "capabilities")):
        about = {"long_name": f"p value of all {name} together, labels permuted over samples", "units": "1"}
        value = _p_value(np.mean(apart[of_word], axis=0)) if apart[of_word] else np.nan
        found[f"{name}_p_value"] = ((), value, about)
    return xr.Dataset(found)


def _corrected(p_value: np.ndarray, probes: Sequence[Matched], layers: Sequence[int]) -> xr.Dataset:
    """p values, and q values by Benjamini and Hochberg within the words and within the capabilities."""
    q_value, of_word = np.full_like(p_value, np.nan), np.array([probe.of_word for probe in probes], bool)
    for kind in (of_word, ~of_word):
        known = np.isfinite(p_value) & kind[:, None]
        if known.any():
            q_value[known] = scipy.stats.false_discovery_control(p_value[known])
    pooled = np.full((1, len(layers)), np.nan)
    per_layer = {"p_value": p_value, "q_value": q_value}
    words = {"p_value": "p value, labels permuted over samples", "q_value": "p value, corrected for all tests"}
    made = {
        name: (("dataset", "layer"), np.concatenate([pooled, values]), {"long_name": words[name], "units": "1"})
        for name, values in per_layer.items()
    }
    return xr.Dataset(made)


def _of_permuted(told: dict[str, np.ndarray], confidence: float) -> xr.Dataset:
    """What is told of permuted labels, (1 + permutation, 1 + probe) each, with its ends, and the p value of paths."""
    found, told = {}, told | {"path_gain": told["path_tells"] - told["layer_tells"]}
    for name, values in told.items():
        about = {"long_name": f"{MEASURES[name].title}, labels permuted over samples", "units": "1"}
        permuted = _averaged(values)[1:]
        tail = (1 - confidence) / 2
        parts = np.stack([permuted.mean(axis=0), *np.quantile(permuted, [tail, 1 - tail], axis=0)], axis=-1)
        found[f"null_{name}"] = (("dataset", "interval"), parts, about)
    about = {"long_name": "p value of what paths tell, labels permuted over samples", "units": "1"}
    values = [_p_value(each) for each in _averaged(told["path_tells"]).T]
    return xr.Dataset(found | {"told_p_value": ("dataset", np.array(values), about)})


def sizes(probes: Sequence[Matched]) -> xr.Dataset:
    """How much there is of every probe, and of all of them first: (dataset,)."""
    numbers = {
        "samples": [probe.samples for probe in probes],
        "skipped": [probe.skipped for probe in probes],
        "tokens": [len(probe.sample) for probe in probes],
        "documents": [len(probe.texts) for probe in probes],
        "clusters": [len(set(probe.source.tolist())) for probe in probes],
    }
    words = {"samples": "samples", "skipped": "samples in which the token does not occur", "clusters": "sources"}
    found = {
        name: ("dataset", np.array([sum(each), *each], np.int64), {"long_name": words.get(name, name), "units": name})
        for name, each in numbers.items()
    }
    of_word = np.array([0, *(probe.of_word for probe in probes)], np.int8)
    found["of_word"] = ("dataset", of_word, {"long_name": "1 for probes of a word", "units": "1"})
    return xr.Dataset(found)


def _flows(
    metrics: xr.Dataset, probes: Sequence[Matched], selected: Sequence[np.ndarray], layers: Sequence[int]
) -> xr.Dataset:
    """The first choices of words by how much their meaning decides, mean over layers: (flow, layer), what each is."""
    share = metrics["mean_over_layers_meaning_share"].sel(interval="estimate").values[1:]
    few = [len(probe.labels) <= MOST_LABELS for probe in probes]
    chosen = [index for index in np.argsort(-share, kind="stable") if np.isfinite(share[index]) and few[index]]
    rows = [row for index in chosen for row in _flow(probes[index], selected[index])]
    first = np.array([row[2] for row in rows], np.int64).reshape(-1, len(layers))
    about = {"long_name": "first choice of the occurrence", "units": "1"}
    words = {"flow_word": "word", "flow_meaning": "its meaning"}
    found = {
        name: ("flow", np.array([row[index] for row in rows], dtype=str), {"long_name": words[name]})
        for index, name in enumerate(words)
    }
    return xr.Dataset(found | {"flow_expert": (("flow", "layer"), first, about)})


def _flow(probe: Matched, sets: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    for occurrence, sample in enumerate(probe.sample):
        yield probe.name, probe.labels[probe.label[sample]], sets[:, occurrence, 0]
