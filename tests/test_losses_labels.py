"""Soft Dice and cross-entropy of labels against counting and NumPy."""

import keras
import numpy as np
import pytest

from autodiff import assert_gradient_matches_differences, evaluate, value_and_gradient
from keramorph.errors import ShapeError
from keramorph.losses import CrossEntropy, SoftDice

SHAPES = [(2, 13), (2, 6, 7), (1, 4, 5, 6)]


def draw_labels(shape, count, seed):
    return np.random.default_rng(seed).integers(0, count, size=shape)


def draw_probabilities(shape, count, seed=0):
    raw = np.random.default_rng(seed).uniform(0.1, 1, size=(*shape, count))
    return raw / raw.sum(-1, keepdims=True)


def one_hot(labels, count):
    return np.eye(count)[labels]


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_dice_of_hard_labels_counts_them(shape):
    fixed, moved = draw_labels(shape, 4, seed=1), draw_labels(shape, 4, seed=2)
    each = [
        np.mean([2 * ((f == k) & (m == k)).sum() / ((f == k).sum() + (m == k).sum()) for k in range(4)])
        for f, m in zip(fixed, moved, strict=True)
    ]
    found = evaluate(SoftDice().call, one_hot(fixed, 4), one_hot(moved, 4))
    np.testing.assert_allclose(found, 1 - np.array(each), rtol=1e-12)


def test_labels_in_neither_map_do_not_count():
    fixed, moved = one_hot(np.array([[0, 0, 1, 1]]), 5), one_hot(np.array([[0, 1, 1, 1]]), 5)
    np.testing.assert_allclose(evaluate(SoftDice().call, fixed, moved), 1 - (2 / 3 + 4 / 5) / 2, rtol=1e-12)
    value, gradients = value_and_gradient(SoftDice().call, 0 * fixed, 0 * moved)
    np.testing.assert_array_equal(value, 0)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_is_that_of_the_definition(shape):
    fixed, moved = one_hot(draw_labels(shape, 3, seed=1), 3), draw_probabilities(shape, 3)
    expected = -np.log(moved)[fixed > 0].reshape(shape[0], -1).mean(1)
    np.testing.assert_allclose(evaluate(CrossEntropy().call, fixed, moved), expected, rtol=1e-5)
    np.testing.assert_allclose(evaluate(CrossEntropy().call, fixed, 7 * moved), expected, rtol=1e-5)


def test_cross_entropy_of_what_came_from_outside_is_that_of_ignorance():
    fixed = one_hot(draw_labels((2, 6), 4, seed=1), 4)
    value, gradients = value_and_gradient(CrossEntropy().call, fixed, np.zeros_like(fixed))
    np.testing.assert_allclose(value, np.log(4), rtol=1e-12)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    overshoot = np.where(fixed > 0, 1.1, -0.1)  # cubic interpolation of one-hot labels
    np.testing.assert_allclose(evaluate(CrossEntropy().call, fixed, overshoot), 0, atol=1e-5)


@pytest.mark.parametrize("loss", [SoftDice(), CrossEntropy()])
def test_gradients_are_those_of_finite_differences(loss):
    fixed, moved = draw_probabilities((2, 5, 6), 3, seed=1), draw_probabilities((2, 5, 6), 3, seed=2)
    assert_gradient_matches_differences(loss.call, fixed, moved)


@pytest.mark.parametrize("loss", [SoftDice(), CrossEntropy()])
def test_half_precision_labels_have_float32_sums(loss):
    """float16 counts up to 2048 one by one; here are 10000 voxels."""
    fixed, moved = one_hot(draw_labels((1, 10000), 2, seed=1), 2), draw_probabilities((1, 10000), 2)
    half = loss.call(
        *(keras.ops.cast(keras.ops.convert_to_tensor(array, dtype="float32"), "float16") for array in (fixed, moved))
    )
    np.testing.assert_allclose(keras.ops.convert_to_numpy(half), evaluate(loss.call, fixed, moved), rtol=1e-3)


@pytest.mark.parametrize("loss", [SoftDice(), CrossEntropy()])
def test_unequal_numbers_of_labels_are_named(loss):
    with pytest.raises(ShapeError, match=r"Received: y_true\.shape"):
        loss(np.zeros((1, 5, 3)), np.zeros((1, 5, 4)))
