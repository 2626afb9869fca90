"""The layer that scales and shifts features by what a condition says."""

from __future__ import annotations

from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array


@keras.saving.register_keras_serializable(package="keramorph")
class Modulate(keras.layers.Layer):
    """Layer that returns features scaled and shifted channel by channel: `(1 + scale) * features + shift`.

    Called with `[features, condition]`: features `(batch, *spatial, channels)`, and `(batch, 2 * channels)` numbers,
    the scales and then the shifts. Zeros leave the features as they are. No weights.

    Args:
        **kwargs: `name` and `dtype` of the Keras layer.

    References:
        Perez, Strub, de Vries, Dumoulin and Courville, "FiLM: Visual Reasoning with a General Conditioning Layer",
        2018, doi:10.1609/aaai.v32i1.11671.
    """

    def call(self, inputs: Any) -> Array:
        """Scaled and shifted features."""
        features, condition = inputs
        middle = (1,) * (len(features.shape) - 2)
        condition = keras.ops.reshape(condition, (-1, *middle, condition.shape[-1]))
        scale, shift = keras.ops.split(condition, 2, axis=-1)
        return features * (1 + scale) + shift

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shape of the output: that of the features."""
        return tuple(input_shape[0])
