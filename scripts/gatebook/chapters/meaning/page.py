"""The page of the chapter meaning: figures and findings."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure as Drawing

from gatebook.chapters.base.page import (
    JACKKNIFE,
    ORDER,
    Brief,
    Figure,
    Finding,
    Null,
    Seen,
    change,
    checkpoints,
    ends,
    estimate,
    held,
    hundredfold,
    numbers,
    over_layers,
    percent,
    pooled,
    reference,
    rounded,
    series,
    side,
    trained,
    verdict,
)
from gatebook.figures import plotting
from gatebook.figures.explored import Word, Words
from gatebook.figures.flow import flow
from gatebook.figures.plotting import Reference, Series
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import table
from gatebook.measures.uncertainty import POOLED

NOTHING = Null("no difference", 0.0)
SHARES = ["meaning_share", "meaning_share_any_previous", "same_meaning", "other_meaning"]
TOLD = {"best layer": "layer_tells", "path": "path_tells"}


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter: of words, and of capabilities, as far as such probes were measured."""
    found = []
    if _known(seen.metrics, "meaning_share"):
        found += [_by_layer(seen), _by_word(seen), _overlaps(seen.metrics), _told(seen)]
        found += [_flows(seen.metrics)] if seen.metrics.sizes["flow"] else []
    if _known(seen.metrics, "capability_share"):
        found += [_capabilities(seen)]
    return found or [_by_word(seen)]


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that could not be measured are left out."""
    found = []
    if _known(seen.metrics, "meaning_share"):
        found += [_finding_meaning(seen), *_finding_trained(seen), _finding_path(seen)]
    if _known(seen.metrics, "capability_share"):
        found += [_finding_capability(seen)]
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """Whether meaning decides where words go."""
    known = {finding.measure: finding for finding in reversed(findings(seen))}
    if "meaning_share" not in known:
        return None
    found = known["meaning_share"]
    if found.verdict != "yes":
        return Brief("Nothing shows that the meaning of a word decides where it goes.", found.figure)
    value = percent((found.estimate, found.low, found.high))
    return Brief(f"Meaning settles {value} of what a word's token id leaves open of where it goes.", found.figure)


def explored(seen: Seen) -> Words | None:
    """The flow of every word; None without words, or a second layer."""
    metrics = seen.metrics
    if not metrics.sizes["flow"] or metrics.sizes["layer"] < 2:
        return None
    return Words(metrics["layer"].values.tolist(), _words(metrics))


def _known(metrics: xr.Dataset, name: str) -> bool:
    """Whether a share was measured of any probe."""
    return bool(np.isfinite(metrics[name]).any())


def _names(metrics: xr.Dataset, of_word: bool) -> list[str]:
    """The names of the probes of words, or of capabilities."""
    of = metrics["of_word"].values[1:] == of_word
    return [str(name) for name in metrics["dataset"].values[1:][of]]


def _numbers(metrics: xr.Dataset, of_word: bool) -> dict[str, int]:
    """How much there is of all words, or all capabilities."""
    of = metrics.sel(dataset=_names(metrics, of_word))
    return {name: int(of[name].sum()) for name in ("samples", "skipped", "tokens", "documents", "clusters")}


def _size(metrics: xr.Dataset, of_word: bool) -> str:
    """What a figure rests on, and how its intervals were made."""
    known, names = _numbers(metrics, of_word), _names(metrics, of_word)
    of = "words" if of_word else "capabilities"
    skipped = f", {known['skipped']:,} of {known['samples']:,} skipped without the token" if of_word else ""
    reasons = metrics.attrs["not_matched"]
    missing = f" Words that are not one token: {reasons}." if reasons else ""
    how = f"{100 * metrics.attrs['confidence']:g} % {JACKKNIFE.replace('clusters', 'samples')}"
    return (
        f"n = {known['tokens']:,} tokens in {known['documents']:,} samples of {known['clusters']:,} sources and "
        f"{len(names)} {of}{skipped}; intervals: {how}.{missing}"
    )


def _sample(metrics: xr.Dataset, of_word: bool) -> dict:
    """What a finding rests on."""
    known = _numbers(metrics, of_word)
    of = "words" if of_word else "capabilities"
    return {"n": known["clusters"], "n_unit": f"sources of samples, {len(_names(metrics, of_word))} {of}"}


def _passed(seen: Seen, of_word: bool) -> tuple[list[str], int, int]:
    """The probes with a layer whose p value passes, how many of all tests do, and how many tests there are."""
    q_value = seen.metrics["q_value"].sel(dataset=_names(seen.metrics, of_word))
    passes = (q_value <= seen.thresholds["false_discovery_rate"]).values
    return (
        [str(name) for name, any_layer in zip(q_value["dataset"].values, passes.any(axis=1), strict=True) if any_layer],
        int(passes.sum()),
        int(np.isfinite(q_value).sum()),
    )


def _tests(seen: Seen, of_word: bool, what: str) -> str:
    """What the permutations say, as a sentence."""
    names, number, tests = _passed(seen, of_word)
    value = float(seen.metrics["words_p_value" if of_word else "capabilities_p_value"])
    rate = format_number(100 * seen.thresholds["false_discovery_rate"])
    named = f" ({', '.join(names)})" if names else ""
    return (
        f"With labels permuted over samples p is {format_number(value)} for all together; {number} of {tests} {what} "
        f"and layers pass a false discovery rate of {rate} %{named}."
    )


def _decided(seen: Seen, found: Mapping, of_word: bool) -> str:
    """The verdict by the permutations: intervals of pairs are too wide to tell a small share from none."""
    value = float(seen.metrics["words_p_value" if of_word else "capabilities_p_value"])
    if value <= seen.thresholds["significance"]:
        return "yes"
    return "no" if side(found) == "below" else "unclear"


def _meant(seen: Seen) -> str:
    rate = format_number(100 * seen.thresholds["significance"])
    return f"yes means that at most {rate} % of the permutations give as much"


def _finding_meaning(seen: Seen) -> Finding:
    found = numbers(seen, "meaning_share", NOTHING, "meaning_effect", datasets=False) | _sample(seen.metrics, True)
    return Finding(
        question="Does the meaning of a word decide where it goes, beyond its id and the token before?",
        answer=f"Meaning settles {percent(found)} of what the id leaves open{change(seen, 'meaning_share')}. "
        f"{_tests(seen, True, 'words')}",
        verdict=_decided(seen, found, True),
        verdict_text=_meant(seen),
        unit="of routing within a token id",
        figure="share_by_layer",
        **found,
    )


def _finding_trained(seen: Seen) -> list[Finding]:
    found = trained(seen, "meaning_share", "meaning_effect")
    if found is None:
        return []
    found |= _sample(seen.metrics, True) | {"exceptions": "", "differs": ()}
    return [
        Finding(
            question="Did training make meaning decide where a word goes?",
            answer=f"The share that meaning settles changes by {rounded(found, hundredfold)} points from that of the "
            "untrained model, which sees the same words before.",
            verdict=verdict(side(found), yes="above"),
            verdict_text="yes means a difference above 0",
            unit="of routing within a token id",
            figure="share_by_layer",
            **found,
        )
    ]


def _finding_path(seen: Seen) -> Finding:
    metrics = seen.metrics
    null = Null.of("labels permuted", metrics, "path_gain")
    found = held(estimate(pooled(metrics["path_gain"])), null, seen.thresholds["telling_effect"])
    path, layer = (estimate(pooled(metrics[name])) for name in ("path_tells", "layer_tells"))
    value = float(pooled(metrics["told_p_value"]))
    return Finding(
        question="Does the path of a word tell its meaning beyond the best single layer?",
        answer=f"Of meanings beyond chance, {percent(path)} are told from paths of {metrics.attrs['window']} layers "
        f"and {percent(layer)} from the best layer, in samples that chose neither; with labels permuted over "
        f"samples p is {format_number(value)} for paths.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that paths tell more, beyond what permuted labels show",
        unit="of meanings beyond chance",
        figure="told",
        measure="path_gain",
        **found | reference(seen, lambda known: estimate(pooled(known["path_gain"]))) | _sample(metrics, True),
    )


def _finding_capability(seen: Seen) -> Finding:
    found = numbers(seen, "capability_share", NOTHING, "meaning_effect", datasets=False)
    found |= _sample(seen.metrics, False)
    return Finding(
        question="Do prompts of a capability send the same token ids elsewhere?",
        answer=f"Beside neutral text the capability settles {percent(found)} of what ids leave open"
        f"{change(seen, 'capability_share')}. {_tests(seen, False, 'capabilities')}",
        verdict=_decided(seen, found, False),
        verdict_text=_meant(seen),
        unit="of routing within token ids",
        figure="capabilities",
        **found,
    )


def _whole(metrics: xr.Dataset, name: str) -> tuple[str, str]:
    return format_estimate(*over_layers(metrics, name))


def _by_layer(seen: Seen) -> Figure:
    metrics = seen.metrics
    drawing, axes = plotting.canvas(5.6, rows=2)
    for ax, name, label in (
        (axes[0], "meaning_share", "after different tokens"),
        (axes[1], "meaning_share_any_previous", "all pairs"),
    ):
        lines = series(metrics, seen.untrained, name)
        options = {"y_label": f"share, {label}", "labels": "legend", "order": ORDER}
        plotting.layer_lines(ax, metrics["layer"].values, lines, [NOTHING.reference()], **options)
    value, bounds = _whole(metrics, "meaning_share")
    every = " ".join(_whole(metrics, "meaning_share_any_previous"))
    return Figure(
        name="share_by_layer",
        title="Share of routing that meaning decides, by layer",
        alt=f"Line charts over layers of the share of a word's routing that its meaning decides; {value} on average of "
        "pairs after different tokens.",
        caption=f"Mean over words and layers {value} {bounds} of pairs that follow different tokens, {every} of all "
        f"pairs. {_size(metrics, True)}",
        how_to_read="0 is what occurrences of two meanings share as well. What all pairs show more is what meanings "
        "bring along as the token before. The untrained model shows what the words before do without having learned "
        "anything.",
        drawing=drawing,
        data=table(metrics, SHARES),
    )


def _rows(metrics: xr.Dataset, names: list[str], of: list[str]) -> pd.DataFrame:
    """The measures `of` of some probes, and their p values, as rows."""
    known = metrics.sel(dataset=[POOLED, *names])
    tests = known[["p_value", "q_value"]].to_dataframe().dropna().reset_index()
    sizes = known[["samples", "skipped", "tokens", "documents", "clusters"]].to_dataframe().reset_index()
    return pd.concat([table(known, of), tests, sizes], ignore_index=True)


def _dots(seen: Seen, names: list[str], measure: str, label: str) -> Drawing:
    """Dots of a measure by probe, mean over layers."""
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(names)))
    lines = [
        Series(name, *ends(source[f"mean_over_layers_{measure}"].sel(dataset=names)))
        for name, source in checkpoints(seen.metrics, seen.untrained).items()
    ]
    plotting.dot_whiskers(ax, names, lines, [NOTHING.reference()], x_label=label, order=ORDER)
    return drawing


def _by_word(seen: Seen) -> Figure:
    metrics, names = seen.metrics, _names(seen.metrics, True)
    value, bounds = _whole(metrics, "meaning_share")
    passed, number, tests = _passed(seen, True)
    return Figure(
        name="share_by_word",
        title="Share of routing that meaning decides, by word",
        alt=f"Dots with whiskers by word of the share of routing that meaning decides, mean over layers; {value} "
        f"on average, and {len(passed)} words have a layer that passes.",
        caption=f"Mean over words {value} {bounds}. {number} of {tests} words and layers pass a false discovery rate "
        f"of {format_number(100 * seen.thresholds['false_discovery_rate'])} %. {_size(metrics, True)}",
        how_to_read="Of one word there are few samples, and its interval is wide: look for how many dots lie on one "
        "side. p values in the CSV are of labels that are permuted over samples.",
        drawing=_dots(seen, names, "meaning_share", "share of routing that meaning decides"),
        data=_rows(metrics, names, ["meaning_share"]),
    )


def _overlaps(metrics: xr.Dataset) -> Figure:
    names = _names(metrics, True)
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(names)))
    words = {"one meaning": "same_meaning", "two meanings": "other_meaning"}
    lines = [
        Series(label, *ends(metrics[f"mean_over_layers_{name}"].sel(dataset=names))) for label, name in words.items()
    ]
    plotting.dot_whiskers(ax, names, lines, x_label="experts shared, mean over layers")
    same, other = (" ".join(_whole(metrics, name)) for name in words.values())
    return Figure(
        name="overlaps",
        title="Experts shared within a meaning and between meanings",
        alt=f"Two dots with whiskers by word: the share of experts that two occurrences of one meaning share, {same} "
        f"on average, and of two meanings, {other}.",
        caption=f"One meaning {same}, two meanings {other}, mean over words and layers. {_size(metrics, True)}",
        how_to_read="How far right both dots lie is the doing of the token id. Only their distance can be that of "
        "meaning; it is known better than either, because the same samples are in both.",
        drawing=drawing,
        data=table(metrics.sel(dataset=[POOLED, *names]), list(words.values())),
    )


def _permuted(metrics: xr.Dataset) -> Reference:
    return Reference("labels permuted, all words", *map(float, ends(pooled(metrics["null_path_tells"]))))


def _told(seen: Seen) -> Figure:
    metrics, names = seen.metrics, _names(seen.metrics, True)
    drawing, (ax,) = plotting.canvas(plotting.height_for(len(names) + 1))
    rows = ["all words", *names]
    lines = [Series(label, *ends(metrics[name].sel(dataset=[POOLED, *names]))) for label, name in TOLD.items()]
    if seen.untrained is not None:
        lines.append(Series("path, untrained", *ends(seen.untrained["path_tells"].sel(dataset=[POOLED, *names]))))
    plotting.dot_whiskers(ax, rows, lines, [_permuted(metrics)], x_label="meanings told beyond chance")
    path, layer, gain = (
        " ".join(format_estimate(*estimate(pooled(metrics[name])))) for name in (*reversed(TOLD.values()), "path_gain")
    )
    return Figure(
        name="told",
        title="Meanings told from experts",
        alt=f"Dots with whiskers by word of the share of meanings told beyond chance from the best layer, {layer} on "
        f"average, and from a path of {metrics.attrs['window']} layers, {path}.",
        caption=f"All words: path {path}, best layer {layer}, difference {gain}. {_size(metrics, True)}",
        how_to_read="A sample goes to the meaning with whose samples it shares most experts. Layer and window are "
        "chosen in one half of the samples and judged in the other one; 0 is chance, 1 always right. The band is "
        "where the mean of all words lies if labels are permuted.",
        drawing=drawing,
        data=table(metrics.sel(dataset=[POOLED, *names]), [*TOLD.values(), "path_gain"]),
    )


def _capabilities(seen: Seen) -> Figure:
    metrics, names = seen.metrics, _names(seen.metrics, False)
    value, bounds = _whole(metrics, "capability_share")
    passed, number, tests = _passed(seen, False)
    return Figure(
        name="capabilities",
        title="Share of routing that a capability decides",
        alt=f"Dots with whiskers by capability of the share of the routing of the same token ids that it decides, mean "
        f"over layers; {value} on average, and {len(passed)} have a layer that passes.",
        caption=f"Mean over capabilities and layers {value} {bounds}; {number} of {tests} capabilities and layers pass "
        f"a false discovery rate of {format_number(100 * seen.thresholds['false_discovery_rate'])} %. "
        f"{_size(metrics, False)}",
        how_to_read="Only token ids that both kinds of text have are compared, after different tokens. A capability "
        "is what its templates are: they are few, and no pair lies within one.",
        drawing=_dots(seen, names, "capability_share", "share of routing that the capability decides"),
        data=_rows(metrics, names, ["capability_share"]),
    )


def _words(metrics: xr.Dataset) -> list[Word]:
    """The words whose flow is known, that whose meaning decides most first."""
    of, found = metrics["flow_word"].values, []
    for name in dict.fromkeys(of.tolist()):
        mine = metrics.isel(flow=np.flatnonzero(of == name))
        meant = mine["flow_meaning"].values.tolist()
        meanings = list(dict.fromkeys(meant))
        found.append(Word(name, meanings, mine["flow_expert"].values, np.array([*map(meanings.index, meant)])))
    return found


def _flows(metrics: xr.Dataset) -> Figure:
    words = _words(metrics)[: metrics.attrs["examples"]]
    drawing, axes = plotting.canvas(2.9 * len(words), rows=len(words))
    for ax, word in zip(axes, words, strict=True):
        numbered = [f"meaning {number}" for number in range(1, 1 + len(word.meanings))]
        flow(ax, metrics["layer"].values, word.choices, word.classes, numbered)
        ax.set_title(f"{word.name}: {', '.join(f'{number} {name}' for number, name in enumerate(word.meanings, 1))}")
    names = [word.name for word in words]
    mine = metrics.isel(flow=np.isin(metrics["flow_word"].values, names))
    of = f"{len(words)} words ({', '.join(names)})"
    return Figure(
        name="flows",
        title="Words on their way through the layers",
        alt=f"The flow of {of} through {metrics.sizes['layer']} layers: bars for first choices, a ribbon for each "
        "occurrence, coloured by its meaning.",
        caption=f"First choices of every occurrence of the {of} whose meaning decides most of their routing in this "
        f"sample: examples, chosen by what they show; on the page any word can be chosen. {_size(metrics, True)}",
        how_to_read="Where colours part, meanings go to different experts. Grey bars are experts; the CSV has all "
        "occurrences of the examples, the netCDF file those of every word.",
        drawing=drawing,
        data=mine[["flow_word", "flow_meaning", "flow_expert"]].to_dataframe().reset_index(),
        explores=names[0],
    )
