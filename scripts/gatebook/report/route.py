"""The routing of a prompt in every layer, by hand: python -m gatebook.report.route --prompt "..."

No study is needed: a model that is not there yet is trained or fetched, and nothing else is made. With --dataset it is
that of a token of the study and of the text around it, from the records. A page, the numbers and a figure go into a
folder of their own below `prompts/`. The study stays as it is.
"""

import argparse
import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gatebook.figures import export, style
from gatebook.figures.plotting import canvas
from gatebook.figures.words import format_number
from gatebook.files import atomic, netcdf, tables
from gatebook.inputs.documents import load_tokens
from gatebook.inputs.model_folder import load_tokenizer, window_size
from gatebook.measures import vocabulary
from gatebook.problem import Problem
from gatebook.report import by_hand
from gatebook.routing import models, texts
from gatebook.routing.records import float32, layer_files, open_layer
from gatebook.routing.rule import logarithm, routing_rule_of
from gatebook.study.tallies import probability_name

PROGRAM = "python -m gatebook.report.route"
COLOURS = 6
"""Most frequent first choices of a layer that have a colour, as in the expert browser."""
FIGURE = "probabilities"
LINE_END = re.compile(r"(?<!\\)((?:\\\\)*\\n)")
"""A line break that is written out, after which a running text has one."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(
        prog=PROGRAM,
        description="The routing of a prompt, or of a token of the study and the text around it, in every layer.",
        epilog=f'Example: {PROGRAM} --prompt "2 + 2 =" --token 3',
    )
    text = whole.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt", help="the text")
    text.add_argument("--file", help="a file that holds it, in UTF-8; a line break at its end does not count")
    text.add_argument("--dataset", help="a dataset of the study; its records must be there")
    whole.add_argument("--document", metavar="ID", help="of the dataset, as the report names it")
    whole.add_argument(
        "--token",
        type=int,
        metavar="N",
        help="the token of which all probabilities are shown, from 0 (default: the last of the prompt); the page "
        "numbers them",
    )
    whole.add_argument("--model", help="a model of the study (default: its first), at the checkpoint that is studied")
    whole.add_argument("--directory", default=".", help="the folder of the study (default: this one)")
    whole.add_argument("--configfile", nargs="+", default=[], metavar="FILE", help="overlays of the config")
    return whole


def run(given: Mapping) -> Path:
    """Do what was given, in the folder of the study, and return the folder that was written; or raise a `Problem`."""
    picked = by_hand.chosen(given, "that could route a text")
    if given["dataset"] is None:
        if given["document"] is not None:
            raise Problem("--document is of a dataset: add --dataset, or leave it out.")
        text = _text(given)
        found, of = of_prompt(picked, text, given), {"prompt": text}
    else:
        if given["document"] is None or given["token"] is None:
            raise Problem("--dataset needs --document, an identifier, and --token, a number from 0: add them.")
        found, of = of_document(picked, given), {"dataset": given["dataset"], "document": given["document"]}
    token = _token(found, given["token"])
    name = "_".join([picked.name, picked.checkpoint, given["dataset"] or "prompt", "token", str(token)])
    content = json.dumps(of, sort_keys=True).encode()
    target = by_hand.PROMPTS / f"{name}_{hashlib.sha256(content).hexdigest()[:8]}"
    write(target, found, token, of | {"model": picked.label, "command": by_hand.command(PROGRAM, given)})
    return target


def _text(given: Mapping) -> str:
    """The prompt; a `Problem` if its file cannot be read or it is empty."""
    text, place = given["prompt"], "--prompt"
    if given["file"] is not None:
        place = f"--file {given['file']}"
        try:
            text = Path(given["file"]).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise Problem(f"{place} cannot be read ({reason}): name a text file.") from error
    if not text:
        raise Problem(f"{place} is empty: write a text.")
    return text


def of_prompt(picked: by_hand.Chosen, text: str, given: Mapping) -> xr.Dataset:
    """The routing of a text, with the settings with which extraction runs the model of a study.

    Parameters
    ----------
    picked
        The model, whose folder and tokenizer are made if they are not there.
    text
        Of one window.
    given
        The command line, for what must be made.

    Returns
    -------
    xarray.Dataset
        As `texts.route` has it, and `place` (token,) int, which token of the text it is, from 0.

    Raises
    ------
    Problem
        If the text has no token, or more than the model sees at once.
    """
    by_hand.make((picked.folder, picked.tokenizer), given)
    settings, extraction = picked.settings, picked.config["extraction"]
    trust = {"trust_remote_code": settings["trust_remote_code"]}
    window = window_size(settings["window"], picked.folder, **trust)
    tokenizer = load_tokenizer(picked.tokenizer, **trust)
    number = len(tokenizer(text, verbose=False)["input_ids"])
    if number > window:
        raise Problem(
            f"the prompt has {number} tokens, and the model sees {window} at once (models.{picked.name}.window): "
            "shorten it."
        )
    if not number:
        raise Problem("the prompt has no token: write another text.")
    tokens = texts.tokens_of(tokenizer, [text], window)
    device = models.choose_device(settings["device"])
    loading = {key: settings[key] for key in by_hand.LOADING}
    found = texts.routing_of(
        picked.folder,
        tokens,
        layers=settings["layers"],
        threads=extraction["threads"],
        tokens_per_batch=extraction["tokens_per_batch"][device.type],
        device=device,
        **loading,
    )
    return _named(found, tokenizer, first=0)


def of_document(picked: by_hand.Chosen, given: Mapping) -> xr.Dataset:
    """The routing of a token of a document and of the other tokens of its window, from the records of a study.

    Parameters
    ----------
    picked
        The model.
    given
        `dataset`, `document`, its identifier, and `token`, its place in the document.

    Returns
    -------
    xarray.Dataset
        As that of `of_prompt`; `place` counts from the beginning of the document.

    Raises
    ------
    Problem
        If there is no such token, or its router logits were not kept.
    """
    dataset, study = given["dataset"], picked.study
    if dataset not in study.datasets:
        raise Problem(f"--dataset: {dataset!r} is not in the study: use one of {', '.join(study.datasets)}.")
    path = f"results/inputs/{picked.name}/{dataset}.nc"
    records = f"results/routing/{picked.name}/{picked.checkpoint}"
    folders = [Path(records, part) for part in study.parts(dataset)]
    for needed in (path, *folders):
        if not Path(needed).exists():
            kept = picked.config["storage"]["keep_records"] or needed == path
            remedy = f"make it by snakemake --cores 2 {needed}" if kept else "set storage.keep_records: true"
            raise Problem(f"{needed} does not exist: {remedy}, or give the text as --prompt.")
    tokens = load_tokens(path)
    here, first = window_of(tokens, dataset, given["document"], given["token"])
    found = {name: tokens[name][here] for name in ("token_id", "position")}
    layers, attrs = list(layer_files(folders[0])), {}
    logits, selected, biases = [], [], []
    for layer in layers:
        with open_layer(folders, layer) as record:
            if "router_logits" not in record:
                raise Problem(
                    f"{folders[0]} holds no router logits (extraction.records: compact): set it to exact, or give the "
                    "text as --prompt."
                )
            logits.append(float32(record["router_logits"][here].values))
            selected.append(record["selected_expert"][here].values)
            biases += [record["selection_bias"].values] if "selection_bias" in record else []
            attrs = {"window": tokens.attrs["window"], "routing_rule": record.attrs["routing_rule"]}
    found["router_logits"] = (("layer", "token", "expert"), np.stack(logits))
    found["selected_expert"] = (("layer", "token", "rank"), np.stack(selected))
    weights = routing_rule_of(attrs).weights(
        torch.from_numpy(np.stack(logits)), torch.from_numpy(np.stack(selected).astype(np.int64))
    )
    found["routing_weight"] = (("layer", "token", "rank"), weights.numpy())
    if biases:
        found["selection_bias"] = (("layer", "expert"), np.stack(biases))
    trust = {"trust_remote_code": picked.settings["trust_remote_code"]}
    routing = xr.Dataset(found, coords={"layer": layers}, attrs=attrs).reset_coords(drop=True)
    return _named(routing, load_tokenizer(picked.tokenizer, **trust), first=first)


def window_of(tokens: xr.Dataset, dataset: str, document: str, token: int) -> tuple[slice, int]:
    """The tokens of a dataset in one window with a token of a document, and the place of their first in the document.

    Parameters
    ----------
    tokens
        Of the dataset, as `documents.load_tokens` reads them.
    dataset
        Its name.
    document
        An identifier.
    token
        Place in the document, from 0.

    Returns
    -------
    window : slice
        Of the dataset's tokens.
    first : int
        Place in the document.

    Raises
    ------
    Problem
        If there is no such document or token.
    """
    names = tokens["document_id"].values.astype(str).tolist()
    if document not in names:
        raise Problem(
            f"--document: {dataset} has no document {document!r}: its {len(names)} are {names[0]!r} to {names[-1]!r}."
        )
    number = names.index(document)
    lengths = tokens["document_tokens"].values
    start, length = int(lengths[:number].sum()), int(lengths[number])
    if not 0 <= token < length:
        raise Problem(
            f"--token: document {document!r} of {dataset} has no token {token}: write a number from 0 to {length - 1}."
        )
    position = tokens["position"].values[start : start + length]
    begins = np.append(np.flatnonzero(position == 0), length)
    last = int(np.searchsorted(begins, token, side="right"))
    first, end = int(begins[last - 1]), int(begins[last])
    return slice(start + first, start + end), first


def _named(found: xr.Dataset, tokenizer, first: int) -> xr.Dataset:
    """The routing with each token's place, counted from `first`, and its text in one line."""
    named = vocabulary.token_texts(tokenizer, found["token_id"].values)
    return found.assign(
        place=("token", np.arange(first, first + len(named))),
        token_text=("token", np.array(named, dtype=object)),
    )


