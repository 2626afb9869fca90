"""What a network is shown of two images, and what becomes of its displacement: without any framework."""

import itertools

import numpy as np
import pytest
from scipy import ndimage, stats

from keramorph.errors import ArrayTypeError, InputError, OptionError, ShapeError
from keramorph.prediction import Predictor, predict_with_uncertainty
from keramorph.prediction.network import View
from keramorph.prediction.tiles import list_starts, make_windows, predict_by_tiles
from keramorph.space import Grid, Image
from keramorph.transforms import AffineTransform, CompositeTransform
from oblique import make_grid


class Plain:
    """An array network that keeps what it saw, and whose displacement is a function of it."""

    def __init__(self, ndim=2, voxels=16, find=None):
        self.ndim, self.voxels, self.find, self.seen = ndim, voxels, find, []

    def predict(self, fixed, moving):
        self.seen.append((fixed, moving))
        if self.find is None:
            return np.zeros((*fixed.shape[:-1], self.ndim), np.float32)
        return self.find(fixed, moving)


def make_blob(grid, centre, width=6.0):
    """A Gaussian at a physical point, with a bright voxel or two beside it for the percentiles to leave out."""
    points = grid.to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))
    return Image(np.exp(-((points - centre) ** 2).sum(axis=-1) / (2 * width**2))[..., None], grid)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_displacement_of_voxels_is_one_of_millimetres_on_a_straight_grid_over_all(ndim):
    """A displacement along the first array axis moves along the last physical axis, whatever the fixed image's axes."""
    fixed = Image(np.random.default_rng(0).random((*(12, 9, 10)[:ndim], 1)), make_grid(ndim, shape=(12, 9, 10)[:ndim]))
    network = Plain(ndim, voxels=8, find=lambda f, m: np.eye(ndim)[0] * np.ones((*f.shape[:-1], 1)))
    transform = Predictor(network).predict(fixed, fixed)
    extent = np.abs(fixed.grid.matrix) @ np.array(fixed.grid.shape)
    spacing = extent.max() / 8
    np.testing.assert_allclose(transform.grid.spacing, spacing)
    assert max(transform.grid.shape) == 8
    moved = transform.apply_points(np.zeros(ndim))
    np.testing.assert_allclose(moved, np.eye(ndim)[-1] * spacing, rtol=1e-5)


def test_a_network_of_many_voxels_sees_no_more_than_there_are():
    fixed = Image(np.random.default_rng(0).random((20, 10, 1)), Grid.from_spacing((20, 10), (0.5, 2.0)))
    network = Plain(2, voxels=500)
    assert Predictor(network).predict(fixed, fixed).grid.shape == network.seen[0][0].shape[1:-1] == (20, 40)


def test_the_moving_image_is_seen_through_the_affine_map():
    """Two blobs of one place once the map, of millimetres, has been applied: then both look alike to the network."""
    ndim, where = 3, np.array([4.0, -3.0, 7.0])
    matrix = np.eye(4)
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    matrix[:3, :3], matrix[:3, 3] = turn, (5.0, 2.0, -9.0)
    grids = [Grid.from_spacing((30, 34, 28), 2.0, origin=(-25.0, -36.0, -22.0)) for _ in range(2)]
    grids[1] = Grid.from_spacing((60, 40, 50), (1.0, 2.0, 1.5), origin=(-30.0, -30.0, -35.0))
    fixed, moving = make_blob(grids[0], where), make_blob(grids[1], turn @ where + matrix[:3, 3])
    network = Plain(ndim, voxels=32)
    transform = Predictor(network).predict(fixed, moving, matrix=matrix)
    (seen,) = network.seen
    places = [transform.grid.to_physical(ndimage.center_of_mass(image[0, ..., 0] > 0.5)) for image in seen]
    np.testing.assert_allclose(places[0], where, atol=0.3)
    np.testing.assert_allclose(places[1], where, atol=0.3)
    assert all(image.dtype == np.float32 and 0 <= image.min() < 0.01 and 0.8 < image.max() <= 1 for image in seen)
    without = Predictor(network)
    without.predict(fixed, moving)
    assert np.linalg.norm(transform.grid.to_physical(ndimage.center_of_mass(network.seen[1][1][0, ..., 0])) - where) > 5


