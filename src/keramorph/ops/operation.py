"""The door of every operation: NumPy arrays and tensors to one engine, KerasTensors to a node of the model."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, TypeVar

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.errors import ArrayTypeError, ShapeError

F = TypeVar("F", bound=Callable[..., Any])


def operation(function: F) -> F:
    """Let a function of arrays (positional) and options (keyword-only) take any engine's arrays and KerasTensors."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]

    @functools.wraps(function)
    def call(*arrays: Any, **options: Any) -> Any:
        arrays += tuple(options.pop(name) for name in names[len(arrays) :] if name in options)
        if any(_is_symbolic(array) for array in arrays):
            from keramorph.ops.symbolic import Operation

            return Operation(function.__name__, options)(*arrays)
        return function(*_settle(arrays), **options)

    return call  # type: ignore[return-value]


def check_field(image: Array, field: Array, *, name: str = "displacement", same_grid: bool = True) -> None:
    """Raise unless `field` has one component per spatial axis of `image`, and where asked the same grid.

    Raises:
        ShapeError: If it does not.
    """
    shape, got = tuple(image.shape), tuple(field.shape)
    ndim = len(shape) - 2
    if ndim < 1:
        raise ShapeError(
            "An image has a batch axis, spatial axes and a channel axis: (batch, *spatial, channels). "
            f"Received: shape {shape}. Add the missing axes with `image[None, ..., None]`."
        )
    if len(got) < 2 or got[-1] != ndim:
        raise ShapeError(
            f"`{name}` must hold {ndim} components, one per spatial axis, in its last axis. Received: {name} of shape "
            f"{got} for an image of shape {shape}. Component d moves along array axis d, in voxels."
        )
    if _differ(shape[:1], got[:1]):
        raise ShapeError(
            f"Image and `{name}` must have the same batch size. Received: {shape[0]} and {got[0]}, shapes {shape} and "
            f"{got}. Repeat the smaller one along axis 0."
        )
    if same_grid and (len(got) != len(shape) or _differ(shape[1:-1], got[1:-1])):
        raise ShapeError(
            f"`{name}` must lie on the image's own grid. Received: {name} of shape {got} for an image of shape "
            f"{shape}. Bring it there with `resize_displacement`."
        )


def to_sizes(shape: Sequence[Any]) -> tuple:
    """Sizes as plain integers, but for those that a framework leaves open until run time."""
    return tuple(int(n) if isinstance(n, Integral) else n for n in shape)


def _differ(a: tuple, b: tuple) -> bool:
    """Whether sizes differ that are known on both sides."""
    return any(isinstance(m, int) and isinstance(n, int) and m != n for m, n in zip(a, b, strict=True))


def _is_symbolic(array: Any) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(array, keras.KerasTensor)


def _settle(arrays: tuple) -> list[Array]:
    """Bring arrays to one engine: keras variables to their values, NumPy arrays to the framework of the others."""
    keras = sys.modules.get("keras")
    if keras is not None:
        arrays = tuple(keras.ops.convert_to_tensor(a) if isinstance(a, keras.Variable) else a for a in arrays)
    engine = backend.of(*arrays)
    if engine.name == "numpy":
        arrays = tuple(np.asarray(array) for array in arrays)
        if any(array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16" for array in arrays):
            raise ArrayTypeError(
                f"Arrays of real numbers were expected. Received: {[a.dtype.name for a in arrays]}. "
                "Convert them with `array.astype`."
            )
        return list(arrays)
    like = next(array for array in arrays if backend.of(array) is engine)
    return [engine.xp.asarray(array, like=like) for array in arrays]
