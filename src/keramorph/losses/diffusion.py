"""Diffusion regulariser: how fast a displacement changes."""

from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError
from keramorph.losses.differences import Spacing, difference, prepare_displacement, standardize_spacing
from keramorph.losses.images import average_per_sample

ops = keras.ops


def diffusion(displacement: Array, *, spacing: Spacing = None, order: int = 2) -> Array:
    """Return the diffusion energy of each field of a batch: the squared derivatives, added over components and axes.

    For u(x) = (A - I) x it is the squared Frobenius norm of A - I, or the sum of its absolute entries with `order=1`.
    Derivatives are differences of neighbours and their mean is taken over all pairs along each axis. With a spacing
    both the displacement and the distance count in millimetres, and one deformation has one energy on any grid.

    Args:
        displacement: Field `(batch, *spatial, ndim)` in voxels, float.
        spacing: Millimetres between voxel centres along each array axis, or one for all; None measures in voxels.
        order: 2 adds squares; 1 adds absolute values, which spares the borders of sliding organs.

    Returns:
        Energies `(batch,)` without a unit, in float32 or better.

    Raises:
        OptionError: If the order is neither 1 nor 2, or the spacing no positive length.
        ShapeError: If the field does not have one component per spatial axis, or the spacing not one length.

    Example:
        Inside a layer, `self.add_loss(keras.ops.mean(diffusion(field)))` trains with it.

        >>> import numpy as np
        >>> ramp = np.zeros((1, 5, 6, 2), "float32")
        >>> ramp[..., 1] = 0.5 * np.arange(5)[:, None]
        >>> [round(float(diffusion(ramp, spacing=spacing)[0]), 4) for spacing in (None, (1.0, 3.0))]
        [0.25, 2.25]
    """
    if order not in (1, 2):
        raise OptionError(f"The order is 1 or 2. Received: order={order!r}. Take 2 for smooth fields.")
    field, steps = prepare_displacement(displacement, spacing)
    energy = 0.0
    for axis, step in enumerate(steps):
        slope = difference(field, axis=axis, step=step)
        size = ops.square(slope) if order == 2 else ops.abs(slope)
        energy = energy + average_per_sample(ops.sum(size, axis=-1))
    return energy


@keras.saving.register_keras_serializable(package="keramorph")
class Diffusion(keras.losses.Loss):
    """The diffusion energy of `diffusion` as a Keras loss, for a model that has the displacement among its outputs.

    Call arguments are `y_true`, which is ignored and may be an array of zeros `(batch, 1)`, and `y_pred`, the
    displacement `(batch, *spatial, ndim)` in voxels. Without a dummy target, give `diffusion` to `add_loss`.

    VoxelMorph's `Grad` takes the mean over components and axes where this takes the sum: its weight is ours times
    `ndim**2`.

    Args:
        spacing: Millimetres between voxel centres along each array axis, or one for all; None measures in voxels.
        order: 2 adds squared derivatives, 1 absolute ones.
        name: Name of the loss.
        reduction: How Keras reduces the energies `(batch,)` of the samples.
        dtype: Data type that Keras casts the inputs to before the call, `keras.config.floatx()` where it is None.

    Raises:
        OptionError: If the order is neither 1 nor 2, or the spacing no positive length.
        ShapeError: If the field does not have one component per spatial axis, or the spacing not one length.

    Example:
        >>> import numpy as np
        >>> ramp = np.zeros((2, 5, 6, 2), "float32")
        >>> ramp[..., 0] = 0.5 * np.arange(5)[:, None]
        >>> round(float(Diffusion(spacing=(3.0, 1.0))(np.zeros((2, 1)), ramp)), 4)
        0.25
    """

    def __init__(
        self,
        *,
        spacing: Spacing = None,
        order: int = 2,
        name: str = "diffusion",
        reduction: str | None = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if order not in (1, 2):
            raise OptionError(f"The order is 1 or 2. Received: order={order!r}. Take 2 for smooth fields.")
        self.spacing = standardize_spacing(spacing)
        self.order = int(order)

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """Energy of each displacement, `(batch,)`; `y_true` is ignored."""
        return diffusion(y_pred, spacing=self.spacing, order=self.order)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the loss."""
        return {**super().get_config(), "spacing": self.spacing, "order": self.order}
