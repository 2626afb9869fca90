"""Composition of displacements, their exponential and their inverse."""

from __future__ import annotations

from keramorph import backend
from keramorph._typing import Array
from keramorph.errors import OptionError
from keramorph.ops.operation import check_field, operation


@operation
def compose(outer: Array, inner: Array) -> Array:
    """One displacement for two: `warp(warp(m, outer), inner) == warp(m, compose(outer, inner))`.

    Args:
        outer: Displacement u, `(batch, *spatial, ndim)` in voxels; outside its grid the edge value holds.
        inner: Displacement v on the same grid.

    Returns:
        `v(x) + u(x + v(x))`, `(batch, *spatial, ndim)` in voxels.

    Raises:
        ShapeError: If the two do not lie on the same grid.

    Example:
        >>> import numpy as np
        >>> one = np.ones((1, 5, 1))
        >>> compose(one, 2 * one).ravel().tolist()
        [3.0, 3.0, 3.0, 3.0, 3.0]
    """
    check_field(outer, inner, name="inner")
    return backend.of(outer, inner).compose(outer, inner)


@operation
def exponentiate(velocity: Array, *, steps: int = 7) -> Array:
    """The displacement reached by following a stationary velocity for unit time, by scaling and squaring.

    Args:
        velocity: `(batch, *spatial, ndim)` in voxels per unit time; outside its grid the edge value holds.
        steps: Number of squarings; the first step is `velocity / 2**steps`.

    Returns:
        `(batch, *spatial, ndim)` in voxels.

    Raises:
        OptionError: If `steps` is negative.
        ShapeError: If the velocity has not one component per spatial axis.

    Example:
        >>> import numpy as np
        >>> exponentiate(np.full((1, 6, 1), 3.0)).ravel().tolist()
        [3.0, 3.0, 3.0, 3.0, 3.0, 3.0]

    References:
        Arsigny et al., A Log-Euclidean framework for statistics on diffeomorphisms, 2006, doi:10.1007/11866565_113.
    """
    if steps < 0:
        raise OptionError(f"`steps` must be 0 or more. Received: steps={steps}. 7 suits most velocities.")
    check_field(velocity, velocity, name="velocity")
    engine = backend.of(velocity)
    displacement = velocity / 2**steps
    for _ in range(steps):
        displacement = engine.compose(displacement, displacement)
    return displacement


@operation
def invert(displacement: Array, *, iterations: int = 30) -> tuple[Array, Array]:
    """The inverse displacement and what it leaves: `compose(u, v)` is zero where the residual is.

    The fixed-point iteration `v = -u(x + v)`, with a step that is halved voxel by voxel wherever the residual grew.

    Args:
        displacement: u, `(batch, *spatial, ndim)` in voxels; outside its grid the edge value holds.
        iterations: Number of iterations.

    Returns:
        The inverse v, `(batch, *spatial, ndim)`, and the length of `v(x) + u(x + v(x))`, `(batch, *spatial)`, all
        in voxels.

    Raises:
        OptionError: If `iterations` is below 1.
        ShapeError: If the displacement has not one component per spatial axis.

    Example:
        >>> import numpy as np
        >>> inverse, residual = invert(np.full((1, 5, 1), 2.0))
        >>> inverse.ravel().tolist(), residual.max().item()
        ([-2.0, -2.0, -2.0, -2.0, -2.0], 0.0)

    References:
        Chen et al., A simple fixed-point approach to invert a deformation field, 2008, doi:10.1118/1.2816107.
    """
    if iterations < 1:
        raise OptionError(f"`iterations` must be at least 1. Received: iterations={iterations}. 30 suits most fields.")
    check_field(displacement, displacement)
    engine = backend.of(displacement)
    xp = engine.xp
    inverse = -displacement
    excess = engine.compose(displacement, inverse)
    residual = xp.sqrt(xp.sum(excess * excess, axis=-1))
    step = residual * 0 + 1
    for _ in range(iterations):
        inverse = inverse - step[..., None] * excess
        excess = engine.compose(displacement, inverse)
        before, residual = residual, xp.sqrt(xp.sum(excess * excess, axis=-1))
        step = xp.where(residual > before, step / 2, step)
    return inverse, residual
