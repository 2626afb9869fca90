"""The joint network: an affine map, and then a deformation of what it has moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph._keras import keras
from keramorph.errors import OptionError
from keramorph.layers import Warp
from keramorph.networks.affine_fit import FollowMatrix
from keramorph.networks.affine_network import AffineNetwork
from keramorph.networks.convolution import check_image_shape
from keramorph.networks.registration_network import FIELD, RegistrationNetwork, make_images, predict


@keras.saving.register_keras_serializable(package="keramorph")
class JointNetwork(RegistrationNetwork):
    """Model that registers two images by a matrix and a deformation: a dictionary with both and their composition.

    Called with `[fixed, moving]` or `{"fixed": ..., "moving": ...}`, both `(batch, *spatial, channels)`, channels last,
    on the same grid. One network fits a matrix, the other sees the fixed image and the moving image as the matrix moves
    it, and predicts what is left. The output is `{"moved": ..., "displacement": ..., "matrix": ...}`: the displacement
    `(batch, *spatial, ndim)`, float32 and in voxels, is `A (x + u(x)) + b - x`, with u that of the second network,
    and `moved` is the moving image, resampled once, by all of it. u alone, for a regulariser that leaves the affine
    part free, is an output of the second network: `model.get_layer(deformable.name)`.

    Args:
        input_shape: Shape `(*spatial, channels)` of either image; a spatial size may be None.
        affine: An `AffineNetwork` for images of that shape.
        deformable: Network that returns a `displacement`: a `VoxelMorph` for example.
        **kwargs: `name` of the Keras model; each network has a data type policy of its own.

    Raises:
        ShapeError: If the input has not one to three spatial axes and a known number of channels.
        OptionError: If the networks are not such networks.

    Example:
        >>> from keramorph.networks import AffineNetwork, VoxelMorph
        >>> shape = (32, 40, 1)
        >>> network = JointNetwork(shape, affine=AffineNetwork(shape, kind="rigid"), deformable=VoxelMorph(shape))
        >>> sorted(network.output)
        ['displacement', 'matrix', 'moved']

    References:
        Hoffmann, Hoopes, Greve, Fischl and Dalca, "Anatomy-aware and acquisition-agnostic joint registration with
        SynthMorph", 2024, doi:10.1162/imag_a_00197.
    """

    def __init__(
        self, input_shape: Sequence[int | None], *, affine: AffineNetwork, deformable: keras.Model, **kwargs: Any
    ) -> None:
        shape = check_image_shape("JointNetwork", input_shape)
        # Of another network the matrix may not be all that has moved the image.
        if not isinstance(affine, AffineNetwork):
            raise OptionError(
                f"JointNetwork expects `affine` to be an AffineNetwork. Received: affine={affine!r}. "
                "Take a Cascade for two networks of any kind."
            )
        fixed, moving = make_images(shape)
        first = predict("JointNetwork", affine, fixed, moving)
        second = predict("JointNetwork", deformable, fixed, first["moved"])
        displacement = FollowMatrix(**FIELD, name="displacement")([second["displacement"], first["matrix"]])
        moved = Warp(**FIELD, name="moved")([moving, displacement])
        outputs = {"moved": moved, "displacement": displacement, "matrix": first["matrix"]}
        config = {
            "input_shape": shape,
            "affine": keras.saving.serialize_keras_object(affine),
            "deformable": keras.saving.serialize_keras_object(deformable),
        }
        super().__init__([fixed, moving], outputs, config, **kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> JointNetwork:
        """Model of a configuration, its networks made anew."""
        made = {key: keras.saving.deserialize_keras_object(config[key]) for key in ("affine", "deformable")}
        return cls(**{**config, **made})
