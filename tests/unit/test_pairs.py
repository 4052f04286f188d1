"""Pairs of prompts as arrays: a file holds them, and both prompts can be exchanged."""

import numpy as np

from gatebook.inputs.tasks.base import Pair
from gatebook.study import pairs

FOUND = [Pair([7, 1, 2], [7, 3, 2], 4, 5, "a"), Pair([1, 2, 3, 4], [1, 2, 5, 4], 6, 7, "b", {"IO": 1})]


def test_single_pairs_become_arrays():
    made = pairs.of_list(FOUND)
    assert made.ids.tolist() == [[[7, 1, 2, 0], [1, 2, 3, 4]], [[7, 3, 2, 0], [1, 2, 5, 4]]]
    assert made.lengths.tolist() == [3, 4] and made.right.tolist() == [4, 6] and made.wrong.tolist() == [5, 7]
    assert {role: places.tolist() for role, places in made.labels.items()} == {
        "changed": [1, 2],
        "end": [2, 3],
        "IO": [pairs.NOWHERE, 1],
    }
    assert len(made) == 2 and made.source.tolist() == ["a", "b"]


def test_a_file_holds_them(tmp_path):
    made = pairs.of_list(FOUND)
    pairs.write(made, tmp_path / "task.nc", {"task": "mine", "title": "of mine"})
    read, about = pairs.read(tmp_path / "task.nc")
    for name in ("ids", "lengths", "right", "wrong", "source"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert read.labels.keys() == made.labels.keys() and read.labels["IO"].tolist() == [-1, 1]
    assert about["task"] == "mine" and len(about["tokens_sha256"]) == 64


def test_swapped_pairs_ask_the_other_way_round():
    made = pairs.of_list(FOUND)
    other = made.swapped()
    assert (other.ids[0] == made.ids[1]).all() and (other.ids[1] == made.ids[0]).all()
    assert other.right.tolist() == [5, 7] and other.wrong.tolist() == [4, 6] and other.labels is made.labels
    assert (other.swapped().ids == made.ids).all()


def test_some_of_them():
    one = pairs.of_list(FOUND)[np.array([False, True])]
    assert len(one) == 1 and one.ids.shape == (2, 1, 4) and one.labels["changed"].tolist() == [2]