def test_a_field_that_is_right_aligns_after_the_affine_map():
    """matrix @ (p + u(p)): a network that knows the shift between what it sees finds the moving blob."""
    grid = Grid.from_spacing((40, 40), 1.5, origin=(-29.0, -29.0))
    matrix = np.array([[0.0, -1.0, 4.0], [1.0, 0.0, -2.0], [0.0, 0.0, 1.0]])
    fixed, moving = make_blob(grid, np.array([3.0, -4.0])), make_blob(grid, np.array([10.0, 5.0]))

    def find(fixed, moving):
        at = [np.array(ndimage.center_of_mass(image[0, ..., 0])) for image in (fixed, moving)]
        return np.broadcast_to(at[1] - at[0], (*fixed.shape[:-1], 2))

    transform = Predictor(Plain(2, 40, find)).predict(fixed, moving, matrix=matrix)
    whole = CompositeTransform([transform, AffineTransform(matrix)])
    np.testing.assert_allclose(whole.apply_points([3.0, -4.0]), [10.0, 5.0], atol=0.2)


def test_a_network_is_shown_the_spacing_and_the_sizes_that_it_wants():
    image = Image(np.zeros((20, 30, 1)), Grid.from_spacing((20, 30), (3.0, 1.0)))
    assert View().lay_grid(image).shape == (60, 30)
    assert View(spacing=(2.0, 1.5)).lay_grid(image).shape == (30, 20)
    single = View(spacing=(2.0, 1.5), sizes=(16, None)).lay_grid(image)
    assert single.shape == (16, 20)
    np.testing.assert_allclose(single.center, image.grid.center)
    with pytest.raises(ShapeError, match="as many axes"):
        View(sizes=(None,) * 3).lay_grid(image)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_network_that_counts_voxels_sees_what_is_shown_with_a_margin(ndim):
    array = np.full((*(90, 70, 80)[:ndim], 2), -5.0)
    array[(slice(20, 52), slice(0, 48), slice(30, 32))[:ndim]] = 7.0, np.nan
    image = Image(array, Grid.from_spacing(array.shape[:-1], 2.0))
    grid = View(voxels={ndim: 500}).lay_grid(image)
    # A sixteenth on either side, at least a voxel, and never beyond the image.
    assert grid.shape == (36, 51, 4)[:ndim]
    first = image.grid.to_index(grid.to_physical([0] * ndim))
    np.testing.assert_allclose(first, (18, 0, 29)[:ndim], atol=1e-9)
    assert max(View(voxels={ndim: 17}).lay_grid(image).shape) == 17
    for full in (np.zeros_like(array), np.random.default_rng(0).random(array.shape)):
        assert View(voxels={ndim: 500}).lay_grid(Image(full, image.grid)).shape == array.shape[:-1]


@pytest.mark.parametrize("count", [40, 64, 65, 79, 96, 100, 200])
@pytest.mark.parametrize("tile", [48, 64])
def test_windows_of_tiles_sum_to_one_and_none_is_seen_at_an_inner_edge(count, tile):
    starts, windows = list_starts(count, tile), make_windows(count, tile)
    np.testing.assert_allclose(windows.sum(axis=0), 1, atol=1e-12)
    assert windows.min() >= 0
    assert starts[-1] == max(0, count - tile)
    assert all(start % 16 == 0 for start in starts[:-1])
    for window, start in zip(windows, starts, strict=True):
        assert not window[: start + 4 if start else 0].any()
        assert start + tile >= count or not window[start + tile - 4 :].any()


def convolve(fixed, moving, ndim):
    """An untrained network of two convolutions of random weights, without learning: three voxels see on either side."""
    random = np.random.default_rng(3)
    pair = [image[0, ..., 0] for image in (fixed, moving)]
    hidden = [np.tanh(sum(convolve_once(random, image, 5) for image in pair)) for _ in range(3)]
    return np.stack([sum(convolve_once(random, part, 3) for part in hidden) for _ in range(ndim)], axis=-1)[None]


