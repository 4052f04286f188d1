"""Probes: the words of the embedded stories, generated prompts of capabilities, or files (`inputs.probes`)."""

from collections.abc import Mapping

from gatebook.problem import Problem

KEYS = {"demo": (), "files": ("files",), "generated": ("names", "each", "seed")}
"""By source, the keys that its entries need, beside which they have none."""


def selected(config: Mapping) -> dict[str, dict]:
    """The entries of the catalogue `probes` that the study selects, by name; a `Problem` for keys that do not fit."""
    catalogue, found = config["probes"], {}
    for name in config["study"]["probes"]:
        if name not in catalogue:
            known = ", ".join(catalogue) or "none"
            raise Problem(
                f"config: study.probes: {name!r} is not in the catalogue `probes` ({known}): use one of it, or add it."
            )
        entry = catalogue[name]
        source, keys = entry["source"], {key for key in entry if key != "source"}
        for wrong, remedy in ((set(KEYS[source]) - keys, "write it"), (keys - set(KEYS[source]), "remove it")):
            if wrong:
                raise Problem(f"config: probes.{name}.{min(wrong)} with `source: {source}`: {remedy}.")
        found[name] = dict(entry)
    return found


def files(entries: Mapping[str, Mapping]) -> dict[str, str]:
    """The files of selected entries, by their keys in the config."""
    return {
        f"probes.{name}.files[{number}]": path
        for name, entry in entries.items()
        for number, path in enumerate(entry.get("files", []))
    }
