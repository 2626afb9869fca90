"""The LapIRN network: a pyramid of images, registered from coarse to fine by one small network per level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from keramorph._keras import keras
from keramorph.layers import Exponentiate, ResizeDisplacement, Warp
from keramorph.networks.convolution import (
    average,
    check_image_shape,
    convolve,
    count_axes,
    grow,
    join,
    make_convolution,
    predict_field,
)
from keramorph.networks.padding import PadToMultiple
from keramorph.networks.registration_network import (
    FIELD,
    Mode,
    RegistrationNetwork,
    check_counts,
    check_mode,
    make_images,
    move,
    take_policy,
)


@keras.saving.register_keras_serializable(package="keramorph")
class LapIRN(RegistrationNetwork):
    """Model that registers two images from coarse to fine: a dictionary of `moved` and `displacement`.

    Called with `[fixed, moving]` or `{"fixed": ..., "moving": ...}`, both `(batch, *spatial, channels)`, channels last,
    on the same grid. The output is `{"moved": (batch, *spatial, channels), "displacement": (batch, *spatial, ndim)}`;
    the displacement is float32 and in voxels, `moved(x) = moving(x + u(x))`. Any spatial size goes, also one that is
    not known when the model is built. Untrained, the model leaves the image as it is.

    Level 0 is the image, padded so that all halvings divide it, and each further level has half of the voxels along
    each axis. A level sees the fixed image, the moving image as the coarser level moves it, and the enlarged field of
    that level, to which it adds what is still missing. For losses at all levels, the layers `displacement_1`,
    `displacement_2` and so on hold the displacements of the levels in voxels of their own grids (in velocity mode
    integrated, with the velocity in `velocity_1` and so on), the layers `fixed_1` and `moving_1` the images there.

    Two things are simpler than in the paper: upsampling repeats voxels instead of learning weights, and no softsign
    bounds the fields.

    Args:
        input_shape: Shape `(*spatial, channels)` of either image; a spatial size may be None.
        mode: What each level predicts: its `"displacement"`, or a stationary `"velocity"`, so that maps are smooth and
            can be inverted.
        steps: Number of squarings of the integration, in velocity mode.
        levels: Number of levels.
        filters: Channels of all convolutions.
        blocks: Residual blocks of each level, at half its resolution.
        **kwargs: `name` and `dtype` of the Keras model; the data type policy is that of all its layers but the heads.

    Raises:
        ShapeError: If the input has not one to three spatial axes and a known number of channels.
        OptionError: If an option cannot take its value.

    Example:
        >>> network = LapIRN((40, 50, 1), filters=8, blocks=1)
        >>> network.output["displacement"].shape
        (None, 40, 50, 2)
        >>> fields = [network.get_layer(f"displacement_{level}").output for level in (1, 2)]
        >>> [field.shape for field in fields]
        [(None, 20, 28, 2), (None, 10, 14, 2)]
        >>> with_all_levels = keras.Model(network.inputs, [network.output, *fields])

    References:
        Mok and Chung, "Large Deformation Diffeomorphic Image Registration with Laplacian Pyramid Networks", 2020,
        doi:10.1007/978-3-030-59716-0_21.
    """

    def __init__(
        self,
        input_shape: Sequence[int | None],
        *,
        mode: Mode = "displacement",
        steps: int = 7,
        levels: int = 3,
        filters: int = 28,
        blocks: int = 5,
        **kwargs: Any,
    ) -> None:
        shape = check_image_shape("LapIRN", input_shape)
        check_mode("LapIRN", mode)
        check_counts("LapIRN", levels=levels, filters=filters, blocks=blocks)
        policy = take_policy(kwargs)
        fixed, moving = make_images(shape)
        fixed_images, moving_images = _make_pyramid(fixed, levels), _make_pyramid(moving, levels)
        design = _Design(mode, steps, filters, blocks, policy)
        stage = None
        for level in reversed(range(levels)):
            stage = _register(level, fixed_images[level], moving_images[level], stage, design)
        outputs = move(fixed, moving, stage.displacement)  # type: ignore[union-attr]
        config = {
            "input_shape": shape,
            "mode": mode,
            "steps": steps,
            "levels": levels,
            "filters": filters,
            "blocks": blocks,
            "dtype": policy.name,
        }
        super().__init__([fixed, moving], outputs, config, **kwargs)


class _Design(NamedTuple):
    """What the networks of all levels share."""

    mode: Mode
    steps: int
    filters: int
    blocks: int
    policy: Any


class _Stage(NamedTuple):
    """What one level hands to the finer one."""

    field: Any
    displacement: Any
    features: Any


def _make_pyramid(image: Any, levels: int) -> list[Any]:
    """Image of each level, the finest first; the network of a level halves its image once more."""
    images = [PadToMultiple(2**levels, **FIELD, name=f"{image.name}_0")(image)]
    for level in range(1, levels):
        images.append(average(images[-1], 2, f"{image.name}_{level}"))
    return images


def _register(level: int, fixed: Any, moving: Any, coarser: _Stage | None, design: _Design) -> _Stage:
    """Field, displacement and features of a level."""
    mode, policy = design.mode, design.policy
    field, seen = None, [fixed, moving]
    if coarser is not None:
        displacement = ResizeDisplacement(scale=2.0, **FIELD, name=f"enlarged_{level}")(coarser.displacement)
        moved = Warp(**FIELD, name=f"moved_{level}")([moving, displacement])
        field = displacement
        if mode == "velocity":
            field = ResizeDisplacement(scale=2.0, **FIELD, name=f"enlarged_velocity_{level}")(coarser.field)
        seen = [fixed, moved, field]
    encoded, features = _extract(join(seen, f"seen_{level}", policy), level, coarser, design)
    features = grow(features, f"grow_{level}", policy)
    decoded = convolve(join([features, encoded], f"join_{level}", policy), design.filters, f"decoder_{level}", policy)
    if field is None:
        field = predict_field(decoded, f"{mode}_{level}")
    else:
        missing = predict_field(decoded, f"head_{level}")
        field = keras.layers.Add(dtype="float32", name=f"{mode}_{level}")([field, missing])
    displacement = field
    if mode == "velocity":
        displacement = Exponentiate(steps=design.steps, **FIELD, name=f"displacement_{level}")(field)
    return _Stage(field, displacement, features)


def _extract(seen: Any, level: int, coarser: _Stage | None, design: _Design) -> tuple[Any, Any]:
    """Features at the resolution of the level, and those of the residual blocks at half of it."""
    filters, policy = design.filters, design.policy
    encoded = convolve(seen, filters, f"encoder_{level}_0", policy)
    encoded = convolve(encoded, filters, f"encoder_{level}_1", policy)
    features = convolve(encoded, filters, f"halve_{level}", policy, strides=2)
    if coarser is not None:
        features = keras.layers.Add(dtype=policy, name=f"carry_{level}")([features, coarser.features])
    for block in range(design.blocks):
        features = _add_residual(features, f"block_{level}_{block}", policy)
    return encoded, features


def _add_residual(features: Any, name: str, policy: Any) -> Any:
    """Features plus what two convolutions make of them, each after its leaky ReLU."""
    residual, filters = features, features.shape[-1]
    for index in range(2):
        residual = keras.layers.LeakyReLU(0.2, dtype=policy, name=f"{name}_relu_{index}")(residual)
        residual = make_convolution(
            count_axes(residual), filters, kernel_initializer="he_normal", dtype=policy, name=f"{name}_{index}"
        )(residual)
    return keras.layers.Add(dtype=policy, name=f"{name}_sum")([features, residual])
