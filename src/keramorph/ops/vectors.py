"""Arithmetic on fields of vectors whose components are arrays of their own, as `unstack` gives them.

Two or three numbers make a poor inner loop: matrix products and norms over the last axis cost several times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from keramorph._typing import Array

Components: TypeAlias = Sequence[Array] | np.ndarray
"""One array for each component, or NumPy's one array of them all, components first."""


def multiply_components(matrix: np.ndarray, components: Components) -> list[Array]:
    """Components of the matrix `(m, n)` times each vector of n components."""
    return [_combine(row, components) for row in np.asarray(matrix).tolist()]


def _combine(factors: list[float], components: Components) -> Array:
    """Sum of factors times components; most matrices of grids hold zeros and ones, which cost nothing."""
    total = None
    for factor, component in zip(factors, components, strict=True):
        if factor:
            term = component if factor == 1 else component * factor
            total = term if total is None else total + term
    return components[0] * 0 if total is None else total


def sum_products(first: Components, second: Components) -> Array:
    """Inner product of vectors."""
    total = first[0] * second[0]
    for a, b in zip(first[1:], second[1:], strict=True):
        total = total + a * b
    return total


def determinant(rows: Sequence[Components]) -> Array:
    """Determinant of matrices, by expansion along the first row: exact, and differentiable on every engine."""
    if len(rows) == 1:
        return rows[0][0]
    return sum_products(rows[0], [_cofactor(rows, 0, column) for column in range(len(rows))])


def solve_systems(rows: Sequence[Components], right: Components) -> tuple[list[Array], Array]:
    """Solutions of linear systems by Cramer's rule, each times the determinant of its matrix; and the determinants."""
    size = range(len(rows))
    cofactors = [[_cofactor(rows, row, column) for column in size] for row in size]
    solutions = [sum_products(right, [cofactors[row][column] for row in size]) for column in size]
    return solutions, sum_products(rows[0], cofactors[0])


def _cofactor(rows: Sequence[Components], row: int, column: int) -> Array:
    if len(rows) == 1:
        return rows[0][0] * 0 + 1
    left = [[entry for j, entry in enumerate(line) if j != column] for i, line in enumerate(rows) if i != row]
    minor = determinant(left)
    return -minor if (row + column) % 2 else minor
