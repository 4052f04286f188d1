"""A finished study as a run of Weights & Biases: config, findings, measures, figures and the report.

`wandb` is imported only where a run is logged: nothing else of the library needs it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gatebook.files import netcdf
from gatebook.measures.uncertainty import POOLED
from gatebook.problem import Problem

MOST_ROWS = 10_000
"""Of a table; the service shows no more, and longer ones are in the report, which is logged whole."""
VALUES = ["estimate", "low", "high"]
BY_LAYER, BY_STEP = "by_layer", "by_step"
CORRELATIONS = ("logit_correlation", "selection_correlation")
"""Matrices (layer, expert, other) between the experts of a layer and of the one before it."""


@dataclass(frozen=True)
class Made:
    """What a chapter of the study has made: `of`, such as demo/step400, the chapter's name, and where it is."""

    of: str
    chapter: str
    path: Path


def made(paths: Sequence[str | Path], kind: str) -> list[Made]:
    """What lies at paths such as results/`kind`/demo/step400/similarity.csv."""
    found = []
    for path in map(Path, paths):
        below = path.parts[len(path.parts) - path.parts[::-1].index(kind) :]
        found.append(Made("/".join(below[:-1]), path.stem, path))
    return found


def key(*parts: str) -> str:
    """The name of a metric, of letters, digits, `_` and `/`."""
    return re.sub(r"[^\w/]", "_", "/".join(parts))


def findings(chapters: Sequence[Made]) -> tuple[pd.DataFrame, dict[str, float | str]]:
    """The findings of a study, of chapters' folders of figures: as a table, and its headline values by their key.

    A value has the key of its chapter and measure, its interval the same with /low and /high, its verdict /verdict.
    """
    rows, headline = [], {}
    for each in chapters:
        for found in _words(each)["findings"]:
            columns = ("question", "answer", *VALUES, "unit", "null_name", "null_value", "verdict", "effect")
            rows.append({"of": each.of, "chapter": each.chapter} | {name: found[name] for name in columns})
            name = first = key(each.of, each.chapter, found.get("measure") or found["figure"])
            number = 1
            while f"{name}/verdict" in headline:
                number += 1
                name = f"{first}_{number}"
            headline[f"{name}/verdict"] = found["verdict"]
            known = {value: found[value] for value in VALUES if found[value] is not None}
            headline |= {
                name if value == "estimate" else f"{name}/{value}": float(amount)
                for value, amount in known.items()
                if np.isfinite(amount)
            }
    return pd.DataFrame(rows), headline


def _words(each: Made) -> dict:
    return json.loads((each.path / "chapter.json").read_text(encoding="utf-8"))


def curves(tables: Sequence[Made]) -> dict[str, dict[int, dict[str, float]]]:
    """The measures of all tables over layers and over training.

    Of all datasets together, and without other coordinates, which only the tables have.

    Returns
    -------
    dict
        `BY_LAYER` and `BY_STEP`: by layer or step of training the values by their key, the ends of intervals with /low
        and /high. A step has means over layers.
    """
    found: dict[str, dict[int, dict[str, float]]] = {BY_LAYER: {}, BY_STEP: {}}
    for each in tables:
        frame = pd.read_csv(each.path).rename(columns={"domain": "dataset"})
        if not {"estimate", "low", "high"} <= set(frame) or not {"measure", "checkpoint"} & set(frame):
            continue
        if "measure" not in frame:
            frame["measure"] = each.chapter
        if "dataset" in frame:
            frame = frame[frame["dataset"].isna() | (frame["dataset"] == POOLED)]
        known = {"measure", "unit", "dataset", "layer", "checkpoint", *VALUES}
        frame = frame[frame[[name for name in frame if name not in known]].isna().all(axis=1)]
        frame = frame.reindex(columns=["measure", "layer", "checkpoint", *VALUES])
        steps = frame["checkpoint"].astype("string").str.extract(r"step(\d+)")[0]
        over_layers = frame["layer"].notna() & frame["checkpoint"].isna()
        for kind, chosen, places in (
            (BY_LAYER, over_layers, frame["layer"]),
            (BY_STEP, frame["layer"].isna() & steps.notna(), steps),
        ):
            for place, row in zip(places[chosen], frame[chosen].itertuples(), strict=True):
                name = key(kind, each.of, each.chapter, row.measure.removeprefix("mean_over_layers_"))
                at = found[kind].setdefault(int(place), {})
                values = {name: row.estimate, f"{name}/low": row.low, f"{name}/high": row.high}
                at |= {name: float(value) for name, value in values.items() if np.isfinite(value)}
    return {kind: dict(sorted(places.items())) for kind, places in found.items()}


