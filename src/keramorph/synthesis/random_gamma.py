"""The layer that bends the scale of intensities."""

from __future__ import annotations

from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.random_effect import RandomEffect, find_limits, scale_to_unit
from keramorph.synthesis.random_layer import Range, broadcast_over


@keras.saving.register_keras_serializable(package="keramorph")
class RandomGamma(RandomEffect):
    """Layer that returns images whose intensities are raised to a random power, another one in each image.

    Called with an image `(batch, *spatial, channels)` of any real data type; the output is float32. Between the
    smallest value `low` of an image and the largest one `high`, both of which stay, it is
    `low + (high - low) * ((x - low) / (high - low)) ** exp(g)` with a normal g. With `training=False` the image is
    left as it is. No weights but the state of the random numbers.

    Args:
        sd: Standard deviation of the logarithm g of the power: two limits between which that of each image is drawn,
            or the upper one, the lower being 0.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the image has not one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> image = np.array([0.0, 1.0, 4.0], dtype="float32").reshape(1, 3, 1)
        >>> bent = keras.ops.convert_to_numpy(RandomGamma(sd=(0.5, 0.5), seed=1)(image))[0, :, 0]
        >>> [round(float(value), 3) for value in bent[[0, 2]]]
        [0.0, 4.0]
    """

    def __init__(self, *, sd: Range = (0.25, 0.25), seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.sd = self.to_range("sd", sd)

    def transform(self, image: Array) -> Array:
        """Image on its bent scale."""
        shape = keras.ops.shape(image)
        power = keras.ops.exp(self.draw_uniform((shape[0],), self.sd) * self.draw_normal((shape[0],)))
        low, high = find_limits(image)
        return low + (high - low) * keras.ops.power(scale_to_unit(image), broadcast_over(power, len(shape) - 1))

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "sd": self.sd}
