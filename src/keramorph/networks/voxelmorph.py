"""The VoxelMorph network: two images in, the displacement between them and the moved image out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph._keras import keras
from keramorph.networks.convolution import check_image_shape, join, predict_field
from keramorph.networks.registration_network import (
    Mode,
    RegistrationNetwork,
    check_mode,
    integrate,
    make_images,
    move,
    take_policy,
)
from keramorph.networks.unet import UNet, check_widths, pad


@keras.saving.register_keras_serializable(package="keramorph")
class VoxelMorph(RegistrationNetwork):
    """Model that registers two images: a dictionary of the image `moved` and the `displacement` that moves it.

    Called with `[fixed, moving]` or `{"fixed": ..., "moving": ...}`, both `(batch, *spatial, channels)`, channels last,
    on the same grid. The output is `{"moved": (batch, *spatial, channels), "displacement": (batch, *spatial, ndim)}`;
    the displacement is float32 and in voxels, `moved(x) = moving(x + u(x))`. Any spatial size goes, also one that is
    not known when the model is built. At the published widths and one channel the model has 109,170 weights in 2-D and
    327,331 in 3-D. The head that predicts the field is float32 under any data type policy, and starts near zero: an
    untrained model leaves the image as it is.

    Args:
        input_shape: Shape `(*spatial, channels)` of either image; a spatial size may be None.
        mode: What the network predicts: the `"displacement"` itself, or a stationary `"velocity"`, brought to half
            the resolution, integrated, and brought back, so that the map is smooth and can be inverted. The layer
            named `velocity` then holds it: `keras.Model(model.inputs, model.get_layer("velocity").output)`.
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
        >>> network = VoxelMorph((20, 24, 1))
        >>> network.count_params()
        109170
        >>> pair = np.random.default_rng(0).random((2, 1, 20, 24, 1), dtype="float32")
        >>> outputs = network([pair[0], pair[1]])
        >>> tuple(outputs["moved"].shape), tuple(outputs["displacement"].shape)
        ((1, 20, 24, 1), (1, 20, 24, 2))

    References:
        Balakrishnan, Zhao, Sabuncu, Guttag and Dalca, "VoxelMorph: A Learning Framework for Deformable Medical Image
        Registration", 2019, doi:10.1109/TMI.2019.2897538. Velocity mode: Dalca, Balakrishnan, Guttag and Sabuncu,
        "Unsupervised Learning of Probabilistic Diffeomorphic Registration for Images and Surfaces", 2019,
        doi:10.1016/j.media.2019.07.006.
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
        shape = check_image_shape("VoxelMorph", input_shape)
        check_mode("VoxelMorph", mode)
        widths = check_widths("VoxelMorph", encoder, decoder, final)
        policy = take_policy(kwargs)
        fixed, moving = make_images(shape)
        # The poolings and the half resolution of the velocity divide the padded sizes.
        padded = pad(join([fixed, moving], "pair", policy), widths, policy)
        field = predict_field(UNet(padded.shape[1:], **widths, dtype=policy, name="unet")(padded), "head")
        outputs = move(fixed, moving, integrate(field, steps) if mode == "velocity" else field)
        config = {"input_shape": shape, "mode": mode, "steps": steps, **widths, "dtype": policy.name}
        super().__init__([fixed, moving], outputs, config, **kwargs)
