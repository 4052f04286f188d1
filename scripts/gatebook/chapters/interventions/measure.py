"""Interventions: matched controls, and what a change does to predictions, from sums over texts.

A control of a token that selects an expert is a token of the same text in which another expert is selected with nearly
the same weight. Each stands in for one token, and such that the weights differ as little as possible on the whole.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.optimize
import xarray as xr

from gatebook.chapters.interventions import CONTROL, EXPERT, MATCHED, MEASURES
from gatebook.chapters.interventions.asked import Asked
from gatebook.measures import uncertainty
from gatebook.measures.summary import Bootstrap, summarise
from gatebook.measures.uncertainty import Resampling

WHO = (EXPERT, MATCHED, CONTROL)
COUNTED = {"kl": "tokens", "kl_after": "tokens_after", "added_loss": "tokens_loss"}
"""Which number of tokens the sums of a measure are divided by."""
MOST_TOKENS = 10
"""So many next tokens are shown of a prompt."""
FAR = 1e9


class Predicted(NamedTuple):
    """The next-token probabilities at one place of a text: before, after the change, and after that of the control.

    place: which token; before, after, control (token id,) float32.
    """

    place: int
    before: np.ndarray
    after: np.ndarray
    control: np.ndarray


class Trial(NamedTuple):
    """What a change did.

    expert: its number; doses: those that were tried, the one asked for among them; sums: by what was changed (`EXPERT`,
    `MATCHED`, `CONTROL`), of each text and dose `kl`, `kl_after`, `added_loss` in nats, (text, dose) float64, and
    `tokens`, `tokens_after`, `tokens_loss`, how many tokens these are sums over, (text,); weight: their mean routing
    weights; controls: how often each expert stands in as a control; predicted: of a prompt, at the last changed token
    and at the last of all; written: of a prompt the generated token ids, before, after and with the control.
    """

    expert: int
    doses: list[float]
    sums: dict[str, dict[str, np.ndarray]]
    weight: dict[str, float]
    controls: dict[int, int]
    predicted: list[Predicted]
    written: list[list[int]]


class Pairs(NamedTuple):
    """Tokens that select an expert, and the controls of those that have one.

    own (token,): their positions; matched (pair,): those with a control; place, control (pair,): the position of the
    control and its expert; weight, other_weight (pair,): the routing weights of both.
    """

    own: np.ndarray
    matched: np.ndarray
    place: np.ndarray
    control: np.ndarray
    weight: np.ndarray
    other_weight: np.ndarray


def matched(selected: np.ndarray, weight: np.ndarray, expert: int, at: np.ndarray, caliper: float) -> Pairs:
    """The controls of the tokens of a text that select an expert.

    Parameters
    ----------
    selected, weight
        The experts of each token and their routing weights: (position, rank).
    expert
        Which one is changed.
    at
        The tokens that are asked for, among which controls are: (position,) bool.
    caliper
        By what share the weight of a control may differ at most.

    Returns
    -------
    Pairs
        A token is the control of one token at most.
    """
    hit = (selected == expert) & at[:, None]
    own, ranks = np.nonzero(hit)
    mine, places = weight[own, ranks].astype(np.float64), np.flatnonzero(at)
    others = np.where(selected[places] == expert, np.nan, weight[places]).astype(np.float64)
    apart = np.abs(others[None] - mine[:, None, None]) / np.maximum(mine[:, None, None], 1e-20)
    apart = np.where(np.isnan(apart), FAR, apart)  # (own, place, rank)
    rank = apart.argmin(axis=2)
    cost = np.take_along_axis(apart, rank[..., None], axis=2)[..., 0]
    row, column = scipy.optimize.linear_sum_assignment(np.minimum(cost, FAR))
    near = cost[row, column] <= min(caliper, FAR / 2)
    row, column = row[near], column[near]
    chosen = rank[row, column]
    return Pairs(own, own[row], places[column], selected[places[column], chosen], mine[row], others[column, chosen])


class Of(NamedTuple):
    """On what: clusters of documents (text,), none of a prompt, and the name of the dataset or ""."""

    cluster: np.ndarray
    dataset: str


def measure(
    tried: Sequence[tuple[Asked, Trial, Of]], *, resamples: int, seed: int, confidence: float, fewest_clusters: int
) -> xr.Dataset:
    """All measures of the chapter.

    Parameters
    ----------
    tried
        What was asked for, what came out, and on what.
    resamples, seed, confidence, fewest_clusters
        Of the bootstrap over clusters; on a prompt, and on fewer clusters, there are no intervals.

    Returns
    -------
    xarray.Dataset
        `kl`, `kl_after`, `added_loss` (intervention, dose, who, interval), `excess_kl` (intervention, dose, interval),
        doses numbered from 0, NaN beyond those of an intervention; `dose_value` (intervention, dose), `asked_dose`,
        `expert`, `layer`, `stage`, `where`, `on_dataset`, `clusters`, `documents`, `matched_share` (intervention),
        `tokens`, `weight` (intervention, who).
    """
    most = max(len(trial.doses) for _, trial, _ in tried)
    draws, about = [], []
    for asked, trial, of in tried:
        weights = _weights(trial, of, resamples, seed, fewest_clusters)
        one = xr.Dataset()
        for name, counted in COUNTED.items():
            values = np.full((1 + resamples, most, len(WHO)), np.nan)
            for place, who in enumerate(WHO):
                sums = trial.sums[who]
                total, count = weights @ sums[name], weights @ sums[counted]
                ratio = total / np.where(count > 0, count, np.nan)[:, None]
                values[: len(ratio), : len(trial.doses), place] = ratio
            one[name] = ("draw", "dose", "who"), values
        draws.append(one)
        about.append(_about(asked, trial, of, most))
    whole = xr.concat(draws, dim="intervention").assign_coords(who=list(WHO), dose=np.arange(most))
    whole["excess_kl"] = whole["kl"].sel(who=MATCHED, drop=True) - whole["kl"].sel(who=CONTROL, drop=True)
    out = summarise(whole, MEASURES, Bootstrap(confidence))
    out = out.merge(xr.concat(about, dim="intervention"))
    names = [asked.name for asked, *_ in tried]
    return out.assign_coords(intervention=names).assign_attrs(confidence=confidence)


def _weights(trial: Trial, of: Of, resamples: int, seed: int, fewest: int) -> np.ndarray:
    """How often each text counts in each draw, (draw, text); one draw where there are too few clusters."""
    texts = len(trial.sums[EXPERT]["tokens"])
    if len(set(of.cluster)) < max(fewest, 2):
        return np.ones((1, texts))
    known, index = np.unique(of.cluster.astype(str), return_inverse=True)
    sizes = np.bincount(index, minlength=len(known))
    found = Resampling(uncertainty.resampling_weights(sizes, resamples, seed, of.dataset), index)
    return found.weights[:, found.cluster].astype(np.float64)


def _about(asked: Asked, trial: Trial, of: Of, most: int) -> xr.Dataset:
    """What is known of a change beside its measures."""
    doses = np.full(most, np.nan)
    doses[: len(trial.doses)] = trial.doses
    tokens = [int(trial.sums[who]["tokens"].sum()) for who in WHO]
    one = {
        "layer": asked.layer,
        "expert": trial.expert,
        "asked_dose": trial.doses.index(asked.dose),
        "clusters": len(set(of.cluster)),
        "documents": len(of.cluster),
        "matched_share": tokens[1] / tokens[0] if tokens[0] else np.nan,
        "stage": asked.stage,
        "where": asked.where,
        "on_dataset": of.dataset,
    }
    made = xr.Dataset({name: ((), value) for name, value in one.items()})
    made["dose_value"] = "dose", doses
    made["tokens"] = "who", np.array(tokens)
    made["weight"] = "who", np.array([trial.weight[who] for who in WHO])
    return made


def most_likely(before: np.ndarray, after: np.ndarray, control: np.ndarray) -> np.ndarray:
    """The token ids that are most likely before or after a change, at most `MOST_TOKENS`, the likeliest first."""
    highest = np.maximum(before, after)
    return np.argsort(-highest, kind="stable")[:MOST_TOKENS]


def table(metrics: xr.Dataset) -> pd.DataFrame:
    """All measures as rows: measure, intervention, layer, expert, stage, dose, who, estimate, low, high."""
    rows = []
    for name in MEASURES:
        values = metrics[name] if "who" in metrics[name].dims else metrics[name].expand_dims(who=["difference"])
        one = values.to_dataset("interval").to_dataframe().reset_index()
        rows.append(one.assign(measure=name, unit=MEASURES[name].units))
    whole = pd.concat(rows)
    for name in ("layer", "expert", "stage"):
        whole[name] = metrics[name].sel(intervention=xr.DataArray(whole["intervention"].values)).values
    at = {dim: xr.DataArray(whole[dim].values) for dim in ("intervention", "dose")}
    whole["dose"] = metrics["dose_value"].sel(at).values
    columns = ["measure", "unit", "intervention", "layer", "expert", "stage", "dose", "who", "estimate", "low", "high"]
    return whole[columns].dropna(subset=["dose", "estimate"]).reset_index(drop=True)


def described(asked: Asked, trial: Trial, names: Mapping[int, str]) -> dict:
    """What came out of a prompt or dataset beside the measures, as JSON: probabilities and continuations.

    names: the texts of token ids, those of all that are shown.
    """
    found = {"name": asked.name, "layer": asked.layer, "expert": trial.expert, "stage": asked.stage}
    found |= {"dose": asked.dose, "where": asked.where, "prompt": asked.prompt, "dataset": asked.dataset}
    found["weight"] = {who: None if np.isnan(value) else value for who, value in trial.weight.items()}
    found["controls"] = {str(expert): count for expert, count in trial.controls.items()}
    found["predicted"] = []
    for each in trial.predicted:
        ids = most_likely(each.before, each.after, each.control).tolist()
        rows = [
            {"token": names[one], "id": one}
            | {state: float(getattr(each, state)[one]) for state in ("before", "after", "control")}
            for one in ids
        ]
        found["predicted"].append({"place": each.place, "tokens": rows})
    return found


def shown_ids(trial: Trial) -> np.ndarray:
    """The token ids of which `described` shows the texts."""
    parts = [most_likely(each.before, each.after, each.control) for each in trial.predicted]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))