def convolve_once(random, image, width):
    return ndimage.convolve(image, random.standard_normal((width,) * image.ndim), mode="constant")


@pytest.mark.parametrize("shape", [(90, 47), (100, 81), (48, 33, 20)])
def test_tiles_make_the_field_of_the_whole(shape):
    ndim = len(shape)
    pair = np.random.default_rng(1).random((2, 1, *shape, 1)).astype(np.float32)
    tiles = []

    def run(fixed, moving):
        tiles.append(fixed.shape[1:-1])
        return convolve(fixed, moving, ndim)

    whole = run(*pair)
    found = predict_by_tiles(run, *pair, tile=32)
    assert np.abs(whole).max() > 1
    np.testing.assert_allclose(found, whole, atol=1e-4)
    assert set(itertools.chain(*tiles[1:])) <= {32, *(n for n in shape if n <= 32)}
    assert len(tiles) > 3


def test_a_predictor_of_tiles_sees_no_more_than_them():
    network = Plain(2, 80, lambda f, m: np.ones((*f.shape[:-1], 2)))
    image = Image(np.random.default_rng(0).random((80, 60, 1)), Grid.from_spacing((80, 60)))
    transform = Predictor(network, tile=48).predict(image, image)
    assert {fixed.shape for fixed, _ in network.seen} == {(1, 48, 48, 1)}
    np.testing.assert_allclose(transform.displacement, 1, atol=1e-6)


def test_colours_are_seen_as_their_mean():
    network, random = Plain(2, 20), np.random.default_rng(0)
    grid = Grid.from_spacing((20, 20))
    grey = random.random((20, 20, 1))
    colours = np.concatenate([grey - 0.2, grey, grey + 0.2], axis=-1)
    Predictor(network).predict(Image(grey, grid), Image(colours, grid))
    np.testing.assert_allclose(*network.seen[0], atol=1e-5)


def test_what_cannot_be_predicted_is_refused():
    image = Image(np.random.default_rng(0).random((9, 8, 1)), Grid.from_spacing((9, 8)))
    volume = Image(np.random.default_rng(0).random((9, 8, 7, 1)), Grid.from_spacing((9, 8, 7)))
    predictor = Predictor(Plain())
    for pair in ((image, volume), (volume, volume)):
        with pytest.raises(ShapeError, match="Received: "):
            predictor.predict(*pair)
    with pytest.raises(OptionError, match=r"smoothness=0\.5.*without one"):
        predictor.predict(image, image, smoothness=0.5)
    for tile in (20, 16):
        with pytest.raises(OptionError, match=f"tile={tile}"):
            Predictor(Plain(), tile=tile)
    with pytest.raises(ArrayTypeError, match="model of type dict"):
        Predictor({})
    with pytest.raises(ShapeError, match=r"one vector for each voxel.*Received: \(1, 2, 2\)"):
        Predictor(Plain(find=lambda f, m: np.zeros((1, 2, 2)))).predict(image, image)
    with pytest.raises(InputError, match="finite"):
        Predictor(Plain(find=lambda f, m: np.full((*f.shape[:-1], 2), np.nan))).predict(image, image)


def pull(image, field):
    """SciPy's linear interpolation of an image `(*spatial, channels)` at displaced voxels, its edge extended."""
    places = np.indices(field.shape[:-1]) + np.moveaxis(field, -1, 0)
    channels = [ndimage.map_coordinates(image[..., c], places, order=1, mode="nearest") for c in range(image.shape[-1])]
    return np.stack(channels, axis=-1)


