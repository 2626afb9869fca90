"""Peak memory of one call beyond what was there before it: `python -m benchmarks.memory torch "to field" 1,96,112,128`.

A fresh process makes the inputs, calls once at a small size so that code and threads are there, sets the system's
high-water mark back, and calls once. What compiles for a shape is compiled before.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import inputs, machine
from benchmarks.candidates import bare
from benchmarks.plan import FORWARD, TO_BOTH, TO_FIELD, Plan, Task

KERNELS: dict[str, tuple[str, str]] = {
    FORWARD: ("warp", FORWARD),
    TO_FIELD: ("warp", TO_FIELD),
    TO_BOTH: ("warp", TO_BOTH),
    "LNCC": ("lncc", "window 9"),
    "Gaussian": ("gaussian", "sigma 2"),
    "exponentiate": ("exponentiate", "7 squarings"),
}
"""Where each kernel stands among the tasks: the kind of candidates, and the mode."""


def measure_all(plan: Plan, threads: int, python: str) -> list[dict[str, Any]]:
    """Return peak memory of each kernel on each engine; two processes at a time, for memory minds no neighbour."""
    shape = ",".join(map(str, plan.memory_shape))

    def measure(engine: str, kernel: str) -> dict[str, Any]:
        command = [python, "-m", "benchmarks.memory", engine, kernel, shape]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        out, err = machine.start(command, engine, threads, **pipes).communicate()
        lines = out.strip().splitlines()
        if lines and lines[-1].startswith("{"):
            return json.loads(lines[-1])
        return {"engine": engine, "kernel": kernel, "reason": (err.strip().splitlines() or ["no answer"])[-1][:200]}

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(measure, engine, kernel) for engine in plan.memory_engines for kernel in KERNELS]
        return [job.result() for job in jobs]


def measure_here(engine: str, kernel: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Measure in this process, which must be fresh."""
    kind, mode = KERNELS[kernel]
    small = (shape[0], *(min(24, n) for n in shape[1:]))
    run_small = _make(engine, kind, mode, small)
    run = _make(engine, kind, mode, shape)
    if run is None or run_small is None:
        return {"engine": engine, "kernel": kernel, "reason": "not offered"}
    run_small()
    gc.collect()
    _trim()
    before = _reset_peak()
    results = run()
    extra = _read_peak() - before
    outputs = sum(np.asarray(one).nbytes for one in results)
    field = 4 * (len(shape) - 1) * int(np.prod(shape))
    return {"engine": engine, "kernel": kernel, "extra": extra, "outputs": outputs, "allowed": outputs + field}


def _make(engine: str, kind: str, mode: str, shape: tuple[int, ...]) -> Callable[[], tuple] | None:
    task = Task("memory", kind, shape, (mode,))
    arrays = inputs.make_inputs(task)
    name = "bare kernel" if engine == "bare" else "keramorph"
    module = {"bare": "numpy_arrays", "numpy": "numpy_arrays", "torch": "torch_tensors", "jax": "jax_arrays"}
    offers = importlib.import_module(f"benchmarks.candidates.{module.get(engine, 'tensorflow_tensors')}").OFFERS
    for offer in offers[kind]:
        if offer.name == name:
            return offer.build(task, arrays).modes.get(mode)
    return None


def _trim() -> None:
    """Hand freed memory back to the system, the kernels' own and the C library's, as far as they can."""
    if bare.native is not None:
        bare.native.release_memory()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> int:
    """Set the high-water mark back to what is held now, and return that in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _read_peak()


def _read_peak() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    sizes = tuple(int(n) for n in sys.argv[3].split(","))
    print(json.dumps(measure_here(sys.argv[1], sys.argv[2], sizes)))
