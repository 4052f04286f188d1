"""Expert profiles: all that a study knows about one expert, for every expert of every layer.

A profile joins what the chapters found (loads, domains, top tokens, co-activation, similarity, ablation) with what is
counted here from the records: the router entropy of the tokens that select the expert, their types (`token_types`), the
ranks that they give it, and a few of them in their context. report/schemas/expert_profile.schema.json says what each
value is.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import xarray as xr

from gatebook.chapters.vocabulary_specialization import OFTEN
from gatebook.inputs.clusters import GROUPS
from gatebook.measures import contexts, uncertainty, vocabulary
from gatebook.measures.token_types import TYPES, classify
from gatebook.study.routed import NONE, Layer, slices

ORDERS = {"most_frequent": "count", "most_specific": "share"}
"""List of top tokens: the order of `vocabulary_specialization` that it has."""
TOP = 5
"""Top tokens in each list."""
OWN = 40
"""Own tokens of an expert, at most."""
IN_A_ROW = {"types": 2, "tokens": 5, "partners": 3}
"""How many of each list a row of the page shows."""


def count(layer: Layer, token_type: np.ndarray, group: np.ndarray) -> xr.Dataset:
    """Counts of a layer by group of documents, from the type (index into `TYPES`) and group of every token (token,).

    `tokens`, `entropy_sum` (group, expert) and `type_tokens` (group, expert, type), of those that select an expert.
    """
    cells, types, top_k = GROUPS * layer.experts, len(TYPES), layer.selected.shape[1]
    type_tokens, entropy_sum = np.zeros(cells * types, np.int64), np.zeros(cells)
    for block in slices(len(group)):
        cell = (group[block].astype(np.int32)[:, None] * layer.experts + layer.selected[block]).ravel()
        entropy_sum += np.bincount(cell, np.repeat(layer.entropy[block], top_k), minlength=cells)
        kind = np.repeat(token_type[block].astype(np.int32), top_k)
        type_tokens += np.bincount(cell * types + kind, minlength=cells * types)
    dims, shape = ("group", "expert"), (GROUPS, layer.experts)
    type_tokens = type_tokens.reshape(*shape, types)
    return xr.Dataset(
        {
            "tokens": (dims, type_tokens.sum(axis=-1)),
            "entropy_sum": (dims, entropy_sum.reshape(shape)),
            "type_tokens": ((*dims, "type"), type_tokens),
        }
    )


def shares(counts: xr.Dataset, confidence: float) -> xr.Dataset:
    """Mean entropy in nats, `entropy` (expert, interval), and `type_share` (expert, type, interval), from the counts.

    Intervals are those of the jackknife over groups of clusters; NaN for an expert that is never selected.
    """
    draws = uncertainty.without_each(counts)
    tokens = draws["tokens"].where(draws["tokens"] > 0)
    limits = (0, np.log(counts.sizes["expert"]))
    return xr.Dataset(
        {
            "entropy": uncertainty.jackknife(draws["entropy_sum"] / tokens, confidence, limits),
            "type_share": uncertainty.jackknife(draws["type_tokens"] / tokens, confidence, (0, 1)),
        }
    )


def profiles(
    layer: Layer,
    tokens: xr.Dataset,
    token_type: np.ndarray,
    metrics: dict[str, xr.Dataset],
    decode: Callable[[np.ndarray], str],
    *,
    confidence: float,
    partners: int,
    highest: int,
    per_token: int,
    random: int,
    around: int,
    seed: int,
) -> list[dict]:
    """The profiles of all experts of a layer, as the schema has them.

    Parameters
    ----------
    layer
        With weights and entropy.
    tokens
        Those of `routed.read`.
    token_type
        Types of the input tokens: (token,).
    metrics
        Those of the chapters selection_frequency, domain_specialization, vocabulary_specialization and coactivation,
        and, if there are any, similarity, logit_lens, expert_ablation and annotation.
    decode
        Turns token ids into text.
    confidence
        Of the intervals, between 0 and 1.
    partners
        So many experts that work with it are shown, and as many that are alike.
    highest, per_token, random
        How many contexts are shown, see `contexts.choose`.
    around
        Tokens of the document on either side of a context.
    seed
        Of the random contexts.

    Returns
    -------
    list of dict
        One for each expert.
    """
    found = {name: values.sel(layer=layer.number) for name, values in metrics.items()}
    counts = count(layer, token_type, tokens["group"].values)
    means = shares(counts, confidence)
    token_id = tokens["token_id"].sel(kind="input").values
    per_expert = {
        "load": _loads(found["selection_frequency"], layer, counts["tokens"].sum("group").values.tolist()),
        "entropy": _entropies(means["entropy"], layer),
        "domains": _domains(found["domain_specialization"]),
        "top_tokens": _top_tokens(found["vocabulary_specialization"], layer),
        "own_tokens": own_tokens(token_id, layer, decode),
        "token_types": _token_types(means["type_share"], token_type),
        "partners": _partners(found["coactivation"], partners),
    }
    if "similarity" in found:
        per_expert["nearest"] = _nearest(found["similarity"], partners)
    if "logit_lens" in found:
        per_expert["logits"] = _logits(found["logit_lens"])
    if "expert_ablation" in found and found["expert_ablation"]["loss_change"].notnull().any():
        per_expert["ablation"] = _ablation(found["expert_ablation"])
    if "annotation" in found:
        per_expert["label"] = _labels(found["annotation"])
    top_k = layer.selected.shape[1]
    out = []
    for expert in range(layer.experts):
        slots = np.flatnonzero(layer.selected == expert)
        place, rank = np.divmod(slots, top_k)
        weight = layer.weight.ravel()[slots]
        chosen = contexts.choose(
            place,
            weight,
            token_id[place],
            highest=highest,
            per_token=per_token,
            random=random,
            rng=np.random.default_rng([seed, layer.number, expert]),
        )
        shown = {
            name: [
                _excerpt(tokens, token_id, int(position), around, decode)
                | {"weight": number(weight[np.searchsorted(place, position)])}
                for position in positions
            ]
            for name, positions in zip(("highest", "random"), chosen, strict=True)
        }
        out.append(
            {
                "model": tokens.attrs["model"],
                "checkpoint": tokens.attrs["checkpoint"],
                "layer": layer.number,
                "expert": expert,
                "tokens": tokens.sizes["token"],
                "ranks": np.bincount(rank, minlength=top_k).tolist(),
                **{name: values[expert] for name, values in per_expert.items()},
                "contexts": shown,
            }
        )
    return out


def number(value: float) -> float | None:
    """A number with 4 significant digits; None for what is not a finite number, which JSON does not have."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def interval(values: np.ndarray) -> dict[str, float | None]:
    """An estimate with its interval from the three numbers."""
    return dict(zip(uncertainty.INTERVAL, map(number, values), strict=True))


