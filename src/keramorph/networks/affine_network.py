"""The affine network: rigid, similarity or affine maps fitted to points that a shared encoder finds in both images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from keramorph._keras import keras
from keramorph.errors import OptionError
from keramorph.layers import Warp
from keramorph.networks.affine_fit import CentresOfMass, FitMatrix, Kind, SpreadMatrix
from keramorph.networks.convolution import check_image_shape, convolve, count_axes, make_convolution, pool
from keramorph.networks.padding import PadToMultiple
from keramorph.networks.registration_network import FIELD, RegistrationNetwork, check_counts, make_images, take_policy


@keras.saving.register_keras_serializable(package="keramorph")
class AffineNetwork(RegistrationNetwork):
    """Model that registers two images by one matrix: a dictionary of `moved`, `matrix` and `displacement`.

    Called with `[fixed, moving]` or `{"fixed": ..., "moving": ...}`, both `(batch, *spatial, channels)`, channels last,
    on the same grid. The output is `{"moved": (batch, *spatial, channels), "matrix": (batch, ndim + 1, ndim + 1),
    "displacement": (batch, *spatial, ndim)}`: the homogeneous matrix takes a voxel of the fixed image to its place in
    the moving one, both counted from the first voxel along the array's axes, and the displacement is that map on the
    grid; both float32. Any spatial size goes, also one that is not known when the model is built.

    One encoder turns either image into maps that are nowhere negative. Their centres of mass are points that
    correspond, the heavier the more certain, and a weighted least squares fit of all of them is the matrix. So a shift
    of the image shifts the points, before any training, and equal images give the identity. The images should lie in
    front of a background of zeros.

    Args:
        input_shape: Shape `(*spatial, channels)` of either image; a spatial size may be None.
        kind: `"rigid"` (rotation and translation), `"similarity"` (a scale as well) or `"affine"`.
        points: Number of maps, and so of points.
        encoder: Channels of the convolutions, each followed by a pooling by 2.
        spacing: Length of a voxel along each axis, or one for all: with it a map is rigid in millimetres.
        ridge: How firmly the map is held to the identity where the points say little: relative to the square of the
            image's size, what the spread of the points has to exceed.
        **kwargs: `name` and `dtype` of the Keras model; the data type policy is that of the encoder.

    Raises:
        ShapeError: If the input has not one to three spatial axes and a known number of channels.
        OptionError: If an option cannot take its value.

    Example:
        >>> import numpy as np
        >>> network = AffineNetwork((32, 40, 1), kind="rigid", points=8)
        >>> image = np.random.default_rng(0).random((1, 32, 40, 1), dtype="float32")
        >>> matrix = keras.ops.convert_to_numpy(network([image, image])["matrix"])
        >>> bool(np.allclose(matrix, np.eye(3), atol=1e-3))
        True

    References:
        Wang, Yu, Dalca and Sabuncu, "A robust and interpretable deep learning framework for multi-modal registration
        via keypoints", 2023, doi:10.1016/j.media.2023.102962. Weights: Hoffmann, Hoopes, Greve, Fischl and Dalca,
        "Anatomy-aware and acquisition-agnostic joint registration with SynthMorph", 2024, doi:10.1162/imag_a_00197.
    """

    def __init__(
        self,
        input_shape: Sequence[int | None],
        *,
        kind: Kind = "affine",
        points: int = 32,
        encoder: Sequence[int] = (16, 32, 32, 32),
        spacing: float | Sequence[float] = 1.0,
        ridge: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        shape = check_image_shape("AffineNetwork", input_shape)
        if kind not in get_args(Kind):
            raise OptionError(f"AffineNetwork expects `kind` to be one of {get_args(Kind)}. Received: kind={kind!r}.")
        check_counts("AffineNetwork", points=points, encoder=encoder)
        policy = take_policy(kwargs)
        fixed, moving = make_images(shape)
        extract = _make_encoder(shape, encoder, points, policy)
        fit = FitMatrix(kind, spacing=spacing, ridge=ridge, **FIELD, name="matrix")
        locate = CentresOfMass(2 ** len(encoder), **FIELD, name="points")
        matrix = fit([locate([extract(fixed), fixed]), locate([extract(moving), moving]), fixed])
        displacement = SpreadMatrix(**FIELD, name="displacement")([fixed, matrix])
        moved = Warp(**FIELD, name="moved")([moving, displacement])
        config = {
            "input_shape": shape,
            "kind": kind,
            "points": points,
            "encoder": tuple(encoder),
            "spacing": fit.spacing,
            "ridge": ridge,
            "dtype": policy.name,
        }
        outputs = {"moved": moved, "matrix": matrix, "displacement": displacement}
        super().__init__([fixed, moving], outputs, config, **kwargs)


def _make_encoder(shape: tuple[int | None, ...], encoder: Sequence[int], points: int, policy: Any) -> Any:
    """Model from an image to maps that are nowhere negative, on a grid coarser by 2 for each convolution."""
    image = keras.Input(shape, name="image")
    features = PadToMultiple(2 ** len(encoder), data_format="channels_last", dtype=policy, name="pad")(image)
    for level, filters in enumerate(encoder):
        features = convolve(features, filters, f"encoder_{level}", policy)
        features = pool(features, f"pool_{level}", policy)
    detect = make_convolution(
        count_axes(features), points, kernel_initializer="he_normal", activation="relu", dtype=policy, name="maps"
    )
    return keras.Model(image, detect(features), name="encoder")
