"""The layer that integrates a stationary velocity."""

from __future__ import annotations

from typing import Any

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError
from keramorph.layers.field_layer import FieldLayer
from keramorph.layers.spatial_layer import Shape


@keras.saving.register_keras_serializable(package="keramorph")
class Exponentiate(FieldLayer):
    """Layer that returns the displacement `exp(velocity)`, by scaling and squaring.

    Called with a stationary velocity `(batch, *spatial, ndim)` in voxels per unit of time, or
    `(batch, ndim, *spatial)` with channels first. The velocity extends its edge, so a constant one is integrated
    exactly up to the border. The output has the shape of the input, float32 or better. The layer has no weights.

    Args:
        steps: Number of squarings n: the velocity is divided by 2**n, then composed with itself n times.
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If `steps` is not an integer of at least 0.
        ShapeError: If the velocity does not have one component per spatial axis.

    Example:
        >>> import numpy as np
        >>> velocity = np.full((1, 4, 4, 2), 3.0, dtype="float32")
        >>> displacement = Exponentiate(data_format="channels_last")(velocity)
        >>> keras.ops.convert_to_numpy(displacement)[0, 0, 0].tolist()
        [3.0, 3.0]

    References:
        Arsigny, Commowick, Pennec and Ayache, "A Log-Euclidean Framework for Statistics on Diffeomorphisms", 2006,
        doi:10.1007/11866565_113.
    """

    takes = ("velocity",)

    def __init__(self, *, steps: int = 7, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format=data_format, **kwargs)
        if int(steps) != steps or steps < 0:
            raise OptionError(
                f"Exponentiate expects `steps` to be an integer of at least 0. Received: steps={steps!r}."
            )
        self.steps = int(steps)

    def transform(self, velocity: Array) -> Array:
        """Integrated displacement, channels last."""
        return ops.exponentiate(velocity, steps=self.steps)

    def infer_shape(self, velocity: Shape) -> Shape:
        """Shape of the displacement: that of the velocity."""
        self.require_field(0, velocity)
        return velocity

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "steps": self.steps}
