"""Files that appear whole or not at all: written beside their place under another name, then moved into it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keramorph.errors import FileError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; what was written takes the place of `path` when the block ends without an error.

    The name stays the same and only the folder differs, so that a header which names its data file still finds it.

    Args:
        path: The file to write; an existing one is replaced.

    Raises:
        FileError: If nothing can be written there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "note.txt")) as temporary:
        ...         _ = temporary.write_text("whole")
        ...     Path(folder, "note.txt").read_text()
        'whole'
    """
    path = Path(path)
    if path.is_dir():
        raise FileError(f"A file name is needed. Received: path={str(path)!r}, a folder. Add a name behind it.")
    if not path.parent.is_dir():
        raise FileError(
            f"The folder of an output file must exist. Received: path={str(path)!r}. Create {str(path.parent)!r} first."
        )
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as problem:
        raise _refused(path, problem) from problem
    try:
        yield folder / path.name
        # The named file comes last: a header is never there before its data.
        for part in sorted(folder.iterdir(), key=lambda part: part.name == path.name):
            part.replace(path.parent / part.name)
    except OSError as problem:
        raise _refused(path, problem) from problem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_remains(folder: Path, names: str) -> None:
    """Remove from a folder what programs left there that were killed while they wrote a file by `replacing`.

    Args:
        folder: Folder of the files; it may be missing.
        names: Name of the file that was to be written, or a pattern of such names.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     remains = tempfile.mkdtemp(prefix=".note.txt.", dir=folder)
        ...     clear_remains(Path(folder), "note.txt")
        ...     Path(remains).exists()
        False
    """
    # `tempfile` ends its names in eight characters.
    for remains in folder.glob(f".{names}.????????"):
        shutil.rmtree(remains, ignore_errors=True)


def _refused(path: Path, problem: OSError) -> FileError:
    reason = problem.strerror or str(problem)
    return FileError(f"The file cannot be written: {reason}. Received: path={str(path)!r}. Choose another place.")
