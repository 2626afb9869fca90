"""Blocks of voxels that bend by one vector each: against SciPy, naive loops over windows, and finite differences."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from keramorph.registration import Config, Scan, register
from keramorph.solver.blocks import Pair, add_blocks, add_up, count_voxels
from keramorph.solver.similarity import BlockCorrelation
from keramorph.space import Image
from phantom import Phantom, centred_grid, error_inside, grid_points, wave

NOISE = 0.01
PAIRS = [((13, 22), (6, 11), (15, 17)), ((9, 8, 19), (4, 4, 9), (8, 11, 16)), ((9, 1, 35), (4, 1, 17), (8, 1, 30))]


def list_blocks(shape, counts):
    """The slices of each block, in the order of an array of blocks."""
    edges = [[k * n // b for k in range(b + 1)] for n, b in zip(shape, counts, strict=True)]
    lines = [[slice(a, z) for a, z in itertools.pairwise(line)] for line in edges]
    return list(itertools.product(*lines))


def texture(shape, seed):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (values - values.min()) / np.ptp(values)


def draw_case(shape, counts, other):
    """Images, masks, a displacement of blocks and an affine map, in double precision."""
    ndim, rng = len(shape), np.random.default_rng(5)
    images = texture(shape, 1), texture(other, 2), rng.random(shape), rng.random(other)
    matrix = np.eye(ndim + 1)
    matrix[:-1] += rng.normal(scale=0.05, size=(ndim, ndim + 1))
    return images, rng.normal(scale=0.4, size=(*counts, ndim)), matrix, rng.normal(size=(ndim, ndim))


def read_naively(moving, shape, displacement, matrix, order=1):
    """What SciPy reads of an image where a displacement of blocks leads, and where that is, in voxels."""
    ndim, counts = len(shape), displacement.shape[:-1]
    voxels = np.indices(shape).astype(float)
    places = [(v + 0.5) * b / n - 0.5 for v, n, b in zip(voxels, shape, counts, strict=True)]
    moves = [
        ndimage.map_coordinates(displacement[..., d], places, order=1, mode="nearest") * shape[d] / counts[d]
        for d in range(ndim)
    ]
    points = np.stack([v + m for v, m in zip(voxels, moves, strict=True)])
    positions = np.einsum("ij,j...->i...", matrix[:-1, :-1], points) + matrix[:-1, -1].reshape(-1, *[1] * ndim)
    return ndimage.map_coordinates(moving, positions, order=1, mode="nearest"), positions


def slope_naively(moving, positions, step=1e-5):
    slopes = []
    for axis in range(moving.ndim):
        sides = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[axis] += sign * step
            sides.append(ndimage.map_coordinates(moving, moved, order=1, mode="nearest"))
        slopes.append((sides[0] - sides[1]) / (2 * step))
    return np.stack(slopes)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "counts", "other"), PAIRS, ids=str)
def test_blocks_add_up_what_scipy_reads(shape, counts, other, masked, make_array):
    (fixed, moving, *masks), displacement, matrix, to_push = draw_case(shape, counts, other)
    moved, positions = read_naively(moving, shape, displacement, matrix)
    push = np.einsum("ij,j...->i...", to_push, slope_naively(moving, positions))
    middle = [(n - 1) / 2 for n in other]
    weight = np.prod([np.clip(m + 1 - abs(p - m), 0, 1) for p, m in zip(positions, middle, strict=True)], axis=0)
    if masked:
        weight = weight * masks[0] * ndimage.map_coordinates(masks[1], positions, order=1, mode="nearest")
    parts = [
        np.stack([moved, moved**2, fixed * moved]),
        weight[None],
        np.concatenate([push, fixed * push, moved * push, np.sum(push**2, axis=0, keepdims=True)]),
    ]
    expected = [
        np.stack([part[(slice(None), *block)].sum(axis=tuple(range(1, part.ndim))) for block in blocks])
        for blocks in [list_blocks(shape, counts)]
        for part in parts
    ]
    arrays = [make_array(a.astype("float32")[None, ..., None]) for a in (fixed, moving, *masks)]
    pair = Pair(*arrays) if masked else Pair(*arrays[:2], None, None)
    found = add_blocks(pair, make_array(displacement.astype("float32")[None]), matrix, to_push)
    for one, other_one in zip(found, expected, strict=True):
        difference = np.abs(np.asarray(one).reshape(other_one.shape) - other_one)
        np.testing.assert_array_less(difference, 3e-4 * (1 + np.abs(other_one).max()))


def correlate_naively(fixed, moved, weights, counts, size):
    """The similarity, window by window, and two over the total times what each window adds to the curvature."""
    blocks, shape = list_blocks(fixed.shape, counts), fixed.shape
    number = np.arange(len(blocks)).reshape(counts)
    value = total = whole = 0.0
    bends = np.zeros(len(blocks))
    for place in np.ndindex(*counts):
        around = [slice(max(0, p - s // 2), p + s // 2 + 1) for p, s in zip(place, size, strict=True)]
        inside = np.zeros(shape, bool)
        for k in number[tuple(around)].ravel():
            inside[blocks[k]] = True
        f, m = fixed[inside], moved[inside]
        v_f, v_m = f.var() + NOISE**2, m.var() + NOISE**2
        r = np.mean((f - f.mean()) * (m - m.mean()))
        r += NOISE**2 if r >= 0 else -(NOISE**2)
        contrast = 1 - NOISE**2 / v_f
        own = weights[number[place]] * contrast
        value, total = value + own * r * r / (v_f * v_m), total + own
        whole += contrast * fixed[blocks[number[place]]].size
        bends[number[tuple(around)].ravel()] += 2 * own / (inside.sum() * v_m)
    total = max(total, whole / 2)
    return value / total, bends / total


@pytest.mark.parametrize(("shape", "counts", "size"), [((11, 14), (5, 7), (3, 5)), ((6, 9, 8), (3, 4, 4), (3, 3, 1))])
@pytest.mark.parametrize("overlap", [1.0, 0.3])
def test_the_correlation_of_blocks_is_that_of_windows_and_pushes_by_its_derivative(
    shape, counts, size, overlap, make_array
):
    (fixed, moving, *_), displacement, matrix, to_push = draw_case(shape, counts, shape)
    ndim, step = len(shape), 1e-4
    moved, positions = read_naively(moving, shape, displacement, matrix)
    push = np.einsum("ij,j...->i...", to_push, slope_naively(moving, positions))
    arrays = [make_array(a.astype("float32")[None, ..., None]) for a in (fixed, moving)]
    sums = add_blocks(Pair(*arrays, None, None), make_array(displacement.astype("float32")[None]), matrix, to_push)
    sums = sums._replace(weights=sums.weights * overlap)
    weights = np.asarray(sums.weights).ravel().astype(float)
    measure = BlockCorrelation(size)
    pushed, similarity = measure.push(measure.prepare(arrays[0], counts), sums)
    expected, bends = correlate_naively(fixed, moved, weights, counts, size)
    assert float(similarity[0]) == pytest.approx(expected, rel=2e-4)
    found = np.asarray(pushed).reshape(-1, ndim + 1)
    forces, stiffness = np.zeros((len(found), ndim)), np.zeros(len(found))
    for k, block in enumerate(list_blocks(shape, counts)):
        for d in range(ndim):
            sides = []
            for sign in (1, -1):
                other = moved.copy()
                other[block] += sign * step * push[(d, *block)]
                sides.append(correlate_naively(fixed, other, weights, counts, size)[0])
            forces[k, d] = (sides[0] - sides[1]) / (2 * step)
        stiffness[k] = bends[k] * np.sum(push[(slice(None), *block)] ** 2)
    np.testing.assert_allclose(found[:, :-1], forces, atol=2e-3 * np.abs(forces).max())
    np.testing.assert_allclose(found[:, -1], stiffness, rtol=2e-3)


@pytest.mark.parametrize("counts", [(3, 10), (7, 5), (1, 4), (5, 2)])
def test_sums_over_blocks_hold_every_voxel_once(counts, make_array):
    values = np.random.default_rng(0).random((1, 7, 10, 2)).astype("float32")
    rows, columns = (np.arange(count) * n // count for n, count in zip((7, 10), counts, strict=True))
    found = np.asarray(add_up(make_array(values), counts))
    expected = np.add.reduceat(np.add.reduceat(values, rows, axis=1), columns, axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    voxels = np.add.reduceat(np.add.reduceat(np.ones_like(values), rows, axis=1), columns, axis=2)
    np.testing.assert_array_equal(count_voxels((7, 10), counts), voxels[..., :1])


def bent_images(ndim):
    shape = (81, 77) if ndim == 2 else (41, 38, 43)
    grid = centred_grid(shape, (1.0, 1.0) if ndim == 2 else (2.0, 2.0, 2.0))
    phantom = Phantom(ndim)
    return phantom, phantom.picture(grid, through=wave), phantom.picture(grid)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_large_image_is_found_as_well_by_a_displacement_of_twice_its_spacing(ndim):
    phantom, fixed, moving = bent_images(ndim)
    results = [register(fixed, moving, config=Config(field_voxels=count)) for count in (10**9, 1000)]
    fine, coarse = (result.transform.transforms[0].grid.shape for result in results)
    assert fine == fixed.grid.shape
    assert coarse == tuple(round(n / 2) for n in fine)
    errors = [error_inside(phantom, fixed.grid, result.apply_points, wave).mean() for result in results]
    assert errors[1] < 1.2 * errors[0] + 0.05, errors
    assert results[1].metrics["folds_percent"] == 0
    assert results[1].metrics["spacing_mm"] == pytest.approx(2 * results[0].metrics["spacing_mm"], rel=0.05)


@pytest.mark.parametrize("options", [{"metric": "mse"}, {"algorithm": "velocity"}, {"algorithm": "bspline"}], ids=str)
def test_every_metric_and_algorithm_takes_blocks(options):
    phantom, fixed, moving = bent_images(2)
    result = register(fixed, moving, config=Config(field_voxels=1000, **options))
    assert result.transform.transforms[0].grid.shape == (40, 38)
    start = np.linalg.norm(wave(grid_points(fixed.grid)) - grid_points(fixed.grid), axis=-1).mean()
    assert error_inside(phantom, fixed.grid, result.apply_points, wave).mean() < 0.3 * start


def test_masks_and_landmarks_count_where_blocks_bend():
    phantom, fixed, moving = bent_images(2)
    points = np.array([[-9.0, 4.0], [3.0, -11.0], [12.0, 9.0]])
    missed = wave(points) + np.array([1.5, -1.0])
    config = Config(field_voxels=1000, landmark_weight=0.3)
    result = register(Scan(fixed, landmarks=points), Scan(moving, landmarks=missed), config=config)
    plain = register(fixed, moving, config=config)
    distances = [np.linalg.norm(found.apply_points(points) - missed, axis=-1).mean() for found in (result, plain)]
    assert distances[0] < 0.4 * distances[1]
    spoilt, mask = fixed.array.copy(), np.ones(fixed.grid.shape)
    spoilt[30:45, 30:50] = spoilt.max()
    mask[30:45, 30:50] = 0
    spoilt = Image(spoilt, fixed.grid)
    errors = [
        error_inside(
            phantom, fixed.grid, register(spoilt, moving, masks=masks, config=config).apply_points, wave
        ).mean()
        for masks in ((Image(mask[..., None], fixed.grid), None), (None, None))
    ]
    assert errors[0] < 0.7 * errors[1], errors


@pytest.mark.parametrize("masked", [False, True])
def test_several_channels_bend_blocks(masked):
    phantom, fixed, moving = bent_images(2)
    other = Phantom(2, seed=1)
    others = other.picture(fixed.grid, through=wave), other.picture(moving.grid)
    masks = ([None, Image(np.ones((*fixed.grid.shape, 1)), fixed.grid)] if masked else None, None)
    result = register([fixed, others[0]], [moving, others[1]], masks=masks, config=Config(field_voxels=1000))
    assert result.transform.transforms[0].grid.shape == (40, 38)
    plain = register(fixed, moving, config=Config(field_voxels=1000))
    errors = [error_inside(phantom, fixed.grid, each.apply_points, wave).mean() for each in (result, plain)]
    assert errors[0] < errors[1]
