"""PyTorch's custom operations `keramorph::...` on CUDA tensors: Triton kernels, and what fits none of them portable.

Imported when the first CUDA tensor turns up and Triton is there. Like their twins on CPUs (`torch_operations.py`) these
functions know nothing of gradients; the rules stand in `torch.py`.
"""

from __future__ import annotations

import contextlib
import math
import struct
from functools import lru_cache
from typing import Any

import torch
import triton.language as tl

from keramorph._typing import Array
from keramorph.backend import native, portable, triton_filters, triton_lncc, triton_sampling
from keramorph.backend.rule import Rule
from keramorph.errors import OptionError

_INDEX_LIMIT = 1 << 31
_AXIS_LIMIT = 1 << 29
_LEAST_CAPABILITY = (7, 0)
"""Triton compiles for Volta and later."""

_LOCAL_CORRELATION = 2
_NOISY_SQUARE = 2
_FLOOR = 1e-5
"""Under the local variances of a standardised image, as in `losses/lncc.py`."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def sample(image: Array, coordinates: Array, plus: bool, *fields: Any) -> Array:
    """Values at the coordinates, in the image's data type; with `plus`, the coordinates are added."""
    rule = Rule(*fields)
    if not _fits(image, coordinates, rule):
        values = portable.sample(_xp(), image, coordinates, rule)
        return coordinates + values if plus else values
    if rule.order == 0:
        return _copy_nearest(image, coordinates, rule, plus)
    as_read = _as_read(image, coordinates, rule.order)
    values = as_read.new_empty((*coordinates.shape[:-1], image.shape[-1]))
    _launch_sample(as_read, coordinates, rule, values=values, plus=plus)
    return portable.cast_like(_xp(), values, image)


def sample_with_derivative(image: Array, coordinates: Array, *fields: Any) -> tuple[Array, Array]:
    """Values at the coordinates, and their derivative to the coordinates."""
    rule = Rule(*fields)
    if rule.order == 0 or not _fits(image, coordinates, rule):
        return portable.sample_with_derivative(_xp(), image, coordinates, rule)
    as_read = _as_read(image, coordinates, rule.order)
    values = as_read.new_empty((*coordinates.shape[:-1], image.shape[-1]))
    slopes = coordinates.new_empty((*values.shape, coordinates.shape[-1]))
    _launch_sample(as_read, coordinates, rule, values=values, derivative=slopes)
    return portable.cast_like(_xp(), values, image), slopes


def pull_back(image: Array, coordinates: Array, cotangent: Array, *fields: Any) -> Array:
    """Gradient of a sample to its coordinates."""
    rule = Rule(*fields)
    if rule.order == 0 or cotangent.dtype not in _FLOATS or not _fits(image, coordinates, rule):
        return portable.pull_back(_xp(), image, coordinates, cotangent, rule)
    as_read = _as_read(image, coordinates, rule.order)
    gradient = torch.empty_like(coordinates, memory_format=torch.contiguous_format)
    _launch_sample(as_read, coordinates, rule, cotangent=cotangent.contiguous(), derivative=gradient)
    return gradient


def splat(values: Array, coordinates: Array, shape: list[int], *fields: Any) -> Array:
    """Adjoint of a sample to its image. The order of the additions, and so the last bits, vary from run to run."""
    rule = Rule(*fields)
    sizes = (values.shape[0], *shape, values.shape[-1])
    ordered = torch.are_deterministic_algorithms_enabled()  # PyTorch's own scatter then finds a fixed order, or raises
    if ordered or values.shape[:-1] != coordinates.shape[:-1] or not _fits(values, coordinates, rule, sizes):
        return portable.splat(_xp(), values, coordinates, tuple(shape), rule)
    # Half floats are added up in single precision.
    image = torch.zeros(sizes, dtype=coordinates.dtype, device=values.device)
    values_as_read = _as_read(values, coordinates, rule.order or 1)
    coordinates = coordinates.contiguous()
    grid, numbers, options = _lay_out(sizes, coordinates, rule)
    with on_device_of(values):
        triton_sampling.splat[grid](values_as_read, coordinates, image, *numbers, ORDER=rule.order, **options)
    return portable.cast_like(_xp(), image, values)


def window_sum(array: Array, size: list[int]) -> Array:
    """Sums over boxes around each voxel, zero outside."""
    if not _is_volume(array):
        summed = portable.window_sum(_xp(), array, tuple(size))
        return summed.clone() if summed is array else summed  # an operation must not return what it was given
    with on_device_of(array):
        return triton_filters.sum_windows(array.contiguous(), tuple(size))


