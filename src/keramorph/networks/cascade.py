"""The cascade: networks one after the other, each of which sees what the ones before have left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph._keras import keras
from keramorph.errors import OptionError
from keramorph.layers import Compose, ResizeDisplacement, Warp
from keramorph.networks.convolution import average, check_image_shape
from keramorph.networks.padding import CropToMatch, PadToMultiple
from keramorph.networks.registration_network import FIELD, RegistrationNetwork, check_counts, make_images, predict


@keras.saving.register_keras_serializable(package="keramorph")
class Cascade(RegistrationNetwork):
    """Model that registers two images by several networks in a row: a dictionary of `moved` and `displacement`.

    Called with `[fixed, moving]` or `{"fixed": ..., "moving": ...}`, both `(batch, *spatial, channels)`, channels last,
    on the same grid. Each network sees the fixed image and the moving image as those before it have moved it, and
    their displacements are composed. The output is `{"moved": (batch, *spatial, channels), "displacement":
    (batch, *spatial, ndim)}`, the displacement float32 and in voxels; the moving image is resampled once for each
    network, never the resampled one again. The layer `displacement_1` holds what the first two networks have come to,
    `displacement_0` the first alone.

    Args:
        input_shape: Shape `(*spatial, channels)` of either image; a spatial size may be None.
        networks: Networks that return a `displacement`. The same one may come several times, with the same weights.
        factors: How many voxels along each axis become one for each of the networks, which then registers the coarse
            images; `(2, 1)` looks at half the resolution first. None is full resolution for all.
        **kwargs: `name` of the Keras model; each network has a data type policy of its own.

    Raises:
        ShapeError: If the input has not one to three spatial axes and a known number of channels.
        OptionError: If the networks are not such networks, or the factors are not one positive number for each.

    Example:
        >>> from keramorph.networks import VoxelMorph
        >>> network = VoxelMorph((None, None, 1))
        >>> twice = Cascade((40, 48, 1), networks=[network, network], factors=(2, 1))
        >>> twice.count_params() == network.count_params()
        True

    References:
        Tian, Greer, Vialard, Kwitt, San José Estépar, Rushmore, Makris, Bouix and Niethammer, "GradICON: Approximate
        Diffeomorphisms via Gradient Inverse Consistency", 2023, doi:10.48550/arXiv.2206.05897.
    """

    def __init__(
        self,
        input_shape: Sequence[int | None],
        *,
        networks: Sequence[keras.Model],
        factors: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        shape = check_image_shape("Cascade", input_shape)
        factors = (1,) * len(networks) if factors is None else tuple(factors)
        check_counts("Cascade", factors=factors)
        if len(factors) != len(networks):
            raise OptionError(
                "Cascade expects one of `factors` for each of `networks`. "
                f"Received: factors={factors}, {len(networks)} networks."
            )
        fixed, moving = make_images(shape)
        moved, displacement = moving, None
        for index, (network, factor) in enumerate(zip(networks, factors, strict=True)):
            further = _predict(network, fixed, moved, factor, index)
            if displacement is not None:
                further = Compose(**FIELD, name=f"displacement_{index}")([displacement, further])
            displacement = further
            moved = Warp(**FIELD, name=f"moved_{index}")([moving, displacement])
        config = {"input_shape": shape, "networks": _serialise(networks), "factors": factors}
        super().__init__([fixed, moving], {"moved": moved, "displacement": displacement}, config, **kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Cascade:
        """Model of a configuration, its networks made anew, those that were the same the same again."""
        networks: list[Any] = []
        for stored in config["networks"]:
            again = isinstance(stored, int)
            networks.append(networks[stored] if again else keras.saving.deserialize_keras_object(stored))
        return cls(**{**config, "networks": networks})


def _predict(network: Any, fixed: Any, moved: Any, factor: int, index: int) -> Any:
    """Displacement of a network on the grid of the images, which it may see in coarser voxels."""
    crop = CropToMatch(**FIELD, name=f"displacement_{index}" if index == 0 else f"further_{index}")
    if factor == 1:
        return crop([predict("Cascade", network, fixed, moved)["displacement"], fixed])
    coarse = []
    for name, image in (("fixed", fixed), ("moved", moved)):
        padded = PadToMultiple(factor, **FIELD, name=f"{name}_{index}_pad")(image)
        coarse.append(average(padded, factor, f"{name}_{index}_coarse"))
    displacement = predict("Cascade", network, *coarse)["displacement"]
    fine = ResizeDisplacement(scale=float(factor), **FIELD, name=f"fine_{index}")(displacement)
    return crop([fine, fixed])


def _serialise(networks: Sequence[Any]) -> list[Any]:
    """Configurations of the networks; for one that has come before, its first place among them."""
    first = [next(place for place, other in enumerate(networks) if other is network) for network in networks]
    return [
        keras.saving.serialize_keras_object(network) if place == index else place
        for index, (network, place) in enumerate(zip(networks, first, strict=True))
    ]
