"""Prepared arrays kept for the next time: in memory, or on disk, from where they are mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keramorph.errors import FileError
from keramorph.io.writing import replacing


class ImageCache:
    """Arrays by what they were made of.

    On disk each is a `.npy` file, whole or not there, named after a hash of the files it came from, with their sizes
    and times of change, and of the options: a file that changes is prepared anew. Mapped into memory, the operating
    system keeps as much of it as fits.

    Args:
        folder: Folder for the files, made where it is missing; None keeps arrays in memory.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.memory: dict[str, np.ndarray] = {}
        self.keys: dict[Any, str] = {}
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as problem:
                raise FileError(
                    f"The folder of the cache cannot be made: {problem.strerror}. Received: cache={str(folder)!r}. "
                    "Choose another place."
                ) from problem

    def get(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of a key, made now if it is not there."""
        if self.folder is None:
            if key not in self.memory:
                self.memory[key] = make()
            return self.memory[key]
        path = self.folder / f"{key}.npy"
        if not path.exists():
            array = make()
            with replacing(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def name(self, files: tuple[Path, ...], *settings: Any) -> str:
        """Return the key of what is made of files with some settings: another one in the next run if either changes."""
        known = (files, settings)
        if known not in self.keys:  # once: within a run, what has been read of a file holds
            stamps = [(str(path.absolute()), *_stamp(path)) for path in files]
            self.keys[known] = hashlib.sha256(repr((stamps, settings)).encode()).hexdigest()[:32]
        return self.keys[known]


def _stamp(path: Path) -> tuple[int, int]:
    """Size of a file and time of its last change; zeros where it cannot be found, which reading it will say."""
    try:
        about = path.stat()
    except OSError:
        return 0, 0
    return about.st_size, about.st_mtime_ns
