"""What the augmentations share: an image in, an image out, and nothing done but in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.random_layer import RandomLayer


class RandomEffect(RandomLayer):
    """A layer that changes images `(batch, *spatial, channels)`, each in its own way; a subclass has a `transform`."""

    transform: Callable[[Array], Array]

    def call(self, image: Any, training: bool = True) -> Array:
        """Changed image, float32; with `training=False` the image as it is."""
        self.require_sizes(image)
        image = keras.ops.cast(image, "float32")
        return self.transform(image) if training else image

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the image."""
        return tuple(input_shape)

    def compute_output_spec(self, image: Any, training: bool = True) -> Any:
        """Symbolic output: float32 whatever the data type policy."""
        self.require_sizes(image)
        return keras.KerasTensor(image.shape, dtype="float32")


def find_limits(image: Array) -> tuple[Array, Array]:
    """Smallest and largest value of each image, `(batch, 1, ..., 1)`."""
    axes = tuple(range(1, len(image.shape)))
    return keras.ops.min(image, axis=axes, keepdims=True), keras.ops.max(image, axis=axes, keepdims=True)


def scale_to_unit(image: Array) -> Array:
    """Each image between 0 and 1; a constant one becomes 0."""
    low, high = find_limits(image)
    width = high - low
    return (image - low) / keras.ops.where(width > 0, width, keras.ops.ones_like(width))
