"""Layers of a differentiable affine fit: from feature maps to points, from points to a matrix, to a displacement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError
from keramorph.layers.spatial_layer import Shape, SpatialLayer, fits

Kind = Literal["rigid", "similarity", "affine"]
"""Maps that a fit may return."""

_TINY = 1e-12
"""Added to sums of weights: where nothing has any, the centre stands for all."""

_SINGULAR = 1e-7
"""Added to what a rotation's derivative is divided by, which is about 0.1 for points all over an image."""


@keras.saving.register_keras_serializable(package="keramorph")
class CentresOfMass(SpatialLayer):
    """Layer that returns the centre of mass of each feature map, `(batch, channels, ndim + 1)`: where, and how heavy.

    Called with `[maps, reference]`: feature maps that are nowhere negative, on a grid over the padded image, and the
    image itself, of which only the spatial sizes are read. The first ndim numbers are in voxels of the image about the
    centre of its grid, the last is the mean of the map; float32. The centre of an empty map is that of the grid.

    Args:
        scale: Voxels of the image per voxel of the maps, along each axis.
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[0.0], [0.0], [3.0], [0.0]]], "float32")
        >>> points = CentresOfMass(2, data_format="channels_last")([maps, np.zeros((1, 8, 1))])
        >>> keras.ops.convert_to_numpy(points).round(4).tolist()
        [[[1.0, 0.75]]]
    """

    takes = ("maps", "reference")

    def __init__(self, scale: int, *, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.scale = int(scale)

    def transform(self, maps: Array, reference: Array) -> Array:
        """Centres and masses of the maps, channels last."""
        maps = keras.ops.cast(maps, "float32")
        counts, sizes = keras.ops.shape(maps)[1:-1], keras.ops.shape(reference)[1:-1]
        axes = tuple(range(1, len(counts) + 1))
        mass = keras.ops.mean(maps, axis=axes)
        centres = []
        for axis, (count, size) in enumerate(zip(counts, sizes, strict=True), start=1):
            profile = keras.ops.mean(maps, axis=tuple(other for other in axes if other != axis))
            before = (count * self.scale - size) // 2
            middle = keras.ops.cast(before, "float32") + keras.ops.cast(size, "float32") / 2
            place = (keras.ops.cast(keras.ops.arange(count, dtype="int32"), "float32") + 0.5) * self.scale - middle
            moment = keras.ops.mean(profile * place[None, :, None], axis=1)
            centres.append(moment / (mass + _TINY))
        return keras.ops.stack([*centres, mass], axis=-1)

    def infer_shape(self, maps: Shape, reference: Shape) -> Shape:
        """Shape of the centres."""
        ndim = self.require_axes(0, maps, reference)
        if len(maps) != len(reference):
            self.refuse("a reference with the axes of the maps", maps, reference)
        return (maps[0], maps[-1], ndim + 1)

    def infer_dtype(self, *dtypes: str) -> str:
        """Data type of the centres: float32, whatever that of the maps."""
        return "float32"

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="keramorph")
class FitMatrix(SpatialLayer):
    """Layer that returns the matrix `(batch, ndim + 1, ndim + 1)` that brings points nearest to their counterparts.

    Called with `[fixed_points, moving_points, reference]`: points as `CentresOfMass` returns them, and an image whose
    grid they belong to. The matrix is homogeneous, in voxels, ij, from the first voxel: the least squares fit of the
    moving points to the fixed ones, in the unit of the spacing, each pair weighed by the product of its two masses.
    A ridge keeps the map near the identity where the points say little. Float32, and differentiable also where singular
    values coincide.

    Args:
        kind: `"rigid"` (rotation and translation), `"similarity"` (a scale as well) or `"affine"`.
        spacing: Length of a voxel along each axis, or one for all.
        ridge: Weight of the identity: the fit sees more points, as if there were some on a sphere around the mean that
            do not move, its radius the square root of the ridge times the image's size.
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If the kind is unknown, or the spacing or the ridge not positive.
        ShapeError: If the points are not as many on both sides, or have not a coordinate per axis and a mass.

    References:
        Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991,
        doi:10.1109/34.88573.
    """

    takes = ("fixed_points", "moving_points", "reference")
    without_channels = ("fixed_points", "moving_points")

    def __init__(
        self,
        kind: Kind = "affine",
        *,
        spacing: float | Sequence[float] = 1.0,
        ridge: float = 1e-4,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        self.check_option("kind", kind, get_args(Kind))
        lengths: Any = spacing if isinstance(spacing, (list, tuple)) else [spacing]
        if not min(lengths, default=0) > 0 or not ridge > 0:
            raise OptionError(
                f"{type(self).__name__} expects a positive `spacing` and a positive `ridge`. "
                f"Received: spacing={spacing!r}, ridge={ridge!r}."
            )
        self.kind = kind
        values = tuple(float(length) for length in lengths)
        self.spacing = values if lengths is spacing else values[0]
        self.ridge = float(ridge)

    def transform(self, fixed_points: Array, moving_points: Array, reference: Array) -> Array:
        """Homogeneous matrices."""
        sizes = keras.ops.stack([keras.ops.cast(n, "float32") for n in keras.ops.shape(reference)[1:-1]])
        spacing = keras.ops.ones_like(sizes) * keras.ops.convert_to_tensor(self.spacing, dtype="float32")
        # In units of the image's size, so that all numbers are about 1.
        unit = spacing / keras.ops.sqrt(keras.ops.mean(keras.ops.square(sizes * spacing)))
        weights = fixed_points[..., -1] * moving_points[..., -1]
        weights = weights / (keras.ops.sum(weights, axis=1, keepdims=True) + _TINY)
        linear, shift = self._fit(fixed_points[..., :-1] * unit, moving_points[..., :-1] * unit, weights)
        linear, shift = linear * unit / unit[:, None], shift / unit
        centre = (sizes - 1) / 2
        shift = shift + centre - keras.ops.sum(linear * centre, axis=-1)
        rows = keras.ops.concatenate([linear, shift[..., None]], axis=-1)
        last = keras.ops.zeros_like(rows[:, :1, :-1])
        last = keras.ops.concatenate([last, keras.ops.ones_like(last[..., :1])], axis=-1)
        return keras.ops.concatenate([rows, last], axis=1)

    def _fit(self, fixed: Array, moving: Array, weights: Array) -> tuple[Array, Array]:
        """Linear part and shift, both about the origin of the points."""
        mean_fixed = keras.ops.sum(weights[..., None] * fixed, axis=1)
        mean_moving = keras.ops.sum(weights[..., None] * moving, axis=1)
        fixed, moving = fixed - mean_fixed[:, None], moving - mean_moving[:, None]
        ridge = self.ridge * keras.ops.eye(fixed.shape[-1], dtype="float32")
        spread = keras.ops.einsum("bk,bki,bkj->bij", weights, fixed, fixed) + ridge
        shared = keras.ops.einsum("bk,bki,bkj->bij", weights, moving, fixed) + ridge
        if self.kind == "affine":
            linear = _transpose(keras.ops.solve(spread, _transpose(shared)))
        else:
            linear = nearest_rotation(shared)
        if self.kind == "similarity":
            scale = keras.ops.sum(linear * shared, axis=(1, 2)) / keras.ops.trace(spread, axis1=1, axis2=2)
            linear = linear * scale[:, None, None]
        return linear, mean_moving - keras.ops.sum(linear * mean_fixed[:, None], axis=-1)

    def infer_shape(self, fixed_points: Shape, moving_points: Shape, reference: Shape) -> Shape:
        """Shape of the matrices."""
        shapes = (fixed_points, moving_points, reference)
        ndim = self.require_axes(2, *shapes)
        if len(fixed_points) != 3 or len(moving_points) != 3 or not all(map(fits, fixed_points, moving_points)):
            self.refuse("as many fixed points as moving ones, (batch, points, ndim + 1)", *shapes)
        if not fits(fixed_points[-1], ndim + 1):
            self.refuse(f"points of {ndim} coordinates and a mass", *shapes)
        if isinstance(self.spacing, tuple) and len(self.spacing) != ndim:
            self.refuse(f"one length per spatial axis, and was made with spacing={self.spacing}", *shapes)
        return (fixed_points[0], ndim + 1, ndim + 1)

    def infer_dtype(self, *dtypes: str) -> str:
        """Data type of the matrices: float32, whatever that of the reference."""
        return "float32"

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "kind": self.kind, "spacing": self.spacing, "ridge": self.ridge}


