"""Folding regulariser: how far a displacement turns space inside out."""

from typing import Any

from keramorph import ops as deformation
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.losses.differences import Spacing, prepare_displacement, standardize_spacing
from keramorph.losses.images import average_per_sample, promote

ops = keras.ops


def jacobian_folding(displacement: Array, *, spacing: Spacing = None) -> Array:
    """Return the mean negative part of det(I + du/dx) of each field of a batch: 0 where nothing folds.

    Args:
        displacement: Field `(batch, *spatial, ndim)` in voxels, float.
        spacing: Millimetres between voxel centres along each array axis, or one for all. It is checked like that of
            the other regularisers and changes nothing: a ratio of volumes is the same in voxels and in millimetres.

    Returns:
        Penalties `(batch,)` without a unit, in float32 or better.

    Raises:
        OptionError: If the spacing is no positive length.
        ShapeError: If the field does not have one component per spatial axis, or the spacing not one length.

    Example:
        Inside a layer, `self.add_loss(keras.ops.mean(jacobian_folding(field)))` trains with it.

        >>> import numpy as np
        >>> mirror = np.zeros((1, 5, 6, 2), "float32")
        >>> mirror[..., 0] = -2.0 * np.arange(5)[:, None]
        >>> round(float(jacobian_folding(mirror)[0]), 4)
        1.0

    References:
        Mok and Chung (2020), Fast symmetric diffeomorphic image registration with convolutional neural networks,
        https://doi.org/10.1109/CVPR42600.2020.00470
    """
    prepare_displacement(displacement, spacing)
    return average_per_sample(ops.relu(-deformation.jacobian_determinant(promote(displacement))))


@keras.saving.register_keras_serializable(package="keramorph")
class JacobianFolding(keras.losses.Loss):
    """The penalty of `jacobian_folding` as a Keras loss, for a model that has the displacement among its outputs.

    Call arguments are `y_true`, which is ignored and may be an array of zeros `(batch, 1)`, and `y_pred`, the
    displacement `(batch, *spatial, ndim)` in voxels. Without a dummy target, give `jacobian_folding` to `add_loss`.

    Args:
        spacing: Millimetres between voxel centres along each array axis, or one for all: checked, and without effect.
        name: Name of the loss.
        reduction: How Keras reduces the penalties `(batch,)` of the samples.
        dtype: Data type that Keras casts the inputs to before the call, `keras.config.floatx()` where it is None.

    Raises:
        OptionError: If the spacing is no positive length.
        ShapeError: If the field does not have one component per spatial axis, or the spacing not one length.

    Example:
        >>> import numpy as np
        >>> float(JacobianFolding()(np.zeros((2, 1)), np.zeros((2, 5, 6, 2), "float32")))
        0.0
    """

    def __init__(
        self,
        *,
        spacing: Spacing = None,
        name: str = "jacobian_folding",
        reduction: str | None = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.spacing = standardize_spacing(spacing)

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """Penalty of each displacement, `(batch,)`; `y_true` is ignored."""
        return jacobian_folding(y_pred, spacing=self.spacing)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the loss."""
        return {**super().get_config(), "spacing": self.spacing}
