"""`keramorph register`: align two image files."""

from __future__ import annotations

import dataclasses
import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from keramorph.cli.command import DONE, guard
from keramorph.cli.outcome import end, summarise
from keramorph.cli.output import check_free, check_inputs_apart, stage
from keramorph.cli.progress import show_registration
from keramorph.errors import OptionError


class Preset(Enum):
    """The presets by their names, as the command line offers them."""

    fast = "fast"
    default = "default"
    accurate = "accurate"


class Metric(Enum):
    """The metrics by their names, as the command line offers them."""

    auto = "auto"
    lncc = "lncc"
    ncc = "ncc"
    mse = "mse"
    nmi = "nmi"
    ngf = "ngf"
    mind = "mind"


class Transform(Enum):
    """The kinds of transforms, likewise."""

    rigid = "rigid"
    similarity = "similarity"
    affine = "affine"
    deformable = "deformable"


class Channels(Enum):
    """What of the channels of an image counts, likewise."""

    mean = "mean"
    each = "each"


class Algorithm(Enum):
    """The ways to find a deformation, likewise."""

    greedy = "greedy"
    velocity = "velocity"
    symmetric = "symmetric"
    bspline = "bspline"
    mixed = "mixed"


@guard
def register(
    fixed: Annotated[Path | None, typer.Argument(metavar="FIXED", help="Image that stays: file, DICOM folder.")] = None,
    moving: Annotated[Path | None, typer.Argument(metavar="MOVING", help="Image that is laid onto it.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.")] = None,
    also_fixed: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Further image of what FIXED shows, T2 beside T1; may be repeated."),
    ] = None,
    also_moving: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Further image of what MOVING shows, for each --also-fixed."),
    ] = None,
    preset: Annotated[Preset, typer.Option(help="What counts more, time or accuracy.")] = Preset.default,
    metric: Annotated[Metric | None, typer.Option(help="What the images are compared by.")] = None,
    channels: Annotated[Channels | None, typer.Option(help="What of colours: their mean, or each of them.")] = None,
    transform: Annotated[Transform | None, typer.Option(help="What may be found; the last one by default.")] = None,
    algorithm: Annotated[Algorithm | None, typer.Option(help="How a deformation is found.")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Trained network, .keras or builtin, which finds one more start."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Parameters, .yaml, or summary.json of an earlier run.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show all parameters, and end.")] = False,
    initial: Annotated[Path | None, typer.Option(help="Transform to start from, instead of a search.")] = None,
    already_aligned: Annotated[bool, typer.Option("--already-aligned", help="Start from the headers.")] = False,
    fixed_mask: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="What counts of FIXED, not 0 where it does; or one for each fixed image."),
    ] = None,
    moving_mask: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="What counts of MOVING, likewise.")
    ] = None,
    fixed_landmarks: Annotated[
        Path | None, typer.Option(help="Points of FIXED, .csv with x, y, z in mm (LPS).")
    ] = None,
    moving_landmarks: Annotated[Path | None, typer.Option(help="The same points of MOVING.")] = None,
    fixed_labels: Annotated[Path | None, typer.Option(help="Label map of FIXED, to meet that of MOVING.")] = None,
    moving_labels: Annotated[Path | None, typer.Option(help="Label map of MOVING.")] = None,
    time_budget: Annotated[float | None, typer.Option(help="Seconds it may take.", min=0)] = None,
    engine: Annotated[str, typer.Option(help="Whose arrays to work on: numpy, torch, jax or tensorflow.")] = "numpy",
    device: Annotated[str | None, typer.Option(help="Where PyTorch works: cuda for a GPU.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.", min=0)] = None,
    threads: Annotated[int | None, typer.Option(help="Threads to use; all cores by default.", min=1)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show neither progress nor summary.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> int:
    """Align two images: MOVING is laid onto FIXED.

    The folder gets the moved image, the transform from fixed to moving points and its inverse (ITK, LPS, millimetres),
    a summary in numbers and a report to look at.
    """
    search = False if already_aligned else None
    asked: dict[str, Any] = {"seed": seed, "time_budget": time_budget, "model": model, "search": search}
    chosen = {"metric": metric, "channels": channels, "transform": transform, "algorithm": algorithm}
    asked |= {name: choice and choice.value for name, choice in chosen.items()}
    changes = {name: value for name, value in asked.items() if value is not None}
    engine = f"{engine}:{device}" if device else engine
    if print_config:
        return _print_parameters(_read_parameters(preset, config, changes))
    fixed, moving, output = _demand(fixed, moving, output)
    if already_aligned and initial is not None:
        raise OptionError(
            f"A search has one start. Received: --already-aligned and --initial {initial}. Leave one of the two out."
        )
    check_free(output, overwrite=overwrite)
    images = [fixed, *(also_fixed or [])], [moving, *(also_moving or [])]
    masks = fixed_mask or [], moving_mask or []
    hints = {"landmarks": (fixed_landmarks, moving_landmarks), "labels": (fixed_labels, moving_labels)}
    network = Path(model) if model else None
    beside = [initial, config, network, *masks[0], *masks[1], *hints["landmarks"], *hints["labels"]]
    check_inputs_apart(output, *filter(None, [*images[0], *images[1], *beside]))
    with stage(output) as folder:
        from keramorph import backend, registration

        parameters = _read_parameters(preset, config, changes)
        backend.set_threads(threads)
        given: dict[str, Any] = {"masks": tuple(map(_join_masks, masks)), "initial": initial, "engine": engine}
        start = time.perf_counter()
        with show_registration(quiet=quiet) as progress:
            scans = (_add_hints(side, k, hints) for k, side in enumerate(images))
            result = registration.register(*scans, config=parameters, progress=progress, **given)
        seconds = {"register": time.perf_counter() - start}
        run = {"config": dataclasses.asdict(parameters), **given, **hints, "threads": threads, "seconds": seconds}
        # Drawing is imported late: whoever gave a wrong file need not wait for it.
        from keramorph.cli.result_files import write_files

        names = write_files(result, folder, images=images, run=run)
    if not quiet:
        summarise(result, output, names, seconds=time.perf_counter() - start)
    return end(result.outcome)


def _demand(fixed: Path | None, moving: Path | None, output: Path | None) -> tuple[Path, Path, Path]:
    """What no registration can do without."""
    if fixed is None or moving is None or output is None:
        raise OptionError(
            f"Two images and a folder were expected. Received: FIXED={_show(fixed)}, MOVING={_show(moving)}, "
            f"--output {_show(output)}. For example: keramorph register fixed.nii.gz moving.nii.gz -o out/"
        )
    return fixed, moving, output


def _show(path: Path | None) -> str:
    return "nothing" if path is None else repr(str(path))


def _join_masks(given: list[Path]) -> Path | list[Path] | None:
    """One mask for all images of a side, or one for each."""
    if len(given) > 1:
        return given
    return given[0] if given else None


def _add_hints(images: list[Path], number: int, hints: dict[str, tuple[Path | None, Path | None]]) -> Any:
    """The fixed or the moving images (0 or 1), with what the files say of them."""
    from keramorph.io.points import read_points
    from keramorph.registration import Scan

    landmarks, labels = hints["landmarks"][number], hints["labels"][number]
    return Scan(images, None if landmarks is None else read_points(landmarks).points, labels)


def _read_parameters(preset: Preset, path: Path | None, changes: dict[str, Any]) -> Any:
    """The preset's parameters, those of the file above them, and what the other options say above these."""
    from keramorph.cli.config_file import read_config
    from keramorph.solver import Config

    config = Config.preset(preset.value)
    if path is not None:
        config = read_config(path, config)
    return dataclasses.replace(config, **changes)


def _print_parameters(parameters: Any) -> int:
    from keramorph.cli.config_file import format_config

    typer.echo(format_config(parameters))
    return DONE
