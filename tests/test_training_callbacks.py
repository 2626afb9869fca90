"""Callbacks of the training: a run that is killed goes on as if nothing had happened; pictures of validation pairs."""

import signal
import subprocess
import sys
from pathlib import Path

import keras
import matplotlib.image
import numpy as np
import pytest

from keramorph.errors import FileError, InputError, OptionError
from keramorph.training import ResumableCheckpoint, ValidationPictures
from resumable_training import EPOCHS, STEPS, Batches, make_model, train


def test_killed_training_resumes_to_the_weights_of_one_that_was_not(tmp_path):
    """Killed in the middle of an epoch, one step after the file was written."""
    if keras.config.backend() == "jax":
        import jax

        # What earlier tests have compiled without optimisations rounds otherwise, the first weights for one.
        jax.clear_caches()
    program = Path(__file__).with_name("resumable_training.py")
    # Without `site` where we run without it: its hooks could put another installation first.
    python = [sys.executable, *(["-S"] if sys.flags.no_site else [])]
    killed = subprocess.Popen([*python, str(program), str(tmp_path / "killed.npz"), "1", "2"], stderr=subprocess.PIPE)
    # Meanwhile, the one that is not. The model is used again, with all that has become of it: the file must undo it.
    model = make_model()
    long, whole = train(model, tmp_path / "whole.npz")
    _, said = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, said
    with np.load(tmp_path / "killed.npz") as content:
        assert '"epoch": 1, "step": 2' in str(content["about"])
    short, resumed = train(model, tmp_path / "killed.npz")
    for one, other in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(one, other)
    # The epoch's metrics go on too, from before the kill.
    assert {name: values[1:] for name, values in long.items()} == short
    assert len(set(long["loss"])) == EPOCHS


def test_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    x, y = np.ones((2, 2), "float32"), np.ones((2, 1), "float32")
    model.fit(x, y, callbacks=[ResumableCheckpoint(path)], shuffle=False, verbose=0)
    assert ResumableCheckpoint(path).initial_epoch == 1
    with pytest.raises(InputError, match=r"initial_epoch=0.*epoch 1"):
        model.fit(x, y, callbacks=[ResumableCheckpoint(path)], verbose=0)
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    other.compile("sgd", "mse", jit_compile=False)
    with pytest.raises(InputError, match=r"weight_0 has the shape \(2, 1\) instead of \(2, 3\)"):
        other.fit(x, y, callbacks=[ResumableCheckpoint(path)], verbose=0)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FileError, match="no checkpoint, or damaged"):
        _ = ResumableCheckpoint(path).initial_epoch
    assert list(tmp_path.iterdir()) == [path]
    for bad in ({"path": "run.h5"}, {"path": "run.npz", "every": 0}):
        with pytest.raises(OptionError, match="Received: "):
            ResumableCheckpoint(**bad)


class Still(keras.Model):
    """Network that shifts by two voxels along the first axis."""

    def call(self, inputs):
        fixed, moving = inputs["fixed"], inputs["moving"]
        field = keras.ops.concatenate([keras.ops.zeros_like(fixed) + 2.0, keras.ops.zeros_like(fixed)], axis=-1)
        return {"moved": keras.ops.roll(moving, -2, axis=1), "displacement": field}


def test_pictures_show_each_pair_in_a_row(tmp_path):
    fixed, moving = np.zeros((2, 2, 24, 24, 1), "float32")
    moving[:, 8:16, 8:16], fixed[:, 6:14, 8:16] = 1.0, 1.0
    pictures = ValidationPictures({"fixed": fixed, "moving": moving}, tmp_path / "pictures", every=2)
    pictures.set_model(Still())
    for epoch in range(3):
        pictures.on_epoch_end(epoch)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["epoch-0002.png"]
    picture = matplotlib.image.imread(tmp_path / "pictures" / "epoch-0002.png")[..., :3]
    rows, columns = picture.shape[0] // 2, picture.shape[1] // 5
    panels = [[picture[r * rows :][:rows, c * columns :][:, :columns] for c in range(5)] for r in range(2)]
    for first, second, moved, difference, grid in panels:
        dark = [np.mean(panel.max(axis=-1) < 0.05) for panel in (first, second, moved)]
        assert max(dark) - min(dark) < 0.02  # one square each, wherever it lies
        assert 0.3 < dark[0] < 0.9
        assert np.mean(difference.max(axis=-1) < 0.05) < 0.1  # none is left: white
        yellow = (grid[..., 0] > 0.8) & (grid[..., 2] < 0.5)
        assert 0.01 < yellow.mean() < 0.4
    with pytest.raises(InputError, match="'moving'"):
        ValidationPictures({"fixed": fixed}, tmp_path)
    with pytest.raises(OptionError, match="every=0"):
        ValidationPictures({"fixed": fixed, "moving": moving}, tmp_path, every=0)


def test_pictures_of_volumes_in_the_logs_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    volumes = np.random.default_rng(0).random((2, 1, 6, 8, 10, 1), dtype="float32")

    class Same(keras.Model):
        def call(self, inputs):
            return {"moved": inputs["moving"], "displacement": keras.ops.repeat(0 * inputs["fixed"], 3, axis=-1)}

    pictures = ValidationPictures(
        {"fixed": volumes[0], "moving": volumes[1]}, tmp_path / "p", tensorboard=tmp_path / "logs"
    )
    pictures.set_model(Same())
    pictures.on_epoch_end(4)
    logs = EventAccumulator(str(tmp_path / "logs"))
    logs.Reload()
    (entry,) = logs.Images("validation pairs")
    assert entry.step == 5
    assert entry.encoded_image_string == (tmp_path / "p" / "epoch-0005.png").read_bytes()


def test_missing_tensorboard_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    images = Batches()[STEPS - 1]
    with pytest.raises(OptionError, match="pip install tensorboard"):
        ValidationPictures(images, tmp_path, tensorboard=tmp_path)
