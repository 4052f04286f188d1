"""The page of the chapter annotation: figures and findings."""

import textwrap
from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from gatebook.chapters.annotation.scoring import NOTHING
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
    counts_text,
    ends,
    numbers,
    over_layers,
    percent,
    rounded,
    side,
    size_text,
    trained,
    verdict,
)
from gatebook.figures import plotting
from gatebook.figures.plotting import Series
from gatebook.figures.style import INK, MUTED, house_style, say_no_data
from gatebook.figures.words import format_estimate, format_number
from gatebook.measures.summary import spread, table
from gatebook.measures.word_classes import LANGUAGES
from gatebook.study.routed import NONE

NO_DIFFERENCE = Null("no difference", 0.0)
LABELS = ["label_accuracy", "label_precision", "lookup_accuracy", "lookup_gap", "pair_accuracy", "pair_gain"]
NAMED = ["named_accuracy", "named_gain"]
SPOKEN = ["language_share", "class_share", "language_minus_class", "language_beyond_token"]
COIN = 0.5
MOST_LAYERS, MOST_LABELS, MOST_ROWS, MOST_EXPERTS = 4, 12, 16, 3
TOKENS_WIDE, COLUMNS = 52, (0, 0.26, 0.56)
"""Characters of sample tokens in a row of the catalogue, and where its columns begin."""
DRAWN = "\u024f"
"""The last character of extended Latin; the catalogue draws no letters after it."""


def figures(seen: Seen) -> list[Figure]:
    """All figures of the chapter; those about the model's own labels and about languages where they were measured."""
    found = [_accuracy_by_layer(seen), _labels_by_expert(seen), _catalogue(seen)]
    if _known(seen.metrics, "named_gain"):
        found.append(_named(seen))
    if _known(seen.metrics, "language_share"):
        found.append(_languages(seen))
    return found


def findings(seen: Seen) -> list[Finding]:
    """The chapter's rows in the table of key findings; those that could not be measured are left out."""
    found = [_finding_label(seen), *_finding_trained(seen), _finding_lookup(seen), _finding_pair(seen)]
    if _known(seen.metrics, "named_gain"):
        found.append(_finding_named(seen))
    if _known(seen.metrics, "language_share"):
        found.append(_finding_languages(seen))
    return [one for one in found if one.is_known]


def brief(seen: Seen) -> Brief | None:
    """How well labels tell, and the expert whose label surely tells most."""
    found = _finding_label(seen)
    if not found.is_known:
        return None
    null = Null.of("", seen.metrics, "label_accuracy").numbers()
    if found.low <= null["null_high"]:
        return Brief("Nothing shows that experts are for anything that a label says.", found.figure)
    text = f"The best label of an expert has a balanced accuracy of {percent(vars(found))}, where a coin has 50 %."
    low = seen.metrics["expert_accuracy"].sel(interval="low").fillna(-1)
    place = low.argmax(...)
    layer, expert = (int(low[dim][place[dim]]) for dim in ("layer", "expert"))
    name = str(seen.metrics["label"].values[int(seen.metrics["best_label"].sel(layer=layer, expert=expert))])
    value = percent([float(part) for part in ends(seen.metrics["expert_accuracy"].sel(layer=layer, expert=expert))])
    example = f"Most surely known is layer {layer} expert {expert}: {name}, {value}."
    return Brief(text, "catalogue", example, layer, (expert,))


def _known(metrics: xr.Dataset, name: str) -> bool:
    return bool(np.isfinite(metrics[name]).any())


def _permuted(metrics: xr.Dataset) -> Null:
    return Null.of("selections permuted over tokens", metrics, "label_accuracy")


def _clear(seen: Seen, metrics: xr.Dataset) -> tuple[int, int]:
    """How many experts have a label that is clear, and how many have one."""
    value = metrics["expert_accuracy"].sel(interval="estimate")
    return int((value >= seen.thresholds["clear"]).sum()), int(value.notnull().sum())


