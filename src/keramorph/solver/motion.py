"""The kinds of linear maps that a registration may find, and the parameters that move within each.

A rotation, with or without a scale, is a first one times the exponential of a sum of generators: whatever the
parameters are, the product is of the kind, and no step has to be brought back to it.
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

Kind = Literal["rigid", "similarity", "affine"]


def find_rotation(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotation nearest to a square matrix, and the matrix's singular values.

    The last, smallest one is negative where the matrix mirrors.

    References:
        Umeyama, Least-squares estimation of transformation parameters between two point patterns, 1991,
        doi:10.1109/34.88573.
    """
    left, sizes, right = np.linalg.svd(matrix)
    signs = np.ones(len(matrix))
    signs[-1] = np.sign(np.linalg.det(left @ right))
    return (left * signs) @ right, sizes * signs


def project(matrix: np.ndarray, kind: Kind, centre: np.ndarray) -> np.ndarray:
    """Return the map of a kind that is nearest to a homogeneous matrix and takes a point where that takes it.

    Args:
        matrix: `(ndim + 1, ndim + 1)`, a mirrored one too: no kind but the affine mirrors.
        kind: What the result shall be.
        centre: The point, `(ndim,)`.
    """
    if kind == "affine":
        return matrix
    ndim = len(centre)
    linear, sizes = find_rotation(matrix[:ndim, :ndim])
    if kind == "similarity":
        linear = linear * np.mean(sizes)
    result = np.eye(ndim + 1)
    result[:ndim, :ndim] = linear
    result[:ndim, ndim] = matrix[:ndim, :ndim] @ centre + matrix[:ndim, ndim] - linear @ centre
    return result


class Motion:
    """Linear maps of a kind near a first one, as a function of parameters in millimetres.

    Args:
        kind: Of all the maps, the first one too.
        linear: The first one, `(ndim, ndim)`, where all parameters are 0.
        radius: Distance in millimetres at which a parameter moves a point by as much as it says.
    """

    def __init__(self, kind: Kind, linear: np.ndarray, radius: float) -> None:
        self.linear, self.radius = linear, radius
        self.generators = None if kind == "affine" else _list_generators(len(linear), scaled=kind == "similarity")
        self.count = linear.size if self.generators is None else len(self.generators)

    def at(self, parameters: np.ndarray) -> np.ndarray:
        """The map `(ndim, ndim)` that parameters `(count,)` stand for."""
        if self.generators is None:
            return self.linear + parameters.reshape(self.linear.shape) / self.radius
        from scipy.linalg import expm  # not for an affine transform, which most registrations end with

        return self.linear @ expm(self._combine(parameters))

    def pull(self, parameters: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Gradient to the parameters, of one to the map times the radius, `(ndim, ndim)`."""
        if self.generators is None:
            return gradient.ravel()
        from scipy.linalg import expm_frechet

        here, back = self._combine(parameters), self.linear.T @ gradient
        return np.array([np.sum(back * expm_frechet(here, one, compute_expm=False)) for one in self.generators])

    def _combine(self, parameters: np.ndarray) -> np.ndarray:
        assert self.generators is not None
        return np.tensordot(parameters / self.radius, self.generators, axes=1)


def _list_generators(ndim: int, *, scaled: bool) -> np.ndarray:
    """What rotations are exponentials of, `(count, ndim, ndim)`: a quarter turn per plane; and growth, if any."""
    found = []
    for one, other in itertools.combinations(range(ndim), 2):
        turn = np.zeros((ndim, ndim))
        turn[one, other], turn[other, one] = -1.0, 1.0
        found.append(turn)
    return np.array([*found, np.eye(ndim)] if scaled else found)