def _values(array: xr.DataArray, *dims: str) -> np.ndarray:
    """The values of an array, (*dims, interval), or (*dims) if it has no intervals."""
    if "interval" in array.dims:
        array, dims = array.sel(interval=list(uncertainty.INTERVAL)), (*dims, "interval")
    return array.transpose(*dims).values


def _loads(frequency: xr.Dataset, layer: Layer, tokens: list[int]) -> list[dict]:
    pooled = frequency.sel(dataset=uncertainty.POOLED)
    selected, first = (_values(pooled[name], "expert") for name in ("selection_frequency", "first_share"))
    first_tokens = np.bincount(layer.selected[:, 0], minlength=layer.experts).tolist()
    even = layer.selected.shape[1] / layer.experts
    return [
        {
            "selected_tokens": tokens[expert],
            "selected_share": interval(selected[expert]),
            "times_even": interval(selected[expert] / even),
            "first_tokens": first_tokens[expert],
            "first_share": interval(first[expert]),
        }
        for expert in range(layer.experts)
    ]


def _entropies(entropy: xr.DataArray, layer: Layer) -> list[dict]:
    largest = np.log(max(layer.experts, 2))
    everywhere = number(layer.entropy.mean(dtype=np.float64) / largest)
    return [
        {"nats": interval(mine), "normalised": interval(mine / largest), "normalised_all_tokens": everywhere}
        for mine in _values(entropy, "expert")
    ]


def _domains(specialization: xr.Dataset) -> list[list[dict]]:
    specialization = specialization.drop_sel(dataset=uncertainty.POOLED)
    names = specialization["dataset"].values.tolist()
    share = _values(specialization["specialization"], "expert", "dataset")
    p = _values(specialization["adjusted_p_value"], "expert", "dataset")
    return [
        [
            {"dataset": name, "share": interval(one), "adjusted_p": number(adjusted)}
            for name, one, adjusted in zip(names, *parts, strict=True)
        ]
        for parts in zip(share, p, strict=True)
    ]


