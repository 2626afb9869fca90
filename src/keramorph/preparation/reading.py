"""Files of images, each with the grid that all images of a training share laid on its middle."""

from __future__ import annotations

from pathlib import Path

from keramorph.errors import FileError
from keramorph.io import read_image
from keramorph.preparation.grids import lay_in_middle
from keramorph.preparation.pair_options import PairOptions
from keramorph.space import Grid, Image


def read_on_grid_of(path: str | Path, options: PairOptions) -> tuple[Image, Grid]:
    """Return the image of a file, and the common grid laid on the middle of its field of view.

    Raises:
        FileError: If the file is missing or cannot be read, or has not the axes of the common grid.
    """
    image = read_image(path)
    if image.grid.ndim != len(options.shape):
        raise FileError(
            f"All images have the axes of the common grid, {len(options.shape)}. Received: path={str(path)!r} of shape "
            f"{image.grid.shape}, options.shape={options.shape}. Take the file away, or change the shape."
        )
    return image, lay_in_middle(image.grid, options.shape, options.spacing)
