"""Many pairs in one call: each result is that of the pair alone, and pairs of one shape take no more calls than one."""

from dataclasses import replace

import numpy as np
import pytest

from keramorph import Scan, backend, register, register_batch
from keramorph.errors import ArrayTypeError, FileError, InputError, OptionError, ShapeError
from keramorph.registration import Config
from keramorph.solver import bend as bending
from keramorph.solver.bspline import BSpline
from keramorph.solver.deformation import DeformationOptions, Member, deform
from keramorph.solver.greedy import Greedy
from keramorph.solver.mapping import locate, map_vectors
from keramorph.solver.pyramid import Layer, Level
from keramorph.solver.similarity import (
    Correlation,
    GradientFields,
    LocalCorrelation,
    MeanSquares,
    MutualInformation,
    SelfSimilarity,
    SoftDice,
)
from keramorph.solver.stack import apply_each, take
from keramorph.solver.symmetric import Symmetric
from keramorph.solver.velocity import Velocity
from keramorph.space import Image
from keramorph.transforms import AffineTransform, DisplacementTransform
from phantom import Phantom, affine_map, centred_grid, grid_points, wave

SHAPES = {2: (40, 36), 3: (16, 18, 14)}
QUICK = Config(iterations=20, affine_levels=1, affine_iterations=10)
AT_ONCE = Config(metric="lncc", iterations=15, affine_iterations=0, levels=2)
"""No affine stage, which JAX takes seconds for: the pairs are given where to start."""


def draw_pair(ndim, seed, *, height=3.0, shape=None, tilt=0.0, noise=0.0, spacing=None):
    """A phantom of its own, and its moving image: bent, turned, and shown on a grid whose axes are tilted."""
    phantom = Phantom(ndim, seed=seed, radius=18.0)
    turn = affine_map(ndim, degrees=tilt, scale=1.0, shift=0.0)[:ndim, :ndim]
    spacing = spacing or ((1.0, 1.2) if ndim == 2 else (2.4, 2.0, 2.6))
    directions = turn @ np.eye(ndim)[:, ::-1]
    grid = centred_grid(shape or SHAPES[ndim], spacing, directions=directions)
    affine = affine_map(ndim, degrees=1.0 + seed, shift=0.5 * seed)

    def true(points):
        return wave(points, height=height) @ affine[:ndim, :ndim].T + affine[:ndim, ndim]

    fixed, moving = phantom.picture(grid, through=true), phantom.picture(grid)
    grain = noise * np.random.default_rng(seed).normal(size=fixed.array.shape)
    return Image((fixed.array + grain).astype("float32"), grid), moving


def draw_pairs(ndim):
    """Pairs of one shape, the second not bent, the last one noisy, with one of another shape among them."""
    odd = tuple(n - 2 for n in SHAPES[ndim])
    return [
        draw_pair(ndim, 0),
        draw_pair(ndim, 1, height=0.0, tilt=10.0),
        draw_pair(ndim, 2, shape=odd),
        draw_pair(ndim, 3, height=2.0, tilt=-5.0),
        draw_pair(ndim, 4, height=4.0, noise=0.7),
    ]


def list_starts(pairs):
    """The affine map that each pair was made with, up to its seed."""
    ndim = pairs[0][0].grid.ndim
    return [AffineTransform(affine_map(ndim, degrees=1.0 + k, shift=0.5 * k)) for k in range(len(pairs))]


def check_alike(found, alone, *, most=0.0):
    """The results are the same: in every bit, or points within so many voxels."""
    assert found.outcome == alone.outcome
    assert found.metric == alone.metric
    assert found.fixed is alone.fixed
    points = grid_points(found.fixed.grid)
    away = np.abs(found.transform.apply_points(points) - alone.transform.apply_points(points)).max()
    assert away <= most * found.fixed.grid.spacing.min()
    assert [(one.stage, one.shape) for one in found.history] == [(one.stage, one.shape) for one in alone.history]
    for one, other in zip(found.history, alone.history, strict=True):
        assert one.losses == pytest.approx(other.losses, abs=1e-4 if most else 0)
    for name in ("loss_start", "loss_affine", "loss_deformable", "overlap", "contrast", "jacobian_min"):
        assert found.metrics[name] == pytest.approx(alone.metrics[name], abs=1e-4 if most else 0)
    assert np.abs(found.moved.array - alone.moved.array).max() <= most * 10


