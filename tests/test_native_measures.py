"""Kernels that compare two images: values and derivatives of plain formulae under PyTorch's autodiff, in float64."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from keramorph.backend import native

pytestmark = pytest.mark.skipif(native.extension() is None, reason=f"without the extension: {native.describe()}")

MEASURES = ("squared_difference", "correlation", "local_correlation", "mutual_information", "self_similarity")
SHAPES = [
    (2, 5, 6, 7, 3),
    (1, 20, 13, 19, 1),
    (2, 23, 27, 2),
    (1, 19, 70, 1),
    (1, 1, 6, 7, 2),
    (1, 5, 1, 9, 1),
    (1, 1, 1, 1),
]
FLAT = [(1, 100, 1), (3, 17, 2), (2, 13, 1, 1)]
INFORMATION = [(bins, normalized) for bins in (4, 8, 32, 70) for normalized in (False, True)]
PATCHES = [(1, 2), (0, 1), (2, 3), (1, 30), (4, 1)]
KINDS = ("plain", "offset", "steps", "background")
BOUND = {"float64": 1e-9, "float32": 1e-5}


def compare(fixed, moved, measure, *, extent=0, dilation=0, variant=False, differentiate=True):
    """Values `(batch,)` and derivative to the moved image, from the kernel."""
    extension = native.extension()
    volume = extension.Volume({"float32": 2, "float64": 3}[fixed.dtype.name], list(fixed.shape))
    values = np.full(fixed.shape[0], 7, fixed.dtype)
    derivative = np.full_like(fixed, 7) if differentiate else None
    terms = (MEASURES.index(measure), extent, dilation, variant)
    extension.compare(volume, *terms, np.ascontiguousarray(fixed), np.ascontiguousarray(moved), values, derivative)
    return values, derivative


def draw_pair(shape, *, dtype="float64", kind="plain", seed=0):
    """Two smooth images that resemble each other: as they are, far from zero, with few intensities, half of it zero."""
    rng = np.random.default_rng(seed)
    sigma = (0, *[0.7] * (len(shape) - 2), 0)
    fixed = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    moved = 0.7 * np.roll(fixed, 1, axis=1) + 0.3 * rng.normal(size=shape)
    if kind == "offset":
        fixed, moved = fixed + 50, 100 - 3 * moved
    if kind == "steps":
        fixed, moved = np.round(3 * fixed), np.round(3 * moved)
    if kind == "background":
        fixed[:, : shape[1] // 2] = moved[:, : shape[1] // 2] = 0
        moved[:, :2] *= 1e-3
    return fixed.astype(dtype), moved.astype(dtype)


def find_square_scale(image):
    """One over the variance of each sample and channel `(batch, channels)`; 0 where the image is constant."""
    import torch

    axes = tuple(range(1, image.ndim - 1))
    mean = image.mean(axes, keepdim=True)
    variance = (image - mean).square().mean(axes)
    varies = variance > 1e-12 * mean.reshape(variance.shape).detach() ** 2
    one = torch.ones_like(variance)
    return torch.where(varies, 1 / torch.where(varies, variance, one), 0 * one)


def difference(fixed, moved):
    return (moved - fixed).square().flatten(1).mean(1)


def correlation(fixed, moved):
    axes = tuple(range(1, fixed.ndim - 1))
    covariance = ((fixed - fixed.mean(axes, keepdim=True)) * (moved - moved.mean(axes, keepdim=True))).mean(axes)
    scale = find_square_scale(fixed) * find_square_scale(moved)
    return (covariance * scale.where(scale == 0, scale.sqrt())).mean(1)


def information(fixed, moved, bins, normalized):
    """Every voxel weighs every bin, in a matrix."""
    import torch

    def weigh(image):
        least, greatest = image.detach().min(), image.detach().max()
        width = greatest - least if greatest > least else torch.ones_like(least)
        far = (1 + (image.flatten()[:, None] - least) * (bins - 3) / width - torch.arange(bins)).abs()
        return torch.where(far < 1, 2 / 3 - far**2 + far**3 / 2, torch.where(far < 2, (2 - far) ** 3 / 6, 0 * far))

    def entropy(share):
        return -(share * share.clamp(1e-12, 1).log()).sum()

    values = []
    for f, m in zip(fixed, moved, strict=True):
        of_channels = []
        for channel in range(f.shape[-1]):
            counts = weigh(f[..., channel]).T @ weigh(m[..., channel])
            share = counts / counts.sum()
            separate, together = entropy(share.sum(0)) + entropy(share.sum(1)), entropy(share)
            of_channels.append(separate / together if normalized else separate - together)
        values.append(torch.stack(of_channels).mean())
    return torch.stack(values)


def describe(image, radius, dilation):
    """Patches by convolution with ones. Distances are taken before the scale, so that equal ones stay equal."""
    import torch

    scale = find_square_scale(image).flatten()
    ndim, (batch, *_, channels) = image.ndim - 2, image.shape
    alone = torch.movedim(image, -1, 1).flatten(0, 1)
    neighbours = []
    for axis, offset in itertools.product(range(ndim), (-dilation, dilation)):
        count = alone.shape[1 + axis]
        neighbours.append((axis, alone.index_select(1 + axis, (torch.arange(count) + offset).clamp(0, count - 1))))
    squares = [(a - b) ** 2 for (i, a), (j, b) in itertools.combinations(neighbours, 2) if i != j]
    stack = torch.stack(squares, 1)
    box = torch.ones((1, 1) + (2 * radius + 1,) * ndim, dtype=image.dtype)
    convolve = {2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[ndim]
    sums = convolve(stack.flatten(0, 1)[:, None], box, padding=radius).reshape(stack.shape)
    inside = convolve(torch.ones_like(stack[:1, :1]), box, padding=radius)
    distances = sums / inside * scale.reshape(-1, *[1] * (ndim + 1))
    distances = distances - distances.amin(1, keepdim=True)
    variance = distances.mean(1, keepdim=True)
    typical = variance.mean(tuple(range(2, 2 + ndim)), keepdim=True) + 1e-6
    variance = torch.maximum(torch.minimum(variance, typical / 1e-3), typical * 1e-3)
    return torch.exp(-distances / variance).reshape(batch, channels, *stack.shape[1:])


def similarity(fixed, moved, radius, dilation):
    return (describe(moved, radius, dilation) - describe(fixed, radius, dilation)).square().flatten(1).mean(1)


def differentiate(formula, fixed, moved, *terms):
    torch = pytest.importorskip("torch")
    first = torch.tensor(fixed, dtype=torch.float64)
    second = torch.tensor(moved, dtype=torch.float64, requires_grad=True)
    values = formula(first, second, *terms)
    values.sum().backward()
    return values.detach().numpy(), second.grad.numpy()


def assert_agrees(found, expected, *, least):
    """Within the bound of the data type; `least` is how large a derivative is that counts as large."""
    bound = BOUND[found[0].dtype.name]
    np.testing.assert_allclose(found[0], expected[0], rtol=bound, atol=bound)
    largest = max(np.abs(expected[1]).max(), least)
    assert np.abs(found[1] - expected[1]).max() <= bound * largest


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, *FLAT])
def test_difference_and_correlation_are_their_formulae(shape, kind, dtype):
    pair = draw_pair(shape, dtype=dtype, kind=kind)
    assert_agrees(compare(*pair, "squared_difference"), differentiate(difference, *pair), least=0)
    assert_agrees(compare(*pair, "correlation"), differentiate(correlation, *pair), least=0)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, *FLAT])
def test_information_is_that_of_a_matrix_of_weights(shape, kind, dtype):
    fixed, moved = draw_pair(shape, dtype=dtype, kind=kind)
    for bins, normalized in INFORMATION:
        found = compare(fixed, moved, "mutual_information", extent=bins, variant=normalized)
        # Voxels in the middle of their bins pass nothing on: what is small is judged by a slope of a tenth of a bin.
        least = 0.1 * (bins - 3) / max(np.ptp(moved), 1e-30) / (moved.size / len(moved))
        assert_agrees(found, differentiate(information, fixed, moved, bins, normalized), least=least)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 13, 1, 1)])
def test_similarity_is_that_of_convolved_patches(shape, kind):
    fixed, moved = draw_pair(shape, kind=kind)
    for radius, dilation in PATCHES:
        found = compare(fixed, moved, "self_similarity", extent=radius, dilation=dilation)
        least = 0.01 / (moved.size / len(moved)) / max(moved.std(), 1e-30)
        assert_agrees(found, differentiate(similarity, fixed, moved, radius, dilation), least=least)


@pytest.mark.parametrize("shape", [(2, 9, 10, 11, 2), (1, 40, 37, 70, 1), (2, 33, 47, 2)])
def test_similarity_of_single_precision(shape):
    pair = draw_pair(shape, dtype="float32")
    expected = differentiate(similarity, *pair, 1, 2)
    assert_agrees(compare(*pair, "self_similarity", extent=1, dilation=2), expected, least=0)


TERMS = [
    ("squared_difference", {}),
    ("correlation", {}),
    ("local_correlation", {"extent": 5}),
    ("mutual_information", {"extent": 16}),
    ("mutual_information", {"extent": 16, "variant": True}),
    ("self_similarity", {"extent": 1, "dilation": 2}),
]


@pytest.mark.parametrize(("measure", "terms"), TERMS)
@pytest.mark.parametrize("shape", [(2, 37, 41, 67, 1), (1, 150, 170, 3)])
def test_any_number_of_threads_gives_the_same_bits(shape, measure, terms):
    pair = draw_pair(shape, dtype="float32")
    extension = native.extension()
    try:
        results = []
        for count in (1, 2, 5):
            extension.set_threads(count)
            results.append(compare(*pair, measure, **terms))
    finally:
        extension.set_threads(native.threads())
    for values, derivative in results[1:]:
        np.testing.assert_array_equal(values, results[0][0])
        np.testing.assert_array_equal(derivative, results[0][1])


@pytest.mark.parametrize(("measure", "terms"), TERMS)
def test_the_value_alone_is_that_beside_the_derivative(measure, terms):
    pair = draw_pair((2, 17, 18, 19, 2))
    alone, nothing = compare(*pair, measure, differentiate=False, **terms)
    assert nothing is None
    np.testing.assert_allclose(alone, compare(*pair, measure, **terms)[0], rtol=1e-13)


@pytest.mark.parametrize("intruder", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("measure", "terms"), TERMS)
def test_what_is_not_finite_shows_in_its_own_sample_alone(measure, terms, side, intruder):
    pair = draw_pair((3, 9, 10, 70, 2), dtype="float32")
    clean = compare(*pair, measure, **terms)
    pair[side][1, 4, 5, 66, 1] = intruder
    values, derivative = compare(*pair, measure, **terms)
    assert not np.isfinite(values[1])
    assert np.isfinite(values[[0, 2]]).all()
    np.testing.assert_array_equal(derivative[[0, 2]], clean[1][[0, 2]])
    assert not np.isfinite(derivative[1]).all()


@pytest.mark.parametrize("level", [0.0, 0.1, -1e6])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("dtype", BOUND)
def test_a_constant_image_tells_nothing(dtype, side, level):
    pair = list(draw_pair((1, 9, 10, 11, 1), dtype=dtype))
    pair[side][:] = level
    for measure, terms, expected in (*[(*TERMS[k], 0) for k in (1, 3)], (*TERMS[4], 1)):
        values, derivative = compare(*pair, measure, **terms)
        assert np.abs(values - expected).max() < 1e-6
        assert np.abs(derivative).max() < 1e-7
    values, derivative = compare(*pair, "self_similarity", extent=1, dilation=2)
    assert np.isfinite(values).all()
    assert side == 0 or not derivative.any()


@pytest.mark.parametrize("dtype", BOUND)
def test_a_single_far_voxel_does_not_drown_the_correlation(dtype):
    rng = np.random.default_rng(0)
    fixed = rng.normal(size=(1, 20, 21, 22, 1)) + 1e4
    moved = fixed + 0.5 * rng.normal(size=fixed.shape)
    fixed[0, 0, 0, 0] = moved[0, 0, 0, 0] = 1e4 - 20
    pair = fixed.astype(dtype), moved.astype(dtype)
    assert_agrees(compare(*pair, "correlation"), differentiate(correlation, *pair), least=0)
