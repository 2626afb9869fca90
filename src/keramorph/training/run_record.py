"""What a training leaves behind while it runs: its log, its curves, and the model as it was best."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

from keramorph._keras import keras
from keramorph.errors import InputError
from keramorph.io.writing import replacing

MODEL, LOG, CURVES = "model.keras", "log.csv", "curves.png"

_SCORES = ("val_dice", "val_loss", "loss")
"""What the best epoch is the best by: the first of these that is measured."""


class RunRecord(keras.callbacks.Callback):
    """Callback that writes `log.csv`, `curves.png` and, where an epoch is the best so far, `model.keras` to a folder.

    All that it remembers is in the log, so that a training that is resumed goes on as if it had never ended: give
    `initial_epoch` and the rows before it are read.

    Args:
        folder: Folder to write to.
        patience: Epochs without a better one after which training ends; None for no end.
        initial_epoch: Epoch at which `fit` begins.
        average: Callback that exchanges the weights for their moving average, which is then saved; None for none.
        curves_every: Epochs from one drawing of the curves to the next; the last epoch of a training is always drawn.
    """

    def __init__(
        self,
        folder: Path,
        *,
        patience: int | None = None,
        initial_epoch: int = 0,
        average: keras.callbacks.SwapEMAWeights | None = None,
        curves_every: int = 10,
    ) -> None:
        super().__init__()
        self.folder, self.patience, self.average, self.curves_every = folder, patience, average, max(1, curves_every)
        self.rows = _read_rows(folder / LOG, initial_epoch)
        self._begun = time.perf_counter()

    @property
    def score(self) -> str:
        """Name of what the best epoch is the best by."""
        return next((name for name in _SCORES if self.rows and name in self.rows[-1]), "loss")

    @property
    def best(self) -> dict[str, float] | None:
        """Row of the best epoch; None before the first has ended."""
        rows = [row for row in self.rows if not math.isnan(row.get(self.score, math.nan))]
        # The first of those that are equal.
        sign = -1 if self.score == "val_dice" else 1
        return min(rows, key=lambda row: sign * row[self.score], default=None)

    @property
    def is_exhausted(self) -> bool:
        """Whether the patience has come to its end."""
        if self.patience is None or self.best is None:
            return False
        return self.rows[-1]["epoch"] - self.best["epoch"] >= self.patience

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Take the time."""
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the model if it is the best so far, then the row of the epoch."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(values["loss"]):
            raise InputError(
                f"The loss is no number any more. Received: loss={values['loss']} in epoch {epoch + 1}. Lower "
                "`training.learning_rate`, or train in `precision: float32`."
            )
        self.rows.append({"epoch": epoch + 1, "seconds": time.perf_counter() - self._begun, **values})
        best = self.best
        if best is not None and best["epoch"] == epoch + 1:
            self._save()
        _write_rows(self.rows, self.folder / LOG)
        if self.is_exhausted:
            self.model.stop_training = True
        if (epoch + 1) % self.curves_every == 0:
            write_curves(self.rows, self.folder / CURVES)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Draw the curves."""
        write_curves(self.rows, self.folder / CURVES)

    def _save(self) -> None:
        if self.average is not None:
            self.average.on_test_begin()
        with replacing(self.folder / MODEL) as temporary:
            self.model.save(temporary)
        if self.average is not None:
            self.average.on_test_end()


def write_curves(rows: list[dict[str, float]], path: Path) -> None:
    """Draw what a log holds: the loss and its terms, and the scores, over the epochs.

    Args:
        rows: Numbers by name, `epoch` among them, one row for each epoch.
        path: File to write.
    """
    from matplotlib.figure import Figure

    if not rows:
        return
    names = [name for name in rows[-1] if name not in ("epoch", "seconds")]
    plain = [name for name in names if not name.startswith("val_")]
    panels = [(name, [one for one in (name, f"val_{name}") if one in names]) for name in plain]
    panels += [(name[4:], [name]) for name in names if name.startswith("val_") and name[4:] not in plain]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * lines), layout="constrained")
    places = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (title, curves) in zip(places, panels, strict=False):
        for name in curves:
            there = [row for row in rows if name in row]
            label = "validation" if name.startswith("val_") else "training"
            axes.plot([row["epoch"] for row in there], [row[name] for row in there], label=label)
        axes.set_title(title.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    with replacing(path) as temporary:
        temporary.write_bytes(picture.getvalue())


def _read_rows(path: Path, epochs: int) -> list[dict[str, float]]:
    """Rows of a log up to a number of epochs: what came after the last checkpoint is done once more."""
    if not path.exists() or not epochs:
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]
    rows = [{**row, "epoch": int(row["epoch"])} for row in rows]
    return [row for row in rows if row["epoch"] <= epochs]


def _write_rows(rows: list[dict[str, float]], path: Path) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
