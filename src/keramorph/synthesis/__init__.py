"""Synthesis: random shapes, images of random contrast and known deformations, to train without any image.

Layers that draw, in training and out of it, and layers that change images in training alone. All run on every backend,
one by one in an input pipeline or inside a model.
"""

from keramorph.synthesis.image_from_labels import ImageFromLabels
from keramorph.synthesis.pair_from_labels import PairFromLabels
from keramorph.synthesis.random_affine import RandomAffine
from keramorph.synthesis.random_bias import RandomBias
from keramorph.synthesis.random_blur import RandomBlur
from keramorph.synthesis.random_deformation import RandomDeformation
from keramorph.synthesis.random_field_of_view import RandomFieldOfView
from keramorph.synthesis.random_gamma import RandomGamma
from keramorph.synthesis.random_lesions import RandomLesions
from keramorph.synthesis.random_noise import RandomNoise
from keramorph.synthesis.random_shapes import RandomShapes
from keramorph.synthesis.random_slices import RandomSlices
from keramorph.synthesis.random_velocity import RandomVelocity
from keramorph.synthesis.synthetic_pairs import SyntheticPairs

__all__ = [
    "ImageFromLabels",
    "PairFromLabels",
    "RandomAffine",
    "RandomBias",
    "RandomBlur",
    "RandomDeformation",
    "RandomFieldOfView",
    "RandomGamma",
    "RandomLesions",
    "RandomNoise",
    "RandomShapes",
    "RandomSlices",
    "RandomVelocity",
    "SyntheticPairs",
]
