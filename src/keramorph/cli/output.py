"""Where a command writes: into a folder set aside, which takes its place only when all of it is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from keramorph.errors import FileError

WRITTEN = frozenset({"moved", "transform", "inverse", "summary", "report", "uncertainty"})
"""Names, without their endings, of the files that a registration leaves."""


def check_free(output: Path, *, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Refuse an output that is in the way, before any work is done.

    Args:
        output: File to write, or folder to fill; an empty folder is free.
        overwrite: Whether what is there may be replaced.
        inputs: Files that are read, never to be replaced.

    Raises:
        FileError: If something is there and may not be replaced, or if it is one of the inputs.
    """
    taken = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if taken and not overwrite:
        raise FileError(
            f"Expected an output that does not exist yet. Received: output={str(output)!r}, which does. "
            "Choose another one with `-o`, or replace it with `--overwrite`."
        )
    for path in inputs:
        if output.is_file() and path.exists() and path.samefile(output):
            raise FileError(
                f"Expected an output apart from the inputs. Received: output={str(output)!r}, which is read as well. "
                "Choose another one with `-o`."
            )


def check_inputs_apart(output: Path, *inputs: Path) -> None:
    """Refuse an input that one of the written files would replace.

    Args:
        output: Folder to be written.
        *inputs: Files that are read.

    Raises:
        FileError: If an input lies in the folder under a name that is written there.
    """
    for path in inputs:
        if path.resolve().parent == output.resolve() and path.name.partition(".")[0] in WRITTEN:
            raise FileError(
                f"Expected an output folder that would not replace an input. Received: {str(path)!r} to be read, "
                f"output={str(output)!r}. Choose another folder with `-o`."
            )


@contextmanager
def stage(folder: Path) -> Iterator[Path]:
    """Yield an empty folder whose files move into `folder` when the block ends well, and vanish when it does not.

    It lies on the file system of `folder` (inside it, or beside it where it does not exist yet), so that each file
    appears in one step, and making it proves before any work that `folder` can be written.

    Args:
        folder: Folder to fill; it and its parents need not exist.

    Yields:
        The folder to write into.

    Raises:
        FileError: If `folder` cannot be written.
    """
    aside = _make_aside(folder)
    try:
        yield aside
        _publish(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _make_aside(folder: Path) -> Path:
    base = folder.absolute()
    while not base.exists():
        base = base.parent
    aside = base / f".{folder.name}-{os.getpid()}.partial"
    try:
        aside.mkdir()
    except OSError as problem:
        raise FileError(
            f"Expected an output folder that can be written. Received: output={str(folder)!r} ({problem.strerror}: "
            f"{str(base)!r}). Choose another one with `-o`, or ask for the right to write there."
        ) from None
    return aside


def _publish(aside: Path, folder: Path) -> None:
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(folder)
        return
    for path in sorted(aside.iterdir()):
        place = folder / path.name
        if path.is_dir() and place.is_dir():
            shutil.rmtree(place)
        path.replace(place)
