"""The layer that draws affine maps."""

from __future__ import annotations

import math
from typing import Any

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import ShapeError
from keramorph.synthesis.random_layer import RandomLayer


@keras.saving.register_keras_serializable(package="keramorph")
class RandomAffine(RandomLayer):
    """Layer that draws a random rotation, translation, scaling and shear for each image of a batch, as one matrix.

    Called with any tensor `(batch, *spatial, channels)`, in 2-D or 3-D, of which only the sizes are read. The output is
    `(batch, ndim, ndim + 1)`, float32: matrices `[A | b]` in voxels about the centre of the grid, as
    `keramorph.layers.AffineWarp` takes them, from the parameters of `keramorph.ops.affine_from_parameters`. Each
    parameter is drawn uniformly, one per axis or plane. It is drawn in training and out of it. No weights but the state
    of the random numbers.

    Args:
        translation: Largest translation along each axis, in voxels.
        rotation: Largest angle of a rotation, in radians.
        scale: Largest factor along each axis; its inverse is the smallest, and logarithms are drawn.
        shear: Largest shear.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the tensor has not two or three spatial axes.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((2, 40, 48, 1), dtype="float32")
        >>> matrix = RandomAffine(translation=0.0, rotation=0.0, scale=1.0, shear=0.0)(image)
        >>> keras.ops.convert_to_numpy(matrix)[0].tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """

    def __init__(
        self,
        *,
        translation: float = 8.0,
        rotation: float = math.pi / 12,
        scale: float = 1.15,
        shear: float = 0.05,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        self.translation = self.to_number("translation", translation)
        self.rotation = self.to_number("rotation", rotation)
        self.scale = self.to_number("scale", scale, least=1.0)
        self.shear = self.to_number("shear", shear)

    def call(self, reference: Any) -> Array:
        """Matrices about the centre of the reference's grid."""
        ndim = self._require_axes(reference)
        turns = ndim * (ndim - 1) // 2
        largest = (self.translation, ndim), (self.rotation, turns), (math.log(self.scale), ndim), (self.shear, turns)
        batch = keras.ops.shape(reference)[0]
        parameters = [self.draw_uniform((batch, count), (-limit, limit)) for limit, count in largest]
        return ops.affine_from_parameters(keras.ops.concatenate(parameters, axis=-1))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the matrices."""
        ndim = len(input_shape) - 2
        return (input_shape[0], ndim, ndim + 1)

    def compute_output_spec(self, reference: Any) -> Any:
        """Symbolic output: float32 whatever the data type policy."""
        self._require_axes(reference)
        return keras.KerasTensor(self.compute_output_shape(reference.shape), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        limits = {"translation": self.translation, "rotation": self.rotation, "scale": self.scale, "shear": self.shear}
        return {**super().get_config(), **limits}

    def _require_axes(self, reference: Any) -> int:
        ndim = len(reference.shape) - 2
        if ndim not in (2, 3):
            raise ShapeError(
                "RandomAffine expects a tensor (batch, *spatial, channels) with two or three spatial axes. Received: "
                f"shape={tuple(reference.shape)}."
            )
        return ndim


def move_by_affine(matrix: Array, displacement: Array) -> Array:
    """The displacement `A (x + w(x) - c) + b + c - x`: an affine map about the centre c after the displacement w."""
    shape = tuple(displacement.shape)
    ndim = shape[-1]
    linear = keras.ops.reshape(displacement, (-1, math.prod(shape[1:-1]), ndim))
    # Products along rows: the transposed matrix on the right.
    linear = keras.ops.matmul(linear, keras.ops.swapaxes(matrix[:, :, :ndim], -1, -2))
    at_rest = ops.affine_to_displacement(matrix, shape=shape[1:-1], centered=True)
    return at_rest + keras.ops.reshape(linear, (-1, *shape[1:]))


def divide_affine(matrix: Array, divisor: Array) -> Array:
    """The matrix `[A | b]` of the inverse of one affine map after another: `divisor**-1` after `matrix`."""
    ndim = matrix.shape[1]
    inverse = keras.ops.inv(divisor[:, :, :ndim])
    offset = matrix[:, :, ndim:] - divisor[:, :, ndim:]
    return keras.ops.matmul(inverse, keras.ops.concatenate([matrix[:, :, :ndim], offset], axis=-1))
