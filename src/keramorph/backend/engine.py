"""The public door of every engine: options checked, data types settled, then the portable primitive or a kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keramorph._typing import Array, Boundary, Gradient, Order
from keramorph.backend import portable
from keramorph.backend.comparison import Comparison
from keramorph.backend.rule import Rule, spread
from keramorph.errors import OptionError


class Engine:
    """Primitives on one framework's arrays; a binding replaces the underscored methods by rules and kernels.

    `name` is the framework's, `xp` its array namespace.

    Example:
        >>> import numpy as np
        >>> from keramorph import backend
        >>> engine = backend.use("numpy")
        >>> engine.sample(np.arange(3.0)[None, :, None], np.array([[[0.5]]])).item()
        0.5
    """

    name: str
    xp: Any

    def sample(
        self,
        image: Array,
        coordinates: Array,
        *,
        relative: bool = False,
        order: Order = 1,
        boundary: Boundary = "nearest",
        fill_value: float = 0.0,
        gradient: Gradient = "exact",
    ) -> Array:
        """Values `(batch, *field, channels)` of images `(batch, *spatial, channels)` at coordinates in voxels.

        Args:
            image: Values to read, any real data type, which the result keeps.
            coordinates: Positions `(batch, *field, ndim)` in voxels of the image.
            relative: Whether the coordinates are displacements from each field voxel's own index.
            order: Degree of the interpolating spline.
            boundary: What lies outside the image.
            fill_value: Value outside, where the boundary is `"constant"`.
            gradient: Which derivative to the coordinates flows back.

        Returns:
            Values in the image's data type.
        """
        rule = Rule(order, boundary, float(fill_value), relative, gradient)
        image, coordinates = self._settle(image, coordinates)
        values = self._sample(self._to_coefficients(image, rule), coordinates, rule)
        return portable.cast_like(self.xp, values, image)

    def sample_with_derivative(
        self,
        image: Array,
        coordinates: Array,
        *,
        relative: bool = False,
        order: Order = 1,
        boundary: Boundary = "nearest",
        fill_value: float = 0.0,
    ) -> tuple[Array, Array]:
        """Values as `sample` gives them, and their derivative `(batch, *field, channels, ndim)` to the coordinates."""
        rule = Rule(order, boundary, float(fill_value), relative)
        image, coordinates = self._settle(image, coordinates)
        return self._sample_with_derivative(self._to_coefficients(image, rule), coordinates, rule)

    def compose(self, outer: Array, inner: Array) -> Array:
        """Displacement `inner(x) + outer(x + inner(x))`, both `(batch, *spatial, ndim)` in voxels of one grid."""
        if {self.xp.dtype(outer), self.xp.dtype(inner)} in ({"float32"}, {"float64"}):
            return self._compose(outer, inner)
        return inner + self.sample(outer, inner, relative=True)

    def splat(
        self,
        values: Array,
        coordinates: Array,
        *,
        shape: tuple,
        relative: bool = False,
        order: Order = 1,
        boundary: Boundary = "nearest",
    ) -> Array:
        """Adjoint of `sample` to the image: values `(batch, *field, channels)` spread over `shape`."""
        rule = Rule(order, boundary, 0.0, relative)
        values, coordinates = self._settle(values, coordinates)
        grown = tuple(shape)
        if order == 3 and boundary == "nearest":
            grown = tuple(n + 2 * portable.EDGE for n in shape)
        return self._from_coefficients(self._splat(values, coordinates, grown, rule), rule)

    def window_sum(self, array: Array, *, size: Any) -> Array:
        """Sums over boxes of an odd `size` voxels (one, or one per axis) around each voxel, zero outside."""
        sizes = tuple(int(n) for n in spread("size", size, len(self.xp.shape(array)) - 2))
        if any(n < 1 or n % 2 == 0 for n in sizes):
            raise OptionError(
                f"`size` must be odd and at least 1, so that a window has a centre. Received: size={size!r}."
            )
        return self._in_float(self._window_sum, array, sizes)

    def gaussian(self, array: Array, *, sigma: Any) -> Array:
        """Smooth by Gaussians of `sigma` voxels (one, or one per axis), truncated at 4 sigma, edges reflected."""
        widths = tuple(float(s) for s in spread("sigma", sigma, len(self.xp.shape(array)) - 2))
        if any(not 0 <= s < float("inf") for s in widths):
            raise OptionError(f"`sigma` must be zero or a positive number of voxels. Received: sigma={sigma!r}.")
        return self._in_float(self._gaussian, array, widths)

    def lncc(
        self, fixed: Array, moved: Array, weight: Array, *, size: tuple[int, ...], floor: float, least: float
    ) -> tuple[Array, Array, Array] | None:
        """Squared local correlation of two images, fused; None where this engine has no kernel for it.

        Args:
            fixed: `(batch, *spatial, channels)`.
            moved: Of the same shape.
            weight: How much each window counts, of the same shape.
            size: Edges of a window in voxels.
            floor: Variance that counts as noise, e in `(|r| + e)**2 / ((v_f + e) * (v_m + e))`.
            least: Share of all windows that the total weight counts for at least.

        Returns:
            Similarity `(batch,)`; its derivative to the moved image, and the curvature along it, both of its shape.
        """
        return None

    def compare(
        self, fixed: Array, moved: Array, comparison: Comparison, *, portably: Callable[[Array, Array], Array]
    ) -> Array:
        """How alike each pair of images is, differentiable to both: by a kernel where one fits, else portably.

        Every measure is symmetric: for the derivative to the fixed image a kernel gets the two swapped.

        Args:
            fixed: `(batch, *spatial, channels)`.
            moved: Of the same shape and data type.
            comparison: What they are compared by.
            portably: The same as a formula, a function of the two images that every framework can differentiate. Its
                entry of the batch depends on theirs alone. The second derivative is always that of the formula.

        Returns:
            Values `(batch,)`.
        """
        return portably(fixed, moved)

    def fuses_lncc(self, array: Array) -> bool:
        """Whether `lncc` computes something for images like this one."""
        return False

    def locate(self, displacement: Array, matrix: np.ndarray, *, shape: tuple[int, ...]) -> tuple[Array, Array] | None:
        """Where an affine map takes displaced voxels, in one pass; None where this engine has no kernel for it.

        Args:
            displacement: u, `(batch, *spatial, ndim)` in voxels.
            matrix: Homogeneous matrix A, from voxels x of the displacement to voxels of another grid; or one for each
                displacement, `(batch, ndim + 1, ndim + 1)`.
            shape: Shape of that grid.

        Returns:
            `A(x + u(x))`, of the shape of the displacement, and how far inside the grid it is, `(batch, *spatial, 1)`:
            1, fading to 0 within a voxel around the outermost voxel centres.
        """
        return None

    def push(self, slope: Array, derivative: Array, curvature: Array, matrix: np.ndarray) -> Array | None:
        """Force and stiffness of a Gauss-Newton step, in one pass; None where this engine has no kernel for it.

        Args:
            slope: Derivative of the moved image to the positions it is read at, `(batch, *spatial, ndim)`.
            derivative: Of the similarity to the moved image, `(batch, *spatial, 1)`.
            curvature: Along it, of the same shape.
            matrix: What slopes are multiplied by, `(ndim, ndim)` or `(batch, ndim, ndim)`.

        Returns:
            `(batch, *spatial, ndim + 1)`: derivative times s, and curvature times |s|², s being matrix times slope.
        """
        return None

    def limit(self, pushed: Array, matrix: np.ndarray, *, damping: Array, most: float) -> Array | None:
        """The step that force and stiffness make, in one pass; None where this engine has no kernel for it.

        Args:
            pushed: Force and stiffness `(batch, *spatial, ndim + 1)`, as `push` gives them.
            matrix: What steps are multiplied by in the end, `(ndim, ndim)` or `(batch, ndim, ndim)`.
            damping: Added to the stiffness: a scalar; or, with a matrix for each entry of the batch, a number for each.
            most: Longest step, before the matrix.

        Returns:
            `(batch, *spatial, ndim)`.
        """
        return None

    def add_blocks(
        self, images: Sequence[Any], displacement: Array, matrix: np.ndarray, to_push: np.ndarray
    ) -> tuple[Array, Array, Array] | None:
        """What blocks of voxels add up to, in one pass; None where this engine has no kernel for it.

        Args:
            images: Fixed and moving image, `(batch, *spatial, 1)`, and the masks of both, None where all counts.
            displacement: u, `(batch, *blocks, ndim)` in blocks over the field of view of the fixed image.
            matrix: Homogeneous matrix A, from fixed to moving voxels.
            to_push: What slopes of the moving image are multiplied by, `(ndim, ndim)`.

        Returns:
            Sums over the voxels of each block, with the fixed values f, the values m and slopes s of the moving image
            where a linear u leads, and how much a voxel counts: m, m² and f m, `(batch, *blocks, 3)`; the latter,
            `(batch, *blocks, 1)`; and s, f s, m s and |s|², `(batch, *blocks, 3 ndim + 1)`.
        """
        return None

    def map_blocks(self, function: Callable, *arrays: Array, halo: int = 0) -> Any:
        """`function(*arrays)`, computed in blocks where that is faster.

        Args:
            function: From arrays `(batch, *spatial, channels)` to an array, or a tuple of arrays, of the same batch and
                spatial sizes, each voxel from voxels at most `halo` away. Where it asks what lies beyond the edge of an
                array, it may be asked about the edge of a block: that voxel's result is then thrown away.
            *arrays: `(batch, *spatial, channels)`, all of the same batch and spatial sizes; after the first one also
                `(batch, 1, ..., channels)`, which goes whole to each block of its entry of the batch.
            halo: How far it reaches along each axis.
        """
        return function(*arrays)

    def _in_float(self, function: Callable, array: Array, width: tuple) -> Array:
        """Filter in float32 at least; half floats come back as such, integers as float32."""
        dtype = self.xp.dtype(array)
        if dtype in ("float32", "float64"):
            return function(array, width)
        filtered = function(self.xp.cast(array, "float32"), width)
        return filtered if self.xp.is_integer(dtype) else self.xp.cast(filtered, dtype)

    def _settle(self, image: Array, coordinates: Array) -> tuple[Array, Array]:
        """Coordinates in float32, or in float64 where either array has it: never in an image's half floats."""
        xp = self.xp
        wide = "float64" in (xp.dtype(image), xp.dtype(coordinates))
        return image, xp.cast(coordinates, "float64" if wide else "float32")

    def _to_coefficients(self, image: Array, rule: Rule) -> Array:
        return portable.to_coefficients(self.xp, image, rule)

    def _from_coefficients(self, coefficients: Array, rule: Rule) -> Array:
        return portable.from_coefficients(self.xp, coefficients, rule)

    def _sample(self, image: Array, coordinates: Array, rule: Rule) -> Array:
        return portable.sample(self.xp, image, coordinates, rule)

    def _sample_with_derivative(self, image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
        return portable.sample_with_derivative(self.xp, image, coordinates, rule)

    def _pull_back(self, image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
        """Gradient of `_sample` to the coordinates; swapping image and cotangent makes it that of `_splat`."""
        return portable.pull_back(self.xp, image, coordinates, cotangent, rule)

    def _compose(self, outer: Array, inner: Array) -> Array:
        return inner + self._sample(outer, inner, Rule(relative=True))

    def _splat(self, values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
        return portable.splat(self.xp, values, coordinates, shape, rule)

    def _window_sum(self, array: Array, size: tuple[int, ...]) -> Array:
        return portable.window_sum(self.xp, array, size)

    def _gaussian(self, array: Array, sigma: tuple[float, ...]) -> Array:
        return portable.gaussian(self.xp, array, sigma)
