"""What every measure of similarity can do."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from keramorph._typing import Array

ENOUGH_OVERLAP = 0.5
"""Share of what the fixed image shows below which a smaller overlap lowers a similarity: parting never pays."""

TINY = 1e-12
"""Added to sums that may be zero and are divided by."""


class Comparison(NamedTuple):
    """Similarity and how it changes with the moved image.

    `similarity` is `(batch,)`, one number for each pair of images. `derivative` is that of the similarity; `curvature`
    is the second derivative of a sum of squares which the similarity resembles near its top, the scale of a
    Gauss-Newton step. Both are `(batch, *spatial, 1)`.
    """

    similarity: Array
    derivative: Array
    curvature: Array


class Measure(Protocol):
    """How alike two images are, from 0 to 1.

    Images and weights are `(batch, *spatial, 1)`, floating point, of one engine; what is found of a pair of images
    depends on that pair alone. A weight says how much a voxel counts: 0 outside the moving image. It counts as
    constant.
    """

    def prepare(self, fixed: Array) -> Any:
        """What the fixed image alone tells, computed once per level: arrays, in tuples."""

    def measure(self, prepared: Any, moved: Array, weight: Array) -> Array:
        """The similarity of each pair, `(batch,)`."""


class Similarity(Measure, Protocol):
    """A measure that knows how it changes with the moved image."""

    def compare(self, prepared: Any, moved: Array, weight: Array) -> Comparison:
        """The similarity, and its derivative."""


def sum_each(xp: Any, array: Array) -> Array:
    """Sum of each image of a batch, `(batch, 1, ..., 1)`: with as many axes as the images, to be multiplied by."""
    return xp.sum(array, axis=tuple(range(1, len(array.shape))), keepdims=True)


def mean_each(xp: Any, array: Array) -> Array:
    """Mean of each image of a batch, likewise."""
    return xp.mean(array, axis=tuple(range(1, len(array.shape))), keepdims=True)


def list_each(xp: Any, numbers: Array) -> Array:
    """The numbers `(batch, 1, ..., 1)` of a batch as `(batch,)`."""
    return xp.reshape(numbers, (-1,))


def measure_share(xp: Any, shown: Array, total: Array) -> Array:
    """Share by which a similarity counts: of what the fixed image shows in all, half as much is enough."""
    return xp.minimum(shown / (ENOUGH_OVERLAP * total + TINY), shown * 0 + 1)