def _token(found: xr.Dataset, wanted: int | None) -> int:
    """The place of the wanted token, or of the last one."""
    places = found["place"].values
    if wanted is not None and wanted not in places:
        raise Problem(f"--token: there is no token {wanted}: write a number from {places[0]} to {places[-1]}.")
    return int(places[-1]) if wanted is None else wanted


def probabilities(found: xr.Dataset) -> np.ndarray:
    """The probability of every expert for every token: (layer, token, expert) float32."""
    return routing_rule_of(found.attrs).probability(torch.from_numpy(found["router_logits"].values)).numpy()


def table(found: xr.Dataset) -> pd.DataFrame:
    """The selected experts of all tokens: a row for each token, layer and rank."""
    selected = found["selected_expert"].values
    layer, token, rank = np.indices(selected.shape).reshape(3, -1)
    mass = np.take_along_axis(probabilities(found), selected.astype(np.int64), axis=2)
    whole = pd.DataFrame(
        {
            "token": found["place"].values[token],
            "token_id": found["token_id"].values[token],
            "text": found["token_text"].values[token],
            "layer": found["layer"].values[layer],
            "rank": rank + 1,
            "expert": selected.ravel(),
            "weight": found["routing_weight"].values.ravel(),
            "probability": mass.ravel(),
        }
    )
    return whole.sort_values(["token", "layer", "rank"], ignore_index=True)


