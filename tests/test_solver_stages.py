"""The solver's parts, each against what it must do on its own."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from keramorph import ops
from keramorph.errors import InputError
from keramorph.preparation.intensity import scale_intensity
from keramorph.solver.affine import AffineOptions, _measure_change, _measure_strain, _Problem
from keramorph.solver.bend import _doubt
from keramorph.solver.deformation import DeformationOptions, Member
from keramorph.solver.greedy import Greedy
from keramorph.solver.mapping import locate, measure_inside, voxel_matrix, voxel_positions, weigh
from keramorph.solver.minimise import minimise
from keramorph.solver.pyramid import Layer, Level, build_pyramid, list_spacings, smoothing_width, window_size
from keramorph.solver.similarity import Comparison, LocalCorrelation
from keramorph.solver.start import list_starts
from keramorph.solver.trust import LEAST_CONTRAST, measure_contrast
from keramorph.solver.unfold import unfold
from keramorph.space import Grid, Image
from keramorph.transforms import AffineTransform, CompositeTransform, DisplacementTransform, from_voxel_displacement
from phantom import Phantom, affine_map, centred_grid


def ignore(*_):
    return None


def layer_of(image):
    return Layer(scale_intensity(image, name="test").values, None, image.grid)


def test_minimise_ends_where_scipy_does():
    def banana(x):
        return float(scipy.optimize.rosen(x)), scipy.optimize.rosen_der(x)

    found, values = minimise(banana, np.array([-1.2, 1.0, 0.7]), iterations=200, reach=0.5, tolerance=0, notify=ignore)
    expected = scipy.optimize.minimize(scipy.optimize.rosen, [-1.2, 1.0, 0.7], jac=scipy.optimize.rosen_der).x
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert all(after <= before for before, after in itertools.pairwise(values))


def test_strain_is_blind_to_rotations_and_to_the_way_there_or_back():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert _measure_strain(turn)[0] == pytest.approx(0, abs=1e-12)
    matrix = np.eye(3) + 0.2 * rng.normal(size=(3, 3))
    assert _measure_strain(turn @ matrix)[0] == pytest.approx(_measure_strain(matrix)[0])
    assert _measure_strain(np.linalg.inv(matrix))[0] == pytest.approx(_measure_strain(matrix)[0])


@pytest.mark.parametrize("measure", [_measure_strain, _measure_change], ids=["turns free", "turns cost"])
def test_what_a_matrix_costs_changes_as_finite_differences_say(measure):
    matrix = np.eye(3) + 0.2 * np.random.default_rng(0).normal(size=(3, 3))
    _, gradient = measure(matrix)
    for place in np.ndindex(3, 3):
        change = np.zeros((3, 3))
        change[place] = 1e-6
        slope = (measure(matrix + change)[0] - measure(matrix - change)[0]) / 2e-6
        assert gradient[place] == pytest.approx(slope, abs=1e-7)
    assert measure(np.eye(3))[0] == 0


@pytest.mark.parametrize(
    ("loss", "expected"), [(0, 1), (2 / 7, 1), (1 / 3, 1.25**3), (0.375, 1.5**3), (0.4, 4), (0.7, 4), (1, 4)]
)
def test_the_less_is_explained_the_more_is_smoothed(loss, expected):
    assert _doubt(loss) == pytest.approx(expected)


def test_gradient_to_the_affine_parameters_is_that_of_finite_differences():
    # Rotated, anisotropic, permuted: a wrong factor or a wrong axis anywhere in the chain shows.
    phantom = Phantom(3)
    fixed = phantom.picture(centred_grid((17, 15, 19), (3.0, 3.4, 2.8)))
    moving = phantom.picture(centred_grid((16, 20, 13), (3.1, 2.6, 4.0), directions=np.eye(3)[:, [1, 2, 0]]))
    level = Level(*(Layer(layer_of(i).values.astype(np.float64), None, i.grid) for i in (fixed, moving)), 3.0)
    problem = _Problem(level, affine_map(3), AffineOptions(1, LocalCorrelation((5, 5, 5)), 0.1))
    rng = np.random.default_rng(1)
    point = rng.normal(size=problem.count) * 0.1
    _, gradient = problem.evaluate(point)
    for direction in (*np.eye(problem.count)[[0, 5, 10]], rng.normal(size=problem.count)):
        step = 2e-2 * direction
        slope = (problem.evaluate(point + step)[0] - problem.evaluate(point - step)[0]) / 4e-2
        # The interpolant has kinks at the voxels: no finite difference gets closer.
        assert gradient @ direction == pytest.approx(slope, abs=0.03 * np.linalg.norm(gradient))


def test_mirrored_and_collapsed_transforms_cost_infinitely():
    image = layer_of(Phantom(2).picture(centred_grid((20, 20), (2.5, 2.5))))
    for linear in (np.diag([-1.0, 1, 1]), np.diag([0.2, 0.2, 1])):
        problem = _Problem(Level(image, image, 2.5), linear, AffineOptions(1, LocalCorrelation((7, 7)), 0.0))
        assert problem.evaluate(np.zeros(6))[0] == np.inf


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((64, 64, 64), (1.0, 1.0, 1.0), [4.0, 2.0, 1.0]),
        ((10, 128, 112), (10.0, 1.5, 1.5), [12.0, 6.0, 3.0, 1.5]),
        ((1, 64), (9.0, 1.0), [4.0, 2.0, 1.0]),
        ((9, 8), (1.0, 1.0), [1.0]),
    ],
)
def test_levels_double_the_spacing_and_leave_coarse_axes_alone(shape, spacing, expected):
    grid = Grid.from_spacing(shape, spacing)
    spacings = list_spacings(grid, smallest=14, most=5)
    assert spacings == expected
    layers = build_pyramid(Layer(np.ones((1, *shape, 1), np.float32), None, grid), spacings)
    for layer, level in zip(layers, spacings, strict=True):
        assert layer.values.shape == (1, *layer.grid.shape, 1)
        for axis, count in enumerate(shape):
            kept = spacing[axis] >= level
            assert layer.grid.shape[axis] == (count if kept else max(1, round(count * spacing[axis] / level)))
        np.testing.assert_allclose(layer.values, 1, rtol=1e-5)
        np.testing.assert_allclose(layer.grid.center, grid.center, atol=1e-9)


def test_lengths_in_millimetres_become_voxels_axis_by_axis():
    grid = Grid.from_spacing((12, 40, 1, 40)[:3], (10.0, 1.5, 2.0))
    assert window_size(10.5, grid) == (1, 7, 1)
    assert smoothing_width(3.0, grid) == pytest.approx((0.3, 2.0, 0.0))


def test_missing_voxels_take_no_part_in_coarse_levels():
    rng = np.random.default_rng(0)
    values = rng.random((1, 32, 32, 1)).astype(np.float32)
    mask = np.ones_like(values)
    mask[:, :, :10] = 0
    grid = Grid.from_spacing((32, 32))
    one, other = (
        build_pyramid(Layer(np.where(mask > 0, values, fill).astype(np.float32), mask, grid), [4.0, 2.0, 1.0])[0]
        for fill in (0, 1000)
    )
    np.testing.assert_allclose(one.values, other.values, atol=1e-4)
    assert one.mask[0, :, 0].max() < 0.01
    assert one.mask[0, :, -1].min() > 0.99


def test_positions_are_those_of_the_physical_grids():
    fixed = centred_grid((5, 6, 7), (2.0, 1.0, 3.0), directions=np.eye(3)[:, [2, 0, 1]], centre=9.0)
    moving = centred_grid((8, 7, 6), (1.0, 2.0, 1.5))
    matrix = affine_map(3)
    positions = voxel_positions(voxel_matrix(matrix, fixed, moving), fixed.shape, np.zeros(1, np.float32))
    index = np.array([4, 2, 5])
    expected = moving.to_index(matrix[:3, :3] @ fixed.to_physical(index) + matrix[:3, 3])
    np.testing.assert_allclose(positions[(0, *index)], expected, atol=1e-4)


def test_voxels_outside_the_moving_image_carry_no_weight():
    positions = np.array([[[[0.0, 0], [-0.5, 3], [-1, 3], [19, 23], [19.5, 23.5], [np.float32(1e6), 0]]]], np.float32)
    weight = weigh(None, None, positions, measure_inside(positions, (20, 24)))
    np.testing.assert_allclose(weight[0, 0, :, 0], [1, 0.5, 0, 1, 0.25, 0])


@pytest.mark.parametrize("shape", [(6, 7), (5, 4, 9), (1, 8, 3), (70, 40, 30)], ids=str)
def test_displaced_voxels_are_found_where_homogeneous_coordinates_put_them(shape, make_array):
    rng, ndim = np.random.default_rng(4), len(shape)
    matrix = np.eye(ndim + 1)
    matrix[:ndim] += rng.uniform(-0.3, 0.3, (ndim, ndim + 1))
    field = rng.uniform(-3, 3, (1, *shape, ndim)).astype(np.float32)
    other = tuple(rng.integers(1, 9, ndim).tolist())
    points = np.moveaxis(np.indices(shape), 0, -1)[None] + field
    expected = np.concatenate([points, np.ones((1, *shape, 1))], axis=-1) @ matrix[:ndim].T
    outside = np.abs(expected - np.clip(expected, 0, np.array(other) - 1))
    positions, inside = locate(matrix, make_array(field), other)
    np.testing.assert_allclose(np.asarray(positions), expected, atol=3e-5)
    np.testing.assert_allclose(np.asarray(inside)[..., 0], np.clip(1 - outside, 0, 1).prod(-1), atol=3e-5)


@pytest.mark.parametrize("shape", [(9, 8), (6, 7, 5), (50, 40, 40)], ids=str)
def test_an_update_is_the_smoothed_step_of_a_naive_formula(shape, make_array):
    rng, ndim = np.random.default_rng(5), len(shape)
    grid = centred_grid(shape, (1.5, 1.0, 2.0)[:ndim])
    image = Layer(make_array(rng.random((1, *shape, 1)).astype(np.float32)), None, grid)
    matrix = np.eye(ndim + 1) + np.pad(rng.uniform(-0.1, 0.1, (ndim, ndim)), (0, 1))
    options = DeformationOptions(1, LocalCorrelation((5,) * ndim), 1.0, 0.5, 0.3, 0)
    deformation = Greedy([Member(Level(image, image, 1.0), matrix, options)])
    slope = rng.normal(size=(1, *shape, ndim)).astype(np.float32)
    derivative, curvature = (rng.random((1, *shape, 1)).astype(np.float32) for _ in range(2))
    comparison = Comparison(0.5, make_array(derivative), make_array(curvature))
    pushed = deformation.weigh_slope(make_array(slope), comparison, deformation.per_unit)
    update = deformation.limit(deformation.blur(pushed), options.step)
    # From the displacement in units of 1 mm to the voxels that the moving image is read at.
    along = slope @ (np.linalg.inv(grid.affine) @ matrix @ grid.affine)[:ndim, :ndim] @ np.linalg.inv(grid.matrix)
    sigma = [0.0, *(1.0 / grid.spacing), 0.0]
    force = ndimage.gaussian_filter(derivative * along, sigma)
    stiffness = ndimage.gaussian_filter(curvature * np.sum(along**2, -1, keepdims=True), sigma)
    step = force / (stiffness + 0.1 * stiffness.mean())
    step *= np.minimum(1, 0.3 / np.linalg.norm(step, axis=-1, keepdims=True))
    np.testing.assert_allclose(np.asarray(update), step @ np.linalg.inv(grid.matrix).T, atol=2e-5)


def test_principal_axes_undo_a_turn():
    grid = centred_grid((61, 61), (1.0, 1.0))
    points = grid.to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))
    angle = np.deg2rad(35)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def draw(p):
        return Image(np.exp(-(p[..., 0] ** 2) / 200 - p[..., 1] ** 2 / 40)[..., None], grid)

    starts = list_starts(layer_of(draw(points)), layer_of(draw(points @ turn)))
    np.testing.assert_allclose(starts["moments"][:2, :2], turn, atol=0.02)
    assert np.linalg.det(starts["moments"]) == pytest.approx(1)


def test_folds_are_smoothed_away_and_nothing_else():
    rng = np.random.default_rng(3)
    field = np.zeros((1, 40, 36, 2), np.float32)
    field[:, 8:14, 8:14] = 4 * rng.normal(size=(1, 6, 6, 2))
    assert ops.jacobian_determinant(field).min() < 0
    smooth = unfold(field, Grid.from_spacing((40, 36)), np.eye(3))
    assert ops.jacobian_determinant(smooth).min() > 0
    np.testing.assert_array_equal(smooth[:, 30:], field[:, 30:])


def make_spikes() -> np.ndarray:
    field = np.zeros((1, 40, 24, 24, 3))
    field[0, 9, 12, 12] = -3, 0, 1  # squeezes what lies before it, and stretches what lies behind
    field[0, 26, 0, 23] = 0, 4, 0  # in a corner
    return field


def make_turmoil() -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((1, 48, 48, 48, 3))
    field = ndimage.gaussian_filter(noise, (0, 2, 2, 2, 0))
    return field * (1.2 / field.std())


@pytest.mark.parametrize(("field", "most"), [(make_spikes(), 0.001), (make_turmoil(), 0.25)], ids=["spikes", "turmoil"])
def test_no_volume_folds_nor_changes_out_of_all_measure_and_little_else_does(field, most):
    smooth = unfold(field.astype(np.float32), Grid.from_spacing(field.shape[1:-1]), np.eye(4))
    before, after = (
        np.linalg.det(np.eye(3) + np.stack(np.gradient(u[0], axis=(0, 1, 2)), axis=-1)) for u in (field, smooth)
    )
    assert before.min() < 0
    assert after.min() > 0.049
    assert after.max() < 20.1
    assert np.abs(smooth - field).mean() < most


@pytest.mark.parametrize("factor", [2, 3])
def test_nothing_folds_between_voxels_either(factor):
    field = (0.75 * make_turmoil()[:, :24, :24, :24]).astype(np.float32)

    def count_folds(field):
        """Folds where SciPy reads the displacement on a finer grid."""
        lines = [np.linspace(0, n - 1, (n - 1) * factor + 1) for n in field.shape[1:-1]]
        places = np.stack(np.meshgrid(*lines, indexing="ij"))
        finer = [ndimage.map_coordinates(field[0, ..., d], places, order=1) * factor for d in range(3)]
        slopes = np.stack([np.stack(np.gradient(part), axis=-1) for part in finer], axis=-2)
        return (np.linalg.det(np.eye(3) + slopes) <= 0).sum()

    # The voxels themselves show little of it.
    slopes = np.stack(np.gradient(field[0], axis=(0, 1, 2)), axis=-1)
    at_voxels = np.linalg.det(np.eye(3) + slopes) < 0.05
    assert at_voxels.sum() < 0.02 * at_voxels.size
    assert count_folds(field) > 0
    assert count_folds(unfold(field, Grid.from_spacing(field.shape[1:-1]), np.eye(4))) == 0


def oblique_axes() -> np.ndarray:
    return Rotation.from_euler("xyz", [10, 170, 95], degrees=True).as_matrix()


@pytest.mark.parametrize("axes", [np.diag([-1.0, 1.0, -1.0]), np.eye(3)[[1, 0, 2]], oblique_axes()], ids=str)
def test_what_itk_takes_for_a_fold_is_smoothed_too(axes):
    field = (0.7 * make_turmoil()[:, :24, :24, :24]).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag([1.0, 1.5, 0.8])
    grid, matrix = Grid(field.shape[1:-1], affine), np.eye(4)
    matrix[:3] += np.random.default_rng(3).uniform(-0.1, 0.1, (3, 4))
    counts = [count_folds_by_itk(u, grid, matrix) for u in (field, unfold(field, grid, matrix))]
    assert counts[0] > 0
    assert counts[1] == 0


def count_folds_by_itk(field, grid, matrix):
    """Inner voxels at which ITK's filter gives the displacement of the whole transform no positive determinant."""
    transform = CompositeTransform(
        [DisplacementTransform(from_voxel_displacement(field[0], grid), grid), AffineTransform(matrix)]
    )
    points = grid.to_physical(np.stack(np.indices(grid.shape), axis=-1))
    image = sitk.GetImageFromArray(transform.apply_points(points) - points, isVector=True)
    image.SetSpacing(grid.spacing[::-1].tolist())  # ITK's first axis is NumPy's last one
    determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    return int((determinant[1:-1, 1:-1, 1:-1] <= 0).sum())


