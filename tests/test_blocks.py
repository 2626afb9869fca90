"""Work in blocks: the same numbers as on whole arrays, whatever the shape, and no thread that waits for itself."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from keramorph import backend, ops
from keramorph.backend import blocks, native


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 16)
    monkeypatch.setattr(blocks, "SMALL", 32)


def draw(shape, channels, seed=0):
    return np.random.default_rng(seed).normal(size=(2, *shape, channels))


SHAPES = [(97,), (5, 60), (60, 5), (1, 70), (5, 6, 7), (40, 1, 3), (1, 1, 90), (3, 4, 5, 6)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("halo", [0, 1, 2])
def test_blocks_know_their_neighbours(shape, halo):
    image = draw(shape, 3)
    size = (1, *(2 * halo + 1 for _ in shape), 1)

    def spread(image, other):
        return ndimage.maximum_filter(image, size=size, mode="nearest"), other[..., 0] * 2

    highest, doubled = backend.use("numpy").map_blocks(spread, image, image[..., 1:], halo=halo)
    np.testing.assert_array_equal(highest, ndimage.maximum_filter(image, size=size, mode="nearest"))
    np.testing.assert_array_equal(doubled, 2 * image[..., 1])


def test_blocks_cover_each_voxel_once():
    for sizes, halo in itertools.product([(2, 9, 33, 2), (1, 200), (3, 7, 7)], (0, 1, 3)):
        count = np.zeros(sizes, dtype=int)
        for read, keep, write in blocks._cut_blocks(sizes, halo):
            count[write] += 1
            assert np.zeros(sizes)[read][keep].shape == count[write].shape
        assert (count == 1).all()


def measure_by_numpy(field):
    """Determinants by np.gradient, whose ends are one-sided too, and LAPACK."""
    ndim = field.shape[-1]
    rows = [
        [np.gradient(field[..., i], axis=1 + j) if field.shape[1 + j] > 1 else 0 * field[..., i] for j in range(ndim)]
        for i in range(ndim)
    ]
    return np.linalg.det(np.moveaxis(np.array(rows), (0, 1), (-2, -1)) + np.eye(ndim))


@pytest.mark.parametrize("shape", [(97,), (9, 40), (40, 9), (11, 12, 13), (40, 1, 9), (2, 30, 2)])
def test_determinants_at_the_seams_are_those_of_numpy(shape, make_array):
    field = (0.3 * draw(shape, len(shape))).astype(np.float32)
    tensor, wide = make_array(field), field.astype(np.float64)
    np.testing.assert_allclose(np.asarray(ops.jacobian_determinant(tensor)), measure_by_numpy(wide), atol=1e-5)


def test_missing_numbers_stay_where_they_are():
    field = np.zeros((1, 12, 12, 12, 3))
    field[0, 5, 6, 7, 0] = np.nan
    field[0, 9, 2, 3, 1] = np.inf
    wrong = ~np.isfinite(ops.jacobian_determinant(field))
    assert 0 < wrong.sum() <= 12


@pytest.mark.skipif(native.extension() is None, reason="without kernels nothing is recycled")
def test_memory_that_waits_to_be_recycled_is_handed_back():
    blocks.make_empty((1 << 20,), np.dtype("float32"))
    assert native.extension().waiting_bytes() >= 1 << 22
    backend.release_memory()
    assert native.extension().waiting_bytes() == 0


def test_blocks_within_blocks_do_not_wait_for_each_other():
    native.set_threads(2)
    try:
        done = []

        def inner(number):
            done.append(number)

        def outer(number):
            blocks.run_blocks(inner, [(number + k,) for k in range(4)])

        blocks.run_blocks(outer, [(10 * k,) for k in range(8)])
    finally:
        native.set_threads(None)
    assert sorted(done) == [10 * k + j for k in range(8) for j in range(4)]


def test_an_error_in_a_block_arrives():
    def fail(number):
        raise ArithmeticError(number)

    with pytest.raises(ArithmeticError):
        blocks.run_blocks(fail, [(1,), (2,), (3,)])


def test_torch_in_blocks_knows_no_grad_and_inference():
    torch = pytest.importorskip("torch")
    field = (0.3 * draw((11, 12, 13), 3)).astype(np.float32)
    expected = ops.jacobian_determinant(field)
    with torch.inference_mode():
        np.testing.assert_allclose(ops.jacobian_determinant(torch.tensor(field)), expected, atol=1e-6)
    tensor = torch.tensor(field, requires_grad=True)
    with torch.no_grad():
        assert not ops.jacobian_determinant(tensor).requires_grad
    assert ops.jacobian_determinant(tensor).requires_grad
