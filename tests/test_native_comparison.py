"""Comparison of two images by the kernels, inside each framework: values and derivatives of the formulas."""

import numpy as np
import pytest

from conftest import to_engine
from differentiate import double_precision, gradients, second_gradient
from keramorph import backend
from keramorph.backend import Comparison, native
from plain_measures import MEASURES

SHAPES = [(13,), (9, 8), (5, 6, 7)]
LIBRARIES = {"jax": "xla", "tensorflow": "tensorflow"}


@pytest.fixture
def engine(engine_name):
    """The engine under test, where it can call the kernels."""
    library = LIBRARIES.get(engine_name)
    if engine_name == "numpy" or native.extension() is None or (library and native.library(library) is None):
        pytest.skip("frameworks with kernels")
    return backend.use(engine_name)


def each_measure():
    return pytest.mark.parametrize(("comparison", "formula"), MEASURES.values(), ids=list(MEASURES))


def draw_pair(shape, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    fixed = rng.normal(size=(2, *shape, 3))
    return [a.astype(dtype) for a in (fixed, 0.6 * fixed + rng.normal(size=fixed.shape) + 3)]


def refuse(fixed, moved):
    raise AssertionError("the formula was asked, and there is a kernel")


def bind(engine, comparison, portably=refuse):
    """Function of two tensors; each sample has a weight of its own, so that none can be taken for another."""

    def compare(fixed, moved):
        values = engine.compare(fixed, moved, comparison, portably=portably)
        return values * to_engine(engine.name, np.array([1.0, -3.0], dtype=engine.xp.dtype(values)))

    return compare


def bind_formula(engine, formula):
    return bind(engine, Comparison("correlation", extent=10**6), compile_formula(engine, formula))


def compile_formula(engine, formula):
    return engine.xp.compile(lambda f, m: formula(engine.xp, f, m))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_measure()
def test_values_and_gradients_are_those_of_the_formula(engine, comparison, formula, shape):
    pair = draw_pair(shape)
    found, expected = bind(engine, comparison), bind_formula(engine, formula)
    with double_precision(engine.name):
        tensors = [to_engine(engine.name, a) for a in pair]
        values = np.asarray(found(*tensors))
        assert values.shape == (2,)
        np.testing.assert_allclose(values, np.asarray(expected(*tensors)), rtol=1e-10)
    for one, other in zip(gradients(engine.name, found, *pair), gradients(engine.name, expected, *pair), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * np.abs(other).max())


@each_measure()
def test_the_gradient_to_one_image_alone_is_the_same(engine, comparison, formula):
    fixed, moved = draw_pair((9, 8))
    both = gradients(engine.name, bind_formula(engine, formula), fixed, moved)
    compare = bind(engine, comparison)
    to_fixed = gradients(engine.name, lambda f: compare(f, to_engine(engine.name, moved)), fixed)
    to_moved = gradients(engine.name, lambda m: compare(to_engine(engine.name, fixed), m), moved)
    for one, other in zip([*to_fixed, *to_moved], both, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * np.abs(other).max())


@each_measure()
def test_an_image_compared_with_itself_has_both_gradients(engine, comparison, formula):
    fixed, _ = draw_pair((9, 8))
    (found,) = gradients(engine.name, lambda x: bind(engine, comparison)(x, x), fixed)
    (expected,) = gradients(engine.name, lambda x: bind_formula(engine, formula)(x, x), fixed)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@each_measure()
def test_single_precision_is_near(engine, comparison, formula):
    pair = draw_pair((9, 8), "float32")
    found = np.asarray(bind(engine, comparison)(*(to_engine(engine.name, a) for a in pair)))
    expected = bind_formula(engine, formula)
    assert found.dtype == np.float32
    with double_precision(engine.name):
        wide = np.asarray(expected(*(to_engine(engine.name, a.astype("float64")) for a in pair)))
    np.testing.assert_allclose(found, wide, rtol=1e-5)


@each_measure()
def test_the_derivative_of_the_derivative_is_that_of_the_formula(engine, comparison, formula):
    pair = draw_pair((6, 5))
    found = bind(engine, comparison, compile_formula(engine, formula))
    expected = bind_formula(engine, formula)
    for order in (1, -1):
        one, other = (second_gradient(engine.name, f, *pair[::order]) for f in (found, expected))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-8 * np.abs(other).max())


@pytest.mark.parametrize(
    ("pair", "comparison"),
    [
        (draw_pair((6, 7), "float16"), Comparison("squared_difference")),
        (draw_pair((6, 7), "int32"), Comparison("squared_difference")),
        ([draw_pair((6, 7), dtype)[0] for dtype in ("float32", "int32")], Comparison("squared_difference")),
        ([a[:0] for a in draw_pair((6, 7), "float32")], Comparison("squared_difference")),
        ([draw_pair(shape, "float32")[0] for shape in ((6, 7), (6, 1))], Comparison("squared_difference")),
        (draw_pair((6, 7), "float32"), Comparison("local_correlation", 301)),
        (draw_pair((6,), "float32"), Comparison("self_similarity", 1, 2)),
        (draw_pair((3, 3, 3, 3), "float32"), Comparison("correlation")),
    ],
    ids=["half", "whole", "mixed", "empty", "another-shape", "wide", "line", "four"],
)
def test_what_no_kernel_can_do_is_left_to_the_formula(engine, pair, comparison):
    asked = []

    def answer(fixed, moved):
        asked.append(fixed)
        return moved

    engine.compare(*(to_engine(engine.name, a) for a in pair), comparison, portably=answer)
    assert len(asked) == 1


@pytest.mark.parametrize("terms", [(5, 0, 0), (2, 4, 0), (2, 999, 0), (3, 3, 0), (4, 1, 0), (4, 1, 999), (4, -1, 1)])
def test_the_extension_refuses_terms_that_it_does_not_know(terms):
    extension = native.extension()
    if extension is None:
        pytest.skip("no extension")
    image, values = np.zeros((1, 6, 7, 1)), np.zeros(1)
    volume = extension.Volume(3, list(image.shape))
    with pytest.raises(ValueError, match="expected"):
        extension.compare(volume, *terms, False, image, image, values, None)
