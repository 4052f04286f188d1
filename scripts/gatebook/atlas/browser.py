"""The expert browser's data: what experts and sets of experts receive, as scripts that the page loads on demand.

Contexts are references to tokens: a place in the store of a dataset, which holds its first tokens once for all experts.
Counts and top tokens are of all tokens. Everywhere a token is an index into the vocabulary, and a number is rounded to
3 significant digits unless it is a count. Each function that makes their contents says what they hold.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
import xarray as xr

from gatebook.chapters.vocabulary_specialization import OFTEN
from gatebook.files import netcdf, parts
from gatebook.files.data_scripts import DataScripts
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import contexts, expert_sets, vocabulary
from gatebook.measures.expert_sets import MODES, SIZES, Sets
from gatebook.routing.records import layer_files, open_layer
from gatebook.routing.rule import routing_rule_of
from gatebook.study import tallies
from gatebook.study.routed import NONE, Layer

TOP, TOP_EXPERTS = 20, 3
CONTEXTS = ("highest", "per_token", "middle", "random")
AROUND = 12
"""Tokens on either side of a context."""
FOURS = 5
"""Most frequent sets of four with each expert."""
MOST_COUNTERS = 1 << 24
"""Of sets of four, which are counted if there are no more: 64 experts to the power of four, 400 MB while they are."""
HEATS = 9
"""Steps of the heat of a token, above 0."""


@dataclass(frozen=True)
class Text:
    """A reading text: the first `tokens` tokens of a document, which starts at the token `start` of its dataset.

    `plots`: whether the probabilities of all experts are kept.
    """

    dataset: int
    document: str
    start: int
    tokens: int
    plots: bool

    @property
    def span(self) -> slice:
        """The text's tokens in its dataset."""
        return slice(self.start, self.start + self.tokens)


def choose_texts(documents: list[tuple[list[str], np.ndarray]], texts: int, text_tokens: int, plots: int) -> list[Text]:
    """At most `texts` reading texts of each dataset, of documents from its first to its last, evenly spaced."""
    found = []
    for dataset, (names, lengths) in enumerate(documents):
        starts = np.cumsum(lengths) - lengths
        places = np.unique(np.linspace(0, len(names) - 1, min(texts, len(names))).round().astype(int))
        found += [
            Text(dataset, names[place], int(starts[place]), int(min(lengths[place], text_tokens)), number < plots)
            for number, place in enumerate(places)
        ]
    return found


def read_plots(records: list[str], layer: int, texts: list[Text]) -> list[np.ndarray | None]:
    """The probabilities of all experts of a layer in each text with plots, (token, expert) float32; None for others.

    The record folders of all datasets must hold router logits if there is such a text.
    """
    folders, found = parts.by_dataset(records), []
    for text in texts:
        if text.plots:
            with open_layer(folders[text.dataset], layer) as record:
                logits = torch.from_numpy(record["router_logits"][text.span].values)
                found.append(routing_rule_of(record.attrs).probability(logits).numpy())
        else:
            found.append(None)
    return found


def hold_logits(records: list[str]) -> bool:
    """Whether the record folders hold router logits, which the plots of probabilities need."""
    with netcdf.open_lazily(next(iter(layer_files(records[0]).values()))) as record:
        return "router_logits" in record


