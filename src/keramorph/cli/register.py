"""`keramorph register`: align two image files."""

from __future__ import annotations

import dataclasses
import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from keramorph.cli.command import DONE, NOT_TRUSTWORTHY, guard
from keramorph.cli.output import check_free, check_inputs_apart, stage
from keramorph.cli.progress import show_registration


class Preset(Enum):
    """The presets by their names, as the command line offers them."""

    fast = "fast"
    default = "default"
    accurate = "accurate"


@guard
def register(
    fixed: Annotated[Path, typer.Argument(metavar="FIXED", help="Image that stays: a file, or a DICOM folder.")],
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="Image that is laid onto it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    preset: Annotated[Preset, typer.Option(help="What counts more, time or accuracy.")] = Preset.default,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.", min=0)] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads to use; all cores by default.", min=1)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show neither progress nor summary.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> int:
    """Align two images: MOVING is laid onto FIXED.

    The folder gets the moved image, the transform from fixed to moving points and its inverse (ITK, LPS, millimetres),
    a summary in numbers and a report to look at.
    """
    check_free(output, overwrite=overwrite)
    check_inputs_apart(output, fixed, moving)
    with stage(output) as folder:
        from keramorph import backend, registration
        from keramorph.solver import Config

        backend.set_threads(threads)
        config = dataclasses.replace(Config.preset(preset.value), seed=seed)
        start = time.perf_counter()
        with show_registration(quiet=quiet) as progress:
            result = registration.register(fixed, moving, config=config, progress=progress)
        seconds = {"register": time.perf_counter() - start}
        run = {"config": dataclasses.asdict(config), "threads": threads, "seconds": seconds}
        # Drawing is imported late: whoever gave a wrong file need not wait for it.
        from keramorph.cli.result_files import write_files

        names = write_files(result, folder, fixed=fixed, moving=moving, run=run)
    if not quiet:
        _summarise(result, output, names, seconds=time.perf_counter() - start)
    if result.outcome.trusted:
        return DONE
    typer.echo(f"warning: not to be trusted: {result.outcome.reason} All files are written.", err=True)
    return NOT_TRUSTWORTHY


def _summarise(result: Any, output: Path, names: list[str], *, seconds: float) -> None:
    from keramorph.report import describe_outcome, describe_scores

    typer.echo(describe_outcome(result.outcome))
    typer.echo(describe_scores(result.metrics))
    typer.echo(f"{seconds:.1f} s. Written to {output}: {', '.join(names)}")
