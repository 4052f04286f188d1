"""What the expert browser does without when its data would be too large: by fixed rules, one after another.

Each rule takes one kind of detail away everywhere; the page says which. Counts, tests, single experts and their
contexts stay.
"""

from collections.abc import Callable

from gatebook.files.data_scripts import DataScripts


def _without_plots(scripts: DataScripts, index: dict) -> None:
    for name in [name for name in scripts if name.endswith("-plots")]:
        scripts.remove(name)
    index["texts"] = [text | {"plots": False} for text in index["texts"]]


def _of_layers(scripts: DataScripts, change: Callable[[list[dict]], list[dict]]) -> None:
    """Change the sets of every layer."""
    for name in [name for name in scripts if name.startswith("experts/")]:
        scripts.add(name, {"sets": change(scripts.content(name)["sets"])})


def _without_shades(scripts: DataScripts, index: dict) -> None:
    def plain(one: dict) -> dict:
        return {key: value for key, value in one.items() if len(one["e"]) == 1 or key not in ("heat", "peak")}

    _of_layers(scripts, lambda sets: list(map(plain, sets)))


def _without_sets(size: int, key: str) -> Callable[[DataScripts, dict], None]:
    def drop(scripts: DataScripts, index: dict) -> None:
        _of_layers(scripts, lambda sets: [one for one in sets if len(one["e"]) != size])
        index[key] = 0

    return drop


def _without_maps(scripts: DataScripts, index: dict) -> None:
    for name in [name for name in scripts if name.startswith("inputs/")]:
        scripts.remove(name)
    index["inputs"] = False


def _with_one_text(scripts: DataScripts, index: dict) -> None:
    seen, kept = set(), []
    for number, text in enumerate(index["texts"]):
        names = [name for name in scripts if name.split("-")[0] == f"texts/{number}"]
        contents = {name: scripts.content(name) for name in names}
        for name in names:
            scripts.remove(name)
        if text["dataset"] not in seen:
            for name, content in contents.items():
                scripts.add(name.replace(f"texts/{number}", f"texts/{len(kept)}", 1), content)
            kept.append(text)
        seen.add(text["dataset"])
    index["texts"] = kept


RULES: dict[str, Callable[[DataScripts, dict], None]] = {
    "the probabilities of all experts in reading texts": _without_plots,
    "shades in the contexts of pairs and triples": _without_shades,
    "tokens and contexts of triples": _without_sets(3, "triples"),
    "more than one reading text of a dataset": _with_one_text,
    "maps of router inputs": _without_maps,
    "tokens and contexts of pairs": _without_sets(2, "pairs"),
}
"""What is left out, in words, and how, in this order."""


def fitted(scripts: DataScripts, megabytes: float) -> list[str]:
    """Take detail out of the browser's scripts until they take at most so many MB; returns what was left out, in words.

    The scripts' `index` says it too, as `dropped`, with the budget, `megabytes`. If nothing more can be left out they
    stay larger.
    """
    dropped: list[str] = []
    index = scripts.content("index") | {"dropped": dropped, "megabytes": float(f"{megabytes:.3g}")}
    scripts.add("index", index)
    for words, drop in RULES.items():
        if sum(scripts.sizes().values()) <= 1e6 * megabytes:
            break
        drop(scripts, index)
        dropped.append(words)
        scripts.add("index", index)
    return dropped
