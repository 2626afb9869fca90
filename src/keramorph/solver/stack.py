"""Arrays of several pairs, one behind the other along their first axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from keramorph import backend
from keramorph._typing import Array

Setting = TypeVar("Setting")


def join(arrays: Sequence[Array]) -> Array:
    """One array of the entries of all; of one array that itself."""
    return arrays[0] if len(arrays) == 1 else backend.of(arrays[0]).xp.concatenate(list(arrays), axis=0)


def take(array: Array, places: Sequence[int]) -> Array:
    """Some entries of an array; of all of them that itself."""
    if list(places) == list(range(array.shape[0])):
        return array
    return join([array[place : place + 1] for place in places])


def apply_each(function: Callable[[Array, Setting], Array], array: Array, settings: Sequence[Setting]) -> Array:
    """`function(array, setting)` of each entry by its own setting, of all at once where they have the same one."""
    if all(setting == settings[0] for setting in settings):
        return function(array, settings[0])
    return join([function(array[k : k + 1], setting) for k, setting in enumerate(settings)])
