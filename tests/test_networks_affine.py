"""The affine fit against SciPy's solvers and naive loops, its gradient, and the networks that are made with it."""

import keras
import numpy as np
import pytest
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from autodiff import assert_gradient_matches_differences, value_and_gradient
from keramorph.errors import OptionError, ShapeError
from keramorph.networks import AffineNetwork, VoxelMorph
from keramorph.networks.affine_fit import CentresOfMass, FitMatrix, FollowMatrix, SpreadMatrix, nearest_rotation
from network_cases import SAME_ON_ALL, call, draw, draw_inputs, make_joint, stir, to_numpy

pytestmark = pytest.mark.usefixtures("compile_quickly")

LAST = {"data_format": "channels_last"}
SIZES = {2: (20, 31), 3: (20, 31, 14)}


def draw_points(ndim, count=9, seed=0):
    """Two clouds about the centre of a grid, the second the first one turned and disturbed, and masses."""
    generator = np.random.default_rng(seed)
    fixed = generator.uniform(-8, 8, (count, ndim))
    turn = turn_by(0.4, ndim)
    moving = 1.2 * fixed @ turn.T + generator.uniform(-1, 1, (count, ndim)) + np.arange(1, ndim + 1)
    masses = generator.uniform(0.1, 1, (2, count))
    return fixed, moving, masses


def turn_by(angle, ndim):
    if ndim == 3:
        return Rotation.from_rotvec(angle * np.array([1.0, -2.0, 2.0]) / 3).as_matrix()
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def fit(kind, fixed, moving, masses, *, ridge=1e-9, spacing=1.0):
    """Linear part and shift about the centre of the grid, from the layer's matrix about the first voxel."""
    ndim = fixed.shape[1]
    pairs = zip((fixed, moving), masses, strict=True)
    points = [np.concatenate([p, m[:, None]], axis=1)[None].astype("float32") for p, m in pairs]
    layer, image = FitMatrix(kind, ridge=ridge, spacing=spacing, **LAST), np.zeros((1, *SIZES[ndim], 1), "float32")
    matrix = layer([*points, image])
    matrix = to_numpy(matrix)[0].astype("float64")
    assert matrix[-1].tolist() == [0.0] * ndim + [1.0]
    centre = (np.array(SIZES[ndim]) - 1) / 2
    return matrix[:ndim, :ndim], matrix[:ndim, ndim] - centre + matrix[:ndim, :ndim] @ centre


def weigh(masses):
    return masses[0] * masses[1] / (masses[0] @ masses[1])


@pytest.mark.parametrize("ndim", [2, 3])
def test_affine_fit_is_weighted_least_squares(ndim):
    fixed, moving, masses = draw_points(ndim)
    root = np.sqrt(weigh(masses))[:, None]
    expected, *_ = np.linalg.lstsq(root * np.c_[fixed, np.ones(len(fixed))], root * moving, rcond=None)
    linear, shift = fit("affine", fixed, moving, masses)
    np.testing.assert_allclose(linear, expected[:ndim].T, atol=1e-4)
    np.testing.assert_allclose(shift, expected[ndim], atol=1e-4)


