"""Layers for any Keras model: warp, resample, compose, integrate and resize deformations.

Import this package before `keras.saving.load_model` reads a file that contains one of them, or an operation of
`keramorph.ops`: Keras finds either by the name under which its class has registered.
"""

from keramorph.layers.affine_warp import AffineWarp
from keramorph.layers.compose import Compose
from keramorph.layers.exponentiate import Exponentiate
from keramorph.layers.resample import Resample
from keramorph.layers.resize_displacement import ResizeDisplacement
from keramorph.layers.warp import Warp
from keramorph.ops import symbolic as _registers_operations  # noqa: F401

__all__ = ["AffineWarp", "Compose", "Exponentiate", "Resample", "ResizeDisplacement", "Warp"]
