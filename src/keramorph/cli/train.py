"""`keramorph train`: a network trained as a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keramorph.cli.command import DONE, INTERRUPTED, guard
from keramorph.cli.progress import show_fit
from keramorph.errors import OptionError


@guard
def train(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="YAML file: network, data, training.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the model and its log.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show a recipe with all keys, and end.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the training in the folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show neither progress nor summary.")] = False,
) -> int:
    """Train a network to register.

    The folder gets the best model, a log with curves, pictures of validation pairs, and a checkpoint, from which
    `--resume` goes on to the same weights after Ctrl-C, a crash or a kill.
    """
    if print_config:
        from keramorph.training.recipe_example import format_example

        typer.echo(format_example(), nl=False)
        return DONE
    if recipe is None or output is None:
        raise OptionError(
            f"A recipe and a folder were expected. Received: RECIPE={recipe and str(recipe)!r}, "
            f"--output {output and str(output)!r}. For example: keramorph train recipe.yaml -o run/"
        )
    if resume and overwrite:
        raise OptionError("A training goes on or begins anew. Received: --resume and --overwrite. Leave one out.")
    existing = "resume" if resume else "replace" if overwrite else "refuse"
    from keramorph import training

    try:
        with show_fit(quiet=quiet) as progress:
            trained = training.train(training.read_recipe(recipe), output, existing=existing, progress=progress)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        typer.echo(_say_how_to_go_on(recipe, output), err=True)
        return INTERRUPTED
    if not quiet:
        _summarise(trained)
    return DONE


def _say_how_to_go_on(recipe: Path, output: Path) -> str:
    from keramorph.training.run import CHECKPOINT

    if not (output / CHECKPOINT).exists():
        return "interrupted before there was anything to go on with."
    return f"interrupted; go on with: keramorph train {recipe} -o {output} --resume"


def _summarise(trained: Any) -> None:
    ended = ", ended early" if trained.has_ended_early else ""
    typer.echo(
        f"{trained.epochs} epochs{ended}. Best: {trained.score} {trained.value:.4f} in epoch {trained.best_epoch}."
    )
    typer.echo(f"Written to {trained.folder}: {', '.join(sorted(path.name for path in trained.folder.iterdir()))}")