def test_rigid_fit_in_space_is_scipys():
    fixed, moving, masses = draw_points(3)
    weights = weigh(masses)
    means = weights @ fixed, weights @ moving
    expected, _ = Rotation.align_vectors(moving - means[1], fixed - means[0], weights=weights)
    linear, shift = fit("rigid", fixed, moving, masses)
    np.testing.assert_allclose(linear, expected.as_matrix(), atol=1e-5)
    np.testing.assert_allclose(shift, means[1] - expected.as_matrix() @ means[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["rigid", "similarity"])
def test_fit_in_the_plane_is_what_a_search_finds(kind):
    fixed, moving, masses = draw_points(2)
    root = np.sqrt(weigh(masses))[:, None]

    def to_map(parameters):
        scale = np.exp(parameters[3]) if kind == "similarity" else 1.0
        return scale * turn_by(parameters[2], 2), parameters[:2]

    def residuals(parameters):
        linear, shift = to_map(parameters)
        return (root * (fixed @ linear.T + shift - moving)).ravel()

    found = optimize.least_squares(residuals, np.zeros(4), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    for value, expected in zip(fit(kind, fixed, moving, masses), to_map(found.x), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_known_rotation_of_points_is_recovered_in_millimetres(kind, ndim):
    """In voxels of unequal spacing the same motion is no rotation."""
    spacing = (2.0, 0.5, 1.25)[:ndim]
    fixed, _, masses = draw_points(ndim)
    turn, shift = turn_by(2.0, ndim), np.array([3.0, -2.0, 1.0])[:ndim]
    moving = ((fixed * spacing) @ turn.T + shift) / spacing
    linear, found = fit(kind, fixed, moving, masses, spacing=spacing)
    np.testing.assert_allclose(linear, turn * spacing / np.array(spacing)[:, None], atol=2e-5)
    np.testing.assert_allclose(found, shift / spacing, atol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
def test_mirrored_points_get_a_proper_rotation(ndim):
    fixed, _, masses = draw_points(ndim)
    moving = fixed * np.array([-1.0, 1.0, 1.0][:ndim])
    linear, _ = fit("rigid", fixed, moving, masses)
    np.testing.assert_allclose(linear @ linear.T, np.eye(ndim), atol=1e-5)
    assert np.linalg.det(linear) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_points_in_one_place_say_nothing_but_a_shift(kind):
    """Without the ridge the map would be undefined, and the derivative of the decomposition infinite."""
    place = np.tile([2.0, -1.0], (5, 1))
    linear, shift = fit(kind, place, place + np.array([1.0, 3.0]), np.ones((2, 5)), ridge=1e-4)
    np.testing.assert_allclose(linear, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(shift, [1.0, 3.0], atol=1e-5)


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
@pytest.mark.parametrize("spread", [0.0, 5.0])
def test_gradient_of_the_fit_is_finite_where_singular_values_coincide(kind, spread):
    """A square of points: both singular values are the same, or zero where all are in one place."""
    corners = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]], "float32") * spread
    points = np.concatenate([corners, np.ones((4, 1), "float32")], axis=1)[None]
    layer, image = FitMatrix(kind, **LAST), np.zeros((1, 20, 31, 1), "float32")
    value, gradients = value_and_gradient(lambda p, q: layer([p, q, image]), points, points)
    np.testing.assert_allclose(value[0], np.eye(3), atol=1e-4)
    assert all(np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-3 for gradient in gradients)


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradient_of_the_nearest_rotation(ndim):
    """Also for a matrix with a negative determinant, and for the identity, whose singular values coincide."""
    generator = np.random.default_rng(1)
    matrices = np.stack([np.eye(ndim), turn_by(1.0, ndim) @ np.diag([3.0, 2.0, -0.5][-ndim:]), np.eye(ndim)])
    matrices[2] += 0.3 * generator.standard_normal((ndim, ndim))
    weights = generator.standard_normal((3, ndim, ndim))

    def weigh_entries(matrix):
        return keras.ops.multiply(nearest_rotation(matrix), weights)

    assert_gradient_matches_differences(weigh_entries, matrices, tolerance=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_centres_of_mass_are_scipys(dtype):
    """A map of 4 voxels each over a padded image of 13 x 18: padding 1 + 2 and 1 + 1."""
    maps = draw(2, 4, 5, 3).astype(dtype)
    points = to_numpy(CentresOfMass(4, **LAST)([maps, draw(2, 13, 18, 1)]))
    assert points.dtype == "float32"
    for b, k in np.ndindex(2, 3):
        plane = maps[b, ..., k].astype("float64")
        coarse = np.array(ndimage.center_of_mass(plane))
        expected = (coarse + 0.5) * 4 - 0.5 - 1 - np.array([6.0, 8.5])
        np.testing.assert_allclose(points[b, k, :2], expected, atol=1e-4)
        assert points[b, k, 2] == pytest.approx(plane.mean(), rel=1e-4)


def test_an_empty_map_has_its_centre_in_the_middle():
    points = CentresOfMass(2, **LAST)([np.zeros((1, 4, 5, 2), "float32"), draw(1, 8, 10, 1)])
    np.testing.assert_array_equal(to_numpy(points), np.zeros((1, 2, 3)))


def test_displacement_of_a_matrix_after_another_is_a_loop():
    matrix = np.array([[[1.1, 0.2, 0.5], [-0.3, 0.9, 2.0], [0.0, 0.0, 1.0]]], "float32")
    before = draw(1, 4, 5, 2)
    for field, found in [
        (before, FollowMatrix(**LAST)([before, matrix])),
        (0 * before, SpreadMatrix(**LAST)([before[..., :1], matrix])),
    ]:
        for place in np.ndindex(4, 5):
            start = np.array(place) + field[(0, *place)]
            expected = matrix[0, :2, :2] @ start + matrix[0, :2, 2] - place
            np.testing.assert_allclose(to_numpy(found)[(0, *place)], expected, atol=1e-5)
    with pytest.raises(ShapeError, match="Received: "):
        SpreadMatrix(**LAST)([before, matrix[:, :2]])


def test_fits_that_cannot_be_made_are_refused():
    points, image = np.zeros((1, 4, 3), "float32"), np.zeros((1, 5, 6, 1), "float32")
    with pytest.raises(OptionError, match="Received: "):
        FitMatrix("projective")
    with pytest.raises(OptionError, match="Received: "):
        FitMatrix(spacing=(1.0, 0.0))
    with pytest.raises(ShapeError, match="Received: "):
        FitMatrix(**LAST)([points, points[:, :3], image])
    with pytest.raises(ShapeError, match="Received: "):
        FitMatrix(**LAST)([points, points, image[..., None]])
    with pytest.raises(ShapeError, match="spacing"):
        FitMatrix(spacing=(1.0, 1.0, 1.0), **LAST)([points, points, image])


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_a_shift_shifts_the_points_before_any_training(kind):
    """By 4 voxels, which is one of the maps: all of them shift by as much, and so does the fit."""
    fixed = np.zeros((1, 40, 45, 1), "float32")
    fixed[:, 16:24, 16:28] = draw(1, 8, 12, 1)
    network = AffineNetwork((40, 45, 1), kind=kind, points=5, encoder=(4, 4))
    outputs = call(network, [fixed, np.roll(fixed, (4, -4), axis=(1, 2))])
    expected = np.array([[1.0, 0.0, 4.0], [0.0, 1.0, -4.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(outputs["matrix"][0], expected, atol=1e-3)
    np.testing.assert_allclose(outputs["displacement"], np.full((1, 40, 45, 2), (4.0, -4.0)), atol=1e-3)
    np.testing.assert_allclose(outputs["moved"], fixed, atol=2e-3)


@SAME_ON_ALL
def test_affine_network_counts_its_encoder_once():
    network = AffineNetwork((20, 20, 2), points=5, encoder=(3, 4))
    assert network.count_params() == (9 * 2 + 1) * 3 + (9 * 3 + 1) * 4 + (9 * 4 + 1) * 5


def test_joint_network_moves_once_by_the_matrix_after_the_deformation():
    network = stir(make_joint((13, 18, 1)))
    affine, deformable = (layer for layer in network.layers if isinstance(layer, (AffineNetwork, VoxelMorph)))
    fixed, moving = draw_inputs(network, 13, 18)
    outputs = {name: value[0] for name, value in call(network, [fixed, moving]).items()}
    first = call(affine, [fixed, moving])
    u = call(deformable, [fixed, first["moved"]])["displacement"][0]
    matrix = first["matrix"][0]
    np.testing.assert_allclose(outputs["matrix"], matrix, atol=1e-5)
    places = np.stack(np.meshgrid(np.arange(13), np.arange(18), indexing="ij"), axis=-1)
    read = (places + u) @ matrix[:2, :2].T + matrix[:2, 2]
    np.testing.assert_allclose(outputs["displacement"], read - places, atol=1e-4)
    expected = ndimage.map_coordinates(moving[0, ..., 0], np.moveaxis(read, -1, 0), order=1, mode="nearest")
    np.testing.assert_allclose(outputs["moved"][..., 0], expected, atol=1e-4)
