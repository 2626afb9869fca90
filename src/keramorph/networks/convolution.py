"""Convolutions, poolings and upsamplings for any number of spatial axes, channels last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keramorph._keras import keras
from keramorph.errors import ShapeError
from keramorph.networks.backend_layers import CONVOLUTIONS, POOLINGS, UPSAMPLINGS

_AXES = (1, 2, 3)
"""Numbers of spatial axes for which Keras has convolutions."""

_NEAR_ZERO = 1e-5
"""Standard deviation of the weights that predict a field: small enough that an untrained network moves nothing."""


def check_image_shape(model: str, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """Shape `(*spatial, channels)` as a tuple; raises `ShapeError` where no network can be built for it."""
    shape = tuple(input_shape)
    if len(shape) - 1 not in _AXES or shape[-1] is None:
        raise ShapeError(
            f"{model} expects `input_shape` to be (*spatial, channels), with one to three spatial axes and a known "
            f"number of channels. Received: input_shape={shape}. The batch axis is left out."
        )
    return shape


def make_convolution(ndim: int, filters: int, size: int = 3, **options: Any) -> Any:
    """Convolution in `ndim` dimensions that keeps the size; the options are those of the Keras layer."""
    options = {"padding": "same", "data_format": "channels_last", **options}
    return CONVOLUTIONS[ndim](filters, size, **options)


def convolve(
    features: Any,
    filters: int,
    name: str,
    policy: Any,
    *,
    size: int = 3,
    strides: int = 1,
    modulate: Callable[[Any, str], Any] | None = None,
) -> Any:
    """Features after a convolution and a leaky ReLU of slope 0.2, and what modulates them in between."""
    convolution = make_convolution(
        count_axes(features), filters, size, strides=strides, kernel_initializer="he_normal", dtype=policy, name=name
    )
    features = convolution(features)
    if modulate is not None:
        features = modulate(features, name)
    return keras.layers.LeakyReLU(0.2, dtype=policy, name=f"{name}_relu")(features)


def predict_near_zero(features: Any, filters: int, name: str) -> Any:
    """Convolution of the features in float32, whose weights are near zero before the training."""
    near_zero = keras.initializers.RandomNormal(stddev=_NEAR_ZERO)
    convolution = make_convolution(
        count_axes(features), filters, kernel_initializer=near_zero, dtype="float32", name=name
    )
    return convolution(features)


def predict_field(features: Any, name: str) -> Any:
    """Field of one component per spatial axis, float32 and near zero before the training."""
    return predict_near_zero(features, count_axes(features), name)


def pool(features: Any, name: str, policy: Any) -> Any:
    """Maximum of each 2 voxels along each axis."""
    return POOLINGS[count_axes(features)](2, data_format="channels_last", dtype=policy, name=name)(features)


def standardize(features: Any, name: str, policy: Any) -> Any:
    """Each channel less its mean over the image, divided by its standard deviation there."""
    layer = keras.layers.GroupNormalization(-1, epsilon=1e-5, center=False, scale=False, dtype=policy, name=name)
    return layer(features)


def average(image: Any, factor: int, name: str, policy: Any = "float32") -> Any:
    """Mean of each `factor` voxels along each axis: the coarse image has the field of view of the fine one."""
    kind = getattr(keras.layers, f"AveragePooling{count_axes(image)}D")
    return kind(factor, data_format="channels_last", dtype=policy, name=name)(image)


def grow(features: Any, name: str, policy: Any) -> Any:
    """Features on twice as many voxels along each axis, each one repeated."""
    ndim = count_axes(features)
    return UPSAMPLINGS[ndim](2, **_describe_layout(ndim), dtype=policy, name=name)(features)


def crop(features: Any, margins: Sequence[tuple[int, int]], name: str, policy: Any) -> Any:
    """Features without so many voxels at the two ends of each axis."""
    ndim = count_axes(features)
    cropping: Any = margins[0] if ndim == 1 else tuple(margins)
    layer = getattr(keras.layers, f"Cropping{ndim}D")
    return layer(cropping, **_describe_layout(ndim), dtype=policy, name=name)(features)


def join(tensors: Sequence[Any], name: str, policy: Any) -> Any:
    """Channels of several tensors, one after the other."""
    return keras.layers.Concatenate(dtype=policy, name=name)(list(tensors))


def count_axes(tensor: Any) -> int:
    """Number of spatial axes of `(batch, *spatial, channels)`."""
    return len(tensor.shape) - 2


def _describe_layout(ndim: int) -> dict[str, str]:
    """UpSampling1D and Cropping1D alone have no data format: they are channels last."""
    return {} if ndim == 1 else {"data_format": "channels_last"}