@keras.saving.register_keras_serializable(package="keramorph")
class SpreadMatrix(SpatialLayer):
    """Layer that returns the displacement of an affine map on the grid of an image: `A x + b - x`.

    Called with `[reference, matrix]`: an image of which only the spatial sizes are read, and homogeneous matrices
    `(batch, ndim + 1, ndim + 1)` in voxels from the first one. Float32.

    Args:
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        ShapeError: If the matrices are not homogeneous ones for the axes of the image.
    """

    takes = ("reference", "matrix")
    without_channels = ("matrix",)

    def transform(self, reference: Array, matrix: Array) -> Array:
        """Displacement, channels last."""
        sizes = tuple(keras.ops.shape(reference)[1:-1])
        return ops.affine_to_displacement(matrix[:, : len(sizes)], shape=sizes)

    def infer_shape(self, reference: Shape, matrix: Shape) -> Shape:
        """Shape of the displacement."""
        ndim = require_matrix(self, reference, matrix)
        return (*reference[:-1], ndim)

    def infer_dtype(self, *dtypes: str) -> str:
        """Data type of the displacement: float32, whatever that of the reference."""
        return "float32"


@keras.saving.register_keras_serializable(package="keramorph")
class FollowMatrix(SpatialLayer):
    """Layer that returns the displacement of an affine map after another displacement: `A (x + u(x)) + b - x`.

    Called with `[displacement, matrix]`: u `(batch, *spatial, ndim)` in voxels, and homogeneous matrices
    `(batch, ndim + 1, ndim + 1)` in voxels from the first one. Exact outside the grid as well, where the composition
    of two displacements would extend the edge. Float32.

    Args:
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        ShapeError: If the matrices are not homogeneous ones for the components of the displacement.
    """

    takes = ("displacement", "matrix")
    without_channels = ("matrix",)

    def transform(self, displacement: Array, matrix: Array) -> Array:
        """Displacement of both, channels last."""
        shape, ndim = tuple(keras.ops.shape(displacement)[1:-1]), displacement.shape[-1]
        rows = matrix[:, :ndim]
        turned = keras.ops.einsum("b...j,bij->b...i", displacement, rows[..., :ndim])
        return ops.affine_to_displacement(rows, shape=shape) + turned

    def infer_shape(self, displacement: Shape, matrix: Shape) -> Shape:
        """Shape of the displacement."""
        ndim = require_matrix(self, displacement, matrix)
        return (*displacement[:-1], ndim)


