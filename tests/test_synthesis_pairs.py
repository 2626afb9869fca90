"""Pairs with their true displacement: known to be right by SciPy, reproducible, resumable, and food for `fit`."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from scipy import ndimage

from keramorph.errors import OptionError, ShapeError
from keramorph.synthesis import (
    ImageFromLabels,
    PairFromLabels,
    RandomAffine,
    RandomDeformation,
    RandomNoise,
    RandomShapes,
    RandomVelocity,
    SyntheticPairs,
)

pytestmark = pytest.mark.usefixtures("compile_quickly")

PARTS = ("fixed", "moving", "fixed_labels", "moving_labels", "displacement")
PLAIN = {"sd": 0.0, "black_background": 0.0, "effects": []}


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def draw_pair(layer, labels):
    return {name: to_numpy(tensor) for name, tensor in layer(labels).items()}


def make_layer(seed=None, **options):
    """Pairs without the effects, which would be compiled for one more shape."""
    return PairFromLabels(ImageFromLabels(4, effects=[], seed=seed), seed=seed, **options)


def draw_labels(count, sizes, num_labels=4, sigma=4):
    """Blobs: the largest of as many smooth images, smoothed by SciPy."""
    noise = np.random.default_rng(0).standard_normal((count, *sizes, num_labels))
    smooth = ndimage.gaussian_filter(noise, (0, *[sigma] * len(sizes), 0), mode="nearest")
    return smooth.argmax(axis=-1)[..., None].astype("int32")


@pytest.fixture
def policy():
    """Function that sets the global data type policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("sizes", [(12, 14), (5, 6, 7)])
def test_pair_has_images_labels_and_displacement(sizes, policy):
    policy("mixed_float16")
    pair = draw_pair(make_layer(scored=(1, 3), seed=1), draw_labels(2, sizes))
    assert set(pair) == set(PARTS)
    assert {tensor.dtype.name for tensor in pair.values()} == {"float32"}
    channels = {"fixed_labels": 2, "moving_labels": 2, "displacement": len(sizes)}
    assert {name: x.shape for name, x in pair.items()} == {name: (2, *sizes, channels.get(name, 1)) for name in PARTS}
    for name in ("fixed_labels", "moving_labels"):
        assert set(np.unique(pair[name])) <= {0.0, 1.0}
        assert pair[name].sum(axis=-1).max() <= 1


def move_labels(pair):
    """Moving labels at `x + u(x)` by SciPy, and where that lies inside the grid."""
    grid = pair["moving_labels"].shape[1:-1]
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1) + pair["displacement"]
    inside = ((places >= 0) & (places <= np.array(grid) - 1)).all(axis=-1, keepdims=True)
    moved = [
        [ndimage.map_coordinates(labels[..., k], np.moveaxis(x, -1, 0), order=1) for k in range(labels.shape[-1])]
        for labels, x in zip(pair["moving_labels"], places, strict=True)
    ]
    return np.moveaxis(np.array(moved), 1, -1) > 0.5, inside


def overlap(first, second, inside):
    """Dice of each label of each pair, inside."""
    axes = tuple(range(1, first.ndim - 1))
    return 2 * (first * second * inside).sum(axis=axes) / ((first + second) * inside).sum(axis=axes)


@pytest.mark.parametrize(("sizes", "affine"), [((91, 80), False), ((40, 33, 36), True)])
def test_true_displacement_lays_the_moving_labels_on_the_fixed_ones(sizes, affine):
    layer = PairFromLabels(
        ImageFromLabels(2, **PLAIN),
        deformation=RandomDeformation(strength=(2.0, 2.0), scales=(12.0,), seed=2),
        affine=RandomAffine(translation=3.0, rotation=0.3, scale=1.1, seed=3) if affine else None,
    )
    pair = draw_pair(layer, draw_labels(2, sizes, num_labels=2, sigma=7))
    moved, inside = move_labels(pair)
    assert overlap(pair["fixed_labels"], moved.astype("float32"), inside).min() > 0.965
    assert overlap(pair["fixed_labels"], pair["moving_labels"], inside).mean() < 0.93
    assert inside.mean() > 0.6


def test_no_deformation_leaves_the_label_map_and_no_displacement():
    labels = draw_labels(2, (12, 14))
    pair = draw_pair(make_layer(deformation=RandomDeformation(strength=0.0)), labels)
    np.testing.assert_array_equal(pair["fixed_labels"], labels == np.arange(4))
    np.testing.assert_array_equal(pair["moving_labels"], labels == np.arange(4))
    assert not pair["displacement"].any()


