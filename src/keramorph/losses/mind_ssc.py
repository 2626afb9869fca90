"""Modality independent neighbourhood descriptor, self-similarity context."""

from typing import Any

from keramorph import backend
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.backend import Comparison
from keramorph.errors import OptionError, ShapeError
from keramorph.losses.images import average_per_sample, prepare_pair, standardize
from keramorph.ops.self_similarity import describe_self_similarity

ops = keras.ops


@keras.saving.register_keras_serializable(package="keramorph")
class MINDSSC(keras.losses.Loss):
    """Mean squared difference of local self-similarities: for two modalities that share structure but no intensities.

    Each voxel is described by the distances between the patches around it, which survive a change of contrast. In 3-D
    these are the 12 pairs of its six face neighbours, `dilation` voxels away, that are not opposite each other; in 2-D
    the 4 pairs of its four. The result is in [0, 1]. Call arguments are `y_true`, the fixed image, and `y_pred`, the
    moved one: `(batch, *spatial, channels)` both, any real data type, computed in float32 or better. Beyond the border
    the image is extended by its edge. Channels are described one by one; `sample_weight` weighs samples.

    Args:
        radius: Patches are boxes of `2 * radius + 1` voxels.
        dilation: How many voxels away the neighbours are.
        name: Name of the loss.
        reduction: How Keras reduces the values `(batch,)` of the samples.
        dtype: Data type that Keras casts the inputs to before the call, `keras.config.floatx()` where it is None.

    Raises:
        OptionError: If the radius is negative or the dilation not positive.
        ShapeError: If the images differ in shape, or have a single spatial axis: there all pairs are opposite.

    Example:
        >>> import numpy as np
        >>> fixed = np.random.default_rng(0).normal(size=(1, 9, 9, 9, 1)).astype("float32")
        >>> bool(MINDSSC()(fixed, 100 - 3 * fixed) < 1e-6)
        True

    References:
        Heinrich et al. (2013), Towards realtime multimodal fusion for image-guided interventions using
        self-similarities, https://doi.org/10.1007/978-3-642-40811-3_24
    """

    def __init__(
        self,
        *,
        radius: int = 1,
        dilation: int = 2,
        name: str = "mind_ssc",
        reduction: str | None = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if radius < 0 or dilation < 1:
            raise OptionError(
                "A radius is 0 or more voxels and a dilation 1 or more. "
                f"Received: radius={radius!r}, dilation={dilation!r}. Take radius=1, dilation=2."
            )
        self.radius = int(radius)
        self.dilation = int(dilation)

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """Mean squared difference of the descriptors of each sample, `(batch,)`."""
        fixed, moved = prepare_pair(y_true, y_pred)
        if len(fixed.shape) < 4:
            raise ShapeError(
                "Self-similarities need two or more spatial axes. Received: "
                f"y_true.shape={tuple(fixed.shape)}. Use LNCC or MutualInformation for signals of one axis."
            )
        comparison = Comparison("self_similarity", self.radius, self.dilation)
        return backend.of(moved).compare(fixed, moved, comparison, portably=self._tell_apart)

    def _tell_apart(self, fixed: Array, moved: Array) -> Array:
        return average_per_sample(ops.square(self.describe(moved) - self.describe(fixed)))

    def describe(self, image: Array) -> Array:
        """Descriptors of an image `(batch, *spatial, channels)`: `(batch, *spatial, pairs, channels)` in [0, 1]."""
        return describe_self_similarity(standardize(image), radius=self.radius, dilation=self.dilation)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the loss."""
        return {**super().get_config(), "radius": self.radius, "dilation": self.dilation}
