"""Native kernels: the answers of the portable primitives and SciPy, for any input and any number of threads."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from conftest import to_engine
from keramorph import backend
from keramorph.backend import native, portable
from keramorph.backend.numpy import xp
from keramorph.backend.rule import Rule
from test_sampling import oracle

BOUNDARIES = ("constant", "nearest", "reflect", "mirror", "wrap")
SHAPES = ((5,), (5, 6), (5, 6, 7), (4, 1, 9), (1,))
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
RULES = list(itertools.product((0, 1, 3), BOUNDARIES))

needs_extension = pytest.mark.skipif(native.extension() is None, reason=f"without the extension: {native.describe()}")


@pytest.fixture
def kernels(engine_name):
    """The engine under test, where it computes by kernels."""
    if engine_name not in ("numpy", "torch"):
        pytest.skip("NumPy and PyTorch call the extension; the other frameworks' bindings have their own tests")
    return backend.use(engine_name)


def call(engine, method, *arrays, **options):
    """Result of an engine's primitive on NumPy arrays, as NumPy arrays."""
    results = getattr(engine, method)(*(to_engine(engine.name, a) for a in arrays), **options)
    return tuple(map(np.asarray, results)) if isinstance(results, tuple) else np.asarray(results)


def random_case(shape, channels, dtype, *, relative, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, *shape, channels)).astype(dtype)
    if relative:
        points = rng.normal(scale=4, size=(2, *shape, len(shape)))
    else:
        points = rng.uniform(-1.7, 2.7, size=(2, 45, len(shape))) * np.array(shape)
    points[:, ::3] = np.round(points[:, ::3])
    return image, points.astype(dtype)


def assert_close(found, expected, dtype):
    np.testing.assert_equal(found.shape, expected.shape)
    bound = TOLERANCE[dtype] * max(1, np.abs(expected).max(initial=0))
    assert np.abs(found.astype("float64") - expected).max(initial=0) < bound


@needs_extension
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize(("order", "boundary"), RULES)
def test_sampling_is_the_portable_and_scipys(kernels, order, boundary, channels, dtype):
    for shape, relative in itertools.product(SHAPES, (False, True)):
        image, points = random_case(shape, channels, dtype, relative=relative)
        options = {"order": order, "boundary": boundary, "fill_value": 2.5, "relative": relative}
        found = call(kernels, "sample", image, points, **options)
        rule = Rule(order, boundary, 2.5, relative)
        assert found.dtype == dtype
        assert_close(found, portable.sample(xp, portable.to_coefficients(xp, image, rule), points, rule), dtype)
        if len(shape) < 3 or order != 3:  # there the extended image of the oracle is huge
            own = np.moveaxis(np.indices(shape), 0, -1) if relative else 0
            expected = oracle(image.astype("float64"), points + own, order, boundary)
            # SciPy's own spline prefilter ends a little earlier.
            assert np.abs(found - expected).max() < (1e-10 if dtype == "float64" else 5e-5)


