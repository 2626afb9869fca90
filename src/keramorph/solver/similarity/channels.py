"""How alike images of several channels are: the mean of how alike each channel is, by a measure of one channel.

Each channel has its own weight, so that one may be blind where another one sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from keramorph._typing import Array
from keramorph.solver.similarity.measure import TINY, Comparison, Measure, Similarity


def take_channel(array: Array, channel: int) -> Array:
    """Return a channel `(..., 1)` by itself in memory; of an array that has one alone, that one, which all share."""
    return array if array.shape[-1] == 1 else array[..., channel : channel + 1] * 1


def split_channels(array: Array) -> tuple[Array, ...]:
    """Return the channels `(..., 1)` of an array `(..., channels)`, each by itself in memory."""
    return tuple(take_channel(array, k) for k in range(array.shape[-1]))


def count_channels(measure: Measure, fixed: Array, mask: Array | None) -> float:
    """Return how many channels an image amounts to, each as much as it is like itself where its own mask lets it count.

    Less than half of a channel is never wholly alike: parting would pay. Divided by this, a sum over channels is 1
    where the images are equal, and a channel that covers little does not look like a bad match.
    """
    if mask is None or mask.shape[-1] == 1:
        return fixed.shape[-1]
    return max(TINY, _add_up(measure, fixed, fixed, mask))


def measure_channels(measure: Measure, fixed: Array, moved: Array, weight: Array, *, mask: Array | None) -> float:
    """Return the mean of a measure over the channels of two images `(1, *spatial, channels)`.

    Args:
        measure: Of one channel.
        fixed: The fixed image.
        moved: The moved image.
        weight: How much each voxel counts, in as many channels, or in one for all of them.
        mask: What of that is due to the fixed image alone.
    """
    return _add_up(measure, fixed, moved, weight) / count_channels(measure, fixed, mask)


def _add_up(measure: Measure, fixed: Array, moved: Array, weight: Array) -> float:
    total = 0.0
    for k in range(fixed.shape[-1]):
        known = measure.prepare(take_channel(fixed, k))
        total += float(measure.measure(known, take_channel(moved, k), take_channel(weight, k))[0])
    return total


def compare_channels(
    similarity: Similarity, prepared: Sequence[Any], moved: Sequence[Array], weight: Array, *, count: float
) -> Iterator[Comparison]:
    """Yield what each channel adds to the mean similarity, and how that changes with the moved channel where it counts.

    What is masked out of one channel alone has values that were made up of those around it: they pull nowhere, for the
    other channels know better.

    Args:
        similarity: Of one channel.
        prepared: What it prepared of each fixed channel.
        moved: Moved channels `(batch, *spatial, 1)`.
        weight: How much each voxel counts, in as many channels, or in one for all of them.
        count: How many channels the fixed image amounts to, see `count_channels`.
    """
    share = 1 / count
    for k, (known, channel) in enumerate(zip(prepared, moved, strict=True)):
        own = take_channel(weight, k)
        found = similarity.compare(known, channel, own)
        if weight.shape[-1] > 1:
            found = Comparison(found.similarity, own * found.derivative, own * found.curvature)
        yield found if share == 1 else Comparison(*(share * part for part in found))
