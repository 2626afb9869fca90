"""The layer that adds noise."""

from __future__ import annotations

from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.random_effect import RandomEffect
from keramorph.synthesis.random_layer import Range, broadcast_over


@keras.saving.register_keras_serializable(package="keramorph")
class RandomNoise(RandomEffect):
    """Layer that returns images with Gaussian noise, of another strength in each image of the batch.

    Called with an image `(batch, *spatial, channels)` of any real data type and size; the output is float32. With
    `training=False` nothing is added. No weights but the state of the random numbers.

    Args:
        sd: Standard deviation of the noise in units of the image: two limits between which that of each image is
            drawn, or the upper one, the lower being 0.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the image has not one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((1, 64, 64, 1), dtype="float32")
        >>> noisy = RandomNoise(sd=(0.1, 0.1), seed=1)(image)
        >>> round(float(keras.ops.std(noisy)), 1)
        0.1
    """

    def __init__(self, *, sd: Range = 0.05, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.sd = self.to_range("sd", sd)

    def transform(self, image: Array) -> Array:
        """Noisy image."""
        shape = keras.ops.shape(image)
        deviation = broadcast_over(self.draw_uniform((shape[0],), self.sd), len(shape) - 1)
        return image + deviation * self.draw_normal(shape)

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "sd": self.sd}
