import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatebook.measures import contexts


def chosen(weight, token_id, *, highest, per_token, random, seed=0):
    candidates = 2 * np.arange(len(weight))
    options = {"highest": highest, "per_token": per_token, "random": random, "rng": np.random.default_rng(seed)}
    return contexts.choose(candidates, np.array(weight, np.float32), np.array(token_id, int), **options)


def test_the_highest_weights_with_few_of_the_same_token():
    highest, random = chosen([0.5, 0.9, 0.7, 0.6, 0.9], [1, 1, 1, 2, 1], highest=3, per_token=2, random=9)
    assert highest.tolist() == [2, 8, 6]  # 0.9 and 0.9 by position; 0.7 would be the third of token 1
    assert random.tolist() == [0, 4]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=40), st.integers(0, 9), st.integers(1, 4))
def test_equal_to_brute_force(tokens, highest, per_token):
    weight, token_id = [number / 8 for number, _ in tokens], [token for _, token in tokens]
    expected, seen = [], {}
    for place in sorted(range(len(tokens)), key=lambda place: (-weight[place], place)):
        seen[token_id[place]] = seen.get(token_id[place], 0) + 1
        if seen[token_id[place]] <= per_token and len(expected) < highest:
            expected.append(2 * place)
    found, random = chosen(weight, token_id, highest=highest, per_token=per_token, random=5)
    assert found.tolist() == expected
    rest = set(range(0, 2 * len(tokens), 2)) - set(expected)
    assert len(random) == min(5, len(rest)) and set(random.tolist()) <= rest
    assert np.all(np.diff(random) > 0)


def test_random_ones_are_drawn_evenly():
    draws = [chosen(np.ones(10), np.arange(10), highest=2, per_token=1, random=4, seed=seed)[1] for seed in range(2000)]
    share = np.bincount(np.concatenate(draws) // 2, minlength=10) / len(draws)
    assert share[:2].tolist() == [0, 0]
    assert share[2:] == pytest.approx(0.5, abs=0.05)


def test_the_middle_is_nearest_to_the_median_and_none_of_the_others():
    weight, token_id = np.array([0.1, 0.5, 0.4, 0.9, 0.5], np.float32), np.array([1, 1, 2, 3, 1])
    options = {"number": 3, "per_token": 1, "others": np.array([8])}
    found = contexts.middle(np.arange(0, 10, 2), weight, token_id, **options)
    assert found.tolist() == [2, 4, 6]  # the median is 0.5; token 1 is there, and 8 left out
    assert contexts.middle(np.arange(0), weight[:0], token_id[:0], **options).tolist() == []
