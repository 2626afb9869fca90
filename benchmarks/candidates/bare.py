"""The kernels alone, called with outputs that are there already; where none are built, the engine on NumPy arrays.

The difference between this and `keramorph` on a framework is what the framework's binding costs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.candidates.candidate import Arrays, Candidate, Offer, each_number, export_last
from benchmarks.plan import FORWARD, TO_BOTH, TO_FIELD, Task
from keramorph import backend
from keramorph.backend import Comparison, Rule
from keramorph.backend.native import extension

_TYPES = {"float16": 0, "float32": 2, "float64": 3}
_NEAREST = 1


native = extension()
NOTE = "outputs made beforehand" if native else "no extension: the NumPy engine"


def build_warp(task: Task, arrays: Arrays) -> Candidate:
    image, field, cotangent = arrays["image"], arrays["field"], arrays["cotangent"]
    sample, pull_back, splat = _bind_samplers(image, field, cotangent)

    def run_forward() -> tuple:
        return (sample(),)

    def run_to_field() -> tuple:
        return sample(), pull_back()

    def run_to_both() -> tuple:
        return sample(), pull_back(), splat()

    return Candidate({FORWARD: run_forward, TO_FIELD: run_to_field, TO_BOTH: run_to_both}, export_last)


def _bind_samplers(image: np.ndarray, field: np.ndarray, cotangent: np.ndarray) -> tuple[Callable, ...]:
    """Functions without arguments: the sample, its pull-back to the field, and its adjoint to the image."""
    if native is None:
        engine, rule = backend.use("numpy"), Rule(relative=True)
        return (
            lambda: engine._sample(image, field, rule),
            lambda: engine._pull_back(image, field, cotangent, rule),
            lambda: engine._splat(cotangent, field, image.shape[1:-1], rule),
        )
    plan = _plan(image, field)
    values, to_field, to_image = np.zeros_like(image), np.zeros_like(field), np.zeros_like(image)

    def sample() -> np.ndarray:
        native.sample(plan, image, field, values, False)
        return values

    def pull_back() -> np.ndarray:
        native.pull_back(plan, image, field, cotangent, to_field)
        return to_field

    def splat() -> np.ndarray:
        native.splat(plan, cotangent, field, to_image)
        return to_image

    return sample, pull_back, splat


def _plan(image: np.ndarray, field: np.ndarray):
    """Linear, the edge extended, by displacements."""
    types = _TYPES[image.dtype.name], _TYPES[field.dtype.name]
    return native.Sampling(1, _NEAREST, 0.0, 0, True, False, *types, list(image.shape), list(field.shape))


def build_gaussian(task: Task, arrays: Arrays) -> Candidate:
    field = arrays["field"]

    def make(sigma: float) -> Callable[[], tuple]:
        if native is None:
            engine = backend.use("numpy")
            return lambda: (engine._gaussian(field, (sigma,) * task.ndim),)
        volume, out = native.Volume(_TYPES["float32"], list(field.shape)), np.zeros_like(field)

        def run() -> tuple:
            native.gaussian(volume, [sigma] * task.ndim, field, out)
            return (out,)

        return run

    return Candidate(each_number(task, make), export_last)


def build_lncc(task: Task, arrays: Arrays) -> Candidate:
    """Value and derivative in one pass; the sign of a loss is put in front where they are compared with others'."""
    fixed, moved = arrays["fixed"], arrays["moved"]
    volume = native.Volume(_TYPES["float32"], list(moved.shape))
    values, derivative = np.zeros(len(moved), "float32"), np.zeros_like(moved)

    def make(size: int) -> Callable[[], tuple]:
        terms = Comparison("local_correlation", size, variant=True).numbers

        def run() -> tuple:
            native.compare(volume, *terms, fixed, moved, values, derivative)
            return values, derivative

        return run

    return Candidate(each_number(task, make), _export_negative)


def _export_negative(results: tuple) -> list[np.ndarray]:
    values, derivative = export_last(results)
    return [-values.mean(), -derivative]


def build_exponentiate(task: Task, arrays: Arrays) -> Candidate:
    field = arrays["field"]
    if native is None:
        engine = backend.use("numpy")

        def run() -> tuple:
            displacement = field / 2**7
            for _ in range(7):
                displacement = engine._compose(displacement, displacement)
            return (displacement,)

        return Candidate({task.modes[0]: run}, export_last)
    plan, buffers = _plan(field, field), [np.zeros_like(field), np.zeros_like(field)]

    def run_squarings() -> tuple:
        np.multiply(field, np.float32(2**-7), out=buffers[0])
        for step in range(7):
            source, target = buffers[step % 2], buffers[1 - step % 2]
            native.sample(plan, source, source, target, True)
        return (buffers[1],)

    return Candidate({task.modes[0]: run_squarings}, export_last)


BARE: dict[str, list[Offer]] = {
    "warp": [Offer("bare kernel", build_warp, NOTE)],
    "gaussian": [Offer("bare kernel", build_gaussian, NOTE)],
    "exponentiate": [Offer("bare kernel", build_exponentiate, NOTE)],
    "lncc": [Offer("bare kernel", build_lncc, NOTE)] if native else [],
}
