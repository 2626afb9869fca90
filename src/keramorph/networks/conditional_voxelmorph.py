"""A VoxelMorph network that is told how smooth its field shall be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph._keras import keras
from keramorph.networks.convolution import check_image_shape, join, predict_field
from keramorph.networks.modulation import Modulate
from keramorph.networks.registration_network import (
    Mode,
    RegistrationNetwork,
    check_mode,
    integrate,
    make_images,
    move,
    take_policy,
)
from keramorph.networks.unet import check_widths, connect, pad

_HIDDEN = (32, 32)
"""Widths of the dense layers that read the smoothness."""


@keras.saving.register_keras_serializable(package="keramorph")
class ConditionalVoxelMorph(RegistrationNetwork):
    """Model that registers two images as smoothly as it is asked to: a dictionary of `moved` and `displacement`.

    Called with `[fixed, moving, smoothness]` or a dictionary of these three: images `(batch, *spatial, channels)`,
    channels last, on the same grid, and for each pair a number `(batch, 1)`. The output is that of `VoxelMorph`:
    `{"moved": (batch, *spatial, channels), "displacement": (batch, *spatial, ndim)}`, the displacement float32 and in
    voxels. Untrained, the model leaves the image as it is.

    In training the smoothness is drawn anew for each pair, from [0, 1] for example, and the loss of the pair is
    `(1 - smoothness) * dissimilarity + smoothness * regulariser`: one model then serves every weight, and the best
    one is found after the training. A small dense network turns the number into a scale and a shift for each channel
    of each convolution of the U-Net; they start at 1 and 0.

    Args:
        input_shape: Shape `(*spatial, channels)` of either image; a spatial size may be None.
        mode: What the network predicts: the `"displacement"` itself, or a stationary `"velocity"`, as in `VoxelMorph`.
        steps: Number of squarings of the integration, in velocity mode.
        encoder: Channels of the U-Net on the way down.
        decoder: Channels of the U-Net on the way up.
        final: Channels of the U-Net at full resolution.
        **kwargs: `name` and `dtype` of the Keras model; the data type policy is that of all its layers but the head.

    Raises:
        ShapeError: If the input has not one to three spatial axes and a known number of channels.
        OptionError: If an option cannot take its value.

    Example:
        >>> import numpy as np
        >>> network = ConditionalVoxelMorph((20, 24, 1))
        >>> fixed, moving = np.random.default_rng(0).random((2, 1, 20, 24, 1), dtype="float32")
        >>> outputs = network({"fixed": fixed, "moving": moving, "smoothness": np.array([[0.3]], "float32")})
        >>> tuple(outputs["displacement"].shape)
        (1, 20, 24, 2)

    References:
        Hoopes, Hoffmann, Greve, Fischl, Guttag and Dalca, "Learning the Effect of Registration Hyperparameters with
        HyperMorph", 2022, doi:10.59275/j.melba.2022-74f1. Perez, Strub, de Vries, Dumoulin and Courville, "FiLM: Visual
        Reasoning with a General Conditioning Layer", 2018, doi:10.1609/aaai.v32i1.11671.
    """

    def __init__(
        self,
        input_shape: Sequence[int | None],
        *,
        mode: Mode = "displacement",
        steps: int = 7,
        encoder: Sequence[int] = (16, 32, 32, 32),
        decoder: Sequence[int] = (32, 32, 32, 32),
        final: Sequence[int] = (32, 16, 16),
        **kwargs: Any,
    ) -> None:
        shape = check_image_shape("ConditionalVoxelMorph", input_shape)
        check_mode("ConditionalVoxelMorph", mode)
        widths = check_widths("ConditionalVoxelMorph", encoder, decoder, final)
        policy = take_policy(kwargs)
        fixed, moving = make_images(shape)
        smoothness = keras.Input((1,), name="smoothness")
        padded = pad(join([fixed, moving], "pair", policy), widths, policy)
        condition = _read(smoothness, policy)

        def modulate(features: Any, name: str) -> Any:
            """Features as the condition scales and shifts them, not at all before the training."""
            dense = keras.layers.Dense(
                2 * features.shape[-1], kernel_initializer="zeros", dtype=policy, name=f"{name}_condition"
            )
            return Modulate(dtype=policy, name=f"{name}_modulated")([features, dense(condition)])

        field = predict_field(connect(padded, widths, policy, modulate), "head")
        outputs = move(fixed, moving, integrate(field, steps) if mode == "velocity" else field)
        config = {"input_shape": shape, "mode": mode, "steps": steps, **widths, "dtype": policy.name}
        super().__init__([fixed, moving, smoothness], outputs, config, **kwargs)


def _read(smoothness: Any, policy: Any) -> Any:
    """What dense layers make of the smoothness, for all convolutions."""
    condition = smoothness
    for index, width in enumerate(_HIDDEN):
        condition = keras.layers.Dense(width, activation="relu", dtype=policy, name=f"condition_{index}")(condition)
    return condition
