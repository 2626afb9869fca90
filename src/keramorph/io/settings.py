"""Settings in files: YAML or JSON read, checked against a dataclass, and everything wrong with them said at once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keramorph.errors import FileError


def read_settings(path: Path, *, kind: str, example: str) -> dict[str, Any]:
    """Return what a file of names and values holds.

    Args:
        path: A YAML or JSON file.
        kind: What such a file is called.
        example: Command that shows one.

    Raises:
        FileError: If the file is missing, is not YAML, or holds something else.
    """
    import yaml

    try:
        given = yaml.load(path.read_text(encoding="utf-8"), Loader=_make_loader()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        cause = " ".join(str(problem).split())
        raise FileError(
            f"A {kind} in YAML or JSON was expected. Received: {str(path)!r} ({cause}). `{example}` shows one."
        ) from None
    if not isinstance(given, dict):
        raise FileError(
            f"A {kind} is a list of names and values. Received: {path.name!r}, which holds {type(given).__name__}. "
            f"`{example}` shows one."
        )
    return given


def check_settings(kind: Any, given: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return the dataclass that names and values make, and what is wrong with them: None if anything is.

    Args:
        kind: A dataclass, its fields dataclasses or plain types; or any type of pydantic's. One with
            `__pydantic_config__ = {"extra": "forbid"}` takes no other names.
        given: Names and values, as a file holds them.

    Returns:
        The object, and one sentence for each wrong value: where it is, what was expected, what came.
    """
    import pydantic  # 0.1 s that only this needs

    try:
        text = json.dumps(given, default=str)
        return pydantic.TypeAdapter(kind).validate_json(text, strict=True), []
    except pydantic.ValidationError as found:
        return None, _explain(found.errors(), given)


def explain_name(name: Any, names: Iterable[str], *, where: str = "", kind: str = "parameter") -> str:
    """Return the sentence about a name that is not known, with the nearest one that is.

    Args:
        name: What was given.
        names: What is known.
        where: Path in front of it, with a dot at its end.
        kind: What the names are names of.
    """
    names = list(names)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names) or 'none'}."
    return f"{where}{name}: there is no such {kind}{hint}"


def read_meanings(kind: type) -> dict[str, str]:
    """Return what the docstring of a class says of each argument, on one line."""
    text = (kind.__doc__ or "").partition("Args:")[2]
    # Up to the next section, which has less in front of it.
    text = re.split(r"^ {4}\w", text, maxsplit=1, flags=re.MULTILINE)[0]
    entries = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|\Z)", text + "\n", flags=re.MULTILINE | re.DOTALL)
    return {name: " ".join(meaning.partition("\n\n")[0].split()) for name, meaning in entries}


def _make_loader() -> Any:
    """PyYAML's safe loader, for which 1e-4 is a number too: by YAML 1.1 it wants 1.0e-4, and else takes a text."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def _explain(errors: list[Any], given: Any) -> list[str]:
    """A sentence for each place; a value that fits none of several types has an error for each of these."""
    places: dict[str, list[Any]] = {}
    for error in errors:
        places.setdefault(_name_place(error, given), []).append(error)
    return [_explain_place(place, found) for place, found in places.items()]


def _name_place(error: Any, given: Any) -> str:
    """Path of a wrong value. What pydantic appends, the type that it tried, is no part of what was given."""
    path: list[str] = []
    for step in error["loc"]:
        there = isinstance(given, list) and isinstance(step, int) and step < len(given)
        if not there and not (isinstance(given, dict) and step in given):
            break
        given = given[step]
        path.append(str(step))
    if error["type"] in ("missing", "missing_argument"):
        path.append(str(error["loc"][-1]))
    return ".".join(path)


def _explain_place(place: str, errors: list[Any]) -> str:
    error = errors[0]
    where = f"{place}: " if place else ""
    own = (error.get("ctx") or {}).get("error")
    if own is not None:  # raised by the class itself, which says all of it
        return f"{where}{own}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{where}this is missing."
    expected = " or ".join(dict.fromkeys(one["msg"].removeprefix("Input should be ") for one in errors))
    return f"{where}expected {expected}. Received: {error['input']!r}."