def _top_tokens(specialization: xr.Dataset, layer: Layer) -> list[dict]:
    texts = dict(
        zip(specialization["token_id"].values.tolist(), specialization["token_text"].values.tolist(), strict=True)
    )
    first = np.bincount(layer.selected[:, 0], minlength=layer.experts)
    out: list[dict] = [{} for _ in range(layer.experts)]
    for kind in specialization["kind"].values.tolist():
        for name, order in ORDERS.items():
            top = specialization.sel(kind=kind, order=order)
            parts = (_values(top[part], "expert", "place").tolist() for part in ("top_token", "top_count", "top_share"))
            for expert, rows in enumerate(zip(*parts, strict=True)):
                out[expert].setdefault(kind, {})[name] = [
                    {
                        "token_id": token,
                        "text": texts[token],
                        "count": times,
                        "share_of_expert": number(times / first[expert]),
                        "share_of_token": number(share),
                    }
                    for token, times, share in list(zip(*rows, strict=True))[:TOP]
                    if token != NONE
                ]
    return out


def own_tokens(token_id: np.ndarray, layer: Layer, decode: Callable[[np.ndarray], str]) -> list[list[str]]:
    """For every expert the texts of the ids (token,) of which it is mostly the first choice, the most frequent first.

    Mostly: for more than half of their occurrences, of which there are at least `OFTEN`.
    """
    ids, code, size = np.unique(token_id, return_inverse=True, return_counts=True)
    number = vocabulary.count(code, layer.selected[:, :1], len(ids), layer.experts)
    out = []
    for mine in number:
        own = np.flatnonzero((2 * mine > size) & (size >= OFTEN))
        most = own[np.argsort(-mine[own], kind="stable")][:OWN]
        out.append([vocabulary.escaped(decode(ids[[place]])) for place in most])
    return out


def _token_types(type_share: xr.DataArray, token_type: np.ndarray) -> list[list[dict]]:
    everywhere = np.bincount(token_type, minlength=len(TYPES)) / len(token_type)
    return [
        [
            {"type": name, "share": interval(share), "share_of_all_tokens": number(overall)}
            for name, share, overall in zip(TYPES, mine, everywhere, strict=True)
        ]
        for mine in _values(type_share, "expert", "type")
    ]


def _partners(coactivation: xr.Dataset, most: int) -> list[list[dict]]:
    names = ("lift", "lift_low", "lift_high", "coactivation", "adjusted_p")
    lift, low, high, share, p = (_values(coactivation[name], "expert", "other") for name in names)
    tested = np.where(np.isfinite(p), lift, np.nan)
    return [
        [
            {
                "expert": other,
                "lift": interval(np.array([part[expert, other] for part in (lift, low, high)])),
                "coactivation": number(share[expert, other]),
                "adjusted_p": number(p[expert, other]),
            }
            for other in _largest(tested[expert], most)
        ]
        for expert in range(len(lift))
    ]


def _nearest(similarity: xr.Dataset, most: int) -> list[list[dict]]:
    names = ("mean_removed_cosine", "output_cosine", "cka")
    pairs = {name: _values(similarity[f"pair_{name}"], "expert", "other") for name in names}
    others = pairs["mean_removed_cosine"].copy()
    np.fill_diagonal(others, np.nan)
    return [
        [
            {"expert": other} | {name: number(values[expert, other]) for name, values in pairs.items()}
            for other in _largest(mine, most)
        ]
        for expert, mine in enumerate(others)
    ]


def _logits(lens: xr.Dataset) -> list[dict]:
    texts = dict(zip(lens["token_id"].values.tolist(), lens["token_text"].values.tolist(), strict=True))
    measures = {name: _values(lens[name], "expert") for name in ("attribution", "promotion")}
    tokens = {
        name: [lens[f"{name}_{part}"].transpose("expert", ...).values.tolist() for part in ("token", "logit")]
        for name in ("promoted", "suppressed")
    }
    return [
        {name: interval(values[expert]) for name, values in measures.items()}
        | {
            name: [
                {"token_id": token, "text": texts[token], "logit": number(logit)}
                for token, logit in zip(*(part[expert] for part in parts), strict=True)
                if token != NONE
            ]
            for name, parts in tokens.items()
        }
        for expert in range(lens.sizes["expert"])
    ]


def _ablation(removed: xr.Dataset) -> list[dict]:
    change = removed["loss_change"]
    whole, each = _values(change.sel(dataset=uncertainty.POOLED), "expert"), change.drop_sel(dataset=uncertainty.POOLED)
    names, p = each["dataset"].values.tolist(), removed["adjusted_p_value"].values
    return [
        {
            "loss_change": interval(mine),
            "adjusted_p": number(p[expert]),
            "most": {"dataset": names[place], "loss_change": interval(of[place])},
        }
        for expert, (mine, of) in enumerate(zip(whole, _values(each, "expert", "dataset"), strict=True))
        for place in [int(np.nan_to_num(of[:, 0], nan=-np.inf).argmax())]
    ]


