"""Annotation: the label that best tells which tokens select an expert, chosen on one half and scored on the other.

`labels` is the vocabulary, `scoring` says how labels are scored, `naming` how a model names its experts, `languages`
what the language of a text explains.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import xarray as xr

from gatebook.chapters.annotation import MEASURES, OF_EXPERTS, scoring
from gatebook.chapters.annotation.labels import OWN, Labels
from gatebook.chapters.annotation.languages import Languages
from gatebook.chapters.annotation.scoring import CHOOSING, NOTHING
from gatebook.inputs.clusters import GROUPS
from gatebook.measures.summary import MEAN, Jackknife, Measured, summarise
from gatebook.measures.token_sample import counted, documents_of, sizes
from gatebook.measures.uncertainty import POOLED, chance
from gatebook.study.routed import NONE, Layer

Texts = Callable[[np.ndarray], tuple[list[str], list[bool]]]
DEALT = 200
"""So often are the labels that the model gives dealt to other experts."""
SEEDS = {"permutations": 0, "examples": 1, "dealt": 2, "languages": 3}
ABOUT = {
    "accuracy": "balanced accuracy of each label, held out",
    "best_label": "number of the expert's label, -1 for none",
    "other_label": "number of the label that the other half would choose, -1 for none",
    "load": "share of the scored tokens that select the expert",
    "sample_token": "token that selects the expert, at random",
    "pair_expert": "number of an expert of the pair, -1 for none",
    "pair_label": "number of the pair's label, -1 for none",
    "pair_label_accuracy": "balanced accuracy of the label of one pair, held out",
    "named_label": "number of the label that the model gives, -1 for none",
    "label_share": "share of the tokens that have the label",
    "eligible": "1 where the label is frequent enough",
}


def measure(
    study: xr.Dataset,
    layers: Iterable[Layer],
    texts: Texts,
    *,
    languages: Mapping[str, str],
    named: xr.Dataset | None,
    tokens: int,
    minimum_share: float,
    pairs: int,
    permutations: int,
    examples: int,
    seed: int,
    confidence: float,
) -> Measured:
    """All measures of the chapter, from the tokens of a study and its layers.

    Parameters
    ----------
    study
        Its tokens, see `routed.read`.
    layers
        In order, see `routed.read_layers`.
    texts
        Gives of token ids (id,) their texts and which of them are special.
    languages
        Of the datasets, where they are known.
    named
        What the model says, see `naming.named`; None if it was not asked.
    tokens
        At most so many of each dataset.
    minimum_share
        Of the first half's tokens that a label must have, and be without.
    pairs
        Most frequent pairs of experts.
    permutations
        Of selections over tokens.
    examples
        Tokens of each expert that are shown.
    seed, confidence
        Of all that is random; of the intervals, between 0 and 1.

    Returns
    -------
    Measured
        The measures of `MEASURES` (layer, interval), those of single experts (layer, expert, interval), and what
        `ABOUT` says; `null_label_accuracy`, `null_named_gain`, `null_language_share` (layer, interval) with means.
    """
    place = counted(study, tokens, seed)
    labels = Labels.of(study, place, texts, dict(languages))
    group, cluster = study["group"].values[place].astype(np.int64), study["cluster"].values[documents_of(study)[place]]
    of_text = Languages(labels, group, cluster, permutations, _seed(seed, "languages"))
    known = scoring.totals(labels, group)
    among = scoring.eligible(*known, minimum_share)
    numbers, per_layer = [], []
    for layer in layers:
        numbers.append(layer.number)
        selected = layer.selected[place]
        rng = {kind: np.random.default_rng([_seed(seed, kind), layer.number]) for kind in SEEDS}
        found = _of_layer(
            labels, group, selected, layer.experts, known, among, rng["permutations"], pairs, permutations
        )
        asked = None if named is None else named["label"].sel(layer=layer.number).values
        found = found.merge(_named(found, labels, asked, among, rng["dealt"]))
        found["sample_token"] = _samples(study, place[~CHOOSING[group]], layer, examples, rng["examples"])
        per_layer.append(found.drop_vars("held").merge(of_text.explained(selected, layer.experts)))
    draws = xr.concat(per_layer, dim="layer").assign_coords(layer=numbers)
    return _summarised(draws, study, place, labels, known, among, named, confidence, seed)


def _seed(seed: int, kind: str) -> int:
    return zlib.crc32(f"annotation {kind} {seed}".encode())


def _of_layer(
    labels: Labels,
    group: np.ndarray,
    selected: np.ndarray,
    experts: int,
    known: tuple[np.ndarray, ...],
    among: np.ndarray,
    rng: np.random.Generator,
    pairs: int,
    permutations: int,
) -> xr.Dataset:
    """What is found of the experts and pairs of a layer, over `draw`.

    `held` (draw, expert, label) is the balanced accuracy of all labels on the scored half.
    """
    token = np.repeat(np.arange(len(selected)), selected.shape[1])

    def counts(chosen: np.ndarray) -> scoring.Counts:
        return scoring.count(labels, group, token, chosen.ravel().astype(np.int64), experts, known)

    mine = counts(selected)
    label = scoring.best(mine.of(CHOOSING).accuracy(), among)
    scores = scoring.held_out(mine, label)
    held = scoring.Counts(*map(scoring.draws, mine)).accuracy()
    by_id = scoring.lookup(labels.code, group, selected, len(labels.token_id), experts)
    by_id = np.where(label == NOTHING, np.nan, by_id)
    chance_of = []
    for _ in range(permutations):
        dealt = counts(selected[rng.permutation(len(selected))])
        of_dealt = scoring.held_out(dealt, scoring.best(dealt.of(CHOOSING).accuracy(), among))
        chance_of.append(_mean(of_dealt.accuracy[:1])[0])
    chosen = scoring.pairs(selected, group, experts, pairs)
    both = scoring.count(labels, group, *scoring.members(selected, chosen), len(chosen), known)
    pair_label = scoring.best(both.of(CHOOSING).accuracy(), among)
    of_pairs = scoring.held_out(both, pair_label).accuracy
    of_their_experts = scores.accuracy[:, chosen].mean(axis=-1)
    missing = pairs - len(chosen)
    load = scoring.draws(mine.selected)[0] / max(scoring.draws(mine.tokens)[0], 1)
    return xr.Dataset(
        {
            "label_accuracy": ("draw", _mean(scores.accuracy)),
            "label_precision": ("draw", _mean(scores.precision)),
            "lookup_accuracy": ("draw", _mean(by_id)),
            "lookup_gap": ("draw", _mean(by_id) - _mean(scores.accuracy)),
            "pair_accuracy": ("draw", _mean(of_pairs)),
            "pair_gain": ("draw", _mean(of_pairs - of_their_experts)),
            "expert_accuracy": (("draw", "expert"), scores.accuracy),
            "expert_precision": (("draw", "expert"), scores.precision),
            "null_label_accuracy": ("permutation", np.array(chance_of)),
            "held": (("draw", "expert", "label"), held),
            "accuracy": (("expert", "label"), held[0].astype(np.float32)),
            "best_label": ("expert", label.astype(np.int32)),
            "other_label": ("expert", scoring.best(mine.of(~CHOOSING).accuracy(), among).astype(np.int32)),
            "load": ("expert", load),
            "pair_expert": (("pair", "member"), _padded(chosen, missing).astype(np.int32)),
            "pair_label": ("pair", _padded(pair_label, missing).astype(np.int32)),
            "pair_label_accuracy": ("pair", np.append(of_pairs[0], np.full(missing, np.nan))),
        }
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over units, (draw,), of those that are known in all of the sample; NaN if none is."""
    known = np.isfinite(values[0]) if values.size else np.zeros(values.shape[1], bool)
    return values[:, known].mean(axis=1) if known.any() else np.full(len(values), np.nan)


