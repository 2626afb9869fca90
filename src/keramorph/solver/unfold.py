"""Take the last folds out of a displacement, and out of its inverse."""

from __future__ import annotations

from typing import Any

from keramorph import backend
from keramorph._typing import Array
from keramorph.ops.jacobian import least_determinant
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
        determinant = least_determinant(displacement)
        if float(xp.min(determinant)) > _LEAST:
            break
        width = smoothing_width(2.0**round_ * finest_spacing(grid), grid)
        folded = xp.cast(determinant <= _LEAST, "float32")[..., None]
        near = engine.gaussian(folded, sigma=width)
        smooth = engine.gaussian(displacement, sigma=width)
        displacement = engine.map_blocks(lambda *arrays: _blend(xp, *arrays), displacement, smooth, near)
    return displacement


def _blend(xp: Any, displacement: Array, smooth: Array, near: Array) -> Array:
    """The smooth displacement where `near` is large, and the other one where it is zero."""
    share = xp.clip(near[..., 0] * 30.0, 0.0, 1.0)
    pairs = zip(xp.unstack(displacement), xp.unstack(smooth), strict=True)
    return xp.stack([rough + share * (even - rough) for rough, even in pairs], axis=-1)