def of_token(found: xr.Dataset, token: int) -> pd.DataFrame:
    """All experts of a token, by its place: a row for each layer and expert; `rank` is empty for those not selected."""
    here = int(np.flatnonzero(found["place"].values == token)[0])
    probability, logits = probabilities(found)[:, here], found["router_logits"].values[:, here]
    layer, expert = np.indices(probability.shape).reshape(2, -1)
    rank = np.full(probability.shape, np.nan)
    selected = found["selected_expert"].values[:, here].astype(np.int64)
    np.put_along_axis(rank, selected, np.arange(1.0, selected.shape[1] + 1)[None], axis=1)
    return pd.DataFrame(
        {
            "layer": found["layer"].values[layer],
            "expert": expert,
            "probability": probability.ravel(),
            "logit": logits.ravel(),
            "rank": pd.array(rank.ravel(), dtype="Int64"),
        }
    )


@style.house_style
def figure(shown: pd.DataFrame, probability: str) -> Figure:
    """Bars of all experts of a token, a panel for each layer with its own scale; the selected ones are marked.

    Parameters
    ----------
    shown
        What `of_token` gives.
    probability
        What it is, in words.

    Returns
    -------
    matplotlib.figure.Figure
    """
    layers = shown["layer"].unique()
    columns = 1 if len(layers) <= 6 else 2 if len(layers) <= 16 else 3
    rows = -(-len(layers) // columns)
    titles = [f"Layer {layer}" for layer in layers] + [""] * (rows * columns - len(layers))
    drawing, axes = canvas(0.9 + 1.05 * rows, rows=rows, columns=columns, titles=titles)
    drawing.supylabel(f"probability ({probability})", fontsize=9)
    for number, ax in enumerate(axes):
        if number >= len(layers):
            ax.set_axis_off()
            continue
        one = shown[shown["layer"] == layers[number]]
        chosen, highest = one["rank"].notna().to_numpy(), one["probability"].max()
        ax.bar(one["expert"], one["probability"], color=np.where(chosen, style.PALETTE[0], style.MUTED))
        marked = one[chosen]
        ax.plot(marked["expert"], marked["probability"] + 0.06 * highest, "v", color=style.PALETTE[0], markersize=3)
        ax.axhline(1 / len(one), color=style.MUTED, linestyle=style.REFERENCE_DASHES[0], linewidth=1)
        ax.set(xlim=(-0.7, len(one) - 0.3), ylim=(0, 1.15 * highest))
        ax.grid(axis="x", visible=False)
        if number + columns >= len(layers):
            ax.set_xlabel("expert")
    handles = [
        Patch(color=style.PALETTE[0], label="selected (▼)"),
        Patch(color=style.MUTED, label="other experts"),
        Line2D([], [], color=style.MUTED, linestyle=style.REFERENCE_DASHES[0], linewidth=1, label="even share"),
    ]
    style.add_to_legend(drawing, handles)
    return drawing


def colours(first: Sequence[int]) -> dict[int, int]:
    """The most frequent of first choices, at most `COLOURS`, with the number of its colour each."""
    most = sorted(Counter(first).items(), key=lambda each: (-each[1], each[0]))[:COLOURS]
    return {expert: number for number, (expert, _) in enumerate(most)}


def write(target: Path, found: xr.Dataset, token: int, of: Mapping[str, str]) -> None:
    """Write the page, the numbers and the figure of a token, whole or not at all.

    Parameters
    ----------
    target
        The folder.
    found
        The routing of a text, as `of_prompt` gives it.
    token
        Place of the token of which the figure shows all probabilities.
    of
        What it is of: `model` and `command` in words, and `prompt`, or `dataset` and `document`.
    """
    shown, whole, probability = of_token(found, token), table(found), probability_name(found.attrs)
    text = found["token_text"].values[found["place"].values == token][0]
    words = {
        "title": f"Probabilities of all experts, token {token}",
        "description": f"Bars of {found.sizes['expert']} experts in {found.sizes['layer']} layers; in each, "
        f"{found.sizes['rank']} are selected.",
        "source": f"Gatebook; {of['model']}; {of['command']}",
    }
    with atomic.atomic_directory(target) as partial:
        drawing = figure(shown, probability)
        export.save_png(drawing, partial, FIGURE)
        export.save(drawing, partial, FIGURE, shown, **words)
        tables.save_table(whole, partial / "routing.csv")
        netcdf.save(found.assign_attrs(of), partial / "routing.nc")
        content = {**of, "routing_rule": json.loads(found.attrs["routing_rule"]), "token": token}
        content["tokens"] = _tokens(found, whole)
        (partial / "routing.json").write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        svg = base64.b64encode((partial / f"{FIGURE}.svg").read_bytes()).decode()
        page = _page(found, token, text, of, probability, whole, words["description"], svg)
        (partial / "index.html").write_text(page, encoding="utf-8")


def _tokens(found: xr.Dataset, whole: pd.DataFrame) -> list[dict]:
    """The routing of every token as JSON has it: in each layer the selected experts, weights and probabilities."""
    layers, ranks = found.sizes["layer"], found.sizes["rank"]
    columns = {name: whole[name].to_numpy().reshape(-1, layers, ranks) for name in ("expert", "weight", "probability")}
    return [
        {
            "token": int(place),
            "token_id": int(number),
            "text": text,
            "layers": [
                {
                    "layer": int(layer),
                    "experts": columns["expert"][index, row].tolist(),
                    "weights": [float(str(value)) for value in columns["weight"][index, row]],
                    "probabilities": [float(str(value)) for value in columns["probability"][index, row]],
                }
                for row, layer in enumerate(found["layer"].values)
            ],
        }
        for index, (place, number, text) in enumerate(
            zip(found["place"].values, found["token_id"].values, found["token_text"].values, strict=True)
        )
    ]


def _page(
    found: xr.Dataset,
    token: int,
    text: str,
    of: Mapping[str, str],
    probability: str,
    whole: pd.DataFrame,
    description: str,
    svg: str,
) -> str:
    """The text of the page, which needs no other file."""
    first = found["selected_expert"].isel(rank=0).values  # (layer, token)
    shape = (found.sizes["token"], found.sizes["layer"], found.sizes["rank"])
    expert, weight = (whole[name].to_numpy().reshape(shape) for name in ("expert", "weight"))
    told = [
        [", ".join(f"expert {e} {w:.3f}" for e, w in zip(*pair, strict=True)) for pair in zip(*each, strict=True)]
        for each in zip(expert.tolist(), weight.tolist(), strict=True)
    ]
    layers = [
        {
            "number": int(number),
            "colours": colours(chosen.tolist()),
            "counts": Counter(chosen.tolist()),
            "first": chosen.tolist(),
        }
        for number, chosen in zip(found["layer"].values, first, strict=True)
    ]
    probability_of = probabilities(found)
    entropy = -(probability_of * logarithm(torch.from_numpy(probability_of)).numpy()).sum(axis=2)
    return (
        by_hand.templates()
        .get_template("route.html.j2")
        .render(
            style=by_hand.style("gatebook.css", "browser.css"),
            of=of,
            token=token,
            text=_with_spaces(text),
            experts=found.sizes["expert"],
            top_k=found.sizes["rank"],
            probability=probability,
            places=found["place"].values.tolist(),
            words=[_with_spaces(each) for each in found["token_text"].values],
            running=[LINE_END.sub(r"\1\n", each) for each in found["token_text"].values],
            layers=layers,
            told=told,
            entropy=[format_number(float(value)) for value in entropy.mean(axis=1)],
            rows=_selected(whole, token),
            figure=FIGURE,
            description=description,
            svg=svg,
        )
    )


def _with_spaces(text: str) -> tuple[int, str, int]:
    """The spaces before a token's text, the text between, and the spaces after it."""
    core = text.strip(" ")
    before = len(text) - len(text.lstrip(" ")) if core else len(text)
    return before, core, len(text) - before - len(core)


def _selected(whole: pd.DataFrame, token: int) -> list[tuple[int, list[tuple[int, str, str]]]]:
    """The selected experts of a token by layer: expert, weight and probability in words."""
    mine = whole[whole["token"] == token]
    return [
        (int(layer), [(int(e), f"{w:.4f}", f"{p:.4f}") for e, w, p in rows[["expert", "weight", "probability"]].values])
        for layer, rows in mine.groupby("layer")
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says, and print where the page is."""
    by_hand.main(parser(), run, arguments)


if __name__ == "__main__":
    main()
