"""Trainings from recipes: what they leave, how they go on, when they end, and that the best model is the one kept."""

import csv
import math
import os
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from keramorph.errors import FileError, InputError, OptionError
from keramorph.io import write_image
from keramorph.space import Grid, Image
from keramorph.training import read_recipe, train
from keramorph.training.run_record import RunRecord

RECIPE = """
network: {class: VoxelMorph, encoder: [4], decoder: [4], final: [4]}
similarity: MSE
options: {regularity: 0.01, labels: 1.0}
preparation: {shape: [16, 16], labels: [1]}
data: {folder: images, labels: maps}
validation: {folder: images, labels: maps}
training:
  {epochs: 3, steps: 3, batch_size: 2, learning_rate: 0.02, ema: 0.5, checkpoint_steps: 1, pictures: 2}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe for three discs, which lie in different places."""
    folder = tmp_path_factory.mktemp("recipe")
    rows, columns = np.mgrid[:16, :16]
    for kind in ("images", "maps"):
        (folder / kind).mkdir()
    for number in range(3):
        disc = np.exp(-((rows - 6.0 - number) ** 2 / 12 + (columns - 8.0 + number) ** 2 / 20))[..., None]
        grid = Grid.from_spacing((16, 16), 1.0)
        write_image(Image(disc.astype("float32"), grid), folder / f"images/{number}.nii.gz")
        write_image(Image((disc > 0.5).astype("uint8"), grid), folder / f"maps/{number}.nii.gz")
    (folder / "recipe.yaml").write_text(RECIPE)
    return read_recipe(folder / "recipe.yaml")


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return train(recipe, folder)


def read_log(folder):
    with (Path(folder) / "log.csv").open(newline="") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def test_a_training_leaves_its_files(whole):
    names = {path.relative_to(whole.folder).as_posix() for path in whole.folder.rglob("*") if path.is_file()}
    assert names == {
        "checkpoint.npz", "curves.png", "log.csv", "model.keras", "recipe.yaml", "pictures/epoch-0002.png",
    }  # fmt: skip
    assert [row["epoch"] for row in read_log(whole.folder)] == [1, 2, 3]
    assert yaml.safe_load((whole.folder / "recipe.yaml").read_text())["training"]["steps"] == 3
    assert (whole.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_model_is_kept_with_the_weights_that_were_validated(recipe, whole):
    """With a moving average, which training itself does not use: what is kept scores what the log says."""
    rows = read_log(whole.folder)
    best = max(rows, key=lambda row: row["val_dice"])
    assert (whole.score, whole.best_epoch, whole.value) == ("val_dice", best["epoch"], best["val_dice"])
    model = keras.saving.load_model(whole.folder / "model.keras")
    from keramorph.training.sources import make_validation

    pairs = make_validation(recipe.validation, recipe.preparation, recipe.training)
    scores = model.evaluate(pairs, verbose=0, return_dict=True)
    for name in ("dice", "loss", "similarity"):
        assert scores[name] == pytest.approx(best[f"val_{name}"], abs=1e-5)
    assert model.preparation == recipe.preparation


def test_an_interrupted_training_goes_on_to_the_same_end(recipe, whole, tmp_path):
    """Interrupted in the second epoch: the step is finished, and what comes after is as if nothing had happened."""

    def interrupt(at):
        if (at.epoch, at.step) == (2, 2):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    # So that each step reports.
    patch = pytest.MonkeyPatch()
    patch.setattr("keramorph.training.run.SHOWN_AFTER", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", progress=interrupt)
    patch.undo()
    assert signal.getsignal(signal.SIGINT) is before
    assert [row["epoch"] for row in read_log(tmp_path / "run")] == [1]
    with np.load(tmp_path / "run/checkpoint.npz") as state:
        assert str(state["about"]) == '{"version": 1, "epoch": 1, "step": 2}'
    again = train(recipe, tmp_path / "run", existing="resume")
    assert (again.epochs, again.best_epoch) == (3, whole.best_epoch)
    for row, expected in zip(read_log(again.folder), read_log(whole.folder), strict=True):
        assert {**row, "seconds": 0} == pytest.approx({**expected, "seconds": 0}, abs=1e-6)
    with np.load(again.folder / "checkpoint.npz") as one, np.load(whole.folder / "checkpoint.npz") as other:
        assert set(one.files) == set(other.files)
        for name in set(one.files) - {"about"}:
            np.testing.assert_allclose(one[name], other[name], atol=1e-6, err_msg=name)


def test_what_is_there_is_neither_overwritten_nor_gone_on_with_by_another_recipe(recipe, whole, tmp_path):
    with pytest.raises(FileError, match="--resume"):
        train(recipe, whole.folder)
    other = tmp_path / "other.yaml"
    text = (whole.folder / "recipe.yaml").read_text()
    other.write_text(text.replace("learning_rate: 0.02", "learning_rate: 0.03").replace("MSE", "NCC"))
    with pytest.raises(OptionError, match=r"similarity: 'MSE', now 'NCC'; training.learning_rate: 0.02, now 0.03"):
        train(read_recipe(other), whole.folder, existing="resume")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileError, match=r"without recipe.yaml"):
        train(recipe, tmp_path, existing="resume")


def test_a_training_that_is_over_is_over(recipe, whole):
    stamp = (whole.folder / "model.keras").stat().st_mtime_ns
    again = train(recipe, whole.folder, existing="resume")
    assert again == whole
    assert (whole.folder / "model.keras").stat().st_mtime_ns == stamp


class Saver:
    """In the place of a model."""

    stop_training = False
    saved = 0

    def save(self, path):
        Path(path).write_text("")
        self.saved += 1


def run_epochs(record, values, name="val_dice", start=0):
    record.set_model(Saver())
    for epoch, value in enumerate(values, start=start):
        record.on_epoch_begin(epoch)
        record.on_epoch_end(epoch, {"loss": 1.0, name: value})
    return record.model


def test_training_ends_when_patience_does_and_remembers_it(tmp_path):
    model = run_epochs(RunRecord(tmp_path, patience=2), [0.5, 0.7, 0.6])
    assert (model.saved, model.stop_training) == (2, False)
    # Gone on with after the second epoch: the third is done once more, and the best one was the second.
    record = RunRecord(tmp_path, patience=2, initial_epoch=2)
    assert [row["val_dice"] for row in record.rows] == [0.5, 0.7]
    model = run_epochs(record, [0.6, 0.7], start=2)
    assert (model.saved, model.stop_training, record.best["epoch"]) == (0, True, 2)


def test_a_loss_is_best_where_it_is_smallest_and_a_score_that_is_none_never(tmp_path):
    record = RunRecord(tmp_path)
    run_epochs(record, [0.5, 0.3, 0.4], name="val_loss")
    assert (record.score, record.best["epoch"]) == ("val_loss", 2)
    record = RunRecord(tmp_path)
    run_epochs(record, [math.nan, 0.3], name="val_dice")
    assert record.best["epoch"] == 2


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    record = RunRecord(tmp_path)
    record.set_model(Saver())
    record.on_epoch_begin(0)
    with pytest.raises(InputError, match="learning_rate"):
        record.on_epoch_end(0, {"loss": math.nan})
    assert not (tmp_path / "model.keras").exists()