class Tokens:
    """The tokens of a study (`routed.read`), and which of them are stored: the first `stored` of every dataset.

    names, kinds: datasets and kinds of token; ids (type,): every token id that occurs, increasing, the vocabulary;
    code (kind, token): indices into it, `NONE` where there is none; dataset, place (token,): dataset, and
    place in the dataset; start, size, stored (dataset,); documents: for every dataset the identifiers of its documents
    and the number of tokens of each.
    """

    def __init__(self, tokens: xr.Dataset, stored: int):
        """Number the tokens of all datasets."""
        self.names, self.kinds = tokens["name"].values.tolist(), tokens["kind"].values.tolist()
        self.attrs = tokens.attrs
        lengths = np.diff(np.append(tokens["start"].values, tokens.sizes["token"]))
        ends = np.cumsum(tokens["documents"].values)[:-1]
        identifiers = np.split(tokens["document_id"].values, ends)
        self.documents = [
            (part.tolist(), sizes) for part, sizes in zip(identifiers, np.split(lengths, ends), strict=True)
        ]
        token_id = tokens["token_id"].values
        self.ids = np.unique(token_id[token_id != NONE])
        self.code = np.array([np.searchsorted(self.ids, kind).astype(np.int32) for kind in token_id])
        self.code[token_id == NONE] = NONE
        self.dataset = tokens["dataset"].values.astype(np.int32)
        self.size = np.bincount(self.dataset, minlength=len(self.names))
        self.start = np.cumsum(self.size) - self.size
        self.place = (np.arange(len(self.dataset)) - self.start[self.dataset]).astype(np.int32)
        self.stored = np.minimum(self.size, stored)
        self.is_stored = self.place < stored
        self.column = self.dataset * GROUPS + tokens["group"].values

    @property
    def input(self) -> np.ndarray:
        """Index into the vocabulary of every token that is routed: (token,)."""
        return self.code[self.kinds.index("input")]

    @cached_property
    def count(self) -> np.ndarray:
        """How often each type occurs in each dataset: (dataset, type)."""
        cells = self.dataset * np.int64(len(self.ids)) + self.input
        return np.bincount(cells, minlength=len(self.names) * len(self.ids)).reshape(len(self.names), -1)

    def frequent(self, minimum: int, number: int) -> np.ndarray:
        """The `number` most frequent types of those with at least `minimum` occurrences, increasing."""
        count = self.count.sum(axis=0)
        order = np.argsort(-count, kind="stable")[:number]
        return np.sort(order[count[order] >= minimum])


def token_contents(tokens: Tokens, texts: list[Text], token_texts: list[str], listed: np.ndarray) -> Iterator[tuple]:
    """What needs no layer: (name, content) of vocabulary, stores, texts, and counts of the types `listed`.

    vocabulary: `id`, `text` (`token_texts`), `count` of every type. store/DATASET: `token`; `documents` and `start`,
    the names and first tokens of its documents. texts/N: `token`. tokens/counts: `token`, and for each `d`, its
    occurrences in every dataset.
    """
    count = tokens.count.sum(axis=0)
    yield "vocabulary", {"id": tokens.ids.tolist(), "text": token_texts, "count": count.tolist()}
    for name, (identifiers, lengths), first, stored in zip(
        tokens.names, tokens.documents, tokens.start, tokens.stored, strict=True
    ):
        starts = np.cumsum(lengths) - lengths
        begun = int(np.searchsorted(starts, stored))
        token = tokens.input[first : first + stored].tolist()
        yield f"store/{name}", {"documents": identifiers[:begun], "start": starts[:begun].tolist(), "token": token}
    for number, text in enumerate(texts):
        yield f"texts/{number}", {"token": _of_text(tokens, text, tokens.input).tolist()}
    yield "tokens/counts", {"token": listed.tolist(), "d": tokens.count[:, listed].T.tolist()}


