"""Index arithmetic along one line of voxels, shared by the sampler and the spline prefilter."""

from __future__ import annotations

from typing import Any

from keramorph._typing import Array


def fold(xp: Any, index: Array, count: Any, boundary: str) -> Array:
    """Bring integer indices into `[0, count)` as the boundary says; `constant` and `wrap` mirror, as in SciPy."""
    if boundary == "nearest":
        return xp.clip(index, 0, count - 1)
    if boundary == "reflect":
        index = index % (2 * count)
        return xp.minimum(index, 2 * count - 1 - index)
    period = at_least(xp, 2 * count - 2, 1)
    index = index % period
    return xp.minimum(index, period - index)


def cut(array: Array, axis: int, start: Any, stop: Any) -> Array:
    """Slice `start:stop` along one axis."""
    return array[(slice(None),) * axis + (slice(start, stop),)]


def at_least(xp: Any, value: Any, floor: int) -> Any:
    """Return the larger of a size, which may be dynamic, and a number."""
    return max(value, floor) if isinstance(value, int) else xp.maximum(value, floor)
