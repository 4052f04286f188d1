"""Router inputs with the highest weights of each expert: those that sorting all tokens finds, whatever the batches."""

import numpy as np
import pytest
import torch

from gatebook.routing.highest import NONE, Highest

TOKENS, EXPERTS, HIDDEN, RANKS, MOST = 60, 5, 3, 2, 7


def given(seed: int = 0):
    """States, weights and selected experts of tokens; half of the weights are equal, and no token selects the last."""
    rng = np.random.default_rng(seed)
    selected = np.argsort(rng.random((TOKENS, EXPERTS - 1)), axis=1)[:, :RANKS]
    weights = np.where(rng.random((TOKENS, RANKS)) < 0.5, 0.25, rng.random((TOKENS, RANKS))).astype(np.float32)
    states = torch.from_numpy(rng.normal(size=(TOKENS, HIDDEN))).to(torch.bfloat16).float().numpy()
    return states, weights, selected


def kept(states, weights, selected, batches):
    """What is kept of `batches` of tokens, each with a row of padding before every token."""
    highest = Highest(MOST, EXPERTS)
    for tokens in batches:
        rows = 2 * np.arange(len(tokens)) + 1
        padded = []
        for values, padding in ((states, 9), (weights, 9), (selected, 0)):
            wide = np.full((2 * len(tokens), values.shape[1]), padding, values.dtype)
            wide[rows] = values[tokens]
            padded.append(torch.from_numpy(wide))
        highest.add(3, *padded, torch.from_numpy(rows), torch.from_numpy(np.asarray(tokens)))
    (found,) = highest.result(1000, {})
    return found


@pytest.mark.parametrize("size", [1, 4, 13, TOKENS])
def test_they_are_those_of_all_tokens_in_order_and_of_equal_weights_the_earlier_token_comes_first(size):
    states, weights, selected = given()
    order = np.random.default_rng(size).permutation(TOKENS)
    found = kept(states, weights, selected, np.split(order, range(size, TOKENS, size)))
    assert found["layer"].values.tolist() == [3]
    for expert in range(EXPERTS):
        users = [(-weights[token, rank], token) for token, rank in np.argwhere(selected == expert).tolist()]
        expected = sorted(users)[:MOST]
        missing = MOST - len(expected)
        assert found["token"].values[0, expert].tolist() == [1000 + token for _, token in expected] + [NONE] * missing
        np.testing.assert_array_equal(
            found["weight"].values[0, expert], [-weight for weight, _ in expected] + [np.nan] * missing
        )
        np.testing.assert_array_equal(
            found["state"].values[0, expert],
            np.concatenate([states[[token for _, token in expected]], np.full((missing, HIDDEN), np.nan)]),
        )


def test_states_are_rounded_to_the_bits_of_bfloat16():
    states, weights, selected = given()
    found = kept(states + np.float32(1e-3), weights, selected, [np.arange(TOKENS)])
    state = found["state"].values
    assert (state[np.isfinite(state)].view(np.uint32) & 0xFFFF == 0).all()