def test_padding_far_below_all_else_costs_no_contrast():
    rng = np.random.default_rng(4)
    tissue = rng.uniform(-1000, 400, (40, 40, 1))
    padded = np.where(np.indices((40, 40))[0][..., None] < 6, -2048, tissue)
    grid = Grid.from_spacing((40, 40))
    plain, scaled = (scale_intensity(Image(a, grid), name="test").values[0, 6:] for a in (tissue, padded))
    np.testing.assert_allclose(plain, scaled, atol=0.02)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, bool])
def test_images_of_any_type_span_zero_to_one(dtype):
    values = (np.random.default_rng(5).random((30, 30, 1)) > 0.7).astype(dtype)
    scaled = scale_intensity(Image(values, Grid.from_spacing((30, 30))), name="test")
    assert scaled.mask is None
    assert scaled.values.dtype == np.float32
    assert (scaled.values.min(), scaled.values.max()) == (0, 1)


def test_an_image_without_contrast_is_refused():
    with pytest.raises(InputError, match=r"contrast.*Received: the same value 5"):
        scale_intensity(Image(np.full((9, 9, 1), 5), Grid.from_spacing((9, 9))), name="fixed")


def test_contrast_tells_a_match_from_chance():
    phantom, grid = Phantom(2, seed=3), centred_grid((48, 48), (1.2, 1.2))
    one = layer_of(phantom.picture(grid))
    rng = np.random.default_rng(6)
    noise = [Layer(rng.random((1, 48, 48, 1)).astype(np.float32), None, grid) for _ in range(2)]
    correlation = LocalCorrelation((7, 7))
    assert measure_contrast(Level(one, one, 1.2), np.eye(3), correlation) > 0.5
    assert measure_contrast(Level(*noise, 1.2), np.eye(3), correlation) < LEAST_CONTRAST