def _padded(values: np.ndarray, missing: int) -> np.ndarray:
    return np.concatenate([values, np.full((missing, *values.shape[1:]), NOTHING)])


def _named(
    found: xr.Dataset, labels: Labels, asked: np.ndarray | None, among: np.ndarray, rng: np.random.Generator
) -> xr.Dataset:
    """How well the labels that the model gives tell; NaN if it was not asked.

    asked (expert,) text, "" where it was not.
    """
    experts, held = found.sizes["expert"], found["held"].values
    label = np.full(experts, NOTHING)
    if asked is not None:
        label = np.array([labels.names.index(name) if name else NOTHING for name in asked.tolist()])
    experts_asked = np.flatnonzero((label != NOTHING) & np.isfinite(held[0]).any(axis=1))
    value, gain, null = (np.full(size, np.nan) for size in (len(held), len(held), DEALT))
    if len(experts_asked):
        mine, given = held[:, experts_asked], label[experts_asked]
        every = np.arange(len(given))
        candidates = np.flatnonzero(among & (np.arange(len(among)) < len(OWN)))
        of_random = mine[:, :, candidates].mean(axis=(1, 2))
        value = mine[:, every, given].mean(axis=1)
        gain = value - of_random
        null = np.array([mine[0, every, rng.permutation(given)].mean() for _ in range(DEALT)]) - of_random[0]
    return xr.Dataset(
        {
            "named_accuracy": ("draw", value),
            "named_gain": ("draw", gain),
            "null_named_gain": ("dealt", null),
            "named_label": ("expert", label.astype(np.int32)),
        }
    )


