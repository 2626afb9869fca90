"""Networks whose values are computed anew: the same numbers and steps, less that is kept, in the best of segments."""

import itertools

import keras
import numpy as np
import pytest

from keramorph.errors import OptionError
from keramorph.losses import MSE, Diffusion
from keramorph.networks import VoxelMorph
from keramorph.networks.rematerialization import Rematerialized, _choose_ends, _Step
from keramorph.training import RegistrationModel, RegistrationOptions
from network_cases import MAKE, SAME_ON_ALL, WIDTHS, draw, draw_inputs, list_layers, stir, to_numpy

pytestmark = pytest.mark.usefixtures("compile_quickly")

BACKEND = keras.config.backend()


def make_dropping():
    """A network with a layer that draws anew each time it is run."""
    fixed, moving = keras.Input((8, 8, 1), name="fixed"), keras.Input((8, 8, 1), name="moving")
    features = keras.layers.Concatenate()([fixed, moving])
    for number in range(3):
        features = keras.layers.Conv2D(4, 3, padding="same", activation="tanh", name=f"conv_{number}")(features)
        features = keras.layers.Dropout(0.5, seed=number, name=f"drop_{number}")(features)
    return keras.Model([fixed, moving], {"displacement": keras.layers.Conv2D(2, 3, padding="same")(features)})


def train(network, inputs, *, rematerialize):
    """Weights after two steps, and the losses."""
    model = RegistrationModel(network, MSE(), Diffusion(), options=RegistrationOptions(rematerialize=rematerialize))
    model.compile(keras.optimizers.SGD(0.1), jit_compile=BACKEND == "jax")
    names = [tensor.name for tensor in network.inputs]
    batch = dict(zip(names, inputs, strict=True))
    losses = [float(model.train_on_batch(batch, return_dict=True)["loss"]) for _ in range(2)]
    return network.get_weights(), losses


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", MAKE)
@SAME_ON_ALL
def test_the_numbers_are_those_of_the_network(name, dtype):
    network = stir(MAKE[name]((13, 18, 1), dtype=dtype))
    inputs = draw_inputs(network, 13, 18, batch=2)
    rematerialized = Rematerialized(network)
    assert len(rematerialized.segments) > 1
    expected = network(inputs, training=True)
    given = dict(zip([tensor.name for tensor in network.inputs], inputs, strict=True))
    for found in (rematerialized(inputs, training=True), rematerialized(given, training=True)):
        assert set(found) == set(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(to_numpy(found[key]), to_numpy(value), err_msg=key)


@pytest.mark.parametrize("make", [lambda: MAKE["dual"]((16, 16, 1)), make_dropping], ids=["dual", "dropout"])
def test_a_training_takes_the_same_steps(make):
    """Also where a second run would draw another dropout."""
    network, other = stir(make()), make()
    other.set_weights(network.get_weights())
    before = network.get_weights()
    inputs = draw_inputs(network, *network.inputs[0].shape[1:-1])
    plain, losses = train(network, inputs, rematerialize=False)
    found, again = train(other, inputs, rematerialize=True)
    np.testing.assert_allclose(again, losses, rtol=1e-5)
    assert losses[1] != losses[0]
    for start, expected, weight in zip(before, plain, found, strict=True):
        # Of float32's seven digits, in numbers that are added up in another order.
        np.testing.assert_allclose(weight - start, expected - start, atol=1e-6)
    assert max(np.abs(expected - start).max() for start, expected in zip(before, plain, strict=True)) > 1e-3


def count_kept(run, images):
    """Bytes that the backward pass finds."""
    if BACKEND == "jax":
        import jax

        _, backward = jax.vjp(run, *images)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(backward))
    import torch

    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = run(*map(keras.ops.convert_to_tensor, images))
    assert loss.requires_grad
    return sum(kept.values())


def count_convolutions(run, images):
    """Convolutions in TensorFlow's graph of the values and of the gradient, those of the gradient itself left out."""
    import tensorflow as tf

    @tf.function
    def differentiate(*images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = run(*images)
        return tape.gradient(loss, images)

    graph = differentiate.get_concrete_function(*map(tf.constant, images)).graph
    return sum(operation.type == "Conv2D" for operation in graph.get_operations())


def test_less_is_kept_than_by_the_network():
    network = VoxelMorph((64, 64, 1), encoder=(16, 32), decoder=(32, 16), final=(16, 16, 16))
    rematerialized = Rematerialized(network)
    images = (draw(1, 64, 64, 1), draw(1, 64, 64, 1, seed=1))

    def run_with(model):
        return lambda *given: keras.ops.mean(model(list(given), training=True)["displacement"] ** 2)

    if BACKEND == "tensorflow":
        names = [layer.name for layer in list_layers(network) if isinstance(layer, keras.layers.Conv2D)]
        again = [name for segment in rematerialized.segments[:-1] for name in segment if name in names]
        assert len(again) >= 5
        assert count_convolutions(run_with(network), images) == len(names)
        assert count_convolutions(run_with(rematerialized), images) == len(names) + len(again)
    else:
        kept = [count_kept(run_with(model), images) for model in (network, rematerialized)]
        assert 0 < kept[1] < 0.7 * kept[0]


def test_what_a_second_run_would_change_is_run_once():
    segments = Rematerialized(make_dropping()).segments
    drops = [names for names in segments if any("drop" in name for name in names)]
    assert len(drops) == 3
    assert drops[:-1] == [("drop_0",), ("drop_1",)][: len(drops) - 1]
    assert all(len(names) == 1 or names == segments[-1] for names in drops)


@pytest.mark.parametrize("seed", range(8))
@SAME_ON_ALL
def test_no_other_segments_hold_less(seed):
    """All ways to cut a random graph of eight steps, one after the other."""
    generator = np.random.default_rng(seed)
    specs = [keras.KerasTensor((1, int(size))) for size in generator.integers(1, 60, 9)]
    taken = [[0], *([*{number - 1, int(generator.integers(0, number))}] for number in range(2, 9))]
    steps = [
        _Step(len, str(number), [specs[key] for key in keys], {}, [specs[number]])
        for number, keys in enumerate(taken, start=1)
    ]
    needed = {id(specs[-1])}

    def measure(ends):
        """The most that is held, by walking through the segments."""
        kept, most = 0, 0
        for a, b in itertools.pairwise([0, *ends]):
            sizes = [step.size for step in steps[a:b]]
            most = max(most, kept + sum(sizes) + 2 * max(sizes))
            later = {key for step in steps[b:] for key in step.takes} | needed
            kept += sum(step.size for step in steps[a:b] if {id(spec) for spec in step.outputs} & later)
        return most

    cuts = [c for count in range(8) for c in itertools.combinations(range(1, 8), count)]
    least = min(measure([*cut, 8]) for cut in cuts)
    assert least <= measure(_choose_ends(steps, needed)) <= 1.02 * least < measure([8])


@SAME_ON_ALL
def test_a_network_that_is_no_graph_is_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return {"displacement": keras.ops.concatenate(inputs, -1)}

    class Further(VoxelMorph):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs)

    for network in (Own(), Further((16, 16, 1), **WIDTHS)):
        with pytest.raises(OptionError, match="rematerialized"):
            RegistrationModel(network, MSE(), Diffusion(), options=RegistrationOptions(rematerialize=True))
