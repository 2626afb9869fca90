"""The primitive contract, and the engine that fulfils it for the arrays at hand.

An engine works on one framework's arrays and has the primitives

- `sample(image, coordinates)`, and `sample_with_derivative`: read an image between its voxels;
- `splat(values, coordinates, shape=)`: the adjoint of `sample`, to the image;
- `window_sum(array, size=)`: sums over boxes around each voxel, zero outside;
- `gaussian(array, sigma=)`: Gaussian smoothing, edges reflected;
- `compare(fixed, moved, comparison, portably=)`: how alike two images are, where their formula is given along;
- `map_blocks(function, *arrays, halo=)`: arithmetic voxel by voxel, in blocks where nothing else would fuse it;

with `xp`, a small array namespace of NumPy's names. All engines give the same numbers. `portable.py` holds each
primitive once; a module per framework binds it, with gradient rules and kernels; `native.py` finds the kernels in C++,
and `triton_*.py` are those for PyTorch on GPUs.
"""

from __future__ import annotations

from typing import Any

from keramorph._typing import Array
from keramorph.backend.comparison import Comparison
from keramorph.backend.engine import Engine
from keramorph.backend.rule import Rule
from keramorph.errors import ArrayTypeError, OptionError

ENGINES = ("numpy", "jax", "torch", "tensorflow")
_ROOTS = {"torch": "torch", "jax": "jax", "jaxlib": "jax", "tensorflow": "tensorflow", "numpy": "numpy"}

__all__ = ["ENGINES", "Comparison", "Engine", "Rule", "describe", "of", "set_threads", "use"]


def of(*arrays: Array) -> Engine:
    """The engine for these arrays, chosen by their own type; NumPy arrays go along with any one framework.

    Args:
        *arrays: NumPy arrays, or tensors of TensorFlow, JAX or PyTorch, traced and symbolic ones too.

    Returns:
        The engine: the framework's if one of the arrays belongs to one, else NumPy's.

    Raises:
        ArrayTypeError: If the arrays belong to two frameworks.

    Example:
        >>> import numpy as np
        >>> of(np.zeros(3)).name
        'numpy'
    """
    names = {name for name in map(_framework, arrays) if name not in (None, "numpy")}
    if len(names) > 1:
        raise ArrayTypeError(
            f"Arrays of one framework were expected. Received: {sorted(str(n) for n in names)}. "
            "Convert all of them to one, for example by way of NumPy."
        )
    return use(str(names.pop()) if names else "numpy")


def use(name: str) -> Engine:
    """The engine of this name, one of `ENGINES`.

    Args:
        name: `"numpy"`, `"jax"`, `"torch"` or `"tensorflow"`.

    Returns:
        The engine; its framework is imported by this.

    Raises:
        OptionError: If there is no such engine, or its framework is not installed.

    Example:
        >>> use("numpy").name
        'numpy'
    """
    if name in _loaded:
        return _loaded[name]
    if name not in ENGINES:
        raise OptionError(f"`engine` must be one of {ENGINES}. Received: engine={name!r}. Pass one of those.")
    try:
        _loaded[name] = _load(name)
    except ModuleNotFoundError as problem:
        if problem.name != name:
            raise
        raise OptionError(
            f"The engine needs its framework, which is not installed. Received: engine={name!r}. "
            f"Install it with `pip install 'keramorph[{name}]'`."
        ) from problem
    return _loaded[name]


def set_threads(count: int | None) -> None:
    """Let the native kernels, and the NumPy engine without them, use so many threads; results do not depend on it.

    Args:
        count: Number of threads; None for the default: the environment variable `KERAMORPH_THREADS`, or all cores.

    Raises:
        OptionError: If the number is below 1.

    Example:
        >>> set_threads(None)
    """
    if count is not None and count < 1:
        raise OptionError(f"At least one thread is needed. Received: count={count}. Pass 1 or more, or None for all.")
    from keramorph.backend import native

    native.set_threads(count)


def release_memory() -> None:
    """Hand memory that native kernels keep for their next outputs back to the system.

    They keep a dozen of the last outputs that have died, whatever their size: what fitted a level of a search, or was
    needed once, is of no use to the next.

    Example:
        >>> release_memory()
    """
    from keramorph.backend import native

    native.release_memory()


def describe() -> dict[str, Any]:
    """What is active: per engine the version of its framework (None if absent), the kernels and the threads.

    The kernels are `native`, with the instruction set they run on, or `portable`, with the reason.

    Returns:
        Dictionary with the keys `engines`, `kernels` and `threads`.

    Example:
        >>> sorted(describe())
        ['engines', 'kernels', 'threads']
    """
    from keramorph.backend import native

    engines = {name: _version(name) for name in ENGINES}
    return {"engines": engines, "kernels": native.describe(), "threads": native.threads()}


_loaded: dict[str, Engine] = {}


def _load(name: str) -> Engine:
    """Import the binding, by statements that torch.compile can follow where it meets the first call."""
    if name == "jax":
        from keramorph.backend.jax import engine as jax_engine

        return jax_engine
    if name == "torch":
        from keramorph.backend.torch import engine as torch_engine

        return torch_engine
    if name == "tensorflow":
        from keramorph.backend.tensorflow import engine as tensorflow_engine

        return tensorflow_engine
    from keramorph.backend.numpy import engine as numpy_engine

    return numpy_engine


def _framework(array: Array) -> str | None:
    for kind in type(array).__mro__:
        name = _ROOTS.get(kind.__module__.partition(".")[0])
        if name:
            return name
    return None


def _version(name: str) -> str | None:
    import importlib.metadata  # 25 ms that only this needs

    for distribution in (name, f"{name}-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
