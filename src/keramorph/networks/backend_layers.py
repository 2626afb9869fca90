"""Keras' convolutions, poolings and upsamplings, computed as each backend does it fastest; their numbers are the same.

PyTorch computes on channels-last memory as it lies, of which an array with the channels in front is a view. Keras
copies each tensor into channels-first memory instead, back for a convolution, and repeats voxels axis by axis.

JAX's compiler for CPUs has a slow 3-D convolution and a good 2-D one: a volume is convolved plane by plane, as a batch.

Names and weights are those of Keras' layers, which everything else is left to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keramorph._keras import keras

Run = Callable[[Any, Any], Any]
"""From a layer and a tensor, channels last, to what the layer makes of it."""

ops = keras.ops


def _with_channels_in_front(run: Callable[[Any, Any, Any], Any]) -> Run:
    """What PyTorch computes of a view with the channels in front, and a view of that with the channels last."""

    def call(layer: Any, tensor: Any) -> Any:
        import torch

        return torch.movedim(run(torch, layer, torch.movedim(tensor, -1, 1)), 1, -1)

    return call


@_with_channels_in_front
def _convolve_in_place(torch: Any, layer: Any, tensor: Any) -> Any:
    kernel = torch.movedim(layer.kernel, (-1, -2), (0, 1))
    if kernel.ndim > 3:
        order = torch.channels_last if kernel.ndim == 4 else torch.channels_last_3d
        kernel = kernel.contiguous(memory_format=order)
    convolution = getattr(torch.nn.functional, f"conv{layer.rank}d")
    return convolution(tensor, kernel, layer.bias, padding=tuple(size // 2 for size in layer.kernel_size))


@_with_channels_in_front
def _pool_in_place(torch: Any, layer: Any, tensor: Any) -> Any:
    return getattr(torch.nn.functional, f"max_pool{tensor.ndim - 2}d")(tensor, layer.pool_size, layer.strides)


@_with_channels_in_front
def _grow_in_place(torch: Any, layer: Any, tensor: Any) -> Any:
    size = layer.size if isinstance(layer.size, tuple) else (layer.size,)
    return torch.nn.functional.interpolate(tensor, scale_factor=tuple(map(float, size)), mode="nearest")


def _convolve_by_planes(layer: Any, tensor: Any) -> Any:
    import jax

    def by_planes(tensor: Any, kernel: Any) -> Any:
        depth, margin, shape = tensor.shape[1], len(kernel) // 2, tensor.shape
        framed = ops.pad(tensor, [[0, 0], [margin, margin], [0, 0], [0, 0], [0, 0]])
        parts = [
            ops.conv(ops.reshape(framed[:, k : k + depth], (-1, *shape[2:])), kernel[k], 1, "same", "channels_last")
            for k in range(len(kernel))
        ]
        return ops.reshape(sum(parts[1:], parts[0]), (*shape[:-1], kernel.shape[-1]))

    def at_once(tensor: Any, kernel: Any) -> Any:
        return ops.conv(tensor, kernel, 1, "same", "channels_last")

    kernel = ops.convert_to_tensor(layer.kernel)
    found = jax.lax.platform_dependent(ops.convert_to_tensor(tensor), kernel, cpu=by_planes, default=at_once)
    return found if layer.bias is None else found + layer.bias


def _keeps_size(layer: Any) -> bool:
    """Whether a convolution is one of those whose frame is the same at both ends, and nothing follows."""
    odd = all(size % 2 for size in layer.kernel_size) and set(layer.strides) == set(layer.dilation_rate) == {1}
    plain = layer.groups == 1 and layer.activation is keras.activations.linear
    return odd and plain and layer.padding == "same"


def _derive(kind: str, ndim: int, runs: dict[str, Run], fits: Callable[[Any], bool]) -> type:
    """Subclass of a Keras layer that is computed otherwise on some backends, where it fits."""
    base = getattr(keras.layers, f"{kind}{ndim}D")

    def call(self: Any, inputs: Any) -> Any:
        run = runs.get(keras.backend.backend())
        if run is None or getattr(self, "data_format", "channels_last") != "channels_last" or not fits(self):
            return base.call(self, inputs)
        return run(self, inputs)

    names = {"call": call, "__doc__": base.__doc__, "__module__": __name__}
    return keras.saving.register_keras_serializable("keramorph")(type(base.__name__, (base,), names))


CONVOLUTIONS = {
    ndim: _derive(
        "Conv",
        ndim,
        {"torch": _convolve_in_place, **({"jax": _convolve_by_planes} if ndim == 3 else {})},
        _keeps_size,
    )
    for ndim in (1, 2, 3)
}
POOLINGS = {
    ndim: _derive("MaxPooling", ndim, {"torch": _pool_in_place}, lambda layer: layer.padding == "valid")
    for ndim in (1, 2, 3)
}
UPSAMPLINGS = {
    ndim: _derive(
        "UpSampling",
        ndim,
        {"torch": _grow_in_place},
        lambda layer: getattr(layer, "interpolation", "nearest") == "nearest",
    )
    for ndim in (1, 2, 3)
}
