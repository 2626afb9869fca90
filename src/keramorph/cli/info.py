"""`keramorph info`: what is installed, and what of it is used."""

from __future__ import annotations

import os

import typer

from keramorph.cli.command import DONE, guard

LIBRARIES = ("keramorph", "numpy", "scipy", "SimpleITK", "matplotlib", "keras")
UNCHOSEN = "not chosen: Keras' configuration decides, else what is installed (set KERAS_BACKEND to choose)"


@guard
def info() -> int:
    """Show versions, engines and what is active.

    No framework is imported for this: versions are those of the installed distributions.
    """
    import platform
    from importlib.metadata import version

    from keramorph import backend

    active = backend.describe()
    engines = active.pop("engines")
    _print_table("Versions", {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}})
    _print_table("Engines", {name: found or "not installed" for name, found in engines.items()})
    _print_table("Active", {**active, "Keras backend": os.environ.get("KERAS_BACKEND", UNCHOSEN)})
    return DONE


def _print_table(title: str, rows: dict[str, object]) -> None:
    typer.secho(title, bold=True)
    for name, value in rows.items():
        typer.echo(f"  {name:<14} {value}")
