"""The network that comes with the package: the numbers of Keras' layers, and displacements that are there."""

from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import ndimage

from keramorph import weights
from keramorph.errors import OptionError
from keramorph.networks import DualStream
from keramorph.prediction import Predictor
from keramorph.prediction.shipped_network import PlainDualStream
from keramorph.space import Grid, Image
from keramorph.weights import TrainedWeights, list_weights, read_weights

pytestmark = pytest.mark.usefixtures("compile_quickly")

SMALL = {"radius": 1, "encoder": (3, 5), "decoder": (6, 4)}


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize(("shape", "finest"), [((21, 30), 0), ((13, 18), 2), ((9, 7, 10), 1)])
def test_without_a_framework_a_network_finds_what_keras_finds(shape, finest):
    random = np.random.default_rng(0)
    design = {"input_shape": (*shape, 1), "finest": finest, **SMALL}
    network = DualStream(**design)
    network.set_weights([random.normal(0, 0.2, w.shape).astype("float32") for w in network.get_weights()])
    arrays = {weight.path: to_numpy(weight.value) for weight in network.weights}
    fixed, moving = random.random((2, 1, *shape, 1), dtype="float32")
    expected = to_numpy(network([fixed, moving])["displacement"])
    assert np.abs(expected).max() > 0.5
    found = PlainDualStream(TrainedWeights(design, arrays)).predict(fixed, moving)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_weights_that_come_along_are_small():
    sizes = [path.stat().st_size for path in Path(weights.__file__).parent.glob("*.npz")]
    assert len(sizes) == len(list_weights()) == 2
    assert sum(sizes) < 6e6


def draw_scene(ndim, edge):
    """Tissues of unlike brightness, smoothed by SciPy, and a smooth displacement of up to 3 voxels in the middle."""
    random = np.random.default_rng(3)
    noise = random.standard_normal((10, *(edge,) * ndim))
    tissues = ndimage.gaussian_filter(noise, (0, *(5,) * ndim)).argmax(axis=0)
    moving = ndimage.gaussian_filter(random.permutation(np.linspace(0, 1, 10))[tissues], 0.7).astype("float32")
    places = np.moveaxis(np.indices(moving.shape), 0, -1)
    bump = np.exp(-8 * np.sum(((places - edge / 2) / edge) ** 2, axis=-1))
    displacement = np.stack([(3.0 if axis == 0 else -2.0) * bump for axis in range(ndim)], axis=-1)
    fixed = ndimage.map_coordinates(moving, np.moveaxis(places + displacement, -1, 0), order=1, mode="nearest")
    return fixed[..., None], moving[..., None], displacement


@pytest.mark.parametrize(("ndim", "edge"), [(2, 64), (3, 32)])
def test_a_preset_finds_the_same_field_on_every_backend_to_a_thousandth_of_a_voxel(ndim, edge):
    """All are compared with the one that NumPy finds."""
    fixed, moving, _ = draw_scene(ndim, edge)
    network, weights = DualStream.from_preset(f"shapes_{ndim}d"), read_weights(f"shapes_{ndim}d")
    assert set(weights.arrays) == {weight.path for weight in network.weights}
    found = to_numpy(network([fixed[None], moving[None]])["displacement"])
    assert np.abs(found).max() > 1
    np.testing.assert_allclose(found, PlainDualStream(weights).predict(fixed[None], moving[None]), atol=1e-3)


@pytest.mark.parametrize(("ndim", "edge"), [(2, 128), (3, 48)])
@pytest.mark.parametrize("inverted", [False, True])
def test_builtin_finds_a_displacement_whatever_the_contrast(ndim, edge, inverted):
    fixed, moving, displacement = draw_scene(ndim, edge)
    if inverted:
        moving = 1 - moving
    grid = Grid.from_spacing((edge,) * ndim)
    transform = Predictor("builtin").predict(Image(fixed, grid), Image(moving, grid))
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    points = grid.to_physical(index)
    found = grid.to_index(transform.apply_points(points)) - index
    inside = np.linalg.norm(displacement, axis=-1) > 1
    before, after = (np.linalg.norm(field[inside], axis=-1).mean() for field in (displacement, found - displacement))
    assert after < (0.7 if inverted else 0.5) * before


def test_weights_that_are_not_there_are_refused():
    with pytest.raises(OptionError, match=r"shapes_2d, shapes_3d. Received: name='brains'"):
        read_weights("brains")
