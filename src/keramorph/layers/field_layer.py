"""What the layers that return a displacement share: the checks of a displacement, and its data type."""

from __future__ import annotations

from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.layers.spatial_layer import Shape, SpatialLayer, fits


class FieldLayer(SpatialLayer):
    """A layer from displacements to a displacement; never below float32, whatever comes in."""

    def call(self, inputs: Any) -> Array:
        """Compute in one data type, float32 at least: half floats count in eighths of a voxel from 128 on."""
        tensors = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        dtype = self.infer_dtype(*(keras.backend.standardize_dtype(x.dtype) for x in tensors))
        return super().call([keras.ops.cast(x, dtype) for x in tensors])

    def infer_dtype(self, *dtypes: str) -> str:
        """Data type of the output: float64 if any input is, else float32."""
        return "float64" if "float64" in dtypes else "float32"

    def require_field(self, index: int, *shapes: Shape) -> int:
        """Number of spatial axes of one displacement; raises `ShapeError` unless it has as many components."""
        ndim = self.require_axes(index, *shapes)
        if not fits(shapes[index][-1], ndim):
            self.refuse(f"`{self.takes[index]}` to have one component per spatial axis, here {ndim}", *shapes)
        return ndim
