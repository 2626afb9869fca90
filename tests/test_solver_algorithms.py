"""The ways to find a deformation: known ones found, none folded, and inverses that are what each way promises."""

import dataclasses
import os
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import scipy.interpolate

from keramorph import backend, ops
from keramorph.errors import OptionError
from keramorph.preparation.intensity import scale_intensity
from keramorph.registration import Config, register
from keramorph.solver import solve
from keramorph.solver.bspline import BSpline, evaluate, gather, list_bases, make_basis, make_diffusion
from keramorph.solver.config import Algorithm
from keramorph.solver.deformation import DeformationOptions, Member, deform
from keramorph.solver.pyramid import Layer, Level
from keramorph.solver.similarity import LocalCorrelation
from keramorph.solver.symmetric import Symmetric
from keramorph.solver.velocity import Velocity, count_squarings
from keramorph.space import Grid
from keramorph.transforms import DisplacementTransform
from phantom import Phantom, centred_grid, error_inside, grid_points, wave

ALGORITHMS = get_args(Algorithm)


def ignore(*_):
    return None


def picture_grid(ndim):
    return centred_grid((64, 60), (1.0, 1.0)) if ndim == 2 else centred_grid((34, 30, 36), (2.0, 2.2, 1.9))


def layer_of(image, make_array=np.asarray):
    return Layer(make_array(scale_intensity(image, name="test").values), None, image.grid)


def inner(field, margin=6):
    """A displacement without its rim, where one field reads what the other one does not know."""
    cut = [slice(None) if n == 1 else slice(margin, -margin) for n in field.shape[1:-1]]
    return np.asarray(field)[(0, *cut)]


def run_level(kind, pair, count=40):
    """What an algorithm finds at one level, in voxels of 1 mm."""
    ndim = pair[0].grid.ndim
    options = DeformationOptions(count, LocalCorrelation((7,) * ndim), 1.73, 0.5, 0.4, 0)
    level = Level(*pair, 1.0)
    fields = kind.begin(level.still(), bent=False)
    fields, (losses,) = deform(kind([Member(level, np.eye(ndim + 1), options)]), fields, notify=ignore)
    return fields, losses


def bent_pair(make_array=np.asarray, *, shape=(48, 44), height=2.0):
    grid = centred_grid(shape, (1.0,) * len(shape))
    phantom = Phantom(len(shape), radius=18.0)
    bent = phantom.picture(grid, through=lambda points: wave(points, height=height))
    return layer_of(bent, make_array), layer_of(phantom.picture(grid), make_array)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_known_deformation_is_recovered_without_folds(ndim, algorithm):
    phantom, grid = Phantom(ndim), picture_grid(ndim)
    fixed, moving = phantom.picture(grid, through=wave), phantom.picture(grid)
    result = register(fixed, moving, config=Config(algorithm=algorithm))
    error = error_inside(phantom, grid, result.apply_points, wave)
    assert error.mean() < {2: 0.6, 3: 1.0}[ndim]
    assert np.percentile(error, 95) < {2: 1.8, 3: 2.4}[ndim]
    assert result.metrics["folds_percent"] == 0
    assert result.metrics["jacobian_min"] > 0.05
    assert result.metrics["inverse_residual_mean_mm"] < 0.01
    assert result.metrics["loss_deformable"] < result.metrics["loss_affine"] / 3
    assert result.outcome.trusted


