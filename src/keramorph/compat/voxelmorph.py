"""VoxelMorph's Keras layers, under their old names and arguments, on every backend.

The arguments and the numbers are those of VoxelMorph 0.2 on neurite. Earlier releases differ in one point: scaling and
squaring read zeros outside the field; here, as in later ones, the field extends its edge.
"""

from __future__ import annotations

from typing import Any

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError, ShapeError

Shape = tuple[int | None, ...]

_ORDERS: dict[str, Any] = {"linear": 1, "nearest": 0}


class _VoxelMorphLayer(keras.layers.Layer):
    """A layer without weights whose output type follows its first input; autocasting would round the shifts."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Symbolic output, in the data type of the image or field."""
        shapes = [tuple(x.shape) for x in inputs] if isinstance(inputs, (list, tuple)) else tuple(inputs.shape)
        first = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        return keras.KerasTensor(self.compute_output_shape(shapes), dtype=self.output_dtype(first.dtype))

    def output_dtype(self, dtype: str) -> str:
        """Data type of the output: that of the first input."""
        return dtype


@keras.saving.register_keras_serializable(package="keramorph")
class SpatialTransformer(_VoxelMorphLayer):
    """Layer that returns the image moved by a dense shift or an affine matrix, as VoxelMorph's of this name.

    Called with `[vol, trf]`: the image `(batch, *spatial, channels)`, and either shifts `(batch, *spatial, ndim)` in
    voxels or matrices `(batch, ndim, ndim + 1)`. A matrix is the whole map, its identity included. New code uses
    `keramorph.layers.Warp` and `keramorph.layers.AffineWarp`. For `"nearest"`, positions halfway between two voxels
    take the upper one; VoxelMorph took the even one.

    Args:
        interp_method: `"linear"` or `"nearest"`.
        indexing: `"ij"`, or `"xy"` where the first two components are swapped: column first, row second.
        single_transform: Whether the first transform of the batch moves all images.
        fill_value: Value outside the image; None extends the edge.
        shift_center: Whether a matrix acts about the centre of the grid, or else about the first voxel.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If `trf` is neither a dense shift nor a matrix for the image.

    Example:
        >>> import numpy as np
        >>> vol = np.arange(4.0, dtype="float32").reshape(1, 4, 1)
        >>> moved = SpatialTransformer(fill_value=-1.0)([vol, np.ones((1, 4, 1), dtype="float32")])
        >>> keras.ops.convert_to_numpy(moved)[0, :, 0].tolist()
        [1.0, 2.0, 3.0, -1.0]

    References:
        Dalca, Balakrishnan, Guttag and Sabuncu, "Unsupervised Learning for Fast Probabilistic Diffeomorphic
        Registration", 2018, doi:10.1007/978-3-030-00928-1_82.
    """

    def __init__(
        self,
        interp_method: str = "linear",
        indexing: str = "ij",
        single_transform: bool = False,
        fill_value: float | None = None,
        shift_center: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check("interp_method", interp_method, tuple(_ORDERS))
        _check("indexing", indexing, ("ij", "xy"))
        self.interp_method, self.indexing = interp_method, indexing
        self.single_transform, self.fill_value, self.shift_center = single_transform, fill_value, shift_center

    def call(self, inputs: Any) -> Array:
        """Moved image."""
        vol, trf = inputs
        self.compute_output_shape([tuple(vol.shape), tuple(trf.shape)])
        if self.single_transform:
            batch = keras.ops.shape(vol)[0]
            trf = keras.ops.broadcast_to(trf[:1], (batch, *keras.ops.shape(trf)[1:]))
        if len(trf.shape) == 3 and len(vol.shape) > 3:
            shape = tuple(keras.ops.shape(vol)[1:-1])
            matrix = _swap_matrix(trf) if self.indexing == "xy" else trf
            trf = ops.affine_to_displacement(matrix, shape=shape, centered=self.shift_center)
        elif self.indexing == "xy":
            trf = _swap_components(trf)
        outside: dict[str, Any] = (
            {} if self.fill_value is None else {"boundary": "constant", "fill_value": self.fill_value}
        )
        return ops.warp(vol, trf, order=_ORDERS[self.interp_method], **outside)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Shape of the moved image: that of the image."""
        if len(input_shape) != 2:
            raise ShapeError(f"SpatialTransformer is called with [vol, trf]. Received: {len(input_shape)} inputs.")
        vol, trf = input_shape
        ndim = len(vol) - 2
        dense = len(trf) == ndim + 2 and trf[-1] == ndim
        if not dense and tuple(trf[1:]) != (ndim, ndim + 1):
            raise ShapeError(
                "SpatialTransformer expects shifts (batch, *spatial, ndim) or matrices (batch, ndim, ndim + 1) of the "
                f"image (batch, *spatial, channels). Received: vol.shape={tuple(vol)}, trf.shape={tuple(trf)}."
            )
        return tuple(vol)

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {
            **super().get_config(),
            "interp_method": self.interp_method,
            "indexing": self.indexing,
            "single_transform": self.single_transform,
            "fill_value": self.fill_value,
            "shift_center": self.shift_center,
        }


@keras.saving.register_keras_serializable(package="keramorph")
class VecInt(_VoxelMorphLayer):
    """Layer that returns the displacement of a stationary velocity by scaling and squaring, as VoxelMorph's `VecInt`.

    Called with a velocity `(batch, *spatial, ndim)` in voxels. The first releases of VoxelMorph read zeros outside the
    field, which loses up to two thirds of a constant velocity at the border; this layer, as the later ones, extends the
    edge. New code uses `keramorph.layers.Exponentiate`.

    Args:
        indexing: `"ij"`, or `"xy"` where the first two components are swapped: column first, row second. The output is
            in `"ij"` order either way, as VoxelMorph's was.
        method: `"ss"` or `"scaling_and_squaring"`; the other methods of VoxelMorph are not offered.
        int_steps: Number of squarings.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the velocity does not have one component per spatial axis.

    Example:
        >>> import numpy as np
        >>> displacement = VecInt()(np.full((1, 4, 4, 2), 3.0, dtype="float32"))
        >>> keras.ops.convert_to_numpy(displacement)[0, 0, 0].tolist()
        [3.0, 3.0]

    References:
        Dalca, Balakrishnan, Guttag and Sabuncu, "Unsupervised Learning for Fast Probabilistic Diffeomorphic
        Registration", 2018, doi:10.1007/978-3-030-00928-1_82.
    """

    def __init__(self, indexing: str = "ij", method: str = "ss", int_steps: int = 7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check("indexing", indexing, ("ij", "xy"))
        _check("method", method, ("ss", "scaling_and_squaring"))
        self.indexing, self.method, self.int_steps = indexing, method, int(int_steps)

    def call(self, inputs: Any) -> Array:
        """Integrated displacement."""
        velocity = _only(inputs)
        self.compute_output_shape(tuple(velocity.shape))
        return ops.exponentiate(_swap_components(velocity) if self.indexing == "xy" else velocity, steps=self.int_steps)

    def output_dtype(self, dtype: str) -> str:
        """Data type of the output: float32 or better."""
        return _float32_or_better(dtype)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Shape of the displacement: that of the velocity."""
        shape = _only_shape(input_shape)
        if shape[-1] != len(shape) - 2:
            raise ShapeError(
                "VecInt expects a velocity (batch, *spatial, ndim), one component per spatial axis. Received: "
                f"shape={shape}."
            )
        return shape

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "indexing": self.indexing, "method": self.method, "int_steps": self.int_steps}


