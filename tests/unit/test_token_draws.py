"""Draws of published counts."""

import numpy as np
import pytest
import xarray as xr

from gatebook.measures.token_draws import TokenDraws, token_draws


def drawn(counts: list[int], tokens: int, design_effect: float = 1, draws: int = 20_001) -> np.ndarray:
    return TokenDraws(tokens, design_effect, draws, (1, 2)).sums(np.array(counts)[None])


def test_the_first_draw_is_the_counts_and_the_others_keep_their_sum():
    made = drawn([300, 200, 100, 400], 500)
    assert made[0].tolist() == [300, 200, 100, 400]
    np.testing.assert_allclose(made.sum(axis=1), 1000)
    assert ((made >= 0) & (made <= 500)).all()


@pytest.mark.parametrize("design_effect", [1, 25])
def test_even_counts_vary_as_independent_tokens_do_times_the_design_effect(design_effect):
    """Two of four experts each: variance T / 4, and the four counts have a fixed sum."""
    made = drawn([5000] * 4, 10_000, design_effect)[1:]
    assert made.var(axis=0) == pytest.approx(np.full(4, design_effect * 2500), rel=0.05)
    assert np.cov(made.T)[0, 1] == pytest.approx(-design_effect * 2500 / 3, rel=0.1)


def test_uneven_counts_vary_as_draws_of_sets_do():
    """Against tokens that draw one of all pairs of experts, with probabilities that make the loads differ."""
    rng, pairs = np.random.default_rng(0), np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
    member = (pairs[..., None] == np.arange(4)).any(axis=1)
    weight = np.array([3.0, 2.0, 1.0, 1.0])
    share = weight[pairs].prod(axis=1) / weight[pairs].prod(axis=1).sum()
    simulated = rng.multinomial(10_000, share, 20_000) @ member
    made = drawn(np.round(10_000 * share @ member).astype(int).tolist(), 10_000)[1:]
    assert made.std(axis=0) == pytest.approx(simulated.std(axis=0), rel=0.15)


def test_an_expert_that_is_never_or_always_selected_stays_so_and_tokens_are_fixed():
    made = drawn([0, 500, 200, 300], 500)
    assert (made[:, 0] == 0).all() and (made[:, 1] == 500).all()
    assert TokenDraws(500, 1, 3, (1, 2)).sums(np.array([500])).tolist() == [500, 500, 500]


def test_the_draws_of_a_dataset_depend_on_its_name_and_the_seed():
    tally = xr.Dataset({"tokens": ("document", [90])}, attrs={"design_effect": 4.0})
    made = token_draws({"a": tally, "b": tally}, 10, 1)
    assert (made["a"].draws, made["a"].tokens, made["a"].design_effect) == (11, 90, 4.0)
    assert len({made["a"].seed, made["b"].seed, token_draws({"a": tally}, 10, 2)["a"].seed}) == 3
