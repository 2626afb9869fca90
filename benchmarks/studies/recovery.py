"""How near each program comes to a deformation that is known, with its seconds, folds and memory."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.studies.cases import CASES, Case, make_pair, measure_errors
from benchmarks.studies.methods import METHODS, SLOW
from benchmarks.studies.template import write_template

_LIMIT = 420
"""Seconds after which a program is stopped."""


def measure(python: Path, threads: int, cases: Iterable[str], methods: Iterable[str], say: Any) -> list[dict[str, Any]]:
    """Return one row per case and program; a program that fails gets a row with the reason."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="keramorph-recovery-") as name:
        template = Path(name)
        write_template(python, template, threads)
        for case in (case for case in CASES if case.name in cases):
            folder = template / case.name.replace(" ", "-").replace("%", "percent")
            folder.mkdir()
            pair = make_pair(case, template, folder)
            for method in (method for method in METHODS if method in methods):
                if method in SLOW and not case.patient:
                    continue
                say(f"{case.name}: {method}")
                rows.append({"case": case.name, "method": method, **_measure_one(python, threads, case, method, pair)})
    return rows


def _measure_one(python: Path, threads: int, case: Case, method: str, pair: tuple[Path, Path]) -> dict[str, Any]:
    folder = pair[0].parent
    out = folder / "found.nii.gz"
    out.unlink(missing_ok=True)
    command = [str(python), "-m", "benchmarks.studies.methods", method, *map(str, pair), str(out)]
    try:
        printed = _run(command, threads)
    except subprocess.TimeoutExpired:
        return {"failed": f"no result within {_LIMIT} s"}
    except subprocess.CalledProcessError as problem:
        return {"failed": ((problem.stderr or "").strip().splitlines() or [f"exit {problem.returncode}"])[-1][:120]}
    said = json.loads(printed.strip().splitlines()[-1])
    return {**said, **measure_errors(out, folder / "truth.nii.gz", folder.parent / f"mask_{case.spacing}mm.nii.gz")}


def _run(command: list[str], threads: int) -> str:
    environment = machine.make_environment("numpy", threads)
    done = subprocess.run(
        command, cwd=machine.ROOT, env=environment, capture_output=True, text=True, check=True, timeout=_LIMIT
    )
    return done.stdout
