"""How far a command has come: a bar on a terminal, a line per level elsewhere; always on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from keramorph.solver.result import Progress

Show = Callable[["Progress"], None]


@contextmanager
def show_registration(*, quiet: bool = False) -> Iterator[Show | None]:
    """Yield what `keramorph.register` takes as `progress`: it shows stage, level, loss and time; None if quiet.

    Args:
        quiet: Whether nothing is shown.
    """
    if quiet:
        yield None
    elif _is_terminal():
        with _open_bar("{task.description}", "loss {task.fields[loss]:.4f}") as bar:
            task, planned = bar.add_task("start", total=1.0, loss=float("nan")), _Once(bar.console.print)

            def show(at: Progress) -> None:
                planned.show(at.plan)
                bar.update(task, description=_name(at), completed=_share(at), loss=at.loss)

            yield show
    else:
        lines = _Lines()
        yield lines.show
        lines.finish()


@contextmanager
def show_training(steps: int) -> Iterator[Callable[[float], None]]:
    """Yield a function to be called with the loss after each training step.

    Args:
        steps: Number of steps that there will be.
    """
    if not _is_terminal():
        counter = _Counter(steps)
        yield counter.show
        return
    with _open_bar("{task.description}", "loss {task.fields[loss]:.4f}", "{task.completed}/{task.total} steps") as bar:
        task = bar.add_task("training", total=steps, loss=float("nan"))
        yield lambda loss: bar.update(task, advance=1, loss=loss)


class _Lines:
    """Plain lines for a log: one for each level, when the next one begins."""

    def __init__(self) -> None:
        self._last: Progress | None = None
        self._planned = _Once(lambda text: typer.echo(text, err=True))

    def show(self, at: Progress) -> None:
        self._planned.show(at.plan)
        if self._last is not None and (at.stage, at.level) != (self._last.stage, self._last.level):
            self.finish()
        self._last = at

    def finish(self) -> None:
        if self._last is not None:
            at, self._last = self._last, None
            typer.echo(f"{_name(at):<22} loss {at.loss:.4f}  {at.seconds:6.1f} s", err=True)


class _Once:
    """A line that is shown when it is first known."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write, self._done = write, False

    def show(self, text: str) -> None:
        if text and not self._done:
            self._write(text)
            self._done = True


class _Counter:
    """Plain lines for a log: eight in all."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done = steps, 0

    def show(self, loss: float) -> None:
        self._done += 1
        if self._done % max(1, self._steps // 8) == 0:
            typer.echo(f"step {self._done:>5}/{self._steps}  loss {loss:.4f}", err=True)


def _name(at: Progress) -> str:
    return f"{at.stage} {at.level}/{at.levels}"


def _share(at: Progress) -> float:
    """Share of the stage that is behind us; a level may end before its last iteration."""
    return (at.level - 1 + at.iteration / max(1, at.iterations)) / max(1, at.levels)


def _is_terminal() -> bool:
    from rich.console import Console

    return Console(stderr=True).is_terminal


def _open_bar(first: str, *last: str) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    texts = (TextColumn(text) for text in last)
    columns = (TextColumn(first), BarColumn(), *texts, TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
