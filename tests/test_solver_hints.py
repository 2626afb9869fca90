"""Landmarks and labels: their pulls against finite differences, and what they do to a registration."""

import numpy as np
import pytest

from keramorph import Scan, backend
from keramorph.errors import OptionError, ShapeError
from keramorph.registration import Config, register
from keramorph.solver import hints
from keramorph.solver.affine import AffineOptions, _Problem
from keramorph.solver.deformation import DeformationOptions, Member
from keramorph.solver.greedy import Greedy
from keramorph.solver.hints import Follower, Known, build_hints
from keramorph.solver.mapping import locate
from keramorph.solver.pyramid import Hints, Landmarks, Layer, Level
from keramorph.solver.similarity import MeanSquares
from keramorph.solver.start import start_at_landmarks
from keramorph.space import Grid, Image
from phantom import Phantom, affine_map, centred_grid, error_inside, grid_points, wave


def draw_level(*, labels=False, landmarks=True, weights=(0.7, 0.4)):
    """Two images of noise on unlike grids, with landmarks and labels."""
    rng = np.random.default_rng(4)
    grids = centred_grid((9, 8, 7), (1.5, 1.0, 2.0)), centred_grid((8, 9, 10), (1.6, 1.2, 1.5), centre=0.3)
    images = [Layer(rng.random((1, *grid.shape, 1)), None, grid) for grid in grids]
    maps = tuple(Layer(rng.random((1, *grid.shape, 3)), None, grid) for grid in grids)
    points = rng.uniform(-3, 3, (5, 3))
    hints = Hints(
        Landmarks(points, points + rng.normal(0, 1, points.shape)) if landmarks else None,
        maps if labels else None,
        *weights,
    )
    return Level(*images, 1.3, hints)


@pytest.mark.parametrize(("labels", "landmarks"), [(False, True), (True, False), (True, True)])
def test_gradient_to_the_affine_parameters_is_that_of_finite_differences(labels, landmarks):
    level = draw_level(labels=labels, landmarks=landmarks)
    problem = _Problem(level, affine_map(3, degrees=3, shift=0.2), AffineOptions(1, MeanSquares(), 0.1))
    bare = _Problem(Level(level.fixed, level.moving, 1.3), problem.matrix, problem.options)
    rng = np.random.default_rng(1)
    point = 0.01 * rng.normal(size=problem.count)
    assert problem.evaluate(point)[0] > bare.evaluate(point)[0] + 0.05
    _, gradient = problem.evaluate(point)
    for direction in (*np.eye(problem.count), rng.normal(size=problem.count)):
        # Noise has kinks at every voxel: the step is too short to meet many.
        after, before = (problem.evaluate(point + k * 2e-4 * direction)[0] for k in (1, -1))
        assert gradient @ direction == pytest.approx((after - before) / 4e-4, abs=0.02 * np.linalg.norm(gradient))


def test_landmarks_push_as_finite_differences_say_and_a_full_step_lays_them_on_one_another(make_array):
    level = draw_level()
    level = Level(*(Layer(make_array(i.values), None, i.grid) for i in (level.fixed, level.moving)), 1.3, level.hints)
    grid, matrix = level.fixed.grid, affine_map(3, degrees=3, shift=0.2)
    rng = np.random.default_rng(2)
    follower = Follower(level, matrix)
    arrays = follower.gather()
    displacement, change = (rng.normal(0, 0.3, (1, *grid.shape, 3)).astype("float32") for _ in range(2))

    def follow(field):
        return follower.follow(arrays, make_array(field), None, None, None)

    pushed, cost = follow(displacement)
    pushed = np.asarray(pushed)
    after, before = (float(follow(displacement + k * 0.05 * change)[1]) for k in (1, -1))
    # Forces are gains by displacements in units of the spacing.
    expected = -np.sum(pushed[..., :3] * (change @ (grid.matrix / 1.3).T))
    assert (after - before) / 0.1 == pytest.approx(expected, rel=1e-3)
    assert pushed[..., 3].sum() == pytest.approx(2 * 0.7, rel=1e-5)
    # A shift that all points need alike is the force by the stiffness.
    points = level.hints.landmarks.fixed
    shift = np.array([0.4, -0.3, 0.2])
    moved = (points + shift) @ matrix[:-1, :-1].T + matrix[:-1, -1]
    level = Level(level.fixed, level.moving, 1.3, level.hints._replace(landmarks=Landmarks(points, moved)))
    follower = Follower(level, matrix)
    pushed, cost = follower.follow(follower.gather(), make_array(0 * displacement), None, None, None)
    pushed = np.asarray(pushed)
    assert float(cost) == pytest.approx(0.7 * np.sum(shift**2) / 1.3**2, rel=1e-4)
    step = pushed[..., :3].sum((0, 1, 2, 3)) / pushed[..., 3].sum() * 1.3
    np.testing.assert_allclose(step, shift, atol=1e-4)


