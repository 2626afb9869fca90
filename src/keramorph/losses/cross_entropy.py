"""Cross-entropy of labels given as one channel each."""

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.losses.images import average_per_sample, prepare_pair

ops = keras.ops

_FLOOR = 1e-6
"""Probability that every label keeps everywhere: a voxel warped from outside the image has none at all."""


@keras.saving.register_keras_serializable(package="keramorph")
class CrossEntropy(keras.losses.Loss):
    """Mean cross-entropy of the labels in nats, at least 0: for label maps warped as one channel per label.

    Call arguments are `y_true`, the fixed labels, and `y_pred`, the moved ones: `(batch, *spatial, labels)` both,
    one-hot or probabilities. The moved channels are divided by their sum, after negative values, which cubic
    interpolation leaves, are set to 0 and every label is given a probability of 1e-6. Computed in float32 or better;
    `sample_weight` weighs samples.

    Args:
        name: Name of the loss.
        reduction: How Keras reduces the values `(batch,)` of the samples.
        dtype: Data type that Keras casts the inputs to before the call, `keras.config.floatx()` where it is None.

    Raises:
        ShapeError: If the label maps differ in shape.

    Example:
        >>> import numpy as np
        >>> fixed = np.eye(2, dtype="float32")[np.array([[0, 0, 1, 1]])]
        >>> moved = np.full((1, 4, 2), 0.5, "float32")
        >>> round(float(CrossEntropy()(fixed, moved)), 4)
        0.6931
    """

    def __init__(
        self, *, name: str = "cross_entropy", reduction: str | None = "sum_over_batch_size", dtype: str | None = None
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """Mean cross-entropy of each sample, `(batch,)`."""
        fixed, moved = prepare_pair(y_true, y_pred)
        moved = ops.relu(moved) + _FLOOR
        surprise = ops.log(ops.sum(moved, axis=-1, keepdims=True)) - ops.log(moved)
        return average_per_sample(ops.sum(fixed * surprise, axis=-1))
