"""The picture of the report's first screen: every expert of a model as a tile, by what it serves beyond its share.

A tile shows a dataset if the chapter domain specialization found that the expert serves one, else the type of token
that is furthest above its share among the expert's tokens, else nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count

from gatebook.figures.words import format_estimate, format_number

COLOURS, LISTED = 6, 5
"""Datasets with a colour of their own, the others share one, and their letters tell them apart; and how many experts
of a dataset are listed."""
NOTHING, OTHERS, TYPE = "nothing", "others", "type"


def codes(names: Iterable[str]) -> dict[str, str]:
    """Two characters for each name, no two alike: its first one, and a later one or else a digit."""
    found: dict[str, str] = {}
    for name in names:
        first, *later = [character for character in name if character.isalnum()] or ["?"]
        options = (first.upper() + each.lower() for part in (later, map(str, count(1))) for each in part)
        found[name] = next(option for option in options if option not in found.values())
    return found


def typical(rows: Iterable[dict], border: float) -> dict[tuple[int, int], dict]:
    """For (layer, expert) the first type of its tokens whose share is above that of all tokens by `border` or more.

    `rows` are those of the page of expert profiles; the lower end of a share's interval counts.
    """
    return {
        (row["layer"], row["expert"]): one
        for row in rows
        for one in row["types"][:1]
        if one["share"]["low"] is not None and one["share"]["low"] - one["share_of_all_tokens"] >= border
    }


def picture(
    *,
    layers: Sequence[int],
    experts: int,
    datasets: Sequence[str],
    served: Sequence[dict],
    types: dict[tuple[int, int], dict],
) -> dict:
    """What the template of the first page draws for one model.

    Parameters
    ----------
    layers, experts
        Of the model: numbers of the layers, and how many experts each has.
    datasets
        Names, in the order of the study.
    served
        What `served` of the chapter domain specialization gives, the furthest above first.
    types
        Those of `typical`.

    Returns
    -------
    dict
        `layers`, a list of {layer, tiles}, a tile being {expert, code, style, strong, text}: two characters or "", the
        name of a style, whether the effect is large, and a sentence; `legend`, a list of {code, style, name, tiles};
        `datasets`, a list of {code, name, experts, more} for every dataset: {layer, expert, share} of the experts that
        serve it, the furthest above first, and how many more there are; `idle`, how many tiles show nothing.
    """
    of_expert: dict[tuple[int, int], list[dict]] = {}
    for one in served:
        of_expert.setdefault((one["layer"], one["expert"]), []).append(one)
    # The share of every dataset stands over the same mean, so the largest share is also the furthest above.
    shown = {place: sorted(found, key=lambda one: -one["share"]) for place, found in of_expert.items()}
    of_types = {place: one for place, one in types.items() if place not in shown}
    tiles = Counter(found[0]["dataset"] for found in shown.values())
    ranked = sorted(tiles, key=lambda name: (-tiles[name], datasets.index(name)))
    styles = {name: f"colour-{number}" if number <= COLOURS else OTHERS for number, name in enumerate(ranked, 1)}
    of_type = Counter(one["type"] for one in of_types.values())
    kinds = [name for name, _ in of_type.most_common()]
    letters, small = codes(datasets), {name: code.lower() for name, code in codes(kinds).items()}

    def tile(layer: int, expert: int) -> dict:
        place = f"Layer {layer} expert {expert}"
        found, kind = shown.get((layer, expert)), of_types.get((layer, expert))
        if found:
            name, strong = found[0]["dataset"], found[0]["effect"] == "large"
            code, style, text = letters[name], styles[name], f"{place} serves {name}: {_dataset(found)}."
        elif kind:
            code, style, strong = small[kind["type"]], TYPE, False
            text = f"{place} serves {kind['type']} tokens: {_type(kind)}."
        else:
            code, style, strong, text = "", NOTHING, False, f"{place} serves nothing beyond its share."
        return {"expert": expert, "code": code, "style": style, "strong": strong, "text": text}

    rows = [{"layer": layer, "tiles": [tile(layer, expert) for expert in range(experts)]} for layer in layers]
    legend = [{"code": letters[name], "style": styles[name], "name": name, "tiles": tiles[name]} for name in ranked]
    legend += [{"code": small[name], "style": TYPE, "name": f"{name} tokens", "tiles": of_type[name]} for name in kinds]
    return {
        "layers": rows,
        "legend": legend,
        "datasets": [
            {
                "code": letters[name],
                "name": name,
                "experts": [
                    {"layer": one["layer"], "expert": one["expert"], "share": _share(one)} for one in mine[:LISTED]
                ],
                "more": len(mine[LISTED:]),
            }
            for name in datasets
            for mine in [[one for one in served if one["dataset"] == name]]
        ],
        "idle": len(layers) * experts - len(shown) - len(of_types),
    }


def _percent(share: float) -> str:
    return f"{format_number(round(100 * share))} %"


def _share(one: dict) -> str:
    return f"{format_estimate(*(100 * one[part] for part in ('share', 'low', 'high'))).estimate} %"


def _dataset(found: list[dict]) -> str:
    first, *others = found
    also = f"; also {', '.join(one['dataset'] for one in others)}" if others else ""
    return f"{_share(first)} of its tokens, {_percent(first['usual'])} of the average dataset's{also}"


def _type(kind: dict) -> str:
    share = format_estimate(*(100 * kind["share"][part] for part in ("estimate", "low", "high"))).estimate
    return f"{share} % of the expert's tokens, {_percent(kind['share_of_all_tokens'])} of all"
