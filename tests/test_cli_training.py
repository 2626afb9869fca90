"""The commands that train, score, show and export networks: what they write, print and exit with."""

import csv
import json

import keras
import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from keramorph import training
from keramorph.cli import app
from keramorph.evaluation import EvaluationPair, evaluate_pairs
from keramorph.training import read_recipe

RECIPE = """
network: {class: VoxelMorph, encoder: [4], decoder: [4], final: [4]}
similarity: MSE
preparation: {shape: [16, 16], labels: [1]}
data: {folder: images, labels: maps}
training: {epochs: 1, steps: 2, pictures: 0}
"""

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two discs with labels and landmarks, and a recipe."""
    folder = tmp_path_factory.mktemp("study")
    rows, columns = np.mgrid[:16, :16]
    for kind in ("images", "maps"):
        (folder / kind).mkdir()
    for number in range(2):
        disc = np.exp(-((rows - 6.0 - number) ** 2 / 12 + (columns - 8.0) ** 2 / 20))
        sitk.WriteImage(sitk.GetImageFromArray(disc.astype("float32")), str(folder / f"images/{number}.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray((disc > 0.5).astype("uint8")), str(folder / f"maps/{number}.nii.gz"))
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "fixed.csv").write_text("x,y\n8,6\n")
    (folder / "moving.csv").write_text("x,y\n8,7\n")
    head = "fixed,moving,fixed_labels,moving_labels,fixed_landmarks,moving_landmarks"
    files = "images/0.nii.gz,images/1.nii.gz,maps/0.nii.gz,maps/1.nii.gz"
    (folder / "pairs.csv").write_text(f"{head}\n{files},fixed.csv,moving.csv\n{files},,\n")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    """File of a model that the command has trained."""
    with pytest.raises(SystemExit) as end:
        app(["train", str(folder / "recipe.yaml"), "-o", str(folder / "run"), "--quiet"])
    assert not end.value.code
    return folder / "run" / "model.keras"


def test_a_training_tells_its_epochs_and_what_it_found(shell, folder, tmp_path):
    code, out, err = shell("train", folder / "recipe.yaml", "-o", tmp_path / "run")
    assert code == 0
    assert err.splitlines()[-1].startswith("epoch    1/1  loss ")
    assert "regularity" in err
    assert "0:00:00 left" in err
    assert "1 epochs. Best: loss " in out
    assert "model.keras" in out


def test_quiet_is_quiet(shell, folder, model):
    assert model.exists()
    code, out, err = shell("train", folder / "recipe.yaml", "-o", folder / "run", "--resume", "--quiet")
    assert (code, out, err) == (0, "", "")


def test_the_example_that_is_shown_is_a_recipe(shell, tmp_path):
    code, out, _ = shell("train", "--print-config")
    assert code == 0
    (tmp_path / "recipe.yaml").write_text(out)
    assert read_recipe(tmp_path / "recipe.yaml").network["class"] == "VoxelMorph"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("recipe.yaml",), "--output None"),
        (("recipe.yaml", "-o", "new", "--resume", "--overwrite"), "--resume and --overwrite"),
        (("wrong.yaml", "-o", "new"), "training.epoch: there is no such key; did you mean epochs?"),
        (("recipe.yaml", "-o", "images"), "--overwrite"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(shell, folder, monkeypatch, words, says):
    monkeypatch.chdir(folder)
    (folder / "wrong.yaml").write_text(RECIPE.replace("epochs", "epoch"))
    code, out, err = shell("train", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err
    assert not (folder / "new").exists()


def test_an_interrupted_training_says_how_to_go_on(shell, folder, model, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    code, _, err = shell("train", folder / "recipe.yaml", "-o", folder / "run", "--resume")
    assert code == 130
    assert f"keramorph train {folder / 'recipe.yaml'} -o {folder / 'run'} --resume" in err
    assert "nothing was written" not in err


def test_an_evaluation_writes_the_scores_of_the_library(shell, folder, model, tmp_path):
    code, out, _ = shell("evaluate", model, folder / "pairs.csv", "-o", tmp_path / "scores")
    assert code == 0
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"scores.csv", "scores.png", "summary.json"}
    files = (f"images/{n}.nii.gz" for n in range(2)), (f"maps/{n}.nii.gz" for n in range(2))
    pair = EvaluationPair(
        *(folder / file for group in files for file in group),
        fixed_landmarks=np.array([[8.0, 6.0]]),
        moving_landmarks=np.array([[8.0, 7.0]]),
    )
    (expected,) = evaluate_pairs(model, [pair])
    with (tmp_path / "scores/scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[0]["dice_1"]) == pytest.approx(expected.dice[1])
    assert float(rows[0]["mean_dice_before"]) == pytest.approx(expected.mean_dice_before)
    assert float(rows[0]["tre"]) == pytest.approx(expected.tre)
    assert (rows[0]["tre_before"], rows[1]["tre"]) == ("1.0", "")
    summary = json.loads((tmp_path / "scores/summary.json").read_text())
    assert summary["means"]["dice"]["1"] == pytest.approx(expected.dice[1])
    assert "mean of 2" in out
    assert f"{expected.mean_dice_before:.3f} > {expected.mean_dice:.3f}" in out


def test_the_network_that_comes_along_is_evaluated_by_its_name(shell, folder, model, tmp_path):
    assert shell("evaluate", "builtin", folder / "pairs.csv", "-o", tmp_path / "scores", "--quiet")[0] == 0
    summary = json.loads((tmp_path / "scores/summary.json").read_text())
    assert summary["model"] == "builtin"
    assert summary["means"]["correlation"] != summary["means"]["correlation_before"]


def test_a_folder_is_evaluated_with_its_label_maps(shell, folder, model, tmp_path):
    words = ("evaluate", model, folder / "images", "-o", tmp_path / "scores", "--label-maps", folder / "maps")
    assert shell(*words, "--quiet")[:2] == (0, "")
    with (tmp_path / "scores/scores.csv").open(newline="") as stream:
        assert len([float(row["dice_1"]) for row in csv.DictReader(stream)]) == 2
    code, _, err = shell(*words)
    assert code == 2
    assert "--overwrite" in err


@pytest.mark.parametrize(
    ("fixed", "says"), [("fixed.csv", "as many points"), ("no.csv", "not there")], ids=["one side", "missing"]
)
def test_landmarks_that_cannot_be_used_are_refused(shell, folder, tmp_path, fixed, says):
    table = folder / "odd.csv"
    table.write_text(
        f"fixed,moving,fixed_landmarks,moving_landmarks\nimages/0.nii.gz,images/1.nii.gz,{fixed},\n", encoding="utf-8"
    )
    code, _, err = shell("evaluate", "any.keras", table, "-o", tmp_path / "scores")
    assert code == 2
    assert says in err
    assert not (tmp_path / "scores").exists()


def test_synthetic_pairs_are_shown_and_written(shell, tmp_path):
    """Read by SimpleITK, the transform carries the moving labels to the fixed ones."""
    synthesis = {
        "num_labels": 3, "shapes": {"scales": [16.0]}, "deformation": {"strength": [2.0, 2.0], "scales": [12.0]},
        "image": {"effects": []},
    }  # fmt: skip
    recipe = {"data": {"synthesis": synthesis}, "preparation": {"shape": [40, 32], "spacing": [2.0, 1.5]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ("synth", tmp_path / "recipe.yaml", "-o", tmp_path / "out", "--count", 2, "--seed", 3)
    code, out, _ = shell(*words, "--write")
    assert code == 0
    assert "pair-002" in out
    assert sitk.ReadImage(str(tmp_path / "out/sheet.png")).GetHeight() > 200
    missed = np.zeros(2)
    for number in (1, 2):
        place = tmp_path / f"out/pair-{number:03d}"
        fixed, moving = (sitk.ReadImage(str(place / f"{name}_labels.nii.gz")) for name in ("fixed", "moving"))
        assert (fixed.GetSpacing(), fixed.GetSize()) == ((1.5, 2.0), (32, 40))
        transform = sitk.ReadTransform(str(place / "transform.h5"))
        moved = sitk.Resample(moving, fixed, transform, sitk.sitkNearestNeighbor, -1)
        maps = [sitk.GetArrayFromImage(image)[6:-6, 6:-6] for image in (fixed, moved, moving)]
        missed += [(maps[0] != other).mean() / 2 for other in maps[1:]]
    # What is left are borders, at which either map was rounded.
    assert missed[0] < min(0.06, missed[1] / 2)
    assert shell(*words)[0] == 2
    assert shell(*words, "--write", "--overwrite")[0] == 0


def test_an_export_is_written_or_says_what_it_needs(shell, model, tmp_path):
    code, out, err = shell("export", model, "-o", tmp_path / "exported")
    if keras.backend.backend() == "tensorflow":
        assert (code, out) == (0, f"Written: {tmp_path / 'exported'}\n")
        assert (tmp_path / "exported/saved_model.pb").exists()
        assert shell("export", model, "-o", tmp_path / "exported")[0] == 2
        assert shell("export", model, "-o", tmp_path / "exported", "--overwrite")[0] == 0
    else:
        assert code == 2
        assert "KERAS_BACKEND=tensorflow" in err
        assert not (tmp_path / "exported").exists()
