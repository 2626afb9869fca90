"""On NumPy arrays: the engine without a framework, the bare kernels, scipy, SimpleITK, and copying."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.ndimage
import SimpleITK as sitk

from benchmarks.candidates.bare import BARE
from benchmarks.candidates.bytes_moved import bytes_per_voxel
from benchmarks.candidates.candidate import Arrays, Candidate, Offer, each_number, export_last, make_identity
from benchmarks.plan import FORWARD, TO_BOTH, TO_FIELD, Task
from keramorph import backend, ops
from keramorph.backend import Rule


def build_warp(task: Task, arrays: Arrays) -> Candidate:
    """NumPy has no autograd: backward are the engine's functions that an autograd would call."""
    image, field, cotangent = arrays["image"], arrays["field"], arrays["cotangent"]
    engine, rule = backend.use("numpy"), Rule(relative=True)

    def pull_back() -> np.ndarray:
        return engine._pull_back(image, field, cotangent, rule)

    def splat() -> np.ndarray:
        return engine.splat(cotangent, field, shape=task.shape[1:], relative=True)

    modes = {
        FORWARD: lambda: (ops.warp(image, field),),
        TO_FIELD: lambda: (ops.warp(image, field), pull_back()),
        TO_BOTH: lambda: (ops.warp(image, field), pull_back(), splat()),
    }
    return Candidate(modes, export_last)


def build_gaussian(task: Task, arrays: Arrays) -> Candidate:
    field = arrays["field"]
    return Candidate(each_number(task, lambda sigma: lambda: (ops.gaussian(field, sigma=sigma),)), export_last)


def build_exponentiate(task: Task, arrays: Arrays) -> Candidate:
    field = arrays["field"]
    return Candidate({task.modes[0]: lambda: (ops.exponentiate(field, steps=7),)}, export_last)


def build_scipy_warp(task: Task, arrays: Arrays) -> Candidate:
    identity = make_identity(task.shape[1:])
    places = [np.moveaxis(identity + field, -1, 0).copy() for field in arrays["field"]]
    frames = [np.ascontiguousarray(image[..., 0]) for image in arrays["image"]]

    def run() -> tuple:
        return tuple(
            scipy.ndimage.map_coordinates(frame, place, order=1, mode="nearest")
            for frame, place in zip(frames, places, strict=True)
        )

    return Candidate({FORWARD: run}, lambda results: [np.stack(results)[..., None]])


def build_scipy_gaussian(task: Task, arrays: Arrays) -> Candidate:
    planes = np.ascontiguousarray(np.moveaxis(arrays["field"], -1, 1))
    out = np.empty_like(planes)

    def make(sigma: float):
        def run() -> tuple:
            for source, target in zip(
                planes.reshape(-1, *task.shape[1:]), out.reshape(-1, *task.shape[1:]), strict=True
            ):
                scipy.ndimage.gaussian_filter(source, sigma, output=target)
            return (out,)

        return run

    return Candidate(each_number(task, make), lambda results: [np.moveaxis(results[0], 1, -1)])


def build_simpleitk_warp(task: Task, arrays: Arrays) -> Candidate:
    pictures = [sitk.GetImageFromArray(image[..., 0]) for image in arrays["image"]]
    resamplers = []
    for picture, field in zip(pictures, arrays["field"], strict=True):
        vectors = sitk.GetImageFromArray(field[..., ::-1].astype("float64"), isVector=True)
        resampler = sitk.ResampleImageFilter()
        resampler.SetReferenceImage(picture)
        resampler.SetUseNearestNeighborExtrapolator(True)
        resampler.SetTransform(sitk.DisplacementFieldTransform(vectors))
        resamplers.append(resampler)

    def run() -> tuple:
        return tuple(one.Execute(picture) for one, picture in zip(resamplers, pictures, strict=True))

    def export(results: tuple) -> list[np.ndarray]:
        return [np.stack([sitk.GetArrayFromImage(one) for one in results])[..., None]]

    return Candidate({FORWARD: run}, export)


def build_simpleitk_gaussian(task: Task, arrays: Arrays) -> Candidate:
    pictures = [sitk.GetImageFromArray(field, isVector=True) for field in arrays["field"]]

    def make(sigma: float):
        smoother = sitk.SmoothingRecursiveGaussianImageFilter()
        smoother.SetSigma(sigma)
        return lambda: tuple(smoother.Execute(picture) for picture in pictures)

    return Candidate(
        each_number(task, make), lambda results: [np.stack([sitk.GetArrayFromImage(one) for one in results])]
    )


def build_copy(task: Task, arrays: Arrays) -> Candidate:
    """Copying, half of the bytes read and half of them written, on as many threads as a kernel may use."""
    count = backend.describe()["threads"]
    pool = ThreadPoolExecutor(count)

    def make(size: int):
        source, target = np.ones(size, dtype="uint8"), np.zeros(size, dtype="uint8")
        pairs = list(zip(np.array_split(source, count), np.array_split(target, count), strict=True))

        def run() -> tuple:
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
            return ()

        return run

    modes = {mode: make(task.voxels * bytes_per_voxel(task.ndim, mode) // 2) for mode in task.modes}
    return Candidate(modes, export_last)


OFFERS = {
    "warp": [
        Offer("keramorph", build_warp),
        *BARE["warp"],
        Offer("scipy map_coordinates", build_scipy_warp, "one thread; coordinates made beforehand"),
        Offer("SimpleITK Resample", build_simpleitk_warp, "float64 field made beforehand"),
        Offer("copy of the same bytes", build_copy, "no computation: what the memory allows"),
    ],
    "lncc": [*BARE["lncc"]],
    "gaussian": [
        Offer("keramorph", build_gaussian),
        *BARE["gaussian"],
        Offer("scipy gaussian_filter", build_scipy_gaussian, "component by component, one thread"),
        Offer("SimpleITK recursive Gaussian", build_simpleitk_gaussian, "another approximation of the Gaussian"),
    ],
    "exponentiate": [Offer("keramorph", build_exponentiate), *BARE["exponentiate"]],
}