def layer_contents(
    tokens: Tokens, layer: Layer, listed: np.ndarray, *, confidence: float, settings: dict
) -> tuple[dict[str, dict], pd.DataFrame]:
    """The contents of a layer by name, and its table of dataset-specific expert sets.

    Parameters
    ----------
    tokens
        Those of the study.
    layer
        With weights.
    listed
        Types whose experts are listed, indices into the vocabulary: (type,) int.
    confidence
        Of the intervals of scores, between 0 and 1.
    settings
        The section `browser` of the config.

    Returns
    -------
    contents : dict
        experts/LAYER: `sets`, every expert and the most frequent `pairs` and `triples` of each mode, each with `e`, its
        experts; `m`, its modes as indices into `MODES`; `n` and `d`, its tokens in all and in each dataset; `top`, for
        each kind of token, the most frequent ones: index, count and share of n; `own`, of the input tokens that
        occur at least `OFTEN` times those with the largest share of their occurrences: index, count and this share;
        `high`, `mid` and `rand`, contexts with the highest weights, with those nearest to the median, and random ones:
        dataset, place in its store, weight; in the mode "subset" `heat`, for each of these, one after another, 2
        `AROUND` + 1 digits, one for each token around it: 0 where the token has not all of the set's experts, else
        its weight in steps of `peak` / `HEATS`, rounded up.
        pairs/LAYER: `n`, tokens that select both of two experts, row by row above the diagonal.
        fours/LAYER, if they are counted: for each expert `e`, the experts of its most frequent sets of four, and `n`,
        the tokens that select all of them.
        sets/LAYER: `rows`, the columns of the table; `tested` and `specific`, (mode, dataset), numbers of sets.
        tokens/LAYER: for each of the types `listed` (`token`) the experts that it is sent to first (`expert`), and at
        all (`selected_expert`), most often, with the shares of its occurrences (`share`, `selected`).
    table : pandas.DataFrame
        As `expert_sets.specific` has it, with the columns `layer` and `mode`.
    """
    groups = np.bincount(tokens.column, minlength=len(tokens.names) * GROUPS).reshape(-1, GROUPS)
    experts = layer.experts
    numbers = {1: experts, 2: settings["pairs"], 3: settings["triples"]}
    shown, pairs, searched = [], np.zeros(0, int), []
    for index, mode in enumerate(MODES):
        written, counts = [], []
        for size in SIZES[: layer.selected.shape[1]]:
            sets = Sets(layer.selected, layer.weight, experts, mode, size)
            totals = sets.totals()
            often = np.flatnonzero(totals >= settings["minimum_occurrences"])
            written += sets.written(often).tolist()
            counts.append(sets.counts(often, tokens.column, groups.size).reshape(-1, *groups.shape))
            if (mode, size) == ("subset", 2):
                pairs = totals.reshape(experts, experts)[np.triu_indices(experts, 1)]
            if (mode, size) == ("prefix", 1):
                continue  # the same as those of "ordered"
            modes = [1, 2] if (mode, size) == ("ordered", 1) else [index]
            codes = np.arange(experts) if size == 1 else expert_sets.most_frequent(totals, numbers[size])
            for names, (member, weight) in zip(sets.written(codes).tolist(), sets.members(codes), strict=True):
                rng = np.random.default_rng([settings["seed"], layer.number, index, *names])
                one = {"e": names, "m": modes} | _received(tokens, member, weight, rng, settings)
                shown.append(one | (_heat(tokens, layer, one) if mode == "subset" else {}))
        counts = np.concatenate(counts)
        searched.append((written, counts.sum(axis=2), expert_sets.scores(counts, groups, confidence)))
    p_values = [found[3] for *_, found in searched]
    adjusted = expert_sets.adjusted(np.concatenate(p_values))
    tables, specific = [], []
    for mode, one, q in zip(MODES, searched, np.split(adjusted, np.cumsum(list(map(len, p_values)))[:-1]), strict=True):
        table, numbers = expert_sets.specific(
            *one, q, tokens.names, rate=settings["false_discovery_rate"], most=settings["specific_sets"]
        )
        tables.append(table.assign(mode=mode))
        specific.append(numbers)
    tested = [(~np.isnan(p)).sum(axis=0).tolist() for p in p_values]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "mode", table.pop("mode"))
    table.insert(0, "layer", layer.number)
    return {
        f"experts/{layer.number}": {"sets": shown},
        f"pairs/{layer.number}": {"n": pairs.tolist()},
        f"sets/{layer.number}": {"rows": _rows(table, tokens.names), "tested": tested, "specific": specific},
        f"tokens/{layer.number}": _routed(tokens, layer.selected, experts, listed),
    } | ({f"fours/{layer.number}": _fours(layer)} if counts_fours(experts, layer.selected.shape[1]) else {}), table


def counts_fours(experts: int, top_k: int) -> bool:
    """Whether sets of four are counted: tokens must have some, and their counters must fit into memory."""
    return top_k >= 4 and experts**4 <= MOST_COUNTERS


