"""How far a command has come: a bar on a terminal, a line per level elsewhere; always on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from keramorph.solver.result import Progress
    from keramorph.training import Progress as FitProgress

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


@contextmanager
def show_fit(*, quiet: bool = False) -> Iterator[Callable[[FitProgress], None] | None]:
    """Yield what `keramorph.training.train` takes as `progress`: epoch, loss, its terms and the time left.

    Args:
        quiet: Whether nothing is shown.
    """
    if quiet:
        yield None
    elif _is_terminal():
        with _open_bar("epoch {task.fields[epoch]}", "{task.fields[losses]}", "{task.fields[left]}") as bar:
            task = bar.add_task("fit", total=1, epoch="", losses="", left="")

            def show(at: FitProgress) -> None:
                done = (at.epoch - 1) * at.steps + at.step
                words = {"epoch": f"{at.epoch}/{at.epochs}", "losses": _list_losses(at.logs), "left": _say_left(at)}
                bar.update(task, completed=done, total=at.epochs * at.steps, **words)

            yield show
    else:
        yield _EpochLines().show


@contextmanager
def show_count(things: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function of how many things are done, and of how many there are; None where nothing is shown.

    Args:
        things: What is counted.
        quiet: Whether nothing is shown.
    """
    if quiet or not _is_terminal():
        yield None
        return
    with _open_bar("{task.completed}/{task.total} " + things) as bar:
        task = bar.add_task(things, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _EpochLines:
    """Plain lines for a log: one for each epoch, when it is over."""

    def __init__(self) -> None:
        self._last = 0

    def show(self, at: FitProgress) -> None:
        if at.is_validated and at.epoch != self._last:
            self._last = at.epoch
            typer.echo(f"epoch {at.epoch:>4}/{at.epochs}  {_list_losses(at.logs)}  {_say_left(at)}", err=True)


def _list_losses(logs: dict[str, float]) -> str:
    """The loss first, then its terms, then what validation says in short."""
    names = [name for name in logs if not name.startswith("val_") and name != "loss"]
    names = ["loss", *names, *(name for name in ("val_loss", "val_dice", "val_tre") if name in logs)]
    return "  ".join(f"{name} {logs[name]:.4f}" for name in names if name in logs)


def _say_left(at: FitProgress) -> str:
    minutes, seconds = divmod(round(at.seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d} left"


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
