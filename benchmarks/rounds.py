"""The conductor: starts one worker per framework and lets all candidates take turns."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import inputs, machine
from benchmarks.plan import FRAMEWORKS, REFERENCE, Plan, Task

_JUDGES = ("torch", "jax", "tensorflow", "numpy")
"""Whose Keramorph gives the results that all others are compared with: the first that is here and has the mode."""

_PER_ROUND = 0.15
"""Seconds of calls that a candidate makes in one round, if one call is shorter than that."""

_MOST_CALLS = 20

_LONG = 5.0
"""Seconds from which a call is not repeated to warm up; a first call, which may compile, counts too."""


@dataclasses.dataclass
class Row:
    """One candidate in one mode of a task; times in seconds, one per round."""

    framework: str
    name: str
    mode: str
    note: str
    differences: list[float]
    first: float
    times: list[float] = dataclasses.field(default_factory=list)

    @property
    def is_own(self) -> bool:
        return self.name in ("keramorph", "bare kernel")

    def to_json(self, task: Task) -> dict[str, Any]:
        low, median, high = np.percentile(self.times, [25, 50, 75])
        return {
            "section": task.section,
            "shape": list(task.shape),
            "dtype": task.dtype,
            "framework": self.framework,
            "name": self.name,
            "mode": self.mode,
            "note": self.note,
            "milliseconds": round(1000 * float(median), 4),
            "quartiles": [round(1000 * float(low), 4), round(1000 * float(high), 4)],
            "rounds": len(self.times),
            "first_call_seconds": round(self.first, 3),
            "differences": [float(f"{one:.2g}") for one in self.differences],
        }


class WorkerError(RuntimeError):
    """A worker ended, or could not do what it was told."""


class Conductor:
    """All workers of a run.

    Args:
        pythons: For each framework the Python that has it.
        threads: Threads of each.
        log: File that takes what the libraries print.
    """

    def __init__(self, pythons: dict[str, str], threads: int, log: Path) -> None:
        self._log = log.open("w")
        self.folder = Path(tempfile.mkdtemp(prefix="keramorph-bench-"))
        self.missing: dict[str, str] = {}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._processes = {
            framework: machine.start([python, "-m", "benchmarks.worker", framework], framework, threads, **pipes)
            for framework, python in pythons.items()
        }
        for framework in list(self._processes):
            try:
                self._read(framework)
            except WorkerError as problem:
                self._leave_out(framework, problem)

    def measure(self, task: Task, plan: Plan, say: Callable[[str], None]) -> list[dict[str, Any]]:
        """Return one entry per candidate and mode: medians, spread, and how far the results are from ours."""
        for path in self.folder.glob("*.npy"):
            path.unlink()
        inputs.write_inputs(task, self.folder)
        rows = self._check(task, self._prepare(task))
        say(f"{len(rows)} measurements, {plan.rounds} rounds")
        order = random.Random(0)
        for number in range(plan.rounds):
            order.shuffle(rows)
            for row in rows:
                if takes_part(row, number, plan):
                    self._time(row)
        for framework in self._processes:
            self._ask(framework, do="drop")
        return [row.to_json(task) for row in sorted(rows, key=lambda row: _rank(row, task)) if row.times]

    def close(self) -> None:
        """End the workers and remove the arrays."""
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self, task: Task) -> list[Row]:
        rows = []
        for framework in list(self._processes):
            answer = self._ask(framework, do="prepare", task=dataclasses.asdict(task), folder=str(self.folder))
            for absent in answer.get("missing", []):
                self.missing[f"{absent['name']} ({framework})"] = absent["reason"]
            rows += [
                Row(framework, one["name"], mode, one["note"], [], 0.0)
                for one in answer.get("candidates", [])
                for mode in one["modes"]
            ]
        return rows

    def _check(self, task: Task, rows: list[Row]) -> list[Row]:
        """Call everyone once, ours first: all results are compared with it."""
        sound = []
        judged: set[str] = set()
        order = {framework: place for place, framework in enumerate(_JUDGES)}
        rows = sorted(rows, key=lambda row: (row.name != "keramorph", order.get(row.framework, len(order))))
        for row in rows:
            reference = row.is_own and row.mode not in judged
            answer = self._ask(row.framework, do="check", name=row.name, mode=row.mode, reference=reference)
            if "failed" in answer:
                self.missing[f"{row.name} ({row.framework}), {row.mode}"] = answer["failed"]
                continue
            if reference:
                judged.add(row.mode)
            row.differences, row.first = answer["differences"], answer["seconds"]
            sound.append(row)
        return sound

    def _time(self, row: Row) -> None:
        expected = min(row.times, default=row.first)
        calls = int(min(max(_PER_ROUND / max(expected, 1e-6), 1), _MOST_CALLS))
        # Others have had the caches since, and a virtual machine's host the memory: the first touch takes seconds then.
        warm = expected < _LONG
        answer = self._ask(row.framework, do="time", name=row.name, mode=row.mode, calls=calls, warm=warm)
        if "failed" in answer:
            self.missing[f"{row.name} ({row.framework}), {row.mode}"] = answer["failed"]
            row.times.clear()
            return
        row.times.append(float(np.median(answer["seconds"])))

    def _ask(self, framework: str, **command: Any) -> dict[str, Any]:
        if framework not in self._processes:
            return {"failed": f"the process for {framework} has ended"}
        process = self._processes[framework]
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            return self._read(framework)
        except (WorkerError, OSError) as problem:
            self._leave_out(framework, problem)
            return {"failed": str(problem)}

    def _read(self, framework: str) -> dict[str, Any]:
        stdout = self._processes[framework].stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise WorkerError(f"the process for {framework} has ended; the log says why")
        return json.loads(line)

    def _leave_out(self, framework: str, problem: Exception) -> None:
        self.missing[framework] = str(problem)
        process = self._processes.pop(framework)
        process.kill()
        process.wait()


def takes_part(row: Row, number: int, plan: Plan) -> bool:
    """Whether a candidate has its turn in a round: slow ones sit some out, but never the reference."""
    if number and not row.times:
        return False
    cost = min(row.times, default=row.first)
    if row.name == REFERENCE or number == 0 or cost < plan.seconds:
        return True
    most = 3 if cost < 2 * plan.seconds else 2
    # Spread over the run, so that what they meet is what the others meet.
    return number % max(1, (plan.rounds - 1) // (most - 1)) == 0 and len(row.times) < most


def _rank(row: Row, task: Task) -> tuple:
    return (not row.is_own, FRAMEWORKS.index(row.framework), row.name, task.modes.index(row.mode))
