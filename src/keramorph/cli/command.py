"""What every command shares: how it ends, and what it says when it cannot do its work."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from keramorph.errors import ArrayTypeError, InputError

DONE, NOT_TRUSTWORTHY, BAD_INPUT, BROKEN, INTERRUPTED = 0, 1, 2, 3, 130

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def guard(command: Callable[..., int]) -> Callable[..., None]:
    """Return the command with a `--debug` option, its errors turned into one sentence on stderr and an exit code.

    Args:
        command: Function of the command's own options that returns its exit code.

    Returns:
        A function for Typer, which ends with the exit code: the command's own, 2 for bad input, 3 for a fault of
        Keramorph itself and 130 where the user interrupted.
    """

    @functools.wraps(command)
    def run(*, debug: bool = False, **options: object) -> None:
        try:
            code = command(**options)
        except (Exception, KeyboardInterrupt) as problem:
            if debug:
                raise
            code, sentence = explain(problem)
            typer.echo(f"error: {sentence}", err=True)
        raise typer.Exit(code)

    own = inspect.signature(command, eval_str=True)
    asked = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), asked])  # type: ignore[attr-defined]
    run.__annotations__ = {name: option.annotation for name, option in run.__signature__.parameters.items()}  # type: ignore[attr-defined]
    return run


def explain(problem: BaseException) -> tuple[int, str]:
    """Return the exit code that a problem stands for, and the one line that tells the user about it."""
    if isinstance(problem, typer.Exit | typer.Abort):
        raise problem
    if isinstance(problem, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; nothing was written."
    if isinstance(problem, InputError | ArrayTypeError):
        return BAD_INPUT, " ".join(str(problem).split())
    if isinstance(problem, MemoryError):
        return BAD_INPUT, "Expected images that fit in memory. Received: larger ones. Crop them or resample them first."
    if isinstance(problem, OSError):
        where = f" ({problem.filename})" if problem.filename else ""
        return BAD_INPUT, f"The files could not be read or written: {problem.strerror or problem}{where}."
    cause = " ".join(f"{type(problem).__name__}: {problem}".split())
    return BROKEN, f"Keramorph itself failed ({cause}). Please report it with what `--debug` shows."
