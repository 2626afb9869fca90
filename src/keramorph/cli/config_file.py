"""Parameters of a registration in a file: YAML, or the `config` of an earlier run's `summary.json`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from keramorph.errors import FileError, OptionError
from keramorph.io.settings import check_settings, explain_name, read_meanings, read_settings
from keramorph.solver import Config

_EXAMPLE = "keramorph register --print-config"


def read_config(path: Path, base: Config) -> Config:
    """Return the parameters of a file, with those of `base` where it says nothing.

    Args:
        path: A YAML or JSON file of names and values, or of an entry `config` that holds them, as in `summary.json`.
        base: Parameters to start from.

    Raises:
        FileError: If the file is missing or is not YAML.
        OptionError: If a name is unknown or a value does not fit; all of them are told at once.
    """
    given = read_settings(path, kind="config", example=_EXAMPLE)
    given = given.get("config", given)
    if not isinstance(given, dict):
        raise FileError(
            f"A config is a list of names and values. Received: {path.name!r}, which holds {type(given).__name__}. "
            f"`{_EXAMPLE}` shows one."
        )
    names = [field.name for field in dataclasses.fields(Config)]
    problems = [explain_name(name, names) for name in given if name not in names]
    known = {name: value for name, value in given.items() if name in names}
    config, wrong = check_settings(Config, {**dataclasses.asdict(base), **known})
    if problems + wrong:
        raise OptionError(f"The config {path.name!r} cannot be used. {' '.join(problems + wrong)}")
    return config


def format_config(config: Config) -> str:
    """Return the parameters as YAML, each with what it means."""
    import yaml

    meanings = read_meanings(Config)
    lines = []
    for name, value in dataclasses.asdict(config).items():
        lines += [f"# {meanings[name]}", yaml.safe_dump({name: value}).strip(), ""]
    return "\n".join(lines)