def _finding_label(seen: Seen) -> Finding:
    metrics, threshold = seen.metrics, seen.thresholds["clear"]
    null = _permuted(metrics)
    found = numbers(seen, "label_accuracy", null, "accuracy_effect", threshold=threshold, datasets=False)
    clear, every = _clear(seen, metrics)
    labels = int(metrics["eligible"].sum())
    return Finding(
        question="Does one label say what an expert is for?",
        answer=f"The best of {labels} labels has a balanced accuracy of {rounded(found)} on the half that did not "
        f"choose it{change(seen, 'label_accuracy')}; of {clear} of {every} experts it is "
        f"{format_number(threshold)} or more.",
        verdict=verdict(side(found, threshold), yes="above"),
        verdict_text=f"yes means a mean balanced accuracy above {format_number(threshold)}",
        unit="balanced accuracy",
        figure="accuracy_by_layer",
        **found,
    )


def _finding_trained(seen: Seen) -> list[Finding]:
    found = trained(seen, "label_accuracy", "accuracy_effect")
    if found is None:
        return []
    before = _clear(seen, seen.untrained)[0] if seen.untrained is not None else 0
    return [
        Finding(
            question="Did training give experts something to be for?",
            answer=f"The best label tells {rounded(found)} better than in the untrained model, where it is clear of "
            f"{before} experts.",
            verdict=verdict(side(found), yes="above"),
            verdict_text="yes means a difference above 0",
            unit="balanced accuracy",
            figure="accuracy_by_layer",
            **found,
        )
    ]


def _finding_lookup(seen: Seen) -> Finding:
    found = numbers(seen, "lookup_gap", NO_DIFFERENCE, "accuracy_effect", datasets=False)
    value = rounded(over_layers(seen.metrics, "lookup_accuracy"))
    return Finding(
        question="Does the token id tell more of an expert than its label?",
        answer=f"Token ids reach a balanced accuracy of {value}, {rounded(found)} beyond the best label"
        f"{change(seen, 'lookup_gap')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0: a word says less of an expert than a list of its tokens",
        unit="balanced accuracy",
        figure="accuracy_by_layer",
        **found,
    )


def _finding_pair(seen: Seen) -> Finding:
    found = numbers(seen, "pair_gain", NO_DIFFERENCE, "accuracy_effect", datasets=False)
    value = rounded(over_layers(seen.metrics, "pair_accuracy"))
    return Finding(
        question="Is it clearer what two experts together are for than what each of them is for?",
        answer=f"Labels of the {seen.metrics.sizes['pair']} most frequent pairs of a layer have a balanced accuracy of "
        f"{value}, {rounded(found)} more than those of their experts{change(seen, 'pair_gain')}.",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means a difference above 0",
        unit="balanced accuracy",
        figure="accuracy_by_layer",
        **found,
    )


def _dealt(metrics: xr.Dataset) -> Null:
    return Null.of("its labels given to other experts", metrics, "named_gain")


def _finding_named(seen: Seen) -> Finding:
    metrics, null = seen.metrics, _dealt(seen.metrics)
    found = numbers(seen, "named_gain", null, "accuracy_effect", datasets=False)
    value = rounded(over_layers(metrics, "named_accuracy"))
    number = int((metrics["named_label"] != NOTHING).sum())
    place = side(found)
    said = {"above": "it can name them better than by chance", "below": "it names them worse than by chance"}
    return Finding(
        question="Can the model itself say what its experts are for?",
        answer=f"Of {number} experts the label that it gives has a balanced accuracy of {value}, {rounded(found)} more "
        f"than a random label; given to other experts the same labels have {null.text()} more: "
        f"{said.get(place, 'nothing shows that it knows')}.",
        verdict=verdict(place, yes="above"),
        verdict_text="yes means more than its labels have for other experts",
        unit="balanced accuracy",
        figure="named",
        **found,
    )


def _finding_languages(seen: Seen) -> Finding:
    metrics = seen.metrics
    found = numbers(seen, "language_minus_class", NO_DIFFERENCE, "share_effect", datasets=False)
    language, word, beyond = (
        percent(over_layers(metrics, name)) for name in ("language_share", "class_share", "language_beyond_token")
    )
    added = f" To the ids that several languages have, language adds {beyond}." if "nan" not in beyond else ""
    null = Null.of("", metrics, "language_share").text()
    return Finding(
        question="Do experts serve languages?",
        answer=f"Language explains {language} of where tokens go{change(seen, 'language_share')}, word class {word}; "
        f"languages dealt to clusters explain {null} as a share.{added}",
        verdict=verdict(side(found), yes="above"),
        verdict_text="yes means that language explains more than word class",
        unit="of the variance of routing",
        figure="languages",
        **found,
    )


