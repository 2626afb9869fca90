"""Times a warp on every engine that is installed, beside other libraries, and prints one table.

The physical floor is the time that the memory needs to move the bytes that a warp cannot avoid moving: the image and
the displacement read once, the result written once, at the bandwidth with which NumPy copies a large array here.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from warp import CASES, time_median

ENGINES = ("numpy", "tensorflow", "jax", "torch")


def measure_copy_bandwidth() -> float:
    """Bytes per second, those read and those written counted."""
    source = np.ones(2**26, dtype="float32")
    target = np.empty_like(source)
    return 2 * source.nbytes / (time_median(lambda: np.copyto(target, source)) / 1000)


def unavoidable_bytes(shape: tuple[int, ...]) -> int:
    voxels = int(np.prod(shape))
    ndim = len(shape) - 1
    return 4 * voxels * (1 + ndim + 1)


def measure(engine: str) -> list[dict]:
    script = Path(__file__).with_name("warp.py")
    environment = os.environ | {"KERAS_BACKEND": engine if engine != "numpy" else "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(script), engine], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{engine} failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def print_table(rows: list[dict], bandwidth: float) -> None:
    """One line per measurement: milliseconds, and how many times Keramorph's own on the same engine."""
    for case, shape in CASES.items():
        size = unavoidable_bytes(shape)
        floor = 1000 * size / bandwidth
        print(f"\n{case}: at least {size / 1e6:.1f} MB to move, {floor:.2f} ms at {bandwidth / 1e9:.1f} GB/s")
        print(f"{'':44} {'forward':>18} {'x floor':>8} {'forward+backward':>20} {'difference':>11}")
        own = {row["engine"]: row for row in rows if row["case"] == case and row["name"] == "keramorph"}
        for row in (row for row in rows if row["case"] == case):
            base = own[row["engine"]]
            backward = f"{row['backward']:.1f} ms" if row["backward"] else "-"
            times = f"{row['backward'] / base['backward']:6.2f}x" if row["backward"] else " " * 7
            forward = f"{row['forward']:8.1f} ms {row['forward'] / base['forward']:6.2f}x"
            print(
                f"{row['engine']:11} {row['name']:32} {forward} {row['forward'] / floor:7.1f}x "
                f"{backward:>12} {times} {row['difference']:11.1e}"
            )


def main() -> None:
    bandwidth = measure_copy_bandwidth()
    engines = [name for name in ENGINES if importlib.util.find_spec(name) is not None]
    rows = [row for engine in engines for row in measure(engine)]
    print(f"Linear interpolation, float32, one channel, {os.cpu_count()} cores; medians after a warm-up.")
    print(
        "The ratios behind the times are to Keramorph on the same engine; backward is the gradient to the displacement."
    )
    print_table(rows, bandwidth)


if __name__ == "__main__":
    main()