@pytest.fixture
def stacks(monkeypatch):
    """The batch sizes of all iterations, in order."""
    sizes, advance = [], Greedy.advance

    def watch(self, state, images):
        sizes.append(state[0].shape[0])
        return advance(self, state, images)

    monkeypatch.setattr(Greedy, "advance", watch)
    return sizes


@pytest.mark.parametrize("ndim", [2, 3])
def test_each_result_is_that_of_the_pair_alone(ndim, engine_name):
    slow = engine_name in ("jax", "tensorflow")  # to compile each level of each pair
    pairs = draw_pairs(ndim)[: 4 if slow else 5]
    starts = list_starts(pairs)
    config = replace(AT_ONCE, levels=1 if slow or ndim == 3 else 2)
    found = register_batch(pairs, initial=starts, config=config, engine=engine_name)
    # XLA and TensorFlow's graphs round as suits each shape.
    most = 5e-4 if slow else 0.0
    for pair, start, result in zip(pairs, starts, found, strict=True):
        alone = register(*pair, initial=start, config=config, engine=engine_name)
        check_alike(result, alone, most=most)
    bent = [result.metrics["displacement_mean_mm"] for result in found]
    assert len(set(bent)) == len(bent)


@pytest.mark.parametrize("algorithm", ["greedy", "velocity", "symmetric", "bspline", "mixed"])
def test_every_algorithm_deforms_a_stack_as_it_does_each_pair(algorithm):
    pairs = draw_pairs(2)
    config = replace(QUICK, algorithm=algorithm, iterations=40)
    found = register_batch(pairs, config=config)
    for pair, result in zip(pairs, found, strict=True):
        check_alike(result, register(*pair, config=config))
    # They end at different times, so that some are deformed on while others stay as they are.
    ends = {len(record.losses) for result in found for record in result.history if record.stage == "deformable"}
    assert len(ends) > 3


@pytest.mark.parametrize("metric", ["ncc", "mse", "nmi", "ngf", "mind"])
def test_every_metric_compares_a_stack_as_it_does_each_pair(metric):
    pairs = draw_pairs(2)
    config = replace(QUICK, metric=metric)
    for pair, result in zip(pairs, register_batch(pairs, config=config), strict=True):
        check_alike(result, register(*pair, config=config))


def test_a_start_that_deforms_is_each_pairs_own():
    pairs = [draw_pair(2, seed) for seed in range(3)]
    grid = pairs[0][0].grid
    bends = [0.3 * k * (wave(grid_points(grid)) - grid_points(grid)) for k in range(3)]
    starts = [None, *(DisplacementTransform(bend, grid) for bend in bends[1:])]
    for algorithm in ("greedy", "velocity", "symmetric"):
        config = replace(QUICK, algorithm=algorithm, iterations=6)
        found = register_batch(pairs, initial=starts, config=config)
        for pair, start, result in zip(pairs, starts, found, strict=True):
            check_alike(result, register(*pair, initial=start, config=config))


def test_pairs_of_all_kinds_may_stand_in_one_list(tmp_path):
    plain, other, third = (draw_pair(2, seed) for seed in range(3))
    rng = np.random.default_rng(0)
    noise = [Image(rng.random((*SHAPES[2], 1)).astype("float32"), plain[0].grid) for _ in range(2)]
    labels = [(image.array[..., 0] > 1.5).astype("uint8") for image in other]
    known = tuple(Scan(image, [[1.0, 2.0], [5.0, 4.0]], drawn) for image, drawn in zip(other, labels, strict=True))
    half = (np.indices(SHAPES[2])[0] < 25).astype("uint8")
    pairs = [plain, known, third, noise, other, third, [[plain[0], third[0]], [plain[1], third[1]]]]
    masks = [(None, None)] * 4 + [(half, None), (None, half), ([half, None], None)]
    found = register_batch(pairs, masks=masks, config=QUICK)
    assert [result.metric.name == "mind" for result in found] == [False] * 3 + [True] + [False] * 3
    assert "landmarks_mean_mm" in found[1].metrics
    assert "landmarks_mean_mm" not in found[2].metrics
    for pair, mask, result in zip(pairs, masks, found, strict=True):
        check_alike(result, register(*pair, masks=mask, config=QUICK))


