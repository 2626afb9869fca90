"""The model that trains a network: each term of its loss in NumPy, training, evaluation, files."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from keramorph.errors import InputError, OptionError, ShapeError
from keramorph.losses import MSE, NCC, Diffusion
from keramorph.networks import VoxelMorph
from keramorph.synthesis import PairFromLabels, SyntheticPairs
from keramorph.training import PairOptions, RegistrationModel, RegistrationOptions, terms

SIZE = (6, 8)
SMALL = {"encoder": (4,), "decoder": (4,), "final": (4,)}
SPACING = (2.0, 0.5)
JIT = keras.config.backend() == "jax"
"""On JAX one compilation is faster than operations one by one; on the others it is not."""


@pytest.fixture
def policy():
    """Function that sets the global data type policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@keras.saving.register_keras_serializable(package="test")
class Known(keras.Model):
    """A network whose displacement is a formula of its inputs, other forwards than backwards."""

    def call(self, inputs):
        fixed, moving = inputs
        return {"displacement": keras.ops.concatenate([2 * fixed - moving, 0.5 * moving - fixed], axis=-1)}


def displace(fixed, moving):
    return np.concatenate([2 * fixed - moving, 0.5 * moving - fixed], axis=-1)


def draw_batch(count=2):
    generator = np.random.default_rng(3)
    x = {name: generator.random((count, *SIZE, 1), dtype="float32") for name in ("fixed", "moving")}
    maps = {name: generator.integers(0, 3, (count, *SIZE)) for name in ("fixed", "moving")}
    x |= {f"{name}_labels": np.eye(3, dtype="float32")[array][..., 1:] for name, array in maps.items()}
    for name in ("fixed", "moving"):
        x[f"{name}_landmarks"] = generator.uniform(0, 5, (count, 4, 2)).astype("float32")
    x["moving_landmarks"][0, 1, 0] = np.nan
    return x


def warp(image, displacement):
    """SciPy's linear interpolation, the edge extended, of one sample `(*spatial, channels)`."""
    places = np.moveaxis(np.indices(displacement.shape[:-1], dtype="float64"), 0, -1) + displacement
    return read(image, places)


