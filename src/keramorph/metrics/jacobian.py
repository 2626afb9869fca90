"""How a displacement field changes volumes, from the determinant of its Jacobian."""

import numpy as np

from keramorph import ops as deformation
from keramorph._typing import Array
from keramorph.errors import ShapeError

_LEAST_DETERMINANT = 1e-9
"""Takes the place of every smaller determinant, negative ones too, before the logarithm."""


def folding_share(displacement: Array) -> np.ndarray:
    """Return the share of the voxels of each field that are folded: det(I + du/dx) <= 0, between 0 and 1.

    Args:
        displacement: Field `(batch, *spatial, ndim)` in voxels, float.

    Returns:
        Shares `(batch,)`, float64. Derivatives are central differences, one-sided at the border.

    Raises:
        ShapeError: If the field does not have one component per spatial axis.

    Example:
        >>> mirror = np.zeros((1, 4, 5, 2))
        >>> mirror[..., 0] = -2.0 * np.arange(4)[:, None]
        >>> folding_share(mirror).tolist()
        [1.0]
    """
    return (_measure_determinant(displacement) <= 0).mean(axis=1)


def log_jacobian_sd(displacement: Array) -> np.ndarray:
    """Return the standard deviation of log det(I + du/dx) over the voxels of each field: 0 for an affine deformation.

    Determinants below 1e-9 count as 1e-9, so that a fold weighs as an extreme compression and not as nothing.
    Learn2Reg's evaluator adds 3 before it takes the logarithm: its smaller figures do not compare with these.

    Args:
        displacement: Field `(batch, *spatial, ndim)` in voxels, float.

    Returns:
        Standard deviations `(batch,)`, float64. Derivatives are central differences, one-sided at the border.

    Raises:
        ShapeError: If the field does not have one component per spatial axis.

    Example:
        >>> stretch = np.zeros((1, 4, 5, 2))
        >>> stretch[..., 0] = 0.5 * np.arange(4)[:, None]
        >>> log_jacobian_sd(stretch).round(6).tolist()
        [0.0]

    References:
        Leow et al. (2007), Statistical properties of Jacobian maps and the realization of unbiased large-deformation
        nonlinear image registration, https://doi.org/10.1109/TMI.2007.892646
    """
    determinant = np.maximum(_measure_determinant(displacement), _LEAST_DETERMINANT)
    return np.log(determinant).std(axis=1)


def _measure_determinant(displacement: Array) -> np.ndarray:
    """Determinants `(batch, voxels)`, float64."""
    field = np.asarray(displacement, dtype=np.float64)
    if field.ndim < 3 or field.shape[-1] != field.ndim - 2:
        raise ShapeError(
            "A displacement has the shape (batch, *spatial, ndim), with one component per spatial axis. Received: "
            f"displacement.shape={field.shape}. Add the batch axis with `[None]` where there is none."
        )
    return deformation.jacobian_determinant(field).reshape(len(field), -1)