def test_the_expected_error_is_the_spread_of_mirrored_predictions_and_the_miss_of_both_ways():
    """Of a network that sees both images at a voxel, in a loop over what each mirror image makes of them."""

    def find(fixed, moving):
        return np.concatenate([2 * fixed - moving, fixed * moving + 0.3], axis=-1)

    spacing, shape = 2.0, (14, 11)
    images = [
        Image(
            ndimage.gaussian_filter(np.random.default_rng(s).random(shape), 1.5)[..., None],
            Grid.from_spacing(shape, spacing),
        )
        for s in (0, 1)
    ]
    predictor = Predictor(Plain(2, 14, find))
    found = predict_with_uncertainty(predictor, *images)
    pair = predictor.prepare(*images)
    there, misses = [], []
    for mirror in ((), (0,), (1,)):
        ways = []
        for one, other in ((pair.fixed, pair.moving), (pair.moving, pair.fixed)):
            field = find(*(np.flip(image[0], mirror) for image in (one, other)))
            signs = [-1.0 if axis in mirror else 1.0 for axis in range(2)]
            ways.append(np.flip(field, mirror) * signs)
        there.append(ways[0])
        misses.append(ways[0] + pull(ways[1], ways[0]))
    mean = np.mean(there, axis=0)
    squared = np.mean([((one - mean) ** 2).sum(axis=-1) for one in there], axis=0)
    squared += np.mean([(miss**2).sum(axis=-1) for miss in misses], axis=0) / 2
    np.testing.assert_allclose(found.transform.displacement, spacing * mean[..., ::-1], atol=1e-4)
    around = ndimage.gaussian_filter(squared, 4.0)
    np.testing.assert_allclose(found.error.array[..., 0], spacing * np.sqrt(around), atol=1e-4)
    assert found.error.grid.matches(found.transform.grid)


def test_errors_that_a_network_makes_by_chance_are_expected_where_it_makes_them():
    """Of a network that is right but for noise, smooth and of its own at each call, ten times larger at one end."""
    random, shape = np.random.default_rng(7), (64, 48)
    amplitude = np.linspace(0.2, 2.0, shape[0])[:, None, None]

    def find(fixed, moving):
        noise = ndimage.gaussian_filter(random.standard_normal((*shape, 2)), (3, 3, 0))
        flipped = fixed[0, :, 0, 0].argmax() > shape[0] // 2  # what the network sees is mirrored, and its flaws with it
        return (amplitude[::-1] if flipped else amplitude) * noise[None] / noise.std()

    ramp = np.linspace(1, 0, shape[0])[:, None, None]  # tells which end is which
    image = Image(np.broadcast_to(ramp, (*shape, 1)), Grid.from_spacing(shape, 0.5))
    found = predict_with_uncertainty(Predictor(Plain(2, 64, find)), image, image)
    error = np.linalg.norm(found.transform.displacement, axis=-1)
    assert stats.spearmanr(error, found.error.array[..., 0], axis=None).statistic > 0.45
    # The mean of three errs by a third of the variance of each; they spread by two thirds, and miss by twice of it.
    ratio = np.sqrt(np.mean(error**2) / np.mean(found.error.array**2))
    assert ratio == pytest.approx(np.sqrt((1 / 3) / (2 / 3 + 2 / 2)), rel=0.15)


def test_several_predictors_make_one_prediction_on_the_grid_of_the_first():
    image = Image(np.random.default_rng(0).random((20, 16, 1)), Grid.from_spacing((20, 16)))

    def shift(size):
        return Plain(2, 20 if size < 2 else 10, lambda f, m: np.full((*f.shape[:-1], 2), size, np.float32))

    predictors = [Predictor(shift(size)) for size in (0.0, 1.0, 2.0)]  # of 1, 1 and 2 mm: 0, 1 and 4 mm
    found = predict_with_uncertainty(predictors, image, image)
    assert found.transform.grid.shape == (20, 16)
    np.testing.assert_allclose(found.transform.displacement, 5 / 3, atol=1e-5)
    spread = 2 * np.var([0.0, 1.0, 4.0])
    missed = 2 * np.mean(np.square([0.0, 2.0, 8.0])) / 2
    np.testing.assert_allclose(found.error.array, np.sqrt(spread + missed), rtol=1e-5)
    with pytest.raises(InputError, match=r"predictors=\[\]"):
        predict_with_uncertainty([], image, image)
