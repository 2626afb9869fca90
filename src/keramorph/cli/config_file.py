"""Parameters of a registration in a file: YAML, or the `config` of an earlier run's `summary.json`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from pathlib import Path
from typing import Any

from keramorph.errors import FileError, OptionError
from keramorph.solver import Config


def read_config(path: Path, base: Config) -> Config:
    """Return the parameters of a file, with those of `base` where it says nothing.

    Args:
        path: A YAML or JSON file of names and values, or of an entry `config` that holds them, as in `summary.json`.
        base: Parameters to start from.

    Raises:
        FileError: If the file is missing or is not YAML.
        OptionError: If a name is unknown or a value does not fit; all of them are told at once.
    """
    given = _load(path)
    given = given.get("config", given) if isinstance(given, dict) else given
    if not isinstance(given, dict):
        raise FileError(
            f"A config is a list of names and values. Received: {path.name!r}, which holds {type(given).__name__}. "
            "`keramorph register --print-config` shows one."
        )
    import pydantic  # 0.1 s that only this needs

    problems = [_explain_name(name) for name in given if name not in _names()]
    try:
        known = {name: value for name, value in given.items() if name in _names()}
        text = json.dumps({**dataclasses.asdict(base), **known}, default=str)
        config = pydantic.TypeAdapter(Config).validate_json(text, strict=True)
    except pydantic.ValidationError as found:
        problems += [_explain_value(error) for error in found.errors()]
    if problems:
        raise OptionError(f"The config {path.name!r} cannot be used. {' '.join(problems)}")
    return config


def format_config(config: Config) -> str:
    """Return the parameters as YAML, each with what it means."""
    import yaml

    meanings = _read_meanings()
    lines = []
    for name, value in dataclasses.asdict(config).items():
        lines += [f"# {meanings[name]}", yaml.safe_dump({name: value}).strip(), ""]
    return "\n".join(lines)


def _load(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        cause = " ".join(str(problem).split())
        raise FileError(
            f"A config in YAML or JSON was expected. Received: {str(path)!r} ({cause}). "
            "`keramorph register --print-config` shows one."
        ) from None


def _names() -> list[str]:
    return [field.name for field in dataclasses.fields(Config)]


def _explain_name(name: Any) -> str:
    close = difflib.get_close_matches(str(name), _names(), n=1)
    return f"{name}: there is no such parameter{f'; did you mean {close[0]}?' if close else '.'}"


def _explain_value(error: Any) -> str:
    """The parameter, what was expected and what came; a range's error, raised by `Config`, says all of it."""
    if not error["loc"]:
        return str(error["ctx"]["error"] if "ctx" in error else error["msg"])
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}. Received: {error['input']!r}."


def _read_meanings() -> dict[str, str]:
    """What the docstring says of each parameter, on one line."""
    text = (Config.__doc__ or "").partition("Args:")[2].partition("Raises:")[0]
    entries = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|\Z)", text + "\n", flags=re.MULTILINE | re.DOTALL)
    return {name: " ".join(meaning.split()) for name, meaning in entries}
