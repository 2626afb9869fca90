"""Pictures of a few pairs, as the network registers them while it learns."""

from __future__ import annotations

import importlib
import importlib.util
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import InputError, OptionError
from keramorph.io.writing import replacing
from keramorph.training.pair_pictures import cut_slice, draw_grid, hide_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = ("fixed", "moving", "moved", "fixed minus moved", "deformed grid")


class ValidationPictures(keras.callbacks.Callback):
    """Callback that draws pairs at the end of epochs: both images, the moved one, the difference, the deformed grid.

    Each epoch makes one file, `epoch-0001.png` the first, with a row for each pair; of volumes it shows the middle
    slice along the first axis. The model is a `RegistrationModel`, or another that returns `moved` and `displacement`.

    Args:
        batch: The pairs, `{"fixed": ..., "moving": ...}`, both `(batch, *spatial, channels)`; further entries are
            handed to the model too. A batch of a `PairDataset` for one.
        folder: Folder for the files, made where it is missing.
        every: Epochs from one picture to the next.
        tensorboard: Folder of logs for TensorBoard, which gets the pictures too, with the package `tensorboard`.

    Raises:
        InputError: If a batch lacks an image.
        OptionError: If `every` is not positive, or the package `tensorboard` is not installed where it is asked for.

    Example:
        >>> import tempfile
        >>> from keramorph.networks import VoxelMorph
        >>> network = VoxelMorph((16, 16, 1), encoder=(4,), decoder=(4,), final=(4,))
        >>> fixed, moving = np.random.default_rng(0).random((2, 1, 16, 16, 1), dtype="float32")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pictures = ValidationPictures({"fixed": fixed, "moving": moving}, folder)
        ...     pictures.set_model(network)
        ...     pictures.on_epoch_end(0)
        ...     [path.name for path in Path(folder).iterdir()]
        ['epoch-0001.png']
    """

    def __init__(
        self,
        batch: dict[str, Array],
        folder: str | Path,
        *,
        every: int = 1,
        tensorboard: str | Path | None = None,
    ) -> None:
        super().__init__()
        if not {"fixed", "moving"} <= set(batch):
            raise InputError(
                f"A batch needs the entries 'fixed' and 'moving'. Received: entries {sorted(batch)}. Take one of "
                "a dataset."
            )
        if every < 1:
            raise OptionError(f"`every` is a number of epochs, at least 1. Received: every={every!r}. Take 1.")
        if tensorboard is not None and importlib.util.find_spec("tensorboard") is None:
            raise OptionError(
                f"Pictures in TensorBoard need its package. Received: tensorboard={str(tensorboard)!r}. Install it "
                "with `pip install tensorboard`, or leave this out: the files are written all the same."
            )
        self.batch = batch
        self.folder = Path(folder)
        self.every = every
        self.tensorboard = tensorboard

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Draw the pairs, if it is time."""
        if (epoch + 1) % self.every:
            return
        found = self.model.predict_on_batch(self.batch)
        views = {
            name: np.asarray(keras.ops.convert_to_numpy(self.batch[name]), np.float32) for name in ("fixed", "moving")
        }
        views |= {name: np.asarray(found[name], np.float32) for name in ("moved", "displacement")}
        picture = io.BytesIO()
        _draw(views).savefig(picture, format="png")
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"epoch-{epoch + 1:04d}.png") as temporary:
            temporary.write_bytes(picture.getvalue())
        if self.tensorboard is not None:
            _log(picture.getvalue(), Path(self.tensorboard), epoch + 1)


def _draw(views: dict[str, np.ndarray]) -> Figure:
    """Figure with a row for each pair."""
    from matplotlib.figure import Figure

    count = len(views["fixed"])
    figure = Figure(figsize=(2.2 * len(_TITLES), 2.3 * count), layout="constrained")
    for row, places in enumerate(figure.subplots(count, len(_TITLES), squeeze=False)):
        pair = {name: cut_slice(array[row]) for name, array in views.items()}
        _draw_pair(places, pair)
        if row == 0:
            for axes, title in zip(places, _TITLES, strict=True):
                axes.set_title(title, fontsize=9)
    return figure


def _draw_pair(places: Any, pair: dict[str, np.ndarray]) -> None:
    fixed, moving, moved = (pair[name].mean(axis=-1) for name in ("fixed", "moving", "moved"))
    low, high = float(min(fixed.min(), moving.min())), float(max(fixed.max(), moving.max()))
    for axes, image in zip(places, (fixed, moving, moved), strict=False):
        axes.imshow(image, cmap="gray", vmin=low, vmax=high)
    reach = max(high - low, 1e-6)
    places[3].imshow(fixed - moved, cmap="RdBu_r", vmin=-reach, vmax=reach)
    places[4].imshow(moved, cmap="gray", vmin=low, vmax=high, alpha=0.6)
    draw_grid(places[4], pair["displacement"])
    for axes in places:
        hide_ticks(axes)


def _log(picture: bytes, folder: Path, step: int) -> None:
    """Add a picture to the logs of TensorBoard."""
    event = importlib.import_module("tensorboard.compat.proto.event_pb2")
    summary = importlib.import_module("tensorboard.compat.proto.summary_pb2")
    writing = importlib.import_module("tensorboard.summary.writer.event_file_writer")
    image = summary.Summary.Image(encoded_image_string=picture)
    value = summary.Summary.Value(tag="validation pairs", image=image)
    writer = writing.EventFileWriter(str(folder))
    writer.add_event(event.Event(wall_time=time.time(), step=step, summary=summary.Summary(value=[value])))
    writer.close()
