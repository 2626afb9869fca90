"""The layer that draws smooth deformations without folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.random_velocity import RandomVelocity

_STEPS = 6
"""Squarings. The longest velocities, some four deviations, then begin with a fifth of a voxel of the coarse grid."""


@keras.saving.register_keras_serializable(package="keramorph")
class RandomDeformation(RandomVelocity):
    """Layer that draws a smooth random displacement for each image of a batch, which can be inverted.

    Called with any tensor `(batch, *spatial, channels)`, of which only the sizes are read. The output is
    `(batch, *spatial, ndim)`, float32, in voxels: a velocity as of `RandomVelocity`, drawn and integrated at half the
    resolution, and resized. The map does not fold as long as the strength stays below about half of the smallest
    scale. It is drawn in training and out of it. No weights but the state of the random numbers.

    Args:
        strength: Standard deviation of each component of the velocity in voxels, and about that of the displacement:
            two limits between which that of each field is drawn, or the upper one, the lower being 0.
        scales: Voxels between the independent nodes of each part: how far one stays alike.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the tensor has not one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((1, 40, 48, 1), dtype="float32")
        >>> displacement = RandomDeformation(strength=2.0, seed=1)(image)
        >>> bool(keras.ops.min(ops.jacobian_determinant(displacement)) > 0)
        True

    References:
        Hoffmann et al., "SynthMorph: Learning Contrast-Invariant Registration Without Acquired Images", 2022,
        doi:10.1109/TMI.2021.3116879.
    """

    def call(self, reference: Any) -> Array:
        """Displacement on the grid of the reference."""
        sizes = self.require_sizes(reference)
        return integrate(self.draw_coarsely(keras.ops.shape(reference)[0], sizes), sizes)

    def draw_coarsely(self, count: Any, sizes: Sequence[int]) -> Array:
        """Velocities `(count, *coarse, ndim)` in voxels of a grid of half the resolution."""
        return self.draw(count, sizes, points=tuple((n + 1) // 2 for n in sizes))


def integrate(velocity: Array, sizes: Sequence[int]) -> Array:
    """The displacement `(batch, *sizes, ndim)` of a velocity on a coarser grid."""
    return ops.resize_displacement(ops.exponentiate(velocity, steps=_STEPS), shape=sizes)
