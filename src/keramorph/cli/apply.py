"""`keramorph apply`: a transform that was found before, applied to an image, a label map or a list of points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from keramorph.cli.command import DONE, guard
from keramorph.cli.output import check_free, stage
from keramorph.errors import OptionError


@guard
def apply(
    transform: Annotated[Path, typer.Argument(metavar="TRANSFORM", help="transform.h5, or any of ITK's.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image; or fixed points, .csv of x, y[, z] in mm.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    reference: Annotated[Path | None, typer.Option(help="Image whose grid the result gets: the fixed one.")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Keep the values: nearest neighbour.")] = False,
    order: Annotated[int | None, typer.Option(help="Interpolating spline: 0, 1 (the default) or 3.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> int:
    """Move an image, labels or points by a transform.

    An image is read where the transform takes the voxels of the reference. Points go the other way, from the fixed to
    the moving image: take inverse.h5 for points of the moving one.
    """
    check_free(output, overwrite=overwrite, inputs=[transform, image, *filter(None, [reference])])
    with stage(output.parent) as folder:
        if image.suffix.lower() == ".csv":
            _move_points(transform, image, folder / output.name)
        else:
            _move_image(transform, image, folder / output.name, reference, order=_choose_order(order, labels=labels))
    typer.echo(f"Written: {output}")
    return DONE


def _choose_order(order: int | None, *, labels: bool) -> int:
    from keramorph._typing import Order

    if labels and order:
        raise OptionError(
            f"Labels are moved by nearest neighbour. Received: --labels --order {order}. Leave one of the two out."
        )
    if order not in (None, *get_args(Order)):
        raise OptionError(
            f"`--order` must be one of {get_args(Order)}. Received: order={order}. Take 1, or 0 for labels."
        )
    if labels:
        return 0
    return 1 if order is None else order


def _move_image(transform: Path, image: Path, output: Path, reference: Path | None, *, order: int) -> None:
    from keramorph.io import read_image, write_image
    from keramorph.transforms import read_transform

    if reference is None:
        raise OptionError(
            "An image needs a grid to be moved onto. Received: no `--reference`. Add `--reference FIXED`, the image "
            "that the transform was found for."
        )
    grid = read_image(reference).grid
    moved = read_transform(transform).resample(read_image(image), grid, order=order)  # type: ignore[arg-type]
    write_image(moved, output)


def _move_points(transform: Path, points: Path, output: Path) -> None:
    from keramorph.io.points import read_points, write_points
    from keramorph.transforms import read_transform

    table = read_points(points)
    write_points(table, read_transform(transform).apply_points(table.points), output)
