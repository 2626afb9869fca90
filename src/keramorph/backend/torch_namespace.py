"""PyTorch's side of the array namespace, and the names of its data types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from keramorph._typing import Array
from keramorph.backend.namespace import Namespace

NAMES = {kind: str(kind).removeprefix("torch.") for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
DTYPES = {name: kind for kind, name in NAMES.items()}


class _Namespace(Namespace):
    """NumPy's names over torch: axes are called `dim` there, and some functions differ in more than that."""

    def __init__(self) -> None:
        for name in ("reshape", "broadcast_to", "floor", "abs", "sqrt", "exp", "log", "sin", "cos", "tanh", "arctan2"):
            setattr(self, name, getattr(torch, name))
        for name in ("maximum", "minimum", "matmul", "einsum", "round"):
            setattr(self, name, getattr(torch, name))
        self.inv = torch.linalg.inv
        self.clip = torch.clamp

    def asarray(self, x: Any, *, dtype: str | None = None, like: Array | None = None) -> Array:
        device = like.device if isinstance(like, torch.Tensor) else None
        kind = None if dtype is None else getattr(torch, dtype)
        if isinstance(x, np.ndarray) and not x.flags.writeable:
            x = x.copy()  # torch would share it, and warn that it cannot keep it from being written
        return torch.as_tensor(x, dtype=kind, device=device)

    def dtype(self, x: Array) -> str:
        return NAMES[x.dtype]

    def cast(self, x: Array, dtype: str) -> Array:
        return x.to(getattr(torch, dtype))

    def arange(self, count: Any, *, dtype: str, like: Array | None = None) -> Array:
        return torch.arange(count, dtype=getattr(torch, dtype), device=None if like is None else like.device)

    def zeros(self, shape: Sequence[Any], *, dtype: str, like: Array | None = None) -> Array:
        return torch.zeros(tuple(shape), dtype=getattr(torch, dtype), device=None if like is None else like.device)

    def round_to(self, x: Array, dtype: str) -> Array:
        if dtype == "bool":
            return x >= 0.5
        limits = torch.iinfo(getattr(torch, dtype))
        return torch.clamp(torch.round(x), limits.min, limits.max).to(getattr(torch, dtype))

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        return x.permute(tuple(axes))

    def concatenate(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return torch.cat(tuple(arrays), dim=axis)

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return torch.stack(tuple(arrays), dim=axis)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return torch.where(condition, a, b)

    def sum(self, x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return torch.sum(x) if axis is None and not keepdims else torch.sum(x, dim=axis, keepdim=keepdims)

    def mean(self, x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return torch.mean(x) if axis is None and not keepdims else torch.mean(x, dim=axis, keepdim=keepdims)

    def max(self, x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return torch.amax(x, dim=() if axis is None else axis, keepdim=keepdims)

    def min(self, x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return torch.amin(x, dim=() if axis is None else axis, keepdim=keepdims)

    def argmin(self, x: Array, axis: int) -> Array:
        return torch.argmin(x, dim=axis)

    def cumsum(self, x: Array, axis: int) -> Array:
        return torch.cumsum(x, dim=axis)

    def take(self, x: Array, index: Array, axis: int) -> Array:
        return torch.index_select(x, axis, index)

    def pad(self, x: Array, widths: Sequence[tuple[int, int]]) -> Array:
        return torch.nn.functional.pad(x, [n for pair in reversed(list(widths)) for n in pair])

    def flip(self, x: Array, axes: Sequence[int]) -> Array:
        return torch.flip(x, tuple(axes)).contiguous()

    def gather_rows(self, rows: Array, index: Array) -> Array:
        return torch.index_select(rows, 0, index.reshape(-1)).reshape(*index.shape, rows.shape[-1])

    def scatter_add_rows(self, rows: Array, index: Array, values: Array) -> Array:
        return torch.index_add(rows, 0, index.reshape(-1), values.reshape(-1, rows.shape[-1]))

    def unstack(self, x: Array) -> tuple[Array, ...]:
        # One behind the other: arithmetic on every third number costs several times as much.
        return torch.movedim(x, -1, 0).contiguous().unbind(0)

    def stop_gradient(self, x: Array) -> Array:
        return x.detach()


xp = _Namespace()
