"""The layer that cuts the field of view."""

from __future__ import annotations

from typing import Any

import numpy as np

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.random_effect import RandomEffect, find_limits
from keramorph.synthesis.random_layer import Range, between, broadcast_over

ops = keras.ops


@keras.saving.register_keras_serializable(package="keramorph")
class RandomFieldOfView(RandomEffect):
    """Layer that returns images of which a random box is left, and the rest is black: scans that end too early.

    Called with an image `(batch, *spatial, channels)` of any real data type; the output is float32 and of the same
    shape, unlike that of `keras.layers.RandomCrop`. Black is the smallest value of the image. With `training=False` the
    image is left as it is. No weights but the state of the random numbers.

    Args:
        lost: Share of an axis that is lost, on both sides together: two limits between which that of each axis and
            image is drawn, or the upper one, the lower being 0.
        probability: Share of the images that are changed.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the image has not one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> image = np.arange(1.0, 11.0, dtype="float32").reshape(1, 10, 1)
        >>> cut = RandomFieldOfView(lost=(0.3, 0.3), probability=1.0)(image)
        >>> int(keras.ops.sum(cut > 1)) in (6, 7)
        True
    """

    def __init__(self, *, lost: Range = 0.3, probability: float = 0.5, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.lost = self.to_range("lost", lost)
        if self.lost[1] >= 1:
            self.refuse_option("`lost` to be below 1, so that something is left", lost=lost)
        self.probability = self.to_share("probability", probability)

    def transform(self, image: Array) -> Array:
        """Image of a smaller field of view."""
        sizes = self.require_sizes(image)
        lot, *shares = self.draw_shares(1 + 2 * len(sizes), ops.shape(image)[0])
        changed = ops.cast(lot < self.probability, "float32")
        kept = None
        for axis, size in enumerate(sizes):
            lost = changed * between(self.lost, shares[2 * axis])
            start = broadcast_over(lost * shares[2 * axis + 1], 1)
            middles = ops.convert_to_tensor((np.arange(size, dtype="float32")[None] + 0.5) / size)
            inside = ops.logical_and(middles >= start, middles <= start + 1.0 - broadcast_over(lost, 1))
            inside = ops.reshape(inside, (-1,) + (1,) * axis + (size,) + (1,) * (len(sizes) - axis))
            kept = inside if kept is None else ops.logical_and(kept, inside)
        return ops.where(kept, image, find_limits(image)[0])

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "lost": self.lost, "probability": self.probability}
