"""`keramorph demo`: see it work, on a real MRI slice that is already installed."""

from __future__ import annotations

import importlib.util
import inspect
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keramorph.cli.command import DONE, guard
from keramorph.cli.output import stage
from keramorph.cli.progress import show_registration, show_training

if TYPE_CHECKING:
    from keramorph.cli.demonstration.scene import Answer

BACKENDS = ("tensorflow", "jax", "torch")


@guard
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("keramorph-demo"),
) -> int:
    """See it work on a real MRI slice.

    First two pictures are registered without training. Then, where a Keras backend is installed, a network learns to do
    it in about a minute on the CPU.
    """
    # TensorFlow reports on its own set-up, which would be all that a newcomer sees.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with stage(output) as folder:
        typer.echo("Keramorph at work on a real MRI slice, which matplotlib has installed.\n")
        _register(folder)
        _train(folder)
    _say_what_next(output)
    return DONE


def _register(folder: Path) -> None:
    from keramorph.cli.demonstration.pair import register_slice
    from keramorph.report import write_report

    typer.secho("1. Two images, no training", bold=True)
    typer.echo("   The slice is bent and given another contrast. keramorph.register() lays one onto the other.\n")
    with show_registration() as progress:
        answer, result = register_slice(progress=progress)
    write_report(result, folder / "register.png", names=("bent slice", "slice"))
    _print_errors(answer)
    typer.echo(f"   time                   {answer.seconds:.1f} s\n")


def _train(folder: Path) -> None:
    typer.secho("2. A network of your own", bold=True)
    if not any(importlib.util.find_spec(name) for name in BACKENDS):
        typer.echo("   This part trains a Keras network and needs a backend for it. For example:")
        typer.echo("   pip install 'keramorph[torch]'\n")
        return
    from keramorph._keras import keras
    from keramorph.cli.demonstration.network import STEPS, build_network, train_network
    from keramorph.cli.demonstration.picture import write_answer

    typer.echo(f"   Keras on {keras.backend.backend()} learns to predict the displacement between two bent slices from")
    typer.echo("   the images alone: it is never told the true one. This is the whole network:\n")
    typer.echo(_quote_network())
    model = build_network()
    with show_training(STEPS) as advance:
        answer = train_network(model, steps=STEPS, advance=advance)
    write_answer(answer, folder / "network.png")
    typer.echo(f"   {model.count_params():,} weights, {STEPS} steps. A pair that it has not seen:\n")
    _print_errors(answer)
    typer.echo(f"   time                   {answer.seconds:.0f} s of training\n")


def _print_errors(answer: Answer) -> None:
    typer.echo("   inside the head        before    after")
    for name, unit, errors in (
        ("endpoint error", " px", answer.endpoint_errors),
        ("1 - correlation", "", answer.image_errors),
    ):
        typer.echo(f"   {name:<20} {errors[0]:>8.2f} {errors[1]:>8.2f}{unit}")


def _quote_network() -> str:
    """The lines of `build_network` that a user would write, from the first layer to the compiled model."""
    from keramorph.cli.demonstration.network import build_network

    code = textwrap.dedent(inspect.getsource(build_network))
    lines = code[code.index("    def convolve") : code.index("    return model")]
    return textwrap.indent(textwrap.dedent(lines), "      ")


def _say_what_next(output: Path) -> None:
    pictures = ", ".join(str(path) for path in sorted(output.glob("*.png")))
    typer.secho("Look at", bold=True)
    typer.echo(f"   {pictures}\n")
    typer.secho("Try next", bold=True)
    typer.echo("   keramorph register FIXED MOVING -o OUT/     with two images of your own")
    typer.echo("   keramorph.layers.Warp()                     in a Keras model of your own")
