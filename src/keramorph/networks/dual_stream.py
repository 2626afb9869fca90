"""The dual-stream network: features of both images by one encoder, matched and moved from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from keramorph._keras import keras
from keramorph.errors import OptionError
from keramorph.layers import Compose, ResizeDisplacement, Warp
from keramorph.networks.convolution import (
    check_image_shape,
    convolve,
    grow,
    join,
    pool,
    predict_field,
    standardize,
)
from keramorph.networks.correlation import Correlation
from keramorph.networks.padding import PadToMultiple
from keramorph.networks.registration_network import (
    FIELD,
    RegistrationNetwork,
    check_counts,
    make_images,
    move,
    take_policy,
)
from keramorph.weights import read_weights


@keras.saving.register_keras_serializable(package="keramorph")
class DualStream(RegistrationNetwork):
    """Model that registers two images by matching their features: a dictionary of `moved` and `displacement`.

    Called with `[fixed, moving]` or `{"fixed": ..., "moving": ...}`, both `(batch, *spatial, channels)`, channels last,
    on the same grid. The output is `{"moved": (batch, *spatial, channels), "displacement": (batch, *spatial, ndim)}`;
    the displacement is float32 and in voxels, `moved(x) = moving(x + u(x))`. Any spatial size goes, also one that is
    not known when the model is built. Untrained, the model leaves the image as it is.

    One encoder sees either image by itself; at each level its features are brought to mean 0 and variance 1 over the
    image, whatever its contrast. From the coarsest level to the finest, the features of the moving image are moved by
    the displacement so far, correlated with those of the fixed image at all displacements up to `radius`, and from this
    correlation volume, the features, the displacement so far and what the coarser level has understood, convolutions
    predict a further displacement, which is composed with the one so far. Each level adds motions of
    its own size, so that with L levels matches as far away as about `radius * 2**L` voxels are seen. The layers
    `displacement_1`, `displacement_2` and so on hold the displacements of the coarser levels, in voxels of their grids.

    Args:
        input_shape: Shape `(*spatial, channels)` of either image; a spatial size may be None.
        radius: How far the features are correlated at each level, in voxels of the level.
        encoder: Channels of the encoder, one level each, the first at the finest.
        decoder: Channels of the convolutions that predict, one level each, the first at the bottom.
        finest: Level at which the refinement ends, 0 for full resolution. On the way to level 1, at half of it, the
            images pass a strided convolution, and in the end the displacement is enlarged: in 3-D that takes an eighth
            of the memory.
        **kwargs: `name` and `dtype` of the Keras model; the data type policy is that of all its layers but the heads.

    Raises:
        ShapeError: If the input has not one to three spatial axes and a known number of channels.
        OptionError: If an option cannot take its value.

    Example:
        >>> network = DualStream((40, 50, 1), encoder=(8, 16), decoder=(16, 8))
        >>> network.output["displacement"].shape
        (None, 40, 50, 2)
        >>> network.get_layer("correlation_1").output.shape
        (None, 20, 25, 9)

    References:
        Correlation at each level: Meng, Feng, Bi and Kim, "Correlation-aware Coarse-to-fine MLPs for Deformable Medical
        Image Registration", 2024, doi:10.48550/arXiv.2406.00123. Composition of one displacement per level:
        Wang, Ni and Wang, "Recursive Deformable Pyramid Network for Unsupervised Medical Image Registration", 2024,
        doi:10.1109/TMI.2024.3362968. Matching the features of one encoder: Liu, Chen, Zuo, Carass and Prince, "Vector
        Field Attention for Deformable Image Registration", 2024, doi:10.48550/arXiv.2407.10209.
    """

    def __init__(
        self,
        input_shape: Sequence[int | None],
        *,
        radius: int = 1,
        encoder: Sequence[int] = (16, 32, 32, 32),
        decoder: Sequence[int] = (32, 32, 32, 16),
        finest: int = 0,
        **kwargs: Any,
    ) -> None:
        shape = check_image_shape("DualStream", input_shape)
        _check_design(radius, encoder, decoder, finest)
        policy = take_policy(kwargs)
        fixed, moving = make_images(shape)
        extract = _make_encoder(shape, encoder, finest, policy)
        levels = enumerate(zip(extract(fixed), extract(moving), reversed(list(decoder)), strict=True), start=finest)
        stage = None
        for level, given in reversed(list(levels)):
            stage = _refine(level, given, stage, radius, policy)
        field = stage.displacement  # type: ignore[union-attr]
        if finest:
            field = ResizeDisplacement(scale=2.0**finest, **FIELD, name="full_resolution")(field)
        config = {
            "input_shape": shape,
            "radius": radius,
            "encoder": tuple(encoder),
            "decoder": tuple(decoder),
            "finest": finest,
            "dtype": policy.name,
        }
        super().__init__([fixed, moving], move(fixed, moving, field), config, **kwargs)

    @classmethod
    def from_preset(cls, name: str) -> DualStream:
        """Return the trained network that comes with the package under a name.

        Args:
            name: `"shapes_2d"` or `"shapes_3d"`: trained on random shapes of random contrasts, to be run after an
                affine alignment on images in [0, 1].

        Raises:
            OptionError: If there is none of this name.

        Example:
            >>> DualStream.from_preset("shapes_2d").input_shape[0]
            (None, None, None, 1)
        """
        design, arrays = read_weights(name)
        network = cls(**design)
        for weight in network.weights:
            weight.assign(arrays[weight.path])
        return network


_FINEST = range(4)
"""Levels at which the refinement may end."""


class _Stage(NamedTuple):
    """What one level hands to the finer one."""

    displacement: Any
    features: Any


def _check_design(radius: int, encoder: Sequence[int], decoder: Sequence[int], finest: int) -> None:
    """Raise `OptionError` unless the options make a network."""
    check_counts("DualStream", radius=radius, encoder=encoder, decoder=decoder)
    if len(encoder) != len(decoder) or finest not in _FINEST:
        raise OptionError(
            "DualStream expects as many channels in `decoder` as in `encoder`, and `finest` to be one of "
            f"{tuple(_FINEST)}. Received: encoder={tuple(encoder)}, decoder={tuple(decoder)}, finest={finest}."
        )


def _make_encoder(shape: tuple[int | None, ...], encoder: Sequence[int], finest: int, policy: Any) -> Any:
    """Model from an image to its features at each level, the finest first."""
    image = keras.Input(shape, name="image")
    multiple = 2 ** (finest + len(encoder) - 1)
    features = PadToMultiple(multiple, data_format="channels_last", dtype=policy, name="pad")(image)
    every: list[Any] = []
    for step in range(finest):
        # Four wide: the middle of what a voxel of the coarser level sees is its own.
        features = convolve(features, encoder[0], f"stem_{step}", policy, size=4, strides=2)
    for level, filters in enumerate(encoder, start=finest):
        features = pool(features, f"pool_{level}", policy) if every else features
        for index in range(2):
            features = convolve(features, filters, f"encoder_{level}_{index}", policy)
        features = standardize(features, f"standardized_{level}", policy)
        every.append(features)
    return keras.Model(image, every, name="encoder")


def _refine(level: int, given: tuple[Any, Any, int], coarser: _Stage | None, radius: int, policy: Any) -> _Stage:
    """Displacement and features of a level, from the features of both images and its number of channels."""
    fixed, moving, filters = given
    so_far = None
    if coarser is not None:
        so_far = ResizeDisplacement(scale=2.0, **FIELD, name=f"enlarged_{level}")(coarser.displacement)
        moving = Warp(boundary="nearest", data_format="channels_last", dtype=policy, name=f"moved_{level}")(
            [moving, so_far]
        )
    volume = Correlation(radius, data_format="channels_last", dtype=policy, name=f"correlation_{level}")
    seen = [fixed, moving, volume([fixed, moving])]
    if coarser is not None:
        seen += [so_far, grow(coarser.features, f"grow_{level}", policy)]
    features = join(seen, f"join_{level}", policy)
    for index in range(2):
        features = convolve(features, filters, f"decoder_{level}_{index}", policy)
    if so_far is None:
        return _Stage(predict_field(features, f"displacement_{level}"), features)
    further = predict_field(features, f"head_{level}")
    return _Stage(Compose(**FIELD, name=f"displacement_{level}")([so_far, further]), features)
