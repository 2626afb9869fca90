"""The GPU's kernels, run on the CPU by Triton's interpreter, against SciPy, naive loops and PyTorch's own derivatives.

The interpreter is chosen as a kernel's file is imported: the fixture imports those files for this test file alone, and
puts everything back. One test compiles the same kernels for a GPU, which needs none. Where there is a GPU, everything
runs on it as well.
"""

import importlib
import itertools
import os
import sys
import types

import numpy as np
import pytest
import scipy.ndimage

from keramorph.backend import native
from keramorph.backend.rule import Rule
from keramorph.errors import OptionError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if os.environ.get("KERAS_BACKEND") == "tensorflow" or not native.has_triton():
    pytest.skip("no Triton, no kernels wanted, or TensorFlow, beside which it cannot be", allow_module_level=True)

from keramorph.backend import torch as binding  # noqa: E402
from keramorph.backend import torch_operations  # noqa: E402

KERNELS = ("positions", "sampling", "filters", "lncc", "operations")
DEVICE = "cuda"
BOUNDARIES = ("constant", "nearest", "reflect", "mirror", "wrap")
SHAPES = ((7,), (5, 6), (4, 5, 6))
FILL = 0.7


def load_kernels(interpret: bool):
    """Import the files of the kernels anew, to be interpreted or to be compiled.

    Triton itself comes first, to be compiled: what of it is imported late asserts that the rest was imported likewise.
    """
    importlib.import_module("triton.experimental.gluon")
    import keramorph.backend as package

    names = [f"keramorph.backend.triton_{name}" for name in KERNELS]
    kept = {name: sys.modules.pop(name, None) for name in names}
    before = os.environ.pop("TRITON_INTERPRET", None)
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    try:
        return {name: importlib.import_module(f"keramorph.backend.triton_{name}") for name in KERNELS}
    finally:
        os.environ.pop("TRITON_INTERPRET", None)
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before
        for name, module in kept.items():
            sys.modules.pop(name)
            vars(package).pop(name.rpartition(".")[2], None)
            if module is not None:
                sys.modules[name] = module
                setattr(package, name.rpartition(".")[2], module)


class Compiled:
    """A file of kernels whose functions take tensors on the CPU to the GPU, and their results back."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        found = getattr(self._module, name)
        if not isinstance(found, types.FunctionType) or name.startswith("_"):
            return found
        return lambda *args, **options: carry(found(*carry(args, DEVICE), **options), "cpu")


def carry(values, device):
    if isinstance(values, tuple):
        return tuple(carry(value, device) for value in values)
    return values.to(device) if isinstance(values, torch.Tensor) else values


@pytest.fixture(scope="module", params=["interpreted", "compiled"] if torch.cuda.is_available() else ["interpreted"])
def kernels(request):
    files = load_kernels(interpret=request.param == "interpreted")
    return files if request.param == "interpreted" else {name: Compiled(file) for name, file in files.items()}


@pytest.fixture(scope="module")
def gpu(kernels):
    return kernels["operations"]


def fields(order=1, boundary="nearest", *, fill=0.0, relative=False, gradient="exact"):
    return order, boundary, fill, relative, gradient


def draw(shape, count, *, seed=0, channels=3, batch=2, kinks=True):
    """An image and absolute coordinates in and around it, whole and half numbers and far ones among them."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(batch, *shape, channels))
    coordinates = rng.uniform(-1.6, 2.6, size=(batch, count, len(shape))) * shape
    if kinks:
        coordinates[:, ::4] = np.round(coordinates[:, ::4] * 2) / 2
    return image, coordinates


def interpolate(image, coordinates, order, boundary, fill=FILL, prefilter=True):
    """SciPy's answer, sample by sample and channel by channel."""
    values = np.empty((*coordinates.shape[:-1], image.shape[-1]))
    for b, c in itertools.product(range(len(image)), range(image.shape[-1])):
        values[b, ..., c] = scipy.ndimage.map_coordinates(
            image[b, ..., c], np.moveaxis(coordinates[b], -1, 0), order=order, mode=boundary, cval=fill,
            prefilter=prefilter,
        )  # fmt: skip
    return values


