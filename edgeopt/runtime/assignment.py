"""The assignment problem: pair rows with columns at the least total cost."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


def assign(costs: Floats, limit: float) -> list[tuple[int, int]]:
    """Pair rows and columns so that the sum of costs, and of `limit` for every row without a partner, is smallest.

    By shortest augmenting paths (Jonker and Volgenant 1987), row by row.

    Args:
        costs: (rows, columns); what costs more than `limit` is never paired.
        limit: cost of no partner.

    Returns:
        Pairs of row and column.
    """
    rows, columns = costs.shape
    if not rows or not columns:
        return []
    # Each row may take a column of its own that stands for no partner.
    alone = np.where(np.eye(rows, dtype=np.bool_), limit, np.inf)
    whole = np.concatenate([np.where(costs > limit, np.inf, costs), alone], axis=1)
    taken_by = np.full(rows + columns, -1)
    prices = np.zeros(rows + columns)
    gains = np.zeros(rows)
    for row in range(rows):
        _augment(whole, row, taken_by, prices, gains)
    pairs = [(int(row), column) for column, row in enumerate(taken_by[:columns]) if row >= 0]
    return sorted(pairs)


def _augment(costs: Floats, start: int, taken_by: NDArray[np.int64], prices: Floats, gains: Floats) -> None:
    """Give a row a column, moving other rows where that is cheaper: Dijkstra's search over reduced costs."""
    distances = np.full(costs.shape[1], np.inf)
    before = np.full(costs.shape[1], -1)
    done = np.zeros(costs.shape[1], np.bool_)
    row, reached, column = start, 0.0, -1
    while True:
        through = reached + costs[row] - gains[row] - prices
        nearer = ~done & (through < distances)
        distances[nearer], before[nearer] = through[nearer], row
        column = int(np.where(done, np.inf, distances).argmin())
        reached = float(distances[column])
        if taken_by[column] < 0:
            break
        done[column] = True
        row = int(taken_by[column])
    gains[start] += reached
    gains[taken_by[done]] += reached - distances[done]
    prices[done] -= reached - distances[done]
    while True:
        row = int(before[column])
        taken_by[column], following = row, int(np.flatnonzero(taken_by == row)[0]) if row != start else -1
        if row == start:
            return
        column = following
