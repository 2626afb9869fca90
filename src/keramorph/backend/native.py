"""The native extension: found or not, and why; how many threads it has; what of a call its kernels can do.

Absent, it is done without, quietly. Present but broken, it raises with the cause: nobody should wonder for a day why
registration takes ten times as long. `KERAMORPH_KERNELS=off` turns it off.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from keramorph._typing import Boundary
from keramorph.backend.rule import Rule
from keramorph.backend.spline import EDGE
from keramorph.errors import OptionError

STAMP = "4"
"""Changes with what the extension is told and tells: an extension with another one was built from other sources.

CMake reads this line. Change it with `native/bindings/python.cpp`, `native/core/types.hpp` or `functions.inc`.
"""

BOUNDARIES: tuple[str, ...] = get_args(Boundary)
"""The position of a boundary's name is its number in the extension."""

MAX_ELEMENTS = 2**30 - 64
"""Of an array that a kernel can count; `max_elements` in `native/core/types.hpp`."""

RECYCLED = 1 << 20
"""Outputs of this many bytes and more come from the extension's pool: fresh memory costs more than most kernels."""

_NAME = "keramorph._native"
_REPAIR = "Rebuild it with `make native` in a clone, else reinstall Keramorph, or set KERAMORPH_KERNELS=off."
FLOATS = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}
_BYTES = {
    "bool": 4, "int8": 4, "uint8": 4, "int16": 5, "uint16": 5, "int32": 6, "uint32": 6, "int64": 7, "uint64": 7,
    "float16": 5, "bfloat16": 5, "float32": 6, "float64": 7,
}  # fmt: skip


@lru_cache(maxsize=1)
def extension() -> ModuleType | None:
    """The extension, ready to use; None where it was turned off or not built.

    Raises:
        OptionError: If `KERAMORPH_KERNELS` is neither `on` nor `off`, or another of its variables is not understood.
        ImportError: If the extension is there and does not work.
    """
    if _is_turned_off() or importlib.util.find_spec(_NAME) is None:
        return None
    try:
        module = importlib.import_module(_NAME)
    except ImportError as problem:
        raise ImportError(
            f"The native extension was built, so it was expected to load. Received: {problem}. {_REPAIR}"
        ) from problem
    if module.stamp != STAMP:
        raise ImportError(
            f"The native extension was built from other sources than this package, whose stamp is {STAMP!r}. "
            f"Received: stamp={module.stamp!r}, from {module.__file__}. {_REPAIR}"
        )
    try:
        module.instructions()
    except ValueError as problem:
        raise OptionError(str(problem)) from None
    module.set_threads(threads())
    return module


@lru_cache(maxsize=1)
def has_triton() -> bool:
    """Whether PyTorch's tensors on GPUs can have kernels: Triton is installed, which this does not import.

    Where TensorFlow is loaded they cannot: both carry an LLVM of their own, and the second one ends the process.
    """
    return not _is_turned_off() and "tensorflow" not in sys.modules and importlib.util.find_spec("triton") is not None


@contextmanager
def suspended() -> Iterator[None]:
    """Keep kernels out of what TensorFlow traces in the block: of a graph that is to run without Keramorph.

    A SavedModel, and what PyTorch exports, has none in any case; ONNX and OpenVINO are made of a function.
    """
    global _suspended
    before, _suspended = _suspended, True
    try:
        yield
    finally:
        _suspended = before


def is_suspended() -> bool:
    """Whether kernels are kept out just now."""
    return _suspended


def library(name: str) -> str | None:
    """Shared library of another binding (`"xla"`, `"tensorflow"`) beside the extension; None without it."""
    module = extension()
    if module is None:
        return None
    for suffix in (".so", ".dll", ".dylib"):
        path = Path(str(module.__file__)).parent / f"_{name}{suffix}"
        if path.exists():
            return str(path)
    return None


def describe() -> str:
    """Which kernels are in use, and why not the native ones where they are not."""
    try:
        module = extension()
    except ImportError as problem:
        return f"broken: {problem}"
    if module is not None:
        return f"native ({module.instructions()})"
    if _is_turned_off():
        return "portable (KERAMORPH_KERNELS=off)"
    return "portable (the native extension was not built: no C++ compiler when Keramorph was installed)"


def set_threads(count: int | None) -> None:
    """Let kernels use `count` threads; None for the default: `KERAMORPH_THREADS`, or all cores."""
    global _threads
    _threads = count
    module = extension()
    if module is not None:
        module.set_threads(threads())


def release_memory() -> None:
    """Free the outputs that wait to be recycled."""
    module = extension()
    if module is not None:
        module.release_memory()


def threads() -> int:
    """Number of threads that kernels use."""
    if _threads is not None:
        return _threads
    named = os.environ.get("KERAMORPH_THREADS", "")
    if named.isdigit() and int(named):
        return int(named)
    # The cores this process may use, where the system can tell: a container often has fewer than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads: int | None = None
