"""Overlap of labels given as one channel each."""

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.losses.images import prepare_pair, spatial_axes

ops = keras.ops


@keras.saving.register_keras_serializable(package="keramorph")
class SoftDice(keras.losses.Loss):
    """One minus the mean Dice overlap of the labels, in [0, 1]: for label maps warped as one channel per label.

    Call arguments are `y_true`, the fixed labels, and `y_pred`, the moved ones: `(batch, *spatial, labels)` both,
    one-hot or probabilities. Of each label it takes 2 sum(f m) / (sum(f) + sum(m)), and averages the labels that one of
    the two maps holds; a sample with none of them loses 0. All channels count: leave the background's out where it
    should not. Sums are float32 or better; `sample_weight` weighs samples.

    Args:
        name: Name of the loss.
        reduction: How Keras reduces the values `(batch,)` of the samples.
        dtype: Data type that Keras casts the inputs to before the call, `keras.config.floatx()` where it is None.

    Raises:
        ShapeError: If the label maps differ in shape.

    Example:
        >>> import numpy as np
        >>> fixed = np.eye(2, dtype="float32")[np.array([[0, 0, 1, 1]])]
        >>> moved = np.eye(2, dtype="float32")[np.array([[0, 1, 1, 1]])]
        >>> round(float(SoftDice()(fixed, moved)), 4)
        0.2667

    References:
        Milletari et al. (2016), V-Net: fully convolutional neural networks for volumetric medical image segmentation,
        https://doi.org/10.1109/3DV.2016.79
    """

    def __init__(
        self, *, name: str = "soft_dice", reduction: str | None = "sum_over_batch_size", dtype: str | None = None
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """One minus the mean overlap of each sample, `(batch,)`."""
        fixed, moved = prepare_pair(y_true, y_pred)
        axes = spatial_axes(fixed)
        volume = ops.sum(fixed + moved, axis=axes)
        present = volume > 0
        overlap = 2.0 * ops.sum(fixed * moved, axis=axes) / ops.where(present, volume, ops.ones_like(volume))
        present = ops.cast(present, fixed.dtype)
        missed = ops.sum(present * (1.0 - overlap), axis=-1)
        count = ops.sum(present, axis=-1)
        return missed / ops.where(count > 0, count, ops.ones_like(count))
