"""What a framework's module hands to the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.plan import Task

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """Functions without arguments on inputs that are ready, in the layout that the library likes best.

    Args:
        modes: From a mode of the task to the function that is timed; it returns a tuple of results, and nothing of it
            is still being computed when it returns.
        export: Brings such a tuple to NumPy arrays, channels last, one column per voxel and component.
    """

    modes: dict[str, Callable[[], tuple]]
    export: Callable[[tuple], list[np.ndarray]]


@dataclass(frozen=True)
class Offer:
    """A candidate that is not made yet: making it may fail where a library is absent.

    Args:
        name: As in the tables.
        build: Makes the candidate from the task and its arrays.
        note: What a reader must know about it.
    """

    name: str
    build: Callable[[Task, Arrays], Candidate]
    note: str = ""


def each_number(
    task: Task, make: Callable[[int], Callable[[], tuple]], *, only: tuple[int, ...] = ()
) -> dict[str, Callable[[], tuple]]:
    """Make a function for each mode from the number in its name ("window 9"), for some numbers where `only` says so."""
    numbers = {mode: int(next(word for word in mode.split() if word.isdigit())) for mode in task.modes}
    return {mode: make(number) for mode, number in numbers.items() if not only or number in only}


def export_last(results: tuple) -> list[np.ndarray]:
    """Export results that have their channels last already."""
    return [np.asarray(result) for result in results]


def export_first(results: tuple) -> list[np.ndarray]:
    """Export results `(batch, channels, *spatial)`; what has no spatial axes stays."""
    arrays = [np.asarray(result) for result in results]
    return [np.moveaxis(array, 1, -1) if array.ndim > 2 else array for array in arrays]


def make_identity(sizes: tuple[int, ...]) -> np.ndarray:
    """Index of each voxel, `(*sizes, ndim)`."""
    return np.stack(np.meshgrid(*(np.arange(n, dtype="float32") for n in sizes), indexing="ij"), axis=-1)
