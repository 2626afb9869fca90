"""How long `keramorph register` takes on a pair of files, with the kernels and without, and on what."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine

_COMMAND = "from keramorph.cli import main; main()"


def measure(fixed: Path, moving: Path, threads: int, python: str) -> list[dict[str, Any]]:
    """Return the wall time of the whole command, as somebody at a shell waits for it."""
    rows = []
    for kernels in ("on", "off"):
        began = time.perf_counter()
        done = _run([], fixed, moving, threads, python, kernels)
        seconds = round(time.perf_counter() - began, 2)
        row = {"pair": f"{fixed.name}, {moving.name}", "kernels": kernels, "seconds": seconds, "exit": done.returncode}
        rows.append({**row, "date": machine.today()})
    return rows


def draw_flames(fixed: Path, moving: Path, threads: int, python: str, profiler: Path, to: Path) -> None:
    """Run the command once more under py-spy and write a flame graph of its Python functions, wide as their time."""
    to.unlink(missing_ok=True)
    if profiler.exists():
        record = [str(profiler), "record", "--rate", "50", "--function", "--output", str(to.resolve()), "--"]
        _run(record, fixed, moving, threads, python, "on")
    if to.exists():
        # The profiler writes its own command above the picture, with the paths of this machine.
        to.write_text(
            re.sub(r">[^<>]*py-spy record[^<>]*<", f">keramorph register {fixed.name} {moving.name}<", to.read_text())
        )


def _run(
    before: list[str], fixed: Path, moving: Path, threads: int, python: str, kernels: str
) -> subprocess.CompletedProcess:
    """Run the command, and `before` in front of it."""
    with tempfile.TemporaryDirectory(prefix="keramorph-register-") as folder:
        call = [python, "-c", _COMMAND, "register", str(fixed.resolve()), str(moving.resolve()), "-o", folder]
        return subprocess.run(
            [*before, *call, "--overwrite"],
            cwd=machine.ROOT,
            env=machine.make_environment("numpy", threads) | {"KERAMORPH_KERNELS": kernels},
            capture_output=True,
            text=True,
            check=False,
        )