def differentiate(image, coordinates, boundary, step):
    """Differences of SciPy's linear interpolant along each axis: exact slopes for any step that crosses no voxel."""
    slopes = []
    for axis in range(coordinates.shape[-1]):
        shift = step * np.eye(coordinates.shape[-1])[axis]
        after, before = (interpolate(image, coordinates + s, 1, boundary) for s in (shift, -shift))
        slopes.append((after - before) / (2 * step))
    return np.stack(slopes, axis=-1)


def tensors(*arrays, dtype=torch.float64):
    return [torch.as_tensor(a).to(dtype) for a in arrays]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sample_agrees_with_scipy(gpu, shape, boundary):
    image, coordinates = draw(shape, 100)
    for order in (0, 1):
        found = gpu.sample(*tensors(image, coordinates), False, *fields(order, boundary, fill=FILL))
        np.testing.assert_allclose(found, interpolate(image, coordinates, order, boundary), atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(7,), (5, 6)])
def test_cubic_agrees_with_scipy(gpu, shape, boundary):
    coefficients, coordinates = draw(shape, 50, channels=1, batch=1)
    # Coefficients of an image whose edge extends begin 16 voxels before it.
    shift = 16 if boundary == "nearest" else 0
    found = gpu.sample(*tensors(coefficients, coordinates - shift), False, *fields(3, boundary, fill=FILL))
    expected = interpolate(coefficients, coordinates, 3, boundary, prefilter=False)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_cubic_values_and_slopes_in_three_dimensions(gpu):
    coefficients, coordinates = draw((4, 5, 6), 30, channels=1, batch=1)
    arrays = tensors(coefficients, coordinates)
    values, slopes = gpu.sample_with_derivative(*arrays, *fields(3, "mirror"))
    expected = interpolate(coefficients, coordinates, 3, "mirror", prefilter=False)
    np.testing.assert_allclose(values, expected, atol=1e-12)
    for axis in range(3):
        shift = 1e-5 * np.eye(3)[axis]
        after, before = (
            interpolate(coefficients, coordinates + s, 3, "mirror", prefilter=False) for s in (shift, -shift)
        )
        np.testing.assert_allclose(slopes[..., axis], (after - before) / 2e-5, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_displacements_start_at_their_own_voxel(gpu, shape):
    image, _ = draw(shape, 1)
    field = tuple(n + 1 for n in reversed(shape))  # a grid of its own, unlike the image's
    displacement = np.random.default_rng(1).normal(size=(2, *field, len(shape))) * 3
    found = gpu.sample(*tensors(image, displacement), False, *fields(1, "reflect", relative=True))
    own = np.stack(np.meshgrid(*map(np.arange, field), indexing="ij"), axis=-1)
    np.testing.assert_allclose(found, interpolate(image, displacement + own, 1, "reflect"), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_composition_adds_the_displacement(gpu, shape):
    outer, inner = (np.random.default_rng(k).normal(size=(2, *shape, len(shape))) * 2 for k in range(2))
    found = gpu.sample(*tensors(outer, inner), True, *fields(relative=True))
    own = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    np.testing.assert_allclose(found, inner + interpolate(outer, inner + own, 1, "nearest"), atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(7,), (5, 6)])
def test_derivative_is_the_difference_of_scipy(gpu, shape, boundary):
    image, coordinates = draw(shape, 40, kinks=False)
    cotangent = np.random.default_rng(2).normal(size=(*coordinates.shape[:-1], 3))
    for gradient, step, tolerance in (("exact", 1e-6, 1e-8), ("smooth", 1.0, 1e-12)):
        rule = fields(1, boundary, fill=FILL, gradient=gradient)
        expected = differentiate(image, coordinates, boundary, step)
        values, slopes = gpu.sample_with_derivative(*tensors(image, coordinates), *rule)
        np.testing.assert_allclose(values, interpolate(image, coordinates, 1, boundary), atol=1e-12)
        np.testing.assert_allclose(slopes, expected, atol=tolerance)
        pulled = gpu.pull_back(*tensors(image, coordinates, cotangent), *rule)
        np.testing.assert_allclose(pulled, (expected * cotangent[..., None]).sum(-2), atol=5 * tolerance)


@pytest.mark.parametrize("gradient", ["exact", "smooth"])
def test_derivative_in_three_dimensions(gpu, gradient):
    image, coordinates = draw((4, 5, 6), 40, kinks=False, channels=1, batch=1)
    step, tolerance = (1e-6, 1e-8) if gradient == "exact" else (1.0, 1e-12)
    for boundary in ("mirror", "constant"):
        rule = fields(1, boundary, fill=FILL, gradient=gradient)
        _, slopes = gpu.sample_with_derivative(*tensors(image, coordinates), *rule)
        np.testing.assert_allclose(slopes, differentiate(image, coordinates, boundary, step), atol=tolerance)


def test_more_channels_than_a_tile_holds(gpu):
    image, coordinates = draw((5, 6), 20, channels=37, kinks=False)
    cotangent = np.random.default_rng(2).normal(size=(2, 20, 37))
    arrays = tensors(image, coordinates, cotangent)
    np.testing.assert_allclose(
        gpu.sample(*arrays[:2], False, *fields()), interpolate(image, coordinates, 1, "nearest"), atol=1e-12
    )
    expected = (differentiate(image, coordinates, "nearest", 1e-6) * cotangent[..., None]).sum(-2)
    np.testing.assert_allclose(gpu.pull_back(*arrays, *fields()), expected, atol=1e-7)
    spread = gpu.splat(*arrays[:0:-1], [5, 6], *fields())
    np.testing.assert_allclose(spread.sum((1, 2)), cotangent.sum(1), atol=1e-12)


def matrix_of(shape, coordinates, order, boundary):
    """Sampling as a matrix, column by column from SciPy's samples of images with one bright voxel."""
    bright = np.eye(int(np.prod(shape))).reshape(*shape, -1)[None]
    return interpolate(bright, coordinates[None], order, boundary, fill=0.0, prefilter=False)[0]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_splat_is_the_transpose_of_scipy(gpu, shape, boundary):
    _, coordinates = draw(shape, 30)
    values = np.random.default_rng(3).normal(size=(2, 30, 3))
    for order in (0, 1):
        found = gpu.splat(*tensors(values, coordinates), list(shape), *fields(order, boundary))
        for b in range(2):
            expected = matrix_of(shape, coordinates[b], order, boundary).T @ values[b]
            np.testing.assert_allclose(found[b].reshape(expected.shape), expected, atol=1e-12)


def test_cubic_splat_is_the_transpose_of_scipy(gpu):
    _, coordinates = draw((5, 6), 30, batch=1)
    values = np.random.default_rng(3).normal(size=(1, 30, 2))
    found = gpu.splat(*tensors(values, coordinates), [5, 6], *fields(3, "reflect"))
    expected = matrix_of((5, 6), coordinates[0], 3, "reflect").T @ values[0]
    np.testing.assert_allclose(found[0].reshape(expected.shape), expected, atol=1e-12)


@pytest.mark.parametrize(("name", "unit"), [("float16", 2**-11), ("bfloat16", 2**-7), ("float32", 1e-6)])
def test_images_keep_their_type(gpu, name, unit):
    image, coordinates = draw((5, 6), 60)
    image = torch.as_tensor(image).to(getattr(torch, name))
    coordinates = torch.as_tensor(coordinates).float()
    exact = interpolate(image.double().numpy(), coordinates.double().numpy(), 1, "reflect")
    values, slopes = gpu.sample_with_derivative(image, coordinates, *fields(1, "reflect"))
    assert values.dtype == image.dtype
    assert slopes.dtype == torch.float32
    # Half a unit in the last place (of bfloat16 a whole one: the interpreter cuts off, compiled kernels round), and
    # what float32 coordinates of up to 16 voxels cost.
    np.testing.assert_allclose(values.double(), exact, rtol=unit, atol=1e-5)
    spread = gpu.splat(values, coordinates, [5, 6], *fields(1, "reflect"))
    assert spread.dtype == image.dtype
    total = values.double().sum(1)
    np.testing.assert_allclose(spread.double().sum((1, 2)), total, atol=60 * unit)


@pytest.mark.parametrize("name", ["bool", "uint8", "int16", "int64", "bfloat16"])
def test_labels_are_copied(gpu, name):
    dtype = getattr(torch, name)
    image = torch.arange(30).reshape(1, 5, 6, 1)
    image = (image % 2 == 0) if name == "bool" else (image * (2**57 + 1 if name == "int64" else 1)).to(dtype)
    rows, columns = torch.meshgrid(torch.arange(-1, 6), torch.arange(7), indexing="ij")
    coordinates = torch.stack([rows, columns], -1)[None] + 0.25
    found = gpu.sample(image, coordinates, False, *fields(0, "constant", fill=1.0))
    assert found.dtype == dtype
    expected = torch.ones((7, 7), dtype=dtype)
    expected[1:5, :5] = image[0, :4, :5, 0]
    assert torch.equal(found[0, ..., 0], expected)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_no_coordinate_leads_outside_the_image(gpu, kernels, boundary):
    """The image lies between guards: what is read from those shows, and what is written to them as well."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=(1, 400, 2), dtype=np.uint64).astype(np.uint32)
    odd = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0**31, -(2.0**31), 1e9, -0.0, 1e-45], np.float32)
    coordinates = bits.view(np.float32)
    coordinates.reshape(-1)[:100] = np.stack(np.meshgrid(odd, odd)).reshape(2, -1).T.reshape(-1)[:100]
    buffer = torch.full((90,), 1e6)
    buffer[30:60] = torch.rand(30)
    image = buffer[30:60].view(1, 5, 6, 1)
    finite = ~np.isnan(coordinates).any(-1)[0]
    coordinates = torch.as_tensor(coordinates)
    for order in (0, 1, 3):
        values = gpu.sample(image, coordinates, False, *fields(order, boundary))[0, :, 0].numpy()
        assert np.isfinite(values[finite]).all()
        assert np.abs(values[finite]).max() <= 1
        if order:
            slopes = gpu.pull_back(image, coordinates, torch.ones(1, 400, 1), *fields(order, boundary))[0]
            assert np.abs(slopes.numpy()[finite]).max() <= 2
    weights = torch.ones(1, 400, 1)
    grid, numbers, options = gpu._lay_out(image.shape, coordinates, Rule(1, boundary))
    here = DEVICE if isinstance(gpu, Compiled) else "cpu"
    written = torch.zeros(90, device=here)
    kernels["sampling"].splat[grid](
        weights.to(here), coordinates.to(here), written[30:60], *numbers, ORDER=1, **options
    )
    assert (written[:30] == 0).all()
    assert (written[60:] == 0).all()
    total = (
        gpu.splat(weights[:, finite], coordinates[:, finite].contiguous(), [5, 6], *fields(1, boundary)).sum().item()
    )
    if boundary == "constant":
        assert 0 < total < finite.sum()
    else:
        assert total == pytest.approx(finite.sum(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_nan_is_outside_a_constant_boundary_and_nan_elsewhere(gpu):
    image, coordinates = torch.rand(1, 5, 6, 1), torch.full((1, 2, 2), float("nan"))
    assert (gpu.sample(image, coordinates, False, *fields(1, "constant", fill=3.0)) == 3).all()
    assert gpu.sample(image, coordinates, False, *fields(1, "reflect")).isnan().all()


def test_offsets_in_64_bits(gpu, monkeypatch):
    monkeypatch.setattr(gpu._module if isinstance(gpu, Compiled) else gpu, "_INDEX_LIMIT", 1)
    image, coordinates = draw((4, 5, 6), 50, channels=2)
    arrays = tensors(image, coordinates)
    assert gpu._lay_out(image.shape, arrays[1], Rule())[2]["INDEX"] == importlib.import_module("triton.language").int64
    for order in (0, 1):
        found = gpu.sample(*arrays, False, *fields(order, "mirror"))
        np.testing.assert_allclose(found, interpolate(image, coordinates, order, "mirror"), atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "size"), [((17,), 5), ((40,), 65), ((9, 11), (3, 1)), ((4, 5, 6), (3, 17, 5)), ((20, 2, 3), (17, 3, 9))]
)
def test_window_sum_is_a_sum_over_windows(gpu, shape, size):
    size = (size,) * len(shape) if isinstance(size, int) else size
    for channels in (1, 3):
        array = np.random.default_rng(0).normal(size=(2, *shape, channels))
        expected = array
        for axis, width in enumerate(size, start=1):
            # "constant" knows no window wider than the line unless it is padded first.
            padded = np.pad(expected, [(width, width) if k == axis else (0, 0) for k in range(array.ndim)])
            summed = scipy.ndimage.convolve1d(padded, np.ones(width), axis=axis, mode="constant")
            expected = np.take(summed, range(width, width + shape[axis - 1]), axis)
        np.testing.assert_allclose(gpu.window_sum(torch.as_tensor(array), list(size)), expected, atol=1e-11)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("width", [5, 17])
def test_nothing_odd_leaves_its_window(gpu, width):
    array = torch.ones(1, 60, 40, 1)
    array[0, 30, 7] = float("nan")
    array[0, 20, 8] = float("inf")
    array[0, 10, 9] = 1e9
    summed = gpu.window_sum(array, [width, 1])[0, ..., 0]
    away = torch.arange(60)
    for row, column in ((30, 7), (20, 8), (10, 9)):
        inside = (away - row).abs() <= width // 2
        beyond = summed[:, column][~inside]
        full = (torch.minimum(away + width // 2, torch.tensor(59)) - (away - width // 2).clamp(min=0) + 1)[~inside]
        assert torch.equal(beyond, full.float())


@pytest.mark.parametrize(("shape", "sigma"), [((9,), (0.8,)), ((14, 5), (2.0, 3.0)), ((6, 5, 7), (1.0, 0.0, 0.6))])
def test_gaussian_agrees_with_scipy(gpu, shape, sigma):
    array = np.random.default_rng(0).normal(size=(2, *shape, 3))
    expected = scipy.ndimage.gaussian_filter(array, (0, *sigma, 0), truncate=4.0, mode="reflect")
    np.testing.assert_allclose(gpu.gaussian(torch.as_tensor(array), list(sigma)), expected, atol=1e-12)
    single = gpu.gaussian(torch.as_tensor(array).float(), list(sigma))
    np.testing.assert_allclose(single, expected, atol=2e-6)


def sum_boxes(array, size):
    """Sums over boxes of `(batch, *spatial, channels)` by PyTorch's unfold, differentiable."""
    for axis, width in enumerate(size, start=1):
        edge = [0, 0] * (array.ndim - 1 - axis) + [width // 2, width // 2]
        array = torch.nn.functional.pad(array, edge).unfold(axis, width, 1).sum(-1)
    return array


def correlate(fixed, moved, weight, size, form, floor, least):
    """The mean local correlation of each pair, as its formula has it."""
    axes = tuple(range(1, fixed.ndim - 1))
    if form != 2:
        fixed, moved = (
            (a - a.mean(axes, keepdim=True)) / a.var(axes, correction=0, keepdim=True).sqrt() for a in (fixed, moved)
        )
    count = sum_boxes(torch.ones_like(fixed), size)
    f, m, ff, mm, fm = (sum_boxes(a, size) / count for a in (fixed, moved, fixed * fixed, moved * moved, fixed * moved))
    r, u, v = fm - f * m, ff - f * f + floor, mm - m * m + floor
    correlation = r / (u * v).sqrt() if form == 1 else (r.abs() + (floor if form == 2 else 0)) ** 2 / (u * v)
    possible = 1 - floor / u if form == 2 else torch.ones_like(u)
    here = (weight * possible).detach()
    axes = tuple(range(1, fixed.ndim))
    total = torch.maximum(here.sum(axes), least * possible.sum(axes))
    curvature = sum_boxes(2 * here / (count * v), size) / total.reshape(-1, *[1] * (fixed.ndim - 1))
    return (here * correlation).sum(axes) / total, curvature


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize(("shape", "size"), [((20,), (5,)), ((4, 12), (3, 5)), ((3, 4, 6), (3, 5, 15))])
def test_lncc_agrees_with_autograd_of_its_formula(kernels, shape, size, form):
    torch.manual_seed(0)
    fixed, moved, weight = (torch.rand((2, *shape, 2), dtype=torch.float64) for _ in range(3))
    moved = (5 * moved + 3 * fixed + 100).requires_grad_(True)
    expected, curvature = correlate(fixed, moved, weight, size, form, 1e-3, 0.9)
    (slope,) = torch.autograd.grad(expected.sum(), moved)
    found = kernels["lncc"].compare(
        (fixed, moved.detach(), weight), size=size, form=form, floor=1e-3, least=0.9, maps=4
    )
    torch.testing.assert_close(found[0], expected.detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(found[1], slope, atol=1e-12, rtol=1e-8)
    if form == 2:
        torch.testing.assert_close(found[2], curvature.detach(), atol=1e-12, rtol=1e-8)
    alone = kernels["lncc"].compare((fixed, moved.detach(), None), size=size, form=form, floor=1e-3, least=0.0, maps=0)
    unweighted, _ = correlate(fixed, moved.detach(), torch.ones_like(fixed), size, form, 1e-3, 0.0)
    torch.testing.assert_close(alone[0], unweighted, atol=1e-12, rtol=0)
    assert alone[1:] == (None, None)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("form", [0, 1])
def test_lncc_of_flat_and_broken_images(kernels, form):
    torch.manual_seed(0)
    fixed = torch.rand(3, 9, 8, 1)
    moved = torch.stack([torch.full((9, 8, 1), 1e4), fixed[1] * 100 + 1e4, fixed[2]])
    moved[2, 4, 4] = float("nan")
    similarity, slope, _ = kernels["lncc"].compare(
        (fixed, moved, None), size=(5, 5), form=form, floor=1e-5, least=0.0, maps=3
    )
    assert similarity[0] == 0
    assert (slope[0] == 0).all()
    assert similarity[1].item() == pytest.approx(1, abs=2e-3)
    assert similarity[2].isnan()


def test_autograd_through_the_kernels(gpu, monkeypatch):
    """The rules of the binding over these kernels, against PyTorch's own sampler and SciPy's own smoothing."""
    monkeypatch.setattr(binding, "_operations", gpu)
    torch.manual_seed(0)
    image = torch.rand(2, 5, 6, 3, dtype=torch.float64, requires_grad=True)
    field = (4 * torch.randn(2, 5, 6, 2, dtype=torch.float64)).requires_grad_(True)
    weight = torch.rand(2, 5, 6, 3, dtype=torch.float64)
    own = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(6), indexing="ij"), -1)
    grid = ((own + field) * 2 / torch.tensor([4.0, 5.0]) - 1).flip(-1)
    theirs = torch.nn.functional.grid_sample(
        image.permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=True
    ).permute(0, 2, 3, 1)
    ours = binding.engine.sample(image, field, relative=True)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    for mine, other in zip(
        *(torch.autograd.grad((x * weight).sum(), (image, field)) for x in (ours, theirs)), strict=True
    ):
        # Where the edge is extended, PyTorch's slope along the axis is zero as well.
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=0)
    (slope,) = torch.autograd.grad((binding.engine.gaussian(image, sigma=0.8) * weight).sum(), image)
    expected = scipy.ndimage.gaussian_filter(weight.numpy(), (0, 0.8, 0.8, 0), truncate=4.0, mode="reflect")
    np.testing.assert_allclose(slope, expected, atol=1e-12)


