"""What else than the token could tell where it goes, and what its id says of its domain."""

import numpy as np
import pytest
import xarray as xr

from gatebook.chapters.vocabulary_specialization import baselines, measure
from gatebook.inputs.clusters import GROUPS
from gatebook.study.routed import NONE


def tokens_of(token_id: np.ndarray, dataset: np.ndarray, group: np.ndarray, window: int = 50) -> xr.Dataset:
    """Tokens of a study, as `routed.read` gives them, in windows of so many tokens."""
    following = np.append(token_id[1:], NONE)
    following[window - 1 :: window] = NONE
    return xr.Dataset(
        {
            "token_id": (("kind", "token"), np.array([token_id, following])),
            "dataset": ("token", dataset.astype(np.int16)),
            "group": ("token", group.astype(np.int8)),
        },
        coords={"kind": ["input", "next"], "name": ["poems", "code", "tables"][: dataset.max() + 1]},
    )


def made(rng: np.random.Generator, by_id: float, by_dataset: float, tokens: int = 60_000) -> tuple:
    """Tokens of three datasets with ids of their own frequencies, whose first choice is that of their id or dataset.

    With the probability `by_id` the expert is that of the id, with `by_dataset` that of the dataset, else any of 8.
    """
    dataset = np.repeat(np.arange(3), tokens // 3)
    frequency = rng.dirichlet(np.full(60, 0.5), size=3)
    token_id = np.concatenate([rng.choice(60, tokens // 3, p=each) for each in frequency])
    source, any_expert = rng.random(tokens), rng.integers(0, 8, tokens)
    chosen = np.where(source < by_id + by_dataset, dataset, any_expert)
    chosen = np.where(source < by_id, rng.integers(0, 8, 60)[token_id], chosen)
    return tokens_of(token_id, dataset, rng.integers(0, GROUPS, tokens)), chosen[:, None].astype(np.uint8)


def test_classes_by_hand():
    tokens = tokens_of(np.array([5, 7, 5, 5, 7, 9]), np.array([0, 0, 0, 1, 1, 1]), np.arange(6), window=3)
    found = {name: each.token_id[each.code].tolist() for name, each in baselines.classes(tokens).items()}
    assert found["nothing"] == [0] * 6 and found["dataset"] == [0, 0, 0, 1, 1, 1]
    assert found["token"] == [5, 7, 5, 5, 7, 9]
    assert found["previous token"] == [NONE, 5, 7, NONE, 5, 7]
    assert len(set(found["token and dataset"])) == 5 and list(found) == list(baselines.CLASSES)


def predictability(tokens: xr.Dataset, selected: np.ndarray) -> dict[str, float]:
    splits = measure.halves(1)
    classes = baselines.classes(tokens).items()
    return {name: float(measure.predictability(one, selected, 8, splits)[0]) for name, one in classes}


def test_what_decides_is_what_predicts():
    rng = np.random.default_rng(1)
    uniform = predictability(*made(rng, 0, 0))
    assert all(share == pytest.approx(1 / 8, abs=0.01) for share in uniform.values())
    of_ids = predictability(*made(rng, 0.8, 0))
    assert of_ids["token"] == pytest.approx(0.8 + 0.2 / 8, abs=0.02)
    assert of_ids["token and dataset"] == pytest.approx(of_ids["token"], abs=0.02)
    assert of_ids["nothing"] < 0.5 and of_ids["previous token"] < of_ids["dataset"] + 0.01
    of_datasets = predictability(*made(rng, 0, 0.6))
    for name in ("dataset", "token and dataset"):
        assert of_datasets[name] == pytest.approx(0.6 + 0.4 / 8, abs=0.02)
    assert of_datasets["nothing"] < 0.35


def test_ids_give_all_information_where_they_decide_and_little_where_the_dataset_does():
    rng = np.random.default_rng(2)
    of_ids = baselines.domain_information(*made(rng, 0.8, 0), 8).isel(draw=0)
    assert of_ids["share_of_ids"].item() == pytest.approx(1, abs=0.05) and of_ids["domain_information"] > 0.03
    # Every dataset has its expert and ids that are common in others: the ids of a dataset are only a hint.
    tokens, selected = made(rng, 0, 0.8)
    tokens["token_id"].loc[{"kind": "input"}] = rng.integers(0, 60, tokens.sizes["token"])
    of_datasets = baselines.domain_information(tokens, selected, 8).isel(draw=0)
    assert of_datasets["share_of_ids"] < 0.01 and of_datasets["domain_information"] > 0.5


def test_information_by_brute_force():
    rng = np.random.default_rng(3)
    tokens, selected = made(rng, 0.4, 0.3, tokens=900)
    found = baselines.domain_information(tokens, selected, 8)
    token_id, dataset, group = tokens["token_id"].values[0], tokens["dataset"].values, tokens["group"].values
    loads = np.zeros((2, GROUPS, 3, 8))
    for token in range(900):
        others = (token_id == token_id[token]) & (group != group[token])
        if others.any():
            loads[0, group[token], dataset[token], selected[token, 0]] += 1
            loads[1, group[token], dataset[token]] += np.bincount(selected[others, 0], minlength=8) / others.sum()
    for draw in (0, 4):
        left = np.delete(loads, draw - 1, axis=1) if draw else loads
        share = left.sum(axis=1) / left.sum(axis=(1, 3))[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = share * np.log2(share / share.mean(axis=1, keepdims=True))
        bits = np.nan_to_num(terms).sum(axis=2).mean(axis=1)
        names = ["domain_information", "domain_information_of_ids"]
        np.testing.assert_allclose(found[names].isel(draw=draw).to_array(), bits)
        assert found["share_of_ids"].values[draw] == pytest.approx(bits[1] / bits[0])


def test_a_dataset_without_ids_of_others_groups_has_no_value():
    tokens = tokens_of(np.array([1, 1, 2, 3]), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    found = baselines.domain_information(tokens, np.zeros((4, 1), np.uint8), 2)
    assert np.isnan(found.to_array()).all()
