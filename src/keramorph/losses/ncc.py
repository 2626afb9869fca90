"""Normalised cross-correlation over the whole image."""

from keramorph import backend
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.backend import Comparison
from keramorph.losses.images import average_per_sample, prepare_pair, standardize

ops = keras.ops


@keras.saving.register_keras_serializable(package="keramorph")
class NCC(keras.losses.Loss):
    """Minus the correlation of the intensities over the whole image, in [-1, 1]: for intensities that differ linearly.

    Call arguments are `y_true`, the fixed image, and `y_pred`, the moved one: `(batch, *spatial, channels)` both, any
    real data type. Moments are float32 or better. Correlations of the channels are averaged; a constant channel
    scores 0 and passes no gradient. `sample_weight` weighs samples.

    Args:
        name: Name of the loss.
        reduction: How Keras reduces the values `(batch,)` of the samples.
        dtype: Data type that Keras casts the inputs to before the call, `keras.config.floatx()` where it is None.

    Raises:
        ShapeError: If the images differ in shape.

    Example:
        >>> import numpy as np
        >>> fixed = np.random.default_rng(0).normal(size=(2, 5, 6, 1)).astype("float32")
        >>> round(float(NCC()(fixed, 3 * fixed + 100)), 4)
        -1.0
    """

    def __init__(
        self, *, name: str = "ncc", reduction: str | None = "sum_over_batch_size", dtype: str | None = None
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """Minus the mean correlation of each sample, `(batch,)`."""
        fixed, moved = prepare_pair(y_true, y_pred)
        return -backend.of(moved).compare(fixed, moved, Comparison("correlation"), portably=_correlate)


def _correlate(fixed: Array, moved: Array) -> Array:
    # Rounding may carry the correlation of an image with itself a few ulps past 1.
    return ops.clip(average_per_sample(standardize(fixed) * standardize(moved)), -1.0, 1.0)
