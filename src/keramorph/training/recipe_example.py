"""A recipe with all keys, each with what it means: written from the docstrings of the sections, so that it is true."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

from keramorph.io.settings import read_meanings
from keramorph.training.recipe import SECTIONS, Recipe

_WIDTH = 100

_EXAMPLE: dict[str, Any] = {
    "network": {"class": "VoxelMorph", "mode": "velocity"},
    "preparation": {"shape": [160, 192], "spacing": 1.0, "labels": [1, 2, 3]},
    "data": {"folder": "images/train", "labels": "labels/train"},
    "validation": {"folder": "images/validation", "labels": "labels/validation"},
    "similarity": {"class": "LNCC", "size": 9},
    "regularity": "Diffusion",
    "options": {"labels": 0.5},
    "training": {"epochs": 100, "batch_size": 4, "learning_rate": 1e-4, "seed": 0},
}
"""What differs from the defaults."""

_INSTEAD: dict[str, Any] = {
    "model": "pretrained.keras",
    "table": "pairs.csv",
    "bids": "study/",
    "align": "affine",
    "cache": "prepared/",
    "steps": 200,
    "ema": 0.999,
    "patience": 20,
    "checkpoint_steps": 100,
    "synthesis": {"num_labels": 16},
    "maps": "label-maps/",
    "affine": {"translation": 8.0},
    "scored": [1, 2, 3],
}
"""What keys that are left out could say."""

_ORDER = ("network", "model", "preparation", "data", "validation", "similarity", "regularity", "options", "training")


def format_example() -> str:
    """Return a recipe in YAML: keys that are needed or differ from their defaults, and all others as comments."""
    head = [
        "# A recipe for `keramorph train`. Keys behind `#` are left out here: they show their defaults, or what they",
        "# could say instead. Paths count from the folder of this file.",
        "",
    ]
    meanings = read_meanings(Recipe)
    lines = []
    for name in _ORDER:
        lines += [*_comment(meanings[name], ""), *_format_key(name, Recipe, _EXAMPLE, ""), ""]
    return "\n".join([*head, *lines])


def _format_section(kind: Any, given: dict[str, Any], indent: str) -> list[str]:
    meanings = read_meanings(kind)
    return [
        line
        for one in dataclasses.fields(kind)
        for line in (*_comment(meanings[one.name], indent), *_format_key(one.name, kind, given, indent))
    ]


def _format_key(name: str, kind: Any, given: dict[str, Any], indent: str) -> list[str]:
    """Lines of a key: with keys of its own, with a value, or as a comment with its default."""
    if name in given and name == "validation":
        inner = [f"{indent}  {key}: {_format_value(value)}" for key, value in given[name].items()]
        return [f"{indent}# The keys are those of `data`.", f"{indent}{name}:", *inner]
    if name in given and name in SECTIONS:
        return [f"{indent}{name}:", *_format_section(SECTIONS[name], given[name], indent + "  ")]
    if name in given:
        return [f"{indent}{name}: {_format_value(given[name])}"]
    if name == "synthesis":  # with all of its keys, though none is in force
        inner = _format_section(SECTIONS[name], _INSTEAD[name], indent + "  ")
        return [f"{indent}# {name}:", *(line if line.lstrip().startswith("#") else _hide(line) for line in inner)]
    default = _read_default(name, kind)
    return [f"{indent}# {name}: {_format_value(_INSTEAD.get(name, default))}"]


def _hide(line: str) -> str:
    bare = line.lstrip()
    return f"{line[: len(line) - len(bare)]}# {bare}"


def _read_default(name: str, kind: Any) -> Any:
    one = next(one for one in dataclasses.fields(kind) if one.name == name)
    return one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default


def _format_value(value: Any) -> str:
    """A value on one line of YAML."""
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    # Without a document's end mark, which PyYAML puts behind a value that stands alone.
    return yaml.safe_dump(plain, default_flow_style=True, width=1000, sort_keys=False).removesuffix("...\n").strip()


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent))]
