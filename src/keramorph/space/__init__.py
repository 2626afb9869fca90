"""Physical space: grids and images, in millimetres."""

from keramorph.space.grid import Grid
from keramorph.space.image import Image

__all__ = ["Grid", "Image"]