_suspended = False


def reading_type(image: str, coordinates: str, order: int) -> str:
    """The data type in which a kernel reads an image: its own, or that of the coordinates, to which it is then cast.

    A nearest voxel is copied whatever it is; a kernel that adds up passes an order of 1 instead of 0.
    """
    halves = ("float16", "bfloat16") if order == 1 and coordinates == "float32" else ()
    return image if order == 0 or image in halves else coordinates


@lru_cache(maxsize=512)
def go_together(types: tuple[str, str], shapes: tuple[tuple, tuple], relative: bool) -> bool:
    """Whether types and shapes of image and coordinates are a kernel's, as far as known: open sizes are None."""
    image, coordinates = shapes
    ndim = len(image) - 2
    return (
        1 <= ndim <= 3
        and (types[0] in FLOATS or types[0] in _BYTES)
        and types[1] in ("float32", "float64")
        and len(coordinates) >= 2
        and (not relative or len(coordinates) == len(image))
        and coordinates[-1] in (None, ndim)
        and (None in (coordinates[0], image[0]) or coordinates[0] == image[0])
        and is_countable(image)
        and is_countable(coordinates)
    )


def is_countable(shape: Sequence[int | None]) -> bool:
    """Whether the sizes that are known are those of an array that a kernel can index, and not empty."""
    known = [n for n in shape if n is not None]
    return 0 not in known and math.prod(known) <= MAX_ELEMENTS


def shape_of_coefficients(shape: Sequence, boundary: str, *, adjoint: bool = False) -> tuple:
    """Shape of the B-spline coefficients of an image, or with `adjoint` that of the image; open sizes are None."""
    edge = (-2 if adjoint else 2) * EDGE if boundary == "nearest" else 0
    return (shape[0], *(None if n is None else n + edge for n in shape[1:-1]), shape[-1])


@lru_cache(maxsize=512)
def plan_sampling(types: tuple[str, str], shapes: tuple[tuple, tuple], rule: tuple) -> Any | None:
    """What a sampler's kernel is told: None where there is no kernel for it.

    Args:
        types: Data types of the image, as `reading_type` gives it, and of the coordinates.
        shapes: Their shapes.
        rule: The fields of a `Rule`.
    """
    module = extension()
    order, boundary, fill_value, relative, gradient = rule
    paired = (types[0] in FLOATS and "float64" not in types) or types == ("float64", "float64")
    codes = FLOATS if paired else _BYTES
    if module is None or types[0] not in codes or types[1] not in ("float32", "float64"):
        return None
    fill_bits = 0
    if order == 0 and boundary == "constant":
        try:
            fill_bits = _to_bits(fill_value, types[0])
        except (ValueError, OverflowError, struct.error):  # the portable way knows what such a value means
            return None
    numbers = (order, BOUNDARIES.index(boundary), fill_value, fill_bits, relative, gradient == "smooth")
    try:
        return module.Sampling(*numbers, codes[types[0]], FLOATS[types[1]], *map(list, shapes))
    except ValueError:
        return None


@lru_cache(maxsize=512)
def plan_volume(dtype: str, shape: tuple) -> Any | None:
    """What a filter's kernel is told: None where there is no kernel for it."""
    module = extension()
    if module is None or dtype not in ("float32", "float64"):
        return None
    try:
        return module.Volume(FLOATS[dtype], list(shape))
    except ValueError:
        return None


def fields_of(rule: Rule) -> tuple:
    """The fields of a rule in their order, as `plan_sampling` takes them."""
    return rule.order, rule.boundary, rule.fill_value, rule.relative, rule.gradient


def _is_turned_off() -> bool:
    named = os.environ.get("KERAMORPH_KERNELS", "on")
    if named not in ("on", "off"):
        raise OptionError(
            f"The environment variable KERAMORPH_KERNELS must be `on` or `off`. Received: KERAMORPH_KERNELS={named!r}. "
            "Unset it to use the native kernels where they were built."
        )
    return named == "off"


def _to_bits(value: float, dtype: str) -> int:
    """Bits of a fill value as the data type holds it, cast as the portable sampler casts it."""
    if dtype == "bool":
        return int(int(value) >= 0.5)
    if dtype == "bfloat16":
        if not math.isfinite(value):
            raise ValueError(value)
        bits = int.from_bytes(struct.pack("<f", value), "little")
        return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    if dtype in FLOATS:
        form = {"float16": "<e", "float32": "<f", "float64": "<d"}[dtype]
        return int.from_bytes(struct.pack(form, value), "little")
    bits = int(dtype.removeprefix("u").removeprefix("int"))
    return int.from_bytes(int(value).to_bytes(bits // 8, "little", signed=not dtype.startswith("u")), "little")
