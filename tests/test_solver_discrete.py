"""The discrete search: its costs against a loop, its field against known ones between images of unlike contrast."""

import itertools

import numpy as np
import pytest

from keramorph import backend, ops, register
from keramorph.solver import Config, discrete
from keramorph.solver.discrete import deform_discretely
from keramorph.solver.pyramid import Layer, Level
from keramorph.solver.similarity import SelfSimilarity
from keramorph.space import Grid
from phantom import Phantom, centred_grid, grid_points


def ignore(*_):
    return None


def described(shape, spacing, seed, share=0.2):
    """Descriptors and weights, some of them zero."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((1, *shape, 1)) > share).astype("float32")
    grid = Grid.from_spacing(shape, spacing)
    return discrete._Described(rng.random((1, *shape, 5)).astype("float32"), mask, grid)


def naive_costs(fixed, moved, steps):
    """Mean cost of each shift over patches of 3 voxels; where too little is known, the mean of the point's others."""
    shape = fixed.grid.shape
    raw, weight = (np.zeros((len(steps), *shape)) for _ in range(2))
    for k, step in enumerate(steps):
        for index in np.ndindex(*shape):
            target = tuple(np.add(index, step))
            if all(0 <= t < n for t, n in zip(target, shape, strict=True)):
                weight[k][index] = fixed.mask[0][index][0] * moved.mask[0][target][0]
                raw[k][index] = np.mean((fixed.values[0][index] - moved.values[0][target]) ** 2) * weight[k][index]
    costs = np.full((*shape, len(steps)), np.nan)
    for index in np.ndindex(*shape):
        patch = tuple(slice(max(0, i - 1), i + 2) for i in index)
        for k in range(len(steps)):
            if weight[k][patch].mean() >= 0.3:
                costs[(*index, k)] = raw[k][patch].sum() / weight[k][patch].sum()
    known = np.isfinite(costs)
    typical = np.where(known, costs, 0).sum(-1) / np.maximum(known.sum(-1), 1)
    return np.where(known, costs, typical[..., None])


@pytest.mark.parametrize(("shape", "spacing", "reach"), [((6, 7), (1.0, 1.0), 2), ((5, 1, 6), (2.0, 1.0, 1.0), 2)])
def test_costs_are_those_of_a_naive_loop_in_both_directions(shape, spacing, reach, make_array):
    fixed, moved = (described(shape, spacing, seed) for seed in (0, 1))
    shifts = discrete._list_shifts(fixed.grid, 1.0, reach)
    most = [0 if n == 1 else round(reach / h) for n, h in zip(shape, spacing, strict=True)]
    assert sorted(map(tuple, shifts.steps)) == sorted(itertools.product(*(range(-m, m + 1) for m in most)))
    np.testing.assert_allclose(shifts.lengths, shifts.steps * np.asarray(spacing))
    arrays = [discrete._Described(make_array(d.values), make_array(d.mask), d.grid) for d in (fixed, moved)]
    forward, backward = discrete._measure_costs(backend.of(arrays[0].values), [tuple(arrays)], shifts)
    np.testing.assert_allclose(np.asarray(forward)[0], naive_costs(fixed, moved, shifts.steps), atol=1e-5)
    np.testing.assert_allclose(np.asarray(backward)[0], naive_costs(moved, fixed, shifts.steps), atol=1e-5)


def test_what_nothing_speaks_against_is_what_the_neighbours_say(make_array):
    # Half of the points see a shift of two, clearly; the others see nothing, and follow.
    shape = (12, 12)
    shifts = discrete._list_shifts(Grid.from_spacing(shape), 1.0, 3)
    costs = np.full((1, *shape, len(shifts.steps)), 0.5, "float32")
    right = int(np.flatnonzero((shifts.steps == (2, -1)).all(axis=1))[0])
    costs[:, :, ::2, right] = 0
    costs[:, :, ::2, right + 1 :] += 0.1
    engine = backend.of(make_array(costs))
    field = np.asarray(discrete._agree(engine, make_array(costs), shifts))
    np.testing.assert_allclose(field, np.broadcast_to([2.0, -1.0], field.shape), atol=0.7)


