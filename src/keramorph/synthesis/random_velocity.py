"""The layer that draws smooth velocities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.random_layer import RandomLayer, Range
from keramorph.synthesis.smooth_noise import draw_field


@keras.saving.register_keras_serializable(package="keramorph")
class RandomVelocity(RandomLayer):
    """Layer that draws a smooth random velocity for each image of a batch.

    Called with any tensor `(batch, *spatial, channels)`, of which only the sizes are read. The output is
    `(batch, *spatial, ndim)`, float32, in voxels per unit of time: Gaussian noise that is equally strong at each voxel,
    a sum of parts of several scales in random proportions. It is drawn in training and out of it. No weights but the
    state of the random numbers.

    Args:
        strength: Standard deviation of each component in voxels: two limits between which that of each field is
            drawn, or the upper one, the lower being 0.
        scales: Voxels between the independent nodes of each part: how far one stays alike.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the tensor has not one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> velocity = RandomVelocity(strength=(2.0, 2.0))(np.zeros((3, 40, 48, 1)))
        >>> tuple(velocity.shape)
        (3, 40, 48, 2)

    References:
        Hoffmann et al., "SynthMorph: Learning Contrast-Invariant Registration Without Acquired Images", 2022,
        doi:10.1109/TMI.2021.3116879.
    """

    def __init__(
        self,
        *,
        strength: Range = 3.0,
        scales: Sequence[float] = (8.0, 16.0, 32.0),
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        self.strength = self.to_range("strength", strength)
        self.scales = self.to_scales(scales)

    def call(self, reference: Any) -> Array:
        """Velocity on the grid of the reference."""
        sizes = self.require_sizes(reference)
        return self.draw(keras.ops.shape(reference)[0], sizes, points=sizes)

    def draw(self, count: Any, sizes: Sequence[int], *, points: Sequence[int]) -> Array:
        """Velocities `(count, *points, ndim)` over `sizes` voxels, in units of the distance between points."""
        return draw_field(self, count, sizes, strength=self.strength, scales=self.scales, points=points)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the field."""
        return (*input_shape[:-1], len(input_shape) - 2)

    def compute_output_spec(self, reference: Any) -> Any:
        """Symbolic output: float32 whatever the data type policy."""
        self.require_sizes(reference)
        return keras.KerasTensor(self.compute_output_shape(reference.shape), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "strength": self.strength, "scales": self.scales}