def read(image, places):
    channels = [
        ndimage.map_coordinates(image[..., c].astype("float64"), np.moveaxis(places, -1, 0), order=1, mode="nearest")
        for c in range(image.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def energy(field):
    return sum(np.mean(np.diff(field, axis=axis) ** 2) for axis in (0, 1)) * field.shape[-1]


def halve(image):
    return image.reshape(SIZE[0] // 2, 2, SIZE[1] // 2, 2, 1).mean(axis=(1, 3))


def overlap(fixed, moved):
    """Dice of each of two labels that are there, soft or decided."""
    return [2 * (f * m).sum() / (f + m).sum() for f, m in zip(fixed.T, moved.T, strict=True) if (f + m).sum() > 0]


def decide(labels):
    """One-hot of the most probable label, none where what they leave over is more."""
    best = np.concatenate([1 - labels.sum(axis=-1, keepdims=True), labels], axis=-1).argmax(axis=-1)
    return np.eye(3)[best][..., 1:]


def measure_way(x, k, names=("fixed", "moving")):
    """Terms and scores of sample k, from the first image to the second."""
    fixed, moving = (x[name][k].astype("float64") for name in names)
    labels = [x[f"{name}_labels"][k] for name in names]
    points = [x[f"{name}_landmarks"][k].astype("float64") for name in names]
    field = displace(fixed, moving)
    moved, carried = warp(moving, field), warp(labels[1], field)
    there = np.isfinite(points[0]).all(axis=-1) & np.isfinite(points[1]).all(axis=-1)
    missed = (points[0] + read(field, points[0]) - points[1])[there] * SPACING
    distances = np.linalg.norm(missed, axis=-1)
    slopes = np.stack(np.gradient(field, axis=(0, 1)), axis=-1) + np.eye(2)
    return {
        "similarity": (np.mean((fixed - moved) ** 2) + np.mean((halve(fixed) - halve(moved)) ** 2)) / 2,
        "regularity": energy(field),
        "labels": 1 - np.mean(overlap(labels[0], carried)),
        "landmarks": distances.mean(),
        "distances": distances,
        "dice": np.mean(overlap(labels[0], decide(carried))),
        "folds_percent": 100 * np.mean(np.linalg.det(slopes) <= 0),
        "field": field,
    }


def measure(x, k, weights, bidirectional):
    forth, back = measure_way(x, k), measure_way(x, k, ("moving", "fixed"))
    composed = back["field"] + warp(forth["field"], back["field"])
    means = {
        n: (forth[n] + back[n]) / 2 if bidirectional else forth[n]
        for n in ("similarity", "regularity", "labels", "landmarks")
    }
    means |= {"inverse_consistency": (composed**2).sum(axis=-1).mean(), "gradicon": energy(composed)}
    return forth | means | {"loss": sum(weights.get(name, 1.0) * value for name, value in means.items())}


WEIGHTS = {"regularity": 0.3, "labels": 0.7, "landmarks": 0.2, "inverse_consistency": 0.4, "gradicon": 0.6}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_each_term_and_score_is_its_definition_in_numpy(bidirectional):
    x = draw_batch(3)
    options = RegistrationOptions(**WEIGHTS, bidirectional=bidirectional, scales=(1, 2), spacing=SPACING)
    model = RegistrationModel(Known(), MSE(), Diffusion(), options=options)
    model.compile("sgd")
    ignored = {"displacement": np.zeros((3, *SIZE, 2), "float32")}
    logs = model.evaluate(x | ignored, batch_size=2, verbose=0, return_dict=True)
    samples = [measure(x, k, WEIGHTS, bidirectional) for k in range(3)]
    expected = {name: np.mean([sample[name] for sample in samples]) for name in logs if name != "tre"}
    expected["tre"] = np.concatenate([sample["distances"] for sample in samples]).mean()
    assert set(logs) == {"loss", "similarity", *WEIGHTS, "dice", "tre", "folds_percent"}
    for name, value in logs.items():
        assert value == pytest.approx(expected[name], rel=2e-5, abs=1e-6), name
    assert 0 < expected["folds_percent"] < 100


def test_regularity_may_be_any_loss_and_sums_with_the_weights_of_the_samples():
    """The mean over the samples, not over the weights, as with Keras' own losses."""
    x = {name: draw_batch()[name] for name in ("fixed", "moving")}
    model = RegistrationModel(Known(), keras.losses.MeanAbsoluteError(), keras.losses.MeanSquaredError())
    model.compile("sgd")
    found = model.test_on_batch(x, sample_weight=np.array([1.0, 3.0], "float32"), return_dict=True)
    fields = [displace(*pair) for pair in zip(x["fixed"], x["moving"], strict=True)]
    moved = [warp(*pair) for pair in zip(x["moving"], fields, strict=True)]
    terms = [np.abs(f - m).mean() + (u**2).mean() for f, m, u in zip(x["fixed"], moved, fields, strict=True)]
    assert found["loss"] == pytest.approx((terms[0] + 3 * terms[1]) / 2, rel=1e-5)


def test_maps_of_integers_count_as_labels_with_a_channel_each():
    x = draw_batch()
    maps = {n: (x[n] * [1, 2]).sum(axis=-1, keepdims=True).astype("int32") for n in ("fixed_labels", "moving_labels")}
    options = RegistrationOptions(regularity=0.0, labels=2.0, num_labels=2)
    model = RegistrationModel(Known(), None, Diffusion(), options=options)
    model.compile("sgd")
    logs = model.test_on_batch(x | maps, return_dict=True)
    samples = [measure_way(x, k) for k in range(2)]
    assert logs["labels"] == pytest.approx(np.mean([sample["labels"] for sample in samples]), rel=1e-5)
    assert logs["dice"] == pytest.approx(np.mean([sample["dice"] for sample in samples]), rel=1e-5)
    assert logs["loss"] == pytest.approx(2 * logs["labels"], rel=1e-5)
    with pytest.raises(OptionError, match="num_labels"):
        terms.encode_labels(maps["fixed_labels"], None)
    with pytest.raises(ShapeError, match="one channel of integers"):
        terms.encode_labels(x["fixed_labels"], 2)


class Shift(keras.Model):
    """A network that shifts by one voxel along the first axis, whichever way it is called."""

    def call(self, inputs):
        along = keras.ops.ones_like(inputs[0])
        return {"displacement": keras.ops.concatenate([along, 0 * along, 0 * along], axis=-1)}


def test_a_shift_that_is_no_inverse_of_itself_in_three_dimensions():
    fixed, moving = np.random.default_rng(0).random((2, 2, 4, 5, 6, 1), dtype="float32")
    options = RegistrationOptions(regularity=2.0, inverse_consistency=0.25, gradicon=1.0, bidirectional=True)
    model = RegistrationModel(Shift(), MSE(), Diffusion(), options=options)
    model.compile("sgd")
    logs = model.test_on_batch({"fixed": fixed, "moving": moving}, return_dict=True)
    there, back = (np.concatenate([image[:, 1:], image[:, -1:]], axis=1) for image in (moving, fixed))
    similarity = (np.mean((fixed - there) ** 2) + np.mean((moving - back) ** 2)) / 2
    assert logs["similarity"] == pytest.approx(similarity, rel=1e-5)
    assert logs["inverse_consistency"] == pytest.approx(4.0, rel=1e-6)  # two voxels, squared
    assert logs["regularity"] == logs["gradicon"] == logs["folds_percent"] == 0
    assert logs["loss"] == pytest.approx(similarity + 1.0, rel=1e-5)


def make_conditional():
    """Displacement that is the smoothness everywhere."""
    inputs = [
        keras.Input((*SIZE, 1), name="fixed"),
        keras.Input((*SIZE, 1), name="moving"),
        keras.Input((1,), name="smoothness"),
    ]
    level = keras.layers.Reshape((1, 1, 1))(inputs[2])
    pair = keras.layers.Concatenate()(inputs[:2])
    displacement = keras.layers.Add()([level, keras.layers.Rescaling(0.0)(pair)])
    return keras.Model(inputs, {"displacement": displacement})


def test_smoothness_is_given_or_drawn_or_half_and_weighs_the_terms():
    x = {name: draw_batch()[name] for name in ("fixed", "moving")}
    model = RegistrationModel(
        make_conditional(), MSE(), keras.losses.MeanSquaredError(), options=RegistrationOptions(regularity=3.0)
    )
    model.compile("sgd")
    to_numpy = keras.ops.convert_to_numpy
    np.testing.assert_array_equal(model.predict(x, verbose=0)["smoothness"], [[0.5], [0.5]])
    given = np.array([[0.25], [1.0]], "float32")
    np.testing.assert_array_equal(to_numpy(model(x | {"smoothness": given})["displacement"])[..., 0, 0, 0], given[:, 0])
    first, second = (to_numpy(model(x, training=True)["smoothness"]) for _ in range(2))
    assert len(set(np.concatenate([first, second]).ravel())) == 4
    assert first.min() > 0
    assert first.max() < 1
    loss = model.test_on_batch(x | {"smoothness": given}, return_dict=True)["loss"]
    shifted = [warp(m, np.full((*SIZE, 2), s)) for m, s in zip(x["moving"], given.ravel(), strict=True)]
    similarity = [np.mean((f - m) ** 2) for f, m in zip(x["fixed"], shifted, strict=True)]
    assert loss == pytest.approx(
        np.mean([(1 - s) * d + s * 3 * s**2 for s, d in zip(given.ravel(), similarity, strict=True)]), rel=1e-5
    )


def make_network(size=(16, 16)):
    """Two convolutions."""
    inputs = [keras.Input((*size, 1), name="fixed"), keras.Input((*size, 1), name="moving")]
    hidden = keras.layers.Conv2D(4, 5, padding="same", activation="relu", data_format="channels_last", name="hidden")
    head = keras.layers.Conv2D(2, 5, padding="same", data_format="channels_last", dtype="float32", name="head")
    displacement = head(hidden(keras.layers.Concatenate()(inputs)))
    return keras.Model(inputs, {"displacement": displacement})


def make_pairs(count=4, size=(16, 16)):
    """Bright blobs four voxels apart."""
    rows, columns = np.meshgrid(*map(np.arange, size), indexing="ij")
    middles = np.linspace(5, 8, count).reshape(-1, 1, 1)
    images = [np.exp(-((rows - middles - shift) ** 2 + (columns - 8.0) ** 2) / 8.0) for shift in (4.0, 0.0)]
    return {name: image[..., None].astype("float32") for name, image in zip(("fixed", "moving"), images, strict=True)}


def test_fit_brings_the_loss_down_and_a_file_keeps_what_was_learned(tmp_path):
    keras.utils.set_random_seed(0)
    pairs = make_pairs()
    atlas = pairs["fixed"][0]
    grid = PairOptions((16, 16), spacing=(1.5, 2.0), labels=(3,))
    model = RegistrationModel(make_network(), NCC(), Diffusion(), atlas=atlas, preparation=grid, name="mine")
    model.compile(keras.optimizers.Adam(0.02), jit_compile=JIT)
    subjects = {"moving": pairs["moving"]}
    history = model.fit(subjects, batch_size=4, epochs=12, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 0.1
    assert set(history) == {"loss", "similarity", "regularity"}
    assert len(model.trainable_variables) == len(model.network.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.preparation == grid
    kept = ("name", "similarity", "regularity", "options", "preparation", "atlas")
    assert [loaded.get_config()[key] for key in kept] == [model.get_config()[key] for key in kept]
    # The atlas is kept, and is what `fixed` is for the network.
    before = model.predict(subjects, verbose=0)["displacement"]
    after = loaded.network.predict([np.repeat(loaded.atlas, 4, axis=0), pairs["moving"]], verbose=0)["displacement"]
    np.testing.assert_array_equal(loaded.atlas[0], atlas)
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert np.abs(before).max() > 0.5


def test_synthetic_pairs_are_learned_from_by_the_overlap_of_their_labels():
    keras.utils.set_random_seed(0)
    pairs = SyntheticPairs((16, 16), pairs=PairFromLabels(3), batch_size=2, steps=2, seed=1)
    model = RegistrationModel(make_network(), None, Diffusion(), options=RegistrationOptions(labels=1.0))
    model.compile("adam")
    (x,) = pairs[0]
    fields = model.predict_on_batch({name: x[name] for name in ("fixed", "moving")})["displacement"]
    found = model.evaluate(x, verbose=0, return_dict=True)
    lost = [
        1 - np.mean(overlap(x["fixed_labels"][k], warp(x["moving_labels"][k], field))) for k, field in enumerate(fields)
    ]
    assert found["labels"] == pytest.approx(np.mean(lost), rel=1e-4)
    history = model.fit(pairs, epochs=1, verbose=0).history
    assert sorted(history) == ["labels", "loss", "regularity"]


def test_two_accumulated_batches_are_one_of_twice_the_size():
    pairs, found = make_pairs(2), []
    options = RegistrationOptions(inverse_consistency=0.1)
    for size, steps in ((2, None), (1, 2)):
        keras.utils.set_random_seed(1)
        model = RegistrationModel(make_network(), MSE(), Diffusion(), options=options)
        model.compile(keras.optimizers.SGD(1.0, gradient_accumulation_steps=steps), jit_compile=JIT)
        before = [np.copy(w) for w in model.get_weights()]
        model.fit(pairs, batch_size=size, epochs=1, shuffle=False, verbose=0)
        found.append(model.get_weights())
    assert max(np.abs(a - b).max() for a, b in zip(before, found[0], strict=True)) > 1e-4
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_mixed_precision_scales_the_loss(policy):
    pairs = make_pairs(2)
    labels = {f"{name}_labels": (image > 0.5).astype("float32") for name, image in pairs.items()}
    options = RegistrationOptions(labels=1.0)
    policy("mixed_float16")
    model = RegistrationModel(make_network(), NCC(), Diffusion(), options=options)
    assert model.network.get_layer("hidden").compute_dtype == "float16"
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=JIT)
    before = [np.copy(w) for w in model.get_weights()]
    logs = model.train_on_batch(pairs | labels, return_dict=True)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(list(logs.values())).all()
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="a SavedModel is TensorFlow's")
def test_exported_model_gives_the_same_field(tmp_path):
    import tensorflow

    model = RegistrationModel(VoxelMorph((16, 16, 1), **SMALL), NCC(), Diffusion())
    pairs = make_pairs(3)
    expected = keras.ops.convert_to_numpy(model(pairs)["displacement"])
    model.export(tmp_path / "exported", verbose=False)
    exported = tensorflow.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(pairs)["displacement"], expected, atol=1e-6)


def test_options_come_back_from_a_configuration():
    options = RegistrationOptions(labels=0.5, scales=(1, 2), bidirectional=True, num_labels=3, spacing=(1.0, 2.0))
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(options)) == options


@pytest.mark.parametrize(
    ("weights", "missing"), [({}, "fixed"), ({"labels": 1.0}, "moving_labels"), ({"landmarks": 1.0}, "fixed_landmarks")]
)
def test_a_batch_without_what_a_term_needs_is_refused(weights, missing):
    x = draw_batch()
    del x[missing]
    model = RegistrationModel(Known(), MSE(), Diffusion(), options=RegistrationOptions(**weights))
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(InputError, match=f"'{missing}'.*Received: entries"):
        model.train_on_batch(x)


def test_an_atlas_stands_beside_arrays_of_numpy():
    """Keras hands them to the model as they are where JAX compiles nothing."""
    x = {name: draw_batch()[name] for name in ("fixed", "moving")}
    model = RegistrationModel(make_conditional(), MSE(), Diffusion(), atlas=x["fixed"][0])
    model.compile("sgd", run_eagerly=True)
    assert np.isfinite(model.evaluate({"moving": x["moving"]}, verbose=0))[0]


def test_what_cannot_be_is_refused():
    for bad in ({"labels": -1.0}, {"scales": ()}, {"scales": (0,)}, {"num_labels": 0}, {"spacing": -1.0}):
        with pytest.raises(OptionError, match="Received: "):
            RegistrationOptions(**bad)
    with pytest.raises(ShapeError, match=r"atlas\.shape=\(5,\)"):
        RegistrationModel(Known(), MSE(), Diffusion(), atlas=np.zeros(5))
    with pytest.raises(OptionError, match="Received: "):
        RegistrationModel(Known(), None, Diffusion(), options=RegistrationOptions(regularity=0.0))
    x = {name: draw_batch()[name] for name in ("fixed", "moving")}
    model = RegistrationModel(Known(), MSE(), Diffusion(), options=RegistrationOptions(scales=(8,)))
    with pytest.raises(ShapeError, match="smaller by 8"):
        model.compute_loss(x, y_pred=model(x))

    class Plain(keras.Model):
        def call(self, inputs):
            return inputs[0]

    with pytest.raises(InputError, match="'displacement'"):
        RegistrationModel(Plain(), MSE(), Diffusion())(x)