def _fours(layer: Layer) -> list[dict]:
    """The content of fours/LAYER."""
    sets = Sets(layer.selected, layer.weight, layer.experts, "subset", 4)
    totals = sets.totals()
    codes = expert_sets.most_frequent(totals, len(totals))
    written, n = sets.written(codes), totals[codes]
    mine = [np.flatnonzero((written == expert).any(axis=1))[:FOURS] for expert in range(layer.experts)]
    return [{"e": written[rows].tolist(), "n": n[rows].tolist()} for rows in mine]


def _rows(table: pd.DataFrame, names: list[str]) -> dict:
    """The columns of the table of dataset-specific sets, for the page."""
    return {
        "mode": [MODES.index(mode) for mode in table["mode"]],
        "e": [list(map(int, experts.split())) for experts in table["experts"]],
        "dataset": [names.index(name) for name in table["dataset"]],
        "n": table["tokens"].tolist(),
        "c": table["dataset_tokens"].tolist(),
    } | {name: _rounded(table[name]) for name in ("score", "low", "high", "q")}


def _received(tokens: Tokens, member: np.ndarray, weight: np.ndarray, rng: np.random.Generator, settings: dict) -> dict:
    """Counts, top and own tokens and contexts of a set from the tokens that have it and its weight there."""
    top = {}
    for kind, code in zip(tokens.kinds, tokens.code, strict=True):
        known = code[member]
        count = np.bincount(known[known != NONE], minlength=len(tokens.ids))
        most = _largest(count, TOP)
        top[kind] = _lists(most, count[most], _rounded(count[most] / len(member)))
    count, total = np.bincount(tokens.input[member], minlength=len(tokens.ids)), tokens.count.sum(axis=0)
    share = np.where(total >= OFTEN, count / np.maximum(total, 1), 0)
    most = np.lexsort((-count, -share))[:TOP]
    most = most[share[most] > 0]
    own = _lists(most, count[most], _rounded(share[most]))
    stored = tokens.is_stored[member]
    here, weight = member[stored], weight[stored]
    per_token, code = settings["per_token"], tokens.input[here]
    numbers = {name: settings[name] for name in ("highest", "random")}
    highest, random = contexts.choose(here, weight, code, rng=rng, per_token=per_token, **numbers)
    others = np.concatenate([highest, random])
    middle = contexts.middle(here, weight, code, number=settings["middle"], per_token=per_token, others=others)
    shown = {
        name: _lists(tokens.dataset[part], tokens.place[part], _rounded(weight[np.searchsorted(here, part)]))
        for name, part in (("high", highest), ("mid", middle), ("rand", random))
    }
    counts = np.bincount(tokens.dataset[member], minlength=len(tokens.names)).tolist()
    return {"n": len(member), "d": counts, "top": top, "own": own} | shown


def _heat(tokens: Tokens, layer: Layer, one: dict) -> dict:
    """`heat` and `peak` of a set of `layer_contents` with its contexts."""
    shown = np.array([line[:2] for name in ("high", "mid", "rand") for line in one[name]], np.int64).reshape(-1, 2)
    place = shown[:, 1:] + np.arange(-AROUND, AROUND + 1)
    inside = (place >= 0) & (place < tokens.size[shown[:, :1]])
    token = np.where(inside, tokens.start[shown[:, :1]] + place, 0)
    mine = layer.selected[token][..., None] == np.array(one["e"])
    weight = (layer.weight[token] * mine.any(axis=-1)).sum(axis=-1)
    weight = np.where(inside & mine.any(axis=2).all(axis=-1), weight, 0)
    peak = float(weight.max(initial=0))
    steps = np.ceil(HEATS * weight / (peak or 1) - 1e-6).astype(int).clip(0, HEATS)
    return {"heat": "".join(map(str, steps.ravel().tolist())), "peak": float(f"{peak:.3g}")}


def _lists(first: np.ndarray, second: np.ndarray, third: list[float]) -> list[list]:
    """Three columns as rows."""
    return list(map(list, zip(first.tolist(), second.tolist(), third, strict=True)))