def test_landmarks_start_a_search_by_a_turn_where_they_tell_one():
    rng = np.random.default_rng(3)
    level = draw_level()
    turn = affine_map(3, degrees=70, scale=1.0)
    for count, close in ((6, True), (2, False)):
        points = rng.uniform(-9, 9, (count, 3))
        moved = points @ turn[:-1, :-1].T + turn[:-1, -1]
        marked = Level(level.fixed, level.moving, 1.3, Hints(Landmarks(points, moved)))
        (found,) = start_at_landmarks(marked)
        assert np.allclose(found, turn, atol=1e-9) == close
        np.testing.assert_allclose(found @ [*points.mean(0), 1], [*moved.mean(0), 1], atol=1e-9)
        assert close or np.allclose(found[:-1, :-1], np.eye(3))
    assert start_at_landmarks(Level(level.fixed, level.moving, 1.3)) == []


def test_labels_of_both_maps_become_channels_at_each_level_that_has_room_for_them(monkeypatch):
    grid = Grid.from_spacing((16, 12))
    fixed, moving = (np.zeros((1, 16, 12, 1), "float32") for _ in range(2))
    fixed[:, :8], fixed[:, 8:, :4], moving[:, 4:], moving[:, :2] = 3, 7, 3, 5
    known = Known(labels=(Layer(fixed, None, grid), Layer(moving, None, grid)))
    coarse, fine = build_hints(known, [2.0, 1.0], Config(label_weight=0.5))
    assert [level.labels[0].values.shape for level in (coarse, fine)] == [(1, 8, 6, 1), (1, 16, 12, 1)]
    np.testing.assert_array_equal(fine.labels[0].values, fixed == 3)
    np.testing.assert_array_equal(fine.labels[1].values, moving == 3)
    assert (fine.label_weight, fine.landmarks) == (0.5, None)
    monkeypatch.setattr(hints, "_LARGEST", 100)
    coarse, fine = build_hints(known, [2.0, 1.0], Config())
    assert coarse.labels is not None
    assert fine.labels is None


def blobs(centre, width, shape=(64, 60)):
    return np.exp(-((np.indices(shape).T - centre) ** 2).sum(-1).T / (2 * width**2))


@pytest.mark.parametrize("metric", ["auto", "ncc"])
def test_landmarks_meet_where_the_images_say_nothing(metric):
    # One blob tells where it lies, and not what happens far from it.
    image = blobs((32, 30), 6) + 0.02 * np.random.default_rng(0).random((64, 60))
    points = np.array([[12.0, 12.0], [48.0, 12.0], [12.0, 52.0], [48.0, 52.0], [30.0, 32.0]])
    aims = points + np.array([[3.0, 0.0], [-3.0, 2.0], [0.0, -3.0], [-2.0, -2.0], [0.0, 0.0]])
    result = register(Scan(image, landmarks=points), Scan(image, landmarks=aims), config=Config(metric=metric))
    assert result.metrics["landmarks_start_mm"] == pytest.approx(np.linalg.norm(aims - points, axis=1).mean())
    assert result.metrics["landmarks_max_mm"] < 0.5
    assert result.metrics["folds_percent"] == 0
    np.testing.assert_allclose(np.linalg.norm(result.apply_points(points) - aims, axis=1).max(),
                               result.metrics["landmarks_max_mm"])  # fmt: skip


def test_landmarks_find_what_a_search_would_miss():
    phantom = Phantom(2)
    grid = centred_grid((60, 56), (1.0, 1.2))
    true = affine_map(2, degrees=100, scale=1.0)
    fixed = phantom.picture(grid, through=lambda p: p @ true[:2, :2].T + true[:2, 2])
    rng = np.random.default_rng(0)
    noisy = [
        Image(i.array + rng.normal(0, 3, i.array.shape).astype("f4"), grid) for i in (fixed, phantom.picture(grid))
    ]
    points = np.array([[0.0, 0.0], [15.0, 3.0], [-4.0, 12.0]])
    scans = [Scan(i, landmarks=p) for i, p in zip(noisy, (points, points @ true[:2, :2].T + true[:2, 2]), strict=True)]
    result = register(*scans, config=Config(iterations=0))
    assert result.metrics["landmarks_max_mm"] < 2


