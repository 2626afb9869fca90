"""Exports: read back by whoever they are for, they find the same displacement; what cannot be written is refused."""

import importlib.util

import keras
import numpy as np
import pytest

from keramorph.errors import FileError, OptionError
from keramorph.losses import MSE, Diffusion
from keramorph.networks import ConditionalVoxelMorph, VoxelMorph
from keramorph.preparation import PairOptions
from keramorph.training import RegistrationModel, export_model, exporting

UNET = {"encoder": (4,), "decoder": (4,), "final": (4,)}
BACKEND = keras.backend.backend()
LIMIT = 1e-4
"""Voxels."""

only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes this")


def make_network(network_class=VoxelMorph, shape=(16, 12, 1), **options):
    """A network whose displacements are of some voxels."""
    network = network_class(shape, **UNET, **options)
    generator = np.random.default_rng(0)
    for weight in network.trainable_weights:
        weight.assign(generator.normal(size=weight.shape) * 0.4)
    return network


def make_images(count=1):
    return np.random.default_rng(1).random((2, count, 16, 12, 1), dtype="float32")


def find(network, *inputs):
    return {name: keras.ops.convert_to_numpy(value) for name, value in network(list(inputs)).items()}


def check(found, expected):
    assert np.abs(expected["displacement"]).max() > 1
    for name, array in expected.items():
        np.testing.assert_allclose(np.asarray(found[name]), array, atol=LIMIT)


@only_tensorflow
def test_a_saved_model_needs_nothing_of_ours(tmp_path):
    import tensorflow as tf

    network = make_network(shape=(None, None, 1), mode="velocity")
    model = RegistrationModel(network, MSE(), Diffusion(), preparation=PairOptions((16, 12)))
    export_model(model, tmp_path / "saved")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    images = make_images(3)
    check(loaded.serve(list(images)), find(network, *images))
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    used = {node.op for function in graph.library.function for node in function.node_def}
    used |= {node.op for node in graph.node}
    assert "Conv2D" in used
    assert not [name for name in used if "keramorph" in name.lower()]


@only_tensorflow
def test_litert_finds_the_same(tmp_path):
    import tensorflow as tf

    network = make_network()
    export_model(network, tmp_path / "network.tflite")
    with pytest.warns(UserWarning, match="deprecated"):
        interpreter = tf.lite.Interpreter(str(tmp_path / "network.tflite"))
    images = make_images()
    check(interpreter.get_signature_runner()(fixed=images[0], moving=images[1]), find(network, *images))


@pytest.mark.skipif(BACKEND == "jax", reason="not written on JAX")
def test_onnx_finds_the_same_with_named_inputs_and_outputs(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    for package in exporting.NEEDS["onnx", BACKEND]:
        pytest.importorskip(package)
    network = make_network(mode="velocity")
    export_model(network, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"))
    images = make_images()
    names = ["displacement", "moved"]
    found = session.run(names, {"fixed": images[0], "moving": images[1]})
    check(dict(zip(names, found, strict=True)), find(network, *images))


@only_tensorflow
def test_openvino_finds_the_same(tmp_path):
    openvino = pytest.importorskip("openvino")
    network = make_network(mode="velocity")
    export_model(network, tmp_path / "network.xml")
    # Where the processor offers it, OpenVINO computes in half precision unless it is told.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(tmp_path / "network.xml"), "CPU", options)
    images = make_images()
    found = compiled({"fixed": images[0], "moving": images[1]})
    check({name: found[name] for name in ("displacement", "moved")}, find(network, *images))


@only_tensorflow
def test_a_smoothness_is_an_input_too(tmp_path):
    import tensorflow as tf

    network = make_network(ConditionalVoxelMorph)
    export_model(network, tmp_path / "saved")
    inputs = [*make_images(), np.full((1, 1), 0.3, "float32")]
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    check(loaded.serve(inputs), find(network, *inputs))


@only_tensorflow
def test_what_a_converter_cannot_do_is_said_and_nothing_left(tmp_path, monkeypatch):
    network = make_network()

    def fail(*_, **__):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(network, "export", fail)
    with pytest.raises(OptionError, match=r"VoxelMorph on tensorflow .*no such thing.*another format"):
        export_model(network, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    backend = "torch" if BACKEND == "jax" else BACKEND
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    network = make_network()
    with pytest.raises(OptionError, match=r"pip install onnx \w+`.*keramorph\[export\]"):
        export_model(network, tmp_path / "network.onnx")


@pytest.mark.parametrize(
    ("name", "format", "error", "says"),
    [
        ("network.pb", None, OptionError, r"\.onnx"),
        ("network.xml", "onnx", FileError, r"\.onnx was expected"),
        ("network.tflite", "tf_saved_model", FileError, "no ending"),
    ],
)
def test_an_ending_that_does_not_fit_is_refused(tmp_path, name, format, error, says):
    with pytest.raises(error, match=says):
        export_model(make_network(), tmp_path / name, format=format)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow writes it")
def test_a_backend_that_cannot_write_a_format_names_one_that_can(tmp_path):
    with pytest.raises(OptionError, match="KERAS_BACKEND=tensorflow"):
        export_model(make_network(), tmp_path / "saved")


@only_tensorflow
def test_sizes_must_be_known_and_fit(tmp_path):
    network = make_network(shape=(None, None, 1))
    with pytest.raises(OptionError, match="`shape`"):
        export_model(network, tmp_path / "saved")
    with pytest.raises(OptionError, match=r"shape=\(16, 13\)"):
        export_model(make_network(), tmp_path / "saved", shape=(16, 13))
    (tmp_path / "there").mkdir()
    with pytest.raises(FileError, match="does not exist yet"):
        export_model(network, tmp_path / "there", shape=(16, 12))
