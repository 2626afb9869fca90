"""`python -m benchmarks`: measures, prints, and writes JSON and figures."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import figures, machine, memory, page, peer_environment, registering, tables, targets
from benchmarks.plan import FRAMEWORKS, SECTIONS, Plan, make_plan
from benchmarks.rounds import Conductor


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds: two minutes")
    parser.add_argument(
        "--only", default=",".join(SECTIONS), help=f"sections, with commas between: {', '.join(SECTIONS)}"
    )
    parser.add_argument("--frameworks", default=",".join(FRAMEWORKS), help="with commas between; ratios want torch")
    parser.add_argument("--threads", type=int, default=2, help="of each candidate")
    parser.add_argument("--register", nargs=2, type=Path, metavar=("FIXED", "MOVING"), help="time a registration, too")
    parser.add_argument("--output", type=Path, default=Path("out/bench"), help="folder for JSON, figures and the log")
    parser.add_argument(
        "--record",
        action="store_true",
        help="also renew benchmarks/results/ and the page in the docs; with `--only register` that part alone",
    )
    parser.add_argument("--draw", type=Path, metavar="JSON", help="measure nothing: draw and print an earlier run")
    arguments = parser.parse_args()
    for option, allowed in (("only", SECTIONS), ("frameworks", FRAMEWORKS)):
        chosen = tuple(name.strip() for name in getattr(arguments, option).split(","))
        if not set(chosen) <= set(allowed):
            parser.error(f"--{option} takes some of {', '.join(allowed)}. Received: {getattr(arguments, option)}")
        setattr(arguments, option, chosen)
    return arguments


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure what is asked for; what fails is listed, and the rest goes on."""
    began = time.perf_counter()
    plan = make_plan(arguments.only, quick=arguments.quick)
    peers, versions, absent = peer_environment.prepare(Path(sys.prefix) / "peers")
    machine.hold_to_cores(arguments.threads)
    result: dict[str, Any] = {
        "machine": machine.describe(arguments.threads, versions),
        "quick": arguments.quick,
        "rows": [],
        "memory": [],
        "register": [],
        "missing": dict(absent),
    }
    if plan.tasks:
        pythons = {name: str(peers) if name == "peers" else sys.executable for name in arguments.frameworks}
        _measure_tasks(plan, Conductor(pythons, arguments.threads, arguments.output / "log.txt"), result, console)
    if "memory" in plan.sections:
        console.print("Peak memory ...")
        result["memory"] = memory.measure_all(plan, arguments.threads, sys.executable)
        tables.print_memory(console, result["memory"])
    if "register" in plan.sections and arguments.register:
        console.print("Registration ...")
        result["register"] = registering.measure(*arguments.register, arguments.threads, sys.executable)
        tables.print_registration(console, result["register"])
        profiler = peers.with_name("py-spy")
        flames = arguments.output / "register.svg"
        registering.draw_flames(*arguments.register, arguments.threads, sys.executable, profiler, flames)
    result["seconds"] = round(time.perf_counter() - began)
    return result


def _measure_tasks(plan: Plan, conductor: Conductor, result: dict[str, Any], console: Console) -> None:
    try:
        for place, task in enumerate(plan.tasks):
            title = f"{tables.TITLES[task.section]}: {task.label}"
            with console.status(title) as status:
                say = lambda text: status.update(f"{title}: {text}")  # noqa: B023, E731
                result["rows"] += conductor.measure(task, plan, say)
            following = plan.tasks[place + 1 : place + 2]
            if not following or following[0].section != task.section:
                tables.print_section(console, task.section, result["rows"])
    finally:
        conductor.close()
        result["missing"] |= conductor.missing


def main() -> None:
    arguments = read_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # by way of `finally`: no process, no file is left
    console = Console(width=None if sys.stdout.isatty() else 150)
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.draw:
        result = json.loads(arguments.draw.read_text())
        for section in SECTIONS:
            tables.print_section(console, section, result["rows"])
        tables.print_memory(console, result["memory"])
    else:
        result = measure(arguments, console)
    verdicts = targets.judge(result)
    result["exponents"] = targets.fit_exponents(result["rows"])
    result["targets"] = [verdict.to_json() for verdict in verdicts]
    tables.print_missing(console, result["missing"])
    tables.print_verdicts(console, verdicts, complete=not result["quick"])
    (arguments.output / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    drawn = figures.draw_all(result, arguments.output)
    if arguments.record and arguments.only == ("register",):
        page.record(page.read_recorded() | {"register": result["register"]}, arguments.output / "register.svg")
    elif arguments.record:
        page.record(result, arguments.output / "register.svg")
    about = result["machine"]
    console.print(f"{about['cpu']}, {about['threads']} threads, {about['date']}; {result['seconds']} s in all")
    console.print(f"Written: {', '.join(str(path) for path in (arguments.output / 'results.json', *drawn))}")


if __name__ == "__main__":
    main()
