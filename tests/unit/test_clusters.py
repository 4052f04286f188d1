"""Clusters of rows, groups of clusters, and the sources that datasets share."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatebook.inputs import clusters
from gatebook.inputs.rows import Row
from gatebook.inputs.templates import Column
from gatebook.problem import Problem


def rows_of(**columns: list) -> list[Row]:
    values = zip(*columns.values(), strict=True)
    return [Row(number, f"row {number}", dict(zip(columns, row, strict=True))) for number, row in enumerate(values)]


def of_rows(rows: list[Row], columns: list[str]) -> list[str]:
    cluster = clusters.of_rows("poems", lambda _: rows, [Column(name) for name in columns])
    return [cluster(row) for row in rows]


# ---------------------------------------------------------------- clusters of rows


def test_rows_with_the_same_value_of_one_column_are_one_cluster():
    rows = rows_of(url=["b", "a", "b", "a, c"], number=[3, 1, 3, 2])
    assert of_rows(rows, ["url"]) == ["b", "a", "b", "a, c"]
    assert of_rows(rows, ["number"]) == ["3", "1", "3", "2"]


def test_a_cluster_of_several_columns_is_named_after_its_first_row():
    # Rows 0 and 2 have the same author, 2 and 3 the same page; row 1 shares none, though its author is a page elsewhere
    rows = rows_of(author=["x", "p", "x", "y"], page=["m", "n", "p", "p"])
    first, alone = '["x", "m"]', '["p", "n"]'
    assert of_rows(rows, ["author", "page"]) == [first, alone, first, first]


def test_different_clusters_have_different_names():
    rows = rows_of(author=["x, y", "x"], page=["z", "y, z"])
    assert len(set(of_rows(rows, ["author", "page"]))) == 2


class UnionFind:
    """Sets of rows that are joined one by one."""

    def __init__(self, size: int):
        self.parent = list(range(size))

    def find(self, row: int) -> int:
        """The representative of a row's set."""
        while self.parent[row] != row:
            row = self.parent[row]
        return row

    def join(self, one: int, other: int) -> None:
        """Make one set of two; its representative is the smaller one."""
        first, last = sorted((self.find(one), self.find(other)))
        self.parent[last] = first


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=1, max_size=25), st.integers(1, 3))
def test_clusters_are_the_connected_components(values, columns):
    names = ["a", "b", "c"][:columns]
    rows = rows_of(**{name: [value[index] for value in values] for index, name in enumerate(names)})
    joined = UnionFind(len(values))
    for one in range(len(values)):
        for other in range(one):
            if any(values[one][index] == values[other][index] for index in range(columns)):
                joined.join(one, other)
    first = [list(map(str, values[joined.find(row)][:columns])) for row in range(len(values))]
    expected = [each[0] if columns == 1 else json.dumps(each) for each in first]
    assert of_rows(rows, names) == expected


def test_without_columns_every_row_is_a_cluster():
    assert of_rows(rows_of(author=["x", "x"]), []) == ["0", "1"]


@pytest.mark.parametrize("columns", [["author"], ["text", "author"]])
def test_an_absent_column_and_a_null_are_one_sentence(columns):
    rows = rows_of(text=["a", "b"], author=["x", None])
    with pytest.raises(Problem) as raised:
        of_rows(rows, [*columns, "writer"])
    assert str(raised.value) == (
        "datasets.poems.cluster: row 0: there is no column 'writer'; the columns are author, text: correct the name."
    )
    with pytest.raises(Problem) as raised:
        of_rows(rows, columns)
    assert str(raised.value) == ("datasets.poems.cluster: row 1: author is null: mend the row, or take another column.")


def test_datasets_of_the_same_files_share_their_sources():
    one, same, other = (clusters.sources(np.array(["a", "b"]), f"{digit}" * 64) for digit in (1, 1, 2))
    assert one.tolist() == same.tolist() == [f"{'1' * 16}/a", f"{'1' * 16}/b"]
    assert not set(one) & set(other)


# ---------------------------------------------------------------- groups of clusters


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200))
def test_groups_hold_whole_clusters_and_are_balanced(numbers):
    cluster = np.array([f"{number}" for number in numbers])
    group = clusters.groups(cluster)
    sizes = np.unique(cluster, return_counts=True)[1]
    assert group.dtype == np.int8 and len(group) == len(cluster)
    assert len(set(zip(cluster, group, strict=True))) == len(sizes)
    assert sorted(set(group)) == list(range(min(clusters.GROUPS, len(sizes))))
    documents = np.bincount(group)
    assert documents.max() - documents.min() <= sizes.max()


def test_groups_by_hand(monkeypatch):
    monkeypatch.setattr(clusters, "GROUPS", 2)
    # c has three documents, then come b and a with one each, in the order of their first documents, and d.
    assert clusters.groups(np.array(list("bcacdc"))).tolist() == [1, 0, 1, 0, 1, 0]
    assert clusters.groups(np.array(list("badc"))).tolist() == [0, 1, 0, 1]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=100), st.permutations(range(31)))
def test_groups_do_not_depend_on_the_names_of_clusters(numbers, names):
    one, other = (clusters.groups(np.array([f"{each[number]}" for number in numbers])) for each in (range(31), names))
    np.testing.assert_array_equal(one, other)