@needs_extension
@pytest.mark.parametrize("gradient", ["exact", "smooth"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("order", "boundary"), RULES)
def test_derivatives_and_splats_are_the_portable(kernels, order, boundary, channels, dtype, gradient):
    for shape, relative in itertools.product(SHAPES, (False, True)):
        image, points = random_case(shape, channels, dtype, relative=relative, seed=1)
        rule = Rule(order, boundary, 2.5, relative, gradient)
        coefficients = portable.to_coefficients(xp, image, rule)
        cotangent = np.random.default_rng(2).normal(size=(*points.shape[:-1], channels)).astype(dtype)
        arrays = [to_engine(kernels.name, a) for a in (coefficients, points, cotangent)]
        expected = portable.sample_with_derivative(xp, coefficients, points, rule)
        for one, other in zip(kernels._sample_with_derivative(*arrays[:2], rule), expected, strict=True):
            assert_close(np.asarray(one), other, dtype)
        expected = portable.pull_back(xp, coefficients, points, cotangent, rule)
        assert_close(np.asarray(kernels._pull_back(*arrays, rule)), expected, dtype)
        size = coefficients.shape[1:-1]
        expected = portable.splat(xp, cotangent.astype("float64"), points.astype("float64"), size, rule)
        assert_close(np.asarray(kernels._splat(arrays[2], arrays[1], size, rule)), expected, dtype)


@needs_extension
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(40,), (12, 30), (5, 9, 40), (1, 7), (1,)], ids=str)
def test_filters_are_the_portable_and_scipys(kernels, shape, dtype):
    array = np.random.default_rng(3).normal(size=(2, *shape, 3)).astype(dtype)
    sigma = [0.6 + axis for axis in range(len(shape))]
    found = call(kernels, "gaussian", array, sigma=sigma)
    assert_close(found, ndimage.gaussian_filter(array.astype("float64"), (0, *sigma, 0)), dtype)
    size = [3 + 4 * axis for axis in range(len(shape))]
    expected = array.astype("float64")
    for axis, length in enumerate(size, start=1):
        expected = ndimage.convolve1d(expected, np.ones(length), axis=axis, mode="constant")
    assert_close(call(kernels, "window_sum", array, size=size), expected, dtype)
    for boundary in BOUNDARIES:
        rule = Rule(3, boundary)
        coefficients = portable.to_coefficients(xp, array, rule)
        assert_close(np.asarray(kernels._to_coefficients(to_engine(kernels.name, array), rule)), coefficients, dtype)
        expected = portable.from_coefficients(xp, coefficients, rule)
        found = kernels._from_coefficients(to_engine(kernels.name, coefficients), rule)
        assert_close(np.asarray(found), expected, dtype)


@needs_extension
@pytest.mark.parametrize("length", [5, 13, 17, 18, 29, 61])
def test_composition_writes_no_further_than_its_rows(kernels, length):
    # Whole registers are written at a time. Where the last row read from deep inside, one number more was written than
    # there is room for; a memory checker sees it, and so does `malloc` when it gets the memory back.
    shape = (6, 3, length)  # so many that `malloc` leaves no slack behind them
    outer = np.random.default_rng(length).normal(size=(1, *shape, 3)).astype("float32")
    own = np.moveaxis(np.indices(shape), 0, -1)
    inner = 0.5 * (np.asarray(shape) / 2 - 0.6 - own)[None].astype("float32")
    for _ in range(100):
        assert_close(
            call(kernels, "compose", outer, inner), inner + oracle(outer, inner + own, 1, "nearest"), "float32"
        )


@needs_extension
def test_composition_is_the_sum_of_two_displacements(kernels):
    for shape in SHAPES:
        outer, inner = (random_case(shape, len(shape), "float64", relative=True, seed=s)[1] for s in (4, 5))
        own = np.moveaxis(np.indices(shape), 0, -1)
        expected = inner + oracle(outer, inner + own, 1, "nearest")
        assert_close(call(kernels, "compose", outer, inner), expected, "float64")
        assert_close(call(kernels, "compose", outer.astype("f4"), inner.astype("f4")), expected, "float32")


