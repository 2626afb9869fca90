"""The U-Net: an encoder of convolutions and poolings, a decoder of upsamplings with skip connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keramorph._keras import keras
from keramorph.errors import OptionError
from keramorph.networks.convolution import check_image_shape, convolve, grow, join, pool
from keramorph.networks.padding import CropToMatch, PadToMultiple
from keramorph.networks.registration_network import take_policy

Widths = dict[str, tuple[int, ...]]
"""Channels of the convolutions: `encoder`, `decoder` and `final`."""


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
        widths = check_widths("UNet", encoder, decoder, final)
        policy = take_policy(kwargs)
        image = keras.Input(shape, name="image")
        features = connect(pad(image, widths, policy), widths, policy)
        features = CropToMatch(data_format="channels_last", dtype=policy, name="crop")([features, image])
        super().__init__(inputs=image, outputs=features, **kwargs)
        self._config = {"input_shape": shape, **widths, "dtype": policy.name}

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the model again."""
        return {**self._config, "name": self.name}


def check_widths(model: str, encoder: Sequence[int], decoder: Sequence[int], final: Sequence[int]) -> Widths:
    """Channels by name; raises `OptionError` where they do not make a U-Net."""
    if not encoder or len(encoder) != len(decoder) or not final:
        raise OptionError(
            f"{model} expects as many channels in `decoder` as in `encoder`, at least one, and one or more in `final`. "
            f"Received: encoder={tuple(encoder)}, decoder={tuple(decoder)}, final={tuple(final)}."
        )
    return {"encoder": tuple(encoder), "decoder": tuple(decoder), "final": tuple(final)}


def pad(image: Any, widths: Widths, policy: Any) -> Any:
    """An image with zeros around it, whose sizes the poolings of a U-Net divide."""
    return PadToMultiple(2 ** len(widths["encoder"]), data_format="channels_last", dtype=policy, name="pad")(image)


def connect(features: Any, widths: Widths, policy: Any, modulate: Callable[[Any, str], Any] | None = None) -> Any:
    """Features that a U-Net makes of others, whose sizes its poolings divide.

    `modulate`, where it is given, changes the features of each convolution before the leaky ReLU; it is called with
    them and with the name of the convolution.
    """
    skips = []
    for level, filters in enumerate(widths["encoder"]):
        features = convolve(features, filters, f"encoder_{level}", policy, modulate=modulate)
        skips.append(features)
        features = pool(features, f"pool_{level}", policy)
    for level, filters in reversed(list(enumerate(reversed(widths["decoder"])))):
        features = convolve(features, filters, f"decoder_{level}", policy, modulate=modulate)
        features = grow(features, f"grow_{level}", policy)
        features = join([features, skips[level]], f"join_{level}", policy)
    for index, filters in enumerate(widths["final"]):
        features = convolve(features, filters, f"final_{index}", policy, modulate=modulate)
    return features
