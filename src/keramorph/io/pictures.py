"""Picture formats: which values they hold, and how an image's values are made to fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keramorph.errors import FileError
from keramorph.space import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def to_picture(image: Image, path: Path) -> Image:
    """Return an image with values that a PNG, JPEG or BMP file can hold.

    `uint8` values stay, and so do `uint16` values in PNG. Other values that round to 0...255 are rounded (to
    0...65535 in PNG, if they are integers). Everything else is stretched linearly, its smallest value to 0 and its
    largest to 255. NaN becomes 0, infinities the nearest end.

    Args:
        image: A 2-D image with 1 or 3 channels, real values of any type.
        path: Name of the file, for its format.

    Returns:
        The image in `uint8`, or in `uint16` for PNG.

    Raises:
        FileError: If the format holds no such image.
    """
    if image.grid.ndim != 2 or image.channels not in (1, 3):
        raise FileError(
            f"A {path.suffix} file holds 2-D pictures of 1 or 3 channels. Received: path={str(path)!r} for an image of "
            f"shape {image.grid.shape} with {image.channels} channels. Write .nii.gz, .nrrd or .mha."
        )
    array = image.array
    if array.dtype == np.uint8 or (array.dtype == np.uint16 and path.suffix.lower() == ".png"):
        return image
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if array.dtype.kind in "iu" and path.suffix.lower() == ".png" and low >= 0 and 255 < high <= 65535:
        return Image(array.astype(np.uint16), image.grid)
    values = np.clip(array.astype(np.float64), low, high)
    if low < -0.5 or high >= 255.5:
        values = (values - low) * (255.0 / (high - low or 1.0))
    return Image(np.nan_to_num(np.clip(np.rint(values), 0, 255)).astype(np.uint8), image.grid)
