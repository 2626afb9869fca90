"""What a command says of a registration at its end, and the exit code that this comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from keramorph.cli.command import DONE, NOT_TRUSTWORTHY


def end(outcome: Any) -> int:
    """Return the exit code of an outcome; what speaks against it is told on stderr."""
    if outcome.trusted:
        return DONE
    typer.echo(f"warning: not to be trusted: {outcome.reason} All files are written.", err=True)
    return NOT_TRUSTWORTHY


def summarise(result: Any, output: Path, names: list[str], *, seconds: float) -> None:
    """Tell how a registration ended, in numbers too, and where its files are."""
    from keramorph.report import describe_metric, describe_outcome, describe_scores, describe_start

    typer.echo(describe_outcome(result.outcome))
    typer.echo(describe_metric(result.metric))
    if result.start is not None:
        typer.echo(describe_start(result.start))
    typer.echo(describe_scores(result.metrics))
    typer.echo(f"{seconds:.1f} s. Written to {output}: {', '.join(names)}")
