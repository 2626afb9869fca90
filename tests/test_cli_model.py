"""Trained networks from the shell: alone, with the error to be expected, and as a start of a registration."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from keramorph.io import read_image
from keramorph.losses import NCC, Diffusion
from keramorph.networks import ConditionalVoxelMorph, VoxelMorph
from keramorph.prediction import Predictor, predict_with_uncertainty
from keramorph.training import PairOptions, RegistrationModel
from keramorph.transforms import read_transform

SMALL = {"encoder": (4,), "decoder": (4,), "final": (4,)}

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two slices that are nearly one, and a model whose displacement is that of its last bias: 1.5 and -0.5 voxels."""
    folder = tmp_path_factory.mktemp("model")
    rows, columns = np.mgrid[:26, :22].astype("float32")
    for name, shift in (("fixed", 0.0), ("moving", 1.0)):
        blob = np.exp(-((rows - 12 - shift) ** 2 / 60 + (columns - 10) ** 2 / 40)) * (2 + np.sin(rows - shift))
        image = sitk.GetImageFromArray(blob)
        image.SetSpacing((1.0, 2.0))
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    network = VoxelMorph((None, None, 1), **SMALL)
    network.get_layer("head").set_weights(
        [
            np.zeros_like(w) if w.ndim > 1 else np.array([0.5, -0.25], "float32")
            for w in network.get_layer("head").get_weights()
        ]
    )
    model = RegistrationModel(network, NCC(), Diffusion(), preparation=PairOptions((16, 16), spacing=2.0))
    model.save(folder / "model.keras")
    return folder


def test_a_network_alone_writes_what_a_registration_writes_and_its_uncertainty(files, shell, tmp_path):
    given = [files / name for name in ("fixed.nii.gz", "moving.nii.gz")]
    words = ["--model", files / "model.keras", "-o", tmp_path / "out", "--already-aligned", "--uncertainty"]
    code, told, _ = shell("predict", *given, *words)
    assert code in (0, 1)
    assert "Start of the deformation: what the model predicts (nothing is to follow" in told
    names = {"moved.nii.gz", "transform.h5", "inverse.h5", "report.png", "summary.json", "uncertainty.nii.gz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["start"]["name"] == "predicted"
    assert summary["config"]["model"] == str(files / "model.keras")
    assert set(summary["files"]) == names
    fixed, moving = map(read_image, given)
    found = predict_with_uncertainty(Predictor(files / "model.keras"), fixed, moving)
    error = read_image(tmp_path / "out" / "uncertainty.nii.gz")
    np.testing.assert_allclose(error.array, found.error.array, rtol=1e-4, atol=1e-4)
    assert error.grid.matches(found.error.grid)
    points = np.array([[9.0, 20.0], [12.0, 31.0]])
    transform = read_transform(tmp_path / "out" / "transform.h5")
    np.testing.assert_allclose(transform.apply_points(points), found.transform.apply_points(points), atol=0.02)


def test_a_registration_tells_whether_it_began_from_the_model(files, shell, tmp_path):
    given = [files / name for name in ("fixed.nii.gz", "moving.nii.gz")]
    _, told, error = shell("register", *given, "--model", files / "model.keras", "-o", tmp_path / "out")
    assert "Start of the deformation: no more than the affine transform (the prediction raises the loss" in told
    assert "predicted 1/1" in error
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["start"]["name"] == "affine"
    # The same once more, from the summary alone.
    words = ["--config", tmp_path / "out" / "summary.json", "-o", tmp_path / "again", "--quiet"]
    shell("register", *given, *words)
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["start"]["reason"] == summary["start"]["reason"]


def test_several_models_and_a_smoothness(files, shell, tmp_path):
    given = [files / name for name in ("fixed.nii.gz", "moving.nii.gz")]
    ConditionalVoxelMorph((None, None, 1), **SMALL).save(tmp_path / "smooth.keras")
    code, _, error = shell(
        "predict", *given, "--model", files / "model.keras", "-o", tmp_path / "out", "--smoothness", "0.3"
    )
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert "smoothness" in error
    both = ["--model", tmp_path / "smooth.keras", "--model", files / "model.keras"]
    shell("predict", *given, *both, "-o", tmp_path / "out", "--already-aligned", "--quiet")
    assert "uncertainty.nii.gz" not in {path.name for path in (tmp_path / "out").iterdir()}
    points = np.array([[9.0, 20.0]])
    moved = read_transform(tmp_path / "out" / "transform.h5").apply_points(points) - points
    alone = Predictor(files / "model.keras").predict(*map(read_image, given)).apply_points(points) - points
    np.testing.assert_allclose(moved, alone / 2, atol=0.02)