def _lines(seen: Seen, name: str) -> list[Series]:
    return [Series(label, *ends(source[name])) for label, source in checkpoints(seen.metrics, seen.untrained).items()]


def _accuracy_by_layer(seen: Seen) -> Figure:
    metrics = seen.metrics
    drawing, (ax,) = plotting.canvas(3.8)
    lines = [*_lines(seen, "label_accuracy"), Series("token id", *ends(metrics["lookup_accuracy"]))]
    lines.append(Series("pairs", *ends(metrics["pair_accuracy"])))
    plotting.layer_lines(
        ax,
        metrics["layer"].values,
        lines,
        [_permuted(metrics).reference()],
        y_label="balanced accuracy",
        labels="legend",
        order=[*ORDER, "token id", "pairs"],
    )
    said = _said(
        metrics,
        {"label_accuracy": "Label", "lookup_accuracy": "token id", "pair_accuracy": "label of a pair"},
    )
    return Figure(
        name="accuracy_by_layer",
        title="How well a label tells what an expert gets",
        alt=f"Line chart over layers of the balanced accuracy of the best label, beside that of token ids. {said}.",
        caption=f"Mean over experts of the balanced accuracy with which the best label tells whether a token selects "
        f"the expert, on the half of the clusters that did not choose it. {said}, means over layers. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="½ is a coin. The lines of both models are those of labels of experts; the line of the token id is "
        "what any label could reach that follows from the token alone; pairs are the most frequent ones, labelled in "
        "the same way. What the untrained model shows is no achievement of training.",
        drawing=drawing,
        data=table(metrics, LABELS),
    )


def _said(metrics: xr.Dataset, words: dict[str, str]) -> str:
    """Means over layers in words, those that are known."""
    known = {name: word for name, word in words.items() if np.isfinite(metrics[f"mean_over_layers_{name}"]).all()}
    found = [f"{word} {' '.join(format_estimate(*over_layers(metrics, name)))}" for name, word in known.items()]
    return ", ".join(found) or "Not available: no expert has a label"


def _shown_labels(metrics: xr.Dataset) -> np.ndarray:
    """The places of at most `MOST_LABELS` labels of experts, by the balanced accuracy of the best expert of each."""
    chosen = metrics["best_label"] == xr.DataArray(np.arange(metrics.sizes["label"]), dims="label")
    highest = metrics["accuracy"].where(chosen).max(("layer", "expert")).fillna(-1).values
    order = np.argsort(-highest, kind="stable")[:MOST_LABELS]
    return order[highest[order] >= 0]


def _labels_by_expert(seen: Seen) -> Figure:
    metrics, shown = seen.metrics, _shown_labels(seen.metrics)
    layers = spread(metrics["layer"].values, MOST_LAYERS)
    titles = [f"Layer {layer}" for layer in layers]
    drawing, axes = plotting.canvas(
        0.6 + len(layers) * (1.1 + 0.17 * max(len(shown), 1)), rows=len(layers), titles=titles
    )
    values = metrics["accuracy"].transpose("layer", "label", "expert").isel(label=shown)
    names = [str(name) for name in values["label"].values]
    highest = float(values.max()) if values.size and np.isfinite(values).any() else 1.0
    end = max(np.ceil(20 * highest) / 20, 0.55)
    for ax, layer in zip(axes, layers, strict=True):
        if not len(shown):
            say_no_data(ax)
            continue
        plotting.matrix(
            ax,
            values.sel(layer=layer).values,
            names,
            values["expert"].values,
            kind="magnitude",
            label="balanced accuracy, held out",
            limits=(COIN, end),
            x_label="Expert",
        )
    best = f"{names[0]}, {highest:.2f}" if names else "not available"
    return Figure(
        name="labels_by_expert",
        title="What labels tell of which experts",
        alt=f"Matrices, labels by experts, of balanced accuracy on the other half; the highest is {best}.",
        caption=f"Balanced accuracy, on the half of the clusters that did not choose, of {len(names)} labels: of those "
        f"that experts have, the ones that tell most; the highest is {best}. {size_text(metrics)}; the CSV has all "
        "layers, the netCDF file all labels.",
        how_to_read="A dark cell says nothing: with or without the label the expert is as likely, or less. A row with "
        "several light cells is a label that several experts share; a column without any is an expert that no label of "
        "the list tells. Columns of different layers do not correspond.",
        drawing=drawing,
        data=_rows_of(values) if names else table(metrics, ["label_accuracy"]),
    )


