"""Take the last folds out of a displacement, and out of its inverse."""

from __future__ import annotations

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.solver.pyramid import finest_spacing, smoothing_width
from keramorph.space import Grid

_LEAST = 0.01
"""Smallest change of volume that is let be."""

_ROUNDS = 6


def unfold(displacement: Array, grid: Grid) -> Array:
    """Return the displacement smoothed, as little as it takes, until neither `x + u(x)` nor `x - u(x)` folds anywhere.

    Updates that are small and smooth make no folds, but linear interpolation between voxels can. The second map is the
    inverse to first order: where it folds, the first one stretches so much that its inverse can hardly be computed.
    Only the neighbourhood of a fold is smoothed, with a Gaussian that widens until the fold is gone.

    Args:
        displacement: `(1, *spatial, ndim)` in voxels of `grid`.
        grid: Grid of the displacement.

    Returns:
        Displacement of the same shape. After six rounds it comes back as it is.
    """
    engine = backend.of(displacement)
    xp = engine.xp
    for round_ in range(_ROUNDS):
        forward, backward = ops.jacobian_determinant(displacement), ops.jacobian_determinant(-displacement)
        determinant = xp.minimum(forward, backward)
        if float(xp.min(determinant)) > _LEAST:
            break
        width = smoothing_width(2.0**round_ * finest_spacing(grid), grid)
        folded = xp.cast(determinant <= _LEAST, "float32")[..., None]
        near = xp.clip(engine.gaussian(folded, sigma=width) * 30.0, 0.0, 1.0)
        displacement = displacement + near * (engine.gaussian(displacement, sigma=width) - displacement)
    return displacement
