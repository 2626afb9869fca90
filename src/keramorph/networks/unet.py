"""The U-Net: an encoder of convolutions and poolings, a decoder of upsamplings with skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph._keras import keras
from keramorph.errors import OptionError, ShapeError
from keramorph.networks.padding import CropToMatch, PadToMultiple

_KINDS = {
    1: ("Conv1D", "MaxPooling1D", "UpSampling1D"),
    2: ("Conv2D", "MaxPooling2D", "UpSampling2D"),
    3: ("Conv3D", "MaxPooling3D", "UpSampling3D"),
}


@keras.saving.register_keras_serializable(package="keramorph")
class UNet(keras.Model):
    """Model that returns features `(batch, *spatial, final[-1])` at the full resolution of an image.

    Each level of the encoder is a convolution and a max pooling by 2; each level of the decoder is a convolution, a
    nearest-neighbour upsampling by 2 and the features of the encoder at that size. The final convolutions run at full
    resolution. All are 3 wide, zero-padded, with a leaky ReLU of slope 0.2. Images are channels last, in 1-D, 2-D or
    3-D, of any size, also one that is not known yet: inside, they are padded to a multiple of 2 to the power of the
    levels, and the features are cropped back.

    Args:
        input_shape: Shape `(*spatial, channels)` of an image; a spatial size may be None.
        encoder: Channels of the convolutions on the way down, one per level.
        decoder: Channels of the convolutions on the way up, as many as in `encoder`; the first is at the bottom.
        final: Channels of the convolutions at full resolution, at least one.
        **kwargs: `name` and `dtype` of the Keras model; the data type policy is that of all its layers.

    Raises:
        ShapeError: If the input has not one to three spatial axes and a known number of channels.
        OptionError: If the channels do not make a U-Net.

    Example:
        >>> network = UNet((48, 50, 2))
        >>> network.output_shape
        (None, 48, 50, 16)

    References:
        Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015,
        doi:10.1007/978-3-319-24574-4_28.
    """

    def __init__(
        self,
        input_shape: Sequence[int | None],
        *,
        encoder: Sequence[int] = (16, 32, 32, 32),
        decoder: Sequence[int] = (32, 32, 32, 32),
        final: Sequence[int] = (32, 16, 16),
        **kwargs: Any,
    ) -> None:
        shape = check_image_shape("UNet", input_shape)
        if not encoder or len(encoder) != len(decoder) or not final:
            raise OptionError(
                "UNet expects as many channels in `decoder` as in `encoder`, at least one, and one or more in `final`. "
                f"Received: encoder={tuple(encoder)}, decoder={tuple(decoder)}, final={tuple(final)}."
            )
        policy = keras.dtype_policies.get(kwargs.pop("dtype", None) or keras.config.dtype_policy())
        image = keras.Input(shape, name="image")
        padded = PadToMultiple(2 ** len(encoder), data_format="channels_last", dtype=policy, name="pad")(image)
        features = _connect(padded, encoder, decoder, final, policy)
        features = CropToMatch(data_format="channels_last", dtype=policy, name="crop")([features, image])
        super().__init__(inputs=image, outputs=features, **kwargs)
        self._config = {
            "input_shape": shape,
            "encoder": tuple(encoder),
            "decoder": tuple(decoder),
            "final": tuple(final),
            "dtype": policy.name,
        }

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the model again."""
        return {**self._config, "name": self.name}


def check_image_shape(model: str, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """Shape `(*spatial, channels)` as a tuple; raises `ShapeError` where no network can be built for it."""
    shape = tuple(input_shape)
    if len(shape) - 1 not in _KINDS or shape[-1] is None:
        raise ShapeError(
            f"{model} expects `input_shape` to be (*spatial, channels), with one to three spatial axes and a known "
            f"number of channels. Received: input_shape={shape}. The batch axis is left out."
        )
    return shape


def make_convolution(ndim: int, filters: int, **options: Any) -> Any:
    """Convolution 3 wide in `ndim` dimensions that keeps the size; the options are those of the Keras layer."""
    kind = getattr(keras.layers, _KINDS[ndim][0])
    return kind(filters, 3, padding="same", data_format="channels_last", **options)


def _connect(features: Any, encoder: Sequence[int], decoder: Sequence[int], final: Sequence[int], policy: Any) -> Any:
    ndim = len(features.shape) - 2
    pool, grow = (getattr(keras.layers, name) for name in _KINDS[ndim][1:])
    skips = []
    for level, filters in enumerate(encoder):
        features = _convolve(features, filters, f"encoder_{level}", policy)
        skips.append(features)
        features = pool(2, data_format="channels_last", dtype=policy, name=f"pool_{level}")(features)
    for level, filters in reversed(list(enumerate(reversed(decoder)))):
        features = _convolve(features, filters, f"decoder_{level}", policy)
        features = grow(2, **_layout(ndim), dtype=policy, name=f"grow_{level}")(features)
        features = keras.layers.Concatenate(dtype=policy, name=f"join_{level}")([features, skips[level]])
    for index, filters in enumerate(final):
        features = _convolve(features, filters, f"final_{index}", policy)
    return features


def _convolve(features: Any, filters: int, name: str, policy: Any) -> Any:
    convolution = make_convolution(
        len(features.shape) - 2, filters, kernel_initializer="he_normal", dtype=policy, name=name
    )
    return keras.layers.LeakyReLU(0.2, dtype=policy, name=f"{name}_relu")(convolution(features))


def _layout(ndim: int) -> dict[str, str]:
    """UpSampling1D alone has no data format: it is channels last."""
    return {} if ndim == 1 else {"data_format": "channels_last"}
