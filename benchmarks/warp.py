"""Times Keramorph's warp on one engine, and what else that engine offers, on the same arrays.

`python benchmarks/warp.py torch` prints one JSON object per measurement. `benchmarks/run.py` runs all engines, each in
a process of its own, and makes a table.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

CASES = {"2-D, 8 x 512 x 512": (8, 512, 512), "3-D, 96 x 112 x 128": (1, 96, 112, 128)}
SECONDS_PER_MEASUREMENT = 1.0


def make_arrays(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a smooth displacement of up to 4 voxels that leads nowhere outside the image."""
    batch, *size = shape
    axes = np.meshgrid(*(np.linspace(0, np.pi, n, dtype="float32") for n in size), indexing="ij")
    phase = np.arange(1, batch + 1, dtype="float32").reshape(-1, *[1] * len(size))
    image = sum(np.sin(3 * axis + phase) for axis in axes)
    bump = np.prod([np.sin(axis) for axis in axes], axis=0)
    displacement = np.stack([4 * bump * np.sin(2 * axis + phase) for axis in axes], axis=-1)
    return image[..., None].astype("float32"), displacement.astype("float32")


def identity(size: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(n, dtype="float32") for n in size), indexing="ij"), axis=-1)


def time_median(function: Callable[[], object]) -> float:
    """Median milliseconds of a call, after a warm-up that compiles what has to be compiled."""
    function()
    taken: list[float] = []
    while len(taken) < 3 or (sum(taken) < SECONDS_PER_MEASUREMENT and len(taken) < 50):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


def measure_numpy(image: np.ndarray, displacement: np.ndarray) -> dict:
    import scipy.ndimage
    import SimpleITK as sitk

    from keramorph import ops

    grid = identity(image.shape[1:-1])
    coordinates = [np.moveaxis(grid + field, -1, 0).copy() for field in displacement]
    pictures = [sitk.GetImageFromArray(frame[..., 0]) for frame in image]
    fields = [
        sitk.DisplacementFieldTransform(sitk.GetImageFromArray(field[..., ::-1].astype("float64"), isVector=True))
        for field in displacement
    ]

    def warp_with_scipy():
        sampled = (
            scipy.ndimage.map_coordinates(frame[..., 0], places, order=1, mode="nearest")
            for frame, places in zip(image, coordinates, strict=True)
        )
        return np.stack(list(sampled))[..., None]

    def warp_with_simpleitk():
        sampled = (sitk.Resample(picture, field) for picture, field in zip(pictures, fields, strict=True))
        return np.stack([sitk.GetArrayFromImage(one) for one in sampled])[..., None]

    return {
        "keramorph": (lambda: ops.warp(image, displacement), None),
        "scipy.ndimage.map_coordinates": (warp_with_scipy, None),
        "SimpleITK.Resample": (warp_with_simpleitk, None),
    }


def measure_torch(image: np.ndarray, displacement: np.ndarray) -> dict:
    import torch

    from keramorph import ops

    size = image.shape[1:-1]
    moving = torch.from_numpy(image)
    field = torch.from_numpy(displacement).requires_grad_()
    planes = torch.movedim(moving, -1, 1).contiguous()
    scaled = 2 * (identity(size) + displacement) / (np.array(size, dtype="float32") - 1) - 1
    places = torch.from_numpy(np.ascontiguousarray(scaled[..., ::-1])).requires_grad_()

    def warp_with_grid_sample():
        return torch.nn.functional.grid_sample(planes, places, padding_mode="border", align_corners=True)

    def without_gradient(function):
        def run():
            with torch.no_grad():
                return function()

        return run

    warp = lambda: ops.warp(moving, field)  # noqa: E731
    return {
        "keramorph": (without_gradient(warp), lambda: torch.autograd.grad(warp().sum(), field)),
        "torch grid_sample": (
            lambda: torch.movedim(without_gradient(warp_with_grid_sample)(), 1, -1),
            lambda: torch.autograd.grad(warp_with_grid_sample().sum(), places),
        ),
    }


def warp_with_keras(image, displacement, grid):
    from keras import ops

    sampled = [
        ops.image.map_coordinates(image[item, ..., 0], ops.moveaxis(grid + displacement[item], -1, 0), 1, "nearest")
        for item in range(image.shape[0])
    ]
    return ops.stack(sampled)[..., None]


def measure_jax(image: np.ndarray, displacement: np.ndarray) -> dict:
    import jax

    from keramorph import ops

    moving, field, grid = (jax.numpy.asarray(array) for array in (image, displacement, identity(image.shape[1:-1])))

    def pair(warp):
        forward = jax.jit(warp)
        backward = jax.jit(jax.value_and_grad(lambda moving, field: warp(moving, field).sum(), argnums=1))
        return (
            lambda: jax.block_until_ready(forward(moving, field)),
            lambda: jax.block_until_ready(backward(moving, field)),
        )

    return {
        "keramorph": pair(ops.warp),
        "keras map_coordinates": pair(lambda moving, field: warp_with_keras(moving, field, grid)),
    }


def measure_tensorflow(image: np.ndarray, displacement: np.ndarray) -> dict:
    import tensorflow as tf

    from keramorph import ops

    moving, field, grid = (tf.constant(array) for array in (image, displacement, identity(image.shape[1:-1])))

    def pair(warp):
        @tf.function
        def forward(moving, field):
            return warp(moving, field)

        @tf.function
        def backward(moving, field):
            with tf.GradientTape() as tape:
                tape.watch(field)
                total = tf.reduce_sum(warp(moving, field))
            return tape.gradient(total, field)

        return lambda: forward(moving, field).numpy(), lambda: backward(moving, field).numpy()

    return {
        "keramorph": pair(ops.warp),
        "keras map_coordinates": pair(lambda moving, field: warp_with_keras(moving, field, grid)),
    }


def main(engine: str) -> None:
    os.environ.setdefault("KERAS_BACKEND", engine)
    prepare = {"torch": measure_torch, "jax": measure_jax, "tensorflow": measure_tensorflow, "numpy": measure_numpy}
    for case, shape in CASES.items():
        candidates = prepare[engine](*make_arrays(shape))
        reference = np.asarray(candidates["keramorph"][0]())
        for name, (forward, backward) in candidates.items():
            row = {
                "case": case,
                "engine": engine,
                "name": name,
                "forward": time_median(forward),
                "backward": time_median(backward) if backward else None,
                "difference": float(np.abs(np.asarray(forward()) - reference).max()),
            }
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
