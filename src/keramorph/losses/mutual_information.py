"""Mutual information of the intensities, from a joint histogram with Parzen windows."""

from typing import Any

from keramorph import backend
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.backend import Comparison
from keramorph.errors import OptionError
from keramorph.losses.images import average_per_sample, prepare_pair, spatial_axes

ops = keras.ops

_BLOCK = 16384
"""Voxels whose window weights are held at once: 2 MB for 32 bins, so that they stay in cache."""

_OUTSIDE = -10.0
"""A position among the bins that no window reaches; voxels that only fill the last block up get it."""

_SMALLEST = 1e-12
"""Probability below which a bin adds nothing to an entropy, rather than the logarithm of zero."""


@keras.saving.register_keras_serializable(package="keramorph")
class MutualInformation(keras.losses.Loss):
    """Minus the mutual information of the intensities, in nats: for two modalities, whatever relates their contrasts.

    Call arguments are `y_true`, the fixed image, and `y_pred`, the moved one: `(batch, *spatial, channels)` both, any
    real data type. The intensities of each sample and channel are spread over the bins from their least to their
    greatest value, which count as constants in the gradient; clip outliers beforehand. The joint histogram has a cubic
    B-spline window on both axes, so that the loss has a continuous gradient, and is filled block by block in float32
    or better: its memory does not grow with the number of bins times the number of voxels. Channels are averaged;
    `sample_weight` weighs samples.

    Args:
        bins: Number of bins along each axis of the joint histogram, at least 4; the outermost take the windows' tails.
        normalized: Whether to take (H(fixed) + H(moved)) / H(fixed, moved), which is in [1, 2] and depends less on
            how much of the images overlaps, instead of the difference of the two.
        name: Name of the loss.
        reduction: How Keras reduces the values `(batch,)` of the samples.
        dtype: Data type that Keras casts the inputs to before the call, `keras.config.floatx()` where it is None.

    Raises:
        OptionError: If there are too few bins.
        ShapeError: If the images differ in shape.

    Example:
        >>> import numpy as np
        >>> fixed = np.random.default_rng(0).uniform(size=(1, 30, 30, 1)).astype("float32")
        >>> same, other = MutualInformation()(fixed, 1 - fixed), MutualInformation()(fixed, fixed[:, ::-1])
        >>> bool(same < other < 0)
        True

    References:
        Mattes et al. (2003), PET-CT image registration in the chest using free-form deformations,
        https://doi.org/10.1109/TMI.2003.809072; Studholme et al. (1999), An overlap invariant entropy measure of 3D
        medical image alignment, https://doi.org/10.1016/S0031-3203(98)00091-0
    """

    def __init__(
        self,
        bins: int = 32,
        *,
        normalized: bool = False,
        name: str = "mutual_information",
        reduction: str | None = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if bins < 4:
            raise OptionError(f"A histogram needs at least 4 bins. Received: bins={bins!r}. Take 32, or 64.")
        self.bins = int(bins)
        self.normalized = bool(normalized)

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """Minus the mutual information of each sample, `(batch,)`."""
        fixed, moved = prepare_pair(y_true, y_pred)
        comparison = Comparison("mutual_information", self.bins, variant=self.normalized)
        return -backend.of(moved).compare(fixed, moved, comparison, portably=self._inform)

    def _inform(self, fixed: Array, moved: Array) -> Array:
        """Mutual information of each sample, `(batch,)`."""
        channels = fixed.shape[-1]
        fixed, moved = _flatten(_place(fixed, self.bins)), _flatten(_place(moved, self.bins))
        counts = fill_joint_histogram(fixed, moved, bins=self.bins)
        joint = counts / ops.sum(counts, axis=(1, 2), keepdims=True)
        separate = _entropy(ops.sum(joint, axis=2)) + _entropy(ops.sum(joint, axis=1))
        together = _entropy(ops.reshape(joint, (-1, self.bins * self.bins)))
        information = separate / together if self.normalized else separate - together
        return average_per_sample(ops.reshape(information, (-1, channels)))

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the loss."""
        return {**super().get_config(), "bins": self.bins, "normalized": self.normalized}


def fill_joint_histogram(fixed: Array, moved: Array, *, bins: int) -> Array:
    """Joint histogram of two sets of positions among the bins, each counted through a cubic B-spline window.

    Autodiff would keep the window weights of every voxel; the rule here computes them again, a block at a time.

    Args:
        fixed: Positions `(images, voxels)` of the fixed intensities, bin k being centred at k; float.
        moved: The same of the moved intensities.
        bins: Number of bins along each axis.

    Returns:
        Counts `(images, bins, bins)`, fixed first, which add up to the number of voxels.
    """

    @ops.custom_gradient
    def fill(fixed: Array, moved: Array) -> Any:
        def pull_back(*arguments: Array, upstream: Array | None = None) -> tuple[Array, Array]:
            # torch hands the inputs back and names the upstream gradient; TensorFlow and JAX pass it alone.
            above = arguments[0] if upstream is None else upstream
            return _pull_back_histogram(fixed, moved, above, bins=bins)

        return _push_histogram(fixed, moved, bins=bins), pull_back

    return fill(fixed, moved)


def _push_histogram(fixed: Array, moved: Array, *, bins: int) -> Array:
    def count(block: tuple[Array, Array]) -> Array:
        return ops.einsum("bnk,bnl->bkl", _weigh(block[0], bins), _weigh(block[1], bins))

    return ops.sum(ops.map(count, (_cut(fixed), _cut(moved))), axis=0)


def _pull_back_histogram(fixed: Array, moved: Array, above: Array, *, bins: int) -> tuple[Array, Array]:
    def differentiate(block: tuple[Array, Array]) -> Array:
        of_fixed = ops.einsum("bkl,bnl->bnk", above, _weigh(block[1], bins))
        of_moved = ops.einsum("bkl,bnk->bnl", above, _weigh(block[0], bins))
        return ops.stack(
            [
                ops.sum(of_fixed * _weigh_slope(block[0], bins), axis=-1),
                ops.sum(of_moved * _weigh_slope(block[1], bins), axis=-1),
            ]
        )

    gradient = ops.map(differentiate, (_cut(fixed), _cut(moved)))
    shape = ops.shape(fixed)
    joined = ops.reshape(ops.transpose(gradient, (1, 2, 0, 3)), (2, shape[0], -1))[:, :, : shape[1]]
    return joined[0], joined[1]


def _weigh(position: Array, bins: int) -> Array:
    """Cubic B-spline `(..., bins)` of the distance from each position to each bin."""
    distance = ops.abs(position[..., None] - ops.arange(bins, dtype=position.dtype))
    return (ops.relu(2.0 - distance) ** 3 - 4.0 * ops.relu(1.0 - distance) ** 3) / 6.0


def _weigh_slope(position: Array, bins: int) -> Array:
    """Derivative `(..., bins)` of `_weigh` to the positions."""
    offset = position[..., None] - ops.arange(bins, dtype=position.dtype)
    distance = ops.abs(offset)
    return ops.sign(offset) * (4.0 * ops.relu(1.0 - distance) ** 2 - ops.relu(2.0 - distance) ** 2) / 2.0


def _cut(position: Array) -> Array:
    """Cut `(images, voxels)` into blocks `(blocks, images, block)`, the last one filled up."""
    images, voxels = ops.shape(position)
    block = min(_BLOCK, voxels) if isinstance(voxels, int) else _BLOCK
    missing = -voxels % max(block, 1)
    filled = ops.pad(position, ((0, 0), (0, missing)), constant_values=_OUTSIDE)
    return ops.transpose(ops.reshape(filled, (images, -1, max(block, 1))), (1, 0, 2))


def _place(image: Array, bins: int) -> Array:
    """Positions of the intensities among the bins: 1 for the least, `bins - 2` for the greatest."""
    axes = spatial_axes(image)
    least = ops.stop_gradient(ops.min(image, axis=axes, keepdims=True))
    width = ops.stop_gradient(ops.max(image, axis=axes, keepdims=True)) - least
    return 1.0 + (image - least) * ((bins - 3) / ops.where(width > 0, width, ops.ones_like(width)))


def _flatten(image: Array) -> Array:
    """Turn `(batch, *spatial, channels)` into `(batch * channels, voxels)`."""
    channels_first = ops.moveaxis(image, -1, 1)
    shape = ops.shape(channels_first)
    voxels = 1
    for size in shape[2:]:
        voxels = voxels * size
    return ops.reshape(channels_first, (shape[0] * shape[1], voxels))


def _entropy(probability: Array) -> Array:
    """Entropy in nats over the last axis."""
    return -ops.sum(probability * ops.log(ops.clip(probability, _SMALLEST, 1.0)), axis=-1)
