"""The conditional atlas: an image that attributes make, registered to the image of who has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import ShapeError
from keramorph.networks.convolution import check_image_shape, convolve, crop, grow, predict_near_zero
from keramorph.networks.registration_network import RegistrationNetwork, check_counts, predict, take_policy
from keramorph.networks.voxelmorph import VoxelMorph


@keras.saving.register_keras_serializable(package="keramorph")
class AddTemplate(keras.layers.Layer):
    """Layer that returns a batch of images plus an image that it learns, which starts as zeros.

    Args:
        **kwargs: `name` and `dtype` of the Keras layer.
    """

    def build(self, input_shape: Any) -> None:
        """Make the image: one weight per voxel."""
        self.template = self.add_weight(shape=tuple(input_shape[1:]), initializer="zeros", name="template")

    def call(self, inputs: Any) -> Array:
        """Images with the learned one added."""
        return inputs + self.template


@keras.saving.register_keras_serializable(package="keramorph")
class ConditionalAtlas(RegistrationNetwork):
    """Model that makes an atlas for attributes and registers it to an image: `moved`, `displacement` and `atlas`.

    Called with `[fixed, attributes]` or `{"fixed": ..., "attributes": ...}`: images `(batch, *spatial, channels)`,
    channels last, and numbers `(batch, attributes)`, the age for example, about 1 in size. The output is
    `{"moved": ..., "displacement": ..., "atlas": ...}`: the atlas `(batch, *spatial, channels)` of the attributes, the
    displacement `(batch, *spatial, ndim)`, float32 and in voxels, and the atlas moved by it onto the fixed image. All
    is trained at once: the moved atlas is to match, the displacement to be small and smooth.

    The atlas is the sum of a learned image, the layer `template`, and of what a decoder makes of the attributes, which
    starts near zero. Training is fast from the mean of the images:
    `model.get_layer("template").set_weights([mean])`. For the atlas alone,
    `keras.Model(model.inputs[1], model.output["atlas"])`.

    Args:
        input_shape: Shape `(*spatial, channels)` of the images; an atlas needs to know all sizes.
        attributes: Number of attributes.
        decoder: Channels of the decoder from the bottom up; each but the first is a convolution at twice the size.
        network: Network that registers the atlas, the moving image, to the fixed one; None is a `VoxelMorph` that
            predicts a velocity.
        **kwargs: `name` and `dtype` of the Keras model; the data type policy is that of the decoder.

    Raises:
        ShapeError: If the input has not one to three spatial axes of known sizes and a known number of channels.
        OptionError: If an option cannot take its value.

    Example:
        >>> network = ConditionalAtlas((20, 24, 1), attributes=2)
        >>> {name: tensor.shape for name, tensor in network.output.items()}["atlas"]
        (None, 20, 24, 1)

    References:
        Dalca, Rakic, Guttag and Sabuncu, "Learning Conditional Deformable Templates with Convolutional Networks", 2019,
        doi:10.48550/arXiv.1908.02738.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        attributes: int,
        decoder: Sequence[int] = (32, 32, 32, 16),
        network: keras.Model | None = None,
        **kwargs: Any,
    ) -> None:
        shape = check_image_shape("ConditionalAtlas", input_shape)
        if None in shape:
            raise ShapeError(
                "ConditionalAtlas expects `input_shape` to have no None: the atlas has a voxel for each weight. "
                f"Received: input_shape={shape}."
            )
        check_counts("ConditionalAtlas", attributes=attributes, decoder=decoder)
        policy = take_policy(kwargs)
        network = VoxelMorph(shape, mode="velocity", dtype=policy, name="network") if network is None else network
        fixed, given = keras.Input(shape, name="fixed"), keras.Input((attributes,), name="attributes")
        features = _decode(given, shape[:-1], decoder, policy)
        # Near zero, as the fields are: the atlas is the template until it learns more.
        change = predict_near_zero(features, int(fixed.shape[-1]), "change")
        atlas = AddTemplate(dtype="float32", name="template")(change)
        found = predict("ConditionalAtlas", network, fixed, atlas)
        outputs = {"moved": found["moved"], "displacement": found["displacement"], "atlas": atlas}
        config = {
            "input_shape": shape,
            "attributes": attributes,
            "decoder": tuple(decoder),
            "network": keras.saving.serialize_keras_object(network),
            "dtype": policy.name,
        }
        super().__init__([fixed, given], outputs, config, **kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ConditionalAtlas:
        """Model of a configuration, its network made anew."""
        return cls(**{**config, "network": keras.saving.deserialize_keras_object(config["network"])})


def _decode(given: Any, sizes: Sequence[Any], decoder: Sequence[int], policy: Any) -> Any:
    """Features at the size of the image, from the attributes."""
    scale = 2 ** (len(decoder) - 1)
    coarse = [math.ceil(size / scale) for size in sizes]
    dense = keras.layers.Dense(math.prod(coarse) * decoder[0], dtype=policy, name="dense")
    features = keras.layers.LeakyReLU(0.2, dtype=policy, name="dense_relu")(dense(given))
    features = keras.layers.Reshape((*coarse, decoder[0]), dtype=policy, name="reshape")(features)
    for index, filters in enumerate(decoder[1:]):
        features = grow(features, f"grow_{index}", policy)
        features = convolve(features, filters, f"decoder_{index}", policy)
    # By numbers, not by the fixed image: the atlas depends on the attributes alone.
    beyond = [scale * small - size for small, size in zip(coarse, sizes, strict=True)]
    return crop(features, [(more // 2, more - more // 2) for more in beyond], "crop", policy)