def test_the_operations_have_an_implementation_for_cuda():
    for name in torch_operations._SCHEMAS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"keramorph::{name}", "CUDA")
    assert "cuda" in binding._DEVICES


def test_the_solver_and_the_losses_get_the_same_kernel(gpu, kernels):
    torch.manual_seed(0)
    fixed, moved, weight = torch.rand(3, 1, 9, 8, 1, dtype=torch.float64)
    for squared in (False, True):
        other = moved.clone().requires_grad_(True)
        expected, _ = correlate(fixed, other, torch.ones_like(fixed), (5, 5), 0 if squared else 1, 1e-5, 0.0)
        values, slope = gpu.compare_with_derivative(fixed, moved, 2, 5, 0, squared)
        torch.testing.assert_close(values, expected.detach(), atol=1e-12, rtol=0)
        torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), other)[0], atol=1e-12, rtol=1e-8)
        torch.testing.assert_close(gpu.compare(fixed, moved, 2, 5, 0, squared), values, atol=1e-12, rtol=0)
    expected, curvature = correlate(fixed, moved, weight, (3, 5), 2, 1e-2, 0.1)
    found = gpu.lncc(fixed, moved, weight, size=(3, 5), floor=1e-2, least=0.1)
    torch.testing.assert_close(found[0], expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(found[2], curvature, atol=1e-12, rtol=1e-8)
    assert gpu.lncc(fixed, moved[:, :5], weight, size=(3, 5), floor=1e-2, least=0.1) is None
    with pytest.raises(OptionError, match="measure=3"):
        gpu.compare(fixed, moved, 3, 32, 0, False)


def constants_of(kernel):
    """Compile-time constants under which each kernel is compiled below, those of a large 3-D image."""
    shared = {
        "RELATIVE": True, "BOUNDARY": "reflect", "NDIM": 3, "CHANNELS": 3, "POSITIONS": 128, "TILE": 4, "ORDER": 1,
        "WANTED": "both", "PLUS": False, "SMOOTH": False, "GAUSSIAN": True, "NEAR": True, "ROWS": 16, "COLUMNS": 64,
        "FORM": 0, "MAPS": 3, "WEIGHTED": True, "FIRST": True, "LAST": True,
        "INDEX": importlib.import_module("triton.language").int32,
    }  # fmt: skip
    return {name: shared[name] for name in kernel.arg_names if name.isupper()}


@pytest.mark.parametrize(
    "name",
    ["sampling.sample", "sampling.copy_nearest", "sampling.splat", "filters.convolve", "filters.sum_in_blocks",
     "lncc.sum_moments", "lncc.correlate", "lncc.sum_maps"],
)  # fmt: skip
def test_kernels_compile_for_a_gpu(name, tmp_path, monkeypatch):
    """Down to machine code, for which no GPU is needed; the interpreter accepts more than the compiler does."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    file, function = name.split(".")
    kernel = getattr(load_kernels(interpret=False)[file], function)
    constants = constants_of(kernel)
    integers = {"n", "inner", "radius", "width", "columns", "count", "volume", "rows"}
    integers |= {"n0", "n1", "n2", "m1", "m2", "size0", "size1", "radius0", "radius1"}
    kinds = {a: "i64" if a.endswith("bits") else "i32" if a in integers else "*fp32" for a in kernel.arg_names}
    kinds |= dict.fromkeys(constants, "constexpr") | ({"image": "*i16", "values": "*i16"} if "copy" in name else {})
    source = ASTSource(kernel, {a: kinds[a] for a in kernel.arg_names}, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": True})
    assert compiled.asm["cubin"][:4] == b"\x7fELF"
