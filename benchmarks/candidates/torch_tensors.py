"""On PyTorch tensors: Keramorph, grid_sample, keras.ops compiled, and losses as they are written by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.candidates.candidate import (
    Arrays,
    Candidate,
    Offer,
    each_number,
    export_first,
    export_last,
    make_identity,
)
from benchmarks.plan import FORWARD, REFERENCE, TO_BOTH, TO_FIELD, Task
from keramorph import losses, ops

Warp = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def differentiate(warp: Warp, image: torch.Tensor, field: torch.Tensor, cotangent: torch.Tensor) -> dict:
    """Return the warp and its gradients against a given cotangent."""
    moving, wanted = image.clone().requires_grad_(), field.clone().requires_grad_()

    def forward() -> tuple:
        with torch.no_grad():
            return (warp(image, field),)

    def to_field() -> tuple:
        moved = warp(image, wanted)
        return moved.detach(), *torch.autograd.grad(moved, wanted, cotangent)

    def to_both() -> tuple:
        moved = warp(moving, wanted)
        return moved.detach(), *torch.autograd.grad(moved, (wanted, moving), cotangent)

    return {FORWARD: forward, TO_FIELD: to_field, TO_BOTH: to_both}


def build_warp(task: Task, arrays: Arrays) -> Candidate:
    image, field, cotangent = (torch.from_numpy(arrays[name]) for name in ("image", "field", "cotangent"))
    return Candidate(differentiate(ops.warp, image, field, cotangent), export_last)


def build_grid_sample(task: Task, arrays: Arrays) -> Candidate:
    """The reference: the grid of [-1, 1] coordinates, x first, is built from the field in voxels at each call.

    What does not change is made beforehand (the identity's grid, the scale), so that two passes over the field remain.
    """
    image, cotangent = (torch.from_numpy(arrays[name]).movedim(-1, 1).contiguous() for name in ("image", "cotangent"))
    field = torch.from_numpy(arrays["field"])
    make_grid = _make_gridder(task.shape[1:])

    def warp(image: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.grid_sample(image, make_grid(field), padding_mode="border", align_corners=True)

    def export(results: tuple) -> list[np.ndarray]:
        moved, *gradients = results
        to_field, to_image = gradients[:1], gradients[1:]
        return [*export_first((moved,)), *export_last(tuple(to_field)), *export_first(tuple(to_image))]

    return Candidate(differentiate(warp, image, field, cotangent), export)


def _make_gridder(sizes: tuple[int, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Turn displacements in voxels, channels last, into the coordinates that grid_sample wants."""
    scale = torch.tensor([2 / (n - 1) for n in reversed(sizes)])
    identity = torch.from_numpy(make_identity(sizes)).flip(-1) * scale - 1
    return lambda field: torch.addcmul(identity, field.flip(-1), scale)


def build_keras(task: Task, arrays: Arrays) -> Candidate:
    import keras

    image, field, cotangent = (torch.from_numpy(arrays[name]) for name in ("image", "field", "cotangent"))
    identity = torch.from_numpy(make_identity(task.shape[1:]))

    @torch.compile(dynamic=False)
    def warp(image: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
        moved = [
            keras.ops.image.map_coordinates(one[..., 0], (identity + by).movedim(-1, 0), 1, "nearest")
            for one, by in zip(image, field, strict=True)
        ]
        return torch.stack(moved)[..., None]

    return Candidate(differentiate(warp, image, field, cotangent), export_last)


def build_lncc(make_loss: Callable[[int], Callable], *, sizes: tuple[int, ...]) -> Callable[[Task, Arrays], Candidate]:
    """Value and gradient to the moved image, for the windows that are worth the wait."""

    def build(task: Task, arrays: Arrays) -> Candidate:
        fixed = torch.from_numpy(arrays["fixed"])
        moved = torch.from_numpy(arrays["moved"]).requires_grad_()
        modes = each_number(task, lambda size: _make_value_and_gradient(make_loss(size), fixed, moved), only=sizes)
        return Candidate(modes, export_last)

    return build


def _make_value_and_gradient(loss: Callable, fixed: torch.Tensor, moved: torch.Tensor) -> Callable[[], tuple]:
    def run() -> tuple:
        value = loss(fixed, moved)
        return value.detach(), *torch.autograd.grad(value, moved)

    return run


def correlate(average: Callable) -> Callable[[int], Callable]:
    """Local correlation by its definition, from five window averages."""

    def make_loss(size: int) -> Callable:
        def loss(fixed: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
            f, m = fixed[None, ..., 0], moved[None, ..., 0]
            mean_f, mean_m, ff, mm, fm = (average(x, size) for x in (f, m, f * f, m * m, f * m))
            cross = fm - mean_f * mean_m
            variances = (torch.relu(ff - mean_f**2) + 1e-5) * (torch.relu(mm - mean_m**2) + 1e-5)
            return -(cross**2 / variances).mean()

        return loss

    return make_loss


def average_by_convolution(x: torch.Tensor, size: int) -> torch.Tensor:
    kernel = torch.full((1, 1, *[size] * (x.ndim - 2)), float(size) ** -(x.ndim - 2))
    convolve = torch.nn.functional.conv3d if x.ndim == 5 else torch.nn.functional.conv2d
    return convolve(x, kernel, padding=size // 2)


def average_by_pooling(x: torch.Tensor, size: int) -> torch.Tensor:
    pool = torch.nn.functional.avg_pool3d if x.ndim == 5 else torch.nn.functional.avg_pool2d
    return pool(x, size, stride=1, padding=size // 2)


def average_by_cumsum(x: torch.Tensor, size: int) -> torch.Tensor:
    for axis in range(2, x.ndim):
        widths = [0, 0] * (x.ndim - 1 - axis) + [size // 2 + 1, size // 2]
        total = torch.nn.functional.pad(x, widths).cumsum(axis)
        count = total.shape[axis] - size
        x = total.narrow(axis, size, count) - total.narrow(axis, 0, count)
    return x / size ** (x.ndim - 2)


def build_gaussian(task: Task, arrays: Arrays) -> Candidate:
    field = torch.from_numpy(arrays["field"])
    return Candidate(each_number(task, lambda sigma: lambda: (ops.gaussian(field, sigma=sigma),)), export_last)


def build_exponentiate(task: Task, arrays: Arrays) -> Candidate:
    field = torch.from_numpy(arrays["field"])
    return Candidate({task.modes[0]: lambda: (ops.exponentiate(field, steps=7),)}, export_last)


def build_grid_sample_loop(task: Task, arrays: Arrays) -> Candidate:
    """Scaling and squaring as it is written with grid_sample, the field channels first as a network makes it."""
    field = torch.from_numpy(arrays["field"]).movedim(-1, 1).contiguous()
    make_grid = _make_gridder(task.shape[1:])

    @torch.no_grad()
    def run() -> tuple:
        displacement = field / 2**7
        for _ in range(7):
            grid = make_grid(displacement.movedim(1, -1))
            displacement = displacement + torch.nn.functional.grid_sample(
                displacement, grid, padding_mode="border", align_corners=True
            )
        return (displacement,)

    return Candidate({task.modes[0]: run}, export_first)


OFFERS = {
    "warp": [
        Offer("keramorph", build_warp),
        Offer(REFERENCE, build_grid_sample, "its grid built from the same field"),
        Offer("keras map_coordinates (torch.compile)", build_keras),
    ],
    "lncc": [
        Offer("keramorph", build_lncc(losses.LNCC, sizes=(5, 9, 17))),
        Offer("torch convolution", build_lncc(correlate(average_by_convolution), sizes=(9,))),
        Offer("torch avg_pool", build_lncc(correlate(average_by_pooling), sizes=(9,))),
        Offer("torch cumsum", build_lncc(correlate(average_by_cumsum), sizes=(5, 9, 17))),
    ],
    "gaussian": [Offer("keramorph", build_gaussian)],
    "exponentiate": [
        Offer("keramorph", build_exponentiate),
        Offer("grid_sample loop", build_grid_sample_loop),
    ],
}
