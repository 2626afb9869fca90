"""Images and transforms in files: SimpleITK reads and writes them, we say what they mean."""

from keramorph.io.images import read_image, write_image
from keramorph.io.simpleitk import from_simpleitk, to_simpleitk

__all__ = ["from_simpleitk", "read_image", "to_simpleitk", "write_image"]
