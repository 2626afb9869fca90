"""Other people's libraries on PyTorch, from an environment of their own: VoxelMorph, MONAI, torch-interpol."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from benchmarks.candidates.candidate import Arrays, Candidate, Offer, export_first
from benchmarks.candidates.torch_tensors import build_lncc, differentiate
from benchmarks.plan import Task


def build_voxelmorph(task: Task, arrays: Arrays) -> Candidate:
    import voxelmorph

    return _build_module(voxelmorph.nn.modules.SpatialTransformer(), arrays)


def build_monai(task: Task, arrays: Arrays) -> Candidate:
    return _build_module(_import_monai().networks.blocks.Warp(), arrays)


def _build_module(module: torch.nn.Module, arrays: Arrays) -> Candidate:
    """Both take images and fields `(batch, channels, *spatial)`, the field in voxels."""
    image, field, cotangent = (_channels_first(arrays[name]) for name in ("image", "field", "cotangent"))
    return Candidate(differentiate(module, image, field, cotangent), export_first)


def build_interpol(task: Task, arrays: Arrays) -> Candidate:
    import interpol

    image, cotangent = (_channels_first(arrays[name]) for name in ("image", "cotangent"))
    field = torch.from_numpy(arrays["field"])

    def warp(image: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
        grid = interpol.add_identity_grid(field)
        return interpol.grid_pull(image, grid, interpolation=1, bound="replicate", extrapolate=True)

    def export(results: tuple) -> list[np.ndarray]:
        arrays = [np.asarray(result) for result in results]
        return [array if k == 1 else np.moveaxis(array, 1, -1) for k, array in enumerate(arrays)]

    return Candidate(differentiate(warp, image, field, cotangent), export)


def make_monai_loss(size: int):
    loss = _import_monai().losses.LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=size)
    return lambda fixed, moved: loss(moved.movedim(-1, 1), fixed.movedim(-1, 1))


def build_monai_integration(task: Task, arrays: Arrays) -> Candidate:
    integrate = _import_monai().networks.blocks.DVF2DDF(num_steps=7, padding_mode="border")
    field = _channels_first(arrays["field"])

    @torch.no_grad()
    def run() -> tuple:
        return (integrate(field),)

    return Candidate({task.modes[0]: run}, export_first)


def build_voxelmorph_integration(task: Task, arrays: Arrays) -> Candidate:
    import voxelmorph

    integrate = voxelmorph.nn.modules.IntegrateVelocityField(steps=7)
    field = _channels_first(arrays["field"])

    @torch.no_grad()
    def run() -> tuple:
        return (integrate(field),)

    return Candidate({task.modes[0]: run}, export_first)


def _channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).movedim(-1, 1).contiguous()


def _import_monai():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai
        import monai.losses
        import monai.networks.blocks
    return monai


OFFERS = {
    "warp": [
        Offer("VoxelMorph SpatialTransformer", build_voxelmorph, "zero outside"),
        Offer("MONAI Warp", build_monai),
        Offer("torch-interpol", build_interpol),
    ],
    "lncc": [Offer("MONAI LNCC", build_lncc(make_monai_loss, sizes=(9,)))],
    "gaussian": [],
    "exponentiate": [
        Offer("VoxelMorph IntegrateVelocityField", build_voxelmorph_integration, "zero outside"),
        Offer("MONAI DVF2DDF", build_monai_integration),
    ],
}