def _rows_of(values: xr.DataArray) -> pd.DataFrame:
    """The balanced accuracy of labels for experts as rows."""
    return values.transpose("layer", "expert", "label").to_series().rename("balanced_accuracy").reset_index()


def _texts(metrics: xr.Dataset) -> dict[int, str]:
    return dict(zip(metrics["shown_token"].values.tolist(), metrics["shown_text"].values.tolist(), strict=True))


def _experts(metrics: xr.Dataset) -> pd.DataFrame:
    """What is known of each expert and each frequent pair: its label, how well it tells, and tokens, as rows."""
    names, texts = metrics["label"].values.tolist(), _texts(metrics)

    def name(place: int) -> str:
        return "" if place == NOTHING else names[place]

    rows = []
    for layer in metrics["layer"].values.tolist():
        mine = metrics.sel(layer=layer)
        for expert in metrics["expert"].values.tolist():
            one = mine.sel(expert=expert)
            tokens = [texts[token] for token in one["sample_token"].values.tolist() if token != NONE]
            accuracy = dict(
                zip(("balanced_accuracy", "low", "high"), map(float, ends(one["expert_accuracy"])), strict=True)
            )
            rows.append(
                {"layer": layer, "experts": str(expert), "label": name(int(one["best_label"]))}
                | accuracy
                | {"precision": float(one["expert_precision"].sel(interval="estimate")), "load": float(one["load"])}
                | {"label_of_the_other_half": name(int(one["other_label"]))}
                | {
                    "label_by_the_model": name(int(one["named_label"])),
                    "its_own_words_not_scored": str(one["written"].item()),
                }
                | {"sample_tokens": " ".join(tokens)}
            )
        for pair in range(metrics.sizes["pair"]):
            one = mine.isel(pair=pair)
            if int(one["pair_label"]) != NOTHING:
                both = " ".join(str(each) for each in one["pair_expert"].values.tolist())
                known = {"label": name(int(one["pair_label"])), "balanced_accuracy": float(one["pair_label_accuracy"])}
                rows.append({"layer": layer, "experts": both} | known)
    return pd.DataFrame(rows)


def _plain(text: str) -> str:
    """Text in characters that the font has, the others escaped."""
    return "".join(each if each <= DRAWN or each in "⟨⟩" else each.encode("unicode_escape").decode() for each in text)