@pytest.mark.parametrize(
    "options", [{"transform": "rigid"}, {"iterations": 0}, {"field_voxels": 1000}, {"time_budget": 60.0}], ids=str
)
def test_what_is_not_deformed_together_is_what_it_is_alone(options, stacks):
    pairs, config = [draw_pair(2, seed) for seed in range(2)], replace(QUICK, **options)
    found = register_batch(pairs, config=config)
    assert set(stacks) <= {1}
    for pair, result in zip(pairs, found, strict=True):
        points = grid_points(pair[0].grid)
        alone = register(*pair, config=config)
        np.testing.assert_array_equal(result.apply_points(points), alone.apply_points(points))


def test_pairs_of_one_shape_take_as_many_calls_as_one_of_them(engine_name, monkeypatch):
    pairs = [draw_pair(2, seed) for seed in range(4)]
    starts, config = list_starts(pairs), replace(AT_ONCE, tolerance=0.0, iterations=11)
    calls, kind = [], type(backend.use(engine_name))

    def watch(called):
        def call(self, *arrays, **options):
            calls.append(arrays[-1].shape[0])
            return called(self, *arrays, **options)

        return call

    for name in ("sample_with_derivative", "window_sum", "lncc", "compose"):
        monkeypatch.setattr(kind, name, watch(getattr(kind, name)))
    register(*pairs[0], initial=starts[0], config=config, engine=engine_name)
    alone, calls[:] = list(calls), []
    register_batch(pairs, initial=starts, config=config, engine=engine_name)
    # Losses before and after are measured pair by pair; iterations, or traces of them, are those of one pair.
    assert set(alone) == {1}
    assert set(calls) == {1, 4}
    assert calls.count(4) == len(alone) - calls.count(1) / 4
    assert calls.count(4) > {"jax": 2, "tensorflow": 2}.get(engine_name, 3 * 2 * 11) - 1


def test_pairs_that_have_ended_leave_the_stack_when_half_of_them_have(stacks):
    still = draw_pair(2, 0)[1]
    pairs = [draw_pair(2, 1), (still, still), draw_pair(2, 2), (still, still), draw_pair(2, 3, height=5.0)]
    config = replace(QUICK, algorithm="greedy", iterations=80, levels=1)
    found = register_batch(pairs, config=config)
    counts = [len(result.history[-1].losses) for result in found]
    assert counts[1] == counts[3] == min(counts) < max(counts)
    assert len(stacks) == max(counts)
    for done, size in enumerate(stacks):
        active = sum(count > done for count in counts)
        assert active <= size < max(2 * active, 6 if size == 5 else 0)
    assert stacks[0] == 5
    assert stacks[-1] < 5


def test_a_stack_is_cut_where_it_would_be_too_large(monkeypatch, stacks):
    monkeypatch.setattr(bending, "_LARGEST", 3 * 40 * 36)
    pairs = [draw_pair(2, seed) for seed in range(5)]
    starts = list_starts(pairs)
    register_batch(pairs, initial=starts, config=replace(AT_ONCE, iterations=1))
    assert stacks == [3, 3, 2, 2]


@pytest.mark.parametrize("other", [{"spacing": (1.0, 1.3)}, {"shape": (40, 34)}], ids=str)
def test_only_pairs_of_one_shape_and_spacing_are_stacked(other, stacks):
    register_batch([draw_pair(2, 0), draw_pair(2, 1, **other)], config=replace(AT_ONCE, levels=1, iterations=1))
    assert stacks == [1, 1]
    # Where the axes point, and where the images lie, is each pair's own.
    register_batch([draw_pair(2, 0), draw_pair(2, 1, tilt=9.0)], config=replace(AT_ONCE, levels=1, iterations=1))
    assert stacks == [1, 1, 2]


