"""The command line: one file per command, each of which parses, calls the library and prints a summary."""

import signal
import sys
from typing import NoReturn

import typer

from keramorph.cli import apply, demo, evaluate, export, info, predict, register, synth, train

__all__ = ["app", "main"]

TERMINATED = 128 + signal.SIGTERM

app = typer.Typer(
    name="keramorph",
    help="Align two images: find the deformation that lays MOVING onto FIXED, apply it; train networks for it.",
    epilog="Exit codes: 0 done; 1 no trustworthy alignment (written all the same); 2 bad input, nothing written.",
    no_args_is_help=True,
    add_completion=False,
    # Rich's help pages take twice the time, and its tracebacks hide the plain one that `--debug` asks for.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(register.register)
app.command()(predict.predict)
app.command()(apply.apply)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(synth.synth)
app.command()(export.export)
app.command()(demo.demo)
app.command()(info.info)


def main() -> None:
    """Run the command that the shell names, and leave with its exit code.

    Example:
        >>> import sys
        >>> sys.argv = ["keramorph", "--help"]
        >>> main()  # doctest: +SKIP
    """
    signal.signal(signal.SIGTERM, _terminate)
    app()


def _terminate(*_: object) -> NoReturn:
    # Leaving by an exception lets a command clear its half-written files away, which the signal's own end would not.
    sys.exit(TERMINATED)