def _catalogue_rows(data: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Labels with their single experts, the best first, by the best expert's balanced accuracy."""
    single = data[~data["experts"].str.contains(" ") & (data["label"] != "") & data["balanced_accuracy"].notna()]
    single = single.sort_values("balanced_accuracy", ascending=False, kind="stable")
    return [(str(label), rows) for label, rows in single.groupby("label", sort=False)][:MOST_ROWS]


@house_style
def _draw_rows(ax: Axes, rows: Iterable[tuple[str, str, str]]) -> None:
    """A table of three columns of text."""
    ax.set_axis_off()
    given = [("Label", "Layer.expert, accuracy", "Tokens at random"), *rows]
    ax.set(xlim=(0, 1), ylim=(len(given) - 0.4, -0.6))
    for place, cells in enumerate(given):
        weight = "bold" if place == 0 else "normal"
        for x, text, colour in zip(COLUMNS, cells, (INK, INK, MUTED if place else INK), strict=True):
            ax.text(x, place, text, color=colour, fontsize=7.2, va="center", fontweight=weight)


def _catalogue(seen: Seen) -> Figure:
    metrics, data = seen.metrics, _experts(seen.metrics)
    rows, shown, named = _catalogue_rows(data), [], []
    for label, experts in rows:
        first = experts.head(MOST_EXPERTS)
        named += [f"layer {one.layer}, expert {one.experts}" for one in first.itertuples()]
        where = ", ".join(f"{one.layer}.{one.experts} {one.balanced_accuracy:.2f}" for one in first.itertuples())
        tokens = textwrap.shorten(_plain(experts.iloc[0]["sample_tokens"]), TOKENS_WIDE, placeholder=" ...")
        shown.append((textwrap.shorten(_plain(label), 36, placeholder=" ..."), where, tokens))
    drawing, (ax,) = plotting.canvas(0.6 + 0.2 * (len(shown) + 1))
    if shown:
        _draw_rows(ax, shown)
    else:
        say_no_data(ax)
    again = (metrics["best_label"] == metrics["other_label"]).where(metrics["best_label"] != NOTHING)
    same = f"{100 * float(again.mean()):.0f} % of experts get the same label from the other half. " if shown else ""
    said = "; ".join(f"{label}: {where}" for label, where, _ in shown[:5]) or "not available"
    return Figure(
        name="catalogue",
        title="What experts are for",
        alt=f"Table of labels, of the experts that have them with their balanced accuracy, and of tokens. {said}.",
        caption=f"The {len(shown)} labels that tell most, the experts that have them with their balanced accuracy on "
        f"the other half, at most {MOST_EXPERTS}, and random tokens of the first of them. {same}{size_text(metrics)}; "
        "the CSV has all experts and frequent pairs, with precision and intervals."
        f"{_not_named(metrics)}",
        how_to_read="The tokens are drawn from all that the expert gets, with the label or without: tokens that do not "
        "fit are what the label leaves out. A label is the best of a list, which says nothing of what is not in "
        "it.",
        drawing=drawing,
        data=data,
        names=tuple(dict.fromkeys(named)),
    )


def _not_named(metrics: xr.Dataset) -> str:
    """Why the model was not asked, as a sentence; "" if it was, or there was nothing to ask."""
    reason = metrics.attrs["not_named"]
    return f" The model names no expert: {reason}." if reason else ""


def _named(seen: Seen) -> Figure:
    metrics, null = seen.metrics, _dealt(seen.metrics)
    drawing, (ax,) = plotting.canvas(3.2)
    plotting.layer_lines(
        ax,
        metrics["layer"].values,
        [Series("model", *ends(metrics["named_gain"]))],
        [null.reference()],
        y_label="accuracy beyond a random label",
    )
    value, bounds = format_estimate(*over_layers(metrics, "named_gain"))
    words = [text for text in metrics["written"].values.ravel().tolist() if text]
    own = f" In its own words, not scored: {'; '.join(f'“{text}”' for text in words[:3])}." if words else ""
    return Figure(
        name="named",
        title="Labels that the model gives its experts",
        alt=f"Line over layers of how much better the model's labels tell than random ones; {value} on average.",
        caption=f"Balanced accuracy of the label that the model itself gives, minus the mean of all labels that it "
        f"could give; over layers {value} {bounds}, given to other experts {null.text()}.{own} "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="The model reads a list of an expert's tokens and finds a label likelier than after no list. "
        "Within the band its labels tell no more of their experts than of others. The interval is about clusters, the "
        "band about which expert has which label. What it writes itself is only shown: "
        "nobody can score it without a judge.",
        drawing=drawing,
        data=table(metrics, NAMED),
    )


def _languages(seen: Seen) -> Figure:
    metrics = seen.metrics
    titles = {
        "language_share": "Language",
        "class_share": "Word class",
        "language_beyond_token": "Language beyond the token id",
    }
    nulls = {"language_share": Null.of("languages dealt to clusters", metrics, "language_share")}
    panels = [
        plotting.Panel(
            title,
            metrics["layer"].values,
            _lines(seen, name),
            [nulls.get(name, NO_DIFFERENCE).reference()],
            "share explained",
        )
        for name, title in titles.items()
    ]
    said = _said(metrics, {name: title.lower() for name, title in titles.items()})
    spoken = ", ".join(LANGUAGES[each] for each in metrics.attrs["languages"].split(", "))
    return Figure(
        name="languages",
        title="What language explains of routing",
        alt=f"Line charts over layers of the share of routing that language and word class explain: {said}.",
        caption=f"Share of routing explained, of the tokens of {spoken}: {said}, means over layers. "
        f"{counts_text(metrics, JACKKNIFE)}",
        how_to_read="Languages have other words, which alone makes their tokens go elsewhere: the last panel is about "
        "token ids that several languages have. Where every language has one dataset, what is a matter of language and "
        "what of the dataset cannot be told apart.",
        drawing=plotting.small_multiples(panels, columns=3, share_y=True, order=ORDER),
        data=table(metrics, SPOKEN),
    )
