"""Keras' convolutions, poolings and upsamplings, without the copies that it makes of channels-last tensors on PyTorch.

PyTorch computes on channels-last memory as it lies, of which an array with the channels in front is a view. Keras
copies each tensor into channels-first memory instead, back for a convolution, and repeats voxels axis by axis. On the
other backends these are Keras' layers, and everywhere they have their numbers, names and weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keramorph._keras import keras

Run = Callable[[Any, Any, Any], Any]
"""From PyTorch, a layer and a tensor with the channels in front, to another such tensor."""


def _convolve(torch: Any, layer: Any, tensor: Any) -> Any:
    kernel = torch.movedim(layer.kernel, (-1, -2), (0, 1))
    if kernel.ndim > 3:
        kernel = kernel.contiguous(memory_format=_order(torch, kernel.ndim))
    convolution = getattr(torch.nn.functional, f"conv{layer.rank}d")
    margins = tuple(size // 2 for size in layer.kernel_size)
    return convolution(tensor, kernel, layer.bias, stride=layer.strides, padding=margins)


def _keeps_size(layer: Any) -> bool:
    """Whether a convolution is one of those whose frame is the same at both ends."""
    odd = all(size % 2 for size in layer.kernel_size) and set(layer.strides) == set(layer.dilation_rate) == {1}
    return odd and layer.padding == "same" and layer.groups == 1 and _is_linear(layer)


def _is_linear(layer: Any) -> bool:
    return layer.activation is keras.activations.linear


def _pool(torch: Any, layer: Any, tensor: Any) -> Any:
    return getattr(torch.nn.functional, f"max_pool{tensor.ndim - 2}d")(tensor, layer.pool_size, layer.strides)


def _grow(torch: Any, layer: Any, tensor: Any) -> Any:
    size = layer.size if isinstance(layer.size, tuple) else (layer.size,)
    return torch.nn.functional.interpolate(tensor, scale_factor=tuple(map(float, size)), mode="nearest")


def _order(torch: Any, axes: int) -> Any:
    return torch.channels_last if axes == 4 else torch.channels_last_3d


def _derive(kind: str, run: Run, fits: Callable[[Any], bool]) -> dict[int, type]:
    """Subclasses of a Keras layer by their number of spatial axes, which `run` computes on PyTorch where it fits."""
    found = {}
    for ndim in (1, 2, 3):
        base = getattr(keras.layers, f"{kind}{ndim}D")
        names = {"call": _make_call(base, run, fits), "__doc__": base.__doc__, "__module__": __name__}
        found[ndim] = keras.saving.register_keras_serializable("keramorph")(type(base.__name__, (base,), names))
    return found


def _make_call(base: Any, run: Run, fits: Callable[[Any], bool]) -> Any:
    def call(self: Any, inputs: Any) -> Any:
        last = getattr(self, "data_format", "channels_last") == "channels_last"
        if keras.backend.backend() != "torch" or not last or not fits(self):
            return base.call(self, inputs)
        import torch

        return torch.movedim(run(torch, self, torch.movedim(inputs, -1, 1)), 1, -1)

    return call


CONVOLUTIONS = _derive("Conv", _convolve, _keeps_size)
POOLINGS = _derive("MaxPooling", _pool, lambda layer: layer.padding == "valid")
UPSAMPLINGS = _derive("UpSampling", _grow, lambda layer: getattr(layer, "interpolation", "nearest") == "nearest")