def _labels(annotation: xr.Dataset) -> list[dict]:
    names, named = annotation["label"].values.tolist(), annotation["named_label"].values.tolist()
    accuracy, precision = (_values(annotation[f"expert_{name}"], "expert") for name in ("accuracy", "precision"))
    return [
        {
            "name": names[label] if label >= 0 else None,
            "accuracy": interval(accuracy[expert]),
            "precision": interval(precision[expert]),
            "by_model": names[named[expert]] if named[expert] >= 0 else None,
            "in_its_own_words": str(annotation["written"].values[expert]),
        }
        for expert, label in enumerate(annotation["best_label"].values.tolist())
    ]


def _largest(values: np.ndarray, most: int) -> list[int]:
    """Places of the `most` largest values, largest first; NaN are left out, ties keep their order."""
    order = np.argsort(-values, kind="stable")
    return order[np.isfinite(values[order])][:most].tolist()


def _excerpt(
    tokens: xr.Dataset, token_id: np.ndarray, position: int, around: int, decode: Callable[[np.ndarray], str]
) -> dict:
    """A token in its document, as text."""
    starts = tokens["start"].values
    document = int(np.searchsorted(starts, position, side="right")) - 1
    first = int(starts[document])
    end = int(starts[document + 1]) if document + 1 < len(starts) else len(token_id)
    return {
        "dataset": tokens["name"].values[tokens["dataset"].values[position]],
        "document": tokens["document_id"].values[document],
        "position": position - first,
        "before": decode(token_id[max(first, position - around) : position]),
        "token": decode(token_id[position : position + 1]),
        "after": decode(token_id[position + 1 : min(end, position + 1 + around)]),
    }


def decoder(tokenizer) -> Callable[[np.ndarray], str]:
    """A function from token ids (token,) to their text, with the blank before the first word, from a tokenizer of
    transformers; tokens that together are no whole character become U+FFFD."""

    def decode(ids: np.ndarray) -> str:
        if not len(ids):
            return ""
        text = tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
        marked = tokenizer.convert_ids_to_tokens(int(ids[0])).startswith("▁")  # SentencePiece drops this blank
        return " " + text if marked and not text.startswith(" ") else text

    return decode


def texts(ids: np.ndarray, tokenizer) -> tuple[list[str], list[bool]]:
    """The texts of token ids (id,), as `decoder` gives them, and which ids are special; `tokenizer` of transformers."""
    decode = decoder(tokenizer)
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids) | {number for number, token in added.items() if token.special}
    return [decode(ids[[index]]) for index in range(len(ids))], [one in special for one in ids.tolist()]


def types(token_id: np.ndarray, tokenizer) -> np.ndarray:
    """The types of tokens (token,), int8 (token,), see `token_types.classify`; `tokenizer` is one of transformers."""
    ids, place = np.unique(token_id, return_inverse=True)
    return classify(*texts(ids, tokenizer))[place]


def table(found: list[dict]) -> pd.DataFrame:
    """The scalars of profiles as rows, one per expert."""
    return pd.DataFrame([_row(profile) for profile in found])


def _row(profile: dict) -> dict:
    def parts(name: str, values: dict) -> dict:
        return {name: values["estimate"], f"{name}_low": values["low"], f"{name}_high": values["high"]}

    def first(values: list[dict]) -> dict:
        return values[0] if values else {}

    load, entropy = profile["load"], profile["entropy"]
    domain, partner, nearest = top_domain(profile), first(profile["partners"]), first(profile.get("nearest", []))
    lift, logits = partner.get("lift", {}), profile.get("logits", {})
    return (
        {name: profile[name] for name in ("layer", "expert")}
        | {"selected_tokens": load["selected_tokens"]}
        | parts("selected_share", load["selected_share"])
        | {"first_tokens": load["first_tokens"]}
        | parts("first_share", load["first_share"])
        | parts("times_even", load["times_even"])
        | parts("normalised_entropy", entropy["normalised"])
        | {"top_dataset": domain["dataset"]}
        | parts("top_dataset_share", domain["share"])
        | {f"top_{kind}_token": first(top["most_frequent"]).get("text") for kind, top in profile["top_tokens"].items()}
        | {f"share_of_{one['type'].replace(' ', '_')}": one["share"]["estimate"] for one in profile["token_types"]}
        | {"top_partner": partner.get("expert"), "top_partner_lift": lift.get("estimate")}
        | {"nearest_expert": nearest.get("expert"), "nearest_cosine": nearest.get("mean_removed_cosine")}
        | {"attribution": logits.get("attribution", {}).get("estimate")}
        | {f"{kind}_token": first(logits.get(kind, [])).get("text") for kind in ("promoted", "suppressed")}
        | (parts("loss_change", profile["ablation"]["loss_change"]) if "ablation" in profile else {})
        | ({"label": profile["label"]["name"]} if "label" in profile else {})
        | (parts("label_accuracy", profile["label"]["accuracy"]) if "label" in profile else {})
    )


