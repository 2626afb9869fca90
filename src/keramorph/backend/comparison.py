"""What two images are compared by: the measure, and its options, that every engine's kernel is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Measure = Literal["squared_difference", "correlation", "local_correlation", "mutual_information", "self_similarity"]
_MEASURES = get_args(Measure)

_MOST = 256
"""The greatest extent and distance for which there are kernels; `native/bindings/arguments.hpp` refuses more."""


@dataclass(frozen=True)
class Comparison:
    """How two images are compared: static, hashable, the same for every engine.

    Args:
        measure: What is measured; the position of its name is its number in the extension.
        extent: Edge of a window in voxels, number of bins, or radius of the patches in voxels.
        dilation: How many voxels away the neighbours of a self-similarity are.
        variant: Whether a local correlation is squared, or a mutual information normalised.

    Example:
        >>> Comparison("local_correlation", 9, variant=True).numbers
        (2, 9, 0, True)
    """

    measure: Measure
    extent: int = 0
    dilation: int = 0
    variant: bool = False

    @property
    def numbers(self) -> tuple[int, int, int, bool]:
        """The fields as the extension takes them."""
        return _MEASURES.index(self.measure), self.extent, self.dilation, self.variant

    def has_kernel(self, ndim: int) -> bool:
        """Whether there is a kernel for it in so many dimensions, in Python alone: torch.compile follows it."""
        least = 2 if self.measure == "self_similarity" else 1
        return least <= ndim <= 3 and max(self.extent, self.dilation) <= _MOST
