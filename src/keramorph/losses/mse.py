"""Mean squared difference."""

from keramorph import backend
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.backend import Comparison
from keramorph.losses.images import average_per_sample, prepare_pair

ops = keras.ops


@keras.saving.register_keras_serializable(package="keramorph")
class MSE(keras.losses.Loss):
    """Mean squared difference of the intensities: for one modality and one intensity scale.

    Call arguments are `y_true`, the fixed image, and `y_pred`, the moved one: `(batch, *spatial, channels)` both, any
    real data type. The mean over voxels and channels is taken in float32 or better; `sample_weight` weighs samples.

    Args:
        name: Name of the loss.
        reduction: How Keras reduces the values `(batch,)` of the samples.
        dtype: Data type that Keras casts the inputs to before the call, `keras.config.floatx()` where it is None.

    Raises:
        ShapeError: If the images differ in shape.

    Example:
        >>> import numpy as np
        >>> fixed = np.zeros((2, 5, 6, 1), "float32")
        >>> round(float(MSE()(fixed, fixed + 0.5)), 4)
        0.25
    """

    def __init__(
        self, *, name: str = "mse", reduction: str | None = "sum_over_batch_size", dtype: str | None = None
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """Mean squared difference of each sample, `(batch,)`."""
        fixed, moved = prepare_pair(y_true, y_pred)
        return backend.of(moved).compare(fixed, moved, Comparison("squared_difference"), portably=_average_difference)


def _average_difference(fixed: Array, moved: Array) -> Array:
    return average_per_sample(ops.square(moved - fixed))