def test_a_spline_finds_a_smooth_deformation_better_than_small_updates():
    phantom, grid = Phantom(3), picture_grid(3)
    fixed, moving = phantom.picture(grid, through=wave), phantom.picture(grid)
    error = {}
    for algorithm in ("greedy", "mixed", "bspline"):
        result = register(fixed, moving, config=Config(algorithm=algorithm))
        error[algorithm] = error_inside(phantom, grid, result.apply_points, wave).mean()
    assert error["bspline"] < 0.85 * error["greedy"]
    assert error["mixed"] < error["greedy"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shape", [(40, 44), (1, 40, 44), (40, 1, 44), (5, 40, 44)], ids=str)
def test_every_engine_deforms_pictures_and_slabs(algorithm, shape, make_array):
    phantom = Phantom(2, seed=1)
    flat = [n for n in shape if n not in (1, 5)]
    grid = centred_grid(flat, (1.3, 1.3))
    volume = Grid.from_spacing(shape, [1.3 if n in flat else 6.0 for n in shape])

    def show(through):
        array = phantom.picture(grid, through=through).array.reshape([n if n in flat else 1 for n in shape])
        return Layer(make_array(np.broadcast_to(array / 4, shape)[None, ..., None].copy()), None, volume)

    pair = show(wave), show(None)
    solution = solve(*pair, Config(algorithm=algorithm, affine_iterations=0, iterations=25))
    displacement = np.asarray(solution.displacement)
    assert displacement.shape == (1, *shape, len(shape))
    assert displacement.dtype == np.float32
    assert np.isfinite(displacement).all()
    assert solution.losses["deformable"] < solution.losses["affine"] / 4
    for axis, count in enumerate(shape):
        if count == 1:
            np.testing.assert_array_equal(displacement[..., axis], 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_start_that_deforms_is_gone_on_from(algorithm):
    phantom, grid = Phantom(2), picture_grid(2)
    fixed, moving = phantom.picture(grid, through=wave), phantom.picture(grid)
    start = DisplacementTransform(wave(grid_points(grid)) - grid_points(grid), grid)
    kept = register(fixed, moving, initial=start, config=Config(algorithm=algorithm, iterations=10))
    assert error_inside(phantom, grid, kept.apply_points, wave).mean() < 0.3
    half = DisplacementTransform(start.displacement * 0.6, grid)
    found = register(fixed, moving, initial=half, config=Config(algorithm=algorithm))
    assert error_inside(phantom, grid, found.apply_points, wave).mean() < 0.6


@pytest.mark.parametrize(("kind", "most"), [(Velocity, 0.05), (Symmetric, 0.02)])
@pytest.mark.parametrize("shape", [(48, 44), (26, 30, 28)], ids=str)
def test_the_way_back_is_known_as_well_as_the_way_there(kind, most, shape, make_array):
    # Squaring a velocity reads between voxels as often as it squares: that is the larger error.
    fields, losses = run_level(kind, bent_pair(make_array, shape=shape), 25)
    assert losses[-1] < losses[0] / 2
    back = (-fields[0],) if kind is Velocity else (fields[1], fields[0])
    there, back = kind.to_displacement(fields), kind.to_displacement(back)
    assert np.abs(inner(there)).max() > 1
    for one, other in ((there, back), (back, there)):
        missed = np.linalg.norm(inner(ops.compose(one, other)), axis=-1)
        assert missed.mean() < most
        assert np.percentile(missed, 99) < 2 * most


def test_swapped_images_give_the_symmetric_inverse():
    pair = bent_pair()
    one, other = (Symmetric.to_displacement(run_level(Symmetric, p)[0]) for p in (pair, pair[::-1]))
    missed = np.linalg.norm(inner(ops.compose(one, other)), axis=-1)
    assert missed.mean() < 0.01
    assert missed.max() < 0.05


def test_swapped_files_give_the_symmetric_inverse_where_nothing_but_a_deformation_is_between_them():
    phantom, grid = Phantom(3), picture_grid(3)
    images = phantom.picture(grid, through=wave), phantom.picture(grid)
    config = Config(algorithm="symmetric", affine_iterations=0)
    one, other = (register(*pair, config=config) for pair in (images, images[::-1]))

    def there_and_back(points):
        return other.apply_points(one.apply_points(points))

    error = error_inside(phantom, grid, there_and_back, lambda points: points) / 2.0
    assert error.mean() < 0.05
    assert np.percentile(error, 99) < 0.1


def test_squarings_follow_the_longest_velocity():
    longest = np.array([0.0, 3.0, 20.0])
    fields = np.zeros((3, 4, 4, 2), np.float32)
    fields[:, 1, 2, 1] = -longest
    shallow, *counts = count_squarings(fields)
    assert shallow == 4
    for length, count in zip(longest[1:], counts, strict=True):
        assert 0.125 <= length / 2**count <= 0.25 or count == 4


@pytest.mark.parametrize(("count", "distance"), [(2, 1.0), (9, 1.0), (17, 4.0), (30, 3.7), (5, 9.0), (1, 2.0)])
def test_splines_sum_to_one_and_are_those_of_scipy(count, distance):
    basis = make_basis(count, distance)
    np.testing.assert_allclose(basis.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(basis, basis[::-1, ::-1], atol=1e-12)
    if count == 1:
        return
    spans = basis.shape[1] - 3
    place = (np.arange(count) - (count - 1) / 2) / distance + spans / 2
    cubic = scipy.interpolate.BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    for control in range(basis.shape[1]):
        expected = np.nan_to_num(cubic(np.clip(place - (control - 1), -2, 2)))
        np.testing.assert_allclose(basis[:, control], expected, atol=1e-12)
    # Control points on a line make a line: no bend is needed to shear or to stretch.
    np.testing.assert_allclose(basis @ (np.arange(basis.shape[1]) - 1.0), place, atol=1e-9)


@pytest.mark.parametrize("shape", [(7, 1), (6, 9), (5, 1, 8), (40, 7, 90)], ids=str)
def test_gathering_is_the_adjoint_of_evaluating(shape, make_array):
    rng = np.random.default_rng(0)
    spacing = (3.0, 1.0, 0.4)[: len(shape)]
    bases = list_bases(Grid.from_spacing(shape, spacing), 3.0)
    counts = [basis.shape[1] for basis in bases]
    assert [1 if n == 1 else -(-(n - 1) // max(1, round(3 / h))) for n, h in zip(shape, spacing, strict=True)] <= counts
    coefficients, values = rng.normal(size=(1, *counts, 3)), rng.normal(size=(1, *shape, 3))
    expected = coefficients
    for axis, basis in enumerate(bases, start=1):
        expected = np.moveaxis(np.tensordot(basis, expected, axes=(1, axis)), 0, axis)
    turned = [make_array(basis.astype(np.float32)) for basis in bases]
    back = [make_array(np.ascontiguousarray(basis.T, dtype=np.float32)) for basis in bases]
    found = np.asarray(evaluate(make_array(coefficients.astype(np.float32)), turned))
    gathered = np.asarray(gather(make_array(values.astype(np.float32)), back))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    size = np.linalg.norm(values) * np.linalg.norm(coefficients)
    assert np.sum(expected * values) == pytest.approx(np.sum(coefficients * gathered), abs=1e-5 * size)


def test_a_spline_steps_by_the_force_over_the_stiffness_that_reach_a_control_point():
    fixed, moving = bent_pair()
    level = Level(fixed, moving, 1.0)
    options = DeformationOptions(1, LocalCorrelation((7, 7)), 1.0, 0.0, 0.1, 0, control_spacing=5.0)
    spline = BSpline([Member(level, np.eye(3), options)])
    (coefficients,), _ = spline.advance(spline.enter((level.still(),)), spline.gather())
    pushed = spline.push(level.still(), spline.gather())[0][0].astype(np.float64)
    rows, columns = (make_basis(n, 5.0) for n in fixed.grid.shape)
    reached = np.einsum("ia,jb,ijc->abc", rows, columns, pushed)
    step = reached[..., :2] / (reached[..., 2:] + 0.1 * reached[..., 2].mean())
    step *= np.minimum(1, 0.1 / np.linalg.norm(step, axis=-1, keepdims=True))
    np.testing.assert_allclose(coefficients[0], step @ np.linalg.inv(fixed.grid.matrix).T, atol=1e-4)
    assert np.linalg.norm(coefficients, axis=-1).max() == pytest.approx(0.1, rel=1e-4)


def test_a_level_goes_on_from_the_spline_of_the_one_before():
    # A coarse spline, on the finer grid, is what the finer one begins with; a rough field gives what is nearest to it.
    rng = np.random.default_rng(0)
    image = bent_pair(shape=(40, 44, 36))[0]
    spline = BSpline([Member(Level(image, image, 1.0), np.eye(4), DeformationOptions(1, None, 1.0, 0.5, 0.4, 0))])
    bases = [make_basis(n, 4.0) for n in (20, 22, 18)]
    coarse = evaluate(rng.normal(size=(1, *(basis.shape[1] for basis in bases), 3)), bases)
    field = ops.resize_displacement(coarse.astype(np.float32), shape=(40, 44, 36))
    (kept,) = spline.leave(spline.enter((field,)))
    assert np.abs(kept - field).mean() < 0.02 * np.abs(field).mean()
    rough = rng.normal(size=field.shape).astype(np.float32)
    (first,) = spline.leave(spline.enter((rough,)))
    (again,) = spline.leave(spline.enter((first,)))
    np.testing.assert_allclose(again, first, atol=1e-4)
    assert np.sum((rough - first) * first) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize(("count", "spread"), [(41, 1.5), (41, 0.2), (1, 0.5)])
def test_diffusion_spreads_like_a_gaussian_and_keeps_the_sum(count, spread):
    diffusion = make_diffusion(count, spread)
    np.testing.assert_allclose(diffusion.sum(axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(diffusion.sum(axis=1), 1, atol=1e-12)
    assert diffusion.min() > -1e-12
    offset = np.arange(count) - count // 2
    assert diffusion[count // 2] @ offset**2 == pytest.approx(spread**2 if count > 1 else 0, abs=1e-6)


@pytest.mark.parametrize("shape", [(3, 9, 400_000), (2, 95, 5000), (1, 4, 7)], ids=str)
def test_products_in_pieces_are_the_products(shape):
    rng = np.random.default_rng(0)
    lines, matrix = rng.normal(size=shape), rng.normal(size=(6, shape[1]))
    multiply, found = backend.use("numpy").xp.matmul, np.einsum("ij,bjk->bik", matrix, lines)
    np.testing.assert_allclose(multiply(matrix, lines), found, atol=1e-12)
    np.testing.assert_allclose(multiply(matrix, np.asfortranarray(lines.T).T), found, atol=1e-12)
    turned = np.swapaxes(lines, 1, 2)
    np.testing.assert_allclose(multiply(turned, matrix.T), np.swapaxes(found, 1, 2), atol=1e-12)
    others = rng.normal(size=(shape[2], 5))
    np.testing.assert_allclose(multiply(lines, others), np.einsum("bij,jk->bik", lines, others), atol=1e-9)


def test_what_histograms_add_up_to_does_not_depend_on_the_threads_of_the_blas():
    script = (
        "import hashlib, numpy as np; from keramorph import backend\n"
        "rng = np.random.default_rng(0); windows = rng.random((2, 1, 200_003, 32), dtype='float32')\n"
        "joint = backend.use('numpy').xp.matmul(np.swapaxes(windows[0], -1, -2), windows[1])\n"
        "print(hashlib.sha256(joint.tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"OPENBLAS_NUM_THREADS": count}, stdout=-1, check=True
        ).stdout
        for count in ("1", "2")
    }
    assert len(found) == 1


def test_an_unknown_algorithm_is_told_with_those_there_are():
    with pytest.raises(
        OptionError, match=r"greedy, velocity, symmetric, bspline, mixed\. Received: algorithm='demons'"
    ):
        dataclasses.replace(Config(), algorithm="demons")