def gaussian(array: Array, sigma: list[float]) -> Array:
    """Gaussian smoothing, truncated at 4 sigma, edges reflected."""
    if not _is_volume(array):
        smoothed = portable.gaussian(_xp(), array, tuple(sigma))
        return smoothed.clone() if smoothed is array else smoothed
    with on_device_of(array):
        return triton_filters.smooth(array.contiguous(), tuple(sigma))


def prefilter(array: Array, boundary: str, adjoint: bool) -> Array:
    """B-spline coefficients, or the adjoint, the portable way: ten additions of whole volumes."""
    function = portable.from_coefficients if adjoint else portable.to_coefficients
    return function(_xp(), array, Rule(3, boundary))  # type: ignore[arg-type]


def lncc(
    fixed: Array, moved: Array, weight: Array, *, size: tuple[int, ...], floor: float, least: float
) -> tuple[Array, Array, Array] | None:
    """Squared local correlation of two images, as `Engine.lncc` says; None where the kernel does not fit."""
    if not (_are_alike(fixed, moved) and _are_alike(moved, weight)):
        return None
    images = (fixed.contiguous(), moved.contiguous(), weight.contiguous())
    with on_device_of(moved):
        similarity, derivative, curvature = triton_lncc.compare(
            images, size=size, form=_NOISY_SQUARE, floor=floor, least=least, maps=4
        )
    return None if derivative is None or curvature is None else (similarity, derivative, curvature)


def compare(fixed: Array, moved: Array, measure: int, extent: int, dilation: int, variant: bool) -> Array:
    """Mean local correlation of each pair in boxes of `extent` voxels, squared as the variant says."""
    return _compare_locally(fixed, moved, (measure, extent, variant), maps=0)[0]


def compare_with_derivative(
    fixed: Array, moved: Array, measure: int, extent: int, dilation: int, variant: bool
) -> tuple[Array, Array]:
    """The same with its derivative to the moved image."""
    values, derivative, _ = _compare_locally(fixed, moved, (measure, extent, variant), maps=3)
    return values, derivative


def _compare_locally(fixed: Array, moved: Array, terms: tuple[int, int, bool], *, maps: int) -> tuple:
    measure, extent, variant = terms
    if measure != _LOCAL_CORRELATION or not _are_alike(fixed, moved):
        raise OptionError(
            "On a GPU there is a kernel for the local correlation of two images of one shape and data type, float32 or "
            f"float64. Received: measure={measure}, shapes {tuple(fixed.shape)} and {tuple(moved.shape)}. "
            "Set KERAMORPH_KERNELS=off for others."
        )
    with on_device_of(moved):
        return triton_lncc.compare(
            (fixed.contiguous(), moved.contiguous(), None),
            size=(extent,) * (moved.ndim - 2), form=0 if variant else 1, floor=_FLOOR, least=0.0, maps=maps,
        )  # fmt: skip


def _are_alike(one: Array, other: Array) -> bool:
    return _is_volume(one) and one.ndim <= 5 and one.shape == other.shape and one.dtype == other.dtype


def on_device_of(array: Array) -> contextlib.AbstractContextManager:
    """Make the tensor's GPU the current one, on which Triton launches; no GPU where kernels are interpreted."""
    return torch.cuda.device_of(array) if array.is_cuda else contextlib.nullcontext()


def _fits(image: Array, coordinates: Array, rule: Rule, sizes: tuple | None = None) -> bool:
    """Whether there is a kernel for these tensors, whose shapes agree: what does not, the portable way explains."""
    sizes = tuple(image.shape) if sizes is None else sizes
    ndim = len(sizes) - 2
    types = coordinates.dtype in (torch.float32, torch.float64) and (
        image.dtype != torch.float64 or coordinates.dtype == torch.float64
    )
    whole = coordinates.ndim == ndim + 2 if rule.relative else coordinates.ndim >= 2
    agree = coordinates.shape[-1] == ndim and coordinates.shape[0] == sizes[0]
    filled = math.prod(sizes) > 0 and coordinates.numel() > 0 and max(sizes) < _AXIS_LIMIT
    fits = 1 <= ndim <= 3 and types and whole and agree and filled and not image.is_complex()
    return fits and _is_able(coordinates.device)


