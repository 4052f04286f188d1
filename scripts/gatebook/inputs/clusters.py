"""Clusters: the documents of a dataset that are not independent of each other, and groups of whole clusters.

Documents from one source (a file, an author, a conversation) are alike. What chance could have made otherwise is which
sources a dataset has, so clusters are what intervals resample, permutations deal out, and groups hold whole.
"""

import heapq
import json
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from gatebook.inputs.rows import Row
from gatebook.inputs.templates import Column

GROUPS = 20
"""Groups of clusters: the units of the jackknife, where counts are too large to be kept for every cluster."""


def of_rows(
    name: str, read: Callable[[Sequence[Column]], Iterable[Row]], columns: Sequence[Column]
) -> Callable[[Row], str]:
    """What names the cluster of a row of the dataset `name`, by the value of a column or several, or its own number.

    Rows that have the same value in any of several `columns` are one cluster, named after its first row's values: so
    all rows of the files are read before, by `read`. A `Problem` for a value that is null or empty.
    """
    key = f"datasets.{name}.cluster"
    if not columns:
        return lambda row: str(row.number)
    if len(columns) == 1:
        return lambda row: row.label(key, columns[0])
    values = np.array([[row.label(key, column) for column in columns] for row in read(columns)], dtype=object)
    label = _connected(list(values.T))
    first = values[np.unique(label, return_index=True)[1]]
    named = [json.dumps(row, ensure_ascii=False) for row in first.tolist()]  # unambiguous, whatever the values hold
    return lambda row: named[label[row.number]]


def _connected(values: list[np.ndarray]) -> np.ndarray:
    """Numbers of the connected components of rows that share a value of any column: (row,) int, from 0."""
    # Imported here, because jobs that tally or read tokens need groups only.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, nodes, edges = len(values[0]), len(values[0]), []
    for column in values:
        known, code = np.unique(column, return_inverse=True)
        edges.append(nodes + code)
        nodes += len(known)
    ends = np.tile(np.arange(rows), len(edges)), np.concatenate(edges)
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(nodes, nodes))
    return np.unique(connected_components(graph, directed=False)[1][:rows], return_inverse=True)[1]


def sources(cluster: np.ndarray, dataset_sha256: str) -> np.ndarray:
    """The clusters (document,) of a dataset, named so that datasets made from the same files share them: text."""
    return np.array([f"{dataset_sha256[:16]}/{name}" for name in cluster], dtype=object)


def groups(cluster: np.ndarray) -> np.ndarray:
    """The group of each document, int8 (document,), from its cluster (document,): groups hold whole clusters.

    There are min(`GROUPS`, clusters) of them, numbered from 0, with about as many documents each: clusters go, the
    largest first, equal ones in the order of their first documents, to the group that has the fewest documents.
    """
    _, first, code, size = np.unique(cluster, return_index=True, return_inverse=True, return_counts=True)
    heap = [(0, number) for number in range(min(GROUPS, len(first)))]
    group = np.empty(len(first), dtype=np.int8)
    for index in np.lexsort((first, -size)):
        documents, number = heap[0]
        group[index] = number
        heapq.heapreplace(heap, (documents + int(size[index]), number))
    return group[code]
