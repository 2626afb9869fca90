"""How near each program comes to a deformation that is known, with its seconds, folds and memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.studies.cases import CASES, Case, make_pair, measure_errors
from benchmarks.studies.methods import METHODS, SLOW
from benchmarks.studies.running import Report, run, write_peer_command
from benchmarks.studies.template import write_template

PROGRAMS = tuple(METHODS["recovery"])


def measure(
    python: Path, threads: int, cases: list[str], programs: list[str], report: Report
) -> Iterator[dict[str, Any]]:
    """Yield one row per case and program; a program that fails gets a row with the reason."""
    chosen = [(case, [name for name in programs if case.patient or name not in SLOW]) for case in CASES]
    chosen = [(case, names) for case, names in chosen if case.name in cases]
    total, done = sum(len(names) for _, names in chosen), 0
    with tempfile.TemporaryDirectory(prefix="keramorph-recovery-") as name:
        template = Path(name)
        write_template(python, template, threads)
        for case, names in chosen:
            folder = template / case.name.replace(" ", "-").replace("%", "percent")
            folder.mkdir()
            pair = make_pair(case, template, folder)
            for program in names:
                report(done, total, f"{case.name}: {program}")
                yield {"case": case.name, "method": program, **_measure_one(python, threads, case, program, pair)}
                done += 1


def _measure_one(python: Path, threads: int, case: Case, program: str, pair: tuple[Path, Path]) -> dict[str, Any]:
    folder = pair[0].parent
    out = folder / "found.h5"
    out.unlink(missing_ok=True)
    finished = run(write_peer_command(python, "recovery", program, pair, out), threads)
    if finished.code != 0:
        return {"failed": finished.explain()}
    said = finished.read_figures()
    errors = measure_errors(out, folder / "truth.nii.gz", folder.parent / f"mask_{case.spacing}mm.nii.gz")
    # The seconds of the deformation alone take the place of the whole process'.
    return {**finished.measure(), **said, **errors}
