"""The probes that a study selects, from their entries in the catalogue."""

from collections.abc import Mapping

from gatebook.inputs import capability_prompts, probes


def read(entries: Mapping[str, Mapping]) -> list[probes.Probe]:
    """The probes of all entries, by name, each with `source` and the keys of that; no two of them have one name."""
    return probes.told_apart({name: _read(entry) for name, entry in entries.items()})


def _read(entry: Mapping) -> list[probes.Probe]:
    if entry["source"] == "demo":
        return probes.of_demo()
    if entry["source"] == "files":
        return [probe for path in entry["files"] for probe in probes.read(path)]
    wanted = capability_prompts.Generated(entry["names"], entry["each"], entry["seed"])
    return capability_prompts.generate(wanted)
