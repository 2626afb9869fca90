"""`keramorph evaluate`: how well a trained network registers pairs whose labels or landmarks are known."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keramorph.cli.command import DONE, guard
from keramorph.cli.output import check_free, stage
from keramorph.cli.progress import show_count
from keramorph.errors import FileError, OptionError


@guard
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="File of a model, .keras, or builtin.")],
    pairs: Annotated[
        Path, typer.Argument(metavar="PAIRS", help="Table (.csv) of fixed, moving, ...; or a folder of images.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the scores.")],
    label_maps: Annotated[
        Path | None, typer.Option(help="With a folder: that of the label maps, of the same file names.")
    ] = None,
    pattern: Annotated[str, typer.Option(help="With a folder: what the names of the images match.")] = "*",
    label: Annotated[list[int] | None, typer.Option(help="Label that counts; may be repeated. All by default.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show neither progress nor the table.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> int:
    """Score a network on pairs: Dice, landmarks, folds, time.

    The folder gets scores.csv, a row for each pair, summary.json with their means, and a picture, scores.png.
    """
    check_free(output, overwrite=overwrite, inputs=[Path(model)])
    with stage(output) as folder:
        from keramorph import evaluation

        listed = _list_pairs(pairs, label_maps, pattern)
        with show_count("pairs", quiet=quiet) as progress:
            scores = evaluation.evaluate_pairs(model, listed, labels=label or None, progress=progress)
        means = evaluation.average_scores(scores)
        _write_table(scores, folder / "scores.csv")
        _write_summary(scores, means, model, folder / "summary.json")
        evaluation.write_figure(scores, folder / "scores.png")
    if not quiet:
        _show(scores, means)
        typer.echo(f"Written to {output}: scores.csv, scores.png, summary.json")
    return DONE


def _list_pairs(pairs: Path, label_maps: Path | None, pattern: str) -> list[Any]:
    """Pairs of a folder, or of a table, the latter with the landmarks that it names."""
    from keramorph.evaluation import EvaluationPair
    from keramorph.training import pair_folder, read_pairs

    if pairs.is_dir():
        listed = pair_folder(pairs, labels=label_maps, pattern=pattern)
    elif label_maps is None:
        listed = read_pairs(pairs)
    else:
        raise OptionError(
            f"Label maps of a table are columns of it. Received: --label-maps {label_maps} with {pairs}. Name them "
            "there, as fixed_labels and moving_labels."
        )
    return [EvaluationPair(*pair[:4], *_read_landmarks(*pair[4:])) for pair in listed]


def _read_landmarks(*files: Any) -> list[Any]:
    """Landmarks of either image of a pair: points, or None where it has no file of them."""
    from keramorph.io.points import read_points

    points = [None if file is None else read_points(Path(file)).points for file in files]
    if len({None if one is None else len(one) for one in points}) > 1:
        raise FileError(
            f"Landmarks are two files with as many points. Received: {', '.join(map(str, files))}. List them in the "
            "same order."
        )
    return points


def _name_columns(scores: Sequence[Any]) -> list[int]:
    return sorted({label for one in scores for label in one.dice})


def _write_table(scores: Sequence[Any], path: Path) -> None:
    labels = _name_columns(scores)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        plain = ("tre", "tre_before", "folds_percent", "correlation", "correlation_before", "seconds")
        each = [f"dice{when}_{label}" for when in ("", "_before") for label in labels]
        writer.writerow(["fixed", "moving", "mean_dice", "mean_dice_before", *plain, *each])
        for one in scores:
            values = [getattr(one, name) for name in ("mean_dice", "mean_dice_before", *plain)]
            values += [overlap.get(label) for overlap in (one.dice, one.dice_before) for label in labels]
            writer.writerow([one.fixed, one.moving, *values])


def _write_summary(scores: Sequence[Any], means: dict[str, Any], model: str, path: Path) -> None:
    from keramorph.cli.result_files import make_plain, read_versions

    summary = {
        "model": model,
        "versions": read_versions(),
        "means": means,
        "pairs": [dataclasses.asdict(one) for one in scores],
    }
    path.write_text(json.dumps(make_plain(summary), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _show(scores: Sequence[Any], means: dict[str, Any]) -> None:
    """A table with what the pairs have, before and after."""
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    columns = {
        "Dice": ("mean_dice", 3),
        "TRE mm": ("tre", 2),
        "correlation": ("correlation", 3),
        "folds %": ("folds_percent", 3),
        "seconds": ("seconds", 3),
    }
    shown = {title: entry for title, entry in columns.items() if means[entry[0]] is not None}
    table = Table("moving to fixed", *(Column(title, no_wrap=True) for title in shown), box=box.SIMPLE_HEAD)
    for one in scores:
        names = f"{Path(one.moving).name} to {Path(one.fixed).name}"
        table.add_row(names, *(_format(_read_scores(one), *entry) for entry in shown.values()))
    table.add_section()
    table.add_row(f"mean of {len(scores)}", *(_format(means, *entry) for entry in shown.values()))
    # A log has no width, and 80 columns, which rich would take, are few.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    if means["dice"]:
        labels = ", ".join(f"{label}: {value:.3f}" for label, value in means["dice"].items() if value is not None)
        typer.echo(f"Dice by label: {labels}")


def _read_scores(one: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "mean_dice": one.mean_dice, "mean_dice_before": one.mean_dice_before}


def _format(values: dict[str, Any], name: str, digits: int) -> str:
    """A value, behind the one before where there is one."""
    both = [values.get(f"{name}_before"), values[name]]
    return " > ".join(f"{value:.{digits}f}" for value in both if value is not None) or "-"
