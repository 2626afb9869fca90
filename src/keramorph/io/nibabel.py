"""nibabel images: arrays in their own order (i, j, k), and a RAS affine that becomes LPS. Never imports nibabel."""

from __future__ import annotations

from typing import Any

import numpy as np

from keramorph.errors import InputError
from keramorph.space import Grid, Image

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}


def is_nibabel(thing: Any) -> bool:
    """Whether an object looks like a nibabel image with spatial axes."""
    return all(hasattr(thing, name) for name in ("dataobj", "affine", "header"))


def from_nibabel(image: Any) -> Image:
    """Return the voxels of a nibabel image, in its own order (i, j, k), and where they lie.

    Args:
        image: A `nibabel` image in 2-D or 3-D; a fourth axis of size 1 is dropped, a fifth one holds channels.

    Returns:
        The image, `(*spatial, channels)`, in the stored data type unless the header scales it.

    Raises:
        InputError: If the image has no voxels, or holds several volumes.

    Example:
        >>> import nibabel
        >>> from_nibabel(nibabel.Nifti1Image(np.zeros((5, 6, 7), "float32"), np.eye(4))).grid.affine[0, 0]
        np.float64(-1.0)
    """
    array = _with_channels(np.asanyarray(image.dataobj))
    shape = array.shape[:-1]
    if len(shape) not in (2, 3):
        raise InputError(
            f"An image must be 2-D or 3-D. Received: shape={tuple(image.shape)}. Pick one volume, with "
            "`image.slicer[..., 0]`, and pass that."
        )
    if array.size == 0:
        raise InputError(f"An image must have voxels. Received: shape={shape}. Pass an image that is not empty.")
    keep = [*range(len(shape)), 3]
    return Image(array, Grid(shape, _affine(image)[np.ix_(keep, keep)], "first"))


def _with_channels(array: np.ndarray) -> np.ndarray:
    """Values with one channel axis: of the colours of a structured type, of NIfTI's fifth axis, or of size 1."""
    if array.dtype.names:
        return np.stack([array[name] for name in array.dtype.names[:3]], axis=-1)
    if array.ndim == 5 and array.shape[3] == 1:
        return array[:, :, :, 0, :]
    if array.ndim == 4 and array.shape[3] == 1:
        return array
    return array[..., None]


def _affine(image: Any) -> np.ndarray:
    """LPS affine in millimetres; without an orientation in the header the axes themselves, as ITK reads it."""
    header = image.header
    scale = 1.0
    if hasattr(header, "get_xyzt_units"):
        scale = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
        if int(header["qform_code"]) == 0 and int(header["sform_code"]) == 0:
            zooms = np.ones(3)
            zooms[: min(3, len(image.shape))] = header.get_zooms()[:3]
            return np.diag([*(zooms * scale), 1.0])
    return np.diag([scale, scale, scale, 1.0]) @ _LPS @ np.asarray(image.affine, dtype=np.float64)
