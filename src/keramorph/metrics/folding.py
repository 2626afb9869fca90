"""Keras metric of folds in a displacement."""

from keramorph import ops as deformation
from keramorph._keras import keras
from keramorph._typing import Array

ops = keras.ops


@keras.saving.register_keras_serializable(package="keramorph")
class FoldingShare(keras.metrics.Mean):
    """Share of the voxels at which the displacement folds, det(I + du/dx) <= 0, averaged over the samples.

    Call arguments are `y_true`, which is ignored and may be an array of zeros `(batch, 1)`, and `y_pred`, the
    displacement `(batch, *spatial, ndim)` in voxels. `sample_weight` weighs samples.

    Args:
        name: Name of the metric.
        dtype: Data type of its state, `keras.config.floatx()` where it is None.

    Example:
        >>> import numpy as np
        >>> mirror = np.zeros((1, 4, 5, 2), "float32")
        >>> mirror[..., 0] = -2.0 * np.arange(4)[:, None]
        >>> float(FoldingShare()(np.zeros((1, 1)), mirror))
        1.0
    """

    def __init__(self, *, name: str = "folding_share", dtype: str | None = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> None:
        """Add the fields of one batch; `y_true` is ignored."""
        field = ops.convert_to_tensor(y_pred)
        field = ops.cast(field, keras.backend.result_type(keras.backend.standardize_dtype(field.dtype), "float32"))
        folded = ops.cast(deformation.jacobian_determinant(field) <= 0, self.dtype)
        share = ops.mean(folded, axis=tuple(range(1, len(folded.shape))))
        super().update_state(share, sample_weight=sample_weight)
