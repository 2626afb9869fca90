"""Names for the types that signatures share."""

from typing import Any, Literal

Array = Any
"""A NumPy array or a tensor of TensorFlow, JAX or PyTorch; a KerasTensor too where an operation is public."""

Order = Literal[0, 1, 3]
"""Degree of the interpolating spline: nearest neighbour, linear or cubic B-spline."""

Boundary = Literal["constant", "nearest", "reflect", "mirror", "wrap"]
"""What lies outside an image, with the names and the meaning of `scipy.ndimage`."""

Gradient = Literal["exact", "smooth"]
"""Derivative of a warp to its displacement: of the interpolant itself, or the central difference of the image."""
