"""`keramorph synth`: what synthetic pairs look like, before a network is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keramorph.cli.command import DONE, guard
from keramorph.cli.output import check_free, stage

SHEET = "sheet.png"


@guard
def synth(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the sheet, and for the pairs.")],
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="YAML file with a section `synthesis`, as for train.")
    ] = None,
    shape: Annotated[
        list[int] | None, typer.Option(help="Voxels along an axis; repeated for each. 128 x 128 by default.")
    ] = None,
    count: Annotated[int, typer.Option(help="Number of pairs.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.", min=0)] = 0,
    write: Annotated[
        bool, typer.Option("--write", help="Write the pairs too, as NIfTI, with their transforms.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> int:
    """Show what synthetic pairs a recipe makes.

    The folder gets sheet.png, a row for each pair: both images, their labels, the moving one deformed. With --write it
    gets a folder for each pair, with transform.h5 from fixed to moving points.
    """
    check_free(output, overwrite=overwrite, inputs=[recipe] if recipe else [])
    with stage(output) as folder:
        from keramorph.preparation import PairOptions
        from keramorph.training import Synthesis, draw_synthetic_pairs, read_synthesis, write_synthetic_pair
        from keramorph.training.pair_pictures import write_sheet

        synthesis, options = (Synthesis(), None) if recipe is None else read_synthesis(recipe)
        if shape or options is None:
            options = PairOptions(tuple(shape or (128, 128)), labels=options.labels if options else ())
        pairs = draw_synthetic_pairs(synthesis, options, count=count, seed=seed)
        write_sheet(pairs, folder / SHEET)
        for number, pair in enumerate(pairs if write else [], start=1):
            write_synthetic_pair(pair, folder / f"pair-{number:03d}", spacing=options.spacing)  # type: ignore[arg-type]
    also = f", pair-001 to pair-{count:03d}" if write else ""
    typer.echo(f"Written to {output}: {SHEET}{also}")
    return DONE