@needs_extension
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float16"])
@pytest.mark.parametrize("points_dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_other_data_types_are_read_as_the_portable_reads_them(kernels, dtype, points_dtype, order):
    if kernels.name == "torch" and order == 3 and dtype == "bool":
        pytest.skip("PyTorch rounds no truth values")
    image, points = random_case((5, 6), 3, "float64", relative=True, seed=6)
    image, points = (40 * np.abs(image)).astype(dtype), points.astype(points_dtype)
    for boundary, fill_value in (("constant", 1.0), ("nearest", 0.0)):
        rule = Rule(order, boundary, fill_value, True)
        options = {"order": order, "boundary": boundary, "fill_value": fill_value, "relative": True}
        found = call(kernels, "sample", image, points, **options)
        expected = portable.sample(xp, portable.to_coefficients(xp, image, rule), points, rule)
        expected = portable.cast_like(xp, expected, image)
        assert found.dtype == image.dtype
        # Rounding may turn on the last bit of a sum.
        apart = np.abs(found.astype("float64") - expected.astype("float64"))
        assert apart.max() <= (0.13 if dtype == "float16" else 1)
        assert (apart > 0.05).mean() < 0.01


@needs_extension
def test_bfloat16_is_rounded_float32(kernels):
    torch = pytest.importorskip("torch")
    image, points = random_case((5, 6, 7), 2, "float32", relative=True)
    half = torch.as_tensor(image).bfloat16()
    exact = call(backend.use("numpy"), "sample", half.float().numpy(), points, relative=True)
    if kernels.name == "torch":
        found = kernels.sample(half, torch.as_tensor(points), relative=True)
    else:
        ml_dtypes = pytest.importorskip("ml_dtypes")
        found = kernels.sample(half.float().numpy().astype(ml_dtypes.bfloat16), points, relative=True)
        found = torch.as_tensor(found.astype("float32")).bfloat16()
    assert torch.equal(found, torch.as_tensor(exact).bfloat16())


# Wide enough for whole blocks of lanes inside the image, which the small shapes above never have.
WIDE = ((70,), (9, 70), (6, 9, 40))


def gentle_case(shape, channels, dtype):
    rng = np.random.default_rng(7)
    points = rng.uniform(-0.9, 0.9, size=(2, *shape, len(shape))).astype("float32")
    points[:, ::3] = np.round(points[:, ::3])
    return rng.normal(size=(2, *shape, channels)).astype(np.dtype(dtype)), points


@needs_extension
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("order", [1, 3])
def test_blocks_inside_the_image_are_the_portable(kernels, order, channels, dtype):
    """16-bit values count as the float32 they stand for, and results are rounded to the nearest of them."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    stored = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    step = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    rule = Rule(order, "nearest", 0.0, True)
    for shape in WIDE:
        image, points = gentle_case(shape, channels, stored)
        cotangent = np.random.default_rng(8).normal(size=image.shape).astype(stored)
        exact = [a.astype("float64") for a in (image, points, cotangent)]
        if order == 3:  # coefficients of whatever values: they are longer at each end
            pad = ((0, 0), *((16, 16),) * len(shape), (0, 0))
            image, exact[0] = np.pad(image, pad, mode="edge"), np.pad(exact[0], pad, mode="edge")
        given = [to_engine(kernels.name, a) for a in (image, points, cotangent)]
        size = image.shape[1:-1]
        value, slope = kernels._sample_with_derivative(*given[:2], rule)
        expected = portable.sample_with_derivative(xp, *exact[:2], rule)
        for one, other, rounding in (
            (value, expected[0], step),
            (slope, expected[1], 0.0),
            (kernels._sample(*given[:2], rule), expected[0], step),
            (kernels._pull_back(*given, rule), portable.pull_back(xp, *exact, rule), 0.0),
            (kernels._splat(given[2], given[1], size, rule), portable.splat(xp, exact[2], exact[1], size, rule), step),
        ):
            apart = np.abs(to_float(one) - other)
            assert (apart <= rounding * np.abs(other) + 1e-5 * np.abs(other).max()).all()


def to_float(array):
    """NumPy array of float64, of any engine's array of any type."""
    return np.asarray(array.double() if hasattr(array, "double") else array).astype("float64")


def misalign(array):
    """The same values at an odd address."""
    memory = np.empty(array.nbytes + 1, np.uint8)[1:]
    moved = memory.view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


@needs_extension
@pytest.mark.parametrize("order", [0, 1, 3])
def test_memory_may_lie_in_any_way(engine_name, order):
    if engine_name != "numpy":
        pytest.skip("NumPy's own")
    engine = backend.use("numpy")
    image, points = random_case((5, 6, 7), 3, "float32", relative=True)
    expected = engine.sample(image, points, order=order, relative=True)
    ways = {
        "misaligned": misalign,
        "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
        "transposed": np.asfortranarray,
        "every second": lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
        "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    }
    for name, lay in ways.items():
        found = engine.sample(lay(image), lay(points), order=order, relative=True)
        np.testing.assert_array_equal(found, expected, name)
    swapped = engine.sample(image.astype(">f4"), points.astype(">f4"), order=order, relative=True)
    assert np.abs(swapped - expected).max() < 1e-5


@needs_extension
def test_torch_tensors_may_lie_in_any_way(engine_name):
    if engine_name != "torch":
        pytest.skip("PyTorch's own")
    import torch

    engine = backend.use("torch")
    image, points = (torch.as_tensor(a) for a in random_case((5, 6, 7), 3, "float32", relative=True))
    expected = engine.sample(image, points, relative=True)
    turned = [t.permute(4, 1, 2, 3, 0).contiguous().permute(4, 1, 2, 3, 0) for t in (image, points)]
    assert torch.equal(engine.sample(*turned, relative=True), expected)
    assert torch.equal(engine.sample(image[:1].expand(2, -1, -1, -1, -1), points, relative=True)[0], expected[0])


@needs_extension
@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_huge_and_undefined_coordinates_are_the_portable_ones(kernels, order, boundary):
    special = np.array([np.nan, np.inf, -np.inf, 1e9, -1e9, 3e38, -3e38, 2**31, -(2.0**31), 2**24, 1e-45, -0.0])
    points = np.stack(np.meshgrid(special, special, special, indexing="ij"), axis=-1).reshape(1, -1, 3).astype("f4")
    image = np.random.default_rng(7).normal(size=(1, 5, 6, 7, 1)).astype("f4")
    options = {"order": order, "boundary": boundary, "fill_value": 2.5}
    found = call(kernels, "sample", image, points, **options)
    rule = Rule(order, boundary, 2.5)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = portable.sample(xp, portable.to_coefficients(xp, image, rule), points, rule)
    known = np.isfinite(points).all(axis=-1)
    np.testing.assert_allclose(found[known], expected[known], atol=1e-5)
    if boundary == "constant":
        np.testing.assert_array_equal(found[np.isnan(points).any(axis=-1)], 2.5)


@needs_extension
def test_empty_arrays_have_empty_answers(engine_name):
    engine = backend.use("numpy")
    image = np.zeros((1, 4, 5, 2), "f4")
    assert engine.sample(image, np.zeros((1, 0, 2), "f4")).shape == (1, 0, 2)
    assert engine.sample(image[..., :0], np.zeros((1, 3, 2), "f4")).shape == (1, 3, 0)
    assert engine.gaussian(image[:0], sigma=1.0).shape == (0, 4, 5, 2)


@needs_extension
@settings(max_examples=60)
@example(b"\x00\x00\x00\x00\x00\x00\xc0\x7f", 1, 0, "constant", False, False)
@given(st.binary(min_size=8, max_size=2400), st.integers(1, 3), st.sampled_from([0, 1, 3]), st.sampled_from(BOUNDARIES),
       st.booleans(), st.booleans())  # fmt: skip
def test_no_bits_of_a_coordinate_make_a_kernel_fail(memory, ndim, order, boundary, wide, smooth):
    dtype = np.dtype("f8" if wide else "f4")
    count = len(memory) // (dtype.itemsize * ndim)
    points = np.frombuffer(memory, dtype, count * ndim).reshape(1, count, ndim)
    shape = (3, 4, 5)[:ndim]
    engine = backend.use("numpy")
    for channels in (1, 3):
        image = np.arange(1.0, 1 + np.prod(shape) * channels, dtype=dtype).reshape(1, *shape, channels)
        rule = Rule(order, boundary, 2.5, False, "smooth" if smooth else "exact")
        coefficients = engine._to_coefficients(image, rule)
        values = engine._sample(coefficients, points, rule)
        known = np.isfinite(points).all(axis=-1)
        limit = 3.0 ** (ndim * (order == 3)) * image.max()
        assert (np.abs(values[known]) <= limit).all()
        engine._sample_with_derivative(coefficients, points, rule)
        engine._pull_back(coefficients, points, values, rule)
        engine._splat(values, points, coefficients.shape[1:-1], rule)


def compute_all(engine):
    """One result of every kernel, on arrays large enough for several threads."""
    image, points = random_case((33, 34, 35), 1, "float32", relative=True, seed=8)
    arrays = [to_engine(engine.name, a) for a in (image, points)]
    rule = Rule(relative=True)
    results = [engine.sample(*arrays, relative=True, order=order) for order in (0, 1, 3)]
    results += engine.sample_with_derivative(*arrays, relative=True)
    results += [
        engine._pull_back(*arrays, arrays[0], rule),
        engine.compose(arrays[1], arrays[1]),
        engine.window_sum(arrays[0], size=5),
        engine.gaussian(arrays[0], sigma=2.0),
    ]
    results += [
        engine.splat(*arrays, shape=(33, 34, 35), relative=True, order=order, boundary=boundary)
        for order in (0, 1, 3)
        for boundary in BOUNDARIES
    ]
    return [np.asarray(result).copy() for result in results]


@needs_extension
def test_results_do_not_depend_on_the_number_of_threads(kernels):
    try:
        results = []
        for count in (1, 2, 3):
            backend.set_threads(count)
            assert native.extension().threads() == count
            results.append(compute_all(kernels))
    finally:
        backend.set_threads(None)
    for one, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


@needs_extension
def test_large_outputs_come_from_recycled_memory(kernels):
    extension = native.extension()
    extension.release_memory()
    field = np.zeros((1, 50, 51, 52, 3), "f4")
    composed = kernels.compose(*[to_engine(kernels.name, field)] * 2)
    address = np.asarray(composed).ctypes.data
    part = composed[0, 0]
    del composed
    assert extension.waiting_bytes() == 0  # a view keeps its memory
    del part
    assert extension.waiting_bytes() >= field.nbytes
    again = kernels.compose(*[to_engine(kernels.name, field)] * 2)
    assert np.asarray(again).ctypes.data == address
    several = [kernels.compose(*[to_engine(kernels.name, field)] * 2) for _ in range(20)]
    del several
    assert extension.waiting_bytes() < 20 * field.nbytes
    extension.release_memory()
    assert extension.waiting_bytes() == 0


@needs_extension
def test_the_extension_refuses_what_does_not_fit_together():
    extension = native.extension()
    points, image = np.zeros((1, 4, 2), "f4"), np.zeros((1, 5, 6, 1), "f4")
    numbers = (1, 1, 0.0, 0, False, False, 2, 2)
    plan = extension.Sampling(*numbers, [1, 5, 6, 1], [1, 4, 2])
    with pytest.raises(ValueError, match="smaller than its plan"):
        extension.sample(plan, image, points, np.zeros(3, "f4"), False)
    with pytest.raises((ValueError, BufferError)):
        extension.sample(plan, image, points, np.zeros(4, "f4").view()[::-1], False)
    with pytest.raises(ValueError, match="aligned"):
        extension.sample(plan, image, misalign(points), np.zeros(4, "f4"), False)
    for shapes in (([1, 5, 6, 1], [2, 4, 2]), ([1, 5, 6, 1], [1, 4, 3]), ([1, 0, 6, 1], [1, 4, 2]),
                   ([1, 2**16, 2**16, 1], [1, 4, 2])):  # fmt: skip
        with pytest.raises(ValueError, match="_native: "):
            extension.Sampling(*numbers, *shapes)


@needs_extension
@pytest.mark.parametrize("shape", [(7,), (5, 9), (3, 4, 5), (17, 1, 3), (24, 25, 26)], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_solvers_steps_write_all_that_they_say_and_no_more(shape, dtype):
    ndim, rng, engine = len(shape), np.random.default_rng(3), backend.use("numpy")
    field, derivative = rng.normal(size=(2, *shape, ndim)).astype(dtype), rng.random((2, *shape, 1)).astype(dtype)
    linear = np.diag(np.arange(1.0, ndim + 1))
    positions, inside = engine.locate(field, np.pad(linear, (0, 1)), shape=shape)
    expected = (np.moveaxis(np.indices(shape), 0, -1) + field) @ linear
    np.testing.assert_allclose(positions, expected, rtol=1e-5, atol=1e-5)
    assert inside.shape == derivative.shape
    pushed = engine.push(field, derivative, 2 * derivative, linear)
    np.testing.assert_allclose(pushed[..., :-1], derivative * (field @ linear), rtol=1e-5)
    np.testing.assert_allclose(
        pushed[..., -1:], 2 * derivative * np.sum((field @ linear) ** 2, -1, keepdims=True), rtol=1e-5
    )
    step = pushed[..., :-1] / (pushed[..., -1:] + 0.5)
    step /= np.maximum(1, np.linalg.norm(step, axis=-1, keepdims=True) / 0.1)
    np.testing.assert_allclose(engine.limit(pushed, linear, damping=0.5, most=0.1), step @ linear, rtol=1e-4, atol=1e-6)


@needs_extension
@pytest.mark.parametrize("shape", [(7,), (5, 9), (3, 4, 5), (17, 1, 3), (24, 25, 26)], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_sums_of_blocks_read_and_write_what_they_say_and_no_more(shape, dtype):
    ndim, rng, engine = len(shape), np.random.default_rng(4), backend.use("numpy")
    counts = tuple((n + 1) // 2 for n in shape)
    fixed, moving, mask, veil = (rng.random((2, *shape, 1)).astype(dtype) for _ in range(4))
    still = np.zeros((2, *counts, ndim), dtype)

    def add_up(values):
        for axis, (n, count) in enumerate(zip(shape, counts, strict=True), start=1):
            values = np.add.reduceat(values, np.arange(count) * n // count, axis=axis)
        return values

    sums = engine.add_blocks((fixed, moving, mask, veil), still, np.eye(ndim + 1), np.eye(ndim))
    expected = add_up(np.concatenate([moving, moving**2, fixed * moving, mask * veil], axis=-1))
    np.testing.assert_allclose(np.concatenate(sums[:2], axis=-1), expected, rtol=1e-5)
    far = rng.normal(scale=30, size=still.shape).astype(dtype)
    far.reshape(-1)[0] = np.nan
    for one in engine.add_blocks((fixed, moving, None, None), far, np.eye(ndim + 1), np.eye(ndim)):
        assert np.isfinite(one[1]).all()


@needs_extension
def test_the_solvers_steps_refuse_what_does_not_fit_together():
    extension = native.extension()
    field, other, wide = (np.zeros((1, 5, 6, n), "f4") for n in (2, 1, 3))
    plan = extension.Volume(2, [1, 5, 6, 2])
    with pytest.raises(ValueError, match="one component per spatial axis"):
        extension.limit(extension.Volume(2, [1, 5, 6, 3]), [1.0] * 4, 0.0, 1.0, wide, wide)
    with pytest.raises(ValueError, match="a matrix"):
        extension.locate(plan, [1.0] * 4, [5, 6], field, field.copy(), other)
    with pytest.raises(ValueError, match="one number per spatial axis"):
        extension.locate(plan, [1.0] * 6, [5], field, field.copy(), other)
    picture = extension.Volume(2, [1, 5, 6, 1])
    for blocks, shape, matrix in (([6, 3], [4, 4], 6), ([0, 3], [4, 4], 6), ([2, 3], [4], 6), ([2, 3], [4, 4], 4)):
        with pytest.raises(ValueError, match="_native: "):
            extension.BlockPlan(picture, blocks, shape, [1.0] * matrix, [1.0] * 4, [1.0] * 4)
    blocks = extension.BlockPlan(picture, [2, 3], [5, 6], [1.0] * 6, [1.0] * 4, [1.0] * 4)
    sums = [np.zeros((1, 2, 3, n), "f4") for n in (3, 1, 7)]
    for short in range(3):
        given = [one[..., :-1].copy() if k == short else one for k, one in enumerate(sums)]
        with pytest.raises(ValueError, match="smaller than its plan"):
            extension.add_blocks(blocks, other, None, other, None, np.zeros((1, 2, 3, 2), "f4"), *given)
    with pytest.raises(ValueError, match="smaller than its plan"):
        extension.push(plan, [1.0] * 4, field, other, other, field.copy())