def cross_layer(metrics: Sequence[Made]) -> dict[int, dict[str, float]]:
    """Mean absolute correlation of experts with those of the layer before, by layer, of the metrics of transitions."""
    found: dict[int, dict[str, float]] = {}
    for each in metrics:
        with netcdf.open_lazily(each.path) as known:
            for name in CORRELATIONS:
                if name in known:
                    mean = np.abs(known[name]).mean(("expert", "other"))
                    for layer, value in zip(mean["layer"].values.tolist(), mean.values.tolist(), strict=True):
                        found.setdefault(layer, {})[key(BY_LAYER, each.of, each.chapter, f"mean_absolute_{name}")] = (
                            value
                        )
    return found


def tables(chapters: Sequence[Made], measured: Sequence[Made]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Tables by their key: those of measures, and the data behind each figure."""
    for each in measured:
        yield key("tables", each.of, each.chapter), pd.read_csv(each.path)
    for each in chapters:
        for path in sorted(each.path.glob("*.csv")):
            yield key("data", each.of, each.chapter, path.stem), pd.read_csv(path)


def figures(chapters: Sequence[Made]) -> Iterator[tuple[str, str, str]]:
    """The figures of chapters: key, title and SVG."""
    for each in chapters:
        for figure in _words(each)["figures"]:
            svg = (each.path / f"{figure['name']}.svg").read_text(encoding="utf-8")
            yield key("figures", each.of, each.chapter, figure["name"]), figure["title"], svg


def log(
    settings: Mapping,
    config: dict,
    chapters: Sequence[Made],
    measured: Sequence[Made],
    flows: Sequence[Made],
    report: str,
) -> dict:
    """Log a study as one run below the folder `wandb`.

    Parameters
    ----------
    settings
        `project` and `mode`, "online" or "offline".
    config
        The whole config.
    chapters, measured, flows
        Folders of figures, tables of measures, and the metrics of transitions.
    report
        The folder of the report.

    Returns
    -------
    dict
        How much was logged, by kind; `left_out`, the keys of tables with more than `MOST_ROWS` rows; `run`, where the
        run is.

    Raises
    ------
    Problem
        If the service refuses.
    """
    import wandb

    title = config["study"]["title"]
    try:
        run = wandb.init(project=settings["project"], mode=settings["mode"], name=title, config=config, dir=".")
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise Problem(
            f"Weights & Biases took no run ({reason}): run `wandb login`, or set tracking.wandb.mode: offline."
        ) from error
    with run:
        table, headline = findings(chapters)
        run.summary.update(headline)
        counts = {"findings": len(table), "values": len(headline), "left_out": []}
        over = curves(measured)
        for layer, values in cross_layer(flows).items():
            over[BY_LAYER].setdefault(layer, {}).update(values)
        for kind, place in ((BY_LAYER, "layer"), (BY_STEP, "training_step")):
            run.define_metric(place)
            run.define_metric(f"{kind}/*", step_metric=place)
            for number, values in sorted(over[kind].items()):
                run.log({place: number} | values)
            counts[f"curves_{kind}"] = len({name for values in over[kind].values() for name in values})
        shown = {"findings": table}
        for name, each in tables(chapters, measured):
            if len(each) > MOST_ROWS:
                counts["left_out"].append(name)
            else:
                shown[name] = each
        run.log({name: wandb.Table(columns=list(each), data=_rows(each)) for name, each in shown.items()})
        drawn = {name: wandb.Html(f"<h1>{heading}</h1>{svg}", inject=False) for name, heading, svg in figures(chapters)}
        run.log(drawn)
        artifact = wandb.Artifact("report", type="report", description=title)
        artifact.add_dir(report)
        run.log_artifact(artifact)
        counts |= {"tables": len(shown), "figures": len(drawn), "run": run.url or str(Path(run.dir).parent)}
    wandb.teardown()  # else the file of an offline run may still be written
    return counts


def _rows(frame: pd.DataFrame) -> list[list]:
    """The rows of a table, of numbers, and in columns of text of text only; four times as fast as from the frame."""
    text = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    plain = frame.assign(**{name: frame[name].astype(object).where(frame[name].notna(), "").map(str) for name in text})
    return plain.astype(object).values.tolist()
