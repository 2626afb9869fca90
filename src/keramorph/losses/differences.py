"""What regularisers need of a displacement field: millimetres where a spacing is given, and finite differences."""

from collections.abc import Sequence

import numpy as np

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError, ShapeError
from keramorph.losses.images import promote

ops = keras.ops

Spacing = Sequence[float] | float | None
"""Millimetres between voxel centres along each array axis, or one for all; None measures in voxels."""


def standardize_spacing(spacing: Spacing) -> float | tuple[float, ...] | None:
    """Return the spacing as plain floats, which a configuration can hold, once they are known to be lengths."""
    if spacing is None:
        return None
    values = np.asarray(spacing, dtype=np.float64)
    steps = tuple(values.reshape(-1).tolist())
    if values.ndim > 1 or not steps or not all(0 < step < float("inf") for step in steps):
        raise OptionError(
            "A spacing is a positive number of millimetres, one for all axes or one per axis. "
            f"Received: spacing={spacing!r}. Take `grid.spacing`, or None for voxels."
        )
    return steps if values.ndim else steps[0]


def prepare_displacement(displacement: Array, spacing: Spacing) -> tuple[Array, tuple[float, ...]]:
    """Return the displacement in the unit of the spacing, float32 or better, and the distance of voxels per axis."""
    displacement = promote(displacement)
    ndim = len(displacement.shape) - 2
    if ndim < 1 or displacement.shape[-1] != ndim:
        raise ShapeError(
            "A displacement has the shape (batch, *spatial, ndim), with one component per spatial axis. Received: "
            f"displacement.shape={tuple(displacement.shape)}. Add the batch axis with `[None]` where there is none."
        )
    steps = standardize_spacing(1.0 if spacing is None else spacing)
    steps = (steps,) * ndim if isinstance(steps, float) else steps
    if steps is None or len(steps) != ndim:
        raise ShapeError(
            f"A spacing has one length for each of the {ndim} spatial axes. Received: spacing={spacing!r}, "
            f"displacement.shape={tuple(displacement.shape)}. Give the lengths in the order of the array's axes."
        )
    return displacement * ops.convert_to_tensor(steps, dtype=displacement.dtype), steps


def difference(field: Array, *, axis: int, step: float) -> Array:
    """Derivative along a spatial axis, midway between neighbours: one shorter than the field on that axis.

    Central differences would not see a field that alternates from voxel to voxel.
    """
    after: list[slice] = [slice(None)] * len(field.shape)
    before = list(after)
    after[axis + 1], before[axis + 1] = slice(1, None), slice(None, -1)
    return (field[tuple(after)] - field[tuple(before)]) / step
