"""`python -m benchmarks.studies`: what is known, found again; prints, draws, and with --record renews the page."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import machine, peer_environment
from benchmarks.studies import drawing, recovery, robustness
from benchmarks.studies.cases import CASES
from benchmarks.studies.methods import METHODS


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument(
        "--cases", default=",".join(case.name for case in CASES), help="of the recovery; none: leave out"
    )
    parser.add_argument("--methods", default=",".join(METHODS), help="programs, with commas between")
    parser.add_argument("--repeats", type=int, default=5, help="starts for each angle of the robustness; 0: leave out")
    parser.add_argument("--threads", type=int, default=2, help="of each program")
    parser.add_argument("--output", type=Path, default=Path("out/studies"), help="folder for JSON and figures")
    parser.add_argument("--record", action="store_true", help="also renew benchmarks/results/ and the page in the docs")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    console = Console(width=None if sys.stdout.isatty() else 150)
    arguments.output.mkdir(parents=True, exist_ok=True)
    peers, versions, missing = peer_environment.prepare(Path(sys.prefix) / "study-peers", extra="studies")
    machine.hold_to_cores(arguments.threads)
    # A case may have a comma in its name.
    cases = [case.name for case in CASES if case.name in arguments.cases]
    with console.status("") as status:
        result = {
            "machine": machine.describe(arguments.threads, versions),
            "missing": missing,
            "recovery": recovery.measure(peers, arguments.threads, cases, arguments.methods.split(","), status.update),
            "robustness": robustness.measure(peers, arguments.threads, arguments.repeats, status.update),
        }
    (arguments.output / "studies.json").write_text(json.dumps(result, indent=1) + "\n")
    drawing.print_tables(console, result)
    drawn = drawing.draw_all(result, arguments.output)
    if arguments.record:
        drawing.record(result)
    console.print(f"Written: {', '.join(str(path) for path in (arguments.output / 'studies.json', *drawn))}")


if __name__ == "__main__":
    main()
