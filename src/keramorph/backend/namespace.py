"""The array namespace of NumPy and JAX, whose modules share names and meaning; the model for the other two.

It holds what the portable primitives, the operations and the solver need, and no more. Names and meaning are NumPy's.
Shapes are tuples of integers, or of scalar tensors where a framework leaves them open until run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from keramorph._typing import Array

_INTEGERS = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
_SAME = (
    "reshape", "transpose", "concatenate", "stack", "broadcast_to", "floor", "clip", "where", "abs", "sqrt",
    "exp", "log", "sin", "cos", "tanh", "arctan2", "maximum", "minimum", "sum", "mean", "max", "min", "cumsum",
    "take", "argmin", "matmul", "einsum", "pad", "round",
)  # fmt: skip


class Namespace:
    """Array functions with NumPy's names over a module that has them, such as `numpy` itself."""

    reshape: Callable  # set in __init__, with the others of _SAME
    transpose: Callable

    def __init__(self, module: Any) -> None:
        self._module = module
        for name in _SAME:
            if not hasattr(type(self), name):
                setattr(self, name, getattr(module, name))
        self.inv = module.linalg.inv

    def asarray(self, x: Any, *, dtype: str | None = None, like: Array | None = None) -> Array:
        """Array of the engine from anything array-like; on the device of `like`."""
        return self._module.asarray(x, dtype=dtype)

    def dtype(self, x: Array) -> str:
        """Name of the data type, such as `"float32"`."""
        return str(x.dtype.name)

    def shape(self, x: Array) -> tuple:
        """Sizes of all axes."""
        return tuple(x.shape)

    def cast(self, x: Array, dtype: str) -> Array:
        """The array in another data type; itself where that is the same."""
        return x if x.dtype.name == dtype else x.astype(dtype)

    def scalar(self, value: Any, dtype: str) -> Any:
        """A size or a constant, ready for arithmetic with arrays of `dtype`."""
        return int(value) if dtype in _INTEGERS else value

    def arange(self, count: Any, *, dtype: str, like: Array | None = None) -> Array:
        """Integers 0 .. count - 1."""
        return self._module.arange(count, dtype=dtype)

    def zeros(self, shape: Sequence[Any], *, dtype: str, like: Array | None = None) -> Array:
        """Array of zeros."""
        return self._module.zeros(shape, dtype=dtype)

    def is_integer(self, dtype: str) -> bool:
        """Whether a data type holds whole numbers or truth values."""
        return dtype in _INTEGERS

    def round_to(self, x: Array, dtype: str) -> Array:
        """Round to the nearest integer and keep inside the range of the data type."""
        if dtype == "bool":
            return x >= 0.5
        limits = self._module.iinfo(dtype)
        # The largest float below the limit: float32 has no 2**31 - 1, and casting 2**31 would wrap round.
        top = math.nextafter(float(limits.max), 0.0) if limits.bits == 64 else float(limits.max)
        rounded = self._module.clip(self._module.round(x), float(limits.min), top)
        return rounded.astype(dtype)

    def index_dtype(self, rows: Any) -> str:
        """Data type for indices into an array of so many rows."""
        return "int64"

    def gather_rows(self, rows: Array, index: Array) -> Array:
        """Rows `(*index.shape, channels)` of `(count, channels)`."""
        return self._module.take(rows, index, axis=0)

    def scatter_add_rows(self, rows: Array, index: Array, values: Array) -> Array:
        """Return rows with values `(*index.shape, channels)` added at the indices, repeated ones summed."""
        raise NotImplementedError

    def scatter_add_axis(self, array: Array, index: Array, axis: int, count: Any) -> Array:
        """Add the slices of one axis up at indices in `[0, count)`: the adjoint of `take`."""
        order = [axis, *(k for k in range(len(self.shape(array))) if k != axis)]
        moved = self.transpose(array, order)
        sizes = self.shape(moved)
        rows = self.zeros((count, math.prod(sizes[1:])), dtype=self.dtype(array), like=array)
        rows = self.scatter_add_rows(rows, index, self.reshape(moved, (sizes[0], math.prod(sizes[1:]))))
        back = [order.index(k) for k in range(len(order))]
        return self.transpose(self.reshape(rows, (count, *sizes[1:])), back)

    def unstack(self, x: Array) -> tuple[Array, ...]:
        """The components along the last axis, as arrays without it: `stack(unstack(x), axis=-1)` is `x`."""
        return tuple(x[..., k] for k in range(x.shape[-1]))

    def flip(self, x: Array, axes: Sequence[int]) -> Array:
        """The array with some axes running the other way, contiguous in memory."""
        return self._module.flip(x, tuple(axes))

    def stop_gradient(self, x: Array) -> Array:
        """The same values, cut off from differentiation."""
        return x

    def compile(self, function: Callable) -> Callable:
        """The function, compiled where the engine gains by it."""
        return function
