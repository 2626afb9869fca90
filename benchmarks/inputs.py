"""The arrays that every candidate gets, and where its results may be compared with those of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.plan import Task

DISPLACEMENT = 5.0
"""Root mean square length of a displacement in voxels."""

_KINK = 2e-3
"""Distance in voxels from a voxel centre, where linear interpolation has a jump in its derivative: a rounding of the
coordinate decides which side counts, so that gradients there are compared with nobody's."""


def write_inputs(task: Task, folder: Path) -> None:
    """Save what the task's candidates work on, one `.npy` file per array."""
    for name, array in make_inputs(task).items():
        np.save(folder / f"{name}.npy", array)


def make_inputs(task: Task) -> dict[str, np.ndarray]:
    """Arrays of a task, the same at each call; `mask k` says where the k-th result may be compared."""
    rng = np.random.default_rng(7)
    if task.kind == "warp":
        return _make_warp(task, rng)
    if task.kind == "lncc":
        return _make_pair(task, rng)
    if task.kind == "exponentiate":
        # Who takes zeros from outside is wrong as far inside as a displacement reaches in the end.
        return {
            "field": make_field(task.shape, rng),
            "mask 0": _make_interior(task.shape, min(24, min(task.shape[1:]) // 4)),
        }
    return {"field": make_field(task.shape, rng)}


def make_image(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Blobs of some six voxels and a little noise, `(batch, *spatial, 1)`, mean 0 and variance 1."""
    image = _make_smooth(shape, 6.0, 1, rng)
    image += 0.1 * rng.standard_normal(image.shape, dtype="float32")
    return (image - image.mean()) / image.std()


def make_field(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Smooth displacement `(batch, *spatial, ndim)` in voxels that leads out of the image here and there."""
    field = _make_smooth(shape, 24.0, len(shape) - 1, rng)
    return field * np.float32(DISPLACEMENT / np.sqrt((field * field).sum(-1).mean()))


def _make_smooth(shape: tuple[int, ...], wavelength: float, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Random numbers on a coarse lattice, spread by Gaussians one axis after the other."""
    batch, *sizes = shape
    counts = [max(3, int(n / wavelength) + 3) for n in sizes]
    values = rng.standard_normal((batch, *counts, channels), dtype="float32")
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True), start=1):
        places = (np.arange(size, dtype="float32") / wavelength)[:, None] + 1
        weights = np.exp(-2 * (places - np.arange(count, dtype="float32")) ** 2)
        values = np.moveaxis(np.tensordot(values, weights, axes=(axis, 1)), -1, axis)
    return np.ascontiguousarray(values)


def _make_warp(task: Task, rng: np.random.Generator) -> dict[str, np.ndarray]:
    image, field = make_image(task.shape, rng).astype(task.dtype), make_field(task.shape, rng)
    cotangent = rng.uniform(0.5, 1.5, image.shape).astype(task.dtype)
    inside, smooth = np.ones(task.shape, dtype=bool), np.ones(task.shape, dtype=bool)
    for axis, size in enumerate(task.shape[1:]):
        index = np.arange(size, dtype="float32").reshape(-1, *[1] * (task.ndim - 1 - axis))
        places = index + field[..., axis]
        inside &= (places > 0.01) & (places < size - 1.01)
        smooth &= np.abs(places - np.rint(places)) > _KINK
    return {
        "image": image,
        "field": field,
        "cotangent": cotangent,
        "mask 0": inside,
        "mask 1": inside & smooth,
        "mask 2": _make_interior(task.shape, 2),
    }


def _make_pair(task: Task, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two images alike, both standardised, so that it makes no difference who standardises them again."""
    fixed = make_image(task.shape, rng)
    moved = fixed + make_image(task.shape, rng)
    moved = ((moved - moved.mean()) / moved.std()).astype("float32")
    return {"fixed": fixed, "moved": moved, "mask 1": _make_interior(task.shape, 17)}


def _make_interior(shape: tuple[int, ...], margin: int) -> np.ndarray:
    """Where the border is far: libraries differ in what lies beyond it."""
    mask = np.zeros(shape, dtype=bool)
    mask[(slice(None), *[slice(margin, -margin)] * (len(shape) - 1))] = True
    return mask
