"""The layer that blurs."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.axis_products import multiply_axis
from keramorph.synthesis.random_effect import RandomEffect
from keramorph.synthesis.random_layer import Range, between, broadcast_over

ops = keras.ops


@keras.saving.register_keras_serializable(package="keramorph")
class RandomBlur(RandomEffect):
    """Layer that returns images blurred by Gaussians, of another width along each axis of each image.

    Called with an image `(batch, *spatial, channels)` of any real data type; the output is float32. As in
    `keramorph.ops.gaussian` and `scipy.ndimage.gaussian_filter`, the Gaussian ends at 4 sigma and edges are reflected.
    With `training=False` the image is left as it is. No weights but the state of the random numbers.

    Args:
        sigma: Standard deviation of the Gaussian in voxels: two limits between which that of each image and axis is
            drawn, or the upper one, the lower being 0.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the image has not one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> image = np.eye(9, dtype="float32")[None, ..., None]
        >>> blurred = RandomBlur(sigma=(1.0, 2.0))(image)
        >>> bool(keras.ops.max(blurred) < 0.5), round(float(keras.ops.sum(blurred)), 3)
        (True, 9.0)
    """

    def __init__(self, *, sigma: Range = 1.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.sigma = self.to_range("sigma", sigma)

    def transform(self, image: Array) -> Array:
        """Blurred image."""
        sizes = self.require_sizes(image)
        shares = self.draw_shares(len(sizes), ops.shape(image)[0])
        for axis, (size, share) in enumerate(zip(sizes, shares, strict=True), start=1):
            weights = _weigh(between(self.sigma, share), size, self.sigma[1])
            image = multiply_axis(image, weights, axis)
        return image

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "sigma": self.sigma}


def _weigh(sigma: Array, size: int, largest: float) -> Array:
    """Matrices `(batch, size, size)` of Gaussian blurs."""
    sigma = broadcast_over(sigma, 2)
    radius = ops.floor(4.0 * sigma + 0.5)
    # A width of 0 must not divide, and leaves the voxel itself.
    width = ops.maximum(sigma, 1e-3)
    weights = [
        ops.where(distance <= radius, ops.exp(-0.5 * ops.square(distance / width)), 0.0)
        for distance in map(ops.convert_to_tensor, _measure_distances(size, int(4.0 * largest + 0.5)))
    ]
    total = sum(weights[1:], weights[0])
    return total / ops.sum(total, axis=-1, keepdims=True)


@functools.lru_cache(maxsize=16)
def _measure_distances(size: int, reach: int) -> list[np.ndarray]:
    """Distances `(size, size)` from each voxel to each other one and to its mirror images, as far as they reach."""
    voxels = np.arange(size)
    found = []
    for period in range(-(reach // (2 * size)) - 1, reach // (2 * size) + 2):
        for image in (voxels + 2 * size * period, -1 - voxels + 2 * size * period):
            distance = np.abs(voxels[:, None] - image).astype("float32")
            if distance.min() <= reach:
                found.append(distance)
    return found
