"""What this run was measured on, and the environment that holds each process to its threads."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_PACKAGES = ("numpy", "scipy", "SimpleITK", "keras", "torch", "jax", "tensorflow", "tensorflow-cpu")


def hold_to_cores(threads: int) -> None:
    """Hold this process, and those that it will start, to so many cores, where the system can do that.

    XLA and TensorFlow take as many threads as there are cores, and no option of theirs says otherwise.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def make_environment(framework: str, threads: int) -> dict[str, str]:
    """Environment of a process for one framework: its Keras backend, so many threads, no chatter."""
    count = str(threads)
    keras_backend = framework if framework in ("torch", "jax", "tensorflow") else "torch"
    return os.environ | {
        "KERAS_BACKEND": keras_backend,
        "KERAMORPH_THREADS": count,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": count,
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": count,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"),
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "PYTHONWARNINGS": "ignore",
    }


def start(command: list[str], framework: str, threads: int, **options: Any) -> subprocess.Popen:
    """Start a process in that environment, with pipes as `options` say."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=make_environment(framework, threads),
        text=True,
        **options,
    )


def today() -> str:
    """The date, as the results tell it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def describe(threads: int, peer_versions: dict[str, str]) -> dict[str, Any]:
    """CPU, cores, versions, date: what a reader needs to judge the figures."""
    from keramorph import __version__, backend

    return {
        "cpu": _read_cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": today(),
        "keramorph": __version__,
        "commit": _read_commit(),
        "kernels": str(backend.describe().get("kernels", "unknown")),
        "versions": {name: version for name in _PACKAGES if (version := _read_version(name))} | peer_versions,
    }


def _read_cpu() -> str:
    """Name of the CPU, with family and model, because some virtual machines hide the name."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.processor() or "unknown"
    name = fields.get("model name", platform.machine())
    best = next((flag for flag in ("avx512f", "avx2", "asimd") if flag in fields.get("flags", "").split()), "")
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}) {best}".strip()


def _read_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _read_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
