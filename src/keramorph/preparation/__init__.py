"""Preparation: images of any size and position as networks take them, the same in training and afterwards.

Imports no framework: the solver scales intensities by it too.
"""

from keramorph.preparation.grids import cover, finest_spacing, frame_content, lay_in_middle
from keramorph.preparation.images import prepare_image, prepare_labels
from keramorph.preparation.pair_options import PairOptions
from keramorph.preparation.reading import read_on_grid_of

__all__ = [
    "PairOptions",
    "cover",
    "finest_spacing",
    "frame_content",
    "lay_in_middle",
    "prepare_image",
    "prepare_labels",
    "read_on_grid_of",
]
