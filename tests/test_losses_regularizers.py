"""Diffusion, bending and folding against closed forms, NumPy and SimpleITK; one energy on every grid."""

import itertools

import hypothesis
import keras
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import strategies as st

from autodiff import assert_gradient_matches_differences, double_precision, evaluate
from keramorph.errors import OptionError, ShapeError
from keramorph.losses import Bending, Diffusion, bending, diffusion, jacobian_folding

SHAPES = [(9,), (5, 6), (5, 6, 7)]
ENERGIES = [diffusion, bending, jacobian_folding]


def coordinates(shape, spacing=1.0):
    """Millimetres of each voxel, `(*shape, ndim)`."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * spacing


def draw_field(shape, seed=0, scale=0.5):
    return np.random.default_rng(seed).normal(scale=scale, size=(2, *shape, len(shape)))


@pytest.mark.parametrize("shape", SHAPES)
def test_diffusion_of_an_affine_is_the_norm_of_its_matrix(shape):
    ndim = len(shape)
    matrix = np.eye(ndim) + np.random.default_rng(0).normal(size=(ndim, ndim))
    field = (coordinates(shape) @ (matrix - np.eye(ndim)).T + 3.0)[None]
    np.testing.assert_allclose(evaluate(diffusion, field), ((matrix - np.eye(ndim)) ** 2).sum(), rtol=1e-12)
    absolute = evaluate(Diffusion(order=1).call, np.zeros((1, 1)), field)
    np.testing.assert_allclose(absolute, np.abs(matrix - np.eye(ndim)).sum(), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_diffusion_is_the_mean_of_numpys_differences(shape):
    field = draw_field(shape)
    for order in (1, 2):
        each = [
            (np.abs(np.diff(sample, axis=axis)) ** order).sum(-1).mean()
            for sample in field
            for axis in range(len(shape))
        ]
        found = evaluate(lambda u, order=order: diffusion(u, order=order), field)
        np.testing.assert_allclose(found, np.reshape(each, (2, -1)).sum(1), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_is_the_mean_of_numpys_second_differences(shape):
    field = draw_field(shape)
    each = [
        (np.diff(np.diff(sample, axis=i), axis=j) ** 2).sum(-1).mean()
        for sample in field
        for i, j in itertools.product(range(len(shape)), repeat=2)
    ]
    np.testing.assert_allclose(evaluate(bending, field), np.reshape(each, (2, -1)).sum(1), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_of_an_affine_is_zero_and_of_a_quadratic_the_norm_of_its_hessians(shape):
    ndim = len(shape)
    rng = np.random.default_rng(0)
    x = coordinates(shape)
    affine = x @ rng.normal(size=(ndim, ndim)) + rng.normal(size=ndim)
    np.testing.assert_allclose(evaluate(bending, affine[None]), 0, atol=1e-24)
    hessians = rng.normal(size=(ndim, ndim, ndim))
    hessians = hessians + hessians.swapaxes(1, 2)
    quadratic = affine + 0.5 * np.einsum("...i,dij,...j->...d", x, hessians, x)
    np.testing.assert_allclose(evaluate(bending, quadratic[None]), (hessians**2).sum(), rtol=1e-10)


@hypothesis.given(spacing=st.lists(st.floats(0.2, 5.0), min_size=3, max_size=3), seed=st.integers(0, 99))
@hypothesis.settings(max_examples=10)
def test_one_deformation_in_millimetres_has_one_energy_on_every_grid(spacing, seed):
    """u_mm is affine plus quadratic in millimetres: the differences of neighbours are exact on any grid."""
    rng = np.random.default_rng(seed)
    matrix, hessians = rng.normal(size=(3, 3)), rng.normal(size=(3, 3, 3))
    hessians = hessians + hessians.swapaxes(1, 2)
    for energy, bent, expected in (
        (diffusion, 0.0, (matrix**2).sum()),
        (lambda u, **options: diffusion(u, order=1, **options), 0.0, np.abs(matrix).sum()),
        (bending, 1.0, (hessians**2).sum()),
    ):
        x = coordinates((4, 5, 3), spacing)
        in_mm = x @ matrix.T + 0.5 * bent * np.einsum("...i,dij,...j->...d", x, hessians, x)
        in_voxels = (in_mm / spacing)[None]
        found = evaluate_once(energy, in_voxels, tuple(spacing))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def evaluate_once(energy, field, spacing):
    """In float64 and without compiling: each example has another spacing."""
    with double_precision():
        field = keras.ops.convert_to_tensor(field, dtype="float64")
        return np.asarray(keras.ops.convert_to_numpy(energy(field, spacing=spacing)))


@pytest.mark.parametrize("energy", ENERGIES)
def test_spacing_of_one_millimetre_is_that_of_voxels(energy):
    field = draw_field((5, 6))
    expected = evaluate(energy, field)
    for spacing in (1.0, (1.0, 1.0), np.ones(2)):
        np.testing.assert_allclose(evaluate(lambda u, s=spacing: energy(u, spacing=s), field), expected, rtol=1e-12)


def test_bending_falls_with_the_square_of_an_isotropic_spacing_and_diffusion_not_at_all():
    field = draw_field((5, 6, 4))
    np.testing.assert_allclose(evaluate(lambda u: bending(u, spacing=2.0), field), evaluate(bending, field) / 4)
    np.testing.assert_allclose(evaluate(lambda u: diffusion(u, spacing=2.0), field), evaluate(diffusion, field))


def test_folding_does_not_depend_on_the_spacing():
    field = draw_field((5, 6, 4), scale=1.0)
    expected = evaluate(jacobian_folding, field)
    assert (expected > 0.01).all()
    np.testing.assert_array_equal(evaluate(lambda u: jacobian_folding(u, spacing=(3, 2, 1)), field), expected)


@pytest.mark.parametrize("shape", [(7, 8), (5, 6, 7)])
def test_folding_is_the_negative_part_of_simpleitks_determinant(shape):
    """ITK extends the field by its edge where ours is one-sided: an edge that stands still is the same to both."""
    field = np.zeros((1, *shape, len(shape)))
    inner = tuple(slice(2, -2) for _ in shape)
    field[(0, *inner)] = np.random.default_rng(0).normal(scale=2.0, size=field[(0, *inner)].shape)
    determinant = sitk.GetArrayFromImage(
        sitk.DisplacementFieldJacobianDeterminant(sitk.GetImageFromArray(field[0, ..., ::-1], isVector=True))
    )
    expected = np.maximum(-determinant, 0).mean()
    assert expected > 0.01
    np.testing.assert_allclose(evaluate(jacobian_folding, field), expected, rtol=1e-9)


def test_folding_of_a_reflection_is_one_and_of_a_compression_zero():
    x = coordinates((5, 6))[None]
    np.testing.assert_allclose(evaluate(jacobian_folding, -2 * x * [1, 0]), 1, rtol=1e-12)
    np.testing.assert_allclose(evaluate(jacobian_folding, -0.9 * x), 0)


@pytest.mark.parametrize(
    "energy",
    [
        lambda u: diffusion(u, spacing=(3.0, 2.0)),
        lambda u: diffusion(u, order=1),
        lambda u: bending(u, spacing=(3.0, 2.0)),
        jacobian_folding,
    ],
    ids=["diffusion", "l1-diffusion", "bending", "folding"],
)
def test_gradients_are_those_of_finite_differences(energy):
    assert_gradient_matches_differences(energy, draw_field((5, 6), scale=1.0))


@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("shape", [(1, 6), (2, 1), (1, 1, 1)])
def test_axes_of_one_voxel_add_nothing(energy, shape):
    field = np.zeros((2, *shape, len(shape)))
    np.testing.assert_array_equal(evaluate(energy, field), np.zeros(2))


@pytest.mark.parametrize("loss", [Diffusion(), Bending()])
def test_a_field_that_alternates_from_voxel_to_voxel_is_seen(loss):
    """Central differences, which skip a voxel, take it for constant."""
    field = np.zeros((1, 6, 7, 2))
    field[:, ::2] = 1
    assert evaluate(loss.call, np.zeros((1, 1)), field) > 0.5


@pytest.mark.parametrize("energy", ENERGIES)
def test_bad_fields_and_spacings_are_named(energy):
    with pytest.raises(ShapeError, match=r"Received: displacement.shape=\(1, 5, 6, 3\)"):
        energy(np.zeros((1, 5, 6, 3), "float32"))
    with pytest.raises(ShapeError, match=r"Received: spacing=\(1.0, 1.0, 1.0\)"):
        energy(np.zeros((1, 5, 6, 2), "float32"), spacing=(1.0, 1.0, 1.0))
    with pytest.raises(OptionError, match=r"Received: spacing=\(1.0, 0.0\)"):
        energy(np.zeros((1, 5, 6, 2), "float32"), spacing=(1.0, 0.0))
    with pytest.raises(OptionError, match="order=3"):
        Diffusion(order=3)
