"""Local normalised cross-correlation."""

from typing import Any, Literal

from keramorph import backend
from keramorph import ops as deformation
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.backend import Comparison
from keramorph.errors import OptionError
from keramorph.losses.images import average_per_sample, prepare_pair, standardize
from keramorph.ops.windows import average_box

ops = keras.ops

_FLOOR = 1e-5
"""Added to the local variances, in units of the image's own variance: where less varies there is nothing to match."""


@keras.saving.register_keras_serializable(package="keramorph")
class LNCC(keras.losses.Loss):
    """Minus the correlation of the intensities in a window around each voxel: for contrasts that drift over the image.

    The result is in [-1, 0] with `squared=True`, where an inverted contrast matches as well, and else in [-1, 1].
    Call arguments are `y_true`, the fixed image, and `y_pred`, the moved one: `(batch, *spatial, channels)` both, any
    real data type. Moments are float32 or better, of images brought to mean 0 and variance 1 first, with a positive
    floor under the local variances, so that flat regions score 0. At the border the window counts the voxels that it
    really holds. Correlations of voxels and channels are averaged; `sample_weight` weighs samples.

    Args:
        size: Width of the window in voxels: an odd number of them for a box. A Gaussian gets the standard deviation
            `sqrt((size**2 - 1) / 12)` of a box of that width, and any size above 1 will do.
        window: `"box"`, or `"gaussian"` with soft edges.
        squared: Whether the local correlations are squared before they are averaged.
        name: Name of the loss.
        reduction: How Keras reduces the values `(batch,)` of the samples.
        dtype: Data type that Keras casts the inputs to before the call, `keras.config.floatx()` where it is None.

    Raises:
        OptionError: If the window or its size is none of these.
        ShapeError: If the images differ in shape.

    Example:
        >>> import numpy as np
        >>> fixed = np.random.default_rng(0).normal(size=(2, 15, 16, 1)).astype("float32")
        >>> round(float(LNCC(size=5)(fixed, 100 - 3 * fixed)), 3)
        -1.0

    References:
        Avants et al. (2008), Symmetric diffeomorphic image registration with cross-correlation,
        https://doi.org/10.1016/j.media.2007.06.004
    """

    def __init__(
        self,
        size: float = 9,
        *,
        window: Literal["box", "gaussian"] = "box",
        squared: bool = True,
        name: str = "lncc",
        reduction: str | None = "sum_over_batch_size",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if window not in ("box", "gaussian"):
            raise OptionError(f"A window is 'box' or 'gaussian'. Received: window={window!r}. Choose one of the two.")
        if size <= 1 or (window == "box" and size % 2 != 1):
            raise OptionError(
                "A box holds an odd number of voxels, at least 3, and a Gaussian is wider than 1 voxel. "
                f"Received: size={size!r}, window={window!r}. Take size=9, or window='gaussian' for a size between."
            )
        self.size = int(size) if window == "box" else float(size)
        self.window = window
        self.squared = bool(squared)

    def call(self, y_true: Array, y_pred: Array) -> Array:
        """Minus the mean local correlation of each sample, `(batch,)`."""
        fixed, moved = prepare_pair(y_true, y_pred)
        if self.window != "box":
            return -self._correlate(fixed, moved)
        comparison = Comparison("local_correlation", int(self.size), variant=self.squared)
        return -backend.of(moved).compare(fixed, moved, comparison, portably=self._correlate)

    def _correlate(self, fixed: Array, moved: Array) -> Array:
        fixed, moved = standardize(fixed), standardize(moved)
        products = ops.concatenate([fixed, moved, fixed * fixed, moved * moved, fixed * moved], axis=-1)
        f, m, ff, mm, fm = ops.split(self._average(products), 5, axis=-1)
        covariance = fm - f * m
        # A difference of two rounded moments can be negative where the window is flat: never divide by it as it is.
        variances = (ops.relu(ff - f * f) + _FLOOR) * (ops.relu(mm - m * m) + _FLOOR)
        if self.squared:
            return average_per_sample(ops.clip(ops.square(covariance) / variances, 0.0, 1.0))
        return average_per_sample(ops.clip(covariance * ops.rsqrt(variances), -1.0, 1.0))

    def _average(self, products: Array) -> Array:
        if self.window == "box":
            return average_box(products, size=int(self.size))
        return deformation.gaussian(products, sigma=((self.size**2 - 1) / 12) ** 0.5)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the loss."""
        return {**super().get_config(), "size": self.size, "window": self.window, "squared": self.squared}
