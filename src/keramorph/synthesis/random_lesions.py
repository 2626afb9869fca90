"""The layer that puts spots into an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.random_effect import RandomEffect, find_limits
from keramorph.synthesis.random_layer import Range, between, broadcast_over
from keramorph.synthesis.smooth_noise import draw_smooth_noise

ops = keras.ops

_IRREGULARITY = 0.25
"""Standard deviation of the outline of a spot, in radii."""


@keras.saving.register_keras_serializable(package="keramorph")
class RandomLesions(RandomEffect):
    """Layer that returns images with bright and dark spots of irregular outline, which the other image does not have.

    Called with an image `(batch, *spatial, channels)` of any real data type; the output is float32. A spot has one
    intensity between the smallest and the largest value of its image, and an edge one voxel wide. With
    `training=False` the image is left as it is. No weights but the state of the random numbers.

    Args:
        count: Largest number of spots.
        radius: Mean radius of a spot in voxels: two limits between which that of each spot is drawn, or the upper
            one, the lower being 1.
        probability: Probability of each of the spots.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the image has not one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> image = np.linspace(0, 1, 2 * 32 * 32, dtype="float32").reshape(2, 32, 32, 1)
        >>> spotted = RandomLesions(count=2, probability=1.0)(image)
        >>> bool(np.any(keras.ops.convert_to_numpy(spotted) != image))
        True
    """

    def __init__(
        self,
        *,
        count: int = 3,
        radius: Range = (2.0, 8.0),
        probability: float = 0.5,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        self.count = self.to_count("count", count, least=0)
        self.radius = self.to_range("radius", radius, least=1.0)
        self.probability = self.to_share("probability", probability)

    def transform(self, image: Array) -> Array:
        """Image with spots."""
        batch, sizes = ops.shape(image)[0], self.require_sizes(image)
        low, high = find_limits(image)
        outline = _IRREGULARITY * draw_smooth_noise(self, batch, sizes, scales=(self.radius[1],))
        ndim, per_spot = len(sizes), 3 + len(sizes)
        shares = self.draw_shares(self.count * per_spot, batch)
        for spot in range(self.count):
            lot, size, tone, *place = shares[spot * per_spot : (spot + 1) * per_spot]
            radius = broadcast_over(between(self.radius, size), ndim)
            distance = ops.sqrt(_square_distances(place, sizes)) / radius + outline
            inside = ops.clip((1.0 - distance) * radius + 0.5, 0.0, 1.0)
            there = ops.cast(lot < self.probability, "float32")
            opacity = (inside * broadcast_over(there, ndim))[..., None]
            image = image + opacity * (low + (high - low) * broadcast_over(tone, ndim + 1) - image)
        return image

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        own = {"count": self.count, "radius": self.radius, "probability": self.probability}
        return {**super().get_config(), **own}


def _square_distances(place: list[Array], sizes: tuple[int, ...]) -> Array:
    """Squared distances in voxels `(batch, *spatial)` from a point, a share of the way along each axis."""
    total = 0.0
    for axis, (share, size) in enumerate(zip(place, sizes, strict=True)):
        centre = broadcast_over(share * size - 0.5, len(sizes))
        shape = (1,) * (axis + 1) + (size,) + (1,) * (len(sizes) - 1 - axis)
        total = total + ops.square(ops.reshape(np.arange(size, dtype="float32"), shape) - centre)
    return total