def _largest(count: np.ndarray, number: int) -> np.ndarray:
    """Indices of the `number` largest counts above 0, the largest first, of equal ones the smaller index first."""
    key = count.astype(np.int64) * len(count) - np.arange(len(count))
    part = np.argpartition(key, -number)[-number:] if len(key) > number else np.arange(len(key))
    order = part[np.argsort(-key[part])]
    return order[count[order] > 0]


def _routed(tokens: Tokens, selected: np.ndarray, experts: int, listed: np.ndarray) -> dict:
    """The content of tokens/LAYER."""
    row = np.full(len(tokens.ids), NONE, np.int32)
    row[listed] = np.arange(len(listed))
    known = np.flatnonzero(row[tokens.input] != NONE)
    code, chosen, total = row[tokens.input[known]], selected[known], tokens.count.sum(axis=0)[listed]
    out = {"token": listed.tolist()}
    for (share, expert), part in ((("share", "expert"), chosen[:, :1]), (("selected", "selected_expert"), chosen)):
        count = vocabulary.count(code, part, len(listed), experts)
        most = np.argsort(-count, axis=0, kind="stable")[:TOP_EXPERTS]
        shares = np.take_along_axis(count, most, axis=0) / total
        out[share] = [[value for value in column if value] for column in map(_rounded, shares.T)]
        out[expert] = [column[: len(kept)] for column, kept in zip(most.T.tolist(), out[share], strict=True)]
    return out


class TextRouting:
    """The routing of the reading texts, gathered layer by layer."""

    def __init__(self, tokens: Tokens, texts: list[Text], experts: int):
        """No layers yet."""
        self._tokens, self._texts, self._experts = tokens, texts, experts
        self._layers: list[list[tuple]] = [[] for _ in texts]

    def add(self, layer: Layer, plots: list[np.ndarray | None]) -> None:
        """Keep what one layer did to the texts; `plots` are those of `read_plots`."""
        for number, (text, probability) in enumerate(zip(self._texts, plots, strict=True)):
            selected, weight = (_of_text(self._tokens, text, part).copy() for part in (layer.selected, layer.weight))
            self._layers[number].append((selected, weight, probability))

    @cached_property
    def weight_scale(self) -> float:
        """The largest weight in any text."""
        return float(max((weight.max() for text in self._layers for _, weight, _ in text), default=1))

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """texts/N-layers: expert ids (layer, token, rank), then weights, 255 w / `weight_scale`, in one byte each; an
        id has two bytes, the lower first, if there are more than 256 experts. texts/N-plots, of texts with plots:
        255 sqrt(p) (layer, token, expert) in one byte each.
        """
        for number, (text, layers) in enumerate(zip(self._texts, self._layers, strict=True)):
            selected, weight = (np.array([layer[part] for layer in layers]) for part in (0, 1))
            ids = selected.astype("<u1" if id_bytes(self._experts) == 1 else "<u2")
            yield f"texts/{number}-layers", ids.tobytes() + _bytes(weight / self.weight_scale)
            if text.plots:
                yield f"texts/{number}-plots", _bytes(np.sqrt([layer[2] for layer in layers]))


def assemble(
    tokens: Tokens,
    texts: list[Text],
    layers: Iterable[Layer],
    plots: Callable[[int], list[np.ndarray | None]],
    token_texts: list[str],
    confidence: float,
    settings: dict,
) -> tuple[DataScripts, pd.DataFrame]:
    """All data scripts, and the table of dataset-specific expert sets in all layers.

    Parameters
    ----------
    tokens, texts
        Tokens and reading texts of the study.
    layers
        With weights, in order.
    plots
        Gives those of `read_plots` for the number of a layer.
    token_texts
        Those of `tokens.ids`.
    confidence
        Of the intervals of scores, between 0 and 1.
    settings
        The section `browser` of the config.

    Returns
    -------
    scripts : DataScripts
        What the page loads, by name.
    table : pandas.DataFrame
        The tables of `layer_contents`, one layer after another.
    """
    listed = tokens.frequent(settings["minimum_count"], settings["typical_tokens"])
    experts = tallies.routing_rule(tokens.attrs)["experts"]
    scripts, routing, tables = DataScripts(), TextRouting(tokens, texts, experts), {}
    for name, content in token_contents(tokens, texts, token_texts, listed):
        scripts.add(name, content)
    for layer in layers:
        found, tables[layer.number] = layer_contents(tokens, layer, listed, confidence=confidence, settings=settings)
        for name, content in found.items():
            scripts.add(name, content)
        routing.add(layer, plots(layer.number))
    for name, content in routing.contents():
        scripts.add(name, content)
    scripts.add("index", index(tokens, texts, list(tables), routing.weight_scale, listed, settings))
    return scripts, pd.concat(tables.values(), ignore_index=True)