def require_matrix(layer: SpatialLayer, *shapes: Shape) -> int:
    """Number of spatial axes of the first input; raises `ShapeError` unless the second holds matrices for them."""
    ndim, matrix = layer.require_axes(0, *shapes), shapes[1]
    if len(matrix) != 3 or not fits(matrix[1], ndim + 1) or not fits(matrix[2], ndim + 1):
        layer.refuse(f"homogeneous matrices (batch, {ndim + 1}, {ndim + 1})", *shapes)
    return ndim


def nearest_rotation(matrix: Array) -> Array:
    """Proper rotations `(batch, ndim, ndim)` for which the trace of their transpose times the matrix is largest.

    The singular value decomposition gives the value and no derivative: its own is infinite where singular values
    coincide, as they do for points at one place. The derivative is that of the condition which the rotation R fulfils,
    that `R^T H` is symmetric: one Newton step on it, which changes nothing but carries the gradient.
    """
    ndim = matrix.shape[-1]
    if ndim == 1:
        return keras.ops.ones_like(matrix)
    left, _, right = keras.ops.svd(keras.ops.stop_gradient(matrix))
    handed = keras.ops.det(_multiply(left, right))
    flips = keras.ops.concatenate([keras.ops.ones_like(left[:, 0, 1:]), handed[:, None]], axis=-1)
    rotation = keras.ops.stop_gradient(_multiply(left * flips[:, None, :], right))
    turned = _multiply(_transpose(rotation), matrix)
    skew = turned - _transpose(turned)
    # For W = [w]x and a symmetric S, W S + S W = [(trace(S) I - S) w]x; in the plane, trace(S) w.
    symmetric = keras.ops.stop_gradient(turned - skew / 2)
    trace = keras.ops.trace(symmetric, axis1=1, axis2=2)
    if ndim == 2:
        zero = keras.ops.zeros_like(trace)
        angle = skew[:, 1, 0] / (trace + _SINGULAR)
        step = _stack([[zero, -angle], [angle, zero]])
    else:
        inertia = (trace[:, None, None] + _SINGULAR) * keras.ops.eye(ndim, dtype=matrix.dtype) - symmetric
        axis = keras.ops.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], axis=-1)
        x, y, z = keras.ops.unstack(keras.ops.solve(inertia, axis[..., None])[..., 0], axis=-1)
        zero = keras.ops.zeros_like(x)
        step = _stack([[zero, -z, y], [z, zero, -x], [-y, x, zero]])
    return rotation + _multiply(rotation, step)


def _multiply(left: Array, right: Array) -> Array:
    """Products of matrices, which `keras.ops.matmul` would take in single precision on PyTorch."""
    return keras.ops.einsum("bij,bjk->bik", left, right)


def _transpose(matrix: Array) -> Array:
    return keras.ops.swapaxes(matrix, 1, 2)


def _stack(rows: list[list[Array]]) -> Array:
    return keras.ops.stack([keras.ops.stack(row, axis=-1) for row in rows], axis=1)
