"""How an image is read between and beyond its voxels: the rule that every engine's sampler obeys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args

from keramorph._typing import Boundary, Gradient, Order
from keramorph.errors import OptionError


@dataclass(frozen=True)
class Rule:
    """Interpolation and boundary of a sampler: static, hashable, the same for every engine.

    Args:
        order: Degree of the interpolating spline.
        boundary: What lies outside the image, as in `scipy.ndimage.map_coordinates`.
        fill_value: Value outside the image where the boundary is `"constant"`.
        relative: Whether coordinates are displacements from each voxel's own index.
        gradient: `"exact"` derivative of the interpolant, or the `"smooth"` central difference of the image.

    Raises:
        OptionError: If a value is not one of those allowed.

    Example:
        >>> Rule(order=3).boundary
        'nearest'
    """

    order: Order = 1
    boundary: Boundary = "nearest"
    fill_value: float = 0.0
    relative: bool = False
    gradient: Gradient = "exact"

    def __post_init__(self) -> None:
        for name, kind in (("order", Order), ("boundary", Boundary), ("gradient", Gradient)):
            value, allowed = getattr(self, name), get_args(kind)
            if value not in allowed:
                raise OptionError(f"`{name}` must be one of {allowed}. Received: {name}={value!r}. Pass one of those.")

    def without_fill(self) -> Rule:
        """Return the linear part of the rule: zero outside instead of the fill value."""
        return replace(self, fill_value=0.0)


def spread(name: str, value: Any, ndim: int) -> tuple:
    """Return one value per spatial axis, from one for all of them or from a sequence.

    Raises:
        OptionError: If a sequence has another length than there are axes.
    """
    if not hasattr(value, "__len__"):
        return (value,) * ndim
    if len(value) != ndim:
        raise OptionError(
            f"`{name}` must be one number, or one per spatial axis ({ndim} here). Received: {name}={value!r}."
        )
    return tuple(value)
