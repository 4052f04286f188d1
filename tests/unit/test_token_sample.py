"""Which tokens of a study count, and how many documents and clusters they are of."""

import numpy as np
from routing_cases import Case, case, records
from vocabulary_cases import written

from gatebook.measures import token_sample
from gatebook.study import routed


def clustered(lengths=(5, 7, 4, 6, 8), clusters=("a", "b", "a", "c", "b")) -> Case:
    token_id = np.arange(sum(lengths)) % 9
    return case({0: records(np.eye(4)[token_id % 4], 1)}, list(lengths), token_id, list(clusters))


def test_clusters_are_taken_whole_but_the_last(tmp_path):
    read = routed.read(**written({"x": clustered()}, tmp_path))
    cluster = np.repeat([0, 1, 0, 2, 1], [5, 7, 4, 6, 8])
    orders = set()
    for seed in range(40):
        place = token_sample.counted(read, 18, seed)
        assert len(place) == 18 and (np.diff(place) > 0).all()
        held, whole = np.bincount(cluster[place], minlength=3), np.bincount(cluster)
        assert ((held > 0) & (held < whole)).sum() <= 1
        for one in np.flatnonzero((held > 0) & (held < whole)):  # its first tokens
            assert cluster[place][cluster[place] == one].size == held[one]
            assert place[cluster[place] == one].tolist() == np.flatnonzero(cluster == one)[: held[one]].tolist()
        orders.add(tuple(held))
    assert len(orders) >= 4
    assert token_sample.counted(read, 30, 0).tolist() == list(range(30))


def test_other_datasets_change_nothing(tmp_path):
    alone = routed.read(**written({"x": clustered()}, tmp_path / "alone"))
    both = routed.read(**written({"w": clustered((9, 3), ("k", "l")), "x": clustered()}, tmp_path / "both"))
    for seed in range(5):
        wanted = token_sample.counted(alone, 15, seed)
        place = token_sample.counted(both, 15, seed)
        assert place[place >= 12].tolist() == (wanted + 12).tolist()


def test_sizes_are_of_the_tokens_that_count(tmp_path):
    read = routed.read(**written({"w": clustered((9, 3), ("k", "l")), "x": clustered()}, tmp_path))
    found = token_sample.sizes(read, np.array([0, 1, 11, 12, 13, 24, 41]))
    assert found["tokens"].values.tolist() == [7, 3, 4]
    assert found["documents"].values.tolist() == [5, 2, 3] and found["clusters"].values.tolist() == [4, 2, 2]


def test_tokens_of_windows_are_of_as_many_clusters_as_can_be(tmp_path):
    read = routed.read(**written({"w": clustered((9, 3), ("k", "l")), "x": clustered()}, tmp_path))
    cluster = np.repeat([0, 1, 0, 2, 1], [5, 7, 4, 6, 8])
    for seed in range(5):
        place = token_sample.of_windows(read, 9, 3, seed)
        assert (np.diff(place) > 0).all() and (place < 12).sum() == 6  # 3 of each of its windows, and no more
        assert np.bincount(cluster[place[place >= 12] - 12]).tolist() == [3, 3, 3]
        alone = token_sample.of_windows(routed.read(**written({"x": clustered()}, tmp_path)), 9, 3, seed)
        assert (alone + 12).tolist() == place[place >= 12].tolist()
    assert token_sample.of_windows(read, 100, 100, 0).tolist() == list(range(42))
    assert len(token_sample.of_windows(read, 5, 3, 0)) == 10