def test_pairs_are_alike_in_contrast_as_often_as_asked_and_never_in_noise():
    """Undeformed and without effects, two images of one contrast differ by what noise there is, and no less."""
    still, labels = RandomDeformation(strength=0.0), draw_labels(1, (12, 14)).repeat(40, axis=0)
    for share, sd in ((1.0, 0.0), (1.0, 0.1), (0.5, 0.0)):
        image = ImageFromLabels(4, sd=(sd, sd), black_background=0.0, effects=[], seed=1)
        pair = draw_pair(PairFromLabels(image, deformation=still, alike=share, seed=2), labels)
        same = [np.allclose(*images, atol=1e-6) for images in zip(pair["fixed"], pair["moving"], strict=True)]
        if sd:
            assert not any(same)
        else:
            assert np.mean(same) == share if share == 1 else 0.25 < np.mean(same) < 0.75


def test_images_are_those_of_their_own_labels_in_contrasts_of_their_own():
    """Without noise and effects an image has one value per label, and the pair agrees in none of them."""
    pair = draw_pair(PairFromLabels(ImageFromLabels(4, **PLAIN, seed=4), seed=5), draw_labels(2, (12, 14)))
    means = []
    for side in ("fixed", "moving"):
        tissue = [pair[side][0][pair[f"{side}_labels"][0][..., k] > 0] for k in range(4)]
        assert max(np.ptp(values) for values in tissue if len(values)) < 1e-6
        means.append([float(values[0, 0]) if len(values) else 0.0 for values in tissue])
    assert np.abs(np.subtract(*means)).max() > 0.1


def test_entries_of_a_batch_are_deformed_and_painted_each_in_its_own_way():
    pair = draw_pair(make_layer(seed=6), np.repeat(draw_labels(1, (12, 14)), 2, axis=0))
    for name in PARTS:
        assert np.abs(pair[name][0] - pair[name][1]).max() > 0.1


def test_same_seed_same_pairs():
    labels = draw_labels(2, (12, 14))
    first, second, other = (make_layer(seed=seed) for seed in (7, 7, 8))
    drawn = draw_pair(first, labels)
    for name, tensor in draw_pair(second, labels).items():
        np.testing.assert_array_equal(tensor, drawn[name])
    assert np.abs(draw_pair(other, labels)["displacement"] - drawn["displacement"]).max() > 0.1
    assert np.abs(draw_pair(first, labels)["displacement"] - drawn["displacement"]).max() > 0.1


def test_layers_with_neighbouring_seeds_do_not_repeat_each_other_a_draw_later():
    """PyTorch's seed is the sum of Keras' seed and the number of the draw."""
    draws = [
        to_numpy(layer.draw_normal((8,))) for layer in (RandomNoise(seed=seed) for seed in (1, 2, 3)) for _ in range(4)
    ]
    products = np.corrcoef(draws) - np.eye(12)
    assert products.max() < 0.999


def test_saved_weights_hold_the_state_of_the_random_numbers(tmp_path):
    labels = keras.Input((12, 14, 1), dtype="int32")
    model = keras.Model(labels, RandomNoise()(make_layer()(labels)["fixed"]))
    noise = model.layers[-1]
    pairs = next(layer for layer in model.layers if isinstance(layer, PairFromLabels))
    value = draw_labels(2, (12, 14))
    draw = lambda: [to_numpy(noise.draw_normal((5,))), *draw_pair(pairs, value).values()]  # noqa: E731
    draw()
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    expected = draw()
    model.load_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for again in (draw(), draw_like(loaded, value)):
        for one, other in zip(again, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def draw_like(model, labels):
    pairs = next(layer for layer in model.layers if isinstance(layer, PairFromLabels))
    return [to_numpy(model.layers[-1].draw_normal((5,))), *draw_pair(pairs, labels).values()]


def test_generators_draw_inside_a_model_and_augmentations_rest_when_it_predicts():
    image = keras.Input((12, 14, 1))
    velocity = RandomVelocity(strength=(1.0, 1.0), scales=(4.0,), seed=9)(image)
    model = keras.Model(image, {"velocity": velocity, "image": RandomNoise(sd=(0.5, 0.5), seed=10)(image)})
    assert model.output["velocity"].shape == (None, 12, 14, 2)
    images = np.random.default_rng(0).random((3, 12, 14, 1), dtype="float32")
    first, second = (model.predict_on_batch(images) for _ in range(2))
    np.testing.assert_array_equal(first["image"], images)
    assert np.abs(first["velocity"] - second["velocity"]).max() > 0.1
    assert np.abs(to_numpy(model(images, training=True)["image"]) - images).max() > 0.1


def test_a_pair_of_drawn_shapes_is_a_node_of_a_model():
    """Symbolic shapes and types of all outputs, before anything is drawn, are those of what is drawn."""
    labels = RandomShapes(num_labels=4)(keras.Input((12, 14, 1)))
    assert labels.dtype == "int32"
    pair = make_layer()(labels)
    drawn = draw_pair(make_layer(), draw_labels(2, (12, 14)))
    assert {name: (None, *x.shape[1:]) for name, x in drawn.items()} == {name: x.shape for name, x in pair.items()}
    assert {x.dtype for x in pair.values()} == {"float32"}


def test_batches_depend_on_seed_epoch_and_index_alone():
    layer = make_layer(seed=12)
    make = lambda seed: SyntheticPairs((12, 14), pairs=layer, batch_size=2, steps=3, seed=seed)  # noqa: E731
    pairs, again, other = make(0), make(0), make(1)
    states = [to_numpy(variable) for variable in layer.variables]
    (first,), (last,) = pairs[0], pairs[2]
    # In another order, and a second time.
    for (one,), two in ((again[2], last), (again[0], first), (pairs[0], first)):
        for name in PARTS:
            np.testing.assert_array_equal(one[name], two[name])
    assert not np.array_equal(first["fixed"], last["fixed"])
    assert not np.array_equal(first["fixed"], other[0][0]["fixed"])
    pairs.on_epoch_end()
    assert not np.array_equal(first["fixed"], pairs[0][0]["fixed"])
    again.epoch = 1
    np.testing.assert_array_equal(again[0][0]["fixed"], pairs[0][0]["fixed"])
    for variable, state in zip(layer.variables, states, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), state)


