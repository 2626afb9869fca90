"""SimpleITK images and ours: the same voxels at the same physical points, whatever the order of the array axes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from keramorph.errors import ArrayTypeError, InputError
from keramorph.space import Grid, Image

_ORTHONORMAL = 1e-4
"""Largest deviation of a direction matrix from orthonormality that file headers in single precision explain."""


def from_simpleitk(image: Any) -> Image:
    """Return the voxels of a SimpleITK image, in its own array order (z, y, x), and where they lie.

    Args:
        image: A `SimpleITK.Image` in 2-D or 3-D, of scalars or vectors; a fourth axis of size 1 is dropped.

    Returns:
        The image, `(*spatial, channels)` in the stored data type.

    Raises:
        InputError: If the image has no voxels, or more axes than a volume.

    Example:
        >>> import SimpleITK
        >>> from_simpleitk(SimpleITK.Image([7, 6, 5], SimpleITK.sitkUInt8)).array.shape
        (5, 6, 7, 1)
    """
    import SimpleITK as sitk

    size = image.GetSize()
    if image.GetDimension() == 4 and size[3] == 1:
        image = sitk.Extract(image, [*size[:3], 0], [0, 0, 0, 0], sitk.ExtractImageFilter.DIRECTIONCOLLAPSETOSUBMATRIX)
    ndim = image.GetDimension()
    if ndim not in (2, 3):
        raise InputError(
            f"An image must be 2-D or 3-D. Received: size={size}, {ndim} axes. Pick one volume, with "
            "`SimpleITK.Extract` or `SimpleITK.SelectDimension`, and pass that."
        )
    if image.GetNumberOfPixels() == 0:
        raise InputError(f"An image must have voxels. Received: size={size}. Pass an image that is not empty.")
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1 and array.ndim == ndim:
        array = array[..., None]
    affine = np.eye(ndim + 1)
    steps = np.reshape(image.GetDirection(), (ndim, ndim)) * np.asarray(image.GetSpacing())
    affine[:ndim, :ndim] = steps[:, ::-1]
    affine[:ndim, ndim] = image.GetOrigin()
    return Image(array, Grid(array.shape[:-1], affine))


def to_simpleitk(image: Image) -> Any:
    """Return a `SimpleITK.Image` with the same voxels at the same physical points.

    Args:
        image: Values and grid, 2-D or 3-D; boolean and half-precision values become `uint8` and `float32`, which
            ITK has.

    Returns:
        The SimpleITK image; several channels become a vector per pixel.

    Raises:
        InputError: If the grid is sheared: ITK's axes are orthogonal.
        ArrayTypeError: If ITK has no such data type.

    Example:
        >>> image = Image(np.zeros((5, 6, 7, 1)), Grid.from_spacing((5, 6, 7), (3.0, 2.0, 1.0)))
        >>> to_simpleitk(image).GetSpacing()
        (1.0, 2.0, 3.0)
    """
    import SimpleITK as sitk

    placed, values = place(image.grid), _storable(to_memory_order(image.array, image.grid))
    result = sitk.GetImageFromArray(values if image.channels > 1 else values[..., 0], isVector=image.channels > 1)
    result.SetSpacing(placed.spacing.tolist())
    result.SetDirection(placed.direction.ravel().tolist())
    result.SetOrigin(placed.origin.tolist())
    return result


class Placement(NamedTuple):
    """A grid as ITK tells it, its first axis being the one that a file stores first; directions are columns."""

    size: np.ndarray
    origin: np.ndarray
    spacing: np.ndarray
    direction: np.ndarray


def place(grid: Grid) -> Placement:
    """Return a grid in ITK's terms.

    Raises:
        InputError: If the grid is sheared: ITK's axes are orthogonal.
    """
    ndim = grid.ndim
    order = slice(None) if grid.fastest == "first" else slice(None, None, -1)
    matrix = grid.matrix[:, order]
    spacing = np.linalg.norm(matrix, axis=0)
    direction = matrix / spacing
    if np.abs(direction.T @ direction - np.eye(ndim)).max() > _ORTHONORMAL:
        raise InputError(
            f"ITK's images have orthogonal axes, this grid is sheared. Received: affine={grid.affine.tolist()}. "
            "Resample the image on an orthogonal grid first, for example with `transform.resample(image, grid)`."
        )
    return Placement(np.asarray(grid.shape[order]), grid.affine[:ndim, ndim], spacing, direction)


def to_memory_order(array: np.ndarray, grid: Grid) -> np.ndarray:
    """Values `(*grid.shape, channels)` with the axis that a file stores first as the last one before the channels."""
    if grid.fastest == "first":
        return array.transpose(*range(grid.ndim - 1, -1, -1), grid.ndim)
    return array


def _storable(array: np.ndarray) -> np.ndarray:
    """Values in a data type that ITK has, in the machine's byte order."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        return array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    if array.dtype.kind not in "iuf":
        raise ArrayTypeError(
            f"An image needs real numbers. Received: array.dtype={array.dtype}. Take the magnitude or one part first."
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ITK from printing warnings, for as long as the block runs."""
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
