"""What is to be known of the pairs that a network is trained on: grid, labels, and how they vary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keramorph.errors import OptionError


@dataclass(frozen=True)
class PairOptions:
    """How the images of pairs are brought onto one grid, and how they vary from epoch to epoch of a training.

    The axes of the grid are the physical ones, the last array axis along x: (y, x) in 2-D and (z, y, x) in 3-D, LPS.
    Its middle is laid on the middle of the field of view of each image by itself.

    Args:
        shape: Voxels of the grid along each array axis.
        spacing: Millimetres between them along each array axis, or one for all.
        labels: Values of the label maps that get a channel, in the order of the channels; others are background. Needed
            where pairs have label maps.
        crop: Sizes of a window of the grid, drawn anew for each pair and epoch and cut out of all its images; None for
            the whole grid.
        flip: Array axes along which a pair is mirrored half of the times, all its images alike.

    Raises:
        OptionError: If an option cannot take its value.

    Example:
        >>> PairOptions((64, 64), spacing=2.0).spacing
        (2.0, 2.0)
    """

    shape: tuple[int, ...]
    spacing: float | tuple[float, ...] = 1.0
    labels: tuple[int, ...] = ()
    crop: tuple[int, ...] | None = None
    flip: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shape, ndim = _to_whole(self.shape), len(tuple(self.shape))
        if ndim not in (2, 3) or min(shape) < 1:
            raise OptionError(
                f"`shape` holds 2 or 3 sizes of at least 1. Received: shape={self.shape!r}. Count the voxels."
            )
        given = np.asarray(self.spacing, dtype=np.float64)
        if given.shape not in ((), (ndim,)) or not (np.isfinite(given).all() and (given > 0).all()):
            raise OptionError(
                f"`spacing` is a positive number of millimetres, one for all axes or {ndim} of them. Received: "
                f"spacing={self.spacing!r}. Give the lengths in the order of the array's axes."
            )
        crop = None if self.crop is None else _to_whole(self.crop)
        if crop is not None and (len(crop) != ndim or any(not 1 <= c <= n for c, n in zip(crop, shape, strict=True))):
            raise OptionError(
                f"A window fits into the grid, with {ndim} sizes. Received: crop={self.crop!r}, shape={shape}. Make it "
                "smaller, or the grid larger."
            )
        if any(axis not in range(ndim) for axis in self.flip):
            raise OptionError(
                f"Array axes count from 0 to {ndim - 1}. Received: flip={self.flip!r}. Take (2,) for x in 3-D."
            )
        labels = _to_whole(self.labels)
        if len(set(labels)) != len(labels) or 0 in labels or len(labels) > 255:
            raise OptionError(
                f"`labels` holds up to 255 different values, without 0, the background. Received: "
                f"labels={self.labels!r}. Leave 0 out."
            )
        steps = tuple(np.broadcast_to(given, (ndim,)).tolist())
        settled = {"shape": shape, "spacing": steps, "labels": labels, "crop": crop, "flip": _to_whole(self.flip)}
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the options."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PairOptions:
        """Return the options of a configuration.

        Args:
            config: What `get_config` returned, its tuples turned to lists by a file or not.
        """
        return cls(**config)


def _to_whole(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