def test_threads_draw_the_same_batches():
    pairs = SyntheticPairs((12, 14), pairs=make_layer(), batch_size=2, steps=6)
    expected = [pairs[index][0]["fixed"] for index in range(6)]
    with ThreadPoolExecutor(3) as threads:
        for one, other in zip(threads.map(lambda index: pairs[index][0]["fixed"], range(6)), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_own_label_maps_take_their_turns():
    labels = np.arange(3, dtype="uint8").repeat(12 * 14).reshape(3, 12, 14, 1)
    pairs = SyntheticPairs((12, 14), pairs=make_layer(), labels=labels, batch_size=2, steps=10)
    found = [pairs[index][0]["fixed_labels"].argmax(axis=-1)[:, 0, 0] for index in range(10)]
    assert set(np.concatenate(found)) == {0, 1, 2}


class Echo(keras.layers.Layer):
    """The image times a weight."""

    def build(self, input_shape):
        self.weight = self.add_weight(shape=(), initializer="ones")

    def call(self, image):
        return image * self.weight


def test_fit_takes_the_batches_by_name_and_goes_on_with_the_epoch_it_is_told():
    fixed, moving = keras.Input((12, 14, 1), name="fixed"), keras.Input((12, 14, 1), name="moving")
    model = keras.Model([moving, fixed], {"echo": Echo()(fixed + 0 * moving)})
    pairs = SyntheticPairs((12, 14), pairs=make_layer(), batch_size=2, steps=3, targets={"echo": "moving"})
    model.compile("sgd", loss={"echo": "mse"}, jit_compile=False)
    model.optimizer.learning_rate = 0.0
    losses = model.fit(pairs, epochs=2, verbose=0, shuffle=False).history["loss"]
    pairs.epoch = 1
    resumed = model.fit(pairs, initial_epoch=1, epochs=2, verbose=0, shuffle=False).history["loss"]
    assert resumed == pytest.approx(losses[1:], rel=1e-5)
    # Keras ends one epoch before the first.
    assert pairs.epoch == 3
    for pairs.epoch, loss in zip((1, 2), losses, strict=True):
        errors = [np.mean((batch["fixed"] - target["echo"]) ** 2) for batch, target in pairs]
        assert loss == pytest.approx(np.mean(errors), rel=1e-4)


def test_epoch_without_end():
    pairs = SyntheticPairs((12, 14), pairs=make_layer(), batch_size=2, steps=None)
    assert pairs.num_batches is None
    assert pairs[10**6][0]["fixed"].shape == (2, 12, 14, 1)
    with pytest.raises(TypeError, match="steps"):
        len(pairs)


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(OptionError, match=r"scored.*Received: "):
        PairFromLabels(4, scored=(4,))
    with pytest.raises(ShapeError, match=r"label maps.*Received: "):
        PairFromLabels(4)(np.zeros((1, 5, 6, 2), "int32"))
    with pytest.raises(OptionError, match=r"steps.*Received: "):
        SyntheticPairs((12, 14), steps=0)
    with pytest.raises(OptionError, match=r"targets.*Received: "):
        SyntheticPairs((12, 14), targets={"moved": "truth"})
    with pytest.raises(OptionError, match=r"as many labels.*Received: "):
        SyntheticPairs((12, 14), pairs=PairFromLabels(4), labels=RandomShapes(num_labels=5))
    with pytest.raises(ShapeError, match=r"label maps.*Received: "):
        SyntheticPairs((12, 14), labels=np.zeros((3, 12, 15, 1), "int32"))
