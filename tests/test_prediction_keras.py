"""Keras models at work on images: from files, with and without the model that trained them, of one size or of any."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from keramorph.errors import ArrayTypeError, FileError, InputError, OptionError
from keramorph.losses import NCC, Diffusion
from keramorph.networks import ConditionalVoxelMorph, VoxelMorph
from keramorph.prediction import Predictor
from keramorph.space import Grid, Image
from keramorph.training import PairOptions, RegistrationModel

SMALL = {"encoder": (4,), "decoder": (4,), "final": (4,)}

pytestmark = pytest.mark.usefixtures("compile_quickly")


def make_images(shape=(24, 20), spacing=1.0):
    random = np.random.default_rng(5)
    return [Image(random.random((*shape, 1)), Grid.from_spacing(shape, spacing)) for _ in range(2)]


def wake(network, seed=0):
    """The network with random weights in its last layers too, which begin at nothing."""
    random = np.random.default_rng(seed)
    network.set_weights([random.normal(0, 0.2, w.shape).astype(w.dtype) for w in network.get_weights()])
    return network


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Path of a trained model, so to speak, and the network in it."""
    network = wake(VoxelMorph((None, None, 1), **SMALL))
    model = RegistrationModel(network, NCC(), Diffusion(), preparation=PairOptions((16, 16), spacing=(2.0, 1.5)))
    path = tmp_path_factory.mktemp("models") / "model.keras"
    model.save(path)
    return path, network


@pytest.mark.skipif(
    keras.config.backend() == "jax", reason="as on the others, and another process compiles it all anew"
)
def test_a_file_is_enough_to_predict_in_a_process_that_knows_nothing_else(saved, tmp_path):
    """The field is the network's own, on the grid at the spacing of the training, in millimetres."""
    path, network = saved
    fixed, moving = make_images((32, 24))
    code = """
import sys
import numpy as np
from keramorph.prediction import Predictor
from keramorph.space import Grid, Image
assert "keras" not in sys.modules
images = [Image(array, Grid.from_spacing((32, 24))) for array in np.load(sys.argv[2])]
np.savez(sys.argv[3], **vars(Predictor(sys.argv[1]).predict(*images)) | {"grid": 0})
"""
    np.save(tmp_path / "images.npy", np.stack([fixed.array, moving.array]))
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "images.npy", tmp_path / "found.npz"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")["displacement"]
    pair = Predictor(network).prepare(fixed, moving)  # what that sees is tested elsewhere
    assert pair.fixed.shape == (1, 32, 24, 1)
    predictor = Predictor(path)
    pair = predictor.prepare(fixed, moving)
    assert pair.grid.shape == (16, 16)
    expected = keras.ops.convert_to_numpy(network([pair.fixed, pair.moving])["displacement"])[0]
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found, (expected * [2.0, 1.5])[..., ::-1], atol=1e-4)


def test_a_network_of_one_size_sees_the_middle():
    network = wake(VoxelMorph((16, 16, 1), **SMALL))
    fixed, moving = make_images((24, 20))
    transform = Predictor(network, tile=32).predict(fixed, moving)
    assert transform.grid.shape == (16, 16)
    np.testing.assert_allclose(transform.grid.center, fixed.grid.center)


def test_tiles_of_a_network_make_the_field_of_the_whole(saved):
    """Eight voxels from the edge of each tile, further than this one sees, its pooling included."""
    images = make_images((160, 48))
    whole, tiled = (Predictor(saved[1], tile=tile).predict(*images).displacement for tile in (None, 128))
    assert np.abs(whole).max() > 0.05
    np.testing.assert_allclose(tiled, whole, atol=1e-4)


def test_smoothness_goes_to_a_network_that_takes_it_and_to_no_other(saved):
    network = wake(ConditionalVoxelMorph((None, None, 1), **SMALL))
    images, predictor = make_images((16, 16)), Predictor(network)
    smooth, middle, default = (predictor.predict(*images, smoothness=value).displacement for value in (1.0, 0.5, None))
    np.testing.assert_array_equal(middle, default)
    assert np.abs(smooth - middle).max() > 1e-3
    with pytest.raises(OptionError, match="between 0 and 1"):
        predictor.predict(*images, smoothness=2.0)
    with pytest.raises(OptionError, match="without one"):
        Predictor(saved[1]).predict(*images, smoothness=0.5)


class Doubling(keras.Model):
    """A network that is no graph: it tells nothing of its inputs."""

    def call(self, inputs):
        fixed, moving = inputs
        return {"displacement": keras.ops.concatenate([2 * fixed, moving], axis=-1)}


def test_a_network_without_a_graph_is_called_with_both_images():
    images = make_images((8, 9))
    predictor = Predictor(Doubling())
    pair = predictor.prepare(*images)
    found = predictor.predict(*images).displacement
    np.testing.assert_allclose(found, np.concatenate([pair.moving, 2 * pair.fixed], axis=-1)[0], atol=1e-6)


def test_what_is_no_model_that_registers_is_refused(tmp_path, saved):
    (tmp_path / "text.keras").write_text("no archive")
    for path, said in ((tmp_path / "gone.keras", "no such file"), (tmp_path / "text.keras", "damaged")):
        with pytest.raises(FileError, match=f"Received: model=.*{said}"):
            Predictor(path)
    one, two = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    with pytest.raises(ArrayTypeError, match="takes two images"):
        Predictor(keras.Model(one, one))
    with pytest.raises(InputError, match="'displacement'"):
        Predictor(keras.Model([one, two], one + two)).predict(*make_images((8, 8)))

    class Unknown(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    keras.Model([one, two], {"displacement": Unknown()(one)}).save(tmp_path / "unknown.keras")
    with pytest.raises(FileError, match="Import the classes"):
        Predictor(tmp_path / "unknown.keras")
