"""The layer that draws label maps of random shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.axis_products import multiply_axis, weigh_enlargement
from keramorph.synthesis.random_layer import RandomLayer, Range, between, broadcast_over
from keramorph.synthesis.smooth_noise import draw_field, draw_smooth_noise

_FINENESS = 4
"""Points of the grid on which shapes are drawn, per node of the finest noise."""

_RADIUS, _CENTRE = (0.3, 0.55), (0.42, 0.58)
"""Limits of those of what lies on a ground, along each axis, in shares of the image."""
_ROUGHNESS, _ROUGH_SCALE = 0.15, 0.2
"""Standard deviation of its radius, in shares of that, and voxels between nodes, in shares of the smallest size."""


@keras.saving.register_keras_serializable(package="keramorph")
class RandomShapes(RandomLayer):
    """Layer that draws label maps of smooth random shapes with sharp borders, to train on when there is no image.

    Called with any tensor `(batch, *spatial, channels)`, of which only the sizes are read. The output is
    `(batch, *spatial, 1)`, int32: a voxel gets the label, from 0 to `num_labels - 1`, whose noise is the largest there.
    Each label has smooth noise of its own, deformed by a random field of its own. It is drawn in training and out of
    it. No weights but the state of the random numbers.

    Args:
        num_labels: Number of labels; not all of them occur in each map.
        scales: Voxels between the independent nodes of the noise: about the size of the shapes.
        strength: Standard deviation in voxels of what the noise is deformed by: two limits between which that of each
            label is drawn, or the upper one, the lower being 0.
        ground: Share of the maps in which the shapes lie together on a ground of label 0, which surrounds them as the
            air does a body.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the tensor has not one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> labels = RandomShapes(num_labels=8)(np.zeros((2, 40, 48, 1)))
        >>> tuple(labels.shape), keras.backend.standardize_dtype(labels.dtype)
        ((2, 40, 48, 1), 'int32')

    References:
        Hoffmann et al., "SynthMorph: Learning Contrast-Invariant Registration Without Acquired Images", 2022,
        doi:10.1109/TMI.2021.3116879.
    """

    def __init__(
        self,
        *,
        num_labels: int = 16,
        scales: Sequence[float] = (16.0, 32.0),
        strength: Range = 8.0,
        ground: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        self.num_labels = self.to_count("num_labels", num_labels, least=1)
        self.scales = self.to_scales(scales)
        self.strength = self.to_range("strength", strength)
        self.ground = self.to_share("ground", ground)

    def call(self, reference: Any) -> Array:
        """Label maps on the grid of the reference."""
        sizes = self.require_sizes(reference)
        count = keras.ops.shape(reference)[0] * self.num_labels
        # Smooth noise needs few points; only where labels meet is decided voxel by voxel.
        step = max(1.0, min(self.scales) / _FINENESS)
        points = tuple(max(1, round(n / step)) for n in sizes)
        noise = draw_smooth_noise(self, count, sizes, scales=self.scales, points=points)
        field = draw_field(self, count, sizes, strength=self.strength, scales=self.scales, points=points)
        # Reflected, the noise beyond the edge is noise as well; extended, it would be stripes.
        noise = ops.warp(noise[..., None], field, boundary="reflect")[..., 0]
        labels = self._find_largest(keras.ops.reshape(noise, (-1, self.num_labels, *points)), sizes)
        return (self._lay_on_ground(labels, sizes) if self.ground else labels)[..., None]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the label maps."""
        return (*input_shape[:-1], 1)

    def compute_output_spec(self, reference: Any) -> Any:
        """Symbolic output."""
        self.require_sizes(reference)
        return keras.KerasTensor(self.compute_output_shape(reference.shape), dtype="int32")

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        names = ("num_labels", "scales", "strength", "ground")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _find_largest(self, noise: Array, sizes: tuple[int, ...]) -> Array:
        """Index `(batch, *sizes)` of the largest of the noises `(batch, num_labels, *points)`.

        One after the other: all of them at full size would take gigabytes, and longer.
        """
        labels = largest = None
        for label in range(self.num_labels):
            candidate = noise[:, label]
            for axis, size in enumerate(sizes, start=1):
                candidate = multiply_axis(candidate, weigh_enlargement(size, candidate.shape[axis]), axis)
            if largest is None:
                labels, largest = keras.ops.zeros_like(candidate, dtype="int32"), candidate
            else:
                labels = keras.ops.where(candidate > largest, label, labels)
                largest = keras.ops.maximum(candidate, largest)
        return keras.ops.cast(labels, "int32")

    def _lay_on_ground(self, labels: Array, sizes: tuple[int, ...]) -> Array:
        """Label 0 outside of an ellipsoid with a rough outline, in some of the maps."""
        batch, ndim = keras.ops.shape(labels)[0], len(sizes)
        laid, *shares = self.draw_shares(1 + 2 * ndim, batch)
        noise = draw_smooth_noise(self, batch, sizes, scales=(max(1.0, _ROUGH_SCALE * min(sizes)),))
        distance: Any = 0.0
        for axis, size in enumerate(sizes):
            radius = between(_RADIUS, shares[2 * axis])
            centre = between(_CENTRE, shares[2 * axis + 1])
            place = np.arange(0.5, size, dtype="float32") / size
            place = keras.ops.reshape(place, (1,) * (axis + 1) + (size,) + (1,) * (ndim - 1 - axis))
            distance = distance + keras.ops.square(
                (place - broadcast_over(centre, ndim)) / broadcast_over(radius, ndim)
            )
        outside = keras.ops.sqrt(distance) > 1 + _ROUGHNESS * noise
        return keras.ops.where(keras.ops.logical_and(outside, broadcast_over(laid < self.ground, ndim)), 0, labels)