def top_domain(profile: dict) -> dict:
    """The dataset of whose tokens the largest share selects the expert."""
    return max(profile["domains"], key=lambda domain: domain["share"]["estimate"])


def typical_types(profile: dict) -> list[dict]:
    """The token types that are more frequent among the expert's tokens than among all, by the difference of shares.

    More frequent means that the whole interval is above the share of all tokens.
    """
    more = [one for one in profile["token_types"] if (one["share"]["low"] or 0) > one["share_of_all_tokens"]]
    return sorted(more, key=lambda one: one["share_of_all_tokens"] - one["share"]["estimate"])


def page(found: list[dict], false_discovery_rate: float) -> dict:
    """What the page of all profiles shows: the token types with their meaning, the datasets, and a row per expert.

    Of a row, `load` is the share of the tokens that select the expert with the ends of its interval, `domain` the
    dataset of whose tokens the largest share does, with this share; `own` are its own tokens, which the page searches;
    `shares`, for every dataset the share of its tokens that select the expert, the ends of its interval, and whether it
    stands out at the false discovery rate (between 0 and 1), 1 or 0; `partners` and `nearest` are other experts with
    lift and cosine; `promoted` the tokens whose logits it raises most; `label` what it is for, with the balanced
    accuracy, or nothing.
    """
    most, shown = IN_A_ROW["partners"], IN_A_ROW["tokens"]
    return {
        "types": [{"name": name, "meaning": meaning} for name, meaning in TYPES.items()],
        "datasets": [domain["dataset"] for domain in found[0]["domains"]],
        "tokens": found[0]["tokens"],
        "false_discovery_rate": false_discovery_rate,
        "often": OFTEN,
        "own": OWN,
        "similarity": "nearest" in found[0],
        "logits": "logits" in found[0],
        "labels": "label" in found[0],
        "rows": [
            {name: profile[name] for name in ("layer", "expert", "ranks")}
            | {"file": file_name(profile), "load": _ends(profile["load"]["selected_share"])}
            | {name: profile["load"][name]["estimate"] for name in ("times_even", "first_share")}
            | {"entropy": profile["entropy"]["normalised"]["estimate"], "domain": _of_domain(top_domain(profile))}
            | {"shares": [_marked(one, false_discovery_rate) for one in profile["domains"]]}
            | {"types": typical_types(profile)[: IN_A_ROW["types"]]}
            | {
                name: _texts(profile, f"most_{kind}")
                for name, kind in (("tokens", "frequent"), ("specific", "specific"))
            }
            | {"own": profile["own_tokens"]}
            | {"partners": [[one["expert"], one["lift"]["estimate"]] for one in profile["partners"]][:most]}
            | {"nearest": [[one["expert"], one["mean_removed_cosine"]] for one in profile.get("nearest", [])][:most]}
            | {"promoted": [token["text"] for token in profile.get("logits", {}).get("promoted", [])][:shown]}
            | {"label": _of_label(profile.get("label", {}))}
            for profile in found
        ],
    }


def _texts(profile: dict, kind: str) -> list[str]:
    return [token["text"] for token in profile["top_tokens"]["input"][kind][: IN_A_ROW["tokens"]]]


def _of_domain(domain: dict) -> list:
    return [domain["dataset"], *_ends(domain["share"])]


def _of_label(label: dict) -> list:
    return [label["name"], *_ends(label["accuracy"])] if label.get("name") else []


def _marked(domain: dict, rate: float) -> list:
    p = domain["adjusted_p"]
    return [*_ends(domain["share"]), int(p is not None and p <= rate)]


def _ends(share: dict) -> list:
    """An estimate and the ends of its interval, as the page shows them."""
    return [share["estimate"], *(None if share[end] is None else round(share[end], 3) for end in ("low", "high"))]


def file_name(profile: dict) -> str:
    """The file of a profile, below the folder of its checkpoint."""
    return f"layer_{profile['layer']}/expert_{profile['expert']}.json"
