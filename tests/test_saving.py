"""Files: what is saved under one Keras backend gives the same numbers under the others, and holds no grids."""

import importlib.util
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from keramorph import compat, ops
from keramorph.layers import AffineWarp, Compose, Exponentiate, Resample, ResizeDisplacement, Warp
from keramorph.networks import Cascade, VoxelMorph
from network_cases import MAKE, stir

LAST = {"data_format": "channels_last"}
BACKENDS = ("tensorflow", "jax", "torch")

LOAD = """
import sys
import keras
import numpy as np
import keramorph.compat, keramorph.layers, keramorph.networks

assert keras.config.backend() == sys.argv[2]
for name in sys.argv[3:]:
    model = keras.saving.load_model(f"{sys.argv[1]}/{name}.keras")
    arrays = np.load(f"{sys.argv[1]}/{name}.npz")
    inputs = [arrays[f"input_{k}"] for k in range(len(model.inputs))]
    # JAX compiles each step by itself where it does not compile the whole.
    run = model.predict_on_batch if sys.argv[2] == "jax" else model
    outputs = keras.tree.flatten(run(inputs))
    # Three networks in a row, each of which sees what the one before has moved: fields of several voxels.
    atol = 1e-3 if name == "cascade" else 1e-5
    for k, output in enumerate(outputs):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(output), arrays[f"output_{k}"], atol=atol, err_msg=name)
    print(name, len(outputs))
"""


def make_layers():
    """Each layer in one model, none of it trained."""
    image, field = keras.Input((9, 11, 2)), keras.Input((9, 11, 2))
    matrix = keras.Input((2, 3))
    small = ResizeDisplacement(scale=0.5, **LAST)(field)
    smooth = ResizeDisplacement(shape=(9, 11), **LAST)(Exponentiate(steps=2, **LAST)(small))
    moved = Warp(order=3, boundary="mirror", **LAST)([image, Compose(**LAST)([smooth, field])])
    moved = AffineWarp(boundary="constant", fill_value=0.5, **LAST)([moved, matrix])
    values = Resample(boundary="reflect", **LAST)([moved, 4.0 + field])
    old = compat.SpatialTransformer(fill_value=1.0)(
        [image, compat.RescaleTransform(2)(compat.VecInt()(small))[:, :9, 1:]]
    )
    return keras.Model([image, field, matrix], [values, old])


def make_first():
    image, field = keras.Input((2, 9, 11)), keras.Input((2, 9, 11))
    return keras.Model([image, field], Warp(data_format="channels_first")([image, field]))


def make_bare():
    image, field = keras.Input((9, 11, 2)), keras.Input((9, 11, 2))
    return keras.Model([image, field], ops.warp(image, field, boundary="reflect"))


def make_network():
    model = VoxelMorph((19, 20, 1), mode="velocity", encoder=(4, 4), decoder=(4, 4), final=(4,))
    model.get_layer("head").set_weights([w + 0.05 for w in model.get_layer("head").get_weights()])
    return model


def make_cascade():
    """Other networks in one, so that each gets what the ones before have moved."""
    make = [MAKE[name] for name in ("joint", "lapirn", "dual")]
    return stir(Cascade((19, 20, 1), networks=[one((19, 20, 1)) for one in make]))


MODELS = {
    "layers": make_layers,
    "first": make_first,
    "bare": make_bare,
    "network": make_network,
    "cascade": make_cascade,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with each model in a file, and beside it inputs and what the model made of them."""
    path = tmp_path_factory.mktemp("models")
    generator = np.random.default_rng(0)
    for name, make in MODELS.items():
        model = make()
        inputs = [generator.standard_normal((2, *x.shape[1:])).astype("float32") for x in model.inputs]
        outputs = keras.tree.flatten(model(inputs))
        arrays = {f"input_{k}": x for k, x in enumerate(inputs)}
        arrays |= {f"output_{k}": keras.ops.convert_to_numpy(x) for k, x in enumerate(outputs)}
        np.savez(path / f"{name}.npz", **arrays)
        model.save(path / f"{name}.keras")
    return path


@pytest.mark.parametrize("backend", BACKENDS)
def test_saved_under_one_backend_loads_under_the_others_with_the_same_output(folder, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), backend, *MODELS],
        env=os.environ | {"KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(MODELS)


def test_weights_saved_and_loaded_are_equal(folder):
    loaded = keras.saving.load_model(folder / "network.keras")
    arrays = np.load(folder / "network.npz")
    outputs = keras.tree.flatten(loaded([arrays["input_0"], arrays["input_1"]]))
    for k, output in enumerate(outputs):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(output), arrays[f"output_{k}"], atol=1e-6)


def test_a_warp_on_a_large_grid_saves_no_grid(tmp_path):
    """Trap 7: the identity grid of 160 x 192 x 224 voxels as a weight would be 83 MB."""
    shape = (160, 192, 224)
    image, field = keras.Input((*shape, 1)), keras.Input((*shape, 3))
    model = keras.Model([image, field], Warp(**LAST)([image, field]))
    model.save(tmp_path / "model.keras")
    assert model.weights == []
    assert (tmp_path / "model.keras").stat().st_size < 50_000
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert sum(item.file_size for item in archive.infolist()) < 100_000