def test_each_pair_tells_its_own_progress():
    pairs, heard = draw_pairs(2), {}
    register_batch(pairs, config=QUICK, progress=lambda number, at: heard.setdefault(number, []).append(at))
    assert sorted(heard) == list(range(len(pairs)))
    for number, pair in enumerate(pairs):
        alone = []
        register(*pair, config=QUICK, progress=alone.append)
        assert [replace(at, seconds=0) for at in heard[number]] == [replace(at, seconds=0) for at in alone]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"pairs": []}, OptionError, "At least one pair"),
        ({"pairs": [(np.eye(20), np.eye(20)), np.eye(20)]}, ArrayTypeError, r"pairs\[1\].*ndarray"),
        ({"pairs": [(np.eye(20), np.eye(20), np.eye(20))]}, ArrayTypeError, r"pairs\[0\].*tuple of length 3"),
        ({"pairs": [(np.eye(20), np.eye(20)), (np.eye(20), np.zeros((20, 20)))]}, InputError, r"pairs\[1\]: "),
        ({"pairs": [(np.eye(20), np.eye(20)), (np.eye(20), np.ones((9, 9, 9)))]}, ShapeError, r"pairs\[1\]: "),
        ({"pairs": [("missing.nii.gz", np.eye(20))]}, FileError, r"pairs\[0\]: .*missing"),
        ({"pairs": [(np.eye(20), Scan(np.eye(20), [[1.0, 1.0]]))]}, OptionError, r"pairs\[0\]: "),
        ({"masks": [(None, None)] * 3}, OptionError, "`masks` holds one.*3 of them for 2"),
        ({"masks": [(None, None), None]}, ArrayTypeError, r"pairs\[1\]: The masks of"),
        ({"masks": [(np.ones((4, 4)), None), (None, None)]}, ShapeError, r"pairs\[0\]: "),
        ({"initial": [None]}, OptionError, "`initial` holds one.*1 of them for 2"),
        ({"initial": [None, np.eye(3)]}, ArrayTypeError, r"pairs\[1\]: "),
        ({"engine": "abacus"}, OptionError, "abacus"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_number_of_its_pair(change, kind, words):
    arguments = {"pairs": [(np.eye(20), np.eye(20))] * 2, **change}
    with pytest.raises(kind, match=words) as caught:
        register_batch(arguments.pop("pairs"), **arguments)
    assert "Received:" in str(caught.value)


def test_nothing_is_aligned_before_all_pairs_are_read(monkeypatch):
    heard = []
    with pytest.raises(InputError, match=r"pairs\[1\]"):
        register_batch([(np.eye(20), np.eye(20)), (np.eye(20), np.zeros((20, 20)))], progress=heard.append)
    assert not heard


MEASURES = {
    "lncc": LocalCorrelation((5, 3)),
    "signed": LocalCorrelation((5, 3), squared=False),
    "ncc": Correlation(),
    "mse": MeanSquares(),
    "nmi": MutualInformation(8),
    "ngf": GradientFields((1.0, 1.3)),
    "dice": SoftDice(),
}


@pytest.mark.parametrize("name", MEASURES)
def test_each_pair_of_a_stack_is_compared_by_itself(name, make_array):
    rng, measure = np.random.default_rng(0), MEASURES[name]
    # Unlike in brightness, contrast and overlap, so that one's sums would be wrong for another.
    scale = np.array([1.0, 0.3, 0.05]).reshape(3, 1, 1, 1)
    fixed, moved = (rng.random((3, 12, 10, 1)) * scale + 0.2 * scale for _ in range(2))
    weight = (rng.random((3, 12, 10, 1)) < np.array([1.0, 0.6, 0.2]).reshape(3, 1, 1, 1)).astype(float)
    arrays = [array.astype("float32") for array in (fixed, moved, weight)]
    fixed, moved, weight = (make_array(array) for array in arrays)
    known = measure.prepare(fixed)
    found, values = measure.compare(known, moved, weight), np.asarray(measure.measure(known, moved, weight))
    assert values.shape == (3,)
    for k in range(3):
        one = [make_array(array[k : k + 1]) for array in arrays]
        known = measure.prepare(one[0])
        alone = measure.compare(known, *one[1:])
        assert values[k] == pytest.approx(np.asarray(measure.measure(known, *one[1:])).item(), rel=1e-4, abs=1e-6)
        for part, whole in zip(alone, found, strict=True):
            np.testing.assert_allclose(np.asarray(whole)[k : k + 1], np.asarray(part), rtol=2e-3, atol=1e-6)


def test_self_similarities_of_a_stack_are_compared_pair_by_pair(make_array):
    rng, measure = np.random.default_rng(0), SelfSimilarity()
    arrays = [rng.random((3, 12, 10, 1)).astype("float32") for _ in range(3)]
    values = np.asarray(measure.measure(measure.prepare(make_array(arrays[0])), *map(make_array, arrays[1:])))
    for k in range(3):
        fixed, moved, weight = (make_array(array[k : k + 1]) for array in arrays)
        assert values[k] == pytest.approx(np.asarray(measure.measure(measure.prepare(fixed), moved, weight)).item())


@pytest.mark.parametrize("shape", [(6, 7), (5, 4, 9), (70, 40, 30)], ids=str)
def test_each_of_a_stack_goes_where_its_own_matrix_takes_it(shape, make_array):
    rng, ndim = np.random.default_rng(4), len(shape)
    matrices = np.tile(np.eye(ndim + 1), (3, 1, 1))
    matrices[:, :ndim] += rng.uniform(-0.3, 0.3, (3, ndim, ndim + 1))
    field = rng.uniform(-3, 3, (3, *shape, ndim)).astype(np.float32)
    other = tuple(rng.integers(2, 9, ndim).tolist())
    points = np.moveaxis(np.indices(shape), 0, -1)[None] + field
    homogeneous = np.concatenate([points, np.ones((3, *shape, 1))], axis=-1)
    expected = np.einsum("kij,k...j->k...i", matrices[:, :ndim], homogeneous)
    positions, inside = locate(matrices, make_array(field), other)
    np.testing.assert_allclose(np.asarray(positions), expected, atol=5e-5)
    outside = np.abs(expected - np.clip(expected, 0, np.array(other) - 1))
    np.testing.assert_allclose(np.asarray(inside)[..., 0], np.clip(1 - outside, 0, 1).prod(-1), atol=5e-5)


@pytest.mark.parametrize("shape", [(6, 7), (60, 40, 30)], ids=str)
def test_vectors_are_multiplied_by_the_matrix_of_their_entry(shape, make_array):
    # The larger one is computed in blocks, each of which gets the numbers of its entry.
    rng, ndim = np.random.default_rng(0), len(shape)
    matrices, vectors = rng.normal(size=(3, ndim, ndim)), rng.normal(size=(3, *shape, ndim)).astype("float32")
    like = make_array(vectors)
    xp = backend.of(like).xp

    def function(multiply, vectors):
        return xp.stack(multiply(xp.unstack(vectors)), axis=-1)

    for given in (matrices, np.broadcast_to(matrices[1], matrices.shape)):
        expected = np.einsum("kij,k...j->k...i", given, vectors)
        np.testing.assert_allclose(np.asarray(map_vectors(function, given, like)), expected, atol=1e-5)


def draw_members(count, make_array=np.asarray, *, shape=(20, 18)):
    """Pairs at one level, each with a matrix, axes and a smoothing of its own."""
    rng, ndim, members = np.random.default_rng(1), len(shape), []
    for k in range(count):
        directions = affine_map(ndim, degrees=7.0 * k, scale=1.0, shift=0.0)[:ndim, :ndim]
        grid = centred_grid(shape, (1.0, 1.5), directions=directions)
        images = [Layer(make_array(rng.random((1, *shape, 1)).astype("float32")), None, grid) for _ in range(2)]
        matrix = np.eye(ndim + 1) + np.pad(rng.uniform(-0.1, 0.1, (ndim, ndim)), (0, 1))
        options = DeformationOptions(5, LocalCorrelation((5, 5)), 1.0, 0.5 + 0.2 * k, 0.3, 0, doubt=1 + 0.4 * k)
        members.append(Member(Level(*images, 1.0), matrix, options))
    return members


@pytest.mark.parametrize("kind", [Greedy, Velocity, Symmetric, BSpline])
def test_force_step_and_smoothing_of_a_stack_are_each_pairs_own(kind, make_array):
    members = draw_members(3, make_array)
    rng = np.random.default_rng(2)
    scale = np.array([0.5, 4.0, 1.0]).reshape(3, 1, 1, 1)
    field = (rng.normal(size=(3, 20, 18, 2)) * scale).astype("float32")

    def advance(members, field):
        stack = kind(members)
        state = stack.enter((make_array(field),) if kind is not Symmetric else (make_array(field), make_array(-field)))
        return stack.advance(state, stack.gather())

    moved, similarity = advance(members, field)
    for k, member in enumerate(members):
        alone, value = advance([member], field[k : k + 1])
        for one, other in zip(moved, alone, strict=True):
            np.testing.assert_allclose(np.asarray(one)[k], np.asarray(other)[0], atol=2e-4)
        assert np.asarray(similarity)[k] == pytest.approx(np.asarray(value)[0], abs=1e-5)


def test_what_stays_of_a_stack_follows_its_velocities_as_finely_as_before(make_array):
    members = draw_members(3, make_array)
    field = np.random.default_rng(2).normal(0, 0.5, (3, 20, 18, 2)).astype("float32")
    field *= np.array([0.1, 40.0, 10.0]).reshape(3, 1, 1, 1)
    stack = Velocity(members)
    stack.enter((make_array(field),))
    rest = stack.take([1, 2])
    (moved,), _ = rest.advance((make_array(field[1:]),), rest.gather())
    for k in (1, 2):
        one = Velocity(members[k : k + 1])
        (alone,), _ = one.advance(one.enter((make_array(field[k : k + 1]),)), one.gather())
        np.testing.assert_allclose(np.asarray(moved)[k - 1], np.asarray(alone)[0], atol=1e-3)


def test_a_pair_that_has_ended_keeps_what_it_had():
    members = draw_members(3)
    image = members[1].level.fixed
    members[1] = Member(replace(members[1].level, moving=image), np.eye(3), members[1].options)
    members = [one._replace(options=replace(one.options, iterations=40, tolerance=0.02)) for one in members]
    still = np.zeros((3, 20, 18, 2), np.float32)
    (found,), losses = deform(Greedy(members), (still,), notify=lambda *_: None)
    assert len({len(each) for each in losses}) > 1
    for k, member in enumerate(members):
        (alone,), (course,) = deform(Greedy([member]), (still[:1],), notify=lambda *_: None)
        np.testing.assert_array_equal(found[k], alone[0])
        assert losses[k] == course


def test_entries_are_taken_and_treated_by_their_own_settings(make_array):
    array = make_array(np.arange(12.0).reshape(3, 4))
    assert take(array, [0, 1, 2]) is array
    np.testing.assert_array_equal(np.asarray(take(array, [2, 0])), np.arange(12.0).reshape(3, 4)[[2, 0]])
    seen = []

    def scale(array, factor):
        seen.append(array.shape[0])
        return array * factor

    np.testing.assert_array_equal(np.asarray(apply_each(scale, array, [2.0] * 3)), 2 * np.asarray(array))
    np.testing.assert_array_equal(
        np.asarray(apply_each(scale, array, [1.0, 2.0, 3.0])), np.asarray(array) * [[1], [2], [3]]
    )
    assert seen == [3, 1, 1, 1]
