"""Images of several channels: compared one by one, each by its own mask, against loops and finite differences."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from keramorph import Scan, backend
from keramorph.errors import InputError, OptionError, ShapeError
from keramorph.io import to_simpleitk
from keramorph.registration import Config, register
from keramorph.solver import discrete
from keramorph.solver.affine import AffineOptions, _Problem
from keramorph.solver.deformation import DeformationOptions, Member
from keramorph.solver.greedy import Greedy
from keramorph.solver.histogram import match_histograms
from keramorph.solver.mapping import locate, weigh
from keramorph.solver.pyramid import Hints, Layer, Level
from keramorph.solver.run import describe_plan
from keramorph.solver.scan import list_channels, read_images, to_layers
from keramorph.solver.similarity import (
    Correlation,
    GradientFields,
    LocalCorrelation,
    MeanSquares,
    MutualInformation,
    SelfSimilarity,
    compare_channels,
    measure_channels,
    split_channels,
)
from keramorph.solver.start import list_starts
from keramorph.solver.symmetric import Symmetric
from keramorph.solver.trust import measure_loss, measure_overlap
from keramorph.space import Grid, Image
from phantom import Phantom, affine_map, centred_grid, error_inside, grid_points, wave
from test_solver_similarity import naive_similarity

MEASURES = {
    "lncc": LocalCorrelation((5, 3)),
    "ncc": Correlation(),
    "mse": MeanSquares(),
    "nmi": MutualInformation(8),
    "ngf": GradientFields((1.0, 1.3)),
}
GRID = centred_grid((64, 60), (1.0, 1.0))


def draw(shape, channels, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.random((1, *shape, channels)).astype(dtype) for _ in range(3)]


def test_a_mean_over_channels_is_that_of_naive_loops_each_by_its_own_mask():
    fixed, moved, weight = draw((9, 8), 3)
    each = [naive_similarity(*(a[0, ..., k] for a in (fixed, moved, weight)), (5, 3)) for k in range(3)]
    found = measure_channels(LocalCorrelation((5, 3)), fixed, moved, weight, mask=None)
    assert found == pytest.approx(np.mean(each), abs=1e-12)
    shared = [naive_similarity(fixed[0, ..., k], moved[0, ..., k], weight[0, ..., 0], (5, 3)) for k in range(3)]
    found = measure_channels(LocalCorrelation((5, 3)), fixed, moved, weight[..., :1], mask=None)
    assert found == pytest.approx(np.mean(shared), abs=1e-12)
    # A descriptor has no derivative, but a mean all the same.
    each = []
    for k in range(3):
        f, m, w = (a[..., k : k + 1] for a in (fixed, moved, weight))
        rest = np.mean(w * (SelfSimilarity().prepare(f) - SelfSimilarity().prepare(m)) ** 2) / w.mean()
        each.append(min(1, w.mean() / 0.5) * (1 - rest))
    assert measure_channels(SelfSimilarity(), fixed, moved, weight, mask=None) == pytest.approx(np.mean(each), abs=1e-9)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("shared", [True, False])
def test_the_derivative_to_each_channel_is_that_of_finite_differences(name, shared, make_array):
    measure, arrays = MEASURES[name], draw((9, 8), 2, seed=1)
    arrays[2] = arrays[2][..., :1] if shared else arrays[2]
    fixed, moved, weight = (make_array(a) for a in arrays)
    known = [measure.prepare(channel) for channel in split_channels(fixed)]
    results = list(compare_channels(measure, known, split_channels(moved), weight, count=2))

    def look(moved):
        return measure_channels(measure, arrays[0], moved, arrays[2], mask=None)

    # JAX computes in single precision: the differences are taken in double, by NumPy.
    assert sum(float(one.similarity[0]) for one in results) == pytest.approx(look(arrays[1]), abs=1e-5)
    derivative = np.concatenate([np.asarray(one.derivative) for one in results], axis=-1)
    assert all((np.asarray(one.curvature) >= 0).all() for one in results)
    rng = np.random.default_rng(2)
    for channel in (0, 1):
        change = rng.normal(size=arrays[1].shape) * (np.arange(2) == channel)
        # What one channel alone does not know, it does not pull by.
        pulled = change if shared else change * arrays[2]
        after, before = (look(arrays[1] + k * 1e-6 * pulled) for k in (1, -1))
        assert np.sum(derivative * change) == pytest.approx((after - before) / 2e-6, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("measure", [*MEASURES.values(), SelfSimilarity()], ids=[*MEASURES, "mind"])
def test_equal_images_are_wholly_alike_though_a_channel_covers_little(measure):
    fixed, _, _ = draw((20, 18), 2)
    for share in (0.2, 0.8):
        mask = np.stack([np.ones((20, 18)), np.indices((20, 18))[0] < 20 * share], axis=-1)[None]
        assert measure_channels(measure, fixed, fixed, mask, mask=mask) == pytest.approx(1, abs=1e-9)
        level = Level(Layer(fixed, mask, GRID.resize((20, 18))), Layer(fixed, None, GRID.resize((20, 18))), 1.0)
        assert measure_loss(level, np.eye(3), None, measure) == pytest.approx(0, abs=1e-5)
        half = mask * (np.indices((20, 18))[1] < 4)[None, ..., None]
        assert measure_channels(measure, fixed, fixed, half, mask=mask) < 0.7


def draw_level(make_array=np.asarray, *, dtype=np.float64, labels=False):
    """Three channels of noise on unlike grids, the moving one beyond the fixed one; the fixed ones masked, each so."""
    rng = np.random.default_rng(4)
    grids = centred_grid((9, 8, 7), (1.5, 1.0, 2.0)), centred_grid((16, 17, 18), (1.6, 1.2, 1.5), centre=0.3)
    noise = [ndimage.gaussian_filter(rng.random((1, *grid.shape, 3)), (0, 1, 1, 1, 0)) for grid in grids]
    fixed, moving = (make_array(((a - a.min()) / np.ptp(a)).astype(dtype)) for a in noise)
    mask = make_array((rng.random((1, *grids[0].shape, 3)) > 0.4).astype(dtype))
    maps = tuple(Layer(make_array(rng.random((1, *grid.shape, 2)).astype(dtype)), None, grid) for grid in grids)
    hints = Hints(labels=maps, label_weight=0.4) if labels else None
    return Level(Layer(fixed, mask, grids[0]), Layer(moving, None, grids[1]), 1.3, hints)


@pytest.mark.parametrize("labels", [False, True])
def test_the_gradient_to_an_affine_map_is_that_of_finite_differences_on_all_channels(labels):
    problem = _Problem(
        draw_level(labels=labels), affine_map(3, degrees=3, shift=0.2), AffineOptions(1, MeanSquares(), 0.1)
    )
    rng = np.random.default_rng(1)
    point = 0.01 * rng.normal(size=problem.count)
    _, gradient = problem.evaluate(point)
    for direction in (*np.eye(problem.count), rng.normal(size=problem.count)):
        after, before = (problem.evaluate(point + k * 1e-4 * direction)[0] for k in (1, -1))
        assert gradient @ direction == pytest.approx((after - before) / 2e-4, abs=0.02 * np.linalg.norm(gradient))


def test_an_affine_fit_loses_the_mean_of_what_its_channels_lose():
    level, matrix = draw_level(), affine_map(3, degrees=3, shift=0.2)
    each = []
    for k in range(3):
        one = [
            Layer(a.values[..., k : k + 1], None if a.mask is None else a.mask[..., k : k + 1], a.grid)
            for a in (level.fixed, level.moving)
        ]
        each.append(_Problem(Level(*one, 1.3), matrix, AffineOptions(1, MeanSquares(), 0.1)).evaluate(np.zeros(12))[0])
    whole = _Problem(level, matrix, AffineOptions(1, MeanSquares(), 0.1)).evaluate(np.zeros(12))[0]
    assert whole == pytest.approx(np.mean(each), abs=1e-12)
    assert np.ptp(each) > 1e-3


def test_channels_push_as_finite_differences_say(make_array):
    level = draw_level(make_array, dtype=np.float32)
    grid, matrix = level.fixed.grid, affine_map(3, degrees=3, shift=0.2)
    deformation = Greedy([Member(level, matrix, DeformationOptions(1, MeanSquares(), 1.0, 0.0, 0.3, 0))])
    displacement = np.random.default_rng(5).normal(0, 0.2, (1, *grid.shape, 3)).astype("float32")
    pushed, similarity = deformation.push(make_array(displacement), deformation.gather())
    pushed = np.asarray(pushed)
    # Along the pushes and a way of its own: a channel left out of them would not show along what it did not make.
    own = np.sign(np.random.default_rng(6).normal(size=pushed[..., :3].shape)) * np.abs(pushed[..., :3])
    change = (own + pushed[..., :3]) / np.abs(pushed[..., :3]).max()

    def lose(field):
        return measure_loss(level, matrix, make_array(field.astype("float32")), MeanSquares())

    assert float(similarity[0]) == pytest.approx(1 - lose(displacement), abs=1e-5)
    in_voxels = change @ np.linalg.inv(grid.matrix / 1.3).T
    after, before = (lose(displacement + k * 0.01 * in_voxels) for k in (1, -1))
    assert (after - before) / 0.02 == pytest.approx(-np.sum(pushed[..., :3] * change), rel=0.02)
    assert (pushed[..., 3] >= 0).all()


def test_the_symmetric_similarity_is_the_mean_over_channels_both_ways():
    level = draw_level(dtype=np.float32)
    deformation = Symmetric([Member(level, np.eye(4), DeformationOptions(1, MeanSquares(), 1.0, 0.0, 0.3, 0))])
    still = level.still()
    _, similarity = deformation.advance((still, still), deformation.gather())
    positions, inside = locate(deformation.map, still, level.moving.grid.shape)
    weight = weigh(level.fixed.mask, None, positions, inside)
    moved = backend.of(positions).sample(level.moving.values, positions)

    def explain(target, other):  # V / (V + E), and half of what shows is enough
        shares = []
        for k in range(3):
            t, o, w = (a[..., k].astype(float) for a in (target, other, weight))
            spread = (t - t.mean()) ** 2
            seen, missed = np.sum(w * spread), np.sum(w * (t - o) ** 2)
            shares.append(min(1, seen / (0.5 * spread.sum())) * seen / (seen + missed))
        return np.mean(shares)

    expected = (explain(level.fixed.values, moved) + explain(moved, level.fixed.values)) / 2
    assert float(similarity[0]) == pytest.approx(expected, rel=1e-5)


def test_a_search_pays_the_mean_cost_of_what_each_channel_knows():
    rng, grid = np.random.default_rng(6), Grid.from_spacing((6, 5))
    pairs = [
        tuple(
            discrete._Described(rng.random((1, 6, 5, 4)), (rng.random((1, 6, 5, 1)) > 0.4).astype(float), grid)
            for _ in range(2)
        )
        for _ in range(2)
    ]
    shifts = discrete._list_shifts(grid, 1.0, 1)
    costs, _ = discrete._measure_costs(backend.use("numpy"), pairs, shifts)
    step = next(k for k, one in enumerate(shifts.steps.tolist()) if one == [1, 0])
    # The patch around (2, 2), read one voxel down: nothing of it lies outside.
    total = known = 0.0
    for i in (1, 2, 3):
        for j in (1, 2, 3):
            for f, m in pairs:
                weight = f.mask[0, i, j, 0] * m.mask[0, i + 1, j, 0]
                total += weight * np.mean((f.values[0, i, j] - m.values[0, i + 1, j]) ** 2) / 2 / 9
                known += weight / 2 / 9
    assert known > 0.3
    assert costs[0, 2, 2, step] == pytest.approx(total / known, rel=1e-6)


def test_histograms_are_matched_channel_by_channel():
    values = ndimage.gaussian_filter(np.random.default_rng(0).random((1, 50, 48, 2)), (0, 2, 2, 0))
    values = ((values - values.min()) / np.ptp(values)).astype("float32")
    bent = values[:, ::-1].copy()
    bent[..., 1] = values[..., 1] ** 3
    grid = Grid.from_spacing((50, 48))
    level = Level(Layer(values, None, grid), Layer(bent, None, grid), 1.0)
    matched = match_histograms(level, np.eye(3), level.still()).moving.values
    np.testing.assert_array_equal(matched[..., 0], bent[..., 0])
    before, after = (np.corrcoef(values[..., 1].ravel(), a[..., 1].ravel())[0, 1] for a in (bent, matched))
    assert 1 - after < 0.5 * (1 - before)
    noise = Level(level.fixed, Layer(values[:, ::-1, ::-1], None, grid), 1.0)
    assert match_histograms(noise, np.eye(3), level.still()) is noise


def half_pair(*, opposed=False):
    """Each channel shows the phantom in one half: fixed and moving images of both, bent by `wave`."""
    phantom = Phantom(2)

    def see(points, side):
        half = 1 / (1 + np.exp(-side * points[..., 0] / 0.8))
        return (phantom(points) * half)[..., None].astype("float32")

    points = grid_points(GRID)
    fixed = [Image(see(wave(points), side), GRID) for side in (-1, 1)]
    moving = [Image(see(points, side), GRID) for side in (-1, 1)]
    if opposed:
        moving[1] = Image(3 - moving[1].array, GRID)
    return phantom, fixed, moving


def miss(phantom, result):
    return error_inside(phantom, GRID, result.apply_points, wave).mean()


@pytest.mark.parametrize("metric", ["auto", "ncc"])
def test_two_half_blind_channels_find_together_what_neither_finds_alone(metric):
    phantom, fixed, moving = half_pair(opposed=True)
    config = Config(metric=metric)
    result = register(fixed, moving, config=config)
    assert result.outcome.trusted
    assert miss(phantom, result) < 0.7
    alone = [miss(phantom, register(f, m, config=config)) for f, m in zip(fixed, moving, strict=True)]
    assert min(alone) > 2 * miss(phantom, result)
    assert result.fixed is fixed[0]
    assert result.moved.array.shape == (64, 60, 1)


def test_the_mean_of_channels_of_opposed_contrast_finds_nothing_where_each_of_them_does():
    # What is bright in the one half is dark in the other: one line for both halves there is none.
    phantom, fixed, moving = half_pair(opposed=True)
    fixed, moving = (Image(np.concatenate([i.array for i in side], axis=-1), GRID) for side in (fixed, moving))
    each, mean = (register(fixed, moving, config=Config(metric="ncc", channels=name)) for name in ("each", "mean"))
    assert miss(phantom, each) < 0.7
    assert miss(phantom, mean) > 2 * miss(phantom, each)
    lists = half_pair(opposed=True)[1:]
    np.testing.assert_array_equal(
        register(*lists, config=Config(metric="ncc")).transform.apply_points(grid_points(GRID)),
        each.transform.apply_points(grid_points(GRID)),
    )


@pytest.mark.parametrize("options", [{"algorithm": a} for a in ("velocity", "symmetric", "bspline", "mixed")], ids=str)
def test_every_algorithm_bends_by_all_channels(options):
    phantom, fixed, moving = half_pair()
    together = miss(phantom, register(fixed, moving, config=Config(**options)))
    assert together < 0.7
    assert together < 0.5 * min(
        miss(phantom, register(f, m, config=Config(**options))) for f, m in zip(fixed, moving, strict=True)
    )


def test_blocks_of_voxels_bend_by_all_channels():
    phantom, fixed, moving = half_pair()
    config = Config(field_voxels=1000)
    assert miss(phantom, register(fixed, moving, config=config)) < 0.7


@pytest.mark.parametrize("metric", ["mse", "ngf", "mind"])
def test_every_metric_compares_all_channels(metric):
    phantom, fixed, moving = half_pair()
    config = Config(metric=metric)
    together, *alone = (
        miss(phantom, register(f, m, config=config)) for f, m in ((fixed, moving), *zip(fixed, moving, strict=True))
    )
    assert together < 0.7 * min(alone)


def test_a_mask_of_one_channel_leaves_the_other_one_alone():
    phantom, fixed, moving = half_pair()
    # An artefact in the second channel of both images that lies at another place in each.
    points = grid_points(GRID)
    for image, place in ((fixed[1], (8.0, -6.0)), (moving[1], (14.0, 4.0))):
        image.array[..., 0] += 6 * np.exp(-np.sum((points - place) ** 2, axis=-1) / 40)
    masks = [np.linalg.norm(points - place, axis=-1) > 12 for place in ((8.0, -6.0), (14.0, 4.0))]
    free = miss(phantom, register(fixed, moving))
    masked = miss(phantom, register(fixed, moving, masks=([None, masks[0]], [None, masks[1]])))
    wrong = miss(phantom, register(fixed, moving, masks=([masks[0], None], [masks[1], None])))
    assert masked < 0.7 * min(free, wrong)


def test_an_image_of_a_part_helps_there_and_does_no_harm_elsewhere():
    phantom, slab = Phantom(2, seed=3), centred_grid((14, 60), (1.0, 1.0))
    rng = np.random.default_rng(0)
    whole = [phantom.picture(GRID, through=wave), phantom.picture(GRID)]
    noisy = [Image(i.array + rng.normal(0, 0.3, i.array.shape).astype("float32"), GRID) for i in whole]
    parts = phantom.picture(slab, through=wave), phantom.picture(slab)
    alone, helped = register(*noisy), register(*([n, p] for n, p in zip(noisy, parts, strict=True)))
    for grid, gain in ((GRID, 1.05), (slab, 0.9)):
        errors = [error_inside(phantom, grid, result.apply_points, wave).mean() for result in (alone, helped)]
        assert errors[1] < gain * errors[0]


def lay(images, masks=(None, None), **options):
    sides = read_images(tuple(Scan(i) for i in images))
    return to_layers(list_channels(sides, masks, "mean"), np.zeros(1, "float32"), together=False, **options)


def test_an_image_on_another_grid_is_laid_on_the_first_one_and_masked_where_it_does_not_reach():
    turn = affine_map(3, degrees=20, scale=1, shift=0)[:3, :3]
    first, other = (
        centred_grid((12, 14, 10), (1.5, 1.2, 2.0)),
        centred_grid((20, 11, 9), (0.9, 1.4, 1.7), directions=turn, centre=3.1),
    )
    rng = np.random.default_rng(0)
    image = Image(rng.random((*first.shape, 1)).astype("float32"), first)
    further = Image(rng.random((*other.shape, 1)).astype("float32"), other)
    drawn = Image((rng.random((*other.shape, 1)) > 0.3).astype("uint8"), other)
    target = to_simpleitk(image)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(to_simpleitk(further), target, sitk.Transform(), sitk.sitkLinear, -9.0)
    )
    there = sitk.GetArrayFromImage(
        sitk.Resample(to_simpleitk(drawn), target, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    )
    for masks, known in ((None, expected > -9), ([None, drawn], (expected > -9) & (there > 0))):
        fixed, moving = lay(([image, further], [image, image]), (masks, None))
        assert 0.1 < known.mean() < 0.9
        np.testing.assert_array_equal(fixed.mask[0, ..., 0], np.ones(first.shape))
        np.testing.assert_array_equal(fixed.mask[0, ..., 1] > 0, known)
        got, wanted = fixed.values[0, ..., 1][known], expected[known]
        inner = (got > 0) & (got < 1)
        slope, offset = np.polyfit(wanted[inner], got[inner], 1)
        np.testing.assert_allclose(got[inner], slope * wanted[inner] + offset, atol=1e-5)
        assert moving.mask is None
        assert moving.values.shape == (1, *first.shape, 2)


def test_a_mask_counts_for_all_images_and_a_list_of_them_for_one_each():
    rng = np.random.default_rng(0)
    images = [rng.random((12, 10)) for _ in range(2)]
    masks = [rng.random((12, 10)) > 0.3 for _ in range(2)]
    shared, single = lay((images, images), (masks[0], [None, masks[1]]))
    np.testing.assert_array_equal(shared.mask[0], np.stack([masks[0]] * 2, axis=-1))
    np.testing.assert_array_equal(single.mask[0], np.stack([np.ones((12, 10)), masks[1]], axis=-1))
    assert all(layer.mask is None for layer in lay((images, images)))


def test_what_any_channel_sees_counts_as_overlap_and_mass_is_that_of_all():
    grid = Grid.from_spacing((8, 8))
    values, mask = np.zeros((1, 8, 8, 2), "float32"), np.zeros((1, 8, 8, 2), "float32")
    values[0, 1, 1, 0] = values[0, 5, 3, 1] = 1
    mask[0, :4, :, 0] = mask[0, 2:6, :, 1] = 1
    layer = Layer(values, mask, grid)
    whole = Layer(values, None, grid)
    assert measure_overlap(Level(layer, whole, 1.0), np.eye(3)) == pytest.approx(6 / 8)
    shift = list_starts(layer, Layer(np.ones_like(values), None, grid))["masses"][:2, 2]
    np.testing.assert_allclose(shift, [3.5 - 2, 3.5 - 3], atol=1e-6)  # x, then y


def test_more_channels_need_more_memory():
    grid = Grid.from_spacing((200, 200, 200))
    for channels, expected in ((1, "about 1.4 GB of memory"), (3, "about 2.6 GB of memory")):
        layer = Layer(np.broadcast_to(np.float32(0), (1, *grid.shape, channels)), None, grid)
        assert describe_plan(grid, Level(layer, layer, 1.0)).endswith(expected)


def test_every_engine_compares_channels_like_numpy(engine_name):
    phantom, fixed, moving = half_pair()
    config = Config(levels=2, iterations=6, affine_levels=1, affine_iterations=3)
    masks = ([None, np.indices((64, 60))[0] > 20], None)
    expected, got = (register(fixed, moving, masks=masks, config=config, engine=n) for n in ("numpy", engine_name))
    assert error_inside(phantom, GRID, got.apply_points, expected.apply_points).max() < 0.05


def test_labels_meet_though_a_channel_is_masked():
    _, fixed, moving = half_pair()
    maps = [Image((i[0].array + i[1].array > 2).astype("uint8"), GRID) for i in (fixed, moving)]
    scans = [Scan(i, labels=m) for i, m in zip((fixed, moving), maps, strict=True)]
    result = register(*scans, masks=([None, np.indices((64, 60))[0] > 20], None), config=Config(metric="ncc"))
    found = result.apply(maps[1], labels=True).array > 0
    dice = 2 * np.sum(found & (maps[0].array > 0)) / (found.sum() + np.sum(maps[0].array > 0))
    assert dice > 0.95


EYE = np.eye(20)


@pytest.mark.parametrize(
    ("fixed", "moving", "options", "error", "words"),
    [
        ([EYE, EYE], [EYE], {}, OptionError, "2 fixed and 1 moving images"),
        ([], [], {}, OptionError, "0 fixed"),
        ([EYE, np.ones((4, 5, 6))], [EYE, EYE], {}, ShapeError, r"All fixed images.*\(4, 5, 6\)"),
        ([EYE, EYE], [EYE, EYE], {"masks": ([EYE], None)}, OptionError, "1 masks of 2 fixed images"),
        ([EYE, EYE], [EYE, EYE], {"masks": (None, [None, np.ones((3, 3))])}, ShapeError, "moving mask"),
        ([EYE, EYE], [EYE, np.ones((20, 20))], {}, InputError, "moving image 2 needs contrast"),
        (
            [EYE, Image(EYE[..., None], Grid.from_spacing((20, 20), origin=(90, 0)))],
            [EYE, EYE],
            {},
            InputError,
            "fixed image 2 that reaches no voxel",
        ),
        (
            Image(np.ones((20, 20, 3)), Grid.from_spacing((20, 20))),
            EYE,
            {"config": Config(channels="each")},
            ShapeError,
            r"fixed images of \[3\]",
        ),
    ],
)
def test_images_that_make_no_channels_are_refused(fixed, moving, options, error, words):
    with pytest.raises(error, match=words) as caught:
        register(fixed, moving, **options)
    assert "Received:" in str(caught.value)
