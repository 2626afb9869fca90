"""`keramorph predict`: align two image files by a trained network alone."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from keramorph.cli.command import guard
from keramorph.cli.outcome import end, summarise
from keramorph.cli.output import check_free, check_inputs_apart, stage
from keramorph.cli.progress import show_registration


@guard
def predict(
    fixed: Annotated[Path, typer.Argument(metavar="FIXED", help="Image that stays: file, DICOM folder.")],
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="Image that is laid onto it.")],
    model: Annotated[
        list[str],
        typer.Option(metavar="FILE", help="Trained network, .keras; of several, repeated, the mean is taken."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    already_aligned: Annotated[
        bool, typer.Option("--already-aligned", help="Take the headers for right: no affine transform before.")
    ] = False,
    smoothness: Annotated[
        float | None, typer.Option(help="From 0 to 1, for a network that takes one.", min=0, max=1)
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Edge of the parts in which a large image is seen, in voxels, a multiple of 16.")
    ] = None,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write the error to be expected, in mm, as an image too.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads to use; all cores by default.", min=1)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show neither progress nor summary.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> int:
    """Align two images by a trained network: an affine transform first, then what the network finds, and no more.

    The folder gets what `keramorph register` writes.
    """
    check_free(output, overwrite=overwrite)
    check_inputs_apart(output, fixed, moving, *map(Path, model))
    with stage(output) as folder:
        from keramorph import backend, registration
        from keramorph.prediction import Ensemble, Predictor

        backend.set_threads(threads)
        start = time.perf_counter()
        config = registration.Config(iterations=0, model=model[0] if len(model) == 1 else model)
        if already_aligned:
            config = dataclasses.replace(config, affine_iterations=0, search=False)
        predictors = [Predictor(path, tile=tile, smoothness=smoothness) for path in model]
        used: Any = Ensemble(predictors) if uncertainty or len(model) > 1 else predictors[0]
        with show_registration(quiet=quiet) as progress:
            asked = dataclasses.replace(config, model=used)
            result = registration.register(fixed, moving, config=asked, progress=progress)
        seconds = {"predict": time.perf_counter() - start}
        run = {"config": dataclasses.asdict(config), "smoothness": smoothness, "tile": tile, "threads": threads}
        # Drawing is imported late: whoever gave a wrong file need not wait for it.
        from keramorph.cli.result_files import write_files

        maps = {"uncertainty": used.error} if uncertainty else {}
        names = write_files(result, folder, images=([fixed], [moving]), run={**run, "seconds": seconds}, maps=maps)
    if not quiet:
        summarise(result, output, names, seconds=time.perf_counter() - start)
    return end(result.outcome)
