"""Steering by hand: python -m gatebook.report.steer --prompt "..." --toward python --away cpp --layer 2

It adds the contrast of two datasets, or of two files of prompts, to what a model holds of a prompt, or puts what a text
holds in the place of what the prompt holds, with the code of the chapter `steering`. It writes a page and numbers into
a folder of their own below `prompts/`. The study stays as it is.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gatebook.chapters.steering import one_prompt, plan, trial
from gatebook.chapters.steering.one_prompt import Asked
from gatebook.figures.words import format_number
from gatebook.files import atomic
from gatebook.inputs.documents import load_tokens
from gatebook.measures.token_sample import beginnings
from gatebook.problem import Problem
from gatebook.report import by_hand
from gatebook.report.by_hand import Opened
from gatebook.routing.steering import KINDS

PROGRAM = "python -m gatebook.report.steer"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Steer what a model makes of a prompt, beside random vectors of the same length: add the contrast "
        "of two datasets or files (--toward, --away), or put in what another text holds (--from).",
        epilog=f'Examples: {PROGRAM} --prompt "2 + 2 =" --toward arithmetic --away messages --kind logits --layer all; '
        f'{PROGRAM} --prompt "2 + 2 =" --from "2 - 2 =" --from-at 1 --layer 2 --at 1',
    )
    whole.add_argument("--prompt", required=True, help="the text")
    whole.add_argument("--toward", help="a dataset of the study, or a file with a prompt in each line")
    whole.add_argument("--away", help="another one, which the first is contrasted with")
    whole.add_argument("--from", dest="source", metavar="TEXT", help="a text whose values are put into the prompt")
    whole.add_argument(
        "--from-at", dest="source_at", metavar="PLACE", help="which token of it, from 0, or last (default: last)"
    )
    whole.add_argument(
        "--kind",
        choices=KINDS,
        default="residual",
        help="residual: the residual stream after the layer; input: what its router and experts receive; logits: its "
        "router logits (default: residual)",
    )
    whole.add_argument("--layer", required=True, metavar="N", help="number of the layer, from 0, or all")
    whole.add_argument("--dose", type=float, help="what the contrast is multiplied by (default: 2)")
    whole.add_argument(
        "--at",
        metavar="PLACE",
        help="which tokens: the place of one of the prompt, from 0, last, 'last 3', all, or generated (default: "
        "generated for a contrast, last with --from); the page numbers them",
    )
    whole.add_argument("--generate", type=int, metavar="N", help="write N tokens (default: 24 for a contrast, else 0)")
    whole.add_argument("--samples", type=int, default=8, metavar="N", help="write N continuations (default: 8)")
    whole.add_argument("--random", type=int, default=5, metavar="N", help="N random vectors or texts (default: 5)")
    whole.add_argument("--seed", type=int, default=7, help="of all random numbers (default: 7)")
    whole.add_argument("--model", help="a model of the study (default: its first), at the checkpoint that is studied")
    whole.add_argument("--directory", default=".", help="the folder of the study (default: this one)")
    whole.add_argument("--configfile", nargs="+", default=[], metavar="FILE", help="overlays of the config")
    return whole


def checked(given: Mapping) -> Asked:
    """What was given, of which all goes together; or raise a `Problem`."""
    contrast, source = (given["toward"], given["away"]), given["source"]
    if bool(source) == any(contrast) or (any(contrast) and not all(contrast)):
        raise Problem("write either --toward and --away, for a contrast, or --from, for a text: one of the two.")
    if source and given["dose"] is not None:
        raise Problem("--dose does not go with --from, whose values are put in as they are: remove one of them.")
    if given["source_at"] and not source:
        raise Problem("--from-at does not go with a contrast: remove it.")
    if given["toward"] and given["toward"] == given["away"]:
        raise Problem(f"--away: {given['away']} cannot be contrasted with itself: write another one.")
    if given["layer"] != "all" and not given["layer"].isdecimal():
        raise Problem(f"--layer {given['layer']} is not allowed: write the number of a layer, from 0, or all.")
    at = one_prompt.place_of(given["at"] or ("last" if source else "generated"), "--at", within=True)
    source_at = one_prompt.place_of(given["source_at"] or "last", "--from-at", within=False)
    generate = given["generate"] if given["generate"] is not None else 0 if source else 24
    dose = 2.0 if given["dose"] is None else given["dose"]
    if not np.isfinite(dose):
        raise Problem(f"--dose {dose} is not allowed: write a finite number.")
    for key, least in {"generate": 0, "samples": 1, "random": 1, "seed": 0}.items():
        value = generate if key == "generate" else given[key]
        if value < least:
            raise Problem(f"--{key} {value} is not allowed: write a number of at least {least}.")
    if source and not (isinstance(at, int) or at == "last"):
        raise Problem(f"--at {at} does not go with --from, which puts in one token: write its place, from 0, or last.")
    if at == "generated" and not generate:
        raise Problem("--at generated needs --generate, the number of tokens: add it.")
    layer = None if given["layer"] == "all" else int(given["layer"])
    more = {key: given[key] for key in ("samples", "random", "seed")}
    return Asked(given["prompt"], given["kind"], layer, at, dose, source or "", source_at, generate=generate, **more)


def lines(path: str, tokenizer) -> list[np.ndarray]:
    """The token ids of the lines of a file that are not empty."""
    texts = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [np.array(tokenizer(text, verbose=False)["input_ids"], np.int64) for text in texts]


def run(given: Mapping) -> Path:
    """Do what was given, in the folder of the study, and return the folder that was written; or raise a `Problem`."""
    one = checked(given)
    names = {f"--{key}": given[key] for key in ("toward", "away") if given[key] and not Path(given[key]).is_file()}
    of = by_hand.opened(given, names)
    told = _patched(one, of) if one.source else _steered(one, of, given)
    what = one_prompt.described(one, given)
    command = by_hand.command(PROGRAM, _options(given))
    content = json.dumps(_options(given) | {"of": [of.name, of.checkpoint]}, sort_keys=True).encode()
    layer = "all" if one.layer is None else one.layer
    way = "patched" if one.source else "steered"
    name = f"{of.name}_{of.checkpoint}_{way}_{one.kind}_{layer}_{hashlib.sha256(content).hexdigest()[:8]}"
    target = by_hand.PROMPTS / name
    numbers = {"model": of.label, "command": command, "what": what}
    numbers |= {"source_tokens": [], "taken": None} | told
    text = (
        by_hand.templates()
        .get_template("steering.html.j2")
        .render(style=by_hand.style("gatebook.css"), number=format_number, **numbers)
    )
    with atomic.atomic_directory(target) as partial:
        partial_file = partial / "steering.json"
        partial_file.write_text(json.dumps(numbers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (partial / "index.html").write_text(text, encoding="utf-8")
    return target


def _options(given: Mapping) -> dict:
    """What was given, by the names of the options."""
    names = {"source": "from", "source_at": "from-at"}
    return {names.get(key, key): value for key, value in given.items()}


def _steered(one: Asked, of: Opened, given: Mapping) -> dict:
    """A contrast, and what it costs on held-out texts of the datasets, which files have not."""
    layers = one_prompt.check(one, of.model, len(of.tokenizer(one.prompt, verbose=False)["input_ids"]))
    settings, made, words, sides = of.config["steering"], [], [], []
    for name in (given["toward"], given["away"]):
        if Path(name).is_file():
            halves = one_prompt.split(lines(name, of.tokenizer), name)
            made.append(halves[0])
            words.append(halves[1])
        else:
            drawn = {key: settings[key] for key in ("documents", "length", "seed")}
            side = plan.side(load_tokens(of.tokens[name]), of.model.config.vocab_size, **drawn)
            made.append(list(side.made[:, min(settings["prompt"], side.made.shape[1] - 1) :]))
            words.append([np.repeat(np.arange(len(side.words)), side.words)])
            sides.append(side)
    vectors = one_prompt.contrast(of.model, *made, one.kind, layers)
    told = one_prompt.steer(
        of.model, of.tokenizer, one, vectors, one_prompt.table_of(*words, of.model.config.vocab_size)
    )
    prices = []
    for side in sides:
        mine = trial.scaled(vectors, one.dose)
        conditions = [{}, mine, *trial.random_vectors(one.kind, mine, one.random, one.seed)]
        first = min(settings["prompt"], side.held_out.shape[1] - 1)
        rows = max(of.batch(side.held_out.shape[1]) // side.held_out.shape[1], 1)
        losses, _ = trial.priced(of.model, side.held_out, one.kind, conditions, first, rows)
        added = (losses - losses[:, :1]).mean(axis=0) / (side.held_out.shape[1] - 1 - first)
        prices.append({"dataset": side.name, "after": added[1], "random": added[2:].mean()})
    return told | {"prices": prices}


def _patched(one: Asked, of: Opened) -> dict:
    """A text's values in the prompt, and as a control those of random texts of the study at the same place."""
    tokens = len(of.tokenizer(one.source, verbose=False)["input_ids"])
    taken = int(np.flatnonzero(one_prompt.mask(one.source_at, tokens, "the text of --from"))[0])
    others = []
    known = [path for path in of.tokens.values() if Path(path).exists()]
    if not known:
        raise Problem(f"no text for a control: make {next(iter(of.tokens.values()))} by snakemake --cores 2.")
    for path in known:
        drawn = load_tokens(path)
        every = np.ones(drawn.sizes["document"], bool)
        found, _ = beginnings(drawn, every, documents=one.random, length=taken + 1, seed=one.seed)
        others += [text for text in found if len(text) == taken + 1]
    if len(others) < one.random:
        raise Problem(f"--from-at {taken}: fewer than {one.random} texts of the study are that long: lower --random.")
    order = np.random.default_rng(one.seed).permutation(len(others))[: one.random]
    return one_prompt.patch(of.model, of.tokenizer, one, [others[place] for place in order]) | {"prices": []}


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says, and print where the page is."""
    by_hand.main(parser(), run, arguments)


if __name__ == "__main__":
    main()
