"""TensorFlow with the kernels: where they are ops of a graph, and where the portable form must stand instead."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from keramorph import backend, ops
from keramorph.backend import native
from plain_measures import MEASURES


@pytest.fixture(autouse=True)
def _tensorflow_with_kernels(engine_name):
    if engine_name != "tensorflow" or native.library("tensorflow") is None:
        pytest.skip("TensorFlow's kernels")
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("with a GPU at hand, graphs are portable")


def case(shape=(6, 7), batch=2, dtype="float32"):
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, *shape, 3)).astype(dtype), rng.uniform(-3, 3, size=(batch, *shape, 2)).astype(dtype)


def by_scipy(image, field, **options):
    index = np.moveaxis(np.moveaxis(np.indices(field.shape[1:-1]), 0, -1) + field, -1, 1)
    found = np.zeros((*field.shape[:-1], image.shape[-1]))
    for b, c in np.ndindex(image.shape[0], image.shape[-1]):
        found[b, ..., c] = map_coordinates(image[b, ..., c].astype("float64"), index[b], **options)
    return found


def list_types(function) -> set[str]:
    return {operation.type for operation in function.graph.get_operations()}


def test_a_graph_with_open_sizes_holds_the_op_and_knows_what_can_be_known():
    import tensorflow as tf

    open_sizes = [tf.TensorSpec((None, None, 7, 3)), tf.TensorSpec((None, 6, None, 2))]
    function = tf.function(ops.warp).get_concrete_function(*open_sizes)
    assert "KeramorphSample" in list_types(function)
    assert function.output_shapes.as_list() == [None, 6, None, 3]
    image, field = map(tf.constant, case())
    np.testing.assert_allclose(
        function(image, field), by_scipy(image.numpy(), field.numpy(), order=1, mode="nearest"), atol=1e-5
    )


def test_sizes_that_turn_out_not_to_match_are_refused():
    import tensorflow as tf

    open_sizes = [tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, None, None, 2))]
    function = tf.function(ops.warp).get_concrete_function(*open_sizes)
    image, field = map(tf.constant, case())
    with pytest.raises(tf.errors.InvalidArgumentError, match="same batch size"):
        function(image, tf.concat([field, field], 0))


def test_xla_gets_the_portable_form_and_so_does_a_gradient_taken_outside():
    import tensorflow as tf

    image, field = map(tf.constant, case())
    compiled = tf.function(ops.warp, jit_compile=True)
    assert not any(name.startswith("Keramorph") for name in list_types(compiled.get_concrete_function(image, field)))
    gradients = []
    for function in (compiled, ops.warp):
        with tf.GradientTape() as tape:
            tape.watch([image, field])
            total = tf.reduce_sum(function(image, field) ** 2)
        gradients.append(tape.gradient(total, [image, field]))
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_eager_gradient_to_the_displacement_alone_splats_nothing(monkeypatch):
    import tensorflow as tf

    from keramorph.backend import tensorflow_kernels

    def refuse(*_, **__):
        raise AssertionError("a splat")

    monkeypatch.setattr(tensorflow_kernels, "splat", refuse)
    image, field = map(tf.constant, case())
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(field)
        total = tf.reduce_sum(ops.warp(image, field) ** 2)
    assert tape.gradient(total, field) is not None
    with tf.GradientTape() as tape:
        tape.watch(image)
        total = tf.reduce_sum(ops.warp(image, field))
    with pytest.raises(AssertionError, match="a splat"):
        tape.gradient(total, image)


def test_a_fill_value_keeps_the_digits_of_float64():
    import tensorflow as tf

    image, field = map(tf.constant, case(dtype="float64"))
    moved = ops.warp(image, field + 100, boundary="constant", fill_value=0.1).numpy()
    assert (moved == 0.1).all()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "bfloat16"])
def test_every_data_type_is_copied_whole_with_its_own_fill_value(dtype):
    import tensorflow as tf

    image, field = case()
    stored = tf.cast(tf.constant(image > 0 if dtype == "bool" else np.abs(np.round(9 * image))), dtype)
    found = ops.warp(stored, tf.constant(field), order=0, boundary="constant", fill_value=1)
    assert found.dtype == stored.dtype
    expected = by_scipy(tf.cast(stored, "float64").numpy(), field, order=0, mode="constant", cval=1)
    np.testing.assert_array_equal(tf.cast(found, "float64"), expected)


def test_a_saved_model_runs_without_keramorph(tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.warp = tf.function(
        ops.warp, input_signature=[tf.TensorSpec((None, 6, 7, 3)), tf.TensorSpec((None, 6, 7, 2))]
    )
    image, field = case()
    expected = module.warp(image, field)  # traced with the op, before it is saved
    tf.saved_model.save(module, str(tmp_path / "saved"))
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "field.npy", field)
    program = (
        "import numpy as np, sys, tensorflow as tf; "
        "warp = tf.saved_model.load('saved').warp; "
        "np.save('moved.npy', warp(*(tf.constant(np.load(name + '.npy')) for name in ('image', 'field')))); "
        "assert 'keramorph' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "moved.npy"), expected, atol=1e-5)


@pytest.mark.parametrize("jit_compile", ["auto", True])
def test_a_model_trains_the_same_with_and_without_xla(jit_compile):
    import keras

    from keramorph import layers

    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow's own")
    image, _ = case(batch=4)
    keras.utils.set_random_seed(0)
    moving = keras.Input(image.shape[1:])
    displacement = keras.layers.Conv2D(2, 3, padding="same")(moving)
    model = keras.Model(moving, layers.Warp(data_format="channels_last")([moving, displacement]))
    model.compile("sgd", "mse", jit_compile=jit_compile)
    losses = model.fit(image, image[::-1], epochs=3, verbose=0, shuffle=False).history["loss"]
    assert losses[-1] < losses[0]


COMPARISON, FORMULA = MEASURES["ncc"]
VALUE, BOTH = "KeramorphCompare", "KeramorphCompareWithDerivative"


def formula(fixed, moved):
    return FORMULA(backend.use("tensorflow").xp, fixed, moved)


def compare(fixed, moved):
    return backend.use("tensorflow").compare(fixed, moved, COMPARISON, portably=formula)


def draw_pair():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    fixed = rng.normal(size=(2, 9, 8, 3))
    return [tf.constant(a.astype("float32")) for a in (fixed, 0.6 * fixed + rng.normal(size=fixed.shape))]


def differentiate(function, pair, which=(0, 1)):
    """Value of a function of two images, and the gradients of a weighted sum to some of them."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        wanted = [pair[k] for k in which]
        tape.watch(wanted)
        value = function(*pair)
        total = tf.reduce_sum(value * tf.constant([1.0, -3.0]))
    return [value, *tape.gradient(total, wanted)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_comparison_in_a_graph_with_open_sizes_is_one_op_per_gradient():
    import tensorflow as tf

    pair = draw_pair()
    open_sizes = tf.TensorSpec((None, None, 8, 3))
    for which in ((0,), (1,), (0, 1)):
        function = tf.function(lambda *images, which=which: differentiate(compare, images, which))
        graph = function.get_concrete_function(open_sizes, open_sizes)
        names = [operation.type for operation in find_needed(graph)]
        assert (names.count(VALUE), names.count(BOTH)) == (0, len(which))
        assert graph.output_shapes[0].as_list() == [None]
        assert graph.output_shapes[1].as_list() == [None, None, 8, 3]
        assert_same(graph(*pair), differentiate(formula, pair, which))
    graph = tf.function(compare).get_concrete_function(open_sizes, open_sizes)
    names = [operation.type for operation in find_needed(graph)]
    assert (names.count(VALUE), names.count(BOTH)) == (1, 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="of one shape"):
        graph(pair[0], pair[1][:, :5])


def find_needed(graph):
    """Operations that the outputs of a TensorFlow function depend on."""
    needed, waiting = {}, [tensor.op for tensor in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name not in needed:
            needed[operation.name] = operation
            waiting += [tensor.op for tensor in operation.inputs]
    return needed.values()


def test_a_function_that_compares_is_differentiated_from_outside():
    import tensorflow as tf

    pair = draw_pair()
    expected = differentiate(formula, pair)
    assert_same(differentiate(tf.function(compare), pair), expected)
    inside = tf.function(lambda *images: differentiate(compare, images, (1,)))
    with tf.GradientTape() as tape:
        tape.watch(pair)
        value, to_moved = inside(*pair)
        total = tf.reduce_sum(value * tf.constant([1.0, -3.0])) + 0 * tf.reduce_sum(to_moved)
    assert_same(tape.gradient(total, pair), expected[1:])


def test_an_eager_gradient_of_a_comparison_costs_one_op_per_image(monkeypatch):
    from keramorph.backend import tensorflow_kernels

    calls = []
    for name in ("compare", "compare_with_derivative"):
        kernel = getattr(tensorflow_kernels, name)
        monkeypatch.setattr(
            tensorflow_kernels, name, lambda *a, name=name, kernel=kernel: (calls.append(name), kernel(*a))[1]
        )
    pair = draw_pair()
    compare(*pair)
    assert calls == ["compare"]
    for which in ((0,), (1,), (0, 1)):
        calls.clear()
        assert_same(differentiate(compare, pair, which), differentiate(formula, pair, which))
        assert calls == ["compare_with_derivative"] * len(which)


def test_a_comparison_under_xla_and_one_that_is_saved_are_the_formula(tmp_path):
    import tensorflow as tf

    pair = draw_pair()
    compiled = tf.function(compare, jit_compile=True)
    assert not any(name.startswith("Keramorph") for name in list_types(compiled.get_concrete_function(*pair)))
    assert_same(differentiate(compiled, pair), differentiate(formula, pair))
    module = tf.Module()
    module.compare = tf.function(compare, input_signature=[tf.TensorSpec((2, 9, 8, 3))] * 2)
    module.compare(*pair)  # traced with the op, before it is saved
    tf.saved_model.save(module, str(tmp_path / "saved"))
    np.save(tmp_path / "pair.npy", np.stack(pair))
    program = (
        "import numpy as np, sys, tensorflow as tf; compare = tf.saved_model.load('saved').compare; "
        "np.save('values.npy', compare(*map(tf.constant, np.load('pair.npy')))); assert 'keramorph' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "values.npy"), formula(*pair), rtol=1e-5)


@pytest.mark.parametrize("jit_compile", ["auto", True])
def test_a_model_learns_from_every_similarity(jit_compile):
    import keras

    from keramorph import losses

    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow's own")
    histories = []
    for kernels in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not kernels:
                patch.setattr(
                    backend.use("tensorflow"), "compare", lambda f, m, _, portably: portably(f, m), raising=False
                )
            keras.utils.set_random_seed(0)
            image = keras.Input((None, None, 3))
            moved = keras.layers.Conv2D(3, 3, padding="same")(image)
            each = [losses.MSE(), losses.NCC(), losses.LNCC(5), losses.MutualInformation(8), losses.MINDSSC()]
            model = keras.Model(image, [moved] * len(each))
            model.compile("sgd", each, jit_compile=jit_compile)
            fixed, moving = (a.numpy() for a in draw_pair())
            histories.append(model.fit(moving, [fixed] * len(each), epochs=3, verbose=0, shuffle=False).history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-5)
    assert histories[0][-1] < histories[0][0]
