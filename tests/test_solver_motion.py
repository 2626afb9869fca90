"""Rigid, similar and affine transforms: parameters that never leave the kind, and known motions found."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from keramorph.errors import OptionError
from keramorph.registration import Config, register
from keramorph.report import describe_scores
from keramorph.solver.affine import AffineOptions, _Problem
from keramorph.solver.motion import Motion, project
from keramorph.solver.pyramid import Layer, Level
from keramorph.solver.similarity import LocalCorrelation
from keramorph.space import Grid, Image
from keramorph.transforms import AffineTransform, DisplacementTransform, write_transform
from phantom import Phantom, affine_map, centred_grid, error_inside

SCALE = {"rigid": 1.0, "similarity": 1.12}


def turn(ndim, degrees):
    axis = np.array([0, 0, 1.0]) if ndim == 2 else np.array([0.6, -0.48, 0.64])
    return Rotation.from_rotvec(np.deg2rad(degrees) * axis).as_matrix()[:ndim, :ndim]


def motion(kind, ndim, degrees):
    """A map of a kind: homogeneous matrix, and the same of points."""
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = SCALE[kind] * turn(ndim, degrees)
    matrix[:ndim, ndim] = 3.0 * np.linspace(1, -0.5, ndim)
    return matrix, lambda points: points @ matrix[:ndim, :ndim].T + matrix[:ndim, ndim]


def pair(ndim, true, *, noise=0.0):
    phantom = Phantom(ndim)
    if ndim == 2:
        fixed_grid = centred_grid((64, 52), (1.0, 1.3))
        moving_grid = centred_grid((48, 72), (1.5, 0.9), directions=np.array([[1.0, 0], [0, -1]]), centre=3.0)
    else:
        fixed_grid = centred_grid((30, 26, 34), (2.2, 2.6, 2.0))
        moving_grid = centred_grid((36, 30, 22), (1.9, 2.3, 3.0), directions=-np.eye(3)[:, [1, 0, 2]], centre=2.0)
    return phantom, phantom.picture(fixed_grid, through=true), phantom.picture(moving_grid)


def assert_is(kind, matrix):
    """The linear part of a homogeneous matrix is a rotation, times a scale where the kind has one."""
    linear = matrix[:-1, :-1]
    size = np.linalg.det(linear) ** (1 / len(linear))
    np.testing.assert_allclose(linear.T @ linear, size**2 * np.eye(len(linear)), atol=1e-10)
    if kind == "rigid":
        assert size == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_parameters_never_leave_the_kind(kind, ndim):
    rng = np.random.default_rng(ndim)
    found = Motion(kind, turn(ndim, 70), 20.0)
    assert found.count == {"rigid": ndim * (ndim - 1) // 2, "similarity": ndim * (ndim - 1) // 2 + 1}.get(kind, ndim**2)
    np.testing.assert_array_equal(found.at(np.zeros(found.count)), found.linear)
    parameters = 30 * rng.normal(size=found.count)
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = found.at(parameters)
    if kind != "affine":
        assert_is(kind, matrix)
    gradient, step = rng.normal(size=(ndim, ndim)), 1e-5
    for k, pulled in enumerate(found.pull(parameters, gradient)):
        change = step * np.eye(found.count)[k]
        slope = (found.at(parameters + change) - found.at(parameters - change)) * found.radius / (2 * step)
        assert pulled == pytest.approx(np.sum(gradient * slope), abs=1e-6)


@pytest.mark.parametrize("kind", ["rigid", "similarity"])
def test_gradient_to_the_parameters_is_that_of_finite_differences(kind):
    # Far from the first matrix, where a derivative at zero would be wrong.
    phantom = Phantom(3)
    grids = centred_grid((17, 15, 19), (3.0, 3.4, 2.8)), centred_grid((16, 20, 13), (3.1, 2.6, 4.0))
    fixed, moving = (Layer(phantom.picture(grid).array[None].astype(np.float64) / 4, None, grid) for grid in grids)
    options = AffineOptions(1, LocalCorrelation((5, 5, 5)), 0.1, kind=kind)
    problem = _Problem(Level(fixed, moving, 3.0), motion(kind, 3, 5)[0], options)
    point = np.random.default_rng(1).normal(size=problem.count) * 3
    _, gradient = problem.evaluate(point)
    for direction in np.eye(problem.count):
        step = 2e-2 * direction
        slope = (problem.evaluate(point + step)[0] - problem.evaluate(point - step)[0]) / 4e-2
        # The interpolant has kinks at the voxels: no finite difference gets closer.
        assert gradient @ direction == pytest.approx(slope, abs=0.03 * np.linalg.norm(gradient))


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_nearest_map_of_a_kind_is_of_it_and_keeps_the_centre(ndim):
    rng = np.random.default_rng(ndim)
    centre = rng.normal(size=ndim)
    matrix = affine_map(ndim, degrees=100)
    matrix[:ndim, :ndim] += 0.3 * rng.normal(size=(ndim, ndim))
    mirrored = matrix.copy()
    mirrored[:, 0] *= -1
    for given in (matrix, mirrored):
        for kind in ("rigid", "similarity"):
            found = project(given, kind, centre)
            assert_is(kind, found)
            assert np.linalg.det(found) > 0
            at = np.append(centre, 1)
            np.testing.assert_allclose(found @ at, given @ at, atol=1e-12)
            distance = np.linalg.norm((found - given)[:ndim, :ndim])
            for _ in range(50):
                other = Motion(kind, found[:ndim, :ndim], 1.0)
                near = other.at(0.1 * rng.normal(size=other.count))
                assert np.linalg.norm(near - given[:ndim, :ndim]) >= distance
    np.testing.assert_array_equal(project(mirrored, "affine", centre), mirrored)


@pytest.mark.parametrize("degrees", [7, 115])
@pytest.mark.parametrize("kind", ["rigid", "similarity"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_known_motions_are_recovered_from_any_headers(ndim, kind, degrees):
    matrix, true = motion(kind, ndim, degrees)
    phantom, fixed, moving = pair(ndim, true)
    result = register(fixed, moving, config=Config(transform=kind))
    assert result.outcome.status == "done"
    assert error_inside(phantom, fixed.grid, result.apply_points, true).max() < 0.3
    (found,) = result.transform.transforms
    assert_is(kind, found.matrix)
    np.testing.assert_allclose(found.matrix[:ndim, :ndim], matrix[:ndim, :ndim], atol=0.02)
    assert result.metrics["displacement_max_mm"] == 0
    assert set(result.metrics) >= {"loss_start", f"loss_{kind}"}
    assert "loss_deformable" not in result.metrics


def test_a_rigid_transform_leaves_a_scale_alone_and_an_affine_one_does_not():
    _, true = motion("similarity", 2, 10)
    _, fixed, moving = pair(2, true)
    losses = {}
    for kind in ("rigid", "similarity", "affine"):
        result = register(fixed, moving, config=Config(transform=kind))
        losses[kind] = result.metrics[f"loss_{kind}"]
        assert [record.stage for record in result.history] == ["affine"] * len(result.history)
    assert losses["rigid"] > 2 * losses["similarity"]
    assert losses["affine"] < losses["similarity"] + 0.02


@pytest.mark.parametrize("shape", [(1, 64, 52), (64, 1, 52)])
def test_a_slice_of_a_volume_turns_in_its_plane(shape):
    _, true = motion("rigid", 2, 6)
    phantom, fixed, _ = pair(2, true)
    flat = fixed.array, phantom.picture(fixed.grid).array
    spacing = iter((1.0, 1.3))
    grid = Grid.from_spacing(shape, [5.0 if n == 1 else next(spacing) for n in shape])
    result = register(*(Image(array.reshape(*shape, 1), grid) for array in flat), config=Config(transform="rigid"))
    (found,) = result.transform.transforms
    assert_is("rigid", found.matrix)
    turned = Rotation.from_matrix(found.matrix[:3, :3]).magnitude()
    assert np.rad2deg(turned) == pytest.approx(6, abs=0.3)


def test_a_given_start_is_brought_to_the_kind():
    _, true = motion("rigid", 2, 40)
    phantom, fixed, moving = pair(2, true)
    bent = AffineTransform(np.array([[0.9, -0.5, 2.0], [0.7, 0.7, -1.0], [0, 0, 1]]))
    result = register(fixed, moving, initial=bent, config=Config(transform="rigid"))
    assert error_inside(phantom, fixed.grid, result.apply_points, true).max() < 0.3
    assert_is("rigid", result.transform.transforms[0].matrix)
    # What deforms gives its linear part.
    grid = fixed.grid
    wavy = np.stack([np.sin(np.indices(grid.shape)[0] / 9), np.cos(np.indices(grid.shape)[1] / 9)], axis=-1)
    still = register(fixed, fixed, initial=DisplacementTransform(wavy, grid), config=Config(transform="similarity"))
    assert_is("similarity", still.transform.transforms[0].matrix)
    assert error_inside(phantom, grid, still.apply_points, lambda points: points).max() < 0.1


def test_a_rigid_result_is_one_matrix_in_its_files(tmp_path):
    _, fixed, moving = pair(3, motion("rigid", 3, 5)[1])
    result = register(fixed, moving, config=Config(transform="rigid"))
    write_transform(result.transform, tmp_path / "transform.h5")
    written = sitk.ReadTransform(str(tmp_path / "transform.h5"))
    point = (3.0, -2.0, 5.0)
    np.testing.assert_allclose(written.TransformPoint(point), result.apply_points(point), atol=1e-9)
    np.testing.assert_allclose(
        written.GetInverse().TransformPoint(point), result.inverse.apply_points(point), atol=1e-9
    )
    assert " rigid " in describe_scores(result.metrics)


def test_an_unknown_kind_is_told_with_those_there_are():
    with pytest.raises(OptionError, match=r"rigid, similarity, affine, deformable\. Received: transform='stiff'"):
        Config(transform="stiff")
