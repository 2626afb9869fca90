"""The layer that lights an image unevenly."""

from __future__ import annotations

from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.random_effect import RandomEffect
from keramorph.synthesis.random_layer import Range, broadcast_over
from keramorph.synthesis.smooth_noise import draw_smooth_noise


@keras.saving.register_keras_serializable(package="keramorph")
class RandomBias(RandomEffect):
    """Layer that returns images times a smooth random field, as coils of scanners and lamps of microscopes light them.

    Called with an image `(batch, *spatial, channels)` of any real data type; the output is float32. The field, another
    one for each image and the same for its channels, is the exponential of smooth Gaussian noise. With `training=False`
    the image is left as it is. No weights but the state of the random numbers.

    Args:
        sd: Standard deviation of the logarithm of the field: two limits between which that of each image is drawn, or
            the upper one, the lower being 0.
        scale: Voxels between the independent nodes of the field.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the image has not one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> image = np.ones((2, 40, 48, 1), dtype="float32")
        >>> lit = RandomBias(sd=0.3)(image)
        >>> bool(keras.ops.min(lit) > 0), tuple(lit.shape)
        (True, (2, 40, 48, 1))
    """

    def __init__(self, *, sd: Range = 0.3, scale: float = 40.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.sd = self.to_range("sd", sd)
        self.scale = self.to_number("scale", scale, least=1.0)

    def transform(self, image: Array) -> Array:
        """Unevenly lit image."""
        sizes, batch = self.require_sizes(image), keras.ops.shape(image)[0]
        noise = draw_smooth_noise(self, batch, sizes, scales=(self.scale,))
        deviation = broadcast_over(self.draw_uniform((batch,), self.sd), len(sizes))
        return image * keras.ops.exp(deviation * noise)[..., None]

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "sd": self.sd, "scale": self.scale}