def _samples(study: xr.Dataset, place: np.ndarray, layer: Layer, most: int, rng: np.random.Generator) -> tuple:
    """The ids of random tokens among `place` that select each expert, in the order of the text: (expert, place)."""
    ids, selected = study["token_id"].sel(kind="input").values[place], layer.selected[place]
    found = np.full((layer.experts, most), NONE, np.int32)
    order = np.argsort(selected.ravel(), kind="stable")
    ends = np.append(0, np.cumsum(np.bincount(selected.ravel(), minlength=layer.experts)))
    for expert in range(layer.experts):
        mine = order[ends[expert] : ends[expert + 1]] // selected.shape[1]
        chosen = np.sort(rng.permutation(mine)[:most])
        found[expert, : len(chosen)] = ids[chosen]
    return ("expert", "place"), found


def _summarised(
    draws: xr.Dataset,
    study: xr.Dataset,
    place: np.ndarray,
    labels: Labels,
    known: tuple[np.ndarray, ...],
    among: np.ndarray,
    named: xr.Dataset | None,
    confidence: float,
    seed: int,
) -> Measured:
    """Measures with their intervals, nulls, and what else the page shows."""
    method = Jackknife(confidence)
    of_units = draws[[name for name in draws if "draw" in draws[name].dims]]
    of_groups = of_units.drop_vars(OF_EXPERTS)
    out = summarise(of_groups, MEASURES, method)
    for name in OF_EXPERTS:
        declared = MEASURES[name]
        about = {"long_name": declared.title, "units": declared.units, "formula": declared.formula}
        out[name] = method.interval(of_units[name], declared.bounds).assign_attrs(about)
    for name, dim in {"label_accuracy": "permutation", "named_gain": "dealt", "language_share": "permutation"}.items():
        values, about = draws[f"null_{name}"], {"long_name": f"{MEASURES[name].title}, by chance", "units": "1"}
        out[f"null_{name}"] = chance(values, confidence, dim).assign_attrs(about)
        out[f"{MEAN}null_{name}"] = chance(values.mean("layer"), confidence, dim).assign_attrs(
            about | {"long_name": f"{about['long_name']}, mean over layers"}
        )
    kept = [name for name in ABOUT if name in draws]
    out = out.merge(draws[kept])
    labelled, tokens = known
    out["label_share"] = "label", labelled.sum(axis=0) / max(tokens.sum(), 1)
    out["eligible"] = "label", among.astype(np.int8)
    for name, words in ABOUT.items():
        out[name] = out[name].assign_attrs(long_name=words, units="1")
    out = out.assign_coords(
        label=("label", np.array(labels.names, dtype=object), {"long_name": "label of a token"}),
        expert=np.arange(out.sizes["expert"]),
        dataset=[POOLED, *labels.datasets],
    )
    shown = np.unique(out["sample_token"].values)
    out = out.assign_coords(shown_token=("shown_token", shown[shown != NONE], {"long_name": "token id", "units": "1"}))
    written = np.full(out["best_label"].shape, "", dtype=object)
    if named is not None:
        written = named["written"].sel(layer=out["layer"].values).values
    about = {"long_name": "what the model writes about the expert in its own words, not scored"}
    out["written"] = ("layer", "expert"), written, about
    out = out.merge(sizes(study, place))
    attrs = {"pooled_datasets": study.sizes["name"], "groups": GROUPS, "seed": seed, "confidence": confidence}
    attrs |= {"languages": ", ".join(labels.spoken), "not_named": "" if named is None else named.attrs["not_named"]}
    return Measured(out.assign_attrs(attrs), of_groups)


def with_texts(metrics: xr.Dataset, texts: Callable[[np.ndarray], list[str]]) -> xr.Dataset:
    """The metrics with `shown_text` (shown_token): the texts of the ids among the samples, as `texts` gives them."""
    written = np.array(texts(metrics["shown_token"].values), dtype=object)
    return metrics.assign(shown_text=("shown_token", written, {"long_name": "text of the token, escaped"}))