def _is_volume(array: Array) -> bool:
    floats = array.dtype in (torch.float32, torch.float64)
    return floats and array.numel() > 0 and array.ndim > 2 and _is_able(array.device)


@lru_cache(maxsize=64)
def _is_able(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY


def _as_read(image: Array, coordinates: Array, order: int) -> Array:
    """The image in the type in which a kernel reads it: its own, or that of the coordinates."""
    names = str(image.dtype).removeprefix("torch."), str(coordinates.dtype).removeprefix("torch.")
    return image.to(getattr(torch, native.reading_type(*names, order))).contiguous()


def _launch_sample(
    image: Array,
    coordinates: Array,
    rule: Rule,
    *,
    values: Array | None = None,
    derivative: Array | None = None,
    cotangent: Array | None = None,
    plus: bool = False,
) -> None:
    coordinates = coordinates.contiguous()
    grid, numbers, options = _lay_out(tuple(image.shape), coordinates, rule)
    wanted = "gradient" if values is None else "values" if derivative is None else "both"
    # A pointer that is not used is some other.
    arrays = [coordinates if a is None else a for a in (cotangent, values, derivative)]
    with on_device_of(image):
        triton_sampling.sample[grid](
            image, coordinates, *arrays, _bits_of(rule.fill_value), *numbers,
            WANTED=wanted, PLUS=plus, SMOOTH=rule.gradient == "smooth", ORDER=rule.order, **options,
        )  # fmt: skip


def _copy_nearest(image: Array, coordinates: Array, rule: Rule, plus: bool) -> Array:
    bits = image.contiguous().view(_BITS[image.element_size()])
    values = bits.new_empty((*coordinates.shape[:-1], image.shape[-1]))
    coordinates = coordinates.contiguous()
    grid, numbers, options = _lay_out(tuple(image.shape), coordinates, rule)
    fill = _bits_in(rule.fill_value, image.dtype) if rule.boundary == "constant" else 0
    with on_device_of(image):
        triton_sampling.copy_nearest[grid](bits, coordinates, values, fill, *numbers, **options)
    values = values.view(image.dtype)
    return coordinates + values if plus else values


def _lay_out(sizes: tuple, coordinates: Array, rule: Rule) -> tuple[tuple, tuple, dict[str, Any]]:
    """Grid of programs, sizes and compile-time constants for an image of these sizes, read at the coordinates.

    Tiles hold 512 numbers, four per thread of four warps, whose loads are on their way together: that hides their
    latency at 64 to 72 registers per thread (sm_90), or half of the threads that a GPU can hold. Twice as many taps
    would spill, so that cubic tiles are smaller. The channels of a voxel, up to 32, are read together. Nothing is tuned
    at run time: each candidate would take a second to compile, for every kind of call.
    """
    *image, channels = sizes[1:]
    ndim = len(image)
    count = math.prod(coordinates.shape[1:-1])
    field = coordinates.shape[1:-1] if rule.relative else (1,)
    tile = 1 << (min(channels, 32) - 1).bit_length()
    positions = (256 if rule.order == 3 else 512) // tile
    wide = max(math.prod(sizes[1:]), (count + positions) * channels * ndim) >= _INDEX_LIMIT
    grid = (sizes[0] * -(-count // positions),)
    numbers = (*(1,) * (3 - ndim), *image, *((1,) * 3 + tuple(field))[-2:], count)
    options = {
        "RELATIVE": rule.relative, "BOUNDARY": rule.boundary, "NDIM": ndim, "CHANNELS": channels,
        "POSITIONS": positions, "TILE": tile, "INDEX": tl.int64 if wide else tl.int32, "num_warps": 4,
        "enable_fp_fusion": True,  # named because Triton's default is about to change
    }  # fmt: skip
    return grid, numbers, options


def _bits_of(value: float) -> int:
    """Bits of a double, as which a kernel is handed a number that must not lose digits."""
    return struct.unpack("<q", struct.pack("<d", value))[0]


@lru_cache(maxsize=64)
def _bits_in(value: float, dtype: torch.dtype) -> int:
    """Bits of a fill value as the data type holds it, cast as the portable sampler casts it."""
    name = str(dtype).removeprefix("torch.")
    held = torch.tensor([_xp().scalar(value, name)], dtype=dtype)
    return int(held.view(_BITS[dtype.itemsize]).item())


def _xp() -> Any:
    from keramorph.backend.torch import xp  # which may be on its way to import this file

    return xp