def test_labels_overlap_where_the_images_say_nothing():
    grid = centred_grid((60, 64), (1.0, 1.0))
    image = Image(blobs((30, 32), 6, (60, 64))[..., None], grid)
    points = grid_points(grid)
    maps = []
    for places in (points, wave(points)):
        inner, outer = (np.linalg.norm(places * stretch, axis=-1) for stretch in ([1, 0.8], [1, 1]))
        maps.append(Image(np.select([inner < 10, outer < 22], [2, 1])[..., None].astype("uint8"), grid))

    def overlap(labels):
        both = [(labels.array == k, maps[0].array == k) for k in (1, 2)]
        return min(2 * np.sum(moved & fixed) / (moved.sum() + fixed.sum()) for moved, fixed in both)

    result = register(Scan(image, labels=maps[0]), Scan(image, labels=maps[1]), config=Config(metric="ncc"))
    assert overlap(maps[1]) < 0.8
    assert overlap(result.apply(maps[1], labels=True)) > 0.95


def test_every_engine_follows_hints_like_numpy(engine_name):
    grid = centred_grid((40, 36), (1.0, 1.0))
    phantom = Phantom(2)
    images = phantom.picture(grid, through=wave), phantom.picture(grid)
    points = np.array([[0.0, 0.0], [9.0, 3.0], [-4.0, 12.0]])
    labels = [Image((i.array > np.median(i.array)).astype("uint8"), grid) for i in images]
    scans = [Scan(*given) for given in zip(images, (points, wave(points)), labels, strict=True)]
    config = Config(levels=2, iterations=6, affine_levels=1, affine_iterations=3)
    expected, got = (register(*scans, config=config, engine=name) for name in ("numpy", engine_name))
    assert backend.use(engine_name).name == engine_name
    assert error_inside(phantom, grid, got.apply_points, expected.apply_points).max() < 0.05


@pytest.mark.parametrize(
    ("fixed", "moving", "error", "words"),
    [
        ({"landmarks": [[1.0, 2.0]]}, {}, OptionError, "landmarks of the fixed image alone"),
        ({}, {"labels": np.eye(20, dtype=int)}, OptionError, "labels of the moving image alone"),
        ({"landmarks": [[1.0, 2.0]]}, {"landmarks": [[1.0, 2.0, 3.0]]}, ShapeError, "as many points"),
        ({"labels": np.eye(20, dtype=int)}, {"labels": np.eye(21, dtype=int)}, ShapeError, "moving label map"),
    ],
)
def test_hints_that_do_not_fit_are_refused(fixed, moving, error, words):
    with pytest.raises(error, match=words) as caught:
        register(Scan(np.eye(20), **fixed), Scan(np.eye(20), **moving))
    assert "Received:" in str(caught.value)


def test_labels_push_as_finite_differences_say(make_array):
    level = draw_level(labels=True, landmarks=False)
    layers = [
        Layer(make_array(layer.values.astype("float32")), None, layer.grid)
        for layer in (level.fixed, level.moving, *level.hints.labels)
    ]
    level = Level(*layers[:2], 1.3, level.hints._replace(labels=tuple(layers[2:])))
    grid, matrix = level.fixed.grid, affine_map(3, degrees=3, shift=0.2)
    deformation = Greedy([Member(level, matrix, DeformationOptions(1, MeanSquares(), 1.0, 0.0, 0.3, 0))])
    arrays = deformation.follower.gather()
    rng = np.random.default_rng(5)
    displacement = rng.normal(0, 0.2, (1, *grid.shape, 3)).astype("float32")
    weight = make_array(np.ones((1, *grid.shape, 1), "float32"))

    def follow(field):
        field = make_array(field.astype("float32"))
        positions, _ = locate(deformation.map, field, level.moving.grid.shape)
        return deformation.follower.follow(arrays, field, positions, weight, deformation._push_channel)

    pushed = np.asarray(follow(displacement)[0])
    change = pushed[..., :3] / np.abs(pushed[..., :3]).max() @ np.linalg.inv(grid.matrix / 1.3).T
    after, before = (float(follow(displacement + k * 0.01 * change)[1]) for k in (1, -1))
    expected = -np.sum(pushed[..., :3] ** 2) / np.abs(pushed[..., :3]).max()
    assert (after - before) / 0.02 == pytest.approx(expected, rel=0.02)
    assert (pushed[..., 3] >= 0).all()


def test_the_symmetric_algorithm_turns_hints_down():
    disc = np.eye(16, dtype="float32")
    scan = Scan(disc, landmarks=[[1.0, 2.0]])
    with pytest.raises(OptionError, match="symmetric"):
        register(scan, scan, config=Config(algorithm="symmetric"))
