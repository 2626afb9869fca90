"""The physical floor of a warp: the bytes that it cannot avoid to move."""

from __future__ import annotations

from benchmarks.plan import FORWARD, TO_BOTH, TO_FIELD


def bytes_per_voxel(ndim: int, mode: str) -> int:
    """What a float32 warp of one channel reads and writes at least, each array once per pass.

    Forward: image, field, result. To the field: also image, field and cotangent read again, the gradient written.
    To both: also the gradient to the image written, in the same pass.
    """
    forward = 4 * (1 + ndim + 1)
    to_field = forward + 4 * (1 + ndim + 1 + ndim)
    return {FORWARD: forward, TO_FIELD: to_field, TO_BOTH: to_field + 4}[mode]
