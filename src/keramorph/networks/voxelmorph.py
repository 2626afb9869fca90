"""The VoxelMorph network: two images in, the displacement between them and the moved image out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from keramorph._keras import keras
from keramorph.errors import OptionError
from keramorph.layers import Exponentiate, ResizeDisplacement, Warp
from keramorph.networks.padding import CropToMatch, PadToMultiple
from keramorph.networks.unet import UNet, check_image_shape, make_convolution

Mode = Literal["displacement", "velocity"]


@keras.saving.register_keras_serializable(package="keramorph")
class VoxelMorph(keras.Model):
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
        if mode not in get_args(Mode):
            raise OptionError(f"VoxelMorph expects `mode` to be one of {get_args(Mode)}. Received: mode={mode!r}.")
        policy = keras.dtype_policies.get(kwargs.pop("dtype", None) or keras.config.dtype_policy())
        widths = {"encoder": tuple(encoder), "decoder": tuple(decoder), "final": tuple(final)}
        fixed, moving = keras.Input(shape, name="fixed"), keras.Input(shape, name="moving")
        field = _predict(fixed, moving, widths, policy)
        if mode == "velocity":
            field = _integrate(field, steps)
        displacement = CropToMatch(data_format="channels_last", dtype="float32", name="displacement")([field, fixed])
        moved = Warp(data_format="channels_last", dtype="float32", name="moved")([moving, displacement])
        super().__init__(inputs=[fixed, moving], outputs={"moved": moved, "displacement": displacement}, **kwargs)
        self._config = {"input_shape": shape, "mode": mode, "steps": steps, **widths, "dtype": policy.name}

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the model again."""
        return {**self._config, "name": self.name}


def _predict(fixed: Any, moving: Any, widths: dict[str, tuple[int, ...]], policy: Any) -> Any:
    """Field on the padded grid, whose sizes all poolings and the half resolution divide."""
    pair = keras.layers.Concatenate(dtype=policy, name="pair")([fixed, moving])
    padded = PadToMultiple(2 ** len(widths["encoder"]), data_format="channels_last", dtype=policy, name="pad")(pair)
    features = UNet(padded.shape[1:], **widths, dtype=policy, name="unet")(padded)
    ndim = len(fixed.shape) - 2
    near_zero = keras.initializers.RandomNormal(stddev=1e-5)
    return make_convolution(ndim, ndim, kernel_initializer=near_zero, dtype="float32", name="head")(features)


def _integrate(field: Any, steps: int) -> Any:
    options: dict[str, Any] = {"data_format": "channels_last", "dtype": "float32"}
    velocity = ResizeDisplacement(scale=0.5, **options, name="velocity")(field)
    displacement = Exponentiate(steps=steps, **options, name="integrated")(velocity)
    return ResizeDisplacement(scale=2.0, **options, name="full_resolution")(displacement)
