"""How well a transform aligns two images, in numbers that let a result be trusted or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.preparation import finest_spacing
from keramorph.solver.hints import Follower
from keramorph.solver.mapping import locate, to_numpy, voxel_matrix, weigh, weigh_by_any
from keramorph.solver.pyramid import Level
from keramorph.solver.result import Outcome, Solution
from keramorph.solver.similarity import Measure, measure_channels

_LEAST_OVERLAP = 0.05
LEAST_CONTRAST, _CLEAR_CONTRAST = 0.1, 0.25
_MOST_FOLDS = 1.0
"""Limits of trust: share of the fixed image; gain over chance from which the local correlation is followed at all, and
from which what it led to is an alignment; percentage of folded voxels."""

_AWAY = (-0.35, -0.25, -0.15, 0.15, 0.25, 0.35)
"""Shares of the field of view by which the images are shifted apart to see what chance alone would give."""

_FEW = 3
"""Voxels along an axis that are too few for shifts."""


def measure_loss(level: Level, matrix: np.ndarray, displacement: Array | None, similarity: Measure) -> float:
    """Return 1 minus the similarity of the images at a level under a transform, and what hints cost there.

    Args:
        level: Both images at one spacing.
        matrix: Homogeneous matrix in millimetres, applied after the displacement.
        displacement: `(1, *spatial, ndim)` in voxels of the level's fixed grid, or None.
        similarity: What they are compared by.
    """
    positions, inside = _locate(level, matrix, displacement)
    moved = backend.of(positions).sample(level.moving.values, positions)
    weight = weigh(level.fixed.mask, level.moving.mask, positions, inside)
    found = measure_channels(similarity, level.fixed.values, moved, weight, mask=level.fixed.mask)
    return max(0.0, 1 - found) + (0 if level.hints is None else _price(level, matrix, displacement, positions, weight))


def _price(level: Level, matrix: np.ndarray, displacement: Array | None, positions: Array, weight: Array) -> float:
    """What the hints of a level cost under a transform."""
    follower = Follower(level, matrix)
    still = level.still() if displacement is None else displacement
    return float(follower.follow(follower.gather(), still, positions, weight, lambda *_: 0.0)[1])


def measure_overlap(level: Level, matrix: np.ndarray) -> float:
    """Return the share of the fixed image that lies inside the moving image."""
    weight = weigh(level.fixed.mask, level.moving.mask, *_locate(level, matrix, None))
    return float(backend.of(weight).xp.mean(weigh_by_any(weight)))


def measure_contrast(level: Level, matrix: np.ndarray, similarity: Measure) -> float:
    """Return by how much more alike the images are than when they are shifted apart.

    Args:
        level: Both images at one spacing, a coarse one.
        matrix: Homogeneous matrix in millimetres.
        similarity: What they are compared by.

    Returns:
        What the similarity gains over the best of several shifts along each axis, as a share of what it could gain: 1
        for images that fit perfectly and nowhere else, about 0 for images that have nothing in common.
    """
    grid, level = level.fixed.grid, replace(level, hints=None)
    found = 1 - measure_loss(level, matrix, None, similarity)
    others = [0.0]
    for axis, count in enumerate(grid.shape):
        for share in _AWAY if count > _FEW else ():
            shifted = matrix.copy()
            shifted[:-1, -1] += matrix[:-1, :-1] @ grid.matrix[:, axis] * (share * count)
            others.append(1 - measure_loss(level, shifted, None, similarity))
    # A pattern that fits everywhere, a ramp for one, tells nothing about where it belongs.
    return (found - max(others)) / max(1 - max(others), 1e-6)


def _locate(level: Level, matrix: np.ndarray, displacement: Array | None) -> tuple[Array, Array]:
    """Voxels of the moving grid at which the fixed voxels read, and how far inside it they are."""
    between = voxel_matrix(matrix, level.fixed.grid, level.moving.grid)
    still = level.still() if displacement is None else displacement
    return locate(between, still, level.moving.grid.shape)


def measure_field(solution: Solution, field_mm: np.ndarray) -> dict[str, float]:
    """Return numbers on the displacement of a solution, by name.

    Args:
        solution: What the solver found.
        field_mm: Its displacement in millimetres, `(*grid.shape, ndim)`.
    """
    determinant = to_numpy(ops.jacobian_determinant(solution.displacement))
    determinant = determinant * np.linalg.det(solution.matrix)
    length = np.sqrt(np.einsum("...i,...i->...", field_mm, field_mm))
    return {
        "folds_percent": float(100 * np.mean(determinant <= 0)),
        "jacobian_min": float(determinant.min()),
        "jacobian_max": float(determinant.max()),
        "displacement_mean_mm": float(length.mean()),
        "displacement_max_mm": float(length.max()),
        "spacing_mm": finest_spacing(solution.grid),
    }


def judge(solution: Solution, *, folds: float) -> Outcome:
    """Return whether a solution can be trusted, and if not, why.

    Args:
        solution: What the solver found.
        folds: Percentage of voxels at which the transform folds.
    """
    if solution.overlap < _LEAST_OVERLAP:
        return Outcome(
            "untrusted", f"Only {100 * solution.overlap:.1f} % of the fixed image lies inside the moved one."
        )
    if solution.contrast < _CLEAR_CONTRAST:
        reason = "No alignment was found at which the images are clearly more alike than by chance."
        if solution.metric.name == "mind":
            deformed = ", and deformed after the self-similarities of both" if "deformable" in solution.losses else ""
            reason += f" They were moved as far as mutual information leads{deformed}."
        return Outcome("untrusted", reason)
    if folds > _MOST_FOLDS:
        return Outcome("untrusted", f"The transform folds at {folds:.2f} % of the voxels.")
    return Outcome("done")
