"""How long `keramorph register` takes on a pair of files, with the kernels and without."""

from __future__ import annotations

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
        with tempfile.TemporaryDirectory(prefix="keramorph-register-") as folder:
            call = [python, "-c", _COMMAND, "register", str(fixed.resolve()), str(moving.resolve()), "-o", folder]
            began = time.perf_counter()
            done = subprocess.run(
                [*call, "--overwrite"],
                cwd=machine.ROOT,
                env=machine.make_environment("numpy", threads)
                | ({"KERAMORPH_KERNELS": "off"} if kernels == "off" else {}),
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = round(time.perf_counter() - began, 2)
        rows.append(
            {"pair": f"{fixed.name}, {moving.name}", "kernels": kernels, "seconds": seconds, "exit": done.returncode}
        )
    return rows
