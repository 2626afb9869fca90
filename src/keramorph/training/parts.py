"""Parts of a recipe: a class of a package by its name, with arguments that a file can hold."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from keramorph._keras import keras
from keramorph.errors import OptionError
from keramorph.io.settings import check_settings, explain_name

Part = dict[str, Any]
"""The `class` of a part, where the key does not settle it, and its arguments."""

_BY_KERAS = frozenset({"self", "kwargs", "name", "dtype", "reduction"})


@dataclass(frozen=True)
class Shelf:
    """Where a key of a recipe finds its class.

    Args:
        package: Package of Keramorph, or `keras.optimizers`.
        classes: Those of it that the key takes; the first alone where the key settles the class.
        settled: Arguments that other keys of the recipe give.
    """

    package: str
    classes: tuple[str, ...]
    settled: tuple[str, ...] = ()

    def find(self, name: str) -> Any:
        """Return a class of the package."""
        room = keras.optimizers if self.package == "keras.optimizers" else importlib.import_module(self.package)
        return getattr(room, name)


def check_part(given: Any, shelf: Shelf, *, where: str) -> list[str]:
    """Return what is wrong with a part: its class, the names and the types of its arguments.

    Args:
        given: Name of the class, or a mapping of `class` and arguments.
        shelf: Where it is found.
        where: Path of the key.
    """
    name, arguments = _split(given, shelf)
    if name not in shelf.classes:
        if name is None:
            return [f"{where}: expected a `class`, one of {', '.join(shelf.classes)}. Received: {given!r}."]
        return [explain_name(name, shelf.classes, where=f"{where}: ", kind="class")]
    constructor = shelf.find(name).__init__
    taken = set(inspect.signature(constructor).parameters) - _BY_KERAS - set(shelf.settled)
    problems = []
    for key, value in arguments.items():
        if key in shelf.settled:
            problems.append(f"{where}.{key}: another key of the recipe says this. Leave it out here.")
        elif key not in taken:
            problems.append(explain_name(key, sorted(taken), where=f"{where}.", kind=f"argument of {name}"))
        else:
            problems += _check_argument(value, key, constructor, shelf, where=f"{where}.{key}")
    return problems


def build_part(given: Any, shelf: Shelf, *, where: str, implied: Mapping[str, Any] | None = None) -> Any:
    """Return the object that a part describes.

    Args:
        given: Name of the class, or a mapping of `class` and arguments.
        shelf: Where it is found.
        where: Path of the key, for errors.
        implied: Arguments that follow from elsewhere, where the class takes them and the part does not say them.

    Raises:
        OptionError: If the class cannot be made of these arguments.
    """
    name, arguments = _split(given, shelf)
    kind = shelf.find(str(name))
    taken = inspect.signature(kind.__init__).parameters
    known = {key: value for key, value in (implied or {}).items() if key in taken or key == "dtype"}
    made = {key: _build_inner(value, shelf, where, known) for key, value in arguments.items()}
    try:
        return kind(**{**known, **made})
    except (TypeError, ValueError) as problem:
        raise OptionError(f"{where}: {problem}") from problem


def _split(given: Any, shelf: Shelf) -> tuple[str | None, Mapping[str, Any]]:
    """Class and arguments of a part."""
    if isinstance(given, str):
        return given, {}
    settled = shelf.classes[0] if len(shelf.classes) == 1 else None
    return given.get("class", settled), {key: value for key, value in given.items() if key != "class"}


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and "class" in value


def _widen(shelf: Shelf) -> Shelf:
    """Where parts within a part are found: in all of the package."""
    names = importlib.import_module(shelf.package).__all__
    return Shelf(shelf.package, tuple(names))


def _check_argument(value: Any, key: str, constructor: Any, shelf: Shelf, *, where: str) -> list[str]:
    """What is wrong with a value; parts in it, or in a list, are checked as parts."""
    parts = value if isinstance(value, list) else [value]
    if any(map(_is_part, parts)):
        inner = _widen(shelf)
        return [problem for part in parts if _is_part(part) for problem in check_part(part, inner, where=where)]
    hint = get_type_hints(constructor).get(key)
    if hint is None:
        return []
    import pydantic

    try:
        _, problems = check_settings(hint, value)
    except pydantic.errors.PydanticSchemaGenerationError:  # an object: which it is, only the class itself can say
        return []
    return [f"{where}: {problem}" for problem in problems]


def _build_inner(value: Any, shelf: Shelf, where: str, implied: Mapping[str, Any]) -> Any:
    """A value of an argument, parts in it made."""
    if isinstance(value, list):
        return [_build_inner(one, shelf, where, implied) for one in value]
    if _is_part(value):
        return build_part(value, _widen(shelf), where=where, implied=implied)
    return value
