"""Bending regulariser: how far a displacement is from an affine one."""

from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.losses.differences import Spacing, difference, prepare_displacement, standardize_spacing
from keramorph.losses.images import average_per_sample

ops = keras.ops


def bending(displacement: Array, *, spacing: Spacing = None) -> Array:
    """Return the bending energy of each field of a batch: squared second derivatives, mixed ones counted twice.

    It is that of a thin sheet of metal, added over the components, and 0 for an affine deformation. Derivatives are
    differences of neighbours and their mean is taken over the inside of the grid. With a spacing, displacement and
    distance count in millimetres, and one deformation has one energy on any grid.

    Args:
        displacement: Field `(batch, *spatial, ndim)` in voxels, float.
        spacing: Millimetres between voxel centres along each array axis, or one for all; None measures in voxels.

    Returns:
        Energies `(batch,)` in 1/mm**2, or 1/voxel**2 without a spacing, in float32 or better.

    Raises:
        OptionError: If the spacing is no positive length.
        ShapeError: If the field does not have one component per spatial axis, or the spacing not one length.

    Example:
        Inside a layer, `self.add_loss(keras.ops.mean(bending(field)))` trains with it.

        >>> import numpy as np
        >>> bowl = np.zeros((1, 5, 6, 2), "float32")
        >>> bowl[..., 1] = 0.5 * np.arange(5)[:, None] ** 2
        >>> [round(float(bending(bowl, spacing=spacing)[0]), 4) for spacing in (None, 2.0)]
        [1.0, 0.25]

    References:
        Rueckert et al. (1999), Nonrigid registration using free-form deformations: application to breast MR images,
        https://doi.org/10.1109/42.796284
    """
    field, steps = prepare_displacement(displacement, spacing)
    energy = 0.0
    for i, step in enumerate(steps):
        slope = difference(field, axis=i, step=step)
        for j in range(i, len(steps)):
            curvature = ops.sum(ops.square(difference(slope, axis=j, step=steps[j])), axis=-1)
            energy = energy + (1.0 if i == j else 2.0) * average_per_sample(curvature)
    return energy


@keras.saving.register_keras_serializable(package="keramorph")
class Bending(keras.losses.Loss):
    """The bending energy of `bending` as a Keras loss, for a model that has the displacement among its outputs.

    Call arguments are `y_true`, which is ignored and may be an array of zeros `(batch, 1)`, and `y_pred`, the
    displacement `(batch, *spatial, ndim)` in voxels. Without a dummy target, give `bending` to `add_loss`.

    Args:
        spacing: Millimetres between voxel centres along each array axis, or one for all; None measures in voxels.
        name: Name of the loss.
        reduction: How Keras reduces the energies `(batch,)` of the samples.
        dtype: Data type that Keras casts the inputs to before the call, `keras.config.floatx()` where it is None.

    Raises:
        OptionError: If the spacing is no positive length.
        ShapeError: If the field does not have one component per spatial axis, or the spacing not one length.

    Example:
        >>> import numpy as np
        >>> shear = np.zeros((2, 5, 6, 2), "float32")
        >>> shear[..., 1] = 0.5 * np.arange(5)[:, None]
        >>> float(Bending()(np.zeros((2, 1)), shear))
        0.0
    """

    def __init__(
        self,
        *,
        spacing: Spacing = None,
        name: str = "bending",
        reduction: str | None = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.spacing = standardize_spacing(spacing)

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """Energy of each displacement, `(batch,)`; `y_true` is ignored."""
        return bending(y_pred, spacing=self.spacing)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the loss."""
        return {**super().get_config(), "spacing": self.spacing}
