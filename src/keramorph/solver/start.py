"""Where an affine alignment may start from."""

from __future__ import annotations

import math

import numpy as np

from keramorph.solver.mapping import to_numpy
from keramorph.solver.motion import find_rotation
from keramorph.solver.pyramid import Layer, Level
from keramorph.space import Grid

_THIN = 1e-3
"""Spread of points across a line, in that along it and squared, that tells no turn about it."""

_ANGLES = range(0, 360, 15)
_ROTATIONS = 300
"""Turns in the plane, in degrees, and in space: none is further than 8 or 35 degrees from one of them."""

_SPIRAL = 1.533751168755204288118041
"""The root of x^4 = x + 4, which spreads the rotations evenly."""


def list_starts(fixed: Layer, moving: Layer) -> dict[str, np.ndarray]:
    """Return homogeneous matrices in millimetres, fixed to moving points, by name.

    The headers as they are; the centres of the grids laid on one another; the centres of mass; and the principal axes
    of the mass too, turned the way that lies nearest to the headers.

    Args:
        fixed: Fixed image at a coarse level, values in [0, 1].
        moving: Moving image, likewise.

    Returns:
        The starts, the most trusted first.
    """
    fixed_mean, fixed_spread = _measure_mass(fixed)
    moving_mean, moving_spread = _measure_mass(moving)
    identity = np.eye(fixed.grid.ndim)
    return {
        "headers": np.eye(fixed.grid.ndim + 1),
        "centres": _join(identity, fixed.grid.center, moving.grid.center),
        "masses": _join(identity, fixed_mean, moving_mean),
        "moments": _join(_align_axes(fixed_spread, moving_spread), fixed_mean, moving_mean),
    }


def list_turned_starts(fixed: Layer, moving: Layer) -> list[np.ndarray]:
    """Return homogeneous matrices in millimetres that turn the moving image every possible way.

    Each turn is made about the centres of mass and about those of the grids, laid on one another.
    """
    fixed_mean, moving_mean = _measure_mass(fixed)[0], _measure_mass(moving)[0]
    centres = ((fixed_mean, moving_mean), (fixed.grid.center, moving.grid.center))
    return [_join(turn, *pair) for turn in _list_turns(fixed.grid.ndim) for pair in centres]


def start_at_landmarks(level: Level) -> list[np.ndarray]:
    """Return the rigid motion that lays the landmarks of a level on one another best, in a list; none without them.

    Fewer points than axes, or points on a line, only shift.

    References:
        Kabsch, A solution for the best rotation to relate two sets of vectors, 1976, doi:10.1107/S0567739476001873.
    """
    if level.hints is None or level.hints.landmarks is None:
        return []
    fixed, moving = level.hints.landmarks
    ndim = fixed.shape[1]
    middle, aim = fixed.mean(axis=0), moving.mean(axis=0)
    turn, spread = find_rotation((moving - aim).T @ (fixed - middle))
    if len(fixed) < ndim or spread[ndim - 2] < _THIN * spread[0]:
        return [_join(np.eye(ndim), middle, aim)]
    return [_join(turn, middle, aim)]


def _list_turns(ndim: int) -> np.ndarray:
    """Rotations `(turns, ndim, ndim)` spread evenly over all there are.

    References:
        Alexa, Super-Fibonacci spirals: fast, low-discrepancy sampling of SO(3), 2022, doi:10.1109/CVPR52688.2022.00811.
    """
    if ndim == 2:
        angles = np.deg2rad(_ANGLES)
        cosine, sine = np.cos(angles), np.sin(angles)
        return np.moveaxis(np.array([[cosine, -sine], [sine, cosine]]), -1, 0)
    share = (np.arange(_ROTATIONS) + 0.5) / _ROTATIONS
    first, second = (2 * np.pi * _ROTATIONS * share / number for number in (math.sqrt(2), _SPIRAL))
    near, far = np.sqrt(share), np.sqrt(1 - share)
    vector = np.stack([near * np.sin(first), near * np.cos(first), far * np.sin(second)], axis=-1)
    return _turn_by_quaternions(vector, far * np.cos(second))


def _turn_by_quaternions(vector: np.ndarray, scalar: np.ndarray) -> np.ndarray:
    """Rotations `(n, 3, 3)` that unit quaternions stand for: vectors `(n, 3)` and scalars `(n,)`."""
    outer = vector[:, :, None] * vector[:, None, :]
    cross = np.cross(np.eye(3)[None], vector[:, None, :])
    square = scalar**2 - np.sum(vector**2, axis=-1)
    return square[:, None, None] * np.eye(3) + 2 * outer + 2 * scalar[:, None, None] * cross


def _join(linear: np.ndarray, fixed_point: np.ndarray, moving_point: np.ndarray) -> np.ndarray:
    """Homogeneous matrix with this linear part that takes one point to another."""
    ndim = len(linear)
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = linear
    matrix[:ndim, ndim] = moving_point - linear @ fixed_point
    return matrix


def _measure_mass(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass and covariance of the mass in millimetres."""
    mass = to_numpy(layer.values)[0].astype(np.float64)
    if layer.mask is not None:
        mass = mass * to_numpy(layer.mask)[0]
    mass = mass.mean(axis=-1)
    points = _points(layer.grid)
    weights = mass.reshape(-1, 1) / mass.sum()
    mean = (weights * points).sum(axis=0)
    offset = points - mean
    return mean, (weights * offset).T @ offset


def _points(grid: Grid) -> np.ndarray:
    """Physical points `(voxels, ndim)` of a grid."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    return grid.to_physical(index.reshape(-1, grid.ndim))


def _align_axes(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Rotation that takes the principal axes of one covariance to another's, their signs nearest to no rotation."""
    _, fixed_axes = np.linalg.eigh(fixed)
    _, moving_axes = np.linalg.eigh(moving)
    signs = np.sign(np.sum(fixed_axes * moving_axes, axis=0))
    signs[signs == 0] = 1
    if np.linalg.det(moving_axes * signs) * np.linalg.det(fixed_axes) < 0:
        signs[np.argmin(np.abs(np.sum(fixed_axes * moving_axes, axis=0)))] *= -1
    return (moving_axes * signs) @ fixed_axes.T
