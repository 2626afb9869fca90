"""register(): known transforms recovered, whatever the grids, and results that say how far they can be trusted."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from keramorph import registration
from keramorph.errors import ArrayTypeError, FileError, InputError, OptionError, ShapeError
from keramorph.registration import Config, register
from keramorph.solver import search, trust
from keramorph.solver.start import _list_turns
from keramorph.space import Grid, Image
from keramorph.transforms import AffineTransform, DisplacementTransform, write_transform
from phantom import Phantom, affine_map, centred_grid, error_inside, grid_points, wave

QUICK = Config(iterations=30)


def apply_matrix(matrix):
    return lambda points: points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def rotation(degrees):
    angle = np.deg2rad(degrees)
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilt = np.eye(3)
    tilt[1:, 1:] = turn[:2, :2]
    return turn @ tilt


def unequal_pair(ndim, *, seed=0):
    """Fixed and moving image with nothing in common but the body: size, spacing, axes and position all differ."""
    phantom = Phantom(ndim, seed=seed)
    # Rotated, anisotropic, larger here and smaller there.
    if ndim == 2:
        fixed_grid = centred_grid((64, 52), (1.0, 1.3))
        moving_grid = centred_grid((48, 72), (1.5, 0.9), directions=np.array([[1.0, 0], [0, -1]]), centre=3.0)
    else:
        fixed_grid = centred_grid((30, 26, 34), (2.2, 2.6, 2.0), directions=rotation(20))
        moving_grid = centred_grid((36, 30, 22), (1.9, 2.3, 3.0), directions=-np.eye(3)[:, [1, 0, 2]], centre=2.0)
    return phantom, fixed_grid, moving_grid


@pytest.mark.parametrize("ndim", [2, 3])
def test_known_affine_is_recovered_between_unequal_grids(ndim):
    phantom, fixed_grid, moving_grid = unequal_pair(ndim)
    true = apply_matrix(affine_map(ndim))
    fixed, moving = phantom.picture(fixed_grid, through=true), phantom.picture(moving_grid)
    result = register(fixed, moving, config=Config(iterations=0))
    assert result.outcome.status == "done"
    assert error_inside(phantom, fixed_grid, result.apply_points, true).max() < 0.5


@pytest.mark.parametrize("ndim", [2, 3])
def test_known_deformation_is_recovered_between_unequal_grids(ndim):
    phantom, fixed_grid, moving_grid = unequal_pair(ndim)
    affine = apply_matrix(affine_map(ndim, degrees=4))

    def true(points):
        return affine(wave(points))

    fixed, moving = phantom.picture(fixed_grid, through=true), phantom.picture(moving_grid)
    result = register(fixed, moving, config=Config(iterations=60))
    error = error_inside(phantom, fixed_grid, result.apply_points, true)
    assert error.mean() < {2: 0.7, 3: 1.0}[ndim]
    assert np.percentile(error, 95) < {2: 2.0, 3: 2.4}[ndim]
    assert result.metrics["folds_percent"] == 0
    assert result.metrics["loss_deformable"] < result.metrics["loss_affine"] < result.metrics["loss_start"]
    assert result.moved.grid is fixed.grid
    assert result.moved.array.dtype == moving.array.dtype


def test_the_inverse_takes_points_back():
    phantom, fixed_grid, moving_grid = unequal_pair(3)
    fixed, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)
    result = register(fixed, moving, config=QUICK)

    def there_and_back(points):
        return result.inverse.apply_points(result.transform.apply_points(points))

    error = error_inside(phantom, fixed_grid, there_and_back, lambda points: points)
    # Between voxels of 2 mm both fields are linear, which no pair of inverse fields can be.
    assert error.mean() < 0.15
    assert error.max() < 0.8
    assert result.metrics["inverse_residual_mean_mm"] < 0.01
    in_voxels = result.metrics["inverse_residual_mean_voxels"] * result.metrics["spacing_mm"]
    assert in_voxels == pytest.approx(result.metrics["inverse_residual_mean_mm"])


def test_axes_permuted_and_flipped_change_no_physical_answer():
    phantom, fixed_grid, moving_grid = unequal_pair(3)
    fixed, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)

    def turn(image):
        array = image.array.transpose(2, 0, 1, 3)[:, ::-1]
        affine = image.grid.affine[:, [2, 0, 1, 3]].copy()
        affine[:, 3] += affine[:, 1] * (array.shape[1] - 1)
        affine[:, 1] *= -1
        return Image(array, Grid(array.shape[:-1], affine))

    one, other = (register(*pair, config=QUICK) for pair in ((fixed, moving), (turn(fixed), turn(moving))))
    points = grid_points(fixed_grid)
    assert np.abs(one.apply_points(points) - other.apply_points(points)).max() < 0.01


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, "64 x 52 voxels of 1 mm;"),
        ({"voxels": 1000}, "coarser than"),
        ({"field_voxels": 1000}, "64 x 52 voxels of 1 mm, bent by 32 x 34 vectors;"),
    ],
)
def test_progress_tells_the_grid_and_the_memory_from_the_start(limits, expected):
    phantom, fixed_grid, moving_grid = unequal_pair(2)
    plans = []
    config = Config(iterations=1, affine_iterations=1, **limits)
    pair = phantom.picture(fixed_grid), phantom.picture(moving_grid)
    result = register(*pair, config=config, progress=lambda at: plans.append(at.plan))
    assert len(set(plans)) == 1
    assert expected in plans[0]
    assert " x ".join(str(n) for n in result.transform.transforms[0].grid.shape) in plans[0]
    assert "GB of memory" in plans[0]


def test_swapped_contrast_is_no_obstacle():
    phantom, fixed_grid, moving_grid = unequal_pair(2)
    fixed = phantom.picture(fixed_grid, through=wave)
    moving = phantom.picture(moving_grid)
    negative = Image(moving.array.max() - moving.array, moving.grid)
    result = register(fixed, negative)
    assert error_inside(phantom, fixed_grid, result.apply_points, wave).mean() < 0.7


def test_thin_slab_keeps_its_slices_and_finds_the_motion_within_them():
    phantom = Phantom(3, seed=2)
    grid = centred_grid((6, 48, 40), (10.0, 1.5, 1.5))

    def true(points):
        moved = points.copy()
        moved[..., 0] += 3 * np.sin(points[..., 1] / 8)
        return moved

    fixed, moving = phantom.picture(grid, through=true), phantom.picture(grid)
    result = register(fixed, moving)
    assert error_inside(phantom, grid, result.apply_points, true).mean() < 0.9
    assert result.metrics["folds_percent"] == 0


@pytest.mark.parametrize("shape", [(1, 40, 44), (40, 1, 44)])
def test_single_slice_of_a_volume_registers_like_a_picture(shape):
    phantom = Phantom(2, seed=1)
    grid = centred_grid([n for n in shape if n > 1], (1.4, 1.4))
    true = apply_matrix(affine_map(2, degrees=3, shift=2.0))
    flat = [phantom.picture(grid, through=through).array for through in (true, None)]
    spacing = [1.4 if n > 1 else 5.0 for n in shape]
    volumes = [Image(array.reshape(*shape, 1), Grid.from_spacing(shape, spacing)) for array in flat]
    result = register(*volumes, config=QUICK)
    assert np.isfinite(result.transform.apply_points([[1.0, 2.0, 3.0]])).all()
    inner = result.moved.array.squeeze()[12:-12, 12:-12], volumes[0].array.squeeze()[12:-12, 12:-12]
    assert np.corrcoef(inner[0].ravel(), inner[1].ravel())[0, 1] > 0.97


def test_bodies_far_apart_in_space_meet():
    phantom, fixed_grid, _ = unequal_pair(2)
    away = np.array([400.0, -300.0])
    moving_grid = centred_grid((60, 60), (1.1, 1.1), centre=away)
    fixed = phantom.picture(fixed_grid)
    moving = phantom.picture(moving_grid, through=lambda points: points - away)
    result = register(fixed, moving, config=QUICK)
    assert result.outcome.status == "done"
    error = error_inside(phantom, fixed_grid, result.apply_points, lambda p: p + away, body=lambda p: p)
    assert error.mean() < 0.3


@pytest.mark.parametrize("degrees", [60, 115, 180])
@pytest.mark.parametrize("ndim", [2, 3])
def test_bodies_turned_any_way_round_meet(ndim, degrees):
    # Headers that are wrong altogether: a scan upside down, a picture on its side, and 80 mm away.
    phantom, fixed_grid, moving_grid = unequal_pair(ndim)
    axis = np.array([0, 0, 1.0]) if ndim == 2 else np.array([0.6, -0.48, 0.64])
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis).as_matrix()[:ndim, :ndim]
    away = 80 * turn[0]
    wrong = np.eye(ndim + 1)
    wrong[:ndim, :ndim], wrong[:ndim, ndim] = turn, away
    fixed, moving = phantom.picture(fixed_grid), phantom.picture(moving_grid)
    result = register(fixed, Image(moving.array, Grid(moving_grid.shape, wrong @ moving_grid.affine)), config=QUICK)
    assert result.outcome.status == "done"
    error = error_inside(phantom, fixed_grid, result.apply_points, apply_matrix(wrong), body=lambda p: p)
    assert error.mean() < 0.5


def test_turns_are_spread_over_all_there_are():
    for ndim, furthest in ((2, 7.6), (3, 35)):
        turns = _list_turns(ndim)
        np.testing.assert_allclose(
            turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(ndim), turns.shape), atol=1e-9
        )
        assert np.all(np.linalg.det(turns) > 0)
        drawn = Rotation.random(500, random_state=0).as_matrix()
        if ndim == 2:
            drawn = Rotation.from_rotvec(np.linspace(0, 6, 500)[:, None] * [0, 0, 1]).as_matrix()[:, :2, :2]
        trace = np.einsum("aij,bij->ab", drawn, turns).max(axis=1)
        angle = np.rad2deg(np.arccos(np.clip(trace / 2 if ndim == 2 else (trace - 1) / 2, -1, 1)))
        assert angle.max() < furthest


def test_noise_against_noise_is_not_trusted():
    rng = np.random.default_rng(0)
    result = register(rng.random((64, 60)), rng.random((60, 66)), config=QUICK)
    assert result.outcome.status == "untrusted"
    assert "alike" in result.outcome.reason


def test_images_already_aligned_stay_where_they_are():
    phantom, fixed_grid, _ = unequal_pair(2)
    image = phantom.picture(fixed_grid)
    result = register(image, image)
    assert result.outcome.status == "done"
    assert error_inside(phantom, fixed_grid, result.apply_points, lambda points: points).max() < 0.02
    assert result.metrics["loss_deformable"] <= result.metrics["loss_start"]


@pytest.mark.parametrize("seed", range(3))
def test_the_result_is_never_worse_than_the_start(seed):
    # Different bodies: there is nothing to find, and something to lose.
    one, other = (Phantom(2, seed=s).picture(centred_grid((40, 44), (1.5, 1.5))) for s in (seed, seed + 10))
    metrics = register(one, other, config=QUICK).metrics
    assert metrics["loss_deformable"] <= metrics["loss_affine"]
    assert metrics["loss_affine"] <= metrics["loss_start"] + 1e-6
    assert metrics["folds_percent"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_block_laid_on_a_ball_is_no_alignment(seed):
    # Their outlines agree in part: more alike than by chance, by far not as alike as two of a kind.
    shape = (40, 44, 38)
    ball = Phantom(3, seed=seed).picture(centred_grid(shape, (1.5, 1.5, 1.5)))
    sides = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    grain = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 3)
    block = np.where(np.max(np.abs(sides), axis=0) < 0.7, 2 + 4 * grain, 0)
    result = register(ball, block.astype(np.float32), config=Config(iterations=3))
    assert result.metric.name == "lncc"
    assert (result.outcome.status, result.metrics["contrast"] < 0.2) == ("untrusted", True)


@pytest.mark.parametrize("ndim", [2, 3])
def test_mutual_information_moves_what_the_correlation_cannot(ndim, monkeypatch):
    # As between a CT and an MRI: no likeness by the correlation is ever enough.
    monkeypatch.setattr(search, "LEAST_CONTRAST", 2.0)
    monkeypatch.setattr(trust, "_CLEAR_CONTRAST", 2.0)
    phantom, fixed_grid, moving_grid = unequal_pair(ndim)
    matrix = affine_map(ndim, degrees=2)
    matrix[:-1, :-1] = 0.3 * matrix[:-1, :-1] + 0.7 * np.eye(ndim)
    matrix[:-1, -1] += 3
    true = apply_matrix(matrix)
    fixed, moving = phantom.picture(fixed_grid, through=true), phantom.picture(moving_grid)
    shown = np.abs(moving.array - np.median(moving.array)) ** 0.7  # neither rises nor falls with the fixed one
    result = register(fixed, Image(shown, moving_grid))
    before, after = (
        error_inside(phantom, fixed_grid, points, true).mean() for points in (lambda p: p, result.apply_points)
    )
    assert after < before / 3
    assert result.outcome.status == "untrusted"
    assert "mutual information" in result.outcome.reason
    losses = [result.metrics[f"loss_{stage}"] for stage in ("start", "affine", "deformable")]
    assert losses == sorted(losses, reverse=True)
    assert result.metrics["folds_percent"] == 0


@pytest.mark.parametrize("metric", ["lncc", "ncc", "mse", "nmi", "ngf", "mind"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_known_deformation_is_found_by_each_metric(metric, ndim):
    phantom, fixed_grid, moving_grid = unequal_pair(ndim)
    fixed, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)
    result = register(fixed, moving, config=Config(metric=metric, iterations=30 if metric == "nmi" else 100))
    before, after = (
        error_inside(phantom, fixed_grid, points, wave).mean() for points in (lambda p: p, result.apply_points)
    )
    assert after < before * (0.7 if metric in ("nmi", "mind") else 0.35)
    assert (result.metric.name, result.metric.reason) == (metric, "as asked for")
    losses = [result.metrics[f"loss_{stage}"] for stage in ("start", "affine", "deformable")]
    assert losses == sorted(losses, reverse=True)
    assert result.metrics["folds_percent"] == 0


@pytest.mark.parametrize("metric", ["ngf", "nmi", "mind"])
def test_what_neither_rises_nor_falls_with_the_other_image_is_aligned_by_these(metric):
    phantom, fixed_grid, moving_grid = unequal_pair(2)
    fixed, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)
    shown = np.abs(moving.array - np.median(moving.array[moving.array > 0.5]))
    result = register(fixed, Image(shown, moving_grid), config=Config(metric=metric))
    before, after = (
        error_inside(phantom, fixed_grid, points, wave).mean() for points in (lambda p: p, result.apply_points)
    )
    assert after < 0.7 * before


def test_the_metric_is_chosen_from_the_images_alone_and_says_why():
    phantom, fixed_grid, moving_grid = unequal_pair(2)
    fixed, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)
    alike = register(fixed, moving, config=QUICK)
    assert alike.metric.name == "lncc"
    assert alike.metric.reason == f"the images agree in contrast: {alike.metrics['contrast']:.2f}"
    shuffled = np.random.default_rng(0).permutation(moving.array.ravel()).reshape(moving.array.shape)
    unlike = register(fixed, Image(shuffled, moving_grid), config=QUICK)
    assert unlike.metric.name == "mind"
    assert unlike.metric.reason == f"the images hardly agree in contrast: {unlike.metrics['contrast']:.2f}"
    assert "self-similarities" in unlike.outcome.reason


def test_squared_differences_are_taken_in_one_unit(monkeypatch):
    # One image shows 0 to 100, the other 0 to 200: scaled each by itself, equal values would differ.
    seen = []
    monkeypatch.setattr(registration, "solve_all", lambda tasks, _: seen.append(next(tasks)) or 1 / 0)
    ramp = np.add.outer(np.arange(32.0), np.zeros(30))
    for metric, expected in (("mse", 2.0), ("ncc", 1.0)):
        with pytest.raises(ZeroDivisionError):
            register(ramp, 2 * ramp, config=Config(metric=metric))
        fixed, moving = (layer.values for layer in (seen[-1].fixed, seen[-1].moving))
        assert (moving[0, 12] / fixed[0, 12]).mean() == pytest.approx(expected, rel=0.06)


def test_missing_values_and_padding_do_no_harm():
    phantom, fixed_grid, moving_grid = unequal_pair(2)
    fixed, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)
    holed, padded = fixed.array.copy(), moving.array.copy()
    holed[:9] = np.nan
    padded[:5] = -2048
    result = register(Image(holed, fixed.grid), Image(padded, moving.grid))
    assert error_inside(phantom, fixed_grid, result.apply_points, wave).mean() < 0.8


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_search_starts_where_it_is_told(ndim, tmp_path):
    phantom, fixed_grid, moving_grid = unequal_pair(ndim)
    fixed, moving = phantom.picture(fixed_grid), phantom.picture(moving_grid)
    far = AffineTransform(
        np.vstack([np.eye(ndim + 1)[:-1] + np.eye(ndim, ndim + 1, k=1) * 0.02, np.eye(ndim + 1)[-1:]])
    )
    write_transform(far, tmp_path / "far.tfm")
    still = Config(affine_iterations=0, iterations=0)
    found = register(fixed, moving, initial=tmp_path / "far.tfm", config=still)
    np.testing.assert_allclose(found.transform.transforms[1].matrix, far.matrix, atol=1e-6)
    assert found.metrics["displacement_max_mm"] == 0
    better = register(fixed, moving, initial=far, config=QUICK)
    error = error_inside(phantom, fixed_grid, better.apply_points, lambda p: p, body=lambda p: p)
    assert error.mean() < 0.3


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_deformation_to_start_from_is_kept_unless_a_better_one_is_found(ndim):
    phantom, fixed_grid, moving_grid = unequal_pair(ndim)
    fixed, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)
    points = grid_points(fixed_grid)
    known = DisplacementTransform(wave(points) - points, fixed_grid)
    kept = register(fixed, moving, initial=known, config=Config(iterations=0))
    np.testing.assert_allclose(kept.apply_points(points), wave(points), atol=1e-3)
    improved = register(fixed, moving, initial=known, config=QUICK)
    assert improved.metrics["loss_deformable"] <= kept.metrics["loss_deformable"] + 1e-6
    assert error_inside(phantom, fixed_grid, improved.apply_points, wave).mean() < 0.7


def test_what_is_masked_out_does_not_draw():
    # A lesion in the one image that the other has not: as if it were not there, inside the mask and out.
    phantom, fixed_grid, moving_grid = unequal_pair(2)
    plain, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)
    lesion = np.linalg.norm(grid_points(fixed_grid) - [6.0, -4.0], axis=-1) < 7
    sick = plain.array.copy()
    sick[lesion] = 6 * plain.array.max()
    mask = Image((~lesion)[..., None].astype("uint8"), fixed_grid)
    errors = [
        error_inside(phantom, fixed_grid, result.apply_points, wave).mean()
        for result in (
            register(plain, moving),
            register(Image(sick, fixed_grid), moving),
            register(Image(sick, fixed_grid), moving, masks=(mask, None)),
            register(Image(np.where(lesion[..., None], np.nan, sick), fixed_grid), moving),
        )
    ]
    healthy, unmasked, masked, missing = errors
    assert masked < 2 * healthy < 0.3 * unmasked
    assert missing == pytest.approx(masked)


def test_a_time_budget_ends_the_search_with_what_there_is():
    phantom, fixed_grid, moving_grid = unequal_pair(3)
    fixed, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)
    whole, hasty = (register(fixed, moving, config=Config(time_budget=seconds)) for seconds in (0.0, 1e-3))

    def count(result):
        return sum(len(record.losses) for record in result.history if record.stage == "deformable")

    assert count(hasty) == 0 < count(whole)
    assert hasty.outcome.status == "done"
    assert hasty.transform.displacement_on(fixed_grid).shape == (*fixed_grid.shape, 3)
    assert hasty.metrics["loss_deformable"] == hasty.metrics["loss_affine"] < hasty.metrics["loss_start"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"masks": (np.ones((8, 8)), None)}, ShapeError, "grid of its image"),
        ({"masks": (None, np.zeros((32, 32)))}, InputError, "masked out"),
        ({"initial": np.eye(3)}, ArrayTypeError, "AffineTransform"),
        ({"initial": AffineTransform(np.eye(4))}, ShapeError, "3"),
        ({"initial": "nowhere.h5"}, FileError, "nowhere.h5"),
    ],
)
def test_masks_and_starts_that_do_not_fit_are_refused(options, error, words):
    image = np.random.default_rng(0).random((32, 32))
    with pytest.raises(error, match=words):
        register(image, image, **options)


def test_labels_points_and_images_follow():
    rows, columns = np.mgrid[:48, :40]
    fixed = np.exp(-((rows - 22.0) ** 2 / 80 + (columns - 18.0) ** 2 / 30))
    moving = np.roll(fixed, (3, 0), axis=(0, 1))
    result = register(fixed, moving)
    labels = np.where(moving > 0.5, 7, 0).astype(np.int16)
    moved = result.apply(labels, labels=True)
    assert moved.array.dtype == np.int16
    assert set(np.unique(moved.array)) == {0, 7}
    target = fixed > 0.5
    both = 2 * np.sum((moved.array[..., 0] == 7) & target) / (np.sum(moved.array == 7) + target.sum())
    assert both > 0.97
    np.testing.assert_allclose(result.apply_points([[18.0, 22.0]]), [[18.0, 25.0]], atol=0.5)
    np.testing.assert_allclose(result.apply(moving).array, result.moved.array)


def test_colours_count_as_their_mean_and_come_back_as_they_were():
    rows, columns = np.mgrid[:48, :40]
    grey = 255 * np.exp(-((rows - 22.0) ** 2 / 80 + (columns - 18.0) ** 2 / 30))
    colour = np.stack([grey, 0.5 * grey, 255 - grey], axis=-1).astype(np.uint8)
    grid = Grid.from_spacing((48, 40))
    result = register(Image(colour, grid), Image(np.roll(colour, 2, axis=0), grid), config=QUICK)
    assert result.moved.array.shape == (48, 40, 3)
    assert result.moved.array.dtype == np.uint8


def test_progress_tells_each_stage_in_turn():
    phantom, fixed_grid, moving_grid = unequal_pair(2)
    fixed, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)
    seen = []
    register(fixed, moving, config=Config(iterations=3), progress=seen.append)
    assert list(dict.fromkeys(p.stage for p in seen)) == ["start", "affine", "deformable"]
    assert all(1 <= p.level <= p.levels and 0 <= p.iteration <= p.iterations for p in seen)
    assert [p.seconds for p in seen] == sorted(p.seconds for p in seen)
    assert all(0 <= p.loss <= 2 for p in seen)


def test_no_pair_leaves_traces_in_the_next():
    rng = np.random.default_rng(2)
    fixed, moving, other = rng.random((30, 32)), rng.random((32, 30)), rng.random((31, 33))
    one, between, again = (register(fixed, m, config=QUICK) for m in (moving, other, moving))
    np.testing.assert_array_equal(one.moved.array, again.moved.array)
    assert not np.array_equal(one.moved.array, between.moved.array)


@pytest.mark.parametrize("metric", ["auto", "ncc", "mse", "ngf", "nmi"])
def test_every_engine_finds_the_transform_of_numpy(metric, engine_name):
    phantom, fixed_grid, moving_grid = unequal_pair(2)
    fixed, moving = phantom.picture(fixed_grid, through=wave), phantom.picture(moving_grid)
    config = Config(metric=metric, levels=2, iterations=6, affine_levels=1, affine_iterations=6)
    expected, got = (register(fixed, moving, config=config, engine=name) for name in ("numpy", engine_name))
    assert isinstance(got.moved.array, np.ndarray)
    assert error_inside(phantom, fixed_grid, got.apply_points, expected.apply_points).max() < 0.05


@pytest.mark.parametrize(
    ("fixed", "moving", "error", "words"),
    [
        (np.ones((20, 20)), np.eye(20), InputError, "fixed image needs contrast"),
        (np.eye(20), np.zeros((20, 20)), InputError, "moving image needs contrast"),
        (np.eye(20), np.full((20, 20), np.nan), InputError, "finite"),
        (np.eye(20), np.random.default_rng(0).random((8, 9, 7)), ShapeError, "same number of axes"),
        (np.eye(20), "nowhere.nii.gz", FileError, "no such file"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(fixed, moving, error, words):
    with pytest.raises(error, match=words) as caught:
        register(fixed, moving)
    assert "Received:" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "cc"},
        {"metric": 3},
        {"levels": 0},
        {"step": 0.9},
        {"window": "wide"},
        {"iterations": -1},
        {"iterations": 2.5},
    ],
)
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(OptionError, match="Received"):
        Config(**options)


def test_unknown_engine_is_refused():
    with pytest.raises(OptionError, match="engine"):
        register(np.eye(20), np.eye(20), engine="abacus")


def test_numpy_registers_without_keras_or_a_framework():
    code = (
        "import sys, numpy as np\n"
        "from keramorph import register\n"
        "a = np.add.outer(np.arange(20.0) ** 2, np.arange(24.0))\n"
        "register(a, a)\n"
        "heavy = {'keras', 'tensorflow', 'torch', 'jax', 'scipy.optimize', 'scipy.ndimage', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
