"""One program in a process of its own: what it printed, how long it took, how much memory it held, why it gave up."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine

LIMIT = 600.0
"""Seconds after which a program is stopped."""
_PAUSE = 0.02
_FOLDER = re.compile(r"(?<![\w.])/(?:[^\s/:'\"]+/)+")

Report = Callable[[int, int, str], None]
"""What a study tells while it runs: how much is done, of how much, and what comes next."""


@dataclass(frozen=True)
class Finished:
    """A process that has ended.

    Args:
        code: Its exit status; None if it was stopped because it took too long.
        output: What it printed.
        errors: What it printed as errors.
        seconds: From its start to its end.
        memory_mb: The most that it held, libraries included; None where the system does not tell.
    """

    code: int | None
    output: str
    errors: str
    seconds: float
    memory_mb: float | None

    def explain(self) -> str:
        """Why there is no result, in a line that names files without the folders they were in."""
        if self.code is None:
            return f"no result within {self.seconds:.0f} s"
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        return shorten(self.errors) or f"exit status {self.code}"

    def read_figures(self) -> dict[str, Any]:
        """What it printed last: one line of JSON."""
        return json.loads(self.output.strip().splitlines()[-1])

    def measure(self) -> dict[str, float]:
        """Seconds and memory, for a row."""
        memory = {} if self.memory_mb is None else {"memory_mb": self.memory_mb}
        return {"seconds": self.seconds, **memory}


def shorten(message: str) -> str:
    """The last line of a message that says anything, without the folders of the files that it names."""
    said = [line.strip(" │|") for line in message.splitlines() if re.search(r"\w", line)]
    return _FOLDER.sub("", said[-1])[:160] if said else ""


def run(command: list[str], threads: int, limit: float = LIMIT, *, framework: str = "numpy") -> Finished:
    """Run a command to its end, or to the limit; `framework` is what Keras runs on there."""
    began = time.perf_counter()
    process = machine.start(command, framework, threads, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    memory = None
    while True:
        try:
            output, errors = process.communicate(timeout=_PAUSE)
            return Finished(process.returncode, output, errors, time.perf_counter() - began, memory)
        except subprocess.TimeoutExpired:
            memory = _read_memory(process.pid) or memory
        if time.perf_counter() - began > limit:
            process.kill()
            output, errors = process.communicate()
            return Finished(None, output, errors, time.perf_counter() - began, memory)


def write_command(fixed: Path, moving: Path, out: Path, *options: str) -> list[str]:
    """`keramorph register`, as the shell would run it, by this Python."""
    command = [sys.executable, "-c", "from keramorph.cli import main; main()", "register", str(fixed), str(moving)]
    return [*command, "-o", str(out), "--overwrite", "--quiet", *options]


def write_peer_command(python: Path, study: str, program: str, pair: tuple[Path, Path], out: Path) -> list[str]:
    """One of the programs in `methods`, by the Python that holds them."""
    return [str(python), "-m", "benchmarks.studies.methods", study, program, *map(str, pair), str(out)]


def _read_memory(process: int) -> float | None:
    """The most a process held until now: `ru_maxrss` would count what its parent held before, too."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None
