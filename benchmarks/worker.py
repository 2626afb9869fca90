"""A process that holds one framework's candidates and does what the conductor says, one JSON line at a time.

`python -m benchmarks.worker torch` reads commands from its standard input. Answers go to what was standard output at
the start; whatever a library prints later goes to standard error.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.candidates.candidate import Arrays, Candidate, Offer
from benchmarks.plan import Task

_MODULES = {
    "numpy": "numpy_arrays",
    "torch": "torch_tensors",
    "jax": "jax_arrays",
    "tensorflow": "tensorflow_tensors",
    "peers": "peers",
}
_SETTLE = 0.01
"""Seconds of rest before a measurement: other processes' threads spin for a while after their work is done."""


class Worker:
    """The candidates of one framework for the task at hand."""

    def __init__(self, framework: str) -> None:
        if framework in ("torch", "peers"):
            import torch

            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.offers: dict[str, list[Offer]] = importlib.import_module(
            f"benchmarks.candidates.{_MODULES[framework]}"
        ).OFFERS
        self.made: dict[str, Candidate] = {}
        self.folder = Path()

    def prepare(self, task: dict[str, Any], folder: str) -> dict:
        """Make the candidates for a task; those that cannot be made are named with the reason."""
        task = Task(**{key: tuple(value) if isinstance(value, list) else value for key, value in task.items()})
        self.drop()
        self.folder = Path(folder)
        arrays = {
            path.stem: np.load(path)
            for path in self.folder.glob("*.npy")
            if not path.stem.startswith(("mask", "reference"))
        }
        candidates, missing = [], []
        for offer in self.offers[task.kind]:
            if offer.name in task.skip or (task.only and offer.name not in task.only):
                continue
            try:
                made = self._make(offer, task, arrays)
            except Exception as problem:  # any library may fail in any way, and the others are measured all the same
                missing.append({"name": offer.name, "reason": _describe(problem)})
            else:
                candidates.append({"name": offer.name, "note": offer.note, "modes": made})
        # Collecting is cheap from here on, and never happens in the middle of a call.
        gc.collect()
        gc.freeze()
        return {"candidates": candidates, "missing": missing}

    def _make(self, offer: Offer, task: Task, arrays: Arrays) -> list[str]:
        candidate = offer.build(task, arrays)
        self.made[offer.name] = candidate
        return [mode for mode in task.modes if mode in candidate.modes]

    def check(self, name: str, mode: str, reference: bool = False) -> dict:
        """Call once, and save the results as the reference or say how far they are from it.

        Differences are the greatest ones, as shares of the greatest absolute value of the reference.
        """
        began = time.perf_counter()
        results = self.made[name].modes[mode]()
        seconds = time.perf_counter() - began
        arrays = self.made[name].export(results)
        differences = []
        for place, array in enumerate(arrays):
            path = self.folder / f"reference {mode} {place}.npy"
            if reference:
                np.save(path, array)
            elif path.exists():
                differences.append(self._compare(array, np.load(path), place))
        return {"seconds": seconds, "differences": differences}

    def _compare(self, array: np.ndarray, expected: np.ndarray, place: int) -> float:
        if array.shape != expected.shape:
            return float("inf")
        array, expected = array.astype("float32"), expected.astype("float32")
        away = np.abs(array - expected)
        mask = self.folder / f"mask {place}.npy"
        if mask.exists() and away.ndim:
            away = away[np.load(mask)]
        return float(away.max() / max(float(np.abs(expected).max()), 1e-30))

    def time(self, name: str, mode: str, calls: int, warm: bool) -> dict:
        """Seconds of each of so many calls, after one that does not count where `warm`."""
        function = self.made[name].modes[mode]
        gc.collect()
        time.sleep(_SETTLE)
        if warm:
            function()
        seconds = []
        for _ in range(calls):
            began = time.perf_counter()
            results = function()
            seconds.append(time.perf_counter() - began)
            del results
        return {"seconds": seconds}

    def drop(self) -> dict:
        """Forget the candidates and their arrays."""
        self.made.clear()
        gc.unfreeze()
        gc.collect()
        return {}


def _describe(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"[:200]


def main(framework: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(framework)
    gc.disable()
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as problem:  # the conductor lists it, and goes on
            answer = {"failed": _describe(problem)}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
