"""The examples show what they say, after a few steps already: what they measure gets better."""

import runpy
from pathlib import Path

import keras
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="they run on any backend; PyTorch compiles nothing and is soon done"
)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Function that runs an example with some steps and returns what it found."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return lambda name, steps: runpy.run_path(str(EXAMPLES / name))["main"](steps, tmp_path)


def test_unsupervised_training_aligns_organs_that_it_has_not_seen(run, tmp_path):
    found = run("unsupervised_2d.py", 40)
    assert found["after"] > found["before"] + 0.05
    assert found["folds_percent"] < 0.1
    assert {path.name for path in tmp_path.iterdir()} == {*(f"epoch-000{n}.png" for n in range(1, 5)), "network.keras"}


def test_labels_teach_what_noisy_images_hide(run):
    found = run("semi_supervised.py", 60)
    assert found["labels_too"] > found["images_alone"] + 0.02


def test_random_shapes_teach_to_register_bodies_of_unlike_contrast(run):
    found = run("synthetic_only.py", 80)
    assert found["after"] > found["before"] + 0.003


def test_an_atlas_is_closer_to_the_true_body_than_the_mean_image(run):
    found = run("atlas.py", 80)
    assert found["atlas"] > found["mean_image"] + 0.005


def test_fine_tuning_helps_and_the_solver_finishes(run):
    found = run("fine_tune.py", 40)
    assert found["as trained"] > found["before"] + 0.02
    assert found["fine-tuned"] > found["as trained"]
    assert found["fine-tuned, then the solver"] > found["fine-tuned"] + 0.05
