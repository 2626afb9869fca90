"""`keramorph train`, killed at any moment and gone on with by `--resume`, ends as a training that was never killed."""

import csv
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from conftest import compiling_quickly
from keramorph.io import write_image
from keramorph.space import Grid, Image

# All that has a state: the smoothness that is drawn, Adam's moments, gradients half accumulated, a learning rate that
# falls, moving averages; and batches that differ from epoch to epoch.
RECIPE = """
network: {class: ConditionalVoxelMorph, encoder: [4], decoder: [4], final: [4]}
similarity: MSE
preparation: {shape: [16, 16], flip: [0, 1]}
data: {folder: images}
training:
  epochs: 3
  steps: 5
  learning_rate: 0.02
  schedule: cosine
  accumulate: 2
  ema: 0.5
  checkpoint_steps: 2
  pictures: 0
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe for four discs, which lie in different places."""
    folder = tmp_path_factory.mktemp("study")
    rows, columns = np.mgrid[:16, :16]
    (folder / "images").mkdir()
    for number in range(4):
        disc = np.exp(-((rows - 6.0 - number) ** 2 / 12 + (columns - 8.0 + number) ** 2 / 20))[..., None]
        write_image(Image(disc.astype("float32"), Grid.from_spacing((16, 16), 1.0)), folder / f"images/{number}.nii.gz")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """Folder of a training that nothing ended."""
    if keras.config.backend() == "jax":
        import jax

        # What earlier tests have compiled with other optimisations rounds otherwise.
        jax.clear_caches()
    folder = tmp_path_factory.mktemp("whole") / "run"
    with compiling_quickly():
        finish(recipe, folder)
        yield folder


def finish(recipe, folder, *words):
    from keramorph.cli import app

    with pytest.raises(SystemExit) as end:
        app(["train", str(recipe), "-o", str(folder), "--quiet", *words])
    assert not end.value.code


def read_state(path):
    with np.load(path) as content:
        return {name: content[name] for name in content.files}


def read_weights(path, folder):
    """Weights of a model by name; the file itself tells the time at which it was written."""
    with zipfile.ZipFile(path) as archive:
        archive.extract("model.weights.h5", folder)
    import h5py

    found = {}
    with h5py.File(folder / "model.weights.h5") as content:
        content.visititems(
            lambda name, entry: found.update({name: entry[()]} if isinstance(entry, h5py.Dataset) else {})
        )
    return found


def read_log(path):
    with path.open(newline="") as stream:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(stream)]


@pytest.mark.parametrize(
    ("moment", "place", "left"),
    [
        # Before there is a checkpoint, between two of them, while one is written, and with the epoch's model and row
        # of the log there but not its checkpoint.
        ("step", (0, 0), None),
        ("step", (1, 2), (1, 2)),
        ("written", (1, 2), (1, 0)),
        ("moved", (2, 0), (1, 4)),
    ],
    ids=["at the first step", "between checkpoints", "while writing", "before moving"],
)
def test_killed_command_resumes_to_the_end_of_one_that_was_not(recipe, whole, tmp_path, moment, place, left):
    program, folder = Path(__file__).with_name("killed_command.py"), tmp_path / "run"
    # Without `site` where we run without it: its hooks could put another installation first.
    python = [sys.executable, *(["-S"] if sys.flags.no_site else [])]
    command = [*python, str(program), moment, *map(str, place), "train", str(recipe), "-o", str(folder), "--quiet"]
    # It has to round as this process does.
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (folder / "checkpoint.npz").exists() == (left is not None)
    if left is not None:
        about = str(read_state(folder / "checkpoint.npz")["about"])
        assert about == f'{{"version": 1, "epoch": {left[0]}, "step": {left[1]}}}'
    finish(recipe, folder, "--resume")
    resumed, expected = (read_state(one / "checkpoint.npz") for one in (folder, whole))
    assert sum(name.startswith("optimizer") for name in expected) > 8
    np.testing.assert_equal(resumed, expected)
    np.testing.assert_equal(*(read_weights(one / "model.keras", tmp_path) for one in (folder, whole)))
    assert read_log(folder / "log.csv") == read_log(whole / "log.csv")
    # Nothing that was half written stays.
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