@pytest.mark.parametrize(("shape", "spacing"), [((60, 48), (1.0, 1.0)), ((30, 28, 26), (2.0, 2.0, 2.0))], ids=str)
def test_a_known_deformation_is_found_between_contrasts_that_have_nothing_in_common(shape, spacing, make_array):
    ndim = len(shape)
    grid = centred_grid(shape, spacing)
    phantom = Phantom(ndim)
    points = grid_points(grid)
    waves = [3.0 * np.sin(points[..., (d + 1) % ndim] / 9 + d) for d in range(ndim)]
    moving = phantom.picture(grid).array
    fixed = phantom(points + np.stack(waves, axis=-1))[..., None].astype("float32")
    low, high = moving.min(), moving.max()
    fixed, moving = (make_array(((a - low) / (high - low))[None].astype("float32")) for a in (fixed, moving))
    moving = 1 - abs(2 * moving - 1)  # black where it was white, and where it was black
    level = Level(Layer(fixed, None, grid), Layer(moving, None, grid), spacing[0])
    displacement, losses = deform_discretely(level, np.eye(ndim + 1), level.still(), notify=ignore)
    found = np.asarray(displacement)[0] * np.asarray(spacing)
    inside = np.linalg.norm(points, axis=-1) < 0.8 * phantom.radius
    true = np.linalg.inv(grid.matrix / spacing[0]) @ np.stack(waves, axis=-1)[inside].T
    error = np.linalg.norm(found[inside] - true.T, axis=-1)
    assert np.linalg.norm(true, axis=0).mean() > 2.5
    assert error.mean() < 0.65 * spacing[0]
    assert losses[-1] < 0.6 * losses[0]
    folds = np.asarray(ops.jacobian_determinant(displacement))[0][inside] <= 0
    assert folds.mean() < 0.01


def test_slabs_slices_and_missing_values_are_taken():
    rng = np.random.default_rng(3)
    for shape in ((3, 20, 22), (1, 24, 20), (24, 1)):
        values = rng.random((1, *shape, 1)).astype("float32")
        mask = (rng.random(values.shape) > 0.3).astype("float32")
        layer = Layer(values, mask, Grid.from_spacing(shape, np.linspace(1, 3, len(shape))))
        level = Level(layer, layer, 1.0)
        displacement, losses = deform_discretely(level, np.eye(len(shape) + 1), level.still(), notify=ignore)
        assert displacement.shape == (1, *shape, len(shape))
        np.testing.assert_allclose(displacement, 0, atol=1e-6)
        np.testing.assert_allclose(losses, 0, atol=1e-6)


def test_self_similarity_sees_no_contrast():
    rng = np.random.default_rng(0)
    image = rng.random((1, 14, 15, 1))
    measure, weight = SelfSimilarity(), np.ones((1, 14, 15, 1))
    known = measure.prepare(image)
    assert measure.measure(known, 3 - 0.7 * image, weight) == pytest.approx(1, abs=1e-4)
    other = rng.random((1, 14, 15, 1))
    half = np.where(np.arange(15)[:, None] < 7, image, other)
    assert 0 < measure.measure(known, other, weight) < measure.measure(known, half, weight) < 0.99


def test_images_whose_displacement_would_be_coarser_are_searched_too():
    """With more voxels than vectors: the field of the search lay on another grid than the image, and nothing fitted."""
    rows, columns = np.mgrid[:40, :36]
    fixed = np.exp(-((rows - 20.0) ** 2 / 60 + (columns - 18.0) ** 2 / 30))
    result = register(fixed, np.roll(fixed, 1, axis=0), config=Config(metric="mind", field_voxels=1000))
    assert result.metrics["loss_deformable"] <= result.metrics["loss_affine"]
    assert result.moved.array.shape == (40, 36, 1)
