"""Gaussian smoothing."""

from __future__ import annotations

from collections.abc import Sequence

from keramorph import backend
from keramorph._typing import Array
from keramorph.ops.operation import operation


@operation
def gaussian(array: Array, *, sigma: float | Sequence[float]) -> Array:
    """The array smoothed by a Gaussian along its spatial axes.

    Truncated at 4 sigma, edges reflected, as `scipy.ndimage.gaussian_filter` does by default: constants stay, sums
    stay, and the filter is its own adjoint.

    Args:
        array: `(batch, *spatial, channels)`, an image or a displacement.
        sigma: Standard deviation in voxels, one or one per axis; 0 leaves an axis alone.

    Returns:
        `(batch, *spatial, channels)`; integers come back as float32.

    Raises:
        OptionError: If `sigma` is negative, not finite, or has another length than there are axes.

    Example:
        >>> import numpy as np
        >>> gaussian(np.ones((1, 5, 5, 1)), sigma=2.0).round(6).min().item()
        1.0
    """
    return backend.of(array).gaussian(array, sigma=sigma)