def index(
    tokens: Tokens, texts: list[Text], layers: list[int], weight_scale: float, listed: np.ndarray, settings: dict
) -> dict:
    """The content of `index`: what the page must know at first.

    Parameters
    ----------
    tokens, texts
        Tokens and reading texts of the study.
    layers
        Numbers of the layers.
    weight_scale
        The largest weight in any text, by which weights are divided.
    listed
        Types whose experts are listed: (type,) int.
    settings
        The section `browser` of the config.

    Returns
    -------
    dict
        Of what JSON can hold.
    """
    rule = tallies.routing_rule(tokens.attrs)
    return {
        "model": tokens.attrs["model"],
        "checkpoint": tokens.attrs["checkpoint"],
        "layers": layers,
        "experts": rule["experts"],
        "top_k": rule["top_k"],
        "probability": tallies.probability_name(tokens.attrs),
        "kinds": tokens.kinds,
        "datasets": [
            {"name": name, "tokens": size, "documents": len(lengths), "stored": stored}
            for name, size, (_, lengths), stored in zip(
                tokens.names, tokens.size.tolist(), tokens.documents, tokens.stored.tolist(), strict=True
            )
        ],
        "modes": list(MODES),
        "contexts": {name: settings[name] for name in CONTEXTS} | {"around": AROUND, "heats": HEATS},
        "pairs": settings["pairs"],
        "triples": settings["triples"],
        "fours": counts_fours(rule["experts"], rule["top_k"]),
        "minimum_occurrences": settings["minimum_occurrences"],
        "false_discovery_rate": settings["false_discovery_rate"],
        "texts": [
            {"dataset": tokens.names[text.dataset]}
            | {name: getattr(text, name) for name in ("document", "tokens", "plots")}
            for text in texts
        ],
        "typical_tokens": len(listed),
        "minimum_count": settings["minimum_count"],
        "often": OFTEN,
        "id_bytes": id_bytes(rule["experts"]),
        "weight_scale": weight_scale,
        "weight_is_probability": (rule["weighting"], rule["normalised"], rule["scale"]) == ("scores", False, 1),
    }


def id_bytes(experts: int) -> int:
    """Bytes of an expert id in the contents of texts."""
    return 1 if experts <= 256 else 2


def size_by_kind(sizes_by_path: dict[str, int]) -> dict[str, int]:
    """Bytes of the files of a folder, from those of every path, by folder or, for those of texts, by what they hold."""
    sizes: dict[str, int] = {}
    for path, size in sizes_by_path.items():
        kind = path.removesuffix(".js").split("/")[0]
        kind = "plots" if path.endswith("-plots.js") else kind
        sizes[kind] = sizes.get(kind, 0) + size
    return sizes


def _of_text(tokens: Tokens, text: Text, values: np.ndarray) -> np.ndarray:
    """A text's part of values (token, ...)."""
    first = tokens.start[text.dataset] + text.start
    return values[first : first + text.tokens]


def _bytes(share: np.ndarray) -> bytes:
    """Values from 0 to 1 as bytes from 0 to 255."""
    return np.round(255 * np.asarray(share)).astype(np.uint8).tobytes()


def _rounded(values: np.ndarray) -> list[float]:
    """Numbers with 3 significant digits."""
    return [float(f"{value:.3g}") for value in np.asarray(values).tolist()]
