"""Operations on images and displacements, for NumPy arrays, tensors of any framework, and inside Keras models."""

from keramorph.ops.affine import affine_from_parameters, affine_to_displacement, affine_to_parameters
from keramorph.ops.compose import compose, exponentiate, invert
from keramorph.ops.jacobian import jacobian, jacobian_determinant, spatial_gradient
from keramorph.ops.resize import resize_displacement, resize_image
from keramorph.ops.sample import sample, splat
from keramorph.ops.smooth import gaussian
from keramorph.ops.warp import warp, warp_points

__all__ = [
    "affine_from_parameters",
    "affine_to_displacement",
    "affine_to_parameters",
    "compose",
    "exponentiate",
    "gaussian",
    "invert",
    "jacobian",
    "jacobian_determinant",
    "resize_displacement",
    "resize_image",
    "sample",
    "spatial_gradient",
    "splat",
    "warp",
    "warp_points",
]