@keras.saving.register_keras_serializable(package="keramorph")
class RescaleTransform(_VoxelMorphLayer):
    """Layer that returns a transform on a finer or coarser grid, its values rescaled, as VoxelMorph's of this name.

    Called with shifts `(batch, *spatial, ndim)`, or matrices `(batch, ndim, ndim + 1)`, whose offset alone is scaled.
    The numbers are VoxelMorph's, so that a network trained with it goes on as it was: first and last voxel centres are
    kept in place and the values multiplied by the nominal factor, which stretches the field by one to three percent.
    New code uses `keramorph.layers.ResizeDisplacement`, which keeps the field of view.

    Args:
        zoom_factor: Voxels of the new grid per voxel of the old one; the new sizes are cut to integers.
        interp_method: `"linear"` or `"nearest"`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the input is neither a dense shift nor a matrix.

    Example:
        >>> import numpy as np
        >>> rescaled = RescaleTransform(2)(np.ones((1, 4, 4, 2), dtype="float32"))
        >>> tuple(rescaled.shape), float(rescaled[0, 0, 0, 0])
        ((1, 8, 8, 2), 2.0)
    """

    def __init__(self, zoom_factor: float, interp_method: str = "linear", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check("interp_method", interp_method, tuple(_ORDERS))
        if not zoom_factor > 0:
            raise OptionError(f"RescaleTransform expects a positive factor. Received: zoom_factor={zoom_factor!r}.")
        self.zoom_factor, self.interp_method = zoom_factor, interp_method

    def call(self, inputs: Any) -> Array:
        """Rescaled transform."""
        trf = _only(inputs)
        self.compute_output_shape(tuple(trf.shape))
        trf = keras.ops.cast(trf, _float32_or_better(keras.backend.standardize_dtype(trf.dtype)))
        if _is_matrix(trf.shape):
            return keras.ops.concatenate([trf[..., :-1], trf[..., -1:] * self.zoom_factor], axis=-1)
        lines = [_line(size, self.zoom_factor, trf.dtype) for size in keras.ops.shape(trf)[1:-1]]
        grid = keras.ops.stack(keras.ops.meshgrid(*lines, indexing="ij"), axis=-1)[None]
        grid = keras.ops.broadcast_to(grid, (keras.ops.shape(trf)[0], *keras.ops.shape(grid)[1:]))
        return ops.sample(trf, grid, order=_ORDERS[self.interp_method]) * self.zoom_factor

    def output_dtype(self, dtype: str) -> str:
        """Data type of the output: float32 or better."""
        return _float32_or_better(dtype)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Shape of the rescaled transform."""
        shape = _only_shape(input_shape)
        if _is_matrix(shape):
            return shape
        if shape[-1] != len(shape) - 2:
            raise ShapeError(
                "RescaleTransform expects shifts (batch, *spatial, ndim) or matrices (batch, ndim, ndim + 1). "
                f"Received: shape={shape}."
            )
        sizes = (None if n is None else int(n * self.zoom_factor) for n in shape[1:-1])
        return (shape[0], *sizes, shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "zoom_factor": self.zoom_factor, "interp_method": self.interp_method}


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(
            f"Expected `{name}` to be one of {', '.join(map(repr, allowed))}. Received: {name}={value!r}."
        )


def _only(inputs: Any) -> Array:
    """The one transform; VoxelMorph took it alone or in a list."""
    return inputs[0] if isinstance(inputs, (list, tuple)) else inputs


def _only_shape(shape: Any) -> Shape:
    return tuple(shape[0]) if isinstance(shape[0], (list, tuple)) else tuple(shape)


def _is_matrix(shape: Any) -> bool:
    """Whether a shape is that of matrices, by VoxelMorph's rule: three axes and more than one column."""
    return len(shape) == 3 and shape[2] != 1 and shape[1] is not None and shape[2] == shape[1] + 1


def _float32_or_better(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def _swap_components(field: Array) -> Array:
    return keras.ops.concatenate([field[..., 1:2], field[..., 0:1], field[..., 2:]], axis=-1)


def _swap_matrix(matrix: Array) -> Array:
    """Matrix in row-column order of one in column-row order: its first two rows and columns change places."""
    rows = keras.ops.concatenate([matrix[:, 1:2], matrix[:, 0:1], matrix[:, 2:]], axis=1)
    return _swap_components(rows)


def _line(size: Any, factor: float, dtype: Any) -> Array:
    """Positions `linspace(0, size - 1, int(size * factor))`, also of a size that is known only at run time."""
    dtype = keras.backend.standardize_dtype(dtype)
    if isinstance(size, int):
        return keras.ops.linspace(0.0, size - 1.0, int(size * factor), dtype=dtype)
    count = keras.ops.cast(keras.ops.cast(size, "float32") * factor, "int32")
    step = keras.ops.cast(size - 1, dtype) / keras.ops.cast(keras.ops.maximum(count - 1, 1), dtype)
    return keras.ops.cast(keras.ops.arange(count), dtype) * step
