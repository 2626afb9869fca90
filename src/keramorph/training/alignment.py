"""What lays the moving image of a pair on the fixed one before a network sees them: a function, or one by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from keramorph.errors import OptionError
from keramorph.registration import Config, register
from keramorph.space import Image
from keramorph.transforms import Transform

Align = Callable[[Image, Image], Transform]
"""From the fixed and the moving image of a pair, as read, to the transform from fixed to moving points."""
Alignment = Literal["rigid", "similarity", "affine"]
"""Transforms that `keramorph.register` finds for a pair."""


def open_alignment(align: Align | Alignment) -> Align:
    """Return a function that aligns a pair: itself, or the registration that finds the transform of this name."""
    if not isinstance(align, str):
        return align
    if align not in get_args(Alignment):
        raise OptionError(
            f"Pairs are aligned by a function, or by one of {', '.join(get_args(Alignment))}. Received: "
            f"align={align!r}. Take 'affine'."
        )
    config = Config(transform=align)
    return lambda fixed, moving: register(fixed, moving, config=config).transform
