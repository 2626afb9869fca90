"""What the layers share: a data format, shapes checked once, and data types that autocasting leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError, ShapeError

Shape = tuple[int | None, ...]

_FORMATS = ("channels_last", "channels_first")


class SpatialLayer(keras.layers.Layer):
    """A layer without weights that moves values in space.

    A subclass names its inputs in `takes`, and those that have no channel axis in `without_channels`. It computes in
    `transform`, and in `infer_shape` infers the shape of the output or raises `ShapeError`; both see channels last.

    Autocasting is off: under `mixed_float16` it would round coordinates to an eighth of a voxel from 128 on.

    Args:
        data_format: `"channels_last"` or `"channels_first"`, for images and displacements alike; by default that of
            `keras.config.image_data_format()` when the layer is made.
        **kwargs: `name` and `dtype` of the Keras layer.
    """

    transform: Callable[..., Array]
    infer_shape: Callable[..., Shape]
    takes: tuple[str, ...] = ()
    without_channels: tuple[str, ...] = ()

    def __init__(self, *, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        self.check_option("data_format", self.data_format, _FORMATS)

    def call(self, inputs: Any) -> Array:
        """Check the shapes and compute, channels last whatever the data format."""
        tensors = self._list(inputs)
        self.infer_shape(*self._shapes_last([tuple(x.shape) for x in tensors]))
        if self.data_format == "channels_last":
            return self.transform(*tensors)
        last = [
            x if name in self.without_channels else keras.ops.moveaxis(x, 1, -1)
            for name, x in zip(self.takes, tensors, strict=True)
        ]
        return keras.ops.moveaxis(self.transform(*last), -1, 1)

    def infer_dtype(self, *dtypes: str) -> str:
        """Data type of the output: that of the first input, unless a subclass knows better."""
        return dtypes[0]

    def compute_output_shape(self, input_shape: Any) -> Shape:
        """Shape of the output, None where it is not known yet."""
        shapes = [input_shape] if len(self.takes) == 1 else list(input_shape)
        shape = self.infer_shape(*self._shapes_last([tuple(s) for s in self._count(shapes)]))
        return self._as_received("", shape)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Symbolic output; the data type follows the inputs, which the layer's own policy does not touch."""
        tensors = self._list(inputs)
        shapes = [tuple(x.shape) for x in tensors]
        shape = self.compute_output_shape(shapes[0] if len(shapes) == 1 else shapes)
        dtypes = [keras.backend.standardize_dtype(x.dtype) for x in tensors]
        return keras.KerasTensor(shape, dtype=self.infer_dtype(*dtypes))

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "data_format": self.data_format}

    def check_option(self, name: str, value: Any, allowed: Sequence[Any]) -> None:
        """Raise `OptionError` unless the value is one of those allowed."""
        if value not in allowed:
            raise OptionError(
                f"{type(self).__name__} expects `{name}` to be one of {', '.join(map(repr, allowed))}. "
                f"Received: {name}={value!r}."
            )

    def refuse(self, expected: str, *shapes: Shape, remedy: str = "") -> None:
        """Raise `ShapeError` saying what was expected and which shapes came, written in the layer's data format."""
        received = ", ".join(
            f"{name}.shape={self._as_received(name, shape)}" for name, shape in zip(self.takes, shapes, strict=True)
        )
        message = f"{type(self).__name__} expects {expected}. Received: {received}, data_format={self.data_format!r}."
        raise ShapeError(f"{message} {remedy}".rstrip())

    def require_axes(self, index: int, *shapes: Shape) -> int:
        """Number of spatial axes of one input; raises `ShapeError` where there are none."""
        ndim = len(shapes[index]) - 2
        if ndim < 1:
            expected = f"`{self.takes[index]}` to have a batch axis, a channel axis and at least one spatial axis"
            self.refuse(expected, *shapes, remedy="Add the axes that are missing.")
        return ndim

    def _list(self, inputs: Any) -> list[Any]:
        several = isinstance(inputs, (list, tuple))
        return self._count(list(inputs) if several else [inputs])

    def _count(self, items: list[Any]) -> list[Any]:
        if len(items) != len(self.takes):
            raise ShapeError(
                f"{type(self).__name__} is called with {_phrase(self.takes)}. Received: {len(items)} inputs."
            )
        return items

    def _shapes_last(self, shapes: list[Shape]) -> list[Shape]:
        if self.data_format == "channels_last":
            return shapes
        return [
            shape if name in self.without_channels or len(shape) < 3 else (shape[0], *shape[2:], shape[1])
            for name, shape in zip(self.takes, shapes, strict=True)
        ]

    def _as_received(self, name: str, shape: Shape) -> Shape:
        if self.data_format == "channels_last" or name in self.without_channels or len(shape) < 3:
            return tuple(shape)
        return (shape[0], shape[-1], *shape[1:-1])


def fits(*sizes: int | None) -> bool:
    """Whether sizes can be equal: those known are, the others may turn out to be."""
    return len({size for size in sizes if size is not None}) < 2


def merge(first: Shape, second: Shape) -> Shape:
    """Sizes of two shapes that fit, each taken from the one that knows it."""
    return tuple(b if a is None else a for a, b in zip(first, second, strict=True))


def _phrase(names: tuple[str, ...]) -> str:
    return f"[{', '.join(names)}]" if len(names) > 1 else f"one tensor, `{names[0]}`"
