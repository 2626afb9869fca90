"""Physical grids as awkward as real ones: rotated, flipped, anisotropic, away from the origin, sizes unequal."""

import numpy as np
from scipy.stats import ortho_group

from keramorph.space import Grid

SHAPES = {2: (5, 6), 3: (5, 6, 7)}


def make_grid(ndim: int, *, seed: int = 0, shape: tuple[int, ...] | None = None, fastest: str = "last") -> Grid:
    """Grid with orthogonal axes in any directions; half of all seeds are left-handed."""
    random = np.random.default_rng(seed)
    affine = np.eye(ndim + 1)
    affine[:ndim, :ndim] = ortho_group.rvs(ndim, random_state=random) * random.uniform(0.6, 3.0, ndim)
    affine[:ndim, ndim] = random.uniform(-90, 90, ndim)
    return Grid(shape or SHAPES[ndim], affine, fastest)


def make_permuted(ndim: int, order: tuple[int, ...], signs: tuple[int, ...]) -> Grid:
    """Grid whose array axes run along physical axes in any order and sense."""
    affine = np.eye(ndim + 1)
    affine[:ndim, :ndim] = np.eye(ndim)[:, list(order)] * np.array(signs) * np.arange(1.0, ndim + 1)
    affine[:ndim, ndim] = np.arange(10.0, 10.0 * (ndim + 1), 10.0)
    return Grid(SHAPES[ndim], affine)


def voxels(shape: tuple[int, ...]) -> np.ndarray:
    """All indices of a grid, one per row, in the array's own order."""
    return np.indices(shape).reshape(len(shape), -1).T
