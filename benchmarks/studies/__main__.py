"""How well registrations find what is known, and how they do on real pairs: prints, draws, and may renew the page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine, peer_environment
from benchmarks.studies import learning, page, pairs, recovery, robustness
from benchmarks.studies.cases import CASES
from benchmarks.studies.running import Report
from benchmarks.studies.tables import make_tables

Study = Callable[[Report], Iterator[dict[str, Any]]]
_PROGRAMS = {"recovery": recovery.PROGRAMS, "pairs": pairs.PROGRAMS, "learning": learning.PROGRAMS}
_ON_DATA = ("pairs", "learning")
"""Studies of images in a folder."""


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for, names that do not exist refused."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument(
        "studies",
        nargs="*",
        help=f"of {', '.join(page.TITLES)}; all but the last, where their data are there, by default",
    )
    parser.add_argument("--data", type=Path, help="of pairs and learning: a folder of folders with a case.json")
    parser.add_argument(
        "--cases", type=_split, help="of all studies but the robustness, with commas between; all by default"
    )
    parser.add_argument("--methods", type=_split, help="programs, likewise")
    parser.add_argument("--pairs", type=int, help="at most so many of each case")
    parser.add_argument("--repeats", type=int, default=5, help="starts for each angle of the robustness")
    parser.add_argument("--training", type=float, default=120.0, help="seconds of the processor for each network")
    parser.add_argument("--threads", type=int, default=2, help="of each program; networks are trained with one")
    parser.add_argument("--output", type=Path, default=Path("out/studies"), help="folder for JSON and figures")
    parser.add_argument("--record", action="store_true", help="also renew benchmarks/results/ and the page in the docs")
    arguments = parser.parse_args(words)
    arguments.studies = arguments.studies or ["recovery", "robustness", *(["pairs"] if arguments.data else [])]
    if problem := _find_problem(arguments):
        parser.error(problem)
    return arguments


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _find_problem(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the arguments, and what there is instead."""
    studies = arguments.studies
    on_data = [study for study in studies if study in _ON_DATA]
    if on_data and arguments.data is None:
        return f"{on_data[0]}: pairs are looked for in a folder, name it by --data"
    known = {"study": list(page.TITLES), "case": [], "method": []}
    known["method"] = [name for study in studies for name in _PROGRAMS.get(study, ())]
    if "recovery" in studies:
        known["case"] += [case.name for case in CASES]
    if on_data:
        found = pairs.read_pairs(arguments.data, None, None)
        known["case"] += dict.fromkeys(pair.case for pair in found)
        if not found:
            return f"no folder in {arguments.data} has a case.json"
        if missing := pairs.find_missing(found):
            return f"a case.json names {missing}, which is not there"
    asked = {"study": studies, "case": arguments.cases, "method": arguments.methods}
    for kind, names in asked.items():
        if unknown := [name for name in names or [] if name not in known[kind]]:
            return f"no {kind} is called {unknown[0]!r}; there is {', '.join(dict.fromkeys(known[kind]))}"
    return None


def plan(arguments: argparse.Namespace, peers: Path) -> dict[str, Study]:
    """The studies asked for, each as a function that yields its rows."""
    threads = arguments.threads
    programs = {
        study: [name for name in names if name in (arguments.methods or names)] for study, names in _PROGRAMS.items()
    }
    cases = arguments.cases or [case.name for case in CASES]
    known = {"robustness": partial(robustness.measure, peers, threads, arguments.repeats)}
    known["recovery"] = partial(recovery.measure, peers, threads, cases, programs["recovery"])
    if arguments.data:
        chosen = pairs.read_pairs(arguments.data, arguments.cases, arguments.pairs)
        known["pairs"] = partial(pairs.measure, peers, threads, chosen, programs["pairs"])
        known["learning"] = partial(learning.measure, peers, threads, chosen, programs["learning"], arguments.training)
    return {study: known[study] for study in arguments.studies}


def run(study: str, measure: Study, about: dict[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
    """Run a study, with each row written as soon as it is there: what was measured outlives what comes after."""
    result: dict[str, Any] = {**about, "rows": []}
    task = progress.add_task(study, total=None)

    def report(done: int, total: int, what: str) -> None:
        progress.update(task, completed=done, total=total, description=what)

    for row in measure(report):
        result["rows"].append(row)
        page.write_json(study, result, folder)
    progress.update(task, completed=len(result["rows"]), total=len(result["rows"]), description=study)
    return result


def main() -> None:
    arguments = read_arguments()
    console = Console(width=None if sys.stdout.isatty() else 150)
    arguments.output.mkdir(parents=True, exist_ok=True)
    peers, versions, missing = peer_environment.prepare(Path(sys.prefix) / "study-peers", extra="studies")
    machine.hold_to_cores(arguments.threads)
    about = {"machine": machine.describe(arguments.threads, versions), "missing": missing}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        found = {
            study: run(study, measure, about, arguments.output, progress)
            for study, measure in plan(arguments, peers).items()
        }
    for study, result in found.items():
        for table in make_tables(study, result["rows"]):
            table.show(console)
        drawn = page.write_picture(study, result, arguments.output)
        if arguments.record:
            page.record(study, result)
        written = (arguments.output / f"{study}.json", *drawn)
        console.print(f"Written: {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
